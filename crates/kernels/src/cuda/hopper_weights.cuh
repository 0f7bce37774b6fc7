// The weights' gradients of the convolutions in hopper_image.cuh; and for those of tiles, too, how
// the sums of several blocks are added up and stored.

// Rounds four sums of a weights' gradient and stores them where wgmma has put them: inputs and
// outputs are those of a thread from `target` on, where outputs are `pitch` apart.
__device__ __forceinline__ void store_weights(float4 sum, int thread, bf16* target, int pitch)
{
    int output = thread % GROUP / WARP * 16 + thread % WARP / 4;
    bf16* to = target + output * pitch + thread % 4 * 2;
    *reinterpret_cast<__nv_bfloat162*>(to) = __floats2bfloat162_rn(sum.x, sum.y);
    *reinterpret_cast<__nv_bfloat162*>(to + 8 * pitch) = __floats2bfloat162_rn(sum.z, sum.w);
}

// How the weights' gradient is taken apart: a block sums over four bands, of one image or of four,
// for 64 outputs and 64 inputs; a group takes three of the taps. Two blocks add up their sums
// before these go to memory.
template <int SIDE> struct Band {
    static constexpr int PITCH = SIDE + 1;
    static constexpr int BANDS = 4;
    static constexpr int ROWS = SIDE == 32 ? 8 : 16;  // of pixels
    static constexpr int TERMS = 272;                 // with padding
    static constexpr int COPIED = ROWS + 3;           // of pixels of the input
    static constexpr int INPUT = tile(COPIED * PITCH);
    static constexpr int STAGE = INPUT + tile(TERMS);
    static_assert(tile(TERMS) == TERMS * ROW, "a stage ends where its last term does");
    static constexpr int BARRIERS = 2 * STAGE;
    static constexpr int BYTES = BARRIERS + 8 * 4;
    static_assert(HALF * 3 * GROUP * 16 <= BARRIERS, "half of a block's sums fit where the bands were");
};

// Adds up a weights' gradient with a block of the cluster that has other terms of the same sums:
// each takes half of them, `half` being which. `memory` is what nobody needs any more.
__device__ __forceinline__ void add_halves(
    const float (&sums)[2 * HALF][4], unsigned char* memory, int other_rank, int half,
    float4 (&totals)[HALF])
{
    int thread = threadIdx.x;
    bool summed = thread < 3 * GROUP;
    meet_blocks();
    if (summed) {
        uint32_t to = of_block(shared_address(memory), other_rank) + thread * 16;
#pragma unroll
        for (int i = 0; i < HALF; ++i) {
            const float* low = sums[i];
            const float* high = sums[HALF + i];
            store_there(
                to + i * 3 * GROUP * 16,
                make_float4(
                    half ? low[0] : high[0], half ? low[1] : high[1], half ? low[2] : high[2],
                    half ? low[3] : high[3]));
        }
    }
    join_blocks();
    if (!summed) {
        return;
    }
    const float4* got = reinterpret_cast<const float4*>(memory) + thread;
#pragma unroll
    for (int i = 0; i < HALF; ++i) {
        const float* low = sums[i];
        const float* high = sums[HALF + i];
        float4 other = got[i * 3 * GROUP];
        totals[i] = make_float4(
            (half ? high[0] : low[0]) + other.x, (half ? high[1] : low[1]) + other.y,
            (half ? high[2] : low[2]) + other.z, (half ? high[3] : low[3]) + other.w);
    }
}

// Sums for each two blocks, (input slice and output slice, pairs of blocks, 24, 384) times four:
// whatever a thread has, in its order. Blocks that have no image sum up zeros.
template <int CHANNELS, int SIDE>
__device__ __forceinline__ void weigh(
    const CUtensorMap* maps, const CUtensorMap* gradients, float* partial)
{
    typedef Band<SIDE> S;
    unsigned char* memory = shared_memory();
    uint32_t stages = shared_address(memory);
    uint32_t there = stages + S::BARRIERS;
    uint32_t free = there + 16;
    int thread = threadIdx.x;
    int group = thread / GROUP;
    int inputs = blockIdx.y % (CHANNELS / SLICE) * SLICE;
    int outputs = blockIdx.y / (CHANNELS / SLICE) * SLICE;
    if (thread == 0) {
        for (int i = 0; i < 2; ++i) {
            make_barrier(there + 8 * i, 1);
            make_barrier(free + 8 * i, 3);
        }
        publish_barriers();
    }
    // Terms behind the last pixel of a band.
    constexpr int BEHIND = (S::TERMS - S::ROWS * S::PITCH) * ROW / 16;
    for (int i = thread; i < 2 * BEHIND; i += 3 * GROUP) {
        unsigned char* end = memory + (i < BEHIND ? 1 : 2) * S::STAGE - BEHIND * 16;
        reinterpret_cast<uint4*>(end)[i < BEHIND ? i : i - BEHIND] = make_uint4(0, 0, 0, 0);
    }
    publish_writes();
    __syncthreads();
    if (thread == 3 * GROUP) {
        for (int band = 0; band < S::BANDS; ++band) {
            int image = SIDE == 32 ? blockIdx.x : blockIdx.x * S::BANDS + band;
            int top = SIDE == 32 ? band * S::ROWS : 0;
            uint32_t stage = stages + band % 2 * S::STAGE;
            uint32_t barrier = there + 8 * (band % 2);
            if (band >= 2) {
                await_turn(free + 8 * (band % 2), band / 2 - 1);
            }
            announce(barrier, (S::COPIED + S::ROWS) * S::PITCH * ROW);
            copy_box(stage, maps, inputs, -1, top - 1, image, barrier);
            copy_box(stage + S::INPUT, gradients, outputs, 0, top, image, barrier);
        }
    }
    __syncwarp();
    float sums[2 * HALF][4] = {};
#pragma unroll 1
    for (int band = 0; group < 3 && band < S::BANDS; ++band) {
        uint32_t stage = stages + band % 2 * S::STAGE;
        await_turn(there + 8 * (band % 2), band / 2);
        uint64_t left = operand(stage + S::INPUT);
        // A group's three taps read neighbouring pixels.
        uint64_t right = stepped_operand(stage + group * S::PITCH * ROW, ROW, REPEAT);
        begin_products();
#pragma unroll
        for (int k = 0; k < S::TERMS; k += DEPTH) {
            multiply_transposed(sums, left + (k * ROW >> 4), right + (k * ROW >> 4));
        }
        end_products();
        await_products<0>();
        if (thread % GROUP == 0) {
            arrive(free + 8 * (band % 2));
        }
        __syncwarp();
    }
    float4 totals[HALF];
    int half = blockIdx.x % 2;
    add_halves(sums, memory, 1 - half, half, totals);
    if (group == 3) {
        return;
    }
    int pair = blockIdx.y * (gridDim.x / 2) + blockIdx.x / 2;
    float4* own = reinterpret_cast<float4*>(partial) + (pair * 2 + half) * HALF * 3 * GROUP + thread;
#pragma unroll
    for (int i = 0; i < HALF; ++i) {
        own[i * 3 * GROUP] = totals[i];
    }
}

// The first layer's: a block for each image, (images, 3, 384) times four sums. A group takes the
// taps of one row of the kernel, whose inputs lie one after the other.
struct FirstBand {
    static constexpr int ROWS = 8;
    static constexpr int BANDS = First::SIDE / ROWS;
    static constexpr int PIXELS = tile(First::SIDE * First::PITCH);
    static constexpr int BARRIERS = PIXELS + (First::END + 8) * 16;
    static constexpr int BYTES = BARRIERS + 8 * BANDS;
};

__device__ __forceinline__ void weigh_images(
    const CUtensorMap* images, const CUtensorMap* gradients, float* partial)
{
    typedef FirstBand S;
    unsigned char* memory = shared_memory();
    uint32_t gradient = shared_address(memory);
    uint32_t pixels = gradient + S::PIXELS;
    uint32_t there = gradient + S::BARRIERS;
    int thread = threadIdx.x;
    int group = thread / GROUP;
    if (thread == 0) {
        for (int i = 0; i < S::BANDS; ++i) {
            make_barrier(there + 8 * i, 1);
        }
        publish_barriers();
    }
    if (thread < 8) {
        reinterpret_cast<uint4*>(memory + S::PIXELS)[First::END + thread] = make_uint4(0, 0, 0, 0);
        publish_writes();
    }
    __syncthreads();
    if (thread == 0) {
        constexpr int BAND = S::ROWS * First::PITCH * ROW;
        for (int band = 0; band < S::BANDS; ++band) {
            uint32_t barrier = there + 8 * band;
            announce(barrier, BAND + (band == 0 ? First::END * 16 : 0));
            if (band == 0) {
                copy_box(pixels, images, 0, -1, -1, blockIdx.x, barrier);
            }
            copy_box(gradient + band * BAND, gradients, 0, 0, band * S::ROWS, blockIdx.x, barrier);
        }
    }
    __syncwarp();
    float sums[3][4] = {};
    // Terms of a band end where a product does not: the last of a product wait for the next band.
    constexpr int TERMS = First::SIDE * First::PITCH;
    static_assert(TERMS % DEPTH == 0, "whole products");
#pragma unroll 1
    for (int band = 0; band < S::BANDS; ++band) {
        await_turn(there + 8 * band, 0);
        int from = band * S::ROWS * First::PITCH / DEPTH;
        int to = (band + 1) * S::ROWS * First::PITCH / DEPTH;
        uint64_t left = operand(gradient);
        uint64_t right = plain_operand(pixels + group * First::PITCH * 16, 128, 16);
#pragma unroll 1
        for (int k = from; k < to; ++k) {
            begin_products();
            multiply_transposed(
                sums, left + (k * DEPTH * ROW >> 4), right + (k * DEPTH * 16 >> 4));
        }
        end_products();
        await_products<0>();
    }
    float4* own = reinterpret_cast<float4*>(partial) + blockIdx.x * 3 * 3 * GROUP + thread;
#pragma unroll
    for (int i = 0; i < 3; ++i) {
        own[i * 3 * GROUP] = make_float4(sums[i][0], sums[i][1], sums[i][2], sums[i][3]);
    }
}

// Four threads for each four of the sums of a weights' gradient: added up over `blocks` parts and
// stored as gradients, (output, tap, input). A group of threads had the taps of a row of the kernel
// or, with COLUMNS, of a column. A block is (64, 4).
template <int INPUTS, bool COLUMNS>
__device__ __forceinline__ void add_weights(const float* partial, int blocks, bf16* target)
{
    __shared__ float4 quarters[4][64];
    constexpr int SLICES = INPUTS < SLICE ? 1 : INPUTS / SLICE;
    constexpr int EIGHTS = INPUTS / SLICES / 8;
    constexpr int FOURS = 3 * EIGHTS * 3 * GROUP;
    int at = blockIdx.x * 64 + threadIdx.x;
    const float4* from = reinterpret_cast<const float4*>(partial) + blockIdx.y * blocks * FOURS + at;
    float4 sum = {};
#pragma unroll 8
    for (int block = threadIdx.y; block < blocks; block += 4) {
        float4 next = from[block * FOURS];
        sum.x += next.x;
        sum.y += next.y;
        sum.z += next.z;
        sum.w += next.w;
    }
    quarters[threadIdx.y][threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.y > 0) {
        return;
    }
    for (int i = 1; i < 4; ++i) {
        float4 next = quarters[i][threadIdx.x];
        sum.x += next.x;
        sum.y += next.y;
        sum.z += next.z;
        sum.w += next.w;
    }
    int thread = at % (3 * GROUP);
    int i = at / (3 * GROUP);
    int tap = COLUMNS ? i / EIGHTS * 3 + thread / GROUP : thread / GROUP * 3 + i / EIGHTS;
    int outputs = blockIdx.y / SLICES * SLICE;
    int inputs = blockIdx.y % SLICES * SLICE + i % EIGHTS * 8;
    store_weights(sum, thread, target + (outputs * TAPS + tap) * INPUTS + inputs, TAPS * INPUTS);
}
