//! What the kernels compute, in f64 and as plainly as it can be said.

use crate::ConvShape;

/// A convolution's three tensors: (image, row, column, channel), (output, row, column, input).
pub(crate) struct Taps {
    pub(crate) shape: ConvShape,
    pub(crate) size: (usize, usize),
    pub(crate) batch: usize,
}

impl Taps {
    /// Calls `visit(input, weight, output)` with the indices of every product.
    pub(crate) fn for_each(&self, mut visit: impl FnMut(usize, usize, usize)) {
        let ConvShape {
            in_channels,
            out_channels,
            kernel,
            stride,
        } = self.shape;
        let (height, width) = self.size;
        let (rows, columns) = (height.div_ceil(stride), width.div_ceil(stride));
        for at in 0..self.batch * rows * columns * kernel * kernel {
            let (kx, ky) = (at % kernel, at / kernel % kernel);
            let pixel = at / (kernel * kernel);
            let (column, row) = (pixel % columns, pixel / columns % rows);
            let image = pixel / (columns * rows);
            let (Some(y), Some(x)) = (
                (row * stride + ky).checked_sub(kernel / 2),
                (column * stride + kx).checked_sub(kernel / 2),
            ) else {
                continue;
            };
            if y >= height || x >= width {
                continue;
            }
            for output in 0..out_channels {
                for input in 0..in_channels {
                    visit(
                        ((image * height + y) * width + x) * in_channels + input,
                        ((output * kernel + ky) * kernel + kx) * in_channels + input,
                        pixel * out_channels + output,
                    );
                }
            }
        }
    }
}

/// Mean and biased variance of each column of a matrix.
pub(crate) fn moments(values: &[f32], columns: usize) -> (Vec<f64>, Vec<f64>) {
    let rows = (values.len() / columns) as f64;
    let mut mean = vec![0.0; columns];
    for (at, value) in values.iter().enumerate() {
        mean[at % columns] += f64::from(*value) / rows;
    }
    let mut variance = vec![0.0; columns];
    for (at, value) in values.iter().enumerate() {
        variance[at % columns] += (f64::from(*value) - mean[at % columns]).powi(2) / rows;
    }
    (mean, variance)
}

/// Probabilities of one image's logits.
pub(crate) fn softmax(logits: &[f64]) -> Vec<f64> {
    let largest = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let powers: Vec<f64> = logits.iter().map(|logit| (logit - largest).exp()).collect();
    let total: f64 = powers.iter().sum();
    powers.iter().map(|power| power / total).collect()
}

/// `values` as f64.
pub(crate) fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().copied().map(f64::from).collect()
}

#[cfg(test)]
mod tests {
    use super::super::{noise, relative_error};
    use super::*;
    use crate::{Conv, Finish, Layout, Path, Start};

    #[test]
    fn convolves_as_the_cpu_does() {
        for (kernel, stride) in [(3, 1), (3, 2), (1, 2)] {
            let shape = ConvShape {
                in_channels: 5,
                out_channels: 3,
                kernel,
                stride,
            };
            let (height, width) = (6, 7);
            let taps = Taps {
                shape,
                size: (height, width),
                batch: 1,
            };
            let image = noise(1, height * width * 5);
            let weights = noise(2, 3 * kernel * kernel * 5);
            let (rows, columns) = (shape.output_side(height), shape.output_side(width));
            let mut expected = vec![0.0; rows * columns * 3];
            taps.for_each(|input, weight, output| {
                expected[output] += f64::from(image[input]) * f64::from(weights[weight]);
            });

            let source = Layout::features(5, height, width, 1);
            let target = Layout::features(3, rows, columns, 0);
            let mut input = vec![0.0; source.len()];
            for (pixel, values) in image.chunks(5).enumerate() {
                let at = source.offset(pixel / width, pixel % width);
                input[at..at + 5].copy_from_slice(values);
            }
            // (output, input, row, column) from (output, row, column, input).
            let area = kernel * kernel;
            let plain: Vec<f32> = (0..3 * 5 * area)
                .map(|at| (at / (5 * area), at / area % 5, at % area))
                .map(|(output, input, tap)| weights[(output * area + tap) * 5 + input])
                .collect();
            let mut output = vec![0.0; target.len()];
            let conv = Conv::direct(shape, &source, &target).unwrap();
            conv.forward(
                Path::current().unwrap(),
                &[&input],
                &shape.pack(&plain).unwrap(),
                &mut [&mut output],
                Start::Zero,
                Finish::Linear,
            );
            let found: Vec<f32> = (0..rows * columns)
                .flat_map(|pixel| {
                    let at = target.offset(pixel / columns, pixel % columns);
                    output[at..at + 3].to_vec()
                })
                .collect();
            assert!(relative_error(&found, &expected) < 1e-5);
        }
    }

    #[test]
    fn probabilities_are_those_of_the_cpu() {
        let logits = noise(7, 6);
        let mut found = logits.clone();
        crate::softmax(&mut found);
        assert!(relative_error(&found, &softmax(&wide(&logits))) < 1e-6);
    }

    #[test]
    fn moments_are_taken_by_column() {
        let (mean, variance) = moments(&[1.0, 10.0, 3.0, 10.0], 2);
        assert_eq!((mean, variance), (vec![2.0, 10.0], vec![1.0, 0.0]));
    }
}
