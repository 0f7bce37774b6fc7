//! Buffers of one batch size, and the passes over a network's units.

use mesa_kernels::ConvShape;
use mesa_kernels::cuda::{
    BatchPlans, Colors, Convolution, CudaDevice, CudaHead, CudaNorm, DeviceBuffer, Gate,
    LinearParameters, NormParameters, OfResidual, Onward, PlanLimits, Precision, Residual, Totals,
    Values, padded,
};

use super::plan::{Backward, NormPlaces, Plan};
use super::state::pack_selections;
use super::{CudaSettings, DeviceBatch};
use crate::graph::{Graph, UnitSpec};
use crate::{Error, Result};

/// A network's numbers on the device.
#[derive(Debug)]
pub(crate) struct Weights {
    /// All learned tensors.
    pub(crate) values: DeviceBuffer<f32>,
    /// Those of convolutions, which come first, as these read them.
    pub(crate) copies: Values,
    /// All running statistics.
    pub(crate) running: DeviceBuffer<f32>,
}

/// Gradients of all learned tensors.
#[derive(Debug)]
pub(crate) struct Gradients {
    /// Unused where convolutions are.
    pub(crate) values: DeviceBuffer<f32>,
    /// Those of convolutions, which come first, in their type.
    pub(crate) convolutions: Values,
}

/// Which statistics batch norm takes.
pub(crate) enum Statistics<'a> {
    /// The batch's; the running ones, which come with it, move by this share towards them.
    Batch(&'a mut DeviceBuffer<f32>, f32),
    /// Those that [`Engine::fix`] has set.
    Fixed,
}

/// What one unit keeps.
#[derive(Debug)]
struct Layer {
    convolution: Convolution,
    /// The convolution's result, its skip added; not written where the convolution normalizes it with fixed
    /// statistics.
    raw: Values,
    norm: Option<CudaNorm>,
    /// Normalized, with its residual, behind the ReLU. Units with batch norm and without ReLU are only
    /// ever read as residuals, which are normalized on the way; those without batch norm have no other
    /// output than the sum.
    output: Option<Values>,
}

/// A network's buffers for one batch size.
#[derive(Debug)]
pub(crate) struct Engine {
    device: CudaDevice,
    graph: Graph,
    plan: Plan,
    backward: Backward,
    batch: usize,
    /// The plans of the batch, one buffer for each of the limits seen: recorded work knows which.
    plans: Vec<BatchPlans>,
    image: Values,
    /// The weights of units that learn none, where there are any.
    selections: Option<Values>,
    layers: Vec<Layer>,
    head: CudaHead,
    gradients: Vec<Values>,
}

impl Engine {
    /// Plans and allocates everything that batches of `batch` images need: for training, or for
    /// gradients of triggers.
    pub(crate) fn new(
        device: &CudaDevice,
        graph: &Graph,
        batch: usize,
        settings: CudaSettings,
        training: bool,
    ) -> Result<Self> {
        let precision = settings.precision;
        let plan = Plan::new(graph);
        let backward = plan.backward(graph);
        let len = |node: usize| {
            let (height, width, channels) = plan.nodes[node];
            batch * height * width * channels
        };
        let mut layers = Vec::with_capacity(graph.units.len());
        for (index, unit) in graph.units.iter().enumerate() {
            let (height, width, _) = plan.nodes[unit.input];
            let (rows, columns, channels) = plan.nodes[index + 1];
            let shape = ConvShape {
                in_channels: padded(unit.shape.in_channels),
                out_channels: padded(unit.shape.out_channels),
                ..unit.shape
            };
            let size = (height, width);
            let deterministic = settings.deterministic;
            let convolution =
                Convolution::new(device, shape, size, batch, precision, deterministic)?;
            // Nobody asks for the images' gradient, nor for weights' outside of training.
            convolution.prepare(unit.input > 0, training)?;
            let output = unit
                .relu
                .then(|| Values::zeros(device, len(index + 1), precision));
            let norm = unit.norm.as_ref();
            let norm =
                norm.map(|_| CudaNorm::new(device, batch * rows * columns, channels, precision));
            layers.push(Layer {
                convolution,
                raw: Values::zeros(device, len(index + 1), precision)?,
                norm: norm.transpose()?,
                output: output.transpose()?,
            });
        }
        let (height, width, channels) = plan.nodes[graph.units.len()];
        let pixels = height * width;
        let classes = graph.num_classes;
        let head = CudaHead::new(device, batch, pixels, channels, classes, precision)?;
        let slots = backward.slots.iter();
        let gradients = slots.map(|len| Values::zeros(device, batch * len, precision));
        Ok(Self {
            device: device.clone(),
            graph: graph.clone(),
            batch,
            plans: Vec::new(),
            image: Values::zeros(device, len(0), precision)?,
            selections: selections(device, graph, &plan, precision)?,
            layers,
            head,
            gradients: gradients.collect::<Result<_, _>>()?,
            plan,
            backward,
        })
    }

    pub(crate) fn batch(&self) -> usize {
        self.batch
    }

    pub(crate) fn plan(&self) -> &Plan {
        &self.plan
    }

    pub(crate) fn head(&self) -> &CudaHead {
        &self.head
    }

    pub(crate) fn head_mut(&mut self) -> &mut CudaHead {
        &mut self.head
    }

    /// Height and width of the images.
    pub(crate) fn image_size(&self) -> (usize, usize) {
        let (height, width, _) = self.plan.nodes[0];
        (height, width)
    }

    /// Takes the batch's plans, for [`Engine::load`] and what follows; never part of recorded work.
    pub(crate) fn take_plans(&mut self, batch: DeviceBatch<'_>) -> Result<()> {
        let limits = batch.plans.limits();
        let known = self.plans.iter().position(|own| own.limits() == limits);
        let at = known.unwrap_or(self.plans.len());
        if known.is_none() {
            let plans = BatchPlans::new(&self.device, self.batch, *limits)?;
            self.plans.push(plans);
        }
        Ok(self.plans[at].take(batch.plans, batch.first)?)
    }

    /// Cross-entropy of the batch, added to the totals.
    pub(crate) fn loss(&mut self, limits: &PlanLimits, totals: &mut Totals) -> Result<()> {
        let plans = taken(&self.plans, limits)?;
        Ok(self.head.loss(plans, totals)?)
    }

    /// Makes the batch.
    pub(crate) fn load(&mut self, batch: DeviceBatch<'_>, colors: &Colors) -> Result<()> {
        if batch.images.size() != self.image_size() {
            return Err(Error::Batch {
                what: "the size of the images on the device",
                expected: format!("{:?}", self.image_size()),
                found: format!("{:?}", batch.images.size()),
            });
        }
        let plans = taken(&self.plans, batch.plans.limits())?;
        let (images, triggers) = (batch.images, batch.triggers);
        self.device
            .load_images(images, triggers, colors, plans, &mut self.image)?;
        Ok(())
    }

    /// Sets batch norm's statistics to the running ones.
    pub(crate) fn fix(&mut self, weights: &Weights) -> Result<()> {
        for (index, layer) in self.layers.iter_mut().enumerate() {
            if let (Some(norm), Some(places)) = (&mut layer.norm, self.plan.unit(index).norm) {
                let running = (&weights.running, places.mean, places.variance);
                norm.fix_moments(places.parameters(&weights.values), running)?;
            }
        }
        Ok(())
    }

    /// From the loaded images to logits.
    pub(crate) fn forward(
        &mut self,
        values: &DeviceBuffer<f32>,
        copies: &Values,
        mut statistics: Statistics<'_>,
    ) -> Result<()> {
        for (index, unit) in self.graph.units.iter().enumerate() {
            let (before, after) = self.layers.split_at_mut(index);
            let Layer {
                convolution,
                raw,
                norm,
                output,
            } = &mut after[0];
            let input = ready(&self.image, before, unit.input)?;
            let places = self.plan.unit(index);
            let filter = (
                read_by(unit, copies, self.selections.as_ref()),
                places.filter,
            );
            let residual = match unit.residual {
                None => None,
                Some(node) => Some(match node.checked_sub(1).map(|unit| &before[unit]) {
                    Some(Layer {
                        raw,
                        norm: Some(norm),
                        output: None,
                        ..
                    }) => Residual::Raw(raw, norm),
                    _ => Residual::Ready(ready(&self.image, before, node)?),
                }),
            };
            if let (Some(norm), Some(output), Statistics::Fixed) =
                (&mut *norm, &mut *output, &statistics)
            {
                let alone = !self.graph.keeps_sum(index);
                if alone && convolution.forward_fixed(input, filter, output, norm, residual)? {
                    continue;
                }
            }
            match (&mut *norm, places.norm, &statistics) {
                (Some(norm), Some(places), Statistics::Batch(running, _))
                    if unit.skip.is_none() =>
                {
                    let running_mean = (&**running, places.mean);
                    convolution.forward_to_norm(input, filter, raw, norm, running_mean)?;
                }
                _ => convolution.forward(input, filter, raw)?,
            }
            if let Some(skip) = unit.skip {
                self.device.add(&before[skip].raw, raw)?;
            }
            let (Some(norm), Some(places)) = (norm, places.norm) else {
                continue;
            };
            if let Statistics::Batch(running, momentum) = &mut statistics {
                let running = (&mut **running, places.mean, places.variance);
                norm.take_moments(raw, places.parameters(values), running, *momentum)?;
            }
            if let Some(output) = output {
                norm.normalize(raw, residual, true, output)?;
            }
        }
        let last = ready(&self.image, &self.layers, self.graph.units.len())?;
        let parameters = linear_parameters(&self.plan, values);
        self.head.forward(last, parameters)?;
        Ok(())
    }

    /// From the logits' gradient, which the head keeps, back to the first convolution's result: with
    /// `targets` to all parameters, in training; without, statistics are fixed.
    pub(crate) fn backward(
        &mut self,
        values: &DeviceBuffer<f32>,
        copies: &Values,
        mut targets: Option<&mut Gradients>,
    ) -> Result<()> {
        let linear = self.plan.linear();
        if let Some(targets) = &mut targets {
            let target = (&mut targets.values, linear[0], linear[1]);
            self.head.weight_gradients(target)?;
        }
        let first = self.backward.steps.first().map(|step| step.gradient);
        if let Some(first) = first {
            let parameters = linear_parameters(&self.plan, values);
            self.head
                .feature_gradient(parameters, &mut self.gradients[first])?;
        }
        for step in &self.backward.steps {
            let places = self.plan.unit(step.unit);
            let unit = &self.graph.units[step.unit];
            let (before, after) = self.layers.split_at_mut(step.unit);
            let layer = &mut after[0];
            let raw = &layer.raw;
            let gate = match &layer.output {
                None => Gate::Open,
                Some(_) => Gate::Noted,
            };
            if let (Some(norm), Some(places)) = (&mut layer.norm, places.norm) {
                if let Some(targets) = &mut targets {
                    let target = (&mut targets.values, places.gamma, places.beta);
                    let gradient = &self.gradients[step.gradient];
                    norm.reduce_gradient(gradient, gate, raw, target)?;
                }
                match step.residual {
                    None => {
                        let gradient = &mut self.gradients[step.gradient];
                        norm.apply_gradient(gradient, gate, raw, None)?;
                    }
                    Some(to) => {
                        let other = if to.accumulate { to.slot } else { step.own };
                        let [gradient, other] = two(&mut self.gradients, step.gradient, other)?;
                        let of_residual = if to.accumulate {
                            OfResidual::More(other)
                        } else {
                            OfResidual::First(other)
                        };
                        norm.apply_gradient(gradient, gate, raw, Some(of_residual))?;
                    }
                }
            }
            if let Some(of_skip) = step.of_skip {
                let [gradient, of_skip] = two(&mut self.gradients, step.own, of_skip)?;
                self.device.add(of_skip, gradient)?;
            }
            if let Some(targets) = targets.as_mut().filter(|_| unit.learned) {
                let input = ready(&self.image, before, unit.input)?;
                let gradient = &self.gradients[step.own];
                let target = (&mut targets.convolutions, places.filter);
                layer.convolution.weight_gradient(input, gradient, target)?;
            }
            if let Some(to) = step.input {
                let [gradient, input] = two(&mut self.gradients, step.own, to.slot)?;
                let weights = (
                    read_by(unit, copies, self.selections.as_ref()),
                    places.filter,
                );
                let convolution = &layer.convolution;
                let completed = to.completes.then(|| to.node - 1);
                match completed.and_then(|unit| before.get_mut(unit)) {
                    Some(Layer {
                        raw,
                        norm: Some(norm),
                        output: Some(_),
                        ..
                    }) => {
                        let onward = match (&targets, self.graph.units[to.node - 1].residual) {
                            (Some(_), _) => Onward::Reduce,
                            (None, Some(_)) => Onward::Gate,
                            (None, None) => Onward::Apply,
                        };
                        let (target, norm) = ((input, to.accumulate), (norm, &*raw));
                        convolution
                            .input_gradient_to_norm(weights, gradient, target, norm, onward)?;
                    }
                    _ => convolution.input_gradient(weights, gradient, input, to.accumulate)?,
                }
            }
        }
        Ok(())
    }

    /// The gradient of the batch's triggers, from that of the first convolution's result: after
    /// [`Engine::backward`].
    pub(crate) fn trigger_gradient(
        &self,
        batch: DeviceBatch<'_>,
        copies: &Values,
        colors: &Colors,
        target: &mut DeviceBuffer<f32>,
    ) -> Result<()> {
        let Some(last) = self.backward.steps.last() else {
            return Err(Error::Batch {
                what: "the gradient of the first layer",
                expected: "planned".to_owned(),
                found: "nothing".to_owned(),
            });
        };
        let first = &self.layers[last.unit].convolution;
        let first = (first, copies, self.plan.unit(last.unit).filter);
        let plans = taken(&self.plans, batch.plans.limits())?;
        let stamped = (batch.triggers, colors, plans);
        let gradient = &self.gradients[last.own];
        Ok(self
            .device
            .trigger_gradient(first, gradient, stamped, target)?)
    }

    /// What convolutions compute in.
    pub(crate) fn precision(&self) -> Precision {
        self.image.precision()
    }
}

fn taken<'a>(plans: &'a [BatchPlans], limits: &PlanLimits) -> Result<&'a BatchPlans> {
    let found = plans.iter().find(|own| own.limits() == limits);
    found.ok_or_else(|| Error::Batch {
        what: "the plans of a batch",
        expected: "taken".to_owned(),
        found: format!("none for {limits:?}"),
    })
}

/// The weights of units that learn none, on the device.
fn selections(
    device: &CudaDevice,
    graph: &Graph,
    plan: &Plan,
    precision: Precision,
) -> Result<Option<Values>> {
    if plan.selected_values == 0 {
        return Ok(None);
    }
    let weights = DeviceBuffer::from_slice(device, &pack_selections(graph, plan)?)?;
    let mut selections = Values::zeros(device, weights.len(), precision)?;
    device.copy_weights(&weights, &mut selections)?;
    Ok(Some(selections))
}

/// What a unit's weights lie in.
fn read_by<'a>(unit: &UnitSpec, copies: &'a Values, selections: Option<&'a Values>) -> &'a Values {
    match selections {
        Some(selections) if !unit.learned => selections,
        _ => copies,
    }
}

/// A node as convolutions read it.
fn ready<'a>(image: &'a Values, layers: &'a [Layer], node: usize) -> Result<&'a Values> {
    if node == 0 {
        return Ok(image);
    }
    match &layers[node - 1] {
        Layer {
            output: Some(output),
            ..
        } => Ok(output),
        Layer {
            norm: None, raw, ..
        } => Ok(raw),
        _ => Err(Error::Batch {
            what: "a unit without ReLU",
            expected: "one that is read as a residual only".to_owned(),
            found: format!("the input of a convolution, node {node}"),
        }),
    }
}

/// Two different buffers at once.
fn two(buffers: &mut [Values], first: usize, second: usize) -> Result<[&mut Values; 2]> {
    buffers
        .get_disjoint_mut([first, second])
        .map_err(|error| Error::Batch {
            what: "a plan of gradients",
            expected: "two different buffers".to_owned(),
            found: format!("{first} and {second}: {error}"),
        })
}

impl NormPlaces {
    fn parameters(self, weights: &DeviceBuffer<f32>) -> NormParameters<'_> {
        NormParameters {
            weights,
            gamma: self.gamma,
            beta: self.beta,
        }
    }
}

fn linear_parameters<'a>(plan: &Plan, weights: &'a DeviceBuffer<f32>) -> LinearParameters<'a> {
    let [weight, bias] = plan.linear();
    // The head's channels are padded, and so are its weights' rows.
    LinearParameters {
        weights,
        weight,
        bias,
    }
}

impl Weights {
    /// Numbers of a plan on the device.
    pub(crate) fn new(
        device: &CudaDevice,
        plan: &Plan,
        parameters: &[f32],
        running: &[f32],
        precision: Precision,
    ) -> Result<Self> {
        let values = DeviceBuffer::from_slice(device, parameters)?;
        let mut copies = Values::zeros(device, plan.filter_values, precision)?;
        device.copy_weights(&values, &mut copies)?;
        Ok(Self {
            values,
            copies,
            running: DeviceBuffer::from_slice(device, running)?,
        })
    }
}

impl Gradients {
    /// Zeros for a plan's parameters.
    pub(crate) fn new(device: &CudaDevice, plan: &Plan, precision: Precision) -> Result<Self> {
        Ok(Self {
            values: DeviceBuffer::zeros(device, plan.parameters.len)?,
            convolutions: Values::zeros(device, plan.filter_values, precision)?,
        })
    }
}
