//! The fits of one testing function, and what is measured of their samples.

use std::ops::ControlFlow;

use candle::{Device, Tensor};
use mesa::{
    EntropyConfig, MesaConfig, Processor, Result, Schedule, Seeds, SubModel, SubModelFit,
    entropy_of, mixture_weights, nearest_neighbor_entropy,
};

use crate::compare::{coverage, energy_distance};
use crate::known::{Known, points};

/// Steps of the statistics network for each of the generator. With one, as in the authors' code,
/// it does not keep up on some level sets.
pub(crate) const STATISTICS_STEPS: usize = 10;
/// The thresholds, in rising order.
pub(crate) const BETAS: [f64; 3] = [0.5, 0.8, 0.9];
/// Samples for shares, coverage and energy distance.
pub(crate) const SAMPLES: usize = 1000;
/// Samples for the nearest-neighbor entropy.
pub(crate) const ENTROPY_SAMPLES: usize = 4000;
/// Pairs of uniform samples that say what an energy distance of zero looks like.
const NULLS: usize = 8;

/// Settings for two or three dimensions: not the paper's, which are for 27.
pub(crate) fn config(known: &Known, statistics_steps: usize) -> MesaConfig {
    MesaConfig {
        betas: BETAS.to_vec(),
        alpha: 0.1,
        // A quarter of the noise enters the last layer, which is linear: with fewer than the
        // dimensions of a trigger, samples fall onto curves and sheets. Of one, two and four
        // times as many, two missed parts of it least often (two seeds).
        noise_dim: 8 * known.dim,
        network_width: 64,
        trigger_shape: [1, 1, known.dim],
        epochs: 1,
        learning_rate: 1e-3,
        trigger_noise_std: 0.02,
        statistics_steps,
        ..MesaConfig::paper()
    }
}

/// What one sub-model's samples are like, and what uniform ones would be.
pub(crate) struct Measured {
    pub(crate) beta: f64,
    /// Some samples, for a picture.
    pub(crate) samples: Vec<Vec<f64>>,
    /// As many uniform points of the level set.
    pub(crate) uniform: Vec<Vec<f64>>,
    /// Share of samples with `F ≥ β`.
    pub(crate) reached: f64,
    /// Share of cells of the level set with a sample.
    pub(crate) coverage: f64,
    /// Share of samples in the rarer half: next to each blob, or of the lower half of space.
    pub(crate) rarer_half: f64,
    /// Energy distance of samples and uniform points.
    pub(crate) energy: f64,
    /// The largest of some energy distances between two sets of uniform points.
    pub(crate) energy_null: f64,
    /// Log volume of the level set, in closed form.
    pub(crate) log_volume: f64,
    /// Entropy of the samples by nearest neighbors, with its standard error.
    pub(crate) entropy: (f64, f64),
    /// The same of as many uniform points: what the estimator itself adds.
    pub(crate) entropy_of_uniform: f64,
    /// Entropy of the noisy samples by nearest neighbors.
    pub(crate) noisy_entropy: f64,
}

impl Measured {
    /// Nats by which the samples are less spread than uniform points, by the same estimator.
    pub(crate) fn shortfall(&self) -> f64 {
        self.entropy_of_uniform - self.entropy.0
    }
}

/// The sub-models of one testing function, and the weights of their staircase.
pub(crate) struct Staircase {
    pub(crate) known: Known,
    pub(crate) measured: Vec<Measured>,
    /// Entropies of the noisy samples by the bound, with their standard errors.
    pub(crate) bounds: Vec<(f64, f64)>,
    /// The same by statistics networks whose steps stay as long as they are.
    pub(crate) steady_bounds: Vec<f64>,
    pub(crate) gamma_true: Vec<f64>,
    pub(crate) gamma_neighbors: Vec<f64>,
    pub(crate) gamma_bound: Vec<f64>,
    /// As if all entropies were equal: of no measurement.
    pub(crate) gamma_at_equal_entropy: Vec<f64>,
}

pub(crate) fn fit(known: Known, beta: f64, config: MesaConfig, seed: u64) -> Result<SubModel> {
    let seeds = Seeds::new(seed, &format!("fit/{}/{beta}", known.name()));
    let mut fit = SubModelFit::new(&Processor::Cpu, config, beta, seeds)?;
    fit.run(&mut { known }, &mut |_| ControlFlow::Continue(()))?;
    fit.into_sub_model()
}

pub(crate) fn measure(known: &Known, sub_model: &SubModel, seed: u64) -> Result<Measured> {
    let beta = sub_model.info().beta;
    let stream = |what| Seeds::new(seed, &format!("{what}/{}/{beta}", known.name())).start();
    let samples = points(&sub_model.sample(&mut stream("samples"), SAMPLES)?)?;
    let mut rng = stream("uniform");
    let uniform = known.uniform(&mut rng, beta, SAMPLES);
    let count = |holds: &dyn Fn(&[f64]) -> bool| {
        let count = samples.iter().filter(|point| holds(point)).count();
        count as f64 / SAMPLES as f64
    };
    let low = count(&|point| point.iter().sum::<f64>() < 0.5 * known.dim as f64);
    let energy_null = (0..NULLS)
        .map(|_| energy_distance(&known.uniform(&mut rng, beta, SAMPLES), &uniform))
        .fold(0.0, f64::max);
    let many = sub_model.sample(&mut stream("entropy"), ENTROPY_SAMPLES)?;
    let entropy = nearest_neighbor_entropy(&many, 1)?;
    let many_uniform = tensor(&known.uniform(&mut rng, beta, ENTROPY_SAMPLES))?;
    let noisy = noisy(&many, sub_model.info().trigger_noise_std, &mut rng)?;
    Ok(Measured {
        beta,
        reached: count(&|point| known.value(point) >= beta),
        coverage: coverage(known, beta, &samples),
        rarer_half: low.min(1.0 - low),
        energy: energy_distance(&samples, &uniform),
        energy_null,
        log_volume: known.volume(beta).ln(),
        entropy: (entropy.nats, entropy.se),
        entropy_of_uniform: nearest_neighbor_entropy(&many_uniform, 1)?.nats,
        noisy_entropy: nearest_neighbor_entropy(&noisy, 1)?.nats,
        samples,
        uniform,
    })
}

/// Entropy of the noisy samples by the mutual-information bound, with its standard error. The steps
/// that go down to zero start twice as long as those that do not: their mean is the same.
pub(crate) fn bound(sub_model: &SubModel, seed: u64, schedule: Schedule) -> Result<(f64, f64)> {
    let seeds = Seeds::new(seed, &format!("bound/{}", sub_model.info().beta));
    let config = EntropyConfig {
        learning_rate: match schedule {
            Schedule::Constant => 2e-3,
            _ => 4e-3,
        },
        schedule,
        ..EntropyConfig::standard()
    };
    let found = entropy_of(&Processor::Cpu, sub_model, &config, &seeds)?;
    Ok((found.entropy_nats, found.information_se))
}

fn tensor(points: &[Vec<f64>]) -> Result<Tensor> {
    Ok(Tensor::new(points.to_vec(), &Device::Cpu)?)
}

/// The samples with Gaussian noise, as the bound sees them.
fn noisy(samples: &Tensor, std: f64, rng: &mut impl rand::Rng) -> Result<Tensor> {
    use rand_distr::{Distribution, StandardNormal};

    let mut points = points(samples)?;
    for x in points.iter_mut().flatten() {
        let normal: f64 = StandardNormal.sample(rng);
        *x += std * normal;
    }
    tensor(&points)
}

/// Weighs the sub-models by the closed form, by nearest neighbors, and by the bound.
pub(crate) fn staircase(known: Known, fits: Vec<(Measured, [(f64, f64); 2])>) -> Result<Staircase> {
    let (measured, both): (Vec<_>, Vec<_>) = fits.into_iter().unzip();
    let bounds: Vec<_> = both.iter().map(|[bound, _]| *bound).collect();
    let betas: Vec<f64> = measured.iter().map(|measured| measured.beta).collect();
    let gamma = |entropy: &dyn Fn(&Measured) -> (f64, f64)| {
        let entropies: Vec<_> = measured.iter().map(entropy).collect();
        Ok::<_, mesa::Error>(mixture_weights(&betas, &entropies)?.gamma)
    };
    let by_bound = mixture_weights(&betas, &bounds)?;
    Ok(Staircase {
        known,
        gamma_at_equal_entropy: by_bound.gamma_at_equal_entropy,
        gamma_true: gamma(&|measured| (measured.log_volume, 0.0))?,
        gamma_neighbors: gamma(&|measured| measured.entropy)?,
        gamma_bound: by_bound.gamma,
        steady_bounds: both.iter().map(|[_, steady]| steady.0).collect(),
        measured,
        bounds,
    })
}
