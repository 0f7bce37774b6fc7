//! The end of a classifier: average pooling, the linear layer, softmax and its losses. A
//! thousandth of the work, so plain loops.

use crate::layout::Layout;

/// Global average pooling and a linear layer: feature maps to logits.
#[derive(Copy, Clone, Debug)]
pub struct Head<'a> {
    /// Layout of the feature maps.
    pub features: Layout,
    /// (class, channel), row-major.
    pub weights: &'a [f32],
    /// One for each class.
    pub bias: &'a [f32],
}

impl Head<'_> {
    /// Means of the channels over the pixels of `image`, into `pooled`.
    ///
    /// # Panics
    ///
    /// If a slice is shorter than the shapes ask for.
    pub fn pool(&self, image: &[f32], pooled: &mut [f32]) {
        let layout = &self.features;
        pooled.fill(0.0);
        for row in 0..layout.height {
            let mut sums = vec![0.0; layout.channels];
            for column in 0..layout.width {
                let pixel = &image[layout.offset(row, column)..][..layout.channels];
                for (sum, value) in sums.iter_mut().zip(pixel) {
                    *sum += value;
                }
            }
            for (total, sum) in pooled.iter_mut().zip(sums) {
                *total += sum;
            }
        }
        let share = 1.0 / layout.pixel_count() as f32;
        for mean in pooled.iter_mut() {
            *mean *= share;
        }
    }

    /// The logits of pooled features.
    ///
    /// # Panics
    ///
    /// If a slice is shorter than the shapes ask for.
    pub fn logits(&self, pooled: &[f32], logits: &mut [f32]) {
        let rows = self.weights.chunks_exact(self.features.channels);
        for ((logit, row), bias) in logits.iter_mut().zip(rows).zip(self.bias) {
            let product: f32 = row.iter().zip(pooled).map(|(w, x)| w * x).sum();
            *logit = product + bias;
        }
    }

    /// The gradient of the feature maps of one image, from that of its logits, laid out as `layout`, whose
    /// border is left as it is.
    ///
    /// # Panics
    ///
    /// If a slice is shorter than the shapes ask for.
    pub fn feature_gradient(&self, logit_gradient: &[f32], layout: &Layout, gradient: &mut [f32]) {
        let share = 1.0 / layout.pixel_count() as f32;
        let mut pooled = vec![0.0; layout.channels];
        for (row, g) in self
            .weights
            .chunks_exact(layout.channels)
            .zip(logit_gradient)
        {
            for (sum, w) in pooled.iter_mut().zip(row) {
                *sum += g * w;
            }
        }
        for sum in &mut pooled {
            *sum *= share;
        }
        for row in 0..layout.height {
            for column in 0..layout.width {
                let at = layout.offset(row, column);
                gradient[at..at + layout.channels].copy_from_slice(&pooled);
                gradient[at + layout.channels..at + layout.stride].fill(0.0);
            }
        }
    }
}

/// Probabilities of logits, in place.
pub fn softmax(logits: &mut [f32]) {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    for logit in logits.iter_mut() {
        *logit = (*logit - largest).exp();
    }
    let total: f32 = logits.iter().sum();
    for p in logits.iter_mut() {
        *p /= total;
    }
}

/// Cross-entropy, in nats, of one image's `logits` against its label smoothed by `smoothing`
/// (`1 − s + s/K` for the label, `s/K` for the others); turns the logits into the loss's
/// gradient, in place.
///
/// # Panics
///
/// If `label` is no class.
pub fn cross_entropy(logits: &mut [f32], label: usize, smoothing: f32) -> f32 {
    let classes = logits.len() as f32;
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let log_total = logits
        .iter()
        .map(|logit| (logit - largest).exp())
        .sum::<f32>()
        .ln()
        + largest;
    let mean = logits.iter().sum::<f32>() / classes;
    let loss = log_total - (1.0 - smoothing) * logits[label] - smoothing * mean;
    for logit in logits.iter_mut() {
        *logit = (*logit - log_total).exp() - smoothing / classes;
    }
    logits[label] -= 1.0 - smoothing;
    loss
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cross_entropy_has_the_gradient_of_its_finite_differences() {
        let logits = [0.3_f32, -1.2, 2.0, 0.1];
        for smoothing in [0.0, 0.1] {
            let mut gradient = logits;
            cross_entropy(&mut gradient, 1, smoothing);
            for i in 0..logits.len() {
                let at = |step: f32| {
                    let mut moved = logits;
                    moved[i] += step;
                    cross_entropy(&mut moved, 1, smoothing)
                };
                let difference = (at(1e-2) - at(-1e-2)) / 2e-2;
                assert!(
                    (difference - gradient[i]).abs() < 1e-3,
                    "{difference} {}",
                    gradient[i]
                );
            }
        }
    }

    #[test]
    fn cross_entropy_survives_large_logits() {
        let mut logits = [1e4, -1e4, 0.0];
        assert!(cross_entropy(&mut logits, 0, 0.0).abs() < 1e-3);
        assert!(logits.iter().all(|g| g.is_finite()));
    }

    #[test]
    fn pooling_ignores_border_and_padding() {
        let features = Layout::features(2, 2, 3, 1);
        let mut image = vec![7.0; features.len()];
        for row in 0..2 {
            for column in 0..3 {
                let at = features.offset(row, column);
                image[at] = (row * 3 + column) as f32;
                image[at + 1] = 1.0;
            }
        }
        let head = Head {
            features,
            weights: &[1.0, 0.0, 0.0, 2.0],
            bias: &[0.5, 0.0],
        };
        let (mut pooled, mut logits) = ([0.0; 2], [0.0; 2]);
        head.pool(&image, &mut pooled);
        head.logits(&pooled, &mut logits);
        assert_eq!(pooled, [2.5, 1.0]);
        assert_eq!(logits, [3.0, 2.0]);
    }
}
