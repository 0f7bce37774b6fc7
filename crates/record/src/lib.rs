//! What a run measured, and where it keeps it.
//!
//! Nothing here knows tensors: `xtask` links this crate and must build in
//! seconds.
//!
//! - [`Summary`] and its [`Row`]s are `summary.json`, the result of a run.
//! - [`StepRecord`] is the JSON file of one finished step; [`Step`] says what
//!   decides its [`Key`], by which a later run knows whether to reuse it.
//! - [`Curve`]s are what trainings measured epoch by epoch, `curves.csv`.
//! - [`Distribution`] is `distribution.json`, sampled triggers on planes; [`Patch`] their pixels.
//! - [`Detection`] is `detection.json`, the verdict on a suspicious network.
//! - [`RunDir`] is the folder of a run, [`Lock`] the claim of one process on it.
//! - [`SpeedRecord`], [`ScalingRecord`] and [`RooflineRecord`] are what `cargo xtask bench` measures.
//! - [`GpuRecord`] is what `mesa gpu` found out about a GPU.
//! - [`write_json`], [`write_text`] and [`write_bytes`] replace a file whole or not at all.

mod atomic;
mod curves;
mod detection;
mod distribution;
mod error;
mod file_digest;
mod gpu;
mod key;
mod lock;
mod machine;
mod patch;
mod plan;
mod roofline;
mod run_dir;
mod speed;
mod step_record;
mod summary;
mod trigger_name;

pub use atomic::{read_json, write_bytes, write_json, write_text};
pub use curves::{Curve, CurvePoint, read_curves, write_curves};
pub use detection::{BestPlace, ClassDetection, Detection, Verdict};
pub use distribution::{Distribution, DistributionPanel, PlacedPatch};
pub use error::{Error, Result};
pub use file_digest::file_digest;
pub use gpu::{GpuCheck, GpuChecked, GpuComparison, GpuMachine, GpuRecord, GpuRow, GpuTime};
pub use key::{Key, Step};
pub use lock::{Holder, Lock};
pub use machine::{peak_rss_mb, processor, utc};
pub use patch::Patch;
pub use plan::{Plan, PlannedChain, PlannedStage};
pub use roofline::{RooflineRecord, RooflineRow};
pub use run_dir::{RunDir, StepFiles};
pub use speed::{FullTrigger, ScalingRecord, ScalingRow, SpeedMachine, SpeedRecord, SpeedRow};
pub use step_record::{DataRecord, StepRecord};
pub use summary::{
    ATTACK_TOOK, AtOnce, Difference, Mixture, MixtureWeight, NetworkRecord, Row, Summary,
};
pub use trigger_name::TriggerName;
