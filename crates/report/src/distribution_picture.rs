//! Samples of several sub-models as little patches on a plane that they share.

use std::fmt::Write as _;

use mesa_record::{Distribution, DistributionPanel, PlacedPatch};

use crate::format::{data_words, percent};
use crate::picture::draw_pixels;
use crate::svg::{escaped, opened, text};

/// Which plane the samples lie on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Plane {
    /// That of the first two principal components.
    Pca,
    /// That of t-SNE.
    Tsne,
}

/// What differs from panel to panel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Axis {
    /// The threshold β, at the settings' α: that of the first panel.
    Beta,
    /// The weight α of the entropy, at one β.
    Alpha,
}

impl Plane {
    fn place(self, patch: &PlacedPatch) -> [f64; 2] {
        match self {
            Self::Pca => patch.pca,
            Self::Tsne => patch.tsne,
        }
    }

    /// What the plane is.
    pub(crate) fn words(self, distribution: &Distribution) -> String {
        match self {
            Self::Pca => {
                let [first, second] = distribution.pca_explained.map(percent);
                format!("principal components with {first} % and {second} % of the variance")
            }
            Self::Tsne => format!("t-SNE at perplexity {}", distribution.tsne_perplexity),
        }
    }
}

impl Axis {
    /// The panels that are compared.
    pub(crate) fn panels(self, distribution: &Distribution) -> Vec<&DistributionPanel> {
        let panels = &distribution.panels;
        let Some(first) = panels.first() else {
            return Vec::new();
        };
        let has_settings_alpha =
            |panel: &&DistributionPanel| panel.alpha.to_bits() == first.alpha.to_bits();
        match self {
            Self::Beta => panels.iter().filter(has_settings_alpha).collect(),
            Self::Alpha => {
                let other = panels.iter().find(|panel| !has_settings_alpha(panel));
                let beta = other.unwrap_or(first).beta.to_bits();
                let mut shown: Vec<_> = panels
                    .iter()
                    .filter(|panel| panel.beta.to_bits() == beta)
                    .collect();
                shown.sort_by(|a, b| a.alpha.total_cmp(&b.alpha));
                shown
            }
        }
    }

    /// What a picture shows.
    pub(crate) fn words(self, plane: Plane) -> &'static str {
        match (self, plane) {
            (Self::Beta, Plane::Pca) => "Samples for each β on principal components",
            (Self::Beta, Plane::Tsne) => "Samples for each β on a t-SNE plane",
            (Self::Alpha, Plane::Pca) => "Samples for each α on principal components",
            (Self::Alpha, Plane::Tsne) => "Samples for each α on a t-SNE plane",
        }
    }
}

const MARGIN: usize = 16;
/// Panels in a row, side of a panel, space between panels.
const PER_ROW: usize = 3;
const SIDE: usize = 320;
const GAP: usize = 16;
/// Room above the panels, above and below each.
const HEAD: usize = 66;
const ABOVE: usize = 24;
const BELOW: usize = 52;
/// Least distance of a patch from its panel's edge, and about how large a patch is.
const INSET: usize = 8;
const PATCH: usize = 10;
const PANEL: &str = "#f4f7fa";
const RING: &str = "#b3261e";

/// The panels of one axis side by side, as SVG: every sample is a little patch at its place on the
/// plane, under each panel stand the ASR and the entropy of its samples. One scale serves all
/// panels of a picture.
pub(crate) fn distribution_picture(
    distribution: &Distribution,
    plane: Plane,
    axis: Axis,
) -> String {
    let panels = axis.panels(distribution);
    let columns = panels.len().clamp(2, PER_ROW);
    let width = 2 * MARGIN + columns * (SIDE + GAP) - GAP;
    let row_height = ABOVE + SIDE + BELOW;
    let height = HEAD + panels.len().div_ceil(PER_ROW) * row_height;
    let mut svg = opened(width, height, &title(distribution, plane, axis));
    let _ = writeln!(svg, "<desc>{}</desc>", escaped(&description(&panels)));
    text(&mut svg, MARGIN, MARGIN + 12, 15, axis.words(plane));
    let below = subtitle(distribution, plane);
    text(&mut svg, MARGIN, MARGIN + 34, 13, &below);
    let sheet = Sheet::new(distribution, plane, &panels);
    for (index, panel) in panels.iter().enumerate() {
        let left = MARGIN + index % PER_ROW * (SIDE + GAP);
        let above = HEAD + index / PER_ROW * row_height + ABOVE;
        text(&mut svg, left, above - 8, 14, &panel_words(panel));
        let _ = writeln!(svg, "<g transform=\"translate({left} {above})\">");
        sheet.draw(&mut svg, panel);
        svg.push_str("</g>\n");
        let [asr, entropy] = figures(panel);
        text(&mut svg, left, above + SIDE + 18, 13, &asr);
        text(&mut svg, left, above + SIDE + 36, 13, &entropy);
    }
    svg.push_str("</svg>\n");
    svg
}

fn title(distribution: &Distribution, plane: Plane, axis: Axis) -> String {
    let (trigger, seed) = (&distribution.trigger, distribution.seed);
    format!("{}: trigger {trigger}, seed {seed}", axis.words(plane))
}

fn subtitle(distribution: &Distribution, plane: Plane) -> String {
    format!(
        "{}, {}: trigger {}, seed {}; {}",
        distribution.preset,
        data_words(&distribution.data),
        distribution.trigger,
        distribution.seed,
        plane.words(distribution)
    )
}

/// All figures in words, for those who do not see the picture.
fn description(panels: &[&DistributionPanel]) -> String {
    let words = |panel: &&DistributionPanel| {
        let [asr, entropy] = figures(panel);
        let (count, which) = (panel.samples.len(), panel_words(panel));
        format!("{which}: {count} samples, {asr}, {entropy}.")
    };
    panels.iter().map(words).collect::<Vec<_>>().join(" ")
}

fn panel_words(panel: &DistributionPanel) -> String {
    format!("β = {}, α = {}", panel.beta, panel.alpha)
}

fn figures(panel: &DistributionPanel) -> [String; 2] {
    [
        format!(
            "ASR {} %, in level set {} %",
            percent(panel.sample_asr),
            percent(panel.in_level_set)
        ),
        format!(
            "entropy {:.2} ± {:.2} nats",
            panel.information_nats, panel.information_se
        ),
    ]
}

/// What all panels of a plane share.
struct Sheet<'a> {
    plane: Plane,
    patch_shape: (usize, usize),
    true_trigger: Option<&'a PlacedPatch>,
    /// The middle of all places, and pixels for each unit.
    middle: [f64; 2],
    scale: f64,
}

impl<'a> Sheet<'a> {
    fn new(distribution: &'a Distribution, plane: Plane, panels: &[&DistributionPanel]) -> Self {
        let patches = || {
            let samples = panels.iter().flat_map(|panel| &panel.samples);
            samples.chain(&distribution.true_trigger)
        };
        let [height, width] = distribution.patch_shape;
        let ends = [0, 1].map(|axis| {
            let places = || patches().map(move |patch| plane.place(patch)[axis]);
            let low = places().fold(f64::INFINITY, f64::min);
            (low, places().fold(f64::NEG_INFINITY, f64::max))
        });
        let span = ends
            .map(|(low, high)| high - low)
            .into_iter()
            .fold(0.0, f64::max);
        let room = (SIDE - 2 * INSET - patch_side((height, width))) as f64;
        Self {
            plane,
            patch_shape: (height, width),
            true_trigger: distribution.true_trigger.as_ref(),
            middle: ends.map(|(low, high)| f64::midpoint(low, high)),
            scale: if span > 0.0 { room / span } else { 0.0 },
        }
    }

    /// The middle of a patch in its panel, in pixels; up is up.
    fn middle_of(&self, patch: &PlacedPatch) -> [usize; 2] {
        let [x, y] = self.plane.place(patch);
        let half = SIDE as f64 / 2.0;
        let at = [
            half + self.scale * (x - self.middle[0]),
            half - self.scale * (y - self.middle[1]),
        ];
        at.map(|pixels| pixels.round() as usize)
    }

    /// A panel's ground, its samples, and the true trigger on top.
    fn draw(&self, svg: &mut String, panel: &DistributionPanel) {
        let _ = writeln!(
            svg,
            "<rect width=\"{SIDE}\" height=\"{SIDE}\" fill=\"{PANEL}\"/>\n\
             <g shape-rendering=\"crispEdges\">"
        );
        // From the rim to the middle: where patches crowd, those that stand out are not covered.
        let mut samples: Vec<&PlacedPatch> = panel.samples.iter().collect();
        let from_middle = |patch: &&PlacedPatch| {
            let offsets = self.middle_of(patch).map(|at| at.abs_diff(SIDE / 2).pow(2));
            offsets[0] + offsets[1]
        };
        samples.sort_by_key(|patch| std::cmp::Reverse(from_middle(patch)));
        for patch in samples {
            self.draw_patch(svg, patch);
        }
        svg.push_str("</g>\n");
        if let Some(truth) = self.true_trigger {
            self.draw_true_trigger(svg, truth);
        }
    }

    fn draw_patch(&self, svg: &mut String, placed: &PlacedPatch) {
        let side = patch_side(self.patch_shape);
        let [left, above] = self.middle_of(placed).map(|at| at.saturating_sub(side / 2));
        let pixels = placed.patch.pixels();
        let pixel = |row: usize, column: usize| {
            let at = row * self.patch_shape.1 + column;
            pixels.get(at).copied().unwrap_or_default()
        };
        let _ = write!(svg, "<g transform=\"translate({left} {above})\">");
        draw_pixels(svg, side, self.patch_shape, pixel);
        svg.push_str("</g>\n");
    }

    /// The true trigger in a ring, and below it what it is, or above where there is no room.
    fn draw_true_trigger(&self, svg: &mut String, truth: &PlacedPatch) {
        let [x, y] = self.middle_of(truth);
        let radius = patch_side(self.patch_shape) + 1;
        let (anchor, label) = if x > SIDE / 2 {
            ("end", x + radius)
        } else {
            ("start", x.saturating_sub(radius))
        };
        let baseline = if y + radius + 18 < SIDE {
            y + radius + 14
        } else {
            y.saturating_sub(radius + 6)
        };
        let circle = |width: &str, color: &str| {
            format!(
                "<circle cx=\"{x}\" cy=\"{y}\" r=\"{radius}\" fill=\"none\" stroke=\"{color}\" \
                 stroke-width=\"{width}\"/>\n"
            )
        };
        svg.push_str(&circle("6", PANEL));
        svg.push_str("<g shape-rendering=\"crispEdges\">");
        self.draw_patch(svg, truth);
        svg.push_str("</g>\n");
        svg.push_str(&circle("2.5", RING));
        let _ = writeln!(
            svg,
            "<text x=\"{label}\" y=\"{baseline}\" font-size=\"12\" font-weight=\"bold\" \
             text-anchor=\"{anchor}\" fill=\"{RING}\" stroke=\"{PANEL}\" stroke-width=\"3\" \
             paint-order=\"stroke\">true trigger</text>"
        );
    }
}

/// A side that its pixels divide, where the patch is square.
fn patch_side((height, width): (usize, usize)) -> usize {
    let longest = height.max(width).max(1);
    (PATCH / longest).max(1) * longest
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::made_up;

    const PLANES: [Plane; 2] = [Plane::Pca, Plane::Tsne];

    #[test]
    fn looks_as_it_did() {
        let mut distribution = made_up::distribution();
        for panel in &mut distribution.panels {
            panel.samples.truncate(1);
        }
        let svg = distribution_picture(&distribution, Plane::Tsne, Axis::Alpha);
        insta::assert_snapshot!(svg);
    }

    #[test]
    fn panels_are_those_of_the_axis() {
        let distribution = made_up::distribution();
        let pairs = |axis: Axis| -> Vec<(f64, f64)> {
            let panels = axis.panels(&distribution).into_iter();
            panels.map(|panel| (panel.beta, panel.alpha)).collect()
        };
        assert_eq!(pairs(Axis::Beta), [(0.9, 0.1), (0.5, 0.1)]);
        assert_eq!(pairs(Axis::Alpha), [(0.9, 0.0), (0.9, 0.1), (0.9, 10.0)]);
    }

    #[test]
    fn every_pixel_is_a_rectangle_and_every_panel_has_its_figures() {
        let distribution = made_up::distribution();
        for plane in PLANES {
            let svg = distribution_picture(&distribution, plane, Axis::Alpha);
            // Three samples and the true trigger in each of three panels, a ground for each and one
            // for all.
            assert_eq!(svg.matches("<rect").count(), 3 * (4 * 10 + 1) + 1);
            assert_eq!(svg.matches(">true trigger<").count(), 3);
            // Drawn, and in the description.
            assert_eq!(svg.matches("ASR 93.1 %").count(), 6);
            assert_eq!(svg.matches("entropy 3.46 ± 0.02 nats").count(), 6);
            assert!(svg.contains("<title>Samples for each α on"), "{svg}");
        }
    }

    #[test]
    fn one_scale_serves_both_axes_and_nothing_leaves_its_panel() {
        let distribution = made_up::distribution();
        for plane in PLANES {
            let panels = Axis::Alpha.panels(&distribution);
            let sheet = Sheet::new(&distribution, plane, &panels);
            let samples = panels.iter().flat_map(|panel| &panel.samples);
            let patches: Vec<_> = samples.chain(&distribution.true_trigger).collect();
            for patch in &patches {
                for at in sheet.middle_of(patch) {
                    assert!((INSET..=SIDE - INSET).contains(&at), "{patch:?} at {at}");
                }
            }
            // The most distant ones use the room that there is.
            let apart = |k: usize| {
                let at = || patches.iter().map(|patch| sheet.middle_of(patch)[k]);
                at().max().unwrap() - at().min().unwrap()
            };
            let room = SIDE - 2 * INSET - patch_side((3, 3));
            assert!(apart(0).max(apart(1)).abs_diff(room) <= 1);
        }
    }

    #[test]
    fn more_panels_than_a_row_holds_make_another() {
        let mut distribution = made_up::distribution();
        for panel in &mut distribution.panels {
            panel.alpha = 0.1;
        }
        let svg = distribution_picture(&distribution, Plane::Pca, Axis::Beta);
        let below = HEAD + ABOVE + SIDE + BELOW + ABOVE;
        assert!(
            svg.contains(&format!("translate({MARGIN} {below})")),
            "{svg}"
        );
    }

    #[test]
    fn samples_at_one_place_are_drawn_in_the_middle() {
        let mut distribution = made_up::distribution();
        distribution.true_trigger = None;
        for panel in &mut distribution.panels {
            for patch in &mut panel.samples {
                patch.pca = [0.5, 0.5];
            }
        }
        let svg = distribution_picture(&distribution, Plane::Pca, Axis::Beta);
        assert_eq!(svg.matches("translate(156 156)").count(), 6);
        assert!(!svg.contains("true trigger") && !svg.contains("NaN"));
        distribution.panels.clear();
        assert!(distribution_picture(&distribution, Plane::Pca, Axis::Beta).ends_with("</svg>\n"));
    }

    #[test]
    fn patches_of_any_size_are_about_as_large() {
        let sides = [(1, 1), (2, 2), (3, 3), (4, 4), (5, 2), (12, 12)].map(patch_side);
        assert_eq!(sides, [10, 10, 9, 8, 10, 12]);
    }
}
