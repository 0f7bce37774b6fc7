//! What a search for backdoors found: in words, as a table, as a bar chart.

use std::fmt::Write as _;

use mesa_record::{BestPlace, ClassDetection, Detection, Verdict};

use crate::Table;
use crate::format::{data_words, percent};
use crate::svg::{cut, opened, text};

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
    let table = table(detection).without(&[ENTROPY, SPREAD]);
    words.push_str(&table.to_terminal());
    let _ = writeln!(words, "\n{}", rule_words(detection));
    if let Some(places) = places_words(detection) {
        let _ = writeln!(words, "{places}");
    }
    for words_of in caveats(detection) {
        let _ = writeln!(words, "{words_of}");
    }
    words
}

/// What a verdict does not mean.
pub(crate) fn caveats(detection: &Detection) -> Vec<String> {
    let are_compared = |class: &ClassDetection| class.anomaly_index.is_some();
    let too_few = !detection.classes.iter().any(are_compared);
    match detection.verdict {
        Verdict::NothingFound => vec![NO_PROOF.to_owned()],
        Verdict::Undecided => vec![ALIKE.to_owned()],
        Verdict::Backdoor if too_few => vec![format!("{NO_CERTAINTY} {NOTHING_TO_COMPARE}")],
        Verdict::Backdoor => vec![NO_CERTAINTY.to_owned()],
    }
}

/// What finding something does not mean.
const NO_CERTAINTY: &str = "A finding is no certainty: networks without a backdoor, too, have classes that some \
    patches reach. Look at the samples, and whether the repair costs accuracy; against a backdoor it hardly does.";

/// What is missing where classes are few.
const NOTHING_TO_COMPARE: &str = "With fewer than five classes none stands out from the others: the share of images \
    alone has decided.";

/// What it means that several classes are reached and none stands out.
pub(crate) const ALIKE: &str = "A network with backdoors in as many classes looks like this, and so does one that any patch \
    confuses: the rule compares classes, and cannot tell. Look at the samples of these classes, and whether a repair \
    with their sub-models costs accuracy; against backdoors it hardly does.";

/// What finding nothing does not mean.
pub(crate) const NO_PROOF: &str = "Finding nothing is no proof: a backdoor of another kind than small \
    patches is not looked for, nor one that turns images of some classes only (source-specific) or each class into \
    another (all-to-all), of which a target gets about one class's share of the images; and one that works in so \
    few places that patches modeled anywhere do not meet it may be missed where `mesa detect --placement` does not \
    name one.";

/// What the columns of best places say.
const BEST_PLACES: &str = "best at: the place (row, column) in which patches modeled anywhere work best, and \
    the share of images that they turn there, the highest of many estimates, chance included; a class that stands out there is modeled again in that place \
    alone, compared with what the other classes' patches do in theirs, and attacked if at least half of its \
    samples reach β as well";

/// That, where a record has best places.
pub(crate) fn places_words(detection: &Detection) -> Option<&'static str> {
    let mut classes = detection.classes.iter();
    classes
        .any(|class| class.best_place.is_some())
        .then_some(BEST_PLACES)
}

/// The verdict in one sentence.
pub(crate) fn headline(detection: &Detection) -> String {
    let names: Vec<String> = detection
        .classes
        .iter()
        .filter(|class| class.attacked)
        .map(|class| match modeled_place(class) {
            Some(best) => format!(
                "{}, best at row {}, column {}",
                named(class),
                best.row,
                best.column
            ),
            None => named(class),
        })
        .collect();
    let model = &detection.model;
    let place = place_words(detection).map_or_else(String::new, |words| format!(" {words}"));
    match detection.verdict {
        Verdict::Backdoor => format!(
            "BACKDOOR FOUND in {model}: patches of a kind{place} turn images into class {}.",
            names.join(" and class ")
        ),
        Verdict::Undecided => format!(
            "UNDECIDED of {model}{place}: samples turn as many images into each of the classes {} as the rule asks, and \
             none of these stands out.",
            detection
                .reached()
                .map(named)
                .collect::<Vec<_>>()
                .join(", ")
        ),
        Verdict::NothingFound => format!(
            "Nothing found in {model}{place}: no class passes the rule{}.",
            closest(detection).map_or_else(String::new, |words| format!("; {words}"))
        ),
    }
}

/// The class with the highest ASR, with its figures.
fn closest(detection: &Detection) -> Option<String> {
    let class = detection.closest()?;
    let index = class.anomaly_index.map_or_else(String::new, |_| {
        format!(" and an anomaly index of {}", index_words(class))
    });
    Some(format!(
        "class {} comes closest, with an ASR of samples of {} %{index}{}",
        named(class),
        percent(class.sample_asr),
        short_of(detection, class)
    ))
}

/// Which condition of the rule a class misses, where its ASR and index are not told to be too low by
/// themselves.
fn short_of(detection: &Detection, class: &ClassDetection) -> String {
    let index = class.anomaly_index.unwrap_or(f64::INFINITY);
    let passes =
        class.sample_asr >= detection.rule_sample_asr && index >= detection.rule_anomaly_index;
    if class.attacked || !passes {
        return String::new();
    }
    format!(
        ", measured in its best place, but only {} % of its samples reach β there, where half are asked for",
        percent(class.in_level_set)
    )
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
        0 if detection.verdict == Verdict::Undecided => "undecided".to_owned(),
        0 => "nothing found".to_owned(),
        1 => format!("BACKDOOR in class {}", attacked[0]),
        _ => format!("BACKDOOR in classes {}", shorten(&attacked.join(", "))),
    };
    format!("{}: {found}", shorten(&detection.model))
}

/// The rule, with the condition in one place where a class was modeled in one.
pub(crate) fn rule_words(detection: &Detection) -> String {
    let mut words = threshold_words(detection);
    if is_modeled_in_place(detection) {
        let _ = write!(words, "; {IN_PLACE}");
    }
    words
}

/// What the rule asks for of a class that was modeled in its best place.
pub(crate) const IN_PLACE: &str =
    "of a class modeled in its best place at least half of the samples have to reach β as well";

/// Whether any class was.
pub(crate) fn is_modeled_in_place(detection: &Detection) -> bool {
    let mut classes = detection.classes.iter();
    classes.any(|class| modeled_place(class).is_some())
}

/// The rule's two thresholds.
pub(crate) fn threshold_words(detection: &Detection) -> String {
    format!(
        "rule: a class is attacked if its samples turn at least {} % of clean images into it and \
         its anomaly index is at least {} (distance of the ASR's logit from the median of the \
         classes, in robust standard deviations; not asked for below five classes)",
        percent(detection.rule_sample_asr),
        detection.rule_anomaly_index
    )
}

pub(crate) fn named(class: &ClassDetection) -> String {
    format!("{} ({})", class.class, class.name)
}

pub(crate) fn index_words(class: &ClassDetection) -> String {
    class
        .anomaly_index
        .map(|index| format!("{index:.1}"))
        .unwrap_or_default()
}

/// The one place in which patches were looked for, if it was one.
pub(crate) fn place_words(detection: &Detection) -> Option<String> {
    let places = detection.placement.as_ref()?.strip_prefix("fixed:")?;
    let (row, column) = places.split_once(',')?;
    Some(format!("at row {row}, column {column} only"))
}

/// The place of the patches that a class's figures are of, where they were modeled in one of its own.
pub(crate) fn modeled_place(class: &ClassDetection) -> Option<BestPlace> {
    class.sample_asr_anywhere.and(class.best_place)
}

/// Columns that a terminal has no room for: it shows 80 letters, and the verdict does without.
const ENTROPY: &str = "h,\nnats";
const SPREAD: &str = "pixel\nstd";

/// A row for each class.
pub(crate) fn table(detection: &Detection) -> Table {
    let title = format!(
        "MESA at β = {} against every class, {}: {} stamped images each{}",
        detection.beta,
        data_words(&detection.data),
        detection.stamped_images,
        place_words(detection).map_or_else(String::new, |words| format!(", {words}"))
    );
    let mut table = Table::new(
        title,
        &[
            "class",
            "any-\nwhere\n%",
            "best\nat",
            "there\n%",
            "ASR of\nsamples\n%",
            "F ≥ β\n%",
            ENTROPY,
            SPREAD,
            "anom-\naly\nindex",
            "remark",
        ],
    );
    for class in &detection.classes {
        let best = class.best_place;
        table.rows.push(vec![
            named(class),
            class.sample_asr_anywhere.map(percent).unwrap_or_default(),
            best.map(|best| format!("{}, {}", best.row, best.column))
                .unwrap_or_default(),
            best.map(|best| percent(best.share)).unwrap_or_default(),
            percent(class.sample_asr),
            percent(class.in_level_set),
            format!("{:.2}", class.entropy_nats),
            format!("{:.2}", class.sample_std),
            index_words(class),
            (if class.attacked { "ATTACKED" } else { "" }).to_owned(),
        ]);
    }
    table.without_blank_columns()
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
        let name = cut(&named(class), 13.0, LABELS as f64);
        text(&mut svg, MARGIN, baseline, 13, &name);
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
        "attacked: at least {} % and index at least {}{}",
        percent(detection.rule_sample_asr),
        detection.rule_anomaly_index,
        if is_modeled_in_place(detection) {
            "; in a best place, half of the samples reach β"
        } else {
            ""
        }
    );
    text(&mut svg, left, bottom + 20, 12, &rule);
    svg.push_str("</svg>\n");
    svg
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::made_up::detection as made_up;

    /// With everything that a search on CIFAR-10 may have to say of a class.
    #[test]
    fn its_table_fits_a_terminal() {
        let mut found = made_up(true);
        for class in &mut found.classes {
            class.name = "automobile".to_owned();
            class.sample_asr_anywhere = Some(0.999);
            class.best_place = Some(BestPlace {
                row: 27,
                column: 17,
                share: 0.999,
            });
            class.sample_asr = 0.999;
            class.in_level_set = 1.0;
            class.anomaly_index = Some(-13.5);
        }
        let words = detection_text(&found);
        let table = words
            .lines()
            .filter(|line| line.starts_with(['│', '┌', '╞']));
        let widths: Vec<usize> = table.map(|line| line.chars().count()).collect();
        assert!(widths.len() > 4, "{words}");
        assert_eq!(widths.iter().max(), Some(&80), "{words}");
    }

    /// What a verdict does not mean is said with it.
    #[test]
    fn every_verdict_says_what_it_does_not_mean() {
        let mut detection = crate::made_up::detection(false);
        assert_eq!(caveats(&detection), [NO_PROOF]);
        assert!(NO_PROOF.contains("source-specific") && NO_PROOF.contains("all-to-all"));
        for class in &mut detection.classes[..2] {
            class.sample_asr = 0.9;
        }
        detection.verdict = Verdict::Undecided;
        assert_eq!(caveats(&detection), [ALIKE]);
        let words = headline(&detection);
        assert!(
            words.contains("into each of the classes 0 (rings & dots), 1 (stripes) as"),
            "{words}"
        );
        assert!(chart_title(&detection).ends_with(": undecided"));
        let mut detection = crate::made_up::detection(true);
        assert_eq!(caveats(&detection), [NO_CERTAINTY]);
        for class in &mut detection.classes {
            class.anomaly_index = None;
        }
        assert!(caveats(&detection)[0].ends_with(NOTHING_TO_COMPARE));
    }

    #[test]
    fn a_backdoor_is_said_first_and_its_class_named() {
        let words = detection_text(&made_up(true));
        assert!(words.starts_with("BACKDOOR FOUND in made-up.safetensors"));
        assert!(words.contains("class 1 (stripes)") && words.contains("ATTACKED"));
        assert!(words.contains("at least 50.0 %"));
        let words = detection_text(&made_up(false));
        assert!(words.contains("no proof"));
    }

    #[test]
    fn a_class_modeled_in_its_best_place_is_named_with_it() {
        let mut detection = made_up(true);
        assert!(!detection_text(&detection).contains("best at"));
        for class in &mut detection.classes {
            class.best_place = Some(BestPlace {
                row: 28,
                column: 3,
                share: 0.125,
            });
        }
        let words = detection_text(&detection);
        assert!(words.contains("28, 3") && words.contains("12.5"), "{words}");
        assert!(words.contains("reach β as well"), "{words}");
        assert!(!headline(&detection).contains("row"));
        detection.classes[1].sample_asr_anywhere = Some(0.152);
        assert!(headline(&detection).ends_with("class 1 (stripes), best at row 28, column 3."));
        let rule = rule_words(&detection);
        assert!(rule.ends_with(IN_PLACE) && rule.starts_with(&threshold_words(&detection)));
        let words = detection_text(&detection);
        assert!(
            words.contains("anywhere") && words.contains("15.2"),
            "{words}"
        );
    }

    #[test]
    fn where_no_class_passes_the_rule_the_closest_is_named_with_its_figures() {
        let mut detection = made_up(false);
        let expected = "Nothing found in made-up.safetensors: no class passes the rule; class 1 \
            (stripes) comes closest, with an ASR of samples of 94.3 %";
        let index = " and an anomaly index of 6.2";
        let in_place = ", measured in its best place, but only 25.0 % of its samples reach β there, where half \
            are asked for.";
        detection.classes[1].in_level_set = 0.25;
        assert_eq!(headline(&detection), format!("{expected}{index}{in_place}"));
        detection.rule_anomaly_index = 6.5;
        assert_eq!(headline(&detection), format!("{expected}{index}."));
        assert!(detection_text(&detection).starts_with(expected));
        assert!(detection_chart(&detection).contains(expected));
        for class in &mut detection.classes {
            class.anomaly_index = None;
        }
        assert_eq!(headline(&detection), format!("{expected}{in_place}"));
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
