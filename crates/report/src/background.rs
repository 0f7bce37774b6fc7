//! What stands at the end of a report: methods, metrics, deviations, seeds, hardware, limits.

use std::collections::BTreeMap;

use maud::{Markup, html};
use mesa_record::TriggerName;

use crate::format::{data_words, hardware, percent, seconds};
use crate::html::{inline, table_markup};
use crate::metrics::GLOSSARY;
use crate::page::Contents;
use crate::rows::networks;
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
        html! { ul { @for line in LIMITS { li { (line) } } } },
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

/// Which seeds each trigger has.
fn seeds(runs: &[Run]) -> Table {
    let mut table = Table::new(String::new(), &["preset", "trigger", "seeds"]);
    for run in runs {
        let mut seeds_of: BTreeMap<&TriggerName, Vec<String>> = BTreeMap::new();
        for (trigger, seed) in networks(&run.summary) {
            seeds_of.entry(trigger).or_default().push(seed.to_string());
        }
        for (trigger, seeds) in seeds_of {
            table.rows.push(vec![
                run.summary.preset.clone(),
                trigger.to_string(),
                seeds.join(", "),
            ]);
        }
    }
    table
}

/// What computed each part, with which engine, in which time.
fn machines(contents: &Contents) -> Table {
    let columns = ["what", "device", "engine", "program", "time"];
    let mut table = Table::new(String::new(), &columns);
    for run in &contents.runs {
        let summary = &run.summary;
        table.rows.push(vec![
            format!("run, preset {}", summary.preset),
            hardware(summary),
            summary.engine_version.to_string(),
            summary.version.clone(),
            seconds(summary.wall_s),
        ]);
    }
    for found in &contents.detections {
        let record = &found.record;
        table.rows.push(vec![
            format!("detection, {}", found.name),
            crate::format::hardware_words(&record.device, "", record.threads, &record.processor),
            record.engine_version.to_string(),
            record.version.clone(),
            seconds(record.wall_s),
        ]);
    }
    for found in &contents.distributions {
        let record = &found.record;
        table.rows.push(vec![
            format!(
                "distributions, trigger {}: the attack reaches {} %",
                record.trigger,
                percent(record.true_trigger_asr)
            ),
            crate::format::hardware_words(
                &record.device,
                &record.kernel_path,
                record.threads,
                &record.processor,
            ),
            record.engine_version.to_string(),
            record.version.clone(),
            seconds(record.wall_s),
        ]);
    }
    for found in &contents.plans {
        let record = &found.record;
        table.rows.push(vec![
            plan::heading(record),
            crate::format::hardware_words(
                &record.device,
                &record.kernel_path,
                record.threads,
                &record.processor,
            ),
            record.engine_version.to_string(),
            String::new(),
            record.estimated_s.map(seconds).unwrap_or_default(),
        ]);
    }
    table.without_blank_columns()
}
