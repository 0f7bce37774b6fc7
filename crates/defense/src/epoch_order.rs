//! The order in which an epoch visits the images: a permutation that its position alone decides.

use mesa_datasets::shuffled;
use mesa_models::{Position, Seeds};

/// Permutations of `len` indices, one for each epoch; the current one is held.
#[derive(Clone, Debug)]
pub(crate) struct EpochOrder {
    seeds: Seeds,
    len: usize,
    held: Option<(usize, Vec<usize>)>,
}

impl EpochOrder {
    pub(crate) fn new(seeds: Seeds, len: usize) -> Self {
        Self {
            seeds,
            len,
            held: None,
        }
    }

    pub(crate) fn of_epoch(&mut self, epoch: usize) -> &[usize] {
        if self.held.as_ref().is_none_or(|(held, _)| *held != epoch) {
            let order = shuffled(&mut self.seeds.at(Position { epoch, step: 0 }), self.len);
            self.held = Some((epoch, order));
        }
        self.held.as_ref().map_or(&[], |(_, order)| order)
    }
}
