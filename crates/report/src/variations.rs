//! What changes when one thing about the attack or the defense does: variations of a preset beside
//! the preset itself.

use std::collections::BTreeMap;

use mesa_record::{Difference, Summary};

use crate::{
    Table,
    format::percent,
    means::{MethodMeans, kinds, means},
    rows::{Network, networks},
};

/// The methods that are compared.
const METHODS: [&str; 7] = [
    "backdoored",
    "no-trigger",
    "random",
    "point",
    "mesa:0.9",
    "ensemble:turns",
    "ideal",
];

/// A row for each run whose preset is another's variation (`cpu-corner` of `cpu`), below that of
/// the preset on the same networks, once for each choice of networks; `None` where there is none.
pub(crate) fn table(runs: &[&Summary]) -> Option<Table> {
    let mut columns = vec!["preset", "changed", "networks"];
    let headings = METHODS.map(|method| format!("{method}\nASR % (worst)"));
    columns.extend(headings.iter().map(String::as_str));
    columns.push("clean acc. %\nafter mesa:0.9");
    let mut table = Table::new("Variations of a preset".to_owned(), &columns);
    for base in runs {
        let varied: Vec<&Summary> = runs
            .iter()
            .copied()
            .filter(|run| is_variation(run, base))
            .collect();
        let mut by_networks: BTreeMap<Vec<Network<'_>>, Vec<&Summary>> = BTreeMap::new();
        for run in varied {
            by_networks.entry(networks(run)).or_default().push(run);
        }
        for (networks, varied) in by_networks {
            table.rows.extend(rows(&of_networks(base, &networks), ""));
            for run in varied {
                table.rows.extend(rows(run, &changes(run, base)));
            }
        }
    }
    (!table.rows.is_empty()).then(|| table.without_blank_columns())
}

/// What a run says of some of its networks, so that like is compared with like: a trigger that is hard to
/// remove is so in all variations.
fn of_networks(run: &Summary, networks: &[Network<'_>]) -> Summary {
    let mut some = run.clone();
    some.rows
        .retain(|row| networks.contains(&(&row.trigger, row.seed)));
    some
}

/// Whether a run is a variation of another.
pub(crate) fn is_one(run: &Summary, runs: &[&Summary]) -> bool {
    runs.iter().any(|base| is_variation(run, base))
}

/// Whether a run's preset is named after another's and changes a setting, on the same data and kind
/// of device.
fn is_variation(run: &Summary, of: &Summary) -> bool {
    let named = run.preset.strip_prefix(&of.preset);
    let made_as = |run: &Summary| (run.data.clone(), run.device.clone(), run.engine_version);
    named.is_some_and(|rest| rest.starts_with('-'))
        && made_as(run) == made_as(of)
        && !changes(run, of).is_empty()
}

/// What a run's settings change of another's, in words.
fn changes(run: &Summary, base: &Summary) -> String {
    let here = |list: &[Difference], name: &str| {
        let found = list.iter().find(|difference| difference.name == name);
        found.map(|difference| difference.here.clone())
    };
    let mut changed = Vec::new();
    for difference in run.differences.iter().chain(&base.differences) {
        let name = difference.name.as_str();
        let of = |run: &Summary| here(&run.differences, name).unwrap_or(difference.paper.clone());
        let (old, new) = (of(base), of(run));
        let words = format!("{name}: {old} → {new}");
        if old != new && !changed.contains(&words) {
            changed.push(words);
        }
    }
    changed.join("; ")
}

/// A row for each kind of trigger.
fn rows(run: &Summary, changed: &str) -> Vec<Vec<String>> {
    let row = |kind| {
        let means = means(run, kind);
        let of = |method: &str| means.iter().find(|means| means.method == method);
        let asr = |means: &MethodMeans| format!("{} ({})", percent(means.asr), means.worst_words());
        let networks = of("backdoored").map(|means| means.networks.to_string());
        let mut cells = vec![
            run.preset.clone(),
            changed.to_owned(),
            networks.unwrap_or_default(),
        ];
        cells.extend(METHODS.map(|method| of(method).map(asr).unwrap_or_default()));
        let after = of("mesa:0.9").map(|means| percent(means.clean_accuracy));
        cells.push(after.unwrap_or_default());
        cells
    };
    kinds(run).into_iter().map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::made_up;

    fn named(preset: &str) -> Summary {
        Summary {
            preset: preset.to_owned(),
            ..made_up::single()
        }
    }

    #[test]
    fn a_variation_stands_below_its_preset_with_what_it_changes() {
        let mut corner = named("cpu-corner");
        corner.differences.push(Difference {
            name: "backdoor.placement".into(),
            paper: "per-image".into(),
            here: "corner".into(),
        });
        corner.differences[0].here = "3".into();
        let runs = [named("cpu"), corner, named("quick"), named("cpux")];
        let table = table(&runs.iter().collect::<Vec<_>>()).unwrap();
        let names: Vec<&str> = table.rows.iter().map(|row| row[0].as_str()).collect();
        assert_eq!(names, ["cpu", "cpu-corner"]);
        assert_eq!(
            table.rows[1][1],
            "backdoor.training.epochs: 2 → 3; backdoor.placement: per-image → corner"
        );
    }

    #[test]
    fn a_preset_is_shown_on_its_variations_networks() {
        let mut corner = named("cpu-corner");
        corner.differences[0].here = "3".into();
        let mut base = named("cpu");
        let mut others = base.rows.clone();
        for row in &mut others {
            (row.seed, row.asr) = (7, 1.0);
        }
        let alone = table(&[&base, &corner]);
        base.rows.extend(others);
        assert_eq!(table(&[&base, &corner]), alone);
        let mut both = named("cpu-target");
        both.differences[0].here = "4".into();
        both.rows = base.rows.clone();
        let table = table(&[&base, &corner, &both]).unwrap();
        let networks = table
            .rows
            .iter()
            .map(|row| format!("{} {}", row[0], row[2]));
        let networks: Vec<String> = networks.collect();
        assert_eq!(networks, ["cpu 1", "cpu-corner 1", "cpu 2", "cpu-target 2"]);
    }

    #[test]
    fn no_variation_is_no_table() {
        let (cpu, quick) = (named("cpu"), named("quick"));
        assert_eq!(table(&[&cpu, &quick]), None);
        let unchanged = named("cpu-corner");
        assert_eq!(table(&[&cpu, &unchanged]), None);
        let mut elsewhere = named("cpu-corner");
        elsewhere.differences[0].here = "3".into();
        assert!(table(&[&cpu, &elsewhere]).is_some());
        elsewhere.data = "synthetic".into();
        assert_eq!(table(&[&cpu, &elsewhere]), None);
    }
}
