//! Target and samples side by side, as one SVG.

use std::fmt::Write as _;

use crate::fits::{Measured, Staircase};

const SIDE: f64 = 112.0;
const GAP: f64 = 8.0;
const MARGIN: f64 = 16.0;
/// Between the pairs of neighboring β.
const GUTTER: f64 = 22.0;
/// Above the panels of a row, and above all rows.
const CAPTION: f64 = 24.0;
const HEADER: f64 = 84.0;
/// Points drawn in a panel.
const POINTS: usize = 350;
/// Dots from near to far, where there is a third coordinate.
const DEPTHS: [&str; 3] = ["#0b3c6f", "#2f6fb0", "#8fb4d6"];

/// Drawn on a ground of its own, so that it reads the same on light and on dark pages.
pub(crate) fn svg(staircases: &[Staircase]) -> String {
    let pair = 2.0 * SIDE + GAP;
    let columns = staircases
        .first()
        .map_or(0, |staircase| staircase.measured.len()) as f64;
    let width = 2.0 * MARGIN + columns * pair + (columns - 1.0) * GUTTER;
    let row = CAPTION + SIDE + 2.0 * GAP;
    let height = HEADER + row * staircases.len() as f64 + MARGIN;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
         viewBox=\"0 0 {width} {height}\" role=\"img\" font-family=\"sans-serif\">\n\
         <title>Uniform points of known level sets beside samples of MESA's sub-models</title>\n\
         <rect width=\"{width}\" height=\"{height}\" rx=\"6\" fill=\"#dfe5ec\"/>\n"
    );
    let title = "Known level sets: uniform points (left) and samples of the sub-model (right)";
    text(&mut svg, MARGIN, MARGIN + 12.0, 15, title);
    let note = "In space, seen along the third axis: dark is near. % of samples with F ≥ β; % of \
                256 equal cells with one of 1,000 samples (uniform: 98).";
    text(&mut svg, MARGIN, MARGIN + 32.0, 11, note);
    for (i, staircase) in staircases.iter().enumerate() {
        let top = HEADER + row * i as f64;
        for (j, measured) in staircase.measured.iter().enumerate() {
            let left = MARGIN + (pair + GUTTER) * j as f64;
            if i == 0 {
                let beta = format!("β = {}", measured.beta);
                text(&mut svg, left, HEADER - 12.0, 14, &beta);
            }
            let numbers = caption(measured);
            text(
                &mut svg,
                left,
                top + CAPTION - 8.0,
                11,
                &staircase.known.name(),
            );
            text(
                &mut svg,
                left + SIDE + GAP,
                top + CAPTION - 8.0,
                11,
                &numbers,
            );
            panel(&mut svg, left, top + CAPTION, &measured.uniform);
            panel(
                &mut svg,
                left + SIDE + GAP,
                top + CAPTION,
                &measured.samples,
            );
        }
    }
    svg.push_str("</svg>\n");
    svg
}

fn caption(measured: &Measured) -> String {
    let percent = |share: f64| (100.0 * share).round();
    let (reached, coverage) = (percent(measured.reached), percent(measured.coverage));
    format!("{reached} % in, {coverage} % cells")
}

/// The unit square with points; a path of dots for each depth, far ones first.
fn panel(svg: &mut String, left: f64, top: f64, points: &[Vec<f64>]) {
    let _ = writeln!(
        svg,
        "<g transform=\"translate({left} {top})\"><rect width=\"{SIDE}\" height=\"{SIDE}\" \
         fill=\"#f8fafc\" stroke=\"#7d8793\"/>"
    );
    let depth = |point: &[f64]| {
        let third = point.get(2).copied().unwrap_or(0.0);
        ((third * DEPTHS.len() as f64) as usize).min(DEPTHS.len() - 1)
    };
    for (i, color) in DEPTHS.iter().enumerate().rev() {
        let near = points.iter().take(POINTS).filter(|point| depth(point) == i);
        let dots = near.fold(String::new(), |mut dots, point| {
            let (x, y) = (point[0] * SIDE, (1.0 - point[1]) * SIDE);
            let _ = write!(dots, "M{x:.1} {y:.1}h0");
            dots
        });
        if !dots.is_empty() {
            let _ = writeln!(
                svg,
                "<path d=\"{dots}\" stroke=\"{color}\" stroke-width=\"2\" stroke-linecap=\"round\"/>"
            );
        }
    }
    svg.push_str("</g>\n");
}

fn text(svg: &mut String, x: f64, y: f64, size: usize, words: &str) {
    let _ = writeln!(
        svg,
        "<text x=\"{x}\" y=\"{y}\" font-size=\"{size}\" fill=\"#16202c\">{words}</text>"
    );
}
