// A stand-in for NVIDIA's driver, libcuda.so.1: one device whose memory is the host's, on which
// everything is done at once. It knows the functions that this project calls, no more.
//
// Memory is surrounded by a pattern that is checked when it is freed, so that a kernel that writes
// outside of its buffers is found out. Addresses that were freed are never given out again, and
// touching what lies there ends the program: so does a recorded graph that outlives its buffers.
//
// While a stream is captured, launches and copies on the device are kept for its graph, with the
// values that their arguments have now; what may not be captured is refused.

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <dlfcn.h>
#include <functional>
#include <mutex>
#include <string>
#include <sys/mman.h>
#include <vector>

namespace {

const int SUCCESS = 0;
const int INVALID = 1;
const int OUT_OF_MEMORY = 2;
const int NO_DEVICE = 101;
const int NOT_FOUND = 500;
const int NOT_SUPPORTED = 801;
const int CAPTURE_UNSUPPORTED = 900;
const int CAPTURE_INVALIDATED = 901;

const size_t GUARD = 256;
const unsigned char PATTERN = 0xa5;

thread_local void* context = nullptr;
int dummy;

struct Module {
    void* library;
};

struct Function {
    const void* found;
    void (*run)(const void*, const unsigned*, const unsigned*, unsigned, void**);
    std::vector<size_t> sizes;  // of the arguments, in bytes
    unsigned most_shared = 48 << 10;
};

using Work = std::function<void()>;

struct Graph {
    std::vector<Work> work;
};

struct Stream {
    Graph* captured = nullptr;
    bool spoilt = false;
};

std::atomic<int> captures{0};

// The kernels' thread indices are global: threads of the host take turns.
std::mutex one_at_a_time;
typedef std::lock_guard<std::mutex> Alone;

// Does it now, or keeps it.
int start(void* stream, Work work)
{
    Stream* known = (Stream*)stream;
    if (known->captured) {
        known->captured->work.push_back(std::move(work));
    } else {
        Alone alone(one_at_a_time);
        work();
    }
    return SUCCESS;
}

// Whether a stream is captured, which this call is no part of.
bool refuse(void* stream)
{
    Stream* known = (Stream*)stream;
    known->spoilt = known->spoilt || known->captured;
    return known->captured;
}

// The file of the kernels lies beside this one.
std::string beside(const char* name)
{
    Dl_info info;
    dladdr((void*)&beside, &info);
    std::string path = info.dli_fname;
    return path.substr(0, path.rfind('/') + 1) + name;
}

// Whole pages for so many bytes between their guards.
size_t pages(size_t bytes) { return (bytes + 2 * GUARD + 4095) / 4096 * 4096; }

unsigned char* guards(uint64_t address) { return (unsigned char*)address - GUARD; }

void check(uint64_t address)
{
    unsigned char* start = guards(address);
    size_t bytes;
    memcpy(&bytes, start, sizeof bytes);
    for (size_t i = sizeof bytes; i < GUARD; ++i) {
        if (start[i] != PATTERN || start[GUARD + bytes + i] != PATTERN) {
            fprintf(stderr, "emulator: something was written outside of a buffer\n");
            abort();
        }
    }
}

}  // namespace

extern "C" {

int cuInit(unsigned) { return SUCCESS; }

int cuDriverGetVersion(int* version)
{
    const char* wanted = getenv("EMULATED_DRIVER");
    *version = wanted ? atoi(wanted) : 99000;
    return SUCCESS;
}

int cuDeviceGetCount(int* count) { return *count = 1, SUCCESS; }

int cuDeviceGet(int* device, int ordinal)
{
    *device = ordinal;
    return ordinal == 0 ? SUCCESS : NO_DEVICE;
}

int cuDeviceGetName(char* name, int len, int)
{
    snprintf(name, len, "an emulated GPU");
    return SUCCESS;
}

// A Hopper card, of compute capability 9.0; whatever else is asked is 1.
int cuDeviceGetAttribute(int* value, int attribute, int)
{
    const int MAJOR = 75;
    const int MINOR = 76;
    *value = attribute == MAJOR ? 9 : attribute == MINOR ? 0 : 1;
    return SUCCESS;
}

// How much shared memory a block may ask for, up to what a Hopper card has for one.
int cuFuncSetAttribute(void* function, int attribute, int value)
{
    const int MOST_SHARED = 8;
    if (attribute == MOST_SHARED) {
        if (value > 227 << 10) {
            return INVALID;
        }
        ((Function*)function)->most_shared = (unsigned)value;
    }
    return SUCCESS;
}

// What hopper.cpp reads: see cuda.h.
int cuTensorMapEncodeTiled(
    uint64_t* map, int, uint32_t rank, void* address, const uint64_t* sizes, const uint64_t* strides,
    const uint32_t* box, const uint32_t* steps, int, int swizzle, int, int)
{
    if ((uint64_t)address % 16 != 0 || rank < 3 || rank > 4) {
        return INVALID;
    }
    map[0] = (uint64_t)address;
    map[1] = swizzle != 0;
    for (uint32_t i = 0; i < 4; ++i) {
        bool given = i < rank;
        uint64_t step = given ? steps[i] : 1;
        map[2 + i] = given ? sizes[i] : 1;
        map[9 + i] = given ? (box[i] + step - 1) / step : 1;
        if (map[9 + i] == 0 || (given && box[i] > 256) || (i % 2 == 0 && step != 1)) {
            return INVALID;
        }
        if (i > 0) {
            map[5 + i] = given ? strides[i - 1] : 0;
            if (map[5 + i] % 16 != 0) {
                return INVALID;
            }
        }
        map[13 + i / 2] = step;
    }
    return SUCCESS;
}

int cuDevicePrimaryCtxRetain(void** made, int) { return *made = &dummy, SUCCESS; }
int cuDevicePrimaryCtxRelease_v2(int) { return SUCCESS; }
int cuCtxGetCurrent(void** now) { return *now = context, SUCCESS; }
int cuCtxSetCurrent(void* now) { return context = now, SUCCESS; }
int cuCtxSynchronize() { return captures ? CAPTURE_UNSUPPORTED : SUCCESS; }
int cuDeviceGetDefaultMemPool(void** pool, int) { return *pool = &dummy, SUCCESS; }
int cuMemPoolSetAttribute(void*, int, void*) { return SUCCESS; }
int cuStreamCreate(void** stream, unsigned) { return *stream = new Stream, SUCCESS; }
int cuStreamCreateWithPriority(void** stream, unsigned flags, int)
{
    return cuStreamCreate(stream, flags);
}
int cuCtxGetStreamPriorityRange(int* least, int* greatest)
{
    return *least = 0, *greatest = -5, SUCCESS;
}
int cuStreamDestroy_v2(void* stream) { return delete (Stream*)stream, SUCCESS; }
int cuStreamSynchronize(void* stream) { return refuse(stream) ? CAPTURE_UNSUPPORTED : SUCCESS; }

int cuStreamBeginCapture_v2(void* stream, int)
{
    if (getenv("EMULATED_CAPTURE")) {
        return NOT_SUPPORTED;
    }
    if (refuse(stream)) {
        return CAPTURE_UNSUPPORTED;
    }
    *(Stream*)stream = {new Graph, false};
    ++captures;
    return SUCCESS;
}

int cuStreamEndCapture(void* stream, void** graph)
{
    Stream* known = (Stream*)stream;
    if (!known->captured) {
        return INVALID;
    }
    *graph = known->spoilt ? nullptr : known->captured;
    int result = known->spoilt ? CAPTURE_INVALIDATED : SUCCESS;
    *known = {};
    --captures;
    return result;
}

// A node is what it does. Priorities change nothing here: one kernel runs at a time.
int cuGraphGetNodes(void* graph, void** nodes, size_t* count)
{
    std::vector<Work>& work = ((Graph*)graph)->work;
    for (size_t i = 0; nodes && i < std::min(*count, work.size()); ++i) {
        nodes[i] = &work[i];
    }
    return *count = work.size(), SUCCESS;
}

int cuGraphNodeGetType(void*, int* kind)
{
    const int KERNEL = 0;
    return *kind = KERNEL, SUCCESS;
}

int cuGraphKernelNodeGetParams_v2(void*, void*) { return SUCCESS; }
int cuGraphKernelNodeSetAttribute(void*, int, const void*) { return SUCCESS; }

int cuGraphInstantiateWithFlags(void** made, void* graph, unsigned long long)
{
    *made = new Graph(*(Graph*)graph);
    return SUCCESS;
}

int cuGraphLaunch(void* graph, void* stream)
{
    if (refuse(stream)) {
        return CAPTURE_UNSUPPORTED;
    }
    Alone alone(one_at_a_time);
    for (const Work& work : ((Graph*)graph)->work) {
        work();
    }
    return SUCCESS;
}

int cuGraphExecDestroy(void* graph) { return delete (Graph*)graph, SUCCESS; }
int cuGraphDestroy(void* graph) { return delete (Graph*)graph, SUCCESS; }

// For the emulated cuDNN.
void emulated_start(void* stream, const Work* work) { start(stream, *work); }

int cuMemGetInfo_v2(size_t* free, size_t* total) { return *free = *total = 1ul << 34, SUCCESS; }

int cuGetErrorString(int, const char** text) { return *text = "an emulated error", SUCCESS; }
int cuGetErrorName(int, const char** text) { return *text = "EMULATED", SUCCESS; }

int cuModuleLoadData(void** module, const void* image)
{
    const char* text = (const char*)image;
    bool is_code = memcmp(text, "\x7f" "ELF", 4) == 0;
    const char* name = is_code ? "hopper.so"
        : strstr(text, "bf16") ? "kernels_bf16.so" : "kernels_f32.so";
    std::string path = beside(name);
    void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (!library) {
        fprintf(stderr, "emulator: %s\n", dlerror());
        return NOT_FOUND;
    }
    *module = new Module{library};
    return SUCCESS;
}

int cuModuleUnload(void*) { return SUCCESS; }

int cuModuleGetFunction(void** function, void* module, const char* name)
{
    void* library = ((Module*)module)->library;
    auto find = (const void* (*)(const char*))dlsym(library, "find_kernel");
    auto run = (decltype(Function::run))dlsym(library, "run_kernel");
    auto sizes = (size_t (*)(const void*, size_t*))dlsym(library, "argument_sizes");
    const void* found = find ? find(name) : nullptr;
    if (!found || !run || !sizes) {
        return NOT_FOUND;
    }
    size_t bytes[32];
    size_t count = sizes(found, bytes);
    *function = new Function{found, run, {bytes, bytes + count}};
    return SUCCESS;
}

int cuLaunchKernel(
    void* function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x,
    unsigned block_y, unsigned block_z, unsigned shared, void* stream, void** arguments, void**)
{
    if (!grid_x || !grid_y || grid_z != 1 || block_z != 1 || !block_x || block_x * block_y > 1024) {
        return INVALID;
    }
    Function* known = (Function*)function;
    if (shared > known->most_shared) {
        return INVALID;
    }
    std::vector<std::vector<char>> values;
    for (size_t bytes : known->sizes) {
        const char* from = (const char*)arguments[values.size()];
        values.emplace_back(from, from + bytes);
    }
    return start(stream, [=]() mutable {
        const unsigned grid[] = {grid_x, grid_y, grid_z};
        const unsigned block[] = {block_x, block_y, block_z};
        std::vector<void*> at;
        for (std::vector<char>& value : values) {
            at.push_back(value.data());
        }
        known->run(known->found, grid, block, shared, at.data());
    });
}

int cuMemAllocAsync(uint64_t* address, size_t bytes, void* stream)
{
    if (refuse(stream)) {
        return CAPTURE_UNSUPPORTED;
    }
    if (bytes == 0) {
        return INVALID;
    }
    const char* limit = getenv("EMULATED_MEMORY");
    if (limit && bytes > strtoull(limit, nullptr, 10)) {
        return OUT_OF_MEMORY;
    }
    size_t all = pages(bytes);
    void* mapped = mmap(nullptr, all, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (mapped == MAP_FAILED) {
        return OUT_OF_MEMORY;
    }
    unsigned char* memory = (unsigned char*)mapped;
    memset(memory, PATTERN, all);
    memcpy(memory, &bytes, sizeof bytes);
    *address = (uint64_t)(memory + GUARD);
    return SUCCESS;
}

int cuMemFreeAsync(uint64_t address, void* stream)
{
    if (refuse(stream)) {
        return CAPTURE_UNSUPPORTED;
    }
    check(address);
    size_t bytes;
    memcpy(&bytes, guards(address), sizeof bytes);
    // The addresses stay taken, their memory goes back.
    void* kept = mmap(
        guards(address), pages(bytes), PROT_NONE,
        MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0);
    return kept == MAP_FAILED ? INVALID : SUCCESS;
}

int cuMemsetD8Async(uint64_t address, unsigned char value, size_t bytes, void* stream)
{
    return start(stream, [=] { memset((void*)address, value, bytes); });
}

int cuMemcpyDtoDAsync_v2(uint64_t to, uint64_t from, size_t bytes, void* stream)
{
    return start(stream, [=] { memcpy((void*)to, (const void*)from, bytes); });
}

int cuMemcpyHtoDAsync_v2(uint64_t to, const void* from, size_t bytes, void* stream)
{
    if (refuse(stream)) {
        return CAPTURE_UNSUPPORTED;
    }
    memcpy((void*)to, from, bytes);
    return SUCCESS;
}

int cuMemcpyDtoHAsync_v2(void* to, uint64_t from, size_t bytes, void* stream)
{
    if (refuse(stream)) {
        return CAPTURE_UNSUPPORTED;
    }
    memcpy(to, (const void*)from, bytes);
    return SUCCESS;
}

// Everything is done at once, so an event is the moment at which it was asked for.
int cuEventCreate(void** event, unsigned) { return *event = new double(0), SUCCESS; }
int cuEventDestroy_v2(void* event) { return delete (double*)event, SUCCESS; }
int cuEventSynchronize(void*) { return SUCCESS; }

int cuEventRecord(void* event, void*)
{
    auto now = std::chrono::steady_clock::now().time_since_epoch();
    *(double*)event = std::chrono::duration<double, std::milli>(now).count();
    return SUCCESS;
}

int cuEventElapsedTime_v2(float* ms, void* from, void* to)
{
    *ms = float(*(double*)to - *(double*)from);
    return SUCCESS;
}

int cuEventElapsedTime(float* ms, void* from, void* to) { return cuEventElapsedTime_v2(ms, from, to); }

}  // extern "C"
