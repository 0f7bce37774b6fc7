//! Ours and PyTorch's, in turns on the same machine.

use std::{collections::BTreeMap, process::ExitCode};

use anyhow::{Result, ensure};
use clap::builder::PossibleValuesParser;
use mesa_record::{FullTrigger, SpeedRecord, SpeedRow};

use super::{
    Args,
    player::{Memory, Player, Turn},
    sides::{Sides, Task, machine, median, steps_in, turns},
    trigger,
};
use crate::workspace;

/// What is compared, at which widths.
const WORKS: [(&str, &[usize]); 6] = [
    ("train", &[64, 16]),
    ("evaluate", &[64, 16]),
    ("mesa", &[64, 16]),
    ("mesa-frozen", &[64, 16]),
    ("trigger", &[16]),
    ("memory", &[64, 16]),
];

/// Width of preset `cpu`.
const TRIGGER_WIDTH: usize = 16;

const PATH: &str = "target/bench/peer.json";

/// What `--works` takes.
pub(super) fn works() -> PossibleValuesParser {
    PossibleValuesParser::new(WORKS.map(|(work, _)| work))
}

/// The rows that were asked for: each work with its widths.
fn asked(args: &Args) -> Result<Vec<(&'static str, usize)>> {
    let all = WORKS
        .into_iter()
        .flat_map(|(work, widths)| widths.iter().map(move |width| (work, *width)));
    let is_asked = |(work, width): &(&str, usize)| {
        (args.works.is_empty() || args.works.iter().any(|asked| asked == work))
            && (args.widths.is_empty() || args.widths.contains(width))
    };
    let asked: Vec<_> = all.filter(is_asked).collect();
    ensure!(
        !asked.is_empty() || args.full,
        "there is nothing of that to measure: widths are 64 and 16, of `trigger` 16 alone"
    );
    Ok(asked)
}

/// Measures every row and writes the file after each. Without PyTorch it says how to get it and
/// does nothing: that is no failure.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let asked = asked(args)?;
    let Some(python) = workspace::python_with_torch("the comparison") else {
        eprintln!("xtask: skipped");
        return Ok(ExitCode::SUCCESS);
    };
    let mut comparison = Comparison {
        args,
        sides: Sides::new(Some(python))?,
        record: SpeedRecord {
            machine: machine(args.threads),
            batch_size: args.batch_size,
            ..SpeedRecord::default()
        },
    };
    for (work, width) in asked {
        comparison.add(work, width)?;
    }
    if args.full {
        comparison.add_full()?;
    }
    eprintln!("xtask: wrote {PATH}");
    Ok(ExitCode::SUCCESS)
}

struct Comparison<'a> {
    args: &'a Args,
    sides: Sides,
    record: SpeedRecord,
}

impl Comparison<'_> {
    fn add(&mut self, work: &'static str, width: usize) -> Result<()> {
        let row = match work {
            "memory" => self.memory(width)?,
            "trigger" => self.speed(
                work,
                width,
                1.0,
                &["--stages".to_owned(), trigger::stages()],
            )?,
            _ => self.speed(work, width, self.args.batch_size as f64, &[])?,
        };
        let (low, high) = row
            .pairs
            .iter()
            .fold((f64::INFINITY, 0.0_f64), |(low, high), ratio| {
                (low.min(*ratio), high.max(*ratio))
            });
        let figures = row
            .ours_per_s
            .zip(row.peer_per_s)
            .or(row.ours_mb.zip(row.peer_mb));
        let (ours, peer) = figures.unwrap_or_default();
        eprintln!(
            "xtask: {work}, width {width}: {ours:.4} and {peer:.4} {}, ratio {:.2} ({low:.2} to \
             {high:.2}); {}",
            if work == "memory" { "MiB" } else { "a second" },
            row.ratio,
            row.peer_variant,
        );
        self.record.rows.push(row);
        self.save()
    }

    fn save(&self) -> Result<()> {
        let path = workspace::root()?.join(PATH);
        Ok(mesa_record::write_json(&path, &self.record)?)
    }

    fn task(&self, work: &'static str, width: usize) -> Task {
        Task {
            work,
            width,
            batch_size: self.args.batch_size,
            threads: self.args.threads,
        }
    }

    /// Starts both sides; the second value is the peer's variant.
    fn start(
        &mut self,
        task: Task,
        extra: &[String],
        compile_s: u32,
    ) -> Result<([Player; 2], String)> {
        let ours = self.sides.ours(task, extra)?;
        let mut extra = extra.to_vec();
        extra.extend(["--compile-s".to_owned(), compile_s.to_string()]);
        let peer = self.sides.peer(task, &extra)?;
        let (name, variant) = peer.name.split_once("; ").unwrap_or((&peer.name, ""));
        ours.name.clone_into(&mut self.record.machine.ours);
        name.clone_into(&mut self.record.machine.peer);
        let variant = variant.to_owned();
        Ok(([ours, peer], variant))
    }

    /// `units` of work are in a step.
    fn speed(
        &mut self,
        work: &'static str,
        width: usize,
        units: f64,
        extra: &[String],
    ) -> Result<SpeedRow> {
        let task = self.task(work, width);
        let ([mut ours, mut peer], peer_variant) = self.start(task, extra, self.args.compile_s)?;
        let steps = if work == "trigger" {
            // A turn is a part of every stage, however long that takes.
            [1, 1]
        } else {
            let turn_s = self.args.turn_s;
            [steps_in(&mut ours, turn_s)?, steps_in(&mut peer, turn_s)?]
        };
        let taken = turns([&mut ours, &mut peer], steps, self.args.pairs)?;
        let per_s =
            |side: usize| units / median(taken.iter().map(|pair| pair[side].seconds).collect());
        let (ours_per_s, peer_per_s) = (per_s(0), per_s(1));
        Ok(SpeedRow {
            work: work.to_owned(),
            width,
            ours_per_s: Some(ours_per_s),
            peer_per_s: Some(peer_per_s),
            ratio: ours_per_s / peer_per_s,
            pairs: taken
                .iter()
                .map(|[ours, peer]| peer.seconds / ours.seconds)
                .collect(),
            peer_variant,
            repairs: (work == "trigger").then_some(trigger::REPAIRS),
            stages_s: stages(&taken),
            ..SpeedRow::default()
        })
    }

    /// A few training steps in fresh processes, eager at the peer: compiling takes memory, too.
    fn memory(&mut self, width: usize) -> Result<SpeedRow> {
        let task = self.task("train", width);
        let mut taken: Vec<[Memory; 2]> = Vec::new();
        for _ in 0..self.args.pairs {
            let (players, _) = self.start(task, &[], 0)?;
            let held = players.map(|mut player| {
                player.go(1)?;
                player.memory()
            });
            let [ours, peer] = held;
            taken.push([ours?, peer?]);
        }
        let of = |side: usize, what: fn(&Memory) -> f64| {
            median(taken.iter().map(|pair| what(&pair[side])).collect())
        };
        let peaks = [0, 1].map(|side| of(side, |memory| memory.peak_mb));
        let starts = [0, 1].map(|side| of(side, |memory| memory.start_mb));
        Ok(SpeedRow {
            work: "memory".to_owned(),
            width,
            ours_mb: Some(peaks[0]),
            peer_mb: Some(peaks[1]),
            ours_start_mb: Some(starts[0]),
            peer_start_mb: Some(starts[1]),
            ratio: peaks[1] / peaks[0],
            pairs: taken
                .iter()
                .map(|[ours, peer]| peer.peak_mb / ours.peak_mb)
                .collect(),
            peer_variant: "eager".to_owned(),
            ..SpeedRow::default()
        })
    }

    /// One trigger from end to end, once on either side.
    fn add_full(&mut self) -> Result<()> {
        let width = TRIGGER_WIDTH;
        let extra = [
            "--whole".to_owned(),
            "--stages".to_owned(),
            trigger::stages(),
        ];
        let task = self.task("trigger", width);
        let (players, _) = self.start(task, &extra, self.args.compile_s)?;
        let [mut ours, mut peer] = players;
        let taken = turns([&mut ours, &mut peer], [1, 1], 1)?;
        let [ours_s, peer_s] = [0, 1].map(|side| taken[0][side].seconds);
        eprintln!("xtask: a whole trigger: {ours_s:.0} s, PyTorch {peer_s:.0} s");
        self.record.full = Some(FullTrigger {
            width,
            ours_s,
            peer_s,
            ratio: peer_s / ours_s,
            repairs: Some(trigger::REPAIRS),
            stages_s: stages(&taken),
        });
        self.save()
    }
}

/// The medians of each stage's seconds.
fn stages(taken: &[[Turn; 2]]) -> BTreeMap<String, [f64; 2]> {
    let names = taken.iter().flat_map(|[ours, _]| ours.stages_s.keys());
    let of = |name: &String| {
        [0, 1].map(|side| {
            let seconds = taken
                .iter()
                .filter_map(|pair| pair[side].stages_s.get(name).copied());
            median(seconds.collect())
        })
    };
    names.map(|name| (name.clone(), of(name))).collect()
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn of(options: &[&str]) -> Option<Vec<(&'static str, usize)>> {
        let line = ["x", "--peer"].iter().chain(options);
        let args = Line::try_parse_from(line).ok()?.args;
        asked(&args).ok()
    }

    #[test]
    fn rows_that_there_are_not_are_refused() {
        assert_eq!(of(&[]).map(|rows| rows.len()), Some(11));
        let rows = of(&["--works", "trigger,train", "--widths", "16"]);
        assert_eq!(rows.unwrap(), [("train", 16), ("trigger", 16)]);
        assert_eq!(of(&["--works", "typo"]), None);
        assert_eq!(of(&["--widths", "32"]), None);
        assert_eq!(of(&["--works", "trigger", "--widths", "64"]), None);
        let whole = of(&["--works", "trigger", "--widths", "64", "--full"]);
        assert_eq!(whole, Some(Vec::new()));
    }
}
