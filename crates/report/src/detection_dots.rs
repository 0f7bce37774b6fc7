//! The scores of several networks' classes as dots, a column for each network.

use mesa_record::{ClassDetection, Detection};

use crate::detection::{IN_PLACE, is_modeled_in_place};
use crate::detection_networks::rules;
use crate::detection_roc::why_none;
use crate::format::percent;
use crate::svg::{Anchor, Canvas, Figure, GRID, INK, Point, cut, wrapped_name};

const MARGIN: f64 = 16.0;
const LEFT: f64 = 72.0;
const PLOT: f64 = 720.0;
const COLUMN: (f64, f64) = (90.0, 190.0);
/// Height of each panel and room between them.
const PANEL: f64 = 170.0;
const GAP: f64 = 34.0;
/// From one line of a name to the next.
const LINE: f64 = 15.0;
const QUIET: &str = "#0b4f9e";
const LOUD: &str = "#a3231c";

/// Sample ASR and anomaly index of every class of every network; none without networks.
pub(crate) fn detection_dots(detections: &[(String, &Detection)]) -> Option<Figure> {
    let rules: Vec<String> = rules(detections)
        .into_iter()
        .map(|(asr, index)| format!("{} % and {index}", percent(asr)))
        .collect();
    let rules = match &rules[..] {
        [] => return None,
        [rule] => format!("the rule ({rule})"),
        several => format!("the rules ({}; a network has one)", several.join("; ")),
    };
    let is_placed = |(_, detection): &(String, &Detection)| is_modeled_in_place(detection);
    let in_place = if detections.iter().any(is_placed) {
        format!("; {IN_PLACE}")
    } else {
        String::new()
    };
    let title = "Detection: every class of every network";
    let caption = format!(
        "A dot is a class: the ASR of its samples (above) and its anomaly index (below), for {} \
         networks. Red squares are classes that count as attacked, named beside them; the dashed \
         lines are the thresholds of {rules}, and a class has to reach both{in_place}.{}",
        detections.len(),
        why_none(detections).map_or_else(String::new, |words| format!(" {words}")),
    );
    let svg = Dots::new(detections).drawn(detections, title);
    Some(Figure { svg, caption })
}

struct Dots {
    canvas: Canvas,
    column: f64,
    width: f64,
    /// Least and highest index drawn.
    indices: (f64, f64),
}

impl Dots {
    fn new(detections: &[(String, &Detection)]) -> Self {
        let count = detections.len() as f64;
        let column = (PLOT / count).clamp(COLUMN.0, COLUMN.1);
        let plot = (column * count).max(2.0 * COLUMN.1);
        let known = detections.iter().flat_map(|(_, detection)| {
            let of_classes = detection
                .classes
                .iter()
                .filter_map(|class| class.anomaly_index);
            of_classes.chain([detection.rule_anomaly_index])
        });
        let (low, high) = known
            .filter(|index| index.is_finite())
            .fold((0.0_f64, 1.0_f64), |(low, high), index| {
                (low.min(index), high.max(index))
            });
        Self {
            canvas: Canvas::default(),
            column: plot / count,
            width: LEFT + plot + MARGIN,
            indices: (low.floor(), high.ceil()),
        }
    }

    fn drawn(mut self, detections: &[(String, &Detection)], title: &str) -> String {
        self.canvas
            .text((MARGIN, MARGIN + 12.0), 15.0, Anchor::Start, title);
        let tops = [MARGIN + 38.0, MARGIN + 38.0 + PANEL + GAP];
        let (least, most) = self.indices;
        let asr = move |value: f64| tops[0] + PANEL * (1.0 - value.clamp(0.0, 1.0));
        let index = move |value: f64| {
            let share = (value.clamp(least, most) - least) / (most - least);
            tops[1] + PANEL * (1.0 - share)
        };
        for share in [0.0, 0.25, 0.5, 0.75, 1.0] {
            self.tick(asr(share), &format!("{:.0}", share * 100.0));
        }
        let step = ((most - least) / 5.0).ceil().max(1.0);
        let mut value = least;
        while value <= most {
            self.tick(index(value), &format!("{value:.0}"));
            value += step;
        }
        for (top, words) in tops.into_iter().zip(["ASR of samples, %", "anomaly index"]) {
            let at = (MARGIN + 8.0, top + PANEL / 2.0);
            self.canvas.upward_text(at, 13.0, Anchor::Middle, words);
        }
        for (least_asr, least_index) in rules(detections) {
            self.threshold(asr(least_asr));
            self.threshold(index(least_index));
        }
        let bottom = tops[1] + PANEL;
        let mut lines = 1;
        for (number, (name, detection)) in detections.iter().enumerate() {
            let left = LEFT + self.column * number as f64;
            for (place, class) in detection.classes.iter().enumerate() {
                let count = detection.classes.len() as f64;
                let x = left + self.column * (0.12 + 0.76 * (place as f64 + 0.5) / count);
                self.dot((x, asr(class.sample_asr)), class);
                if let Some(known) = class.anomaly_index {
                    self.dot((x, index(known)), class);
                }
            }
            let words = wrapped_name(name, 12.0, self.column - 6.0);
            lines = lines.max(words.len());
            for (line, words) in words.iter().enumerate() {
                let at = (left + self.column / 2.0, bottom + 20.0 + LINE * line as f64);
                self.canvas.text(at, 12.0, Anchor::Middle, words);
            }
            if number > 0 {
                let grid = format!("stroke=\"{GRID}\"");
                self.canvas.line((left, tops[0]), (left, bottom), &grid);
            }
        }
        let description = description(detections);
        let height = bottom + 20.0 + LINE * (lines - 1) as f64 + MARGIN;
        self.canvas
            .finished((self.width, height), title, &description)
    }

    fn tick(&mut self, y: f64, words: &str) {
        let grid = format!("stroke=\"{GRID}\"");
        let right = self.width - MARGIN;
        self.canvas.line((LEFT, y), (right, y), &grid);
        self.canvas
            .text((LEFT - 8.0, y + 4.5), 12.0, Anchor::End, words);
    }

    fn threshold(&mut self, y: f64) {
        let stroke = format!("stroke=\"{INK}\" stroke-dasharray=\"5 4\"");
        let right = self.width - MARGIN;
        self.canvas.line((LEFT, y), (right, y), &stroke);
    }

    fn dot(&mut self, (x, y): Point, class: &ClassDetection) {
        if class.attacked {
            let style = format!("fill=\"{LOUD}\"");
            self.canvas.rect((x - 5.0, y - 5.0), (10.0, 10.0), &style);
            let words = cut(&class.name, 12.0, self.column * 0.7);
            self.canvas
                .text((x + 9.0, y + 4.5), 12.0, Anchor::Start, &words);
        } else {
            let style = format!("fill=\"{QUIET}\" fill-opacity=\"0.8\"");
            self.canvas.circle((x, y), 3.6, &style);
        }
    }
}

fn description(detections: &[(String, &Detection)]) -> String {
    let of_network = |(name, detection): &(String, &Detection)| {
        let attacked: Vec<String> = detection
            .classes
            .iter()
            .filter(|class| class.attacked)
            .map(|class| format!("class {} at {} %", class.class, percent(class.sample_asr)))
            .collect();
        let others = detection.classes.iter().filter(|class| !class.attacked);
        let highest = others.map(|class| class.sample_asr).fold(0.0, f64::max);
        let attacked = if attacked.is_empty() {
            "no class attacked".to_owned()
        } else {
            format!("attacked: {}", attacked.join(", "))
        };
        format!("{name}: {attacked}, others at most {} %", percent(highest))
    };
    let networks: Vec<String> = detections.iter().map(of_network).collect();
    format!("{}.", networks.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::made_up;

    #[test]
    fn every_class_is_a_dot_in_both_panels_and_attacked_ones_are_named() {
        let (one, other) = (made_up::detection(true), made_up::detection(false));
        let networks = [("bad".to_owned(), &one), ("good".to_owned(), &other)];
        let Figure { svg, caption } = detection_dots(&networks).unwrap();
        assert_eq!(svg.matches("<circle").count(), 2 + 4);
        assert_eq!(svg.matches(LOUD).count(), 2);
        assert!(svg.contains("bad: attacked: class 1 at 94.3 %, others at most 2.1 %"));
        assert!(svg.contains("good: no class attacked, others at most 94.3 %"));
        assert!(caption.contains("no ROC"));
        assert!(detection_dots(&[]).is_none());
    }

    #[test]
    fn the_condition_in_a_place_is_said_where_a_class_was_modeled_in_one() {
        let (one, mut other) = (made_up::detection(true), made_up::detection(false));
        let caption = |other: &Detection| {
            let networks = [("bad".to_owned(), &one), ("good".to_owned(), other)];
            detection_dots(&networks).unwrap().caption
        };
        assert!(!caption(&other).contains(IN_PLACE));
        let class = &mut other.classes[1];
        class.sample_asr_anywhere = Some(0.3);
        class.best_place = Some(mesa_record::BestPlace {
            row: 1,
            column: 2,
            share: 0.5,
        });
        let caption = caption(&other);
        let words = format!("a class has to reach both; {IN_PLACE}. ");
        assert!(caption.contains(&words), "{caption}");
    }

    #[test]
    fn every_rule_has_its_lines() {
        let (one, mut other) = (made_up::detection(true), made_up::detection(false));
        let drawn = |other: &Detection| {
            let networks = [("bad".to_owned(), &one), ("good".to_owned(), other)];
            let Figure { svg, caption } = detection_dots(&networks).unwrap();
            (svg.matches("stroke-dasharray").count(), caption)
        };
        let (lines, caption) = drawn(&other);
        assert_eq!(lines, 2);
        assert!(
            caption.contains("of the rule (50.0 % and 3.5), and"),
            "{caption}"
        );
        other.rule_sample_asr = 0.6;
        let (lines, caption) = drawn(&other);
        assert_eq!(lines, 4);
        let rules = "of the rules (50.0 % and 3.5; 60.0 % and 3.5; a network has one), and";
        assert!(caption.contains(rules), "{caption}");
    }
}
