//! Training steps, ours and PyTorch's, in turns on the same machine.

use std::{
    path::Path,
    process::{Command, ExitCode},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result};
use serde::Serialize;

use super::{Args, player::Player};
use crate::workspace;

/// What `target/bench/peer.json` holds.
#[derive(Serialize)]
struct Comparison {
    ours: String,
    peer: String,
    processor: String,
    threads: usize,
    batch_size: usize,
    rows: Vec<Row>,
}

/// One kind of work at one width; speeds in images per second, each the median
/// over `pairs` turns.
#[derive(Serialize)]
struct Row {
    work: &'static str,
    width: usize,
    ours_per_s: f64,
    peer_per_s: f64,
    /// Ours through the peer's: above 1 we are faster.
    ratio: f64,
    pairs: usize,
    /// The lowest and the highest ratio of a single pair.
    ratio_range: [f64; 2],
}

/// Measures every width and writes the file. Without PyTorch it says how to get
/// it and does nothing: that is no failure.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let Some(python) = workspace::python_with_torch("the comparison") else {
        eprintln!("xtask: skipped");
        return Ok(ExitCode::SUCCESS);
    };
    let root = workspace::root()?;
    let ours = workspace::build(["--example", "train_step"])?;
    let mut comparison = Comparison {
        ours: String::new(),
        peer: String::new(),
        processor: processor(),
        threads: args.threads,
        batch_size: args.batch_size,
        rows: Vec::new(),
    };
    for &width in &args.widths {
        let mut ours = Player::start(&mut side(Command::new(&ours), args, width))?;
        let mut script = Command::new(&python);
        script.current_dir(&root).arg("xtask/src/bench/peer.py");
        let mut peer = Player::start(&mut side(script, args, width))?;
        let row = measure(args, width, &mut ours, &mut peer)?;
        eprintln!(
            "xtask: train, width {width}: {:.1} images/s, PyTorch {:.1}, ratio {:.2} ({:.2} to {:.2})",
            row.ours_per_s, row.peer_per_s, row.ratio, row.ratio_range[0], row.ratio_range[1],
        );
        comparison.rows.push(row);
        comparison.ours.clone_from(&ours.name);
        comparison.peer.clone_from(&peer.name);
    }
    let path = root.join("target/bench/peer.json");
    mesa_record::write_json(&path, &comparison)?;
    eprintln!(
        "xtask: wrote {}",
        Path::new("target/bench/peer.json").display()
    );
    Ok(ExitCode::SUCCESS)
}

/// The arguments and the environment that both sides share.
fn side(mut command: Command, args: &Args, width: usize) -> Command {
    let threads = args.threads.to_string();
    command
        .args(["--width", &width.to_string()])
        .args(["--batch-size", &args.batch_size.to_string()])
        .args(["--threads", &threads])
        .env("RAYON_NUM_THREADS", &threads)
        .env("OMP_NUM_THREADS", &threads);
    command
}

/// Both sides in turns, whoever went first going second in the next pair, so
/// that a slow minute of the machine hits both.
fn measure(args: &Args, width: usize, ours: &mut Player, peer: &mut Player) -> Result<Row> {
    let (ours_steps, peer_steps) = (steps_in(ours, args.turn_s)?, steps_in(peer, args.turn_s)?);
    let (mut ours_s, mut peer_s) = (Vec::new(), Vec::new());
    for pair in 0..args.pairs {
        for turn in 0..2 {
            // Idle worker threads of the other side spin for a while.
            thread::sleep(Duration::from_millis(300));
            if (pair + turn) % 2 == 0 {
                ours_s.push(ours.go(ours_steps)?);
            } else {
                peer_s.push(peer.go(peer_steps)?);
            }
        }
    }
    let ratios: Vec<f64> = ours_s
        .iter()
        .zip(&peer_s)
        .map(|(ours, peer)| peer / ours)
        .collect();
    let per_s = |seconds| median(seconds).map(|seconds| args.batch_size as f64 / seconds);
    let ours_per_s = per_s(ours_s).context("there is at least one pair")?;
    let peer_per_s = per_s(peer_s).context("there is at least one pair")?;
    Ok(Row {
        work: "train",
        width,
        ours_per_s,
        peer_per_s,
        ratio: ours_per_s / peer_per_s,
        pairs: args.pairs,
        ratio_range: [
            ratios.iter().copied().fold(f64::INFINITY, f64::min),
            ratios.iter().copied().fold(0.0, f64::max),
        ],
    })
}

/// How many steps fill a turn; the two steps that tell warm the program up.
fn steps_in(player: &mut Player, turn_s: f64) -> Result<usize> {
    Ok((turn_s / player.go(2)?).round().clamp(1.0, 10_000.0) as usize)
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    let upper = *values.get(middle)?;
    Some(if values.len() % 2 == 1 {
        upper
    } else {
        f64::midpoint(values[middle - 1], upper)
    })
}

fn processor() -> String {
    let text = fs_err::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = text
        .lines()
        .find_map(|line| line.strip_prefix("model name"));
    model
        .map_or("unknown", |model| {
            model.trim_start_matches([' ', '\t', ':'])
        })
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_of_odd_and_even_counts() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), Some(2.5));
        assert_eq!(median(Vec::new()), None);
    }
}
