//! The table of a run that is still at work.

use mesa_record::Summary;

use crate::{
    Table,
    format::percent,
    means::{kinds, means, worst_words},
};

/// What a run has measured so far, few columns wide: a row for each method and kind of trigger.
///
/// # Examples
///
/// ```
/// let summary: mesa_record::Summary = serde_json::from_str(
///     r#"{"preset": "quick", "data": "cifar10", "device": "cpu", "wall_s": 200.0,
///         "peak_rss_mb": 500.0, "rows": [{"trigger": 170, "seed": 0, "method": "ideal",
///         "asr": 0.021, "clean_accuracy": 0.91, "regained_accuracy": 0.9, "wall_s": 40.0}]}"#,
/// )?;
/// let table = mesa_report::live_table(&summary);
/// assert_eq!(table.rows, [["ideal", "2.1 (2.1)", "1", "91.0"]]);
/// # Ok::<(), serde_json::Error>(())
/// ```
pub fn live_table(summary: &Summary) -> Table {
    let columns = ["method", "ASR % (worst)", "networks", "clean acc. %"];
    let mut table = Table::new(String::new(), &columns);
    for kind in kinds(summary) {
        for means in means(summary, kind) {
            let worst = worst_words(&means.method, &percent(means.worst));
            table.rows.push(vec![
                means.method.clone(),
                format!("{} ({worst})", percent(means.asr)),
                means.count.to_string(),
                percent(means.clean_accuracy),
            ]);
        }
    }
    table
}
