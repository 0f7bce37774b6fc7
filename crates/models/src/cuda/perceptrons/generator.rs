//! The generator and its optimizer on a GPU.

use std::collections::HashMap;

use candle::{Device, Tensor};
use mesa_kernels::cuda::{
    Activation, CudaDevice, DeviceBuffer, MatrixPlace, NormParameters, Place, Replays,
};

use super::learned::{Flat, Floats, Learned, LinearPlace};
use super::{MOST_RECORDED, batch_of, check_len};
use crate::cuda::get_or_make;
use crate::host::host_values;
use crate::layers::NORM_MOMENTUM;
use crate::perceptron_config::NOISE_PARTS;
use crate::perceptron_trainers::unmade;
use crate::{Adam, Generator, NamedTensors, PerceptronConfig, Result, Seeds};

/// A generator on a GPU; see [`Generator`].
#[derive(Debug)]
pub(crate) struct CudaGenerator {
    config: PerceptronConfig,
    learned: Learned,
    /// Means and variances by name.
    running: Flat,
    linears: [LinearPlace; NOISE_PARTS],
    norms: [NormPlace; NOISE_PARTS - 1],
    batches: HashMap<usize, GeneratorBatch>,
    /// The batch size of the last pass in training mode.
    last: Option<usize>,
    replays: Replays<(GeneratorPass, usize)>,
}

/// What is recorded, for each batch size.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
enum GeneratorPass {
    Train,
    Evaluate,
    Step,
}

/// Where the numbers of a batch norm lie: parameters, and running statistics.
#[derive(Copy, Clone, Debug)]
struct NormPlace {
    gamma: Place,
    beta: Place,
    mean: Place,
    variance: Place,
}

impl NormPlace {
    fn parameters<'a>(&self, weights: &'a Floats) -> NormParameters<'a> {
        NormParameters {
            weights,
            gamma: self.gamma,
            beta: self.beta,
        }
    }
}

/// Buffers of one batch size `B`.
#[derive(Debug)]
struct GeneratorBatch {
    /// `(B, noise_dim)`.
    noise: Floats,
    /// Of each layer: what the one before it made, and a part of the noise.
    inputs: [Floats; NOISE_PARTS],
    /// What hidden layers compute, in front of batch norm, `(B, width)`.
    raws: [Floats; NOISE_PARTS - 1],
    /// Means and inverse deviations of the batch.
    statistics: [Floats; NOISE_PARTS - 1],
    /// `(B, trigger_len)`.
    triggers: Floats,
    of_triggers: Floats,
    of_output: Floats,
    of_hidden: Floats,
    of_raw: Floats,
}

impl GeneratorBatch {
    fn new(device: &CudaDevice, config: PerceptronConfig, rows: usize) -> Result<Self> {
        let (width, part) = (config.network_width, config.noise_dim / NOISE_PARTS);
        let zeros = |len: usize| DeviceBuffer::zeros(device, len);
        let hidden = || zeros(rows * width);
        let statistics = || zeros(2 * width);
        let joined = || zeros(rows * (width + part));
        let triggers = || zeros(rows * config.trigger_len());
        Ok(Self {
            noise: zeros(rows * config.noise_dim)?,
            inputs: [zeros(rows * part)?, joined()?, joined()?, joined()?],
            raws: [hidden()?, hidden()?, hidden()?],
            statistics: [statistics()?, statistics()?, statistics()?],
            triggers: triggers()?,
            of_triggers: triggers()?,
            of_output: triggers()?,
            of_hidden: hidden()?,
            of_raw: hidden()?,
        })
    }
}

impl CudaGenerator {
    /// A copy of a generator and its optimizer.
    ///
    /// # Errors
    ///
    /// [`Error::Cuda`] where memory does not suffice.
    pub(crate) fn new(device: &CudaDevice, generator: &Generator, adam: &Adam) -> Result<Self> {
        let config = generator.config();
        let (width, part) = (config.network_width, config.noise_dim / NOISE_PARTS);
        let learned = Learned::new(device, adam)?;
        let state = generator.state()?;
        let statistics = state.iter().filter(|(name, _)| name.contains("running"));
        let running = Flat::new(device, statistics)?;
        let linear =
            |i: usize, inputs, outputs| learned.linear(&format!("linear{i}"), inputs, outputs);
        let norm = |i: usize| -> Result<NormPlace> {
            Ok(NormPlace {
                gamma: learned.parameters.place(&format!("norm{i}.weight"))?,
                beta: learned.parameters.place(&format!("norm{i}.bias"))?,
                mean: running.place(&format!("norm{i}.running_mean"))?,
                variance: running.place(&format!("norm{i}.running_var"))?,
            })
        };
        Ok(Self {
            config,
            linears: [
                linear(1, part, width)?,
                linear(2, width + part, width)?,
                linear(3, width + part, width)?,
                linear(4, width + part, config.trigger_len())?,
            ],
            norms: [norm(1)?, norm(2)?, norm(3)?],
            learned,
            running,
            batches: HashMap::new(),
            last: None,
            replays: Replays::new(MOST_RECORDED),
        })
    }

    /// Triggers in evaluation mode. A step has to refer to others: these take their room.
    pub(crate) fn forward(&mut self, noise: &Tensor) -> Result<Tensor> {
        self.last = None;
        self.generate(GeneratorPass::Evaluate, noise)
    }

    pub(crate) fn forward_train(&mut self, noise: &Tensor) -> Result<Tensor> {
        let triggers = self.generate(GeneratorPass::Train, noise)?;
        self.last = Some(triggers.dim(0)?);
        Ok(triggers)
    }

    fn generate(&mut self, pass: GeneratorPass, noise: &Tensor) -> Result<Tensor> {
        let (rows, dim) = noise.dims2()?;
        check_len("the noise", dim, self.config.noise_dim)?;
        let device = self.learned.device.clone();
        let batch = get_or_make(&mut self.batches, rows, || {
            GeneratorBatch::new(&device, self.config, rows)
        })?;
        batch.noise.write(&host_values(noise)?)?;
        let Self {
            config,
            learned,
            running,
            linears,
            norms,
            ..
        } = self;
        let width = config.network_width;
        let part = config.noise_dim / NOISE_PARTS;
        self.replays.run(&device, (pass, rows), || -> Result<()> {
            let noise = MatrixPlace::new(rows, NOISE_PARTS * part);
            for (i, input) in batch.inputs.iter_mut().enumerate() {
                let hidden = if i == 0 { 0 } else { width };
                let place = MatrixPlace::new(rows, hidden + part).columns(hidden, part);
                let source = (&batch.noise, noise.columns(i * part, part));
                device.copy_columns(source, (input, place))?;
            }
            for (i, norm) in norms.iter().enumerate() {
                let (before, after) = batch.inputs.split_at_mut(i + 1);
                let raw = &mut batch.raws[i];
                linears[i].forward(learned, &before[i], Activation::Identity, raw, rows)?;
                let parameters = norm.parameters(learned.values());
                let place = MatrixPlace::new(rows, width + part).columns(0, width);
                let target = (&mut after[0], place);
                if pass == GeneratorPass::Train {
                    let running = (&mut running.values, norm.mean, norm.variance);
                    let statistics = &mut batch.statistics[i];
                    let momentum = NORM_MOMENTUM as f32;
                    device.norm_leaky(raw, parameters, running, momentum, statistics, target)?;
                } else {
                    let running = (&running.values, norm.mean, norm.variance);
                    device.fixed_norm_leaky(raw, parameters, running, target)?;
                }
            }
            let last = NOISE_PARTS - 1;
            let (input, output) = (&batch.inputs[last], &mut batch.triggers);
            linears[last].forward(learned, input, Activation::Sigmoid, output, rows)
        })?;
        let triggers = batch.triggers.read()?;
        let [channels, height, columns] = config.trigger_shape;
        let shape = (rows, channels, height, columns);
        Ok(Tensor::from_vec(triggers, shape, &Device::Cpu)?)
    }

    /// A step down the gradient of the triggers that were made last.
    pub(crate) fn step(&mut self, trigger_gradient: &Tensor) -> Result<()> {
        let rows = self.last.ok_or_else(|| unmade("triggers"))?;
        let batch = batch_of(&mut self.batches, rows)?;
        batch.of_triggers.write(&host_values(trigger_gradient)?)?;
        let Self {
            config,
            learned,
            linears,
            norms,
            ..
        } = self;
        learned.begin_step()?;
        let device = learned.device.clone();
        let width = config.network_width;
        let part = config.noise_dim / NOISE_PARTS;
        self.replays.run(&device, (GeneratorPass::Step, rows), || {
            let (of_triggers, triggers) = (&batch.of_triggers, &batch.triggers);
            let sigmoid = Activation::Sigmoid;
            device.through_function(of_triggers, triggers, sigmoid, &mut batch.of_output)?;
            for i in (0..linears.len()).rev() {
                let output = i == linears.len() - 1;
                let of_raw = if output {
                    &batch.of_output
                } else {
                    &batch.of_raw
                };
                learned.linear_gradients(&linears[i], &batch.inputs[i], of_raw, rows)?;
                if i > 0 {
                    // The noise appended behind the hidden units needs no gradient.
                    let hidden = (0, width);
                    let target = &mut batch.of_hidden;
                    linears[i].input_gradient(learned, of_raw, hidden, None, target, rows)?;
                    let place = MatrixPlace::new(rows, width + part).columns(0, width);
                    let parameters = norms[i - 1].parameters(&learned.parameters.values);
                    device.norm_leaky_gradient(
                        &batch.of_hidden,
                        (&batch.raws[i - 1], &batch.statistics[i - 1]),
                        (&batch.inputs[i], place),
                        parameters,
                        &mut batch.of_raw,
                        &mut learned.gradients,
                    )?;
                }
            }
            learned.end_step()
        })
    }

    /// See [`crate::CudaNetwork::recorded`].
    pub(crate) fn recorded(&self) -> usize {
        self.replays.recorded()
    }

    /// As of [`Generator::state`] and [`Adam::state`].
    pub(crate) fn state(&self) -> Result<[NamedTensors; 2]> {
        let mut state = self.learned.parameters.named(self.learned.values())?;
        state.extend(self.running.named(&self.running.values)?);
        Ok([state, self.learned.adam_state()?])
    }

    /// A copy on the CPU.
    pub(crate) fn to_host(&self) -> Result<Generator> {
        self.of_state(&self.state()?[0])
    }

    fn of_state(&self, state: &NamedTensors) -> Result<Generator> {
        let mut rng = Seeds::new(0, "load").start();
        let mut generator = Generator::new(&mut rng, self.config)?;
        generator.load_state(state)?;
        Ok(generator)
    }

    pub(crate) fn load_state(&mut self, [of_generator, of_adam]: [&NamedTensors; 2]) -> Result<()> {
        let generator = self.of_state(of_generator)?;
        let mut adam = Adam::new(generator.parameters(), self.learned.adam)?;
        adam.load_state(of_adam)?;
        *self = Self::new(&self.learned.device, &generator, &adam)?;
        Ok(())
    }
}
