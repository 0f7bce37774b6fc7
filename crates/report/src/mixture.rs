//! The weights γ of `ensemble:weighted`, and what they come from.

use mesa_record::{Mixture, MixtureWeight, Summary};

use crate::{
    Table,
    format::percent_or_blank,
    metrics,
    report::run_words,
    rows::{MOST_NETWORKS, Network, named, networks, rows_of, takes},
};

/// A row for each β: γ with its error, γ at equal h, and the estimates behind them.
pub(crate) fn table(summary: &Summary) -> Option<Table> {
    let mixtures = mixtures(summary);
    let ((trigger, seed), _) = *mixtures.first()?;
    let words = run_words(summary);
    let title = match mixtures.len() {
        1 => format!("{words} · γ of ensemble:weighted, trigger {trigger}, seed {seed}"),
        2..=MOST_NETWORKS => format!("{words} · γ of ensemble:weighted"),
        _ => format!(
            "{words} · γ of ensemble:weighted, means over {} networks ± standard deviations between them",
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
    let single = mixtures.len() == 1;
    if mixtures.len() > MOST_NETWORKS {
        let all: Vec<&Mixture> = mixtures.into_iter().map(|(_, mixture)| mixture).collect();
        let means = mean_weights(&all);
        table.rows = means.iter().map(|weight| cells(None, weight)).collect();
    } else {
        for (network, mixture) in mixtures {
            let network = (!single).then_some(network);
            let weights = mixture.weights.iter();
            table
                .rows
                .extend(weights.map(|weight| cells(network, weight)));
        }
    }
    Some(table.without_blank_columns())
}

/// The weights on each network whose attack took, in the order of all tables.
fn mixtures(summary: &Summary) -> Vec<(Network<'_>, &Mixture)> {
    let taken = networks(summary)
        .into_iter()
        .filter(|network| takes(summary, *network));
    let of_network = |network| {
        let mixture = rows_of(summary, network).find_map(|row| row.mixture.as_ref())?;
        Some((network, mixture))
    };
    taken.filter_map(of_network).collect()
}

/// A measurement failed: its statistics network does worse than one that says nothing.
const NEGATIVE: &str =
    "an estimate of I is below zero by more than twice its error, which I never is";
const NOT_SAID: &str = "the estimates of I are not recorded";
const NOT_FALLING: &str = "h does not fall as β rises by more than its error";

/// On which networks γ says nothing.
pub(crate) fn note(summary: &Summary) -> Option<String> {
    let mixtures = mixtures(summary);
    let notes = [NOT_SAID, NEGATIVE, NOT_FALLING]
        .into_iter()
        .filter_map(|why| {
            let unread: Vec<String> = (mixtures.iter())
                .filter(|(_, mixture)| why_unread(mixture) == Some(why))
                .map(|(network, _)| named(*network))
                .collect();
            if unread.is_empty() {
                return None;
            }
            Some(if networks(summary).len() == 1 {
                format!("γ cannot be read: {why}")
            } else {
                format!(
                    "γ cannot be read on {} of {} networks, where {why}: {}",
                    unread.len(),
                    mixtures.len(),
                    at_most(&unread, MOST_NETWORKS)
                )
            })
        });
    let mixtures: Vec<&Mixture> = mixtures.iter().map(|(_, mixture)| *mixture).collect();
    let notes: Vec<String> = notes.chain(by_chance(&mixtures)).collect();
    (!notes.is_empty()).then(|| notes.join("; "))
}

/// What orders of the estimates are worth over several networks: how often chance alone would make h
/// fall, and how often I agrees with the Gaussian's bound on which of two sub-models is wider.
fn by_chance(mixtures: &[&Mixture]) -> Option<String> {
    let betas = mixtures.first()?.weights.len();
    let alike = mixtures
        .iter()
        .all(|mixture| mixture.weights.len() == betas);
    if mixtures.len() < 2 || betas < 2 || !alike {
        return None;
    }
    let known = mixtures.iter().map(|mixture| estimates(mixture));
    let known: Vec<_> = known.filter(|known| known.len() == betas).collect();
    let falls =
        |known: &&Vec<(f64, f64)>| known.is_sorted_by(|wider, narrower| wider.0 > narrower.0);
    let orders: usize = (1..=betas).product();
    let pairs: Vec<bool> = mixtures
        .iter()
        .flat_map(|mixture| agreements(mixture))
        .collect();
    let agree = pairs.iter().filter(|agrees| **agrees).count();
    Some(format!(
        "h falls as β rises, by however little, on {} of {} networks, where estimates in no order at all \
         would on one of {orders}; I and the bound h ≤ put {agree} of {} pairs of a network's sub-models in the \
         same order",
        known.iter().filter(falls).count(),
        known.len(),
        pairs.len()
    ))
}

/// Of each pair of a network's sub-models, whether I and the Gaussian's bound call the same one wider.
fn agreements(mixture: &Mixture) -> Vec<bool> {
    let known = mixture.weights.iter();
    let known: Vec<(f64, f64)> = known
        .filter_map(|weight| Some((weight.information_nats?, weight.entropy_upper_bound?)))
        .collect();
    let pairs = known.iter().enumerate().flat_map(|(index, one)| {
        let others = known[index + 1..].iter();
        others.map(|other| (one.0 - other.0) * (one.1 - other.1) > 0.0)
    });
    pairs.collect()
}

/// Some names of a list, and how many more there are.
fn at_most(names: &[String], most: usize) -> String {
    let (shown, rest) = names.split_at(names.len().min(most));
    let shown = shown.join(", ");
    match rest.len() {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

/// Estimates of I in nats and their standard errors, by rising β.
fn estimates(mixture: &Mixture) -> Vec<(f64, f64)> {
    let mut weights: Vec<&MixtureWeight> = mixture.weights.iter().collect();
    weights.sort_by(|a, b| a.beta.total_cmp(&b.beta));
    let known = |weight: &MixtureWeight| {
        let se = weight.information_se.unwrap_or_default();
        Some((weight.information_nats?, se))
    };
    weights.into_iter().filter_map(known).collect()
}

/// Why γ says nothing; `None` where it can be read. h, which `mesa::MixtureWeights::readable` looks at, and
/// I differ by a constant.
fn why_unread(mixture: &Mixture) -> Option<&'static str> {
    let estimates = estimates(mixture);
    if estimates.len() < mixture.weights.len() {
        return Some(NOT_SAID);
    }
    if estimates.iter().any(|(nats, se)| *nats < -2.0 * se) {
        return Some(NEGATIVE);
    }
    let falls = estimates.windows(2).all(|pair| {
        let [(wider, wider_se), (narrower, narrower_se)] = [pair[0], pair[1]];
        wider - narrower > wider_se.hypot(narrower_se)
    });
    (!falls).then_some(NOT_FALLING)
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
        nats_with_error(weight.information_nats, weight.information_se),
        nats(weight.entropy_upper_bound),
        percent_or_blank(weight.in_level_set),
    ]
}

/// Means over networks; in the place of errors the standard deviations between networks.
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
        let known = |figure: fn(&MixtureWeight) -> Option<f64>| -> Vec<f64> {
            same.iter().filter_map(|weight| figure(weight)).collect()
        };
        let mean = |figure| metrics::mean(&known(figure));
        let spread = |figure| metrics::sample_std(&known(figure));
        weights.push(MixtureWeight {
            beta: beta.beta,
            gamma: mean(|weight| Some(weight.gamma)).unwrap_or_default(),
            gamma_se: spread(|weight| Some(weight.gamma)).unwrap_or_default(),
            gamma_equal_entropy: mean(|weight| Some(weight.gamma_equal_entropy))
                .unwrap_or_default(),
            information_nats: mean(|weight| weight.information_nats),
            information_se: spread(|weight| weight.information_nats),
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
            "γ cannot be read: h does not fall as β rises by more than its error"
        );
        // Estimates of β 0.9 and 0.5, each with an error of 0.021.
        let with = |seed, nats: [f64; 2]| {
            single.rows.iter().cloned().map(move |mut row| {
                row.seed = seed;
                let weights = row
                    .mixture
                    .iter_mut()
                    .flat_map(|mixture| &mut mixture.weights);
                for (weight, nats) in weights.zip(nats) {
                    weight.information_nats = Some(nats);
                }
                row
            })
        };
        let mut several = single.clone();
        several.rows.extend(with(1, [2.0, 2.5]));
        several.rows.extend(with(2, [2.0, 2.02]));
        several.rows.extend(with(3, [2.0, -0.1]));
        for row in &mut several.rows {
            let weights = row
                .mixture
                .iter_mut()
                .flat_map(|mixture| &mut mixture.weights);
            weights.for_each(|weight| weight.entropy_upper_bound = Some(-18.0 - weight.beta));
        }
        assert_eq!(
            note(&several).unwrap(),
            "γ cannot be read on 1 of 4 networks, where an estimate of I is below zero by more than \
             twice its error, which I never is: 170 (seed 3); γ cannot be read on 2 of 4 networks, where h does not fall as β rises by \
             more than its error: 170 (seed 0), 170 (seed 2); h falls as β rises, by however little, on \
             2 of 4 networks, where estimates in no order at all would on one of 2; I and the bound h ≤ put 2 of 4 pairs of a network's sub-models in the same order"
        );
        assert_eq!(table(&several).unwrap().rows.len(), 8);
        several.rows.retain(|row| row.seed == 1);
        assert_eq!(note(&several), None);
    }

    #[test]
    fn a_large_sweep_has_means_and_how_far_networks_lie_apart() {
        let single = made_up::single();
        let mut many = single.clone();
        many.rows.clear();
        // γ of 0.04 and 0.06 by turns, and 0.05 once.
        for seed in 0..=MOST_NETWORKS as u64 {
            many.rows.extend(single.rows.iter().cloned().map(|mut row| {
                row.seed = seed;
                if let Some(mixture) = row.mixture.as_mut().filter(|_| seed > 0) {
                    mixture.weights[0].gamma += if seed % 2 == 0 { 0.01 } else { -0.01 };
                }
                row
            }));
        }
        let table = table(&many).unwrap();
        let cell = |column: &str| {
            let at = table
                .columns
                .iter()
                .position(|name| name == column)
                .unwrap();
            table.rows[0][at].clone()
        };
        assert_eq!(cell("γ"), "0.050 ± 0.010");
        assert_eq!(cell("entropy,\nnats"), "3.46 ± 0.00");
        assert!(
            table
                .title
                .contains("means over 13 networks ± standard deviations")
        );
        let note = note(&many).unwrap();
        assert!(note.contains("170 (seed 11) and 1 more"), "{note}");
    }

    #[test]
    fn networks_stand_in_the_order_of_all_tables_without_those_whose_attack_failed() {
        let single = made_up::single();
        let mut several = single.clone();
        several.rows.clear();
        for trigger in ["color:1", "170", "16"] {
            several
                .rows
                .extend(single.rows.iter().cloned().map(|mut row| {
                    row.trigger = trigger.into();
                    if trigger == "16" && row.method == "backdoored" {
                        row.asr = 0.5;
                    }
                    row
                }));
        }
        let shown = table(&several).unwrap().rows;
        let triggers: Vec<&str> = shown.iter().map(|row| row[1].as_str()).collect();
        assert_eq!(triggers, ["170", "170", "color:1", "color:1"]);
        let said = note(&several).unwrap();
        assert!(
            said.starts_with("γ cannot be read on 2 of 2 networks"),
            "{said}"
        );
    }

    #[test]
    fn without_the_weighted_ensemble_there_is_nothing_to_say() {
        let sweep = made_up::sweep();
        assert_eq!((table(&sweep), note(&sweep)), (None, None));
    }
}
