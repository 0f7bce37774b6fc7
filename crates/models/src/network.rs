//! A classifier in training: units run forward and backward over a batch, without a graph.

use candle::{DType, Device, Tensor};
use mesa_kernels::{
    Activations, Buffer, Completed, ConvShape, FixedNorm, GradientTarget, Head, Input, Layout,
    Path, Scratch, Unit, UnitGradients, UnitWeights, cross_entropy,
};
use rand::Rng;
use rayon::prelude::*;

use crate::frozen::Layer;
use crate::graph::{COLORS, Graph, IMAGE_SIDE};
use crate::init;
use crate::state::NamedTensors;
use crate::{Error, FrozenClassifier, Normalization, ResNetConfig, Result};

/// How a learned tensor lies in memory.
#[derive(Clone, Debug)]
pub(crate) enum ParameterShape {
    /// A convolution's weights, packed; (out, in, side, side) outside.
    Conv(ConvShape),
    /// Anything else, as it is.
    Plain(Vec<usize>),
}

/// A learned tensor and its gradient.
#[derive(Clone, Debug)]
pub(crate) struct Parameter {
    pub(crate) name: String,
    pub(crate) shape: ParameterShape,
    pub(crate) values: Buffer,
    pub(crate) gradient: Buffer,
}

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
    /// Of each unit that has batch norm.
    running: Vec<Option<Running>>,
    path: Path,
    engine: Engine,
}

/// Buffers of the training step, planned once and reused.
#[derive(Clone, Debug)]
struct Engine {
    units: Vec<Unit>,
    layouts: Vec<Layout>,
    image: Buffer,
    kept: Vec<Activations>,
    pooled: Vec<f32>,
    logits: Vec<f32>,
    scratch: Scratch,
    free: Vec<Buffer>,
}

impl Network {
    /// A residual network with weights as PyTorch initializes them.
    ///
    /// # Errors
    ///
    /// [`Error::ResNetConfig`] for sizes no network has; [`Error::Kernel`] if `MESA_CPU` names no
    /// path of this processor.
    pub fn resnet(
        config: ResNetConfig,
        normalization: Normalization,
        rng: &mut impl Rng,
    ) -> Result<Self> {
        config.validate()?;
        let graph = config.graph();
        let mut parameters = Vec::new();
        let mut running = Vec::new();
        for unit in &graph.units {
            let shape = unit.shape;
            let (count, fan_in) = (shape.out_channels, shape.in_channels * shape.taps());
            let weights = init::uniform(count * fan_in, fan_in, rng);
            let conv = Buffer::from_slice(&shape.pack(&weights)?);
            parameters.push(Parameter::new(
                format!("{}.weight", unit.conv),
                ParameterShape::Conv(shape),
                conv,
            ));
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
    /// [`Error::Batch`] for shapes or labels that do not belong to the network.
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
    /// [`Error::Batch`] for images of another shape.
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

    fn forward(&mut self, images: &[f32], batch: usize) {
        let engine = &mut self.engine;
        let image_layout = engine.layouts[0];
        if engine.image.len() != batch * image_layout.len() {
            engine.image = Buffer::zeros(batch * image_layout.len());
        }
        engine
            .image
            .par_chunks_mut(image_layout.len())
            .zip(images.par_chunks(COLORS * IMAGE_SIDE * IMAGE_SIDE))
            .for_each(|(target, pixels)| {
                load_image(&self.normalization, pixels, &image_layout, target);
            });
        for (index, spec) in self.graph.units.iter().enumerate() {
            // An output is normalized by the first unit that convolves it.
            let pending = spec.input > 0 && self.graph.first_reader(spec.input) == Some(index);
            let (before, after) = engine.kept.split_at_mut(index);
            let skip = spec.skip.map(|skip| (skip, before[skip].take_raw()));
            let input = match spec.input {
                0 => Input::Ready(&engine.image),
                node if pending => self.graph.pending(&engine.units, before, node),
                node => Input::Ready(before[node - 1].output()),
            };
            let weights = unit_weights(&self.parameters[self.graph.parameters(index)]);
            let unit = &engine.units[index];
            let moments = unit.forward(
                self.path,
                batch,
                input,
                weights,
                skip.as_ref().map(|(_, raw)| &raw[..]),
                &mut after[0],
                &mut engine.scratch,
            );
            if let Some((skip, raw)) = skip {
                before[skip].give_raw(raw);
            }
            let Some(running) = &mut self.running[index] else {
                continue;
            };
            for (old, new) in [
                (&mut running.mean, moments.mean),
                (&mut running.variance, moments.variance),
            ] {
                for (old, new) in old.iter_mut().zip(new) {
                    *old = (1.0 - RUNNING_MOMENTUM) * *old + RUNNING_MOMENTUM * new;
                }
            }
        }
        let last = self.graph.units.len();
        if let Input::Pending {
            unit,
            kept,
            residual,
        } = self.graph.pending(&engine.units, &mut engine.kept, last)
        {
            unit.finish(self.path, batch, kept, residual);
        }
        let (features, classes) = (self.graph.features(), self.config.num_classes);
        engine.pooled.resize(batch * features, 0.0);
        engine.logits.resize(batch * classes, 0.0);
        let head = head(&self.parameters, engine.last_layout());
        let last = engine
            .kept
            .last()
            .map_or(&engine.image[..], Activations::output);
        engine
            .pooled
            .par_chunks_mut(features)
            .zip(engine.logits.par_chunks_mut(classes))
            .zip(last.par_chunks(head.features.len()))
            .for_each(|((pooled, logits), image)| {
                head.pool(image, pooled);
                head.logits(pooled, logits);
            });
    }

    /// The mean loss; leaves its gradient where the logits were.
    fn loss(&mut self, labels: &[u32], smoothing: f32) -> BatchLoss {
        let share = 1.0 / labels.len() as f32;
        let mut loss = BatchLoss {
            loss: 0.0,
            correct: 0,
        };
        for (logits, &label) in self
            .engine
            .logits
            .chunks_mut(self.config.num_classes)
            .zip(labels)
        {
            loss.correct += usize::from(argmax(logits) == label as usize);
            loss.loss += f64::from(cross_entropy(logits, label as usize, smoothing));
            for g in logits.iter_mut() {
                *g *= share;
            }
        }
        loss.loss /= labels.len() as f64;
        loss
    }

    fn backward(&mut self, batch: usize) {
        self.head_gradients();
        let engine = &mut self.engine;
        let mut gradients: Vec<Option<Buffer>> = vec![None; engine.layouts.len()];
        // What reaches a unit's sum past its batch norm.
        let mut of_skips: Vec<Option<Buffer>> = vec![None; engine.units.len()];
        // The gradient of the last node, broadcast over its pixels.
        let last = *engine.units[engine.units.len() - 1].output_gradient();
        let mut gradient = take(&mut engine.free, batch * last.len());
        let head = head(&self.parameters, engine.last_layout());
        gradient
            .par_chunks_mut(last.len())
            .zip(engine.logits.par_chunks(self.config.num_classes))
            .for_each(|(gradient, logits)| head.feature_gradient(logits, &last, gradient));
        *gradients.last_mut().expect("the image is a node") = Some(gradient);

        let last = self.graph.units.len() - 1;
        if let Some(gradient) = &gradients[last + 1] {
            engine.units[last].reduce(self.path, &mut engine.kept[last], gradient);
        }
        for (index, spec) in self.graph.units.iter().enumerate().rev() {
            let Some(mut gradient) = gradients[index + 1].take() else {
                continue;
            };
            let of_skip = of_skips[index].take();
            let (before, after) = engine.kept.split_at_mut(index);
            // The first to reach a node writes its gradient, the others add to it, and the last
            // takes its sums. Nobody asks for the image's.
            let mut reached = |node: usize| {
                (node > 0).then(|| {
                    let len = batch * engine.units[node - 1].output_gradient().len();
                    let (values, accumulate) = match gradients[node].take() {
                        Some(values) => (values, true),
                        None => (take(&mut engine.free, len), false),
                    };
                    let completes = self.graph.first_reader(node) == Some(index);
                    let sums = if completes {
                        before[node - 1].take_sums()
                    } else {
                        Vec::new()
                    };
                    Reached {
                        node,
                        values,
                        accumulate,
                        completes,
                        sums,
                    }
                })
            };
            let mut residual = spec.residual.and_then(&mut reached);
            let mut input_gradient = reached(spec.input);
            let input = match spec.input {
                0 => &engine.image[..],
                node => before[node - 1].output(),
            };
            let (weights, mut targets) =
                unit_gradients(&mut self.parameters[self.graph.parameters(index)]);
            engine.units[index].backward(
                self.path,
                input,
                weights,
                &mut after[0],
                &mut gradient,
                of_skip.as_deref(),
                residual
                    .as_mut()
                    .map(|reached| reached.target(&engine.units, before)),
                input_gradient
                    .as_mut()
                    .map(|reached| reached.target(&engine.units, before)),
                &mut targets,
                &mut engine.scratch,
            );
            for reached in [residual, input_gradient].into_iter().flatten() {
                if reached.completes {
                    before[reached.node - 1].give_sums(reached.sums);
                }
                gradients[reached.node] = Some(reached.values);
            }
            engine.free.extend(of_skip);
            match spec.skip {
                None => engine.free.push(gradient),
                // Where there is no batch norm, a sum is the output.
                Some(skip) if self.graph.units[skip].norm.is_none() => {
                    gradients[skip + 1] = Some(gradient);
                }
                Some(skip) => of_skips[skip] = Some(gradient),
            }
        }
    }

    fn head_gradients(&mut self) {
        let features = self.graph.features();
        let engine = &self.engine;
        let [.., weight, bias] = &mut self.parameters[..] else {
            unreachable!("a network ends in a linear layer");
        };
        weight.gradient.fill(0.0);
        bias.gradient.fill(0.0);
        let images = engine
            .logits
            .chunks(self.config.num_classes)
            .zip(engine.pooled.chunks(features));
        for (logits, pooled) in images {
            for (class, g) in logits.iter().enumerate() {
                bias.gradient[class] += g;
                let row = &mut weight.gradient[class * features..][..features];
                for (sum, x) in row.iter_mut().zip(pooled) {
                    *sum += g * x;
                }
            }
        }
    }

    /// The network as it is, for inference: batch norm folded into the convolutions whose sums nothing
    /// else needs.
    ///
    /// # Errors
    ///
    /// [`Error::Kernel`] if a shape has no kernel.
    pub fn freeze(&self) -> Result<FrozenClassifier> {
        let head = head(&self.parameters, self.engine.last_layout());
        let layers = (0..self.graph.units.len()).map(|index| {
            let weights = unit_weights(&self.parameters[self.graph.parameters(index)]);
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

    /// Every learned tensor and running statistic under its PyTorch name, in PyTorch's layout.
    ///
    /// # Errors
    ///
    /// [`Error::Tensor`] if candle cannot make one.
    pub fn state(&self) -> Result<NamedTensors> {
        let mut state = NamedTensors::new();
        for parameter in &self.parameters {
            state.insert(parameter.name.clone(), parameter.tensor(&parameter.values)?);
        }
        for (unit, running) in self.graph.units.iter().zip(&self.running) {
            let (Some(norm), Some(running)) = (&unit.norm, running) else {
                continue;
            };
            for (name, values) in [
                ("running_mean", &running.mean),
                ("running_var", &running.variance),
            ] {
                let tensor = Tensor::from_slice(values, values.len(), &Device::Cpu)?;
                state.insert(format!("{norm}.{name}"), tensor);
            }
        }
        Ok(state)
    }

    /// The gradients of the last [`Network::gradients`], by name, in PyTorch's layout.
    ///
    /// # Errors
    ///
    /// [`Error::Tensor`] if candle cannot make one.
    pub fn gradient_state(&self) -> Result<NamedTensors> {
        let of = |parameter: &Parameter| {
            Ok((
                parameter.name.clone(),
                parameter.tensor(&parameter.gradient)?,
            ))
        };
        self.parameters.iter().map(of).collect()
    }

    /// Takes the tensors of a [`Network::state`].
    ///
    /// # Errors
    ///
    /// [`Error::MissingTensor`], [`Error::UnexpectedTensor`] or [`Error::TensorShape`] by name;
    /// the network is then as it was.
    pub fn load_state(&mut self, state: &NamedTensors) -> Result<()> {
        crate::state::check(&self.state()?, state)?;
        for parameter in &mut self.parameters {
            let values = host_values(&state[&parameter.name])?;
            parameter.set(&values)?;
        }
        for (unit, running) in self.graph.units.iter().zip(&mut self.running) {
            if let (Some(norm), Some(running)) = (&unit.norm, running) {
                running.mean = host_values(&state[&format!("{norm}.running_mean")])?;
                running.variance = host_values(&state[&format!("{norm}.running_var")])?;
            }
        }
        Ok(())
    }
}

impl Engine {
    fn new(graph: &Graph) -> Result<Self> {
        let layouts = graph.layouts();
        let units = graph.units.iter().map(|spec| match spec.norm {
            Some(_) => Unit::new(spec.shape, layouts[spec.input], spec.relu),
            None => Unit::plain(spec.shape, layouts[spec.input]),
        });
        Ok(Self {
            units: units.collect::<Result<_, _>>()?,
            kept: vec![Activations::default(); graph.units.len()],
            layouts,
            image: Buffer::default(),
            pooled: Vec::new(),
            logits: Vec::new(),
            scratch: Scratch::default(),
            free: Vec::new(),
        })
    }

    fn last_layout(&self) -> Layout {
        self.layouts[self.layouts.len() - 1]
    }
}

impl Parameter {
    fn new(name: String, shape: ParameterShape, values: Buffer) -> Self {
        let gradient = Buffer::zeros(values.len());
        Self {
            name,
            shape,
            values,
            gradient,
        }
    }

    /// Its dimensions in PyTorch's layout.
    pub(crate) fn dims(&self) -> Vec<usize> {
        match &self.shape {
            ParameterShape::Conv(shape) => {
                vec![
                    shape.out_channels,
                    shape.in_channels,
                    shape.kernel,
                    shape.kernel,
                ]
            }
            ParameterShape::Plain(dims) => dims.clone(),
        }
    }

    /// `values`, which lie as the parameter's, as a tensor in PyTorch's layout.
    pub(crate) fn tensor(&self, values: &[f32]) -> Result<Tensor> {
        let values = match &self.shape {
            ParameterShape::Conv(shape) => shape.unpack(values)?,
            ParameterShape::Plain(_) => values.to_vec(),
        };
        Ok(Tensor::from_vec(values, self.dims(), &Device::Cpu)?)
    }

    /// The inverse of [`Parameter::tensor`].
    pub(crate) fn pack(&self, values: &[f32]) -> Result<Buffer> {
        Ok(match &self.shape {
            ParameterShape::Conv(shape) => Buffer::from_slice(&shape.pack(values)?),
            ParameterShape::Plain(_) => Buffer::from_slice(values),
        })
    }

    fn set(&mut self, values: &[f32]) -> Result<()> {
        self.values = self.pack(values)?;
        Ok(())
    }
}

/// Of the parameters of one unit.
fn unit_weights(parameters: &[Parameter]) -> UnitWeights<'_> {
    let (gamma, beta): (&[f32], &[f32]) = match &parameters[1..] {
        [gamma, beta] => (&gamma.values, &beta.values),
        _ => (&[], &[]),
    };
    UnitWeights {
        conv: &parameters[0].values,
        gamma,
        beta,
    }
}

/// The convolution's weights and all gradients, of the parameters of one unit.
fn unit_gradients(parameters: &mut [Parameter]) -> (&[f32], UnitGradients<'_>) {
    let (first, norm) = parameters.split_at_mut(1);
    let Parameter {
        values, gradient, ..
    } = &mut first[0];
    let (gamma, beta): (&mut [f32], &mut [f32]) = match norm {
        [gamma, beta] => (&mut gamma.gradient, &mut beta.gradient),
        _ => (&mut [], &mut []),
    };
    let targets = UnitGradients {
        conv: gradient,
        gamma,
        beta,
    };
    (values, targets)
}

fn head(parameters: &[Parameter], features: Layout) -> Head<'_> {
    let [.., weight, bias] = parameters else {
        unreachable!("a network ends in a linear layer");
    };
    Head {
        features,
        weights: &weight.values,
        bias: &bias.values,
    }
}

/// A node that a unit's backward pass reaches.
struct Reached {
    node: usize,
    values: Buffer,
    accumulate: bool,
    /// Whether no other unit adds to its gradient.
    completes: bool,
    sums: Vec<f32>,
}

impl Reached {
    fn target<'a>(&'a mut self, units: &'a [Unit], kept: &'a [Activations]) -> GradientTarget<'a> {
        let (unit, kept) = (&units[self.node - 1], &kept[self.node - 1]);
        let sums = &mut self.sums;
        GradientTarget {
            values: &mut self.values,
            accumulate: self.accumulate,
            completes: self.completes.then_some(Completed { unit, kept, sums }),
        }
    }
}

/// A buffer of `len` floats, of any content: a used one where there is one.
fn take(free: &mut Vec<Buffer>, len: usize) -> Buffer {
    match free.iter().position(|buffer| buffer.len() == len) {
        Some(at) => free.swap_remove(at),
        None => Buffer::zeros(len),
    }
}

/// Normalizes an image (3, 32, 32) into channels-last memory with a border.
pub(crate) fn load_image(
    normalization: &Normalization,
    pixels: &[f32],
    layout: &Layout,
    target: &mut [f32],
) {
    let plane = IMAGE_SIDE * IMAGE_SIDE;
    for color in 0..COLORS {
        let (mean, scale) = (normalization.mean[color], 1.0 / normalization.std[color]);
        for row in 0..IMAGE_SIDE {
            let source = &pixels[color * plane + row * IMAGE_SIDE..][..IMAGE_SIDE];
            let at = layout.offset(row, 0) + color;
            for (column, pixel) in source.iter().enumerate() {
                target[at + column * layout.stride] = (pixel - mean) * scale;
            }
        }
    }
}

/// The place of the largest value, the first of equals.
pub(crate) fn argmax(values: &[f32]) -> usize {
    let mut best = 0;
    for (index, value) in values.iter().enumerate() {
        if *value > values[best] {
            best = index;
        }
    }
    best
}

pub(crate) fn host_values(tensor: &Tensor) -> Result<Vec<f32>> {
    Ok(tensor.to_device(&Device::Cpu)?.flatten_all()?.to_vec1()?)
}

/// The pixels of `(B, 3, 32, 32)` images.
pub(crate) fn host_images(images: &Tensor) -> Result<Vec<f32>> {
    let dims = images.dims();
    let fits = matches!(dims, [_, COLORS, IMAGE_SIDE, IMAGE_SIDE]) && images.dtype() == DType::F32;
    if !fits || dims[0] == 0 {
        return Err(Error::Batch {
            what: "images",
            expected: format!("F32 (B, {COLORS}, {IMAGE_SIDE}, {IMAGE_SIDE}), B above 0"),
            found: format!("{:?} {dims:?}", images.dtype()),
        });
    }
    host_values(images)
}

fn check_labels(labels: &Tensor, images: &Tensor, classes: usize) -> Result<Vec<u32>> {
    let batch = images.dims().first().copied().unwrap_or(0);
    if labels.dims() != [batch] || labels.dtype() != DType::U32 {
        return Err(Error::Batch {
            what: "labels",
            expected: format!("U32 ({batch},), one for each image"),
            found: format!("{:?} {:?}", labels.dtype(), labels.dims()),
        });
    }
    let labels: Vec<u32> = labels.to_device(&Device::Cpu)?.to_vec1()?;
    match labels.iter().find(|label| **label as usize >= classes) {
        Some(label) => Err(Error::Batch {
            what: "a label",
            expected: format!("below {classes}, the number of classes"),
            found: label.to_string(),
        }),
        None => Ok(labels),
    }
}

#[cfg(test)]
mod tests {
    use std::ops::ControlFlow;

    use super::*;
    use crate::on_threads::on_threads;
    use crate::{BatchSource, BoxError, Position, Seeds, Sgd, Status, Trainer, TrainingConfig};

    /// Batch norm behind the convolutions, and before.
    const KINDS: [&str; 2] = ["resnet18", "preactresnet18"];

    fn network(width: usize) -> Network {
        network_of(KINDS[0], width)
    }

    fn network_of(kind: &str, width: usize) -> Network {
        let config = ResNetConfig::new(kind.parse().unwrap(), width, 4);
        let mut rng = Seeds::new(1, "weights").start();
        Network::resnet(config, Normalization::cifar10(), &mut rng).unwrap()
    }

    /// Images whose class shows in their brightness.
    struct Shades;

    impl BatchSource for Shades {
        fn steps_per_epoch(&self) -> usize {
            4
        }

        fn batch(&mut self, at: Position) -> Result<(Tensor, Tensor), BoxError> {
            let mut rng = Seeds::new(2, "shades").at(at);
            let labels: Vec<u32> = (0..6).map(|_| rng.random_range(0..4)).collect();
            let pixel = |label: &u32| *label as f32 / 4.0;
            let pixels: Vec<f32> = labels
                .iter()
                .flat_map(|label| (0..3072).map(|_| pixel(label)).collect::<Vec<_>>())
                .map(|shade: f32| shade + rng.random_range(0.0..0.2))
                .collect();
            let images = Tensor::from_vec(pixels, (6, 3, 32, 32), &Device::Cpu)?;
            Ok((images, Tensor::from_vec(labels, 6, &Device::Cpu)?))
        }
    }

    fn bits(network: &Network) -> Vec<(String, Vec<u32>)> {
        let values = |tensor: &Tensor| tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let state = network.state().unwrap();
        let of = |(name, tensor): (&String, &Tensor)| {
            (
                name.clone(),
                values(tensor).iter().map(|value| value.to_bits()).collect(),
            )
        };
        state.iter().map(of).collect()
    }

    fn trainer(kind: &str) -> Trainer {
        let config = TrainingConfig {
            epochs: 2,
            batch_size: 6,
            learning_rate: 0.05,
            weight_decay: 1e-3,
            ..TrainingConfig::paper()
        };
        Trainer::new(network_of(kind, 5), config).unwrap()
    }

    #[test]
    fn a_run_stopped_anywhere_ends_with_the_same_bits() {
        let mut whole = trainer(KINDS[0]);
        whole
            .run(&mut Shades, &mut |_| ControlFlow::Continue(()))
            .unwrap();
        assert!(whole.history()[1].loss < whole.history()[0].loss);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state");
        for stop in [1, 4, 6] {
            let mut first = trainer(KINDS[0]);
            let status = first.run(&mut Shades, &mut |trainer| {
                if trainer.steps_done() == stop {
                    ControlFlow::Break(())
                } else {
                    ControlFlow::Continue(())
                }
            });
            assert_eq!(status.unwrap(), Status::Stopped);
            first.save_state(&path).unwrap();
            let mut second = trainer(KINDS[0]);
            second.load_state(&path).unwrap();
            second
                .run(&mut Shades, &mut |_| ControlFlow::Continue(()))
                .unwrap();
            assert_eq!(bits(second.network()), bits(whole.network()));
            assert_eq!(second.history(), whole.history());
        }
    }

    #[test]
    fn any_number_of_threads_gives_the_same_bits() {
        for kind in KINDS {
            let with = |threads: usize| {
                on_threads(threads, || {
                    let mut trainer = trainer(kind);
                    trainer
                        .run(&mut Shades, &mut |_| ControlFlow::Continue(()))
                        .unwrap();
                    bits(trainer.network())
                })
            };
            assert_eq!(with(1), with(2));
            assert_eq!(with(1), with(5));
        }
    }

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
        let mut network = network(2);
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
