//! Training a classifier: epochs of batches, a learning-rate schedule, and a state that a run can
//! be stopped at and resumed from at any step.

#[cfg(feature = "cuda")]
mod on_gpu;
mod state;

use std::ops::ControlFlow;

use candle::Tensor;
use serde::{Deserialize, Serialize};

#[cfg(feature = "cuda")]
use crate::cuda::CudaTraining;
use crate::{Error, Network, Position, Processor, Recipes, Result, Sgd, Status, TrainingConfig};

/// Any error, from what makes the batches.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Where batches come from.
///
/// A batch depends on its position alone, so that a run resumes anywhere.
pub trait BatchSource {
    /// Batches of one pass over the data.
    fn steps_per_epoch(&self) -> usize;

    /// The batch of a step: images f32 `(B, 3, 32, 32)` in [0, 1], labels u32 `(B,)`.
    ///
    /// # Errors
    ///
    /// Whatever goes wrong.
    fn batch(&mut self, at: Position) -> Result<(Tensor, Tensor), BoxError>;

    /// The same batches as recipes, which a GPU carries out itself; none if they cannot be told so.
    fn recipes(&mut self) -> Option<&mut dyn Recipes> {
        None
    }
}

/// What one pass over the data came to.
#[derive(Copy, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct EpochStats {
    /// Mean loss, in nats.
    pub loss: f64,
    /// Share of the images that were classified right, while they were trained on.
    pub accuracy: f64,
}

/// Sums over the epoch that is running.
#[derive(Copy, Clone, Debug, Default, Serialize, Deserialize)]
struct Running {
    loss: f64,
    correct: usize,
    images: usize,
    steps: usize,
}

impl Running {
    fn stats(&self) -> EpochStats {
        EpochStats {
            loss: self.loss / self.steps.max(1) as f64,
            accuracy: self.correct as f64 / self.images.max(1) as f64,
        }
    }
}

/// A training run: the network, its optimizer and how far it has come.
///
/// # Examples
///
/// ```
/// use std::ops::ControlFlow;
///
/// use candle::{DType, Device, Tensor};
/// use mesa_models::*;
///
/// struct Gray;
/// impl BatchSource for Gray {
///     fn steps_per_epoch(&self) -> usize {
///         3
///     }
///     fn batch(&mut self, _: Position) -> std::result::Result<(Tensor, Tensor), BoxError> {
///         let images = Tensor::ones((2, 3, 32, 32), DType::F32, &Device::Cpu)?;
///         Ok((images, Tensor::new(&[0_u32, 1], &Device::Cpu)?))
///     }
/// }
///
/// let mut rng = Seeds::new(0, "weights").start();
/// let config = ResNetConfig::resnet18(2, 2);
/// let network = Network::resnet(config, Normalization::identity(), &mut rng)?;
/// let config = TrainingConfig { epochs: 1, batch_size: 2, ..TrainingConfig::paper() };
/// let mut trainer = Trainer::new(network, config)?;
/// let status = trainer.run(&mut Gray, &mut |_| ControlFlow::Continue(()))?;
/// assert_eq!(status, Status::Finished);
/// assert_eq!(trainer.history().len(), 1);
/// # Ok::<(), mesa_models::Error>(())
/// ```
#[derive(Debug)]
pub struct Trainer {
    network: Network,
    sgd: Sgd,
    processor: Processor,
    /// Where network and velocities are while a run is on a GPU.
    #[cfg(feature = "cuda")]
    on_gpu: Option<CudaTraining>,
    config: TrainingConfig,
    position: Position,
    steps_per_epoch: usize,
    running: Running,
    history: Vec<EpochStats>,
}

impl Trainer {
    /// A run that is about to begin.
    ///
    /// # Errors
    ///
    /// [`Error::TrainingConfig`] if the settings make no sense.
    pub fn new(network: Network, config: TrainingConfig) -> Result<Self> {
        config.validate()?;
        Ok(Self {
            network,
            sgd: Sgd::new(config.momentum, config.weight_decay),
            processor: Processor::Cpu,
            #[cfg(feature = "cuda")]
            on_gpu: None,
            config,
            position: Position::default(),
            steps_per_epoch: 0,
            running: Running::default(),
            history: Vec::new(),
        })
    }

    /// The same run on another processor.
    #[must_use]
    pub fn on(mut self, processor: &Processor) -> Self {
        self.processor = processor.clone();
        self
    }

    /// Takes steps until all are done or `observe` breaks, which is called whenever losses are
    /// known: on the CPU after each step, on a GPU after some, and always at the end of an epoch.
    ///
    /// # Errors
    ///
    /// [`Error::Source`] if a batch cannot be made, [`Error::Batch`] if it does not fit the
    /// network or cannot be made on a GPU, [`Error::Diverged`] if the loss is no number any more.
    pub fn run(
        &mut self,
        source: &mut dyn BatchSource,
        observe: &mut dyn FnMut(&Trainer) -> ControlFlow<()>,
    ) -> Result<Status> {
        let steps = source.steps_per_epoch();
        let is_other = self.steps_per_epoch > 0 && self.steps_per_epoch != steps;
        if is_other && self.position != Position::default() {
            return Err(Error::Batch {
                what: "the number of steps in an epoch",
                expected: format!("{}, as in what was trained before", self.steps_per_epoch),
                found: steps.to_string(),
            });
        }
        self.steps_per_epoch = steps;
        if !self.is_left() {
            return Ok(Status::Finished);
        }
        match self.processor.clone() {
            Processor::Cpu => self.run_on_cpu(source, observe),
            #[cfg(feature = "cuda")]
            Processor::Cuda(gpu) => {
                let status = self.run_on_gpu(&gpu, source, observe);
                let fetched = self.fetch();
                status.and_then(|status| fetched.map(|()| status))
            }
        }
    }

    fn run_on_cpu(
        &mut self,
        source: &mut dyn BatchSource,
        observe: &mut dyn FnMut(&Trainer) -> ControlFlow<()>,
    ) -> Result<Status> {
        while self.is_left() {
            let (images, labels) = source.batch(self.position).map_err(Error::Source)?;
            let loss = self
                .network
                .gradients(&images, &labels, self.config.label_smoothing)?;
            self.check_loss(loss.loss)?;
            let rate = self.rate_of(self.steps_done());
            self.sgd.step(&mut self.network, rate);
            self.note(loss, 1, labels.elem_count());
            if observe(self).is_break() && self.is_left() {
                return Ok(Status::Stopped);
            }
        }
        Ok(Status::Finished)
    }

    fn is_left(&self) -> bool {
        self.position.epoch < self.config.epochs && self.steps_per_epoch > 0
    }

    fn rate_of(&self, step: usize) -> f64 {
        self.config.learning_rate_at(step, self.total_steps())
    }

    fn check_loss(&self, loss: f64) -> Result<()> {
        if loss.is_finite() {
            return Ok(());
        }
        Err(Error::Diverged {
            loss,
            at: self.position,
        })
    }

    /// Where `steps` more steps lead, none of them of another epoch than the first.
    fn position_after(&self, steps: usize) -> Position {
        let Position { epoch, step } = self.position;
        if step + steps < self.steps_per_epoch {
            return Position {
                epoch,
                step: step + steps,
            };
        }
        Position {
            epoch: epoch + 1,
            step: 0,
        }
    }

    /// Counts steps of one epoch, whose loss this is the mean of.
    fn note(&mut self, loss: crate::BatchLoss, steps: usize, images: usize) {
        self.running.loss += loss.loss * steps as f64;
        self.running.correct += loss.correct;
        self.running.images += images;
        self.running.steps += steps;
        self.position = self.position_after(steps);
        if self.position.step == 0 {
            self.history.push(self.running.stats());
            self.running = Running::default();
        }
    }

    /// The next step to take.
    pub fn position(&self) -> Position {
        self.position
    }

    /// The run's settings.
    pub fn config(&self) -> &TrainingConfig {
        &self.config
    }

    /// Steps taken so far, of this run and those it resumed.
    pub fn steps_done(&self) -> usize {
        self.position.epoch * self.steps_per_epoch + self.position.step
    }

    /// Steps of the whole run; zero before [`Trainer::run`].
    pub fn total_steps(&self) -> usize {
        self.config.epochs * self.steps_per_epoch
    }

    /// Loss and accuracy of the epoch that is running, or of the last one between two.
    pub fn stats(&self) -> EpochStats {
        match self.history.last() {
            Some(last) if self.running.steps == 0 => *last,
            _ => self.running.stats(),
        }
    }

    /// Loss and accuracy of every epoch that is done.
    pub fn history(&self) -> &[EpochStats] {
        &self.history
    }

    /// The network as it is; while a run is on a GPU, as it was before.
    pub fn network(&self) -> &Network {
        &self.network
    }

    /// The network, at the end.
    pub fn into_network(self) -> Network {
        self.network
    }
}

#[cfg(test)]
mod tests {
    use candle::Device;
    use rand::Rng;

    use super::*;
    use crate::Seeds;
    use crate::on_threads::on_threads;
    use crate::small_networks::{KINDS, bits, network_of};

    /// Images whose class shows in their brightness.
    struct Shades;

    impl BatchSource for Shades {
        fn steps_per_epoch(&self) -> usize {
            4
        }

        fn batch(&mut self, at: Position) -> Result<(Tensor, Tensor), BoxError> {
            let mut rng = Seeds::new(2, "shades").at(at);
            let labels: Vec<u32> = (0..6).map(|_| rng.random_range(0..4)).collect();
            let pixel = |label: &u32| *label as f32 / 4.0;
            let pixels: Vec<f32> = labels
                .iter()
                .flat_map(|label| (0..3072).map(|_| pixel(label)).collect::<Vec<_>>())
                .map(|shade: f32| shade + rng.random_range(0.0..0.2))
                .collect();
            let images = Tensor::from_vec(pixels, (6, 3, 32, 32), &Device::Cpu)?;
            Ok((images, Tensor::from_vec(labels, 6, &Device::Cpu)?))
        }
    }

    fn trainer(kind: &str) -> Trainer {
        let config = TrainingConfig {
            epochs: 2,
            batch_size: 6,
            learning_rate: 0.05,
            weight_decay: 1e-3,
            ..TrainingConfig::paper()
        };
        Trainer::new(network_of(kind, 5), config).unwrap()
    }

    #[test]
    fn a_run_stopped_anywhere_ends_with_the_same_bits() {
        let mut whole = trainer(KINDS[0]);
        whole.run(&mut Shades, &mut go_on).unwrap();
        assert!(whole.history()[1].loss < whole.history()[0].loss);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state");
        for stop in [1, 4, 6] {
            let mut first = trainer(KINDS[0]);
            let status = first.run(&mut Shades, &mut |trainer| {
                if trainer.steps_done() == stop {
                    ControlFlow::Break(())
                } else {
                    ControlFlow::Continue(())
                }
            });
            assert_eq!(status.unwrap(), Status::Stopped);
            first.save_state(&path).unwrap();
            let mut second = trainer(KINDS[0]);
            second.load_state(&path).unwrap();
            second.run(&mut Shades, &mut go_on).unwrap();
            assert_eq!(bits(second.network()), bits(whole.network()));
            assert_eq!(second.history(), whole.history());
        }
    }

    fn go_on(_: &Trainer) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }

    /// Every setting reaches the step that it is for.
    #[test]
    fn a_run_is_its_steps_by_hand() {
        let config = TrainingConfig {
            momentum: 0.7,
            label_smoothing: 0.2,
            schedule: crate::Schedule::OneCycle { warmup: 0.3 },
            ..trainer(KINDS[0]).config().clone()
        };
        let mut run = Trainer::new(network_of(KINDS[0], 5), config.clone()).unwrap();
        run.run(&mut Shades, &mut go_on).unwrap();
        let mut network = network_of(KINDS[0], 5);
        let mut sgd = Sgd::new(config.momentum, config.weight_decay);
        for step in 0..8 {
            let at = Position {
                epoch: step / 4,
                step: step % 4,
            };
            let (images, labels) = Shades.batch(at).unwrap();
            network
                .gradients(&images, &labels, config.label_smoothing)
                .unwrap();
            sgd.step(
                &mut network,
                config.learning_rate * config.schedule.factor(step, 8),
            );
        }
        assert_eq!(bits(run.network()), bits(&network));
    }

    #[test]
    fn a_run_that_diverges_says_where() {
        let config = TrainingConfig {
            learning_rate: 1e30,
            ..trainer(KINDS[0]).config().clone()
        };
        let mut run = Trainer::new(network_of(KINDS[0], 5), config).unwrap();
        let diverged = run.run(&mut Shades, &mut go_on);
        assert!(
            matches!(diverged, Err(Error::Diverged { at, .. }) if at.step > 0),
            "{diverged:?}"
        );
    }

    #[test]
    fn a_state_of_another_run_is_refused_and_changes_nothing() {
        struct Longer;
        impl BatchSource for Longer {
            fn steps_per_epoch(&self) -> usize {
                5
            }
            fn batch(&mut self, at: Position) -> Result<(Tensor, Tensor), BoxError> {
                Shades.batch(at)
            }
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state");
        let mut stopped = trainer(KINDS[0]);
        let stop = &mut |_: &Trainer| ControlFlow::Break(());
        stopped.run(&mut Shades, stop).unwrap();
        stopped.save_state(&path).unwrap();

        let config = TrainingConfig {
            weight_decay: 0.0,
            ..stopped.config().clone()
        };
        let mut other = Trainer::new(network_of(KINDS[0], 5), config).unwrap();
        let refused = other.load_state(&path).unwrap_err().to_string();
        assert!(refused.contains("other settings"), "{refused}");
        let mut other = trainer(KINDS[1]);
        let before = bits(other.network());
        assert!(matches!(
            other.load_state(&path),
            Err(Error::Checkpoint { .. })
        ));
        assert_eq!((bits(other.network()), other.steps_done()), (before, 0));

        let mut resumed = trainer(KINDS[0]);
        resumed.load_state(&path).unwrap();
        let refused = resumed.run(&mut Longer, &mut go_on);
        assert!(matches!(refused, Err(Error::Batch { what, .. }) if what.contains("steps")));
        assert!(resumed.run(&mut Shades, &mut go_on).is_ok());
    }

    #[test]
    fn any_number_of_threads_gives_the_same_bits() {
        for kind in KINDS {
            let with = |threads: usize| {
                on_threads(threads, || {
                    let mut trainer = trainer(kind);
                    trainer.run(&mut Shades, &mut go_on).unwrap();
                    bits(trainer.network())
                })
            };
            assert_eq!(with(1), with(2));
            assert_eq!(with(1), with(5));
        }
    }
}
