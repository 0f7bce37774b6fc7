//! The statistics network of the mutual-information bound, the other of MESA's two perceptrons (Qiao et
//! al. 2019, Algorithm 2; sizes as in the authors' code).

use std::collections::BTreeMap;

use candle::backprop::GradStore;
use candle::{DType, Device, Tensor, Var};
use rand::Rng;

use crate::layers::{
    Linear, insert_linear, leaky_relu, leaky_relu_gradient, linear_gradients, uniform,
};
use crate::state::{self, NamedTensors};
use crate::{Error, PerceptronConfig, Result};

/// The statistics network's layers.
pub(crate) const LAYER_NAMES: [&str; 3] = ["input", "hidden", "output"];
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
        // Of scores that were computed before, or without a graph: nothing would be learned, and nobody
        // would notice.
        if [&self.matched, &self.mismatched]
            .iter()
            .all(|score| objective.get(score).is_none())
        {
            let reason = "the objective does not depend on these scores".to_owned();
            return Err(candle::Error::Msg(reason).into());
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Seeds;
    use crate::small_perceptrons::{assert_slope, generator, noise, small, values};

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
    fn an_objective_of_other_scores_is_refused() {
        let mut rng = Seeds::new(5, "t").start();
        let statistics = StatisticsNetwork::new(&mut rng, small()).unwrap();
        let triggers = generator(0).forward(&noise(1)).unwrap();
        let score = || {
            statistics
                .score_pairs(&noise(1), &noise(2), &triggers)
                .unwrap()
        };
        let (earlier, scores) = (score(), score());
        let objective = earlier.matched.sum_all().unwrap().backward().unwrap();
        statistics.trigger_gradient(&earlier, &objective).unwrap();
        assert!(statistics.trigger_gradient(&scores, &objective).is_err());
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
