//! Rows for spreadsheets and scripts.

use mesa_record::Summary;

use crate::paper::rank;

const COLUMNS: &str = "preset,data,device,engine,run,trigger,seed,method,repeat,asr,clean_accuracy,regained_accuracy,\
    wall_s,sample_asr,in_level_set,information_nats,information_se,entropy_upper_bound,sample_std,attack_took,committed";

/// Every row as comma-separated values: fractions in [0, 1] as in
/// `summary.json`, not the percent of the printed tables; empty where a method
/// has no such figure. `run` numbers the runs in the order of all tables: two of one preset may
/// differ in their settings, in their data's digest or in their engine.
///
/// # Examples
///
/// ```
/// let summary: mesa_record::Summary = serde_json::from_str(
///     r#"{"preset": "quick", "data": "cifar10", "device": "cpu", "wall_s": 1.0,
///         "peak_rss_mb": null, "rows": []}"#,
/// )?;
/// assert_eq!(mesa_report::csv(&summary).lines().count(), 1);
/// # Ok::<(), serde_json::Error>(())
/// ```
pub fn csv(summary: &Summary) -> String {
    csv_of_all(&[summary])
}

/// The rows of several runs below one heading.
pub(crate) fn csv_of_all(summaries: &[&Summary]) -> String {
    let mut text = format!("{COLUMNS}\n");
    for (number, summary) in (1..).zip(summaries) {
        add_rows(&mut text, number, summary);
    }
    text
}

fn add_rows(text: &mut String, number: usize, summary: &Summary) {
    let mut rows: Vec<_> = summary.rows.iter().collect();
    rows.sort_by_key(|row| (&row.trigger, row.seed, rank(&row.method), row.repeat));
    let optional =
        |figure: Option<f64>| figure.map(|figure| figure.to_string()).unwrap_or_default();
    for row in rows {
        let took = summary.attack_took(&row.trigger, row.seed);
        let cells = [
            quoted(&summary.preset),
            quoted(&summary.data),
            quoted(&summary.device),
            summary.engine_version.to_string(),
            number.to_string(),
            quoted(&row.trigger.to_string()),
            row.seed.to_string(),
            quoted(&row.method),
            row.repeat
                .map(|repeat| repeat.to_string())
                .unwrap_or_default(),
            row.asr.to_string(),
            row.clean_accuracy.to_string(),
            row.regained_accuracy.to_string(),
            row.wall_s.to_string(),
            optional(row.sample_asr),
            optional(row.in_level_set),
            optional(row.information_nats),
            optional(row.information_se),
            optional(row.entropy_upper_bound),
            optional(row.sample_std),
            took.map(|took| took.to_string()).unwrap_or_default(),
            row.committed.to_string(),
        ];
        text.push_str(&cells.join(","));
        text.push('\n');
    }
}

/// A cell, in quotes where it has to be.
pub(crate) fn quoted(text: &str) -> String {
    if text.contains([',', '"', '\n', '\r']) {
        format!("\"{}\"", text.replace('"', "\"\""))
    } else {
        text.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::made_up;

    #[test]
    fn keeps_fractions_and_leaves_gaps() {
        insta::assert_snapshot!(csv(&made_up::single()));
    }

    #[test]
    fn runs_of_one_preset_are_told_apart() {
        let mut newer = made_up::single();
        newer.engine_version = 3;
        let text = csv_of_all(&[&newer, &made_up::single()]);
        let rows = |run: &str| text.lines().filter(|line| line.starts_with(run)).count();
        let all = made_up::single().rows.len();
        assert_eq!(rows("made-up,cifar10,cpu,3,1,170,0,"), all);
        assert_eq!(rows("made-up,cifar10,cpu,1,2,170,0,"), all);
    }

    #[test]
    fn quotes_what_would_end_a_cell() {
        assert_eq!(quoted("a,\"b\""), "\"a,\"\"b\"\"\"");
        assert_eq!(quoted("mesa:0.9"), "mesa:0.9");
    }
}
