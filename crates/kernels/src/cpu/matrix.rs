//! The loop nests of matrix products.
//!
//! ```text
//! for each panel of R registers of columns of b    copied once, so that it is contiguous
//!   for each tile of P rows of a                   accumulators: P rows × R registers
//!     for each product of the sum                  R panel loads, P broadcasts, P·R products
//! ```

use std::cell::RefCell;

use rayon::prelude::*;

use crate::Path;
use crate::cpu::simd::{Simd, Task};
use crate::layout::{Buffer, at_least};
use crate::matrix::{Matrix, Order};

/// Registers in a row of a panel.
const R: usize = 2;
/// Products below which one thread is faster.
const PARALLEL: usize = 1 << 22;

thread_local! {
    /// The panels of the last product, whose memory the next one takes.
    static PANELS: RefCell<Buffer> = RefCell::default();
}

/// Sums that are chains, see [`Order`].
pub(crate) fn chains(path: Path, a: &Matrix, b: &Matrix, block: usize, product: &mut [f32]) {
    let (depth, columns) = (a.columns, b.columns);
    if depth == 0 || product.is_empty() {
        product.fill(0.0);
        return;
    }
    let parallel = is_parallel(product, depth);
    // Two pieces for each thread: one of them may be late.
    let chunk_rows = if parallel {
        let threads = rayon::current_num_threads();
        a.rows.div_ceil(2 * threads).next_multiple_of(4).max(12)
    } else {
        a.rows
    };
    // Taken, not borrowed: while this thread waits for another it may begin another product.
    let mut panels = PANELS.take();
    let width = R * path.lanes();
    let packed = at_least(&mut panels, columns.div_ceil(width) * depth * width);
    each_chunk(packed, depth * width, parallel, |panel, into| {
        path.run(Pack { b, panel, into });
    });
    let packed = &*packed;
    each_chunk(product, chunk_rows * columns, parallel, |chunk, product| {
        path.run(Tiles {
            a,
            first_row: chunk * chunk_rows,
            panels: packed,
            columns,
            block,
            product,
        });
    });
    PANELS.set(panels);
}

fn is_parallel(product: &[f32], depth: usize) -> bool {
    product.len() * depth >= PARALLEL && rayon::current_num_threads() > 1
}

/// Calls `task` with each piece of `len` values and its number.
fn each_chunk(
    values: &mut [f32],
    len: usize,
    parallel: bool,
    task: impl Fn(usize, &mut [f32]) + Sync,
) {
    if parallel {
        let chunks = values.par_chunks_mut(len).enumerate();
        chunks.for_each(|(i, chunk)| task(i, chunk));
    } else {
        for (i, chunk) in values.chunks_mut(len).enumerate() {
            task(i, chunk);
        }
    }
}

/// Copies columns of `b`, zeros behind the last.
struct Pack<'a> {
    b: &'a Matrix<'a>,
    panel: usize,
    into: &'a mut [f32],
}

impl Task for Pack<'_> {
    #[inline(always)]
    #[allow(unsafe_code)]
    fn run<S: Simd>(self) {
        let first = self.panel * R * S::LANES;
        let width = (self.b.columns - first).min(R * S::LANES);
        if width < R * S::LANES {
            self.into.fill(0.0);
        }
        let rows = self.into.chunks_exact_mut(R * S::LANES);
        if self.b.by_rows {
            for (into, row) in rows.zip(self.b.values.chunks_exact(self.b.columns)) {
                let row = &row[first..][..width];
                if width < R * S::LANES {
                    into[..width].copy_from_slice(row);
                    continue;
                }
                for r in 0..R {
                    // SAFETY: R · LANES floats are in each.
                    unsafe {
                        let at = r * S::LANES;
                        S::store(into.as_mut_ptr().add(at), S::load(row.as_ptr().add(at)));
                    }
                }
            }
        } else {
            let columns = self.b.values[first * self.b.rows..].chunks_exact(self.b.rows);
            let columns: Vec<&[f32]> = columns.take(width).collect();
            for (group, columns) in columns.chunks(8).enumerate() {
                pack_columns::<S>(columns, self.into, group * 8);
            }
        }
    }
}

/// Up to eight columns, to stand from `at` on in the panel's rows.
#[inline(always)]
#[allow(unsafe_code)]
fn pack_columns<S: Simd>(columns: &[&[f32]], into: &mut [f32], at: usize) {
    let width = R * S::LANES;
    let depth = columns[0].len();
    let mut packed = 0;
    if let Some(columns) = columns.first_chunk::<8>() {
        assert!(at + 8 <= width && into.len() == depth * width);
        assert!(columns.iter().all(|column| column.len() == depth));
        while packed + 8 <= depth {
            // SAFETY: rows packed to packed + 8, of all columns and of the panel, in which
            // eight floats from `at` on are a part of each row.
            unsafe {
                let columns = columns.map(|column| column.as_ptr().add(packed));
                S::transpose(columns, into.as_mut_ptr().add(packed * width + at), width);
            }
            packed += 8;
        }
    }
    for (i, column) in columns.iter().enumerate() {
        for (into, value) in into.chunks_exact_mut(width).zip(*column).skip(packed) {
            into[at + i] = *value;
        }
    }
}

/// Some rows of a product.
struct Tiles<'a> {
    a: &'a Matrix<'a>,
    first_row: usize,
    panels: &'a [f32],
    columns: usize,
    block: usize,
    product: &'a mut [f32],
}

impl Task for Tiles<'_> {
    #[inline(always)]
    fn run<S: Simd>(mut self) {
        if self.a.by_rows {
            self.all_tiles::<S, true>();
        } else {
            self.all_tiles::<S, false>();
        }
    }
}

impl Tiles<'_> {
    #[inline(always)]
    fn all_tiles<S: Simd, const BY_ROWS: bool>(&mut self) {
        let rows = self.product.len() / self.columns;
        for panel in 0..self.columns.div_ceil(R * S::LANES) {
            let mut row = 0;
            while row < rows {
                row += match (S::LANES, rows - row) {
                    (16, 12..) => self.tile::<S, BY_ROWS, 12>(row, panel),
                    (16, 8..) => self.tile::<S, BY_ROWS, 8>(row, panel),
                    (16 | 8, 6..) => self.tile::<S, BY_ROWS, 6>(row, panel),
                    (_, 4..) => self.tile::<S, BY_ROWS, 4>(row, panel),
                    (_, 2..) => self.tile::<S, BY_ROWS, 2>(row, panel),
                    _ => self.tile::<S, BY_ROWS, 1>(row, panel),
                };
            }
        }
    }

    /// `P` rows of a panel's columns; returns `P`.
    #[inline(always)]
    #[allow(unsafe_code)]
    fn tile<S: Simd, const BY_ROWS: bool, const P: usize>(
        &mut self,
        row: usize,
        panel: usize,
    ) -> usize {
        let Matrix {
            values: a,
            rows,
            columns: depth,
            ..
        } = *self.a;
        let width = R * S::LANES;
        let (row_stride, column_stride) = if BY_ROWS { (depth, 1) } else { (1, rows) };
        let (first_row, first_column) = (self.first_row + row, panel * width);
        assert!(first_row + P <= rows && a.len() == rows * depth);
        let panel = &self.panels[panel * depth * width..][..depth * width];
        let mut start = 0;
        while start < depth {
            let end = (start + self.block).min(depth);
            let mut sums = [[S::splat(0.0); R]; P];
            // SAFETY: k < depth, so these are values of rows first_row to first_row + P of a, and
            // row k of the panel.
            unsafe {
                let rows: [*const f32; P] =
                    std::array::from_fn(|p| a.as_ptr().add((first_row + p) * row_stride));
                for k in start..end {
                    let b: [S::V; R] = std::array::from_fn(|r| {
                        S::load(panel.as_ptr().add(k * width + r * S::LANES))
                    });
                    for p in 0..P {
                        let value = S::splat(*rows[p].add(k * column_stride));
                        for r in 0..R {
                            sums[p][r] = S::mul_add(value, b[r], sums[p][r]);
                        }
                    }
                }
            }
            for (p, sums) in sums.iter().enumerate() {
                let into = &mut self.product[(row + p) * self.columns..][..self.columns];
                let into = &mut into[first_column..];
                if into.len() >= width {
                    add_registers::<S>(sums, into, start > 0);
                } else {
                    // As many as there are in the longest registers.
                    let mut values = [0.0; R * 16];
                    values[..into.len()].copy_from_slice(into);
                    add_registers::<S>(sums, &mut values, start > 0);
                    into.copy_from_slice(&values[..into.len()]);
                }
            }
            start = end;
        }
        P
    }
}

/// Writes sums, or adds them to what is there.
#[inline(always)]
#[allow(unsafe_code)]
fn add_registers<S: Simd>(sums: &[S::V; R], into: &mut [f32], add: bool) {
    for (r, sum) in sums.iter().enumerate() {
        let at = into[r * S::LANES..][..S::LANES].as_mut_ptr();
        // SAFETY: LANES floats of the slice.
        unsafe {
            let sum = if add { S::add(S::load(at), *sum) } else { *sum };
            S::store(at, sum);
        }
    }
}

/// Sums that are kept in parts, see [`Order`]; rows of `a` and columns of `b` are contiguous.
pub(crate) fn dots(path: Path, a: &Matrix, b: &Matrix, order: Order, product: &mut [f32]) {
    const ROWS: usize = 64;
    if product.is_empty() {
        return;
    }
    let parallel = is_parallel(product, a.columns);
    each_chunk(product, ROWS * b.columns, parallel, |chunk, product| {
        path.run(Dots {
            a,
            b,
            first_row: chunk * ROWS,
            order,
            product,
        });
    });
}

/// Some rows of a product.
struct Dots<'a> {
    a: &'a Matrix<'a>,
    b: &'a Matrix<'a>,
    first_row: usize,
    order: Order,
    product: &'a mut [f32],
}

impl Task for Dots<'_> {
    #[inline(always)]
    fn run<S: Simd>(self) {
        let (depth, columns) = (self.a.columns, self.b.columns);
        for (i, value) in self.product.iter_mut().enumerate() {
            let row = &self.a.values[(self.first_row + i / columns) * depth..][..depth];
            let column = &self.b.values[i % columns * depth..][..depth];
            *value = if self.order == Order::EightSums {
                eight_sums::<S>(row, column)
            } else {
                sixty_four_sums::<S>(row, column)
            };
        }
    }
}

type Eight = [f32; 8];

#[inline(always)]
fn eight_sums<S: Simd>(xs: &[f32], ys: &[f32]) -> f32 {
    let ((xs, last_xs), (ys, last_ys)) = (xs.as_chunks(), ys.as_chunks());
    let mut sums: Eight = [0.0; 8];
    for (x, y) in xs.iter().zip(ys) {
        sums = add_products::<S>(&sums, x, y);
    }
    for ((sum, x), y) in sums.iter_mut().zip(last_xs).zip(last_ys) {
        *sum = S::mul_add_one(*x, *y, *sum);
    }
    let four: [f32; 4] = std::array::from_fn(|i| sums[i] + sums[i + 4]);
    (four[0] + four[2]) + (four[1] + four[3])
}

#[inline(always)]
fn sixty_four_sums<S: Simd>(xs: &[f32], ys: &[f32]) -> f32 {
    let ((xs, last_xs), (ys, last_ys)) = (xs.as_chunks(), ys.as_chunks());
    let ((xs, more_xs), (ys, more_ys)) = (xs.as_chunks::<8>(), ys.as_chunks::<8>());
    let mut sums: [Eight; 8] = [[0.0; 8]; 8];
    for (x, y) in xs.iter().zip(ys) {
        sums = std::array::from_fn(|i| add_products::<S>(&sums[i], &x[i], &y[i]));
    }
    let plus = |a: Eight, b: Eight| std::array::from_fn(|i| a[i] + b[i]);
    let four: [Eight; 4] = std::array::from_fn(|i| plus(sums[2 * i], sums[2 * i + 1]));
    let mut sums: Eight = plus(plus(four[0], four[1]), plus(four[2], four[3]));
    for (x, y) in more_xs.iter().zip(more_ys) {
        sums = add_products::<S>(&sums, x, y);
    }
    let sum = sums[1..].iter().fold(sums[0], |sum, next| sum + next);
    let last = last_xs.iter().zip(last_ys);
    last.fold(sum, |sum, (x, y)| S::mul_add_one(*x, *y, sum))
}

#[inline(always)]
fn add_products<S: Simd>(sums: &Eight, xs: &Eight, ys: &Eight) -> Eight {
    std::array::from_fn(|i| S::mul_add_one(xs[i], ys[i], sums[i]))
}
