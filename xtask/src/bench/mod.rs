//! `cargo xtask bench`: how fast the hot path is.

mod peer;
mod player;
mod scaling;
mod sides;
mod trigger;

use std::process::ExitCode;

use anyhow::Result;
use xshell::cmd;

use crate::workspace;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Measure side by side with PyTorch instead and write target/bench/peer.json
    #[arg(long)]
    peer: bool,
    /// Measure over threads, batch sizes and widths instead and write target/bench/scaling.json
    #[arg(long, conflicts_with = "peer")]
    scaling: bool,
    /// One whole trigger on either side as well: hours
    #[arg(long, requires = "peer")]
    full: bool,
    /// Only these rows of the comparison
    #[arg(long, value_delimiter = ',', requires = "peer", value_parser = peer::works())]
    works: Vec<String>,
    /// Only these widths of the ResNet-18
    #[arg(long, value_delimiter = ',', requires = "peer")]
    widths: Vec<usize>,
    /// Images in a batch
    #[arg(long, default_value_t = 128, requires = "peer")]
    batch_size: usize,
    /// Threads of either side
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// Pairs of turns, of which the medians are taken
    #[arg(long, default_value_t = 7, requires = "peer", value_parser = at_least_seven)]
    pairs: usize,
    /// How long one turn lasts, about
    #[arg(long, default_value_t = 3.0)]
    turn_s: f64,
    /// How long the peer may take to compile one kind of work; 0: eager only
    #[arg(long, default_value_t = 75, requires = "peer")]
    compile_s: u32,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    if args.peer {
        return peer::run(args);
    }
    if args.scaling {
        return scaling::run(args);
    }
    let shell = workspace::shell()?;
    let cargo = workspace::cargo();
    // By target: without it cargo would build every unit test once more.
    cmd!(shell, "{cargo} bench --workspace --bench *").run()?;
    let roofline = workspace::build(["--example", "roofline"])?;
    let json = "target/bench/roofline.json";
    cmd!(shell, "{roofline} --json {json}").run()?;
    Ok(ExitCode::SUCCESS)
}

fn at_least_seven(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(pairs) if pairs >= 7 => Ok(pairs),
        _ => Err("a median of fewer than 7 pairs says little".to_owned()),
    }
}
