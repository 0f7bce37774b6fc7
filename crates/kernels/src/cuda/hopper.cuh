// What hopper.cu asks of a Hopper card beyond CUDA's C++: instructions of its tensor cores, of the
// hardware that copies, and of barriers in shared memory. An emulated card has its own of these.

#ifndef MESA_HOPPER
#define MESA_HOPPER

#include <cuda.h>
#include <cuda_bf16.h>
#include <stdint.h>

// Outputs of the right operand of a product, and eighths of them: a strip of an image, 4 rows of 33
// pixels or 8 of 17.
#define STRIP 136
#define EIGHTHS (STRIP / 8)

// Bytes after which swizzling repeats: eight rows.
#define REPEAT 1024

// A block's shared memory.
__device__ __forceinline__ unsigned char* shared_memory()
{
    extern __shared__ __align__(REPEAT) unsigned char memory[];
    return memory;
}

__device__ __forceinline__ uint32_t shared_address(const void* at)
{
    return (uint32_t)__cvta_generic_to_shared(at);
}

// Barriers in shared memory: they turn when all have arrived and all bytes that were announced are
// there.
__device__ __forceinline__ void make_barrier(uint32_t barrier, int arrivals)
{
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}

__device__ __forceinline__ void announce(uint32_t barrier, int bytes)
{
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes)
                 : "memory");
}

__device__ __forceinline__ void arrive(uint32_t barrier)
{
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}

// At a barrier of another block of the cluster. Says nothing of what this thread has written: a
// fence for that takes microseconds.
__device__ __forceinline__ void arrive_there(uint32_t barrier)
{
    asm volatile("mbarrier.arrive.shared::cluster.b64 _, [%0];" ::"r"(barrier) : "memory");
}

// Waits for turn number `turn`, from 0 on.
__device__ __forceinline__ void await_turn(uint32_t barrier, int turn)
{
    asm volatile(
        "{\n"
        ".reg .pred turned;\n"
        "again:\n"
        "mbarrier.try_wait.parity.shared::cta.b64 turned, [%0], %1;\n"
        "@!turned bra again;\n"
        "}" ::"r"(barrier), "r"(turn & 1)
        : "memory");
}

// Barriers are there for the copies, too.
__device__ __forceinline__ void publish_barriers()
{
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

// What this thread has written to shared memory is there for copies and products, too.
__device__ __forceinline__ void publish_writes() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// Waits for the other threads of the group. Number 0 is __syncthreads.
__device__ __forceinline__ void join_group(int group)
{
    asm volatile("bar.sync %0, 128;" ::"r"(1 + group) : "memory");
}

// Waits for the other blocks of a cluster, too: what they have written is there.
__device__ __forceinline__ void join_blocks()
{
    asm volatile(
        "barrier.cluster.arrive.release.aligned;\nbarrier.cluster.wait.acquire.aligned;" ::: "memory");
}

// The same without what they have written: they have come as far as this.
__device__ __forceinline__ void meet_blocks()
{
    asm volatile(
        "barrier.cluster.arrive.relaxed.aligned;\nbarrier.cluster.wait.aligned;" ::: "memory");
}

// A place in the shared memory of a block of the cluster.
__device__ __forceinline__ uint32_t of_block(uint32_t own, int rank)
{
    uint32_t there;
    asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(own), "r"(rank));
    return there;
}

__device__ __forceinline__ void store_there(uint32_t at, float4 four)
{
    asm volatile("st.shared::cluster.v4.f32 [%0], {%1, %2, %3, %4};" ::"r"(at), "f"(four.x),
                 "f"(four.y), "f"(four.z), "f"(four.w)
                 : "memory");
}

// Copies a box of four dimensions, innermost first, such as channels, columns, rows and images.
__device__ __forceinline__ void copy_box(
    uint32_t to, const CUtensorMap* from, int a, int b, int c, int d, uint32_t barrier)
{
    asm volatile(
        "cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes "
        "[%0], [%1, {%2, %3, %4, %5}], [%6];" ::"r"(to),
        "l"(from), "r"(a), "r"(b), "r"(c), "r"(d), "r"(barrier)
        : "memory");
}

// The same to this place of every block of the cluster that has its bit in `blocks`, and to their
// barriers.
__device__ __forceinline__ void copy_box_to(
    uint32_t blocks, uint32_t to, const CUtensorMap* from, int a, int b, int c, int d,
    uint32_t barrier)
{
    asm volatile(
        "cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes"
        ".multicast::cluster [%0], [%1, {%2, %3, %4, %5}], [%6], %7;" ::"r"(to),
        "l"(from), "r"(a), "r"(b), "r"(c), "r"(d), "r"(barrier), "h"((uint16_t)blocks)
        : "memory");
}

// Copies one tap of all weights: of the inputs from `channel` on.
__device__ __forceinline__ void copy_tap(
    uint32_t to, const CUtensorMap* weights, int channel, int tap, uint32_t barrier)
{
    asm volatile(
        "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes "
        "[%0], [%1, {%2, %3, %4}], [%5];" ::"r"(to),
        "l"(weights), "r"(channel), "r"(tap), "r"(0), "r"(barrier)
        : "memory");
}

// An address as operands of wgmma have it: without the bits that tell a block of a cluster.
__device__ __forceinline__ uint64_t start_of(uint32_t address) { return (address & 0x3ffff) >> 4; }

// An operand of wgmma that begins at a row: its address, the distance of eight rows, and that its
// pieces are swizzled. What is added to it are bytes / 16.
__device__ __forceinline__ uint64_t operand(uint32_t address)
{
    return start_of(address) | (uint64_t)1 << 16 | (uint64_t)(REPEAT >> 4) << 32 | (uint64_t)1 << 62;
}

// A transposed one of more than 64 rows: `step` bytes from 64 of them to the next, which may
// overlap, as the inputs of neighbouring taps do; `outer` bytes from eight terms to the next.
__device__ __forceinline__ uint64_t stepped_operand(uint32_t address, int step, int outer)
{
    return start_of(address) | (uint64_t)(step >> 4) << 16 | (uint64_t)(outer >> 4) << 32 |
           (uint64_t)1 << 62;
}

// One whose pieces lie as they are, eight rows of 16 bytes in a run: `inner` bytes from a piece of
// a row to the next, `outer` from eight rows to the next; for a transposed one the other way round.
__device__ __forceinline__ uint64_t plain_operand(uint32_t address, int inner, int outer)
{
    return start_of(address) | (uint64_t)(inner >> 4) << 16 | (uint64_t)(outer >> 4) << 32;
}

__device__ __forceinline__ void begin_products() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void end_products() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }

// Waits for all products but those since the `MORE`th last call of `end_products`.
template <int MORE> __device__ __forceinline__ void await_products()
{
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(MORE) : "memory");
}

#define FOUR(sums) "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
#define SIXTEEN(sums, i) FOUR(sums[i]), FOUR(sums[i + 1]), FOUR(sums[i + 2]), FOUR(sums[i + 3])

// sums = left * right, or added to it: 64 by 136. The left operand is transposed if its rows are
// the terms.
template <bool TRANSPOSED>
__device__ __forceinline__ void multiply(
    float (&sums)[EIGHTHS][4], uint64_t left, uint64_t right, bool add)
{
    asm volatile(
        "{\n"
        ".reg .pred add;\n"
        "setp.ne.b32 add, %70, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n136k16.f32.bf16.bf16 "
        "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, "
        "%19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, "
        "%37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, %53, %54, "
        "%55, %56, %57, %58, %59, %60, %61, %62, %63, %64, %65, %66, %67}, "
        "%68, %69, add, 1, 1, %71, 0;\n"
        "}"
        : SIXTEEN(sums, 0), SIXTEEN(sums, 4), SIXTEEN(sums, 8), SIXTEEN(sums, 12), FOUR(sums[16])
        : "l"(left), "l"(right), "r"((int)add), "n"((int)TRANSPOSED));
}

// The same, 64 by 128.
template <bool TRANSPOSED>
__device__ __forceinline__ void multiply(
    float (&sums)[16][4], uint64_t left, uint64_t right, bool add)
{
    asm volatile(
        "{\n"
        ".reg .pred add;\n"
        "setp.ne.b32 add, %66, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 "
        "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, "
        "%19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, "
        "%37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, %53, %54, "
        "%55, %56, %57, %58, %59, %60, %61, %62, %63}, "
        "%64, %65, add, 1, 1, %67, 0;\n"
        "}"
        : SIXTEEN(sums, 0), SIXTEEN(sums, 4), SIXTEEN(sums, 8), SIXTEEN(sums, 12)
        : "l"(left), "l"(right), "r"((int)add), "n"((int)TRANSPOSED));
}

// sums += left * right: 64 by 192, both transposed. The right operand is a `stepped_operand`.
__device__ __forceinline__ void multiply_transposed(
    float (&sums)[24][4], uint64_t left, uint64_t right)
{
    asm volatile(
        "wgmma.mma_async.sync.aligned.m64n192k16.f32.bf16.bf16 "
        "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, "
        "%19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, "
        "%37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, %53, %54, "
        "%55, %56, %57, %58, %59, %60, %61, %62, %63, %64, %65, %66, %67, %68, %69, %70, %71, %72, "
        "%73, %74, %75, %76, %77, %78, %79, %80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, "
        "%91, %92, %93, %94, %95}, %96, %97, 1, 1, 1, 1, 1;"
        : SIXTEEN(sums, 0), SIXTEEN(sums, 4), SIXTEEN(sums, 8), SIXTEEN(sums, 12),
          SIXTEEN(sums, 16), SIXTEEN(sums, 20)
        : "l"(left), "l"(right));
}

// sums += left * right: 64 by 24, both transposed.
__device__ __forceinline__ void multiply_transposed(float (&sums)[3][4], uint64_t left, uint64_t right)
{
    asm volatile(
        "wgmma.mma_async.sync.aligned.m64n24k16.f32.bf16.bf16 "
        "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11}, %12, %13, 1, 1, 1, 1, 1;"
        : FOUR(sums[0]), FOUR(sums[1]), FOUR(sums[2])
        : "l"(left), "l"(right));
}

// Stores two matrices of 8 by 8 transposed; a lane has the address of a row.
__device__ __forceinline__ void store_transposed(uint32_t row, const uint32_t (&pairs)[2])
{
    asm volatile("stmatrix.sync.aligned.m8n8.x2.trans.shared.b16 [%0], {%1, %2};" ::"r"(row),
                 "r"(pairs[0]), "r"(pairs[1])
                 : "memory");
}

#endif
