//! The statistics network and its optimizer on a GPU.

use std::collections::HashMap;

use candle::{Device, Tensor, Var};
use mesa_kernels::cuda::{Activation, CudaDevice, DeviceBuffer, Replays};

use super::learned::{Floats, Learned, LinearPlace};
use super::{MOST_RECORDED, batch_of, check_len};
use crate::cuda::get_or_make;
use crate::host::host_values;
use crate::perceptron_trainers::unmade;
use crate::statistics_network::{LAYER_NAMES, pair_inputs};
use crate::{Adam, NamedTensors, PairScores, PerceptronConfig, Result, Seeds, StatisticsNetwork};

/// A statistics network on a GPU; see [`StatisticsNetwork`].
#[derive(Debug)]
pub(crate) struct CudaStatistics {
    config: PerceptronConfig,
    learned: Learned,
    linears: [LinearPlace; LAYER_NAMES.len()],
    batches: HashMap<usize, PairBatch>,
    /// Rows of the last pass.
    last: Option<usize>,
    replays: Replays<(StatisticsPass, usize)>,
}

/// What is recorded, for each number of pairs.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
enum StatisticsPass {
    Score,
    TriggerGradient,
    Step,
}

/// Buffers of `R` pairs, the matched ones first.
#[derive(Debug)]
struct PairBatch {
    /// `(R, noise_dim + trigger_len)`.
    inputs: Floats,
    /// `(R, width)`.
    hidden: [Floats; 2],
    /// `(R,)`.
    scores: Floats,
    of_scores: Floats,
    of_output: Floats,
    of_hidden: [Floats; 2],
    /// `(R, trigger_len)`.
    of_triggers: Floats,
}

impl PairBatch {
    fn new(device: &CudaDevice, config: PerceptronConfig, rows: usize) -> Result<Self> {
        let zeros = |columns: usize| DeviceBuffer::zeros(device, rows * columns);
        let hidden = || zeros(config.network_width);
        Ok(Self {
            inputs: zeros(config.noise_dim + config.trigger_len())?,
            hidden: [hidden()?, hidden()?],
            scores: zeros(1)?,
            of_scores: zeros(1)?,
            of_output: zeros(1)?,
            of_hidden: [hidden()?, hidden()?],
            of_triggers: zeros(config.trigger_len())?,
        })
    }
}

impl CudaStatistics {
    /// A copy of a statistics network and its optimizer.
    pub(crate) fn new(
        device: &CudaDevice,
        statistics: &StatisticsNetwork,
        adam: &Adam,
    ) -> Result<Self> {
        let config = statistics.config();
        let width = config.network_width;
        let learned = Learned::new(device, adam)?;
        let [input, hidden, output] = LAYER_NAMES;
        Ok(Self {
            config,
            linears: [
                learned.linear(input, config.noise_dim + config.trigger_len(), width)?,
                learned.linear(hidden, width, width)?,
                learned.linear(output, width, 1)?,
            ],
            learned,
            batches: HashMap::new(),
            last: None,
            replays: Replays::new(MOST_RECORDED),
        })
    }

    pub(crate) fn score_pairs(
        &mut self,
        noise: &Tensor,
        fresh_noise: &Tensor,
        triggers: &Tensor,
    ) -> Result<PairScores> {
        let pairs = triggers.dim(0)?;
        let rows = 2 * pairs;
        let inputs = pair_inputs(noise, fresh_noise, triggers)?;
        let device = self.learned.device.clone();
        let batch = get_or_make(&mut self.batches, rows, || {
            PairBatch::new(&device, self.config, rows)
        })?;
        batch.inputs.write(&host_values(&inputs)?)?;
        let (learned, linears) = (&self.learned, &self.linears);
        self.replays
            .run(&device, (StatisticsPass::Score, rows), || {
                let leaky = Activation::LeakyRelu;
                let [first, second] = &mut batch.hidden;
                linears[0].forward(learned, &batch.inputs, leaky, first, rows)?;
                linears[1].forward(learned, first, leaky, second, rows)?;
                linears[2].forward(learned, second, leaky, &mut batch.scores, rows)
            })?;
        self.last = Some(rows);
        let mut scores = batch.scores.read()?;
        let mismatched = scores.split_off(pairs);
        let var = |scores: Vec<f32>| Var::from_vec(scores, pairs, &Device::Cpu);
        Ok(PairScores::without_activations(
            var(scores)?,
            var(mismatched)?,
        ))
    }

    /// The gradient of the triggers of the last pairs, from that of their scores.
    pub(crate) fn trigger_gradient(&mut self, of_scores: &[f32]) -> Result<Tensor> {
        let rows = self.write(of_scores)?;
        let batch = batch_of(&mut self.batches, rows)?;
        let (device, config) = (self.learned.device.clone(), self.config);
        let (learned, linears) = (&mut self.learned, &self.linears);
        let pass = StatisticsPass::TriggerGradient;
        self.replays.run(&device, (pass, rows), || {
            back(learned, linears, batch, rows)?;
            let triggers = (config.noise_dim, config.trigger_len());
            let (gradient, target) = (&batch.of_hidden[0], &mut batch.of_triggers);
            linears[0].input_gradient(learned, gradient, triggers, None, target, rows)
        })?;
        let shape = (rows, config.trigger_len());
        config.of_triggers(&Tensor::from_vec(
            batch.of_triggers.read()?,
            shape,
            &Device::Cpu,
        )?)
    }

    /// A step down the gradient of the last pairs' scores.
    pub(crate) fn step(&mut self, of_scores: &[f32]) -> Result<()> {
        let rows = self.write(of_scores)?;
        let batch = batch_of(&mut self.batches, rows)?;
        let device = self.learned.device.clone();
        let (learned, linears) = (&mut self.learned, &self.linears);
        learned.begin_step()?;
        self.replays.run(&device, (StatisticsPass::Step, rows), || {
            back(learned, linears, batch, rows)?;
            let inputs = [&batch.inputs, &batch.hidden[0], &batch.hidden[1]];
            let gradients = [&batch.of_hidden[0], &batch.of_hidden[1], &batch.of_output];
            for ((linear, inputs), gradient) in linears.iter().zip(inputs).zip(gradients) {
                learned.linear_gradients(linear, inputs, gradient, rows)?;
            }
            learned.end_step()
        })
    }

    /// The step length is no part of what is recorded: it holds from the next step on.
    pub(crate) fn set_learning_rate(&mut self, learning_rate: f64) {
        self.learned.adam.learning_rate = learning_rate;
    }

    fn write(&mut self, of_scores: &[f32]) -> Result<usize> {
        let rows = self.last.ok_or_else(|| unmade("pairs"))?;
        check_len("the gradient of the scores", of_scores.len(), rows)?;
        batch_of(&mut self.batches, rows)?
            .of_scores
            .write(of_scores)?;
        Ok(rows)
    }

    /// See [`crate::CudaNetwork::recorded`].
    pub(crate) fn recorded(&self) -> usize {
        self.replays.recorded()
    }

    /// As of [`StatisticsNetwork::state`] and [`Adam::state`].
    pub(crate) fn state(&self) -> Result<[NamedTensors; 2]> {
        let state = self.learned.parameters.named(self.learned.values())?;
        Ok([state, self.learned.adam_state()?])
    }

    pub(crate) fn load_state(
        &mut self,
        [of_statistics, of_adam]: [&NamedTensors; 2],
    ) -> Result<()> {
        let mut rng = Seeds::new(0, "load").start();
        let mut statistics = StatisticsNetwork::new(&mut rng, self.config)?;
        statistics.load_state(of_statistics)?;
        let mut adam = Adam::new(statistics.parameters(), self.learned.adam)?;
        adam.load_state(of_adam)?;
        *self = Self::new(&self.learned.device, &statistics, &adam)?;
        Ok(())
    }
}

/// From the scores' gradient to that in front of each function.
fn back(
    learned: &Learned,
    linears: &[LinearPlace; LAYER_NAMES.len()],
    batch: &mut PairBatch,
    rows: usize,
) -> Result<()> {
    let device = learned.device.clone();
    let leaky = Activation::LeakyRelu;
    device.through_function(&batch.of_scores, &batch.scores, leaky, &mut batch.of_output)?;
    let whole = (0, linears[2].weight.columns);
    let [of_first, of_second] = &mut batch.of_hidden;
    let [first, second] = &batch.hidden;
    let gradient = &batch.of_output;
    linears[2].input_gradient(learned, gradient, whole, Some(second), of_second, rows)?;
    linears[1].input_gradient(learned, of_second, whole, Some(first), of_first, rows)
}
