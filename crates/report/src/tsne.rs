//! t-SNE (van der Maaten and Hinton 2008), exact: every pair of points, every step.
//!
//! The defaults are scikit-learn's: a start along the principal components, perplexity 30, 1,000
//! steps, the first 250 of them with exaggerated attraction. Nothing is drawn at random, and sums
//! run in a fixed order: the same points give the same picture.

use crate::projection::PrincipalPlane;

/// How many neighbors a point counts as near, where there are points enough.
const PERPLEXITY: f64 = 30.0;
/// Steps of the descent.
const STEPS: usize = 1000;
/// Steps at the beginning in which attraction is exaggerated, and by how much.
const EARLY_STEPS: usize = 250;
const EXAGGERATION: f64 = 12.0;
/// Momentum while attraction is exaggerated, and after.
const EARLY_MOMENTUM: f64 = 0.5;
const MOMENTUM: f64 = 0.8;
/// Standard deviation along the first axis at the start.
const START_STD: f64 = 1e-4;
/// Least learning rate and least gain.
const LEAST_RATE: f64 = 50.0;
const LEAST_GAIN: f64 = 0.01;
/// Rounds of the search for a row's precision, and how close its entropy has to come, in nats.
const ROUNDS: usize = 200;
const TOLERANCE: f64 = 1e-10;

/// Points on a plane, near ones near.
#[derive(Clone, Debug, PartialEq)]
pub struct Embedding {
    /// A place for each point.
    pub places: Vec<[f64; 2]>,
    /// The perplexity: 30, or a third of the points where they are fewer than 90.
    pub perplexity: f64,
    /// What the descent reached: KL(P ‖ Q), in nats.
    pub divergence: f64,
}

/// Places points of any dimension on a plane, each beside those that it lies beside.
///
/// ```text
/// p_{j|i} = exp(−bᵢ ‖xᵢ − xⱼ‖²) / Σ_{k ≠ i} exp(−bᵢ ‖xᵢ − xₖ‖²),   bᵢ such that the perplexity is the asked one
/// pᵢⱼ = (p_{j|i} + p_{i|j}) / 2n
/// qᵢⱼ = wᵢⱼ / Σ_{k ≠ l} wₖₗ,   wᵢⱼ = 1 / (1 + ‖yᵢ − yⱼ‖²)
/// minimize KL(P ‖ Q) = Σ pᵢⱼ ln(pᵢⱼ / qᵢⱼ)
/// ```
///
/// The learning rate is `n / 48` but at least 50, momentum 0.5 at first and 0.8 then; each
/// coordinate has a gain, as in the paper's own program.
///
/// # Examples
///
/// ```
/// let points: Vec<Vec<f64>> = (0..12).map(|i| vec![f64::from(i % 3), 0.01 * f64::from(i)]).collect();
/// let embedding = mesa_report::tsne(&points);
/// assert_eq!(embedding.places.len(), 12);
/// assert_eq!(embedding.perplexity, 4.0);
/// ```
pub fn tsne(points: &[Vec<f64>]) -> Embedding {
    let count = points.len();
    let perplexity = (count as f64 / 3.0).clamp(1.0, PERPLEXITY);
    if count < 2 {
        return Embedding {
            places: vec![[0.0; 2]; count],
            perplexity,
            divergence: 0.0,
        };
    }
    let joint = joint(points, perplexity);
    let places = descend(&joint, start(points));
    Embedding {
        divergence: divergence(&joint, &places),
        perplexity,
        places,
    }
}

/// p, row by row; zero on the diagonal.
fn joint(points: &[Vec<f64>], perplexity: f64) -> Vec<f64> {
    let count = points.len();
    let rows: Vec<Vec<f64>> = (0..count)
        .map(|own| conditional(&distances(points, own), own, perplexity))
        .collect();
    let mean = |i: usize, j: usize| (rows[i][j] + rows[j][i]) / (2.0 * count as f64);
    (0..count * count)
        .map(|at| mean(at / count, at % count))
        .collect()
}

/// Squared distances from one point to all.
fn distances(points: &[Vec<f64>], own: usize) -> Vec<f64> {
    let squared = |other: &Vec<f64>| {
        let pairs = points[own].iter().zip(other);
        pairs.map(|(a, b)| (a - b) * (a - b)).sum()
    };
    points.iter().map(squared).collect()
}

/// p_{j|i} of one row: the precision is found by bisection, as entropy falls where it rises. More
/// points at the same place than the perplexity asks for cannot be told apart by any precision:
/// they share the row.
fn conditional(distances: &[f64], own: usize, perplexity: f64) -> Vec<f64> {
    let others = || (0..distances.len()).filter(move |other| *other != own);
    // Counted from the nearest point, so that no precision lets all weights vanish.
    let nearest = others()
        .map(|other| distances[other])
        .fold(f64::INFINITY, f64::min);
    let (mut precision, mut low, mut high) = (1.0, 0.0, f64::INFINITY);
    let mut row = vec![0.0; distances.len()];
    for _ in 0..ROUNDS {
        for other in others() {
            row[other] = (-precision * (distances[other] - nearest)).exp();
        }
        let sum: f64 = row.iter().sum();
        for weight in &mut row {
            *weight /= sum;
        }
        let mean_distance: f64 = others()
            .map(|other| row[other] * (distances[other] - nearest))
            .sum();
        let excess = sum.ln() + precision * mean_distance - perplexity.ln();
        if excess.abs() < TOLERANCE {
            break;
        }
        if excess > 0.0 {
            low = precision;
        } else {
            high = precision;
        }
        precision = if high.is_finite() {
            f64::midpoint(low, high)
        } else {
            2.0 * precision
        };
    }
    row
}

/// The first two principal components, scaled down to next to nothing.
fn start(points: &[Vec<f64>]) -> Vec<[f64; 2]> {
    let plane = PrincipalPlane::of(points);
    let places: Vec<[f64; 2]> = points.iter().map(|point| plane.project(point)).collect();
    // The first axis is centered, so its standard deviation is its root mean square.
    let variance =
        places.iter().map(|place| place[0] * place[0]).sum::<f64>() / points.len() as f64;
    let scale = if variance > 0.0 {
        START_STD / variance.sqrt()
    } else {
        0.0
    };
    let scaled = |place: [f64; 2]| place.map(|x| scale * x);
    places.into_iter().map(scaled).collect()
}

/// Gradient descent with momentum, and a gain for each coordinate that grows while its slope keeps
/// its direction.
fn descend(joint: &[f64], mut places: Vec<[f64; 2]>) -> Vec<[f64; 2]> {
    let count = places.len();
    let rate = (count as f64 / EXAGGERATION / 4.0).max(LEAST_RATE);
    let mut velocities = vec![[0.0; 2]; count];
    let mut gains = vec![[1.0; 2]; count];
    for step in 0..STEPS {
        let (exaggeration, momentum) = if step < EARLY_STEPS {
            (EXAGGERATION, EARLY_MOMENTUM)
        } else {
            (1.0, MOMENTUM)
        };
        let slopes = gradient(joint, exaggeration, &places);
        for (index, slope) in slopes.iter().enumerate() {
            for axis in 0..2 {
                let (velocity, gain) = (&mut velocities[index][axis], &mut gains[index][axis]);
                let goes_on = *velocity * slope[axis] < 0.0;
                *gain = f64::max(if goes_on { *gain + 0.2 } else { *gain * 0.8 }, LEAST_GAIN);
                *velocity = momentum * *velocity - rate * *gain * slope[axis];
                places[index][axis] += *velocity;
            }
        }
    }
    places
}

/// ∂KL/∂yᵢ = 4 Σⱼ (e pᵢⱼ − qᵢⱼ) wᵢⱼ (yᵢ − yⱼ), e the exaggeration. Attraction and repulsion are
/// summed apart, because q's denominator is known only when all pairs have been seen.
fn gradient(joint: &[f64], exaggeration: f64, places: &[[f64; 2]]) -> Vec<[f64; 2]> {
    let count = places.len();
    let mut attraction = vec![[0.0; 2]; count];
    let mut repulsion = vec![[0.0; 2]; count];
    let mut denominator = 0.0;
    for i in 0..count {
        for j in 0..i {
            let step = [0, 1].map(|axis| places[i][axis] - places[j][axis]);
            let weight = 1.0 / (1.0 + step[0] * step[0] + step[1] * step[1]);
            denominator += 2.0 * weight;
            let pull = joint[i * count + j] * weight;
            let push = weight * weight;
            for axis in 0..2 {
                attraction[i][axis] += pull * step[axis];
                attraction[j][axis] -= pull * step[axis];
                repulsion[i][axis] += push * step[axis];
                repulsion[j][axis] -= push * step[axis];
            }
        }
    }
    let slope = |(pull, push): ([f64; 2], [f64; 2])| {
        [0, 1].map(|axis| 4.0 * (exaggeration * pull[axis] - push[axis] / denominator))
    };
    attraction.into_iter().zip(repulsion).map(slope).collect()
}

/// KL(P ‖ Q), in nats.
fn divergence(joint: &[f64], places: &[[f64; 2]]) -> f64 {
    let count = places.len();
    let weight = |at: usize| {
        let (a, b) = (places[at / count], places[at % count]);
        1.0 / (1.0 + (a[0] - b[0]).powi(2) + (a[1] - b[1]).powi(2))
    };
    let pairs = || (0..count * count).filter(|at| at / count != at % count);
    let denominator: f64 = pairs().map(weight).sum();
    let term = |at: usize| match joint[at] {
        p if p > 0.0 => p * (p * denominator / weight(at)).ln(),
        _ => 0.0,
    };
    pairs().map(term).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Three groups of points in five dimensions, far from one another.
    fn groups() -> Vec<Vec<f64>> {
        let point = |index: usize| {
            let (group, member) = (index % 3, index / 3);
            (0..5)
                .map(|k| {
                    let spread = ((7 * member + 3 * k + index) as f64 * 1.7).sin();
                    10.0 * f64::from(u8::from(k == group)) + 0.5 * spread
                })
                .collect()
        };
        (0..60).map(point).collect()
    }

    #[test]
    fn each_row_has_the_perplexity_that_was_asked_for() {
        let points = groups();
        for perplexity in [2.0, 10.0, 20.0] {
            for own in 0..points.len() {
                let row = conditional(&distances(&points, own), own, perplexity);
                assert!(row[own] == 0.0 && (row.iter().sum::<f64>() - 1.0).abs() < 1e-12);
                let term = |p: &f64| if *p > 0.0 { -p * p.ln() } else { 0.0 };
                let found = row.iter().map(term).sum::<f64>().exp();
                assert!((found - perplexity).abs() < 1e-6, "{found} of point {own}");
            }
        }
    }

    #[test]
    fn p_is_symmetric_and_sums_to_one() {
        let (points, count) = (groups(), 60);
        let joint = joint(&points, 10.0);
        assert!((joint.iter().sum::<f64>() - 1.0).abs() < 1e-12);
        for i in 0..count {
            for j in 0..count {
                let (one, other) = (joint[i * count + j], joint[j * count + i]);
                assert_eq!(one.to_bits(), other.to_bits());
            }
        }
    }

    #[test]
    fn the_gradient_is_that_of_finite_differences() {
        let points: Vec<Vec<f64>> = groups().into_iter().take(12).collect();
        let joint = joint(&points, 4.0);
        let mut places: Vec<[f64; 2]> = (0..12)
            .map(|i| [f64::from(i).sin(), (2.5 * f64::from(i)).cos()])
            .collect();
        let slopes = gradient(&joint, 1.0, &places);
        let step = 1e-5;
        for index in 0..12 {
            for axis in 0..2 {
                let mut at = |offset: f64| {
                    let before = places[index][axis];
                    places[index][axis] = before + offset;
                    let found = divergence(&joint, &places);
                    places[index][axis] = before;
                    found
                };
                let difference = (at(step) - at(-step)) / (2.0 * step);
                let found = slopes[index][axis];
                assert!(
                    (difference - found).abs() < 1e-8,
                    "{difference} and {found}"
                );
            }
        }
    }

    #[test]
    fn exaggeration_multiplies_p_and_nothing_else() {
        let points = groups();
        let joint = joint(&points, 10.0);
        let places = points.iter().map(|x| [x[0], x[1]]).collect::<Vec<_>>();
        let larger: Vec<f64> = joint.iter().map(|p| 12.0 * p).collect();
        let (found, expected) = (
            gradient(&joint, 12.0, &places),
            gradient(&larger, 1.0, &places),
        );
        for (a, b) in found.iter().flatten().zip(expected.iter().flatten()) {
            assert!((a - b).abs() < 1e-12, "{a} and {b}");
        }
    }

    #[test]
    fn the_divergence_falls_and_groups_stay_apart() {
        let points = groups();
        let found = tsne(&points);
        assert!((found.perplexity - 20.0).abs() < 1e-12);
        let joint = joint(&points, found.perplexity);
        let before = divergence(&joint, &start(&points));
        assert!(
            found.divergence < 0.5 * before,
            "{before} fell to {}",
            found.divergence
        );
        // Each point's nearest neighbor is of its own group, and no group's is nearer to another.
        let distance = |i: usize, j: usize| {
            let (a, b) = (found.places[i], found.places[j]);
            (a[0] - b[0]).hypot(a[1] - b[1])
        };
        let pairs = || (0..60).flat_map(|i| (0..i).map(move |j| (i, j)));
        let within = pairs().filter(|(i, j)| i % 3 == j % 3);
        let between = pairs().filter(|(i, j)| i % 3 != j % 3);
        let largest = within.map(|(i, j)| distance(i, j)).fold(0.0, f64::max);
        let smallest = between
            .map(|(i, j)| distance(i, j))
            .fold(f64::INFINITY, f64::min);
        assert!(largest < smallest, "{largest} within, {smallest} between");
    }

    #[test]
    fn few_points_and_equal_ones_have_finite_places() {
        for count in 0..5 {
            let found = tsne(&vec![vec![0.5; 3]; count]);
            assert_eq!(found.places.len(), count);
            assert!(found.places.iter().flatten().all(|x| x.is_finite()));
        }
        // As many at one place as a collapsed sub-model gives, and some elsewhere.
        let points: Vec<Vec<f64>> = (0..120)
            .map(|i| vec![f64::from((i - 99).max(0)); 3])
            .collect();
        let found = tsne(&points);
        assert!(found.places.iter().flatten().all(|x| x.is_finite()));
    }
}
