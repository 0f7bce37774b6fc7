// What the kernels use of CUDA, for a host compiler: one thread of the device at a time.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

using std::fmax;
using std::max;
using std::min;

#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __shared__ static

struct Index {
    unsigned x, y, z;
};

struct alignas(16) float4 {
    float x, y, z, w;
};

struct alignas(16) uint4 {
    uint32_t x, y, z, w;
};

// Loads and stores that say what caches are to make of them.
inline uint4 __ldcs(const uint4* at) { return *at; }
inline void __stcs(uint4* at, uint4 value) { *at = value; }

extern Index blockIdx, threadIdx, blockDim, gridDim;

// Waits for the other threads of the block.
void __syncthreads();
// What the thread `distance` lanes further on passes, in a block of one warp.
float __shfl_down_sync(unsigned mask, float value, int distance);
double __shfl_down_sync(unsigned mask, double value, int distance);

struct __nv_bfloat16 {
    uint16_t bits;
};

inline float __bfloat162float(__nv_bfloat16 value)
{
    uint32_t bits = (uint32_t)value.bits << 16;
    float result;
    memcpy(&result, &bits, sizeof result);
    return result;
}

inline __nv_bfloat16 __float2bfloat16_rn(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    if (value != value) {
        return {(uint16_t)(bits >> 16 | 0x40)};
    }
    return {(uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
}
