//! What a run would do: `mesa plan --json`.

use serde::{Deserialize, Serialize};

use crate::TriggerName;

/// What a run would do, and what it would take.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// Name of the preset, or of the configuration file.
    pub preset: String,
    /// The data set.
    pub data: String,
    /// The run folder.
    pub out: String,
    /// Where the clean network comes from.
    pub clean_network: String,
    /// One for each trigger and seed.
    pub chains: Vec<PlannedChain>,
    /// What is left to do, by kind of step.
    pub stages: Vec<PlannedStage>,
    /// Estimated time for all of it, in seconds; `None` if nothing was measured.
    pub estimated_s: Option<f64>,
    /// Estimated size of the files kept, in bytes.
    pub estimated_bytes: f64,
    /// Number of threads.
    #[serde(default)]
    pub threads: usize,
    /// Which kernels compute.
    #[serde(default)]
    pub kernel_path: String,
    /// Processor, as the system names it.
    #[serde(default)]
    pub processor: String,
    /// The device: `cpu`, or a GPU's name and its precision.
    #[serde(default)]
    pub device: String,
    /// Number of the engine that was measured.
    #[serde(default)]
    pub engine_version: u32,
    /// Batches of each stage that the times come from, if they were measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub measured_batches: Option<usize>,
    /// Most memory held while measuring, in MiB, if that was asked for. Every stage was measured
    /// at its full size and saved its state, so the whole run takes as much.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peak_rss_mb: Option<f64>,
}

/// The methods of one trigger and seed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedChain {
    /// The attacker's trigger.
    pub trigger: TriggerName,
    /// Seed of the whole chain.
    pub seed: u64,
    /// Methods to compute.
    pub methods: Vec<String>,
    /// Methods whose rows exist already.
    pub done: Vec<String>,
}

/// How much of one kind of step is left to do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PlannedStage {
    /// `pretrain`, `attack`, `fit`, `entropy`, `defend` or `evaluate`.
    pub kind: String,
    /// How many steps of the kind.
    pub steps: usize,
    /// Images that go through a network in all of them.
    pub images: u64,
    /// Estimated time for all of them, in seconds, if anything was measured.
    pub estimated_s: Option<f64>,
    /// Images for each second, as measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub images_per_s: Option<f64>,
}
