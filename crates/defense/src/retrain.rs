//! Unlearning: retraining on clean images of which some are stamped with sampled triggers and
//! keep their true label.

use candle::Tensor;
use mesa_datasets::{Placement, hits};
use mesa_models::{
    BatchSource, BoxError, EpochOrder, ImagePool, Position, Recipe, Recipes, Seeds, TrainingConfig,
};
use serde::{Deserialize, Serialize};

use crate::{DefenseImages, Error, Result, TriggerSource};

/// How a network is retrained.
///
/// # Examples
///
/// ```
/// use mesa_defense::RetrainConfig;
///
/// let config = RetrainConfig::paper();
/// assert_eq!((config.stamp_rate, config.training.epochs), (0.01, 10));
/// config.validate()?;
/// # Ok::<(), mesa_defense::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RetrainConfig {
    /// Probability with which each image of a batch is stamped; a fraction.
    pub stamp_rate: f64,
    /// Where triggers go whose source has no places of its own ([`TriggerSource::placement`]).
    pub placement: Placement,
    /// How the backdoored network is trained on.
    pub training: TrainingConfig,
}

impl RetrainConfig {
    /// The paper's: every image stamped with probability 0.01, 10 epochs of SGD as in the attack.
    pub fn paper() -> Self {
        Self {
            stamp_rate: 0.01,
            placement: Placement::PerImage,
            training: TrainingConfig::paper(),
        }
    }

    /// Checks the values.
    ///
    /// # Errors
    ///
    /// [`Error::StampRate`], and what [`TrainingConfig::validate`] finds.
    pub fn validate(&self) -> Result<()> {
        if !(0.0..=1.0).contains(&self.stamp_rate) {
            return Err(Error::StampRate(self.stamp_rate));
        }
        Ok(self.training.validate()?)
    }
}

/// Batches of clean images of which each is stamped, with probability `stamp_rate`, with a fresh
/// trigger of its own; labels stay true.
///
/// The images of an epoch, their order, which of them are stamped and where depend on seed and
/// position only, not on the source: methods are compared on the same batches. The last partial
/// batch of an epoch is dropped.
///
/// # Examples
///
/// ```
/// use mesa_datasets::{split, synthetic};
/// use mesa_defense::{DefenseImages, RetrainBatches, RetrainConfig, TriggerSource};
/// use mesa_models::{BatchSource, Position};
///
/// let images = DefenseImages::new(&synthetic(0, 1, 200).test, &split(200, 160, 0)?);
/// let source = TriggerSource::Random { size: (3, 3) };
/// let mut batches = RetrainBatches::new(images, source, &RetrainConfig::paper(), 0)?;
/// assert_eq!(batches.steps_per_epoch(), 1);
/// let (images, _) = batches.batch(Position::default()).unwrap();
/// assert_eq!(images.dims(), [128, 3, 32, 32]);
/// # Ok::<(), mesa_defense::Error>(())
/// ```
#[derive(Debug)]
pub struct RetrainBatches {
    images: DefenseImages,
    pool: ImagePool,
    source: TriggerSource,
    config: RetrainConfig,
    order: EpochOrder,
    choice_seeds: Seeds,
    trigger_seeds: Seeds,
}

impl RetrainBatches {
    /// Batches of the defender's images, stamped with triggers of `source`.
    ///
    /// # Errors
    ///
    /// [`Error::TooFewImages`]; what [`RetrainConfig::validate`] finds.
    pub fn new(
        images: DefenseImages,
        source: TriggerSource,
        config: &RetrainConfig,
        seed: u64,
    ) -> Result<Self> {
        config.validate()?;
        let (held, batch_size) = (images.images().len(), config.training.batch_size);
        if held < batch_size {
            return Err(Error::TooFewImages {
                images: held,
                batch_size,
            });
        }
        let pool = images.images();
        Ok(Self {
            pool: ImagePool::new(pool.shared_pixels(), pool.size())?,
            images,
            source,
            config: config.clone(),
            order: EpochOrder::new(Seeds::new(seed, "retrain/order"), held),
            choice_seeds: Seeds::new(seed, "retrain/choice"),
            trigger_seeds: Seeds::new(seed, "retrain/triggers"),
        })
    }
}

impl Recipes for RetrainBatches {
    fn pool(&self) -> &ImagePool {
        &self.pool
    }

    fn recipe(&mut self, at: Position) -> Result<Recipe, BoxError> {
        let indices = self.order.batch(at, self.config.training.batch_size);
        let images = self.images.images();
        let mut recipe = Recipe::plain(indices, images.labels());
        let Some(size) = self.source.size() else {
            return Ok(recipe);
        };
        let mut rng = self.choice_seeds.at(at);
        let hit = hits(&mut rng, indices.len(), self.config.stamp_rate)?;
        let own = self.source.placement(at.epoch);
        let placement = own.unwrap_or(self.config.placement);
        let places = placement.places(&mut rng, hit.len(), images.size(), size)?;
        let mut rng = self.trigger_seeds.at(at);
        let drawn = self.source.draw(&mut rng, at.epoch, hit.len())?;
        recipe.stamp(&hit, &places, self.source.triggers(drawn, size));
        Ok(recipe)
    }
}

impl BatchSource for RetrainBatches {
    fn steps_per_epoch(&self) -> usize {
        self.images.images().len() / self.config.training.batch_size
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
    use mesa_datasets::{Trigger, split, synthetic};

    use super::*;
    use crate::{Ensemble, fixture};

    fn batches(source: TriggerSource, stamp_rate: f64) -> RetrainBatches {
        let images = DefenseImages::new(&synthetic(0, 1, 50).test, &split(50, 40, 0).unwrap());
        let config = RetrainConfig {
            stamp_rate,
            placement: Placement::PerImage,
            training: TrainingConfig {
                batch_size: 8,
                ..TrainingConfig::paper()
            },
        };
        RetrainBatches::new(images, source, &config, 7).unwrap()
    }

    fn random() -> TriggerSource {
        TriggerSource::Random { size: (3, 3) }
    }

    fn at(epoch: usize, step: usize) -> Position {
        Position { epoch, step }
    }

    fn flat(batches: &mut RetrainBatches, at: Position) -> (Vec<Vec<f32>>, Vec<u32>) {
        let (images, labels) = batches.batch(at).unwrap();
        let images = images.flatten_from(1).unwrap().to_vec2().unwrap();
        (images, labels.to_vec1().unwrap())
    }

    /// Indices of the pixels in which two images differ.
    fn changed(a: &[f32], b: &[f32]) -> Vec<usize> {
        (0..a.len())
            .filter(|at| a[*at].to_bits() != b[*at].to_bits())
            .collect()
    }

    #[test]
    fn stamped_images_keep_their_true_label() {
        let (mut clean, mut stamped) = (batches(TriggerSource::None, 1.0), batches(random(), 1.0));
        for step in 0..5 {
            let (before, truth) = flat(&mut clean, at(0, step));
            let (after, labels) = flat(&mut stamped, at(0, step));
            assert_eq!(labels, truth);
            for (before, after) in before.iter().zip(&after) {
                // A random patch may meet a pixel of its own color, hardly more.
                assert!((24..=27).contains(&changed(before, after).len()));
            }
        }
    }

    #[test]
    fn about_the_stated_share_is_stamped() {
        let (mut clean, mut some) = (batches(TriggerSource::None, 0.3), batches(random(), 0.3));
        let mut hits = 0;
        for epoch in 0..10 {
            for step in 0..5 {
                let (before, _) = flat(&mut clean, at(epoch, step));
                let (after, _) = flat(&mut some, at(epoch, step));
                let pairs = before.iter().zip(&after);
                hits += pairs.filter(|(a, b)| !changed(a, b).is_empty()).count();
            }
        }
        // 400 × 0.3 = 120 ± 9.
        assert!((84..=156).contains(&hits), "{hits}");
    }

    #[test]
    fn every_stamped_image_gets_a_fresh_trigger_at_a_place_of_its_own() {
        let sources = [
            random(),
            TriggerSource::SubModel(fixture::sub_model(0.9, 0)),
        ];
        for source in sources {
            let (mut clean, mut stamped) =
                (batches(TriggerSource::None, 1.0), batches(source, 1.0));
            let (before, _) = flat(&mut clean, at(0, 0));
            let (after, _) = flat(&mut stamped, at(0, 0));
            let (mut patches, mut places) = (Vec::<Vec<usize>>::new(), Vec::<Vec<usize>>::new());
            for (before, after) in before.iter().zip(&after) {
                let at = changed(before, after);
                patches.push(at.iter().map(|at| after[*at].to_bits() as usize).collect());
                places.push(at);
            }
            for list in [&mut places, &mut patches] {
                list.sort_unstable();
                list.dedup();
            }
            assert_eq!(patches.len(), 8);
            assert!(places.len() > 6, "two of eight may share one of 900 places");
        }
    }

    #[test]
    fn a_sub_model_of_one_place_is_stamped_there_when_its_turn_comes() {
        let corner = Placement::Fixed { row: 29, column: 0 };
        let turns = [None, Some(corner)].map(|place| (fixture::sub_model(0.9, 0), place));
        let source = TriggerSource::Turns(Ensemble::placed(turns.into()).unwrap());
        let (mut clean, mut stamped) = (batches(TriggerSource::None, 1.0), batches(source, 1.0));
        let in_corner = |at: usize| at % 1024 / 32 >= 29 && at % 32 < 3;
        for (epoch, expected) in [(0, false), (1, true), (2, false), (3, true)] {
            let (before, _) = flat(&mut clean, at(epoch, 0));
            let (after, _) = flat(&mut stamped, at(epoch, 0));
            let mut pairs = before.iter().zip(&after);
            let all = pairs.all(|(a, b)| changed(a, b).into_iter().all(in_corner));
            assert_eq!(all, expected, "epoch {epoch}");
        }
    }

    #[test]
    fn sources_are_compared_on_the_same_images_and_places() {
        let ideal = TriggerSource::Ideal(Trigger::new(vec![7.0; 27], (3, 3)).unwrap());
        let other = TriggerSource::Ideal(Trigger::new(vec![-7.0; 27], (3, 3)).unwrap());
        let (mut a, mut b) = (batches(ideal, 0.4), batches(other, 0.4));
        for step in 0..5 {
            let ((a, _), (b, _)) = (flat(&mut a, at(3, step)), flat(&mut b, at(3, step)));
            let stamped = |image: &Vec<f32>, value: f32| -> Vec<usize> {
                (0..image.len())
                    .filter(|at| (image[*at] - value).abs() < 0.5)
                    .collect()
            };
            for (a, b) in a.iter().zip(&b) {
                assert_eq!(stamped(a, 7.0), stamped(b, -7.0));
            }
        }
    }

    #[test]
    fn a_batch_depends_on_its_position_alone() {
        let mut from_the_start = batches(random(), 0.5);
        for epoch in 0..2 {
            for step in 0..5 {
                from_the_start.batch(at(epoch, step)).unwrap();
            }
        }
        let resumed = flat(&mut batches(random(), 0.5), at(1, 3));
        assert_eq!(flat(&mut from_the_start, at(1, 3)), resumed);
    }

    #[test]
    fn refuses_rates_that_are_no_fraction_and_less_than_a_batch() {
        for stamp_rate in [-0.1, 1.01, f64::NAN] {
            let config = RetrainConfig {
                stamp_rate,
                ..RetrainConfig::paper()
            };
            assert!(matches!(config.validate(), Err(Error::StampRate(_))));
        }
        let images = DefenseImages::new(&synthetic(0, 1, 50).test, &split(50, 40, 0).unwrap());
        let refused = RetrainBatches::new(images, random(), &RetrainConfig::paper(), 0);
        assert!(matches!(
            refused,
            Err(Error::TooFewImages {
                images: 40,
                batch_size: 128
            })
        ));
    }
}
