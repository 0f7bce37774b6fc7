//! One run's folder → `report.html`, `results.md`, `results.csv`, also while the run goes on.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use mesa_record::{Detection, Distribution, RunDir, read_json};

use crate::committed::curves_beside;
use crate::csv::{csv, quoted};
use crate::files::{GeneratedFile, below, below_ending, way};
use crate::page::{Contents, Recorded, markdown, report_page};
use crate::runs::Run;
use crate::{Error, PatchOf, Result};

/// The report of the run in `folder`, of `mesa run`, `mesa detect` or both: a page (`report.html`,
/// or `output`), its tables as `results.md`, its rows as `results.csv`. What some networks of a
/// half-finished sweep have and others do not have yet is said, and which steps have begun.
///
/// # Errors
///
/// [`Error::NoFolder`] if there is none, [`Error::NothingMeasured`] if it holds no record, else if a
/// record cannot be read.
///
/// # Examples
///
/// ```no_run
/// let folder = std::path::Path::new("runs/quick");
/// for file in mesa_report::run_files(folder, None, |_| None)? {
///     file.write()?;
/// }
/// # Ok::<(), mesa_report::Error>(())
/// ```
pub fn run_files(
    folder: &Path,
    output: Option<&Path>,
    patch_of: PatchOf,
) -> Result<Vec<GeneratedFile>> {
    if !folder.is_dir() {
        return Err(Error::NoFolder {
            folder: folder.to_owned(),
        });
    }
    let page = output.map_or_else(|| folder.join("report.html"), Path::to_owned);
    let contents = run_contents(folder, page.parent().unwrap_or(Path::new("")))?;
    let rows = match (contents.runs.first(), contents.detections.first()) {
        (Some(run), _) => csv(&run.summary),
        (None, Some(found)) => detection_csv(&found.record),
        (None, None) => String::new(),
    };
    let file = |path: PathBuf, text: String| GeneratedFile { path, text };
    let mut files = vec![
        file(page, report_page(&contents, patch_of)),
        file(folder.join("results.md"), markdown(&contents)),
    ];
    if !rows.is_empty() {
        files.push(file(folder.join("results.csv"), rows));
    }
    Ok(files)
}

fn run_contents(folder: &Path, page_folder: &Path) -> Result<Contents> {
    let link = |path: &Path| way(page_folder, path);
    let run = RunDir::new(folder);
    let mut contents = Contents {
        in_progress: in_progress(folder)?,
        pictures: pictures(folder, &run)?,
        ..Contents::default()
    };
    if let Some(summary) = run.read_summary()? {
        contents.title = format!("MESA: the run {}", summary.preset);
        let path = run.summary();
        let curves = curves_beside(&path)?;
        contents.runs.push(Run::new(link(&path), summary, curves));
    }
    let path = folder.join("detection.json");
    if path.exists() {
        let record: Detection = read_json(&path)?;
        if contents.title.is_empty() {
            contents.title = format!("MESA: is there a backdoor in {}?", record.model);
        }
        contents.detections.push(Recorded {
            name: record.model.clone(),
            link: link(&path),
            record,
        });
    }
    for path in below(folder, "distribution.json")? {
        let record: Distribution = read_json(&path)?;
        if contents.title.is_empty() {
            contents.title = format!("MESA: distributions of trigger {}", record.trigger);
        }
        contents.distributions.push(Recorded {
            name: record.trigger.to_string(),
            link: link(&path),
            record,
        });
    }
    if contents.title.is_empty() {
        return Err(Error::NothingMeasured {
            folder: folder.to_owned(),
        });
    }
    Ok(contents)
}

/// The pictures of samples: one for each network of a run, else the only one.
fn pictures(folder: &Path, run: &RunDir) -> Result<Vec<(String, String)>> {
    let mut paths = below_ending(&folder.join("samples"), "svg")?;
    if paths.is_empty() && run.samples().exists() {
        paths.push(run.samples());
    }
    paths
        .into_iter()
        .map(|path| Ok((way(folder, &path), fs_err::read_to_string(&path)?)))
        .collect()
}

/// The steps whose state was saved: begun and not done.
fn in_progress(folder: &Path) -> Result<Vec<String>> {
    let state = folder.join("state");
    let mut names: Vec<String> = below_ending(&state, "safetensors")?
        .iter()
        .map(|path| {
            let name = way(&state, path);
            // The name ends with a key and the format.
            let name = name.trim_end_matches(".safetensors");
            name.rsplit_once('.')
                .map_or(name, |(step, _)| step)
                .to_owned()
        })
        .collect();
    names.dedup();
    Ok(names)
}

/// A row for each class, in fractions.
fn detection_csv(detection: &Detection) -> String {
    let mut text = "model,class,name,sample_asr,in_level_set,entropy_nats,entropy_se,sample_std,\
        anomaly_index,attacked\n"
        .to_owned();
    for class in &detection.classes {
        let index = class.anomaly_index.map(|index| index.to_string());
        let _ = writeln!(
            text,
            "{},{},{},{},{},{},{},{},{},{}",
            quoted(&detection.model),
            class.class,
            quoted(&class.name),
            class.sample_asr,
            class.in_level_set,
            class.entropy_nats,
            class.entropy_se,
            class.sample_std,
            index.unwrap_or_default(),
            class.attacked
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::made_up;
    use crate::page_checks::check_page;
    use mesa_record::{Summary, write_json, write_text};

    fn folder_with(summary: &Summary) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        write_json(&folder.path().join("summary.json"), summary).unwrap();
        folder
    }

    fn files_of(folder: &tempfile::TempDir) -> Vec<GeneratedFile> {
        run_files(folder.path(), None, |_| None).unwrap()
    }

    #[test]
    fn a_sweep_with_everything_is_a_page_that_is_whole() {
        let folder = folder_with(&made_up::many(13));
        let path = |name: &str| folder.path().join(name);
        write_json(&path("detection.json"), &made_up::detection(true)).unwrap();
        write_json(&path("a/distribution.json"), &made_up::distribution()).unwrap();
        write_text(
            &path("samples/1.svg"),
            "<svg ><script>alert(1)</script></svg>",
        )
        .unwrap();
        let files = files_of(&folder);
        let names: Vec<_> = files
            .iter()
            .map(|file| file.path.file_name().unwrap().to_str().unwrap())
            .collect();
        assert_eq!(names, ["report.html", "results.md", "results.csv"]);
        let page = &files[0].text;
        check_page(page);
        assert!(page.contains("a/distribution.json") && page.contains("BACKDOOR FOUND"));
        assert!(page.contains("On 13 backdoored networks"));
        assert!(page.contains("not drawn by this program: samples/1.svg"));
        assert_eq!(files, files_of(&folder), "the same records, the same bytes");
    }

    #[test]
    fn texts_of_records_are_escaped() {
        let attack = "<script>alert(\"1\")</script>&";
        let mut summary = made_up::repeated();
        summary.preset = attack.into();
        summary.processor = attack.into();
        summary.differences[0].here = attack.into();
        for row in &mut summary.rows {
            if row.method == "ideal" {
                row.method = attack.into();
            }
            if row.trigger == "16".into() {
                row.trigger = attack.into();
            }
        }
        let folder = folder_with(&summary);
        let mut detection = made_up::detection(true);
        detection.model = attack.into();
        detection.classes[1].name = attack.into();
        write_json(&folder.path().join("detection.json"), &detection).unwrap();
        let page = &files_of(&folder)[0].text;
        check_page(page);
        assert!(page.contains("&lt;script&gt;alert"));
    }

    #[test]
    fn a_half_finished_sweep_says_what_is_missing() {
        let mut summary = made_up::sweep();
        summary
            .rows
            .retain(|row| row.seed == 0 || row.method != "mesa:0.9");
        let folder = folder_with(&summary);
        let state = folder
            .path()
            .join("state/170/seed-1/fit-0.9.0123abcd.safetensors");
        write_text(&state, "").unwrap();
        let files = files_of(&folder);
        check_page(&files[0].text);
        assert!(
            files[0]
                .text
                .contains("170 (seed 1): not there yet: mesa:0.9")
        );
        assert!(files[0].text.contains("In progress: 170/seed-1/fit-0.9."));
        assert!(files[1].text.contains("not finished: 170 (seed 1)"));
        summary.rows.clear();
        let empty = folder_with(&summary);
        let page = &files_of(&empty)[0].text;
        check_page(page);
        assert!(page.contains("There is no backdoored network yet"));
    }

    #[test]
    fn a_detection_opens_with_its_verdict() {
        let folder = tempfile::tempdir().unwrap();
        let detection = made_up::detection(false);
        write_json(&folder.path().join("detection.json"), &detection).unwrap();
        let files = files_of(&folder);
        check_page(&files[0].text);
        let verdict = files[0]
            .text
            .find("Nothing found in made-up.safetensors")
            .unwrap();
        assert!(verdict < files[0].text.find("<main>").unwrap());
        assert!(
            files[2]
                .text
                .contains("made-up.safetensors,0,rings & dots,0.021")
        );
    }

    #[test]
    fn folders_without_records_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let error = run_files(folder.path(), None, |_| None).unwrap_err();
        assert!(matches!(error, Error::NothingMeasured { .. }), "{error}");
        let error = run_files(&folder.path().join("none"), None, |_| None).unwrap_err();
        assert!(matches!(error, Error::NoFolder { .. }), "{error}");
    }
}
