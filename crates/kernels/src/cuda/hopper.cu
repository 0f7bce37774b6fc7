// Convolutions on a Hopper card (sm_90a), bf16: those of a ResNet-18 of width 64. Here are what they
// have in common and, at the end, all kernels. Results are stored by hopper_store.cuh; 64 channels on
// 32x32 images and 128 on 16x16, of stride 1, and the first layer are in hopper_image.cuh, their
// weights' gradients in hopper_weights.cuh, and the others in hopper_tile.cuh. See cuda/hopper.rs
// for the host's side.
//
// But for tiles, a block convolves a quarter of an image of 64 channels, half of one of 128, or a
// whole one of the first layer (see `First` for how that differs). Its pixels lie in shared memory: a
// pixel's channels in rows of 128 bytes, one slice of 64 channels after the other, one pixel of
// padding behind each row of pixels, which is also the padding before the next one. So all that a tap
// of the kernel reads, for any run of outputs, is a run of these rows, and an operand of wgmma
// wherever it begins. Outputs are computed for the padding, too, and left out.
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

#include "hopper_store.cuh"
#include "hopper_image.cuh"
#include "hopper_weights.cuh"
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
