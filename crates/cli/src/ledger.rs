//! The steps of a run folder: each reused if its record fits, else computed, saved on the way,
//! recorded last.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use anyhow::{Context, Result};
use mesa_datasets::Dataset;
use mesa_models::CpuPath;
use mesa_record::{
    Curve, CurvePoint, DataRecord, Key, RunDir, Step, StepFiles, StepRecord, file_digest, utc,
    write_curves, write_json,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::args::SaveEvery;
use crate::interrupt;
use crate::queue::locked;
use crate::resume::{StateFile, Watch};

/// A run folder, and what every record in it says. Clones share what they have seen.
#[derive(Clone)]
pub(crate) struct Ledger {
    pub(crate) run: RunDir,
    data: DataRecord,
    save_every: SaveEvery,
    pub(crate) device: String,
    pub(crate) kernel_path: &'static str,
    pub(crate) threads: usize,
    /// What each step that this start saw has cost, over every start.
    seen: Arc<Mutex<BTreeMap<String, Cost>>>,
}

/// What a step has cost, and how its training went.
#[derive(Clone, Debug)]
pub(crate) struct Cost {
    pub(crate) wall_s: f64,
    pub(crate) peak_rss_mb: Option<f64>,
    curve: Vec<CurvePoint>,
}

/// What a step's work hands over.
pub(crate) struct Work<T> {
    /// What it measured.
    pub(crate) results: T,
    /// Images that went through a network.
    pub(crate) images: u64,
}

/// A step that is done, now or earlier.
#[derive(Clone, Debug)]
pub(crate) struct Finished<T> {
    pub(crate) results: T,
    pub(crate) files: StepFiles,
    pub(crate) cost: Cost,
}

impl Cost {
    fn of(record: &StepRecord) -> Self {
        Self {
            wall_s: record.wall_s,
            peak_rss_mb: record.peak_rss_mb,
            curve: record.curve.clone(),
        }
    }
}

impl Ledger {
    /// The steps in the folder `run`, on `data`.
    pub(crate) fn new(
        run: RunDir,
        data: &Dataset,
        save_every: SaveEvery,
        device: &str,
        threads: usize,
    ) -> Result<Self> {
        Ok(Self {
            run,
            data: DataRecord {
                name: data.name.to_string(),
                sha256: data.digest.clone(),
            },
            save_every,
            device: device.to_owned(),
            kernel_path: CpuPath::current().context("choosing the kernels")?.name(),
            threads,
            seen: Arc::default(),
        })
    }

    /// What each step that this start saw has cost, over every start.
    pub(crate) fn seen(&self) -> MutexGuard<'_, BTreeMap<String, Cost>> {
        locked(&self.seen)
    }

    /// Whether the record of `step` is there and fits, and with it the file that it tells of.
    pub(crate) fn is_done(&self, name: &str, step: &Step) -> bool {
        let files = self.run.step(name, &step.key());
        self.run.read_record(&files).is_some_and(|record| {
            record.is_of(step) && (record.checkpoint_sha256.is_none() || files.checkpoint.exists())
        })
    }

    /// Does `step` unless it is done.
    pub(crate) fn step<T: Serialize + DeserializeOwned>(
        &self,
        name: &str,
        step: &Step,
        work: impl FnOnce(&StepFiles, &mut Watch) -> Result<Work<T>>,
    ) -> Result<Finished<T>> {
        let key = step.key();
        let files = self.run.step(name, &key);
        if let Some(finished) = self.reuse(name, step, &files)? {
            self.note(name, &finished.cost);
            return Ok(finished);
        }
        interrupt::check()?;
        tracing::debug!("{name}: starting, key {}", key.short());
        let state = StateFile::new(&files.state, key.clone());
        let mut watch = Watch::new(name, Some(state), self.save_every);
        if let Some(folder) = files.checkpoint.parent() {
            fs_err::create_dir_all(folder)?;
        }
        let done = work(&files, &mut watch).with_context(|| format!("step {name}"))?;
        let effort = watch.effort();
        let record = StepRecord {
            kind: step.kind.clone(),
            key,
            config: step.config.clone(),
            after: step.after.clone(),
            results: serde_json::to_value(&done.results)?,
            checkpoint_sha256: digest_of(&files)?,
            data: self.data.clone(),
            device: self.device.clone(),
            kernel_path: self.kernel_path.to_owned(),
            threads: self.threads,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            engine_version: step.engine_version,
            finished: utc(std::time::SystemTime::now()),
            wall_s: effort.wall_s,
            resumed: effort.resumed,
            images: done.images,
            images_per_s: done.images as f64 / effort.wall_s.max(1e-9),
            peak_rss_mb: effort.peak_rss_mb,
            curve: effort.curve,
        };
        write_json(&files.record, &record)?;
        watch.done();
        tracing::info!(
            "{name}: done in {}",
            crate::progress::duration(effort.wall_s)
        );
        let cost = Cost::of(&record);
        self.note(name, &cost);
        Ok(Finished {
            results: done.results,
            files,
            cost,
        })
    }

    /// Notes what a step has cost whose record is there and fits, as an earlier start left it.
    pub(crate) fn remember(&self, name: &str, step: &Step) {
        // Several rows rest on one sub-model.
        if self.seen().contains_key(name) {
            return;
        }
        let files = self.run.step(name, &step.key());
        let Some(record) = self.run.read_record(&files) else {
            return;
        };
        if record.is_of(step) {
            self.note(name, &Cost::of(&record));
        }
    }

    fn note(&self, name: &str, cost: &Cost) {
        self.seen().insert(name.to_owned(), cost.clone());
    }

    /// Writes `curves.csv`: how the trainings went of which this start knows.
    pub(crate) fn write_curves(&self) -> Result<()> {
        let seen = self.seen();
        let known = seen.iter().filter(|(_, cost)| !cost.curve.is_empty());
        let curves: Vec<Curve> = known
            .map(|(name, cost)| Curve {
                step: name.clone(),
                points: cost.curve.clone(),
            })
            .collect();
        Ok(write_curves(&self.run.curves(), &curves)?)
    }

    /// The step as an earlier start recorded it. What does not fit is moved aside.
    fn reuse<T: DeserializeOwned>(
        &self,
        name: &str,
        step: &Step,
        files: &StepFiles,
    ) -> Result<Option<Finished<T>>> {
        if !files.record.exists() {
            return Ok(None);
        }
        let reason = match self.run.read_record(files) {
            None => "its record is damaged".to_owned(),
            Some(record) if !record.is_of(step) => changes(&record, step),
            Some(record) if record.checkpoint_sha256 != digest_of(files)? => {
                "its file was changed or removed".to_owned()
            }
            Some(record) => {
                let cost = Cost::of(&record);
                match serde_json::from_value(record.results) {
                    Ok(results) => {
                        tracing::debug!("{name}: reused");
                        return Ok(Some(Finished {
                            results,
                            files: files.clone(),
                            cost,
                        }));
                    }
                    Err(error) => format!("its record cannot be read: {error}"),
                }
            }
        };
        // The record goes first: without it the checkpoint counts for nothing.
        let moved = self.run.move_aside(&[&files.record, &files.checkpoint])?;
        tracing::warn!(
            "{name}: not reused, {reason}; the old result is now {}",
            moved.display()
        );
        Ok(None)
    }
}

fn digest_of(files: &StepFiles) -> Result<Option<String>> {
    Ok(if files.checkpoint.exists() {
        Some(file_digest(&files.checkpoint)?)
    } else {
        None
    })
}

/// Why a record is not one of `step`.
fn changes(record: &StepRecord, step: &Step) -> String {
    let predecessors = |after: &std::collections::BTreeMap<String, Key>| {
        after.values().map(Key::to_string).collect::<Vec<_>>()
    };
    let mut reasons = Vec::new();
    if record.engine_version != step.engine_version {
        reasons.push("the engine");
    }
    if record.data.sha256 != step.data_digest {
        reasons.push("the data");
    }
    if record.config != step.config {
        reasons.push("its configuration");
    }
    if predecessors(&record.after) != predecessors(&step.after) {
        reasons.push("a step before it");
    }
    if reasons.is_empty() {
        reasons.push("its key");
    }
    format!("{} changed", reasons.join(" and "))
}
