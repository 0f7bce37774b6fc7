//! Counter-based random streams: every step of every stage has its own, so that a run resumes
//! anywhere without replaying what came before.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use serde::{Deserialize, Serialize};

/// Where a training run stands: the next step to take.
#[derive(
    Copy, Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(deny_unknown_fields)]
pub struct Position {
    /// Passes over the data completed so far.
    pub epoch: usize,
    /// Batches of this pass completed so far.
    pub step: usize,
}

/// A named family of random streams.
///
/// The key of the ChaCha cipher is made of the seed and the stage's name, its stream number of
/// the [`Position`]: stages do not share numbers, and changing one leaves the others alone.
///
/// # Examples
///
/// ```
/// use mesa_models::{Position, Seeds};
/// use rand::Rng;
///
/// let noise = Seeds::new(0, "noise");
/// let at = Position { epoch: 3, step: 14 };
/// let first: u32 = noise.at(at).random();
/// assert_eq!(first, noise.at(at).random::<u32>());
/// assert_ne!(first, Seeds::new(0, "places").at(at).random::<u32>());
/// ```
#[derive(Clone, Debug)]
pub struct Seeds {
    key: [u8; 32],
}

impl Seeds {
    /// The family of `stage` under `seed`.
    pub fn new(seed: u64, stage: &str) -> Self {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&seed.to_le_bytes());
        key[8..16].copy_from_slice(&fnv1a(stage.as_bytes()).to_le_bytes());
        let shown = stage.len().min(16);
        key[16..16 + shown].copy_from_slice(&stage.as_bytes()[..shown]);
        Self { key }
    }

    /// The stream for what is drawn once in a stage: initial weights, a permutation.
    pub fn start(&self) -> ChaCha8Rng {
        self.stream(0)
    }

    /// The stream of one step.
    pub fn at(&self, at: Position) -> ChaCha8Rng {
        self.stream(((at.epoch as u64) << 32) + at.step as u64 + 1)
    }

    fn stream(&self, number: u64) -> ChaCha8Rng {
        let mut rng = ChaCha8Rng::from_seed(self.key);
        rng.set_stream(number);
        rng
    }
}

/// The FNV-1a hash: stable across versions and platforms, unlike the standard library's.
pub fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use rand::Rng;

    use super::*;

    #[test]
    fn start_and_steps_are_different_streams() {
        let seeds = Seeds::new(7, "attack");
        let mut seen = vec![seeds.start().random::<u64>()];
        for epoch in 0..3 {
            for step in 0..3 {
                seen.push(seeds.at(Position { epoch, step }).random());
            }
        }
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), 10);
    }

    #[test]
    fn long_stage_names_that_share_a_beginning_differ() {
        let a = Seeds::new(0, "retrain/ensemble:turns");
        let b = Seeds::new(0, "retrain/ensemble:weighted");
        assert_ne!(a.start().random::<u64>(), b.start().random::<u64>());
    }
}
