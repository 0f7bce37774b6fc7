//! A classifier that no longer changes: inference, and the gradient with respect to its images.
//!
//! With batch norm's statistics fixed (and, where nothing else needs a convolution's result, folded
//! into it) images do not depend on each other, so a group of images goes through the whole network,
//! and back, while its activations are in cache; groups run in parallel. Gradients of weights are never
//! computed, and nothing goes back for an image whose gradient nobody needs.

use std::sync::{Arc, Mutex};

use candle::{Device, Tensor};
use mesa_kernels::TargetGradient;
use mesa_kernels::{
    Buffer, Conv, ConvInputGradient, ConvShape, Finish, FixedNorm, Head, Layout, Path, Start,
    gate_gradient, softmax,
};
use rayon::prelude::*;

use crate::graph::{COLORS, Graph, IMAGE_SIDE};
use crate::host::{argmax, host_images, load_image};
use crate::{Error, Normalization, Result};

/// The most images that go through the network together: enough to use what is read of the deep
/// layers' weights, few enough for their activations to stay in cache.
const GROUP: usize = 32;

/// Images in a group of a batch, so that every thread has as many groups as any other. No figure
/// depends on it.
fn group_size(batch: usize) -> usize {
    let threads = rayon::current_num_threads();
    let rounds = batch.div_ceil(threads * GROUP).max(1);
    batch.div_ceil(threads * rounds).max(1)
}

/// A classifier in evaluation mode. Cheap to clone and to share between threads.
///
/// # Examples
///
/// ```
/// use candle::{DType, Device, Tensor};
/// use mesa_models::{Network, Normalization, ResNetConfig, Seeds};
///
/// let config = ResNetConfig::resnet18(4, 10);
/// let mut rng = Seeds::new(0, "weights").start();
/// let network = Network::resnet(config, Normalization::cifar10(), &mut rng)?;
/// let classifier = network.freeze()?;
/// let images = Tensor::ones((5, 3, 32, 32), DType::F32, &Device::Cpu)?;
/// assert_eq!(classifier.logits(&images)?.dims(), [5, 10]);
/// # Ok::<(), mesa_models::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct FrozenClassifier {
    inner: Arc<Frozen>,
}

#[derive(Debug)]
struct Frozen {
    graph: Graph,
    normalization: Normalization,
    path: Path,
    layouts: Vec<Layout>,
    convs: Vec<Conv>,
    input_gradients: Vec<ConvInputGradient>,
    layers: Vec<Layer>,
    /// What each unit's input gradient reads.
    transposed: Vec<Buffer>,
    linear: (Vec<f32>, Vec<f32>),
    /// Buffers of groups that are not running.
    idle: Mutex<Vec<Workspace>>,
}

/// A unit whose batch norm no longer changes.
#[derive(Debug)]
pub(crate) struct Layer {
    /// What its convolution reads, and its bias.
    weights: Buffer,
    bias: Buffer,
    /// Batch norm behind a sum that is kept ([`Graph::keeps_sum`]); any other is in weights and bias.
    norm: Option<FixedNorm>,
}

impl Layer {
    /// A convolution into which batch norm was folded.
    pub(crate) fn folded((weights, bias): (Buffer, Buffer)) -> Self {
        Self {
            weights,
            bias,
            norm: None,
        }
    }

    /// A convolution as it is, and the batch norm behind its sum, if there is one.
    pub(crate) fn plain(shape: &ConvShape, weights: &[f32], norm: Option<FixedNorm>) -> Self {
        Self {
            weights: Buffer::from_slice(weights),
            bias: Buffer::zeros(shape.out_channels.next_multiple_of(mesa_kernels::BLOCK)),
            norm,
        }
    }
}

/// Buffers of one group.
#[derive(Debug, Default)]
struct Workspace {
    /// The output of each node, [`GROUP`] images.
    nodes: Vec<Buffer>,
    /// The sum of each unit that keeps it.
    sums: Vec<Buffer>,
    /// The gradient of each node, made when first needed.
    gradients: Vec<Buffer>,
    /// What reaches each kept sum as a skip.
    of_skips: Vec<Buffer>,
    pooled: Vec<f32>,
}

impl FrozenClassifier {
    pub(crate) fn new(
        graph: Graph,
        normalization: Normalization,
        path: Path,
        mut layers: Vec<Layer>,
        linear: (Vec<f32>, Vec<f32>),
    ) -> Result<Self> {
        let layouts = graph.layouts();
        let mut convs = Vec::new();
        let mut input_gradients = Vec::new();
        let mut transposed = Vec::new();
        for (index, unit) in graph.units.iter().enumerate() {
            let (input, output) = (&layouts[unit.input], &layouts[index + 1]);
            let conv = Conv::new(unit.shape, input, output)?;
            let input_gradient = ConvInputGradient::new(unit.shape, output, input)?;
            let packed = &layers[index].weights;
            let mut room = Buffer::default();
            transposed.push(Buffer::from_slice(
                input_gradient.weights(path, packed, &mut room),
            ));
            let mut room = Buffer::default();
            layers[index].weights = Buffer::from_slice(conv.weights(path, packed, &mut room));
            convs.push(conv);
            input_gradients.push(input_gradient);
        }
        let idle = Mutex::default();
        let inner = Frozen {
            graph,
            normalization,
            path,
            layouts,
            convs,
            input_gradients,
            layers,
            transposed,
            linear,
            idle,
        };
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    /// Number of classes.
    pub fn num_classes(&self) -> usize {
        self.inner.graph.num_classes
    }

    /// How images are normalized before the network sees them.
    pub fn normalization(&self) -> Normalization {
        self.inner.normalization
    }

    /// Floating-point operations of one image's forward pass.
    pub fn operations(&self) -> f64 {
        self.inner.graph.operations()
    }

    /// Scores of the classes.
    ///
    /// # Shapes
    ///
    /// - `images`: f32 `(B, 3, 32, 32)`, in [0, 1].
    /// - returns: f32 `(B, K)`, on the host.
    ///
    /// # Errors
    ///
    /// [`Error::Batch`] for images of another shape.
    pub fn logits(&self, images: &Tensor) -> Result<Tensor> {
        let pixels = host_images(images)?;
        let (inner, classes) = (&*self.inner, self.num_classes());
        let image_len = COLORS * IMAGE_SIDE * IMAGE_SIDE;
        let batch = pixels.len() / image_len;
        let group = group_size(batch);
        let mut logits = vec![0.0; batch * classes];
        logits
            .par_chunks_mut(group * classes)
            .zip(pixels.par_chunks(group * image_len))
            .for_each(|(logits, pixels)| {
                inner.with_workspace(|workspace| inner.forward(pixels, workspace, logits));
            });
        Ok(Tensor::from_vec(logits, (batch, classes), &Device::Cpu)?)
    }

    /// The most likely class of every image, the first of equals.
    ///
    /// # Errors
    ///
    /// [`Error::Batch`] for images of another shape.
    pub fn predict(&self, images: &Tensor) -> Result<Vec<u32>> {
        let logits: Vec<f32> = self.logits(images)?.flatten_all()?.to_vec1()?;
        Ok(logits
            .chunks(self.num_classes())
            .map(|row| argmax(row) as u32)
            .collect())
    }

    /// The probability of `target_class` for every image.
    ///
    /// # Errors
    ///
    /// [`Error::Batch`] for images of another shape or a class that does not exist.
    pub fn target_probability(&self, images: &Tensor, target_class: u32) -> Result<Vec<f32>> {
        self.check_class(target_class)?;
        let mut logits: Vec<f32> = self.logits(images)?.flatten_all()?.to_vec1()?;
        Ok(logits
            .chunks_mut(self.num_classes())
            .map(|row| {
                softmax(row);
                row[target_class as usize]
            })
            .collect())
    }

    /// The probability of `target_class` for every image and, where it is less than `below`, its
    /// gradient with respect to the pixels of a patch; zeros elsewhere.
    ///
    /// # Shapes
    ///
    /// - `images`: f32 `(B, 3, 32, 32)`, in [0, 1].
    /// - `places`: row and column of the patch's top-left pixel, one for each image.
    /// - `patch`: its height and width.
    /// - returns: probabilities `(B,)`, and f32 `(B, 3, h, w)` per unit of pixel value.
    ///
    /// # Errors
    ///
    /// [`Error::Batch`] for images of another shape, a class that does not exist, or a patch that
    /// leaves its image.
    pub fn target_probability_gradient(
        &self,
        images: &Tensor,
        target_class: u32,
        places: &[(usize, usize)],
        patch: (usize, usize),
        below: f32,
    ) -> Result<(Vec<f32>, Tensor)> {
        self.gradient(
            images,
            places,
            patch,
            target_class,
            TargetGradient::Probability(below),
        )
    }

    /// The probability of `target_class` for every image, and the gradient of its logarithm with
    /// respect to the pixels of a patch: of the negative cross-entropy to that class.
    ///
    /// # Shapes
    ///
    /// As [`FrozenClassifier::target_probability_gradient`].
    ///
    /// # Errors
    ///
    /// As [`FrozenClassifier::target_probability_gradient`].
    pub fn target_log_probability_gradient(
        &self,
        images: &Tensor,
        target_class: u32,
        places: &[(usize, usize)],
        patch: (usize, usize),
    ) -> Result<(Vec<f32>, Tensor)> {
        self.gradient(
            images,
            places,
            patch,
            target_class,
            TargetGradient::LogProbability,
        )
    }

    fn gradient(
        &self,
        images: &Tensor,
        places: &[(usize, usize)],
        patch: (usize, usize),
        target_class: u32,
        wanted: TargetGradient,
    ) -> Result<(Vec<f32>, Tensor)> {
        self.check_class(target_class)?;
        let pixels = host_images(images)?;
        let image_len = COLORS * IMAGE_SIDE * IMAGE_SIDE;
        let batch = pixels.len() / image_len;
        check_places(places, patch, batch)?;
        let patch_len = COLORS * patch.0 * patch.1;
        let mut probabilities = vec![0.0; batch];
        let mut gradients = vec![0.0; batch * patch_len];
        let (inner, group) = (&*self.inner, group_size(batch));
        probabilities
            .par_chunks_mut(group)
            .zip(gradients.par_chunks_mut(group * patch_len))
            .zip(pixels.par_chunks(group * image_len))
            .zip(places.par_chunks(group))
            .for_each(|(((probabilities, gradients), pixels), places)| {
                inner.with_workspace(|workspace| {
                    let target = Target {
                        class: target_class as usize,
                        places,
                        patch,
                        wanted,
                    };
                    inner.forward_backward(pixels, &target, workspace, probabilities, gradients);
                });
            });
        let shape = (batch, COLORS, patch.0, patch.1);
        Ok((
            probabilities,
            Tensor::from_vec(gradients, shape, &Device::Cpu)?,
        ))
    }

    fn check_class(&self, target_class: u32) -> Result<()> {
        if (target_class as usize) < self.num_classes() {
            return Ok(());
        }
        Err(Error::Batch {
            what: "the target class",
            expected: format!("below {}, the number of classes", self.num_classes()),
            found: target_class.to_string(),
        })
    }
}

/// What a gradient is asked for.
struct Target<'a> {
    class: usize,
    places: &'a [(usize, usize)],
    patch: (usize, usize),
    wanted: TargetGradient,
}

impl Frozen {
    fn with_workspace<R>(&self, work: impl FnOnce(&mut Workspace) -> R) -> R {
        let idle = || {
            self.idle
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner)
        };
        let mut workspace = idle().pop().unwrap_or_default();
        let result = work(&mut workspace);
        idle().push(workspace);
        result
    }

    fn head(&self) -> Head<'_> {
        let features = self.layouts[self.layouts.len() - 1];
        Head {
            features,
            weights: &self.linear.0,
            bias: &self.linear.1,
        }
    }

    /// A buffer for each unit that keeps its sum, as large as its node's; empty ones for others.
    fn beside_sums(&self, nodes: &[Buffer]) -> Vec<Buffer> {
        let buffers = self.layers.iter().zip(&nodes[1..]).map(|(layer, node)| {
            let len = layer.norm.as_ref().map_or(0, |_| node.len());
            Buffer::zeros(len)
        });
        buffers.collect()
    }

    /// The logits of up to [`GROUP`] images.
    fn forward(&self, pixels: &[f32], workspace: &mut Workspace, logits: &mut [f32]) {
        let image_len = COLORS * IMAGE_SIDE * IMAGE_SIDE;
        let images = pixels.len() / image_len;
        if workspace.nodes.is_empty() {
            let buffers = self
                .layouts
                .iter()
                .map(|layout| Buffer::zeros(GROUP * layout.len()));
            workspace.nodes = buffers.collect();
            workspace.sums = self.beside_sums(&workspace.nodes);
        }
        let input = self.layouts[0];
        for (pixels, target) in pixels
            .chunks(image_len)
            .zip(workspace.nodes[0].chunks_mut(input.len()))
        {
            load_image(&self.normalization, pixels, &input, target);
        }
        for (index, unit) in self.graph.units.iter().enumerate() {
            let (before, after) = workspace.nodes.split_at_mut(index + 1);
            let (sums, own_sum) = workspace.sums.split_at_mut(index);
            let (output, sum) = (&mut after[0], &mut own_sum[0]);
            let Layer {
                weights,
                bias,
                norm,
            } = &self.layers[index];
            let of = |node: usize| parts(&before[node], images, &self.layouts[node]);
            let added = match (unit.residual, unit.skip) {
                (Some(node), _) => Some(of(node)),
                (None, Some(skip)) if self.layers[skip].norm.is_some() => {
                    Some(parts(&sums[skip], images, &self.layouts[skip + 1]))
                }
                (None, Some(skip)) => Some(of(skip + 1)),
                (None, None) => None,
            };
            let start = match &added {
                Some(added) => Start::BiasAndResidual(bias, added),
                None => Start::Bias(bias),
            };
            let finish = if unit.relu && norm.is_none() {
                Finish::Relu
            } else {
                Finish::Linear
            };
            let layout = &self.layouts[index + 1];
            let target = if norm.is_some() {
                &mut *sum
            } else {
                &mut *output
            };
            let targets = target.chunks_mut(layout.len()).take(images);
            let mut targets: Vec<&mut [f32]> = targets.collect();
            let sources = of(unit.input);
            self.convs[index].forward(self.path, &sources, weights, &mut targets, start, finish);
            if let Some(norm) = norm {
                for image in 0..images {
                    let output = part_mut(output, image, layout);
                    norm.normalize(self.path, layout, part(sum, image, layout), output);
                }
            }
        }
        let head = self.head();
        workspace.pooled.resize(head.features.channels, 0.0);
        let last = &workspace.nodes[self.layouts.len() - 1];
        for (image, logits) in logits.chunks_mut(self.graph.num_classes).enumerate() {
            head.pool(part(last, image, &head.features), &mut workspace.pooled);
            head.logits(&workspace.pooled, logits);
        }
    }

    fn forward_backward(
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

fn part<'a>(buffer: &'a Buffer, image: usize, layout: &Layout) -> &'a [f32] {
    &buffer[image * layout.len()..][..layout.len()]
}

fn parts<'a>(buffer: &'a Buffer, images: usize, layout: &Layout) -> Vec<&'a [f32]> {
    buffer.chunks(layout.len()).take(images).collect()
}

fn part_mut<'a>(buffer: &'a mut Buffer, image: usize, layout: &Layout) -> &'a mut [f32] {
    &mut buffer[image * layout.len()..][..layout.len()]
}

fn check_places(places: &[(usize, usize)], patch: (usize, usize), batch: usize) -> Result<()> {
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
    use candle::DType;
    use rand::Rng;

    use super::*;
    use crate::on_threads::on_threads;
    use crate::small_networks::KINDS;
    use crate::{Network, ResNetConfig, Seeds};

    fn classifier_and_images(batch: usize) -> (FrozenClassifier, Tensor) {
        classifier_of(KINDS[0], batch)
    }

    fn classifier_of(kind: &str, batch: usize) -> (FrozenClassifier, Tensor) {
        let mut rng = Seeds::new(4, "weights").start();
        let config = ResNetConfig::new(kind.parse().unwrap(), 6, 3);
        let mut network = Network::resnet(config, Normalization::cifar10(), &mut rng).unwrap();
        let pixels: Vec<f32> = (0..batch * 3072).map(|_| rng.random()).collect();
        let images = Tensor::from_vec(pixels, (batch, 3, 32, 32), &Device::Cpu).unwrap();
        // Running statistics that normalize, so that the classes' scores differ.
        for _ in 0..40 {
            network.training_logits(&images).unwrap();
        }
        (network.freeze().unwrap(), images)
    }

    #[test]
    fn folding_changes_the_logits_by_rounding_only() {
        let mut rng = Seeds::new(4, "weights").start();
        let config = ResNetConfig::resnet18(6, 3);
        let mut network = Network::resnet(config, Normalization::cifar10(), &mut rng).unwrap();
        let pixels: Vec<f32> = (0..4 * 3072).map(|_| rng.random()).collect();
        let images = Tensor::from_vec(pixels, (4, 3, 32, 32), &Device::Cpu).unwrap();
        // After many passes over one batch the running statistics are the batch's, but for the
        // running variance being the unbiased one: 16/15 of it where a stage has 4×4 pixels.
        let mut training = network.training_logits(&images).unwrap();
        for _ in 0..200 {
            training = network.training_logits(&images).unwrap();
        }
        let frozen = network.freeze().unwrap().logits(&images).unwrap();
        let difference = (frozen - &training)
            .unwrap()
            .sqr()
            .unwrap()
            .sum_all()
            .unwrap();
        let size = training
            .sqr()
            .unwrap()
            .sum_all()
            .unwrap()
            .to_scalar::<f32>()
            .unwrap();
        assert!(difference.to_scalar::<f32>().unwrap() < 0.02 * size);
    }

    #[test]
    fn groups_and_threads_do_not_change_a_figure() {
        KINDS
            .into_iter()
            .for_each(one_figure_for_all_groups_and_threads);
    }

    fn one_figure_for_all_groups_and_threads(kind: &str) {
        let batch = GROUP + 3;
        let (classifier, images) = classifier_of(kind, batch);
        let places: Vec<(usize, usize)> = (0..batch).map(|i| (i % 30, 29 - i % 30)).collect();
        let with = |threads: usize| {
            on_threads(threads, || {
                let logits: Vec<Vec<f32>> = classifier.logits(&images).unwrap().to_vec2().unwrap();
                let (_, gradients) = classifier
                    .target_probability_gradient(&images, 1, &places, (3, 3), 0.5)
                    .unwrap();
                let gradients: Vec<f32> = gradients.flatten_all().unwrap().to_vec1().unwrap();
                (logits, gradients)
            })
        };
        let together = with(1);
        assert!(together.1.iter().any(|g| *g != 0.0));
        for threads in [2, 3, 40] {
            assert!(together == with(threads), "{threads} threads");
        }
        for (image, expected) in together.0.iter().enumerate() {
            let alone = classifier
                .logits(&images.narrow(0, image, 1).unwrap())
                .unwrap();
            assert_eq!(&alone.to_vec2::<f32>().unwrap()[0], expected);
        }
    }

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
            .target_probability_gradient(&images, 1, &places, (2, 3), 2.0)
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
            .target_probability_gradient(&images, 2, &places, (3, 3), 2.0)
            .unwrap();
        let (same, of_logarithm) = classifier
            .target_log_probability_gradient(&images, 2, &places, (3, 3))
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
            .target_probability_gradient(&images, 0, &places, (32, 32), sorted[2])
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
            .target_probability_gradient(&images, 0, &places, (32, 32), 0.0)
            .unwrap();
        let square = gradients.sqr().unwrap().sum_all().unwrap();
        assert!(square.to_scalar::<f32>().unwrap() == 0.0, "none needs one");
    }

    #[test]
    fn refuses_a_patch_that_leaves_its_image() {
        let (classifier, _) = classifier_and_images(1);
        let images = Tensor::zeros((1, 3, 32, 32), DType::F32, &Device::Cpu).unwrap();
        let refused = classifier.target_probability_gradient(&images, 0, &[(30, 0)], (3, 3), 1.0);
        assert!(matches!(
            refused,
            Err(Error::Batch {
                what: "a patch's place",
                ..
            })
        ));
        assert!(classifier.target_probability(&images, 3).is_err());
    }
}
