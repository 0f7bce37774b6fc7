//! The two perceptrons of MESA: the generator of triggers and the statistics network of the
//! mutual-information bound (Qiao et al. 2019, Algorithm 2; sizes as in the authors' code).

use std::collections::BTreeMap;

use candle::backprop::GradStore;
use candle::{DType, Device, Tensor, Var};
use rand::Rng;
use serde::{Deserialize, Serialize};

use crate::layers::{
    Linear, NormLeaky, NormTape, leaky_relu, leaky_relu_gradient, linear_gradients, sigmoid,
    sigmoid_gradient, uniform,
};
use crate::state::{self, NamedTensors};
use crate::{Error, Result};

/// The noise reaches the generator in as many equal parts, one more with each layer.
pub(crate) const NOISE_PARTS: usize = 4;
/// The statistics network's layers.
pub(crate) const LAYER_NAMES: [&str; 3] = ["input", "hidden", "output"];

/// Sizes that the generator and its statistics network share.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PerceptronConfig {
    /// Length of the noise vector; a multiple of four.
    pub noise_dim: usize,
    /// Units of each hidden layer.
    pub network_width: usize,
    /// Channels, height and width of a trigger.
    pub trigger_shape: [usize; 3],
}

impl PerceptronConfig {
    /// 64 noise values, 512 units, 3×3 color triggers: the paper's CIFAR-10 setting.
    pub fn paper() -> Self {
        Self {
            noise_dim: 64,
            network_width: 512,
            trigger_shape: [3, 3, 3],
        }
    }

    /// Numbers in one trigger.
    pub fn trigger_len(&self) -> usize {
        self.trigger_shape.iter().product()
    }

    /// The gradient of the triggers `(B, C, h, w)` from that of all pairs' triggers `(2 B, C h w)`: each
    /// is in a matched and in a mismatched pair.
    pub(crate) fn of_triggers(&self, of_pairs: &Tensor) -> Result<Tensor> {
        let batch_size = of_pairs.dim(0)? / 2;
        let matched = of_pairs.narrow(0, 0, batch_size)?;
        let both = (matched + of_pairs.narrow(0, batch_size, batch_size)?)?;
        let [channels, height, width] = self.trigger_shape;
        Ok(both.reshape((batch_size, channels, height, width))?)
    }

    /// Checks that networks of these sizes can be built.
    ///
    /// # Errors
    ///
    /// [`Error::PerceptronConfig`] if a size is zero or the noise does not divide into four parts.
    pub fn validate(&self) -> Result<()> {
        let sized = self.noise_dim > 0 && self.network_width > 0 && self.trigger_len() > 0;
        if sized && self.noise_dim.is_multiple_of(NOISE_PARTS) {
            Ok(())
        } else {
            Err(Error::PerceptronConfig { config: *self })
        }
    }
}

/// The generator `G`: noise in, triggers in `[0, 1]` out.
///
/// Three hidden layers with batch norm and leaky ReLU (0.2), then a linear layer and a sigmoid.
/// The noise comes in four parts: the first enters the first layer, each further one is
/// appended to what enters the next.
///
/// # Examples
///
/// ```
/// use mesa_models::{Generator, PerceptronConfig, Seeds, uniform_noise};
///
/// let mut rng = Seeds::new(0, "doc").start();
/// let config = PerceptronConfig { network_width: 16, ..PerceptronConfig::paper() };
/// let mut generator = Generator::new(&mut rng, config)?;
/// let noise = uniform_noise(&mut rng, 8, config.noise_dim)?;
/// assert_eq!(generator.forward_train(&noise)?.triggers.dims(), [8, 3, 3, 3]);
/// assert_eq!(generator.forward(&noise)?.dims(), [8, 3, 3, 3]);
/// # Ok::<(), mesa_models::Error>(())
/// ```
#[derive(Debug)]
pub struct Generator {
    config: PerceptronConfig,
    linears: [Linear; 4],
    norms: [NormLeaky; 3],
}

impl Generator {
    /// A generator with PyTorch's default initialization.
    ///
    /// # Errors
    ///
    /// [`Error::PerceptronConfig`] if the sizes do not fit together.
    pub fn new(rng: &mut impl Rng, config: PerceptronConfig) -> Result<Self> {
        config.validate()?;
        let (part, width) = (config.noise_dim / NOISE_PARTS, config.network_width);
        let mut linear = |inputs, outputs| Linear::new(rng, inputs, outputs);
        let linears = [
            linear(part, width)?,
            linear(width + part, width)?,
            linear(width + part, width)?,
            linear(width + part, config.trigger_len())?,
        ];
        let norm = || NormLeaky::new(width);
        Ok(Self {
            config,
            linears,
            norms: [norm()?, norm()?, norm()?],
        })
    }

    /// The sizes it was built with.
    pub fn config(&self) -> PerceptronConfig {
        self.config
    }

    /// Triggers for noise, with batch norm's running statistics (evaluation mode).
    ///
    /// # Shapes
    ///
    /// - `noise`: `(B, noise_dim)`.
    /// - returns: `(B, C, h, w)` in `[0, 1]`; no gradient.
    ///
    /// # Errors
    ///
    /// [`Error::Tensor`] if the noise is of another shape.
    pub fn forward(&self, noise: &Tensor) -> Result<Tensor> {
        let mut xs = self.noise_part(noise, 0)?;
        for (i, norm) in self.norms.iter().enumerate() {
            let hidden = norm.forward(&self.linears[i].forward(&xs)?)?;
            xs = Tensor::cat(&[hidden, self.noise_part(noise, i + 1)?], 1)?;
        }
        self.as_triggers(&self.linears[3].forward(&xs)?)
    }

    /// Triggers for noise, with batch norm's statistics of this batch (training mode), which
    /// move the running ones.
    ///
    /// # Errors
    ///
    /// [`Error::Tensor`] if the noise is of another shape.
    pub fn forward_train(&mut self, noise: &Tensor) -> Result<Generated> {
        let mut inputs = vec![self.noise_part(noise, 0)?];
        let mut tapes = Vec::new();
        for i in 0..self.norms.len() {
            let hidden = self.linears[i].forward(&inputs[i])?;
            let (hidden, tape) = self.norms[i].forward_train(&hidden)?;
            tapes.push(tape);
            inputs.push(Tensor::cat(&[hidden, self.noise_part(noise, i + 1)?], 1)?);
        }
        let triggers = self.as_triggers(&self.linears[3].forward(&inputs[3])?)?;
        Ok(Generated {
            triggers,
            inputs,
            tapes,
        })
    }

    /// The gradients of all parameters, by name, from that of the triggers.
    ///
    /// # Shapes
    ///
    /// - `trigger_gradient`: `(B, C, h, w)`, of whatever is to be minimized.
    ///
    /// # Errors
    ///
    /// [`Error::Tensor`] if the gradient is of another shape.
    pub fn parameter_gradients(
        &self,
        generated: &Generated,
        trigger_gradient: &Tensor,
    ) -> Result<NamedTensors> {
        let mut gradients = NamedTensors::new();
        let mut gradient =
            sigmoid_gradient(&generated.triggers, trigger_gradient)?.flatten_from(1)?;
        for i in (0..self.linears.len()).rev() {
            let (weight, bias) = linear_gradients(&generated.inputs[i], &gradient)?;
            gradients.insert(format!("linear{}.weight", i + 1), weight);
            gradients.insert(format!("linear{}.bias", i + 1), bias);
            if i > 0 {
                // The noise appended behind the hidden units needs none.
                let width = self.config.network_width;
                gradient = self.linears[i]
                    .input_gradient(&gradient)?
                    .narrow(1, 0, width)?;
                let norm = self.norms[i - 1].backward(&generated.tapes[i - 1], &gradient)?;
                gradients.insert(format!("norm{i}.weight"), norm.weight);
                gradients.insert(format!("norm{i}.bias"), norm.bias);
                gradient = norm.xs;
            }
        }
        Ok(gradients)
    }

    fn noise_part(&self, noise: &Tensor, part: usize) -> Result<Tensor> {
        let len = self.config.noise_dim / NOISE_PARTS;
        Ok(noise.narrow(1, part * len, len)?)
    }

    fn as_triggers(&self, xs: &Tensor) -> Result<Tensor> {
        let [channels, height, width] = self.config.trigger_shape;
        Ok(sigmoid(xs)?.reshape(((), channels, height, width))?)
    }

    /// What training changes, in name order.
    pub fn parameters(&self) -> BTreeMap<String, Var> {
        let mut parameters = BTreeMap::new();
        for (i, linear) in self.linears.iter().enumerate() {
            insert_linear(&mut parameters, &format!("linear{}", i + 1), linear);
        }
        for (i, norm) in self.norms.iter().enumerate() {
            parameters.insert(format!("norm{}.weight", i + 1), norm.weight.clone());
            parameters.insert(format!("norm{}.bias", i + 1), norm.bias.clone());
        }
        parameters
    }

    /// Copies of all parameters and running statistics, by name.
    ///
    /// # Errors
    ///
    /// [`Error::Tensor`] if memory cannot be copied.
    pub fn state(&self) -> Result<NamedTensors> {
        let mut tensors = state::copies(&self.parameters())?;
        for (i, norm) in self.norms.iter().enumerate() {
            tensors.insert(
                format!("norm{}.running_mean", i + 1),
                norm.running_mean.copy()?,
            );
            tensors.insert(
                format!("norm{}.running_var", i + 1),
                norm.running_var.copy()?,
            );
        }
        Ok(tensors)
    }

    /// Takes over a state of [`Generator::state`].
    ///
    /// # Errors
    ///
    /// [`Error::MissingTensor`], [`Error::UnexpectedTensor`] or [`Error::TensorShape`] where
    /// it belongs to a generator of another kind; nothing has changed then.
    pub fn load_state(&mut self, tensors: &NamedTensors) -> Result<()> {
        state::check(&self.state()?, tensors)?;
        state::load(&self.parameters(), tensors)?;
        for (i, norm) in self.norms.iter_mut().enumerate() {
            let named = |name| tensors[&format!("norm{}.{name}", i + 1)].copy();
            norm.running_mean = named("running_mean")?;
            norm.running_var = named("running_var")?;
        }
        Ok(())
    }
}

/// Triggers that a generator made in training mode, and what their gradient needs.
#[derive(Debug)]
pub struct Generated {
    /// The triggers, `(B, C, h, w)` in `[0, 1]`.
    pub triggers: Tensor,
    inputs: Vec<Tensor>,
    tapes: Vec<NormTape>,
}

/// The statistics network `T` of the mutual-information bound: one score for each pair of
/// noise and trigger.
///
/// Noise and trigger each pass a linear layer without bias; their sum with a bias (zero at
/// first), leaky ReLU (0.2), a hidden layer, leaky ReLU, one output, leaky ReLU. The two first
/// layers are one matrix here, noise columns first.
#[derive(Debug)]
pub struct StatisticsNetwork {
    config: PerceptronConfig,
    linears: [Linear; 3],
}

impl StatisticsNetwork {
    /// A statistics network with PyTorch's default initialization.
    ///
    /// # Errors
    ///
    /// [`Error::PerceptronConfig`] if the sizes do not fit together.
    pub fn new(rng: &mut impl Rng, config: PerceptronConfig) -> Result<Self> {
        config.validate()?;
        let (width, hidden) = (config.network_width, config.network_width);
        let bound = |inputs: usize| 1.0 / (inputs as f32).sqrt();
        let noise = uniform(rng, bound(config.noise_dim), width * config.noise_dim);
        let trigger = uniform(
            rng,
            bound(config.trigger_len()),
            width * config.trigger_len(),
        );
        let noise = Tensor::from_vec(noise, (width, config.noise_dim), &Device::Cpu)?;
        let trigger = Tensor::from_vec(trigger, (width, config.trigger_len()), &Device::Cpu)?;
        let input = Linear {
            weight: Var::from_tensor(&Tensor::cat(&[noise, trigger], 1)?)?,
            bias: Var::zeros(width, DType::F32, &Device::Cpu)?,
        };
        let hidden = Linear::new(rng, width, hidden)?;
        let output = Linear::new(rng, width, 1)?;
        Ok(Self {
            config,
            linears: [input, hidden, output],
        })
    }

    /// Scores matched pairs `(noise, triggers)` and mismatched pairs `(fresh_noise, triggers)`.
    ///
    /// # Shapes
    ///
    /// - `noise`, `fresh_noise`: `(B, noise_dim)`; `triggers`: `(B, C, h, w)`.
    ///
    /// # Errors
    ///
    /// [`Error::Tensor`] if the shapes do not fit.
    pub fn score_pairs(
        &self,
        noise: &Tensor,
        fresh_noise: &Tensor,
        triggers: &Tensor,
    ) -> Result<PairScores> {
        let batch_size = triggers.dim(0)?;
        let mut activations = vec![pair_inputs(noise, fresh_noise, triggers)?];
        for (i, linear) in self.linears.iter().enumerate() {
            activations.push(leaky_relu(&linear.forward(&activations[i])?)?);
        }
        let scores = activations[self.linears.len()].squeeze(1)?;
        Ok(PairScores {
            matched: Var::from_tensor(&scores.narrow(0, 0, batch_size)?.copy()?)?,
            mismatched: Var::from_tensor(&scores.narrow(0, batch_size, batch_size)?.copy()?)?,
            activations,
        })
    }

    /// The gradients of all parameters, by name, of an objective made of these scores.
    ///
    /// # Errors
    ///
    /// [`Error::Tensor`] if a tensor operation fails.
    pub fn parameter_gradients(
        &self,
        scores: &PairScores,
        objective: &GradStore,
    ) -> Result<NamedTensors> {
        let mut gradients = NamedTensors::new();
        self.backward(scores, objective, &mut |name, xs, gradient| {
            let (weight, bias) = linear_gradients(xs, gradient)?;
            gradients.insert(format!("{name}.weight"), weight);
            gradients.insert(format!("{name}.bias"), bias);
            Ok(())
        })?;
        Ok(gradients)
    }

    /// The gradient of the triggers, `(B, C, h, w)`, of an objective made of these scores: each
    /// trigger is in a matched and in a mismatched pair.
    ///
    /// # Errors
    ///
    /// [`Error::Tensor`] if a tensor operation fails.
    pub fn trigger_gradient(&self, scores: &PairScores, objective: &GradStore) -> Result<Tensor> {
        let gradient = self.backward(scores, objective, &mut |_, _, _| Ok(()))?;
        let gradient = self.linears[0].input_gradient(&gradient)?;
        let (noise_dim, len) = (self.config.noise_dim, self.config.trigger_len());
        self.config
            .of_triggers(&gradient.narrow(1, noise_dim, len)?)
    }

    /// Walks back through the layers, showing each its input and the gradient of its output;
    /// returns the gradient of the first layer's output.
    fn backward(
        &self,
        scores: &PairScores,
        objective: &GradStore,
        visit: &mut dyn FnMut(&str, &Tensor, &Tensor) -> Result<()>,
    ) -> Result<Tensor> {
        if scores.activations.is_empty() {
            return Err(Error::Batch {
                what: "scores of pairs",
                expected: "made by this network, on the CPU".to_owned(),
                found: "made on a GPU".to_owned(),
            });
        }
        let mut gradient = scores.gradient(objective)?.unsqueeze(1)?;
        for (i, linear) in self.linears.iter().enumerate().rev() {
            gradient = leaky_relu_gradient(&scores.activations[i + 1], &gradient)?;
            visit(LAYER_NAMES[i], &scores.activations[i], &gradient)?;
            if i > 0 {
                gradient = linear.input_gradient(&gradient)?;
            }
        }
        Ok(gradient)
    }

    /// The sizes it was built with.
    pub fn config(&self) -> PerceptronConfig {
        self.config
    }

    /// What training changes, in name order.
    pub fn parameters(&self) -> BTreeMap<String, Var> {
        let mut parameters = BTreeMap::new();
        for (name, linear) in LAYER_NAMES.into_iter().zip(&self.linears) {
            insert_linear(&mut parameters, name, linear);
        }
        parameters
    }

    /// Copies of all parameters, by name.
    ///
    /// # Errors
    ///
    /// [`Error::Tensor`] if memory cannot be copied.
    pub fn state(&self) -> Result<NamedTensors> {
        state::copies(&self.parameters())
    }

    /// Takes over a state of [`StatisticsNetwork::state`].
    ///
    /// # Errors
    ///
    /// [`Error::MissingTensor`], [`Error::UnexpectedTensor`] or [`Error::TensorShape`] where
    /// it belongs to a network of another kind; nothing has changed then.
    pub fn load_state(&mut self, tensors: &NamedTensors) -> Result<()> {
        state::check(&self.state()?, tensors)?;
        state::load(&self.parameters(), tensors)
    }
}

/// Scores of matched and mismatched pairs, and what their gradient needs.
///
/// The scores are variables: make an objective of them with candle, and hand its gradients back
/// to the [`StatisticsNetwork`].
#[derive(Debug)]
pub struct PairScores {
    /// Scores of `(noise, triggers)`, `(B,)`.
    pub matched: Var,
    /// Scores of `(fresh_noise, triggers)`, `(B,)`.
    pub mismatched: Var,
    /// Where the network is on the CPU.
    activations: Vec<Tensor>,
}

impl PairScores {
    /// Scores that were computed elsewhere, as was what their gradient needs.
    #[cfg(feature = "cuda")]
    pub(crate) fn without_activations(matched: Var, mismatched: Var) -> Self {
        Self {
            matched,
            mismatched,
            activations: Vec::new(),
        }
    }

    /// The gradient of all scores `(2 B,)`, the matched ones first.
    pub(crate) fn gradient(&self, objective: &GradStore) -> Result<Tensor> {
        let of = |score: &Var| match objective.get(score) {
            Some(gradient) => Ok(gradient.contiguous()?),
            None => score.detach().zeros_like(),
        };
        let both = [of(&self.matched)?, of(&self.mismatched)?];
        Ok(Tensor::cat(&both, 0)?)
    }
}

/// What a statistics network sees, `(2 B, noise_dim + C h w)`: matched pairs, then mismatched ones.
pub(crate) fn pair_inputs(
    noise: &Tensor,
    fresh_noise: &Tensor,
    triggers: &Tensor,
) -> Result<Tensor> {
    let flat = triggers.flatten_from(1)?;
    let matched = Tensor::cat(&[noise, &flat], 1)?;
    let mismatched = Tensor::cat(&[fresh_noise, &flat], 1)?;
    Ok(Tensor::cat(&[matched, mismatched], 0)?)
}

/// Noise for the generator: uniform in `[0, 1)`, drawn on the host, shape `(count, noise_dim)`.
///
/// # Errors
///
/// [`Error::Tensor`] if there is no memory for it.
pub fn uniform_noise(rng: &mut impl Rng, count: usize, noise_dim: usize) -> Result<Tensor> {
    let values: Vec<f32> = (0..count * noise_dim).map(|_| rng.random()).collect();
    Ok(Tensor::from_vec(values, (count, noise_dim), &Device::Cpu)?)
}

fn insert_linear(parameters: &mut BTreeMap<String, Var>, name: &str, linear: &Linear) {
    parameters.insert(format!("{name}.weight"), linear.weight.clone());
    parameters.insert(format!("{name}.bias"), linear.bias.clone());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Seeds;

    fn small() -> PerceptronConfig {
        PerceptronConfig {
            noise_dim: 8,
            network_width: 12,
            trigger_shape: [3, 2, 1],
        }
    }

    fn generator(seed: u64) -> Generator {
        Generator::new(&mut Seeds::new(seed, "g").start(), small()).unwrap()
    }

    fn noise(seed: u64) -> Tensor {
        uniform_noise(&mut Seeds::new(seed, "z").start(), 5, 8).unwrap()
    }

    fn values(tensor: &Tensor) -> Vec<f32> {
        tensor.flatten_all().unwrap().to_vec1().unwrap()
    }

    #[test]
    fn the_papers_sizes_have_as_many_parameters_as_the_authors_networks() {
        let mut rng = Seeds::new(0, "count").start();
        let config = PerceptronConfig::paper();
        let count = |parameters: BTreeMap<String, Var>| -> usize {
            parameters.values().map(|var| var.elem_count()).sum()
        };
        let generator = Generator::new(&mut rng, config).unwrap();
        let layers = (16 + 1) * 512 + 2 * (528 + 1) * 512 + (528 + 1) * 27;
        assert_eq!(count(generator.parameters()), layers + 3 * 2 * 512);
        let statistics = StatisticsNetwork::new(&mut rng, config).unwrap();
        let layers = (64 + 27 + 1) * 512 + (512 + 1) * 512 + (512 + 1);
        assert_eq!(count(statistics.parameters()), layers);
    }

    #[test]
    fn initial_weights_stay_within_pytorchs_bounds() {
        let mut rng = Seeds::new(0, "bounds").start();
        let config = PerceptronConfig::paper();
        let statistics = StatisticsNetwork::new(&mut rng, config).unwrap();
        let largest =
            |tensor: &Tensor| values(tensor).into_iter().fold(0f32, |a, b| a.max(b.abs()));
        let input = &statistics.parameters()["input.weight"];
        let noise = largest(&input.narrow(1, 0, 64).unwrap());
        let trigger = largest(&input.narrow(1, 64, 27).unwrap());
        assert!((0.12..=0.125).contains(&noise), "{noise}");
        assert!((0.19..=1.0 / 27f32.sqrt()).contains(&trigger), "{trigger}");
        assert!(
            values(&statistics.parameters()["input.bias"])
                .iter()
                .all(|bias| bias.to_bits() == 0)
        );
        let output = largest(&statistics.parameters()["output.weight"]);
        assert!((0.04..=1.0 / 512f32.sqrt()).contains(&output), "{output}");
    }

    #[test]
    fn a_state_restores_the_same_outputs() {
        let mut trained = generator(0);
        trained.forward_train(&noise(1)).unwrap();
        let mut other = generator(1);
        assert_ne!(
            values(&other.forward(&noise(2)).unwrap()),
            values(&trained.forward(&noise(2)).unwrap())
        );
        other.load_state(&trained.state().unwrap()).unwrap();
        assert_eq!(
            values(&other.forward(&noise(2)).unwrap()),
            values(&trained.forward(&noise(2)).unwrap())
        );
    }

    #[test]
    fn rejects_the_state_of_another_network() {
        let mut generator = generator(0);
        let mut state = generator.state().unwrap();
        let bias = state.remove("linear4.bias").unwrap();
        let error = generator.load_state(&state).unwrap_err();
        assert!(matches!(error, Error::MissingTensor { name } if name == "linear4.bias"));
        state.insert("linear4.bias".into(), bias.narrow(0, 0, 2).unwrap());
        let error = generator.load_state(&state).unwrap_err();
        assert!(matches!(error, Error::TensorShape { name, .. } if name == "linear4.bias"));
        state.insert("linear4.bias".into(), bias.clone());
        state.insert("linear5.bias".into(), bias);
        let error = generator.load_state(&state).unwrap_err();
        assert!(matches!(error, Error::UnexpectedTensor { name } if name == "linear5.bias"));
    }

    #[test]
    fn rejects_noise_that_does_not_divide() {
        let config = PerceptronConfig {
            noise_dim: 6,
            ..small()
        };
        assert!(matches!(
            config.validate(),
            Err(Error::PerceptronConfig { .. })
        ));
    }

    /// Moves one weight up and down and compares the loss's slope with its exact gradient.
    fn assert_slope(name: &str, var: &Var, exact: &Tensor, loss: &mut dyn FnMut() -> f32) {
        let before = values(var);
        let at = before.len() / 2;
        let mut moved = |by: f32| {
            let mut after = before.clone();
            after[at] += by;
            let after = Tensor::from_vec(after, var.shape(), &Device::Cpu).unwrap();
            var.set(&after).unwrap();
            loss()
        };
        let numeric = (moved(2e-3) - moved(-2e-3)) / 4e-3;
        moved(0.0);
        let exact = values(exact)[at];
        let close = (numeric - exact).abs() < 2e-3 + 0.02 * exact.abs();
        assert!(close, "{name}: {numeric} {exact}");
    }

    #[test]
    fn the_generators_gradient_agrees_with_finite_differences() {
        let mut generator = generator(3);
        let probe = noise(9).narrow(1, 0, 6).unwrap();
        let probe = probe.reshape((5, 3, 2, 1)).unwrap();
        let generated = generator.forward_train(&noise(4)).unwrap();
        let gradients = generator.parameter_gradients(&generated, &probe).unwrap();
        let parameters = generator.parameters();
        assert!(gradients.keys().eq(parameters.keys()));
        for (name, var) in &parameters {
            assert_slope(name, var, &gradients[name], &mut || {
                let triggers = generator.forward_train(&noise(4)).unwrap().triggers;
                let loss = (triggers * &probe).unwrap().sum_all().unwrap();
                loss.to_scalar().unwrap()
            });
        }
    }

    #[test]
    fn the_scores_gradients_agree_with_finite_differences() {
        let mut rng = Seeds::new(5, "t").start();
        let statistics = StatisticsNetwork::new(&mut rng, small()).unwrap();
        let triggers = Var::from_tensor(&generator(0).forward(&noise(1)).unwrap()).unwrap();
        let score = |triggers: &Tensor| {
            let scores = statistics
                .score_pairs(&noise(1), &noise(2), triggers)
                .unwrap();
            let matched = (scores.matched.as_tensor() * 3.0).unwrap();
            let loss = (matched - scores.mismatched.sqr().unwrap()).unwrap();
            (scores, loss.sum_all().unwrap())
        };
        let (scores, loss) = score(&triggers.detach());
        let objective = loss.backward().unwrap();
        let mut loss = || score(&triggers.detach()).1.to_scalar().unwrap();
        let exact = statistics.trigger_gradient(&scores, &objective).unwrap();
        assert_slope("triggers", &triggers, &exact, &mut loss);
        let gradients = statistics.parameter_gradients(&scores, &objective).unwrap();
        let parameters = statistics.parameters();
        assert!(gradients.keys().eq(parameters.keys()));
        for (name, var) in &parameters {
            assert_slope(name, var, &gradients[name], &mut loss);
        }
    }

    #[test]
    fn mismatched_pairs_are_scored_like_matched_ones() {
        let mut rng = Seeds::new(5, "t").start();
        let statistics = StatisticsNetwork::new(&mut rng, small()).unwrap();
        let triggers = generator(0).forward(&noise(1)).unwrap();
        let scores = statistics
            .score_pairs(&noise(1), &noise(2), &triggers)
            .unwrap();
        let swapped = statistics
            .score_pairs(&noise(2), &noise(1), &triggers)
            .unwrap();
        assert_eq!(values(&scores.mismatched), values(&swapped.matched));
    }
}
