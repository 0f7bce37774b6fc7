//! Our side of `cargo xtask bench`: work on request, for as long as somebody asks.
//!
//! Says `ready NAME`, then answers each line on standard input:
//!
//! - `go N`: the seconds that one of N steps took. A step before them is not counted. For a
//!   trigger, the seconds of a whole one, and of each stage as `STAGE=SECONDS`.
//! - `memory`: what the process held when it started and the most it has held since, in MiB.
//!
//! Ends when standard input does. By hand:
//!
//! ```text
//! echo "go 20" | cargo run --release -p mesa-cli --example bench_player -- --work train --width 16
//! ```

mod stages;
mod works;

use std::{
    io::{self, BufRead as _, Write as _},
    time::Instant,
};

use anyhow::{Context as _, Result, bail};
use clap::{Parser, ValueEnum};
use mesa_models::CpuPath;

use crate::stages::{Stage, Trigger};
use crate::works::Advance;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Parser)]
#[command(about = "Our side of `cargo xtask bench`")]
struct Args {
    /// What to do
    #[arg(long)]
    work: Work,
    /// Width of the ResNet-18
    #[arg(long)]
    width: usize,
    /// Images in a batch
    #[arg(long, default_value_t = 128)]
    batch_size: usize,
    /// Threads; every processor where it is 0
    #[arg(long, default_value_t = 0)]
    threads: usize,
    /// Stages of a trigger, each as NAME:TIMES:SIZE:PART
    #[arg(long, value_delimiter = ',')]
    stages: Vec<Stage>,
    /// Run a trigger's stages whole instead of a part of each
    #[arg(long)]
    whole: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Work {
    /// Training steps
    Train,
    /// Inference
    Evaluate,
    /// Iterations of MESA: a step of the generator, then one of the statistics network
    Mesa,
    /// All that is done for one trigger
    Trigger,
}

/// What a request sets in motion.
enum Player {
    Steps(Advance),
    Trigger(Trigger),
}

fn main() -> Result<()> {
    let start = held_mb()?;
    let args = Args::parse();
    rayon::ThreadPoolBuilder::new()
        .num_threads(args.threads)
        .build_global()?;
    let (width, batch_size) = (args.width, args.batch_size);
    let mut player = match args.work {
        Work::Train => Player::Steps(works::train(width, batch_size)?),
        Work::Evaluate => Player::Steps(works::evaluate(width, batch_size)?),
        Work::Mesa => Player::Steps(works::mesa(width, batch_size)?),
        Work::Trigger => Player::Trigger(Trigger::new(&args.stages, width, args.whole)?),
    };
    let (version, path) = (env!("CARGO_PKG_VERSION"), CpuPath::current()?.name());
    answer(&format!("ready mesa {version}, f32, {path} kernels"))?;
    for line in io::stdin().lock().lines() {
        let line = line?;
        answer(&match line.trim().split_once(' ') {
            Some(("go", steps)) => player.go(steps.parse().context("steps are a number")?)?,
            None if line.trim() == "memory" => format!("{start} {}", held_mb()?),
            _ => bail!("no request: `{line}`"),
        })?;
    }
    Ok(())
}

impl Player {
    fn go(&mut self, steps: usize) -> Result<String> {
        match self {
            Self::Steps(advance) => {
                advance(1)?;
                let started = Instant::now();
                advance(steps)?;
                Ok((started.elapsed().as_secs_f64() / steps as f64).to_string())
            }
            Self::Trigger(trigger) => trigger.go(steps),
        }
    }
}

fn answer(text: &str) -> Result<()> {
    let mut output = io::stdout();
    writeln!(output, "{text}")?;
    Ok(output.flush()?)
}

/// The most that this process has held so far, in MiB.
fn held_mb() -> Result<f64> {
    mesa_record::peak_rss_mb().context("the system tells no memory")
}
