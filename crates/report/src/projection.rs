//! Points of many dimensions on a plane: their first two principal components.

/// The plane along which a cloud of points spreads most.
///
/// ```text
/// C = 1/n Σ (x − m)(x − m)ᵀ,   C vₖ = λₖ vₖ,   λ₁ ≥ λ₂ ≥ …
/// a point's place = (v₁ · (x − m), v₂ · (x − m)),   share of axis k = λₖ / tr C
/// ```
///
/// The largest loading of each axis is positive, so that the picture does not turn over.
///
/// # Examples
///
/// ```
/// use mesa_report::PrincipalPlane;
///
/// // On a line: all of the variance is along its direction, (0.6, 0.8).
/// let line: Vec<Vec<f64>> = [-2.0, 0.0, 2.0].map(|t| vec![0.6 * t, 0.8 * t]).into();
/// let plane = PrincipalPlane::of(&line);
/// assert!((plane.explained()[0] - 1.0).abs() < 1e-12);
/// let [along, across] = plane.project(&[3.0, 4.0]);
/// assert!((along - 5.0).abs() < 1e-12 && across.abs() < 1e-12);
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct PrincipalPlane {
    mean: Vec<f64>,
    axes: [Vec<f64>; 2],
    explained: [f64; 2],
}

impl PrincipalPlane {
    /// The plane of these points, all of one length. Points that do not spread, or have one
    /// coordinate only, leave axes of zeros.
    pub fn of(points: &[Vec<f64>]) -> Self {
        let mean = mean(points);
        let scatter = scatter(points, &mean);
        let total: f64 = (0..mean.len()).map(|index| scatter[index][index]).sum();
        let mut found = eigen(scatter).into_iter();
        let mut axis = || match found.next() {
            Some((value, vector)) if total > 0.0 => (value / total, vector),
            _ => (0.0, vec![0.0; mean.len()]),
        };
        let ((first_share, first), (second_share, second)) = (axis(), axis());
        Self {
            axes: [first, second],
            explained: [first_share, second_share],
            mean,
        }
    }

    /// The place of a point, which need not be one of those that made the plane.
    pub fn project(&self, point: &[f64]) -> [f64; 2] {
        let centered: Vec<f64> = point.iter().zip(&self.mean).map(|(x, m)| x - m).collect();
        [0, 1].map(|axis| {
            let products = self.axes[axis].iter().zip(&centered);
            products.map(|(loading, x)| loading * x).sum()
        })
    }

    /// Shares of the variance that the two axes have.
    pub fn explained(&self) -> [f64; 2] {
        self.explained
    }
}

fn mean(points: &[Vec<f64>]) -> Vec<f64> {
    let mut mean = vec![0.0; points.first().map_or(0, Vec::len)];
    for point in points {
        for (sum, x) in mean.iter_mut().zip(point) {
            *sum += x / points.len() as f64;
        }
    }
    mean
}

/// n C: its eigenvectors and shares are those of C.
fn scatter(points: &[Vec<f64>], mean: &[f64]) -> Vec<Vec<f64>> {
    let mut scatter = vec![vec![0.0; mean.len()]; mean.len()];
    for point in points {
        let centered: Vec<f64> = point.iter().zip(mean).map(|(x, m)| x - m).collect();
        for (row, a) in scatter.iter_mut().zip(&centered) {
            for (entry, b) in row.iter_mut().zip(&centered) {
                *entry += a * b;
            }
        }
    }
    scatter
}

/// Rotations of every pair of axes after which a matrix counts as diagonal in any case.
const SWEEPS: usize = 50;

/// Eigenvalues, largest first, with their eigenvectors, of a symmetric matrix, by Jacobi's
/// rotations: each makes one entry beside the diagonal zero, and what is left there falls
/// quadratically from sweep to sweep.
fn eigen(mut matrix: Vec<Vec<f64>>) -> Vec<(f64, Vec<f64>)> {
    let size = matrix.len();
    let mut vectors = vec![vec![0.0; size]; size];
    for (index, row) in vectors.iter_mut().enumerate() {
        row[index] = 1.0;
    }
    for _ in 0..SWEEPS {
        if is_diagonal(&matrix) {
            break;
        }
        for first in 0..size {
            for second in first + 1..size {
                rotate(&mut matrix, &mut vectors, first, second);
            }
        }
    }
    let column = |index: usize| upright(vectors.iter().map(|row| row[index]).collect());
    let mut found: Vec<(f64, Vec<f64>)> = (0..size)
        .map(|index| (matrix[index][index], column(index)))
        .collect();
    found.sort_by(|a, b| b.0.total_cmp(&a.0));
    found
}

/// Whether nothing beside the diagonal is above rounding.
fn is_diagonal(matrix: &[Vec<f64>]) -> bool {
    let squares = |is_counted: fn(usize, usize) -> bool| -> f64 {
        let rows = matrix.iter().enumerate();
        rows.flat_map(|(i, row)| row.iter().enumerate().map(move |(j, x)| (i, j, x)))
            .filter(|(i, j, _)| is_counted(*i, *j))
            .map(|(_, _, x)| x * x)
            .sum()
    };
    squares(|i, j| i != j) <= f64::EPSILON.powi(2) * squares(|i, j| i == j)
}

/// Turns two axes so that the entry at their crossing is zero; `vectors` turn along.
fn rotate(matrix: &mut [Vec<f64>], vectors: &mut [Vec<f64>], first: usize, second: usize) {
    let entry = matrix[first][second];
    if entry == 0.0 {
        return;
    }
    // tan of the smaller of the two angles that do it.
    let cotangent = (matrix[second][second] - matrix[first][first]) / (2.0 * entry);
    let tangent = cotangent.signum() / (cotangent.abs() + (cotangent * cotangent + 1.0).sqrt());
    let cosine = 1.0 / (tangent * tangent + 1.0).sqrt();
    let sine = tangent * cosine;
    let turned = |a: f64, b: f64| (cosine * a - sine * b, sine * a + cosine * b);
    for row in matrix.iter_mut().chain(vectors.iter_mut()) {
        (row[first], row[second]) = turned(row[first], row[second]);
    }
    // `first` is the lower of the two.
    let (above, below) = matrix.split_at_mut(second);
    for (a, b) in above[first].iter_mut().zip(&mut below[0]) {
        (*a, *b) = turned(*a, *b);
    }
}

/// The vector or its opposite, whichever has a positive largest loading.
fn upright(mut vector: Vec<f64>) -> Vec<f64> {
    let larger = |a: f64, b: &f64| if b.abs() > a.abs() { *b } else { a };
    if vector.iter().fold(0.0, larger) < 0.0 {
        for loading in &mut vector {
            *loading = -*loading;
        }
    }
    vector
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assert_close(found: &[f64], expected: &[f64]) {
        for (a, b) in found.iter().zip(expected) {
            assert!((a - b).abs() < 1e-12, "{found:?} instead of {expected:?}");
        }
    }

    /// A cross in the plane of two known axes in three dimensions, around a known center.
    fn cross() -> Vec<Vec<f64>> {
        let (long, short) = ([2.0 / 3.0, 2.0 / 3.0, 1.0 / 3.0], [-0.6, 0.6, 0.0]);
        let norm = (0.72_f64).sqrt();
        let at = |t: f64, axis: [f64; 3]| -> Vec<f64> {
            let center = [1.0, -2.0, 0.5];
            (0..3).map(|k| center[k] + t * axis[k]).collect()
        };
        [-3.0, 3.0]
            .map(|t| at(t, long))
            .into_iter()
            .chain([-1.0, 1.0].map(|t| at(t / norm, short)))
            .collect()
    }

    #[test]
    fn a_cross_lies_along_the_axes() {
        let plane = PrincipalPlane::of(&cross());
        // Variances 9 · 2 / 4 and 1 · 2 / 4.
        assert_close(&plane.explained(), &[0.9, 0.1]);
        let places: Vec<[f64; 2]> = cross().iter().map(|point| plane.project(point)).collect();
        assert_close(&places[0], &[-3.0, 0.0]);
        assert_close(&places[1], &[3.0, 0.0]);
        assert_close(&[places[2][0], places[3][0]], &[0.0, 0.0]);
        assert_close(
            &[places[2][1].abs(), places[2][1] + places[3][1]],
            &[1.0, 0.0],
        );
    }

    #[test]
    fn points_beside_the_plane_fall_onto_it() {
        let plane = PrincipalPlane::of(&cross());
        let across = [
            1.0 / 18_f64.sqrt(),
            1.0 / 18_f64.sqrt(),
            -4.0 / 18_f64.sqrt(),
        ];
        let mut point = cross()[1].clone();
        for (x, step) in point.iter_mut().zip(across) {
            *x += 7.0 * step;
        }
        assert_close(&plane.project(&point), &[3.0, 0.0]);
    }

    #[test]
    fn the_largest_loading_of_an_axis_is_positive() {
        for sign in [-1.0, 1.0] {
            let points = [-1.0, 0.0, 1.0].map(|t| vec![0.1 * t, sign * t, -0.2 * t]);
            let plane = PrincipalPlane::of(&points);
            assert!(plane.project(&[0.0, 1.0, 0.0])[0] > 0.0);
        }
    }

    #[test]
    fn eigenvectors_are_orthonormal_and_give_the_matrix_back() {
        // Symmetric and full, with values of both signs.
        let size = 27;
        let entry = |i: usize, j: usize| ((i * j) as f64).sin() + ((i + j) as f64).cos();
        let matrix: Vec<Vec<f64>> = (0..size)
            .map(|i| (0..size).map(|j| entry(i, j)).collect())
            .collect();
        let found = eigen(matrix.clone());
        assert!(found.windows(2).all(|pair| pair[0].0 >= pair[1].0));
        for i in 0..size {
            for j in 0..size {
                let (mut back, mut identity) = (0.0, 0.0);
                for (value, vector) in &found {
                    back += value * vector[i] * vector[j];
                    identity += vector[i] * vector[j];
                }
                assert!((back - matrix[i][j]).abs() < 1e-12 * size as f64);
                assert!((identity - f64::from(u8::from(i == j))).abs() < 1e-13 * size as f64);
            }
        }
    }

    #[test]
    fn points_that_do_not_spread_are_at_the_origin() {
        let zeros = [0.0, 0.0];
        let plane = PrincipalPlane::of(&[vec![0.5, 0.25], vec![0.5, 0.25]]);
        assert_close(&plane.explained(), &zeros);
        assert_close(&plane.project(&[0.9, 0.1]), &zeros);
        assert_close(&PrincipalPlane::of(&[]).project(&[]), &zeros);
        let line = PrincipalPlane::of(&[vec![0.0], vec![1.0]]);
        assert_close(&line.explained(), &[1.0, 0.0]);
        assert_close(&line.project(&[1.0]), &[0.5, 0.0]);
    }
}
