//! Which rows belong together: networks, methods, and the repeats of one method on one network.

use std::collections::BTreeMap;

use mesa_record::{Row, Summary, TriggerName};

use crate::metrics::{Outcome, mean, population_std};
use crate::paper::rank;

/// One attacked network: a trigger and a seed.
pub(crate) type Network<'a> = (&'a TriggerName, u64);

/// Networks that are shown one by one at most; beyond, what is said of all of them has to do.
pub(crate) const MOST_NETWORKS: usize = 12;

/// Every network, by trigger and seed.
pub(crate) fn networks(summary: &Summary) -> Vec<Network<'_>> {
    let mut networks: Vec<_> = summary
        .rows
        .iter()
        .map(|row| (&row.trigger, row.seed))
        .collect();
    networks.sort();
    networks.dedup();
    networks
}

/// The networks that every method of the run has a row of: a sweep may have been stopped within some.
pub(crate) fn complete_networks(summary: &Summary) -> Vec<Network<'_>> {
    let mut found = networks(summary);
    found.retain(|network| missing_methods(summary, *network).is_empty());
    found
}

/// The methods of the run that a network has no row of yet.
pub(crate) fn missing_methods<'a>(summary: &'a Summary, network: Network<'a>) -> Vec<&'a str> {
    let mut missing = methods(summary);
    missing.retain(|method| Repeats::of(summary, network, method).is_none());
    missing
}

/// Every method, in the order of all tables.
pub(crate) fn methods(summary: &Summary) -> Vec<&str> {
    let mut methods: Vec<_> = summary.rows.iter().map(|row| row.method.as_str()).collect();
    methods.sort_by_key(|method| rank(method));
    methods.dedup();
    methods
}

/// Whether the attack on a network took, as far as anybody knows.
pub(crate) fn takes(summary: &Summary, (trigger, seed): Network<'_>) -> bool {
    summary.attack_took(trigger, seed).unwrap_or(true)
}

/// A network in a list of them.
pub(crate) fn named((trigger, seed): Network<'_>) -> String {
    format!("{trigger} (seed {seed})")
}

/// The triggers that have the same seeds, for each set of these.
pub(crate) fn by_seeds<'a>(all: &[Network<'a>]) -> BTreeMap<Vec<u64>, Vec<&'a TriggerName>> {
    let mut seeds_of: BTreeMap<&TriggerName, Vec<u64>> = BTreeMap::new();
    for (trigger, seed) in all {
        seeds_of.entry(trigger).or_default().push(*seed);
    }
    let mut triggers_of: BTreeMap<Vec<u64>, Vec<&TriggerName>> = BTreeMap::new();
    for (trigger, seeds) in seeds_of {
        triggers_of.entry(seeds).or_default().push(trigger);
    }
    triggers_of
}

/// Whether triggers are the paper's black/white patterns, all 51.
pub(crate) fn are_all_patterns(triggers: &[&TriggerName]) -> bool {
    let mut patterns = triggers.iter();
    triggers.len() == 51 && patterns.all(|trigger| matches!(trigger, TriggerName::Pattern(_)))
}

/// Whether triggers have several seeds, which all tables take for networks of their own.
pub(crate) fn seeds_note(summary: &Summary) -> Option<String> {
    let all = networks(summary);
    let mut triggers: Vec<&TriggerName> = all.iter().map(|(trigger, _)| *trigger).collect();
    triggers.dedup();
    (triggers.len() > 1 && triggers.len() < all.len()).then(|| {
        format!(
            "{} networks of {} triggers: a trigger counts once for each of its seeds",
            all.len(),
            triggers.len()
        )
    })
}

/// Every row of a network.
pub(crate) fn rows_of<'a>(
    summary: &'a Summary,
    network: Network<'a>,
) -> impl Iterator<Item = &'a Row> {
    summary
        .rows
        .iter()
        .filter(move |row| (&row.trigger, row.seed) == network)
}

/// What a method was measured at on one network: one row, or one for each repeat of `point`.
#[derive(Clone, Debug)]
pub(crate) struct Repeats<'a> {
    /// Never empty, in the order of the repeats.
    rows: Vec<&'a Row>,
}

impl<'a> Repeats<'a> {
    /// The rows of a method on a network, if there are any.
    pub(crate) fn of(summary: &'a Summary, network: Network<'a>, method: &str) -> Option<Self> {
        let mut rows: Vec<&Row> = rows_of(summary, network)
            .filter(|row| row.method == method)
            .collect();
        rows.sort_by_key(|row| row.repeat);
        (!rows.is_empty()).then_some(Self { rows })
    }

    /// The rows.
    pub(crate) fn rows(&self) -> &[&'a Row] {
        &self.rows
    }

    /// Whether the method is one that is repeated, however often it was.
    pub(crate) fn are_repeats(&self) -> bool {
        self.rows.iter().any(|row| row.repeat.is_some())
    }

    /// How many rows.
    pub(crate) fn count(&self) -> usize {
        self.rows.len()
    }

    /// The mean of a figure that every row has.
    pub(crate) fn mean(&self, figure: fn(&Row) -> f64) -> f64 {
        let values: Vec<f64> = self.rows.iter().map(|row| figure(row)).collect();
        mean(&values).unwrap_or_default()
    }

    /// The mean of a figure over the rows that have it.
    pub(crate) fn mean_known(&self, figure: fn(&Row) -> Option<f64>) -> Option<f64> {
        let values: Vec<f64> = self.rows.iter().filter_map(|row| figure(row)).collect();
        mean(&values)
    }

    /// The population standard deviation of the ASR, where the method is one that is repeated.
    pub(crate) fn asr_std(&self) -> Option<f64> {
        let values: Vec<f64> = self.rows.iter().map(|row| row.asr).collect();
        self.are_repeats().then(|| population_std(&values))
    }

    /// ASR and clean accuracy, means over the rows.
    pub(crate) fn outcome(&self) -> Outcome {
        Outcome {
            asr: self.mean(|row| row.asr),
            clean_accuracy: self.mean(|row| row.clean_accuracy),
        }
    }
}

/// How often `point` was repeated on a network, at least and at most; none without such rows.
pub(crate) fn repeat_counts(summary: &Summary) -> Option<(usize, usize)> {
    let counts = networks(summary).into_iter().filter_map(|network| {
        let repeats = Repeats::of(summary, network, "point")?;
        repeats.are_repeats().then(|| repeats.count())
    });
    counts.fold(None, |range: Option<(usize, usize)>, count| {
        let (low, high) = range.unwrap_or((count, count));
        Some((low.min(count), high.max(count)))
    })
}

/// How often the paper repeats the baseline.
pub(crate) const PAPER_REPEATS: usize = 10;

/// How often `point` was repeated, where that is not the paper's ten times.
pub(crate) fn repeats_note(summary: &Summary) -> Option<String> {
    let counts = repeat_counts(summary)?;
    let words = count_words(counts);
    (counts != (PAPER_REPEATS, PAPER_REPEATS)).then(|| {
        format!("`point`: {words} on each network that has it; the paper has {PAPER_REPEATS}")
    })
}

/// A number of repeats, or a range of them.
pub(crate) fn count_words((low, high): (usize, usize)) -> String {
    match (low, high) {
        (1, 1) => "1 repeat".to_owned(),
        (low, high) if low == high => format!("{low} repeats"),
        (low, high) => format!("{low} to {high} repeats"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::made_up;

    #[test]
    fn repeats_are_found_and_averaged() {
        let summary = made_up::repeated();
        let trigger = "170".into();
        let point = Repeats::of(&summary, (&trigger, 0), "point").unwrap();
        assert_eq!(point.count(), 3);
        assert!((point.mean(|row| row.asr) - 0.2).abs() < 1e-12);
        assert!((point.asr_std().unwrap() - (0.02_f64 / 3.0).sqrt()).abs() < 1e-12);
        let ideal = Repeats::of(&summary, (&trigger, 0), "ideal").unwrap();
        assert_eq!((ideal.count(), ideal.asr_std()), (1, None));
        assert!(Repeats::of(&summary, (&trigger, 9), "point").is_none());
    }

    #[test]
    fn fewer_repeats_than_the_papers_are_said() {
        let mut summary = made_up::repeated();
        let note = repeats_note(&summary).unwrap();
        assert!(note.contains("2 to 3 repeats") && note.contains("the paper has 10"));
        summary.rows.retain(|row| row.method != "point");
        assert_eq!(repeats_note(&summary), None);
    }
}
