//! What a search for backdoors found: in words, as a table, as a bar chart.

use std::fmt::Write as _;

use mesa_record::{ClassDetection, Detection, Verdict};

use crate::Table;
use crate::detection_roc::{DEFINITION, Roc};
use crate::format::{data_words, hardware_words, percent};
use crate::svg::{opened, text};

/// The verdict, the rule it follows, and a table of all classes, for a terminal.
///
/// # Examples
///
/// ```
/// # fn main() -> Result<(), serde_json::Error> {
/// let detection: mesa_record::Detection = serde_json::from_str(
///     r#"{"model": "suspect.safetensors", "model_sha256": "", "data": "cifar10",
///         "preset": "cpu", "beta": 0.9, "seed": 0, "verdict": "nothing found",
///         "attacked_classes": [], "rule_sample_asr": 0.5, "rule_anomaly_index": 3.5,
///         "stamped_images": 32768, "classes": [], "wall_s": 1.0, "device": "cpu",
///         "processor": "", "threads": 2, "version": "0.1.0", "engine_version": 2}"#,
/// )?;
/// let text = mesa_report::detection_text(&detection);
/// assert!(text.starts_with("Nothing found in suspect.safetensors"));
/// # Ok(())
/// # }
/// ```
pub fn detection_text(detection: &Detection) -> String {
    let mut words = headline(detection);
    words.push_str("\n\n");
    words.push_str(&table(detection).to_terminal());
    let _ = writeln!(words, "\n{}", rule_words(detection));
    if detection.verdict == Verdict::NothingFound {
        let _ = writeln!(words, "{NO_PROOF}");
    }
    words
}

/// What finding nothing does not mean.
pub(crate) const NO_PROOF: &str =
    "Finding nothing is no proof: a backdoor of another kind than small patches is not looked for.";

/// The verdict in one sentence.
pub(crate) fn headline(detection: &Detection) -> String {
    let names: Vec<String> = detection
        .classes
        .iter()
        .filter(|class| class.attacked)
        .map(named)
        .collect();
    let model = &detection.model;
    match detection.verdict {
        Verdict::Backdoor => format!(
            "BACKDOOR FOUND in {model}: patches of a kind turn images into class {}.",
            names.join(" and class ")
        ),
        Verdict::NothingFound => {
            format!("Nothing found in {model}: no class is reached by small patches.")
        }
    }
}

/// The verdict in as few words as a picture has room for.
fn chart_title(detection: &Detection) -> String {
    let shorten = |text: &str| match text.char_indices().nth(LONGEST_NAME) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    };
    let attacked: Vec<String> = detection
        .attacked_classes
        .iter()
        .map(ToString::to_string)
        .collect();
    let found = match attacked.len() {
        0 => "nothing found".to_owned(),
        1 => format!("BACKDOOR in class {}", attacked[0]),
        _ => format!("BACKDOOR in classes {}", shorten(&attacked.join(", "))),
    };
    format!("{}: {found}", shorten(&detection.model))
}

pub(crate) fn rule_words(detection: &Detection) -> String {
    format!(
        "rule: a class is attacked if its samples turn at least {} % of clean images into it and \
         its anomaly index is at least {} (distance of the ASR's logit from the median of the \
         classes, in robust standard deviations; not asked for below five classes)",
        percent(detection.rule_sample_asr),
        detection.rule_anomaly_index
    )
}

fn named(class: &ClassDetection) -> String {
    format!("{} ({})", class.class, class.name)
}

fn index_words(class: &ClassDetection) -> String {
    class
        .anomaly_index
        .map(|index| format!("{index:.1}"))
        .unwrap_or_default()
}

/// A row for each class.
pub(crate) fn table(detection: &Detection) -> Table {
    let title = format!(
        "MESA at β = {} against every class, {}: {} stamped images each",
        detection.beta,
        data_words(&detection.data),
        detection.stamped_images
    );
    let mut table = Table::new(
        title,
        &[
            "class",
            "ASR of samples\n%",
            "F ≥ β\n%",
            "h,\nnats",
            "pixel std",
            "anomaly\nindex",
            "remark",
        ],
    );
    for class in &detection.classes {
        table.rows.push(vec![
            named(class),
            percent(class.sample_asr),
            percent(class.in_level_set),
            format!("{:.2} ± {:.2}", class.entropy_nats, class.entropy_se),
            format!("{:.2}", class.sample_std),
            index_words(class),
            (if class.attacked { "ATTACKED" } else { "" }).to_owned(),
        ]);
    }
    table.without_blank_columns()
}

/// The section of all committed detections in `docs/results.md`; each has the name of its folder.
pub(crate) fn section(detections: &[(String, &Detection)]) -> String {
    let mut text = format!(
        "\n## Detection: MESA against every class\n\n```text\n{}\n```\n\n{}",
        commands(detections).join("\n"),
        networks_table(detections).to_markdown()
    );
    text.push('\n');
    let mut notes = notes(detections);
    if let Some(roc) = Roc::of(detections) {
        let table = roc.table();
        let _ = writeln!(text, "**{}**\n\n{}", table.title, table.to_markdown());
        notes.push(DEFINITION.to_owned());
    }
    for note in notes {
        let _ = writeln!(text, "- {note}");
    }
    text
}

/// The commands that make detections again.
pub(crate) fn commands(detections: &[(String, &Detection)]) -> Vec<String> {
    let mut commands: Vec<String> = detections
        .iter()
        .map(|(_, found)| format!("mesa detect MODEL --preset {}", found.preset))
        .collect();
    commands.sort();
    commands.dedup();
    commands
}

/// A row for each network: its highest class, and the next.
pub(crate) fn networks_table(detections: &[(String, &Detection)]) -> Table {
    let columns = [
        "network",
        "data",
        "preset",
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
        let (Some(first), next) = (classes.first(), classes.get(1)) else {
            continue;
        };
        let verdict = match found.verdict {
            Verdict::Backdoor => "backdoor",
            Verdict::NothingFound => "nothing found",
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
            named(first),
            percent(first.sample_asr),
            index_words(first),
            next.map(|next| percent(next.sample_asr))
                .unwrap_or_default(),
            next.map(|next| index_words(next)).unwrap_or_default(),
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
    let mut notes = by_network(detections, rule_words);
    // What differs has a note of its own, so that it is plain where it ends.
    let (shared, differing): (Vec<_>, Vec<_>) =
        settings.into_iter().partition(|words| words.len() == 1);
    let lines = [vec![shared.concat()], differing].concat();
    let lines = lines.iter().filter(|words| !words.is_empty());
    notes.extend(lines.map(|words| words.join("; ")));
    notes
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

const MARGIN: usize = 16;
/// Height of a class's row and of its bar.
const ROW: usize = 22;
const BAR: usize = 14;
/// Where bars start, how long the longest is, and room for the words after it.
const LABELS: usize = 150;
const SPAN: usize = 360;
const AFTER: usize = 170;
/// Letters of a name that fit into a title.
const LONGEST_NAME: usize = 40;
const QUIET: &str = "#5b7f9e";
const LOUD: &str = "#b3261e";

/// A bar for each class as SVG: the ASR of its samples, the rule's threshold as a line, the
/// anomaly index in figures.
pub fn detection_chart(detection: &Detection) -> String {
    let top = MARGIN + 56;
    let height = top + ROW * detection.classes.len() + 40;
    let width = MARGIN + LABELS + SPAN + AFTER + MARGIN;
    let mut svg = opened(width, height, &headline(detection));
    text(&mut svg, MARGIN, MARGIN + 12, 15, &chart_title(detection));
    let subtitle = format!(
        "{}: ASR of MESA's samples at β = {} on clean images, and anomaly index",
        data_words(&detection.data),
        detection.beta
    );
    text(&mut svg, MARGIN, MARGIN + 34, 13, &subtitle);
    let left = MARGIN + LABELS;
    for (row, class) in detection.classes.iter().enumerate() {
        let above = top + row * ROW;
        let baseline = above + BAR - 2;
        text(&mut svg, MARGIN, baseline, 13, &named(class));
        let (length, color) = (
            class.sample_asr * SPAN as f64,
            if class.attacked { LOUD } else { QUIET },
        );
        let _ = writeln!(
            svg,
            "<rect x=\"{left}\" y=\"{above}\" width=\"{length:.1}\" height=\"{BAR}\" \
             fill=\"{color}\"/>"
        );
        let index = class
            .anomaly_index
            .map(|index| format!(", index {index:.1}"))
            .unwrap_or_default();
        let figures = format!("{} %{index}", percent(class.sample_asr));
        text(&mut svg, left + length as usize + 8, baseline, 13, &figures);
    }
    let bottom = top + detection.classes.len() * ROW;
    let at = left as f64 + detection.rule_sample_asr * SPAN as f64;
    let _ = writeln!(
        svg,
        "<path d=\"M{at:.1} {} V{bottom}\" stroke=\"#16202c\" stroke-dasharray=\"4 3\"/>",
        top - 6
    );
    let rule = format!(
        "attacked: at least {} % and index at least {}",
        percent(detection.rule_sample_asr),
        detection.rule_anomaly_index
    );
    text(&mut svg, left, bottom + 20, 12, &rule);
    svg.push_str("</svg>\n");
    svg
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::made_up::detection as made_up;

    #[test]
    fn a_backdoor_is_said_first_and_its_class_named() {
        let words = detection_text(&made_up(true));
        assert!(words.starts_with("BACKDOOR FOUND in made-up.safetensors"));
        assert!(words.contains("class 1 (stripes)") && words.contains("ATTACKED"));
        assert!(words.contains("at least 50.0 %"));
        let words = detection_text(&made_up(false));
        assert!(words.starts_with("Nothing found") && words.contains("no proof"));
    }

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
        assert_eq!(*rule, rule_words(&found[0]));
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

    #[test]
    fn the_chart_looks_as_it_did() {
        insta::assert_snapshot!(detection_chart(&made_up(true)));
    }

    #[test]
    fn titles_fit_however_long_a_name_is() {
        let mut detection = made_up(true);
        assert_eq!(
            chart_title(&detection),
            "made-up.safetensors: BACKDOOR in class 1"
        );
        detection.model = "ä".repeat(100);
        detection.attacked_classes = (0..100).collect();
        assert!(chart_title(&detection).chars().count() < 110);
    }

    #[test]
    fn bars_are_as_long_as_the_shares() {
        let svg = detection_chart(&made_up(true));
        assert!(svg.contains(&format!("width=\"{:.1}\"", 0.943 * 360.0)));
        assert!(svg.contains("rings &amp; dots"));
    }
}
