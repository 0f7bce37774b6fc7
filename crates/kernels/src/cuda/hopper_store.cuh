// How a convolution's results go to memory: rounded, through shared memory, without those of the
// padding; on the way their moments are summed for batch norm, or they are normalized with fixed
// statistics, or a gradient is added to what is there and let through.

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
