//! What a run measured, as tables with notes.

use std::fmt::Write as _;

use mesa_record::{ATTACK_TOOK, Summary};

use crate::{
    Table,
    format::{
        Sessions, data_words, hardware, memory, percent, percent_or_blank, seconds, time_words,
    },
    means,
    mixture::{self, nats, nats_with_error},
    rows::{
        Network, Repeats, methods, missing_methods, named, networks, repeats_note, rows_of,
        seeds_note, takes,
    },
    runs::Run,
};

/// What a run measured, as tables with notes below: for one network a row for
/// each method, for a sweep means, worst cases and the ASR of every network.
///
/// # Examples
///
/// ```
/// use mesa_record::{Row, Summary};
/// use mesa_report::Report;
///
/// // Made-up figures.
/// let summary: Summary = serde_json::from_str(
///     r#"{"preset": "quick", "data": "synthetic", "device": "cpu", "wall_s": 200.0,
///         "peak_rss_mb": 500.0, "rows": [{"trigger": 170, "seed": 0, "method": "ideal",
///         "asr": 0.021, "clean_accuracy": 0.91, "regained_accuracy": 0.9, "wall_s": 40.0}]}"#,
/// )?;
/// let text = Report::of(&summary).to_terminal();
/// assert!(text.contains("SYNTHETIC") && text.contains("2.1"));
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// The tables, the main one first.
    pub tables: Vec<Table>,
    /// What a reader has to know beside them, one line each.
    pub notes: Vec<String>,
}

impl Report {
    /// The report of a run.
    pub fn of(summary: &Summary) -> Self {
        Self::with(summary, Sessions::one(summary), means::tables)
    }

    /// The same for a document, which has room for more.
    pub(crate) fn for_document(run: &Run) -> Self {
        Self::with(&run.summary, run.sessions(), means::document_tables)
    }

    fn with(summary: &Summary, sessions: Sessions, of_means: fn(&Summary) -> Vec<Table>) -> Self {
        let networks = networks(summary);
        let mut tables: Vec<Table> = match networks[..] {
            [network] => [network_table(summary, network)]
                .into_iter()
                .chain(means::worth_tables(summary))
                .collect(),
            _ => of_means(summary)
                .into_iter()
                .chain([asr_table(summary)])
                .collect(),
        };
        tables.extend(mixture::table(summary));
        Self {
            tables,
            notes: notes(summary, sessions),
        }
    }

    /// For a terminal.
    pub fn to_terminal(&self) -> String {
        let tables: Vec<String> = self.tables.iter().map(Table::to_terminal).collect();
        let mut text = tables.join("\n");
        for note in &self.notes {
            text.push_str(note);
            text.push('\n');
        }
        text
    }

    /// For a document: titles in bold, notes as a list.
    pub fn to_markdown(&self) -> String {
        let mut text = String::new();
        for table in &self.tables {
            let _ = write!(text, "**{}**\n\n{}\n", table.title, table.to_markdown());
        }
        for note in &self.notes {
            let _ = writeln!(text, "- {note}");
        }
        text
    }
}

/// One row for each method on one network.
pub(crate) fn network_table(summary: &Summary, network: Network<'_>) -> Table {
    let (trigger, seed) = network;
    let title = format!("{} · trigger {trigger}, seed {seed}", run_words(summary));
    let columns = [
        "method",
        "ASR %",
        "clean\nacc. %",
        "regained\n%",
        "sample\nASR %",
        "in level\nset %",
        "entropy,\nnats",
        "h ≤,\nnats",
        "time",
        "remark",
    ];
    let mut table = Table::new(title, &columns);
    table.rows = methods(summary)
        .into_iter()
        .filter_map(|method| {
            Some(cells(
                summary,
                network,
                &Repeats::of(summary, network, method)?,
            ))
        })
        .collect();
    table.without_blank_columns()
}

/// The ASR of every network, a row for each and a column for each method.
pub(crate) fn asr_table(summary: &Summary) -> Table {
    let methods = methods(summary);
    let mut columns = vec!["trigger", "seed"];
    columns.extend(methods.iter().copied());
    columns.push("remark");
    let mut table = Table::new(
        format!("{} · ASR % of every network", run_words(summary)),
        &columns,
    );
    for (trigger, seed) in networks(summary) {
        let mut cells = vec![trigger.to_string(), seed.to_string()];
        let figure = |method: &&str| {
            let repeats = Repeats::of(summary, (trigger, seed), method)?;
            Some(repeats.mean(|row| row.asr))
        };
        cells.extend(
            methods
                .iter()
                .map(|method| percent_or_blank(figure(method))),
        );
        let committed = rows_of(summary, (trigger, seed)).any(|row| row.committed);
        cells.push(remark(None, takes(summary, (trigger, seed)), committed));
        table.rows.push(cells);
    }
    table.without_blank_columns()
}

/// The preset, the data and the device, for titles.
pub(crate) fn run_words(summary: &Summary) -> String {
    format!(
        "{} · {} · {}",
        summary.preset,
        data_words(&summary.data),
        summary.device
    )
}

/// A method's line: means over its repeats where there are several, with the deviation of the ASR.
fn cells(summary: &Summary, network: Network<'_>, repeats: &Repeats<'_>) -> Vec<String> {
    let first = repeats.rows()[0];
    let mut asr = percent(repeats.mean(|row| row.asr));
    if let Some(std) = repeats.asr_std()
        && repeats.count() > 1
    {
        let _ = write!(asr, " ± {}", percent(std));
    }
    vec![
        first.method.clone(),
        asr,
        percent(repeats.mean(|row| row.clean_accuracy)),
        percent(repeats.mean(|row| row.regained_accuracy)),
        percent_or_blank(repeats.mean_known(|row| row.sample_asr)),
        percent_or_blank(repeats.mean_known(|row| row.in_level_set)),
        nats_with_error(first.information_nats, first.information_se),
        nats(first.entropy_upper_bound),
        seconds(repeats.mean(|row| row.wall_s)),
        // The clean network was attacked by nobody.
        remark(
            repeats.are_repeats().then(|| repeats.count()),
            first.method == "clean" || takes(summary, network),
            repeats.rows().iter().any(|row| row.committed),
        ),
    ]
}

fn remark(repeats: Option<usize>, takes: bool, committed: bool) -> String {
    let mut said = Vec::new();
    said.extend(repeats.map(|count| match count {
        1 => "1 repeat".to_owned(),
        count => format!("means of {count} repeats"),
    }));
    said.extend((!takes).then(|| "attack did not take".to_owned()));
    said.extend(committed.then(|| "committed record".to_owned()));
    said.join("; ")
}

/// What a reader has to know beside the tables.
pub(crate) fn notes(summary: &Summary, sessions: Sessions) -> Vec<String> {
    let mut notes = Vec::new();
    for difference in &summary.differences {
        let (name, paper, here) = (&difference.name, &difference.paper, &difference.here);
        notes.push(format!("differs from the paper: {name}: {paper} → {here}"));
    }
    notes.extend(attack_note(summary));
    notes.extend(repeats_note(summary));
    notes.extend(seeds_note(summary));
    notes.extend(mixture::note(summary));
    let committed = summary.rows.iter().filter(|row| row.committed).count();
    if committed > 0 {
        notes.push(format!(
            "{committed} of {} rows come from committed records, not from this run",
            summary.rows.len()
        ));
    }
    if let Some(network) = &summary.clean_network {
        let (source, accuracy) = (&network.source, percent(network.test_accuracy));
        notes.push(format!(
            "clean network: {source}, {accuracy} % of all test images"
        ));
    }
    for network in &summary.other_clean_networks {
        notes.push(format!(
            "some rows start from another clean network: {}, {} % of all test images ({})",
            network.source,
            percent(network.test_accuracy),
            network.sha256.get(..12).unwrap_or(&network.sha256)
        ));
    }
    notes.push("ASR and regained: of stamped images that are not of the target class".to_owned());
    if let Some(at_once) = summary.at_once {
        notes.push(format!(
            "up to {} networks shared the machine: times of single steps are longer than of one alone",
            at_once.workers
        ));
    }
    let time = time_words(summary, sessions);
    let peak = memory(summary.peak_rss_mb);
    notes.push(format!(
        "wall time {time}; peak memory {peak}; {}",
        hardware(summary)
    ));
    notes
}

/// What a sweep has on some of its networks and not on others, a line for each of the latter.
pub(crate) fn unfinished(summary: &Summary) -> Vec<String> {
    let of_network = |network: Network<'_>| {
        let missing = missing_methods(summary, network);
        (!missing.is_empty())
            .then(|| format!("{}: not there yet: {}", named(network), missing.join(", ")))
    };
    networks(summary)
        .into_iter()
        .filter_map(of_network)
        .collect()
}

/// How many networks stay out of means, and which.
pub(crate) fn attack_note(summary: &Summary) -> Option<String> {
    let networks = networks(summary);
    let missed: Vec<String> = networks
        .iter()
        .filter(|&&network| !takes(summary, network))
        .map(|&network| named(network))
        .collect();
    (!missed.is_empty()).then(|| {
        format!(
            "attack did not take (ASR below {:.0} %) on {} of {} networks, which stay out of means: {}",
            ATTACK_TOOK * 100.0,
            missed.len(),
            networks.len(),
            missed.join(", ")
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::made_up;

    #[test]
    fn one_network_is_one_table_of_methods() {
        insta::assert_snapshot!(Report::of(&made_up::single()).to_terminal());
    }

    #[test]
    fn a_sweep_has_means_and_every_network() {
        insta::assert_snapshot!(Report::of(&made_up::sweep()).to_terminal());
    }

    #[test]
    fn documents_get_markdown() {
        insta::assert_snapshot!(Report::of(&made_up::sweep()).to_markdown());
    }

    #[test]
    fn synthetic_data_is_said_in_every_title() {
        let summary = Summary {
            data: "synthetic".into(),
            ..made_up::sweep()
        };
        let report = Report::of(&summary);
        assert!(
            report
                .tables
                .iter()
                .all(|table| table.title.contains("SYNTHETIC"))
        );
    }

    #[test]
    fn a_failed_attack_is_said_in_its_rows_and_counted_below() {
        let report = Report::of(&made_up::sweep());
        let every = report.tables.last().unwrap();
        let said = |trigger: &str| {
            let row = every.rows.iter().find(|row| row[0] == trigger).unwrap();
            row.last().unwrap().clone()
        };
        assert_eq!(
            (said("0"), said("170")),
            ("attack did not take".into(), String::new())
        );
        let note = "attack did not take (ASR below 85 %) on 1 of 4 networks, which stay out of \
                    means: 0 (seed 0)";
        assert!(
            report.notes.iter().any(|line| line == note),
            "{:?}",
            report.notes
        );
    }

    #[test]
    fn a_summary_without_rows_is_no_problem() {
        let summary = Summary {
            rows: Vec::new(),
            ..made_up::single()
        };
        assert!(Report::of(&summary).to_terminal().contains("peak memory"));
    }
}
