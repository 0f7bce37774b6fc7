// The kernels on the host: a block's threads are fibers of one thread, which take turns wherever
// they wait for each other. Compiled once for each MESA_VALUE, as by build.rs.

#include "../src/cuda/kernels.cu"

#include "entries.h"

#include <cstdio>
#include <cstdlib>
#include <ucontext.h>

Index blockIdx, threadIdx, blockDim, gridDim;

namespace {

const size_t STACK = 64 * 1024;

struct Fiber {
    ucontext_t context;
    std::vector<char> stack = std::vector<char>(STACK);
    Index index;
    bool done;
};

ucontext_t scheduler;
std::vector<Fiber> fibers;
size_t current;
void (*running)(void**);
void** arguments;
double passed[1024];

void run_fiber()
{
    running(arguments);
    fibers[current].done = true;
}

void wait_for_others()
{
    Index own = threadIdx;
    swapcontext(&fibers[current].context, &scheduler);
    threadIdx = own;
}

// Runs all threads of a block to their end, each as far as its next wait, in turns.
void run_block(unsigned threads)
{
    if (fibers.size() < threads) {
        fibers.resize(threads);
    }
    for (unsigned i = 0; i < threads; ++i) {
        Fiber& fiber = fibers[i];
        fiber.done = false;
        fiber.index = {i % blockDim.x, i / blockDim.x, 0};
        getcontext(&fiber.context);
        fiber.context.uc_stack.ss_sp = fiber.stack.data();
        fiber.context.uc_stack.ss_size = STACK;
        fiber.context.uc_link = &scheduler;
        makecontext(&fiber.context, run_fiber, 0);
    }
    for (bool left = true; left;) {
        left = false;
        for (current = 0; current < threads; ++current) {
            if (!fibers[current].done) {
                threadIdx = fibers[current].index;
                swapcontext(&scheduler, &fibers[current].context);
                left = left || !fibers[current].done;
            }
        }
    }
}

// How: whether threads of a block wait for each other.
const std::vector<Entry> entries = {
    {"load_images", sizes(load_images), invoke<load_images>, false},
    {"trigger_gradient", sizes(trigger_gradient), invoke<trigger_gradient>, true},
    {"gather", sizes(gather), invoke<gather>, false},
    {"spread", sizes(spread), invoke<spread>, false},
    {"moment_parts", sizes(moment_parts), invoke<moment_parts>, true},
    {"moments", sizes(moments), invoke<moments>, true},
    {"fixed_moments", sizes(fixed_moments), invoke<fixed_moments>, false},
    {"normalize", sizes(normalize), invoke<normalize>, false},
    {"gradient_parts", sizes(gradient_parts), invoke<gradient_parts>, true},
    {"gradient_factors", sizes(gradient_factors), invoke<gradient_factors>, true},
    {"apply_gradient", sizes(apply_gradient), invoke<apply_gradient>, false},
    {"add", sizes(add), invoke<add>, false},
    {"pool", sizes(pool), invoke<pool>, false},
    {"linear", sizes(linear), invoke<linear>, true},
    {"cross_entropy", sizes(cross_entropy), invoke<cross_entropy>, false},
    {"add_to_totals", sizes(add_to_totals), invoke<add_to_totals>, true},
    {"linear_gradient", sizes(linear_gradient), invoke<linear_gradient>, false},
    {"feature_gradient", sizes(feature_gradient), invoke<feature_gradient>, false},
    {"target_gradient", sizes(target_gradient), invoke<target_gradient>, false},
    {"descend", sizes(descend), invoke<descend>, false},
    {"copy_weights", sizes(copy_weights), invoke<copy_weights>, false},
    {"product", sizes(product), invoke<product>, true},
    {"copy_columns", sizes(copy_columns), invoke<copy_columns>, false},
    {"column_sums", sizes(column_sums), invoke<column_sums>, true},
    {"norm_leaky", sizes(norm_leaky), invoke<norm_leaky>, true},
    {"fixed_norm_leaky", sizes(fixed_norm_leaky), invoke<fixed_norm_leaky>, false},
    {"norm_leaky_gradient", sizes(norm_leaky_gradient), invoke<norm_leaky_gradient>, true},
    {"through_function", sizes(through_function), invoke<through_function>, false},
    {"adam", sizes(adam), invoke<adam>, false},
};

}  // namespace

void __syncthreads() { wait_for_others(); }

double __shfl_down_sync(unsigned, double value, int distance)
{
    unsigned lane = threadIdx.x;
    passed[lane] = value;
    wait_for_others();
    double result = lane + distance < blockDim.x ? passed[lane + distance] : value;
    wait_for_others();
    return result;
}

float __shfl_down_sync(unsigned mask, float value, int distance)
{
    return (float)__shfl_down_sync(mask, (double)value, distance);
}

extern "C" const void* find_kernel(const char* name) { return find_entry(entries, name); }

// None of these asks for shared memory when it is started.
extern "C" void run_kernel(
    const void* found, const unsigned* grid, const unsigned* block, unsigned, void** at)
{
    const Entry* entry = (const Entry*)found;
    running = entry->invoke;
    arguments = at;
    gridDim = {grid[0], grid[1], grid[2]};
    blockDim = {block[0], block[1], block[2]};
    for (unsigned y = 0; y < grid[1]; ++y) {
        for (unsigned x = 0; x < grid[0]; ++x) {
            blockIdx = {x, y, 0};
            if (entry->how != 0) {
                run_block(block[0] * block[1]);
                continue;
            }
            for (unsigned i = 0; i < block[0] * block[1]; ++i) {
                threadIdx = {i % block[0], i / block[0], 0};
                entry->invoke(at);
            }
        }
    }
}
