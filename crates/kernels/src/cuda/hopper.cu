// Convolutions of 3x3 and stride 1 on a Hopper card (sm_90a), bf16: 64 channels on 32x32 images and
// 128 on 16x16, what most of a ResNet-18's time goes into, and its first layer. See cuda/hopper.rs for
// the host's side.
//
// A block convolves one image, which lies in shared memory as a whole: a pixel's channels in rows of
// 128 bytes, one slice of 64 channels after the other, one pixel of padding behind each row of
// pixels, which is also the padding before the next one. So all that a tap of the kernel reads, for
// any run of outputs, is a run of these rows, and an operand of wgmma wherever it begins. Outputs
// are computed for the padding, too, and left out.
//
// The hardware copies (TMA), fills padding with zeros and swizzles the 16-byte pieces of a row by the
// row's address; wgmma and what is stored here count on that.

#include "hopper.cuh"

typedef __nv_bfloat16 bf16;

// Channels of a slice, and its bytes of a pixel.
#define SLICE 64
#define ROW 128

// Threads of a group that multiplies together.
#define GROUP 128
#define WARP 32

// What one product of wgmma takes: 64 outputs of the left operand, 16 terms of each sum.
#define LEFT 64
#define DEPTH 16

#define TAPS 9

// A thread's sums of a weights' gradient, in fours, for each of two blocks.
#define HALF 12

// Bytes of so many rows, up to where the next tile may begin.
constexpr int tile(int rows) { return (rows * ROW + REPEAT - 1) / REPEAT * REPEAT; }

// Images of `SIDE` x `SIDE` pixels with `CHANNELS` channels.
template <int CHANNELS, int SIDE> struct Shape {
    static constexpr int PITCH = SIDE + 1;
    static constexpr int OUTPUTS = CHANNELS;
    static constexpr int SLICES = CHANNELS / SLICE;
    static constexpr int ROWS = STRIP / PITCH;  // of pixels in a strip
    static constexpr int STRIPS = SIDE / ROWS;
    // A group for a strip and 64 outputs of it. Three that take turns multiply all the time; what
    // they leave of a multiprocessor's registers and memory is for other kernels' blocks.
    static constexpr int GROUPS = SLICES == 1 ? 3 : 4;
    static constexpr int AT_ONCE = GROUPS / SLICES;
    static constexpr int PIXELS = tile((STRIPS - 1) * ROWS * PITCH + STRIP + 2 * PITCH + 2);
    // Taps of the weights that are there at once: all of them, or four in turns.
    static constexpr int SLOTS = SLICES == 1 ? TAPS : 4;
    static constexpr int TAP = CHANNELS * ROW;  // bytes of a slice of one
    static_assert(SLOTS == TAPS || STRIPS <= AT_ONCE, "turns of slots are those of one strip");
    // Pixels that a group stores at once: all of its strip if it has no other, where the weights were.
    static constexpr int STORED = STRIPS > AT_ONCE ? 24 : STRIP;
    // Places in shared memory.
    static constexpr int WEIGHTS = SLICES * PIXELS;
    static constexpr int BEHIND = WEIGHTS + SLOTS * SLICES * TAP;
    static constexpr int STORE = STORED < STRIP ? BEHIND : WEIGHTS;
    static constexpr int BARRIERS = STORED < STRIP ? STORE + GROUPS * STORED * ROW : BEHIND;
    static_assert(STORED < STRIP || WEIGHTS + GROUPS * STORED * ROW <= BEHIND, "strips fit there");
    static constexpr int BYTES = BARRIERS + 8 * (STRIPS + 2 * SLOTS);
};

// Whether an output of a strip is padding.
template <int PITCH> __device__ constexpr bool is_padding(int n)
{
    return n % PITCH == PITCH - 1 || n >= STRIP / PITCH * PITCH;
}

// Whether some of eight are.
template <int PITCH> __device__ constexpr bool padded(int eighth)
{
    for (int n = 8 * eighth; n < 8 * eighth + 8; ++n) {
        if (is_padding<PITCH>(n)) {
            return true;
        }
    }
    return false;
}

// Adds what is there in f32.
__device__ __forceinline__ uint4 add_pieces(uint4 piece, uint4 there)
{
    __nv_bfloat162* own = reinterpret_cast<__nv_bfloat162*>(&piece);
    const __nv_bfloat162* other = reinterpret_cast<const __nv_bfloat162*>(&there);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        float2 a = __bfloat1622float2(own[i]);
        float2 b = __bfloat1622float2(other[i]);
        own[i] = __floats2bfloat162_rn(a.x + b.x, a.y + b.y);
    }
    return piece;
}

// Sums over what a thread has of a convolution's result, around a shift, and of the squares: for two
// channels, eight apart.
struct Moments {
    bool wanted;
    float shift[2];
    float sum[2] = {};
    float square[2] = {};

    // `slice` is that of the outputs; `shifts` are read if `wanted`.
    __device__ __forceinline__ Moments(bool wanted, const float* shifts, int slice) : wanted(wanted)
    {
        int channel = slice * SLICE + first_of_thread();
        shift[0] = wanted ? shifts[channel] : 0.0f;
        shift[1] = wanted ? shifts[channel + 8] : 0.0f;
    }

    // The first of its channels in the slice, as wgmma hands them out.
    static __device__ __forceinline__ int first_of_thread()
    {
        return threadIdx.x % GROUP / WARP * 16 + threadIdx.x % WARP / 4;
    }

    __device__ __forceinline__ void add(int half, float value)
    {
        sum[half] += value;
        square[half] += value * value;
    }

    // Adds up those of the four threads that have the same channels.
    __device__ __forceinline__ void add_lanes()
    {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
#pragma unroll
            for (int distance = 1; distance < 4; distance *= 2) {
                sum[half] += __shfl_xor_sync(0xffffffffu, sum[half], distance);
                square[half] += __shfl_xor_sync(0xffffffffu, square[half], distance);
            }
        }
    }
};

// A gradient on its way to memory that completes that of a unit's output: what passes where the output
// was positive, and the sums of it that the gradient of batch norm takes, for the eight channels of a
// thread's pieces.
struct Passing {
    const unsigned char* gates;  // a bit for each value; null if everything passes
    const bf16* images;          // what batch norm normalizes; null if no sums are wanted
    const float* means;          // of the thread's channels: read each time, registers are few
    float sum[8] = {};
    float product[8] = {};

    // `channel` is the first of the group's; `parts` are for the sums, null if none are wanted.
    __device__ __forceinline__ Passing(
        const unsigned char* gates, const bf16* images, const float* means, const float* parts,
        int channel)
        : gates(gates), images(parts ? images : nullptr), means(means + channel + threadIdx.x % 8 * 8)
    {
    }

    // Eight values of a pixel, of which `open` bits are let through; `image` are those normalized.
    __device__ __forceinline__ uint4 pass(uint4 piece, uint4 image, int open)
    {
        __nv_bfloat162* own = reinterpret_cast<__nv_bfloat162*>(&piece);
        const __nv_bfloat162* others = reinterpret_cast<const __nv_bfloat162*>(&image);
        const float2* mean = reinterpret_cast<const float2*>(means);
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            float2 g = __bfloat1622float2(own[i]);
            g.x = open >> 2 * i & 1 ? g.x : 0.0f;
            g.y = open >> (2 * i + 1) & 1 ? g.y : 0.0f;
            own[i] = __floats2bfloat162_rn(g.x, g.y);
            if (images) {
                float2 y = __bfloat1622float2(others[i]);
                sum[2 * i] += g.x;
                sum[2 * i + 1] += g.y;
                product[2 * i] += g.x * (y.x - mean[i].x);
                product[2 * i + 1] += g.y * (y.y - mean[i].y);
            }
        }
        return piece;
    }

    // Adds up the sums of all threads, in `memory` that nobody needs any more, and stores them, (2,
    // channels, parts), as part `part`. A group has the slice `group % SLICES` after the channel
    // `first`.
    template <int GROUPS, int SLICES>
    __device__ __forceinline__ void store(
        unsigned char* memory, float* parts, int channels, int first, int part, int count)
    {
        float* totals = reinterpret_cast<float*>(memory);
        int thread = threadIdx.x;
        if (thread < GROUPS * GROUP) {
#pragma unroll
            for (int i = 0; i < 8; ++i) {
#pragma unroll
                for (int distance = 8; distance < WARP; distance *= 2) {
                    sum[i] += __shfl_xor_sync(0xffffffffu, sum[i], distance);
                    product[i] += __shfl_xor_sync(0xffffffffu, product[i], distance);
                }
                if (thread % WARP < 8) {
                    float* own = totals + thread / WARP * 2 * SLICE + thread % WARP * 8 + i;
                    own[0] = sum[i];
                    own[SLICE] = product[i];
                }
            }
        }
        __syncthreads();
        for (int i = thread; i < SLICES * 2 * SLICE; i += blockDim.x) {
            int slice = i / (2 * SLICE);
            float total = 0.0f;
            for (int warp = 0; warp < GROUPS * GROUP / WARP; ++warp) {
                if (warp / (GROUP / WARP) % SLICES == slice) {
                    total += totals[warp * 2 * SLICE + i % (2 * SLICE)];
                }
            }
            int channel = first + slice * SLICE + i % SLICE;
            parts[(i / SLICE % 2 * channels + channel) * count + part] = total;
        }
    }
};

// Rounds the results of a strip and stores them from `start` on, where its first pixel, and this slice of
// channels, begins; with `accumulate` adds them to what is there, and lets them through. The group has
// `store` for it, which it may have used before if `again`.
template <class S>
__device__ __forceinline__ void store_strip(
    const float (&sums)[EIGHTHS][4], unsigned char* store, bool again, bf16* output, int start,
    int accumulate, Moments& moments, Passing& passing)
{
    int lane = threadIdx.x % WARP;
    int in_group = threadIdx.x % GROUP;
    int group = threadIdx.x / GROUP;
    store += group * S::STORED * ROW;
    // A thread has two outputs, eight apart, of every fourth pair of pixels. They go through shared
    // memory, a pixel's outputs in a row of pieces, swizzled as the hardware does.
    uint32_t put = shared_address(store) + lane % 8 * ROW +
                   ((in_group / WARP * 2 + lane / 8 % 2) ^ lane % 8) * 16;
#pragma unroll
    for (int begin = 0; begin < STRIP; begin += S::STORED) {
        constexpr int ROUNDS = (S::STORED * 8 + GROUP - 1) / GROUP;
        // Where this thread's pieces belong; -1: nowhere.
        int places[ROUNDS];
        uint4 there[ROUNDS];
        uint4 images[ROUNDS];
        int open[ROUNDS];
        auto load = [&](int i) {
            int at = (i * GROUP + in_group) / 8;
            int row = (begin + at) / S::PITCH;
            int column = (begin + at) % S::PITCH;
            bool wanted = at < S::STORED && row < S::ROWS && column < S::PITCH - 1;
            int pixel = row * (S::PITCH - 1) + column;
            places[i] = wanted ? start + pixel * S::OUTPUTS + in_group % 8 * 8 : -1;
            // Else registers would keep what was there before.
            there[i] = images[i] = make_uint4(0, 0, 0, 0);
            open[i] = 0;
            if (accumulate && wanted) {
                there[i] = *reinterpret_cast<const uint4*>(output + places[i]);
            }
            if (passing.gates && wanted) {
                open[i] = passing.gates[places[i] / 8];
            }
            if (passing.images && wanted) {
                images[i] = *reinterpret_cast<const uint4*>(passing.images + places[i]);
            }
        };
        // On their way while results are put into shared memory, unless registers do not suffice.
        constexpr bool EARLY = S::STORED < STRIP;
#pragma unroll
        for (int i = 0; EARLY && i < ROUNDS; ++i) {
            load(i);
        }
        if (again || begin > 0) {
            join_group(group);
        }
#pragma unroll
        for (int i = 0; i < S::STORED / 8; ++i) {
            int eighth = begin / 8 + i;
            if (eighth >= EIGHTHS) {
                continue;
            }
            uint32_t rounded[2];
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                __nv_bfloat162 pair =
                    __floats2bfloat162_rn(sums[eighth][2 * half], sums[eighth][2 * half + 1]);
                rounded[half] = *reinterpret_cast<uint32_t*>(&pair);
                if (!moments.wanted) {
                    continue;
                }
                float2 values = __bfloat1622float2(pair);
                values.x -= moments.shift[half];
                values.y -= moments.shift[half];
                if (padded<S::PITCH>(eighth)) {
                    int n = 8 * eighth + lane % 4 * 2;
                    values.x = is_padding<S::PITCH>(n) ? 0.0f : values.x;
                    values.y = is_padding<S::PITCH>(n + 1) ? 0.0f : values.y;
                }
                moments.add(half, values.x);
                moments.add(half, values.y);
            }
            store_transposed(put + i * 8 * ROW, rounded);
        }
        join_group(group);
#pragma unroll
        for (int i = 0; i < ROUNDS; ++i) {
            if (!EARLY && i % 3 == 0) {
#pragma unroll
                for (int next = 0; next < 3; ++next) {
                    if (i + next < ROUNDS) {
                        load(i + next);
                    }
                }
            }
            if (places[i] < 0) {
                continue;
            }
            int at = (i * GROUP + in_group) / 8;
            uint4 piece = *reinterpret_cast<const uint4*>(
                store + at * ROW + (in_group % 8 ^ at % 8) * 16);
            if (accumulate) {
                piece = add_pieces(piece, there[i]);
            }
            if (passing.gates) {
                piece = passing.pass(piece, images[i], open[i]);
            }
            *reinterpret_cast<uint4*>(output + places[i]) = piece;
        }
    }
}

// Adds up the moments of all threads, in `memory` that nobody needs any more, and stores them as
// those of this block's image.
template <class S>
__device__ __forceinline__ void store_moments(Moments& moments, unsigned char* memory, float* parts)
{
    int group = threadIdx.x / GROUP;
    float* totals = reinterpret_cast<float*>(memory);
    __syncthreads();
    moments.add_lanes();
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        if (threadIdx.x % 4 == 0) {
            int channel = group % S::SLICES * SLICE + Moments::first_of_thread() + 8 * half;
            int at = group / S::SLICES * 2 * S::OUTPUTS + channel;
            totals[at] = moments.sum[half];
            totals[at + S::OUTPUTS] = moments.square[half];
        }
    }
    __syncthreads();
    for (int i = threadIdx.x; i < 2 * S::OUTPUTS; i += blockDim.x) {
        float total = totals[i];
        for (int other = 1; other < S::AT_ONCE; ++other) {
            total += totals[other * 2 * S::OUTPUTS + i];
        }
        parts[i * gridDim.x + blockIdx.x] = total;
    }
}

// The result of a convolution with `weights`, (output, tap, input), of one image by each block; with
// BACK the input's gradient from the output's: the other way round, taps in reverse. It is written
// or, with `accumulate`, added to what is there. With `parts`, (2, channels, images), the sums over
// each image of the results less `shift`, and of their squares, are taken on the way; of a gradient
// those of `Passing`, where `shift` are the means.
template <int CHANNELS, int SIDE, bool BACK>
__device__ __forceinline__ void convolve(
    const CUtensorMap* maps, const CUtensorMap* weights, bf16* output, int accumulate,
    const unsigned char* gates, const bf16* normalized, const float* shift, float* parts)
{
    typedef Shape<CHANNELS, SIDE> S;
    unsigned char* memory = shared_memory();
    uint32_t pixels = shared_address(memory);
    uint32_t strips_there = pixels + S::BARRIERS;
    uint32_t taps_there = strips_there + 8 * S::STRIPS;
    uint32_t slots_free = taps_there + 8 * S::SLOTS;
    int thread = threadIdx.x;
    int group = thread / GROUP;
    int in_group = thread % GROUP;
    int image = blockIdx.x;

    if (thread == 0) {
        for (int i = 0; i < S::STRIPS; ++i) {
            make_barrier(strips_there + 8 * i, 1);
        }
        for (int i = 0; i < S::SLOTS; ++i) {
            make_barrier(taps_there + 8 * i, 1);
            make_barrier(slots_free + 8 * i, S::GROUPS);
        }
        publish_barriers();
    } else if (thread >= WARP && thread < WARP + 8 * S::SLICES) {
        // The padding before the first row: the others have theirs from the row above.
        int i = thread - WARP;
        reinterpret_cast<uint4*>(memory + i / 8 * S::PIXELS)[i % 8] = make_uint4(0, 0, 0, 0);
        publish_writes();
    }
    __syncthreads();

    // The pixels that a strip needs beyond those of the one before: two rows of pixels at a time, each
    // with the padding behind it.
    auto copy_strip = [&](int strip) {
        int first = strip ? S::ROWS / 2 * strip + 1 : 0;
        int last = S::ROWS / 2 * (strip + 1);
        uint32_t barrier = strips_there + 8 * strip;
        announce(barrier, (last - first + 1) * S::SLICES * 2 * S::PITCH * ROW);
        for (int pair = first; pair <= last; ++pair) {
            for (int slice = 0; slice < S::SLICES; ++slice) {
                uint32_t to = pixels + slice * S::PIXELS + (1 + pair * 2 * S::PITCH) * ROW;
                copy_pixels(to, maps, slice * SLICE, 0, 2 * pair - 1, image, barrier);
            }
        }
    };
    auto copy_weights = [&](int tap) {
        int slot = tap % S::SLOTS;
        uint32_t barrier = taps_there + 8 * slot;
        announce(barrier, S::SLICES * S::TAP);
        for (int slice = 0; slice < S::SLICES; ++slice) {
            uint32_t to = pixels + S::WEIGHTS + (slot * S::SLICES + slice) * S::TAP;
            copy_tap(to, weights, slice * SLICE, BACK ? TAPS - 1 - tap : tap, barrier);
        }
    };
    // One thread, of the group that begins last, asks for all copies.
    bool copies = thread == (S::GROUPS - 1) * GROUP;
    if (copies) {
        copy_strip(0);
        for (int tap = 0; tap < S::SLOTS; ++tap) {
            copy_weights(tap);
        }
        for (int strip = 1; strip < S::STRIPS; ++strip) {
            copy_strip(strip);
        }
    }
    __syncwarp();

    int slice = group % S::SLICES;  // of the outputs
    Moments moments(!BACK && parts, shift, slice);
    Passing passing(BACK ? gates : nullptr, normalized, shift, BACK ? parts : nullptr, slice * SLICE);
#pragma unroll 1
    for (int strip = group / S::SLICES; strip < S::STRIPS; strip += S::AT_ONCE) {
        uint32_t start = pixels + strip * S::ROWS * S::PITCH * ROW;
        // Groups that multiply in turns do not store at the same time.
        constexpr bool TURNS = S::STRIPS > S::AT_ONCE;
        if (TURNS && strip > 0) {
            take_turn(group);
        }
        if (strip > 0) {
            await_turn(strips_there + 8 * (strip - 1), 0);
        }
        await_turn(strips_there + 8 * strip, 0);
        float sums[EIGHTHS][4];
#pragma unroll 1
        for (int tap = 0; tap < TAPS; ++tap) {
            int slot = tap % S::SLOTS;
            await_turn(taps_there + 8 * slot, tap / S::SLOTS);
            uint32_t filter = pixels + S::WEIGHTS + slot * S::SLICES * S::TAP;
            uint64_t left = operand(filter + slice * (BACK ? S::TAP : LEFT * ROW));
            uint64_t right = operand(start + (tap / 3 * S::PITCH + tap % 3) * ROW);
            begin_products();
#pragma unroll
            for (int k = 0; k < CHANNELS / DEPTH; ++k) {
                // A row of the weights is an output, with terms of this slice of inputs; for the
                // gradient it is the terms of one output.
                int in_row = k % (SLICE / DEPTH) * DEPTH * 2;
                int left_at = BACK ? k * DEPTH * ROW : k / (SLICE / DEPTH) * S::TAP + in_row;
                int right_at = k / (SLICE / DEPTH) * S::PIXELS + in_row;
                multiply<BACK>(sums, left + (left_at >> 4), right + (right_at >> 4), tap + k > 0);
            }
            end_products();
            if (S::SLOTS < TAPS) {
                await_products<1>();
                int done = tap - 1;
                if (done >= 0 && done + S::SLOTS < TAPS) {
                    uint32_t free = slots_free + 8 * (done % S::SLOTS);
                    if (in_group == 0) {
                        arrive(free);
                    }
                    if (copies) {
                        await_turn(free, done / S::SLOTS);
                        copy_weights(done + S::SLOTS);
                    }
                    __syncwarp();
                }
            }
        }
        if (TURNS && strip + 1 < S::STRIPS) {
            pass_turn((group + 1) % S::GROUPS);
        }
        await_products<0>();

        int at = (image * SIDE + strip * S::ROWS) * SIDE * CHANNELS + slice * SLICE;
        bool again = strip >= S::AT_ONCE;
        if (!TURNS) {
            // All have multiplied: nobody needs the weights any more.
            __syncthreads();
        }
        store_strip<S>(
            sums, memory + S::STORE, again, output, at, accumulate, moments, passing);
    }
    if (!BACK && parts) {
        store_moments<S>(moments, memory + S::WEIGHTS, parts);
    }
    if (BACK && parts) {
        // All have multiplied.
        __syncthreads();
        passing.store<S::GROUPS, S::SLICES>(
            memory + S::WEIGHTS, parts, CHANNELS, 0, image, gridDim.x);
    }
}

// The same of the first layer: 8 channels, three of them the image's, so all taps of two lie in one
// product. Pixels and weights lie in pieces of 16 bytes, without swizzling, eight of them to an
// operand's row; taps are terms of a sum, a distance of their own apart.
struct First {
    static constexpr int SIDE = 32;
    static constexpr int PITCH = SIDE + 1;
    static constexpr int OUTPUTS = 64;
    static constexpr int SLICES = 1;
    static constexpr int ROWS = STRIP / PITCH;
    static constexpr int STRIPS = SIDE / ROWS;
    static constexpr int AT_ONCE = 3;
    static constexpr int STORED = 48;
    static constexpr int END = (SIDE + 2) * PITCH;
    // Beyond the image, the last strip's padding reads on.
    static constexpr int PIXELS = (STRIPS - 1) * ROWS * PITCH + STRIP + 2 * PITCH + 4;
    static constexpr int WEIGHTS = (PIXELS * 16 + 127) / 128 * 128;
    static constexpr int TAP = OUTPUTS * 16;
    static constexpr int STORE = (WEIGHTS + (TAPS + 1) * TAP + REPEAT - 1) / REPEAT * REPEAT;
    static constexpr int BARRIER = STORE + AT_ONCE * STORED * ROW;
    static constexpr int BYTES = BARRIER + 8;
};

__device__ __forceinline__ void convolve_images(
    const CUtensorMap* images, const bf16* weights, bf16* output, const float* shift, float* parts)
{
    typedef First S;
    unsigned char* memory = shared_memory();
    uint32_t pixels = shared_address(memory);
    uint32_t filter = pixels + S::WEIGHTS;
    uint32_t there = pixels + S::BARRIER;
    int thread = threadIdx.x;
    int group = thread / GROUP;
    if (thread == 0) {
        make_barrier(there, 1);
        publish_barriers();
    }
    // Pieces of zeros: behind the image, and for the tenth tap. The weights, (output, tap, input).
    uint4 zeros = make_uint4(0, 0, 0, 0);
    uint4* pieces = reinterpret_cast<uint4*>(memory);
    for (int i = S::END + thread; i < S::PIXELS; i += blockDim.x) {
        pieces[i] = zeros;
    }
    pieces = reinterpret_cast<uint4*>(memory + S::WEIGHTS);
    for (int i = thread; i < (TAPS + 1) * S::OUTPUTS; i += blockDim.x) {
        int tap = i / S::OUTPUTS;
        int from = i % S::OUTPUTS * TAPS + tap;
        pieces[i] = tap < TAPS ? reinterpret_cast<const uint4*>(weights)[from] : zeros;
    }
    publish_writes();
    __syncthreads();
    if (thread == 0) {
        announce(there, S::END * 16);
        copy_pixels(pixels, images, 0, -1, -1, blockIdx.x, there);
    }
    __syncwarp();
    Moments moments(parts != nullptr, shift, 0);
    Passing passing(nullptr, nullptr, nullptr, nullptr, 0);
    await_turn(there, 0);
#pragma unroll 1
    for (int strip = group; strip < S::STRIPS; strip += S::AT_ONCE) {
        float sums[EIGHTHS][4];
        uint32_t start = pixels + strip * S::ROWS * S::PITCH * 16;
        begin_products();
#pragma unroll
        for (int tap = 0; tap < TAPS; tap += 2) {
            // The tenth tap has no weights: any pixels will do.
            int next = tap + 1 < TAPS ? tap + 1 : tap;
            int from = tap / 3 * S::PITCH + tap % 3;
            int step = next / 3 * S::PITCH + next % 3 - from;
            uint64_t left = plain_operand(filter + tap * S::TAP, S::TAP, 128);
            uint64_t right = plain_operand(start + from * 16, step * 16, 128);
            multiply<false>(sums, left, right, tap > 0);
        }
        end_products();
        await_products<0>();
        int at = (blockIdx.x * S::SIDE + strip * S::ROWS) * S::SIDE * S::OUTPUTS;
        bool again = strip >= S::AT_ONCE;
        store_strip<S>(sums, memory + S::STORE, again, output, at, 0, moments, passing);
    }
    if (parts) {
        store_moments<S>(moments, memory, parts);
    }
}

// Rounds four sums of a weights' gradient and stores them where wgmma has put them: inputs and outputs
// are those of a thread from `target` on, where outputs are `pitch` apart.
__device__ __forceinline__ void store_weights(float4 sum, int thread, bf16* target, int pitch)
{
    int output = thread % GROUP / WARP * 16 + thread % WARP / 4;
    bf16* to = target + output * pitch + thread % 4 * 2;
    *reinterpret_cast<__nv_bfloat162*>(to) = __floats2bfloat162_rn(sum.x, sum.y);
    *reinterpret_cast<__nv_bfloat162*>(to + 8 * pitch) = __floats2bfloat162_rn(sum.z, sum.w);
}

// How the weights' gradient is taken apart: a block sums over four bands, of one image or of four,
// for 64 outputs and 64 inputs; a group takes three of the taps. Two blocks add up their sums before
// these go to memory.
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

// Adds up a weights' gradient with a block of the cluster that has other terms of the same sums: each
// takes half of them, `half` being which. `memory` is what nobody needs any more.
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
            copy_pixels(stage, maps, inputs, -1, top - 1, image, barrier);
            copy_pixels(stage + S::INPUT, gradients, outputs, 0, top, image, barrier);
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

#include "hopper_tile.cuh"

// The first layer's: a block for each image, (images, 3, 384) times four sums. A group takes the taps
// of one row of the kernel, whose inputs lie one after the other.
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
                copy_pixels(pixels, images, 0, -1, -1, blockIdx.x, barrier);
            }
            copy_pixels(gradient + band * BAND, gradients, 0, 0, band * S::ROWS, blockIdx.x, barrier);
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

// Four threads for each four of the sums of `weigh`: added up over `blocks` pairs of blocks and stored
// as gradients, (output, tap, input). A block is (64, 4).
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

#define KERNELS(CHANNELS, SIDE)                                                                   \
    extern "C" __global__ void                                                                    \
    __launch_bounds__(Shape<CHANNELS, SIDE>::GROUPS * GROUP, 1) convolve_##CHANNELS(              \
        const __grid_constant__ CUtensorMap maps, const __grid_constant__ CUtensorMap weights,    \
        bf16* output, const float* shift, float* parts)                                           \
    {                                                                                             \
        convolve<CHANNELS, SIDE, false>(                                                          \
            &maps, &weights, output, 0, nullptr, nullptr, shift, parts);                          \
    }                                                                                             \
    extern "C" __global__ void                                                                    \
    __launch_bounds__(Shape<CHANNELS, SIDE>::GROUPS * GROUP, 1) convolve_back_##CHANNELS(         \
        const __grid_constant__ CUtensorMap maps, const __grid_constant__ CUtensorMap weights,    \
        bf16* output, int accumulate, const unsigned char* gates, const bf16* images,             \
        const float* means, float* parts)                                                         \
    {                                                                                             \
        convolve<CHANNELS, SIDE, true>(                                                           \
            &maps, &weights, output, accumulate, gates, images, means, parts);                    \
    }                                                                                             \
    extern "C" __global__ void __cluster_dims__(2, 1, 1) __launch_bounds__(3 * GROUP + WARP, 1)   \
    weigh_##CHANNELS(                                                                             \
        const __grid_constant__ CUtensorMap maps, const __grid_constant__ CUtensorMap gradients,  \
        float* partial)                                                                           \
    {                                                                                             \
        weigh<CHANNELS, SIDE>(&maps, &gradients, partial);                                        \
    }                                                                                             \
    extern "C" __global__ void __launch_bounds__(256) add_weights_##CHANNELS(                     \
        const float* partial, int blocks, bf16* target)                                           \
    {                                                                                             \
        add_weights<CHANNELS, false>(partial, blocks, target);                                           \
    }

KERNELS(64, 32)
KERNELS(128, 16)

#define TILE_KERNELS(NAME, INPUTS, OUTPUTS, SIDE, STRIDE)                                         \
    typedef TileShape<INPUTS, OUTPUTS, SIDE, STRIDE, false> Tile##NAME;                           \
    extern "C" __global__ void __cluster_dims__(2, 1, 1) __launch_bounds__(Tile##NAME::THREADS, 1) \
    convolve_##NAME(                                                                              \
        const __grid_constant__ CUtensorMap maps, const __grid_constant__ CUtensorMap evens,      \
        const __grid_constant__ CUtensorMap weights, bf16* output, int images,                    \
        const float* shift, float* parts)                                                         \
    {                                                                                             \
        convolve_tile<Tile##NAME>(                                                                \
            &maps, &evens, &weights, output, images, 0, nullptr, nullptr, shift, parts);          \
    }                                                                                             \
    typedef TileBand<INPUTS, OUTPUTS, SIDE, STRIDE> Band##NAME;                                   \
    extern "C" __global__ void __cluster_dims__(2, 1, 1) __launch_bounds__(Band##NAME::THREADS, 1) \
    weigh_##NAME(                                                                                 \
        const __grid_constant__ CUtensorMap maps, const __grid_constant__ CUtensorMap gradients,  \
        float* partial, bf16* target)                                                             \
    {                                                                                             \
        weigh_tiles<Band##NAME>(&maps, &gradients, partial, target);                              \
    }                                                                                             \
    extern "C" __global__ void __launch_bounds__(256) add_weights_##NAME(                         \
        const float* partial, int blocks, bf16* target)                                           \
    {                                                                                             \
        add_weights<INPUTS, true>(partial, blocks, target);                                       \
    }

TILE_KERNELS(256, 256, 256, 8, 1)
TILE_KERNELS(512, 512, 512, 4, 1)
TILE_KERNELS(down_128, 64, 128, 16, 2)
TILE_KERNELS(down_256, 128, 256, 8, 2)
TILE_KERNELS(down_512, 256, 512, 4, 2)

#define TILE_BACK_KERNEL(CHANNELS, SIDE)                                                          \
    typedef TileShape<CHANNELS, CHANNELS, SIDE, 1, true> TileBack##CHANNELS;                      \
    extern "C" __global__ void __cluster_dims__(2, 1, 1)                                          \
    __launch_bounds__(TileBack##CHANNELS::THREADS, 1) convolve_back_##CHANNELS(                   \
        const __grid_constant__ CUtensorMap maps, const __grid_constant__ CUtensorMap weights,    \
        bf16* output, int images, int accumulate, const unsigned char* gates,                     \
        const bf16* normalized, const float* means, float* parts)                                 \
    {                                                                                             \
        convolve_tile<TileBack##CHANNELS>(                                                        \
            &maps, nullptr, &weights, output, images, accumulate, gates, normalized, means,       \
            parts);                                                                               \
    }

TILE_BACK_KERNEL(256, 8)
TILE_BACK_KERNEL(512, 4)

#define UP_KERNEL(INPUTS, OUTPUTS, SIDE)                                                          \
    typedef UpShape<INPUTS, OUTPUTS, SIDE> Up##OUTPUTS;                                           \
    extern "C" __global__ void __cluster_dims__(2, 1, 1)                                          \
    __launch_bounds__(Up##OUTPUTS::THREADS, Up##OUTPUTS::BLOCKS) convolve_back_down_##OUTPUTS(    \
        const __grid_constant__ CUtensorMap maps, const __grid_constant__ CUtensorMap weights,    \
        bf16* output, int images, int accumulate)                                                 \
    {                                                                                             \
        convolve_up<Up##OUTPUTS>(&maps, &weights, output, images, accumulate);                    \
    }

UP_KERNEL(64, 128, 16)
UP_KERNEL(128, 256, 8)
UP_KERNEL(256, 512, 4)

#define SAME(bytes, as) static_assert(bytes == as, "shared memory as in cuda/hopper.rs")
SAME((Shape<64, 32>::BYTES), 227536);
SAME((Shape<128, 16>::BYTES), 211024);
SAME(Band<32>::BYTES, 163872);
SAME(Band<16>::BYTES, 153632);
SAME(First::BYTES, 47112);
SAME(FirstBand::BYTES, 153280);
SAME(Tile256::BYTES, 208944);
SAME(TileBack256::BYTES, 208944);
SAME(Band256::BYTES, 155680);
SAME(Tile512::BYTES, 221232);
SAME(TileBack512::BYTES, 221232);
SAME(Band512::BYTES, 180256);
SAME(Tiledown_128::BYTES, 167968);
SAME(Up128::BYTES, 94240);
SAME(Banddown_128::BYTES, 190512);
SAME(Tiledown_256::BYTES, 167968);
SAME(Up256::BYTES, 219184);
SAME(Banddown_256::BYTES, 181296);
SAME(Tiledown_512::BYTES, 172064);
SAME(Up512::BYTES, 225328);
SAME(Banddown_512::BYTES, 190512);

extern "C" __global__ void __launch_bounds__(3 * GROUP, 1) convolve_first(
    const __grid_constant__ CUtensorMap images, const bf16* weights, bf16* output, const float* shift,
    float* parts)
{
    convolve_images(&images, weights, output, shift, parts);
}

extern "C" __global__ void __launch_bounds__(3 * GROUP, 1) weigh_first(
    const __grid_constant__ CUtensorMap images, const __grid_constant__ CUtensorMap gradients,
    float* partial)
{
    weigh_images(&images, &gradients, partial);
}

extern "C" __global__ void __launch_bounds__(256) add_weights_first(
    const float* partial, int blocks, bf16* target)
{
    add_weights<8, false>(partial, blocks, target);
}
