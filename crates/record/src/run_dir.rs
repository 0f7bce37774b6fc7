//! Where a run keeps its files.

use std::path::{Path, PathBuf};

use crate::{Key, Result, StepRecord, Summary, read_json, write_json};

/// The folder of a run.
///
/// ```text
/// summary.json   what the run measured      config.toml   the resolved configuration
/// run.log        what happened              samples.svg   sampled triggers
/// records/…      one JSON file a step       checkpoints/… networks and sub-models
/// state/…        what is in progress        stale/…       results of other configurations
/// curves.csv     figures of trainings, epoch by epoch
/// search.txt     what a search was asked for, written before its first class
/// places.svg     where a searched network's samples work, places.csv the same in figures
/// distributions/…  samples of a network's sub-models on planes, with pictures
/// ```
#[derive(Clone, Debug)]
pub struct RunDir {
    root: PathBuf,
}

/// The files of one step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StepFiles {
    /// The record, which exists if and only if the step is done.
    pub record: PathBuf,
    /// What the step made, where it makes a file.
    pub checkpoint: PathBuf,
    /// What is in progress. The key is part of the name, so that another
    /// configuration's state is never continued.
    pub state: PathBuf,
}

impl RunDir {
    /// The run folder `root`, which need not exist yet.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The folder itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// `summary.json`.
    pub fn summary(&self) -> PathBuf {
        self.root.join("summary.json")
    }

    /// `config.toml`.
    pub fn config(&self) -> PathBuf {
        self.root.join("config.toml")
    }

    /// `run.log`.
    pub fn log(&self) -> PathBuf {
        self.root.join("run.log")
    }

    /// `curves.csv`.
    pub fn curves(&self) -> PathBuf {
        self.root.join("curves.csv")
    }

    /// `samples.svg`.
    pub fn samples(&self) -> PathBuf {
        self.root.join("samples.svg")
    }

    /// `places.svg`.
    pub fn places(&self) -> PathBuf {
        self.root.join("places.svg")
    }

    /// The files of the step `name`, which may have slashes (`170/seed-0/attack`).
    pub fn step(&self, name: &str, key: &Key) -> StepFiles {
        let state = self.root.join("state").join(name);
        StepFiles {
            record: self.root.join("records").join(format!("{name}.json")),
            checkpoint: self
                .root
                .join("checkpoints")
                .join(format!("{name}.safetensors")),
            state: with_suffix(&state, &format!(".{}.safetensors", key.short())),
        }
    }

    /// The summary of earlier starts, if there is one.
    ///
    /// # Errors
    ///
    /// [`crate::Error::Json`] if the file is damaged.
    pub fn read_summary(&self) -> Result<Option<Summary>> {
        let path = self.summary();
        if path.exists() {
            read_json(&path).map(Some)
        } else {
            Ok(None)
        }
    }

    /// Replaces the summary.
    ///
    /// # Errors
    ///
    /// If the file cannot be written.
    pub fn write_summary(&self, summary: &Summary) -> Result<()> {
        write_json(&self.summary(), summary)
    }

    /// The record of a finished step, if there is one; a damaged file counts
    /// as none.
    pub fn read_record(&self, files: &StepFiles) -> Option<StepRecord> {
        read_json(&files.record).ok()
    }

    /// Moves files that belong together, such as the record and the checkpoint of a step, below `stale/`
    /// in that order, and returns where the first is now. Those that are not there are left out.
    ///
    /// # Errors
    ///
    /// If a file cannot be moved.
    pub fn move_aside(&self, files: &[&Path]) -> Result<PathBuf> {
        let mut number = 0;
        let free = |path: &Path, number: u32| {
            let below = path.strip_prefix(&self.root).unwrap_or(path);
            self.root.join("stale").join(number.to_string()).join(below)
        };
        while files.iter().any(|path| free(path, number).exists()) {
            number += 1;
        }
        for path in files {
            if path.exists() {
                let target = free(path, number);
                if let Some(folder) = target.parent() {
                    fs_err::create_dir_all(folder)?;
                }
                fs_err::rename(path, target)?;
            }
        }
        Ok(files
            .first()
            .map_or_else(|| self.root.clone(), |first| free(first, number)))
    }
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

#[cfg(test)]
mod tests {
    use crate::Step;

    use super::*;

    #[test]
    fn moves_every_stale_result_to_a_place_of_its_own() {
        let folder = tempfile::tempdir().unwrap();
        let run = RunDir::new(folder.path());
        let files = run.step("170/seed-0/attack", &Step::new("attack", 1, "").key());
        for round in 0..2 {
            crate::write_text(&files.record, "{}").unwrap();
            crate::write_text(&files.checkpoint, "weights").unwrap();
            let moved = run.move_aside(&[&files.record, &files.checkpoint]).unwrap();
            assert!(moved.ends_with(format!("stale/{round}/records/170/seed-0/attack.json")));
            assert!(moved.exists() && !files.record.exists() && !files.checkpoint.exists());
        }
    }

    #[test]
    fn states_of_other_keys_have_other_names() {
        let run = RunDir::new("runs/quick");
        let one = run.step("clean", &Step::new("clean", 1, "").key());
        let two = run.step("clean", &Step::new("clean", 2, "").key());
        assert_eq!(one.record, two.record);
        assert_ne!(one.state, two.state);
    }
}
