//! The table of a run that is still at work.

use mesa_record::Summary;

use crate::{
    Table,
    format::percent,
    means::{kinds, means},
    report::attack_note,
};

/// What a run has measured so far, few columns wide: a line for each method and kind of trigger,
/// and which attacks did not take.
///
/// # Examples
///
/// ```
/// let summary: mesa_record::Summary = serde_json::from_str(
///     r#"{"preset": "quick", "data": "cifar10", "device": "cpu", "wall_s": 200.0,
///         "peak_rss_mb": 500.0, "rows": [{"trigger": 170, "seed": 0, "method": "ideal",
///         "asr": 0.021, "clean_accuracy": 0.91, "regained_accuracy": 0.9, "wall_s": 40.0}]}"#,
/// )?;
/// let text = mesa_report::live_text(&summary);
/// assert!(text.contains("ideal") && text.contains("2.1 (2.1)"));
/// # Ok::<(), serde_json::Error>(())
/// ```
pub fn live_text(summary: &Summary) -> String {
    let columns = ["method", "ASR % (worst)", "networks", "clean acc. %"];
    let mut table = Table::new(String::new(), &columns);
    for kind in kinds(summary) {
        for means in means(summary, kind) {
            table.rows.push(vec![
                means.method.clone(),
                format!("{} ({})", percent(means.asr), means.worst_words()),
                means.networks.to_string(),
                percent(means.clean_accuracy),
            ]);
        }
    }
    let mut text = table.to_terminal().trim().to_owned();
    if let Some(note) = attack_note(summary) {
        text.push('\n');
        text.push_str(&note);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::made_up;

    #[test]
    fn a_sweep_at_work_shows_means_and_failed_attacks() {
        insta::assert_snapshot!(live_text(&made_up::sweep()));
    }
}
