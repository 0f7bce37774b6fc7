//! The preset `quick` on the built-in data, and whether its figures clear the bars.

use std::path::Path;

use anyhow::{Context as _, Result, bail};
use mesa_record::Summary;

use crate::{reproduce, workspace};

/// ASR before the defense, at least.
const ASR_BEFORE: f64 = 0.90;
/// ASR after retraining with samples of each β, at most.
const ASR_AFTER: f64 = 0.15;
/// ASR that retraining with nothing stamped leaves above the worst β, at least.
const CONTROL_ABOVE: f64 = 0.40;
/// ASR of each sub-model's samples, at least.
const SAMPLE_ASR: f64 = 0.80;
/// Clean accuracy lost to the attack or to a defense, at most.
const ACCURACY_LOST: f64 = 0.03;

/// Runs the preset from nothing and checks the summary it writes.
pub(crate) fn run() -> Result<()> {
    let root = workspace::root()?;
    let folder = Path::new("target/ci/quick");
    let whole = root.join(folder);
    if whole.exists() {
        fs_err::remove_dir_all(&whole)?;
    }
    let args = reproduce::Args::of("quick", "synthetic", folder);
    let status = reproduce::mesa_run(&args, &root)?
        .status()
        .context("starting mesa run")?;
    if !status.success() {
        bail!("mesa run ended with {status}");
    }
    let summary: Summary = mesa_record::read_json(&whole.join("summary.json"))?;
    let complaints = complaints(&summary);
    for complaint in &complaints {
        eprintln!("xtask: {complaint}");
    }
    if complaints.is_empty() {
        Ok(())
    } else {
        bail!("quick misses {} bars", complaints.len())
    }
}

/// What is wrong with the figures of a `quick` run; nothing if all is well.
fn complaints(summary: &Summary) -> Vec<String> {
    let mut complaints = Vec::new();
    let mut hold = |holds: bool, complaint: String| {
        if !holds {
            complaints.push(complaint);
        }
    };
    hold(
        summary.data == "synthetic",
        format!("the data is {}, not synthetic", summary.data),
    );
    let row = |method: &str| summary.rows.iter().find(|row| row.method == method);
    for method in [
        "clean",
        "backdoored",
        "no-trigger",
        "random",
        "fine-tune",
        "ensemble:turns",
        "ideal",
    ] {
        hold(row(method).is_some(), format!("there is no row {method}"));
    }
    if let Some(backdoored) = row("backdoored") {
        let asr = backdoored.asr;
        hold(
            asr >= ASR_BEFORE,
            format!("ASR before the defense is {asr:.3}"),
        );
    }
    let modeled: Vec<_> = summary
        .rows
        .iter()
        .filter(|row| row.method.starts_with("mesa:"))
        .collect();
    hold(
        modeled.len() == 3,
        format!("there are {} rows mesa:β, not 3", modeled.len()),
    );
    for row in &modeled {
        let (method, asr, samples) = (&row.method, row.asr, row.sample_asr);
        hold(asr <= ASR_AFTER, format!("ASR after {method} is {asr:.3}"));
        let enough = samples.is_some_and(|samples| samples >= SAMPLE_ASR);
        hold(
            enough,
            format!("ASR of the samples of {method} is {samples:?}"),
        );
    }
    let worst = modeled.iter().map(|row| row.asr).fold(0.0, f64::max);
    if let Some(control) = row("no-trigger") {
        let above = control.asr - worst;
        hold(
            above >= CONTROL_ABOVE,
            format!("no-trigger is only {above:.3} above the worst β"),
        );
    }
    if let Some(clean) = row("clean") {
        for other in &summary.rows {
            let lost = clean.clean_accuracy - other.clean_accuracy;
            hold(
                lost <= ACCURACY_LOST,
                format!("{} costs {lost:.3} of accuracy", other.method),
            );
        }
    }
    complaints
}

#[cfg(test)]
mod tests {
    use mesa_record::Row;

    use super::*;

    /// Made-up figures that clear every bar.
    fn good() -> Summary {
        let row = |method: &str, asr: f64| Row::new("170".into(), 0, method, [asr, 0.95, 0.9]);
        let mesa = |method: &str| Row {
            sample_asr: Some(0.9),
            ..row(method, 0.05)
        };
        let rows = vec![
            row("clean", 0.01),
            row("backdoored", 0.97),
            row("no-trigger", 0.7),
            row("random", 0.6),
            row("fine-tune", 0.5),
            mesa("mesa:0.9"),
            mesa("mesa:0.8"),
            mesa("mesa:0.5"),
            row("ensemble:turns", 0.05),
            row("ideal", 0.02),
        ];
        let text = r#"{"preset": "quick", "data": "synthetic", "device": "cpu", "wall_s": 1.0,
            "peak_rss_mb": null, "rows": []}"#;
        Summary {
            rows,
            ..serde_json::from_str(text).unwrap()
        }
    }

    #[test]
    fn good_figures_pass() {
        assert_eq!(complaints(&good()), Vec::<String>::new());
    }

    #[test]
    fn each_bar_is_held() {
        for (method, change) in [
            (
                "backdoored",
                Row {
                    asr: 0.8,
                    ..good().rows[1].clone()
                },
            ),
            (
                "mesa:0.9",
                Row {
                    asr: 0.16,
                    ..good().rows[5].clone()
                },
            ),
            (
                "mesa:0.8",
                Row {
                    sample_asr: None,
                    ..good().rows[5].clone()
                },
            ),
            (
                "no-trigger",
                Row {
                    asr: 0.44,
                    ..good().rows[2].clone()
                },
            ),
            (
                "ideal",
                Row {
                    clean_accuracy: 0.9,
                    ..good().rows[9].clone()
                },
            ),
        ] {
            let mut summary = good();
            let place = summary
                .rows
                .iter()
                .position(|row| row.method == method)
                .unwrap();
            summary.rows[place] = change;
            assert_eq!(complaints(&summary).len(), 1, "{method}");
        }
    }

    #[test]
    fn a_missing_row_is_no_success() {
        let mut summary = good();
        summary
            .rows
            .retain(|row| row.method != "random" && row.method != "mesa:0.5");
        assert_eq!(complaints(&summary).len(), 2);
    }
}
