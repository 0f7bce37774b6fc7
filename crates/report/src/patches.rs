//! Triggers as little patches.

use mesa_record::{Patch, TriggerName};

use crate::svg::{Canvas, Point};

/// How a caller tells what a trigger looks like that is no black/white pattern: the crate knows
/// names, and the colors behind them belong to the data sets. Square patches only; `None` where it
/// does not know either, and then the name has to do.
pub type PatchOf = fn(&TriggerName) -> Option<Patch>;

/// Rows and columns of a pattern.
const SIDE: u16 = 3;

/// What a trigger looks like, as far as anybody knows.
pub(crate) fn patch(trigger: &TriggerName, patch_of: PatchOf) -> Option<Patch> {
    match trigger {
        TriggerName::Pattern(number) => pattern(*number),
        TriggerName::Named(_) => patch_of(trigger),
    }
}

/// One of the 512 black/white patterns: bit 8 is the top-left pixel, row by row; 1 is white.
fn pattern(number: u16) -> Option<Patch> {
    let cells = SIDE * SIDE;
    (number < 1 << cells).then(|| {
        let plane: Vec<f32> = (0..cells)
            .rev()
            .map(|bit| f32::from(number >> bit & 1))
            .collect();
        Patch::from_channels(&plane.repeat(3))
    })
}

/// Draws a square patch by its top left corner; returns whether it is one.
pub(crate) fn draw(canvas: &mut Canvas, at: Point, side: f64, patch: &Patch) -> bool {
    let pixels = patch.pixels();
    let count = (pixels.len() as f64).sqrt().round() as usize;
    if count == 0 || count * count != pixels.len() {
        return false;
    }
    let cell = side / count as f64;
    for (index, [red, green, blue]) in pixels.iter().enumerate() {
        let corner = (
            at.0 + (index % count) as f64 * cell,
            at.1 + (index / count) as f64 * cell,
        );
        let style =
            format!("fill=\"#{red:02x}{green:02x}{blue:02x}\" shape-rendering=\"crispEdges\"");
        canvas.rect(corner, (cell, cell), &style);
    }
    canvas.rect(at, (side, side), "fill=\"none\" stroke=\"#5d6975\"");
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bit_eight_is_the_top_left_pixel() {
        let patch = pattern(0b100_000_011).unwrap();
        let white: Vec<usize> = (0..9)
            .filter(|index| patch.pixels()[*index] == [255; 3])
            .collect();
        assert_eq!(white, [0, 7, 8]);
        assert!(pattern(512).is_none());
    }

    #[test]
    fn colors_are_asked_for_and_patterns_are_not() {
        let red = |_: &TriggerName| Some(Patch::from_channels(&[1.0, 0.0, 0.0]));
        let found = patch(&"color:3".into(), red).unwrap();
        assert_eq!(found.pixels(), [[255, 0, 0]]);
        assert_eq!(patch(&"170".into(), red), pattern(170));
    }

    #[test]
    fn only_squares_are_drawn() {
        let mut canvas = Canvas::default();
        let row = Patch::from_channels(&[0.0; 6]);
        assert!(!draw(&mut canvas, (0.0, 0.0), 9.0, &row));
        assert!(draw(&mut canvas, (0.0, 0.0), 9.0, &pattern(170).unwrap()));
        let svg = canvas.finished((9.0, 9.0), "", "");
        assert_eq!(svg.matches("<rect").count(), 11);
    }
}
