//! How the main figure is drawn.
//!
//! Before the defense figures lie near 100 %, after it mostly below 5 %: the axis is broken, with the
//! former in a panel of their own, and below the break it is one of square roots, on which 2 % and
//! 4 % are as far apart as 66 % and 76 %.

use mesa_record::Summary;

use crate::defense::{BASELINE, Column, Defense};
use crate::format::{counted, percent};
use crate::marks::Mark;
use crate::patches;
use crate::report::run_words;
use crate::rows::{count_words, repeat_counts};
use crate::svg::{Anchor, Canvas, GRID, INK, Point, cut, text_width, wrapped};

const MARGIN: f64 = 16.0;
/// Room for the words of the axis.
const LEFT: f64 = 72.0;
/// Least width of the plot; what all triggers share, and least and most width of one.
const LEAST_PLOT: f64 = 400.0;
const PLOT: f64 = 720.0;
const COLUMN: (f64, f64) = (19.0, 140.0);
/// Heights: before the defense, the break, after it.
const BEFORE: f64 = 64.0;
const BREAK: f64 = 20.0;
const AFTER: f64 = 340.0;
const LINE: f64 = 19.0;
/// Sizes of type: words, numbers.
const WORDS: f64 = 14.0;
const SMALL: f64 = 13.0;
/// Triggers up to which marks stand side by side; more are joined by lines.
const FEW: usize = 12;

const BASELINE_COLOR: &str = "#46525f";

/// The figure while it is drawn.
pub(crate) struct Drawing<'a> {
    summary: &'a Summary,
    defense: &'a Defense<'a>,
    canvas: Canvas,
    column: f64,
    width: f64,
    /// Least ASR of the panel above the break.
    floor: f64,
    /// Top of the panels; they follow the legend.
    top: f64,
}

impl<'a> Drawing<'a> {
    pub(crate) fn new(summary: &'a Summary, defense: &'a Defense<'a>) -> Self {
        let count = defense.columns.len() as f64;
        let column = (PLOT / count).clamp(COLUMN.0, COLUMN.1);
        let plot = (column * count).max(LEAST_PLOT);
        let lowest = defense
            .columns
            .iter()
            .filter_map(|column| column.range("backdoored"))
            .map(|range| range.low)
            .fold(0.9, f64::min);
        Self {
            summary,
            defense,
            canvas: Canvas::default(),
            column: plot / count,
            width: LEFT + plot + MARGIN,
            floor: (lowest * 10.0).floor() / 10.0,
            top: 0.0,
        }
    }

    pub(crate) fn drawn(mut self, title: &str) -> String {
        self.heading(title);
        self.axes();
        self.bands();
        self.lines();
        for (index, column) in self.defense.columns.iter().enumerate() {
            self.marks(index, column);
        }
        let bottom = self.triggers();
        let description = self.description();
        self.canvas
            .finished((self.width, bottom + MARGIN), title, &description)
    }

    /// Title, run, legend; leaves `top` below them.
    fn heading(&mut self, title: &str) {
        let room = self.width - 2.0 * MARGIN;
        let mut y = MARGIN + 12.0;
        for line in wrapped(title, 16.0, room) {
            self.canvas.text((MARGIN, y), 16.0, Anchor::Start, &line);
            y += LINE + 2.0;
        }
        let words = format!(
            "{}, {}",
            run_words(self.summary),
            counted(self.defense.networks(), "network")
        );
        let words = cut(&words, WORDS, room);
        self.canvas.text((MARGIN, y), WORDS, Anchor::Start, &words);
        y += LINE + 6.0;
        let mut x = MARGIN;
        let methods = &self.defense.methods;
        let names = methods.iter().map(|method| Some(*method));
        let band = repeat_counts(self.summary).map(|_| None);
        for method in names.chain(band) {
            let label = method.map_or_else(|| self.band_words(), str::to_owned);
            let length = 22.0 + text_width(&label, WORDS) + 12.0;
            if x > MARGIN && x + length > self.width - MARGIN {
                x = MARGIN;
                y += LINE + 2.0;
            }
            match method {
                Some(method) => {
                    let mark = Mark::of(method, methods);
                    mark.draw(&mut self.canvas, (x + 8.0, y - 4.5), 5.0);
                }
                None => self.band_at(x, x + 18.0, [y - 10.0, y - 4.5, y + 1.0]),
            }
            self.canvas
                .text((x + 22.0, y), WORDS, Anchor::Start, &label);
            x += length;
        }
        self.top = y + 18.0;
    }

    fn band_words(&self) -> String {
        let counts = repeat_counts(self.summary).unwrap_or_default();
        format!(
            "{BASELINE}: mean ± standard deviation, {}",
            count_words(counts)
        )
    }

    /// Where the two panels begin and end.
    fn below_break(&self) -> f64 {
        self.top + BEFORE + BREAK
    }

    fn bottom(&self) -> f64 {
        self.below_break() + AFTER
    }

    /// The place of an ASR above the break.
    fn before(&self, asr: f64) -> f64 {
        let share = (asr - self.floor) / (1.0 - self.floor);
        self.top + BEFORE * (1.0 - share)
    }

    /// The place of an ASR below it.
    fn after(&self, asr: f64) -> f64 {
        self.bottom() - AFTER * asr.clamp(0.0, 1.0).sqrt()
    }

    fn middle(&self, index: usize) -> f64 {
        LEFT + self.column * (index as f64 + 0.5)
    }

    fn axes(&mut self) {
        let (left, right) = (LEFT, self.width - MARGIN);
        let grid = format!("stroke=\"{GRID}\"");
        for asr in [self.floor, f64::midpoint(self.floor, 1.0), 1.0] {
            let y = self.before(asr);
            self.tick(y, asr);
        }
        for asr in [0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0] {
            let y = self.after(asr);
            self.tick(y, asr);
        }
        for index in 1..self.defense.columns.len() {
            let x = LEFT + self.column * index as f64;
            let (top, end) = (self.top, self.top + BEFORE);
            self.canvas.line((x, top), (x, end), &grid);
            let (top, end) = (self.below_break(), self.bottom());
            self.canvas.line((x, top), (x, end), &grid);
        }
        let ink = format!("stroke=\"{INK}\"");
        for x in [left, right] {
            let (top, end) = (self.top, self.top + BEFORE);
            self.canvas.line((x, top), (x, end), &ink);
            let (top, end) = (self.below_break(), self.bottom());
            self.canvas.line((x, top), (x, end), &ink);
            // The break: two slanting strokes.
            for y in [self.top + BEFORE, self.below_break()] {
                self.canvas
                    .line((x - 5.0, y + 3.0), (x + 5.0, y - 3.0), &ink);
            }
        }
        let x = MARGIN + 8.0;
        let y = self.top + BEFORE / 2.0;
        self.canvas
            .upward_text((x, y), WORDS, Anchor::Middle, "before");
        let y = self.below_break() + AFTER / 2.0;
        let words = "ASR after, % (square-root scale)";
        self.canvas
            .upward_text((x, y), WORDS, Anchor::Middle, words);
    }

    fn tick(&mut self, y: f64, asr: f64) {
        let grid = format!("stroke=\"{GRID}\"");
        let right = self.width - MARGIN;
        self.canvas.line((LEFT, y), (right, y), &grid);
        let words = format!("{:.0}", asr * 100.0);
        self.canvas
            .text((LEFT - 8.0, y + 4.5), SMALL, Anchor::End, &words);
    }

    fn bands(&mut self) {
        for (index, column) in self.defense.columns.iter().enumerate() {
            if let Some(band) = column.baseline {
                let left = LEFT + self.column * index as f64;
                let [high, mean, low] = [band.mean + band.std, band.mean, band.mean - band.std]
                    .map(|asr| self.after(asr));
                self.band_at(left, left + self.column, [high, mean, low]);
            }
        }
    }

    fn band_at(&mut self, left: f64, right: f64, [high, mean, low]: [f64; 3]) {
        let area = format!("fill=\"{BASELINE_COLOR}\" fill-opacity=\"0.28\"");
        let size = (right - left, (low - high).max(1.0));
        self.canvas.rect((left, high), size, &area);
        let line = format!("stroke=\"{BASELINE_COLOR}\" stroke-width=\"2\"");
        self.canvas.line((left, mean), (right, mean), &line);
    }

    /// Joins the marks of a method where there are too many triggers to look from one to the next.
    fn lines(&mut self) {
        if self.defense.columns.len() <= FEW {
            return;
        }
        for method in &self.defense.methods {
            let points: Vec<Point> = self
                .defense
                .columns
                .iter()
                .enumerate()
                .filter_map(|(index, column)| {
                    let asr = column.range(method)?.mean;
                    Some((self.middle(index), self.place(method, asr)))
                })
                .collect();
            let color = Mark::of(method, &self.defense.methods).color;
            let stroke = format!("stroke=\"{color}\" stroke-opacity=\"0.45\"");
            self.canvas.polyline(&points, &stroke);
        }
    }

    fn place(&self, method: &str, asr: f64) -> f64 {
        if method == "backdoored" {
            self.before(asr)
        } else {
            self.after(asr)
        }
    }

    fn marks(&mut self, index: usize, column: &Column<'_>) {
        let few = self.defense.columns.len() <= FEW;
        // Only the methods below the break stand side by side.
        let after: Vec<&str> = self
            .defense
            .methods
            .iter()
            .copied()
            .filter(|method| *method != "backdoored")
            .collect();
        let step = if few {
            ((self.column - 20.0) / after.len().max(1) as f64).min(18.0)
        } else {
            0.0
        };
        for method in &self.defense.methods {
            let Some(range) = column.range(method) else {
                continue;
            };
            let number = after.iter().position(|other| other == method);
            let aside = number.map_or(0.0, |number| {
                step * (number as f64 - (after.len() as f64 - 1.0) / 2.0)
            });
            let x = self.middle(index) + aside;
            let mark = Mark::of(method, &self.defense.methods);
            let [low, high] = [range.low, range.high].map(|asr| self.place(method, asr));
            if low - high > 1.0 {
                let stroke = format!("stroke=\"{}\" stroke-width=\"1.2\"", mark.color);
                self.canvas.line((x, low), (x, high), &stroke);
            }
            let y = self.place(method, range.mean);
            let radius = if few { 5.0 } else { 3.6 };
            mark.draw(&mut self.canvas, (x, y), radius);
        }
    }

    /// Patches and names below the axis; returns where they end.
    fn triggers(&mut self) -> f64 {
        let top = self.bottom() + 12.0;
        let side = ((self.column - 5.0) / 3.0).floor().clamp(4.0, 10.0) * 3.0;
        let names: Vec<String> = self
            .defense
            .columns
            .iter()
            .map(|column| cut(&column.trigger.to_string(), SMALL, 110.0))
            .collect();
        let longest = names
            .iter()
            .map(|name| text_width(name, SMALL))
            .fold(0.0, f64::max);
        let upward = longest > self.column - 4.0;
        let below = top + side + 6.0;
        for (index, column) in self.defense.columns.iter().enumerate() {
            let x = self.middle(index);
            if let Some(patch) = &column.patch {
                patches::draw(&mut self.canvas, (x - side / 2.0, top), side, patch);
            }
            if upward {
                let at = (x + 4.0, below);
                self.canvas
                    .upward_text(at, SMALL, Anchor::End, &names[index]);
            } else {
                let at = (x, below + 10.0);
                self.canvas.text(at, SMALL, Anchor::Middle, &names[index]);
            }
        }
        let end = below + if upward { longest + 4.0 } else { 14.0 };
        let words = format!("trigger, {}", self.defense.order.words());
        let at = (f64::midpoint(LEFT, self.width - MARGIN), end + 16.0);
        self.canvas.text(at, WORDS, Anchor::Middle, &words);
        end + 18.0
    }

    /// The means, for those who do not see the figure.
    fn description(&self) -> String {
        let methods = self.defense.methods.iter().copied();
        let band = repeat_counts(self.summary).map(|_| BASELINE);
        let means: Vec<String> = methods
            .chain(band)
            .filter_map(|method| {
                let asr = self.defense.mean_of(method)?;
                Some(format!("{method} {} %", percent(asr)))
            })
            .collect();
        format!(
            "{}, {}. Means over triggers: {}.",
            counted(self.defense.columns.len(), "trigger"),
            self.defense.order.words(),
            means.join(", ")
        )
    }
}
