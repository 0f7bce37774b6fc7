//! `mesa gpu`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};

use super::{DataArgs, PresetArgs, runs};

/// Seconds that PyTorch may take to compile.
pub(crate) const COMPILE_S: u16 = 60;

/// Check and measure an NVIDIA GPU; pack what was found on one
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  mesa gpu all --minutes 60
  mesa gpu check
  mesa gpu measure --out runs/gpu
  mesa gpu pack runs/gpu runs/slice-1 --to slice-1.tar.gz
  mesa gpu unpack slice-1.tar.gz --into docs/records

`all` does everything there is to do on a machine with a GPU: check, measurement,
the paper's main result, archive. It, `check` and `measure` need a build with
`cargo build --release --features cuda`, a driver and cuDNN 9; this binary alone
serves a machine without Rust. Check and measurement share one gpu.json, each its
own part: a gpu.json below docs/records is what
`cargo xtask report` makes the table of docs/performance.md from.")]
pub(crate) struct GpuCommand {
    #[command(subcommand)]
    pub(crate) action: GpuAction,
}

#[derive(Debug, Subcommand)]
pub(crate) enum GpuAction {
    All(GpuAll),
    Check(GpuCheck),
    Measure(GpuMeasure),
    Pack(GpuPack),
    Unpack(GpuUnpack),
}

/// Check and measure the GPU, then make the paper's main result on it: everything at once
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  mesa gpu all
  mesa gpu all --minutes 60 --data cifar-10-binary.tar.gz
  mesa gpu all --triggers 170,16,0 --pack records.tar.gz

One after the other: the check; the measurement, with PyTorch beside it where
python3 (or MESA_PYTHON) has it; `mesa run --preset paper --device cuda` with the
methods mesa:0.9, mesa:0.8, mesa:0.5, both ensembles, ideal and no-trigger, which
trains the clean network of width 64 first; an archive of all records, for
`mesa gpu unpack`. A short table comes last. This binary alone is enough for it.

Stopped, killed or out of time, the same command goes on where it was; the archive
is written when it is stopped or out of time, too. A check that passed and a whole
measurement of the same machine by the same program are not repeated. A check that
misses a tolerance ends it with exit code 1; otherwise the code is that of
`mesa run`, or 1 where the measurement failed.")]
pub(crate) struct GpuAll {
    #[command(flatten)]
    pub(crate) data: DataArgs,
    /// Folder; the check and the measurement go to gpu, the run to paper-w64 below it
    #[arg(long, value_name = "DIR", default_value = "runs/gpu-all")]
    pub(crate) out: PathBuf,
    /// Stop after so many minutes in all; no network is begun that is unlikely to be done by then
    #[arg(long, value_name = "N", value_parser = runs::minutes)]
    pub(crate) minutes: Option<Duration>,
    /// Triggers, as `mesa run` takes them [default: the preset's, the 51 patterns]
    #[arg(long, value_name = "LIST")]
    pub(crate) triggers: Option<String>,
    /// Networks that are worked on at once [default: that of `mesa run`]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=64))]
    pub(crate) workers: Option<u16>,
    /// Take rows of committed records (docs/records) as done
    #[arg(long = "continue")]
    pub(crate) go_on: bool,
    /// The archive of all records [default: records.tar.gz in the folder]
    #[arg(long, value_name = "FILE")]
    pub(crate) pack: Option<PathBuf>,
    /// Go on where the check misses a tolerance
    #[arg(long)]
    pub(crate) even_if_wrong: bool,
    /// Check steps of narrow networks only, and measure tiny sizes: shows that everything runs; the times
    /// say nothing
    #[arg(long)]
    pub(crate) quick: bool,
    /// Settings other than the preset `paper`; the run's folder then has their name
    #[command(flatten)]
    pub(crate) preset: PresetArgs,
}

/// Compare every kernel, and whole steps, with the processor's: seconds
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  mesa gpu check
  mesa gpu check --json > check.json

A line for each comparison: what, in which precision, how far off, and how far
off it may be. Exit code 1 if one misses its tolerance.")]
pub(crate) struct GpuCheck {
    #[command(flatten)]
    pub(crate) on: OnGpu,
    /// Whole steps of narrow networks only
    #[arg(long)]
    pub(crate) quick: bool,
}

/// Measure the GPU's rates, each layer, whole steps, and the same in PyTorch: a minute
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  mesa gpu measure
  mesa gpu measure --compile-s 0 --out runs/gpu-eager

Rates first: the largest convolutions that a network could have, and copies. Then
each convolution of ResNet-18 and batch norm alone, whole steps, and the same
steps in PyTorch, where python3 (or MESA_PYTHON) has it and it sees the GPU: eager
and compiled, in turns with ours. Times are medians; `host` is the time until the
work is asked for, `device` what it takes by the GPU's clock when everything was
asked for beforehand. gpu.json is written after each part.")]
pub(crate) struct GpuMeasure {
    #[command(flatten)]
    pub(crate) on: OnGpu,
    /// Seconds that PyTorch may take to compile; 0: only eager
    #[arg(long, value_name = "SECONDS", default_value_t = COMPILE_S)]
    pub(crate) compile_s: u16,
    /// Nothing of PyTorch
    #[arg(long)]
    pub(crate) no_peer: bool,
    /// Tiny sizes: shows that everything runs; the times say nothing
    #[arg(long)]
    pub(crate) quick: bool,
}

/// Which GPU, and where the record goes
#[derive(Clone, Debug, Args)]
pub(crate) struct OnGpu {
    /// Number of the GPU, from 0 on
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) gpu: usize,
    /// Folder of gpu.json
    #[arg(long, value_name = "DIR", default_value = "runs/gpu")]
    pub(crate) out: PathBuf,
}

/// Gather the records of run folders in one archive
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  mesa gpu pack runs/gpu --to gpu.tar.gz
  mesa gpu pack runs/slice-* --to slices.tar.gz

Takes summary.json, curves.csv, config.toml and gpu.json of each folder, where it
has them, under the folder's name. No weights.")]
pub(crate) struct GpuPack {
    /// Run folders
    #[arg(value_name = "RUN_DIR", required = true)]
    pub(crate) folders: Vec<PathBuf>,
    /// The archive to write
    #[arg(long, value_name = "FILE")]
    pub(crate) to: PathBuf,
}

/// Put the records of such an archive into a folder
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  mesa gpu unpack slices.tar.gz --into docs/records

Each run's records go to a folder of its name, and replace only an earlier state of
the same run there: another's stay, and these go to NAME-2. An archive with anything
else in it is refused as a whole.")]
pub(crate) struct GpuUnpack {
    /// The archive
    #[arg(value_name = "FILE")]
    pub(crate) archive: PathBuf,
    /// Where the run folders go
    #[arg(long, value_name = "DIR")]
    pub(crate) into: PathBuf,
}
