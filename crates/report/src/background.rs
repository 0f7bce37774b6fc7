//! What stands at the end of a report: methods, metrics, deviations, seeds, hardware, limits.

use maud::{Markup, html};

use crate::format::{data_words, hardware, hardware_words, percent, seconds, time_words};
use crate::html::{inline, table_markup};
use crate::metrics::GLOSSARY;
use crate::page::Contents;
use crate::rows::{are_all_patterns, by_seeds, networks};
use crate::runs::Run;
use crate::words::{LIMITS, METHODS};
use crate::{Table, plan};

/// The sections: their names in addresses, their headings, what they say.
pub(crate) fn sections(contents: &Contents) -> Vec<(&'static str, &'static str, Markup)> {
    let mut sections = Vec::new();
    if !contents.runs.is_empty() {
        sections.push(("methods", "Methods", terms(METHODS.iter().copied())));
    }
    let metrics = GLOSSARY.iter().map(|metric| (metric.name, metric.meaning));
    sections.push(("metrics", "What the figures mean", terms(metrics)));
    if !contents.runs.is_empty() {
        sections.push((
            "deviations",
            "Deviations from the paper",
            deviations(contents),
        ));
        sections.push(("seeds", "Seeds", table_markup(&seeds(&contents.runs), &[])));
    }
    sections.push((
        "hardware",
        "Hardware",
        table_markup(&machines(contents), &[]),
    ));
    sections.push((
        "limits",
        "Limits",
        html! { ul { @for line in LIMITS { li { (inline(line)) } } } },
    ));
    sections
}

fn terms<'a>(terms: impl Iterator<Item = (&'a str, &'a str)>) -> Markup {
    html! { dl { @for (name, meaning) in terms { dt { (name) } dd { (inline(meaning)) } } } }
}

fn deviations(contents: &Contents) -> Markup {
    html! {
        @if contents.of_repository {
            p {
                "What is done differently from the paper or its authors' code, why, and what it \
                costs: " a href="deviations.md" { "deviations.md" }
                ". Each value of a preset that differs from the paper's:"
            }
        }
        @for run in &contents.runs {
            @if run.summary.differences.is_empty() {
                p { "Preset " (run.summary.preset) ": no value differs from the paper's." }
            } @else {
                (table_markup(&differences(run), &[]))
            }
        }
    }
}

fn differences(run: &Run) -> Table {
    let summary = &run.summary;
    let title = format!("{} · {}", summary.preset, data_words(&summary.data));
    let mut table = Table::new(title, &["value", "the paper's", "here"]);
    table.rows = summary
        .differences
        .iter()
        .map(|difference| {
            vec![
                difference.name.clone(),
                difference.paper.clone(),
                difference.here.clone(),
            ]
        })
        .collect();
    table
}

/// Which seeds each trigger has: a row for those with the same.
fn seeds(runs: &[Run]) -> Table {
    fn joined<T: ToString>(list: &[T]) -> String {
        let words: Vec<String> = list.iter().map(ToString::to_string).collect();
        words.join(", ")
    }
    let mut table = Table::new(String::new(), &["preset", "triggers", "seeds"]);
    for run in runs {
        for (seeds, triggers) in by_seeds(&networks(&run.summary)) {
            let names = if are_all_patterns(&triggers) {
                "all 51 black/white patterns".to_owned()
            } else {
                joined(&triggers)
            };
            let cells = [run.summary.preset.clone(), names, joined(&seeds)];
            table.rows.push(cells.into());
        }
    }
    table
}

/// What computed each part, with which engine, in which time.
fn machines(contents: &Contents) -> Table {
    let columns = ["what", "device", "engine", "program", "time"];
    let mut table = Table::new(String::new(), &columns);
    let mut add = |what: String, hardware: String, engine: u32, program: &str, time: String| {
        let cells = vec![what, hardware, engine.to_string(), program.to_owned(), time];
        table.rows.push(cells);
    };
    for run in &contents.runs {
        let found = &run.summary;
        let what = format!("run, preset {}", found.preset);
        let time = time_words(found, run.sessions());
        add(
            what,
            hardware(found),
            found.engine_version,
            &found.version,
            time,
        );
    }
    for recorded in &contents.detections {
        let found = &recorded.record;
        let what = format!("detection, {}", recorded.name);
        let on = hardware_words(&found.device, "", found.threads, &found.processor);
        let time = seconds(found.wall_s);
        add(what, on, found.engine_version, &found.version, time);
    }
    for recorded in &contents.distributions {
        let found = &recorded.record;
        let (trigger, reached) = (&found.trigger, percent(found.true_trigger_asr));
        let what = format!("distributions, trigger {trigger}: the attack reaches {reached} %");
        let path = &found.kernel_path;
        let on = hardware_words(&found.device, path, found.threads, &found.processor);
        let time = seconds(found.wall_s);
        add(what, on, found.engine_version, &found.version, time);
    }
    for recorded in &contents.plans {
        let found = &recorded.record;
        let path = &found.kernel_path;
        let on = hardware_words(&found.device, path, found.threads, &found.processor);
        let time = found.estimated_s.map(seconds).unwrap_or_default();
        add(plan::heading(found), on, found.engine_version, "", time);
    }
    table.without_blank_columns()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::made_up;

    #[test]
    fn triggers_of_the_same_seeds_share_a_row() {
        let run = |summary| Run::new(String::new(), summary, Vec::new());
        let table = seeds(&[run(made_up::sweep()), run(made_up::many(51))]);
        let expected = [
            ["made-up", "0, color:3", "0"],
            ["made-up", "170", "0, 1"],
            ["made-up", "all 51 black/white patterns", "0"],
        ];
        assert_eq!(table.rows, expected);
    }
}
