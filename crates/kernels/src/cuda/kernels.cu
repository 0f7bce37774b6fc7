// The kernels of this crate, compiled once for each type of values (see build.rs): MESA_VALUE is
// float or __nv_bfloat16. Sums, statistics, weights of the head and losses are f32 in both.
//
// Every kernel is one loop over what its thread is responsible for. Nothing uses atomics, so a
// result does not depend on the order in which blocks run. The host (cuda/*.rs) has checked the
// lengths of all buffers, and that every index fits into an int.

#include <cuda_bf16.h>

typedef MESA_VALUE value;

__device__ __forceinline__ float to_float(float x) { return x; }
__device__ __forceinline__ float to_float(__nv_bfloat16 x) { return __bfloat162float(x); }
__device__ __forceinline__ void store(float* at, float x) { *at = x; }
__device__ __forceinline__ void store(__nv_bfloat16* at, float x) { *at = __float2bfloat16_rn(x); }

// Channels of a pixel that one thread takes: 16 bytes of bf16, which is one load.
#define LANES 8

struct alignas(16) Lanes {
    value lane[LANES];
};

// What nobody reads again for long, 16 bytes at a time: it makes room for others first.
template <class Pieces> __device__ __forceinline__ Pieces read_last(const Pieces* at)
{
    Pieces result;
#pragma unroll
    for (int i = 0; i < (int)(sizeof(Pieces) / sizeof(uint4)); ++i) {
        reinterpret_cast<uint4*>(&result)[i] = __ldcs(reinterpret_cast<const uint4*>(at) + i);
    }
    return result;
}

template <class Pieces> __device__ __forceinline__ void write_last(Pieces* at, const Pieces& pieces)
{
#pragma unroll
    for (int i = 0; i < (int)(sizeof(Pieces) / sizeof(uint4)); ++i) {
        __stcs(reinterpret_cast<uint4*>(at) + i, reinterpret_cast<const uint4*>(&pieces)[i]);
    }
}

// Threads of a warp.
#define WARP 32

__device__ __forceinline__ int thread_index() { return blockIdx.x * blockDim.x + threadIdx.x; }

#include "images.cuh"
#include "conv.cuh"
#include "norm.cuh"
#include "head.cuh"
#include "optimizer.cuh"
#include "perceptron.cuh"
