//! The record of one finished step.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{CurvePoint, Key, Step};

/// What one finished step did and measured. Its file is written last, by
/// rename: it exists if and only if the step is done.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepRecord {
    /// What the step did: `attack`, `fit`, ….
    pub kind: String,
    /// Digest of `config`, `after`, the data digest and `engine_version`.
    pub key: Key,
    /// Every hyper-parameter, seed and trigger of the step.
    pub config: Value,
    /// Keys of the steps whose results it read.
    pub after: BTreeMap<String, Key>,
    /// What was measured.
    pub results: Value,
    /// SHA-256 of the file the step made, if it made one.
    pub checkpoint_sha256: Option<String>,
    /// The data set.
    pub data: DataRecord,
    /// The device: `cpu`, or a GPU's name and its precision.
    pub device: String,
    /// Which kernels computed.
    pub kernel_path: String,
    /// Number of threads.
    pub threads: usize,
    /// Version of the program.
    pub version: String,
    /// Number of the engine.
    pub engine_version: u32,
    /// When it was finished, in UTC.
    pub finished: String,
    /// Time spent, over every start.
    pub wall_s: f64,
    /// How often the step was taken up again after a stop or a kill.
    pub resumed: usize,
    /// Training images that went through a network.
    pub images: u64,
    /// `images` for each second.
    pub images_per_s: f64,
    /// Most memory held at once, in MiB, over every start.
    pub peak_rss_mb: Option<f64>,
    /// Of a training: its figures, epoch by epoch.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub curve: Vec<CurvePoint>,
}

/// Which data a step read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DataRecord {
    /// `cifar10`, `cifar100` or `synthetic`.
    pub name: String,
    /// SHA-256 of the data set.
    pub sha256: String,
}

impl StepRecord {
    /// Whether this is the record of `step`.
    pub fn is_of(&self, step: &Step) -> bool {
        self.key == step.key()
    }
}
