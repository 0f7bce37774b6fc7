//! A classifier in training on a GPU.

use mesa_kernels::cuda::{
    Colors, CudaDevice, Descent, DeviceBuffer, DeviceDescent, Replays, Totals,
};

use super::engine::{Engine, Gradients, Statistics, Weights};
use super::frozen::CudaFrozen;
use super::state::{pack, unpack};
use super::{BatchKey, CudaSettings, DeviceBatch};
use crate::graph::COLORS;
use crate::network::RUNNING_MOMENTUM;
use crate::state::NamedTensors;
use crate::{BatchLoss, Error, Network, Normalization, ResNetConfig, Result};

/// A classifier whose weights are learned on a GPU, in batches of one size.
#[derive(Debug)]
pub struct CudaNetwork {
    device: CudaDevice,
    config: ResNetConfig,
    normalization: Normalization,
    settings: CudaSettings,
    colors: Colors,
    engine: Engine,
    weights: Weights,
    gradients: Gradients,
    velocity: DeviceBuffer<f32>,
    descent: DeviceDescent,
    totals: Totals,
    images: usize,
    replays: Replays<(Pass, BatchKey)>,
}

/// What is recorded.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
enum Pass {
    Step,
    Gradients,
}

/// Steps that stay recorded: on the images of training and of a few other sets.
const MOST_RECORDED: usize = 4;

/// What a training step is told.
#[derive(Copy, Clone, Debug, PartialEq)]
pub struct StepSettings {
    /// Learning rate.
    pub learning_rate: f64,
    /// Share of the velocity that is kept from step to step.
    pub momentum: f64,
    /// L2 penalty on all weights.
    pub weight_decay: f64,
    /// Share of the label that is spread over all classes.
    pub label_smoothing: f64,
}

impl CudaNetwork {
    /// A network with the weights and statistics of `network`, for batches of `batch` images; its
    /// optimizer is at rest. `fill` is the color that crops show outside of their images, in
    /// [0, 1].
    ///
    /// # Errors
    ///
    /// [`crate::Error::Cuda`] where memory does not suffice or cuDNN has no algorithm.
    pub fn new(
        device: &CudaDevice,
        network: &Network,
        settings: CudaSettings,
        batch: usize,
        fill: [f32; COLORS],
    ) -> Result<Self> {
        let (config, normalization) = (network.config(), network.normalization());
        let engine = Engine::new(device, &config.graph(), batch, settings, true)?;
        let (state, plan) = (network.state()?, engine.plan());
        let parameters = pack(&plan.parameters, &state)?;
        let running = pack(&plan.running, &state)?;
        let precision = engine.precision();
        let Normalization { mean, std } = normalization;
        Ok(Self {
            device: device.clone(),
            config,
            normalization,
            settings,
            colors: Colors::new(device, fill, mean, std)?,
            weights: Weights::new(device, plan, &parameters, &running, precision)?,
            gradients: Gradients::new(device, plan, precision)?,
            velocity: DeviceBuffer::zeros(device, parameters.len())?,
            descent: DeviceDescent::new(device)?,
            totals: Totals::new(device)?,
            images: 0,
            replays: Replays::new(MOST_RECORDED),
            engine,
        })
    }

    /// The network's size.
    pub fn config(&self) -> ResNetConfig {
        self.config
    }

    /// Images of a batch.
    pub fn batch_size(&self) -> usize {
        self.engine.batch()
    }

    /// One step of training: forward, backward, update. Starts the work and returns; what it found
    /// adds up until [`CudaNetwork::take_loss`].
    ///
    /// # Errors
    ///
    /// [`crate::Error::Cuda`] for plans, images or triggers that do not belong together, or for
    /// what the device reports of earlier work.
    pub fn step(&mut self, batch: DeviceBatch<'_>, step: &StepSettings) -> Result<()> {
        self.descent.set(Descent {
            rate: step.learning_rate as f32,
            momentum: step.momentum as f32,
            decay: step.weight_decay as f32,
        })?;
        self.run(Pass::Step, batch, step.label_smoothing)
    }

    /// The same without the update: [`CudaNetwork::gradient_state`] gives the gradients.
    ///
    /// # Errors
    ///
    /// As for [`CudaNetwork::step`].
    pub fn gradients(&mut self, batch: DeviceBatch<'_>, label_smoothing: f64) -> Result<()> {
        self.run(Pass::Gradients, batch, label_smoothing)
    }

    /// Writes what changes from step to step, then runs or replays the rest.
    fn run(&mut self, pass: Pass, batch: DeviceBatch<'_>, label_smoothing: f64) -> Result<()> {
        let (engine, weights, device) = (&mut self.engine, &mut self.weights, &self.device);
        engine.take_plans(batch)?;
        engine.head_mut().set_smoothing(label_smoothing as f32)?;
        let (gradients, velocity) = (&mut self.gradients, &mut self.velocity);
        self.replays.run(device, (pass, batch.key()), || {
            engine.load(batch, &self.colors)?;
            let statistics = Statistics::Batch(&mut weights.running, RUNNING_MOMENTUM);
            engine.forward(&weights.values, &weights.copies, statistics)?;
            engine.loss(batch.plans.limits(), &mut self.totals)?;
            engine.backward(&weights.values, &weights.copies, Some(&mut *gradients))?;
            if pass == Pass::Step {
                device.descend(
                    &self.descent,
                    &mut weights.values,
                    velocity,
                    &gradients.values,
                    &gradients.convolutions,
                    &mut weights.copies,
                )?;
            }
            Ok::<_, Error>(())
        })?;
        self.images += engine.batch();
        Ok(())
    }

    /// Waits for the device: the mean loss of all images since the last time, and how many of them
    /// were classified right.
    ///
    /// # Errors
    ///
    /// [`crate::Error::Cuda`] for whatever went wrong on the device up to here.
    pub fn take_loss(&mut self) -> Result<BatchLoss> {
        let (loss, correct) = self.totals.take()?;
        let images = std::mem::take(&mut self.images).max(1);
        Ok(BatchLoss {
            loss: loss / images as f64,
            correct,
        })
    }

    /// Logits `(batch, classes)` of the last step, before its update, row by row.
    ///
    /// # Errors
    ///
    /// As for [`CudaNetwork::take_loss`].
    pub fn training_logits(&self) -> Result<Vec<f32>> {
        Ok(self.engine.head().logits().read()?)
    }

    /// How many kinds of steps are recorded. A kind is when it comes for the second time, unless
    /// [`CudaDevice::recording_refused`] says why not.
    pub fn recorded(&self) -> usize {
        self.replays.recorded()
    }

    /// Every learned tensor and running statistic, under the names of [`Network::state`].
    ///
    /// # Errors
    ///
    /// As for [`CudaNetwork::take_loss`].
    pub fn state(&self) -> Result<NamedTensors> {
        let plan = self.engine.plan();
        let mut state = unpack(&plan.parameters, &self.weights.values.read()?)?;
        state.extend(unpack(&plan.running, &self.weights.running.read()?)?);
        Ok(state)
    }

    /// The gradients of the last step, by the names of [`Network::gradient_state`].
    ///
    /// # Errors
    ///
    /// As for [`CudaNetwork::take_loss`].
    pub fn gradient_state(&self) -> Result<NamedTensors> {
        let mut values = self.gradients.values.read()?;
        let convolutions = self.gradients.convolutions.read()?;
        values[..convolutions.len()].copy_from_slice(&convolutions);
        unpack(&self.engine.plan().parameters, &values)
    }

    /// The velocities, by the names of [`crate::Sgd::state`].
    ///
    /// # Errors
    ///
    /// As for [`CudaNetwork::take_loss`].
    pub fn velocity_state(&self) -> Result<NamedTensors> {
        unpack(&self.engine.plan().parameters, &self.velocity.read()?)
    }

    /// Takes the tensors of a [`CudaNetwork::state`] and of a [`CudaNetwork::velocity_state`]; an
    /// empty one of these is an optimizer at rest.
    ///
    /// # Errors
    ///
    /// [`crate::Error::MissingTensor`], [`crate::Error::TensorShape`] by name; the network is then
    /// as it was.
    pub fn load_state(&mut self, state: &NamedTensors, velocity: &NamedTensors) -> Result<()> {
        let plan = self.engine.plan();
        let parameters = pack(&plan.parameters, state)?;
        let running = pack(&plan.running, state)?;
        let velocity = if velocity.is_empty() {
            vec![0.0; plan.parameters.len]
        } else {
            pack(&plan.parameters, velocity)?
        };
        let weights = &mut self.weights;
        weights.values.write(&parameters)?;
        weights.running.write(&running)?;
        self.velocity.write(&velocity)?;
        self.device
            .copy_weights(&weights.values, &mut weights.copies)?;
        Ok(())
    }

    /// The network as it is, for inference on the same device.
    ///
    /// # Errors
    ///
    /// [`crate::Error::Cuda`] where memory does not suffice.
    pub fn freeze(&self) -> Result<CudaFrozen> {
        CudaFrozen::from_state(
            &self.device,
            self.config,
            self.normalization,
            &self.state()?,
            self.settings,
        )
    }
}
