//! `mesa report`: the report of a run, or the files made of the committed records.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use mesa_datasets::TriggerId;
use mesa_record::{Patch, Summary, TriggerName};
use mesa_report::{committed_files, read_committed, run_files};
use serde_json::json;

use crate::args::Report;
use crate::config::ExperimentConfig;
use crate::{logging, output};

pub(crate) fn run(args: &Report, json: bool) -> Result<()> {
    logging::start(None)?;
    if let Some(folder) = &args.run_dir {
        return of_run(folder, args.output.as_deref(), json);
    }
    if !Path::new("docs/records").is_dir() {
        bail!(
            "there is no docs/records here: name a run's folder, as in `mesa report runs/quick`, or \
             start this in the repository's root"
        );
    }
    let files =
        committed_files(Path::new("."), patch_of).context("reading the committed records")?;
    let mut stale = Vec::new();
    for file in files {
        let changed = if args.check {
            !file.is_current()?
        } else {
            file.write()?
        };
        if changed {
            let path = file.path.strip_prefix(".").unwrap_or(&file.path);
            stale.push(path.display().to_string());
        }
    }
    let outdated: Vec<String> = read_committed(Path::new("."))?
        .iter()
        .filter(|(_, summary)| !has_its_presets_settings(summary))
        .map(|(path, _)| path.display().to_string())
        .collect();
    if !outdated.is_empty() {
        let told = format!(
            "made with other settings than their preset now has: {}; run the preset again",
            outdated.join(" and ")
        );
        if args.check {
            bail!("{told}");
        }
        tracing::warn!("{told}");
    }
    let names = stale.join(" and ");
    if args.check && !stale.is_empty() {
        bail!("not what the committed records say: {names}; run `cargo xtask report`");
    }
    let plain = if stale.is_empty() {
        "everything is current".to_owned()
    } else {
        format!("wrote {names}")
    };
    output::result(json, &json!({ "written": stale }), &plain)
}

/// Writes the report of one run.
fn of_run(folder: &Path, page: Option<&Path>, json: bool) -> Result<()> {
    if let Some(page) = page {
        // A page made earlier gives way, what a run has written does not.
        const WRITTEN: [&str; 6] = ["csv", "json", "log", "safetensors", "svg", "toml"];
        let files = fs_err::read_dir(folder)?.filter_map(|entry| Some(entry.ok()?.path()));
        let is_record = |file: &PathBuf| {
            WRITTEN
                .iter()
                .any(|end| file.extension() == Some(OsStr::new(end)))
        };
        let records: Vec<PathBuf> = files.filter(is_record).collect();
        super::check_not_input(page, records.iter().map(PathBuf::as_path))?;
        super::check_output(page)?;
    }
    let files = run_files(folder, page, patch_of).context("reading the run")?;
    let mut written = Vec::new();
    for file in files {
        file.write()?;
        written.push(file.path.display().to_string());
    }
    let plain = format!("wrote {}", written.join(" and "));
    output::result(json, &json!({ "written": written }), &plain)
}

/// What a trigger looks like: the report knows names, the data sets their colors. Square ones only.
fn patch_of(name: &TriggerName) -> Option<Patch> {
    let id: TriggerId = name.to_string().parse().ok()?;
    let trigger = id.trigger().ok()?;
    (trigger.height() == trigger.width()).then(|| Patch::from_channels(trigger.pixels()))
}

/// Whether a record's settings are those that its preset has today: the tables say that the preset
/// gives these figures. Settings of one's own are nobody's to compare.
fn has_its_presets_settings(summary: &Summary) -> bool {
    let Ok(preset) = ExperimentConfig::preset(&summary.preset) else {
        return true;
    };
    let data = summary.data.parse().unwrap_or(preset.data.set);
    let mut expected = preset.for_data_set(data).differences();
    let mut found = summary.differences.clone();
    expected.sort_by(|a, b| a.name.cmp(&b.name));
    found.sort_by(|a, b| a.name.cmp(&b.name));
    expected == found
}

#[cfg(test)]
mod tests {
    use mesa_datasets::DatasetName;

    use super::*;

    #[test]
    fn color_triggers_are_known_by_name() {
        let patch = patch_of(&"color:0".into()).unwrap();
        assert_eq!(patch.pixels()[0], [0xd1, 0x9d, 0xb3]);
        assert!(patch_of(&"random:1:2x3".into()).is_none());
        assert!(patch_of(&"sticker.png".into()).is_none());
    }

    #[test]
    fn a_record_of_other_settings_than_its_presets_is_found() {
        let text = r#"{"preset": "quick", "data": "synthetic", "device": "cpu", "wall_s": 1.0,
            "peak_rss_mb": null, "rows": []}"#;
        let mut summary: Summary = serde_json::from_str(text).unwrap();
        assert!(
            !has_its_presets_settings(&summary),
            "it names no difference"
        );
        let quick = ExperimentConfig::preset("quick").unwrap();
        summary.differences = quick.for_data_set(DatasetName::Synthetic).differences();
        assert!(has_its_presets_settings(&summary));
        summary.data = "cifar10".to_owned();
        assert!(!has_its_presets_settings(&summary), "another attack");
        summary.preset = "my-own".to_owned();
        assert!(has_its_presets_settings(&summary));
    }
}
