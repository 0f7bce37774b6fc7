//! Runs, and the files that they were put together from.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use mesa_record::{AtOnce, Curve, Row, Summary, TriggerName};

use crate::format::{Sessions, data_words};
use crate::rows::{Network, networks};

/// What was measured with one preset on one data set, and where that is recorded.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Run {
    pub(crate) summary: Summary,
    /// The files that the rows come from.
    pub(crate) sources: Vec<Source>,
    /// What trainings measured epoch by epoch, where that was kept.
    pub(crate) curves: Vec<Curve>,
}

/// A file with a summary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Source {
    /// Where it lies, as a page links to it; its name where a page cannot.
    pub(crate) link: String,
    /// The networks that it has rows of.
    networks: BTreeSet<(TriggerName, u64)>,
    /// Whether its time is by the clock.
    is_clocked: bool,
}

impl Run {
    /// A run that a single file tells of.
    pub(crate) fn new(link: String, summary: Summary, curves: Vec<Curve>) -> Self {
        let of_file = networks(&summary).into_iter();
        let source = Source {
            link,
            is_clocked: summary.at_once.is_some(),
            networks: of_file
                .map(|(trigger, seed)| (trigger.clone(), seed))
                .collect(),
        };
        Self {
            summary,
            sources: vec![source],
            curves,
        }
    }

    /// The files with rows of a network.
    pub(crate) fn links_of(&self, (trigger, seed): Network<'_>) -> Vec<String> {
        self.sources
            .iter()
            .filter(|source| source.networks.contains(&(trigger.clone(), seed)))
            .map(|source| source.link.clone())
            .collect()
    }

    /// What its time is put together from.
    pub(crate) fn sessions(&self) -> Sessions {
        Sessions {
            count: self.sources.len(),
            without_clean: self.sources.iter().all(|source| source.is_clocked),
        }
    }

    fn merge(&mut self, more: Self) {
        merge(&mut self.summary, more.summary);
        self.sources.extend(more.sources);
        for curve in more.curves {
            if self.curves.iter().all(|known| known.step != curve.step) {
                self.curves.push(curve);
            }
        }
    }
}

/// One run for each preset, data set, device, engine and settings: sweeps are run in
/// parts. A row that occurs twice is taken from the run that computed it, else
/// from the first.
pub(crate) fn merged(parts: Vec<Run>) -> Vec<Run> {
    let mut runs: BTreeMap<_, Run> = BTreeMap::new();
    for part in parts {
        let summary = &part.summary;
        let order = match summary.preset.as_str() {
            "paper" => 0,
            "cpu" => 1,
            "quick" => 2,
            _ => 3,
        };
        let key = (
            summary.data == "synthetic",
            order,
            summary.preset.clone(),
            summary.data.clone(),
            summary.device.clone(),
            // The newest leads, and other settings under the same name are no part of a run.
            Reverse(summary.engine_version),
            summary.data_digest.clone(),
            settings(summary),
        );
        match runs.get_mut(&key) {
            None => drop(runs.insert(key, part)),
            Some(run) => run.merge(part),
        }
    }
    runs.into_values().collect()
}

/// What each run is called: by its preset, data and device, and where several have these in common by the engine,
/// the settings and the data's digest in which they differ.
pub(crate) fn headings(runs: &[Run]) -> Vec<String> {
    let plain = |run: &Run| {
        let (summary, data) = (&run.summary, data_words(&run.summary.data));
        format!("Preset {} on {data}, {}", summary.preset, summary.device)
    };
    let heading = |run: &Run| {
        let mut heading = plain(run);
        let all = runs.iter().filter(|other| plain(other) == heading);
        let mut alike: Vec<&Summary> = all.map(|other| &other.summary).collect();
        let engine = run.summary.engine_version;
        if alike.iter().any(|other| other.engine_version != engine) {
            let _ = write!(heading, ", engine {engine}");
            alike.retain(|other| other.engine_version == engine);
        }
        for words in apart(&run.summary, &alike) {
            let _ = write!(heading, ", {words}");
        }
        heading
    };
    runs.iter().map(heading).collect()
}

/// A run's settings and data where they are not those of all.
fn apart(run: &Summary, all: &[&Summary]) -> Vec<String> {
    let mut papers: BTreeMap<&str, &str> = BTreeMap::new();
    for difference in all.iter().flat_map(|other| &other.differences) {
        papers.insert(&difference.name, &difference.paper);
    }
    let mut words = Vec::new();
    for (name, paper) in papers {
        let value = |of: &Summary| {
            let found = of.differences.iter().find(|found| found.name == name);
            found.map_or_else(|| paper.to_owned(), |found| found.here.clone())
        };
        let own = value(run);
        if all.iter().any(|other| value(other) != own) {
            words.push(format!("{name}: {own}"));
        }
    }
    let digest = &run.data_digest;
    if all.iter().any(|other| other.data_digest != *digest) {
        words.push(format!(
            "data {}",
            match digest.get(..12).unwrap_or(digest) {
                "" => "of unknown digest",
                short => short,
            }
        ));
    }
    words
}

/// What tells settings apart: where they differ from the paper's.
fn settings(run: &Summary) -> BTreeSet<(String, String)> {
    let differences = run.differences.iter();
    differences
        .map(|difference| (difference.name.clone(), difference.here.clone()))
        .collect()
}

fn merge(run: &mut Summary, more: Summary) {
    run.note_clean_networks(&more);
    // A part whose steps came one after the other took their sum.
    let clock = |run: &Summary| {
        let alone = AtOnce {
            workers: 1,
            elapsed_s: run.wall_s,
        };
        run.at_once.unwrap_or(alone)
    };
    if run.at_once.is_some() || more.at_once.is_some() {
        let (one, other) = (clock(run), clock(&more));
        run.at_once = Some(AtOnce {
            workers: one.workers.max(other.workers),
            elapsed_s: one.elapsed_s + other.elapsed_s,
        });
    }
    run.wall_s += more.wall_s;
    run.peak_rss_mb = match (run.peak_rss_mb, more.peak_rss_mb) {
        (Some(one), Some(other)) => Some(one.max(other)),
        (one, other) => one.or(other),
    };
    for row in more.rows {
        let same = |known: &&mut Row| is_same(known, &row);
        match run.rows.iter_mut().find(same) {
            None => run.rows.push(row),
            Some(known) if known.committed && !row.committed => *known = row,
            Some(_) => {}
        }
    }
}

/// Whether two rows tell of the same network, method and repeat.
fn is_same(one: &Row, other: &Row) -> bool {
    let place = |row: &Row| (row.seed, row.repeat);
    (&one.trigger, place(one), &one.method) == (&other.trigger, place(other), &other.method)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::time_words;
    use crate::made_up;

    fn part(link: &str, summary: Summary) -> Run {
        Run::new(link.to_owned(), summary, Vec::new())
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
        let runs = merged(vec![part("one", one), part("two", two)]);
        assert_eq!(runs.len(), 1);
        assert_eq!(runs[0].summary.rows, made_up::sweep().rows);
        assert!((runs[0].summary.wall_s - 300.0).abs() < 1e-9);
        assert_eq!(runs[0].links_of((&"170".into(), 0)), ["one", "two"]);
        assert_eq!(runs[0].links_of((&"170".into(), 1)), ["two"]);
    }

    #[test]
    fn parts_that_start_from_different_clean_networks_say_so() {
        let (mut one, mut two) = (made_up::sweep(), made_up::sweep());
        one.rows.truncate(4);
        let runs = merged(vec![part("one", one.clone()), part("two", two.clone())]);
        assert!(runs[0].summary.other_clean_networks.is_empty());
        two.clean_network.as_mut().unwrap().sha256 = "0123456789abcdef".to_owned();
        let runs = merged(vec![part("one", one), part("two", two)]);
        assert_eq!(runs[0].summary.other_clean_networks.len(), 1);
        let notes = crate::report::notes(&runs[0].summary, runs[0].sessions());
        assert!(
            notes.iter().any(|note| note.contains("0123456789ab")),
            "{notes:?}"
        );
    }

    #[test]
    fn times_by_the_clock_add_up() {
        let (one, mut two) = (made_up::sweep(), made_up::sweep());
        two.at_once = Some(AtOnce {
            workers: 8,
            elapsed_s: 60.0,
        });
        let runs = merged(vec![part("one", one.clone()), part("two", two)]);
        let found = runs[0].summary.at_once.unwrap();
        assert_eq!(found.workers, 8);
        assert!((found.elapsed_s - 60.0 - one.wall_s).abs() < 1e-9);
        // One of them has the clean network's training in its time.
        let words = time_words(&runs[0].summary, runs[0].sessions());
        assert_eq!(
            words,
            "4.3 min by the clock in 2 sessions, up to 8 networks at once"
        );
        let clocked = Summary {
            at_once: Some(found),
            ..one.clone()
        };
        let runs = merged(vec![part("one", clocked.clone()), part("two", clocked)]);
        let words = time_words(&runs[0].summary, runs[0].sessions());
        let expected =
            "8.7 min by the clock in 2 sessions, training of clean networks aside, up to";
        assert!(words.starts_with(expected), "{words}");
        let runs = merged(vec![part("one", one.clone()), part("two", one)]);
        assert_eq!(runs[0].summary.at_once, None);
    }

    #[test]
    fn other_settings_or_data_are_another_run_and_the_newest_engine_leads() {
        let run = made_up::sweep;
        let mut others = [run(), run(), run()];
        others[0].data_digest = "other".to_owned();
        others[1].differences.push(mesa_record::Difference {
            name: "backdoor.target_class".to_owned(),
            paper: "0".to_owned(),
            here: "5".to_owned(),
        });
        others[2].engine_version += 1;
        let newest = others[2].engine_version;
        let parts = others.into_iter().chain([run()]);
        let runs = merged(parts.map(|summary| part("x", summary)).collect());
        assert_eq!(runs.len(), 4);
        assert_eq!(runs[0].summary.engine_version, newest);
        let found = headings(&runs);
        let expected = [
            "engine 2",
            "engine 1, backdoor.target_class: 5, data of unknown digest",
            "engine 1, backdoor.target_class: 0, data of unknown digest",
            "engine 1, backdoor.target_class: 0, data other",
        ];
        let expected = expected.map(|words| format!("Preset made-up on CIFAR-10, cpu, {words}"));
        assert_eq!(found, expected);
        assert_eq!(headings(&runs[..1]), ["Preset made-up on CIFAR-10, cpu"]);
    }

    #[test]
    fn repeats_are_rows_of_their_own() {
        let (mut one, two) = (made_up::repeated(), made_up::repeated());
        one.rows.retain(|row| row.repeat != Some(1));
        let count = two.rows.len();
        let runs = merged(vec![part("one", one), part("two", two)]);
        assert_eq!(runs[0].summary.rows.len(), count);
    }
}
