//! Means and worst cases over many networks, beside the paper's.

use mesa_record::{Row, Summary};

use crate::{
    Table, TriggerKind,
    format::{percent, percent_or_blank, seconds},
    paper::paper_figure,
    report::{methods, run_words, takes},
};

/// What a method measured over all networks of one kind of trigger whose attack took.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct MethodMeans {
    pub(crate) method: String,
    pub(crate) asr: f64,
    /// The highest ASR; of the backdoored networks the lowest.
    pub(crate) worst: f64,
    pub(crate) count: usize,
    pub(crate) clean_accuracy: f64,
    regained_accuracy: f64,
    sample_asr: Option<f64>,
    wall_s: f64,
}

/// The means of every method, in the order of all tables.
pub(crate) fn means(summary: &Summary, kind: TriggerKind) -> Vec<MethodMeans> {
    methods(summary)
        .into_iter()
        .filter_map(|method| method_means(summary, kind, method))
        .collect()
}

/// One table for each kind of trigger.
pub(crate) fn tables(summary: &Summary) -> Vec<Table> {
    kinds(summary)
        .into_iter()
        .map(|kind| table(summary, kind))
        .collect()
}

/// The kinds of triggers that a run has.
pub(crate) fn kinds(summary: &Summary) -> Vec<TriggerKind> {
    let mut kinds: Vec<_> = summary
        .rows
        .iter()
        .map(|row| TriggerKind::of(&row.trigger))
        .collect();
    kinds.sort_unstable();
    kinds.dedup();
    kinds
}

fn table(summary: &Summary, kind: TriggerKind) -> Table {
    let title = format!(
        "{} · {}, means over networks",
        run_words(summary),
        kind.words()
    );
    let columns = [
        "method",
        "ASR %",
        "worst",
        "networks",
        "paper\nASR %",
        "paper\nworst",
        "clean\nacc. %",
        "regained\n%",
        "sample\nASR %",
        "time\neach",
    ];
    let mut table = Table::new(title, &columns);
    for means in means(summary, kind) {
        let paper = paper_figure(&summary.data, kind, &means.method);
        let worst = paper.and_then(|paper| paper.worst);
        table.rows.push(vec![
            means.method.clone(),
            percent(means.asr),
            worst_words(&means.method, &percent(means.worst)),
            means.count.to_string(),
            // As many digits as the paper prints.
            paper
                .map(|paper| paper.mean.to_string())
                .unwrap_or_default(),
            worst
                .map(|worst| worst_words(&means.method, &format!("{worst:.1}")))
                .unwrap_or_default(),
            percent(means.clean_accuracy),
            percent(means.regained_accuracy),
            percent_or_blank(means.sample_asr),
            seconds(means.wall_s),
        ]);
    }
    table.without_blank_columns()
}

/// Before the defense the worst case is the attacker's: the lowest figure.
pub(crate) fn worst_words(method: &str, figure: &str) -> String {
    if method == "backdoored" {
        format!("lowest {figure}")
    } else {
        figure.to_owned()
    }
}

fn method_means(summary: &Summary, kind: TriggerKind, method: &str) -> Option<MethodMeans> {
    let rows: Vec<&Row> = summary
        .rows
        .iter()
        .filter(|row| row.method == method && TriggerKind::of(&row.trigger) == kind)
        .filter(|row| takes(summary, (&row.trigger, row.seed)))
        .collect();
    let worse = if method == "backdoored" {
        f64::min
    } else {
        f64::max
    };
    let worst = rows.iter().map(|row| row.asr).reduce(worse)?;
    let mean = |figure: fn(&Row) -> f64| {
        rows.iter().map(|row| figure(row)).sum::<f64>() / rows.len() as f64
    };
    let of_samples: Vec<f64> = rows.iter().filter_map(|row| row.sample_asr).collect();
    let sample_asr =
        (!of_samples.is_empty()).then(|| of_samples.iter().sum::<f64>() / of_samples.len() as f64);
    Some(MethodMeans {
        method: method.to_owned(),
        asr: mean(|row| row.asr),
        worst,
        count: rows.len(),
        clean_accuracy: mean(|row| row.clean_accuracy),
        regained_accuracy: mean(|row| row.regained_accuracy),
        sample_asr,
        wall_s: mean(|row| row.wall_s),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::made_up;

    #[test]
    fn an_attack_takes_from_85_percent_on() {
        let mut sweep = made_up::sweep();
        let ended_at = |sweep: &mut Summary, asr| {
            for row in &mut sweep.rows {
                if row.trigger == "0".into() && row.method == "backdoored" {
                    row.asr = asr;
                }
            }
            means(sweep, TriggerKind::BlackWhite)[0].count
        };
        assert_eq!(ended_at(&mut sweep, 0.8499), 2);
        assert_eq!(ended_at(&mut sweep, 0.85), 3);
    }

    #[test]
    fn networks_whose_attack_failed_stay_out() {
        // Trigger 0 of the made-up sweep ended at 20 %.
        let means = means(&made_up::sweep(), TriggerKind::BlackWhite);
        let backdoored = means
            .iter()
            .find(|means| means.method == "backdoored")
            .unwrap();
        assert_eq!(backdoored.count, 2);
        assert!((backdoored.asr - 0.95).abs() < 1e-9);
        assert!((backdoored.worst - 0.94).abs() < 1e-9);
        let mesa = means
            .iter()
            .find(|means| means.method == "mesa:0.9")
            .unwrap();
        assert!((mesa.worst - 0.05).abs() < 1e-9);
    }
}
