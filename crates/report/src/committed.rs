//! Committed records → README's tables and figure, `docs/results.md`, `docs/report.html` and the rest.

use std::path::{Path, PathBuf};

use mesa_record::{Curve, Summary, read_curves, read_json};
use serde::de::DeserializeOwned;

use crate::blocks::with_block;
use crate::csv::csv_of_all;
use crate::defense_figure::defense_figure;
use crate::distribution::PICTURE;
use crate::documents::{FIGURE, readme_block, results_page};
use crate::files::{GeneratedFile, below, below_ending, folder_name, way};
use crate::page::{Contents, Recorded, report_page};
use crate::runs::{Run, merged};
use crate::{PatchOf, Result, distribution, speed};

/// Every `summary.json` below `docs/records`, by path.
///
/// # Errors
///
/// If one cannot be read or is no summary.
pub fn read_committed(root: &Path) -> Result<Vec<(PathBuf, Summary)>> {
    below(&root.join("docs/records"), "summary.json")?
        .into_iter()
        .map(|path| Ok((path.clone(), read_json(&path)?)))
        .collect()
}

/// What the committed records below `root` say: `README.md` with its tables and its figure,
/// `docs/performance.md` with its tables, and in `docs` the whole report as `report.html`, its
/// tables as `results.md`, its rows as `results.csv`. Pictures that were made of records which are gone come as files
/// that shall not be.
///
/// # Errors
///
/// [`crate::Error::MissingMarker`] if README lacks a mark, else if a file cannot be read.
///
/// # Examples
///
/// ```no_run
/// for file in mesa_report::committed_files(std::path::Path::new("."), |_| None)? {
///     file.write()?;
/// }
/// # Ok::<(), mesa_report::Error>(())
/// ```
pub fn committed_files(root: &Path, patch_of: PatchOf) -> Result<Vec<GeneratedFile>> {
    let contents = committed_contents(root)?;
    let runs: Vec<&Summary> = contents.runs.iter().map(|run| &run.summary).collect();
    let figure = runs
        .first()
        .and_then(|summary| defense_figure(summary, patch_of));
    let caption = figure.as_ref().map(|figure| figure.caption.as_str());
    let readme = [
        ("results", readme_block(&contents.runs, caption)),
        ("speed", speed::readme_block(&contents.speed)),
    ];
    let performance = speed::page_blocks(&contents.speed, &contents.runs);
    let file = |name: &str, text: String| GeneratedFile::holding(root.join(name), text);
    let mut files = vec![
        with_blocks(root.join("README.md"), &readme)?,
        file("docs/results.md", results_page(&contents)),
        with_blocks(root.join("docs/performance.md"), &performance)?,
        file("docs/results.csv", csv_of_all(&runs)),
        file("docs/report.html", report_page(&contents, patch_of)),
    ];
    files.extend(figure.map(|figure| file(FIGURE, figure.svg)));
    for found in &contents.distributions {
        files.extend(distribution::figures(root, &found.name, &found.record));
    }
    let left_over = left_over(root, &files)?;
    files.extend(left_over);
    Ok(files)
}

/// The pictures that this program once made and makes no more.
fn left_over(root: &Path, made: &[GeneratedFile]) -> Result<Vec<GeneratedFile>> {
    let figures = root.join("assets/figures");
    let is_left_over = |path: &PathBuf| {
        let name = path.strip_prefix(&figures).unwrap_or(path);
        let is_distribution = name.to_string_lossy().starts_with(PICTURE);
        let is_generated = is_distribution || *path == root.join(FIGURE);
        is_generated && made.iter().all(|file| file.path != *path)
    };
    let mut found = below_ending(&figures, "svg")?;
    found.retain(is_left_over);
    let file = |path| GeneratedFile { path, text: None };
    Ok(found.into_iter().map(file).collect())
}

/// All that is committed, with links as a page in `docs` has them.
fn committed_contents(root: &Path) -> Result<Contents> {
    let docs = root.join("docs");
    let runs = read_committed(root)?
        .into_iter()
        .map(|(path, summary)| Ok(Run::new(way(&docs, &path), summary, curves_beside(&path)?)))
        .collect::<Result<Vec<Run>>>()?;
    // The pictures that README shows.
    let figures = root.join("assets/figures");
    let pictures = below_ending(&figures, "svg")?
        .into_iter()
        .filter(|path| {
            let stem = path.file_stem().unwrap_or_default().to_string_lossy();
            stem.starts_with("samples-") || stem.starts_with("places-")
        })
        .map(|path| Ok((way(root, &path), fs_err::read_to_string(&path)?)))
        .collect::<Result<Vec<_>>>()?;
    Ok(Contents {
        title: "MESA: removing neural backdoors, the report".to_owned(),
        of_repository: true,
        runs: merged(runs),
        detections: recorded(&docs, "detection.json")?,
        distributions: recorded(&docs, "distribution.json")?,
        plans: recorded(&docs, "plan.json")?,
        speed: speed::read_records(root)?,
        pictures,
        in_progress: Vec::new(),
    })
}

/// The curves beside a summary, where there are any.
pub(crate) fn curves_beside(summary: &Path) -> Result<Vec<Curve>> {
    let path = summary.with_file_name("curves.csv");
    if path.exists() {
        Ok(read_curves(&path)?)
    } else {
        Ok(Vec::new())
    }
}

/// Every committed record of one kind, called after its folder.
fn recorded<T: DeserializeOwned>(docs: &Path, name: &str) -> Result<Vec<Recorded<T>>> {
    below(&docs.join("records"), name)?
        .into_iter()
        .map(|path| {
            Ok(Recorded {
                name: folder_name(&path),
                link: way(docs, &path),
                record: read_json(&path)?,
            })
        })
        .collect()
}

/// A file with everything between the marks of each block replaced.
fn with_blocks(path: PathBuf, blocks: &[(&str, String)]) -> Result<GeneratedFile> {
    let mut text = fs_err::read_to_string(&path)?;
    for (name, block) in blocks {
        text = with_block(&path, &text, name, block)?;
    }
    Ok(GeneratedFile::holding(path, text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::made_up;
    use crate::page_checks::check_page;
    use mesa_record::{Distribution, write_json};

    fn repository(summaries: &[(&str, Summary)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        let block = |name: &&str| format!("<!-- {name}:begin -->\nold\n<!-- {name}:end -->\n");
        let page = |names: &[&str]| {
            let blocks: String = names.iter().map(block).collect();
            format!("# Title\n\n{blocks}\nrest\n")
        };
        let path = |name| root.path().join(name);
        fs_err::create_dir_all(path("docs")).unwrap();
        fs_err::write(path("README.md"), page(&["results", "speed"])).unwrap();
        let performance = page(&["comparison", "stages", "roofline", "scaling", "gpu"]);
        fs_err::write(path("docs/performance.md"), performance).unwrap();
        for (place, summary) in summaries {
            let path = root
                .path()
                .join("docs/records")
                .join(place)
                .join("summary.json");
            write_json(&path, summary).unwrap();
        }
        root
    }

    fn files_of(root: &tempfile::TempDir) -> Vec<GeneratedFile> {
        committed_files(root.path(), |_| None).unwrap()
    }

    fn text<'a>(files: &'a [GeneratedFile], name: &str) -> &'a str {
        files
            .iter()
            .find(|file| file.path.ends_with(name))
            .unwrap()
            .text()
    }

    #[test]
    fn files_are_current_once_written() {
        let root = repository(&[("one", made_up::sweep())]);
        let files = files_of(&root);
        assert!(files.iter().all(|file| file.write().unwrap()));
        let again = files_of(&root);
        assert!(again.iter().all(|file| file.is_current().unwrap()));
        let readme = fs_err::read_to_string(root.path().join("README.md")).unwrap();
        assert!(readme.starts_with("# Title\n") && readme.ends_with("\n\nrest\n"));
        assert!(!readme.contains("old") && readme.contains(FIGURE));
        assert!(text(&files, FIGURE).starts_with("<svg"));
    }

    #[test]
    fn the_page_links_each_network_to_its_record() {
        let root = repository(&[("one", made_up::sweep()), ("two", made_up::repeated())]);
        let curves = [mesa_record::Curve {
            step: "170/seed-0/attack".into(),
            points: vec![mesa_record::CurvePoint {
                epoch: 1,
                figure: "loss".into(),
                value: 0.5,
            }],
        }];
        let beside = root.path().join("docs/records/two/curves.csv");
        mesa_record::write_curves(&beside, &curves).unwrap();
        let files = files_of(&root);
        let page = text(&files, "report.html");
        for part in [
            "href=\"records/one/summary.json\"",
            "href=\"records/two/summary.json\"",
            "attack: loss",
            "cargo xtask reproduce --config made-up.toml",
        ] {
            assert!(page.contains(part), "{part}");
        }
        // Both files have rows of trigger 170, seed 0.
        assert!(page.contains("<a href=\"records/one/summary.json\">170</a> <a href=\"records/two/summary.json\">(2)</a>"));
        assert!(text(&files, "results.csv").lines().count() > 20);
    }

    #[test]
    fn a_committed_plan_is_part_of_the_results() {
        let root = repository(&[]);
        let path = root.path().join("docs/records/paper-plan/plan.json");
        write_json(&path, &made_up::plan()).unwrap();
        let files = files_of(&root);
        let results = text(&files, "results.md");
        assert!(
            results.contains("## What preset paper needs on a CPU")
                && results.contains("time 4.6 days; peak memory 2346 MiB; disk 2.5 GB"),
            "{results}"
        );
    }

    #[test]
    fn what_a_gpu_was_found_to_do_is_in_the_page_on_speed() {
        let root = repository(&[]);
        let folder = root.path().join("docs/records");
        write_json(&folder.join("gpu/gpu.json"), &made_up::gpu()).unwrap();
        let mut tiny = made_up::gpu();
        (tiny.quick, tiny.made) = (true, "2026-03-01T12:00:00Z".to_owned());
        tiny.check.as_mut().unwrap().comparisons = 5;
        write_json(&folder.join("gpu-2/gpu.json"), &tiny).unwrap();
        let files = files_of(&root);
        let page = text(&files, "performance.md");
        assert!(page.contains("147 comparisons, all within"), "{page}");
    }

    #[test]
    fn figures_of_one_kind_are_told_apart() {
        let (one, mut two) = (made_up::sweep(), made_up::sweep());
        two.engine_version += 1;
        let root = repository(&[("one", one), ("two", two)]);
        let records = root.path().join("docs/records");
        for (name, seed) in [("first", 0), ("second", 1)] {
            let found = Distribution {
                seed,
                ..made_up::distribution()
            };
            write_json(&records.join(name).join("distribution.json"), &found).unwrap();
        }
        let files = files_of(&root);
        let page = text(&files, "report.html");
        check_page(page);
        for name in [
            "Preset made-up on CIFAR-10, cpu, engine 2: ASR of",
            "second, preset made-up: Samples for each β on principal components: trigger 170, seed 1",
        ] {
            assert!(page.contains(&format!("<title>{name}")), "{name}");
            assert!(page.contains(&format!("\"figure: {name}")), "{name}");
        }
        assert!(text(&files, "results.md").contains("![second: Samples for each β on a t-SNE"));
    }

    #[test]
    fn a_picture_whose_record_is_gone_is_not_current_and_gives_way() {
        let root = repository(&[("one", made_up::sweep())]);
        let record = root.path().join("docs/records/first/distribution.json");
        write_json(&record, &made_up::distribution()).unwrap();
        assert!(files_of(&root).iter().all(|file| file.write().unwrap()));
        let figures = root.path().join("assets/figures");
        // Made by nobody here.
        fs_err::write(figures.join("places-abl.svg"), "<svg></svg>").unwrap();
        fs_err::remove_file(&record).unwrap();
        fs_err::remove_file(root.path().join("docs/records/one/summary.json")).unwrap();
        let mut stale = files_of(&root);
        stale.retain(|file| file.text.is_none());
        assert_eq!(stale.len(), 5, "{stale:?}");
        for file in stale {
            assert!(!file.is_current().unwrap());
            assert!(file.write().unwrap() && !file.path.exists());
            assert!(file.is_current().unwrap());
        }
        assert!(figures.join("places-abl.svg").exists());
    }

    #[test]
    fn the_committed_page_is_whole() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let files = committed_files(&root, |_| None).unwrap();
        let page = text(&files, "report.html");
        assert!(page.matches("<svg").count() > 10);
        check_page(page);
    }

    #[test]
    fn detections_without_a_run_are_counted() {
        let root = repository(&[]);
        for (name, attacked) in [("bad", true), ("good", false)] {
            let path = root.path().join("docs/records").join(name);
            let mut found = made_up::detection(attacked);
            found.model_sha256 = name.repeat(16);
            write_json(&path.join("detection.json"), &found).unwrap();
        }
        let files = files_of(&root);
        let page = text(&files, "report.html");
        assert!(page.contains("Backdoors found in 1 of 2 networks."));
        // Both networks' classes, not one network's chart.
        assert_eq!(page.matches("<svg").count(), 1);
    }

    #[test]
    fn there_is_an_roc_from_ten_networks_on() {
        let root = repository(&[]);
        let add = |number: u8| {
            let path = root.path().join(format!("docs/records/network-{number}"));
            let mut found = made_up::detection(number.is_multiple_of(2));
            found.backdoored = Some(number.is_multiple_of(3));
            write_json(&path.join("detection.json"), &found).unwrap();
        };
        let chosen = root.path().join("docs/records/corner-170-w16");
        let mut of_chosen = made_up::detection(true);
        of_chosen.backdoored = Some(true);
        write_json(&chosen.join("detection.json"), &of_chosen).unwrap();
        (1..9).for_each(add);
        for (count, has_roc) in [(9, false), (10, true)] {
            let files = files_of(&root);
            let page = text(&files, "report.html");
            check_page(page);
            let title = format!("<title>Detection: ROC over {count} networks</title>");
            assert_eq!(page.contains(&title), has_roc, "{count} networks");
            assert_eq!(page.contains("There is no ROC: it takes 10"), !has_roc);
            let results = text(&files, "results.md");
            assert_eq!(results.contains("- AUC: the share of pairs"), has_roc);
            // What they say of the rule and the verdicts is the same.
            for (document, name) in [(page, "report.html"), (results, "results.md")] {
                let count = |words: &str| document.matches(words).count();
                let in_view = count("was chosen with corner-170-w16 in view");
                assert_eq!(in_view, usize::from(has_roc), "{name}");
                assert_eq!(
                    count("AUC: the share of pairs"),
                    usize::from(has_roc),
                    "{name}"
                );
                assert_eq!(count("Finding nothing is no proof"), 1, "{name}");
            }
            assert_eq!(results.contains("| verdicts by the rule |"), has_roc);
            // What it is made of.
            assert!(results.contains("| nothing found | clean |"), "{results}");
            add(9);
        }
    }

    #[test]
    fn nothing_committed_is_said() {
        let root = repository(&[]);
        let files = files_of(&root);
        assert!(text(&files, "README.md").contains("No run is committed yet"));
        assert!(text(&files, "results.md").contains("No run is committed yet"));
        assert!(text(&files, "performance.md").contains("Not measured yet"));
        assert!(text(&files, "report.html").contains("Nothing has been measured yet"));
        assert!(files.iter().all(|file| !file.path.ends_with(FIGURE)));
    }
}
