//! What `mesa gpu measure` measured, as tables.

use mesa_record::{GpuComparison, GpuRecord, GpuRow};

use crate::Table;

/// Works as `mesa gpu measure` calls them.
pub(crate) const TRAINING: &str = "training step";

/// The device's own rates.
pub(crate) fn rates(record: &GpuRecord) -> Table {
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
pub(crate) fn steps(record: &GpuRecord) -> Table {
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

/// Beside PyTorch, by every record that has it: how fast PyTorch is depends on the host, too.
pub(crate) fn comparisons(records: &[GpuRecord]) -> Table {
    let mut columns = vec![
        "step",
        "variant",
        "ours, ms",
        "PyTorch, ms",
        "ratio",
        "lowest and\nhighest pair",
        "PyTorch ready\nafter, s",
    ];
    if records.len() > 1 {
        columns.push("measured at");
    }
    let title = "Beside PyTorch: bf16, channels last; ours deterministic".to_owned();
    let mut table = Table::new(title, &columns);
    let all = records
        .iter()
        .flat_map(|record| record.comparisons.iter().map(move |row| (record, row)));
    for (record, row) in all {
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
        if records.len() > 1 {
            cells[columns.len() - 1].clone_from(&record.made);
        }
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
pub(crate) fn convolutions(record: &GpuRecord) -> Table {
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
pub(crate) fn layers(record: &GpuRecord) -> Table {
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

pub(crate) fn failed_words(reason: &str) -> String {
    format!("not measured: {reason}")
}
