//! A classifier that no longer changes, on a GPU: evaluation, and gradients of triggers.

use std::collections::HashMap;

use mesa_kernels::cuda::{Colors, CudaDevice, DeviceBuffer, Replays, TargetGradient, Totals};

use super::engine::{Engine, Statistics, Weights};
use super::plan::Plan;
use super::state::pack;
use super::{BatchKey, CudaSettings, DeviceBatch, get_or_make};
use crate::graph::{COLORS, Graph};
use crate::state::NamedTensors;
use crate::{BatchLoss, Error, Network, Normalization, ResNetConfig, Result};

/// A classifier in evaluation mode on a GPU: batch norm takes its running statistics.
///
/// Buffers are planned for each batch size when it is first seen, and kept.
#[derive(Debug)]
pub struct CudaFrozen {
    device: CudaDevice,
    graph: Graph,
    settings: CudaSettings,
    colors: Colors,
    weights: Weights,
    engines: HashMap<usize, Engine>,
    /// For each batch size and trigger size.
    gradients: HashMap<(usize, (usize, usize)), DeviceBuffer<f32>>,
    totals: Totals,
    replays: Replays<(Pass, usize, BatchKey)>,
}

/// What is recorded, for each batch size.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
enum Pass {
    Logits,
    Loss,
    Probability,
    Gradient,
}

/// Passes that stay recorded: each of them for a few sets of images, triggers and batch sizes.
const MOST_RECORDED: usize = 16;

/// Probabilities of a class and what they gain from the triggers, on the device.
#[derive(Copy, Clone, Debug)]
pub struct TriggerGradient<'a> {
    /// Of every image `(B,)`.
    pub probabilities: &'a DeviceBuffer<f32>,
    /// `(B, 3, h, w)`, of each image's own trigger; see [`CudaFrozen::trigger_gradient`].
    pub gradients: &'a DeviceBuffer<f32>,
}

impl CudaFrozen {
    /// The network as it is.
    ///
    /// # Errors
    ///
    /// [`Error::Cuda`] where memory does not suffice.
    pub fn new(device: &CudaDevice, network: &Network, settings: CudaSettings) -> Result<Self> {
        let state = network.state()?;
        let (config, normalization) = (network.config(), network.normalization());
        Self::from_state(device, config, normalization, &state, settings)
    }

    pub(crate) fn from_state(
        device: &CudaDevice,
        config: ResNetConfig,
        normalization: Normalization,
        state: &NamedTensors,
        settings: CudaSettings,
    ) -> Result<Self> {
        let graph = config.graph();
        let plan = Plan::new(&graph);
        let parameters = pack(&plan.parameters, state)?;
        let running = pack(&plan.running, state)?;
        let Normalization { mean, std } = normalization;
        Ok(Self {
            device: device.clone(),
            graph,
            settings,
            // Frozen networks see no crops; what one would show outside is the mean color.
            colors: Colors::new(device, mean, mean, std)?,
            weights: Weights::new(device, &plan, &parameters, &running, settings.precision)?,
            engines: HashMap::new(),
            gradients: HashMap::new(),
            totals: Totals::new(device)?,
            replays: Replays::new(MOST_RECORDED),
        })
    }

    /// Number of classes.
    pub fn num_classes(&self) -> usize {
        self.graph.num_classes
    }

    /// Scores `(B, K)` of a batch of `count` images, on the device.
    ///
    /// # Errors
    ///
    /// [`Error::Cuda`] for plans, images or triggers that do not belong together.
    pub fn logits(&mut self, batch: DeviceBatch<'_>, count: usize) -> Result<&DeviceBuffer<f32>> {
        self.run(Pass::Logits, batch, count)?;
        Ok(self.engine(count)?.head().logits())
    }

    /// Cross-entropy against the plans' labels and the number of images that are classified as
    /// those, of all plans in batches of at most `largest`. With the target class as label of
    /// stamped images, `correct` counts the successes of an attack.
    ///
    /// # Errors
    ///
    /// As for [`CudaFrozen::logits`]; [`Error::Batch`] if there is no plan or `largest` is zero.
    pub fn evaluate(&mut self, batch: DeviceBatch<'_>, largest: usize) -> Result<BatchLoss> {
        let all = batch.plans.count().saturating_sub(batch.first);
        if all == 0 || largest == 0 {
            return Err(Error::Batch {
                what: "the number of images to evaluate, and of a batch",
                expected: "at least one".to_owned(),
                found: format!("{all} and {largest}"),
            });
        }
        let mut done = 0;
        while done < all {
            let count = largest.min(all - done);
            let first = batch.first + done;
            let batch = DeviceBatch { first, ..batch };
            self.run(Pass::Loss, batch, count)?;
            done += count;
        }
        let (loss, correct) = self.totals.take()?;
        Ok(BatchLoss {
            loss: loss / all as f64,
            correct,
        })
    }

    /// The probability of `target_class` for each of `count` images `(B,)`, on the device.
    ///
    /// # Errors
    ///
    /// As for [`CudaFrozen::logits`], or for a class that does not exist.
    pub fn target_probability(
        &mut self,
        batch: DeviceBatch<'_>,
        count: usize,
        target_class: u32,
    ) -> Result<&DeviceBuffer<f32>> {
        let wanted = TargetGradient::LogProbability;
        let head = self.engine(count)?.head_mut();
        head.set_target(target_class as usize, wanted)?;
        self.run(Pass::Probability, batch, count)?;
        Ok(self.engine(count)?.head().probabilities())
    }

    /// The probability of `target_class` for each of `count` images, and the gradient of what is
    /// `wanted` with respect to the trigger that each was stamped with: of the pixel under it, as
    /// [`crate::FrozenClassifier::target_gradient`] has it, times the trigger's share
    /// of that pixel.
    ///
    /// # Errors
    ///
    /// As for [`CudaFrozen::logits`], or for a class that does not exist.
    pub fn trigger_gradient(
        &mut self,
        batch: DeviceBatch<'_>,
        count: usize,
        target_class: u32,
        wanted: TargetGradient,
    ) -> Result<TriggerGradient<'_>> {
        let head = self.engine(count)?.head_mut();
        head.set_target(target_class as usize, wanted)?;
        let size = batch.triggers.size();
        get_or_make(&mut self.gradients, (count, size), || {
            let len = count * COLORS * size.0 * size.1;
            Ok(DeviceBuffer::zeros(&self.device, len)?)
        })?;
        self.run(Pass::Gradient, batch, count)?;
        let gradients = self.gradients.get(&(count, size));
        Ok(TriggerGradient {
            probabilities: engine_of(&mut self.engines, count)?.head().probabilities(),
            gradients: gradients.ok_or_else(unplanned)?,
        })
    }

    /// How many passes are recorded; see [`super::CudaNetwork::recorded`].
    pub fn recorded(&self) -> usize {
        self.replays.recorded()
    }

    /// The buffers for batches of `count` images.
    fn engine(&mut self, count: usize) -> Result<&mut Engine> {
        get_or_make(&mut self.engines, count, || {
            let mut engine = Engine::new(&self.device, &self.graph, count, self.settings, false)?;
            engine.fix(&self.weights)?;
            Ok(engine)
        })
    }

    /// Takes the batch's plans, then runs or replays the rest.
    fn run(&mut self, pass: Pass, batch: DeviceBatch<'_>, count: usize) -> Result<()> {
        self.engine(count)?.take_plans(batch)?;
        let engine = engine_of(&mut self.engines, count)?;
        let gradients = &mut self.gradients;
        let key = (pass, count, batch.key());
        self.replays.run(&self.device, key, || {
            engine.load(batch, &self.colors)?;
            let (values, copies) = (&self.weights.values, &self.weights.copies);
            engine.forward(values, copies, Statistics::Fixed)?;
            match pass {
                Pass::Logits => Ok(()),
                Pass::Loss => engine.loss(batch.plans.limits(), &mut self.totals),
                Pass::Probability => Ok(engine.head_mut().target()?),
                Pass::Gradient => {
                    engine.head_mut().target()?;
                    engine.backward(values, copies, None)?;
                    let key = (count, batch.triggers.size());
                    let target = gradients.get_mut(&key).ok_or_else(unplanned)?;
                    engine.trigger_gradient(batch, copies, &self.colors, target)
                }
            }
        })
    }
}

fn unplanned() -> Error {
    Error::Batch {
        what: "the gradient of the triggers",
        expected: "planned".to_owned(),
        found: "nothing".to_owned(),
    }
}

fn engine_of(engines: &mut HashMap<usize, Engine>, count: usize) -> Result<&mut Engine> {
    engines.get_mut(&count).ok_or(Error::Batch {
        what: "a batch",
        expected: "planned".to_owned(),
        found: format!("{count} images"),
    })
}
