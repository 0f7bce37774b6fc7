//! The two loop nests of convolution.
//!
//! **Gather** (forward, and the input gradient):
//!
//! ```text
//! for each group of output-channel blocks          weights of the group stay in L2
//!   for each tile of P pixels                      accumulators: P pixels × R registers
//!     for each tap
//!       for each input channel                     R weight loads, P broadcasts, P·R products
//! ```
//!
//! **Weight gradient**:
//!
//! ```text
//! for each span of about 128 pixels                source rows and gradients stay in L1 or L2
//!   for each tap
//!     for each tile of C input channels            accumulators: C channels × R registers
//!       for each pixel                             R gradient loads, C broadcasts, C·R products
//! ```
//!
//! P, R and C are compile-time constants, so that accumulators stay in registers; what does not
//! fill a tile goes through the same code with smaller ones.

use crate::Path;
use crate::conv::{Finish, Gather, Start};
use crate::cpu::simd::{Simd, Task};
use crate::layout::BLOCK;

/// Pixels of a weight-gradient span.
const SPAN: usize = 128;

/// See [`crate::Conv::forward`].
pub(crate) fn gather(
    path: Path,
    gather: &Gather,
    sources: &[&[f32]],
    weights: &[f32],
    targets: &mut [&mut [f32]],
    start: Start<'_>,
    finish: Finish,
) {
    // The offsets of a gather stay inside images of its layouts by construction.
    assert_eq!(sources.len(), targets.len());
    assert!(weights.len() >= gather.target_blocks * gather.weights_per_block);
    let (bias, residuals) = match start {
        Start::Zero | Start::Existing => (None, None),
        Start::Bias(bias) => (Some(bias), None),
        Start::BiasAndResidual(bias, residuals) => (Some(bias), Some(residuals)),
    };
    assert!(bias.is_none_or(|bias| bias.len() >= gather.target_blocks * BLOCK));
    for (image, (source, target)) in sources.iter().zip(targets).enumerate() {
        assert!(source.len() >= gather.source_len && target.len() >= gather.target_len);
        let residual = residuals.map(|residuals| residuals[image]);
        assert!(residual.is_none_or(|residual| residual.len() >= gather.target_len));
        path.run(GatherTask {
            gather,
            source: source.as_ptr(),
            weights: weights.as_ptr(),
            target: target.as_mut_ptr(),
            existing: match (start, residual) {
                (Start::Existing, _) => Some(target.as_ptr()),
                (_, residual) => residual.map(<[f32]>::as_ptr),
            },
            bias: bias.map(<[f32]>::as_ptr),
            relu: finish == Finish::Relu,
        });
    }
}

struct GatherTask<'a> {
    gather: &'a Gather,
    source: *const f32,
    weights: *const f32,
    target: *mut f32,
    /// Image of the target's layout that the sum starts from.
    existing: Option<*const f32>,
    bias: Option<*const f32>,
    relu: bool,
}

impl Task for GatherTask<'_> {
    #[inline(always)]
    fn run<S: Simd>(self) {
        let blocks = self.gather.target_blocks;
        let mut block = 0;
        while block < blocks {
            // Two blocks at a time where the registers allow it: half the broadcasts.
            if S::LANES == 16 && block + 2 <= blocks {
                self.tiles::<S, 8, 2>(block);
                block += 2;
                continue;
            }
            match S::LANES {
                16 => self.tiles::<S, 8, 1>(block),
                8 => self.tiles::<S, 6, 2>(block),
                _ => self.tiles::<S, 2, 4>(block),
            }
            block += 1;
        }
    }
}

impl GatherTask<'_> {
    /// All pixels of `R · LANES` output channels, `P` pixels at a time.
    #[inline(always)]
    fn tiles<S: Simd, const P: usize, const R: usize>(&self, block: usize) {
        let count = self.gather.targets.len();
        let mut pixel = 0;
        while pixel + P <= count {
            self.tile::<S, P, R>(block, pixel);
            pixel += P;
        }
        while pixel + 4 <= count && P > 4 {
            self.tile::<S, 4, R>(block, pixel);
            pixel += 4;
        }
        while pixel < count {
            self.tile::<S, 1, R>(block, pixel);
            pixel += 1;
        }
    }

    #[inline(always)]
    #[allow(unsafe_code)]
    fn tile<S: Simd, const P: usize, const R: usize>(&self, block: usize, pixel: usize) {
        let gather = self.gather;
        let vectors = BLOCK / S::LANES;
        let channel = |r: usize| block * BLOCK + r * S::LANES;
        // SAFETY: pixel + P <= gather.targets.len() == gather.sources.len() and
        // block + R / vectors <= target_blocks; `gather()` asserted that the slices behind the
        // pointers have the lengths that the gather's offsets were made for.
        unsafe {
            let targets: [usize; P] =
                std::array::from_fn(|p| *gather.targets.get_unchecked(pixel + p) as usize);
            let mut sums = [[S::splat(0.0); R]; P];
            if let Some(existing) = self.existing {
                for p in 0..P {
                    for r in 0..R {
                        sums[p][r] = S::load(existing.add(targets[p] + channel(r)));
                    }
                }
            }
            if let Some(bias) = self.bias {
                for p in 0..P {
                    for r in 0..R {
                        sums[p][r] = S::add(sums[p][r], S::load(bias.add(channel(r))));
                    }
                }
            }
            let centres: [*const f32; P] = std::array::from_fn(|p| {
                self.source
                    .add(*gather.sources.get_unchecked(pixel + p) as usize)
            });
            let weights = self.weights.add(block * gather.weights_per_block);
            for tap in &gather.taps {
                let sources: [*const f32; P] =
                    std::array::from_fn(|p| centres[p].offset(tap.source));
                let matrix = weights.add(tap.weights);
                for input in 0..gather.source_channels {
                    let row = matrix.add(input * BLOCK);
                    let w: [S::V; R] =
                        std::array::from_fn(|r| {
                            S::load(row.add(
                                r / vectors * gather.weights_per_block + r % vectors * S::LANES,
                            ))
                        });
                    for p in 0..P {
                        let value = S::splat(*sources[p].add(input));
                        for r in 0..R {
                            sums[p][r] = S::mul_add(value, w[r], sums[p][r]);
                        }
                    }
                }
            }
            for p in 0..P {
                for r in 0..R {
                    let sum = if self.relu {
                        S::max(sums[p][r], S::splat(0.0))
                    } else {
                        sums[p][r]
                    };
                    S::store(self.target.add(targets[p] + channel(r)), sum);
                }
            }
        }
    }
}

/// See [`crate::Conv::weight_gradient`].
pub(crate) fn weight_gradient(
    path: Path,
    gather: &Gather,
    sources: &[&[f32]],
    target_gradients: &[&[f32]],
    first_block: usize,
    gradient: &mut [f32],
    accumulate: bool,
) {
    if !accumulate {
        gradient.fill(0.0);
    }
    assert_eq!(sources.len(), target_gradients.len());
    assert!(
        sources
            .iter()
            .all(|source| source.len() >= gather.source_len)
    );
    assert!(
        target_gradients
            .iter()
            .all(|target| target.len() >= gather.target_len)
    );
    let blocks = gradient.len() / gather.weights_per_block;
    assert!(first_block + blocks <= gather.target_blocks);
    path.run(WeightGradientTask {
        gather,
        sources,
        target_gradients,
        first_block,
        blocks,
        gradient: gradient.as_mut_ptr(),
    });
}

struct WeightGradientTask<'a> {
    gather: &'a Gather,
    sources: &'a [&'a [f32]],
    target_gradients: &'a [&'a [f32]],
    first_block: usize,
    blocks: usize,
    gradient: *mut f32,
}

/// Some pixels of some images.
#[derive(Copy, Clone)]
struct Span {
    first_image: usize,
    images: usize,
    first_pixel: usize,
    pixels: usize,
}

impl Task for WeightGradientTask<'_> {
    #[inline(always)]
    fn run<S: Simd>(self) {
        let count = self.gather.targets.len();
        let images_per_span = (SPAN / count).max(1);
        let mut first_image = 0;
        while first_image < self.sources.len() {
            let images = images_per_span.min(self.sources.len() - first_image);
            let mut first_pixel = 0;
            while first_pixel < count {
                let pixels = SPAN.min(count - first_pixel);
                self.span::<S>(Span {
                    first_image,
                    images,
                    first_pixel,
                    pixels,
                });
                first_pixel += pixels;
            }
            first_image += images;
        }
    }
}

impl WeightGradientTask<'_> {
    #[inline(always)]
    fn span<S: Simd>(&self, span: Span) {
        let mut block = 0;
        while block < self.blocks {
            let pair = S::LANES == 16 && block + 2 <= self.blocks;
            for tap in 0..self.gather.taps.len() {
                match (S::LANES, pair) {
                    (16, true) => self.channels::<S, 8, 2>(span, block, tap),
                    (16, false) => self.channels::<S, 16, 1>(span, block, tap),
                    (8, _) => self.channels::<S, 6, 2>(span, block, tap),
                    _ => self.channels::<S, 2, 4>(span, block, tap),
                }
            }
            block += if pair { 2 } else { 1 };
        }
    }

    #[inline(always)]
    fn channels<S: Simd, const C: usize, const R: usize>(
        &self,
        span: Span,
        block: usize,
        tap: usize,
    ) {
        let count = self.gather.source_channels;
        let mut channel = 0;
        while channel + C <= count {
            self.tile::<S, C, R>(span, block, tap, channel);
            channel += C;
        }
        while channel + 4 <= count && C > 4 {
            self.tile::<S, 4, R>(span, block, tap, channel);
            channel += 4;
        }
        if channel + 3 == count {
            // The colors of an image: three sums keep the multipliers busier than one.
            self.tile::<S, 3, R>(span, block, tap, channel);
            channel += 3;
        }
        while channel < count {
            self.tile::<S, 1, R>(span, block, tap, channel);
            channel += 1;
        }
    }

    #[inline(always)]
    #[allow(unsafe_code)]
    fn tile<S: Simd, const C: usize, const R: usize>(
        &self,
        span: Span,
        block: usize,
        tap: usize,
        channel: usize,
    ) {
        let gather = self.gather;
        let vectors = BLOCK / S::LANES;
        let tap = gather.taps[tap];
        let within = |r: usize| r / vectors * gather.weights_per_block + r % vectors * S::LANES;
        // SAFETY: the span's images, pixels, channels and blocks lie inside the counts that
        // `weight_gradient` asserted the slices to hold.
        unsafe {
            let gradient = self
                .gradient
                .add(block * gather.weights_per_block + tap.weights + channel * BLOCK);
            let mut sums = [[S::splat(0.0); R]; C];
            for c in 0..C {
                for r in 0..R {
                    sums[c][r] = S::load(gradient.add(c * BLOCK + within(r)));
                }
            }
            for image in span.first_image..span.first_image + span.images {
                let source = self.sources[image].as_ptr().add(channel).offset(tap.source);
                let target = self.target_gradients[image]
                    .as_ptr()
                    .add((self.first_block + block) * BLOCK);
                for pixel in span.first_pixel..span.first_pixel + span.pixels {
                    let from = source.add(*gather.sources.get_unchecked(pixel) as usize);
                    let to = target.add(*gather.targets.get_unchecked(pixel) as usize);
                    let g: [S::V; R] = std::array::from_fn(|r| S::load(to.add(r * S::LANES)));
                    for c in 0..C {
                        let value = S::splat(*from.add(c));
                        for r in 0..R {
                            sums[c][r] = S::mul_add(value, g[r], sums[c][r]);
                        }
                    }
                }
            }
            for c in 0..C {
                for r in 0..R {
                    S::store(gradient.add(c * BLOCK + within(r)), sums[c][r]);
                }
            }
        }
    }
}
