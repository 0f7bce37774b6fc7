//! The weights γ of `ensemble:weighted`, and what they come from.

use mesa_record::{Mixture, MixtureWeight, Row, Summary};

use crate::{
    Table,
    format::percent_or_blank,
    report::run_words,
    rows::{Network, named, networks},
};

/// Networks whose weights are listed one by one at most; beyond, their means have to do.
const MOST_NETWORKS: usize = 12;

/// A row for each β: γ with its error, γ at equal h, and the estimates behind them.
pub(crate) fn table(summary: &Summary) -> Option<Table> {
    let mixtures: Vec<(&Row, &Mixture)> = summary
        .rows
        .iter()
        .filter_map(|row| Some((row, row.mixture.as_ref()?)))
        .collect();
    let (first, _) = mixtures.first()?;
    let words = run_words(summary);
    let title = match networks(summary).len() {
        1 => format!(
            "{words} · γ of ensemble:weighted, trigger {}, seed {}",
            first.trigger, first.seed
        ),
        2..=MOST_NETWORKS => format!("{words} · γ of ensemble:weighted"),
        _ => format!(
            "{words} · γ of ensemble:weighted, means over {} networks",
            mixtures.len()
        ),
    };
    let columns = [
        "β",
        "trigger",
        "seed",
        "γ",
        "γ at\nequal h",
        "entropy,\nnats",
        "h ≤,\nnats",
        "in level\nset %",
    ];
    let mut table = Table::new(title, &columns);
    let single = networks(summary).len() == 1;
    if networks(summary).len() > MOST_NETWORKS {
        let all: Vec<&Mixture> = mixtures.into_iter().map(|(_, mixture)| mixture).collect();
        let means = mean_weights(&all);
        table.rows = means.iter().map(|weight| cells(None, weight)).collect();
    } else {
        for (row, mixture) in mixtures {
            let network = (!single).then_some((&row.trigger, row.seed));
            let weights = mixture.weights.iter();
            table
                .rows
                .extend(weights.map(|weight| cells(network, weight)));
        }
    }
    Some(table.without_blank_columns())
}

/// On which networks γ says nothing.
pub(crate) fn note(summary: &Summary) -> Option<String> {
    let mixed = summary.rows.iter().filter_map(|row| {
        let readable = row.mixture.as_ref()?.readable;
        Some(((&row.trigger, row.seed), readable))
    });
    let (read, unread): (Vec<_>, Vec<_>) = mixed.partition(|(_, readable)| *readable);
    if unread.is_empty() {
        return None;
    }
    let why = "h does not fall as β rises";
    if networks(summary).len() == 1 {
        return Some(format!("γ cannot be read: {why}"));
    }
    let names: Vec<String> = unread.iter().map(|(network, _)| named(*network)).collect();
    Some(format!(
        "γ cannot be read on {} of {} networks, where {why}: {}",
        unread.len(),
        read.len() + unread.len(),
        names.join(", ")
    ))
}

fn cells(network: Option<Network<'_>>, weight: &MixtureWeight) -> Vec<String> {
    let (trigger, seed) = network
        .map(|(trigger, seed)| (trigger.to_string(), seed.to_string()))
        .unwrap_or_default();
    vec![
        weight.beta.to_string(),
        trigger,
        seed,
        format!("{:.3} ± {:.3}", weight.gamma, weight.gamma_se),
        format!("{:.3}", weight.gamma_equal_entropy),
        nats_with_error(weight.entropy_nats, weight.entropy_se),
        nats(weight.entropy_upper_bound),
        percent_or_blank(weight.in_level_set),
    ]
}

/// Means over networks; the errors are means too, not those of the means.
fn mean_weights(mixtures: &[&Mixture]) -> Vec<MixtureWeight> {
    let mut weights: Vec<MixtureWeight> = Vec::new();
    for beta in mixtures.iter().flat_map(|mixture| &mixture.weights) {
        if weights
            .iter()
            .any(|known| known.beta.to_bits() == beta.beta.to_bits())
        {
            continue;
        }
        let same: Vec<&MixtureWeight> = mixtures
            .iter()
            .flat_map(|mixture| &mixture.weights)
            .filter(|weight| weight.beta.to_bits() == beta.beta.to_bits())
            .collect();
        let mean = |figure: fn(&MixtureWeight) -> Option<f64>| {
            let known: Vec<f64> = same.iter().filter_map(|weight| figure(weight)).collect();
            (!known.is_empty()).then(|| known.iter().sum::<f64>() / known.len() as f64)
        };
        weights.push(MixtureWeight {
            beta: beta.beta,
            gamma: mean(|weight| Some(weight.gamma)).unwrap_or_default(),
            gamma_se: mean(|weight| Some(weight.gamma_se)).unwrap_or_default(),
            gamma_equal_entropy: mean(|weight| Some(weight.gamma_equal_entropy))
                .unwrap_or_default(),
            entropy_nats: mean(|weight| weight.entropy_nats),
            entropy_se: mean(|weight| weight.entropy_se),
            entropy_upper_bound: mean(|weight| weight.entropy_upper_bound),
            in_level_set: mean(|weight| weight.in_level_set),
        });
    }
    weights
}

/// An estimate in nats with its standard error, or nothing.
pub(crate) fn nats_with_error(nats: Option<f64>, error: Option<f64>) -> String {
    match (nats, error) {
        (Some(nats), Some(error)) => format!("{nats:.2} ± {error:.2}"),
        (Some(nats), None) => format!("{nats:.2}"),
        _ => String::new(),
    }
}

/// A figure in nats, or nothing.
pub(crate) fn nats(figure: Option<f64>) -> String {
    figure.map(|nats| format!("{nats:.2}")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::made_up;

    #[test]
    fn one_network_has_a_row_for_each_beta_with_all_that_gamma_comes_from() {
        insta::assert_snapshot!(table(&made_up::single()).unwrap().to_terminal());
    }

    #[test]
    fn unreadable_weights_are_said_and_counted() {
        let single = made_up::single();
        assert_eq!(
            note(&single).unwrap(),
            "γ cannot be read: h does not fall as β rises"
        );
        let mut two = single.clone();
        two.rows.extend(single.rows.into_iter().map(|mut row| {
            row.seed = 1;
            if let Some(mixture) = &mut row.mixture {
                mixture.readable = true;
            }
            row
        }));
        assert_eq!(
            note(&two).unwrap(),
            "γ cannot be read on 1 of 2 networks, where h does not fall as β rises: 170 (seed 0)"
        );
        assert_eq!(table(&two).unwrap().rows.len(), 4);
        two.rows.retain(|row| row.seed == 1);
        assert_eq!(note(&two), None);
    }

    #[test]
    fn a_large_sweep_has_means() {
        let single = made_up::single();
        let mut many = single.clone();
        for seed in 1..=MOST_NETWORKS as u64 {
            many.rows.extend(single.rows.iter().cloned().map(|mut row| {
                row.seed = seed;
                row
            }));
        }
        let (few, many) = (table(&single).unwrap(), table(&many).unwrap());
        assert_eq!(few.rows, many.rows);
        assert!(many.title.ends_with("means over 13 networks"));
    }

    #[test]
    fn without_the_weighted_ensemble_there_is_nothing_to_say() {
        let sweep = made_up::sweep();
        assert_eq!((table(&sweep), note(&sweep)), (None, None));
    }
}
