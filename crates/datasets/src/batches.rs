//! Shuffled mini-batches of indices.

use std::slice::{Chunks, ChunksExact};

use rand::Rng;
use rand::seq::SliceRandom;

/// The indices below `len` in random order.
pub fn shuffled<R: Rng>(rng: &mut R, len: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..len).collect();
    order.shuffle(rng);
    order
}

/// Batches of `batch_size` indices; a partial last one is dropped, as in training.
///
/// # Panics
///
/// If `batch_size` is zero.
///
/// # Examples
///
/// ```
/// let order = [4, 0, 3, 1, 2];
/// let batches: Vec<_> = mesa_datasets::whole_batches(&order, 2).collect();
/// assert_eq!(batches, [[4, 0], [3, 1]]);
/// ```
pub fn whole_batches(order: &[usize], batch_size: usize) -> ChunksExact<'_, usize> {
    order.chunks_exact(batch_size)
}

/// Batches of `batch_size` indices; the last one may be smaller, as in evaluation.
///
/// # Panics
///
/// If `batch_size` is zero.
pub fn all_batches(order: &[usize], batch_size: usize) -> Chunks<'_, usize> {
    order.chunks(batch_size)
}

#[cfg(test)]
mod tests {
    use rand_chacha::ChaCha8Rng;
    use rand_chacha::rand_core::SeedableRng;

    use super::*;

    #[test]
    fn evaluation_keeps_the_last_partial_batch() {
        let order = shuffled(&mut ChaCha8Rng::seed_from_u64(1), 2000);
        assert_eq!(
            all_batches(&order, 128).map(<[usize]>::len).sum::<usize>(),
            2000
        );
        assert_eq!(
            whole_batches(&order, 128)
                .map(<[usize]>::len)
                .sum::<usize>(),
            1920
        );
    }
}
