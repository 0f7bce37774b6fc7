// Convolutions of 3x3 on images that are too small, or have too many channels, for a block each,
// those of stride 2, and the shortcuts of 1x1 beside them: see hopper_image.cuh for the others. A
// block computes a tile: 128 pixels of the output, of whole images or of a part of one, by 128 of its
// channels. Pixels and weights come in stages, each 64 terms of a sum for all taps of one column of
// the kernel: pixels that are moved by a column, zeros beyond the border, so that no padding is
// computed; rows above and below are some rows of shared memory away. Pixels lie in the order (row,
// image, column), so these are whole multiples of eight.
//
// The two blocks of a cluster compute different pixels of the same channels and share the weights:
// each copies half of them for both. (Clusters of four would not fill the card: on some of its
// parts one multiprocessor or another is missing, and no cluster spans parts.)

// The pixels of a tile.
#define TILE 128

// `COUNT` pixels of images of `SIDE` x `SIDE`.
template <int SIDE, int COUNT> struct Pixels {
    static constexpr int ROWS = SIDE < COUNT / SIDE ? SIDE : COUNT / SIDE;  // of an image
    static constexpr int IMAGES = COUNT / (ROWS * SIDE);
    static constexpr int PITCH = IMAGES * SIDE;  // from a row to the next
    static constexpr int TILES = SIDE / ROWS;    // of an image, if it has more than one
    static_assert(PITCH % 8 == 0, "rows begin where swizzling does");

    // Where tile number `tile` begins.
    static __device__ __forceinline__ int first_image(int tile) { return tile / TILES * IMAGES; }
    static __device__ __forceinline__ int first_row(int tile) { return tile % TILES * ROWS; }
};

// A convolution, or with BACK its input's gradient; `SIDE` is that of the output's images. A kernel
// of 1x1 reads the even rows and columns of the input: with BACK the others get zeros.
template <int INPUTS, int OUTPUTS, int SIDE_, int STRIDE_, bool BACK_, int KERNEL_ = 3>
struct TileShape {
    typedef Pixels<SIDE_, TILE> P;
    static constexpr int SIDE = SIDE_;
    static constexpr int STRIDE = STRIDE_;
    static constexpr bool BACK = BACK_;
    static constexpr int KERNEL = KERNEL_;
    static constexpr int RESULTS = BACK ? INPUTS : OUTPUTS;
    static constexpr int STEP = BACK ? STRIDE : 1;  // from a result's pixel to the next
    static constexpr bool SPREAD = STEP == 2;       // results in between are zero
    static constexpr int GROUPS = RESULTS == SLICE ? 1 : 2;  // for 64 results each
    // A warp copies.
    static constexpr int THREADS = GROUPS * GROUP + WARP;
    static constexpr int STAGES = (BACK ? OUTPUTS : INPUTS) / SLICE * KERNEL;
    // With a stride of 2, odd rows of the input, one more than rows of the output, then even ones.
    static constexpr bool HALVED = STRIDE == 2 && KERNEL == 3;
    static constexpr int ODD = (P::ROWS + 1) * P::PITCH * ROW;
    static constexpr int INPUT =
        HALVED ? ODD + TILE * ROW : (P::ROWS + KERNEL - 1) * P::PITCH * ROW;
    static constexpr int STAGE = INPUT + KERNEL * GROUPS * LEFT * ROW;
    static constexpr int SLOTS = HALVED ? 2 : 3;
    static_assert(!BACK || STRIDE == 1 || KERNEL == 1, "UpShape is for the others");
    static constexpr int BARRIERS = SLOTS * STAGE;
    static constexpr int BYTES = BARRIERS + 8 * 2 * SLOTS;
    static_assert(STAGE % REPEAT == 0, "stages begin where swizzling does");

    // Where the pixels begin that a row of the kernel reads.
    static __device__ __forceinline__ constexpr int row_at(int row)
    {
        return !HALVED ? row * P::PITCH * ROW : row == 1 ? ODD : row / 2 * P::PITCH * ROW;
    }
};

// Makes the barriers of the two blocks of a cluster: for each of `slots` one that turns when all is
// there, and one that turns when all groups of both blocks are done with it.
__device__ __forceinline__ void make_barriers(uint32_t there, int slots, int groups)
{
    if (threadIdx.x == 0) {
        for (int i = 0; i < slots; ++i) {
            make_barrier(there + 8 * i, 1);
            make_barrier(there + 8 * (slots + i), 2 * groups);
        }
        publish_barriers();
    }
    meet_blocks();
}

// Copies a block's half of a stage's weights, for both: of `HALVES` times 64 rows or columns of
// results, each of `KERNEL` rows of the kernel, and of 64 terms that begin at `slice`. With BACK the
// weights' rows are the terms.
template <bool BACK, int HALVES, int KERNEL>
__device__ __forceinline__ void copy_weights(
    uint32_t to, const CUtensorMap* weights, int results, int slice, int row, int column,
    uint32_t barrier)
{
    constexpr int COPIED = HALVES * LEFT / 2;
    int half = blockIdx.x % 2 * COPIED / LEFT * LEFT;
    int begin = blockIdx.x % 2 * COPIED % LEFT;
    to += (half * KERNEL + begin) * ROW;
    int input = BACK ? results + half : slice;
    int output = (BACK ? slice : results + half) + begin;
    copy_box_to(3, to, weights, input, output, row, column, barrier);
}

// Says to both blocks that a group is done with a slot.
__device__ __forceinline__ void release(uint32_t free)
{
    int in_group = threadIdx.x % GROUP;
    if (in_group < 2) {
        arrive_there(of_block(free, in_group));
    }
}

// Rounds the results of `COUNT` times eight pixels of a tile, those from `first` on, and stores
// them; with `accumulate` adds them to what is there, and lets them through; or normalizes them.
// `store` is for this group alone. With `moments.wanted` takes sums. Where there are several
// phases, a result's pixel is that of `phase`, (row, column), of each.
template <class S, int COUNT>
__device__ __forceinline__ void store_pixels(
    const float (*sums)[4], unsigned char* store, bf16* output, int channel, int first, int tile,
    int phase, int images, int accumulate, Moments& moments, Passing& passing,
    const Normalizing& normalizing)
{
    typedef typename S::P P;
    int first_image = P::first_image(tile);
    int lane = threadIdx.x % WARP;
    int in_group = threadIdx.x % GROUP;
    constexpr int ROUNDS = COUNT / 2;
    int places[ROUNDS];  // where this thread's pieces belong; -1: nowhere
    Beside beside[ROUNDS];
#pragma unroll
    for (int i = 0; i < ROUNDS; ++i) {
        int pixel = first + (i * GROUP + in_group) / 8;
        int image = first_image + pixel % P::PITCH / S::SIDE;
        int row = (P::first_row(tile) + pixel / P::PITCH) * S::STEP + phase / S::STEP;
        int column = pixel % S::SIDE * S::STEP + phase % S::STEP;
        int at = (image * S::SIDE * S::STEP + row) * S::SIDE * S::STEP + column;
        places[i] = image < images ? at * S::RESULTS + channel + in_group % 8 * 8 : -1;
        beside[i] = read_beside(output, places[i], accumulate, passing, normalizing);
    }
    __syncwarp();
    // As in `store_strip`.
    uint32_t put = shared_address(store) + lane % 8 * ROW +
                   ((in_group / WARP * 2 + lane / 8 % 2) ^ lane % 8) * 16;
#pragma unroll
    for (int i = 0; i < COUNT; ++i) {
        uint32_t rounded[2];
        int pixel = first + 8 * i + lane % 4 * 2;
        bool inside = first_image + pixel % P::PITCH / S::SIDE < images;
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            float2 result = make_float2(sums[i][2 * half], sums[i][2 * half + 1]);
            if (normalizing.gates) {
                result = normalizing.of(result.x, result.y, half);
            }
            __nv_bfloat162 pair = __floats2bfloat162_rn(result.x, result.y);
            rounded[half] = *reinterpret_cast<uint32_t*>(&pair);
            if (moments.wanted && inside) {
                float2 values = __bfloat1622float2(pair);
                moments.add(half, values.x - moments.shift[half]);
                moments.add(half, values.y - moments.shift[half]);
            }
        }
        store_transposed(put + i * 8 * ROW, rounded);
    }
    join_group(threadIdx.x / GROUP);
#pragma unroll
    for (int i = 0; i < ROUNDS; ++i) {
        if (places[i] < 0) {
            continue;
        }
        int at = (i * GROUP + in_group) / 8;
        uint4 piece =
            *reinterpret_cast<const uint4*>(store + at * ROW + (in_group % 8 ^ at % 8) * 16);
        store_piece(output, places[i], piece, beside[i], accumulate, passing, normalizing);
        if (S::SPREAD && !accumulate) {
            constexpr int BELOW = S::SIDE * S::STEP * S::RESULTS;
            for (int other : {S::RESULTS, BELOW, BELOW + S::RESULTS}) {
                *reinterpret_cast<uint4*>(output + places[i] + other) = make_uint4(0, 0, 0, 0);
            }
        }
    }
    __syncwarp();
}

// The result of a convolution with `weights`, (output, tap, input), or the input's gradient, as in
// `convolve`. `maps` are boxes of the pixels of a stage (with a stride of 2 and 3x3, of the odd rows;
// `evens` of the others), `weights` of a block's half of a tap. A block is for a tile and 128
// results, or 64 if there are no more; `parts` are (2, channels, tiles).
template <class S, Kind KIND>
__device__ __forceinline__ void convolve_tile(
    const CUtensorMap* maps, const CUtensorMap* evens, const CUtensorMap* weights, bf16* output,
    int images, const float* shift, float* parts, const Normal& normal, int accumulate,
    const Through& through)
{
    static_assert(S::BACK == (KIND == Kind::BACK), "shapes with BACK are for gradients");
    typedef typename S::P P;
    unsigned char* memory = shared_memory();
    uint32_t stages = shared_address(memory);
    uint32_t there = stages + S::BARRIERS;
    uint32_t free = there + 8 * S::SLOTS;
    int thread = threadIdx.x;
    int group = thread / GROUP;
    int tile = blockIdx.x;
    int results = blockIdx.y * S::GROUPS * SLICE;
    make_barriers(there, S::SLOTS, S::GROUPS);

    if (thread == S::GROUPS * GROUP) {
        int image = P::first_image(tile);
        int first = (S::BACK ? 1 : S::STRIDE) * P::first_row(tile) - S::KERNEL / 2;
#pragma unroll 1
        for (int stage = 0; stage < S::STAGES; ++stage) {
            int slot = stage % S::SLOTS;
            int slice = stage / S::KERNEL * SLICE;
            int column = stage % S::KERNEL;
            uint32_t to = stages + slot * S::STAGE;
            uint32_t barrier = there + 8 * slot;
            if (stage >= S::SLOTS) {
                await_turn(free + 8 * slot, stage / S::SLOTS - 1);
            }
            announce(barrier, S::STAGE);
            copy_box(to, maps, slice, column - S::KERNEL / 2, image, first, barrier);
            if (S::HALVED) {
                copy_box(to + S::ODD, evens, slice, column - 1, image, first + 1, barrier);
            }
            constexpr int LAST = S::KERNEL - 1;
            for (int row = 0; row < S::KERNEL; ++row) {
                copy_weights<S::BACK, S::GROUPS, S::KERNEL>(
                    to + S::INPUT + row * LEFT * ROW, weights, results, slice,
                    S::BACK ? LAST - row : row, S::BACK ? LAST - column : column, barrier);
            }
        }
    }
    __syncwarp();

    bool multiplies = group < S::GROUPS;
    float sums[TILE / 8][4];
#pragma unroll 1
    for (int stage = 0; multiplies && stage < S::STAGES; ++stage) {
        int slot = stage % S::SLOTS;
        uint32_t pixels = stages + slot * S::STAGE;
        await_turn(there + 8 * slot, stage / S::SLOTS);
        uint64_t left = operand(pixels + S::INPUT + group * S::KERNEL * LEFT * ROW);
        uint64_t right = operand(pixels);
        begin_products();
#pragma unroll
        for (int row = 0; row < S::KERNEL; ++row) {
#pragma unroll
            for (int k = 0; k < SLICE / DEPTH; ++k) {
                int left_at = row * LEFT * ROW + k * DEPTH * (S::BACK ? ROW : 2);
                int right_at = S::row_at(row) + k * DEPTH * 2;
                multiply<S::BACK>(
                    sums, left + (left_at >> 4), right + (right_at >> 4), stage + row + k > 0);
            }
        }
        end_products();
        await_products<1>();
        // The stage before is done with.
        int done = stage - 1;
        if (done >= 0 && done + S::SLOTS < S::STAGES) {
            release(free + 8 * (done % S::SLOTS));
        }
        __syncwarp();
    }
    await_products<0>();
    // Nobody needs the stages any more: results go where they were.
    meet_blocks();
    int channel = results + group % S::GROUPS * SLICE;
    Moments moments(KIND == FORWARD && parts, shift, channel / SLICE);
    Passing passing;
    Normalizing normalizing;
    if (S::BACK) {
        passing = Passing(through, channel);
    }
    if (KIND == FIXED) {
        normalizing = Normalizing(normal, S::RESULTS, channel / SLICE);
    }
    if (multiplies) {
        store_pixels<S, TILE / 8>(
            sums, memory + group * TILE * ROW, output, channel, 0, tile, 0, images, accumulate,
            moments, passing, normalizing);
    }
    if (S::BACK && passing.images) {
        passing.store<S::GROUPS, S::GROUPS>(
            memory + S::GROUPS * TILE * ROW, through.parts, S::RESULTS, results, tile, gridDim.x);
    }
    if (moments.wanted && multiplies) {
        moments.add_lanes();
        for (int half = 0; half < 2; ++half) {
            int own = channel + Moments::first_of_thread() + 8 * half;
            if (thread % 4 == 0) {
                parts[own * gridDim.x + tile] = moments.sum[half];
                parts[(S::RESULTS + own) * gridDim.x + tile] = moments.square[half];
            }
        }
    }
}

// The input's gradient where the stride is 2: of a pixel of the output's gradient and its
// neighbours right and below come four pixels of the input's, its phases, (row, column). A block
// computes the four of a tile's pixels for 128 of the inputs, or for 64 if there are no more; a
// group one row of phases, first the even column, of one column of the kernel, then the odd one, of
// two.
template <int INPUTS, int OUTPUTS, int SIDE_> struct UpShape {
    typedef Pixels<SIDE_, TILE> P;
    static constexpr int SIDE = SIDE_;
    static constexpr int STEP = 2;
    static constexpr bool SPREAD = false;
    static constexpr int RESULTS = INPUTS;
    static constexpr int HALVES = INPUTS == SLICE ? 1 : 2;
    static constexpr int GROUPS = 2 * HALVES;
    static constexpr int THREADS = GROUPS * GROUP + WARP;
    static constexpr int BLOCKS = HALVES == 1 ? 2 : 1;  // at once on a multiprocessor
    static constexpr int SLICES = OUTPUTS / SLICE;
    static constexpr int INPUT = (P::ROWS + 1) * P::PITCH * ROW;
    static constexpr int STAGE = INPUT + 3 * HALVES * LEFT * ROW;
    static constexpr int SLOTS = BLOCKS == 2 ? 2 : 3;
    static constexpr int STORED = 4;  // eighths at once
    static constexpr int STORE = SLOTS * STAGE;
    static constexpr int BARRIERS = STORE + GROUPS * STORED * 8 * ROW;
    static constexpr int BYTES = BARRIERS + 8 * 2 * SLOTS;
    static_assert(STAGE % REPEAT == 0 && STORED * 8 * ROW % REPEAT == 0, "as swizzling does");

    // The column of the kernel, and the slice of terms, of a stage.
    static __device__ __forceinline__ int column(int stage)
    {
        return stage < SLICES ? 1 : (stage - SLICES) % 2 * 2;
    }
    static __device__ __forceinline__ int slice(int stage)
    {
        return (stage < SLICES ? stage : (stage - SLICES) / 2) * SLICE;
    }
};

template <class S>
__device__ __forceinline__ void convolve_up(
    const CUtensorMap* maps, const CUtensorMap* weights, bf16* output, int images, int accumulate)
{
    typedef typename S::P P;
    constexpr int STAGES = 3 * S::SLICES;
    unsigned char* memory = shared_memory();
    uint32_t stages = shared_address(memory);
    uint32_t there = stages + S::BARRIERS;
    uint32_t free = there + 8 * S::SLOTS;
    int thread = threadIdx.x;
    int group = thread / GROUP;
    int tile = blockIdx.x;
    int results = blockIdx.y * S::HALVES * SLICE;
    make_barriers(there, S::SLOTS, S::GROUPS);

    if (thread == S::GROUPS * GROUP) {
#pragma unroll 1
        for (int stage = 0; stage < STAGES; ++stage) {
            int slot = stage % S::SLOTS;
            int column = S::column(stage);
            uint32_t to = stages + slot * S::STAGE;
            uint32_t barrier = there + 8 * slot;
            if (stage >= S::SLOTS) {
                await_turn(free + 8 * slot, stage / S::SLOTS - 1);
            }
            announce(barrier, S::STAGE);
            copy_box(
                to, maps, S::slice(stage), column == 0, P::first_image(tile), P::first_row(tile),
                barrier);
            for (int row = 0; row < 3; ++row) {
                copy_weights<true, S::HALVES, 3>(
                    to + S::INPUT + row * LEFT * ROW, weights, results, S::slice(stage), row, column,
                    barrier);
            }
        }
    }
    __syncwarp();

    bool multiplies = group < S::GROUPS;
    int phase_row = group % 2;
    int half = group / 2;
    unsigned char* store = memory + S::STORE + group * S::STORED * 8 * ROW;
    float sums[TILE / 8][4];
    int channel = results + half % S::HALVES * SLICE;
    Moments none(false, nullptr, 0);
    Passing all;
    Normalizing as_it_is;
    int stage = 0;
#pragma unroll 1
    for (int odd = 0; multiplies && odd < 2; ++odd) {
        int begin = stage;
        int end = odd ? STAGES : S::SLICES;
#pragma unroll 1
        for (; stage < end; ++stage) {
            uint32_t pixels = stages + stage % S::SLOTS * S::STAGE;
            await_turn(there + 8 * (stage % S::SLOTS), stage / S::SLOTS);
#pragma unroll 1
            for (int i = 0; i <= phase_row; ++i) {
                // An even row of phases takes the kernel's middle row, an odd one the other two,
                // the first of these from the pixel below.
                int row = phase_row ? 2 * i : 1;
                uint64_t left = operand(pixels + S::INPUT + (half * 3 + row) * LEFT * ROW);
                uint64_t right = operand(pixels + (row == 0 ? P::PITCH * ROW : 0));
                begin_products();
#pragma unroll
                for (int k = 0; k < SLICE / DEPTH; ++k) {
                    multiply<true>(
                        sums, left + (k * DEPTH * ROW >> 4), right + (k * DEPTH * 2 >> 4),
                        stage - begin + i + k > 0);
                }
                end_products();
                await_products<1>();
            }
            // The stage before is done with.
            if (stage > begin && stage - 1 + S::SLOTS < STAGES) {
                release(free + 8 * ((stage - 1) % S::SLOTS));
            }
            __syncwarp();
        }
        await_products<0>();
        if (end - 1 + S::SLOTS < STAGES) {
            release(free + 8 * ((end - 1) % S::SLOTS));
        }
        __syncwarp();
#pragma unroll
        for (int eighth = 0; eighth < TILE / 8; eighth += S::STORED) {
            join_group(group);
            store_pixels<S, S::STORED>(
                sums + eighth, store, output, channel, eighth * 8, tile, phase_row * 2 + odd, images,
                accumulate, none, all, as_it_is);
        }
    }
    // Nobody arrives at this block's barriers any more.
    meet_blocks();
}

// How the weights' gradient is taken apart: a block sums over so many bands of pixels, for 64
// outputs and 64 inputs; a group takes the taps of one column of the kernel. The two blocks of a
// cluster have different outputs and share the inputs: each copies half of them, the middle row
// perhaps twice.
template <int INPUTS_, int OUTPUTS_, int SIDE_, int STRIDE_> struct TileBand {
    static constexpr int INPUTS = INPUTS_;
    static constexpr int OUTPUTS = OUTPUTS_;
    static constexpr int STRIDE = STRIDE_;
    static constexpr int COUNT = STRIDE == 1 ? 128 : 64;  // pixels of the output
    typedef Pixels<SIDE_, COUNT> P;
    static constexpr int BANDS = SIDE_ == 4 && STRIDE == 2 ? 32 : 16;
    static constexpr int SLOTS = STRIDE == 1 ? 2 : 3;
    static constexpr int THREADS = 3 * GROUP + WARP;
    static constexpr int ROWS = STRIDE * (P::ROWS - 1) + 3;  // of the input
    static constexpr int COPIED = (ROWS + 1) / 2;
    static constexpr int INPUT = ROWS * P::PITCH * ROW;  // for each column
    static constexpr int STAGE = 3 * INPUT + COUNT * ROW;
    static constexpr int BARRIERS = SLOTS * STAGE;
    static constexpr int BYTES = BARRIERS + 8 * 2 * SLOTS;
};

// Sums for each block, (output slice and input slice, blocks, 24, 384) times four: whatever a
// thread has, in its order. If there is one block, its sums are the gradient, (output, tap, input),
// and stored as that in `target`.
template <class S>
__device__ __forceinline__ void weigh_tiles(
    const CUtensorMap* maps, const CUtensorMap* gradients, float* partial, bf16* target)
{
    typedef typename S::P P;
    constexpr int SLICES = S::INPUTS / SLICE;
    uint32_t stages = shared_address(shared_memory());
    uint32_t there = stages + S::BARRIERS;
    uint32_t free = there + 8 * S::SLOTS;
    int thread = threadIdx.x;
    int group = thread / GROUP;
    int of_two = blockIdx.x % 2;
    int block = blockIdx.x / 2;
    int blocks = gridDim.x / 2;
    int inputs = blockIdx.y % SLICES;
    int outputs = blockIdx.y / SLICES * 2 + of_two;
    make_barriers(there, S::SLOTS, 3);
    if (thread == 3 * GROUP) {
        int begin = of_two * (S::ROWS - S::COPIED);
#pragma unroll 1
        for (int band = 0; band < S::BANDS; ++band) {
            int tile = block * S::BANDS + band;
            int slot = band % S::SLOTS;
            int image = P::first_image(tile);
            int row = P::first_row(tile);
            uint32_t stage = stages + slot * S::STAGE;
            uint32_t barrier = there + 8 * slot;
            if (band >= S::SLOTS) {
                await_turn(free + 8 * slot, band / S::SLOTS - 1);
            }
            announce(barrier, (3 * 2 * S::COPIED * P::PITCH + S::COUNT) * ROW);
            copy_box(stage + 3 * S::INPUT, gradients, outputs * SLICE, 0, image, row, barrier);
            for (int column = 0; column < 3; ++column) {
                copy_box_to(
                    3, stage + column * S::INPUT + begin * P::PITCH * ROW, maps, inputs * SLICE,
                    column - 1, image, S::STRIDE * row - 1 + begin, barrier);
            }
        }
    }
    __syncwarp();
    float sums[2 * HALF][4] = {};
#pragma unroll 1
    for (int band = 0; group < 3 && band < S::BANDS; ++band) {
        int slot = band % S::SLOTS;
        uint32_t stage = stages + slot * S::STAGE;
        await_turn(there + 8 * slot, band / S::SLOTS);
        uint64_t left = operand(stage + 3 * S::INPUT);
        // From a row of the kernel to the next it is a row of the input.
        constexpr int OUTER = P::PITCH == 8 ? S::STRIDE * REPEAT : REPEAT;
        uint64_t right = stepped_operand(stage + group * S::INPUT, P::PITCH * ROW, OUTER);
        begin_products();
#pragma unroll
        for (int k = 0; k < S::COUNT; k += DEPTH) {
            int from = k / P::PITCH * P::PITCH * S::STRIDE + k % P::PITCH;
            multiply_transposed(sums, left + (k * ROW >> 4), right + (from * ROW >> 4));
        }
        end_products();
        await_products<0>();
        if (band + S::SLOTS < S::BANDS) {
            release(free + 8 * slot);
        }
        __syncwarp();
    }
    meet_blocks();
    if (group == 3) {
        return;
    }
    int part = (outputs * SLICES + inputs) * blocks + block;
    float4* own = reinterpret_cast<float4*>(partial) + part * 2 * HALF * 3 * GROUP + thread;
#pragma unroll
    for (int i = 0; i < 2 * HALF; ++i) {
        float4 sum = make_float4(sums[i][0], sums[i][1], sums[i][2], sums[i][3]);
        if (blocks > 1) {
            own[i * 3 * GROUP] = sum;
        } else {
            int at = (outputs * SLICE * TAPS + i / 8 * 3 + group) * S::INPUTS;
            store_weights(sum, thread, target + at + inputs * SLICE + i % 8 * 8, TAPS * S::INPUTS);
        }
    }
}
