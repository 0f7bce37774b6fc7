//! What the main figure shows: for each trigger the ASR before and after, method by method.

use mesa_record::{Patch, Summary, TriggerName};

use crate::PatchOf;
use crate::metrics::{mean, population_std};
use crate::patches::patch;
use crate::rows::{Repeats, methods, networks, takes};

/// The figures of all triggers, in the order in which they are drawn.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Defense<'a> {
    /// All but the baseline where that has repeats, which is a band.
    pub(crate) methods: Vec<&'a str>,
    pub(crate) columns: Vec<Column<'a>>,
    pub(crate) order: Order,
}

/// The figures of one trigger, over all of its networks.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Column<'a> {
    pub(crate) trigger: &'a TriggerName,
    pub(crate) patch: Option<Patch>,
    pub(crate) networks: usize,
    /// The methods that were measured.
    pub(crate) figures: Vec<(&'a str, Range)>,
    pub(crate) baseline: Option<Band>,
}

/// A mean over seeds and the range of what it is of.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Range {
    pub(crate) mean: f64,
    pub(crate) low: f64,
    pub(crate) high: f64,
}

/// The baseline over all of its runs: mean and population standard deviation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Band {
    pub(crate) mean: f64,
    pub(crate) std: f64,
}

/// What the triggers are sorted by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    Baseline,
    NoTrigger,
    Number,
}

impl Order {
    pub(crate) fn words(self) -> &'static str {
        match self {
            Self::Baseline => "sorted by the mean ASR of the baseline, point",
            Self::NoTrigger => "sorted by the mean ASR of no-trigger",
            Self::Number => "sorted by number",
        }
    }
}

/// The method whose repeats are drawn as a band.
pub(crate) const BASELINE: &str = "point";

impl<'a> Defense<'a> {
    /// What a run says; nothing if it has no network whose attack took.
    pub(crate) fn of(summary: &'a Summary, patch_of: PatchOf) -> Option<Self> {
        let methods = methods(summary);
        let taken: Vec<_> = networks(summary)
            .into_iter()
            .filter(|network| takes(summary, *network))
            .filter(|(trigger, seed)| summary.row(trigger, *seed, "backdoored").is_some())
            .collect();
        let mut triggers: Vec<&TriggerName> = taken.iter().map(|(trigger, _)| *trigger).collect();
        triggers.dedup();
        let column = |trigger: &'a TriggerName| {
            let seeds: Vec<u64> = taken
                .iter()
                .filter(|(other, _)| *other == trigger)
                .map(|(_, seed)| *seed)
                .collect();
            let of = |method: &str| -> Vec<Repeats<'a>> {
                seeds
                    .iter()
                    .filter_map(|seed| Repeats::of(summary, (trigger, *seed), method))
                    .collect()
            };
            Column {
                trigger,
                patch: patch(trigger, patch_of),
                networks: seeds.len(),
                figures: methods
                    .iter()
                    .filter_map(|method| Some((*method, range(&of(method))?)))
                    .collect(),
                baseline: band(&of(BASELINE)),
            }
        };
        let mut columns: Vec<Column<'a>> = triggers.into_iter().map(column).collect();
        if columns.is_empty() {
            return None;
        }
        let order = sort(&mut columns);
        let has_band = columns.iter().any(|column| column.baseline.is_some());
        let methods = methods
            .into_iter()
            .filter(|method| !(has_band && *method == BASELINE))
            .collect();
        Some(Self {
            methods,
            columns,
            order,
        })
    }

    /// How many networks are drawn.
    pub(crate) fn networks(&self) -> usize {
        self.columns.iter().map(|column| column.networks).sum()
    }

    /// The mean over triggers of a method's means, where there is one.
    pub(crate) fn mean_of(&self, method: &str) -> Option<f64> {
        let values: Vec<f64> = self
            .columns
            .iter()
            .filter_map(|column| Some(column.range(method)?.mean))
            .collect();
        mean(&values)
    }
}

impl Column<'_> {
    /// What a method was measured at.
    pub(crate) fn range(&self, method: &str) -> Option<Range> {
        self.figures
            .iter()
            .find(|(known, _)| *known == method)
            .map(|(_, range)| *range)
    }
}

fn range(of_seeds: &[Repeats<'_>]) -> Option<Range> {
    let values: Vec<f64> = of_seeds
        .iter()
        .map(|repeats| repeats.mean(|row| row.asr))
        .collect();
    Some(Range {
        mean: mean(&values)?,
        low: values.iter().copied().reduce(f64::min)?,
        high: values.iter().copied().reduce(f64::max)?,
    })
}

/// Over all runs of all seeds, where there are repeats.
fn band(of_seeds: &[Repeats<'_>]) -> Option<Band> {
    if !of_seeds.iter().any(Repeats::are_repeats) {
        return None;
    }
    let values: Vec<f64> = of_seeds
        .iter()
        .flat_map(|repeats| repeats.rows().iter().map(|row| row.asr))
        .collect();
    Some(Band {
        mean: mean(&values)?,
        std: population_std(&values),
    })
}

/// Sorts by what all triggers have, and says by what.
fn sort(columns: &mut [Column<'_>]) -> Order {
    let all_have = |columns: &[Column<'_>], method: &str| {
        columns.iter().all(|column| column.range(method).is_some())
    };
    let (order, method) = if all_have(columns, BASELINE) {
        (Order::Baseline, BASELINE)
    } else if all_have(columns, "no-trigger") {
        (Order::NoTrigger, "no-trigger")
    } else {
        return Order::Number;
    };
    let key = |column: &Column<'_>| column.range(method).map_or(f64::NAN, |range| range.mean);
    columns.sort_by(|one, other| key(one).total_cmp(&key(other)));
    order
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::made_up;

    fn triggers(defense: &Defense<'_>) -> Vec<String> {
        let columns = defense.columns.iter();
        columns.map(|column| column.trigger.to_string()).collect()
    }

    #[test]
    fn triggers_are_sorted_by_what_all_of_them_have() {
        let mut summary = made_up::repeated();
        let defense = Defense::of(&summary, |_| None).unwrap();
        // 170: mean 0.2; 16: mean 0.5.
        assert_eq!(defense.order, Order::Baseline);
        assert_eq!(triggers(&defense), ["170", "16"]);
        summary
            .rows
            .retain(|row| row.method != "point" || row.trigger == "170".into());
        let defense = Defense::of(&summary, |_| None).unwrap();
        assert_eq!(defense.order, Order::Number);
        assert_eq!(triggers(&defense), ["16", "170"]);
        for (trigger, asr) in [("16", 0.9), ("170", 0.6)] {
            let row = mesa_record::Row::new(trigger.into(), 0, "no-trigger", [asr, 0.9, 0.1]);
            summary.rows.push(row);
        }
        let defense = Defense::of(&summary, |_| None).unwrap();
        assert_eq!(defense.order, Order::NoTrigger);
        assert_eq!(triggers(&defense), ["170", "16"]);
    }

    #[test]
    fn the_baseline_is_a_band_over_all_of_its_runs() {
        let summary = made_up::repeated();
        let defense = Defense::of(&summary, |_| None).unwrap();
        let band = defense.columns[0].baseline.unwrap();
        assert!((band.mean - 0.2).abs() < 1e-12);
        assert!((band.std - (0.02_f64 / 3.0).sqrt()).abs() < 1e-12);
        assert!(!defense.methods.contains(&"point"));
    }

    #[test]
    fn seeds_are_averaged_and_failed_attacks_left_out() {
        let summary = made_up::sweep();
        let defense = Defense::of(&summary, |_| None).unwrap();
        assert_eq!(triggers(&defense), ["170", "color:3"]);
        let mesa = defense.columns[0].range("mesa:0.9").unwrap();
        assert!((mesa.mean - 0.04).abs() < 1e-12);
        assert_eq!((mesa.low, mesa.high), (0.03, 0.05));
        assert_eq!(defense.networks(), 3);
    }

    #[test]
    fn without_an_attack_there_is_nothing_to_draw() {
        let mut summary = made_up::single();
        summary.rows.retain(|row| row.method == "clean");
        assert!(Defense::of(&summary, |_| None).is_none());
    }
}
