//! The planes that the panels of a distribution of triggers share.

use mesa_record::{Distribution, PlacedPatch};

use crate::projection::PrincipalPlane;
use crate::tsne::tsne;

/// Gives every patch of a distribution its places on both planes, rounded to four decimals, and
/// notes what the planes are made with.
///
/// Points are the patches' pixels in [0, 1], as the record holds them, all panels' together. The
/// true trigger has no say in the principal components: it is only looked up. t-SNE places points
/// that it was given and no others, so there it is one among them.
///
/// # Examples
///
/// ```
/// let mut distribution: mesa_record::Distribution = serde_json::from_str(
///     r#"{"preset": "cpu", "data": "cifar10", "trigger": 170, "seed": 0, "target_class": 0,
///         "patch_shape": [1, 1], "true_trigger_asr": 0.98, "pca_explained": [0, 0],
///         "tsne_perplexity": 0, "wall_s": 1, "device": "cpu", "kernel_path": "avx2", "threads": 1,
///         "processor": "", "version": "0.1.0", "engine_version": 2,
///         "panels": [{"beta": 0.9, "alpha": 0.1, "sample_asr": 0.9, "in_level_set": 0.8,
///             "information_nats": 9.0, "information_se": 0.1, "entropy_upper_bound": -12.0,
///             "sample_std": 0.2, "samples": [
///                 {"patch": "ffffff", "pca": [0, 0], "tsne": [0, 0]},
///                 {"patch": "000000", "pca": [0, 0], "tsne": [0, 0]}]}]}"#,
/// )?;
/// mesa_report::place(&mut distribution);
/// // Half of the cube's diagonal from the middle.
/// assert_eq!(distribution.panels[0].samples[0].pca, [0.866, 0.0]);
/// # Ok::<(), serde_json::Error>(())
/// ```
pub fn place(distribution: &mut Distribution) {
    let samples = distribution.panels.iter().flat_map(|panel| &panel.samples);
    let mut points: Vec<Vec<f64>> = samples.map(pixels).collect();
    let plane = PrincipalPlane::of(&points);
    points.extend(distribution.true_trigger.as_ref().map(pixels));
    let embedding = tsne(&points);
    let panels = distribution.panels.iter_mut();
    let patches = panels
        .flat_map(|panel| &mut panel.samples)
        .chain(&mut distribution.true_trigger);
    for ((patch, point), place) in patches.zip(&points).zip(embedding.places) {
        patch.pca = plane.project(point).map(rounded);
        patch.tsne = place.map(rounded);
    }
    distribution.pca_explained = plane.explained().map(rounded);
    distribution.tsne_perplexity = rounded(embedding.perplexity);
}

fn pixels(placed: &PlacedPatch) -> Vec<f64> {
    let values = placed.patch.to_channels();
    values.into_iter().map(f64::from).collect()
}

/// Four decimals; no negative zero.
fn rounded(value: f64) -> f64 {
    (value * 1e4).round() / 1e4 + 0.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::made_up;

    fn bits(place: [f64; 2]) -> [u64; 2] {
        place.map(f64::to_bits)
    }

    #[test]
    fn the_true_trigger_moves_no_principal_component() {
        let (mut with, mut without) = (made_up::distribution(), made_up::distribution());
        without.true_trigger = None;
        place(&mut with);
        place(&mut without);
        assert_eq!(bits(with.pca_explained), bits(without.pca_explained));
        for (one, other) in with.panels.iter().zip(&without.panels) {
            for (one, other) in one.samples.iter().zip(&other.samples) {
                assert_eq!(bits(one.pca), bits(other.pca));
            }
        }
        let truth = with.true_trigger.unwrap();
        assert_ne!((truth.pca, truth.tsne), ([0.0; 2], [0.0; 2]));
    }

    #[test]
    fn all_panels_share_the_planes() {
        let mut distribution = made_up::distribution();
        // The same patch in two panels is at the same place in both.
        let same = distribution.panels[0].samples[0].patch.clone();
        distribution.panels[2].samples[1].patch = same;
        place(&mut distribution);
        let (one, other) = (
            &distribution.panels[0].samples[0],
            &distribution.panels[2].samples[1],
        );
        assert_eq!(bits(one.pca), bits(other.pca));
        let again = distribution.clone();
        place(&mut distribution);
        assert_eq!(distribution, again, "placed twice, they stay");
        let [first, second] = distribution.pca_explained;
        assert!(first >= second && second > 0.0 && first + second <= 1.0);
        // 13 points.
        assert_eq!(distribution.tsne_perplexity.to_string(), "4.3333");
    }

    #[test]
    fn places_have_four_decimals() {
        assert_eq!(rounded(1.0 / 3.0).to_string(), "0.3333");
        assert_eq!(rounded(-1e-9).to_string(), "0");
    }
}
