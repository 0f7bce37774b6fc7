//! What `mesa gpu` found, for a terminal and for `docs/performance.md`.

use std::fmt::Write as _;

use mesa_record::{GpuRecord, Summary};

use crate::Table;
use crate::format::percent;
use crate::gpu_bars::{NOTHING, bars, check_words, ratios};
use crate::gpu_measured::{comparisons, convolutions, layers, rates, steps};

/// Where the record lies.
pub(crate) const RECORD: &str = "docs/records/gpu/gpu.json";

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
    tables.extend([comparisons(record), bars(Some(record), &[])]);
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
            run.map(|network| format!("{} %", percent(network.test_accuracy))),
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
    let mut text = bars(record, runs).to_markdown();
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
    let mut tables = vec![bars(record, runs)];
    tables.extend(
        record
            .map(comparisons)
            .filter(|table| !table.rows.is_empty()),
    );
    tables
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::made_up::gpu as record;
    use crate::rows::networks;

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
