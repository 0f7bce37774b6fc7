//! The entropy of a sample, from the distances between its points.

use std::f64::consts::PI;

use candle::{DType, Tensor};

use crate::{Error, Result};

/// An entropy, as a sample of points shows it.
#[derive(Copy, Clone, Debug, PartialEq)]
pub struct NearestNeighborEntropy {
    /// Differential entropy, in nats; −∞ where more than `neighbor` points coincide.
    pub nats: f64,
    /// Its standard error, of the mean over the points taken as independent.
    pub se: f64,
}

/// Differential entropy by the distances to nearest neighbors (Kozachenko and Leonenko 1987).
///
/// ```text
/// ĥ = ψ(N) − ψ(k) + ln V + d/N Σᵢ ln εᵢ
/// ```
///
/// `εᵢ` is the Euclidean distance from point `i` to its `k`-th nearest neighbor, `V` the volume of
/// the unit ball in `d` dimensions, `ψ` the digamma function. Unlike the bound of
/// [`entropy_of`](crate::entropy_of) it needs no network and no noise on the triggers, and tends to
/// the truth as `N` grows: in two or three dimensions a few thousand points do. In 27 dimensions
/// none that can be had do. The entropy of a uniform distribution is the log volume of its support;
/// near the edge of a support balls reach outside, which raises the estimate (by some hundredths of
/// a nat for 4,000 points of a square, some tenths for a thin shell in space).
///
/// Every pair of points is looked at: a few thousand take a fraction of a second.
///
/// # Shapes
///
/// - `samples`: `(N, …)`, of any float type; everything past the first dimension is one point.
///
/// # Errors
///
/// [`Error::Config`] if `neighbor` is zero or `N` is not above it; [`Error::Tensor`] if `samples`
/// cannot be read.
///
/// # Examples
///
/// ```
/// use candle::{Device, Tensor};
/// use rand::Rng;
///
/// // Uniform on a square of side ½: the log of its area.
/// let mut rng = mesa::Seeds::new(0, "doc").start();
/// let values: Vec<f32> = (0..4000).map(|_| rng.random_range(0.0..0.5)).collect();
/// let square = Tensor::from_vec(values, (2000, 2), &Device::Cpu)?;
/// let entropy = mesa::nearest_neighbor_entropy(&square, 1)?;
/// assert!((entropy.nats - 0.25f64.ln()).abs() < 3.0 * entropy.se);
/// # Ok::<(), mesa::Error>(())
/// ```
pub fn nearest_neighbor_entropy(
    samples: &Tensor,
    neighbor: usize,
) -> Result<NearestNeighborEntropy> {
    let count = samples.dim(0)?;
    let holds = neighbor > 0 && neighbor < count;
    crate::config::require(
        "neighbor",
        neighbor,
        holds,
        "from 1 to one less than the points",
    )?;
    let flat = samples.reshape((count, ()))?.to_dtype(DType::F64)?;
    let (dim, values) = (flat.dim(1)?, flat.flatten_all()?.to_vec1::<f64>()?);
    if dim == 0 {
        return Err(Error::EmptyBatch);
    }
    let points: Vec<&[f64]> = values.chunks_exact(dim).collect();
    let terms: Vec<f64> = (0..count)
        .map(|i| 0.5 * dim as f64 * squared_distance_to(&points, i, neighbor).ln())
        .collect();
    let mean = terms.iter().sum::<f64>() / count as f64;
    let squares = terms.iter().map(|term| (term - mean).powi(2)).sum::<f64>();
    let variance = squares / (count - 1) as f64;
    Ok(NearestNeighborEntropy {
        nats: digamma(count) - digamma(neighbor) + log_unit_ball(dim) + mean,
        se: (variance / count as f64).sqrt(),
    })
}

/// The squared distance from one point to its `neighbor`-th nearest.
fn squared_distance_to(points: &[&[f64]], from: usize, neighbor: usize) -> f64 {
    // The smallest so far, in rising order.
    let mut nearest = vec![f64::INFINITY; neighbor];
    for (i, point) in points.iter().enumerate() {
        let squares = (point.iter().zip(points[from])).map(|(x, y)| (x - y) * (x - y));
        let squared: f64 = squares.sum();
        if i == from || squared >= nearest[neighbor - 1] {
            continue;
        }
        let place = nearest.partition_point(|other| *other <= squared);
        nearest.insert(place, squared);
        nearest.pop();
    }
    nearest[neighbor - 1]
}

/// `ψ(n) = −γ + Σ 1/j` over `j < n`, for whole numbers.
fn digamma(n: usize) -> f64 {
    const EULER: f64 = 0.577_215_664_901_532_9;
    (1..n).map(|j| 1.0 / j as f64).sum::<f64>() - EULER
}

/// `ln V` by `V(d) = 2π/d · V(d − 2)`, from `V(0) = 1` and `V(1) = 2`.
fn log_unit_ball(dim: usize) -> f64 {
    let start = if dim.is_multiple_of(2) {
        0.0
    } else {
        2f64.ln()
    };
    let first = if dim.is_multiple_of(2) { 2 } else { 3 };
    let factors = (first..=dim).step_by(2).map(|d| (2.0 * PI / d as f64).ln());
    start + factors.sum::<f64>()
}

#[cfg(test)]
mod tests {
    use approx::assert_abs_diff_eq;
    use candle::Device;
    use rand::Rng;
    use rand_distr::{Distribution, StandardNormal};

    use super::*;
    use crate::Seeds;

    fn points(dim: usize, values: Vec<f32>) -> Tensor {
        let shape = (values.len() / dim, 1, 1, dim);
        Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
    }

    #[test]
    fn a_uniform_boxs_entropy_is_its_log_volume() {
        let mut rng = Seeds::new(0, "box").start();
        let sides = [0.5, 2.0, 0.25];
        // Balls that reach outside raise it, more so in more dimensions.
        for (dim, edge) in [(1, 0.0), (2, 0.02), (3, 0.08)] {
            let values = (0..3000 * dim).map(|i| rng.random::<f32>() * sides[i % dim]);
            let found = nearest_neighbor_entropy(&points(dim, values.collect()), 1).unwrap();
            let truth = f64::from(sides[..dim].iter().product::<f32>()).ln();
            let above = found.nats - truth;
            assert!(
                (-3.0 * found.se..edge + 3.0 * found.se).contains(&above),
                "{dim}: {above}"
            );
        }
    }

    #[test]
    fn a_gaussians_entropy_is_the_closed_form_for_any_neighbor() {
        let mut rng = Seeds::new(0, "gaussian").start();
        let std = 0.3f32;
        for dim in [1, 2, 3, 5] {
            let normal = StandardNormal.sample_iter(&mut rng).take(2000 * dim);
            let values = points(dim, normal.map(|x: f32| x * std).collect());
            let truth = dim as f64 * (0.5 * (2.0 * PI).ln() + 0.5 + f64::from(std).ln());
            for neighbor in [1, 4] {
                let found = nearest_neighbor_entropy(&values, neighbor).unwrap();
                assert_abs_diff_eq!(found.nats, truth, epsilon = 0.03 + 2.0 * found.se);
            }
        }
    }

    #[test]
    fn scaling_shifts_it_by_the_log_of_the_scale() {
        let mut rng = Seeds::new(0, "scale").start();
        let values: Vec<f32> = (0..400).map(|_| rng.random()).collect();
        let larger = values.iter().map(|x| x * 4.0).collect();
        let [near, far] = [values, larger].map(|values| {
            nearest_neighbor_entropy(&points(2, values), 3)
                .unwrap()
                .nats
        });
        assert_abs_diff_eq!(far - near, 2.0 * 4f64.ln(), epsilon = 1e-5);
    }

    #[test]
    fn three_points_on_a_line_are_worked_out_by_hand() {
        // Nearest distances 1, 1, 2; ψ(3) − ψ(1) = 1 + ½; the unit ball of a line is 2 long.
        let found = nearest_neighbor_entropy(&points(1, vec![0.0, 1.0, 3.0]), 1).unwrap();
        assert_abs_diff_eq!(
            found.nats,
            1.5 + 2f64.ln() + 2f64.ln() / 3.0,
            epsilon = 1e-12
        );
        let second = nearest_neighbor_entropy(&points(1, vec![0.0, 1.0, 3.0]), 2).unwrap();
        // Second distances 3, 2, 3; ψ(3) − ψ(2) = ½.
        let mean = (2.0 * 3f64.ln() + 2f64.ln()) / 3.0;
        assert_abs_diff_eq!(second.nats, 0.5 + 2f64.ln() + mean, epsilon = 1e-12);
    }

    #[test]
    fn the_standard_error_is_of_the_size_of_the_spread_over_repetitions() {
        let mut rng = Seeds::new(0, "repetitions").start();
        let runs: Vec<_> = (0..100)
            .map(|_| {
                let values = (0..400).map(|_| rng.random()).collect();
                nearest_neighbor_entropy(&points(2, values), 1).unwrap()
            })
            .collect();
        let mean = runs.iter().map(|run| run.nats).sum::<f64>() / 100.0;
        let squares = runs.iter().map(|run| (run.nats - mean).powi(2));
        let spread = (squares.sum::<f64>() / 99.0).sqrt();
        let stated = runs.iter().map(|run| run.se).sum::<f64>() / 100.0;
        assert!((0.7..1.4).contains(&(spread / stated)), "{spread} {stated}");
    }

    #[test]
    fn coinciding_points_have_no_density() {
        let twice = nearest_neighbor_entropy(&points(1, vec![0.0, 0.0, 3.0]), 1).unwrap();
        assert!(twice.nats.is_infinite() && twice.nats < 0.0);
    }

    #[test]
    fn rejects_too_few_points() {
        for neighbor in [0, 3] {
            let error = nearest_neighbor_entropy(&points(1, vec![0.0, 1.0, 3.0]), neighbor);
            assert!(matches!(
                error.unwrap_err(),
                Error::Config {
                    name: "neighbor",
                    ..
                }
            ));
        }
    }

    #[test]
    fn the_unit_balls_are_those_of_the_books() {
        let volumes = [2.0, PI, 4.0 / 3.0 * PI, PI * PI / 2.0];
        for (dim, volume) in (1..).zip(volumes) {
            assert_abs_diff_eq!(log_unit_ball(dim), f64::ln(volume), epsilon = 1e-12);
        }
    }
}
