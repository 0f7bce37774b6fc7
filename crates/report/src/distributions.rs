//! Distributions of triggers in a report.

use maud::html;
use mesa_record::Distribution;

use crate::Table;
use crate::format::{data_words, percent};
use crate::html::table_markup;
use crate::mixture::{nats, nats_with_error};

/// What is known of the samples of several sub-models, as HTML: one table for each network.
///
/// This is the one place of a report that shows distributions; pictures of the samples belong above
/// each table.
pub(crate) fn distributions_section(distributions: &[Distribution]) -> String {
    let markup = html! {
        @for distribution in distributions {
            (table_markup(&distribution_table(distribution), &[]))
        }
    };
    markup.into_string()
}

/// A row for each pair of β and α.
pub(crate) fn distribution_table(distribution: &Distribution) -> Table {
    let title = format!(
        "{} · {} · trigger {}, seed {}, target class {}: the attacker's trigger reaches {} %",
        distribution.preset,
        data_words(&distribution.data),
        distribution.trigger,
        distribution.seed,
        distribution.target_class,
        percent(distribution.true_trigger_asr)
    );
    let columns = [
        "β",
        "α",
        "samples",
        "sample\nASR %",
        "in level\nset %",
        "entropy,\nnats",
        "h ≤,\nnats",
        "pixel std",
    ];
    let mut table = Table::new(title, &columns);
    table.rows = distribution
        .panels
        .iter()
        .map(|panel| {
            vec![
                panel.beta.to_string(),
                panel.alpha.to_string(),
                panel.samples.len().to_string(),
                percent(panel.sample_asr),
                percent(panel.in_level_set),
                nats_with_error(Some(panel.entropy_nats), Some(panel.entropy_se)),
                nats(Some(panel.entropy_upper_bound)),
                format!("{:.2}", panel.sample_std),
            ]
        })
        .collect();
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::made_up;

    #[test]
    fn every_pair_of_beta_and_alpha_is_a_row() {
        let distribution = made_up::distribution();
        let table = distribution_table(&distribution);
        assert_eq!(table.rows.len(), 2);
        let expected = [
            "0.9",
            "0.1",
            "1",
            "91.0",
            "80.0",
            "-1.50 ± 0.02",
            "-9.25",
            "0.30",
        ];
        assert_eq!(table.rows[0], expected);
        let html = distributions_section(&[distribution]);
        assert!(
            html.contains("trigger 170") && html.contains("91.0"),
            "{html}"
        );
    }
}
