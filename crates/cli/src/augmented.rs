//! Batches for training on clean images: shuffled, shifted and flipped anew in every epoch.

use anyhow::{Result, ensure};
use candle::Tensor;
use mesa_datasets::{Crop, Images};
use mesa_models::{BatchSource, BoxError, EpochOrder, ImagePool, Position, Recipe, Recipes, Seeds};

/// Training images, each shifted by up to four pixels and flipped at random.
/// What a batch holds depends on its position and the seed only.
#[derive(Clone, Debug)]
pub(crate) struct AugmentedBatches {
    images: Images,
    batch_size: usize,
    pool: ImagePool,
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
            pool: ImagePool::new(images.shared_pixels(), images.size())?
                .with_fill(images.mean_color()),
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
        let recipe = self.recipe(at)?;
        Ok(self.pool.batch(&recipe)?)
    }

    fn recipes(&mut self) -> Option<&mut dyn Recipes> {
        Some(self)
    }
}

impl Recipes for AugmentedBatches {
    fn pool(&self) -> &ImagePool {
        &self.pool
    }

    fn recipe(&mut self, at: Position) -> Result<Recipe, BoxError> {
        let indices = self.order.batch(at, self.batch_size);
        let mut recipe = Recipe::plain(indices, self.images.labels());
        let mut rng = self.augment_seeds.at(at);
        for plan in &mut recipe.plans {
            let crop = Crop::draw(&mut rng);
            (plan.shift, plan.mirrored) = (crop.shift, crop.mirrored);
        }
        Ok(recipe)
    }
}

#[cfg(test)]
mod tests {
    use candle::Device;
    use mesa_datasets::{augment, synthetic};

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

    #[test]
    fn a_recipe_is_what_augmentation_does() {
        let images = synthetic(0, 64, 1).train;
        let at = Position { epoch: 1, step: 2 };
        let mut batches = AugmentedBatches::new(images.clone(), 16, "fine-tune", 5).unwrap();
        let mut expected = images.batch(batches.order.batch(at, 16));
        let mut rng = batches.augment_seeds.at(at);
        augment(&mut rng, &mut expected, images.mean_color());
        let (expected, expected_labels) = expected.into_tensors(&Device::Cpu).unwrap();
        let (found, labels) = batches.batch(at).unwrap();
        let values = |images: &Tensor| images.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(values(&found), values(&expected));
        let classes = |labels: &Tensor| labels.to_vec1::<u32>().unwrap();
        assert_eq!(classes(&labels), classes(&expected_labels));
    }
}
