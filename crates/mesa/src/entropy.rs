//! The mutual-information bound (MINE), and the entropy of a fitted generator.

use std::f64::consts::{E, PI};

use candle::{Device, Tensor};
use mesa_models::{Adam, AdamConfig, Position, Seeds, StatisticsNetwork, uniform_noise};
use rand::Rng;
use rand_distr::{Distribution, StandardNormal};

use crate::{EntropyConfig, Error, Result, SubModel};

/// Pairs scored at once when a bound is evaluated on held-out noise.
const HELD_OUT_CHUNK: usize = 1024;

/// Lower bound on the mutual information `I(Z; X)` of noise and samples.
///
/// The statistics network `T` scores `B` matched pairs `(z, x)` and `B`
/// mismatched pairs `(z′, x)`; the Donsker–Varadhan bound compares the two:
///
/// ```text
/// I(Z; X) ≥ mean T(z, x) − log mean exp T(z′, x)
/// ```
///
/// A generator is deterministic, so raising this bound raises the entropy of
/// what it emits: the regularizer of each sub-model (Qiao et al. 2019, Algorithm 2).
/// The estimator is MINE (Belghazi et al. 2018).
///
/// # Shapes
///
/// - `matched`, `mismatched`: `(B,)`, raw scores of `T`, no activation.
/// - returns: `()`, in nats, differentiable in both arguments.
///
/// # Errors
///
/// [`Error::EmptyBatch`] if `B` is zero; [`Error::Tensor`] if either argument
/// is not a vector.
///
/// # Examples
///
/// ```
/// use candle::{DType, Device, Tensor};
///
/// // A network that cannot tell the pairs apart has found no information.
/// let scores = Tensor::zeros(8, DType::F32, &Device::Cpu)?;
/// let nats = mesa::mutual_information(&scores, &scores)?.to_scalar::<f32>()?;
/// assert!(nats.abs() < 1e-6);
/// # Ok::<(), mesa::Error>(())
/// ```
pub fn mutual_information(matched: &Tensor, mismatched: &Tensor) -> Result<Tensor> {
    let batch_size = mismatched.dims1()?;
    if batch_size == 0 || matched.dims1()? == 0 {
        return Err(Error::EmptyBatch);
    }
    // Scores are unbounded and `exp` overflows f32 beyond 88.
    let log_sum_exp = mismatched.log_sum_exp(0)?;
    let log_mean_exp = (log_sum_exp - (batch_size as f64).ln())?;
    Ok((matched.mean(0)? - log_mean_exp)?)
}

/// The moving average of `mean exp T(z′, x)` over batches, which corrects the bias of the
/// bound's gradient for `T` (Belghazi et al. 2018).
#[derive(Copy, Clone, Debug, PartialEq)]
pub struct MovingAverage {
    rate: f64,
    value: Option<f64>,
}

impl MovingAverage {
    /// An average that has seen no batch; `rate` is the weight of the newest.
    pub fn new(rate: f64) -> Self {
        Self { rate, value: None }
    }

    /// Its value after the batches seen so far.
    pub fn value(&self) -> Option<f64> {
        self.value
    }

    /// An average that stands where another one stood.
    pub(crate) fn resumed(rate: f64, value: Option<f64>) -> Self {
        Self { rate, value }
    }

    /// Takes in a batch's mean and returns the average; the first batch sets it.
    pub fn update(&mut self, mean: f64) -> f64 {
        let average = self
            .value
            .map_or(mean, |before| (1.0 - self.rate) * before + self.rate * mean);
        self.value = Some(average);
        average
    }
}

/// The loss of `T`: its gradient is minus that of the bound, with the second term divided by the
/// moving average in place of the batch's own mean.
///
/// ```text
/// −∇L = mean ∇T(z, x) − mean ∇exp T(z′, x) / average
/// ```
///
/// The average takes in this batch first. The value of the loss itself means nothing; the second
/// of the pair is the bound on this batch, in nats.
///
/// # Errors
///
/// [`Error::EmptyBatch`] if there are no pairs; [`Error::Tensor`] if an argument is not a vector.
pub fn statistics_loss(
    matched: &Tensor,
    mismatched: &Tensor,
    average: &mut MovingAverage,
) -> Result<(Tensor, f64)> {
    let scores = mismatched.to_vec1::<f32>()?;
    if scores.is_empty() || matched.dims1()? == 0 {
        return Err(Error::EmptyBatch);
    }
    let log_mean_exp = log_mean_exp(&scores);
    let log_average = average.update(log_mean_exp.exp()).ln();
    let mean_matched = matched.mean(0)?;
    // exp(T − ln average) is exp(T) / average without the overflow.
    let corrected = (mismatched - log_average)?.exp()?.mean(0)?;
    let bound = f64::from(mean_matched.to_scalar::<f32>()?) - log_mean_exp;
    Ok(((corrected - mean_matched)?, bound))
}

fn log_mean_exp(scores: &[f32]) -> f64 {
    let largest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let largest = f64::from(largest);
    let sum: f64 = scores
        .iter()
        .map(|score| (f64::from(*score) - largest).exp())
        .sum();
    largest + (sum / scores.len() as f64).ln()
}

/// How widely a fitted sub-model spreads, in several measures.
///
/// `I(G(z); z)` of a deterministic generator is infinite, so all of this is about the noisy
/// trigger `x̃ = G(z) + σ ε`, with σ the trigger noise of the fit. None of it is the volume of a
/// level set.
#[derive(Copy, Clone, Debug, PartialEq)]
pub struct EntropyEstimate {
    /// Î(x̃; z), a lower bound in nats, by a fresh statistics network on held-out noise.
    pub information_nats: f64,
    /// Its standard error, of the held-out sample; says nothing of how tight the bound is.
    pub information_se: f64,
    /// `h(x̃) = Î + d/2 ln(2πe σ²)`, in nats, with the same standard error.
    pub entropy_nats: f64,
    /// `½ ln det(2πe Cov x̃)`, the entropy of the Gaussian with the same covariance: never less
    /// than the true `h(x̃)`.
    pub gaussian_bound_nats: f64,
    /// Mean of the pixels of `G(z)`.
    pub sample_mean: f64,
    /// Standard deviation of `G(z)`, root mean square over its pixels.
    pub sample_std: f64,
}

/// Measures the entropy of a sub-model: freezes the generator, trains a fresh statistics network
/// on noisy triggers and evaluates it on held-out noise.
///
/// # Errors
///
/// [`Error::Config`] if a setting is out of range or the sub-model has no trigger noise, in which
/// case there is no finite information to measure; [`Error::Tensor`] if a tensor operation fails.
pub fn entropy_of(
    device: &Device,
    sub_model: &SubModel,
    config: &EntropyConfig,
    seeds: &Seeds,
) -> Result<EntropyEstimate> {
    config.validate()?;
    let std = sub_model.info().trigger_noise_std;
    crate::config::require(
        "trigger_noise_std",
        std,
        std > 0.0,
        "above 0, as entropy needs",
    )?;
    let statistics = fit_statistics(device, sub_model, config, seeds)?;
    // A stream of its own: none of this noise was trained on.
    let mut rng = seeds.at(Position { epoch: 1, step: 0 });
    let mut held_out = HeldOut::default();
    while held_out.matched.len() < config.held_out {
        let count = (config.held_out - held_out.matched.len()).min(HELD_OUT_CHUNK);
        let pairs = Pairs::draw(device, &mut rng, sub_model, count)?;
        let scores = statistics.score_pairs(&pairs.noise, &pairs.fresh_noise, &pairs.noised)?;
        held_out.matched.extend(scores.matched.to_vec1::<f32>()?);
        held_out
            .mismatched
            .extend(scores.mismatched.to_vec1::<f32>()?);
        held_out
            .triggers
            .extend(pairs.triggers.flatten_from(1)?.to_vec2::<f32>()?);
    }
    Ok(held_out.estimate(std))
}

fn fit_statistics(
    device: &Device,
    sub_model: &SubModel,
    config: &EntropyConfig,
    seeds: &Seeds,
) -> Result<StatisticsNetwork> {
    let mut rng = seeds.start();
    let sizes = sub_model.info().sizes;
    let statistics = StatisticsNetwork::new(device, &mut rng, sizes)?;
    let adam = AdamConfig {
        learning_rate: config.learning_rate,
        ..AdamConfig::paper()
    };
    let mut adam = Adam::new(statistics.parameters(), adam)?;
    let mut average = MovingAverage::new(crate::MesaConfig::paper().moving_average_rate);
    for step in 0..config.steps {
        let mut rng = seeds.at(Position { epoch: 0, step });
        let pairs = Pairs::draw(device, &mut rng, sub_model, config.batch_size)?;
        let scores = statistics.score_pairs(&pairs.noise, &pairs.fresh_noise, &pairs.noised)?;
        let (loss, _) = statistics_loss(&scores.matched, &scores.mismatched, &mut average)?;
        adam.step(&statistics.parameter_gradients(&scores, &loss.backward()?)?)?;
    }
    Ok(statistics)
}

/// Matched noise and noisy triggers, and fresh noise for the mismatched pairs.
struct Pairs {
    noise: Tensor,
    fresh_noise: Tensor,
    triggers: Tensor,
    noised: Tensor,
}

impl Pairs {
    fn draw(
        device: &Device,
        rng: &mut impl Rng,
        sub_model: &SubModel,
        count: usize,
    ) -> Result<Self> {
        let info = sub_model.info();
        let noise = uniform_noise(device, rng, count, info.sizes.noise_dim)?;
        let triggers = sub_model.triggers_for(&noise)?;
        let noised = with_gaussian_noise(rng, &triggers, info.trigger_noise_std)?;
        let fresh_noise = uniform_noise(device, rng, count, info.sizes.noise_dim)?;
        Ok(Self {
            noise,
            fresh_noise,
            triggers,
            noised,
        })
    }
}

/// `xs + std · ε`, not clipped, drawn on the host.
pub(crate) fn with_gaussian_noise(rng: &mut impl Rng, xs: &Tensor, std: f64) -> Result<Tensor> {
    let normal = StandardNormal.sample_iter(rng);
    let noise: Vec<f32> = normal
        .take(xs.elem_count())
        .map(|x: f32| x * std as f32)
        .collect();
    Ok((xs + Tensor::from_vec(noise, xs.shape(), xs.device())?)?)
}

#[derive(Default)]
struct HeldOut {
    matched: Vec<f32>,
    mismatched: Vec<f32>,
    triggers: Vec<Vec<f32>>,
}

impl HeldOut {
    fn estimate(&self, noise_std: f64) -> EntropyEstimate {
        let (information_nats, information_se) = bound_with_error(&self.matched, &self.mismatched);
        let dim = self.triggers[0].len() as f64;
        let (mean, mut covariance) = moments(&self.triggers);
        let trace: f64 = (0..mean.len()).map(|i| covariance[i][i]).sum();
        // The noise is independent of the triggers: its covariance is known, not sampled.
        for (i, row) in covariance.iter_mut().enumerate() {
            row[i] += noise_std * noise_std;
        }
        EntropyEstimate {
            information_nats,
            information_se,
            entropy_nats: information_nats + gaussian_entropy(dim, 2.0 * dim * noise_std.ln()),
            gaussian_bound_nats: gaussian_entropy(dim, log_determinant(covariance)),
            sample_mean: mean.iter().sum::<f64>() / dim,
            sample_std: (trace / dim).sqrt(),
        }
    }
}

/// The Donsker–Varadhan bound and its standard error: that of the mean of each pair's influence,
/// `T(z, x) − exp T(z′, x) / mean exp T`, because both scores share a trigger.
fn bound_with_error(matched: &[f32], mismatched: &[f32]) -> (f64, f64) {
    let count = matched.len() as f64;
    let log_mean_exp = log_mean_exp(mismatched);
    let mean = matched.iter().copied().map(f64::from).sum::<f64>() / count;
    let influence = matched.iter().zip(mismatched).map(|(matched, mismatched)| {
        f64::from(*matched) - mean - ((f64::from(*mismatched) - log_mean_exp).exp() - 1.0)
    });
    let variance = influence.map(|x| x * x).sum::<f64>() / (count - 1.0);
    (mean - log_mean_exp, (variance / count).sqrt())
}

fn moments(rows: &[Vec<f32>]) -> (Vec<f64>, Vec<Vec<f64>>) {
    let (count, dim) = (rows.len() as f64, rows[0].len());
    let mean: Vec<f64> = (0..dim)
        .map(|i| rows.iter().map(|row| f64::from(row[i])).sum::<f64>() / count)
        .collect();
    let mut covariance = vec![vec![0.0; dim]; dim];
    for row in rows {
        let centered: Vec<f64> = row
            .iter()
            .zip(&mean)
            .map(|(x, mean)| f64::from(*x) - mean)
            .collect();
        for (line, a) in covariance.iter_mut().zip(&centered) {
            for (entry, b) in line.iter_mut().zip(&centered) {
                *entry += a * b / count;
            }
        }
    }
    (mean, covariance)
}

/// `½ (d ln(2πe) + ln det Cov)`.
fn gaussian_entropy(dim: f64, log_determinant: f64) -> f64 {
    0.5 * (dim * (2.0 * PI * E).ln() + log_determinant)
}

/// By Cholesky factors of a positive definite matrix.
fn log_determinant(mut matrix: Vec<Vec<f64>>) -> f64 {
    let mut sum = 0.0;
    for i in 0..matrix.len() {
        for j in 0..=i {
            let dot: f64 = (0..j).map(|k| matrix[i][k] * matrix[j][k]).sum();
            let rest = matrix[i][j] - dot;
            matrix[i][j] = if i == j {
                rest.sqrt()
            } else {
                rest / matrix[j][j]
            };
        }
        sum += 2.0 * matrix[i][i].ln();
    }
    sum
}

#[cfg(test)]
mod tests {
    use approx::assert_abs_diff_eq;
    use candle::Var;

    use super::*;

    fn vector(values: &[f32]) -> Tensor {
        Tensor::new(values, &Device::Cpu).unwrap()
    }

    #[test]
    fn the_bound_on_known_scores_is_the_formula() {
        let bound = mutual_information(&vector(&[1.0, 3.0]), &vector(&[0.0, 3f32.ln()])).unwrap();
        // 2 − ln((1 + 3) / 2)
        assert_abs_diff_eq!(
            bound.to_scalar::<f32>().unwrap(),
            2.0 - 2f32.ln(),
            epsilon = 1e-6
        );
    }

    #[test]
    fn survives_large_scores() {
        let scores = vector(&[1000.0, 1000.0]);
        let bound = mutual_information(&scores, &scores).unwrap();
        assert_abs_diff_eq!(bound.to_scalar::<f32>().unwrap(), 0.0, epsilon = 1e-3);
        let (loss, bound) = statistics_loss(
            &scores,
            &vector(&[300.0, 300.0]),
            &mut MovingAverage::new(0.1),
        )
        .unwrap();
        assert_abs_diff_eq!(bound, 700.0, epsilon = 1e-3);
        assert!(loss.to_scalar::<f32>().unwrap().is_finite());
    }

    #[test]
    fn rejects_an_empty_batch() {
        let (none, one) = (vector(&[]), vector(&[0.0]));
        assert!(matches!(
            mutual_information(&one, &none),
            Err(Error::EmptyBatch)
        ));
        assert!(matches!(
            mutual_information(&none, &one),
            Err(Error::EmptyBatch)
        ));
        let mut average = MovingAverage::new(0.1);
        assert!(matches!(
            statistics_loss(&one, &none, &mut average),
            Err(Error::EmptyBatch)
        ));
    }

    #[test]
    fn the_bounds_gradient_is_a_softmax() {
        let matched = Var::new(&[0.5f32, -1.0], &Device::Cpu).unwrap();
        let mismatched = Var::new(&[0f32, 3f32.ln()], &Device::Cpu).unwrap();
        let gradients = mutual_information(&matched, &mismatched)
            .unwrap()
            .backward()
            .unwrap();
        let found = gradients.get(&matched).unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(found, [0.5, 0.5]);
        let found = gradients
            .get(&mismatched)
            .unwrap()
            .to_vec1::<f32>()
            .unwrap();
        assert_abs_diff_eq!(found[0], -0.25, epsilon = 1e-6);
        assert_abs_diff_eq!(found[1], -0.75, epsilon = 1e-6);
    }

    #[test]
    fn the_average_starts_at_the_first_batch_and_moves_before_it_is_used() {
        let mut average = MovingAverage::new(0.25);
        assert_abs_diff_eq!(average.update(4.0), 4.0);
        assert_abs_diff_eq!(average.update(8.0), 5.0);
        assert_eq!(average.value(), Some(5.0));
    }

    #[test]
    fn the_loss_of_t_divides_by_the_average() {
        let matched = Var::new(&[2f32, 0.0], &Device::Cpu).unwrap();
        let mismatched = Var::new(&[0f32, 3f32.ln()], &Device::Cpu).unwrap();
        // This batch's mean is 2; the average comes from 6 to 5.
        let mut average = MovingAverage::resumed(0.25, Some(6.0));
        let (loss, bound) = statistics_loss(&matched, &mismatched, &mut average).unwrap();
        assert_abs_diff_eq!(average.value().unwrap(), 5.0, epsilon = 1e-6);
        assert_abs_diff_eq!(bound, 1.0 - 2f64.ln(), epsilon = 1e-6);
        let gradients = loss.backward().unwrap();
        assert_eq!(
            gradients.get(&matched).unwrap().to_vec1::<f32>().unwrap(),
            [-0.5, -0.5]
        );
        let found = gradients
            .get(&mismatched)
            .unwrap()
            .to_vec1::<f32>()
            .unwrap();
        assert_abs_diff_eq!(found[0], 0.5 * 1.0 / 5.0, epsilon = 1e-6);
        assert_abs_diff_eq!(found[1], 0.5 * 3.0 / 5.0, epsilon = 1e-6);
    }

    #[test]
    fn the_standard_error_is_that_of_the_spread_over_repetitions() {
        let mut rng = Seeds::new(3, "repetitions").start();
        let mut draw = |std: f32| -> Vec<f32> {
            let normal = StandardNormal.sample_iter(&mut rng);
            normal.take(500).map(|x: f32| x * std).collect()
        };
        let runs: Vec<_> = (0..400)
            .map(|_| bound_with_error(&draw(0.7), &draw(0.5)))
            .collect();
        let mean = runs.iter().map(|run| run.0).sum::<f64>() / 400.0;
        let spread = (runs.iter().map(|run| (run.0 - mean).powi(2)).sum::<f64>() / 399.0).sqrt();
        let stated = runs.iter().map(|run| run.1).sum::<f64>() / 400.0;
        assert!((spread / stated - 1.0).abs() < 0.1, "{spread} {stated}");
        // E T = 0, ln E exp T = 0.5² / 2.
        assert_abs_diff_eq!(mean, -0.125, epsilon = 0.01);
    }

    #[test]
    fn the_offset_in_27_dimensions_is_the_protocols() {
        let offset = gaussian_entropy(27.0, 2.0 * 27.0 * 0.1f64.ln());
        assert_abs_diff_eq!(offset, -23.86, epsilon = 0.005);
    }

    #[test]
    fn the_gaussian_bound_is_the_closed_form() {
        let matrix = vec![
            vec![4.0, 2.0, 0.0],
            vec![2.0, 3.0, 1.0],
            vec![0.0, 1.0, 2.0],
        ];
        // 4 (6 − 1) − 2 (4 − 0) = 12
        assert_abs_diff_eq!(log_determinant(matrix), 12f64.ln(), epsilon = 1e-12);
        let (mean, covariance) = moments(&[vec![0.0, 2.0], vec![2.0, 0.0]]);
        assert_eq!(mean, [1.0, 1.0]);
        assert_eq!(covariance, [[1.0, -1.0], [-1.0, 1.0]]);
    }
}
