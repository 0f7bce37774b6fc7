// Kernels by name, for driver.cpp, which hands their arguments over as addresses.
#pragma once

#include <algorithm>
#include <cstring>
#include <utility>
#include <vector>

struct Entry {
    const char* name;
    std::vector<size_t> sizes;  // of the arguments, in bytes
    void (*invoke)(void**);
    unsigned how;  // what running it asks for
};

template <class... A, size_t... I>
void call(void (*kernel)(A...), void** at, std::index_sequence<I...>)
{
    kernel(*(A*)at[I]...);
}

template <class... A>
void call(void (*kernel)(A...), void** at)
{
    call(kernel, at, std::index_sequence_for<A...>{});
}

template <auto kernel>
void invoke(void** at)
{
    call(kernel, at);
}

template <class... A>
std::vector<size_t> sizes(void (*)(A...))
{
    return {sizeof(A)...};
}

inline const void* find_entry(const std::vector<Entry>& entries, const char* name)
{
    for (const Entry& entry : entries) {
        if (strcmp(entry.name, name) == 0) {
            return &entry;
        }
    }
    return nullptr;
}

extern "C" size_t argument_sizes(const void* found, size_t* bytes)
{
    const std::vector<size_t>& sizes = ((const Entry*)found)->sizes;
    std::copy(sizes.begin(), sizes.end(), bytes);
    return sizes.size();
}
