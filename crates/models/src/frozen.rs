//! A classifier that no longer changes: inference, and the gradient with respect to its images.
//!
//! With batch norm's statistics fixed (and, where nothing else needs a convolution's result, folded
//! into it) images do not depend on each other, so a group of images goes through the whole network,
//! and back, while its activations are in cache; groups run in parallel. Gradients of weights are never
//! computed, and nothing goes back for an image whose gradient nobody needs.

mod backward;
mod forward;

use std::sync::{Arc, Mutex};

use candle::{Device, Tensor};
use mesa_kernels::{
    Buffer, Conv, ConvInputGradient, ConvShape, FixedNorm, Layout, Path, TargetGradient, softmax,
};
use rayon::prelude::*;

use self::backward::{Target, check_places};
use self::forward::{Workspace, group_size};
use crate::graph::{COLORS, Graph, IMAGE_SIDE};
use crate::host::{argmax, host_images};
use crate::{Error, Normalization, Result};

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
            let input_gradient = if unit.input == 0 {
                // Never run: a patch's gradient reads the weights, as a plain sum's lie.
                let image = Layout::features(COLORS, input.height, input.width, 0);
                ConvInputGradient::direct(unit.shape, output, &image)?
            } else {
                ConvInputGradient::new(unit.shape, output, input)?
            };
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

    /// The probability of `target_class` for every image, and the gradient of what is `wanted` with
    /// respect to the pixels of a patch; zeros where none is.
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
    pub fn target_gradient(
        &self,
        images: &Tensor,
        target_class: u32,
        places: &[(usize, usize)],
        patch: (usize, usize),
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

#[cfg(test)]
mod tests {
    use candle::DType;
    use rand::Rng;

    use super::forward::GROUP;
    use super::*;
    use crate::on_threads::on_threads;
    use crate::small_networks::{KINDS, classifier_and_images, classifier_of};
    use crate::{Network, ResNetConfig, Seeds};

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
                    .target_gradient(
                        &images,
                        1,
                        &places,
                        (3, 3),
                        TargetGradient::Probability(0.5),
                    )
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
    fn refuses_a_patch_that_leaves_its_image() {
        let (classifier, _) = classifier_and_images(1);
        let images = Tensor::zeros((1, 3, 32, 32), DType::F32, &Device::Cpu).unwrap();
        let refused = classifier.target_gradient(
            &images,
            0,
            &[(30, 0)],
            (3, 3),
            TargetGradient::Probability(1.0),
        );
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
