//! The mixture of sub-models (Algorithm 1): weights from entropies, and sampling.

use candle::Tensor;
use rand::Rng;
use rand::distr::{Distribution, weighted::WeightedIndex};

use crate::{EntropyEstimate, Error, Result, SubModel};

/// Weights γ of the sub-models in the staircase, in the order in which they were given.
#[derive(Clone, Debug, PartialEq)]
pub struct MixtureWeights {
    /// γ, from the measured entropies; they sum to 1.
    pub gamma: Vec<f64>,
    /// Standard errors of γ, carried through from those of the entropies.
    pub gamma_se: Vec<f64>,
    /// γ if all sub-models had the same entropy.
    pub gamma_at_equal_entropy: Vec<f64>,
    /// Whether γ can be read. Level sets nest, so entropy falls as β rises; where the measured
    /// one does not, or by less than the standard error of the difference, it measures something
    /// else than the level set's volume, and so does γ.
    pub readable: bool,
}

/// The weights of Algorithm 1 with φ the identity.
///
/// ```text
/// γᵢ ∝ exp(hᵢ) (βᵢ − βᵢ₋₁),  β₀ = 0, thresholds in rising order
/// var γᵢ = Σⱼ (γᵢ (δᵢⱼ − γⱼ))² var hⱼ
/// ```
///
/// `entropies` are `(hᵢ, standard error)` in nats; what they have in common cancels. Their errors are taken as
/// independent, which those of one network are not: all its sub-models are measured from the same draws, and
/// what these do to all alike cancels as well. Thresholds come in any order.
///
/// # Errors
///
/// [`Error::Mixture`] if there is none, or not one entropy for each threshold;
/// [`Error::Config`] if a threshold repeats or is not above zero, or an entropy is no number.
///
/// # Examples
///
/// ```
/// // At equal entropies the steps between the thresholds decide.
/// let weights = mesa::mixture_weights(&[0.9, 0.8, 0.5], &[(1.0, 0.0), (1.0, 0.0), (1.0, 0.0)])?;
/// assert!((weights.gamma[2] - 5.0 / 9.0).abs() < 1e-12);
/// assert!(!weights.readable);
/// # Ok::<(), mesa::Error>(())
/// ```
pub fn mixture_weights(betas: &[f64], entropies: &[(f64, f64)]) -> Result<MixtureWeights> {
    if betas.is_empty() || betas.len() != entropies.len() {
        return Err(Error::Mixture {
            sub_models: betas.len(),
            others: entropies.len(),
        });
    }
    for (nats, se) in entropies {
        let holds = nats.is_finite() && se.is_finite() && *se >= 0.0;
        crate::config::require(
            "entropy",
            format!("{nats} ± {se}"),
            holds,
            "a number with an error",
        )?;
    }
    let mut rising: Vec<usize> = (0..betas.len()).collect();
    rising.sort_by(|a, b| betas[*a].total_cmp(&betas[*b]));
    let mut steps = vec![0.0; betas.len()];
    let mut below = 0.0;
    for i in &rising {
        let beta = betas[*i];
        crate::config::require(
            "beta",
            beta,
            beta > below,
            "above zero and unlike the others",
        )?;
        steps[*i] = beta - below;
        below = beta;
    }
    let largest = entropies
        .iter()
        .fold(f64::NEG_INFINITY, |largest, (nats, _)| largest.max(*nats));
    let unscaled = steps
        .iter()
        .zip(entropies)
        .map(|(step, (nats, _))| step * (nats - largest).exp());
    let gamma = normalized(unscaled.collect());
    let error = |i: usize| -> f64 {
        let terms = entropies.iter().enumerate().map(|(j, (_, se))| {
            let own = if i == j { 1.0 } else { 0.0 };
            gamma[i] * (own - gamma[j]) * se
        });
        terms.map(|term| term * term).sum::<f64>().sqrt()
    };
    Ok(MixtureWeights {
        gamma_se: (0..gamma.len()).map(error).collect(),
        gamma_at_equal_entropy: normalized(steps),
        readable: rising.windows(2).all(|pair| {
            let [(wider, wider_se), (narrower, narrower_se)] =
                [entropies[pair[0]], entropies[pair[1]]];
            wider - narrower > wider_se.hypot(narrower_se)
        }),
        gamma,
    })
}

/// Refuses triggers of several shapes.
fn check_shapes(sub_models: &[SubModel]) -> Result<()> {
    let shape = |sub_model: &SubModel| sub_model.info().sizes.trigger_shape;
    sub_models.iter().try_for_each(|sub_model| {
        let (own, first) = (shape(sub_model), shape(&sub_models[0]));
        let is_same = "the shape of the other sub-models";
        crate::config::require("trigger_shape", format!("{own:?}"), own == first, is_same)
    })
}

fn normalized(mut weights: Vec<f64>) -> Vec<f64> {
    let sum: f64 = weights.iter().sum();
    for weight in &mut weights {
        *weight /= sum;
    }
    weights
}

/// A distribution over triggers: sub-models for several β, each drawn with its weight.
///
/// # Examples
///
/// ```
/// use mesa::{MesaConfig, Processor, Seeds, Staircase, SubModelFit};
///
/// let config = MesaConfig { network_width: 16, ..MesaConfig::paper() };
/// let untrained = |beta| {
///     let fit = SubModelFit::new(&Processor::Cpu, config.clone(), beta, Seeds::new(0, "fit"))?;
///     fit.into_sub_model()
/// };
/// let staircase = Staircase::new(vec![untrained(0.9)?, untrained(0.5)?], &[0.4, 0.6])?;
/// let triggers = staircase.sample(&mut Seeds::new(0, "samples").start(), 5)?;
/// assert_eq!(triggers.dims(), [5, 3, 3, 3]);
/// # Ok::<(), mesa::Error>(())
/// ```
#[derive(Debug)]
pub struct Staircase {
    sub_models: Vec<SubModel>,
    choice: WeightedIndex<f64>,
}

impl Staircase {
    /// A mixture with the given weights, which need not sum to 1.
    ///
    /// # Errors
    ///
    /// [`Error::Mixture`] if there is not one weight for each of at least one sub-model;
    /// [`Error::Config`] if the weights are negative or all zero, or triggers have several shapes.
    pub fn new(sub_models: Vec<SubModel>, weights: &[f64]) -> Result<Self> {
        if sub_models.is_empty() || sub_models.len() != weights.len() {
            return Err(Error::Mixture {
                sub_models: sub_models.len(),
                others: weights.len(),
            });
        }
        check_shapes(&sub_models)?;
        let choice = WeightedIndex::new(weights).map_err(|_| Error::Config {
            name: "gamma",
            value: format!("{weights:?}"),
            expected: "a list of weights of 0 or more, one above",
        })?;
        Ok(Self { sub_models, choice })
    }

    /// Algorithm 1 from the fitted sub-models on: weighs each by its measured entropy, and mixes them.
    ///
    /// # Errors
    ///
    /// As [`Staircase::new`] and [`mixture_weights`]; [`Error::Config`] also if their triggers were smeared by
    /// different noise, because what that adds to each entropy then does not cancel.
    ///
    /// # Examples
    ///
    /// All of Algorithm 1, with a testing function of one's own:
    ///
    /// ```no_run
    /// # use std::ops::ControlFlow;
    /// use mesa::{EntropyConfig, MesaConfig, Processor, Seeds, Staircase, SubModelFit, entropy_of};
    /// # fn algorithm_1(testing: &mut dyn mesa::TestingFunction) -> Result<Staircase, mesa::Error> {
    /// let config = MesaConfig::paper();
    /// let (mut sub_models, mut entropies) = (Vec::new(), Vec::new());
    /// for beta in config.betas.clone() {
    ///     let mut fit =
    ///         SubModelFit::new(&Processor::Cpu, config.clone(), beta, Seeds::new(0, "fit"))?;
    ///     fit.run(testing, &mut |_| ControlFlow::Continue(()))?;
    ///     let sub_model = fit.into_sub_model()?;
    ///     let seeds = Seeds::new(0, "entropy");
    ///     entropies.push(entropy_of(&Processor::Cpu, &sub_model, &EntropyConfig::standard(), &seeds)?);
    ///     sub_models.push(sub_model);
    /// }
    /// let (staircase, weights) = Staircase::weighed(sub_models, &entropies)?;
    /// # Ok(staircase)
    /// # }
    /// ```
    pub fn weighed(
        sub_models: Vec<SubModel>,
        entropies: &[EntropyEstimate],
    ) -> Result<(Self, MixtureWeights)> {
        Self::check_alike(&sub_models)?;
        let betas: Vec<f64> = sub_models.iter().map(|one| one.info().beta).collect();
        let measured = entropies
            .iter()
            .map(|one| (one.entropy_nats, one.information_se));
        let weights = mixture_weights(&betas, &measured.collect::<Vec<_>>())?;
        Ok((Self::new(sub_models, &weights.gamma)?, weights))
    }

    /// Refuses what [`Staircase::weighed`] would, before anything is measured: thresholds that repeat, other
    /// shapes, other noise.
    ///
    /// # Errors
    ///
    /// [`Error::Config`], naming what differs.
    pub fn check_alike(sub_models: &[SubModel]) -> Result<()> {
        check_shapes(sub_models)?;
        for (i, sub_model) in sub_models.iter().enumerate() {
            let (own, first) = (sub_model.info(), sub_models[0].info());
            let same_noise = own.trigger_noise_std.to_bits() == first.trigger_noise_std.to_bits();
            let others = "that of the other sub-models";
            crate::config::require(
                "trigger_noise_std",
                own.trigger_noise_std,
                same_noise,
                others,
            )?;
            let mut earlier = sub_models[..i].iter().map(|one| one.info().beta.to_bits());
            let is_new = earlier.all(|beta| beta != own.beta.to_bits());
            crate::config::require("beta", own.beta, is_new, "unlike the others")?;
        }
        Ok(())
    }

    /// The sub-models, in the order in which they were given.
    pub fn sub_models(&self) -> &[SubModel] {
        &self.sub_models
    }

    /// Draws triggers, each from a sub-model of its own choice.
    ///
    /// # Shapes
    ///
    /// - returns: `(count, C, h, w)` in `[0, 1]`.
    ///
    /// # Errors
    ///
    /// [`Error::EmptyBatch`] if `count` is zero.
    pub fn sample(&self, rng: &mut impl Rng, count: usize) -> Result<Tensor> {
        if count == 0 {
            return Err(Error::EmptyBatch);
        }
        let chosen: Vec<usize> = (0..count).map(|_| self.choice.sample(rng)).collect();
        // Each sub-model draws all of its triggers at once; then they go back to their places.
        let mut drawn = Vec::new();
        let mut places = vec![0u32; count];
        let mut done = 0u32;
        for (i, sub_model) in self.sub_models.iter().enumerate() {
            let wanted: Vec<usize> = (0..count).filter(|place| chosen[*place] == i).collect();
            if wanted.is_empty() {
                continue;
            }
            drawn.push(sub_model.sample(rng, wanted.len())?);
            for place in wanted {
                places[place] = done;
                done += 1;
            }
        }
        let drawn = Tensor::cat(&drawn, 0)?;
        let places = Tensor::from_vec(places, count, drawn.device())?;
        Ok(drawn.index_select(&places, 0)?)
    }
}

#[cfg(test)]
mod tests {
    use approx::assert_abs_diff_eq;
    use mesa_models::Processor;

    use super::*;
    use crate::{MesaConfig, Seeds, SubModelFit};

    #[test]
    fn gamma_is_the_closed_form_in_any_order() {
        let entropies = [(3f64.ln(), 0.0), (4f64.ln(), 0.0)];
        let weights = mixture_weights(&[0.9, 0.5], &entropies).unwrap();
        // 3 · 0.4 to 4 · 0.5
        assert_abs_diff_eq!(weights.gamma[0], 1.2 / 3.2, epsilon = 1e-12);
        assert_abs_diff_eq!(weights.gamma[1], 2.0 / 3.2, epsilon = 1e-12);
        assert!(weights.readable);
        let turned = mixture_weights(&[0.5, 0.9], &[entropies[1], entropies[0]]).unwrap();
        assert_eq!(turned.gamma, [weights.gamma[1], weights.gamma[0]]);
    }

    #[test]
    fn nested_sets_keep_gamma_within_the_protocols_limits() {
        let entropies = [(-30.0, 0.1), (-29.0, 0.1), (-28.5, 0.1)];
        let weights = mixture_weights(&[0.9, 0.8, 0.5], &entropies).unwrap();
        assert!(weights.gamma[2] >= 5.0 / 9.0 && weights.gamma[0] <= 1.0 / 9.0);
        assert_abs_diff_eq!(weights.gamma.iter().sum::<f64>(), 1.0, epsilon = 1e-12);
        assert_abs_diff_eq!(
            weights.gamma_at_equal_entropy[1],
            3.0 / 9.0,
            epsilon = 1e-12
        );
    }

    #[test]
    fn a_common_offset_cancels_however_large() {
        let near = mixture_weights(&[0.5, 0.9], &[(1.0, 0.1), (0.5, 0.2)]).unwrap();
        let far = mixture_weights(&[0.5, 0.9], &[(1001.0, 0.1), (1000.5, 0.2)]).unwrap();
        assert_abs_diff_eq!(near.gamma[0], far.gamma[0], epsilon = 1e-12);
    }

    #[test]
    fn the_error_of_gamma_is_the_closed_form_for_two() {
        let weights = mixture_weights(&[0.5, 0.9], &[(0.0, 0.3), (0.0, 0.4)]).unwrap();
        // γ(1 − γ) times the error of the difference, 0.5.
        let expected = (5.0 / 9.0) * (4.0 / 9.0) * 0.5;
        assert_abs_diff_eq!(weights.gamma_se[0], expected, epsilon = 1e-12);
        assert_abs_diff_eq!(weights.gamma_se[1], expected, epsilon = 1e-12);
    }

    #[test]
    fn gamma_cannot_be_read_where_entropy_rises_with_beta() {
        assert!(
            !mixture_weights(&[0.5, 0.9], &[(1.0, 0.0), (1.5, 0.0)])
                .unwrap()
                .readable
        );
        let falling = |se| mixture_weights(&[0.9, 0.5], &[(1.0, 0.3), (1.5, se)]).unwrap();
        assert!(falling(0.3).readable);
        // The difference, 0.5, has an error of 0.5.
        assert!(!falling(0.4).readable);
    }

    #[test]
    fn rejects_what_is_no_mixture() {
        assert!(matches!(
            mixture_weights(&[], &[]),
            Err(Error::Mixture { .. })
        ));
        assert!(matches!(
            mixture_weights(&[0.5], &[]),
            Err(Error::Mixture { .. })
        ));
        let twice = mixture_weights(&[0.5, 0.5], &[(0.0, 0.0), (0.0, 0.0)]);
        assert!(matches!(twice, Err(Error::Config { name: "beta", .. })));
        let nan = mixture_weights(&[0.5], &[(f64::NAN, 0.0)]);
        assert!(matches!(
            nan,
            Err(Error::Config {
                name: "entropy",
                ..
            })
        ));
    }

    fn untrained(seed: u64) -> SubModel {
        untrained_of(MesaConfig::paper(), 0.5, seed)
    }

    fn untrained_of(config: MesaConfig, beta: f64, seed: u64) -> SubModel {
        let config = MesaConfig {
            network_width: 8,
            ..config
        };
        let seeds = Seeds::new(seed, "fit");
        let fit = SubModelFit::new(&Processor::Cpu, config, beta, seeds).unwrap();
        fit.into_sub_model().unwrap()
    }

    #[test]
    fn sub_models_are_mixed_by_their_entropies() {
        let of = |beta| untrained_of(MesaConfig::paper(), beta, 0);
        let found = [1.0, 0.5].map(|entropy_nats| EntropyEstimate {
            entropy_nats,
            information_nats: 0.0,
            information_se: 0.1,
            gaussian_bound_nats: 0.0,
            sample_mean: 0.5,
            sample_std: 0.1,
        });
        let (staircase, weights) = Staircase::weighed(vec![of(0.5), of(0.9)], &found).unwrap();
        let expected = mixture_weights(&[0.5, 0.9], &[(1.0, 0.1), (0.5, 0.1)]).unwrap();
        assert_eq!(weights, expected);
        assert_eq!(
            staircase.sub_models()[1].info().beta.to_bits(),
            0.9f64.to_bits()
        );

        let refused = |other: MesaConfig, name| {
            let mixed = vec![of(0.5), untrained_of(other, 0.9, 0)];
            let found = Staircase::weighed(mixed, &found);
            assert!(matches!(found, Err(Error::Config { name: field, .. }) if field == name));
        };
        let other_noise = MesaConfig {
            trigger_noise_std: 0.2,
            ..MesaConfig::paper()
        };
        refused(other_noise, "trigger_noise_std");
        let other_shape = MesaConfig {
            trigger_shape: [3, 2, 4],
            ..MesaConfig::paper()
        };
        refused(other_shape, "trigger_shape");
    }

    /// The mean of a mixture lies between its parts' means where the weights say.
    #[test]
    fn each_sub_model_is_drawn_with_its_share_of_the_weights() {
        let mean = |triggers: Tensor| -> Vec<f32> {
            let rows = triggers.flatten_from(1).unwrap();
            rows.mean(0).unwrap().to_vec1().unwrap()
        };
        let rng = || Seeds::new(9, "samples").start();
        let alone = |seed| mean(untrained(seed).sample(&mut rng(), 4000).unwrap());
        let (first, second) = (alone(0), alone(1));
        let staircase = Staircase::new(vec![untrained(0), untrained(1)], &[1.0, 4.0]).unwrap();
        let mixed = mean(staircase.sample(&mut rng(), 4000).unwrap());
        let along = |from: &[f32], to: &[f32]| -> f32 {
            let steps = from.iter().zip(to).zip(first.iter().zip(&second));
            steps
                .map(|((a, b), (first, second))| (b - a) * (second - first))
                .sum()
        };
        let share = along(&first, &mixed) / along(&first, &second);
        assert_abs_diff_eq!(share, 0.8, epsilon = 0.03);
    }

    #[test]
    fn a_weight_of_zero_is_never_drawn() {
        let staircase = Staircase::new(vec![untrained(0), untrained(1)], &[0.0, 2.0]).unwrap();
        let rng = || Seeds::new(9, "samples").start();
        let drawn = staircase.sample(&mut rng(), 40).unwrap();
        let mut rng = rng();
        // The mixture first draws the choices.
        for _ in 0..40 {
            staircase.choice.sample(&mut rng);
        }
        let alone = untrained(1).sample(&mut rng, 40).unwrap();
        let difference = (drawn - alone).unwrap().abs().unwrap().max_all().unwrap();
        assert_abs_diff_eq!(difference.to_scalar::<f32>().unwrap(), 0.0);
    }
}
