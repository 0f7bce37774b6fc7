//! How fast this project is beside PyTorch, and how that scales: the records of `cargo xtask bench`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// What a speed was measured on.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SpeedMachine {
    /// The processor's name.
    pub processor: String,
    /// Processors that the system shows.
    pub cores: usize,
    /// Threads that either side used.
    pub threads: usize,
    /// Memory, in MiB.
    pub memory_mb: f64,
    /// Kernel of the system.
    pub system: String,
    /// This project, its version and numerics.
    pub ours: String,
    /// PyTorch, its version and numerics; empty where nothing was compared.
    pub peer: String,
}

/// `peer.json`: both sides in turns on one machine.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SpeedRecord {
    /// What it was measured on.
    pub machine: SpeedMachine,
    /// Images in a batch.
    pub batch_size: usize,
    /// One for each kind of work and width.
    pub rows: Vec<SpeedRow>,
    /// One trigger from end to end, once, where it was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub full: Option<FullTrigger>,
}

/// One kind of work at one width: medians over pairs of turns.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SpeedRow {
    /// `train`, `evaluate`, `mesa`, `mesa-frozen`, `trigger` or `memory`.
    pub work: String,
    /// Width of the ResNet-18.
    pub width: usize,
    /// Ours: images (of `trigger`: triggers) per second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ours_per_s: Option<f64>,
    /// The peer's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer_per_s: Option<f64>,
    /// Ours: most memory held at once, in MiB, for `memory`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ours_mb: Option<f64>,
    /// The peer's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer_mb: Option<f64>,
    /// Ours: held before the network was made, in MiB, for `memory`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ours_start_mb: Option<f64>,
    /// The peer's: what importing torch takes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer_start_mb: Option<f64>,
    /// How many times better ours is, of the medians: speed ours / peer, memory peer / ours.
    pub ratio: f64,
    /// The same of each pair, in order.
    pub pairs: Vec<f64>,
    /// Which of the peer's variants ran, and what became of the others.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub peer_variant: String,
    /// Of `trigger`: how many methods' repairs it counts; the networks evaluated are two more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repairs: Option<usize>,
    /// Of `trigger`: seconds of each stage, ours and the peer's, medians.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub stages_s: BTreeMap<String, [f64; 2]>,
}

/// One trigger from end to end, once on either side.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct FullTrigger {
    /// Width of the ResNet-18.
    pub width: usize,
    /// Seconds that ours took.
    pub ours_s: f64,
    /// Seconds that the peer took.
    pub peer_s: f64,
    /// The peer's through ours.
    pub ratio: f64,
    /// How many methods' repairs were made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repairs: Option<usize>,
    /// Seconds of each stage, ours and the peer's.
    pub stages_s: BTreeMap<String, [f64; 2]>,
}

/// `scaling.json`: ours alone over threads, batch sizes and widths.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ScalingRecord {
    /// What it was measured on; `threads` is the largest number.
    pub machine: SpeedMachine,
    /// One for each point.
    pub rows: Vec<ScalingRow>,
}

/// One point.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ScalingRow {
    /// `train` or `evaluate`.
    pub work: String,
    /// Width of the ResNet-18.
    pub width: usize,
    /// Images in a batch.
    pub batch_size: usize,
    /// Threads.
    pub threads: usize,
    /// Images per second, the median of several turns.
    pub images_per_s: f64,
    /// Most memory held at once, in MiB.
    pub peak_mb: f64,
}
