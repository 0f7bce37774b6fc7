//! Matrix products against sums in f64, and bit for bit against the order of sums that the shapes
//! decide on, on every path of this processor, with sizes that divide nothing.

#![allow(clippy::unwrap_used, reason = "a test")]

use mesa_kernels::{Error, Matrix, Path, multiply};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::ThreadPoolBuilder;

/// Rows of `a`, columns of `b`, products in a sum; what a perceptron of 512 units and smaller ones
/// ask for.
const SHAPES: [[usize; 3]; 23] = [
    [1, 1, 1],
    [1, 512, 64],
    [300, 1, 530],
    [8200, 1, 520],
    [2, 27, 528],
    [9, 27, 528],
    [10, 27, 528],
    [64, 64, 700],
    [65, 27, 528],
    [128, 512, 528],
    [256, 91, 512],
    [512, 16, 128],
    [1, 520, 700],
    [7, 5, 3],
    [13, 33, 20],
    [37, 17, 1030],
    [6, 512, 91],
    [12, 100, 1],
    [40, 80, 2],
    [1, 300, 2],
    [3, 3, 0],
    [0, 3, 3],
    [3, 0, 3],
];

#[derive(Copy, Clone, Debug, PartialEq)]
enum Form {
    /// As in a linear layer's output: `x Wᵀ`.
    RightTransposed,
    /// As in the gradient of its input: `g W`.
    Plain,
    /// As in that of its weights: `gᵀ x`.
    LeftTransposed,
    BothTransposed,
}

struct Case {
    form: Form,
    rows: usize,
    columns: usize,
    depth: usize,
    a: Vec<f32>,
    b: Vec<f32>,
}

impl Case {
    fn all() -> Vec<Self> {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let mut random = |len| (0..len).map(|_| rng.random_range(-1.0..1.0)).collect();
        let mut cases = Vec::new();
        for [rows, columns, depth] in SHAPES {
            for form in [
                Form::RightTransposed,
                Form::Plain,
                Form::LeftTransposed,
                Form::BothTransposed,
            ] {
                cases.push(Self {
                    form,
                    rows,
                    columns,
                    depth,
                    a: random(rows * depth),
                    b: random(depth * columns),
                });
            }
        }
        cases
    }

    fn product(&self, path: Path) -> Vec<f32> {
        let a = match self.form {
            Form::LeftTransposed | Form::BothTransposed => {
                Matrix::new(&self.a, self.depth, self.rows).map(Matrix::transposed)
            }
            _ => Matrix::new(&self.a, self.rows, self.depth),
        };
        let b = match self.form {
            Form::RightTransposed | Form::BothTransposed => {
                Matrix::new(&self.b, self.columns, self.depth).map(Matrix::transposed)
            }
            _ => Matrix::new(&self.b, self.depth, self.columns),
        };
        let mut product = vec![f32::NAN; self.rows * self.columns];
        multiply(path, a.unwrap(), b.unwrap(), &mut product).unwrap();
        product
    }

    /// What is multiplied for one result.
    fn factors(&self, row: usize, column: usize) -> Vec<(f32, f32)> {
        let pair = |k| {
            let a = match self.form {
                Form::LeftTransposed | Form::BothTransposed => self.a[k * self.rows + row],
                _ => self.a[row * self.depth + k],
            };
            let b = match self.form {
                Form::RightTransposed | Form::BothTransposed => self.b[column * self.depth + k],
                _ => self.b[k * self.columns + column],
            };
            (a, b)
        };
        (0..self.depth).map(pair).collect()
    }

    /// One result, every product fused with its addition, in the documented order.
    fn in_order(&self, row: usize, column: usize) -> f32 {
        let factors = self.factors(row, column);
        let contiguous = self.form == Form::RightTransposed;
        let single = self.rows == 1 || self.columns == 1;
        if contiguous && self.rows * self.columns <= 256 {
            eight_sums(&factors)
        } else if contiguous && single && self.depth != 2 {
            sixty_four_sums(&factors)
        } else if single && self.depth != 2 {
            chain(&factors)
        } else {
            let block = if self.depth == 2 {
                1
            } else if self.rows <= 64 && self.columns <= 64 {
                512
            } else {
                self.depth.div_ceil(self.depth.div_ceil(512))
            };
            factors
                .chunks(block)
                .map(chain)
                .reduce(|sum, next| sum + next)
                .unwrap()
        }
    }
}

fn chain(factors: &[(f32, f32)]) -> f32 {
    factors.iter().fold(0.0, |sum, (a, b)| a.mul_add(*b, sum))
}

fn eight_sums(factors: &[(f32, f32)]) -> f32 {
    let mut sums = [0.0f32; 8];
    for (k, (a, b)) in factors.iter().enumerate() {
        sums[k % 8] = a.mul_add(*b, sums[k % 8]);
    }
    for half in [4, 2, 1] {
        for i in 0..half {
            sums[i] += sums[i + half];
        }
    }
    sums[0]
}

fn sixty_four_sums(factors: &[(f32, f32)]) -> f32 {
    let mut sums = [0.0f32; 64];
    let (whole, rest) = factors.split_at(factors.len() / 64 * 64);
    for (k, (a, b)) in whole.iter().enumerate() {
        sums[k % 64] = a.mul_add(*b, sums[k % 64]);
    }
    // Adjacent eights, then fours of them, then halves.
    for apart in [8, 16, 32] {
        for i in (0..64).step_by(2 * apart) {
            for lane in i..i + 8 {
                sums[lane] += sums[lane + apart];
            }
        }
    }
    let (eights, rest) = rest.split_at(rest.len() / 8 * 8);
    for (k, (a, b)) in eights.iter().enumerate() {
        sums[k % 8] = a.mul_add(*b, sums[k % 8]);
    }
    let sum = sums[1..8].iter().fold(sums[0], |sum, next| sum + next);
    rest.iter().fold(sum, |sum, (a, b)| a.mul_add(*b, sum))
}

fn paths() -> Vec<Path> {
    let all = [Path::Portable, Path::Avx2, Path::Avx512];
    all.into_iter().filter(|path| path.is_available()).collect()
}

#[test]
fn agree_with_sums_in_f64_on_every_path() {
    for path in paths() {
        for case in Case::all() {
            for (at, found) in case.product(path).into_iter().enumerate() {
                let factors = case.factors(at / case.columns, at % case.columns);
                let pairs = factors.iter().map(|(a, b)| f64::from(*a) * f64::from(*b));
                let (sum, size) = pairs.fold((0.0, 0.0), |(sum, size), product| {
                    (sum + product, size + product.abs())
                });
                // Each of the roundings is of a partial sum, no larger than all products.
                let bound = f64::from(f32::EPSILON) * size * (factors.len() as f64).sqrt();
                let [rows, columns, depth] = [case.rows, case.columns, case.depth];
                assert!(
                    (f64::from(found) - sum).abs() <= bound,
                    "{path:?}, {:?} {rows}x{columns}x{depth} at {at}: {found}, {sum}",
                    case.form
                );
            }
        }
    }
}

#[test]
fn sum_in_the_order_that_the_shapes_decide_on_paths_that_fuse() {
    for path in paths().into_iter().filter(|path| *path != Path::Portable) {
        for case in Case::all().iter().filter(|case| case.depth > 0) {
            for (at, found) in case.product(path).into_iter().enumerate() {
                let expected = case.in_order(at / case.columns, at % case.columns);
                assert_eq!(
                    found.to_bits(),
                    expected.to_bits(),
                    "{path:?}, {:?} {}x{}x{} at {at}",
                    case.form,
                    case.rows,
                    case.columns,
                    case.depth
                );
            }
        }
    }
}

#[test]
fn threads_change_no_bit() {
    let on = |threads, path| {
        let pool = ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap();
        let products = || {
            Case::all()
                .iter()
                .map(|case| case.product(path))
                .collect::<Vec<_>>()
        };
        pool.install(products)
    };
    for path in paths() {
        let alone = on(1, path);
        assert_eq!(on(2, path), alone, "{path:?}");
        assert_eq!(on(5, path), alone, "{path:?}");
    }
}

#[test]
fn refuse_what_has_no_product() {
    let values = [0.0; 6];
    let matrix = Matrix::new(&values, 2, 3).unwrap();
    assert!(matches!(
        Matrix::new(&values, 2, 4),
        Err(Error::Length {
            actual: 6,
            expected: 8,
            ..
        })
    ));
    // As many values as a machine word has room for, counted modulo one.
    let (rows, columns) = (2_usize, usize::MAX / 2 + 4);
    assert_eq!(rows.wrapping_mul(columns), values.len());
    assert!(Matrix::new(&values, rows, columns).is_err());
    let (few, many) = (Matrix::new(&[], 0, 1 << 60), Matrix::new(&[], 1 << 60, 0));
    let (few, many) = (few.unwrap(), many.unwrap());
    assert!(multiply(Path::Portable, many, few, &mut []).is_err());
    assert!(matches!(
        multiply(Path::Portable, matrix, matrix, &mut [0.0; 6]),
        Err(Error::Depths {
            columns: 3,
            rows: 2
        })
    ));
    assert!(matches!(
        multiply(Path::Portable, matrix, matrix.transposed(), &mut [0.0; 6]),
        Err(Error::Length {
            actual: 6,
            expected: 4,
            ..
        })
    ));
}
