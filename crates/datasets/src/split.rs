//! Seeded split of the test images: 8,000 to model and retrain with, 2,000 to evaluate in the paper's setting.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

use crate::batches::shuffled;
use crate::{Error, Result};

/// Two disjoint sets of indices that together are all of them. Only [`split`] makes one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Split {
    first: Vec<usize>,
    second: Vec<usize>,
}

impl Split {
    /// What the defender works with: trigger modeling and retraining.
    pub fn first(&self) -> &[usize] {
        &self.first
    }

    /// What the result is measured on.
    pub fn second(&self) -> &[usize] {
        &self.second
    }
}

/// Permutes `len` indices by `seed`; the first `first` of them, and the others.
///
/// # Errors
///
/// [`Error::SplitTooLarge`] if `first` exceeds `len`.
///
/// # Examples
///
/// ```
/// let split = mesa_datasets::split(10_000, 8_000, 0)?;
/// assert_eq!((split.first().len(), split.second().len()), (8_000, 2_000));
/// # Ok::<(), mesa_datasets::Error>(())
/// ```
pub fn split(len: usize, first: usize, seed: u64) -> Result<Split> {
    if first > len {
        return Err(Error::SplitTooLarge { len, first });
    }
    let mut order = shuffled(&mut ChaCha8Rng::seed_from_u64(seed), len);
    let second = order.split_off(first);
    Ok(Split {
        first: order,
        second,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn parts_are_disjoint_and_exhaustive(len in 0_usize..2000, share in 0.0..=1.0, seed: u64) {
            let first = (len as f64 * share) as usize;
            let split = split(len, first, seed)?;
            prop_assert_eq!(split.first.len(), first);
            let mut all = [split.first, split.second].concat();
            all.sort_unstable();
            prop_assert_eq!(all, (0..len).collect::<Vec<_>>());
        }
    }

    #[test]
    fn the_seed_decides() {
        assert_eq!(split(100, 80, 3).unwrap(), split(100, 80, 3).unwrap());
        assert_ne!(split(100, 80, 3).unwrap(), split(100, 80, 4).unwrap());
    }

    #[test]
    fn refuses_more_than_there_is() {
        let refused = split(10, 11, 0);
        assert!(matches!(
            refused,
            Err(Error::SplitTooLarge { len: 10, first: 11 })
        ));
    }
}
