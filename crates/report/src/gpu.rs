//! What `mesa gpu` found, for a terminal and for `docs/performance.md`.

use std::fmt::Write as _;
use std::slice;

use mesa_record::{GpuRecord, Summary};

use crate::Table;
use crate::format::percent;
use crate::gpu_bars::{NOTHING, bars, check_words, measured, ratios};
use crate::gpu_measured::{comparisons, convolutions, layers, rates, steps};
use crate::runs::Run;

/// What the record of a GPU is called in its folder.
pub(crate) const RECORD: &str = "gpu.json";

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
    let alone = slice::from_ref(record);
    tables.extend([comparisons(alone), bars(alone, &[])]);
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
    let ratio = |record| {
        let variants = ["eager", "compile", "reduce-overhead"];
        ratios(slice::from_ref(record), "train", &variants)
    };
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

/// The block of `docs/performance.md`, of records the newest of which comes first. The committed runs
/// say how long the paper's evaluation takes.
pub(crate) fn gpu_block(records: &[GpuRecord], runs: &[Run]) -> String {
    let mut text = bars(records, runs).to_markdown();
    let measured = measured(records);
    let Some((record, earlier)) = measured.split_first() else {
        return text;
    };
    let _ = write!(
        text,
        "\n{}; width {}, batch {} unless a row says otherwise; made {}.\n",
        gpu_words(record),
        record.width,
        record.batch_size,
        record.made
    );
    for record in earlier {
        let _ = write!(
            text,
            "\nBefore, of which the rows beside PyTorch are shown: {}; made {}.\n",
            gpu_words(record),
            record.made
        );
    }
    for table in [
        rates(record),
        steps(record),
        comparisons(records),
        convolutions(record),
        layers(record),
    ] {
        if !table.rows.is_empty() {
            let _ = write!(text, "\n**{}**\n\n{}", table.title, table.to_markdown());
        }
    }
    text
}

/// README's table: steps beside PyTorch's, by the newest record.
pub(crate) fn readme_block(records: &[GpuRecord]) -> Option<String> {
    let record = records
        .iter()
        .find(|record| !record.comparisons.is_empty())?;
    let peer = record.peer.as_deref().unwrap_or("no PyTorch");
    let (device, program) = (&record.machine.device, &record.program);
    Some(format!(
        "On a GPU, beside PyTorch there: bf16, channels last, width {}, batch of {}, ours \
         deterministic; `reduce-overhead` is PyTorch with CUDA graphs, a MESA step the classifier's part \
         of it on both sides. What is not started as a graph waits for its host, which differs from \
         machine to machine: [docs/performance.md](docs/performance.md#on-an-nvidia-gpu) has what the same \
         was on the others.\n\n{}\n{}: {device}; {peer}; {program}\n",
        record.width,
        record.batch_size,
        comparisons(std::slice::from_ref(record)).to_markdown(),
        record.made,
    ))
}

/// The same in the report, after what the project set itself.
pub(crate) fn page_tables(records: &[GpuRecord], runs: &[Run]) -> Vec<Table> {
    let mut tables = vec![bars(records, runs), comparisons(records)];
    tables.retain(|table| !table.rows.is_empty());
    tables
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::made_up::gpu as record;
    use crate::rows::{complete_networks, networks};

    #[test]
    fn the_block_looks_as_it_did() {
        insta::assert_snapshot!(gpu_block(&[record()], &[]));
    }

    #[test]
    fn a_sweep_tells_the_pace_of_all_triggers() {
        let mut run = crate::made_up::sweep();
        (run.preset, run.device) = ("paper".to_owned(), "NVIDIA H100, bf16".to_owned());
        // One that the sweep was stopped within is none, though its time counts.
        let stopped = run.rows.pop().unwrap();
        let found = complete_networks(&run).len();
        assert!(networks(&run).contains(&(&stopped.trigger, stopped.seed)));
        assert_eq!(found, networks(&run).len() - 1);
        let elapsed_s = 60.0 * found as f64;
        run.at_once = Some(mesa_record::AtOnce {
            workers: 8,
            elapsed_s,
        });
        let of = |run: &Summary| {
            let run = Run::new(String::new(), run.clone(), Vec::new());
            gpu_block(&[], &[run])
        };
        let block = of(&run);
        let time = format!("{found} in 3.0 min, training of clean networks aside;");
        assert!(block.contains(&time), "{block}");
        assert!(
            block.contains("51 at that pace 51.0 min, not measured yet"),
            "{block}"
        );
        // The bar is of that card and of bf16.
        for other in ["cpu", "NVIDIA A100, bf16", "NVIDIA H100, f32"] {
            other.clone_into(&mut run.device);
            assert_eq!(of(&run), gpu_block(&[], &[]));
        }
    }

    #[test]
    fn records_stand_side_by_side() {
        let (mut newest, earlier) = (record(), record());
        newest.made = "2026-02-01T12:00:00Z".to_owned();
        newest.comparisons[0].ratio = 4.9;
        newest.comparisons[2].failed = Some("not ready after 35 s".to_owned());
        let records = [newest, earlier];
        let block = gpu_block(&records, &[]);
        for part in [
            "| 4.90; before 2.50 |",
            "| not measured: not ready after 35 s (compile), not measured: not ready after 35 s; \
             before 1.50 (reduce-overhead) |",
            "| 2026-01-31T12:00:00Z |",
            "Before, of which the rows beside PyTorch are shown: G",
        ] {
            assert!(block.contains(part), "{part} in {block}");
        }
        let [newest, earlier] = records;
        // One that was only checked since says nothing of speed.
        let mut checked = GpuRecord {
            check: earlier.check.clone(),
            ..GpuRecord::default()
        };
        checked.check.as_mut().unwrap().comparisons = 400;
        let with_check = gpu_block(&[checked.clone(), newest.clone(), earlier.clone()], &[]);
        assert_eq!(
            with_check,
            block.replace("147 comparisons", "400 comparisons")
        );
        let readme = readme_block(&[newest.clone(), earlier.clone()]);
        let text = readme.as_deref().unwrap_or_default();
        assert!(text.contains("2026-02-01T12:00:00Z: G; PyTorch 2"));
        assert!(!text.contains(&earlier.made), "the newest alone: {text}");
        assert_eq!(readme_block(&[checked, newest, earlier]), readme);
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
        let block = gpu_block(&[], &[]);
        assert_eq!(block.matches(NOTHING).count(), 8);
        let tiny = GpuRecord {
            quick: true,
            ..record()
        };
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
        let block = gpu_block(&[record], &[]);
        assert!(
            block.contains("1 of 147 miss, the first: logits (tf32)"),
            "{block}"
        );
    }
}
