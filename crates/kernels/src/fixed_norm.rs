//! Batch norm where its statistics are fixed: folded into the convolution before it or, where
//! another unit's sum starts from what that convolution came to, a pass of its own.

use crate::UnitWeights;
use crate::batch_norm::EPSILON;
use crate::conv::ConvShape;
use crate::layout::{BLOCK, Buffer, Layout};

/// What batch norm with fixed statistics does to each channel, padded to whole blocks.
///
/// ```text
/// scale = γ/√(var + ε)        shift = β − mean · scale
/// ```
#[derive(Clone, Debug)]
pub struct FixedNorm {
    scale: Buffer,
    shift: Buffer,
}

impl FixedNorm {
    /// Of learned scales and shifts and running statistics.
    ///
    /// # Panics
    ///
    /// If they are not of one length.
    pub fn new(gamma: &[f32], beta: &[f32], mean: &[f32], variance: &[f32]) -> Self {
        let (scales, shift) = coefficients(gamma, beta, mean, variance);
        let mut scale = Buffer::zeros(shift.len());
        for (rounded, exact) in scale.iter_mut().zip(scales) {
            *rounded = exact as f32;
        }
        Self { scale, shift }
    }

    /// `output = relu(sum · scale + shift)` of one image; both lie as `layout`, and the output's
    /// border stays as it is.
    ///
    /// # Panics
    ///
    /// If a slice is shorter than the layout asks for.
    pub fn normalize(&self, layout: &Layout, sum: &[f32], output: &mut [f32]) {
        for row in 0..layout.height {
            let (at, len) = (layout.offset(row, 0), layout.width * layout.stride);
            let pixels = sum[at..][..len].chunks_exact(layout.stride);
            let targets = output[at..][..len].chunks_exact_mut(layout.stride);
            for (pixel, target) in pixels.zip(targets) {
                let channels = pixel.iter().zip(&*self.scale).zip(&*self.shift);
                for (target, ((y, scale), shift)) in target.iter_mut().zip(channels) {
                    *target = (y * scale + shift).max(0.0);
                }
            }
        }
    }

    /// Turns the gradient of a normalized image, where its ReLU let it through, into that of the
    /// sum, in place.
    pub fn scale_gradient(&self, gradient: &mut [f32]) {
        for pixel in gradient.chunks_exact_mut(self.scale.len()) {
            for (g, scale) in pixel.iter_mut().zip(&*self.scale) {
                *g *= scale;
            }
        }
    }
}

/// The scales of all channels, and the shifts padded to whole blocks.
fn coefficients(gamma: &[f32], beta: &[f32], mean: &[f32], variance: &[f32]) -> (Vec<f64>, Buffer) {
    let channels = gamma.len();
    assert!([beta, mean, variance].iter().all(|of| of.len() == channels));
    let mut shift = Buffer::zeros(channels.div_ceil(BLOCK) * BLOCK);
    let scale = |channel: usize| {
        let deviation = (f64::from(variance[channel]) + EPSILON).sqrt();
        f64::from(gamma[channel]) / deviation
    };
    let scales: Vec<f64> = (0..channels).map(scale).collect();
    for (channel, scale) in scales.iter().enumerate() {
        shift[channel] = (f64::from(beta[channel]) - f64::from(mean[channel]) * scale) as f32;
    }
    (scales, shift)
}

/// Folds batch norm with fixed statistics into the convolution before it: returns the scaled
/// weights (packed) and a bias, padded to whole blocks.
///
/// ```text
/// w′ = w · scale        b′ = shift
/// ```
///
/// # Panics
///
/// If a slice does not belong to the shape.
pub fn fold(
    shape: &ConvShape,
    weights: UnitWeights<'_>,
    running_mean: &[f32],
    running_variance: &[f32],
) -> (Buffer, Buffer) {
    let UnitWeights { conv, gamma, beta } = weights;
    let (scales, bias) = coefficients(gamma, beta, running_mean, running_variance);
    let mut conv = Buffer::from_slice(conv);
    shape.for_each(|_, at, channel| {
        conv[at] = (f64::from(conv[at]) * scales[channel]) as f32;
    });
    (conv, bias)
}
