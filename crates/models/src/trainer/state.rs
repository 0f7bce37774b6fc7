//! A training run's state in a file: written at any step, gone on from to the same bits.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{EpochStats, Running, Trainer};
use crate::checkpoint::Metadata;
use crate::files::{load_tensors, save_tensors};
use crate::state::NamedTensors;
use crate::{Error, Position, Result, TrainingConfig};

/// What a saved state holds beside tensors.
#[derive(Serialize, Deserialize)]
struct SavedProgress {
    config: TrainingConfig,
    position: Position,
    /// Zero in states of versions that did not keep it.
    #[serde(default)]
    steps_per_epoch: usize,
    running: Running,
    history: Vec<EpochStats>,
}

impl Trainer {
    /// Writes weights, running statistics, velocities and progress, atomically.
    ///
    /// # Errors
    ///
    /// [`Error::Write`] if the file cannot be written.
    pub fn save_state(&self, path: &Path) -> Result<()> {
        let mut tensors = NamedTensors::new();
        let (network, velocity) = self.states()?;
        for (prefix, state) in [("network", network), ("velocity", velocity)] {
            tensors.extend(
                state
                    .into_iter()
                    .map(|(name, tensor)| (format!("{prefix}/{name}"), tensor)),
            );
        }
        let progress = SavedProgress {
            config: self.config.clone(),
            position: self.position,
            steps_per_epoch: self.steps_per_epoch,
            running: self.running,
            history: self.history.clone(),
        };
        let text = serde_json::to_string(&progress).expect("plain fields become JSON");
        save_tensors(
            path,
            &tensors,
            &Metadata::from([("training".to_owned(), text)]),
        )
    }

    /// The network's tensors and the velocities, wherever they are.
    fn states(&self) -> Result<(NamedTensors, NamedTensors)> {
        #[cfg(feature = "cuda")]
        if let Some(training) = &self.on_gpu {
            return training.state();
        }
        Ok((self.network.state()?, self.sgd.state(&self.network)?))
    }

    /// Goes on where [`Trainer::save_state`] was called: the rest of the run is the same to the
    /// last bit.
    ///
    /// # Errors
    ///
    /// [`Error::Read`] if the file cannot be read; [`Error::NoTensors`], [`Error::NotSafetensors`],
    /// [`Error::TensorType`] or [`Error::NotFinite`] if it is none that [`Trainer::save_state`] writes;
    /// [`Error::Checkpoint`] if it belongs to no training run, to another network or to other settings.
    pub fn load_state(&mut self, path: &Path) -> Result<()> {
        let wrong = |reason: String| Error::Checkpoint {
            path: path.to_owned(),
            reason,
        };
        let (tensors, metadata) = load_tensors(path)?;
        let text = metadata
            .get("training")
            .ok_or_else(|| wrong("it holds no state of a training run".to_owned()))?;
        let progress: SavedProgress = serde_json::from_str(text)
            .map_err(|source| wrong(format!("its metadata `training` is malformed: {source}")))?;
        if progress.config != self.config {
            return Err(wrong("it belongs to a run with other settings".to_owned()));
        }
        let part = |prefix: &str| -> NamedTensors {
            let of = tensors.iter().filter_map(|(name, tensor)| {
                Some((name.strip_prefix(prefix)?.to_owned(), tensor.clone()))
            });
            of.collect()
        };
        let mut network = self.network.clone();
        network
            .load_state(&part("network/"))
            .map_err(|error| wrong(error.to_string()))?;
        self.sgd
            .load_state(&network, &part("velocity/"))
            .map_err(|error| wrong(error.to_string()))?;
        self.network = network;
        self.position = progress.position;
        self.steps_per_epoch = progress.steps_per_epoch;
        self.running = progress.running;
        self.history = progress.history;
        Ok(())
    }
}
