//! Batches for training on clean images: shuffled, shifted and flipped anew in every epoch.

use anyhow::{Result, ensure};
use candle::{Device, Tensor};
use mesa_datasets::{CHANNELS, Images, augment};
use mesa_models::{BatchSource, BoxError, EpochOrder, Position, Seeds};

/// Training images, each shifted by up to four pixels and flipped at random.
/// What a batch holds depends on its position and the seed only.
#[derive(Clone, Debug)]
pub(crate) struct AugmentedBatches {
    images: Images,
    batch_size: usize,
    fill: [f32; CHANNELS],
    order: EpochOrder,
    augment_seeds: Seeds,
}

impl AugmentedBatches {
    /// Batches of `images`; the last partial batch of an epoch is dropped.
    /// `stage` names the streams that are drawn from.
    pub(crate) fn new(images: Images, batch_size: usize, stage: &str, seed: u64) -> Result<Self> {
        ensure!(
            batch_size > 0 && images.len() >= batch_size,
            "{} training images do not fill a batch of {batch_size}",
            images.len()
        );
        Ok(Self {
            fill: images.mean_color(),
            order: EpochOrder::new(Seeds::new(seed, &format!("{stage}/order")), images.len()),
            augment_seeds: Seeds::new(seed, &format!("{stage}/augment")),
            images,
            batch_size,
        })
    }
}

impl BatchSource for AugmentedBatches {
    fn steps_per_epoch(&self) -> usize {
        self.images.len() / self.batch_size
    }

    fn batch(&mut self, at: Position) -> Result<(Tensor, Tensor), BoxError> {
        let indices = self.order.batch(at, self.batch_size);
        let mut batch = self.images.batch(indices);
        augment(&mut self.augment_seeds.at(at), &mut batch, self.fill);
        Ok(batch.into_tensors(&Device::Cpu)?)
    }
}

#[cfg(test)]
mod tests {
    use mesa_datasets::synthetic;

    use super::*;

    #[test]
    fn a_batch_depends_on_its_position_alone() {
        let images = synthetic(0, 64, 1).train;
        let at = |epoch, step| Position { epoch, step };
        let batches = || AugmentedBatches::new(images.clone(), 16, "pretrain", 3).unwrap();
        let pixels = |batches: &mut AugmentedBatches, at| {
            batches
                .batch(at)
                .unwrap()
                .0
                .flatten_all()
                .unwrap()
                .to_vec1::<f32>()
                .unwrap()
        };
        let mut walked = batches();
        for step in 0..4 {
            pixels(&mut walked, at(0, step));
        }
        let expected = pixels(&mut walked, at(1, 2));
        assert_eq!(pixels(&mut batches(), at(1, 2)), expected);
        assert_ne!(pixels(&mut walked, at(0, 2)), expected);
    }
}
