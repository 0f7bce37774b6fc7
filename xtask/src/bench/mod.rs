//! `cargo xtask bench`: how fast the hot path is.

mod peer;
mod player;

use std::process::ExitCode;

use anyhow::Result;
use xshell::cmd;

use crate::workspace;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Measure training steps side by side with PyTorch instead and write target/bench/peer.json
    #[arg(long)]
    peer: bool,
    /// Widths of the ResNet-18
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "64,16",
        requires = "peer"
    )]
    widths: Vec<usize>,
    /// Images in a batch
    #[arg(long, default_value_t = 128, requires = "peer")]
    batch_size: usize,
    /// Threads of either side
    #[arg(long, default_value_t = 2, requires = "peer")]
    threads: usize,
    /// Pairs of turns, of which the medians are taken
    #[arg(long, default_value_t = 9, requires = "peer", value_parser = at_least_seven)]
    pairs: usize,
    /// How long one turn lasts, about
    #[arg(long, default_value_t = 4.0, requires = "peer")]
    turn_s: f64,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    if args.peer {
        return peer::run(args);
    }
    let shell = workspace::shell()?;
    let cargo = workspace::cargo();
    // By target: without it cargo would build every unit test once more.
    cmd!(shell, "{cargo} bench --workspace --bench *").run()?;
    Ok(ExitCode::SUCCESS)
}

fn at_least_seven(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(pairs) if pairs >= 7 => Ok(pairs),
        _ => Err("a median of fewer than 7 pairs says little".to_owned()),
    }
}
