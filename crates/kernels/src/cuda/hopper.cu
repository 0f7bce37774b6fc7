// Convolutions on a Hopper card (sm_90a), bf16: those of a ResNet-18 of width 64. Here are
// 64 channels on 32x32 images and 128 on 16x16, of stride 1, and the first layer; the others are in
// hopper_tile.cuh. All kernels are at the end. See cuda/hopper.rs for the host's side.
//
// A block convolves one image or some rows of it, which lie in shared memory: a pixel's channels in rows
// of 128 bytes, one slice of 64 channels after the other, one pixel of padding behind each row of
// pixels, which is also the padding before the next one. So all that a tap of the kernel reads, for
// any run of outputs, is a run of these rows, and an operand of wgmma wherever it begins. Outputs
// are computed for the padding, too, and left out.
//
// The hardware copies (TMA), fills padding with zeros and swizzles the 16-byte pieces of a row by
// the row's address; wgmma and what is stored here count on that.

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

// Pieces that a thread combines with others at once.
#define PIECES 5

// Half of a thread's sums of a weights' gradient, in fours; all of a group's are three taps of 64
// outputs and 64 inputs.
#define HALF 12

// Bytes of so many rows, up to where the next tile may begin.
constexpr int tile(int rows) { return (rows * ROW + REPEAT - 1) / REPEAT * REPEAT; }

// Images of `SIDE` x `SIDE` pixels with `CHANNELS` channels. A block has two groups, for strips of one
// of them and 64 outputs of each.
template <int CHANNELS, int SIDE> struct Shape {
    static constexpr int PITCH = SIDE + 1;
    static constexpr int OUTPUTS = CHANNELS;
    static constexpr int SLICES = CHANNELS / SLICE;
    static constexpr int ROWS = STRIP / PITCH;  // of pixels in a strip
    static constexpr int GROUPS = 2;
    static constexpr int STRIPS = GROUPS / SLICES;
    static constexpr int BAND = STRIPS * ROWS;  // rows of a block
    static constexpr int BANDS = SIDE / BAND;
    // At once on a multiprocessor. While one copies or stores the other one multiplies.
    static constexpr int BLOCKS = 2;
    static constexpr int PIXELS = tile((STRIPS - 1) * ROWS * PITCH + STRIP + 2 * PITCH + 2);
    // Taps of the weights that are there at once, in turns.
    static constexpr int SLOTS = SLICES == 1 ? 5 : 2;
    static constexpr int TAP = CHANNELS * ROW;  // bytes of a slice of one
    // Places in shared memory. Results lie where the weights were.
    static constexpr int WEIGHTS = SLICES * PIXELS;
    static constexpr int BARRIERS = WEIGHTS + SLOTS * SLICES * TAP;
    static_assert(WEIGHTS + GROUPS * STRIP * ROW <= BARRIERS, "strips fit there");
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

// Sums over what a thread has of a convolution's result, around a shift, and of the squares: for
// two channels, eight apart.
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

// How a gradient is let through on its way to memory, by host: see `Passing`.
struct Through {
    const unsigned char* gates;
    const bf16* images;
    const float* means;
    const float* scales;
    float* parts;
};

// How a result is normalized on its way to memory, with fixed statistics, by host: see
// `Normalizing`.
struct Normal {
    const float* coefficients;
    const bf16* residual;
    const float* residual_coefficients;
    unsigned char* gates;
};

// What a convolution does with its results.
enum Kind { FORWARD, FIXED, BACK };

// A result on its way to memory that batch norm with fixed statistics, the residual sum and the
// ReLU follow: it is normalized for the two channels of a thread, as `Moments`, and then, for the
// eight of its pieces, the residual is added. `channels` are those of a row of coefficients: means,
// scales, shifts.
struct Normalizing {
    const bf16* residual;         // null if there is none
    const float* of_residual;     // what normalizes that, from the pieces' channels on; null if it is ready
    unsigned char* gates;         // a bit for each value, where the output is positive; null: nothing of all
    int channels;
    float mean[2], scale[2], shift[2];

    __device__ __forceinline__ Normalizing() : gates(nullptr) {}
    __device__ __forceinline__ Normalizing(const Normal& normal, int channels, int slice)
        : residual(normal.residual), gates(normal.gates), channels(channels)
    {
        int piece = slice * SLICE + threadIdx.x % 8 * 8;
        of_residual = normal.residual_coefficients ? normal.residual_coefficients + piece : nullptr;
        for (int half = 0; half < 2; ++half) {
            int channel = slice * SLICE + Moments::first_of_thread() + 8 * half;
            mean[half] = normal.coefficients[channel];
            scale[half] = normal.coefficients[channels + channel];
            shift[half] = normal.coefficients[2 * channels + channel];
        }
    }

    // Two pixels of one of the thread's channels; behind the ReLU if there is no residual.
    __device__ __forceinline__ float2 of(float x, float y, int half) const
    {
        x = fmaf(x - mean[half], scale[half], shift[half]);
        y = fmaf(y - mean[half], scale[half], shift[half]);
        return residual ? make_float2(x, y) : make_float2(fmaxf(x, 0.0f), fmaxf(y, 0.0f));
    }

    // Eight channels of the pixel at `place`, with the residual there.
    __device__ __forceinline__ uint4 finish(uint4 piece, uint4 there, int place) const
    {
        __nv_bfloat162* own = reinterpret_cast<__nv_bfloat162*>(&piece);
        const __nv_bfloat162* others = reinterpret_cast<const __nv_bfloat162*>(&there);
        int bits = 0;
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            float2 value = __bfloat1622float2(own[i]);
            if (residual) {
                float2 other = __bfloat1622float2(others[i]);
                if (of_residual) {
                    const float* at = of_residual + 2 * i;
                    other.x = fmaf(other.x - at[0], at[channels], at[2 * channels]);
                    other.y = fmaf(other.y - at[1], at[channels + 1], at[2 * channels + 1]);
                }
                value.x = fmaxf(value.x + other.x, 0.0f);
                value.y = fmaxf(value.y + other.y, 0.0f);
                own[i] = __floats2bfloat162_rn(value.x, value.y);
                value = __bfloat1622float2(own[i]);
            }
            bits |= (value.x > 0.0f) << 2 * i | (value.y > 0.0f) << (2 * i + 1);
        }
        gates[place / 8] = (unsigned char)bits;
        return piece;
    }
};

// A gradient on its way to memory that completes that of a unit's output: what passes where the
// output was positive, and the sums of it that the gradient of batch norm takes, for the eight
// channels of a thread's pieces.
struct Passing {
    const unsigned char* gates;  // a bit for each value; null if everything passes
    const bf16* images;          // what batch norm normalizes; null if no sums are wanted
    const float* means;          // of the thread's channels: read each time, registers are few
    const float* scales;         // by which what passes is multiplied; null if by none
    float sum[8] = {};
    float product[8] = {};

    // A gradient is left as it is, or let `through`; `channel` is the first of the group's.
    __device__ __forceinline__ Passing() : gates(nullptr), images(nullptr), scales(nullptr) {}
    __device__ __forceinline__ Passing(const Through& through, int channel)
        : gates(through.gates), images(through.parts ? through.images : nullptr),
          means(through.means + channel + threadIdx.x % 8 * 8),
          scales(through.scales ? through.scales + channel + threadIdx.x % 8 * 8 : nullptr)
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
            if (scales) {
                g.x *= scales[2 * i];
                g.y *= scales[2 * i + 1];
            }
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

// What eight values of a pixel are combined with on their way to memory.
struct Beside {
    uint4 there;  // what they are added to
    uint4 other;  // what batch norm normalizes, or a residual
    int open;     // bits of what passes
};

// Reads that for the piece at `place`; nothing for one below 0.
__device__ __forceinline__ Beside read_beside(
    const bf16* output, int place, int accumulate, const Passing& passing,
    const Normalizing& normalizing)
{
    // Else registers would keep what was there before.
    Beside beside;
    beside.there = beside.other = make_uint4(0, 0, 0, 0);
    beside.open = 0;
    if (place < 0) {
        return beside;
    }
    if (accumulate) {
        beside.there = *reinterpret_cast<const uint4*>(output + place);
    }
    if (normalizing.gates && normalizing.residual) {
        beside.other = *reinterpret_cast<const uint4*>(normalizing.residual + place);
    }
    if (passing.gates) {
        beside.open = passing.gates[place / 8];
    }
    if (passing.images) {
        beside.other = *reinterpret_cast<const uint4*>(passing.images + place);
    }
    return beside;
}

// Combines a piece with it, and stores it.
__device__ __forceinline__ void store_piece(
    bf16* output, int place, uint4 piece, const Beside& beside, int accumulate, Passing& passing,
    const Normalizing& normalizing)
{
    if (accumulate) {
        piece = add_pieces(piece, beside.there);
    }
    if (passing.gates) {
        piece = passing.pass(piece, beside.other, beside.open);
    }
    if (normalizing.gates) {
        piece = normalizing.finish(piece, beside.other, place);
    }
    *reinterpret_cast<uint4*>(output + place) = piece;
}

// Rounds the results of a strip and stores them from `start` on, where its first pixel, and this
// slice of channels, begins; with `accumulate` adds them to what is there, and lets them through;
// or normalizes them. The group has its part of `store` for it, which it has used before if `again`.
template <class S>
__device__ __forceinline__ void store_strip(
    const float (&sums)[EIGHTHS][4], unsigned char* store, bool again, bf16* output, int start,
    int accumulate, Moments& moments, Passing& passing, const Normalizing& normalizing)
{
    int lane = threadIdx.x % WARP;
    int in_group = threadIdx.x % GROUP;
    int group = threadIdx.x / GROUP;
    store += group * STRIP * ROW;
    // A thread has two outputs, eight apart, of every fourth pair of pixels. They go through shared
    // memory, a pixel's outputs in a row of pieces, swizzled as the hardware does.
    uint32_t put = shared_address(store) + lane % 8 * ROW +
                   ((in_group / WARP * 2 + lane / 8 % 2) ^ lane % 8) * 16;
    if (again) {
        join_group(group);
    }
#pragma unroll
    for (int eighth = 0; eighth < EIGHTHS; ++eighth) {
        uint32_t rounded[2];
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            float2 result = make_float2(sums[eighth][2 * half], sums[eighth][2 * half + 1]);
            if (normalizing.gates) {
                result = normalizing.of(result.x, result.y, half);
            }
            __nv_bfloat162 pair = __floats2bfloat162_rn(result.x, result.y);
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
        store_transposed(put + eighth * 8 * ROW, rounded);
    }
    join_group(group);
    // What is beside several pieces is on its way at once: registers that had sums are free now.
    constexpr int ROUNDS = (STRIP * 8 + GROUP - 1) / GROUP;
#pragma unroll
    for (int begin = 0; begin < ROUNDS; begin += PIECES) {
        int places[PIECES];  // where this thread's pieces belong; -1: nowhere
        Beside beside[PIECES];
#pragma unroll
        for (int i = 0; i < PIECES; ++i) {
            int at = ((begin + i) * GROUP + in_group) / 8;
            int row = at / S::PITCH;
            int column = at % S::PITCH;
            bool wanted = row < S::ROWS && column < S::PITCH - 1;
            int pixel = row * (S::PITCH - 1) + column;
            places[i] = wanted ? start + pixel * S::OUTPUTS + in_group % 8 * 8 : -1;
            beside[i] = read_beside(output, places[i], accumulate, passing, normalizing);
        }
#pragma unroll
        for (int i = 0; i < PIECES; ++i) {
            if (places[i] < 0) {
                continue;
            }
            int at = ((begin + i) * GROUP + in_group) / 8;
            uint4 piece = *reinterpret_cast<const uint4*>(
                store + at * ROW + (in_group % 8 ^ at % 8) * 16);
            store_piece(output, places[i], piece, beside[i], accumulate, passing, normalizing);
        }
    }
    __syncwarp();
}

// Adds up the moments of all threads, in `memory` that nobody needs any more, and stores them as
// those of this block.
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
        for (int other = 1; other < S::GROUPS / S::SLICES; ++other) {
            total += totals[other * 2 * S::OUTPUTS + i];
        }
        parts[i * gridDim.x + blockIdx.x] = total;
    }
}

// The result of a convolution with `weights`, (output, tap, input), of one band of an image by each
// block; with BACK the input's gradient from the output's: the other way round, taps in reverse.
// With FORWARD the sums over each band of the results less `shift`, and of their squares, are taken
// on the way if there are `parts`, (2, channels, blocks); with FIXED it is normalized; with BACK it is
// written or, with `accumulate`, added to what is there, and let through if that has gates.
template <int CHANNELS, int SIDE, Kind KIND>
__device__ __forceinline__ void convolve(
    const CUtensorMap* maps, const CUtensorMap* weights, bf16* output, const float* shift,
    float* parts, const Normal& normal, int accumulate, const Through& through)
{
    constexpr bool BACK = KIND == Kind::BACK;
    typedef Shape<CHANNELS, SIDE> S;
    unsigned char* memory = shared_memory();
    uint32_t pixels = shared_address(memory);
    uint32_t strips_there = pixels + S::BARRIERS;
    uint32_t taps_there = strips_there + 8 * S::STRIPS;
    uint32_t slots_free = taps_there + 8 * S::SLOTS;
    int thread = threadIdx.x;
    int group = thread / GROUP;
    int in_group = thread % GROUP;
    int image = blockIdx.x / S::BANDS;
    int top = blockIdx.x % S::BANDS * S::BAND;

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

    // The pixels that a strip needs beyond those of the one before: two rows of pixels at a time,
    // each with the padding behind it.
    auto copy_strip = [&](int strip) {
        int first = strip ? S::ROWS / 2 * strip + 1 : 0;
        int last = S::ROWS / 2 * (strip + 1);
        uint32_t barrier = strips_there + 8 * strip;
        announce(barrier, (last - first + 1) * S::SLICES * 2 * S::PITCH * ROW);
        for (int pair = first; pair <= last; ++pair) {
            for (int slice = 0; slice < S::SLICES; ++slice) {
                uint32_t to = pixels + slice * S::PIXELS + (1 + pair * 2 * S::PITCH) * ROW;
                copy_box(to, maps, slice * SLICE, 0, top + 2 * pair - 1, image, barrier);
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

    int strip = group / S::SLICES;
    int slice = group % S::SLICES;  // of the outputs
    Moments moments(KIND == FORWARD && parts, shift, slice);
    Passing passing;
    Normalizing normalizing;
    if (BACK) {
        passing = Passing(through, slice * SLICE);
    }
    if (KIND == FIXED) {
        normalizing = Normalizing(normal, CHANNELS, slice);
    }
    uint32_t start = pixels + strip * S::ROWS * S::PITCH * ROW;
    for (int needed = 0; needed <= strip; ++needed) {
        await_turn(strips_there + 8 * needed, 0);
    }
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
    await_products<0>();
    // All have multiplied: nobody needs the weights any more.
    __syncthreads();
    int at = (image * SIDE + top + strip * S::ROWS) * SIDE * CHANNELS + slice * SLICE;
    store_strip<S>(
        sums, memory + S::WEIGHTS, false, output, at, accumulate, moments, passing, normalizing);
    if (KIND == FORWARD && parts) {
        store_moments<S>(moments, memory + S::WEIGHTS, parts);
    }
    if (BACK && passing.images) {
        // All have stored their strips, where sums go now.
        __syncthreads();
        passing.store<S::GROUPS, S::SLICES>(
            memory + S::WEIGHTS, through.parts, CHANNELS, 0, blockIdx.x, gridDim.x);
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
    static constexpr int GROUPS = 3;
    static constexpr int END = (SIDE + 2) * PITCH;
    // Beyond the image, the last strip's padding reads on.
    static constexpr int PIXELS = (STRIPS - 1) * ROWS * PITCH + STRIP + 2 * PITCH + 4;
    static constexpr int WEIGHTS = (PIXELS * 16 + 127) / 128 * 128;
    static constexpr int TAP = OUTPUTS * 16;
    static constexpr int STORE = (WEIGHTS + (TAPS + 1) * TAP + REPEAT - 1) / REPEAT * REPEAT;
    static constexpr int BARRIER = STORE + GROUPS * STRIP * ROW;
    static constexpr int BYTES = BARRIER + 8;
};

template <Kind KIND>
__device__ __forceinline__ void convolve_images(
    const CUtensorMap* images, const bf16* weights, bf16* output, const float* shift, float* parts,
    const Normal& normal)
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
        copy_box(pixels, images, 0, -1, -1, blockIdx.x, there);
    }
    __syncwarp();
    Moments moments(parts != nullptr, shift, 0);
    Passing passing;
    Normalizing normalizing;
    if (KIND == FIXED) {
        normalizing = Normalizing(normal, S::OUTPUTS, 0);
    }
    await_turn(there, 0);
#pragma unroll 1
    for (int strip = group; strip < S::STRIPS; strip += S::GROUPS) {
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
        bool again = strip >= S::GROUPS;
        store_strip<S>(
            sums, memory + S::STORE, again, output, at, 0, moments, passing, normalizing);
    }
    if (parts) {
        store_moments<S>(moments, memory, parts);
    }
}

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

#include "hopper_tile.cuh"

#define KERNELS(CHANNELS, SIDE)                                                                   \
    typedef Shape<CHANNELS, SIDE> Shape##CHANNELS;                                                \
    extern "C" __global__ void __launch_bounds__(Shape##CHANNELS::GROUPS * GROUP, Shape##CHANNELS::BLOCKS) \
    convolve_##CHANNELS(                                                                          \
        const __grid_constant__ CUtensorMap maps, const __grid_constant__ CUtensorMap weights,    \
        bf16* output, const float* shift, float* parts)                                           \
    {                                                                                             \
        convolve<CHANNELS, SIDE, FORWARD>(&maps, &weights, output, shift, parts, {}, 0, {});      \
    }                                                                                             \
    extern "C" __global__ void __launch_bounds__(Shape##CHANNELS::GROUPS * GROUP, Shape##CHANNELS::BLOCKS) \
    convolve_fixed_##CHANNELS(                                                                    \
        const __grid_constant__ CUtensorMap maps, const __grid_constant__ CUtensorMap weights,    \
        bf16* output, Normal normal)                                                              \
    {                                                                                             \
        convolve<CHANNELS, SIDE, FIXED>(                                                          \
            &maps, &weights, output, nullptr, nullptr, normal, 0, {});                            \
    }                                                                                             \
    extern "C" __global__ void __launch_bounds__(Shape##CHANNELS::GROUPS * GROUP, Shape##CHANNELS::BLOCKS) \
    convolve_back_##CHANNELS(                                                                     \
        const __grid_constant__ CUtensorMap maps, const __grid_constant__ CUtensorMap weights,    \
        bf16* output, int accumulate, Through through)                                            \
    {                                                                                             \
        convolve<CHANNELS, SIDE, BACK>(                                                           \
            &maps, &weights, output, nullptr, nullptr, {}, accumulate, through);                  \
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

#define TILE_KERNELS(NAME, INPUTS, OUTPUTS, SIDE, STRIDE, KERNEL)                                 \
    typedef TileShape<INPUTS, OUTPUTS, SIDE, STRIDE, false, KERNEL> Tile##NAME;                   \
    extern "C" __global__ void __cluster_dims__(2, 1, 1) __launch_bounds__(Tile##NAME::THREADS, 1) \
    convolve_##NAME(                                                                              \
        const __grid_constant__ CUtensorMap maps, const __grid_constant__ CUtensorMap evens,      \
        const __grid_constant__ CUtensorMap weights, bf16* output, int images,                    \
        const float* shift, float* parts)                                                         \
    {                                                                                             \
        convolve_tile<Tile##NAME, FORWARD>(                                                       \
            &maps, &evens, &weights, output, images, shift, parts, {}, 0, {});                    \
    }                                                                                             \
    extern "C" __global__ void __cluster_dims__(2, 1, 1) __launch_bounds__(Tile##NAME::THREADS, 1) \
    convolve_fixed_##NAME(                                                                        \
        const __grid_constant__ CUtensorMap maps, const __grid_constant__ CUtensorMap evens,      \
        const __grid_constant__ CUtensorMap weights, bf16* output, int images, Normal normal)     \
    {                                                                                             \
        convolve_tile<Tile##NAME, FIXED>(                                                         \
            &maps, &evens, &weights, output, images, nullptr, nullptr, normal, 0, {});            \
    }

TILE_KERNELS(256, 256, 256, 8, 1, 3)
TILE_KERNELS(512, 512, 512, 4, 1, 3)
TILE_KERNELS(down_128, 64, 128, 16, 2, 3)
TILE_KERNELS(down_256, 128, 256, 8, 2, 3)
TILE_KERNELS(down_512, 256, 512, 4, 2, 3)
TILE_KERNELS(short_128, 64, 128, 16, 2, 1)
TILE_KERNELS(short_256, 128, 256, 8, 2, 1)
TILE_KERNELS(short_512, 256, 512, 4, 2, 1)

#define BAND_KERNELS(NAME, INPUTS, OUTPUTS, SIDE, STRIDE)                                         \
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

BAND_KERNELS(256, 256, 256, 8, 1)
BAND_KERNELS(512, 512, 512, 4, 1)
BAND_KERNELS(down_128, 64, 128, 16, 2)
BAND_KERNELS(down_256, 128, 256, 8, 2)
BAND_KERNELS(down_512, 256, 512, 4, 2)

#define TILE_BACK_KERNEL(CHANNELS, SIDE)                                                          \
    typedef TileShape<CHANNELS, CHANNELS, SIDE, 1, true> TileBack##CHANNELS;                      \
    extern "C" __global__ void __cluster_dims__(2, 1, 1)                                          \
    __launch_bounds__(TileBack##CHANNELS::THREADS, 1) convolve_back_##CHANNELS(                   \
        const __grid_constant__ CUtensorMap maps, const __grid_constant__ CUtensorMap weights,    \
        bf16* output, int images, int accumulate, Through through)                                \
    {                                                                                             \
        convolve_tile<TileBack##CHANNELS, BACK>(                                                  \
            &maps, nullptr, &weights, output, images, nullptr, nullptr, {}, accumulate, through); \
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

#define SHORTCUT_BACK_KERNEL(INPUTS, OUTPUTS, SIDE)                                               \
    typedef TileShape<INPUTS, OUTPUTS, SIDE, 2, true, 1> ShortcutBack##OUTPUTS;                   \
    extern "C" __global__ void __cluster_dims__(2, 1, 1)                                          \
    __launch_bounds__(ShortcutBack##OUTPUTS::THREADS, 1) convolve_back_short_##OUTPUTS(           \
        const __grid_constant__ CUtensorMap maps, const __grid_constant__ CUtensorMap weights,    \
        bf16* output, int images, int accumulate)                                                 \
    {                                                                                             \
        convolve_tile<ShortcutBack##OUTPUTS, BACK>(                                               \
            &maps, nullptr, &weights, output, images, nullptr, nullptr, {}, accumulate, {});      \
    }

SHORTCUT_BACK_KERNEL(64, 128, 16)
SHORTCUT_BACK_KERNEL(128, 256, 8)
SHORTCUT_BACK_KERNEL(256, 512, 4)

#define SAME(bytes, as) static_assert(bytes == as, "shared memory as in cuda/hopper.rs")
SAME((Shape<64, 32>::BYTES), 84064);
SAME((Shape<128, 16>::BYTES), 110632);
SAME(Band<32>::BYTES, 163872);
SAME(Band<16>::BYTES, 153632);
SAME(First::BYTES, 80904);
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
SAME(Tileshort_128::BYTES, 98352);
SAME(ShortcutBack128::BYTES, 73776);
SAME(Tileshort_256::BYTES, 98352);
SAME(ShortcutBack256::BYTES, 98352);
SAME(Tileshort_512::BYTES, 98352);
SAME(ShortcutBack512::BYTES, 98352);

extern "C" __global__ void __launch_bounds__(3 * GROUP, 1) convolve_first(
    const __grid_constant__ CUtensorMap images, const bf16* weights, bf16* output, const float* shift,
    float* parts)
{
    convolve_images<FORWARD>(&images, weights, output, shift, parts, {});
}

extern "C" __global__ void __launch_bounds__(3 * GROUP, 1) convolve_fixed_first(
    const __grid_constant__ CUtensorMap images, const bf16* weights, bf16* output, Normal normal)
{
    convolve_images<FIXED>(&images, weights, output, nullptr, nullptr, normal);
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
