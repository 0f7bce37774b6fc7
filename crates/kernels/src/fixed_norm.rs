//! Batch norm where its statistics are fixed: folded into the convolution before it or, where another
//! unit's sum starts from that convolution's result, a pass of its own.

use crate::batch_norm::{self, EPSILON, Normalization};
use crate::conv::ConvShape;
use crate::layout::{BLOCK, Buffer, Layout};
use crate::{Path, UnitWeights};

/// Batch norm with fixed statistics, behind a sum that is kept.
#[derive(Clone, Debug)]
pub struct FixedNorm {
    norm: Normalization,
}

impl FixedNorm {
    /// Of learned scales and shifts and running statistics, one for each channel.
    ///
    /// # Panics
    ///
    /// If they are not of one length.
    pub fn new(gamma: &[f32], beta: &[f32], mean: &[f32], variance: &[f32]) -> Self {
        let channels = gamma.len();
        assert!([beta, mean, variance].iter().all(|of| of.len() == channels));
        let stride = channels.next_multiple_of(BLOCK);
        let padded = |values: &[f32]| {
            let mut padded = values.to_vec();
            padded.resize(stride, 0.0);
            padded
        };
        let scales = scales(gamma, variance);
        Self {
            norm: Normalization {
                mean: padded(mean),
                scale: padded(&scales.iter().map(|scale| *scale as f32).collect::<Vec<_>>()),
                shift: padded(beta),
                // For training's gradients, of which there are none.
                inverse_deviation: Vec::new(),
            },
        }
    }

    /// `output = relu(normalized sum)` of one image; both lie as `layout`, and the output's border
    /// stays as it is.
    ///
    /// # Panics
    ///
    /// If a slice is shorter than the layout asks for, or there are fewer channels than it has.
    pub fn normalize(&self, path: Path, layout: &Layout, sum: &[f32], output: &mut [f32]) {
        let layouts = (layout, layout);
        batch_norm::normalize(path, layouts, sum, &self.norm, None, true, output);
    }

    /// Turns the gradient of a normalized image, where its ReLU let it through, into that of the
    /// sum, in place: pixels of channels padded to a multiple of [`BLOCK`].
    ///
    /// # Panics
    ///
    /// If it is no whole number of such pixels.
    pub fn scale_gradient(&self, gradient: &mut [f32]) {
        let scale = &self.norm.scale;
        assert!(gradient.len().is_multiple_of(scale.len()));
        for pixel in gradient.chunks_exact_mut(scale.len()) {
            for (g, scale) in pixel.iter_mut().zip(scale) {
                *g *= scale;
            }
        }
    }
}

/// `γ/√(var + ε)` of each channel.
fn scales(gamma: &[f32], variance: &[f32]) -> Vec<f64> {
    let of = |(gamma, variance): (&f32, &f32)| {
        f64::from(*gamma) / (f64::from(*variance) + EPSILON).sqrt()
    };
    gamma.iter().zip(variance).map(of).collect()
}

/// Folds batch norm with fixed statistics into the convolution before it: returns the scaled
/// weights (packed) and a bias, padded to whole blocks.
///
/// ```text
/// w′ = w · γ/√(var + ε)        b′ = β − mean · γ/√(var + ε)
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
    let mut conv = Buffer::from_slice(weights.conv);
    let mut bias = Buffer::zeros(shape.out_channels.next_multiple_of(BLOCK));
    let scales = scales(weights.gamma, running_variance);
    shape.for_each(|_, at, channel| conv[at] = (f64::from(conv[at]) * scales[channel]) as f32);
    for channel in 0..shape.out_channels {
        let shift = f64::from(running_mean[channel]) * scales[channel];
        bias[channel] = (f64::from(weights.beta[channel]) - shift) as f32;
    }
    (conv, bias)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn normalizes_inside_the_border_and_scales_what_comes_back() {
        let layout = Layout::features(2, 3, 2, 1);
        let norm = FixedNorm::new(&[2.0, -1.0], &[0.5, 1.0], &[3.0, -4.0], &[0.25, 4.0]);
        let mut sum = vec![0.0; layout.len()];
        for (row, column) in (0..3).flat_map(|row| [(row, 0), (row, 1)]) {
            let at = layout.offset(row, column);
            sum[at] = row as f32 + 2.0;
            sum[at + 1] = column as f32 - 5.0;
        }
        let mut output = vec![0.0; layout.len()];
        norm.normalize(Path::Portable, &layout, &sum, &mut output);
        let close = |found: f32, expected: f32| assert!((found - expected).abs() < 1e-3, "{found}");
        for (row, column) in (0..3).flat_map(|row| [(row, 0), (row, 1)]) {
            let at = layout.offset(row, column);
            // 2 · (y − 3) / ½ + ½ and −(y + 4) / 2 + 1, where they are positive.
            close(output[at], (4.0 * (row as f32 - 1.0) + 0.5).max(0.0));
            close(output[at + 1], 1.5 - 0.5 * column as f32);
        }
        let inside = output.iter().filter(|value| **value != 0.0).count();
        assert_eq!(inside, 4 + 6, "the border and the padding stay zero");
        let mut gradient = vec![1.0; layout.len()];
        norm.scale_gradient(&mut gradient);
        close(gradient[0], 4.0);
        close(gradient[1], -0.5);
        close(gradient[2], 0.0);
    }
}
