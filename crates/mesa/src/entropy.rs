//! How widely a fitted generator spreads.

use std::collections::BTreeMap;
use std::f64::consts::{E, PI};
use std::ops::ControlFlow;
use std::path::Path;

use candle::Tensor;
use mesa_models::{
    NamedTensors, PerceptronConfig, Processor, Sampler, Seeds, Status, load_tensors, save_tensors,
    uniform_noise,
};
use rand::{Rng, RngCore};
use rand_distr::{Distribution, StandardNormal};

use crate::information::InformationFit;
use crate::saved::{average_entry, average_of, digest, named_after, part};
use crate::sub_model::entry;
use crate::{
    EntropyConfig, Error, InformationEstimate, PairSource, Pairs, Result, SubModel, SubModelInfo,
};

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
/// on noisy triggers and evaluates it on held-out noise, all computed by `processor`.
///
/// # Errors
///
/// [`Error::Config`](crate::Error::Config) if a setting is out of range or the sub-model has no
/// trigger noise, in which case there is no finite information to measure;
/// [`Error::Tensor`](crate::Error::Tensor) if a tensor operation fails.
pub fn entropy_of(
    processor: &Processor,
    sub_model: &SubModel,
    config: &EntropyConfig,
    seeds: &Seeds,
) -> Result<EntropyEstimate> {
    let mut measurement = EntropyMeasurement::new(processor, sub_model, config, seeds)?;
    measurement.run(&mut |_| ControlFlow::Continue(()))?;
    measurement.finish()
}

/// The measurement of [`entropy_of`], step by step: it can be watched, stopped, saved and resumed,
/// and comes to the same bits.
///
/// # Examples
///
/// ```
/// use std::ops::ControlFlow;
///
/// use mesa::{EntropyConfig, EntropyMeasurement, MesaConfig, Processor, Seeds, SubModelFit};
///
/// let config = MesaConfig { network_width: 16, ..MesaConfig::paper() };
/// let unfitted = SubModelFit::new(&Processor::Cpu, config, 0.9, Seeds::new(0, "fit"))?;
/// let sub_model = unfitted.into_sub_model()?;
/// let config = EntropyConfig { steps: 20, held_out: 100, ..EntropyConfig::standard() };
/// let seeds = Seeds::new(0, "entropy");
/// let mut measurement = EntropyMeasurement::new(&Processor::Cpu, &sub_model, &config, &seeds)?;
/// measurement.run(&mut |now| {
///     if now.steps() < 10 { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
/// })?;
/// assert_eq!(measurement.steps(), 10);
/// measurement.run(&mut |_| ControlFlow::Continue(()))?;
/// assert!(measurement.finish()?.information_nats > -1.0);
/// # Ok::<(), mesa::Error>(())
/// ```
#[derive(Debug)]
pub struct EntropyMeasurement<'a> {
    noisy: NoisyTriggers<'a>,
    fit: InformationFit,
    sub_model: &'a SubModel,
}

impl<'a> EntropyMeasurement<'a> {
    /// A measurement that has taken no step.
    ///
    /// # Errors
    ///
    /// As for [`entropy_of`].
    pub fn new(
        processor: &Processor,
        sub_model: &'a SubModel,
        config: &EntropyConfig,
        seeds: &Seeds,
    ) -> Result<Self> {
        let info = sub_model.info();
        let std = info.trigger_noise_std;
        crate::config::require(
            "trigger_noise_std",
            std,
            std > 0.0,
            "above 0, as entropy needs",
        )?;
        let noisy = NoisyTriggers {
            info,
            sampler: Sampler::new(processor, sub_model.generator())?,
            clean: None,
        };
        Ok(Self {
            noisy,
            fit: InformationFit::new(processor, info.sizes, config, seeds)?,
            sub_model,
        })
    }

    /// All that decides its course, in one line.
    fn fingerprint(&self) -> Result<String> {
        let generator = digest(&self.sub_model.generator().state()?)?;
        let (info, (config, seeds)) = (self.sub_model.info(), self.fit.settings());
        Ok(format!("{generator:016x} {info:?} {config:?} {seeds:?}"))
    }

    /// Goes on to the last step, or until `observe`, called after every one, breaks.
    ///
    /// # Errors
    ///
    /// [`Error::Tensor`](crate::Error::Tensor) if a tensor operation fails.
    pub fn run(&mut self, observe: &mut dyn FnMut(&Self) -> ControlFlow<()>) -> Result<Status> {
        while !self.fit.is_done() {
            self.fit.step(&mut self.noisy)?;
            if observe(self).is_break() && !self.fit.is_done() {
                return Ok(Status::Stopped);
            }
        }
        Ok(Status::Finished)
    }

    /// Steps of the statistics network so far.
    pub fn steps(&self) -> usize {
        self.fit.steps()
    }

    /// The bound on the last batch, in nats: noisier than the estimate, and of triggers that were
    /// trained on.
    pub fn batch_bound(&self) -> Option<f64> {
        self.fit.bound()
    }

    /// Evaluates the bound of the statistics network, as far as it has come, on held-out noise.
    ///
    /// # Errors
    ///
    /// [`Error::Tensor`](crate::Error::Tensor) if a tensor operation fails.
    pub fn finish(mut self) -> Result<EntropyEstimate> {
        self.noisy.clean = Some(Vec::new());
        let information = self.fit.held_out_bound(&mut self.noisy)?;
        let triggers = self.noisy.clean.unwrap_or_default();
        let std = self.noisy.info.trigger_noise_std;
        Ok(estimate(information, &triggers, std))
    }

    /// Writes all that is needed to go on, atomically.
    ///
    /// # Errors
    ///
    /// [`Error::Models`](crate::Error::Models) if the file cannot be written.
    pub fn save_state(&self, path: &Path) -> Result<()> {
        let ([network, adam], average) = self.fit.state()?;
        let tensors: NamedTensors = named_after("statistics", network)
            .chain(named_after("statistics_adam", adam))
            .collect();
        let metadata = BTreeMap::from([
            ("measurement".to_owned(), self.fingerprint()?),
            ("step".to_owned(), self.steps().to_string()),
            ("average".to_owned(), average_entry(average)),
        ]);
        Ok(save_tensors(path, &tensors, &metadata)?)
    }

    /// Goes on from a saved state of a measurement of the same sub-model.
    ///
    /// # Errors
    ///
    /// [`Error::OtherFit`](crate::Error::OtherFit) if it is of another sub-model, other settings or
    /// another seed, [`Error::Models`](crate::Error::Models) or [`Error::Metadata`](crate::Error::Metadata)
    /// if the file is damaged or none of ours.
    pub fn load_state(&mut self, path: &Path) -> Result<()> {
        let (tensors, metadata) = load_tensors(path)?;
        let (expected, found) = (self.fingerprint()?, entry(&metadata, "measurement")?);
        if found != expected {
            return Err(Error::OtherFit { expected, found });
        }
        let average = average_of(entry(&metadata, "average")?);
        let states = [
            &part(&tensors, "statistics"),
            &part(&tensors, "statistics_adam"),
        ];
        self.fit
            .load_state(entry(&metadata, "step")?, states, average)
    }
}

/// Noise `z` and noisy triggers `G(z) + σ ε`.
#[derive(Debug)]
struct NoisyTriggers<'a> {
    info: SubModelInfo,
    sampler: Sampler<'a>,
    /// The triggers without noise, where somebody asks for them.
    clean: Option<Vec<Vec<f32>>>,
}

impl PairSource for NoisyTriggers<'_> {
    fn sizes(&self) -> PerceptronConfig {
        self.info.sizes
    }

    fn draw(&mut self, mut rng: &mut dyn RngCore, count: usize) -> Result<Pairs> {
        let info = self.info;
        let noise = uniform_noise(&mut rng, count, info.sizes.noise_dim)?;
        let triggers = self.sampler.triggers(&noise)?;
        let noised = with_gaussian_noise(&mut rng, &triggers, info.trigger_noise_std)?;
        let fresh_noise = uniform_noise(&mut rng, count, info.sizes.noise_dim)?;
        if let Some(clean) = &mut self.clean {
            clean.extend(triggers.flatten_from(1)?.to_vec2::<f32>()?);
        }
        Ok(Pairs {
            noise,
            fresh_noise,
            triggers: noised,
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

fn estimate(
    information: InformationEstimate,
    triggers: &[Vec<f32>],
    noise_std: f64,
) -> EntropyEstimate {
    let dim = triggers[0].len() as f64;
    let (mean, mut covariance) = moments(triggers);
    let trace: f64 = (0..mean.len()).map(|i| covariance[i][i]).sum();
    // The noise is independent of the triggers: its covariance is known, not sampled.
    for (i, row) in covariance.iter_mut().enumerate() {
        row[i] += noise_std * noise_std;
    }
    EntropyEstimate {
        information_nats: information.nats,
        information_se: information.se,
        entropy_nats: information.nats + gaussian_entropy(dim, 2.0 * dim * noise_std.ln()),
        gaussian_bound_nats: gaussian_entropy(dim, log_determinant(covariance)),
        sample_mean: mean.iter().sum::<f64>() / dim,
        sample_std: (trace / dim).sqrt(),
    }
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

    use super::*;
    use crate::{MesaConfig, SubModelFit};

    #[test]
    fn a_measurement_that_was_saved_comes_to_the_same_bits() {
        let config = MesaConfig {
            network_width: 8,
            ..MesaConfig::paper()
        };
        let sub_model = |seed| {
            let seeds = Seeds::new(seed, "fit");
            let fit = SubModelFit::new(&Processor::Cpu, config.clone(), 0.9, seeds);
            fit.unwrap().into_sub_model().unwrap()
        };
        let (sub_model, another) = (sub_model(0), sub_model(1));
        let config = EntropyConfig {
            steps: 7,
            batch_size: 16,
            learning_rate: 1e-2,
            held_out: 50,
            ..EntropyConfig::standard()
        };
        let of = |sub_model, config: &EntropyConfig, seed| {
            let seeds = Seeds::new(seed, "entropy");
            EntropyMeasurement::new(&Processor::Cpu, sub_model, config, &seeds).unwrap()
        };
        let new = |config, seed| of(&sub_model, config, seed);
        let whole = entropy_of(
            &Processor::Cpu,
            &sub_model,
            &config,
            &Seeds::new(1, "entropy"),
        );
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state");
        let mut stopped = new(&config, 1);
        let status = stopped.run(&mut |now| match now.steps() {
            4 => ControlFlow::Break(()),
            _ => ControlFlow::Continue(()),
        });
        assert_eq!(status.unwrap(), Status::Stopped);
        stopped.save_state(&path).unwrap();
        let mut resumed = new(&config, 1);
        resumed.load_state(&path).unwrap();
        assert_eq!((resumed.steps(), resumed.batch_bound()), (4, None));
        let go_on = &mut |_: &EntropyMeasurement<'_>| ControlFlow::Continue(());
        assert_eq!(resumed.run(go_on).unwrap(), Status::Finished);
        assert_eq!(resumed.steps(), 7);
        let whole = whole.unwrap();
        assert_eq!(resumed.finish().unwrap(), whole);
        assert_ne!(stopped.finish().unwrap(), whole);

        let other_fit = of(&another, &config, 1);
        let longer = EntropyConfig { steps: 8, ..config };
        for mut other in [new(&longer, 1), new(&config, 2), other_fit] {
            let refused = other.load_state(&path);
            assert!(
                matches!(refused, Err(Error::OtherFit { .. })),
                "{refused:?}"
            );
        }
    }

    #[test]
    fn what_is_measured_is_the_trigger_with_noise_of_the_fits_deviation() {
        let config = MesaConfig {
            network_width: 8,
            trigger_noise_std: 0.3,
            ..MesaConfig::paper()
        };
        let fit = SubModelFit::new(&Processor::Cpu, config, 0.9, Seeds::new(0, "fit")).unwrap();
        let sub_model = fit.into_sub_model().unwrap();
        let sampler = || Sampler::new(&Processor::Cpu, sub_model.generator()).unwrap();
        let mut noisy = NoisyTriggers {
            info: sub_model.info(),
            sampler: sampler(),
            clean: Some(Vec::new()),
        };
        let mut rng = Seeds::new(0, "pairs").start();
        let pairs = noisy.draw(&mut rng, 500).unwrap();
        let clean = sampler().triggers(&pairs.noise).unwrap();
        let seen = (&pairs.triggers - &clean).unwrap().flatten_all().unwrap();
        let seen = seen.to_vec1::<f32>().unwrap();
        let mean = seen.iter().sum::<f32>() / seen.len() as f32;
        let square = seen.iter().map(|x| x * x).sum::<f32>() / seen.len() as f32;
        assert_abs_diff_eq!(mean, 0.0, epsilon = 0.01);
        assert_abs_diff_eq!(square.sqrt(), 0.3, epsilon = 0.01);
        // The moments are those of triggers without it.
        let kept = noisy.clean.unwrap().concat();
        assert_eq!(kept, clean.flatten_all().unwrap().to_vec1::<f32>().unwrap());
        let noise = |noise: &Tensor| noise.to_vec2::<f32>().unwrap();
        assert_ne!(noise(&pairs.noise), noise(&pairs.fresh_noise));
    }

    #[test]
    fn the_offset_in_27_dimensions_is_the_protocols() {
        let offset = gaussian_entropy(27.0, 2.0 * 27.0 * 0.1f64.ln());
        assert_abs_diff_eq!(offset, -23.86, epsilon = 0.005);
    }

    /// Of triggers whose pixels vary by 4 and 1, and noise that adds a quarter to each.
    #[test]
    fn an_estimate_adds_the_noise_to_the_triggers_spread() {
        let corners = [[0.0, 0.0], [0.0, 2.0], [4.0, 0.0], [4.0, 2.0]];
        let information = InformationEstimate { nats: 1.5, se: 0.1 };
        let found = estimate(information, &corners.map(|corner| corner.to_vec()), 0.5);
        let of_variance = |variance: f64| 0.5 * (2.0 * PI * E * variance).ln();
        let bound = of_variance(4.25) + of_variance(1.25);
        assert_abs_diff_eq!(found.gaussian_bound_nats, bound, epsilon = 1e-12);
        let entropy = 1.5 + 2.0 * of_variance(0.25);
        assert_abs_diff_eq!(found.entropy_nats, entropy, epsilon = 1e-12);
        assert_abs_diff_eq!(found.sample_mean, 1.5, epsilon = 1e-12);
        assert_abs_diff_eq!(found.sample_std, 2.5_f64.sqrt(), epsilon = 1e-12);
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
