//! The four passes of batch norm over one image, each written over registers of channels.
//!
//! ```text
//! for each register of channels                     coefficients and sums stay in registers
//!   for each row, for each pixel
//! ```

use crate::Path;
use crate::batch_norm::{Gradients, Normalization, Residual};
use crate::cpu::simd::{Simd, Task};
use crate::layout::{BLOCK, Layout};

/// Pixels summed on their own before they join the total, so that rounding stays small.
const CHUNK: usize = 64;

/// See [`crate::batch_norm::moments`].
pub(crate) fn moments(
    path: Path,
    raw: &Layout,
    image: &[f32],
    mean: &mut [f32],
    square: &mut [f32],
) {
    assert!(raw.border == 0 && image.len() >= raw.len());
    assert!(mean.len() >= raw.stride && square.len() >= raw.stride);
    path.run(Moments {
        raw,
        image,
        mean,
        square,
    });
}

struct Moments<'a> {
    raw: &'a Layout,
    image: &'a [f32],
    mean: &'a mut [f32],
    square: &'a mut [f32],
}

impl Task for Moments<'_> {
    #[inline(always)]
    #[allow(unsafe_code)]
    fn run<S: Simd>(self) {
        let (pixels, stride) = (self.raw.pixel_count(), self.raw.stride);
        for channel in (0..stride).step_by(S::LANES) {
            // SAFETY: channel + LANES <= stride, and `moments` asserted the lengths.
            unsafe {
                let from = self.image.as_ptr().add(channel);
                // Shifted by the first pixel, so that a large mean does not swallow the variance.
                let shift = S::load(from);
                let zero = S::splat(0.0);
                let (mut total, mut total_square) = (zero, zero);
                let mut first = 0;
                while first < pixels {
                    let last = (first + CHUNK).min(pixels);
                    let (mut sums, mut squares) = ([zero; 4], [zero; 4]);
                    let mut pixel = first;
                    while pixel + 4 <= last {
                        for i in 0..4 {
                            let x = S::sub(S::load(from.add((pixel + i) * stride)), shift);
                            sums[i] = S::add(sums[i], x);
                            squares[i] = S::mul_add(x, x, squares[i]);
                        }
                        pixel += 4;
                    }
                    while pixel < last {
                        let x = S::sub(S::load(from.add(pixel * stride)), shift);
                        sums[0] = S::add(sums[0], x);
                        squares[0] = S::mul_add(x, x, squares[0]);
                        pixel += 1;
                    }
                    total = S::add(total, sum4::<S>(sums));
                    total_square = S::add(total_square, sum4::<S>(squares));
                    first = last;
                }
                // mean = shift + total / n;  Σ(x − mean)² = total_square − total² / n
                let share = S::splat(1.0 / pixels as f32);
                let mean = S::mul_add(total, share, shift);
                let minus = S::sub(zero, S::mul_add(total, share, zero));
                let square = S::mul_add(total, minus, total_square);
                S::store(self.mean.as_mut_ptr().add(channel), mean);
                S::store(self.square.as_mut_ptr().add(channel), S::max(square, zero));
            }
        }
    }
}

/// See [`crate::batch_norm::normalize`].
pub(crate) fn normalize(
    path: Path,
    (raw, output): (&Layout, &Layout),
    image: &[f32],
    norm: &Normalization,
    residual: Option<Residual<'_>>,
    relu: bool,
    target: &mut [f32],
) {
    check_pair(raw, output);
    assert!(image.len() >= raw.len() && target.len() >= output.len());
    norm.check(raw.stride);
    match residual {
        Some(Residual::Ready(residual)) => assert!(residual.len() >= output.len()),
        Some(Residual::Raw(residual, norm)) => {
            assert!(residual.len() >= raw.len());
            norm.check(raw.stride);
        }
        None => {}
    }
    path.run(Normalize {
        raw,
        output,
        image,
        norm,
        residual,
        relu,
        target,
    });
}

struct Normalize<'a> {
    raw: &'a Layout,
    output: &'a Layout,
    image: &'a [f32],
    norm: &'a Normalization,
    residual: Option<Residual<'a>>,
    relu: bool,
    target: &'a mut [f32],
}

impl Task for Normalize<'_> {
    #[inline(always)]
    fn run<S: Simd>(mut self) {
        let least = S::splat(if self.relu { 0.0 } else { f32::NEG_INFINITY });
        for row in 0..self.raw.height {
            for channel in (0..self.raw.stride).step_by(S::LANES) {
                self.row::<S>(row, channel, least);
            }
        }
    }
}

impl Normalize<'_> {
    #[inline(always)]
    #[allow(unsafe_code)]
    fn row<S: Simd>(&mut self, row: usize, channel: usize, least: S::V) {
        let stride = self.raw.stride;
        let pixels = (0..self.raw.width).map(|pixel| pixel * stride);
        // SAFETY: rows and channels of layouts whose lengths `normalize` asserted.
        unsafe {
            let own = Affine::<S>::of(self.norm, channel);
            let at_raw = self.raw.offset(row, 0) + channel;
            let at_output = self.output.offset(row, 0) + channel;
            let from = self.image.as_ptr().add(at_raw);
            let to = self.target.as_mut_ptr().add(at_output);
            match self.residual {
                Some(Residual::Ready(residual)) => {
                    let residual = residual.as_ptr().add(at_output);
                    for pixel in pixels {
                        let sum = S::add(own.load(from.add(pixel)), S::load(residual.add(pixel)));
                        S::store(to.add(pixel), S::max(sum, least));
                    }
                }
                Some(Residual::Raw(residual, norm)) => {
                    let other = Affine::<S>::of(norm, channel);
                    let residual = residual.as_ptr().add(at_raw);
                    for pixel in pixels {
                        let sum =
                            S::add(own.load(from.add(pixel)), other.load(residual.add(pixel)));
                        S::store(to.add(pixel), S::max(sum, least));
                    }
                }
                None => {
                    for pixel in pixels {
                        S::store(to.add(pixel), S::max(own.load(from.add(pixel)), least));
                    }
                }
            }
        }
    }
}

/// `(y − mean) · scale + shift` of some channels.
struct Affine<S: Simd> {
    mean: S::V,
    scale: S::V,
    shift: S::V,
}

#[allow(unsafe_code)]
impl<S: Simd> Affine<S> {
    /// # Safety
    ///
    /// `norm` has [`Simd::LANES`] channels from `channel` on.
    #[inline(always)]
    unsafe fn of(norm: &Normalization, channel: usize) -> Self {
        // SAFETY: the caller's promise.
        unsafe {
            Self {
                mean: S::load(norm.mean.as_ptr().add(channel)),
                scale: S::load(norm.scale.as_ptr().add(channel)),
                shift: S::load(norm.shift.as_ptr().add(channel)),
            }
        }
    }

    /// # Safety
    ///
    /// As for [`Simd::load`].
    #[inline(always)]
    unsafe fn load(&self, from: *const f32) -> S::V {
        // SAFETY: the caller's promise.
        S::mul_add(
            S::sub(unsafe { S::load(from) }, self.mean),
            self.scale,
            self.shift,
        )
    }
}

/// See [`crate::batch_norm::reduce_gradient`].
pub(crate) fn reduce_gradient(
    path: Path,
    (raw, output): (&Layout, &Layout),
    gradient: &[f32],
    image: &[f32],
    gate: Option<&[f32]>,
    mean: &[f32],
    (sums, products): (&mut [f32], &mut [f32]),
) {
    check_pair(raw, output);
    assert!(gradient.len() >= raw.len() && image.len() >= raw.len());
    assert!(gate.is_none_or(|gate| gate.len() >= output.len()));
    assert!(mean.len() >= raw.stride && sums.len() >= raw.stride && products.len() >= raw.stride);
    path.run(ReduceGradient {
        raw,
        output,
        gradient,
        image,
        gate,
        mean,
        sums,
        products,
    });
}

struct ReduceGradient<'a> {
    raw: &'a Layout,
    output: &'a Layout,
    gradient: &'a [f32],
    image: &'a [f32],
    gate: Option<&'a [f32]>,
    mean: &'a [f32],
    sums: &'a mut [f32],
    products: &'a mut [f32],
}

impl Task for ReduceGradient<'_> {
    #[inline(always)]
    #[allow(unsafe_code)]
    fn run<S: Simd>(self) {
        let (width, stride) = (self.raw.width, self.raw.stride);
        let zero = S::splat(0.0);
        for channel in (0..stride).step_by(S::LANES) {
            // SAFETY: rows and channels of layouts whose lengths `reduce_gradient` asserted.
            unsafe {
                let mean = S::load(self.mean.as_ptr().add(channel));
                let (mut total, mut total_product) = (zero, zero);
                for row in 0..self.raw.height {
                    let at = self.raw.offset(row, 0) + channel;
                    let gradient = self.gradient.as_ptr().add(at);
                    let image = self.image.as_ptr().add(at);
                    let gate = self
                        .gate
                        .map(|gate| gate.as_ptr().add(self.output.offset(row, 0) + channel));
                    let gated = |pixel: usize| {
                        let g = S::load(gradient.add(pixel * stride));
                        match gate {
                            Some(gate) => S::where_positive(S::load(gate.add(pixel * stride)), g),
                            None => g,
                        }
                    };
                    let centred = |pixel: usize| S::sub(S::load(image.add(pixel * stride)), mean);
                    let (mut sums, mut products) = ([zero; 4], [zero; 4]);
                    let mut pixel = 0;
                    while pixel + 4 <= width {
                        for i in 0..4 {
                            let g = gated(pixel + i);
                            sums[i] = S::add(sums[i], g);
                            products[i] = S::mul_add(g, centred(pixel + i), products[i]);
                        }
                        pixel += 4;
                    }
                    while pixel < width {
                        let g = gated(pixel);
                        sums[0] = S::add(sums[0], g);
                        products[0] = S::mul_add(g, centred(pixel), products[0]);
                        pixel += 1;
                    }
                    total = S::add(total, sum4::<S>(sums));
                    total_product = S::add(total_product, sum4::<S>(products));
                }
                S::store(self.sums.as_mut_ptr().add(channel), total);
                S::store(self.products.as_mut_ptr().add(channel), total_product);
            }
        }
    }
}

/// See [`crate::batch_norm::input_gradient`].
#[expect(
    clippy::too_many_arguments,
    reason = "each is one tensor of the equation"
)]
pub(crate) fn input_gradient(
    path: Path,
    (raw, output): (&Layout, &Layout),
    gradients: &Gradients,
    mean: &[f32],
    image: &[f32],
    gate: Option<&[f32]>,
    gradient: &mut [f32],
    of_skip: Option<&[f32]>,
    residual: Option<(&mut [f32], bool)>,
    bordered: &mut [f32],
    in_place: bool,
) {
    check_pair(raw, output);
    assert!(gradient.len() >= raw.len() && image.len() >= raw.len());
    assert!(gate.is_none_or(|gate| gate.len() >= output.len()));
    assert!(bordered.len() >= output.len());
    assert!(of_skip.is_none_or(|of_skip| of_skip.len() >= raw.len()));
    assert!(mean.len() >= raw.stride);
    gradients.check(raw.stride);
    let (residual, accumulate) = match residual {
        Some((residual, accumulate)) => {
            assert!(residual.len() >= raw.len());
            (Some(residual.as_mut_ptr()), accumulate)
        }
        None => (None, false),
    };
    path.run(InputGradient {
        raw,
        output,
        gradients,
        mean,
        image,
        gate,
        gradient,
        of_skip,
        residual,
        accumulate,
        bordered,
        in_place,
    });
}

struct InputGradient<'a> {
    raw: &'a Layout,
    output: &'a Layout,
    gradients: &'a Gradients,
    mean: &'a [f32],
    image: &'a [f32],
    gate: Option<&'a [f32]>,
    gradient: &'a mut [f32],
    of_skip: Option<&'a [f32]>,
    residual: Option<*mut f32>,
    accumulate: bool,
    bordered: &'a mut [f32],
    in_place: bool,
}

impl Task for InputGradient<'_> {
    #[inline(always)]
    #[allow(unsafe_code)]
    fn run<S: Simd>(self) {
        let (width, stride) = (self.raw.width, self.raw.stride);
        for row in 0..self.raw.height {
            for channel in (0..stride).step_by(S::LANES) {
                // SAFETY: rows and channels of layouts whose lengths `input_gradient` asserted.
                unsafe {
                    let of_gradient = S::load(self.gradients.of_gradient.as_ptr().add(channel));
                    let of_image = S::load(self.gradients.of_image.as_ptr().add(channel));
                    let constant = S::load(self.gradients.constant.as_ptr().add(channel));
                    let mean = S::load(self.mean.as_ptr().add(channel));
                    let at = self.raw.offset(row, 0) + channel;
                    let at_output = self.output.offset(row, 0) + channel;
                    let gradient = self.gradient.as_mut_ptr().add(at);
                    let image = self.image.as_ptr().add(at);
                    let gate = self.gate.map(|gate| gate.as_ptr().add(at_output));
                    let bordered = self.bordered.as_mut_ptr().add(at_output);
                    let of_skip = self.of_skip.map(|of_skip| of_skip.as_ptr().add(at));
                    let residual = self.residual.map(|residual| residual.add(at));
                    for pixel in (0..width).map(|pixel| pixel * stride) {
                        let mut g = S::load(gradient.add(pixel));
                        if let Some(gate) = gate {
                            g = S::where_positive(S::load(gate.add(pixel)), g);
                        }
                        if let Some(residual) = residual {
                            let to = residual.add(pixel);
                            S::store(
                                to,
                                if self.accumulate {
                                    S::add(S::load(to), g)
                                } else {
                                    g
                                },
                            );
                        }
                        let centred = S::sub(S::load(image.add(pixel)), mean);
                        let mut result =
                            S::mul_add(of_gradient, g, S::mul_add(of_image, centred, constant));
                        if let Some(of_skip) = of_skip {
                            result = S::add(result, S::load(of_skip.add(pixel)));
                        }
                        S::store(bordered.add(pixel), result);
                        if self.in_place {
                            S::store(gradient.add(pixel), result);
                        }
                    }
                }
            }
        }
    }
}

/// See [`crate::batch_norm::gate_gradient`].
pub(crate) fn gate_gradient(path: Path, gate: &[f32], gradient: &mut [f32]) {
    assert!(gate.len() == gradient.len() && gate.len().is_multiple_of(16));
    path.run(GateGradient { gate, gradient });
}

struct GateGradient<'a> {
    gate: &'a [f32],
    gradient: &'a mut [f32],
}

impl Task for GateGradient<'_> {
    #[inline(always)]
    #[allow(unsafe_code)]
    fn run<S: Simd>(self) {
        for at in (0..self.gate.len()).step_by(S::LANES) {
            // SAFETY: the lengths are equal and multiples of 16, which LANES divides.
            unsafe {
                let to = self.gradient.as_mut_ptr().add(at);
                let gated = S::where_positive(S::load(self.gate.as_ptr().add(at)), S::load(to));
                S::store(to, gated);
            }
        }
    }
}

#[inline(always)]
fn sum4<S: Simd>(sums: [S::V; 4]) -> S::V {
    S::add(S::add(sums[0], sums[1]), S::add(sums[2], sums[3]))
}

fn check_pair(raw: &Layout, output: &Layout) {
    assert!(raw.stride == output.stride && raw.stride.is_multiple_of(BLOCK));
    assert!(raw.height == output.height && raw.width == output.width);
}
