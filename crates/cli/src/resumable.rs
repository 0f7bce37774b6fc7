//! What can be saved and taken up again: the trainings of classifiers and of sub-models, the test of a
//! sub-model's samples and the measurement of its entropy.

use std::path::Path;

use anyhow::{Context, Result};
use mesa::{EntropyMeasurement, SubModelFit};
use mesa_defense::SampleTesting;
use mesa_models::{NamedTensors, Position, Trainer, load_tensors, save_tensors};

/// A training that can be saved and taken up again.
pub(crate) trait Resumable {
    fn save(&self, path: &Path) -> Result<()>;
    fn load(&mut self, path: &Path) -> Result<()>;
    /// The next batch to take.
    fn position(&self) -> Position;
    /// Its figures of the moment, for the progress bar.
    fn describe(&self) -> String;
    /// Its figures at the end of an epoch, by name; none if it has no epochs to speak of.
    fn figures(&self) -> Vec<(&'static str, f64)>;
}

/// How much there is to do.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Extent {
    pub(crate) epochs: usize,
    pub(crate) steps_per_epoch: usize,
    pub(crate) batch_size: usize,
    /// What a batch is made of, for the progress bar.
    pub(crate) unit: &'static str,
}

/// The unit of what sees images.
pub(crate) const IMAGES: &str = "img";

impl Extent {
    pub(crate) fn steps_before(self, at: Position) -> usize {
        at.epoch * self.steps_per_epoch + at.step
    }

    pub(crate) fn steps(self) -> usize {
        self.epochs * self.steps_per_epoch
    }
}

impl Resumable for Trainer {
    fn save(&self, path: &Path) -> Result<()> {
        Ok(self.save_state(path)?)
    }

    fn load(&mut self, path: &Path) -> Result<()> {
        Ok(self.load_state(path)?)
    }

    fn position(&self) -> Position {
        self.position()
    }

    fn describe(&self) -> String {
        let stats = self.stats();
        let epoch = (self.position().epoch + 1).min(self.config().epochs);
        format!(
            "epoch {epoch}/{}, loss {:.3}, accuracy {:.1} %",
            self.config().epochs,
            stats.loss,
            100.0 * stats.accuracy
        )
    }

    fn figures(&self) -> Vec<(&'static str, f64)> {
        let stats = self.stats();
        vec![("loss", stats.loss), ("accuracy", stats.accuracy)]
    }
}

impl Resumable for SubModelFit {
    fn save(&self, path: &Path) -> Result<()> {
        Ok(self.save_state(path)?)
    }

    fn load(&mut self, path: &Path) -> Result<()> {
        Ok(self.load_state(path)?)
    }

    fn position(&self) -> Position {
        self.position()
    }

    fn describe(&self) -> String {
        self.report().map_or_else(String::new, |report| {
            format!(
                "probability {:.2}, share at β {:.0} %, information {:.2} nats",
                report.mean_value,
                100.0 * report.share_reached,
                report.information_nats
            )
        })
    }

    fn figures(&self) -> Vec<(&'static str, f64)> {
        self.report().map_or_else(Vec::new, |report| {
            vec![
                ("probability", report.mean_value),
                ("share_reached", report.share_reached),
                ("information_nats", report.information_nats),
            ]
        })
    }
}

impl Resumable for EntropyMeasurement<'_> {
    fn save(&self, path: &Path) -> Result<()> {
        Ok(self.save_state(path)?)
    }

    fn load(&mut self, path: &Path) -> Result<()> {
        Ok(self.load_state(path)?)
    }

    /// It is an epoch of its own, which does not end: what is left after the last step is short.
    fn position(&self) -> Position {
        Position {
            epoch: 0,
            step: self.steps(),
        }
    }

    fn describe(&self) -> String {
        self.batch_bound().map_or_else(String::new, |bound| {
            format!("information about {bound:.1} nats")
        })
    }

    fn figures(&self) -> Vec<(&'static str, f64)> {
        Vec::new()
    }
}

/// The entry of a state file that holds a [`SampleTesting`]'s progress.
const SAMPLE_TEST: &str = "sample_test";

impl Resumable for SampleTesting {
    fn save(&self, path: &Path) -> Result<()> {
        let progress = serde_json::to_string(self.progress())?;
        let metadata = [(SAMPLE_TEST.to_owned(), progress)].into();
        Ok(save_tensors(path, &NamedTensors::new(), &metadata)?)
    }

    fn load(&mut self, path: &Path) -> Result<()> {
        let (_, metadata) = load_tensors(path)?;
        let text = metadata
            .get(SAMPLE_TEST)
            .context("it holds no state of a sample test")?;
        let progress = serde_json::from_str(text).context("its progress is malformed")?;
        Ok(self.resume(progress)?)
    }

    fn position(&self) -> Position {
        let done = self.progress().batches;
        Position {
            epoch: done / self.batches().max(1),
            step: done % self.batches().max(1),
        }
    }

    fn describe(&self) -> String {
        let stamped = (self.progress().batches * self.batch_size()).max(1);
        let share = self.progress().fooled as f64 / stamped as f64;
        format!("ASR of samples about {:.0} %", 100.0 * share)
    }

    fn figures(&self) -> Vec<(&'static str, f64)> {
        Vec::new()
    }
}

#[cfg(test)]
mod tests {
    use std::ops::ControlFlow;

    use mesa::MesaConfig;
    use mesa_datasets::{split, synthetic};
    use mesa_defense::{DefenseImages, SampleTest, sample_success};
    use mesa_models::{Network, Normalization, Processor, ResNetConfig, Seeds};

    use super::*;

    #[test]
    fn a_sample_test_that_was_saved_goes_on_to_the_same_figures() {
        let shape = ResNetConfig::resnet18(4, 10);
        let mut rng = Seeds::new(0, "weights").start();
        let network = Network::resnet(shape, Normalization::cifar10(), &mut rng).unwrap();
        let suspect = network.freeze().unwrap();
        let images = DefenseImages::new(&synthetic(0, 1, 60).test, &split(60, 50, 0).unwrap());
        let config = MesaConfig {
            network_width: 16,
            ..MesaConfig::paper()
        };
        let fit = SubModelFit::new(&Processor::Cpu, config, 0.9, Seeds::new(0, "fit")).unwrap();
        let sub_model = fit.into_sub_model().unwrap();
        let test = SampleTest {
            samples: 40,
            images_per_sample: 16,
            ..SampleTest::standard(0)
        };
        let expected = sample_success(&suspect, &sub_model, &images, test, 3).unwrap();

        let new = || SampleTesting::new(&suspect, &sub_model, &images, test, 3).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state");
        let mut stopped = new();
        let stop = &mut |_: &SampleTesting| ControlFlow::Break(());
        stopped.run(&suspect, stop).unwrap();
        stopped.save(&path).unwrap();
        let mut resumed = new();
        resumed.load(&path).unwrap();
        assert_eq!(resumed.position(), Position { epoch: 0, step: 1 });
        let go_on = &mut |_: &SampleTesting| ControlFlow::Continue(());
        resumed.run(&suspect, go_on).unwrap();
        assert_eq!(resumed.position(), Position { epoch: 1, step: 0 });
        assert_eq!(resumed.finish().unwrap(), expected);
    }
}
