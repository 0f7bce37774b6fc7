//! The commands that make a run again.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::ops::Range;

use mesa_record::{Summary, TriggerName};

use crate::rows::{Network, Repeats, are_all_patterns, by_seeds, methods, networks};

/// The built-in settings of the command `mesa`, which `--preset` knows, and which of the paper's methods each
/// leaves out.
pub const PRESETS: [(&str, &[&str]); 15] = [
    ("quick", &["point", "ensemble:weighted"]),
    ("cpu", &["point"]),
    ("paper", &[]),
    ("paper-color", &[]),
    ("paper-cifar100", &[]),
    ("cpu-cifar100", &["point"]),
    ("cpu-target-5", &["point"]),
    ("cpu-corner", &["point"]),
    ("cpu-images-500", &["point"]),
    ("cpu-images-2500", &["point"]),
    ("cpu-patch-2x2", &["point"]),
    ("cpu-patch-4x4", &["point"]),
    ("cpu-patch-5x5", &["point"]),
    ("cpu-preactresnet18", &["point"]),
    ("cpu-retrain-0.001", &["fine-tune", "ensemble:weighted"]),
];

/// The paper's methods.
pub(crate) const PAPER: [&str; 10] = [
    "no-trigger",
    "random",
    "fine-tune",
    "point",
    "mesa:0.9",
    "mesa:0.8",
    "mesa:0.5",
    "ensemble:turns",
    "ensemble:weighted",
    "ideal",
];

/// The methods of a built-in preset, in the paper's order.
pub(crate) fn preset_methods(preset: &str) -> Option<Vec<&'static str>> {
    let (_, left_out) = PRESETS.iter().find(|(name, _)| *name == preset)?;
    let mut methods = PAPER.to_vec();
    methods.retain(|method| !left_out.contains(method));
    Some(methods)
}

/// How a command starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Program {
    /// `cargo xtask reproduce`, with the settings that the record names.
    Reproduce,
    /// `mesa run`, with the preset or, where that is none of the built-in ones, with the settings
    /// that the run folder has.
    Run,
}

/// The commands that make a run: for each set of methods, and within it for each set of triggers with the
/// same seeds. The methods of the preset need no word, those beyond them have commands of their own.
pub(crate) fn commands(run: &Summary, program: Program) -> Vec<String> {
    let usual = preset_methods(&run.preset);
    let mut networks_of: BTreeMap<Vec<&str>, Vec<Network<'_>>> = BTreeMap::new();
    for network in networks(run) {
        let has = |method: &&str| Repeats::of(run, network, method).is_some();
        let mut done: Vec<&str> = methods(run).into_iter().filter(has).collect();
        done.retain(|method| !["clean", "backdoored"].contains(method));
        if let Some(usual) = &usual
            && usual.iter().all(|method| done.contains(method))
        {
            networks_of.entry(Vec::new()).or_default().push(network);
            done.retain(|method| !usual.contains(method));
        }
        if !done.is_empty() {
            networks_of.entry(done).or_default().push(network);
        }
    }
    if networks_of.is_empty() {
        // Stopped before the first defense.
        networks_of.insert(Vec::new(), networks(run));
    }
    let commands = networks_of.iter().flat_map(|(methods, networks)| {
        let more = if methods.is_empty() {
            String::new()
        } else {
            format!(" --methods {}", methods.join(","))
        };
        commands_of(run, program, networks, &more)
    });
    commands.collect()
}

/// What a command was told of its settings, its device and its data, of which a record has the names: the preset
/// or, where that is none of the built-in ones, the file of settings that it was called after.
pub(crate) fn settings_options(preset: &str, device: &str, data: &str) -> String {
    settings_options_from(&format!("{preset}.toml"), preset, device, data)
}

/// The same, with another name of the file.
fn settings_options_from(file: &str, preset: &str, device: &str, data: &str) -> String {
    let built_in = PRESETS.iter().any(|(name, _)| *name == preset);
    let settings = if built_in {
        format!(" --preset {preset}")
    } else {
        format!(" --config {file}")
    };
    // The preset's own data needs no word. What data a file of settings has is not known here.
    let usual = match (built_in, preset.ends_with("-cifar100")) {
        (true, true) => data == "cifar100",
        (true, false) => data == "cifar10",
        (false, _) => data.starts_with("cifar"),
    };
    let from = match data {
        _ if usual => "",
        "synthetic" => " --data synthetic",
        _ => " --data DIR",
    };
    format!("{settings}{}{from}", device_options(device))
}

/// What a run on a GPU was told, of which its device's words tell.
fn device_options(device: &str) -> String {
    let mut options = String::new();
    // Early plans do not say it.
    if ["cpu", ""].contains(&device) {
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

fn commands_of(run: &Summary, program: Program, all: &[Network<'_>], more: &str) -> Vec<String> {
    let mut commands = Vec::new();
    for (seeds, triggers) in by_seeds(all) {
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
    let (preset, device, data) = (&run.preset, &run.device, &run.data);
    let mut command = match program {
        Program::Reproduce => {
            let options = settings_options(preset, device, data);
            format!("cargo xtask reproduce{options}")
        }
        Program::Run => {
            let options = settings_options_from("config.toml", preset, device, data);
            format!("mesa run{options}")
        }
    };
    let names: Vec<String> = triggers.iter().map(ToString::to_string).collect();
    let list = if are_all_patterns(triggers) {
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
    fn settings_and_data_are_named_as_the_program_takes_them() {
        for (preset, device, data, options) in [
            ("cpu", "cpu", "cifar10", "--preset cpu"),
            ("quick", "", "synthetic", "--preset quick --data synthetic"),
            ("quick", "cpu", "cifar100", "--preset quick --data DIR"),
            ("cpu-cifar100", "cpu", "cifar100", "--preset cpu-cifar100"),
            (
                "my-own",
                "A card, bf16",
                "cifar100",
                "--config my-own.toml --device cuda",
            ),
            ("my-own", "cpu", "folder", "--config my-own.toml --data DIR"),
        ] {
            let found = settings_options(preset, device, data);
            assert_eq!(found, format!(" {options}"));
        }
    }

    #[test]
    fn commands_say_no_more_and_no_less_than_was_run() {
        let methods = "--methods mesa:0.9,ideal";
        let of = |run: &Summary| commands(run, Program::Reproduce);
        let mut run = made_up::sweep();
        let ran: Vec<&str> = super::methods(&run).split_off(2);
        assert_eq!(format!("--methods {}", ran.join(",")), methods);
        let expected = [
            format!("cargo xtask reproduce --config made-up.toml --triggers 0,color:3 {methods}"),
            format!(
                "cargo xtask reproduce --config made-up.toml --triggers 170 --seeds 0..2 {methods}"
            ),
        ];
        assert_eq!(of(&run), expected);
        // Less than the preset has.
        run.preset = "cpu".to_owned();
        assert!(of(&run).iter().all(|command| command.ends_with(methods)));
        // All that it has, and more on one network.
        let mut run = made_up::many(2);
        run.preset = "cpu".to_owned();
        run.rows
            .retain(|row| row.trigger == "0".into() || row.method != "point");
        let expected = [
            "cargo xtask reproduce --preset cpu --triggers 0,9",
            "cargo xtask reproduce --preset cpu --triggers 0 --methods point",
        ];
        assert_eq!(of(&run), expected);
        run.preset = "paper".to_owned();
        assert_eq!(of(&run).len(), 2);
        run.rows.retain(|row| row.trigger == "0".into());
        assert_eq!(
            of(&run),
            ["cargo xtask reproduce --preset paper --triggers 0"]
        );
    }

    #[test]
    fn a_run_that_was_stopped_after_the_attack_has_a_command() {
        let mut run = made_up::single();
        run.preset = "cpu".to_owned();
        run.rows.retain(|row| row.method == "backdoored");
        let expected = ["mesa run --preset cpu --triggers 170"];
        assert_eq!(commands(&run, Program::Run), expected);
    }

    #[test]
    fn seeds_become_ranges() {
        assert_eq!(ranges(&[0, 1, 4]), [0..2, 4..5]);
    }

    #[test]
    fn a_run_of_ones_own_settings_names_their_file() {
        let mut run = made_up::single();
        let start = |run: &Summary, start: &str| {
            let found = commands(run, Program::Run);
            assert!(found.len() == 1 && found[0].starts_with(start), "{found:?}");
        };
        start(
            &run,
            "mesa run --config config.toml --triggers 170 --methods ",
        );
        run.preset = "cpu".into();
        start(&run, "mesa run --preset cpu --triggers 170");
    }
}
