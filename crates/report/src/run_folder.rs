//! One run's folder → `report.html`, `results.md`, `results.csv`, also while a `mesa run` goes on.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use mesa_record::{Detection, Distribution, RunDir, read_json};

use crate::committed::curves_beside;
use crate::csv::{csv, quoted};
use crate::files::{GeneratedFile, below, below_ending, way};
use crate::page::{Contents, Recorded, markdown, report_page};
use crate::runs::Run;
use crate::{Error, PatchOf, Result};

/// The report of the run in `folder`, of `mesa run`, `mesa detect`, `mesa distributions` or several: a
/// page (`report.html`, or `output`), its tables as `results.md`, the rows of its first kind of record
/// as `results.csv`. What some networks of a half-finished sweep have and others do not have yet is
/// said, and which steps have begun.
///
/// # Errors
///
/// [`Error::NoFolder`] if there is none, [`Error::SearchNotDone`] if it is one of a search for
/// backdoors whose verdict is not there yet, [`Error::NothingMeasured`] if it holds no record, else if
/// a record cannot be read.
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
        (None, None) => distributions_csv(&contents.distributions),
    };
    let file = |path: PathBuf, text: String| GeneratedFile::holding(path, text);
    Ok(vec![
        file(page, report_page(&contents, patch_of)),
        file(folder.join("results.md"), markdown(&contents)),
        file(folder.join("results.csv"), rows),
    ])
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
        contents.distributions.push(Recorded {
            name: format!("trigger {}, seed {}", record.trigger, record.seed),
            link: link(&path),
            record,
        });
    }
    if contents.title.is_empty() && !contents.distributions.is_empty() {
        let found = contents.distributions.iter();
        let mut names: Vec<String> = found
            .map(|found| found.record.trigger.to_string())
            .collect();
        names.dedup();
        let plural = if names.len() == 1 { "" } else { "s" };
        contents.title = format!(
            "MESA: distributions of trigger{plural} {}",
            names.join(", ")
        );
    }
    if contents.title.is_empty() {
        let folder = folder.to_owned();
        return Err(match searched_classes(&folder)? {
            Some(classes) => Error::SearchNotDone { folder, classes },
            None => Error::NothingMeasured { folder },
        });
    }
    Ok(contents)
}

/// How many classes a search for backdoors is done with; `None` for a folder of another kind.
fn searched_classes(folder: &Path) -> Result<Option<usize>> {
    let mut known = BTreeSet::new();
    let mut done = BTreeSet::new();
    for (part, ending) in [("records", "json"), ("state", "safetensors")] {
        let within = folder.join(part);
        for path in below_ending(&within, ending)? {
            let step = way(&within, &path);
            let Some((class, step)) = step.split_once('/') else {
                continue;
            };
            if !class.starts_with("class-") {
                continue;
            }
            known.insert(class.to_owned());
            // The last of a class's three steps.
            if part == "records" && step.starts_with("entropy-") {
                done.insert(class.to_owned());
            }
        }
    }
    Ok((!known.is_empty()).then_some(done.len()))
}

/// The pictures of samples: one for each network of a run, else the only one and where its samples work.
fn pictures(folder: &Path, run: &RunDir) -> Result<Vec<(String, String)>> {
    let mut paths = below_ending(&folder.join("samples"), "svg")?;
    if paths.is_empty() {
        let single = [run.samples(), run.places()];
        paths.extend(single.into_iter().filter(|path| path.exists()));
    }
    paths
        .into_iter()
        .map(|path| Ok((way(folder, &path), fs_err::read_to_string(&path)?)))
        .collect()
}

/// The steps whose state was saved: begun and not done. A step that has been done since, with other settings, has left
/// a state that nobody takes up any more.
fn in_progress(folder: &Path) -> Result<Vec<String>> {
    let state = folder.join("state");
    let mut names = Vec::new();
    for path in below_ending(&state, "safetensors")? {
        let name = way(&state, &path);
        // The name ends with a key and the format.
        let name = name.trim_end_matches(".safetensors");
        let step = name.rsplit_once('.').map_or(name, |(step, _)| step);
        let record = folder.join("records").join(format!("{step}.json"));
        // The run may go on meanwhile: a state that is gone has become a record.
        let saved = written(&path);
        if saved.is_some() && written(&record) < saved {
            names.push(step.to_owned());
        }
    }
    names.dedup();
    Ok(names)
}

/// When a file was written last; nothing where there is none.
fn written(path: &Path) -> Option<SystemTime> {
    fs_err::metadata(path).ok()?.modified().ok()
}

/// A row for each class, in fractions.
fn detection_csv(detection: &Detection) -> String {
    let mut text =
        "model,class,name,best_row,best_column,best_share,sample_asr_anywhere,sample_asr,\
        in_level_set,entropy_nats,entropy_se,sample_std,anomaly_index,attacked\n"
            .to_owned();
    for class in &detection.classes {
        let index = class.anomaly_index.map(|index| index.to_string());
        let place = class.best_place.map_or_else(
            || ",,".to_owned(),
            |best| format!("{},{},{}", best.row, best.column, best.share),
        );
        let _ = writeln!(
            text,
            "{},{},{},{},{},{},{},{},{},{},{},{}",
            quoted(&detection.model),
            class.class,
            quoted(&class.name),
            place,
            class
                .sample_asr_anywhere
                .map(|asr| asr.to_string())
                .unwrap_or_default(),
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

/// A row for each sub-model of each network, in fractions; where the samples lie is in the records.
fn distributions_csv(distributions: &[Recorded<Distribution>]) -> String {
    let mut text =
        "preset,data,device,trigger,seed,true_trigger_asr,beta,alpha,samples,sample_asr,\
        in_level_set,information_nats,information_se,entropy_upper_bound,sample_std\n"
            .to_owned();
    for Recorded { record, .. } in distributions {
        for panel in &record.panels {
            let _ = writeln!(
                text,
                "{},{},{},{},{},{},{},{},{},{},{},{},{},{},{}",
                quoted(&record.preset),
                quoted(&record.data),
                quoted(&record.device),
                quoted(&record.trigger.to_string()),
                record.seed,
                record.true_trigger_asr,
                panel.beta,
                panel.alpha,
                panel.samples.len(),
                panel.sample_asr,
                panel.in_level_set,
                panel.information_nats,
                panel.information_se,
                panel.entropy_upper_bound,
                panel.sample_std
            );
        }
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
        let page = files[0].text();
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
        let files = files_of(&folder);
        let page = files[0].text();
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
        check_page(files[0].text());
        assert!(
            files[0]
                .text()
                .contains("170 (seed 1): not there yet: mesa:0.9")
        );
        assert!(files[0].text().contains("In progress: 170/seed-1/fit-0.9."));
        assert!(files[1].text().contains("not finished: 170 (seed 1)"));
        summary.rows.clear();
        let empty = folder_with(&summary);
        let files = files_of(&empty);
        let page = files[0].text();
        check_page(page);
        assert!(page.contains("There is no backdoored network yet"));
    }

    #[test]
    fn a_step_that_was_done_after_its_state_was_saved_is_not_in_progress() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, hour: u64| {
            let path = folder.path().join(name);
            write_text(&path, "").unwrap();
            let at = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(3600 * hour);
            let file = fs_err::OpenOptions::new().write(true).open(path).unwrap();
            file.file().set_modified(at).unwrap();
        };
        write("state/170/seed-0/attack.0123abcd.safetensors", 1);
        write("state/170/seed-0/fit-0.9.0123abcd.safetensors", 3);
        let found = in_progress(folder.path()).unwrap();
        assert_eq!(found, ["170/seed-0/attack", "170/seed-0/fit-0.9"]);
        write("records/170/seed-0/attack.json", 2);
        // Of earlier settings: the step is at work again.
        write("records/170/seed-0/fit-0.9.json", 2);
        let found = in_progress(folder.path()).unwrap();
        assert_eq!(found, ["170/seed-0/fit-0.9"]);
    }

    #[test]
    fn a_detection_opens_with_its_verdict() {
        let folder = tempfile::tempdir().unwrap();
        let detection = made_up::detection(false);
        write_json(&folder.path().join("detection.json"), &detection).unwrap();
        let files = files_of(&folder);
        check_page(files[0].text());
        let verdict = files[0]
            .text()
            .find("Nothing found in made-up.safetensors")
            .unwrap();
        assert!(verdict < files[0].text().find("<main>").unwrap());
        let words = "no class passes the rule; class 1 (stripes) comes closest";
        for file in &files[..2] {
            assert!(file.text().contains(words), "{}", file.text());
            assert_eq!(
                file.text().matches("Finding nothing is no proof").count(),
                1
            );
        }
        assert!(
            files[2]
                .text()
                .contains("made-up.safetensors,0,rings & dots,,,,,0.021")
        );
    }

    #[test]
    fn what_a_verdict_does_not_mean_is_in_the_page_and_in_its_tables() {
        let folder = tempfile::tempdir().unwrap();
        for attacked in [true, false] {
            let mut detection = made_up::detection(attacked);
            for class in &mut detection.classes {
                class.sample_asr = 0.9;
                class.anomaly_index = None;
            }
            write_json(&folder.path().join("detection.json"), &detection).unwrap();
            let said = crate::detection::caveats(&detection);
            assert!(!said.is_empty());
            for file in &files_of(&folder)[..2] {
                for words in &said {
                    let start = words.split('`').next().unwrap();
                    let escaped = start.replace('&', "&amp;");
                    let is_said = file.text().contains(start) || file.text().contains(&escaped);
                    assert!(is_said, "{start}");
                }
            }
        }
    }

    #[test]
    fn distributions_alone_have_rows_and_a_first_sentence() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        write_json(&path("a/distribution.json"), &made_up::distribution()).unwrap();
        let files = files_of(&folder);
        check_page(files[0].text());
        for file in &files[..2] {
            assert!(!file.text().contains("Nothing has been measured"));
            assert!(file.text().contains("made-up on CIFAR-10: trigger 170"));
        }
        assert!(files[2].path.ends_with("results.csv"));
        let rows: Vec<&str> = files[2].text().lines().collect();
        assert_eq!(rows.len(), 1 + 4, "{rows:?}");
        let columns = |row: &str| row.split(',').count();
        assert!(rows.iter().all(|row| columns(row) == columns(rows[0])));
        assert_eq!(
            rows[3],
            "made-up,cifar10,cpu,170,0,0.963,0.9,10,3,0.931,0.875,3.456,0.021,-18.25,0.21"
        );

        let mut other = made_up::distribution();
        other.trigger = "16".into();
        write_json(&path("b/distribution.json"), &other).unwrap();
        let files = files_of(&folder);
        assert!(files[0].text().contains("sub-models of 2 networks"));
        assert!(
            files[0]
                .text()
                .contains("distributions of triggers 170, 16")
        );
        assert_eq!(files[2].text().lines().count(), 1 + 8);
    }

    #[test]
    fn a_search_that_is_not_done_says_how_far_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str| write_text(&folder.path().join(name), "").unwrap();
        let told = || {
            let error = run_files(folder.path(), None, |_| None).unwrap_err();
            (
                matches!(error, Error::SearchNotDone { .. }),
                error.to_string(),
            )
        };
        write("state/class-0/fit-0.9.0123abcd.safetensors");
        assert!(told().0 && told().1.contains("not finished (0 classes done)"));
        for step in ["fit", "samples", "entropy"] {
            write(&format!("records/class-0/{step}-0.9.json"));
        }
        write("records/class-1/fit-0.9.json");
        let (_, words) = told();
        assert!(words.contains("not finished (1 class done)"), "{words}");
        assert!(words.contains("start the same `mesa detect` again"));
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
