//! Batch norm in training, with the residual sum and the ReLU that follow it.
//!
//! ```text
//! forward    x̂ = (y − mean) / √(var + ε)        a = relu(γ·x̂ + β + residual)
//! backward   g = a > 0 ? ∂a : 0                  ∂residual = g   ∂β = Σ g   ∂γ = Σ g·x̂
//!            ∂y = γ/√(var + ε) · (g − mean g − x̂ · mean(g·x̂))
//! ```
//!
//! Means are over the images and pixels of a batch. Each is found in two steps, so that it does
//! not depend on the number of threads: every image on its own, then over images in order.
//! (Ioffe and Szegedy 2015.)

use crate::Path;
use crate::cpu;
use crate::layout::Layout;

/// Added to variances.
pub const EPSILON: f64 = 1e-5;

/// `(y − mean) · scale + shift`, per channel.
#[derive(Clone, Debug, Default)]
pub(crate) struct Normalization {
    pub(crate) mean: Vec<f32>,
    pub(crate) scale: Vec<f32>,
    pub(crate) shift: Vec<f32>,
    /// `1 / √(var + ε)`
    pub(crate) inverse_deviation: Vec<f64>,
}

impl Normalization {
    /// Of a unit without batch norm, which leaves its sum as it is.
    pub(crate) fn identity(stride: usize) -> Self {
        Self {
            mean: vec![0.0; stride],
            scale: vec![1.0; stride],
            shift: vec![0.0; stride],
            inverse_deviation: vec![1.0; stride],
        }
    }

    pub(crate) fn check(&self, stride: usize) {
        assert!(
            self.mean.len() >= stride && self.scale.len() >= stride && self.shift.len() >= stride
        );
    }
}

/// What is added to a normalized image.
#[derive(Copy, Clone, Debug)]
pub(crate) enum Residual<'a> {
    /// An image with a border.
    Ready(&'a [f32]),
    /// An image without border, to be normalized first.
    Raw(&'a [f32], &'a Normalization),
}

/// `∂y = of_gradient · g + of_image · (y − mean) + constant`, per channel.
#[derive(Clone, Debug, Default)]
pub(crate) struct Gradients {
    pub(crate) of_gradient: Vec<f32>,
    pub(crate) of_image: Vec<f32>,
    pub(crate) constant: Vec<f32>,
}

impl Gradients {
    /// Of a unit without batch norm: `∂y = g`.
    pub(crate) fn identity(stride: usize) -> Self {
        Self {
            of_gradient: vec![1.0; stride],
            of_image: vec![0.0; stride],
            constant: vec![0.0; stride],
        }
    }

    pub(crate) fn check(&self, stride: usize) {
        let least = self
            .of_gradient
            .len()
            .min(self.of_image.len())
            .min(self.constant.len());
        assert!(least >= stride);
    }
}

/// Mean and summed squared deviation of each channel of one image.
pub(crate) use cpu::batch_norm::moments;

/// `target = relu(normalized image + residual)`, one image.
pub(crate) use cpu::batch_norm::normalize;

/// `Σ g` and `Σ g·(y − mean)` of one image, where `gate` (the unit's output) is positive.
pub(crate) use cpu::batch_norm::reduce_gradient;

/// Turns the gradient of a unit's output into that of the convolution's result, to which it adds
/// what has reached that as a skip, in an image with borders and, if asked, in place as well; hands
/// the gated gradient on to the residual.
pub(crate) use cpu::batch_norm::input_gradient;

/// Zeroes `gradient` wherever `gate` is not positive: the gradient of a ReLU whose output was
/// `gate`. Both have the same layout, a multiple of 16 floats long.
///
/// # Panics
///
/// If the lengths differ or are no multiple of 16.
pub fn gate_gradient(path: Path, gate: &[f32], gradient: &mut [f32]) {
    cpu::batch_norm::gate_gradient(path, gate, gradient);
}

/// Scale and shift of batch norm for one batch, from each image's moments.
///
/// `moments` holds, for each image, `stride` means and then `stride` sums of squares. Also
/// returns the batch's mean and *unbiased* variance, for the running statistics.
pub(crate) fn combine_moments(
    layout: &Layout,
    moments: &[f32],
    gamma: &[f32],
    beta: &[f32],
    norm: &mut Normalization,
) -> (Vec<f32>, Vec<f32>) {
    let stride = layout.stride;
    let images = moments.len() / (2 * stride);
    let pixels = layout.pixel_count() as f64;
    let count = images as f64 * pixels;
    for values in [&mut norm.mean, &mut norm.scale, &mut norm.shift] {
        values.clear();
        values.resize(stride, 0.0);
    }
    norm.inverse_deviation.clear();
    norm.inverse_deviation.resize(stride, 0.0);
    let mut running = (vec![0.0; layout.channels], vec![0.0; layout.channels]);
    for channel in 0..layout.channels {
        let of = |image: usize| {
            let at = image * 2 * stride + channel;
            (f64::from(moments[at]), f64::from(moments[at + stride]))
        };
        let mean = (0..images).map(|image| of(image).0).sum::<f64>() / images as f64;
        // Σ(x − mean)² over all images: within each, and between their means.
        let square: f64 = (0..images)
            .map(of)
            .map(|(own, square)| square + pixels * (own - mean).powi(2))
            .sum();
        let inverse = 1.0 / (square / count + EPSILON).sqrt();
        norm.mean[channel] = mean as f32;
        norm.inverse_deviation[channel] = inverse;
        norm.scale[channel] = (f64::from(gamma[channel]) * inverse) as f32;
        norm.shift[channel] = beta[channel];
        running.0[channel] = mean as f32;
        running.1[channel] = (square / (count - 1.0).max(1.0)) as f32;
    }
    running
}

/// The coefficients of `∂y`, and `∂γ` and `∂β`, from each image's sums.
///
/// `sums` holds, for each image, `stride` values of `Σ g` and then of `Σ g·(y − mean)`.
pub(crate) fn combine_gradients(
    layout: &Layout,
    sums: &[f32],
    norm: &Normalization,
    gradients: &mut Gradients,
    gamma_gradient: &mut [f32],
    beta_gradient: &mut [f32],
) {
    let stride = layout.stride;
    let images = sums.len() / (2 * stride);
    let count = images as f64 * layout.pixel_count() as f64;
    for values in [
        &mut gradients.of_gradient,
        &mut gradients.of_image,
        &mut gradients.constant,
    ] {
        values.clear();
        values.resize(stride, 0.0);
    }
    for channel in 0..layout.channels {
        let total = |offset: usize| -> f64 {
            (0..images)
                .map(|image| f64::from(sums[image * 2 * stride + offset + channel]))
                .sum()
        };
        let (sum, product) = (total(0), total(stride));
        let inverse = norm.inverse_deviation[channel];
        let scale = f64::from(norm.scale[channel]);
        gradients.of_gradient[channel] = scale as f32;
        gradients.of_image[channel] = (-scale * inverse * inverse * product / count) as f32;
        gradients.constant[channel] = (-scale * sum / count) as f32;
        gamma_gradient[channel] = (product * inverse) as f32;
        beta_gradient[channel] = sum as f32;
    }
}
