//! One generator being fitted for one β (Algorithm 2).

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;

use candle::Tensor;
use mesa_models::{
    Generator, GeneratorTrainer, NamedTensors, Position, Processor, Seeds, StatisticsNetwork,
    StatisticsTrainer, load_tensors, save_tensors, uniform_noise,
};
use rand::Rng;

use crate::entropy::with_gaussian_noise;
use crate::objective::{gradient_needed_below, objective_gradient};
use crate::saved::{average_entry, average_of, named_after, part};
use crate::sub_model::entry;
use crate::{
    Error, MesaConfig, MovingAverage, Result, Status, SubModel, SubModelInfo, TestingFunction,
    hinge_loss, mutual_information, statistics_loss,
};

/// What one iteration measured.
#[derive(Copy, Clone, Debug, PartialEq)]
pub struct StepReport {
    /// Mean shortfall from β of the noisy triggers.
    pub hinge: f64,
    /// Mean of the testing function over the noisy triggers.
    pub mean_value: f64,
    /// Share of the observations that reached β.
    pub share_reached: f64,
    /// The mutual-information bound in the generator's step, in nats.
    pub information_nats: f64,
}

/// A sub-model being fitted: both perceptrons, their optimizers, and where the fit stands.
///
/// One iteration is one step of the generator, then one step of the statistics network (or
/// [`statistics_steps`](MesaConfig::statistics_steps) of them). All that
/// is random in it is drawn from the stream of its position, so a fit that is saved and resumed
/// ends with the same bytes.
///
/// # Examples
///
/// ```
/// # use candle::Tensor;
/// # use mesa::{BoxError, Observations, Position, TestingFunction};
/// # struct Identity;
/// # impl TestingFunction for Identity {
/// #     fn trigger_shape(&self) -> [usize; 3] { [1, 1, 1] }
/// #     fn steps_per_epoch(&self, _: usize) -> usize { 5 }
/// #     fn observe(&mut self, triggers: &Tensor, _: f64, _: Position) -> Result<Observations, BoxError> {
/// #         let values = triggers.flatten_from(1)?;
/// #         Ok(Observations { values, gradients: triggers.ones_like()?.unsqueeze(1)? })
/// #     }
/// # }
/// use std::ops::ControlFlow;
///
/// use mesa::{MesaConfig, Processor, Seeds, SubModelFit};
///
/// let config = MesaConfig { trigger_shape: [1, 1, 1], network_width: 16, ..MesaConfig::paper() };
/// let mut fit = SubModelFit::new(&Processor::Cpu, config, 0.9, Seeds::new(0, "fit"))?;
/// fit.run(&mut Identity, &mut |_| ControlFlow::Continue(()))?;
/// let triggers = fit.into_sub_model()?.sample(&mut Seeds::new(0, "samples").start(), 8)?;
/// assert_eq!(triggers.dims(), [8, 1, 1, 1]);
/// # Ok::<(), mesa::Error>(())
/// ```
#[derive(Debug)]
pub struct SubModelFit {
    config: MesaConfig,
    beta: f64,
    seeds: Seeds,
    generator: GeneratorTrainer,
    statistics: StatisticsTrainer,
    average: MovingAverage,
    position: Position,
    report: Option<StepReport>,
}

impl SubModelFit {
    /// A fit that has taken no step, for one threshold (which need not be among the
    /// configuration's). `processor` computes its perceptrons; the testing function computes
    /// wherever it likes.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] if a setting or `beta` is out of range; [`Error::Models`] if the
    /// processor's memory does not suffice.
    pub fn new(processor: &Processor, config: MesaConfig, beta: f64, seeds: Seeds) -> Result<Self> {
        config.validate()?;
        crate::config::require("beta", beta, beta > 0.0 && beta < 1.0, "between 0 and 1")?;
        let mut rng = seeds.start();
        let generator = Generator::new(&mut rng, config.sizes())?;
        let statistics = StatisticsNetwork::new(&mut rng, config.sizes())?;
        Ok(Self {
            beta,
            seeds,
            generator: GeneratorTrainer::new(processor, generator, config.adam())?,
            statistics: StatisticsTrainer::new(processor, statistics, config.adam())?,
            average: MovingAverage::new(config.moving_average_rate),
            position: Position::default(),
            report: None,
            config,
        })
    }

    /// Goes on from where the fit stands to its end, or until `observe`, called after every
    /// iteration, breaks.
    ///
    /// # Errors
    ///
    /// [`Error::Testing`] if the testing function fails, [`Error::Observations`] if its answer
    /// has another shape, [`Error::Config`] if its triggers have, [`Error::Diverged`] and
    /// [`Error::Scores`] if a loss is no longer a number.
    pub fn run(
        &mut self,
        testing: &mut dyn TestingFunction,
        observe: &mut dyn FnMut(&Self) -> ControlFlow<()>,
    ) -> Result<Status> {
        let (ours, theirs) = (self.config.trigger_shape, testing.trigger_shape());
        let shown = format!("{ours:?}");
        crate::config::require(
            "trigger_shape",
            shown,
            ours == theirs,
            "the testing function's",
        )?;
        let steps = testing.steps_per_epoch(self.config.batch_size);
        crate::config::require(
            "batch_size",
            self.config.batch_size,
            steps > 0,
            "within the data",
        )?;
        while self.position.epoch < self.config.epochs {
            self.iterate(testing)?;
            self.position.step += 1;
            if self.position.step >= steps {
                self.position = Position {
                    epoch: self.position.epoch + 1,
                    step: 0,
                };
                tracing::debug!(beta = self.beta, epoch = self.position.epoch, report = ?self.report);
            }
            if observe(self).is_break() && self.position.epoch < self.config.epochs {
                return Ok(Status::Stopped);
            }
        }
        Ok(Status::Finished)
    }

    fn iterate(&mut self, testing: &mut dyn TestingFunction) -> Result<()> {
        let mut rng = self.seeds.at(self.position);
        let report = self.generator_step(&mut rng, testing)?;
        for _ in 0..self.config.statistics_steps {
            self.statistics_step(&mut rng)?;
        }
        self.report = Some(report);
        Ok(())
    }

    /// Batch norm in training mode; the testing function sees a noisy trigger, `T` the clean one.
    fn generator_step(
        &mut self,
        rng: &mut impl Rng,
        testing: &mut dyn TestingFunction,
    ) -> Result<StepReport> {
        let noise = self.draw_noise(rng)?;
        let triggers = self.generator.triggers(&noise)?;
        let noised = with_gaussian_noise(rng, &triggers, self.config.trigger_noise_std)?;
        let below = gradient_needed_below(self.beta, self.config.hinge);
        let observations = testing
            .observe(&noised, below, self.position)
            .map_err(Error::Testing)?;
        observations.check(&noised, self.config.images_per_trigger)?;
        let hinge = hinge_loss(&observations, self.beta, self.config.hinge)?;
        let fresh_noise = self.draw_noise(rng)?;
        let scores = self
            .statistics
            .score_pairs(&noise, &fresh_noise, &triggers)?;
        let information = mutual_information(&scores.matched, &scores.mismatched)?;
        let information_nats = f64::from(information.to_scalar::<f32>()?);
        self.require_finite(hinge.loss - self.config.alpha * information_nats)?;
        let information = self.statistics.trigger_gradient(&information.backward()?)?;
        let gradient = objective_gradient(&hinge.gradient, &information, self.config.alpha)?;
        self.require_finite(f64::from(gradient.sum_all()?.to_scalar::<f32>()?))?;
        self.generator.step(&gradient)?;
        Ok(StepReport {
            hinge: hinge.loss,
            mean_value: hinge.mean_value,
            share_reached: hinge.share_reached,
            information_nats,
        })
    }

    /// Fresh noise of both kinds; the generator stays as it is but for its running statistics.
    fn statistics_step(&mut self, rng: &mut impl Rng) -> Result<()> {
        let noise = self.draw_noise(rng)?;
        let fresh_noise = self.draw_noise(rng)?;
        let triggers = self.generator.triggers(&noise)?;
        let scores = self
            .statistics
            .score_pairs(&noise, &fresh_noise, &triggers)?;
        let (loss, bound) =
            statistics_loss(&scores.matched, &scores.mismatched, &mut self.average)?;
        self.require_finite(bound)?;
        Ok(self.statistics.step(&loss.backward()?)?)
    }

    fn draw_noise(&self, rng: &mut impl Rng) -> Result<Tensor> {
        let (batch_size, noise_dim) = (self.config.batch_size, self.config.noise_dim);
        Ok(uniform_noise(rng, batch_size, noise_dim)?)
    }

    fn require_finite(&self, loss: f64) -> Result<()> {
        let Position { epoch, step } = self.position;
        if loss.is_finite() {
            Ok(())
        } else {
            Err(Error::Diverged { epoch, step, loss })
        }
    }

    /// The threshold β.
    pub fn beta(&self) -> f64 {
        self.beta
    }

    /// The settings.
    pub fn config(&self) -> &MesaConfig {
        &self.config
    }

    /// The next iteration.
    pub fn position(&self) -> Position {
        self.position
    }

    /// What the last iteration measured.
    pub fn report(&self) -> Option<StepReport> {
        self.report
    }

    /// The generator, whatever it has learned so far.
    ///
    /// # Errors
    ///
    /// [`Error::Models`] if its memory cannot be copied.
    pub fn into_sub_model(self) -> Result<SubModel> {
        let info = self.info();
        Ok(SubModel::new(self.generator.into_generator()?, info))
    }

    fn info(&self) -> SubModelInfo {
        SubModelInfo {
            beta: self.beta,
            alpha: self.config.alpha,
            trigger_noise_std: self.config.trigger_noise_std,
            sizes: self.config.sizes(),
        }
    }

    /// Writes all that is needed to go on, atomically.
    ///
    /// # Errors
    ///
    /// [`Error::Models`] if the file cannot be written.
    pub fn save_state(&self, path: &Path) -> Result<()> {
        let mut tensors = NamedTensors::new();
        let [generator, generator_adam] = self.generator.state()?;
        let [statistics, statistics_adam] = self.statistics.state()?;
        for (part, state) in [
            ("generator", generator),
            ("statistics", statistics),
            ("generator_adam", generator_adam),
            ("statistics_adam", statistics_adam),
        ] {
            tensors.extend(named_after(part, state));
        }
        let metadata = BTreeMap::from([
            ("kind".to_owned(), "mesa-fit".to_owned()),
            ("fit".to_owned(), self.fingerprint()),
            ("epoch".to_owned(), self.position.epoch.to_string()),
            ("step".to_owned(), self.position.step.to_string()),
            ("average".to_owned(), average_entry(self.average.value())),
        ]);
        Ok(save_tensors(path, &tensors, &metadata)?)
    }

    /// Goes on from a saved state.
    ///
    /// # Errors
    ///
    /// [`Error::OtherFit`] if it was saved under other settings, seed or β, [`Error::Models`] or
    /// [`Error::Metadata`] if the file is damaged or none of ours.
    pub fn load_state(&mut self, path: &Path) -> Result<()> {
        let (tensors, metadata) = load_tensors(path)?;
        let found: String = entry(&metadata, "fit")?;
        if found != self.fingerprint() {
            return Err(Error::OtherFit {
                expected: self.fingerprint(),
                found,
            });
        }
        let position = Position {
            epoch: entry(&metadata, "epoch")?,
            step: entry(&metadata, "step")?,
        };
        let average = average_of(entry(&metadata, "average")?);
        let part = |name| part(&tensors, name);
        let states = [&part("generator"), &part("generator_adam")];
        self.generator.load_state(states)?;
        let states = [&part("statistics"), &part("statistics_adam")];
        self.statistics.load_state(states)?;
        self.average = self.average.resumed(average);
        (self.position, self.report) = (position, None);
        Ok(())
    }

    /// All that decides the fit's course, in one line.
    fn fingerprint(&self) -> String {
        // The other thresholds have no influence on this one.
        let config = MesaConfig {
            betas: vec![self.beta],
            ..self.config.clone()
        };
        // States saved before there was this setting say nothing of it.
        format!("{config:?} {:?}", self.seeds).replace(", statistics_steps: 1 }", " }")
    }
}

#[cfg(test)]
mod tests {
    use candle::DType;
    use mesa_models::BoxError;

    use super::*;
    use crate::Observations;

    const BATCH: usize = 16;
    const LEN: usize = 4;
    const STEPS: usize = 3;
    const BETA: f64 = 0.35;

    /// `F(x) = mean x²`: noise on a trigger moves it, and its gradient.
    struct MeanSquare;

    impl TestingFunction for MeanSquare {
        fn trigger_shape(&self) -> [usize; 3] {
            [1, 2, 2]
        }

        fn steps_per_epoch(&self, _: usize) -> usize {
            STEPS
        }

        fn observe(
            &mut self,
            triggers: &Tensor,
            _: f64,
            _: Position,
        ) -> Result<Observations, BoxError> {
            let values = triggers.sqr()?.flatten_from(1)?.mean_keepdim(1)?;
            let gradients = (triggers * (2.0 / LEN as f64))?.unsqueeze(1)?;
            Ok(Observations { values, gradients })
        }
    }

    fn config() -> MesaConfig {
        MesaConfig {
            alpha: 0.7,
            trigger_shape: MeanSquare.trigger_shape(),
            network_width: 12,
            batch_size: BATCH,
            epochs: 1,
            trigger_noise_std: 0.2,
            // Large enough to be seen after few steps.
            moving_average_rate: 0.3,
            ..MesaConfig::paper()
        }
    }

    /// Algorithm 2 in plain operations, one equation a line.
    /// Returns both networks and the moving average.
    fn written_out(seeds: &Seeds) -> Result<([NamedTensors; 2], f64)> {
        let config = config();
        let mut rng = seeds.start();
        let generator = Generator::new(&mut rng, config.sizes())?;
        let statistics = StatisticsNetwork::new(&mut rng, config.sizes())?;
        let mut generator = GeneratorTrainer::new(&Processor::Cpu, generator, config.adam())?;
        let mut statistics = StatisticsTrainer::new(&Processor::Cpu, statistics, config.adam())?;
        let mut average = None;
        for step in 0..STEPS {
            let mut rng = seeds.at(Position { epoch: 0, step });
            let noise = |rng: &mut _| uniform_noise(rng, BATCH, config.noise_dim);

            // −mean min(F(x + noise), β) − α Î(x), down its gradient.
            let z = noise(&mut rng)?;
            let x = generator.triggers(&z)?;
            let noisy = with_gaussian_noise(&mut rng, &x, config.trigger_noise_std)?;
            let values = noisy.sqr()?.flatten_from(1)?.mean(1)?;
            let open = values.lt(BETA)?.to_dtype(DType::F32)?;
            let below = open.sum_all()?.to_scalar::<f32>()?;
            assert!(
                below > 0.0 && below < BATCH as f32,
                "the hinge has one side only"
            );
            let slope = (noisy * (-2.0 / (LEN * BATCH) as f64))?;
            let of_hinge = slope.broadcast_mul(&open.reshape((BATCH, 1, 1, 1))?)?;
            let scores = statistics.score_pairs(&z, &noise(&mut rng)?, &x)?;
            let marginal = scores.mismatched.exp()?.mean_all()?.log()?;
            let information = (scores.matched.mean_all()? - marginal)?;
            let of_information = statistics.trigger_gradient(&information.backward()?)?;
            generator.step(&(of_hinge - (of_information * config.alpha)?)?)?;

            // Fresh noise, triggers of the generator that has moved.
            let (z, fresh) = (noise(&mut rng)?, noise(&mut rng)?);
            let x = generator.triggers(&z)?;
            let scores = statistics.score_pairs(&z, &fresh, &x)?;
            let mean = scores.mismatched.exp()?.mean_all()?;
            let newest = f64::from(mean.to_scalar::<f32>()?);
            let rate = config.moving_average_rate;
            let moved = average.map_or(newest, |before| (1.0 - rate) * before + rate * newest);
            average = Some(moved);
            let loss = ((mean / moved)? - scores.matched.mean_all()?)?;
            statistics.step(&loss.backward()?)?;
        }
        let [[generator, _], [statistics, _]] = [generator.state()?, statistics.state()?];
        Ok(([generator, statistics], average.unwrap_or_default()))
    }

    #[test]
    fn its_iterations_are_those_of_algorithm_2_written_out() {
        let seeds = Seeds::new(3, "fit");
        let mut fit = SubModelFit::new(&Processor::Cpu, config(), BETA, seeds.clone()).unwrap();
        let status = fit.run(&mut MeanSquare, &mut |_| ControlFlow::Continue(()));
        assert_eq!(status.unwrap(), Status::Finished);
        let (expected, average) = written_out(&seeds).unwrap();
        let found = fit.average.value().unwrap();
        assert!((found / average - 1.0).abs() < 1e-5, "{found} {average}");
        let found = [
            fit.generator.state().unwrap(),
            fit.statistics.state().unwrap(),
        ];
        let rate = config().learning_rate;
        for ([found, _], expected) in found.iter().zip(&expected) {
            for (name, tensor) in expected {
                // Biases in front of batch norm have no gradient but rounding, which Adam steps along.
                let idle = [
                    "linear1.bias",
                    "linear2.bias",
                    "linear3.bias",
                    "running_mean",
                ];
                if idle.iter().any(|end| name.ends_with(end)) {
                    continue;
                }
                let distance = (&found[name] - tensor).unwrap().abs().unwrap();
                let most = distance.flatten_all().unwrap().max(0).unwrap();
                let most = most.to_scalar::<f32>().unwrap();
                assert!(f64::from(most) < 0.02 * rate, "{name}: {most}");
            }
        }
    }
}
