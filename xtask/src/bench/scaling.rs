//! How ours scales: over threads, batch sizes and widths, memory beside each.

use std::process::ExitCode;

use anyhow::Result;
use mesa_record::{ScalingRecord, ScalingRow};

use super::{
    Args,
    sides::{Sides, Task, machine, median, steps_in},
};
use crate::workspace;

const BATCH_SIZES: [usize; 10] = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512];
const WIDTHS: [usize; 5] = [8, 16, 32, 64, 128];
const TURNS: usize = 3;
const PATH: &str = "target/bench/scaling.json";

/// Measures every point in a process of its own and writes the file.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let sides = Sides::new(None)?;
    let mut record = ScalingRecord {
        machine: machine(args.threads),
        rows: Vec::new(),
    };
    let path = workspace::root()?.join(PATH);
    for task in points(args.threads) {
        let mut player = sides.ours(task, &[])?;
        player.name.clone_into(&mut record.machine.ours);
        let steps = steps_in(&mut player, args.turn_s / 4.0)?;
        let seconds = (0..TURNS).map(|_| Ok(player.go(steps)?.seconds));
        let seconds = median(seconds.collect::<Result<_>>()?);
        let row = ScalingRow {
            work: task.work.to_owned(),
            width: task.width,
            batch_size: task.batch_size,
            threads: task.threads,
            images_per_s: task.batch_size as f64 / seconds,
            peak_mb: player.memory()?.peak_mb,
        };
        eprintln!(
            "xtask: {}, width {}, batch {}, threads {}: {:.1} images/s, {:.0} MiB",
            row.work, row.width, row.batch_size, row.threads, row.images_per_s, row.peak_mb,
        );
        record.rows.push(row);
        mesa_record::write_json(&path, &record)?;
    }
    eprintln!("xtask: wrote {PATH}");
    Ok(ExitCode::SUCCESS)
}

/// Batch sizes at width 16, widths at batch 128; each for every number of threads.
fn points(most_threads: usize) -> Vec<Task> {
    let mut points = Vec::new();
    for work in ["train", "evaluate"] {
        for threads in 1..=most_threads {
            let point = |width, batch_size| Task {
                work,
                width,
                batch_size,
                threads,
            };
            points.extend(BATCH_SIZES.map(|batch_size| point(16, batch_size)));
            let others = WIDTHS.iter().filter(|width| **width != 16);
            points.extend(others.map(|width| point(*width, 128)));
        }
    }
    points
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_point_is_measured_twice() {
        let points = points(2);
        let of = |task: &Task| (task.work, task.width, task.batch_size, task.threads);
        let mut known: Vec<_> = points.iter().map(of).collect();
        known.sort_unstable();
        known.dedup();
        assert_eq!(known.len(), points.len());
        assert_eq!(points.len(), 2 * 2 * (10 + 4));
    }
}
