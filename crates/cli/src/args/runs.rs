//! The commands that do, or plan, a whole run.

use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use mesa_models::Normalization;

use super::{DataArgs, PresetArgs, Running};

/// What a run shall do
#[derive(Clone, Debug, Args)]
pub(crate) struct Selection {
    #[command(flatten)]
    pub(crate) preset: PresetArgs,
    /// Triggers: numbers, `color:0` … `color:9`, `all` for
    /// the 51 patterns, separated by commas [default: the preset's]
    #[arg(long, value_name = "LIST")]
    pub(crate) triggers: Option<String>,
    /// Seeds, half-open: `0..3` is 0, 1 and 2 [default: the preset's]
    #[arg(long, value_name = "RANGE", value_parser = seeds)]
    pub(crate) seeds: Option<Range<u64>>,
    /// Methods, separated by commas: `mesa:0.9`, `ensemble:turns`,
    /// `ensemble:weighted`, `ideal`, `no-trigger`, `random`, `fine-tune`,
    /// `point`; `mesa` is every β of the preset [default: the preset's]
    #[arg(long, value_name = "LIST")]
    pub(crate) methods: Option<String>,
    #[command(flatten)]
    pub(crate) sources: Sources,
    /// Do only every n-th chain, the i-th of them: `1/4` … `4/4`
    #[arg(long, value_name = "I/N", value_parser = shard)]
    pub(crate) shard: Option<(usize, usize)>,
    /// Take rows of committed records (docs/records) as done, on a GPU also networks that earlier kernels
    /// have computed as a whole
    #[arg(long = "continue")]
    pub(crate) go_on: bool,
}

/// How a run goes about it
#[derive(Clone, Debug, Args)]
pub(crate) struct Pace {
    /// Networks that are worked on at once [default: 1 on the CPU, whose threads one keeps busy,
    /// 6 on a GPU]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=64))]
    pub(crate) workers: Option<u16>,
    /// Stop after so many minutes, as Ctrl-C does, but with the table; no network is begun that is unlikely to be done
    /// by then
    #[arg(long, value_name = "MINUTES", value_parser = minutes)]
    pub(crate) time_limit: Option<Duration>,
}

/// A number of minutes, more than none.
pub(super) fn minutes(text: &str) -> Result<Duration, String> {
    let minutes: Option<f64> = text.parse().ok().filter(|minutes| *minutes > 0.0);
    minutes
        .and_then(|minutes| Duration::try_from_secs_f64(60.0 * minutes).ok())
        .ok_or_else(|| format!("`{text}` is not a number of minutes"))
}

/// What a run starts from, and where it goes
#[derive(Clone, Debug, Args)]
pub(crate) struct Sources {
    #[command(flatten)]
    pub(crate) data: DataArgs,
    /// Clean network to attack [default: the one in assets/weights, or in the program, if it fits,
    /// else one is trained once and kept in the run folder]
    #[arg(long, value_name = "FILE")]
    pub(crate) clean: Option<PathBuf>,
    /// Normalization of the clean network if its file does not say it: `cifar10`,
    /// `cifar100`, `imagenet`, `none` or `M,M,M/S,S,S` [default: by its number of classes]
    #[arg(
        long,
        value_name = "HOW",
        requires = "clean",
        allow_hyphen_values = true
    )]
    pub(crate) normalize: Option<Normalization>,
    /// Run folder [default: runs/PRESET]
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
}

/// Attack, model, defend and measure: one preset's whole chain
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  mesa run                                      trigger 170 in minutes
  mesa run --data synthetic                     the same on the built-in classes
  mesa run --preset cpu --triggers 170,16,0 --seeds 0..3
  mesa run --preset cpu --methods ideal,no-trigger
  mesa run --preset cpu --methods point         the baseline, repeats and all
  mesa run --preset paper --triggers all --shard 1/4 --out runs/paper-1

Writes summary.json, records, checkpoints, the resolved config.toml, a log and
a picture of sampled triggers to the run folder, and prints the table. Stopped
or killed, the same command goes on where it was; finished steps are done again
only if their configuration, data or engine changed.

Where no data is named or found and the preset has built-in classes to fall back
on (`quick`), CIFAR is fetched from the Hugging Face Hub first; HF_HUB_OFFLINE=1
prevents it.")]
pub(crate) struct Run {
    #[command(flatten)]
    pub(crate) selection: Selection,
    #[command(flatten)]
    pub(crate) running: Running,
    #[command(flatten)]
    pub(crate) pace: Pace,
    /// Show what would be done, and do nothing
    #[arg(long = "dry-run")]
    pub(crate) only_plan: bool,
}

/// Show what a run would do, and what it would take
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  mesa plan --preset cpu --triggers all
  mesa plan --preset paper --measure -o estimate.json

With --measure 20 batches of each stage are run first, so that the estimate of
time and the peak memory are this machine's.")]
pub(crate) struct Plan {
    #[command(flatten)]
    pub(crate) selection: Selection,
    #[command(flatten)]
    pub(crate) running: Running,
    /// Run 20 batches of each stage and estimate from them
    #[arg(long)]
    pub(crate) measure: bool,
    /// Batches of each stage to measure
    #[arg(long, value_name = "N", default_value_t = 20, requires = "measure")]
    pub(crate) batches: usize,
    /// File to write what was measured to (JSON)
    #[arg(short, long, value_name = "FILE", requires = "measure")]
    pub(crate) output: Option<PathBuf>,
}

/// Write the report of a run, or of the committed records
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  mesa report runs/quick
  mesa report runs/detect-suspect -o suspect.html
  mesa report
  mesa report --check

With a folder of `mesa run` or `mesa distributions`, also while the run goes on, or
of a `mesa detect` that is done: one page to look at (report.html, needs no network
and no script), and its tables as results.md and results.csv.

Without, to be started in the repository's root: reads the records below
docs/records, and writes docs/report.html, docs/results.md, docs/results.csv,
the pictures of assets/figures and the tables in README.md and docs/performance.md.")]
pub(crate) struct Report {
    /// Folder of a run or of a search for backdoors [default: the committed records]
    #[arg(value_name = "RUN_DIR")]
    pub(crate) run_dir: Option<PathBuf>,
    /// Where the page goes [default: report.html in the folder]
    #[arg(short, long, value_name = "FILE", requires = "run_dir")]
    pub(crate) output: Option<PathBuf>,
    /// Write nothing; exit code 1 where a file is not what the committed records say
    #[arg(long, conflicts_with = "run_dir")]
    pub(crate) check: bool,
}

pub(super) fn seeds(text: &str) -> Result<Range<u64>, String> {
    let wrong = || format!("`{text}` is not a range of seeds; write 0..3 for the seeds 0, 1 and 2");
    let (start, end) = if let Some((start, end)) = text.split_once("..") {
        (
            start.parse().map_err(|_| wrong())?,
            end.parse().map_err(|_| wrong())?,
        )
    } else {
        let seed: u64 = text.parse().map_err(|_| wrong())?;
        (seed, seed.checked_add(1).ok_or_else(wrong)?)
    };
    if start < end {
        Ok(start..end)
    } else {
        Err(wrong())
    }
}

fn shard(text: &str) -> Result<(usize, usize), String> {
    let wrong = || format!("`{text}` is not a part of a sweep; write 1/4 … 4/4");
    let (part, parts) = text.split_once('/').ok_or_else(wrong)?;
    let (part, parts) = (
        part.parse().map_err(|_| wrong())?,
        parts.parse().map_err(|_| wrong())?,
    );
    if 1 <= part && part <= parts {
        Ok((part, parts))
    } else {
        Err(wrong())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_half_open_seeds() {
        assert_eq!(seeds("0..3"), Ok(0..3));
        assert_eq!(seeds("7"), Ok(7..8));
        assert!(seeds("3..3").is_err() && seeds("a..b").is_err() && seeds("-1..2").is_err());
    }

    #[test]
    fn reads_shards() {
        assert_eq!(shard("2/4"), Ok((2, 4)));
        assert!(shard("0/4").is_err() && shard("5/4").is_err() && shard("4").is_err());
    }
}
