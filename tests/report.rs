//! `mesa report`: the page of a run, of a search for backdoors, of the committed records.

use std::path::Path;

use serde_json::{Value, json};

use crate::program::{TinyRun, json as json_of, say};

fn read(path: &Path) -> String {
    fs_err::read_to_string(path).unwrap()
}

/// A made-up row.
fn row(trigger: u16, method: &str, asr: f64) -> Value {
    json!({"trigger": trigger, "seed": 0, "method": method, "asr": asr, "clean_accuracy": 0.9,
        "regained_accuracy": 0.5, "wall_s": 1.0})
}

/// A folder with a made-up summary.
fn folder_with(rows: &[Value]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let summary = json!({"preset": "made <up>", "data": "cifar10", "device": "cpu", "wall_s": 1.0,
        "peak_rss_mb": null, "rows": rows});
    fs_err::write(folder.path().join("summary.json"), summary.to_string()).unwrap();
    folder
}

#[test]
fn a_finished_run_becomes_a_page_tables_and_rows() {
    let (run, _) = TinyRun::finished();
    let folder = run.folder.display().to_string();
    let written = json_of(&["report", &folder, "--json"]);
    let names: Vec<&str> = written["written"]
        .as_array()
        .unwrap()
        .iter()
        .map(|name| name.as_str().unwrap())
        .collect();
    for (name, file) in names
        .iter()
        .zip(["report.html", "results.md", "results.csv"])
    {
        assert!(name.ends_with(file), "{name}");
    }
    let page = read(&run.folder.join("report.html"));
    for part in [
        "SYNTHETIC",
        "mesa:0.9",
        "Sampled triggers",
        "href=\"summary.json\"",
        "<title>",
    ] {
        assert!(page.contains(part), "{part}");
    }
    assert!(!page.contains("<script") && !page.contains("src="));
    assert!(read(&run.folder.join("results.md")).contains("| ensemble:turns |"));
    let rows = run.summary()["rows"].as_array().unwrap().len();
    assert_eq!(
        read(&run.folder.join("results.csv")).lines().count(),
        rows + 1
    );
    // The same records, the same bytes.
    let said = say(&["report", &folder]);
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    assert!(said.stdout.starts_with("wrote ") && said.stdout.contains("report.html"));
    assert_eq!(read(&run.folder.join("report.html")), page);
}

#[test]
fn repeats_of_the_baseline_are_one_band_and_one_line() {
    let repeat = |number: u64, asr: f64| {
        let mut row = row(170, "point", asr);
        row["repeat"] = number.into();
        row
    };
    let rows = [
        row(170, "backdoored", 0.98),
        repeat(0, 0.1),
        repeat(1, 0.3),
        row(170, "ideal", 0.02),
    ];
    let folder = folder_with(&rows);
    let path = folder.path().display().to_string();
    let said = say(&["report", &path]);
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    let page = read(&folder.path().join("report.html"));
    assert!(page.contains("20.0 ± 10.0") && page.contains("means of 2 repeats"));
    assert!(page.contains("mean ± standard deviation, 2 repeats"));
    assert!(page.contains("made &lt;up&gt;") && !page.contains("made <up>"));
    let csv = read(&folder.path().join("results.csv"));
    assert!(
        csv.contains("point,0,0.1,") && csv.contains("point,1,0.3,"),
        "{csv}"
    );
}

#[test]
fn a_half_finished_sweep_is_reported_as_far_as_it_is() {
    let rows = [
        row(170, "backdoored", 0.98),
        row(170, "mesa:0.9", 0.02),
        row(16, "backdoored", 0.97),
    ];
    let folder = folder_with(&rows);
    let page = folder.path().join("elsewhere.html");
    let arguments = [
        "report",
        &folder.path().display().to_string(),
        "-o",
        &page.display().to_string(),
    ];
    let said = say(&arguments);
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    let page = read(&page);
    assert!(page.contains("16 (seed 0): not there yet: mesa:0.9"));
    assert!(page.contains("On one backdoored network MESA at β = 0.9"));
    assert!(!folder.path().join("report.html").exists());
}

#[test]
fn folders_that_hold_no_run_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().display().to_string();
    let said = say(&["report", &path]);
    assert_eq!(said.code, Some(1));
    for part in [path.as_str(), "summary.json, detection.json"] {
        assert!(said.stderr.contains(part), "{}", said.stderr);
    }
    let missing = folder.path().join("none").display().to_string();
    let said = say(&["report", &missing]);
    assert_eq!(said.code, Some(1));
    assert!(
        said.stderr.contains(&format!("no folder {missing}")),
        "{}",
        said.stderr
    );
    let mut outside = crate::program::mesa(&["report"]);
    let output = outside.current_dir(folder.path()).output().unwrap();
    let said = crate::program::Said::from(output);
    assert_eq!(said.code, Some(1));
    assert!(
        said.stderr.contains("name a run's folder"),
        "{}",
        said.stderr
    );
    let said = say(&["report", &path, "--check"]);
    assert_eq!(said.code, Some(2), "{}", said.stderr);
    let said = say(&["report", "--output", "x.html"]);
    assert_eq!(said.code, Some(2), "{}", said.stderr);
}
