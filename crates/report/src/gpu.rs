//! What `mesa gpu` found, for a terminal and for `docs/performance.md`.

use std::fmt::Write as _;

use mesa_record::{GpuCheck, GpuComparison, GpuRecord, GpuRow, Summary};

use crate::Table;
use crate::format::{self, seconds};
use crate::rows::networks;

/// Where the record lies.
pub(crate) const RECORD: &str = "docs/records/gpu/gpu.json";

/// The paper's triggers.
const ALL_TRIGGERS: usize = 51;

const NOTHING: &str = "not measured yet";

/// Works as `mesa gpu measure` calls them.
const TRAINING: &str = "training step";

/// A GPU and what drives it, in a line.
pub fn gpu_words(record: &GpuRecord) -> String {
    let machine = &record.machine;
    let mut text = format!("{}, {} MiB", machine.device, machine.memory_mb);
    if !machine.driver.is_empty() {
        let _ = write!(text, "; driver {}", machine.driver);
    }
    let _ = write!(
        text,
        "; CUDA {}, cuDNN {}; {}; {}",
        machine.cuda, machine.cudnn, machine.processor, record.program
    );
    if let Some(peer) = &record.peer {
        let _ = write!(text, "; PyTorch: {}", peer.trim_start_matches("PyTorch "));
    }
    text
}

/// What was measured, for a terminal: short, the bars last.
pub fn gpu_tables(record: &GpuRecord) -> String {
    let mut tables = vec![rates(record), steps(record), convolutions(record)];
    tables.extend([comparisons(record), bars(Some(record), None)]);
    let mut text = String::new();
    for table in tables.iter().filter(|table| !table.rows.is_empty()) {
        let _ = writeln!(text, "{}", table.to_terminal());
    }
    let _ = writeln!(text, "{}", gpu_words(record));
    if record.quick {
        text.push_str("Tiny sizes: the times say nothing.\n");
    }
    text
}

/// What `mesa gpu all` has done so far.
#[derive(Clone, Debug)]
pub struct GpuAllParts<'a> {
    /// The record of the check and the measurement.
    pub record: Option<&'a GpuRecord>,
    /// What the run measured.
    pub run: Option<&'a Summary>,
    /// Networks with a row of every method.
    pub networks_done: usize,
    /// Networks that are to have one.
    pub networks: usize,
    /// What the check, the measurement, the clean network and the networks took, in words.
    pub times: [String; 4],
}

/// What `mesa gpu all` came to: four lines.
pub fn gpu_all_table(parts: &GpuAllParts<'_>) -> Table {
    let mut table = Table::new(
        "What all of it came to".to_owned(),
        &["part", "reached", "time"],
    );
    let run = parts.run.and_then(|run| run.clean_network.as_ref());
    let ratio = |record| ratios(record, "train", &["eager", "compile", "reduce-overhead"]);
    let reached = [
        (
            "check against the processor",
            parts
                .record
                .and_then(|record| record.check.as_ref())
                .map(check_words),
        ),
        (
            "training step against PyTorch's",
            parts.record.and_then(ratio),
        ),
        (
            "accuracy of the clean network",
            run.map(|network| format!("{} %", format::percent(network.test_accuracy))),
        ),
        (
            "networks done",
            Some(format!("{} of {}", parts.networks_done, parts.networks)),
        ),
    ];
    for ((part, reached), time) in reached.into_iter().zip(&parts.times) {
        let reached = reached.unwrap_or_else(|| NOTHING.to_owned());
        table
            .rows
            .push(vec![part.to_owned(), reached, time.clone()]);
    }
    table
}

/// The block of `docs/performance.md`. A record of tiny sizes is none; the committed runs say how
/// long the paper's evaluation takes.
pub(crate) fn gpu_block(record: Option<&GpuRecord>, runs: &[&Summary]) -> String {
    let record = record.filter(|record| !record.quick);
    let mut text = bars(record, sweep(runs)).to_markdown();
    let Some(record) = record else { return text };
    let _ = write!(
        text,
        "\n{}; width {}, batch {} unless a row says otherwise; made {}.\n",
        gpu_words(record),
        record.width,
        record.batch_size,
        record.made
    );
    for table in [
        rates(record),
        steps(record),
        comparisons(record),
        convolutions(record),
        layers(record),
    ] {
        if !table.rows.is_empty() {
            let _ = write!(text, "\n**{}**\n\n{}", table.title, table.to_markdown());
        }
    }
    text
}

/// README's table: steps beside PyTorch's. A record of tiny sizes is none.
pub(crate) fn readme_block(record: Option<&GpuRecord>) -> Option<String> {
    let record = record.filter(|record| !record.quick)?;
    let table = comparisons(record);
    let peer = record.peer.as_deref()?;
    (!table.rows.is_empty()).then(|| {
        format!(
            "On a GPU, beside PyTorch there: bf16, channels last, width {}, batch of {}, ours \
             deterministic; `reduce-overhead` is PyTorch with CUDA graphs, a MESA step the classifier's part \
             of it on both sides.\n\n{}\n{}; {peer}; {}\n",
            record.width,
            record.batch_size,
            table.to_markdown(),
            record.machine.device,
            record.program,
        )
    })
}

/// The same in the report, after what the project set itself.
pub(crate) fn page_tables(record: Option<&GpuRecord>, runs: &[&Summary]) -> Vec<Table> {
    let record = record.filter(|record| !record.quick);
    let mut tables = vec![bars(record, sweep(runs))];
    tables.extend(
        record
            .map(comparisons)
            .filter(|table| !table.rows.is_empty()),
    );
    tables
}

/// Each figure that the project set itself, and what was reached.
fn bars(record: Option<&GpuRecord>, sweep: Option<&Summary>) -> Table {
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
            .map(|network| format!("{} %", format::percent(network.test_accuracy))),
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

fn check_words(check: &GpuCheck) -> String {
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
fn ratios(record: &GpuRecord, work: &str, variants: &[&str]) -> Option<String> {
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

/// The device's own rates.
fn rates(record: &GpuRecord) -> Table {
    let columns = ["rate of", "precision", "deterministic", "measured"];
    let mut table = Table::new("The device's rates".to_owned(), &columns);
    for row in &record.rates {
        let measured = match (row.tflops(), row.gigabytes_per_s(), &row.failed) {
            (_, _, Some(reason)) => failed_words(reason),
            (Some(rate), _, _) => format!("{rate:.0} TFLOP/s"),
            (None, Some(rate), _) => format!("{rate:.0} GB/s"),
            (None, None, None) => String::new(),
        };
        let work = if row.images == 0 {
            row.work.clone()
        } else {
            format!("convolution {}, {} images", row.work, row.images)
        };
        let deterministic = yes(row.deterministic);
        table
            .rows
            .push(vec![work, row.precision.clone(), deterministic, measured]);
    }
    table
}

/// Whole steps.
fn steps(record: &GpuRecord) -> Table {
    let columns = [
        "step",
        "batch",
        "precision",
        "deterministic",
        "ms",
        "lowest and\nhighest round",
        "host, ms",
        "device, ms",
        "images/s",
        "share of\nmatrix rate",
    ];
    let title = format!("Whole steps, width {}", record.width);
    let mut table = Table::new(title, &columns);
    for row in &record.steps {
        let mut cells = vec![
            row.work.clone(),
            row.images.to_string(),
            row.precision.clone(),
            yes(row.deterministic),
        ];
        if let Some(time) = row.time {
            let images = row.images_per_s().map(|rate| format!("{rate:.0}"));
            cells.extend([
                milliseconds(time.wall_s),
                format!(
                    "{} to {}",
                    milliseconds(time.lowest_s),
                    milliseconds(time.highest_s)
                ),
                milliseconds(time.host_s),
                milliseconds(time.device_s),
                images.unwrap_or_default(),
                percent(record.share(row)),
            ]);
        } else {
            cells.push(failed_words(row.failed.as_deref().unwrap_or("")));
        }
        cells.resize(columns.len(), String::new());
        table.rows.push(cells);
    }
    table
}

/// Beside PyTorch.
fn comparisons(record: &GpuRecord) -> Table {
    let columns = [
        "step",
        "variant",
        "ours, ms",
        "PyTorch, ms",
        "ratio",
        "lowest and\nhighest pair",
        "PyTorch ready\nafter, s",
    ];
    let title = "Beside PyTorch: bf16, channels last; ours deterministic".to_owned();
    let mut table = Table::new(title, &columns);
    for row in &record.comparisons {
        let mut cells = vec![work_words(row).to_owned(), row.variant.clone()];
        if let Some(reason) = &row.failed {
            cells.push(failed_words(reason));
        } else {
            let (low, high) = row
                .pairs
                .iter()
                .fold((f64::INFINITY, 0.0_f64), |(low, high), ratio| {
                    (low.min(*ratio), high.max(*ratio))
                });
            cells.extend([
                milliseconds(row.ours_s),
                milliseconds(row.peer_s),
                format!("{:.2}", row.ratio),
                format!("{low:.2} to {high:.2}"),
                format!("{:.0}", row.ready_s),
            ]);
        }
        cells.resize(columns.len(), String::new());
        table.rows.push(cells);
    }
    table
}

fn work_words(row: &GpuComparison) -> &str {
    match row.work.as_str() {
        "train" => TRAINING,
        "mesa" => "MESA step, authors' formulation",
        "mesa-frozen" => "MESA step, PyTorch's classifier frozen",
        "fit" => "whole iteration of a fit, authors' formulation",
        other => other,
    }
}

/// The convolutions of a training step together, by kind.
fn convolutions(record: &GpuRecord) -> Table {
    let columns = [
        "all convolutions",
        "precision",
        "deterministic",
        "ms",
        "device, ms",
        "share of\nmatrix rate",
    ];
    let title = "Convolutions of a training step, each alone, summed".to_owned();
    let mut table = Table::new(title, &columns);
    let mut kinds: Vec<(&str, &str, bool)> = Vec::new();
    for row in record.layers.iter().filter(|row| row.gflop > 0.0) {
        let kind = (row.part.as_str(), row.precision.as_str(), row.deterministic);
        if !kinds.contains(&kind) {
            kinds.push(kind);
        }
    }
    for kind in kinds {
        let rows: Vec<&GpuRow> = record
            .layers
            .iter()
            .filter(|row| {
                (row.part.as_str(), row.precision.as_str(), row.deterministic) == kind
                    && row.gflop > 0.0
                    && row.count > 0
            })
            .collect();
        // A sum with a gap would be another figure.
        if rows.iter().any(|row| row.time.is_none()) {
            continue;
        }
        let sum = |of: fn(&GpuRow) -> f64| -> f64 {
            rows.iter().map(|row| row.count as f64 * of(row)).sum()
        };
        let wall = sum(|row| row.time.map_or(0.0, |time| time.wall_s));
        let device = sum(|row| row.time.map_or(0.0, |time| time.device_s));
        let tflops = sum(|row| row.gflop) / 1e3 / device;
        let share = record.matrix_tflops(kind.1).map(|rate| tflops / rate);
        table.rows.push(vec![
            kind.0.to_owned(),
            kind.1.to_owned(),
            yes(kind.2),
            milliseconds(wall),
            milliseconds(device),
            percent(share),
        ]);
    }
    table
}

/// Each layer alone, as a run computes it: in bf16, deterministic. The record has the others.
fn layers(record: &GpuRecord) -> Table {
    let columns = [
        "layer",
        "count",
        "direction",
        "µs",
        "host, µs",
        "device, µs",
        "TFLOP/s",
        "GB/s",
    ];
    let title = "Layers in bf16, deterministic, each alone; count in a training step".to_owned();
    let mut table = Table::new(title, &columns);
    let as_run = |row: &&GpuRow| row.precision == "bf16" && row.deterministic;
    for row in record.layers.iter().filter(as_run) {
        let mut cells = vec![row.work.clone(), row.count.to_string(), row.part.clone()];
        if let Some(time) = row.time {
            let micros = |seconds: f64| format!("{:.1}", 1e6 * seconds);
            let rate =
                |rate: Option<f64>| rate.map_or_else(String::new, |rate| format!("{rate:.0}"));
            cells.extend([
                micros(time.wall_s),
                micros(time.host_s),
                micros(time.device_s),
                rate(row.device_tflops()),
                rate(row.device_gigabytes_per_s()),
            ]);
        } else {
            cells.push(failed_words(row.failed.as_deref().unwrap_or("")));
        }
        cells.resize(columns.len(), String::new());
        table.rows.push(cells);
    }
    table
}

fn milliseconds(seconds: f64) -> String {
    format!("{:.3}", 1e3 * seconds)
}

fn percent(share: Option<f64>) -> String {
    share.map_or_else(String::new, |share| format!("{:.0} %", 100.0 * share))
}

fn yes(deterministic: bool) -> String {
    if deterministic { "yes" } else { "no" }.to_owned()
}

fn failed_words(reason: &str) -> String {
    format!("not measured: {reason}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::made_up::gpu as record;

    #[test]
    fn the_block_looks_as_it_did() {
        insta::assert_snapshot!(gpu_block(Some(&record()), &[]));
    }

    #[test]
    fn a_sweep_tells_the_pace_of_all_triggers() {
        let mut run = crate::made_up::single();
        (run.preset, run.device) = ("paper".to_owned(), "a GPU, bf16".to_owned());
        let found = networks(&run).len();
        let elapsed_s = 60.0 * found as f64;
        run.at_once = Some(mesa_record::AtOnce {
            workers: 8,
            elapsed_s,
        });
        let block = gpu_block(None, &[&run]);
        assert!(
            block.contains("51 at that pace 51.0 min, not measured yet"),
            "{block}"
        );
        run.device = "cpu".to_owned();
        assert_eq!(gpu_block(None, &[&run]), gpu_block(None, &[]));
    }

    #[test]
    fn the_terminal_gets_the_bars_last() {
        let text = gpu_tables(&record());
        let bars = text.find("What was to be reached").unwrap();
        assert!(bars > text.find("Beside PyTorch").unwrap());
        assert!(text.contains("not measured: out of GPU memory"), "{text}");
    }

    #[test]
    fn all_of_it_is_four_lines() {
        let record = record();
        let parts = GpuAllParts {
            record: Some(&record),
            run: None,
            networks_done: 15,
            networks: 51,
            times: ["5 s", "70 s", "", "6.6 min"].map(str::to_owned),
        };
        let table = gpu_all_table(&parts);
        let reached: Vec<&str> = table.rows.iter().map(|row| row[1].as_str()).collect();
        assert_eq!(reached[0], "147 comparisons, all within");
        assert!(reached[1].contains("(eager)"), "{reached:?}");
        assert_eq!(reached[2..], [NOTHING, "15 of 51"]);
        assert_eq!(table.rows[3][2], "6.6 min");
    }

    #[test]
    fn what_no_gpu_ran_is_said_not_to_be_measured() {
        let block = gpu_block(None, &[]);
        assert_eq!(block.matches(NOTHING).count(), 8);
        let tiny = GpuRecord {
            quick: true,
            ..record()
        };
        assert_eq!(gpu_block(Some(&tiny), &[]), block);
        assert!(gpu_tables(&tiny).contains("say nothing"));
    }

    #[test]
    fn what_missed_its_tolerance_is_told() {
        let mut record = record();
        let failed = mesa_record::GpuChecked {
            name: "logits".to_owned(),
            precision: "tf32".to_owned(),
            ..mesa_record::GpuChecked::default()
        };
        record.check.as_mut().unwrap().failed.push(failed);
        let block = gpu_block(Some(&record), &[]);
        assert!(
            block.contains("1 of 147 miss, the first: logits (tf32)"),
            "{block}"
        );
    }
}
