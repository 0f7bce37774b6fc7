//! Committed records → README's result table and `docs/results.md`.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    ops::Range,
    path::{Path, PathBuf},
};

use mesa_record::{
    Detection, Distribution, Plan, Row, Summary, TriggerName, read_json, write_text,
};

use crate::{
    Report, Result,
    blocks::with_block,
    detection, distribution,
    format::{data_words, hardware, memory, percent, seconds},
    means::{kinds, means, worst_words},
    paper::paper_figure,
    plan,
    report::{attack_note, network_table, networks},
    speed,
};

/// Networks that `docs/results.md` lists one by one at most; beyond, the table
/// of their ASR has to do.
const MOST_NETWORKS: usize = 12;

/// A file that is made from the committed records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GeneratedFile {
    /// Where it belongs.
    pub path: PathBuf,
    /// What it shall hold.
    pub text: String,
}

impl GeneratedFile {
    /// Whether the file on disk holds just that.
    ///
    /// # Errors
    ///
    /// [`crate::Error::Io`] if it exists and cannot be read.
    pub fn is_current(&self) -> Result<bool> {
        Ok(self.path.exists() && fs_err::read_to_string(&self.path)? == self.text)
    }

    /// Writes it where it is not current; returns whether it had to.
    ///
    /// # Errors
    ///
    /// [`crate::Error::Record`] if it cannot be written.
    pub fn write(&self) -> Result<bool> {
        let stale = !self.is_current()?;
        if stale {
            write_text(&self.path, &self.text)?;
        }
        Ok(stale)
    }
}

/// Every `summary.json` below `docs/records`, by path.
///
/// # Errors
///
/// If one cannot be read or is no summary.
pub fn read_committed(root: &Path) -> Result<Vec<(PathBuf, Summary)>> {
    paths(root, "summary.json")?
        .into_iter()
        .map(|path| Ok((path.clone(), read_json(&path)?)))
        .collect()
}

/// `README.md` with its tables, `docs/results.md`, `docs/performance.md` with its tables, and the
/// pictures of distributions in `assets/figures`, as the committed records below `root` say they
/// shall be.
///
/// # Errors
///
/// [`crate::Error::MissingMarker`] if README lacks a mark, else if a file cannot be read.
///
/// # Examples
///
/// ```no_run
/// for file in mesa_report::committed_files(std::path::Path::new("."))? {
///     file.write()?;
/// }
/// # Ok::<(), mesa_report::Error>(())
/// ```
pub fn committed_files(root: &Path) -> Result<Vec<GeneratedFile>> {
    let records = read_committed(root)?
        .into_iter()
        .map(|(_, summary)| summary)
        .collect();
    let runs = merged(records);
    let plans = paths(root, "plan.json")?;
    let plans = plans
        .iter()
        .map(|path| read_json(path))
        .collect::<Result<Vec<Plan>, _>>()?;
    let detections = paths(root, "detection.json")?
        .iter()
        .map(|path| Ok((folder_name(path), read_json(path)?)))
        .collect::<Result<Vec<(String, Detection)>>>()?;
    let distributions = paths(root, "distribution.json")?
        .iter()
        .map(|path| Ok((folder_name(path), read_json(path)?)))
        .collect::<Result<Vec<(String, Distribution)>>>()?;
    let records = speed::read_records(root)?;
    let readme = [
        ("results", readme_block(&runs)),
        ("speed", speed::readme_block(&records)),
    ];
    let results = GeneratedFile {
        path: root.join("docs/results.md"),
        text: results_page(&runs, &detections, &plans) + &distribution::section(&distributions),
    };
    let mut files = vec![
        with_blocks(root.join("README.md"), &readme)?,
        results,
        with_blocks(
            root.join("docs/performance.md"),
            &speed::page_blocks(&records),
        )?,
    ];
    for (name, distribution) in &distributions {
        files.extend(distribution::figures(root, name, distribution));
    }
    Ok(files)
}

/// A file with everything between the marks of each block replaced.
fn with_blocks(path: PathBuf, blocks: &[(&str, String)]) -> Result<GeneratedFile> {
    let mut text = fs_err::read_to_string(&path)?;
    for (name, block) in blocks {
        text = with_block(&path, &text, name, block)?;
    }
    Ok(GeneratedFile { path, text })
}

/// The name of the folder that a file lies in.
fn folder_name(path: &Path) -> String {
    path.parent()
        .and_then(Path::file_name)
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default()
}

/// Every file of that name below `docs/records`.
fn paths(root: &Path, name: &str) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    find(&root.join("docs/records"), name, &mut found)?;
    found.sort();
    Ok(found)
}

fn find(folder: &Path, name: &str, found: &mut Vec<PathBuf>) -> Result<()> {
    if !folder.is_dir() {
        return Ok(());
    }
    for entry in fs_err::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            find(&path, name, found)?;
        } else if path.file_name().is_some_and(|found| found == name) {
            found.push(path);
        }
    }
    Ok(())
}

/// One summary for each preset, data set, device and engine: sweeps are run in
/// parts. A row that occurs twice is taken from the run that computed it, else
/// from the first.
fn merged(records: Vec<Summary>) -> Vec<Summary> {
    let mut runs: BTreeMap<_, Summary> = BTreeMap::new();
    for record in records {
        let order = match record.preset.as_str() {
            "paper" => 0,
            "cpu" => 1,
            "quick" => 2,
            _ => 3,
        };
        let key = (
            record.data == "synthetic",
            order,
            record.preset.clone(),
            record.data.clone(),
            record.device.clone(),
            record.engine_version,
        );
        match runs.get_mut(&key) {
            None => drop(runs.insert(key, record)),
            Some(run) => merge(run, record),
        }
    }
    runs.into_values().collect()
}

fn merge(run: &mut Summary, more: Summary) {
    run.wall_s += more.wall_s;
    run.peak_rss_mb = match (run.peak_rss_mb, more.peak_rss_mb) {
        (Some(one), Some(other)) => Some(one.max(other)),
        (one, other) => one.or(other),
    };
    for difference in more.differences {
        if !run.differences.contains(&difference) {
            run.differences.push(difference);
        }
    }
    for row in more.rows {
        let same = |known: &&mut Row| {
            (&known.trigger, known.seed, &known.method) == (&row.trigger, row.seed, &row.method)
        };
        match run.rows.iter_mut().find(same) {
            None => run.rows.push(row),
            Some(known) if known.committed && !row.committed => *known = row,
            Some(_) => {}
        }
    }
}

/// README's table: the paper and ours; what made it, in which time, on what.
fn readme_block(runs: &[Summary]) -> String {
    if runs.is_empty() {
        return "No run is committed yet.\n".to_owned();
    }
    let blocks: Vec<String> = runs.iter().map(readme_run).collect();
    blocks.join("\n")
}

fn readme_run(run: &Summary) -> String {
    let mut text = String::new();
    for kind in kinds(run) {
        let _ = write!(
            text,
            "**{}, preset `{}`, {}**: ASR of the attacker's trigger in percent, mean (worst) over networks\n\n\
             | method | paper | ours | networks | our clean accuracy |\n\
             | --- | ---: | ---: | ---: | ---: |\n",
            data_words(&run.data),
            run.preset,
            kind.words(),
        );
        for means in means(run, kind) {
            let worst = |figure: &str| format!(" ({})", worst_words(&means.method, figure));
            let paper = paper_figure(&run.data, kind, &means.method).map(|paper| {
                let lowest_or_highest = paper.worst.map(|figure| worst(&format!("{figure:.1}")));
                format!("{}{}", paper.mean, lowest_or_highest.unwrap_or_default())
            });
            let _ = writeln!(
                text,
                "| {} | {} | {}{} | {} | {} |",
                means.method,
                paper.unwrap_or_default(),
                percent(means.asr),
                worst(&percent(means.worst)),
                means.count,
                percent(means.clean_accuracy),
            );
        }
        text.push('\n');
    }
    if let Some(note) = attack_note(run) {
        let _ = writeln!(text, "Note: {note}.\n");
    }
    let _ = writeln!(
        text,
        "`{}` · {} · peak memory {} · {}",
        commands(run).join("` and `"),
        seconds(run.wall_s),
        memory(run.peak_rss_mb),
        hardware(run),
    );
    text
}

/// `docs/results.md`.
fn results_page(runs: &[Summary], detections: &[(String, Detection)], plans: &[Plan]) -> String {
    let mut text = "# Results\n\n\
        Generated by `cargo xtask report` from \
        `docs/records/**/{summary,detection,plan,distribution}.json`; do not edit.\n\n\
        ASR: share of stamped images, not of the target class, that are given the target class. \
        Regained: share of those images that are given their true class. Sample ASR: that of the \
        sub-model's own samples. In level set: share of samples whose mean target probability is β \
        or more. Entropy: lower bound on the information I between noise and noisy samples, which \
        ranks spread and is no volume; the noisy samples' own entropy is h = I − 23.86 nats for 3×3 \
        triggers and noise 0.1. h ≤: that of the Gaussian with their covariance, which h never \
        exceeds. γ: what a sub-model weighs in `ensemble:weighted`, with the error that entropy's \
        carries into it, and at equal h. The paper's figures: width 64, mean and worst over 51 \
        black/white triggers or mean over 10 color triggers.\n"
        .to_owned();
    if runs.is_empty() {
        text.push_str("\nNo run is committed yet.\n");
    }
    for run in runs {
        let _ = write!(
            text,
            "\n## {} on {}, {}\n\n```text\n{}\n```\n\n",
            run.preset,
            data_words(&run.data),
            run.device,
            commands(run).join("\n")
        );
        text.push_str(&Report::of(run).to_markdown());
        text.push_str(&each_network(run));
    }
    if !detections.is_empty() {
        text.push_str(&detection::section(detections));
    }
    for plan in plans {
        text.push_str(&plan::section(plan));
    }
    text
}

/// The full table of every network, where a sweep is small enough.
fn each_network(run: &Summary) -> String {
    let networks = networks(run);
    if !(2..=MOST_NETWORKS).contains(&networks.len()) {
        return String::new();
    }
    let mut text = "\n### Every network\n".to_owned();
    for (trigger, seed) in networks {
        let table = network_table(run, (trigger, seed)).to_markdown();
        let _ = write!(text, "\nTrigger {trigger}, seed {seed}:\n\n{table}");
    }
    text
}

/// The commands that make a run, one for each set of triggers with the same seeds.
fn commands(run: &Summary) -> Vec<String> {
    let mut seeds_of: BTreeMap<&TriggerName, Vec<u64>> = BTreeMap::new();
    for (trigger, seed) in networks(run) {
        seeds_of.entry(trigger).or_default().push(seed);
    }
    let mut triggers_of: BTreeMap<Vec<u64>, Vec<&TriggerName>> = BTreeMap::new();
    for (trigger, seeds) in seeds_of {
        triggers_of.entry(seeds).or_default().push(trigger);
    }
    let mut commands = Vec::new();
    for (seeds, triggers) in triggers_of {
        commands.extend(
            ranges(&seeds)
                .iter()
                .map(|seeds| command(run, &triggers, seeds)),
        );
    }
    commands
}

fn command(run: &Summary, triggers: &[&TriggerName], seeds: &Range<u64>) -> String {
    let mut command = format!("cargo xtask reproduce --preset {}", run.preset);
    if run.data == "synthetic" {
        command.push_str(" --data synthetic");
    }
    let are_patterns = triggers
        .iter()
        .all(|trigger| matches!(trigger, TriggerName::Pattern(_)));
    let names: Vec<String> = triggers.iter().map(ToString::to_string).collect();
    // There are 51 classes of patterns.
    let all = are_patterns && triggers.len() == 51;
    let list = if all {
        "all".to_owned()
    } else {
        names.join(",")
    };
    let _ = write!(command, " --triggers {list}");
    if *seeds != (0..1) {
        let _ = write!(command, " --seeds {}..{}", seeds.start, seeds.end);
    }
    command
}

/// Sorted seeds as half-open ranges.
fn ranges(seeds: &[u64]) -> Vec<Range<u64>> {
    let mut ranges: Vec<Range<u64>> = Vec::new();
    for &seed in seeds {
        match ranges.last_mut() {
            Some(range) if range.end == seed => range.end += 1,
            _ => ranges.push(seed..seed + 1),
        }
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::made_up;

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
        let performance = page(&["comparison", "stages", "roofline", "scaling"]);
        fs_err::write(path("docs/performance.md"), performance).unwrap();
        for (place, summary) in summaries {
            let path = root
                .path()
                .join("docs/records")
                .join(place)
                .join("summary.json");
            mesa_record::write_json(&path, summary).unwrap();
        }
        root
    }

    #[test]
    fn files_are_current_once_written() {
        let root = repository(&[("one", made_up::sweep())]);
        let files = committed_files(root.path()).unwrap();
        assert!(files.iter().all(|file| file.write().unwrap()));
        let again = committed_files(root.path()).unwrap();
        assert!(again.iter().all(|file| file.is_current().unwrap()));
        let readme = fs_err::read_to_string(root.path().join("README.md")).unwrap();
        assert!(readme.starts_with("# Title\n") && readme.ends_with("\n\nrest\n"));
        assert!(!readme.contains("old"));
    }

    #[test]
    fn pages_look_as_they_did() {
        let mut other = made_up::single();
        other.preset = "quick".into();
        let runs = merged(vec![other, made_up::sweep()]);
        insta::assert_snapshot!("readme_block", readme_block(&runs));
        insta::assert_snapshot!("results_page", results_page(&runs, &[], &[made_up::plan()]));
    }

    #[test]
    fn parts_of_a_sweep_become_one_run() {
        let (mut one, mut two) = (made_up::sweep(), made_up::sweep());
        one.rows.truncate(4);
        for row in &mut one.rows {
            row.committed = true;
            row.asr = 0.5;
        }
        two.wall_s = 100.0;
        let runs = merged(vec![one, two]);
        assert_eq!(runs.len(), 1);
        assert_eq!(runs[0].rows, made_up::sweep().rows);
        assert!((runs[0].wall_s - 300.0).abs() < 1e-9);
    }

    #[test]
    fn commands_say_no_more_than_was_run() {
        let expected = [
            "cargo xtask reproduce --preset made-up --triggers 0,color:3",
            "cargo xtask reproduce --preset made-up --triggers 170 --seeds 0..2",
        ];
        assert_eq!(commands(&made_up::sweep()), expected);
        assert_eq!(ranges(&[0, 1, 4]), [0..2, 4..5]);
    }

    #[test]
    fn a_committed_plan_is_part_of_the_results() {
        let root = repository(&[]);
        let path = root.path().join("docs/records/paper-plan/plan.json");
        mesa_record::write_json(&path, &made_up::plan()).unwrap();
        let results = &committed_files(root.path()).unwrap()[1];
        assert!(
            results.text.contains("## What preset paper needs on a CPU")
                && results
                    .text
                    .contains("time 4.6 days; peak memory 2346 MiB; disk 2.5 GB"),
            "{}",
            results.text
        );
    }

    #[test]
    fn committed_distributions_have_a_section_and_pictures() {
        let root = repository(&[]);
        let path = root
            .path()
            .join("docs/records/distributions/one/distribution.json");
        mesa_record::write_json(&path, &made_up::distribution()).unwrap();
        let files = committed_files(root.path()).unwrap();
        assert!(files[1].text.contains("## Trigger distributions"));
        let picture = root
            .path()
            .join("assets/figures/distributions-one-tsne-alpha.svg");
        assert!(files.iter().any(|file| file.path == picture));
    }

    #[test]
    fn nothing_committed_is_said() {
        let root = repository(&[]);
        let files = committed_files(root.path()).unwrap();
        let says = |file: &GeneratedFile, what| file.text.contains(what);
        assert!(says(&files[0], "No run is committed yet"));
        assert!(says(&files[1], "No run is committed yet"));
        assert!(says(&files[2], "Not measured yet"));
    }
}
