//! The gradient of a target class's probability with respect to a patch of each image.

use mesa_kernels::{Buffer, TargetGradient, gate_gradient, softmax};

use super::Frozen;
use super::forward::{Workspace, part, part_mut};
use crate::graph::{COLORS, IMAGE_SIDE};
use crate::{Error, Result};

/// What a gradient is asked for.
pub(super) struct Target<'a> {
    pub(super) class: usize,
    pub(super) places: &'a [(usize, usize)],
    pub(super) patch: (usize, usize),
    pub(super) wanted: TargetGradient,
}

impl Frozen {
    pub(super) fn forward_backward(
        &self,
        pixels: &[f32],
        target: &Target<'_>,
        workspace: &mut Workspace,
        probabilities: &mut [f32],
        gradients: &mut [f32],
    ) {
        let classes = self.graph.num_classes;
        let mut scores = vec![0.0; probabilities.len() * classes];
        self.forward(pixels, workspace, &mut scores);
        for (scores, probability) in scores.chunks_mut(classes).zip(probabilities.iter_mut()) {
            softmax(scores);
            *probability = scores[target.class];
            // ∂ ln p_t / ∂logit_k = 1[k = t] − p_k, and ∂p_t = p_t · ∂ ln p_t
            let factor = match target.wanted {
                TargetGradient::Probability(_) => *probability,
                TargetGradient::LogProbability => 1.0,
            };
            for score in scores.iter_mut() {
                *score *= -factor;
            }
            scores[target.class] += factor;
        }
        let below = match target.wanted {
            TargetGradient::Probability(below) => below,
            TargetGradient::LogProbability => f32::INFINITY,
        };
        let wanted: Vec<usize> = (0..probabilities.len())
            .filter(|image| probabilities[*image] < below)
            .collect();
        self.backward(&wanted, &scores, workspace);
        let patch_len = COLORS * target.patch.0 * target.patch.1;
        for &image in &wanted {
            let gradient = &mut gradients[image * patch_len..][..patch_len];
            self.patch_gradient(
                image,
                target.places[image],
                target.patch,
                workspace,
                gradient,
            );
        }
    }

    /// Takes the gradients of the logits of some images back to the output of the first unit.
    fn backward(&self, images: &[usize], logit_gradients: &[f32], workspace: &mut Workspace) {
        let Workspace {
            nodes,
            gradients,
            of_skips,
            ..
        } = workspace;
        if gradients.is_empty() {
            *gradients = nodes.iter().map(|node| Buffer::zeros(node.len())).collect();
            *of_skips = self.beside_sums(nodes);
        }
        let (head, classes) = (self.head(), self.graph.num_classes);
        let last = self.layouts.len() - 1;
        for &image in images {
            let logits = &logit_gradients[image * classes..][..classes];
            let target = part_mut(&mut gradients[last], image, &self.layouts[last]);
            head.feature_gradient(logits, &head.features, target);
        }
        let mut reached = vec![false; self.layouts.len()];
        let mut handed_on = vec![false; self.layers.len()];
        for (index, unit) in self.graph.units.iter().enumerate().rev() {
            let (before, after) = gradients.split_at_mut(index + 1);
            let layout = &self.layouts[index + 1];
            for &image in images {
                let gradient = part_mut(&mut after[0], image, layout);
                if unit.relu {
                    gate_gradient(self.path, part(&nodes[index + 1], image, layout), gradient);
                }
                if let Some(node) = unit.residual {
                    let target = part_mut(&mut before[node], image, layout);
                    if reached[node] {
                        add(gradient, target);
                    } else {
                        target.copy_from_slice(gradient);
                    }
                }
                if let Some(norm) = &self.layers[index].norm {
                    norm.scale_gradient(gradient);
                    if handed_on[index] {
                        add(part(&of_skips[index], image, layout), gradient);
                    }
                }
                if let Some(skip) = unit.skip {
                    // Where there is no batch norm, a sum is the output.
                    let target = match &self.layers[skip].norm {
                        None => &mut before[skip + 1],
                        Some(_) => &mut of_skips[skip],
                    };
                    part_mut(target, image, layout).copy_from_slice(gradient);
                    handed_on[skip] = true;
                }
            }
            if unit.input > 0 {
                let sources: Vec<&[f32]> = images
                    .iter()
                    .map(|image| part(&after[0], *image, layout))
                    .collect();
                let of = &self.layouts[unit.input];
                let mut targets: Vec<&mut [f32]> = before[unit.input]
                    .chunks_mut(of.len())
                    .enumerate()
                    .filter(|(image, _)| images.contains(image))
                    .map(|(_, target)| target)
                    .collect();
                self.input_gradients[index].run(
                    self.path,
                    &sources,
                    &self.transposed[index],
                    &mut targets,
                    reached[unit.input],
                );
            }
            for node in unit.residual.into_iter().chain([unit.input]) {
                reached[node] = true;
            }
        }
    }

    /// The gradient of a patch of the image, from that of the first unit's convolution: only the
    /// patch's few pixels are ever needed.
    fn patch_gradient(
        &self,
        image: usize,
        (top, left): (usize, usize),
        (height, width): (usize, usize),
        workspace: &Workspace,
        gradient: &mut [f32],
    ) {
        let shape = &self.graph.units[0].shape;
        let layout = &self.layouts[1];
        let output = part(&workspace.gradients[1], image, layout);
        let weights = &self.transposed[0];
        for row in 0..height {
            for column in 0..width {
                let mut sums = [0.0_f32; COLORS];
                for tap in 0..shape.taps() {
                    // Input pixel (r, c) feeds output (r + 1 − ky, c + 1 − kx); the border is 1.
                    let (ky, kx) = (tap / shape.kernel, tap % shape.kernel);
                    let at = (top + row + 2 - ky) * layout.row_len()
                        + (left + column + 2 - kx) * layout.stride;
                    for channel in 0..shape.out_channels {
                        let g = output[at + channel];
                        let w =
                            &weights[(tap * shape.out_channels + channel) * mesa_kernels::BLOCK..];
                        for (sum, w) in sums.iter_mut().zip(w) {
                            *sum += g * w;
                        }
                    }
                }
                for (color, sum) in sums.iter().enumerate() {
                    gradient[(color * height + row) * width + column] =
                        sum / self.normalization.std[color];
                }
            }
        }
    }
}

/// Adds `values` to `sums`.
fn add(values: &[f32], sums: &mut [f32]) {
    for (sum, value) in sums.iter_mut().zip(values) {
        *sum += value;
    }
}

pub(super) fn check_places(
    places: &[(usize, usize)],
    patch: (usize, usize),
    batch: usize,
) -> Result<()> {
    if places.len() != batch {
        return Err(Error::Batch {
            what: "the number of places",
            expected: format!("{batch}, one for each image"),
            found: places.len().to_string(),
        });
    }
    let inside = |&(row, column): &(usize, usize)| {
        row + patch.0 <= IMAGE_SIDE && column + patch.1 <= IMAGE_SIDE
    };
    match places.iter().find(|place| !inside(place)) {
        Some(place) => Err(Error::Batch {
            what: "a patch's place",
            expected: format!(
                "one where {}x{} pixels fit into the image",
                patch.0, patch.1
            ),
            found: format!("{place:?}"),
        }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use candle::{Device, Tensor};
    use mesa_kernels::TargetGradient;

    use crate::frozen::forward::GROUP;
    use crate::small_networks::{KINDS, classifier_and_images, classifier_of};

    #[test]
    fn the_gradient_of_a_patch_agrees_with_finite_differences() {
        KINDS
            .into_iter()
            .for_each(gradient_agrees_with_finite_differences);
    }

    fn gradient_agrees_with_finite_differences(kind: &str) {
        let (classifier, images) = classifier_of(kind, GROUP + 2);
        let places: Vec<(usize, usize)> =
            (0..GROUP + 2).map(|i| (3 * i % 30, 29 - i % 30)).collect();
        let (probabilities, gradients) = classifier
            .target_gradient(
                &images,
                1,
                &places,
                (2, 3),
                TargetGradient::Probability(2.0),
            )
            .unwrap();
        let plain = classifier.target_probability(&images, 1).unwrap();
        assert_eq!(probabilities, plain);
        let gradients: Vec<f32> = gradients.flatten_all().unwrap().to_vec1().unwrap();
        let pixels: Vec<f32> = images.flatten_all().unwrap().to_vec1().unwrap();
        // Every image moves along its own gradient: the probability rises by its squared length.
        let moved = |step: f32| {
            let mut pixels = pixels.clone();
            for (image, (top, left)) in places.iter().enumerate() {
                for (at, g) in gradients[image * 18..][..18].iter().enumerate() {
                    let (color, row, column) = (at / 6, at / 3 % 2, at % 3);
                    pixels[image * 3072 + color * 1024 + (top + row) * 32 + left + column] +=
                        step * g;
                }
            }
            let images = Tensor::from_vec(pixels, images.dims(), &Device::Cpu).unwrap();
            classifier.target_probability(&images, 1).unwrap()
        };
        for image in 0..GROUP + 2 {
            let square: f32 = gradients[image * 18..][..18].iter().map(|g| g * g).sum();
            // Short, so that few ReLUs change sides; where one does, it is on one side only.
            let step = 0.002 / square.sqrt();
            let differences = [step, -step].map(|step| (moved(step)[image] - plain[image]) / step);
            let agrees = |difference: f32| (difference - square).abs() < 0.05 * square;
            assert!(
                differences.into_iter().any(agrees),
                "{kind}, image {image}: {differences:?}, not {square}"
            );
        }
    }

    #[test]
    fn the_gradient_of_the_logarithm_is_that_of_the_probability_over_it() {
        let (classifier, images) = classifier_and_images(5);
        let places = [(3, 4); 5];
        let flat = |gradient: Tensor| gradient.flatten_from(1).unwrap().to_vec2::<f32>().unwrap();
        let (probabilities, plain) = classifier
            .target_gradient(
                &images,
                2,
                &places,
                (3, 3),
                TargetGradient::Probability(2.0),
            )
            .unwrap();
        let (same, of_logarithm) = classifier
            .target_gradient(&images, 2, &places, (3, 3), TargetGradient::LogProbability)
            .unwrap();
        assert_eq!(same, probabilities);
        for ((p, plain), found) in probabilities
            .iter()
            .zip(flat(plain))
            .zip(flat(of_logarithm))
        {
            let size = plain.iter().map(|g| (g / p).abs()).fold(0.0, f32::max);
            assert!(size > 0.0);
            for (plain, found) in plain.iter().zip(found) {
                assert!(
                    (plain / p - found).abs() < 1e-4 * size,
                    "{plain} {p} {found}"
                );
            }
        }
    }

    #[test]
    fn nothing_goes_back_for_images_that_need_no_gradient() {
        let (classifier, images) = classifier_and_images(5);
        let probabilities = classifier.target_probability(&images, 0).unwrap();
        let mut sorted = probabilities.clone();
        sorted.sort_by(f32::total_cmp);
        let places = [(0, 0); 5];
        let (_, gradients) = classifier
            .target_gradient(
                &images,
                0,
                &places,
                (32, 32),
                TargetGradient::Probability(sorted[2]),
            )
            .unwrap();
        for (image, probability) in probabilities.iter().enumerate() {
            let gradient = gradients
                .get(image)
                .unwrap()
                .sqr()
                .unwrap()
                .sum_all()
                .unwrap();
            assert_eq!(
                gradient.to_scalar::<f32>().unwrap() > 0.0,
                *probability < sorted[2]
            );
        }
        let (_, gradients) = classifier
            .target_gradient(
                &images,
                0,
                &places,
                (32, 32),
                TargetGradient::Probability(0.0),
            )
            .unwrap();
        let square = gradients.sqr().unwrap().sum_all().unwrap();
        assert!(square.to_scalar::<f32>().unwrap() == 0.0, "none needs one");
    }
}
