//! The commands that make a run again.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::ops::Range;

use mesa_record::{Summary, TriggerName};

use crate::rows::{Network, Repeats, methods, networks};

/// The built-in settings of the command `mesa`, which `--preset` knows.
pub const PRESETS: [&str; 15] = [
    "quick",
    "cpu",
    "paper",
    "paper-color",
    "paper-cifar100",
    "cpu-cifar100",
    "cpu-target-5",
    "cpu-corner",
    "cpu-images-500",
    "cpu-images-2500",
    "cpu-patch-2x2",
    "cpu-patch-4x4",
    "cpu-patch-5x5",
    "cpu-preactresnet18",
    "cpu-retrain-0.001",
];

/// How a command starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Program {
    /// `cargo xtask reproduce`, with the preset of the record.
    Reproduce,
    /// `mesa run`, with the preset or, where that is none of the built-in ones, with the settings
    /// that the run folder has.
    Run,
}

/// The baseline, which not every preset has among its methods.
const BASELINE: &str = "point";

/// The commands that make a run, one for each set of triggers with the same seeds; the baseline,
/// where not every network has it, by commands of its own.
pub(crate) fn commands(run: &Summary, program: Program) -> Vec<String> {
    let all = networks(run);
    let has_baseline = |network: &&Network<'_>| Repeats::of(run, **network, BASELINE).is_some();
    let with: Vec<Network<'_>> = all.iter().filter(has_baseline).copied().collect();
    let mut commands = commands_of(run, program, &all, &methods_option(run));
    if !with.is_empty() && !run.preset.starts_with("paper") {
        commands.extend(commands_of(run, program, &with, " --methods point"));
    }
    commands
}

/// What a run on a GPU was told, of which its device's words tell.
fn device_options(device: &str) -> String {
    let mut options = String::new();
    if device == "cpu" {
        return options;
    }
    options.push_str(" --device cuda");
    let mut words = device.split(", ").skip(1);
    if let Some(precision) = words.find(|word| ["tf32", "f32"].contains(word)) {
        let _ = write!(options, " --precision {precision}");
    }
    if device.ends_with(", nondeterministic") {
        options.push_str(" --nondeterministic");
    }
    options
}

/// The methods of a run of the paper's settings that has not all of theirs.
fn methods_option(run: &Summary) -> String {
    let defenses: Vec<&str> = methods(run)
        .into_iter()
        .filter(|method| !["clean", "backdoored"].contains(method))
        .collect();
    let has_all = ["random", "fine-tune", BASELINE]
        .iter()
        .all(|method| defenses.contains(method));
    if !run.preset.starts_with("paper") || has_all {
        return String::new();
    }
    format!(" --methods {}", defenses.join(","))
}

fn commands_of(run: &Summary, program: Program, all: &[Network<'_>], more: &str) -> Vec<String> {
    let mut seeds_of: BTreeMap<&TriggerName, Vec<u64>> = BTreeMap::new();
    for (trigger, seed) in all {
        seeds_of.entry(trigger).or_default().push(*seed);
    }
    let mut triggers_of: BTreeMap<Vec<u64>, Vec<&TriggerName>> = BTreeMap::new();
    for (trigger, seeds) in seeds_of {
        triggers_of.entry(seeds).or_default().push(trigger);
    }
    let mut commands = Vec::new();
    for (seeds, triggers) in triggers_of {
        commands.extend(
            ranges(&seeds)
                .iter()
                .map(|seeds| command(run, program, &triggers, seeds) + more),
        );
    }
    commands
}

fn command(
    run: &Summary,
    program: Program,
    triggers: &[&TriggerName],
    seeds: &Range<u64>,
) -> String {
    let built_in = PRESETS.contains(&run.preset.as_str());
    let mut command = match program {
        Program::Reproduce => format!("cargo xtask reproduce --preset {}", run.preset),
        Program::Run if built_in => format!("mesa run --preset {}", run.preset),
        Program::Run => "mesa run --config config.toml".to_owned(),
    };
    command.push_str(&device_options(&run.device));
    if run.data == "synthetic" {
        command.push_str(" --data synthetic");
    }
    let are_patterns = triggers
        .iter()
        .all(|trigger| matches!(trigger, TriggerName::Pattern(_)));
    let names: Vec<String> = triggers.iter().map(ToString::to_string).collect();
    // There are 51 classes of patterns.
    let all = are_patterns && triggers.len() == 51;
    let list = if all {
        "all".to_owned()
    } else {
        names.join(",")
    };
    let _ = write!(command, " --triggers {list}");
    if *seeds != (0..1) {
        let _ = write!(command, " --seeds {}..{}", seeds.start, seeds.end);
    }
    command
}

/// Sorted seeds as half-open ranges.
fn ranges(seeds: &[u64]) -> Vec<Range<u64>> {
    let mut ranges: Vec<Range<u64>> = Vec::new();
    for &seed in seeds {
        match ranges.last_mut() {
            Some(range) if range.end == seed => range.end += 1,
            _ => ranges.push(seed..seed + 1),
        }
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::made_up;

    #[test]
    fn a_run_on_a_gpu_is_made_again_as_it_was() {
        let mut run = made_up::single();
        run.preset = "paper".to_owned();
        for (device, options) in [
            ("cpu", ""),
            ("A card, bf16", " --device cuda"),
            ("A card, tf32", " --device cuda --precision tf32"),
            (
                "A card, f32, nondeterministic",
                " --device cuda --precision f32 --nondeterministic",
            ),
        ] {
            device.clone_into(&mut run.device);
            let found = commands(&run, Program::Run).remove(0);
            let start = format!("mesa run --preset paper{options} --triggers 170 --methods ");
            assert!(found.starts_with(&start), "{found}");
        }
    }

    #[test]
    fn commands_say_no_more_than_was_run() {
        let expected = [
            "cargo xtask reproduce --preset made-up --triggers 0,color:3",
            "cargo xtask reproduce --preset made-up --triggers 170 --seeds 0..2",
        ];
        assert_eq!(commands(&made_up::sweep(), Program::Reproduce), expected);
        assert_eq!(ranges(&[0, 1, 4]), [0..2, 4..5]);
    }

    #[test]
    fn a_run_of_ones_own_settings_names_their_file() {
        let mut run = made_up::single();
        let expected = "mesa run --config config.toml --triggers 170";
        assert_eq!(commands(&run, Program::Run), [expected]);
        run.preset = "cpu".into();
        let expected = "mesa run --preset cpu --triggers 170";
        assert_eq!(commands(&run, Program::Run), [expected]);
    }
}
