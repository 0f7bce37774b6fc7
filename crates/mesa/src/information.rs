//! The mutual-information bound (MINE): its value, the loss of its network, and a measurement.

use candle::Tensor;
use mesa_models::{
    AdamConfig, NamedTensors, PerceptronConfig, Position, Processor, Seeds, StatisticsNetwork,
    StatisticsTrainer,
};
use rand::RngCore;

use crate::{EntropyConfig, Error, MesaConfig, Result};

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

    /// An average like this one that stands where another one stood.
    pub(crate) fn resumed(self, value: Option<f64>) -> Self {
        Self { value, ..self }
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
/// [`Error::EmptyBatch`] if there are no pairs; [`Error::Scores`] if the average has left the range of numbers,
/// as by a score above 709; [`Error::Tensor`] if an argument is not a vector.
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
    // An average that is infinite stays so, and T would go on without its second term.
    if !log_average.is_finite() {
        let farthest = scores
            .iter()
            .copied()
            .max_by(|a, b| a.abs().total_cmp(&b.abs()));
        let score = farthest.unwrap_or(f32::NAN);
        return Err(Error::Scores { score });
    }
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

/// A joint distribution of noise and triggers to draw pairs from, for [`measure_information`].
pub trait PairSource {
    /// Lengths of noise and trigger, and the width of the statistics network to fit.
    fn sizes(&self) -> PerceptronConfig;

    /// Draws pairs, independent of those drawn before.
    ///
    /// # Errors
    ///
    /// Whatever keeps it from drawing.
    fn draw(&mut self, rng: &mut dyn RngCore, count: usize) -> Result<Pairs>;
}

/// Noise and triggers that belong together, and noise that belongs to none of them.
#[derive(Clone, Debug)]
pub struct Pairs {
    /// The noise of each trigger, `(B, noise_dim)`.
    pub noise: Tensor,
    /// Noise of the same distribution drawn apart from the triggers, `(B, noise_dim)`.
    pub fresh_noise: Tensor,
    /// The triggers, `(B, C, h, w)`.
    pub triggers: Tensor,
}

/// The mutual-information bound on pairs that were not trained on.
#[derive(Copy, Clone, Debug, PartialEq)]
pub struct InformationEstimate {
    /// A lower bound of `I(Z; X)`, in nats.
    pub nats: f64,
    /// Its standard error, of the held-out sample; says nothing of how tight the bound is.
    pub se: f64,
}

/// Measures mutual information: trains a fresh statistics network on pairs of a source and
/// evaluates the bound on held-out ones (Belghazi et al. 2018). `processor` computes the network.
///
/// # Errors
///
/// [`Error::Config`] if a setting is out of range, [`Error::Tensor`] if the source's pairs do not
/// fit its sizes, and whatever the source fails with.
///
/// # Examples
///
/// ```
/// use candle::{Device, Tensor};
/// use mesa::{EntropyConfig, PairSource, Pairs, PerceptronConfig, Processor, RngCore, Seeds};
///
/// /// Noise, and triggers that have nothing to do with it.
/// struct Unrelated;
///
/// impl PairSource for Unrelated {
///     fn sizes(&self) -> PerceptronConfig {
///         PerceptronConfig { noise_dim: 4, network_width: 8, trigger_shape: [1, 1, 2] }
///     }
///
///     fn draw(&mut self, rng: &mut dyn RngCore, count: usize) -> mesa::Result<Pairs> {
///         let mut uniform = |len| {
///             let values = (0..count * len).map(|_| (rng.next_u32() as f32) / u32::MAX as f32);
///             Tensor::from_vec(values.collect::<Vec<f32>>(), (count, len), &Device::Cpu)
///         };
///         let triggers = uniform(2)?.reshape((count, 1, 1, 2))?;
///         Ok(Pairs { noise: uniform(4)?, fresh_noise: uniform(4)?, triggers })
///     }
/// }
///
/// let config = EntropyConfig { steps: 20, held_out: 1000, ..EntropyConfig::standard() };
/// let seeds = Seeds::new(0, "doc");
/// let found = mesa::measure_information(&Processor::Cpu, &mut Unrelated, &config, &seeds)?;
/// assert!(found.nats.abs() < 0.05);
/// # Ok::<(), mesa::Error>(())
/// ```
pub fn measure_information(
    processor: &Processor,
    source: &mut dyn PairSource,
    config: &EntropyConfig,
    seeds: &Seeds,
) -> Result<InformationEstimate> {
    let mut fit = InformationFit::new(processor, source.sizes(), config, seeds)?;
    while !fit.is_done() {
        fit.step(source)?;
    }
    fit.held_out_bound(source)
}

/// A fresh statistics network on its way to the bound.
#[derive(Debug)]
pub(crate) struct InformationFit {
    config: EntropyConfig,
    seeds: Seeds,
    statistics: StatisticsTrainer,
    average: MovingAverage,
    steps: usize,
    /// The bound on the last batch.
    bound: Option<f64>,
}

impl InformationFit {
    pub(crate) fn new(
        processor: &Processor,
        sizes: PerceptronConfig,
        config: &EntropyConfig,
        seeds: &Seeds,
    ) -> Result<Self> {
        config.validate()?;
        let statistics = StatisticsNetwork::new(&mut seeds.start(), sizes)?;
        let adam = AdamConfig {
            learning_rate: config.learning_rate,
            ..AdamConfig::paper()
        };
        Ok(Self {
            config: config.clone(),
            seeds: seeds.clone(),
            statistics: StatisticsTrainer::new(processor, statistics, adam)?,
            average: MovingAverage::new(MesaConfig::paper().moving_average_rate),
            steps: 0,
            bound: None,
        })
    }

    pub(crate) fn settings(&self) -> (&EntropyConfig, &Seeds) {
        (&self.config, &self.seeds)
    }

    pub(crate) fn steps(&self) -> usize {
        self.steps
    }

    pub(crate) fn bound(&self) -> Option<f64> {
        self.bound
    }

    pub(crate) fn is_done(&self) -> bool {
        self.steps >= self.config.steps
    }

    /// Takes one step, on pairs that depend on its number alone.
    pub(crate) fn step(&mut self, source: &mut dyn PairSource) -> Result<()> {
        let (step, config) = (self.steps, &self.config);
        let mut rng = self.seeds.at(Position { epoch: 0, step });
        let pairs = source.draw(&mut rng, config.batch_size)?;
        let scores =
            self.statistics
                .score_pairs(&pairs.noise, &pairs.fresh_noise, &pairs.triggers)?;
        let (loss, bound) =
            statistics_loss(&scores.matched, &scores.mismatched, &mut self.average)?;
        let factor = config.schedule.factor(step, config.steps);
        self.statistics
            .set_learning_rate(config.learning_rate * factor);
        self.statistics.step(&loss.backward()?)?;
        (self.steps, self.bound) = (step + 1, Some(bound));
        Ok(())
    }

    /// The bound on pairs from a stream of their own: none of them was trained on.
    pub(crate) fn held_out_bound(
        &mut self,
        source: &mut dyn PairSource,
    ) -> Result<InformationEstimate> {
        let mut rng = self.seeds.at(Position { epoch: 1, step: 0 });
        let held_out = self.config.held_out;
        let (mut matched, mut mismatched) = (Vec::new(), Vec::new());
        while matched.len() < held_out {
            let count = (held_out - matched.len()).min(HELD_OUT_CHUNK);
            let pairs = source.draw(&mut rng, count)?;
            let scores =
                self.statistics
                    .score_pairs(&pairs.noise, &pairs.fresh_noise, &pairs.triggers)?;
            matched.extend(scores.matched.to_vec1::<f32>()?);
            mismatched.extend(scores.mismatched.to_vec1::<f32>()?);
        }
        Ok(bound_with_error(&matched, &mismatched))
    }

    /// Network and optimizer, and the moving average.
    pub(crate) fn state(&self) -> Result<([NamedTensors; 2], Option<f64>)> {
        Ok((self.statistics.state()?, self.average.value()))
    }

    /// Goes on after `steps` steps from a state of [`InformationFit::state`].
    pub(crate) fn load_state(
        &mut self,
        steps: usize,
        tensors: [&NamedTensors; 2],
        average: Option<f64>,
    ) -> Result<()> {
        self.statistics.load_state(tensors)?;
        self.average = self.average.resumed(average);
        (self.steps, self.bound) = (steps, None);
        Ok(())
    }
}

/// The Donsker–Varadhan bound and its standard error: that of the mean of each pair's influence,
/// `T(z, x) − exp T(z′, x) / mean exp T`, because both scores share a trigger.
fn bound_with_error(matched: &[f32], mismatched: &[f32]) -> InformationEstimate {
    let count = matched.len() as f64;
    let log_mean_exp = log_mean_exp(mismatched);
    let mean = matched.iter().copied().map(f64::from).sum::<f64>() / count;
    let influence = matched.iter().zip(mismatched).map(|(matched, mismatched)| {
        f64::from(*matched) - mean - ((f64::from(*mismatched) - log_mean_exp).exp() - 1.0)
    });
    let variance = influence.map(|x| x * x).sum::<f64>() / (count - 1.0);
    InformationEstimate {
        nats: mean - log_mean_exp,
        se: (variance / count).sqrt(),
    }
}

#[cfg(test)]
mod tests {
    use approx::assert_abs_diff_eq;
    use candle::{Device, Var};
    use rand_distr::{Distribution, StandardNormal};

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
    fn scores_beyond_the_averages_range_are_an_error() {
        for (scores, expected) in [
            ([1.0, 800.0], 800.0),
            ([f32::NAN, -800.0], f32::NAN),
            ([-760.0, -800.0], -800.0_f32),
        ] {
            let scores = vector(&scores);
            let refused = statistics_loss(&scores, &scores, &mut MovingAverage::new(0.1));
            let Err(Error::Scores { score }) = refused else {
                panic!("{refused:?}");
            };
            assert_eq!(score.to_bits(), expected.to_bits());
        }
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
        let mut average = MovingAverage::new(0.25).resumed(Some(6.0));
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
        // Both scores of a pair share its trigger: two separate variances would state half as much again.
        let mut run = || {
            let (shared, own) = (draw(0.5), draw(0.4));
            let matched: Vec<f32> = shared.iter().zip(&own).map(|(a, b)| a + b).collect();
            bound_with_error(&matched, &shared)
        };
        let runs: Vec<_> = (0..400).map(|_| run()).collect();
        let mean = runs.iter().map(|run| run.nats).sum::<f64>() / 400.0;
        let spread = (runs
            .iter()
            .map(|run| (run.nats - mean).powi(2))
            .sum::<f64>()
            / 399.0)
            .sqrt();
        let stated = runs.iter().map(|run| run.se).sum::<f64>() / 400.0;
        assert!((spread / stated - 1.0).abs() < 0.1, "{spread} {stated}");
        // E T = 0, ln E exp T = 0.5² / 2.
        assert_abs_diff_eq!(mean, -0.125, epsilon = 0.01);
    }
}
