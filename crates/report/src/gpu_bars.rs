//! Each figure that the project set itself for a GPU, and what was reached.

use std::fmt::Write as _;

use mesa_record::{GpuCheck, GpuComparison, GpuRecord, GpuRow, Summary};

use crate::Table;
use crate::format::{percent, seconds};
use crate::gpu_measured::{TRAINING, failed_words};
use crate::rows::networks;

/// The paper's triggers.
const ALL_TRIGGERS: usize = 51;

pub(crate) const NOTHING: &str = "not measured yet";

/// Each figure that the project set itself, and what was reached.
pub(crate) fn bars(record: Option<&GpuRecord>, runs: &[&Summary]) -> Table {
    let sweep = sweep(runs);
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
        record
            .and_then(|record| record.check.as_ref())
            .map(check_words),
    );
    add(
        &format!("training step, {size}, against PyTorch eager, bf16, channels last"),
        "1.0, aim 1.5",
        record.and_then(|record| ratios(record, "train", &["eager"])),
    );
    add(
        "the same against `torch.compile`",
        "1.0",
        record.and_then(|record| ratios(record, "train", &["compile", "reduce-overhead"])),
    );
    add(
        "MESA step against the authors' formulation, eager, bf16, channels last",
        "2",
        record.and_then(|record| ratios(record, "mesa", &["eager"])),
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
            .and_then(|run| run.clean_network.as_ref())
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

/// The paper's evaluation as a GPU ran it, all of it or a part.
fn sweep<'a>(runs: &[&'a Summary]) -> Option<&'a Summary> {
    let on_gpu =
        |run: &&&Summary| run.preset == "paper" && run.data == "cifar10" && run.device != "cpu";
    runs.iter().find(on_gpu).copied()
}

/// How long a sweep took, and how long all triggers take at its pace.
fn sweep_words(run: &Summary) -> Option<String> {
    let (count, time) = (networks(run).len(), run.at_once?.elapsed_s);
    let mut text = format!("{count} in {}", seconds(time));
    if count < ALL_TRIGGERS {
        let all = time * ALL_TRIGGERS as f64 / count as f64;
        let _ = write!(text, "; 51 at that pace {}, not measured yet", seconds(all));
    }
    Some(text)
}

pub(crate) fn check_words(check: &GpuCheck) -> String {
    match &check.failed[..] {
        [] => format!("{} comparisons, all within", check.comparisons),
        [first, ..] => format!(
            "{} of {} miss, the first: {} ({})",
            check.failed.len(),
            check.comparisons,
            first.name,
            first.precision
        ),
    }
}

/// The ratios of a step to PyTorch's in several variants; why there is none, where there is none.
pub(crate) fn ratios(record: &GpuRecord, work: &str, variants: &[&str]) -> Option<String> {
    let rows: Vec<&GpuComparison> = record
        .comparisons
        .iter()
        .filter(|row| row.work == work && variants.contains(&row.variant.as_str()))
        .collect();
    let same = |row: &&GpuComparison| row.failed == rows[0].failed;
    if let Some(reason) = rows.first().and_then(|row| row.failed.as_ref())
        && rows.iter().all(same)
    {
        return Some(failed_words(reason));
    }
    let found: Vec<String> = rows
        .iter()
        .map(|row| {
            let words = match &row.failed {
                Some(reason) => format!("not measured: {reason}"),
                None => format!("{:.2}", row.ratio),
            };
            if variants.len() == 1 {
                words
            } else {
                format!("{words} ({})", row.variant)
            }
        })
        .collect();
    (!found.is_empty()).then(|| found.join(", "))
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
