//! Means and worst cases over many networks, beside the paper's.

use std::fmt::Write as _;

use mesa_record::{Row, Summary};

use crate::{
    Table,
    format::{percent, percent_or_blank, seconds},
    metrics::{Interval, Outcome, defense_effectiveness, mean, mean_and_reach, mean_interval},
    paper::{TriggerKind, paper_figure},
    report::run_words,
    rows::{Network, Repeats, methods, networks, takes},
};

/// What a method measured over all networks of one kind of trigger whose attack took.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct MethodMeans {
    pub(crate) method: String,
    /// As all means: over networks, repeats averaged first.
    pub(crate) asr: f64,
    /// The highest ASR of a network, repeats averaged first; of the backdoored networks the lowest.
    pub(crate) worst: f64,
    /// The same of a single run.
    worst_run: f64,
    /// Of the mean over networks.
    pub(crate) interval: Option<Interval>,
    pub(crate) networks: usize,
    /// Rows: more than there are networks where a method was repeated.
    pub(crate) runs: usize,
    repeat_std: Option<f64>,
    pub(crate) clean_accuracy: f64,
    /// What it was before the attack or the defense, on the same networks, and how much less it is after.
    clean_accuracy_before: Option<f64>,
    cost: Option<f64>,
    effectiveness: Option<f64>,
    /// ASR minus that of `ideal` on the same network: the mean, and how far its interval reaches.
    above_ideal: Option<(f64, f64)>,
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

impl MethodMeans {
    /// The worst network.
    pub(crate) fn worst_words(&self) -> String {
        worst_words(&self.method, &percent(self.worst))
    }

    /// With the worst run, where a network has several.
    fn worst_words_with_run(&self) -> String {
        let mut words = self.worst_words();
        if self.runs != self.networks {
            let _ = write!(words, " (worst run {})", percent(self.worst_run));
        }
        words
    }
}

/// Two tables for each kind of trigger: means, and what they are worth.
pub(crate) fn tables(summary: &Summary) -> Vec<Table> {
    tables_with(summary, MethodMeans::worst_words)
}

/// The same for a document, which has room for the worst run of methods that were repeated.
pub(crate) fn document_tables(summary: &Summary) -> Vec<Table> {
    tables_with(summary, MethodMeans::worst_words_with_run)
}

fn tables_with(summary: &Summary, worst: fn(&MethodMeans) -> String) -> Vec<Table> {
    kinds(summary)
        .into_iter()
        .flat_map(|kind| {
            let means = means(summary, kind);
            let table = table(summary, kind, &means, worst);
            [Some(table), worth(summary, kind, &means)]
        })
        .flatten()
        .collect()
}

/// What each defense is worth, a table for each kind of trigger.
pub(crate) fn worth_tables(summary: &Summary) -> Vec<Table> {
    kinds(summary)
        .into_iter()
        .filter_map(|kind| worth(summary, kind, &means(summary, kind)))
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

fn table(
    summary: &Summary,
    kind: TriggerKind,
    means: &[MethodMeans],
    worst: fn(&MethodMeans) -> String,
) -> Table {
    let title = format!(
        "{} · {}, means over networks",
        run_words(summary),
        kind.words()
    );
    let columns = [
        "method",
        "ASR %",
        "± over\nrepeats",
        "worst",
        "networks",
        "runs",
        "paper\nASR %",
        "paper\nworst",
        "clean\nacc. %",
        "regained\n%",
        "sample\nASR %",
        "time\neach",
    ];
    let mut table = Table::new(title, &columns);
    for means in means {
        let paper = paper_figure(&summary.data, kind, &means.method);
        let papers_worst = paper.and_then(|paper| paper.worst);
        let runs = (means.runs != means.networks).then(|| means.runs.to_string());
        table.rows.push(vec![
            means.method.clone(),
            percent(means.asr),
            percent_or_blank(means.repeat_std),
            worst(means),
            means.networks.to_string(),
            runs.unwrap_or_default(),
            // As many digits as the paper prints.
            paper
                .map(|paper| paper.mean.to_string())
                .unwrap_or_default(),
            papers_worst
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

/// How sure the mean ASR is, what the defense costs, and both in one figure.
fn worth(summary: &Summary, kind: TriggerKind, means: &[MethodMeans]) -> Option<Table> {
    let what = if means.iter().any(|means| means.interval.is_some()) {
        "95 % interval of the mean ASR (Student's t over networks), cost, effectiveness"
    } else {
        "cost and effectiveness"
    };
    let title = format!("{} · {}, {what}", run_words(summary), kind.words());
    let columns = [
        "method",
        "mean\nASR %",
        "95 %\ninterval",
        "above ideal,\npoints",
        "clean acc.\nbefore %",
        "after %",
        "cost,\npoints",
        "defense\neffectiveness %",
    ];
    let mut table = Table::new(title, &columns);
    for means in means.iter().filter(|means| means.method != "clean") {
        table.rows.push(vec![
            means.method.clone(),
            percent(means.asr),
            means.interval.map(interval_words).unwrap_or_default(),
            means.above_ideal.map(reach_words).unwrap_or_default(),
            percent_or_blank(means.clean_accuracy_before),
            percent(means.clean_accuracy),
            means.cost.map(points).unwrap_or_default(),
            percent_or_blank(means.effectiveness),
        ]);
    }
    let says_something = means
        .iter()
        .any(|means| means.interval.is_some() || means.effectiveness.is_some());
    says_something.then(|| table.without_blank_columns())
}

/// An interval in percent.
fn interval_words(interval: Interval) -> String {
    format!("{} to {}", percent(interval.low), percent(interval.high))
}

/// A mean difference in points of percent with the reach of its interval.
fn reach_words((mean, reach): (f64, f64)) -> String {
    let rounded = (mean * 1e4).round() / 1e2;
    format!("{:.2} ± {:.2}", rounded + 0.0, 100.0 * reach)
}

/// A difference of fractions in points of percent, no negative zero.
pub(crate) fn points(difference: f64) -> String {
    let rounded = (difference * 1000.0).round() / 10.0;
    format!("{:.1}", rounded + 0.0)
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
    let found: Vec<(Network<'_>, Repeats<'_>)> = networks(summary)
        .into_iter()
        .filter(|network| TriggerKind::of(network.0) == kind && takes(summary, *network))
        .filter_map(|network| Some((network, Repeats::of(summary, network, method)?)))
        .collect();
    let rows: Vec<&Row> = found
        .iter()
        .flat_map(|(_, repeats)| repeats.rows().iter().copied())
        .collect();
    let worse = if method == "backdoored" {
        f64::min
    } else {
        f64::max
    };
    let worst_run = rows.iter().map(|row| row.asr).reduce(worse)?;
    let of_networks = |figure: fn(&Row) -> f64| -> Vec<f64> {
        let networks = found.iter();
        networks.map(|(_, repeats)| repeats.mean(figure)).collect()
    };
    let asrs = of_networks(|row| row.asr);
    let worst = asrs.iter().copied().reduce(worse)?;
    let mean_of = |figure: fn(&Row) -> f64| mean(&of_networks(figure)).unwrap_or_default();
    let spreads: Vec<f64> = found
        .iter()
        .filter_map(|(_, repeats)| repeats.asr_std())
        .collect();
    let of_samples: Vec<f64> = found
        .iter()
        .filter_map(|(_, repeats)| repeats.mean_known(|row| row.sample_asr))
        .collect();
    let compared = compared(summary, method, &found);
    let compared_mean = |figure: fn(&Compared) -> f64| {
        let values: Vec<f64> = compared.iter().map(figure).collect();
        mean(&values)
    };
    Some(MethodMeans {
        method: method.to_owned(),
        asr: mean_of(|row| row.asr),
        worst,
        worst_run,
        interval: mean_interval(&asrs),
        networks: found.len(),
        runs: rows.len(),
        repeat_std: mean(&spreads),
        clean_accuracy: mean_of(|row| row.clean_accuracy),
        clean_accuracy_before: compared_mean(|network| network.clean_accuracy_before),
        cost: compared_mean(|network| network.cost),
        effectiveness: compared_mean(|network| network.effectiveness)
            .filter(|_| method != "backdoored"),
        above_ideal: mean_and_reach(&above_ideal(summary, method, &found)),
        regained_accuracy: mean_of(|row| row.regained_accuracy),
        sample_asr: mean(&of_samples),
        wall_s: mean_of(|row| row.wall_s),
    })
}

/// A defense's ASR minus that of `ideal`, one for each network that has both.
fn above_ideal(summary: &Summary, method: &str, found: &[(Network<'_>, Repeats<'_>)]) -> Vec<f64> {
    if matches!(method, "clean" | "backdoored" | "ideal") {
        return Vec::new();
    }
    let differences = found.iter().filter_map(|(network, repeats)| {
        let ideal = Repeats::of(summary, *network, "ideal")?;
        Some(repeats.mean(|row| row.asr) - ideal.mean(|row| row.asr))
    });
    differences.collect()
}

/// One network before and after a defense, or the attack.
struct Compared {
    clean_accuracy_before: f64,
    cost: f64,
    effectiveness: f64,
}

/// The networks on which both were measured; none for the clean ones.
fn compared(
    summary: &Summary,
    method: &str,
    found: &[(Network<'_>, Repeats<'_>)],
) -> Vec<Compared> {
    let earlier = match method {
        "clean" => return Vec::new(),
        "backdoored" => "clean",
        _ => "backdoored",
    };
    let pairs = found.iter().filter_map(|(network, after)| {
        let before = Repeats::of(summary, *network, earlier)?.outcome();
        let effects: Vec<f64> = after
            .rows()
            .iter()
            .map(|row| {
                let after = Outcome {
                    asr: row.asr,
                    clean_accuracy: row.clean_accuracy,
                };
                defense_effectiveness(before, after)
            })
            .collect();
        Some(Compared {
            clean_accuracy_before: before.clean_accuracy,
            cost: before.clean_accuracy - after.outcome().clean_accuracy,
            effectiveness: mean(&effects)?,
        })
    });
    pairs.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::made_up;

    fn of<'a>(means: &'a [MethodMeans], method: &str) -> &'a MethodMeans {
        means.iter().find(|means| means.method == method).unwrap()
    }

    #[test]
    fn an_attack_takes_from_85_percent_on() {
        let mut sweep = made_up::sweep();
        let ended_at = |sweep: &mut Summary, asr| {
            for row in &mut sweep.rows {
                if row.trigger == "0".into() && row.method == "backdoored" {
                    row.asr = asr;
                }
            }
            means(sweep, TriggerKind::BlackWhite)[0].networks
        };
        assert_eq!(ended_at(&mut sweep, 0.8499), 2);
        assert_eq!(ended_at(&mut sweep, 0.85), 3);
    }

    #[test]
    fn networks_whose_attack_failed_stay_out() {
        // Trigger 0 of the made-up sweep ended at 20 %.
        let means = means(&made_up::sweep(), TriggerKind::BlackWhite);
        let backdoored = of(&means, "backdoored");
        assert_eq!(backdoored.networks, 2);
        assert!((backdoored.asr - 0.95).abs() < 1e-9);
        assert!((backdoored.worst - 0.94).abs() < 1e-9);
        assert!((of(&means, "mesa:0.9").worst - 0.05).abs() < 1e-9);
    }

    #[test]
    fn repeats_count_once_for_each_network_also_in_the_worst() {
        // Trigger 170: 0.1, 0.2, 0.3; trigger 16: 0.4, 0.6.
        let mut repeated = made_up::repeated();
        for row in &mut repeated.rows {
            if row.method == "point" && row.trigger == "16".into() {
                row.sample_asr = Some(0.57);
            }
        }
        let means = means(&repeated, TriggerKind::BlackWhite);
        let point = of(&means, "point");
        assert_eq!((point.networks, point.runs), (2, 5));
        assert!((point.asr - 0.35).abs() < 1e-12);
        assert!((point.worst - 0.5).abs() < 1e-12);
        assert_eq!(point.worst_words_with_run(), "50.0 (worst run 60.0)");
        // 0.97 on trigger 170, however often it was measured.
        assert!((point.sample_asr.unwrap() - 0.77).abs() < 1e-12);
        let once = of(&means, "ideal");
        assert_eq!(once.worst_words_with_run(), once.worst_words());
        let expected = mean_interval(&[0.2, 0.5]).unwrap();
        assert_eq!(point.interval, Some(expected));
        let std = f64::midpoint((0.02_f64 / 3.0).sqrt(), 0.1);
        assert!((point.repeat_std.unwrap() - std).abs() < 1e-12);
        assert_eq!(of(&means, "ideal").repeat_std, None);
    }

    #[test]
    fn effectiveness_compares_each_network_with_itself() {
        let means = means(&made_up::sweep(), TriggerKind::BlackWhite);
        // Clean accuracy stays; ASR falls from 0.96 to 0.03 and from 0.94 to 0.05.
        let expected = f64::midpoint(0.965, 0.945);
        let found = of(&means, "mesa:0.9").effectiveness.unwrap();
        assert!((found - expected).abs() < 1e-12, "{found}");
        assert_eq!(of(&means, "backdoored").effectiveness, None);
    }

    #[test]
    fn what_is_left_above_ideal_is_paired_by_network() {
        let mut sweep = made_up::sweep();
        // The mean of 0.01 and 0.03 is 0.02, s / √2 is 0.01; t with one degree of freedom is 12.706.
        let mut more = [0.01, 0.03].into_iter();
        for row in &mut sweep.rows {
            match row.method.as_str() {
                "ideal" => row.asr = 0.02,
                "mesa:0.9" if row.trigger != "0".into() => {
                    row.asr = 0.02 + more.next().unwrap_or_default();
                }
                _ => {}
            }
        }
        let means = means(&sweep, TriggerKind::BlackWhite);
        let (mean, reach) = of(&means, "mesa:0.9").above_ideal.unwrap();
        assert!((mean - 0.02).abs() < 1e-12 && (reach - 0.127_062).abs() < 1e-6);
        assert_eq!(reach_words((mean, reach)), "2.00 ± 12.71");
        assert_eq!(of(&means, "ideal").above_ideal, None);
        assert_eq!(of(&means, "backdoored").above_ideal, None);
    }

    #[test]
    fn points_have_no_negative_zero() {
        assert_eq!(
            (points(-0.0001), points(0.0123), points(-0.0123)),
            ("0.0".into(), "1.2".into(), "-1.2".into())
        );
    }
}
