//! Each figure that the project set itself for a GPU, and what was reached.

use std::fmt::Write as _;

use mesa_record::{GpuCheck, GpuComparison, GpuRecord, GpuRow};

use crate::Table;
use crate::format::{percent, seconds};
use crate::gpu_measured::{TRAINING, failed_words};
use crate::rows::complete_networks;
use crate::runs::Run;

/// The paper's triggers.
const ALL_TRIGGERS: usize = 51;

pub(crate) const NOTHING: &str = "not measured yet";

/// Each figure that the project set itself, and what was reached: by the newest record, which comes
/// first, and beside PyTorch by all of them.
pub(crate) fn bars(records: &[GpuRecord], runs: &[Run]) -> Table {
    // A record may have been checked only, or measured only.
    let checked = records.iter().find_map(|record| record.check.as_ref());
    let (record, sweep) = (measured(records).first().copied(), sweep(runs));
    let columns = ["figure", "bar", "reached"];
    let mut table = Table::new("What was to be reached".to_owned(), &columns);
    let mut add = |figure: &str, bar: &str, reached: Option<String>| {
        let reached = reached.unwrap_or_else(|| NOTHING.to_owned());
        table
            .rows
            .push(vec![figure.to_owned(), bar.to_owned(), reached]);
    };
    let size = record.map_or_else(
        || "width 64, batch 128".to_owned(),
        |record| format!("width {}, batch {}", record.width, record.batch_size),
    );
    add(
        "every kernel and whole steps against the CPU (`mesa gpu check`)",
        "the tolerances it prints",
        checked.map(check_words),
    );
    add(
        &format!("training step, {size}, against PyTorch eager, bf16, channels last"),
        "1.0, aim 1.5",
        ratios(records, "train", &["eager"]),
    );
    add(
        "the same against `torch.compile`",
        "1.0",
        ratios(records, "train", &["compile", "reduce-overhead"]),
    );
    add(
        "MESA step against the authors' formulation, eager, bf16, channels last",
        "2",
        ratios(records, "mesa", &["eager"]),
    );
    add(
        "the training step's share of the device's measured bf16 matrix rate",
        "aim 40 %",
        record.and_then(share_words),
    );
    add(
        "clean network of width 64",
        "94.5 % on CIFAR-10",
        sweep
            .and_then(|run| run.summary.clean_network.as_ref())
            .map(|network| format!("{} %", percent(network.test_accuracy))),
    );
    add(
        "51 triggers on one H100",
        "25 minutes, aim 12",
        sweep.and_then(sweep_words),
    );
    add(
        "what determinism costs a training step in bf16",
        "",
        record.and_then(determinism),
    );
    table
}

/// Those that steps were measured for, the newest first.
pub(crate) fn measured(records: &[GpuRecord]) -> Vec<&GpuRecord> {
    let with_steps = |record: &&GpuRecord| !record.steps.is_empty();
    records.iter().filter(with_steps).collect()
}

/// The paper's evaluation as the bar's GPU ran it, all of it or a part.
fn sweep(runs: &[Run]) -> Option<&Run> {
    let on_gpu = |run: &&Run| {
        let run = &run.summary;
        let device = &run.device;
        let is_the_bars = device.contains("H100") && device.contains("bf16");
        run.preset == "paper" && run.data == "cifar10" && is_the_bars
    };
    runs.iter().find(on_gpu)
}

/// How long a sweep took, and how long all triggers take at its pace. Networks that it was stopped
/// within count for nothing, their time does.
fn sweep_words(run: &Run) -> Option<String> {
    let count = complete_networks(&run.summary).len();
    let time = run.summary.at_once?.elapsed_s;
    let mut text = format!("{count} in {}{}", seconds(time), run.sessions().words());
    if (1..ALL_TRIGGERS).contains(&count) {
        let all = time * ALL_TRIGGERS as f64 / count as f64;
        let _ = write!(text, "; 51 at that pace {}, not measured yet", seconds(all));
    }
    Some(text)
}

pub(crate) fn check_words(check: &GpuCheck) -> String {
    let left_out = if check.quick {
        " (without those of wide networks)"
    } else {
        ""
    };
    match &check.failed[..] {
        [] => format!("{} comparisons, all within{left_out}", check.comparisons),
        [first, ..] => format!(
            "{} of {} miss, the first: {} ({})",
            check.failed.len(),
            check.comparisons,
            first.name,
            first.precision
        ),
    }
}

/// The ratios of a step to PyTorch's in several variants: of the newest record, which comes first, and
/// of those before; why there is none, where there is none.
pub(crate) fn ratios(records: &[GpuRecord], work: &str, variants: &[&str]) -> Option<String> {
    let of_variant = |variant: &str| {
        let rows: Vec<&GpuComparison> = records
            .iter()
            .flat_map(|record| &record.comparisons)
            .filter(|row| row.work == work && row.variant == variant)
            .collect();
        reached(&rows)
    };
    let found: Vec<_> = variants
        .iter()
        .filter_map(|variant| Some((variant, of_variant(variant)?)))
        .collect();
    let (_, first) = found.first()?;
    // What is the same for all of them, a reason, is told once.
    if found.iter().all(|(_, words)| words == first) {
        return Some(first.clone());
    }
    let each = found
        .iter()
        .map(|(variant, words)| format!("{words} ({variant})"));
    Some(each.collect::<Vec<_>>().join(", "))
}

/// What the newest of one way's rows found, and what those before did.
fn reached(rows: &[&GpuComparison]) -> Option<String> {
    let (newest, earlier) = rows.split_first()?;
    let words = |row: &GpuComparison| match &row.failed {
        Some(reason) => failed_words(reason),
        None => format!("{:.2}", row.ratio),
    };
    let mut text = words(newest);
    let measured = earlier.iter().filter(|row| row.failed.is_none());
    let before: Vec<String> = measured.map(|row| words(row)).collect();
    if !before.is_empty() {
        let _ = write!(text, "; before {}", before.join(", "));
    }
    Some(text)
}

fn step<'a>(record: &'a GpuRecord, work: &str, deterministic: bool) -> Option<&'a GpuRow> {
    record.steps.iter().find(|row| {
        row.work == work && row.precision == "bf16" && row.deterministic == deterministic
    })
}

fn share_words(record: &GpuRecord) -> Option<String> {
    let row = step(record, TRAINING, true)?;
    let rate = record.matrix_tflops("bf16")?;
    let share = record.share(row)?;
    Some(format!("{:.0} % of {rate:.0} TFLOP/s", 100.0 * share))
}

fn determinism(record: &GpuRecord) -> Option<String> {
    let wall = |deterministic| Some(step(record, TRAINING, deterministic)?.time?.wall_s);
    let cost = 100.0 * (wall(true)? / wall(false)? - 1.0);
    // No minus before a zero.
    let cost = if cost.abs() < 0.5 { 0.0 } else { cost };
    Some(format!("{cost:+.0} % time"))
}
