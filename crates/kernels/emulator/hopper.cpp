// The kernels of hopper.cu on the host, and what they ask of the card. Threads are fibers, of all
// blocks of a cluster at once; a fiber goes on until what it waits for has come.
//
// Shared memory is full of values that are no numbers before a block begins. What is done beside the
// threads, copies and products, may be done at once or only when somebody waits for it. In every
// other cluster copies come that late and products at once, so that whatever reads what nobody has
// waited for is found out; in the others copies come at once and products late, their sums being no
// numbers until then, so that whatever is copied over what is still read is found out, too.

#define MESA_HOPPER

#include "cuda.h"
#include "cuda_bf16.h"
#include "entries.h"

#include <cstdio>
#include <cstdlib>
#include <deque>
#include <map>
#include <ucontext.h>

#define __grid_constant__
#define __align__(bytes) alignas(bytes)
#define __cluster_dims__(...)

#define STRIP 136
#define EIGHTHS (STRIP / 8)
#define REPEAT 1024

struct float2 {
    float x, y;
};

struct __nv_bfloat162 {
    __nv_bfloat16 x, y;
};

inline uint4 make_uint4(uint32_t x, uint32_t y, uint32_t z, uint32_t w) { return {x, y, z, w}; }
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

inline __nv_bfloat162 __floats2bfloat162_rn(float x, float y)
{
    return {__float2bfloat16_rn(x), __float2bfloat16_rn(y)};
}

inline float2 __bfloat1622float2(__nv_bfloat162 pair)
{
    return {__bfloat162float(pair.x), __bfloat162float(pair.y)};
}

Index blockIdx, threadIdx, blockDim, gridDim;

namespace {

const size_t STACK = 128 * 1024;
const size_t MEMORY = 256 * 1024;
const size_t MOST_BLOCKS = 2;

// One of wgmma's: `width` eights of columns.
struct Product {
    uint64_t left, right;
    bool left_transposed, right_transposed, add;
    int width;
};

// Products of a thread that are not done yet, by the groups that are waited for, and their sums.
struct Pending {
    std::deque<std::vector<Product>> groups;
    std::vector<Product> begun;  // those that no group has yet
    float* target = nullptr;     // where the sums belong, once all are done
    std::vector<float> sums;
    bool fenced = false;
};

struct Fiber {
    ucontext_t context;
    std::vector<char> stack = std::vector<char>(STACK);
    Index block, thread;
    unsigned rank;
    bool done;
    Pending pending;
};

// A box that was asked for.
struct Copy {
    uint32_t to;
    CUtensorMap map;
    int from[4];
};

struct Barrier {
    int arrivals, missing;
    long bytes = 0;
    int turn = 0;
    std::vector<Copy> copies;
};

// A barrier of threads: those that came since it last turned.
struct Gate {
    unsigned came = 0;
    unsigned turn = 0;
};

alignas(REPEAT) unsigned char memory[MOST_BLOCKS][MEMORY];
std::map<uint32_t, Barrier> barriers[MOST_BLOCKS];
std::map<unsigned, Gate> gates[MOST_BLOCKS];
Gate whole;
unsigned cluster;        // its blocks
unsigned shared_bytes;   // of each
unsigned clusters_begun;
bool copies_first;       // at once, and products late

ucontext_t scheduler;
std::vector<Fiber> fibers;
Fiber* current;
bool moved;  // whether some fiber has gone on since the last look
void (*running)(void**);
void** arguments;

uint32_t passed_bits[MOST_BLOCKS][1024][4];

void fail(const char* what)
{
    fprintf(stderr, "emulator: %s\n", what);
    abort();
}

void run_fiber()
{
    running(arguments);
    if (!current->pending.groups.empty() || !current->pending.begun.empty()) {
        fail("products that nobody has waited for");
    }
    current->done = true;
    moved = true;
}

// Lets the others go on.
void pause()
{
    Fiber* own = current;
    swapcontext(&own->context, &scheduler);
    current = own;
    threadIdx = own->thread;
    blockIdx = own->block;
}

template <class Condition>
void wait_until(Condition condition)
{
    while (!condition()) {
        pause();
    }
    moved = true;
}

void come(Gate& gate, unsigned count)
{
    if (++gate.came == count) {
        gate = {0, gate.turn + 1};
    }
}

void meet(Gate& gate, unsigned count)
{
    unsigned turn = gate.turn;
    come(gate, count);
    wait_until([&] { return gate.turn != turn; });
}

// Those of a warp.
void meet_warp() { meet(gates[current->rank][1000 + threadIdx.x / 32], 32); }

Barrier& barrier_of(unsigned rank, uint32_t at)
{
    auto found = barriers[rank].find(at);
    if (found == barriers[rank].end()) {
        fail("a barrier that nobody has made");
    }
    return found->second;
}

Barrier& barrier_at(uint32_t at) { return barrier_of(current->rank, at); }

void turn_if_all_came(Barrier& barrier)
{
    if (barrier.missing == 0 && barrier.bytes == 0) {
        barrier.missing = barrier.arrivals;
        ++barrier.turn;
    }
}

// Where the hardware puts a piece of 16 bytes.
uint32_t swizzled(uint32_t address) { return address ^ (address >> 7 & 7) << 4; }

void check_inside(uint32_t end)
{
    if (end > shared_bytes) {
        fail("more shared memory than was asked for");
    }
}

void do_copy(const Copy& copy, unsigned rank, Barrier& barrier)
{
    const uint64_t* map = copy.map.opaque;
    const unsigned char* values = (const unsigned char*)map[0];
    bool is_swizzled = map[1] != 0;
    const uint64_t* sizes = map + 2;
    const uint64_t* strides = map + 6;
    const uint64_t* box = map + 9;
    if (copy.to % 128 != 0 || (is_swizzled && box[0] != 64)) {
        fail("a copy to where none can go");
    }
    uint64_t index = 0;
    for (uint64_t d = 0; d < box[3]; ++d) {
        for (uint64_t c = 0; c < box[2]; ++c) {
            for (uint64_t b = 0; b < box[1]; ++b) {
                for (uint64_t a = 0; a < box[0]; ++a) {
                    const uint64_t offsets[] = {a, b, c, d};
                    int64_t at = 0;
                    bool inside = true;
                    for (int i = 0; i < 4; ++i) {
                        int64_t place = copy.from[i] + (int64_t)(offsets[i] * (i % 2 ? map[13 + i / 2] : 1));
                        inside = inside && place >= 0 && place < (int64_t)sizes[i];
                        at += place * (i ? (int64_t)strides[i - 1] : 2);
                    }
                    uint32_t to = copy.to + 2 * (uint32_t)index++;
                    to = is_swizzled ? swizzled(to) : to;
                    uint16_t value = 0;
                    if (inside) {
                        memcpy(&value, values + at, 2);
                    }
                    memcpy(memory[rank] + to, &value, 2);
                }
            }
        }
    }
    check_inside(copy.to + 2 * (uint32_t)index);
    // Below zero until the block announces what another one has copied for it.
    barrier.bytes -= 2 * (long)index;
}

float element(uint32_t address)
{
    check_inside(address + 2);
    __nv_bfloat16 value;
    memcpy(&value, memory[current->rank] + address, 2);
    return __bfloat162float(value);
}

// One value of an operand: `row` of its rows (outputs), `term` of its 16.
float operand_value(uint64_t operand, bool transposed, unsigned row, unsigned term)
{
    uint32_t start = (operand & 0x3fff) << 4;
    uint32_t inner = (operand >> 16 & 0x3fff) << 4;
    uint32_t outer = (operand >> 32 & 0x3fff) << 4;
    if (operand >> 62 == 1) {
        unsigned line = transposed ? term : row;
        unsigned in_line = transposed ? row : term;
        uint32_t at = start + line / 8 * outer + line % 8 * 128;
        return element(swizzled(at + in_line / 64 * inner + in_line % 64 * 2));
    }
    if (transposed) {
        uint32_t at = start + row / 8 * outer + term / 8 * inner + term % 8 * 16 + row % 8 * 2;
        return element(at);
    }
    return element(start + row / 8 * outer + row % 8 * 16 + term / 8 * inner + term % 8 * 2);
}

// What a thread has of a product: two rows, eight apart, and two of eight columns.
void do_product(const Product& product, float* sums)
{
    unsigned lane = threadIdx.x % 32;
    unsigned row = threadIdx.x % 128 / 32 * 16 + lane / 4;
    float rows[2][16];
    for (unsigned k = 0; k < 16; ++k) {
        rows[0][k] = operand_value(product.left, product.left_transposed, row, k);
        rows[1][k] = operand_value(product.left, product.left_transposed, row + 8, k);
    }
    for (int eighth = 0; eighth < product.width; ++eighth) {
        for (unsigned e = 0; e < 2; ++e) {
            unsigned column = 8 * eighth + lane % 4 * 2 + e;
            float* of_rows[] = {sums + 4 * eighth + e, sums + 4 * eighth + 2 + e};
            float totals[] = {product.add ? *of_rows[0] : 0.0f, product.add ? *of_rows[1] : 0.0f};
            for (unsigned k = 0; k < 16; ++k) {
                float value = operand_value(product.right, product.right_transposed, column, k);
                totals[0] += rows[0][k] * value;
                totals[1] += rows[1][k] * value;
            }
            *of_rows[0] = totals[0];
            *of_rows[1] = totals[1];
        }
    }
}

void begin_product(float* sums, const Product& product)
{
    Pending& pending = current->pending;
    if (!pending.fenced) {
        fail("a product before sums are ready for it");
    }
    if (!copies_first) {
        do_product(product, sums);
        return;
    }
    if (!pending.target) {
        pending.target = sums;
        pending.sums.assign(sums, sums + 4 * product.width);
        memset(sums, 0xff, 4 * product.width * sizeof *sums);
    }
    if (pending.target != sums) {
        fail("products of two sums at a time");
    }
    pending.begun.push_back(product);
}

// Does all products but those of the last `more` groups; threads of a group do theirs together.
void finish_products(size_t more)
{
    Pending& pending = current->pending;
    bool all = more == 0 && pending.begun.empty();
    if (all) {
        pending.fenced = false;
    }
    if (pending.groups.size() <= more) {
        return;
    }
    while (pending.groups.size() > more) {
        for (const Product& product : pending.groups.front()) {
            do_product(product, pending.sums.data());
        }
        pending.groups.pop_front();
    }
    if (all) {
        for (size_t i = 0; i < pending.sums.size(); ++i) {
            uint32_t bits;
            memcpy(&bits, pending.target + i, sizeof bits);
            if (bits != 0xffffffff) {
                fail("sums that change while products add to them");
            }
        }
        std::copy(pending.sums.begin(), pending.sums.end(), pending.target);
        pending.target = nullptr;
    }
    meet(gates[current->rank][2000 + threadIdx.x / 128], 128);
}

void ask_for_copy(unsigned rank, const Copy& copy, uint32_t at)
{
    Barrier& barrier = barrier_of(rank, at);
    if (copies_first) {
        do_copy(copy, rank, barrier);
        turn_if_all_came(barrier);
        moved = true;
    } else {
        barrier.copies.push_back(copy);
    }
}

}  // namespace

void __syncthreads() { meet(gates[current->rank][0], blockDim.x * blockDim.y); }
void __syncwarp() {}

float __shfl_xor_sync(unsigned, float value, int distance)
{
    uint32_t bits;
    memcpy(&bits, &value, 4);
    passed_bits[current->rank][threadIdx.x][0] = bits;
    meet_warp();
    memcpy(&value, &passed_bits[current->rank][threadIdx.x ^ (unsigned)distance][0], 4);
    meet_warp();
    return value;
}

unsigned char* shared_memory() { return memory[current->rank]; }
uint32_t shared_address(const void* at)
{
    return (uint32_t)((const unsigned char*)at - memory[current->rank]);
}

void make_barrier(uint32_t barrier, int arrivals)
{
    check_inside(barrier + 8);
    Barrier made;
    made.arrivals = made.missing = arrivals;
    barriers[current->rank][barrier] = made;
}

void arrive(uint32_t barrier)
{
    --barrier_at(barrier).missing;
    turn_if_all_came(barrier_at(barrier));
}

void arrive_there(uint32_t barrier)
{
    Barrier& known = barrier_of(barrier >> 20, barrier & 0xfffff);
    --known.missing;
    turn_if_all_came(known);
}

void announce(uint32_t barrier, int bytes)
{
    barrier_at(barrier).bytes += bytes;
    arrive(barrier);
}

// As the hardware does: what it tells apart is whether a turn is odd.
void await_turn(uint32_t barrier, int turn)
{
    Barrier& known = barrier_at(barrier);
    wait_until([&] {
        for (const Copy& copy : std::exchange(known.copies, {})) {
            do_copy(copy, current->rank, known);
            turn_if_all_came(known);
        }
        return known.turn % 2 != turn % 2;
    });
}

void publish_barriers() {}
void publish_writes() {}
void join_group(int group) { meet(gates[current->rank][1 + group], 128); }
void join_blocks() { meet(whole, cluster * blockDim.x); }
void meet_blocks() { join_blocks(); }
uint32_t of_block(uint32_t own, int rank) { return own | (uint32_t)rank << 20; }

void store_there(uint32_t at, float4 four)
{
    check_inside((at & 0xfffff) + sizeof four);
    memcpy(memory[at >> 20] + (at & 0xfffff), &four, sizeof four);
}

void copy_box(uint32_t to, const CUtensorMap* from, int a, int b, int c, int d, uint32_t barrier)
{
    ask_for_copy(current->rank, {to, *from, {a, b, c, d}}, barrier);
}

void copy_box_to(
    uint32_t blocks, uint32_t to, const CUtensorMap* from, int a, int b, int c, int d,
    uint32_t barrier)
{
    for (unsigned rank = 0; rank < cluster; ++rank) {
        if (blocks >> rank & 1) {
            ask_for_copy(rank, {to, *from, {a, b, c, d}}, barrier);
        }
    }
}

void copy_tap(uint32_t to, const CUtensorMap* weights, int channel, int tap, uint32_t barrier)
{
    ask_for_copy(current->rank, {to, *weights, {channel, tap, 0, 0}}, barrier);
}

uint64_t operand(uint32_t address)
{
    return (uint64_t)(address >> 4) | (uint64_t)1 << 16 | (uint64_t)(REPEAT >> 4) << 32 |
           (uint64_t)1 << 62;
}

uint64_t stepped_operand(uint32_t address, int step, int outer)
{
    return (uint64_t)(address >> 4) | (uint64_t)(step >> 4) << 16 | (uint64_t)(outer >> 4) << 32 |
           (uint64_t)1 << 62;
}

uint64_t plain_operand(uint32_t address, int inner, int outer)
{
    return (uint64_t)(address >> 4) | (uint64_t)(inner >> 4) << 16 | (uint64_t)(outer >> 4) << 32;
}

void begin_products() { current->pending.fenced = true; }

void end_products()
{
    Pending& pending = current->pending;
    if (copies_first) {
        pending.groups.push_back(std::exchange(pending.begun, {}));
    }
}

template <int MORE> void await_products() { finish_products(MORE); }

template <bool TRANSPOSED, int N>
void multiply(float (&sums)[N][4], uint64_t left, uint64_t right, bool add)
{
    begin_product(sums[0], {left, right, TRANSPOSED, false, add, N});
}

template <int N>
void multiply_transposed(float (&sums)[N][4], uint64_t left, uint64_t right)
{
    begin_product(sums[0], {left, right, true, true, true, N});
}

void store_transposed(uint32_t row, const uint32_t (&pairs)[2])
{
    unsigned lane = threadIdx.x % 32;
    unsigned warp = threadIdx.x - lane;
    auto& passed = passed_bits[current->rank];
    passed[threadIdx.x][0] = row;
    meet_warp();
    for (unsigned matrix = 0; matrix < 2; ++matrix) {
        for (unsigned e = 0; e < 2; ++e) {
            uint32_t to = passed[warp + matrix * 8 + lane % 4 * 2 + e][0] + lane / 4 * 2;
            uint16_t value = (uint16_t)(pairs[matrix] >> 16 * e);
            memcpy(memory[current->rank] + to, &value, 2);
        }
    }
    meet_warp();
}

#include "../src/cuda/hopper.cu"

namespace {

// How: blocks of a cluster.
const std::vector<Entry> entries = {
    {"convolve_first", sizes(convolve_first), invoke<convolve_first>, 1},
    {"convolve_fixed_first", sizes(convolve_fixed_first), invoke<convolve_fixed_first>, 1},
    {"weigh_first", sizes(weigh_first), invoke<weigh_first>, 1},
    {"add_weights_first", sizes(add_weights_first), invoke<add_weights_first>, 1},
    {"convolve_64", sizes(convolve_64), invoke<convolve_64>, 1},
    {"convolve_fixed_64", sizes(convolve_fixed_64), invoke<convolve_fixed_64>, 1},
    {"convolve_back_64", sizes(convolve_back_64), invoke<convolve_back_64>, 1},
    {"weigh_64", sizes(weigh_64), invoke<weigh_64>, 2},
    {"add_weights_64", sizes(add_weights_64), invoke<add_weights_64>, 1},
    {"convolve_128", sizes(convolve_128), invoke<convolve_128>, 1},
    {"convolve_fixed_128", sizes(convolve_fixed_128), invoke<convolve_fixed_128>, 1},
    {"convolve_back_128", sizes(convolve_back_128), invoke<convolve_back_128>, 1},
    {"weigh_128", sizes(weigh_128), invoke<weigh_128>, 2},
    {"add_weights_128", sizes(add_weights_128), invoke<add_weights_128>, 1},
    {"convolve_256", sizes(convolve_256), invoke<convolve_256>, 2},
    {"convolve_fixed_256", sizes(convolve_fixed_256), invoke<convolve_fixed_256>, 2},
    {"convolve_back_256", sizes(convolve_back_256), invoke<convolve_back_256>, 2},
    {"weigh_256", sizes(weigh_256), invoke<weigh_256>, 2},
    {"add_weights_256", sizes(add_weights_256), invoke<add_weights_256>, 1},
    {"convolve_512", sizes(convolve_512), invoke<convolve_512>, 2},
    {"convolve_fixed_512", sizes(convolve_fixed_512), invoke<convolve_fixed_512>, 2},
    {"convolve_back_512", sizes(convolve_back_512), invoke<convolve_back_512>, 2},
    {"weigh_512", sizes(weigh_512), invoke<weigh_512>, 2},
    {"add_weights_512", sizes(add_weights_512), invoke<add_weights_512>, 1},
    {"convolve_down_128", sizes(convolve_down_128), invoke<convolve_down_128>, 2},
    {"convolve_fixed_down_128", sizes(convolve_fixed_down_128), invoke<convolve_fixed_down_128>, 2},
    {"convolve_back_down_128", sizes(convolve_back_down_128), invoke<convolve_back_down_128>, 2},
    {"weigh_down_128", sizes(weigh_down_128), invoke<weigh_down_128>, 2},
    {"add_weights_down_128", sizes(add_weights_down_128), invoke<add_weights_down_128>, 1},
    {"convolve_down_256", sizes(convolve_down_256), invoke<convolve_down_256>, 2},
    {"convolve_fixed_down_256", sizes(convolve_fixed_down_256), invoke<convolve_fixed_down_256>, 2},
    {"convolve_back_down_256", sizes(convolve_back_down_256), invoke<convolve_back_down_256>, 2},
    {"weigh_down_256", sizes(weigh_down_256), invoke<weigh_down_256>, 2},
    {"add_weights_down_256", sizes(add_weights_down_256), invoke<add_weights_down_256>, 1},
    {"convolve_down_512", sizes(convolve_down_512), invoke<convolve_down_512>, 2},
    {"convolve_fixed_down_512", sizes(convolve_fixed_down_512), invoke<convolve_fixed_down_512>, 2},
    {"convolve_back_down_512", sizes(convolve_back_down_512), invoke<convolve_back_down_512>, 2},
    {"weigh_down_512", sizes(weigh_down_512), invoke<weigh_down_512>, 2},
    {"add_weights_down_512", sizes(add_weights_down_512), invoke<add_weights_down_512>, 1},
    {"convolve_short_128", sizes(convolve_short_128), invoke<convolve_short_128>, 2},
    {"convolve_fixed_short_128", sizes(convolve_fixed_short_128), invoke<convolve_fixed_short_128>, 2},
    {"convolve_back_short_128", sizes(convolve_back_short_128), invoke<convolve_back_short_128>, 2},
    {"convolve_short_256", sizes(convolve_short_256), invoke<convolve_short_256>, 2},
    {"convolve_fixed_short_256", sizes(convolve_fixed_short_256), invoke<convolve_fixed_short_256>, 2},
    {"convolve_back_short_256", sizes(convolve_back_short_256), invoke<convolve_back_short_256>, 2},
    {"convolve_short_512", sizes(convolve_short_512), invoke<convolve_short_512>, 2},
    {"convolve_fixed_short_512", sizes(convolve_fixed_short_512), invoke<convolve_fixed_short_512>, 2},
    {"convolve_back_short_512", sizes(convolve_back_short_512), invoke<convolve_back_short_512>, 2},
};

// Runs a cluster of blocks that begins at a place of the grid.
void run_cluster(unsigned blocks, Index first)
{
    unsigned threads = blockDim.x * blockDim.y;
    if (fibers.size() < blocks * threads) {
        fibers.resize(blocks * threads);
    }
    memset(memory, 0xff, sizeof memory);
    copies_first = clusters_begun++ % 2;
    for (unsigned rank = 0; rank < blocks; ++rank) {
        barriers[rank].clear();
        gates[rank].clear();
    }
    whole = {};
    cluster = blocks;
    for (unsigned i = 0; i < blocks * threads; ++i) {
        Fiber& fiber = fibers[i];
        unsigned thread = i % threads;
        fiber.done = false;
        fiber.pending = {};
        fiber.rank = i / threads;
        fiber.block = {first.x + fiber.rank, first.y, 0};
        fiber.thread = {thread % blockDim.x, thread / blockDim.x, 0};
        getcontext(&fiber.context);
        fiber.context.uc_stack.ss_sp = fiber.stack.data();
        fiber.context.uc_stack.ss_size = STACK;
        fiber.context.uc_link = &scheduler;
        makecontext(&fiber.context, run_fiber, 0);
    }
    for (bool left = true; left;) {
        left = moved = false;
        for (unsigned i = 0; i < blocks * threads; ++i) {
            if (!fibers[i].done) {
                current = &fibers[i];
                threadIdx = current->thread;
                blockIdx = current->block;
                swapcontext(&scheduler, &current->context);
                left = left || !fibers[i].done;
            }
        }
        if (left && !moved) {
            fail("all threads of a block wait");
        }
    }
    for (unsigned rank = 0; rank < blocks; ++rank) {
        unsigned char* behind = memory[rank] + shared_bytes;
        auto untouched = [](unsigned char byte) { return byte == 0xff; };
        if (!std::all_of(behind, memory[rank] + MEMORY, untouched)) {
            fail("something was written behind a block's shared memory");
        }
    }
}

}  // namespace

extern "C" const void* find_kernel(const char* name) { return find_entry(entries, name); }

extern "C" void run_kernel(
    const void* found, const unsigned* grid, const unsigned* block, unsigned shared, void** at)
{
    const Entry* entry = (const Entry*)found;
    running = entry->invoke;
    arguments = at;
    gridDim = {grid[0], grid[1], grid[2]};
    blockDim = {block[0], block[1], block[2]};
    shared_bytes = shared;
    if (grid[0] % entry->how != 0) {
        fail("a grid of incomplete clusters");
    }
    for (unsigned y = 0; y < grid[1]; ++y) {
        for (unsigned x = 0; x < grid[0]; x += entry->how) {
            run_cluster(entry->how, {x, y, 0});
        }
    }
}
