//! MESA's two perceptrons on a GPU, in f32: the layers of `layers.rs` and the optimizer of `adam.rs`.
//! Noise, triggers, scores and their gradients pass through the host, some kilobytes for each step;
//! the losses made of them are computed there.

use std::collections::{BTreeMap, HashMap};

use candle::{Device, Tensor, Var};
use mesa_kernels::cuda::{
    Activation, AdamStep, CudaDevice, DeviceAdam, DeviceBuffer, LayerEnd, Matrix, MatrixPlace,
    NormParameters, Place, Replays,
};

use crate::adam::{Update, adam_state};
use crate::layers::NORM_MOMENTUM;
use crate::mlp::{LAYER_NAMES, NOISE_PARTS};
use crate::network::host_values;
use crate::perceptron_trainers::unmade;
use crate::{
    Adam, AdamConfig, Error, Generator, NamedTensors, PairScores, PerceptronConfig, Result, Seeds,
    StatisticsNetwork,
};

type Floats = DeviceBuffer<f32>;

/// Batch sizes and passes whose work stays recorded.
const MOST_RECORDED: usize = 8;

/// Named tensors one behind the other in a flat buffer, and where each lies.
#[derive(Debug)]
struct Flat {
    values: Floats,
    places: BTreeMap<String, (Place, Vec<usize>)>,
}

impl Flat {
    fn new<'a>(
        device: &CudaDevice,
        tensors: impl Iterator<Item = (&'a String, &'a Tensor)>,
    ) -> Result<Self> {
        let (mut flat, mut places) = (Vec::new(), BTreeMap::new());
        for (name, tensor) in tensors {
            let offset = flat.len();
            flat.extend(host_values(tensor)?);
            let len = flat.len() - offset;
            let place = Place { offset, len };
            places.insert(name.clone(), (place, tensor.dims().to_vec()));
        }
        let values = DeviceBuffer::from_slice(device, &flat)?;
        Ok(Self { values, places })
    }

    fn place(&self, name: &str) -> Result<Place> {
        let found = self.places.get(name).map(|(place, _)| *place);
        found.ok_or_else(|| Error::MissingTensor {
            name: name.to_owned(),
        })
    }

    fn named(&self, values: &Floats) -> Result<NamedTensors> {
        let values = values.read()?;
        let tensor = |(name, (place, dims)): (&String, &(Place, Vec<usize>))| {
            let own = &values[place.offset..][..place.len];
            let tensor = Tensor::from_slice(own, dims.as_slice(), &Device::Cpu)?;
            Ok((name.clone(), tensor))
        };
        self.places.iter().map(tensor).collect()
    }
}

/// Parameters, their gradients, and an optimizer's moments.
#[derive(Debug)]
struct Learned {
    device: CudaDevice,
    parameters: Flat,
    gradients: Floats,
    moments: [Floats; 2],
    adam: AdamConfig,
    steps: u32,
    /// The factors of the next step.
    factors: DeviceAdam,
}

impl Learned {
    fn new(device: &CudaDevice, adam: &Adam) -> Result<Self> {
        let [parameters, first, second] = adam.variables().map(|variables| {
            let named = variables.iter().map(|(name, var)| (name, var.as_tensor()));
            Flat::new(device, named)
        });
        let (parameters, (adam, steps)) = (parameters?, adam.progress());
        Ok(Self {
            device: device.clone(),
            gradients: DeviceBuffer::zeros(device, parameters.values.len())?,
            parameters,
            moments: [first?.values, second?.values],
            adam,
            steps,
            factors: DeviceAdam::new(device)?,
        })
    }

    /// A layer's weight (outputs, inputs) and bias.
    fn linear(&self, name: &str, inputs: usize, outputs: usize) -> Result<LinearPlace> {
        let weight = self.parameters.place(&format!("{name}.weight"))?;
        Ok(LinearPlace {
            weight: MatrixPlace::new(outputs, inputs).at(weight)?,
            bias: self.parameters.place(&format!("{name}.bias"))?,
        })
    }

    fn values(&self) -> &Floats {
        &self.parameters.values
    }

    /// The gradients of a layer's parameters, from its inputs and the gradient of its outputs.
    fn linear_gradients(
        &mut self,
        linear: &LinearPlace,
        inputs: &Floats,
        gradient: &Floats,
        rows: usize,
    ) -> Result<()> {
        let MatrixPlace {
            rows: outputs,
            columns,
            ..
        } = linear.weight;
        let of_outputs = Matrix::new(gradient, MatrixPlace::new(rows, outputs));
        let inputs = Matrix::new(inputs, MatrixPlace::new(rows, columns));
        let target = (&mut self.gradients, linear.weight);
        let first = of_outputs.transposed();
        self.device
            .product(first, inputs, LayerEnd::default(), target)?;
        let target = (&mut self.gradients, linear.bias);
        Ok(self.device.column_sums((gradient, rows), target)?)
    }

    /// Counts a step, and tells the device its factors: outside of recorded work.
    fn begin_step(&mut self) -> Result<()> {
        self.steps += 1;
        let Update {
            beta1,
            beta2,
            step_size,
            second_correction,
            epsilon,
        } = Update::new(self.adam, self.steps);
        Ok(self.factors.set(AdamStep {
            first: [beta1, 1.0 - beta1].map(|x| x as f32),
            second: [beta2, 1.0 - beta2].map(|x| x as f32),
            step_size: step_size as f32,
            correction: second_correction as f32,
            epsilon: epsilon as f32,
        })?)
    }

    /// Moves all parameters.
    fn end_step(&mut self) -> Result<()> {
        let [first, second] = &mut self.moments;
        let weights = &mut self.parameters.values;
        let moments = [first, second];
        Ok(self
            .device
            .adam(&self.factors, weights, moments, &self.gradients)?)
    }

    fn adam_state(&self) -> Result<NamedTensors> {
        let [first, second] = &self.moments;
        let moments = [
            self.parameters.named(first)?,
            self.parameters.named(second)?,
        ];
        adam_state(moments, self.steps)
    }
}

/// Where a linear layer's parameters lie.
#[derive(Copy, Clone, Debug)]
struct LinearPlace {
    /// (outputs, inputs).
    weight: MatrixPlace,
    bias: Place,
}

impl LinearPlace {
    /// `inputs · weightᵀ + bias`, through a function.
    fn forward(
        &self,
        learned: &Learned,
        inputs: &Floats,
        activation: Activation,
        outputs: &mut Floats,
        rows: usize,
    ) -> Result<()> {
        let (values, weight) = (learned.values(), self.weight);
        let inputs = Matrix::new(inputs, MatrixPlace::new(rows, weight.columns));
        let end = LayerEnd {
            bias: Some((values, self.bias)),
            activation,
            gate: None,
        };
        let weight = Matrix::new(values, weight).transposed();
        let target = (outputs, MatrixPlace::new(rows, self.bias.len));
        Ok(learned.device.product(inputs, weight, end, target)?)
    }

    /// The gradient of some of the inputs, times the slope of a leaky ReLU that they came out of.
    fn input_gradient(
        &self,
        learned: &Learned,
        gradient: &Floats,
        (first, columns): (usize, usize),
        gate: Option<&Floats>,
        target: &mut Floats,
        rows: usize,
    ) -> Result<()> {
        let place = MatrixPlace::new(rows, columns);
        let end = LayerEnd {
            gate: gate.map(|gate| (gate, place)),
            ..LayerEnd::default()
        };
        let of_outputs = Matrix::new(gradient, MatrixPlace::new(rows, self.bias.len));
        let weight = Matrix::new(learned.values(), self.weight.columns(first, columns));
        let target = (target, place);
        Ok(learned.device.product(of_outputs, weight, end, target)?)
    }
}

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
        if !self.batches.contains_key(&rows) {
            let batch = GeneratorBatch::new(&device, self.config, rows)?;
            self.batches.insert(rows, batch);
        }
        let batch = batch_of(&mut self.batches, rows)?;
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
        let flat = triggers.flatten_from(1)?;
        let matched = Tensor::cat(&[noise, &flat], 1)?;
        let mismatched = Tensor::cat(&[fresh_noise, &flat], 1)?;
        let inputs = host_values(&Tensor::cat(&[matched, mismatched], 0)?)?;
        let device = self.learned.device.clone();
        if !self.batches.contains_key(&rows) {
            let batch = PairBatch::new(&device, self.config, rows)?;
            self.batches.insert(rows, batch);
        }
        let batch = batch_of(&mut self.batches, rows)?;
        batch.inputs.write(&inputs)?;
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
        // Each trigger is in a matched and in a mismatched pair.
        let gradient = batch.of_triggers.read()?;
        let (matched, mismatched) = gradient.split_at(gradient.len() / 2);
        let both: Vec<f32> = matched.iter().zip(mismatched).map(|(a, b)| a + b).collect();
        let [channels, height, width] = config.trigger_shape;
        let shape = (rows / 2, channels, height, width);
        Ok(Tensor::from_vec(both, shape, &Device::Cpu)?)
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

    fn write(&mut self, of_scores: &[f32]) -> Result<usize> {
        let rows = self.last.ok_or_else(|| unmade("pairs"))?;
        check_len("the gradient of the scores", of_scores.len(), rows)?;
        batch_of(&mut self.batches, rows)?
            .of_scores
            .write(of_scores)?;
        Ok(rows)
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

fn batch_of<B>(batches: &mut HashMap<usize, B>, rows: usize) -> Result<&mut B> {
    batches.get_mut(&rows).ok_or_else(|| unmade("buffers"))
}

fn check_len(what: &'static str, found: usize, expected: usize) -> Result<()> {
    if found == expected {
        return Ok(());
    }
    Err(Error::Batch {
        what,
        expected: expected.to_string(),
        found: found.to_string(),
    })
}
