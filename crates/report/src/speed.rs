//! How fast the engine is: tables of README and `docs/performance.md`.

use std::fmt::Write as _;
use std::path::Path;

use mesa_record::{
    GpuRecord, RooflineRecord, ScalingRecord, SpeedMachine, SpeedRecord, SpeedRow, read_json,
};
use serde::de::DeserializeOwned;

use crate::{
    Result, Table,
    commands::preset_methods,
    files::{below, way},
    format::seconds,
    gpu::{self, gpu_block},
    roofline::{roofline_table, roofline_words},
    runs::Run,
    scaling::scaling,
};

/// Where the records lie.
const FOLDER: &str = "docs/records/cpu-speed";

const NOTHING: &str = "Not measured yet.\n";

/// What `cargo xtask bench` and `mesa gpu` measured, as far as it is committed.
#[derive(Debug, Default)]
pub(crate) struct Records {
    pub(crate) speed: Option<SpeedRecord>,
    pub(crate) scaling: Option<ScalingRecord>,
    pub(crate) roofline: Option<RooflineRecord>,
    /// The newest first.
    pub(crate) gpu: Vec<GpuRecord>,
    /// Where they lie, seen from `docs`.
    pub(crate) gpu_links: Vec<String>,
}

/// Reads what there is.
pub(crate) fn read_records(root: &Path) -> Result<Records> {
    fn read_at<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
        Ok(path.exists().then(|| read_json(path)).transpose()?)
    }
    fn read<T: DeserializeOwned>(root: &Path, name: &str) -> Result<Option<T>> {
        read_at(&root.join(FOLDER).join(name))
    }
    let (gpu_links, gpu) = gpu_records(root)?.into_iter().unzip();
    Ok(Records {
        speed: read(root, "peer.json")?,
        scaling: read(root, "scaling.json")?,
        roofline: read(root, "roofline.json")?,
        gpu,
        gpu_links,
    })
}

/// What was measured on GPUs and where that lies, the newest first; tiny sizes say nothing.
fn gpu_records(root: &Path) -> Result<Vec<(String, GpuRecord)>> {
    let docs = root.join("docs");
    let mut found = below(&docs.join("records"), gpu::RECORD)?
        .iter()
        .map(|path| Ok((way(&docs, path), read_json(path)?)))
        .collect::<Result<Vec<(String, GpuRecord)>>>()?;
    found.retain(|(_, record)| !record.quick);
    found.sort_by(|(_, one), (_, other)| other.made.cmp(&one.made));
    Ok(found)
}

/// README's tables.
pub(crate) fn readme_block(records: &Records) -> String {
    let Some(record) = &records.speed else {
        return NOTHING.to_owned();
    };
    let table = comparison(record, false).to_markdown();
    let mut text = format!("{table}\n{}\n", machine_words(&record.machine));
    for words in trigger_words(record) {
        let _ = writeln!(text, "\n{words}");
    }
    if let Some(block) = gpu::readme_block(&records.gpu) {
        let _ = write!(text, "\n{block}");
    }
    text
}

/// What the row of a trigger counts, and the whole trigger that both ran once, as far as there are any.
pub(crate) fn trigger_words(record: &SpeedRecord) -> Vec<String> {
    let row = record.rows.iter().find(|row| row.work == "trigger");
    let counts = row.and_then(|row| row.repairs);
    let mut words: Vec<String> = counts.map(counted_words).into_iter().collect();
    words.extend(record.full.as_ref().map(|full| {
        let mut text = format!(
            "One whole trigger, width {}: {} (PyTorch {}), ratio {:.2}.",
            full.width,
            seconds(full.ours_s),
            seconds(full.peer_s),
            full.ratio,
        );
        if let Some(repairs) = full.repairs.filter(|repairs| Some(*repairs) != counts) {
            let _ = write!(text, " {}", counted_words(repairs));
        }
        text
    }));
    words
}

/// How many methods a trigger's time is of, and how many the preset has, where those are others.
fn counted_words(repairs: usize) -> String {
    let now = preset_methods("cpu").map_or(0, |methods| methods.len());
    let since = if repairs == now {
        String::new()
    } else {
        format!(" The preset has {now} methods now.")
    };
    format!(
        "A trigger is counted with the repairs of {repairs} methods and the evaluation of {} networks.{since}",
        repairs + 2
    )
}

/// The blocks of `docs/performance.md`, by name; `runs` are the committed ones.
pub(crate) fn page_blocks(records: &Records, runs: &[Run]) -> Vec<(&'static str, String)> {
    let nothing = || NOTHING.to_owned();
    let compared = |record: &SpeedRecord| {
        let table = comparison(record, true).to_markdown();
        let mut text = format!("{table}\n{}\n", machine_words(&record.machine));
        for words in trigger_words(record) {
            let _ = writeln!(text, "\n{words}");
        }
        text
    };
    let roofline = |record: &RooflineRecord| {
        format!(
            "{}\n{}",
            roofline_words(record),
            roofline_table(record).to_markdown()
        )
    };
    vec![
        (
            "comparison",
            records.speed.as_ref().map_or_else(nothing, compared),
        ),
        (
            "stages",
            records.speed.as_ref().map_or_else(nothing, stages),
        ),
        (
            "roofline",
            records.roofline.as_ref().map_or_else(nothing, roofline),
        ),
        (
            "scaling",
            records.scaling.as_ref().map_or_else(nothing, scaling),
        ),
        ("gpu", gpu_block(&records.gpu, runs)),
    ]
}

/// Every row beside PyTorch's; with `details` the range of the pairs and the peer's variant.
pub(crate) fn comparison(record: &SpeedRecord, details: bool) -> Table {
    let mut columns = vec!["work", "width", "ours", "PyTorch", "ratio"];
    if details {
        columns.extend(["lowest and\nhighest pair", "remark"]);
    }
    let mut table = Table::new(String::new(), &columns);
    for row in &record.rows {
        let [ours, peer] = figures(row);
        let mut cells = vec![
            work_words(&row.work).to_owned(),
            row.width.to_string(),
            ours,
            peer,
            format!("{:.2}", row.ratio),
        ];
        if details {
            let lowest = row.pairs.iter().copied().fold(f64::INFINITY, f64::min);
            let highest = row.pairs.iter().copied().fold(0.0, f64::max);
            cells.push(format!("{lowest:.2} to {highest:.2}"));
            cells.push(row.peer_variant.clone());
        }
        table.rows.push(cells);
    }
    table
}

/// Ours and the peer's, in the unit of the work.
fn figures(row: &SpeedRow) -> [String; 2] {
    let memory = |peak: Option<f64>, start: Option<f64>| {
        let start = start.map(|start| format!(" (from {start:.0})"));
        let start = start.unwrap_or_default();
        format!("{:.0} MiB{start}", peak.unwrap_or(f64::NAN))
    };
    let speed = |per_s: Option<f64>| {
        let per_s = per_s.unwrap_or(f64::NAN);
        match row.work.as_str() {
            "trigger" => seconds(1.0 / per_s),
            _ => format!("{per_s:.0} images/s"),
        }
    };
    if row.work == "memory" {
        return [
            memory(row.ours_mb, row.ours_start_mb),
            memory(row.peer_mb, row.peer_start_mb),
        ];
    }
    [speed(row.ours_per_s), speed(row.peer_per_s)]
}

pub(crate) fn work_words(work: &str) -> &str {
    match work {
        "train" => "training step",
        "evaluate" => "inference",
        "mesa" => "MESA iteration, authors' formulation",
        "mesa-frozen" => "MESA iteration, peer's classifier frozen",
        "trigger" => "one trigger of preset `cpu`",
        "memory" => "peak memory of training",
        other => other,
    }
}

pub(crate) fn machine_words(machine: &SpeedMachine) -> String {
    let SpeedMachine {
        processor,
        cores,
        threads,
        memory_mb,
        system,
        ours,
        peer,
    } = machine;
    let memory = memory_mb / 1024.0;
    let mut text = format!(
        "{processor}, {cores} processors, {memory:.0} GiB, {system}; {threads} threads; {ours}"
    );
    if !peer.is_empty() {
        let _ = write!(text, "; {peer}");
    }
    text
}

fn stages(record: &SpeedRecord) -> String {
    stages_table(record).map_or_else(|| NOTHING.to_owned(), |table| table.to_markdown())
}

/// Where a trigger's time goes.
pub(crate) fn stages_table(record: &SpeedRecord) -> Option<Table> {
    let row = record.rows.iter().find(|row| row.work == "trigger")?;
    let mut table = Table::new(String::new(), &["stage", "ours", "PyTorch", "ratio"]);
    for (name, [ours, peer]) in &row.stages_s {
        table.rows.push(vec![
            name.clone(),
            seconds(*ours),
            seconds(*peer),
            format!("{:.2}", peer / ours),
        ]);
    }
    Some(table)
}

#[cfg(test)]
mod tests {
    use mesa_record::{RooflineRow, ScalingRow};

    use super::*;

    /// Made-up figures.
    fn records() -> Records {
        let speed = r#"{
            "machine": {"processor": "P", "cores": 2, "threads": 2, "memory_mb": 4096,
                "system": "Linux 6", "ours": "mesa 0", "peer": "PyTorch 0"},
            "batch_size": 128,
            "rows": [
                {"work": "train", "width": 64, "ours_per_s": 100.4, "peer_per_s": 50.2,
                    "ratio": 2.0, "pairs": [1.9, 2.0, 2.1], "peer_variant": "eager"},
                {"work": "trigger", "width": 16, "ours_per_s": 0.01, "peer_per_s": 0.005,
                    "ratio": 2.0, "pairs": [2.0], "repairs": 8, "stages_s": {"attack": [60, 120]}},
                {"work": "memory", "width": 64, "ours_mb": 300, "peer_mb": 900,
                    "ours_start_mb": 7, "peer_start_mb": 500, "ratio": 3.0, "pairs": [3.0]}
            ],
            "full": {"width": 16, "ours_s": 100, "peer_s": 210, "ratio": 2.1, "stages_s": {}}
        }"#;
        let point = |work: &str, batch_size, threads| ScalingRow {
            work: work.to_owned(),
            width: 16,
            batch_size,
            threads,
            images_per_s: 100.0 * threads as f64,
            peak_mb: 50.0,
        };
        let row = RooflineRow {
            width: 16,
            layer: "16 to 16, 3x3".to_owned(),
            count: 4,
            direction: "forward".to_owned(),
            plain_gflop: 0.6,
            gflop: 0.15,
            megabytes: 16.8,
            limit_ms: 1.0,
            measured_ms: 2.0,
        };
        Records {
            speed: Some(serde_json::from_str(speed).unwrap()),
            scaling: Some(ScalingRecord {
                machine: SpeedMachine::default(),
                rows: vec![
                    point("train", 1, 1),
                    point("train", 128, 2),
                    point("evaluate", 128, 1),
                ],
            }),
            roofline: Some(RooflineRecord {
                machine: "P, avx512 kernels".to_owned(),
                threads: 2,
                batch_size: 128,
                peak_gflops: 236.0,
                bandwidth_gbs: 20.0,
                rows: vec![row],
            }),
            gpu: Vec::new(),
            gpu_links: Vec::new(),
        }
    }

    #[test]
    fn blocks_look_as_they_did() {
        let records = records();
        let mut text = readme_block(&records);
        for (name, block) in page_blocks(&records, &[]) {
            let _ = write!(text, "\n== {name}\n{block}");
        }
        insta::assert_snapshot!(text);
    }

    #[test]
    fn what_a_trigger_counts_is_said_and_what_the_preset_has_now() {
        let mut record = records().speed.unwrap();
        let counted =
            "A trigger is counted with the repairs of 8 methods and the evaluation of 10 networks.";
        let now = " The preset has 9 methods now.";
        let words = trigger_words(&record);
        assert_eq!(words[0], format!("{counted}{now}"));
        record.full.as_mut().unwrap().repairs = Some(8);
        let whole = &trigger_words(&record)[1];
        assert!(whole.ends_with("ratio 2.10."), "once is enough: {whole}");
        record.rows[1].repairs = Some(9);
        let words = trigger_words(&record);
        assert!(words[0].ends_with("9 methods and the evaluation of 11 networks."));
        assert!(words[1].ends_with(now), "{words:?}");
        record.rows[1].repairs = None;
        record.full = None;
        assert_eq!(trigger_words(&record), [""; 0]);
    }

    #[test]
    fn what_is_not_measured_is_said() {
        let records = Records::default();
        assert_eq!(readme_block(&records), NOTHING);
        for (name, block) in page_blocks(&records, &[]) {
            assert!(block == NOTHING || name == "gpu", "{block}");
        }
    }
}
