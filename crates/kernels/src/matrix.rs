//! Matrix products, for the perceptrons.
//!
//! The order in which a sum is rounded is part of the result here: it follows from the factors'
//! shapes and which of them is transposed ([`Order`]), never from the sizes of a processor's caches
//! or the number of threads, so that the same seed fits the same generator wherever the kernel path
//! is the same.

use crate::cpu::matrix;
use crate::{Error, Path, Result};

/// A matrix of f32 in memory: row after row, or column after column for a
/// [transposed](Matrix::transposed) one.
#[derive(Copy, Clone, Debug)]
pub struct Matrix<'a> {
    pub(crate) values: &'a [f32],
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    /// Whether it lies row after row.
    pub(crate) by_rows: bool,
}

impl<'a> Matrix<'a> {
    /// `rows` rows of `columns` values.
    ///
    /// # Errors
    ///
    /// [`Error::Length`] if there are more or fewer values.
    pub fn new(values: &'a [f32], rows: usize, columns: usize) -> Result<Self> {
        if rows.checked_mul(columns) == Some(values.len()) {
            Ok(Self {
                values,
                rows,
                columns,
                by_rows: true,
            })
        } else {
            Err(Error::Length {
                what: "the matrix",
                actual: values.len(),
                expected: rows.saturating_mul(columns),
            })
        }
    }

    /// How many rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// How many columns.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// The same values as columns.
    #[must_use]
    pub fn transposed(self) -> Self {
        Self {
            rows: self.columns,
            columns: self.rows,
            by_rows: !self.by_rows,
            ..self
        }
    }
}

/// How the products of a row with a column are summed; each is fused with its addition where the path
/// has that.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// One after the other, from zero again every `block` of them; then block after block.
    Chain {
        /// Products.
        block: usize,
    },
    /// Product `k` into sum `k mod 8`; then halves onto each other.
    EightSums,
    /// Product `k` into sum `k mod 64`, in eights; then adjacent eights onto each other until one
    /// is left, which takes what eights remain; then its sums, then the last products, in turn.
    SixtyFourSums,
}

impl Order {
    /// A chain fills registers with the results of adjacent columns. Where there are too few
    /// results for that, and rows of `a` and columns of `b` are contiguous, they are filled with
    /// products of one.
    ///
    /// Any rule that looks at the factors alone would do. This one was the `gemm` crate's on the AMD EPYC
    /// that the first records are from, and they can be made again with it.
    pub(crate) fn of(a: &Matrix, b: &Matrix) -> Self {
        const LONGEST: usize = 512;
        let (rows, columns, depth) = (a.rows, b.columns, a.columns);
        let contiguous = a.by_rows && !b.by_rows;
        let single = rows == 1 || columns == 1;
        if contiguous && rows * columns <= 256 {
            Self::EightSums
        } else if depth == 2 {
            Self::Chain { block: 1 }
        } else if contiguous && single {
            Self::SixtyFourSums
        } else if single {
            Self::Chain { block: depth }
        } else if rows <= 64 && columns <= 64 {
            Self::Chain { block: LONGEST }
        } else {
            // As few blocks as there must be, all of one length.
            let blocks = depth.div_ceil(LONGEST).max(1);
            Self::Chain {
                block: depth.div_ceil(blocks),
            }
        }
    }
}

/// `a · b` into `product`, row by row.
///
/// Bits are the same for any number of threads, and on every path that fuses a product with its
/// addition (AVX2, AVX-512).
///
/// # Shapes
///
/// - `a`: `(M, K)`, `b`: `(K, N)`, `product`: `(M, N)`.
///
/// # Errors
///
/// [`Error::Depths`] if `a` has not as many columns as `b` has rows, [`Error::Length`] if
/// `product` is of another length.
///
/// # Examples
///
/// ```
/// use mesa_kernels::{Matrix, Path, multiply};
///
/// let a = Matrix::new(&[1.0, 2.0], 1, 2)?;
/// let mut product = [0.0; 4];
/// multiply(Path::current()?, a.transposed(), a, &mut product)?;
/// assert_eq!(product, [1.0, 2.0, 2.0, 4.0]);
/// # Ok::<(), mesa_kernels::Error>(())
/// ```
pub fn multiply(path: Path, a: Matrix, b: Matrix, product: &mut [f32]) -> Result<()> {
    if a.columns != b.rows {
        return Err(Error::Depths {
            columns: a.columns,
            rows: b.rows,
        });
    }
    if a.rows.checked_mul(b.columns) != Some(product.len()) {
        return Err(Error::Length {
            what: "the product",
            actual: product.len(),
            expected: a.rows.saturating_mul(b.columns),
        });
    }
    match Order::of(&a, &b) {
        Order::Chain { block } => matrix::chains(path, &a, &b, block, product),
        order => matrix::dots(path, &a, &b, order, product),
    }
    Ok(())
}
