//! Sampled triggers as little patches beside the true one.

use std::fmt::Write as _;

use crate::svg::{opened, text};
use crate::{Error, Result};

/// A picture of sampled triggers: one block of patches for each sub-model and,
/// where it is known, the true trigger at the left. Drawn on a ground of its
/// own, so that it reads the same on light and on dark pages.
///
/// # Examples
///
/// ```
/// use mesa_report::{SampleGroup, SamplesPicture};
///
/// let picture = SamplesPicture {
///     title: "trigger 0, seed 0".into(),
///     patch_shape: (3, 3),
///     true_trigger: Some(vec![0.0; 27]),
///     groups: vec![SampleGroup {
///         title: "β = 0.9, sample ASR 93.1 %".into(),
///         pixels: vec![0.25; 2 * 27],
///     }],
/// };
/// let svg = picture.to_svg()?;
/// assert!(svg.starts_with("<svg") && svg.contains("β = 0.9"));
/// # Ok::<(), mesa_report::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct SamplesPicture {
    /// What stands above it.
    pub title: String,
    /// Height and width of every patch.
    pub patch_shape: (usize, usize),
    /// The attacker's trigger, `(3, height, width)` in [0, 1].
    pub true_trigger: Option<Vec<f32>>,
    /// One block for each sub-model.
    pub groups: Vec<SampleGroup>,
}

/// The samples of one sub-model.
#[derive(Clone, Debug, PartialEq)]
pub struct SampleGroup {
    /// What stands above the block.
    pub title: String,
    /// `(n, 3, height, width)` in [0, 1], flattened.
    pub pixels: Vec<f32>,
}

impl SampleGroup {
    /// The samples of the sub-model of one β, with the ASR they reach where it was measured.
    pub fn of_beta(beta: f64, sample_asr: Option<f64>, pixels: Vec<f32>) -> Self {
        let asr = sample_asr.map(|asr| format!(", sample ASR {:.1} %", asr * 100.0));
        Self {
            title: format!("β = {beta}{}", asr.unwrap_or_default()),
            pixels,
        }
    }
}

/// Most patches in a row of a block.
const PER_ROW: usize = 8;
/// Side of a patch, space between patches, border, height of a line of text.
const SIDE: usize = 24;
const GAP: usize = 6;
const MARGIN: usize = 16;
const LINE: usize = 22;
/// The least width of a block: its title has to fit.
const TITLE_WIDTH: usize = 190;

impl SamplesPicture {
    /// The picture as SVG.
    ///
    /// # Errors
    ///
    /// [`Error::PatchShape`] if pixels are no whole number of patches.
    pub fn to_svg(&self) -> Result<String> {
        let top = MARGIN + 2 * LINE;
        let (mut body, mut x, mut bottom) = (String::new(), MARGIN, top);
        let truth = self
            .true_trigger
            .iter()
            .map(|pixels| ("true trigger", pixels));
        let groups = self
            .groups
            .iter()
            .map(|group| (group.title.as_str(), &group.pixels));
        for (title, pixels) in truth.chain(groups) {
            let patches = self.patches(pixels)?;
            text(&mut body, x, MARGIN + 2 * LINE - 10, 13, title);
            for (index, patch) in patches.iter().enumerate() {
                let left = x + index % PER_ROW * (SIDE + GAP);
                let above = top + index / PER_ROW * (SIDE + GAP);
                self.draw(&mut body, left, above, patch);
            }
            let columns = patches.len().min(PER_ROW);
            bottom = bottom.max(top + patches.len().div_ceil(PER_ROW) * (SIDE + GAP));
            let title_width = if patches.len() == 1 {
                TITLE_WIDTH / 2
            } else {
                TITLE_WIDTH
            };
            x += (columns * (SIDE + GAP)).max(title_width) + MARGIN;
        }
        let (width, height) = (x.max(MARGIN + 2 * TITLE_WIDTH), bottom + MARGIN - GAP);
        let mut svg = opened(width, height, &self.title);
        text(&mut svg, MARGIN, MARGIN + 12, 15, &self.title);
        svg.push_str(&body);
        svg.push_str("</svg>\n");
        Ok(svg)
    }

    /// The patches of a flat block of pixels.
    fn patches<'a>(&self, pixels: &'a [f32]) -> Result<Vec<&'a [f32]>> {
        let (height, width) = self.patch_shape;
        let length = 3 * height * width;
        if length == 0 || !pixels.len().is_multiple_of(length) {
            return Err(Error::PatchShape {
                pixels: pixels.len(),
                height,
                width,
            });
        }
        Ok(pixels.chunks_exact(length).collect())
    }

    /// One patch, `SIDE` wide, a rectangle for each pixel.
    fn draw(&self, svg: &mut String, left: usize, above: usize, patch: &[f32]) {
        let (height, width) = self.patch_shape;
        let pixel = |row: usize, column: usize| {
            [0, 1, 2].map(|channel| byte(patch[(channel * height + row) * width + column]))
        };
        let _ = write!(
            svg,
            "<g transform=\"translate({left} {above})\" shape-rendering=\"crispEdges\">"
        );
        draw_pixels(svg, SIDE, self.patch_shape, pixel);
        svg.push_str("</g>\n");
    }
}

/// Draws the pixels of a patch into a square at the origin, and a thin frame around it: a
/// rectangle for each.
pub(crate) fn draw_pixels(
    svg: &mut String,
    side: usize,
    (height, width): (usize, usize),
    pixel: impl Fn(usize, usize) -> [u8; 3],
) {
    let place = |index: usize, count: usize| number(index as f64 * side as f64 / count as f64);
    for row in 0..height {
        for column in 0..width {
            let [red, green, blue] = pixel(row, column);
            let _ = write!(
                svg,
                "<rect x=\"{}\" y=\"{}\" width=\"{}\" height=\"{}\" fill=\"#{red:02x}{green:02x}{blue:02x}\"/>",
                place(column, width),
                place(row, height),
                place(1, width),
                place(1, height),
            );
        }
    }
    let _ = write!(
        svg,
        "<rect width=\"{side}\" height=\"{side}\" fill=\"none\" stroke=\"#7d8793\"/>"
    );
}

fn byte(value: f32) -> u8 {
    (value.clamp(0.0, 1.0) * 255.0).round() as u8
}

/// At most two decimals, none where they are zero.
fn number(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picture(samples: usize) -> SamplesPicture {
        SamplesPicture {
            title: "made-up <samples>".into(),
            patch_shape: (3, 3),
            true_trigger: Some([[1.0; 9], [0.5; 9], [0.0; 9]].concat()),
            groups: vec![
                SampleGroup::of_beta(0.9, Some(0.931), vec![0.25; samples * 27]),
                SampleGroup::of_beta(0.5, None, vec![2.0; samples * 27]),
            ],
        }
    }

    #[test]
    fn every_pixel_is_a_rectangle() {
        let svg = picture(10).to_svg().unwrap();
        // Nine pixels and a frame for each of 21 patches, and the ground.
        assert_eq!(svg.matches("<rect").count(), 21 * 10 + 1);
        assert_eq!(svg.matches("#ff8000").count(), 9);
        assert!(svg.contains("β = 0.9, sample ASR 93.1 %"));
        assert!(svg.contains("made-up &lt;samples&gt;"));
        assert_eq!(svg.matches("#ffffff").count(), 90);
    }

    #[test]
    fn looks_as_it_did() {
        insta::assert_snapshot!(picture(1).to_svg().unwrap());
    }

    #[test]
    fn refuses_half_a_patch() {
        let mut picture = picture(1);
        picture.groups[0].pixels.pop();
        let error = picture.to_svg().unwrap_err();
        assert!(matches!(
            error,
            Error::PatchShape {
                pixels: 26,
                height: 3,
                width: 3
            }
        ));
    }
}
