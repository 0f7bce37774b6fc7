//! What this processor can do at most, to hold kernels against.

use crate::Path;
use crate::cpu::simd::{Simd, Task};

/// Sums that do not wait for each other: two units with a latency of four or five instructions
/// have to be kept busy, and AVX2 has 16 registers.
const CHAINS: usize = 12;

/// Multiplies and adds `rounds` times on each of a few independent registers, on the calling
/// thread and without touching memory; returns the floating-point operations done.
///
/// Divided by the time it took, that is the rate no kernel exceeds.
///
/// # Examples
///
/// ```
/// use mesa_kernels::{Path, multiply_add};
///
/// assert!(multiply_add(Path::Portable, 100) > 0.0);
/// ```
pub fn multiply_add(path: Path, rounds: usize) -> f64 {
    path.run(Chains { rounds });
    (2 * CHAINS * path.lanes() * rounds) as f64
}

struct Chains {
    rounds: usize,
}

impl Task for Chains {
    #[inline(always)]
    fn run<S: Simd>(self) {
        // Known to nobody at compile time; sums stay near one.
        let (factor, term) = std::hint::black_box((0.999_f32, 0.001_f32));
        let (factor, term) = (S::splat(factor), S::splat(term));
        let mut sums = [S::splat(1.0); CHAINS];
        for _ in 0..self.rounds {
            for sum in &mut sums {
                *sum = S::mul_add(*sum, factor, term);
            }
        }
        std::hint::black_box(sums);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_two_operations_a_lane() {
        assert_eq!(multiply_add(Path::Portable, 10), 960.0);
    }
}
