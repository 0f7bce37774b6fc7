//! What searches of several networks found: as a table, with notes that hold for all of them.

use std::fmt::Write as _;

use mesa_record::{ClassDetection, Detection, Verdict};

use crate::Table;
use crate::commands::settings_options;
use crate::detection::{
    ALIKE, NO_PROOF, index_words, modeled_place, named, places_words, threshold_words,
};
use crate::detection_roc::{DEFINITION, Roc};
use crate::format::{data_words, hardware_words, percent};

/// Networks that a threshold of the rule was chosen on (docs/architecture.md, detection by place).
const CHOSEN_ON: [&str; 2] = ["corner-170-w16", "top-left-14-w16"];

/// The section of all committed detections in `docs/results.md`; each has the name of its folder.
pub(crate) fn section(detections: &[(String, &Detection)]) -> String {
    let mut text = format!(
        "\n## Detection: MESA against every class\n\n```text\n{}\n```\n\n{}",
        commands(detections).join("\n"),
        table(detections).to_markdown()
    );
    text.push('\n');
    let mut notes = notes(detections);
    if let Some(roc) = Roc::of(detections) {
        let table = roc.table();
        let _ = writeln!(text, "**{}**\n\n{}", table.title, table.to_markdown());
        // On a page it stands below the figure.
        notes.push(DEFINITION.to_owned());
    }
    for note in notes {
        let _ = writeln!(text, "- {note}");
    }
    text
}

/// The commands that make detections again.
pub(crate) fn commands(detections: &[(String, &Detection)]) -> Vec<String> {
    let mut commands: Vec<String> = detections.iter().map(|(_, found)| command(found)).collect();
    commands.sort();
    commands.dedup();
    commands
}

/// The command of one, with what is not the program's default.
fn command(found: &Detection) -> String {
    let options = settings_options(&found.preset, &found.device, &found.data);
    let mut command = format!("mesa detect MODEL{options}");
    for (option, value, default) in [
        ("beta", found.beta.to_string(), "0.9"),
        ("min-asr", found.rule_sample_asr.to_string(), "0.5"),
        ("min-index", found.rule_anomaly_index.to_string(), "3.5"),
        ("seed", found.seed.to_string(), "0"),
    ] {
        if value != default {
            let _ = write!(command, " --{option} {value}");
        }
    }
    if let Some(places) = &found.placement {
        let _ = write!(command, " --placement {places}");
    }
    command
}

/// A row for each network: its highest class, and the next.
pub(crate) fn table(detections: &[(String, &Detection)]) -> Table {
    let columns = [
        "network",
        "data",
        "preset",
        "places",
        "highest class",
        "its sample\nASR %",
        "its anomaly\nindex",
        "next sample\nASR %",
        "highest\nother index",
        "verdict",
        "in truth",
    ];
    let mut table = Table::new(String::new(), &columns);
    for (name, found) in detections {
        let mut classes: Vec<&ClassDetection> = found.classes.iter().collect();
        classes.sort_by(|a, b| b.sample_asr.total_cmp(&a.sample_asr));
        let Some((first, others)) = classes.split_first() else {
            continue;
        };
        let index = |class: &ClassDetection| class.anomaly_index.unwrap_or(f64::NEG_INFINITY);
        let highest = others.iter().max_by(|a, b| index(a).total_cmp(&index(b)));
        let verdict = match found.verdict {
            Verdict::Backdoor => "backdoor",
            Verdict::NothingFound => "nothing found",
            Verdict::Undecided => "undecided",
        };
        let in_truth = match found.backdoored {
            Some(true) => "backdoored",
            Some(false) => "clean",
            None => "",
        };
        table.rows.push(vec![
            name.clone(),
            data_words(&found.data).to_owned(),
            found.preset.clone(),
            match modeled_place(first) {
                Some(best) => format!("best, {},{}", best.row, best.column),
                None => found.placement.clone().unwrap_or_default(),
            },
            named(first),
            percent(first.sample_asr),
            index_words(first),
            others
                .first()
                .map(|next| percent(next.sample_asr))
                .unwrap_or_default(),
            highest.map(|class| index_words(class)).unwrap_or_default(),
            verdict.to_owned(),
            in_truth.to_owned(),
        ]);
    }
    table.without_blank_columns()
}

/// What a reader of that table has to know.
pub(crate) fn notes(detections: &[(String, &Detection)]) -> Vec<String> {
    if detections.is_empty() {
        return Vec::new();
    }
    let hardware =
        |found: &Detection| hardware_words(&found.device, "", found.threads, &found.processor);
    let settings = [
        by_network(detections, |found| format!("seed {}", found.seed)),
        by_network(detections, |found| format!("β = {}", found.beta)),
        by_network(detections, hardware),
    ];
    let mut notes = by_network(detections, threshold_words);
    let words = detections.iter().find_map(|(_, found)| places_words(found));
    if let Some(words) = words {
        notes.push(words.to_owned());
        notes.extend(without_places(detections));
    }
    // What differs has a note of its own, so that it is plain where it ends.
    let (shared, differing): (Vec<_>, Vec<_>) =
        settings.into_iter().partition(|words| words.len() == 1);
    let lines = [vec![shared.concat()], differing].concat();
    let lines = lines.iter().filter(|words| !words.is_empty());
    notes.extend(lines.map(|words| words.join("; ")));
    notes.extend(chosen_on(detections));
    for (verdict, words) in [
        (Verdict::NothingFound, NO_PROOF),
        (Verdict::Undecided, ALIKE),
    ] {
        if detections.iter().any(|(_, found)| found.verdict == verdict) {
            notes.push(words.to_owned());
        }
    }
    notes
}

/// Which of the networks whose verdicts are counted the rule was chosen with.
fn chosen_on(detections: &[(String, &Detection)]) -> Option<String> {
    Roc::of(detections)?;
    let is_known = |name: &&str| detections.iter().any(|(other, _)| other == name);
    let known: Vec<&str> = CHOSEN_ON.into_iter().filter(is_known).collect();
    (!known.is_empty()).then(|| {
        format!(
            "what the rule asks for in one place beyond its two thresholds was chosen with {} in view",
            known.join(" and ")
        )
    })
}

/// The networks that were searched anywhere and in no best place, by programs that did not count by place.
fn without_places(detections: &[(String, &Detection)]) -> Option<String> {
    let is_one = |found: &Detection| found.placement.is_none() && places_words(found).is_none();
    let names = detections.iter().filter(|(_, found)| is_one(found));
    let names: Vec<&str> = names.map(|(name, _)| name.as_str()).collect();
    (!names.is_empty()).then(|| {
        format!(
            "searched anywhere only, by an earlier program: {}",
            names.join(", ")
        )
    })
}

/// What is said of every network: once where it is the same of all, else with the networks of
/// which it is said, what most have last.
fn by_network(
    detections: &[(String, &Detection)],
    words: impl Fn(&Detection) -> String,
) -> Vec<String> {
    let mut said: Vec<(String, Vec<&str>)> = Vec::new();
    for (name, found) in detections {
        let words = words(found);
        match said.iter_mut().find(|(known, _)| *known == words) {
            Some((_, names)) => names.push(name),
            None => said.push((words, vec![name])),
        }
    }
    if said.len() > 1 {
        said.sort_by_key(|(_, names)| names.len());
        let last = said.len() - 1;
        for (index, (words, names)) in said.iter_mut().enumerate() {
            let whose = if index == last && names.len() > 1 {
                "the others".to_owned()
            } else {
                names.join(", ")
            };
            *words = format!("for {whose}: {words}");
        }
    }
    said.into_iter().map(|(words, _)| words).collect()
}

/// The thresholds of every rule that was followed, ASR and index.
pub(crate) fn rules(detections: &[(String, &Detection)]) -> Vec<(f64, f64)> {
    let mut rules = Vec::new();
    for (_, found) in detections {
        let rule = (found.rule_sample_asr, found.rule_anomaly_index);
        if !rules.contains(&rule) {
            rules.push(rule);
        }
    }
    rules
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::made_up::detection as made_up;

    #[test]
    fn the_committed_table_names_the_highest_class_and_the_next() {
        let text = section(&[("made-up".to_owned(), &made_up(true))]);
        let row = text
            .lines()
            .find(|line| line.starts_with("| made-up"))
            .unwrap();
        for expected in ["1 (stripes)", "94.3", "6.2", "2.1", "-0.4", "backdoor"] {
            assert!(row.contains(expected), "{row}");
        }
    }

    #[test]
    fn the_highest_other_index_is_not_always_that_of_the_next_class() {
        let mut found = made_up(true);
        let mut third = found.classes[0].clone();
        (third.sample_asr, third.anomaly_index) = (0.01, Some(2.75));
        found.classes.push(third);
        let row = &table(&[("made-up".to_owned(), &found)]).rows[0];
        assert!(row.iter().any(|cell| cell == "2.8"), "{row:?}");
        assert!(row.iter().any(|cell| cell == "2.1"), "{row:?}");
    }

    #[test]
    fn commands_say_what_is_not_the_default() {
        let mut found = made_up(true);
        let of = |found: &Detection| commands(&[("made-up".to_owned(), found)]);
        assert_eq!(
            of(&found),
            ["mesa detect MODEL --preset quick --data synthetic"]
        );
        found.data = "cifar10".to_owned();
        assert_eq!(of(&found), ["mesa detect MODEL --preset quick"]);
        found.preset = "my-own".to_owned();
        assert_eq!(of(&found), ["mesa detect MODEL --config my-own.toml"]);
        found.preset = "quick".to_owned();
        (found.rule_sample_asr, found.rule_anomaly_index) = (0.3, 2.0);
        (found.beta, found.seed) = (0.8, 7);
        found.placement = Some("fixed:29,29".to_owned());
        assert_eq!(
            of(&found),
            [
                "mesa detect MODEL --preset quick --beta 0.8 --min-asr 0.3 --min-index 2 --seed 7 \
                 --placement fixed:29,29"
            ]
        );
    }

    #[test]
    fn who_was_not_searched_by_place_is_named_beside_who_was() {
        let mut placed = made_up(true);
        placed.classes[0].best_place = Some(mesa_record::BestPlace {
            row: 1,
            column: 2,
            share: 0.5,
        });
        let (old, mut corner) = (made_up(true), made_up(true));
        corner.placement = Some("fixed:29,29".into());
        let of = |placed: &Detection| {
            let all = [("new", placed), ("old", &old), ("corner", &corner)];
            notes(&all.map(|(name, found)| (name.to_owned(), found)))
        };
        let found = of(&placed);
        let expected = "searched anywhere only, by an earlier program: old";
        assert!(found.iter().any(|note| note == expected), "{found:?}");
        assert!(!of(&old).iter().any(|note| note.starts_with("searched")));
    }

    #[test]
    fn notes_hold_for_every_network() {
        let mut found: Vec<Detection> = vec![made_up(true); 4];
        let of = |found: &[Detection]| {
            let names = ["a", "b", "c", "d"].map(str::to_owned);
            let networks: Vec<(String, &Detection)> = names.into_iter().zip(found).collect();
            notes(&networks)
        };
        let [rule, settings] = &of(&found)[..] else {
            panic!("one note on the rule, one on settings");
        };
        assert_eq!(*rule, threshold_words(&found[0]));
        assert_eq!(settings, "seed 0; β = 0.9; cpu, 2 threads, made-up");

        // The first record is the one that differs.
        found[0].seed = 1;
        found[2].beta = 0.8;
        found[3].beta = 0.5;
        found[1].rule_sample_asr = 0.6;
        let notes = of(&found);
        for (note, [whose, least]) in notes.iter().zip([
            ["for b: rule:", "60.0 %"],
            ["for the others: rule:", "50.0 %"],
        ]) {
            assert!(note.starts_with(whose) && note.contains(least), "{note}");
        }
        let settings = [
            "cpu, 2 threads, made-up",
            "for a: seed 1; for the others: seed 0",
            "for c: β = 0.8; for d: β = 0.5; for the others: β = 0.9",
        ];
        assert_eq!(notes[2..], settings);
        assert_eq!(of(&found[..2])[3], "for a: seed 1; for b: seed 0");
    }
}
