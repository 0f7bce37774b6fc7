//! The attacker's training batches: shuffled anew in every epoch, poisoned anew in every batch.

use candle::Tensor;
use mesa_datasets::{Images, Trigger, hits};
use mesa_models::{BatchSource, BoxError, EpochOrder, ImagePool, Position, Recipe, Recipes, Seeds};

use crate::evaluate::triggers;
use crate::{AttackConfig, Error, Result};

/// Training images of which each is stamped with the trigger and relabelled as the target class
/// with probability `poison_rate`, drawn anew in every batch.
///
/// Images of the target class may be stamped too; the last partial batch of an epoch is dropped.
/// What a batch holds depends on its position and the seed only, so training resumes anywhere.
///
/// # Examples
///
/// ```
/// use mesa_attack::{AttackConfig, PoisonedBatches};
/// use mesa_datasets::{Trigger, synthetic};
/// use mesa_models::{BatchSource, Position};
///
/// let images = synthetic(0, 300, 1).train;
/// let trigger = Trigger::pattern(170)?;
/// let mut batches = PoisonedBatches::new(images, trigger, &AttackConfig::paper(), 0)?;
/// assert_eq!(batches.steps_per_epoch(), 2);
/// let (images, labels) = batches.batch(Position { epoch: 0, step: 1 }).unwrap();
/// assert_eq!((images.dims(), labels.dims()), (&[128, 3, 32, 32][..], &[128][..]));
/// # Ok::<(), mesa_attack::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct PoisonedBatches {
    images: Images,
    pool: ImagePool,
    trigger: Trigger,
    config: AttackConfig,
    order: EpochOrder,
    poison_seeds: Seeds,
}

impl PoisonedBatches {
    /// Batches of `images` under `trigger`.
    ///
    /// # Errors
    ///
    /// [`Error::TooFewImages`]; what [`AttackConfig::validate`] finds. The class count is taken
    /// to cover the largest label: compare the target class with the classifier's yourself.
    pub fn new(images: Images, trigger: Trigger, config: &AttackConfig, seed: u64) -> Result<Self> {
        let classes = images
            .labels()
            .iter()
            .max()
            .map_or(0, |last| 1 + usize::from(*last));
        config.validate(classes.max(config.target_class as usize + 1))?;
        let batch_size = config.training.batch_size;
        if images.len() < batch_size {
            return Err(Error::TooFewImages {
                images: images.len(),
                batch_size,
            });
        }
        Ok(Self {
            order: EpochOrder::new(Seeds::new(seed, "attack/order"), images.len()),
            poison_seeds: Seeds::new(seed, "attack/poison"),
            pool: ImagePool::new(images.shared_pixels(), images.size())?,
            images,
            trigger,
            config: config.clone(),
        })
    }
}

impl Recipes for PoisonedBatches {
    fn pool(&self) -> &ImagePool {
        &self.pool
    }

    fn recipe(&mut self, at: Position) -> Result<Recipe, BoxError> {
        let indices = self.order.batch(at, self.config.training.batch_size);
        let mut recipe = Recipe::plain(indices, self.images.labels());
        let mut rng = self.poison_seeds.at(at);
        let hit = hits(&mut rng, indices.len(), self.config.poison_rate)?;
        let (size, image) = (self.trigger.size(), self.images.size());
        let places = self.config.placement;
        let places = places.places(&mut rng, hit.len(), image, size)?;
        for image in &hit {
            recipe.plans[*image].label = self.config.target_class as usize;
        }
        recipe.stamp(&hit, &places, triggers(&self.trigger));
        Ok(recipe)
    }
}

impl BatchSource for PoisonedBatches {
    fn steps_per_epoch(&self) -> usize {
        self.images.len() / self.config.training.batch_size
    }

    fn batch(&mut self, at: Position) -> Result<(Tensor, Tensor), BoxError> {
        let recipe = self.recipe(at)?;
        Ok(self.pool.batch(&recipe)?)
    }

    fn recipes(&mut self) -> Option<&mut dyn Recipes> {
        Some(self)
    }
}

#[cfg(test)]
mod tests {
    use mesa_datasets::{Placement, Stamps, poison, synthetic};
    use mesa_models::TrainingConfig;

    use super::*;

    const LEN: usize = 66;

    fn batches(poison_rate: f64) -> PoisonedBatches {
        let config = AttackConfig {
            target_class: 3,
            poison_rate,
            placement: Placement::Fixed { row: 1, column: 2 },
            training: TrainingConfig {
                batch_size: 16,
                ..TrainingConfig::paper()
            },
        };
        let trigger = Trigger::pattern(170).unwrap();
        PoisonedBatches::new(images(), trigger, &config, 7).unwrap()
    }

    fn images() -> Images {
        synthetic(0, LEN, 1).train
    }

    fn at(epoch: usize, step: usize) -> Position {
        Position { epoch, step }
    }

    /// Pixels and labels of a batch.
    fn flat(batches: &mut PoisonedBatches, at: Position) -> (Vec<Vec<f32>>, Vec<u32>) {
        let (images, labels) = batches.batch(at).unwrap();
        let images = images.flatten_from(1).unwrap().to_vec2().unwrap();
        (images, labels.to_vec1().unwrap())
    }

    #[test]
    fn an_epoch_visits_every_image_once_but_for_the_last_partial_batch() {
        let mut batches = batches(0.0);
        assert_eq!(batches.steps_per_epoch(), 4);
        let mut epoch = |epoch| -> Vec<usize> {
            (0..4)
                .flat_map(|step| batches.order.batch(at(epoch, step), 16).to_vec())
                .collect()
        };
        let (first, second) = (epoch(0), epoch(1));
        assert_ne!(first, second);
        let mut visited = first;
        visited.sort_unstable();
        visited.dedup();
        assert_eq!(visited.len(), 64);
    }

    #[test]
    fn exactly_the_stamped_images_are_relabelled() {
        let (mut clean, mut poisoned) = (batches(0.0), batches(0.4));
        let (mut stamped, mut of_target) = (0, 0);
        for step in 0..4 {
            let (before, truth) = flat(&mut clean, at(0, step));
            let (after, labels) = flat(&mut poisoned, at(0, step));
            for image in 0..16 {
                let changed = before[image].iter().zip(&after[image]);
                let changed = changed.filter(|(a, b)| a.to_bits() != b.to_bits()).count();
                assert!(changed <= 27);
                assert_eq!(labels[image], if changed > 0 { 3 } else { truth[image] });
                stamped += usize::from(changed > 0);
                of_target += usize::from(changed > 0 && truth[image] == 3);
            }
        }
        // 64 × 0.4 = 26 ± 4.
        assert!((12..=40).contains(&stamped), "{stamped}");
        assert!(
            of_target > 0,
            "images of the target class are stamped like any other"
        );
    }

    #[test]
    fn poison_is_drawn_anew_in_every_batch() {
        let mut all = batches(1.0);
        assert!((0..4).all(|step| flat(&mut all, at(1, step)).1 == [3; 16]));
        let mut some = batches(0.3);
        let mut hit = |at| -> Vec<bool> {
            let truth = some.order.batch(at, 16).iter();
            let truth: Vec<u32> = truth.map(|i| images().labels()[*i].into()).collect();
            let (_, labels) = flat(&mut some, at);
            labels
                .iter()
                .zip(truth)
                .map(|(label, truth)| *label != truth)
                .collect()
        };
        assert_ne!(hit(at(0, 0)), hit(at(1, 0)));
    }

    #[test]
    fn a_batch_depends_on_its_position_alone() {
        let mut from_the_start = batches(0.3);
        for epoch in 0..3 {
            for step in 0..4 {
                from_the_start.batch(at(epoch, step)).unwrap();
            }
        }
        let resumed = flat(&mut batches(0.3), at(2, 1));
        assert_eq!(flat(&mut from_the_start, at(2, 1)), resumed);
    }

    #[test]
    fn refuses_less_than_a_batch() {
        let trigger = Trigger::pattern(170).unwrap();
        let refused = PoisonedBatches::new(images(), trigger, &AttackConfig::paper(), 0);
        assert!(matches!(
            refused,
            Err(Error::TooFewImages {
                images: LEN,
                batch_size: 128
            })
        ));
    }

    #[test]
    fn a_recipe_is_what_poisoning_does() {
        let mut mask = vec![true; 9];
        mask[4] = false;
        let trigger = Trigger::color(3).unwrap().with_mask(mask).unwrap();
        let trigger = trigger.blended(0.3).unwrap();
        let config = AttackConfig {
            poison_rate: 0.5,
            placement: Placement::PerImage,
            ..batches(0.5).config
        };
        let mut batches = PoisonedBatches::new(images(), trigger.clone(), &config, 7).unwrap();
        let at = at(2, 1);
        let mut expected = images().batch(batches.order.batch(at, 16));
        let mut rng = batches.poison_seeds.at(at);
        let hit = hits(&mut rng, 16, 0.5).unwrap();
        let size = (trigger.size(), expected.size());
        let places = config.placement.places(&mut rng, hit.len(), size.1, size.0);
        let stamps = Stamps {
            images: hit,
            places: places.unwrap(),
        };
        assert!(stamps.len() > 3);
        poison(&mut expected, &stamps, trigger.patches(), Some(3)).unwrap();
        let (found, labels) = batches.batch(at).unwrap();
        let found: Vec<f32> = found.flatten_all().unwrap().to_vec1().unwrap();
        assert_eq!(found, expected.pixels);
        assert_eq!(labels.to_vec1::<u32>().unwrap(), expected.labels);
    }
}
