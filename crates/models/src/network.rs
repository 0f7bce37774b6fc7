//! A classifier in training: units run forward and backward over a batch, without a graph.

mod parameter;
mod passes;
mod state;

use candle::{Device, Tensor};
use mesa_kernels::{Buffer, FixedNorm, Path};
use rand::Rng;

use self::parameter::{Parameter, ParameterShape, unit_weights};
use self::passes::{Engine, head};
use crate::frozen::Layer;
use crate::graph::{COLORS, Graph, IMAGE_SIDE};
use crate::host::{check_labels, host_images};
use crate::init;
use crate::{FrozenClassifier, Normalization, ResNetConfig, Result};

/// Batch norm's running statistics of one unit.
#[derive(Clone, Debug)]
pub(crate) struct Running {
    pub(crate) mean: Vec<f32>,
    pub(crate) variance: Vec<f32>,
}

/// Share of the newest batch in the running statistics.
pub(crate) const RUNNING_MOMENTUM: f32 = 0.1;

/// What one training step found.
#[derive(Copy, Clone, Debug, PartialEq)]
pub struct BatchLoss {
    /// Mean cross-entropy, in nats.
    pub loss: f64,
    /// Images that were classified right, before the step.
    pub correct: usize,
}

/// A classifier whose weights are learned.
///
/// # Examples
///
/// ```
/// use candle::{DType, Device, Tensor};
/// use mesa_models::{Network, Normalization, ResNetConfig, Seeds, Sgd};
///
/// let config = ResNetConfig::resnet18(4, 10);
/// let mut rng = Seeds::new(0, "weights").start();
/// let mut network = Network::resnet(config, Normalization::cifar10(), &mut rng)?;
/// let mut sgd = Sgd::new(0.9, 0.0);
///
/// let images = Tensor::zeros((2, 3, 32, 32), DType::F32, &Device::Cpu)?;
/// let labels = Tensor::new(&[3_u32, 1], &Device::Cpu)?;
/// let before = network.gradients(&images, &labels, 0.0)?;
/// sgd.step(&mut network, 0.05);
/// let after = network.gradients(&images, &labels, 0.0)?;
/// assert!(after.loss < before.loss);
/// # Ok::<(), mesa_models::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Network {
    config: ResNetConfig,
    normalization: Normalization,
    graph: Graph,
    /// In the order of [`Graph::parameters`].
    parameters: Vec<Parameter>,
    /// The weights of each unit that learns none ([`UnitSpec::selection`]), with room for a gradient that
    /// nobody reads.
    selections: Vec<Option<Parameter>>,
    /// Of each unit that has batch norm.
    running: Vec<Option<Running>>,
    path: Path,
    engine: Engine,
}

impl Network {
    /// A residual network with weights as PyTorch initializes them.
    ///
    /// # Errors
    ///
    /// [`crate::Error::ResNetConfig`] for sizes no network has; [`crate::Error::Kernel`] if
    /// `MESA_CPU` names no path of this processor.
    pub fn resnet(
        config: ResNetConfig,
        normalization: Normalization,
        rng: &mut impl Rng,
    ) -> Result<Self> {
        config.validate()?;
        let graph = config.graph();
        let mut parameters = Vec::new();
        let mut selections = Vec::new();
        let mut running = Vec::new();
        for unit in &graph.units {
            let (count, fan_in) = (
                unit.shape.out_channels,
                unit.shape.in_channels * unit.shape.taps(),
            );
            let filter = |weights: &[f32]| Parameter::filter(unit, weights);
            let selection = unit.selection();
            if selection.is_none() {
                parameters.push(filter(&init::uniform(count * fan_in, fan_in, rng))?);
            }
            selections.push(selection.map(|weights| filter(&weights)).transpose()?);
            let Some(norm) = &unit.norm else {
                running.push(None);
                continue;
            };
            for (name, value) in [("weight", 1.0), ("bias", 0.0)] {
                parameters.push(Parameter::new(
                    format!("{norm}.{name}"),
                    ParameterShape::Plain(vec![count]),
                    Buffer::from_slice(&vec![value; count]),
                ));
            }
            running.push(Some(Running {
                mean: vec![0.0; count],
                variance: vec![1.0; count],
            }));
        }
        let (features, classes) = (graph.features(), config.num_classes);
        let dims = [vec![classes, features], vec![classes]];
        for (name, dims) in graph.head_names().into_iter().zip(dims) {
            let values = init::uniform(dims.iter().product(), features, rng);
            let values = Buffer::from_slice(&values);
            parameters.push(Parameter::new(name, ParameterShape::Plain(dims), values));
        }
        let engine = Engine::new(&graph)?;
        let path = Path::current()?;
        Ok(Self {
            config,
            normalization,
            graph,
            parameters,
            selections,
            running,
            path,
            engine,
        })
    }

    /// The network's size.
    pub fn config(&self) -> ResNetConfig {
        self.config
    }

    /// What it takes from its images first.
    pub fn normalization(&self) -> Normalization {
        self.normalization
    }

    /// How many weights it learns.
    pub fn parameter_count(&self) -> usize {
        self.config.parameter_count()
    }

    /// Floating-point operations of one image's forward pass.
    pub fn operations(&self) -> f64 {
        self.graph.operations()
    }

    /// Runs a batch forward and backward in training mode: batch norm takes the batch's
    /// statistics and updates its running ones, and the gradient of the mean cross-entropy
    /// waits for an optimizer ([`crate::Sgd::step`]).
    ///
    /// # Shapes
    ///
    /// - `images`: f32 `(B, 3, 32, 32)`, in [0, 1].
    /// - `labels`: u32 `(B,)`.
    /// - `label_smoothing`: the share of the label that is spread over all classes.
    ///
    /// # Errors
    ///
    /// [`crate::Error::Batch`] for shapes or labels that do not belong to the network.
    pub fn gradients(
        &mut self,
        images: &Tensor,
        labels: &Tensor,
        label_smoothing: f64,
    ) -> Result<BatchLoss> {
        let labels = check_labels(labels, images, self.config.num_classes)?;
        let images = host_images(images)?;
        self.forward(&images, labels.len());
        let loss = self.loss(&labels, label_smoothing as f32);
        self.backward(labels.len());
        Ok(loss)
    }

    /// Logits `(B, K)` of a batch in *training mode*, as the last [`Network::gradients`] would
    /// have them; updates the running statistics. For tests and inspection: inference is
    /// [`Network::freeze`].
    ///
    /// # Errors
    ///
    /// [`crate::Error::Batch`] for images of another shape.
    pub fn training_logits(&mut self, images: &Tensor) -> Result<Tensor> {
        let values = host_images(images)?;
        let batch = values.len() / (COLORS * IMAGE_SIDE * IMAGE_SIDE);
        self.forward(&values, batch);
        let shape = (batch, self.config.num_classes);
        Ok(Tensor::from_slice(
            &self.engine.logits,
            shape,
            &Device::Cpu,
        )?)
    }

    /// The network as it is, for inference: batch norm folded into the convolutions whose sums nothing
    /// else needs.
    ///
    /// # Errors
    ///
    /// [`crate::Error::Kernel`] if a shape has no kernel.
    pub fn freeze(&self) -> Result<FrozenClassifier> {
        let head = head(&self.parameters, self.engine.last_layout());
        let layers = (0..self.graph.units.len()).map(|index| {
            let learned = &self.parameters[self.graph.parameters(index)];
            let weights = unit_weights(self.selections[index].as_ref(), learned);
            let shape = &self.graph.units[index].shape;
            match &self.running[index] {
                Some(Running { mean, variance }) if self.graph.keeps_sum(index) => {
                    let norm = FixedNorm::new(weights.gamma, weights.beta, mean, variance);
                    Layer::plain(shape, weights.conv, Some(norm))
                }
                Some(Running { mean, variance }) => {
                    Layer::folded(mesa_kernels::fold(shape, weights, mean, variance))
                }
                None => Layer::plain(shape, weights.conv, None),
            }
        });
        FrozenClassifier::new(
            self.graph.clone(),
            self.normalization,
            self.path,
            layers.collect(),
            (head.weights.to_vec(), head.bias.to_vec()),
        )
    }

    pub(crate) fn parameters_mut(&mut self) -> &mut [Parameter] {
        &mut self.parameters
    }

    pub(crate) fn parameters(&self) -> &[Parameter] {
        &self.parameters
    }
}

#[cfg(test)]
mod tests {
    use candle::DType;
    use rand::Rng;

    use super::*;
    use crate::on_threads::on_threads;
    use crate::small_networks::{KINDS, bits, network_of};
    use crate::{Error, Seeds, Sgd};

    /// Buffers grow and shrink with the batch; what was in them decides nothing.
    #[test]
    fn a_batch_after_one_of_another_size_gives_the_same_bits() {
        let mut rng = Seeds::new(5, "images").start();
        let pixels: Vec<f32> = (0..6 * 3072).map(|_| rng.random()).collect();
        let images = Tensor::from_vec(pixels, (6, 3, 32, 32), &Device::Cpu).unwrap();
        let labels = Tensor::new(&[0_u32, 1, 2, 3, 0, 1], &Device::Cpu).unwrap();
        for kind in KINDS {
            let gradients = |network: &mut Network, batch: usize| -> Vec<Vec<f32>> {
                let images = images.narrow(0, 0, batch).unwrap();
                let labels = labels.narrow(0, 0, batch).unwrap();
                network.gradients(&images, &labels, 0.0).unwrap();
                let of = |parameter: &Parameter| parameter.gradient.to_vec();
                network.parameters().iter().map(of).collect()
            };
            let mut used = network_of(kind, 5);
            for batch in [6, 4, 6, 1] {
                let mut fresh = network_of(kind, 5);
                assert!(
                    gradients(&mut used, batch) == gradients(&mut fresh, batch),
                    "{kind}, batch {batch}"
                );
            }
        }
    }

    #[test]
    fn batches_too_small_to_share_out_give_the_same_bits_on_any_number_of_threads() {
        // Wide enough for layers whose weight gradients come in parts.
        for (batch, kind) in [1, 2, 7]
            .map(|batch| KINDS.map(|kind| (batch, kind)))
            .concat()
        {
            let mut rng = Seeds::new(3, "images").start();
            let pixels: Vec<f32> = (0..batch * 3072).map(|_| rng.random()).collect();
            let images = Tensor::from_vec(pixels, (batch, 3, 32, 32), &Device::Cpu).unwrap();
            let labels = Tensor::zeros(batch, DType::U32, &Device::Cpu).unwrap();
            let with = |threads: usize| {
                on_threads(threads, || {
                    let mut network = network_of(kind, 16);
                    network.gradients(&images, &labels, 0.0).unwrap();
                    Sgd::new(0.9, 0.0).step(&mut network, 0.1);
                    bits(&network)
                })
            };
            let one = with(1);
            assert!(one == with(2) && one == with(5), "{kind}, batch {batch}");
        }
    }

    /// The middle layers of a network of this width have more weights than are summed group by group.
    #[test]
    fn gradients_of_wide_preactivated_networks_agree_with_finite_differences() {
        let mut rng = Seeds::new(4, "images").start();
        let pixels: Vec<f32> = (0..4 * 3072).map(|_| rng.random()).collect();
        let images = Tensor::from_vec(pixels, (4, 3, 32, 32), &Device::Cpu).unwrap();
        let labels = Tensor::new(&[0_u32, 1, 2, 3], &Device::Cpu).unwrap();
        let mut network = network_of(KINDS[1], 16);
        network.gradients(&images, &labels, 0.0).unwrap();
        for name in [
            "conv1.weight",
            "layer1.0.conv2.weight",
            "layer3.0.shortcut.0.weight",
        ] {
            let at = network.parameters().iter().position(|of| of.name == name);
            let at = at.unwrap();
            let gradient = network.parameters[at].gradient.to_vec();
            let square: f64 = gradient.iter().map(|g| f64::from(*g).powi(2)).sum();
            let loss = |step: f64| {
                let mut moved = network.clone();
                for (w, g) in moved.parameters[at].values.iter_mut().zip(&gradient) {
                    *w += (step * f64::from(*g)) as f32;
                }
                moved.gradients(&images, &labels, 0.0).unwrap().loss
            };
            // So long that the loss moves by a thousandth, far above its rounding.
            let step = 1e-3 / square;
            let difference = (loss(step) - loss(-step)) / (2.0 * step);
            assert!(
                (difference - square).abs() < 0.02 * square,
                "{name}: {difference}, not {square}"
            );
        }
    }

    #[test]
    fn refuses_labels_and_images_of_another_network() {
        let mut network = network_of(KINDS[0], 2);
        let images = Tensor::zeros((2, 3, 32, 32), DType::F32, &Device::Cpu).unwrap();
        let labels = |values: &[u32]| Tensor::new(values, &Device::Cpu).unwrap();
        for labels in [labels(&[0, 4]), labels(&[0])] {
            let refused = network.gradients(&images, &labels, 0.0);
            assert!(matches!(refused, Err(Error::Batch { .. })), "{refused:?}");
        }
        let small = Tensor::zeros((2, 3, 28, 28), DType::F32, &Device::Cpu).unwrap();
        assert!(matches!(
            network.gradients(&small, &labels(&[0, 1]), 0.0),
            Err(Error::Batch { what: "images", .. })
        ));
    }
}
