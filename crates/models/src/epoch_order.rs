//! The order in which an epoch visits what is trained on: a permutation that seed and epoch alone
//! decide.

use rand::seq::SliceRandom;

use crate::{Position, Seeds};

/// Permutations of the indices below `len`, one for each epoch; the current one is held.
///
/// # Examples
///
/// ```
/// use mesa_models::{EpochOrder, Position, Seeds};
///
/// let mut order = EpochOrder::new(Seeds::new(0, "order"), 10);
/// let second = order.batch(Position { epoch: 0, step: 1 }, 4).to_vec();
/// assert_eq!(second, order.of_epoch(0)[4..8]);
/// ```
#[derive(Clone, Debug)]
pub struct EpochOrder {
    seeds: Seeds,
    len: usize,
    held: Option<(usize, Vec<usize>)>,
}

impl EpochOrder {
    /// Orders of `len` indices, each drawn from the stream of its epoch's first step.
    pub fn new(seeds: Seeds, len: usize) -> Self {
        Self {
            seeds,
            len,
            held: None,
        }
    }

    /// All indices, in the order of `epoch`.
    pub fn of_epoch(&mut self, epoch: usize) -> &[usize] {
        if self.held.as_ref().is_none_or(|(held, _)| *held != epoch) {
            let mut order: Vec<usize> = (0..self.len).collect();
            order.shuffle(&mut self.seeds.at(Position { epoch, step: 0 }));
            self.held = Some((epoch, order));
        }
        self.held.as_ref().map_or(&[], |(_, order)| order)
    }

    /// The indices of one whole batch.
    ///
    /// # Panics
    ///
    /// If the epoch has no whole batch at that step.
    pub fn batch(&mut self, at: Position, batch_size: usize) -> &[usize] {
        &self.of_epoch(at.epoch)[at.step * batch_size..][..batch_size]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whoever moves these draws moves every figure: raise the engine version.
    #[test]
    fn the_draws_are_those_of_the_committed_figures() {
        let mut order = EpochOrder::new(Seeds::new(7, "attack/order"), 10);
        assert_eq!(order.of_epoch(0), [4, 3, 1, 5, 7, 0, 8, 6, 9, 2]);
        assert_eq!(order.of_epoch(3), [4, 6, 5, 7, 8, 9, 0, 2, 1, 3]);
    }

    #[test]
    fn an_order_depends_on_seed_and_epoch_alone() {
        let new = || EpochOrder::new(Seeds::new(1, "order"), 100);
        let (mut walked, mut jumped) = (new(), new());
        for epoch in 0..3 {
            walked.of_epoch(epoch);
        }
        let first = walked.of_epoch(0).to_vec();
        assert_eq!(walked.of_epoch(2), jumped.of_epoch(2));
        assert_ne!(walked.of_epoch(2), first);
        let mut visited = first;
        visited.sort_unstable();
        assert_eq!(visited, (0..100).collect::<Vec<_>>());
    }
}
