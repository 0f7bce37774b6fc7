//! What a run found, in one sentence.

use mesa_record::Summary;

use crate::format::{counted, data_words, percent};
use crate::means::points;
use crate::metrics::{Outcome, mean};
use crate::rows::{Network, Repeats, methods, networks, takes};

const NETWORK: &str = "backdoored network";

/// What the defense does to the attacker's trigger and what it costs, over all networks that have
/// both figures.
pub(crate) fn verdict(summary: &Summary) -> String {
    let backdoored: Vec<(Network<'_>, Outcome)> = networks(summary)
        .into_iter()
        .filter(|network| takes(summary, *network))
        .filter_map(|network| {
            let before = Repeats::of(summary, network, "backdoored")?;
            Some((network, before.outcome()))
        })
        .collect();
    let Some(method) = defense_of(summary) else {
        return undefended(summary, &backdoored);
    };
    let pairs: Vec<(Outcome, Outcome)> = backdoored
        .iter()
        .filter_map(|(network, before)| {
            let after = Repeats::of(summary, *network, method)?;
            Some((*before, after.outcome()))
        })
        .collect();
    if pairs.is_empty() {
        return undefended(summary, &backdoored);
    }
    let mean_of = |figure: &dyn Fn(&(Outcome, Outcome)) -> f64| {
        let values: Vec<f64> = pairs.iter().map(figure).collect();
        mean(&values).unwrap_or_default()
    };
    let cost = mean_of(&|(before, after)| before.clean_accuracy - after.clean_accuracy);
    format!(
        "On {} {} brings the attack success rate of the attacker's trigger from {} % to {} % {} \
         ({}).",
        counted(pairs.len(), NETWORK),
        words(method),
        percent(mean_of(&|(before, _)| before.asr)),
        percent(mean_of(&|(_, after)| after.asr)),
        cost_words(cost),
        run_words(summary)
    )
}

/// The method that a report opens with: MESA at the highest β, else whatever defense there is.
fn defense_of(summary: &Summary) -> Option<&str> {
    let methods = methods(summary);
    let defenses = methods
        .iter()
        .copied()
        .filter(|method| !matches!(*method, "clean" | "backdoored" | "no-trigger" | "random"));
    let starts = |start: &'static str| {
        let mut of_kind = defenses
            .clone()
            .filter(move |method| method.starts_with(start));
        of_kind.next()
    };
    starts("mesa:")
        .or_else(|| starts("ensemble:"))
        .or_else(|| starts(""))
}

fn undefended(summary: &Summary, backdoored: &[(Network<'_>, Outcome)]) -> String {
    let run = run_words(summary);
    let asrs: Vec<f64> = backdoored.iter().map(|(_, before)| before.asr).collect();
    if let Some(asr) = mean(&asrs) {
        return format!(
            "Nothing has been defended yet: the attacker's trigger reaches {} % on {} ({run}).",
            percent(asr),
            counted(asrs.len(), NETWORK)
        );
    }
    let missed = networks(summary)
        .into_iter()
        .filter(|network| !takes(summary, *network))
        .count();
    match missed {
        0 => format!("There is no backdoored network yet ({run})."),
        1 => format!("The attack did not take on the only network ({run})."),
        count => format!("The attack took on none of {count} networks ({run})."),
    }
}

fn words(method: &str) -> String {
    if let Some(beta) = method.strip_prefix("mesa:") {
        return format!("MESA at β = {beta}");
    }
    match method {
        "ensemble:turns" => "MESA's ensemble by turns".to_owned(),
        "ensemble:weighted" => "MESA's weighted ensemble".to_owned(),
        other => format!("the method {other}"),
    }
}

fn cost_words(cost: f64) -> String {
    let words = points(cost.abs());
    if words == "0.0" {
        "at a cost of 0.0 points of clean accuracy".to_owned()
    } else if cost > 0.0 {
        format!("at a cost of {words} points of clean accuracy")
    } else {
        format!("with clean accuracy {words} points higher")
    }
}

/// Preset, kind and width of the network where the record tells them, data.
fn run_words(summary: &Summary) -> String {
    let differing = |name: &str| {
        let found = summary.differences.iter().find(|found| found.name == name);
        found.map(|difference| difference.here.as_str())
    };
    let kind = differing("network.architecture").map(|kind| format!("{kind}, "));
    let here = differing("network.width");
    // What differs in other values and not in this one has the paper's.
    let papers = summary.preset == "paper" || !summary.differences.is_empty();
    let width = here.or(papers.then_some("64"));
    let width = width.map(|width| format!("width {width}, "));
    format!(
        "preset {}, {}{}{}",
        summary.preset,
        kind.unwrap_or_default(),
        width.unwrap_or_default(),
        data_words(&summary.data)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::made_up;

    #[test]
    fn the_sentence_compares_networks_with_themselves() {
        let expected = "On 3 backdoored networks MESA at β = 0.9 brings the attack success rate \
            of the attacker's trigger from 96.3 % to 3.3 % at a cost of 0.0 points of clean \
            accuracy (preset made-up, width 64, CIFAR-10).";
        assert_eq!(verdict(&made_up::sweep()), expected);
    }

    #[test]
    fn a_half_finished_sweep_says_how_far_it_is() {
        let mut sweep = made_up::sweep();
        sweep
            .rows
            .retain(|row| row.method != "mesa:0.9" || row.seed == 1);
        assert!(verdict(&sweep).starts_with("On one backdoored network MESA at β = 0.9"));
        sweep
            .rows
            .retain(|row| ["clean", "backdoored"].contains(&row.method.as_str()));
        let words = verdict(&sweep);
        assert!(
            words.starts_with("Nothing has been defended yet") && words.contains("96.3 % on 3"),
            "{words}"
        );
        sweep.rows.clear();
        assert!(verdict(&sweep).starts_with("There is no backdoored network yet"));
    }

    #[test]
    fn attacks_that_did_not_take_are_no_backdoors() {
        let mut sweep = made_up::sweep();
        sweep.rows.retain(|row| row.trigger == "0".into());
        let words = verdict(&sweep);
        assert!(
            words.starts_with("The attack did not take on the only network"),
            "{words}"
        );
    }

    #[test]
    fn costs_and_gains_are_told_apart() {
        assert_eq!(
            cost_words(0.012),
            "at a cost of 1.2 points of clean accuracy"
        );
        assert_eq!(cost_words(-0.012), "with clean accuracy 1.2 points higher");
        assert!(cost_words(-0.0001).starts_with("at a cost of 0.0"));
    }
}
