//! How far a sample is from the uniform distribution on a level set.

use crate::known::{CELLS, Known};

/// Share of the level set's 256 cells of equal volume with at least one of the points.
pub(crate) fn coverage(known: &Known, beta: f64, points: &[Vec<f64>]) -> f64 {
    let mut hit = [false; CELLS];
    for cell in points.iter().filter_map(|point| known.cell(point, beta)) {
        hit[cell] = true;
    }
    hit.iter().filter(|hit| **hit).count() as f64 / CELLS as f64
}

/// The coverage to expect of independent uniform points.
pub(crate) fn uniform_coverage(count: usize) -> f64 {
    1.0 - (1.0 - 1.0 / CELLS as f64).powf(count as f64)
}

/// The energy distance of two samples over the largest it could be: 0 for the same distribution
/// in the limit of many points, 1 for two single points.
///
/// ```text
/// (2 E|X − Y| − E|X − X′| − E|Y − Y′|) / 2 E|X − Y|
/// ```
pub(crate) fn energy_distance(a: &[Vec<f64>], b: &[Vec<f64>]) -> f64 {
    let between = 2.0 * mean_distance(a, b);
    (between - mean_distance(a, a) - mean_distance(b, b)) / between
}

fn mean_distance(a: &[Vec<f64>], b: &[Vec<f64>]) -> f64 {
    let mut sum = 0.0;
    for x in a {
        for y in b {
            sum += (x.iter().zip(y))
                .map(|(x, y)| (x - y) * (x - y))
                .sum::<f64>()
                .sqrt();
        }
    }
    sum / (a.len() * b.len()) as f64
}
