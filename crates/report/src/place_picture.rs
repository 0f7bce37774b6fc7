//! Where in an image patches work, as a map: a square for each place of their top-left pixel.

use std::fmt::Write as _;

use crate::format::percent;
use crate::svg::{Anchor, Canvas, INK, cut};

const MARGIN: f64 = 16.0;
/// Side of the square of one place.
const CELL: f64 = 8.0;
/// From one line of words to the next, and what stands beside a map.
const LINE: f64 = 22.0;
const TICKS: f64 = 28.0;
/// Maps beside each other.
const PER_ROW: usize = 3;
/// The least width of a map and of the picture: what stands above and below has to fit.
const TITLE_WIDTH: f64 = 250.0;
const WIDTH: f64 = 640.0;
/// Rows and columns from one number at the edge to the next.
const TICK_STEP: usize = 8;
/// Colors, from no image to all of them.
const SHADES: usize = 11;

/// Maps of where patches turn images into a class: one for each class shown.
///
/// # Examples
///
/// ```
/// use mesa_report::{PlaceMap, PlacesPicture};
///
/// let picture = PlacesPicture {
///     title: "suspect.safetensors: where samples work".into(),
///     maps: vec![PlaceMap {
///         title: "class 0".into(),
///         columns: 2,
///         stamped: vec![36, 36, 36, 0],
///         fooled: vec![0, 9, 36, 0],
///         marked: Some((1, 0)),
///     }],
/// };
/// let svg = picture.to_svg();
/// assert!(svg.starts_with("<svg") && svg.contains("class 0"));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlacesPicture {
    /// What stands above it.
    pub title: String,
    /// The maps.
    pub maps: Vec<PlaceMap>,
}

/// Where the patches of one class work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlaceMap {
    /// What stands above the map.
    pub title: String,
    /// Columns in which a patch may stand.
    pub columns: usize,
    /// Images stamped in each place, row by row.
    pub stamped: Vec<u32>,
    /// How many of these were turned into the class.
    pub fooled: Vec<u32>,
    /// A place to mark: row and column.
    pub marked: Option<(usize, usize)>,
}

impl PlacesPicture {
    /// The picture as SVG.
    pub fn to_svg(&self) -> String {
        let mut canvas = Canvas::default();
        let (at, room) = ((MARGIN, MARGIN + 12.0), WIDTH - 2.0 * MARGIN);
        canvas.text(at, 15.0, Anchor::Start, &cut(&self.title, 15.0, room));
        let (mut top, mut right) = (MARGIN + LINE, WIDTH);
        for maps in self.maps.chunks(PER_ROW) {
            let mut left = MARGIN;
            for map in maps {
                map.draw(&mut canvas, (left, top));
                left += (TICKS + map.width()).max(TITLE_WIDTH) + MARGIN;
            }
            right = right.max(left);
            let highest = maps.iter().map(PlaceMap::height).fold(0.0, f64::max);
            top += LINE + highest + LINE + MARGIN;
        }
        legend(&mut canvas, (MARGIN + TICKS, top));
        let described: Vec<String> = self.maps.iter().map(PlaceMap::description).collect();
        let size = (right, top + 16.0 + MARGIN);
        canvas.finished(size, &self.title, &described.join("; "))
    }

    /// The maps' figures: a row for each class and place.
    pub fn to_csv(&self) -> String {
        let mut text = "map,row,column,stamped,fooled\n".to_owned();
        for map in &self.maps {
            for (at, (stamped, fooled)) in map.stamped.iter().zip(&map.fooled).enumerate() {
                let (row, column) = (at / map.columns, at % map.columns);
                let name = crate::csv::quoted(&map.title);
                let _ = writeln!(text, "{name},{row},{column},{stamped},{fooled}");
            }
        }
        text
    }
}

impl PlaceMap {
    fn rows(&self) -> usize {
        self.stamped.len() / self.columns.max(1)
    }

    fn width(&self) -> f64 {
        self.columns as f64 * CELL
    }

    fn height(&self) -> f64 {
        self.rows() as f64 * CELL
    }

    /// Share of the images stamped in a place that were turned.
    fn share(&self, at: usize) -> Option<f64> {
        (self.stamped[at] > 0).then(|| f64::from(self.fooled[at]) / f64::from(self.stamped[at]))
    }

    fn draw(&self, canvas: &mut Canvas, (left, top): (f64, f64)) {
        canvas.text((left, top + 14.0), 13.0, Anchor::Start, &self.title);
        let (left, top) = (left + TICKS, top + LINE);
        for (shade, cells) in self.shaded((left, top)).iter().enumerate() {
            if !cells.is_empty() {
                let style = format!("fill=\"{}\" shape-rendering=\"crispEdges\"", color(shade));
                canvas.path(cells, &style);
            }
        }
        for row in (0..self.rows()).step_by(TICK_STEP) {
            let at = (left - 5.0, top + (row as f64 + 0.5) * CELL + 4.0);
            canvas.text(at, 12.0, Anchor::End, &row.to_string());
        }
        for column in (0..self.columns).step_by(TICK_STEP) {
            let x = left + (column as f64 + 0.5) * CELL;
            let at = (x, top + self.height() + 14.0);
            canvas.text(at, 12.0, Anchor::Middle, &column.to_string());
        }
        if let Some((row, column)) = self.marked {
            let at = (
                left + column as f64 * CELL - 1.0,
                top + row as f64 * CELL - 1.0,
            );
            let style = format!("fill=\"none\" stroke=\"{INK}\" stroke-width=\"2\"");
            canvas.rect(at, (CELL + 2.0, CELL + 2.0), &style);
        }
    }

    /// The squares of each shade as one path; places that no image was stamped in stay empty.
    fn shaded(&self, (left, top): (f64, f64)) -> [String; SHADES] {
        let mut paths = [const { String::new() }; SHADES];
        for at in 0..self.stamped.len() {
            let Some(share) = self.share(at) else {
                continue;
            };
            let x = left + (at % self.columns) as f64 * CELL;
            let y = top + (at / self.columns) as f64 * CELL;
            let path = &mut paths[(share * (SHADES - 1) as f64).round() as usize];
            let _ = write!(path, "M{x} {y}h{CELL}v{CELL}h-{CELL}z");
        }
        paths
    }

    fn description(&self) -> String {
        let shares = (0..self.stamped.len()).filter_map(|at| self.share(at));
        let highest = shares.fold(0.0, f64::max);
        let marked = self.marked.map_or_else(String::new, |(row, column)| {
            format!(", marked: row {row}, column {column}")
        });
        format!(
            "{}: at most {} % in one place{marked}",
            self.title,
            percent(highest)
        )
    }
}

/// A shade between the color of places where nothing works and that of places where all does.
fn color(shade: usize) -> String {
    let (from, to) = ([0xf4, 0xf6, 0xf8], [0x8f, 0x12, 0x0c]);
    let part = shade as f64 / (SHADES - 1) as f64;
    let mix = |k: usize| (f64::from(from[k]) * (1.0 - part) + f64::from(to[k]) * part).round();
    let [red, green, blue] = [0, 1, 2].map(|k| mix(k) as u8);
    format!("#{red:02x}{green:02x}{blue:02x}")
}

fn legend(canvas: &mut Canvas, (left, top): (f64, f64)) {
    let wide = 2.0 * CELL;
    for shade in 0..SHADES {
        let style = format!("fill=\"{}\" shape-rendering=\"crispEdges\"", color(shade));
        canvas.rect((left + wide * shade as f64, top), (wide, 12.0), &style);
    }
    canvas.text((left - 5.0, top + 11.0), 12.0, Anchor::End, "0");
    let words = "100 % of images; row and column of a patch's top-left pixel";
    let at = (left + wide * SHADES as f64 + 6.0, top + 11.0);
    canvas.text(at, 12.0, Anchor::Start, words);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picture() -> PlacesPicture {
        let map = |title: &str, marked| PlaceMap {
            title: title.into(),
            columns: 3,
            stamped: vec![10, 10, 10, 10, 0, 10],
            fooled: vec![0, 1, 10, 5, 0, 0],
            marked,
        };
        PlacesPicture {
            title: "made-up <places>".into(),
            maps: vec![map("class 0, anywhere", Some((0, 2))), map("class 1", None)],
        }
    }

    #[test]
    fn every_place_that_was_seen_is_a_square_of_its_shade() {
        let svg = picture().to_svg();
        assert_eq!(svg.matches("h8v8h-8z").count(), 2 * 5);
        assert!(svg.contains("class 0, anywhere: at most 100.0 % in one place, marked: row 0"));
        assert!(svg.contains("made-up &lt;places&gt;"));
        // The place that works always stands at the right of the first row.
        let (left, top) = (MARGIN + TICKS, MARGIN + 2.0 * LINE);
        let dark = format!("M{} {top}h8v8h-8z", left + 2.0 * CELL);
        let line = svg.lines().find(|line| line.contains(&dark)).unwrap();
        assert!(line.contains(&color(SHADES - 1)), "{line}");
        assert!(crate::embed::own_svg(&svg).is_some());
    }

    #[test]
    fn looks_as_it_did() {
        insta::assert_snapshot!(picture().to_svg());
    }

    #[test]
    fn the_file_has_what_the_map_shows() {
        let csv = picture().to_csv();
        assert_eq!(csv.lines().count(), 1 + 2 * 6);
        assert!(csv.contains("\n\"class 0, anywhere\",0,2,10,10\n"), "{csv}");
        assert!(csv.contains("\nclass 1,1,0,10,5\n"), "{csv}");
    }
}
