//! The ROC of `detection_roc.rs` as a figure.

use crate::detection_roc::{Curve, DEFINITION, Roc, Step};
use crate::svg::{Anchor, Canvas, Figure, GRID, INK, Point};

const MARGIN: f64 = 16.0;
const LEFT: f64 = 72.0;
const TOP: f64 = MARGIN + 38.0;
/// Side of the plot.
const PLOT: f64 = 300.0;
const LEGEND: f64 = LEFT + PLOT + 28.0;
const LEGEND_ROOM: f64 = 400.0;
const CHANCE: &str = "stroke=\"#16202c\" stroke-dasharray=\"2 4\"";

impl Roc {
    /// The staircase of each score, and where the verdicts stand.
    pub(crate) fn figure(&self) -> Figure {
        let left_out = match self.unknown {
            0 => String::new(),
            count => format!(
                " Left out: {count} of which the records do not hold whether they are backdoored."
            ),
        };
        Figure {
            svg: self.drawn(),
            caption: format!(
                "The threshold of a score falls along its line, from no network accused to all; \
                 where networks of both kinds have the same score, the line is slanted. The red \
                 square is what the rule made of these networks, which asks one class for both \
                 scores. {DEFINITION}.{left_out}"
            ),
        }
    }

    fn drawn(&self) -> String {
        let mut canvas = Canvas::default();
        let title = self.title();
        canvas.text((MARGIN, MARGIN + 12.0), 15.0, Anchor::Start, &title);
        axes(&mut canvas);
        for curve in &self.curves {
            let steps = curve.steps.iter().map(|(_, step)| self.place(*step));
            let points: Vec<Point> = [place(0.0, 0.0)].into_iter().chain(steps).collect();
            canvas.polyline(&points, &curve.stroke());
        }
        let verdicts = self.place(self.verdicts);
        square(&mut canvas, verdicts);
        self.legend(&mut canvas);
        let size = (LEGEND + LEGEND_ROOM, TOP + PLOT + 46.0 + MARGIN);
        canvas.finished(size, &title, &self.description())
    }

    fn place(&self, step: Step) -> Point {
        let share = |part: usize, all: usize| part as f64 / all as f64;
        place(
            share(step.accused, self.clean),
            share(step.found, self.backdoored),
        )
    }

    fn legend(&self, canvas: &mut Canvas) {
        let mut y = TOP + 18.0;
        let mut line = |canvas: &mut Canvas, words: &str| {
            canvas.text((LEGEND + 36.0, y + 4.5), 13.0, Anchor::Start, words);
            y += 24.0;
            y - 24.0
        };
        for curve in &self.curves {
            let y = line(
                canvas,
                &format!("{}: AUC {}", curve.name, curve.auc_words()),
            );
            canvas.line((LEGEND, y), (LEGEND + 28.0, y), &curve.stroke());
        }
        let (found, accused) = self.shares(self.verdicts);
        let words = format!("verdicts by the rule: {found} found, {accused} accused");
        let y = line(canvas, &words);
        square(canvas, (LEGEND + 14.0, y));
        let y = line(canvas, "chance: AUC 0.5");
        canvas.line((LEGEND, y), (LEGEND + 28.0, y), CHANCE);
    }

    /// Every step in words, for those who do not see the picture.
    fn description(&self) -> String {
        let step_words = |curve: &Curve, (threshold, step): &(f64, Step)| {
            let (found, accused) = self.shares(*step);
            let threshold = (curve.words)(*threshold);
            format!("threshold {threshold}: {found} backdoored found and {accused} clean accused")
        };
        let mut lines: Vec<String> = self
            .curves
            .iter()
            .map(|curve| {
                let steps = curve.steps.iter().map(|step| step_words(curve, step));
                let steps: Vec<String> = steps.collect();
                format!(
                    "{}, AUC {}: {}",
                    curve.name,
                    curve.auc_words(),
                    steps.join(", ")
                )
            })
            .collect();
        let (found, accused) = self.shares(self.verdicts);
        lines.push(format!(
            "verdicts by the rule: {found} backdoored found and {accused} clean accused"
        ));
        format!("{}.", lines.join("; "))
    }
}

impl Curve {
    fn stroke(&self) -> String {
        format!(
            "stroke=\"{}\" stroke-width=\"2.5\"{}",
            self.color, self.dashes
        )
    }
}

fn place(accused: f64, found: f64) -> Point {
    (LEFT + PLOT * accused, TOP + PLOT * (1.0 - found))
}

fn axes(canvas: &mut Canvas) {
    let grid = format!("stroke=\"{GRID}\"");
    for share in [0.0, 0.25, 0.5, 0.75, 1.0] {
        let words = format!("{:.0}", share * 100.0);
        canvas.line(place(0.0, share), place(1.0, share), &grid);
        canvas.line(place(share, 0.0), place(share, 1.0), &grid);
        let (x, y) = place(0.0, share);
        canvas.text((x - 8.0, y + 4.5), 12.0, Anchor::End, &words);
        let (x, y) = place(share, 0.0);
        canvas.text((x, y + 18.0), 12.0, Anchor::Middle, &words);
    }
    canvas.line(place(0.0, 0.0), place(1.0, 1.0), CHANCE);
    let (x, y) = place(0.5, 0.0);
    let words = "clean networks accused, %";
    canvas.text((x, y + 42.0), 13.0, Anchor::Middle, words);
    let at = (MARGIN + 8.0, TOP + PLOT / 2.0);
    let words = "backdoored networks found, %";
    canvas.upward_text(at, 13.0, Anchor::Middle, words);
}

/// The mark of the verdicts.
fn square(canvas: &mut Canvas, (x, y): Point) {
    let style = format!("fill=\"#a3231c\" stroke=\"{INK}\"");
    canvas.rect((x - 5.5, y - 5.5), (11.0, 11.0), &style);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::detection_roc::tests::{eleven, named};

    #[test]
    fn the_figure_looks_as_it_did() {
        let found = eleven();
        let Figure { svg, caption } = Roc::of(&named(&found)).unwrap().figure();
        insta::assert_snapshot!(svg);
        assert!(caption.contains("Mann–Whitney") && !caption.contains("Left out"));
        assert!(crate::embed::own_svg(&svg).is_some());
    }
}
