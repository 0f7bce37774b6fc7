//! What can be said on the command line: clap types, nothing else.

mod detect;
mod distributions;
mod gpu;
mod runs;
mod shells;
mod steps;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use mesa_datasets::Placement;
use mesa_models::Normalization;

pub(crate) use detect::Detect;
pub(crate) use distributions::Distributions;
#[cfg(feature = "cuda")]
pub(crate) use gpu::{COMPILE_S, GpuAll, GpuCheck, GpuMeasure, OnGpu};
pub(crate) use gpu::{GpuAction, GpuCommand, GpuPack, GpuUnpack};
pub(crate) use runs::{Pace, Plan, Report, Run, Selection, Sources};
pub(crate) use shells::{Completions, Man};
pub(crate) use steps::{
    Attack, Control, DataAction, DataCommand, DataFetch, Defend, Evaluate, Export, Fit, Names,
    OnHub, Pretrain, Sample, ScheduleName, SplitName,
};

/// Finds and removes neural backdoors by modeling the whole distribution of their triggers (MESA).
#[derive(Debug, Parser)]
#[command(
    name = "mesa",
    version,
    long_version = env!("MESA_LONG_VERSION"),
    max_term_width = 100,
    after_help = AFTER_HELP
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
    /// Number of threads [default: all processors]
    #[arg(
        long,
        global = true,
        display_order = LAST,
        value_name = "N",
        value_parser = clap::value_parser!(u16).range(1..)
    )]
    pub(crate) threads: Option<u16>,
    /// Print the result as JSON on standard output
    #[arg(long, global = true, display_order = LAST + 1)]
    pub(crate) json: bool,
    /// Say nothing on standard error but warnings and errors
    #[arg(short, long, global = true, display_order = LAST + 2)]
    pub(crate) quiet: bool,
}

/// Where what every command takes stands: after its own options, before `--help`.
const LAST: usize = 900;

const AFTER_HELP: &str = "\
The whole chain at once:
  mesa run                                the preset `quick`: minutes on a CPU
  mesa run --preset cpu --triggers 170    the paper's schedule at width 16

A file that was handed to you:
  mesa detect suspect.safetensors         is there a backdoor, in which class

The whole chain by hand:
  mesa pretrain -o clean.safetensors
  mesa attack clean.safetensors --trigger 170 --target 0 -o bad.safetensors
  mesa fit bad.safetensors --target 0 --beta 0.9 -o g90.safetensors
  mesa defend bad.safetensors --with g90.safetensors -o good.safetensors
  mesa evaluate good.safetensors --trigger 170 --target 0

Exit codes: 0 done, 1 failed, 2 wrong usage, 10 backdoor found and
11 undecided (detect), 130 stopped by Ctrl-C.";

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Data(DataCommand),
    Pretrain(Pretrain),
    Detect(Detect),
    Attack(Attack),
    Fit(Fit),
    Sample(Sample),
    Defend(Defend),
    Evaluate(Evaluate),
    Export(Export),
    Run(Run),
    Plan(Plan),
    Distributions(Distributions),
    Report(Report),
    Gpu(GpuCommand),
    Completions(Completions),
    Man(Man),
}

/// Where the images come from
#[derive(Clone, Debug, Args)]
pub(crate) struct DataArgs {
    /// Folder with CIFAR's files (binary or Python version) or its parent, or
    /// CIFAR's .tar.gz archive, or a folder with a folder of images for each class,
    /// or `synthetic` for the built-in classes [default: `$MESA_DATA`, then ~/.cache/mesa]
    #[arg(long, value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
}

/// How a file's images are normalized that does not say it
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct NormalizeArgs {
    /// Normalization of a network whose file does not say it: `cifar10`,
    /// `cifar100`, `imagenet`, `none`, or means and deviations `M,M,M/S,S,S` [default: by its
    /// number of classes]
    #[arg(long, value_name = "HOW", allow_hyphen_values = true)]
    pub(crate) normalize: Option<Normalization>,
}

/// Where triggers go
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct PlacementArgs {
    /// Where triggers are modeled and stamped: `per-image` (anywhere), `per-batch`, or
    /// `fixed:ROW,COLUMN` of their top-left pixel, for a backdoor that works in one place only
    /// [default: that of the settings, anywhere]
    #[arg(long, value_name = "PLACES")]
    pub(crate) placement: Option<Placement>,
}

/// Where and how often
#[derive(Clone, Debug, Args)]
pub(crate) struct Running {
    #[command(flatten)]
    pub(crate) device: DeviceArgs,
    /// How often unfinished work is saved: `epoch`, or a number of seconds
    #[arg(long, value_name = "epoch|SECONDS", default_value = "15", value_parser = save_every)]
    pub(crate) save_every: SaveEvery,
}

/// What to compute on
#[derive(Clone, Debug, Args)]
pub(crate) struct DeviceArgs {
    /// Device to compute on
    #[arg(long, value_enum, default_value = "auto")]
    pub(crate) device: DeviceName,
    /// In what a GPU computes: the CPU always takes f32
    #[arg(long, value_enum, default_value = "bf16")]
    pub(crate) precision: PrecisionName,
    /// Let a GPU use algorithms that do not give the same bits every time
    #[arg(long)]
    pub(crate) nondeterministic: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum PrecisionName {
    /// bf16 values and products, f32 sums, statistics and master weights
    Bf16,
    /// f32 values, products rounded to TF32
    Tf32,
    /// f32 throughout
    F32,
}

impl std::fmt::Display for PrecisionName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Bf16 => "bf16",
            Self::Tf32 => "tf32",
            Self::F32 => "f32",
        })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum DeviceName {
    /// A GPU if this build and this machine have one, else the processor
    Auto,
    /// The processor
    Cpu,
    /// An NVIDIA GPU
    Cuda,
}

/// How often unfinished work is saved.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum SaveEvery {
    Epoch,
    Seconds(f64),
}

/// Which settings to start from
#[derive(Clone, Debug, Args)]
pub(crate) struct PresetArgs {
    /// Built-in settings: `quick`, `cpu`, `paper`, or another file's name in assets/presets
    #[arg(long, value_name = "NAME", conflicts_with = "config")]
    pub(crate) preset: Option<String>,
    /// A file of settings, like those in assets/presets; `base = "cpu"` in it takes from a
    /// preset what it does not say
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
}

fn save_every(text: &str) -> Result<SaveEvery, String> {
    if text == "epoch" {
        return Ok(SaveEvery::Epoch);
    }
    match text.parse::<f64>() {
        Ok(seconds) if seconds.is_finite() && seconds >= 0.0 => Ok(SaveEvery::Seconds(seconds)),
        _ => Err(format!(
            "`{text}` is neither `epoch` nor a number of seconds"
        )),
    }
}

/// A threshold β.
fn beta(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(beta) if beta > 0.0 && beta < 1.0 => Ok(beta),
        _ => Err(format!("β is a probability between 0 and 1, not `{text}`")),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_interface_is_consistent() {
        Cli::command().debug_assert();
    }
}
