//! What can be saved and taken up again: the trainings of classifiers and of sub-models.

use std::path::Path;

use anyhow::Result;
use mesa::SubModelFit;
use mesa_models::{Position, Trainer};

/// A training that can be saved and taken up again.
pub(crate) trait Resumable {
    fn save(&self, path: &Path) -> Result<()>;
    fn load(&mut self, path: &Path) -> Result<()>;
    /// The next batch to take.
    fn position(&self) -> Position;
    /// Its figures of the moment, for the progress bar.
    fn describe(&self) -> String;
}

/// How much there is to do.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Extent {
    pub(crate) epochs: usize,
    pub(crate) steps_per_epoch: usize,
    pub(crate) batch_size: usize,
}

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
}
