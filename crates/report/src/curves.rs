//! Training curves as small multiples: a panel for each kind of step and figure.

use std::collections::BTreeMap;

use mesa_record::{Curve, CurvePoint};

use crate::paper::rank;
use crate::svg::{Anchor, Canvas, Figure, GRID, INK, Point, cut};

const MARGIN: f64 = 16.0;
/// Size of a panel, room for its numbers at the left, and between panels.
const PANEL: Point = (150.0, 84.0);
const NUMBERS: f64 = 42.0;
const GAP: Point = (14.0, 50.0);
/// Most panels in a row; the figures of one kind of step stand side by side.
const PER_ROW: usize = 4;
const LINE: &str = "#0b4f9e";

/// One figure of one kind of step, over all networks.
struct Panel {
    title: String,
    figure: &'static str,
    lines: Vec<Vec<Point>>,
}

/// Loss and accuracy of attacks and retrainings by epoch; then what sub-models reached.
pub(crate) fn curve_figures(curves: &[Curve]) -> Vec<Figure> {
    let sets: [(&str, &[&'static str], &str); 2] = [
        (
            "Attack and retraining, epoch by epoch",
            &["loss", "accuracy"],
            "Loss and accuracy on the training images of each epoch, a line for each network.",
        ),
        (
            "Sub-models, epoch by epoch",
            &["probability", "share_reached", "information_nats"],
            "Mean target probability, share of samples that reach β, and the bound on the \
             information in nats, each in the last iteration of an epoch; a line for each network.",
        ),
    ];
    sets.into_iter()
        .filter_map(|(title, figures, caption)| {
            let panels = panels(curves, figures);
            (!panels.is_empty()).then(|| Figure {
                svg: drawn(title, &panels, PER_ROW / figures.len() * figures.len()),
                caption: caption.to_owned(),
            })
        })
        .collect()
}

/// The kind of a step, as methods are called: `170/seed-0/mesa-0.9` is one of `mesa:0.9`.
fn kind(step: &str) -> String {
    let last = step.rsplit('/').next().unwrap_or(step);
    let starts = [
        ("mesa-", "mesa:"),
        ("ensemble-", "ensemble:"),
        ("fit-", "β = "),
    ];
    for (start, called) in starts {
        if let Some(rest) = last.strip_prefix(start) {
            return format!("{called}{rest}");
        }
    }
    // The repeats of the baseline are lines of one panel.
    if last.starts_with("point-") {
        return "point".to_owned();
    }
    last.to_owned()
}

fn panels(curves: &[Curve], figures: &[&'static str]) -> Vec<Panel> {
    let mut of_kind: BTreeMap<_, Vec<&Curve>> = BTreeMap::new();
    for curve in curves {
        let kind = kind(&curve.step);
        // What is attacked comes first.
        let order = (kind != "clean", kind != "attack", rank(&kind));
        of_kind.entry((order, kind)).or_default().push(curve);
    }
    let mut panels = Vec::new();
    for ((_, kind), curves) in of_kind {
        for &figure in figures {
            let lines: Vec<Vec<Point>> = curves
                .iter()
                .map(|curve| points(&curve.points, figure))
                .filter(|points| !points.is_empty())
                .collect();
            if !lines.is_empty() {
                panels.push(Panel {
                    title: format!("{kind}: {}", figure.replace('_', " ")),
                    figure,
                    lines,
                });
            }
        }
    }
    panels
}

fn points(points: &[CurvePoint], figure: &str) -> Vec<Point> {
    points
        .iter()
        .filter(|point| point.figure == figure && point.value.is_finite())
        .map(|point| (point.epoch as f64, point.value))
        .collect()
}

/// Least and most of a figure over all its panels, which share their axis.
fn scale(panels: &[Panel], figure: &str) -> Point {
    let values = panels
        .iter()
        .filter(|panel| panel.figure == figure)
        .flat_map(|panel| panel.lines.iter().flatten().map(|(_, value)| *value));
    let (low, high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| {
        (low.min(value), high.max(value))
    });
    if high > low {
        (low, high)
    } else {
        (low - 0.5, low + 0.5)
    }
}

fn drawn(title: &str, panels: &[Panel], per_row: usize) -> String {
    let mut canvas = Canvas::default();
    canvas.text((MARGIN, MARGIN + 12.0), 15.0, Anchor::Start, title);
    let pitch = (NUMBERS + PANEL.0 + GAP.0, PANEL.1 + GAP.1);
    let top = MARGIN + 50.0;
    for (index, panel) in panels.iter().enumerate() {
        let (column, row) = (index % per_row, index / per_row);
        let corner = (
            MARGIN + NUMBERS + pitch.0 * column as f64,
            top + pitch.1 * row as f64,
        );
        draw(&mut canvas, corner, panel, scale(panels, panel.figure));
    }
    let columns = panels.len().clamp(2, per_row) as f64;
    let rows = panels.len().div_ceil(per_row) as f64;
    let size = (
        2.0 * MARGIN + pitch.0 * columns,
        top + pitch.1 * rows - GAP.1 + 20.0 + MARGIN,
    );
    canvas.finished(size, title, &description(panels))
}

fn draw(canvas: &mut Canvas, (left, top): Point, panel: &Panel, (low, high): Point) {
    let words = cut(&panel.title, 12.0, PANEL.0 + NUMBERS - 6.0);
    canvas.text((left, top - 8.0), 12.0, Anchor::Start, &words);
    let last = panel
        .lines
        .iter()
        .flatten()
        .map(|(epoch, _)| *epoch)
        .fold(1.0, f64::max);
    let place = |(epoch, value): Point| {
        let along = if last > 1.0 {
            (epoch - 1.0) / (last - 1.0)
        } else {
            0.5
        };
        (
            left + PANEL.0 * along,
            top + PANEL.1 * (1.0 - (value - low) / (high - low)),
        )
    };
    canvas.rect(
        (left, top),
        PANEL,
        &format!("fill=\"none\" stroke=\"{GRID}\""),
    );
    for value in [low, high] {
        let (_, y) = place((1.0, value));
        let words = number(value);
        canvas.text((left - 6.0, y + 4.0), 12.0, Anchor::End, &words);
    }
    for (epoch, anchor) in [(1.0, Anchor::Start), (last, Anchor::End)] {
        let x = if anchor == Anchor::Start {
            left
        } else {
            left + PANEL.0
        };
        if epoch > 1.0 || anchor == Anchor::Start {
            let at = (x, top + PANEL.1 + 15.0);
            canvas.text(at, 12.0, anchor, &format!("{epoch:.0}"));
        }
    }
    let stroke = format!("stroke=\"{LINE}\" stroke-width=\"1.5\" stroke-opacity=\"0.75\"");
    for line in &panel.lines {
        let points: Vec<Point> = line.iter().map(|point| place(*point)).collect();
        canvas.polyline(&points, &stroke);
        if let Some(end) = points.last() {
            canvas.circle(*end, 2.2, &format!("fill=\"{INK}\""));
        }
    }
}

/// Three significant digits are as much as a panel has room for.
fn number(value: f64) -> String {
    if value.abs() >= 100.0 {
        format!("{value:.0}")
    } else if value.abs() >= 10.0 {
        format!("{value:.1}")
    } else {
        format!("{value:.2}")
    }
}

fn description(panels: &[Panel]) -> String {
    let ends: Vec<String> = panels
        .iter()
        .map(|panel| {
            let lasts = panel.lines.iter().filter_map(|line| line.last());
            let values: Vec<f64> = lasts.map(|(_, value)| *value).collect();
            let mean = crate::metrics::mean(&values).unwrap_or_default();
            format!("{} ends at {}", panel.title, number(mean))
        })
        .collect();
    format!("{}; means over networks.", ends.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn curve(step: &str, figures: &[(&str, &[f64])]) -> Curve {
        let points = figures.iter().flat_map(|(figure, values)| {
            values.iter().enumerate().map(|(index, value)| CurvePoint {
                epoch: index + 1,
                figure: (*figure).to_owned(),
                value: *value,
            })
        });
        Curve {
            step: step.to_owned(),
            points: points.collect(),
        }
    }

    #[test]
    fn every_kind_of_step_has_a_panel_with_a_line_for_each_network() {
        let curves = [
            curve(
                "170/seed-0/mesa-0.9",
                &[("loss", &[0.5, 0.25]), ("accuracy", &[0.8, 0.9])],
            ),
            curve("170/seed-0/attack", &[("loss", &[0.4, 0.1])]),
            curve("16/seed-0/attack", &[("loss", &[0.3, 0.2])]),
            curve("170/seed-0/fit-0.9", &[("probability", &[0.2, 0.9])]),
        ];
        let figures = curve_figures(&curves);
        assert_eq!(figures.len(), 2);
        let trainings = &figures[0].svg;
        let titles = ["attack: loss", "mesa:0.9: loss", "mesa:0.9: accuracy"];
        let places: Vec<usize> = titles
            .iter()
            .map(|title| trainings.find(&format!(">{title}<")).unwrap())
            .collect();
        assert!(places.is_sorted(), "{places:?}");
        assert_eq!(trainings.matches("<path").count(), 4);
        assert!(trainings.contains("attack: loss ends at 0.15"));
        assert!(figures[1].svg.contains("β = 0.9: probability"));
    }

    #[test]
    fn a_single_epoch_and_a_constant_are_drawn() {
        let figures = curve_figures(&[curve("1/seed-0/ideal", &[("loss", &[0.5])])]);
        assert!(!figures[0].svg.contains("NaN"), "{}", figures[0].svg);
        assert!(curve_figures(&[]).is_empty());
    }

    #[test]
    fn repeats_of_the_baseline_are_of_one_kind() {
        assert_eq!(kind("170/seed-0/point-3"), "point");
        assert_eq!(kind("170/seed-0/ensemble-turns"), "ensemble:turns");
        assert_eq!(kind("clean"), "clean");
    }
}
