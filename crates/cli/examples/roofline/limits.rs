//! What this processor and its memory can do, measured.

use std::hint::black_box;
use std::time::Instant;

use mesa_kernels::{Path, multiply_add};
use rayon::prelude::*;

/// Multiply-adds of each register in one measurement: less than a millisecond, so that one of them
/// is not interrupted.
const ROUNDS: usize = 100_000;

/// Floats of each of three arrays: far more than a cache holds.
const FLOATS: usize = 1 << 25;

/// Measurements of multiply-adds on each thread, and of memory.
const MEASUREMENTS: [usize; 2] = [1_000, 15];

/// Rates of all threads together.
pub(crate) struct Limits {
    pub(crate) operations_per_s: f64,
    pub(crate) bytes_per_s: f64,
}

impl Limits {
    /// The best of a few measurements.
    pub(crate) fn measure(path: Path) -> Self {
        Self {
            operations_per_s: rayon::broadcast(|_| {
                best(MEASUREMENTS[0], || multiply_add(path, ROUNDS))
            })
            .iter()
            .sum(),
            bytes_per_s: bandwidth(),
        }
    }

    /// The least time for so many operations and bytes.
    pub(crate) fn seconds(&self, operations: f64, bytes: f64) -> f64 {
        (operations / self.operations_per_s).max(bytes / self.bytes_per_s)
    }
}

/// Two arrays are read and one is written, as by a layer that reads more than it writes. That a
/// written line is read first is not counted: a kernel pays for it, too.
fn bandwidth() -> f64 {
    let part = FLOATS.div_ceil(rayon::current_num_threads());
    let (a, b) = (vec![1.0_f32; FLOATS], vec![2.0_f32; FLOATS]);
    let mut sums = vec![0.0_f32; FLOATS];
    best(MEASUREMENTS[1], || {
        sums.par_chunks_mut(part)
            .zip(a.par_chunks(part).zip(b.par_chunks(part)))
            .for_each(|(sums, (a, b))| {
                for ((sum, a), b) in sums.iter_mut().zip(a).zip(b) {
                    *sum = a + 0.5 * b;
                }
            });
        black_box(&sums);
        (3 * 4 * FLOATS) as f64
    })
}

/// The highest rate of what `work` says it has done.
fn best(measurements: usize, mut work: impl FnMut() -> f64) -> f64 {
    let rates = (0..measurements).map(|_| {
        let started = Instant::now();
        work() / started.elapsed().as_secs_f64()
    });
    rates.fold(0.0, f64::max)
}
