//! The testing function of a suspected backdoor: how surely a trigger turns clean images into
//! the target class.

use candle::{Device, Tensor};
use mesa::{Observations, TestingFunction};
use mesa_datasets::{CHANNELS, Images, Place, Placement};
use mesa_models::{
    BoxError, Classifier, EpochOrder, ImagePool, Position, Recipe, Seeds, TargetGradient, Triggers,
};
use rand::Rng;
use serde::{Deserialize, Serialize};

use crate::{DefenseImages, Error, Result};

/// How triggers are tested on a classifier.
#[derive(Copy, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AttackSuccessConfig {
    /// The class that is suspected to be attacked.
    pub target_class: u32,
    /// Height and width of a trigger in pixels.
    pub trigger_size: (usize, usize),
    /// Images that each trigger is stamped on.
    pub images_per_trigger: usize,
    /// Where the triggers go.
    pub placement: Placement,
}

impl AttackSuccessConfig {
    /// The paper's: 3×3 triggers, each on one image, target class 0, a place for each image.
    pub fn paper() -> Self {
        Self {
            target_class: 0,
            trigger_size: (3, 3),
            images_per_trigger: 1,
            placement: Placement::PerImage,
        }
    }
}

/// `F(x)`: the softmax probability of the target class on clean images stamped with `x`.
///
/// An epoch walks through the images without replacement, in an order of its own, and the last
/// partial batch is dropped. Trigger `b` of step `s` meets image `s · B + b` of that order and,
/// with `m` images for each trigger, those at distances `len / m`, `2 len / m`, … from it: `m`
/// interleaved walks, each through all images, and `m` different images for each trigger.
/// Images of the target class are included. The classifier is frozen and runs in evaluation
/// mode; of the attacker's trigger nothing is known but its size.
///
/// # Examples
///
/// ```
/// use candle::{DType, Device, Tensor};
/// use mesa::TestingFunction;
/// use mesa_datasets::{split, synthetic};
/// use mesa_defense::{AttackSuccess, AttackSuccessConfig, DefenseImages};
/// use mesa_models::{Network, Normalization, Position, ResNetConfig, Seeds};
///
/// let config = ResNetConfig::resnet18(4, 10);
/// let mut rng = Seeds::new(0, "weights").start();
/// let suspect = Network::resnet(config, Normalization::cifar10(), &mut rng)?.freeze()?;
/// let images = DefenseImages::new(&synthetic(0, 1, 50).test, &split(50, 40, 0)?);
/// let mut success = AttackSuccess::new(suspect, images, AttackSuccessConfig::paper(), 0)?;
///
/// assert_eq!(success.steps_per_epoch(8), 5);
/// let triggers = Tensor::zeros((8, 3, 3, 3), DType::F32, &Device::Cpu)?;
/// let seen = success.observe(&triggers, 0.9, Position::default())?;
/// assert_eq!(seen.values.dims(), [8, 1]);
/// assert_eq!(seen.gradients.dims(), [8, 1, 3, 3, 3]);
/// # Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
/// ```
#[derive(Debug)]
pub struct AttackSuccess {
    classifier: Box<dyn Classifier>,
    images: DefenseImages,
    pool: ImagePool,
    config: AttackSuccessConfig,
    order: EpochOrder,
    place_seeds: Seeds,
}

impl AttackSuccess {
    /// The testing function of `classifier` on clean images.
    ///
    /// # Errors
    ///
    /// [`Error::TargetClass`], [`Error::ImagesPerTrigger`].
    pub fn new(
        classifier: impl Classifier + 'static,
        images: DefenseImages,
        config: AttackSuccessConfig,
        seed: u64,
    ) -> Result<Self> {
        check_target(&classifier, config.target_class)?;
        let (count, held) = (config.images_per_trigger, images.images().len());
        if count == 0 || count > held {
            return Err(Error::ImagesPerTrigger {
                images_per_trigger: count,
                images: held,
            });
        }
        Ok(Self {
            classifier: Box::new(classifier),
            pool: pool_of(images.images())?,
            order: EpochOrder::new(Seeds::new(seed, "mesa/order"), held),
            place_seeds: Seeds::new(seed, "mesa/places"),
            images,
            config,
        })
    }

    /// The images that trigger `trigger` of a step meets first, second, … are `walk(0)[trigger]`,
    /// `walk(1)[trigger]`, …
    fn walk(&mut self, at: Position, batch_size: usize, walk: usize) -> Vec<usize> {
        let order = self.order.of_epoch(at.epoch);
        let offset = walk * (order.len() / self.config.images_per_trigger);
        (0..batch_size)
            .map(|trigger| order[(at.step * batch_size + trigger + offset) % order.len()])
            .collect()
    }

    /// The probabilities and gradients of one walk's images.
    fn test(
        &mut self,
        indices: &[usize],
        patches: &[f32],
        below: f32,
        rng: &mut impl Rng,
    ) -> Result<(Vec<f32>, Tensor)> {
        let (images, size) = (self.images.images(), self.config.trigger_size);
        let recipe = stamp_each(rng, (images, indices), patches, size, self.config.placement)?;
        Ok(self.classifier.trigger_gradient(
            &self.pool,
            &recipe,
            self.config.target_class,
            TargetGradient::Probability(below),
        )?)
    }
}

impl TestingFunction for AttackSuccess {
    fn trigger_shape(&self) -> [usize; 3] {
        let (height, width) = self.config.trigger_size;
        [CHANNELS, height, width]
    }

    fn steps_per_epoch(&self, batch_size: usize) -> usize {
        self.images.images().len() / batch_size
    }

    fn observe(
        &mut self,
        triggers: &Tensor,
        below: f64,
        at: Position,
    ) -> Result<Observations, BoxError> {
        let batch_size = triggers.dim(0)?;
        let patches = triggers.flatten_all()?.to_vec1::<f32>()?;
        let mut rng = self.place_seeds.at(at);
        let (mut values, mut gradients) = (Vec::new(), Vec::new());
        for walk in 0..self.config.images_per_trigger {
            let indices = self.walk(at, batch_size, walk);
            let (probability, gradient) =
                self.test(&indices, &patches, round_up(below), &mut rng)?;
            values.push(Tensor::from_vec(probability, batch_size, &Device::Cpu)?);
            gradients.push(gradient);
        }
        Ok(Observations {
            values: Tensor::stack(&values, 1)?,
            gradients: Tensor::stack(&gradients, 1)?,
        })
    }
}

/// The smallest f32 that is no less: a probability below `below` is below this, too.
fn round_up(below: f64) -> f32 {
    let rounded = below as f32;
    if f64::from(rounded) < below {
        rounded.next_up()
    } else {
        rounded
    }
}

/// Images of these indices, image `i` of them stamped with patch `i` of `patches`.
pub(crate) fn stamp_each(
    rng: &mut impl Rng,
    (images, indices): (&Images, &[usize]),
    patches: &[f32],
    size: (usize, usize),
    placement: Placement,
) -> Result<Recipe> {
    let places = placement.places(rng, indices.len(), images.size(), size)?;
    Ok(stamp_at(&places, (images, indices), patches, size))
}

/// Images, each stamped with a patch of its own at a place of its own.
pub(crate) fn stamp_at(
    places: &[Place],
    (images, indices): (&Images, &[usize]),
    patches: &[f32],
    size: (usize, usize),
) -> Recipe {
    let mut recipe = Recipe::plain(indices, images.labels());
    let every: Vec<usize> = (0..indices.len()).collect();
    recipe.stamp(&every, places, Triggers::opaque(patches.to_vec(), size));
    recipe
}

/// Images for recipes.
pub(crate) fn pool_of(images: &Images) -> Result<ImagePool> {
    Ok(ImagePool::new(images.shared_pixels(), images.size())?)
}

pub(crate) fn check_target(classifier: &dyn Classifier, target_class: u32) -> Result<()> {
    let num_classes = classifier.num_classes();
    if target_class as usize >= num_classes {
        return Err(Error::TargetClass {
            target_class,
            num_classes,
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use mesa_datasets::{split, synthetic};

    use super::*;
    use crate::fixture;

    fn success(images_per_trigger: usize) -> AttackSuccess {
        let test = synthetic(0, 1, 60).test;
        let images = DefenseImages::new(&test, &split(60, 50, 0).unwrap());
        let config = AttackSuccessConfig {
            images_per_trigger,
            ..AttackSuccessConfig::paper()
        };
        AttackSuccess::new(fixture::classifier(), images, config, 3).unwrap()
    }

    fn at(epoch: usize, step: usize) -> Position {
        Position { epoch, step }
    }

    #[test]
    fn an_epoch_visits_no_image_twice_and_another_epoch_in_another_order() {
        let mut success = success(1);
        assert_eq!(success.steps_per_epoch(8), 6);
        let mut epoch = |epoch| -> Vec<usize> {
            (0..6)
                .flat_map(|step| success.walk(at(epoch, step), 8, 0))
                .collect()
        };
        let (first, second) = (epoch(0), epoch(1));
        assert_ne!(first, second);
        let mut visited = first;
        visited.sort_unstable();
        visited.dedup();
        assert_eq!(visited.len(), 48);
    }

    #[test]
    fn every_image_of_a_trigger_is_another_one() {
        let mut success = success(3);
        for step in 0..6 {
            let walks: Vec<_> = (0..3)
                .map(|walk| success.walk(at(2, step), 8, walk))
                .collect();
            for trigger in 0..8 {
                let mut met: Vec<_> = walks.iter().map(|walk| walk[trigger]).collect();
                met.sort_unstable();
                met.dedup();
                assert_eq!(met.len(), 3);
            }
        }
    }

    #[test]
    fn observations_are_probabilities_with_the_slope_that_finite_differences_find() {
        let mut success = success(2);
        let flat = fixture::patches(4);
        let mut observe = |flat: Vec<f32>| {
            let triggers = Tensor::from_vec(flat, (4, 3, 3, 3), &Device::Cpu).unwrap();
            success.observe(&triggers, 2.0, at(1, 2)).unwrap()
        };
        let seen = observe(flat.clone());
        assert_eq!(seen.values.dims(), [4, 2]);
        assert_eq!(seen.gradients.dims(), [4, 2, 3, 3, 3]);
        let gradients = seen
            .gradients
            .flatten_all()
            .unwrap()
            .to_vec1::<f32>()
            .unwrap();
        // Trigger 1, image 1, the pixel of the largest slope.
        let block = &gradients[(2 + 1) * 27..][..27];
        let pixel = (0..27)
            .max_by(|a, b| block[*a].abs().total_cmp(&block[*b].abs()))
            .unwrap();
        let mut moved = |by: f32| {
            let mut flat = flat.clone();
            flat[27 + pixel] += by;
            observe(flat).values.to_vec2::<f32>().unwrap()[1][1]
        };
        let numeric = (moved(1e-2) - moved(-1e-2)) / 2e-2;
        assert!((numeric - block[pixel]).abs() < 0.02 * block[pixel].abs() + 1e-5);
    }

    #[test]
    fn values_are_probabilities_of_the_target_on_images_stamped_by_hand() {
        let (row, column, target_class) = (4, 7, 3);
        let config = AttackSuccessConfig {
            target_class,
            placement: Placement::Fixed { row, column },
            ..AttackSuccessConfig::paper()
        };
        let mut success = AttackSuccess {
            config,
            ..success(1)
        };
        let patches = fixture::patches(4);
        let triggers = Tensor::from_vec(patches.clone(), (4, 3, 3, 3), &Device::Cpu).unwrap();
        let seen = success.observe(&triggers, 2.0, at(1, 2)).unwrap();
        let met = success.walk(at(1, 2), 4, 0);
        let mut batch = success.images.images().batch(&met);
        for (image, patch) in patches.chunks(27).enumerate() {
            for (index, value) in patch.iter().enumerate() {
                let (color, y, x) = (index / 9, index / 3 % 3, index % 3);
                batch.image_mut(image)[color * 1024 + (row + y) * 32 + column + x] = *value;
            }
        }
        let (images, _) = batch.into_tensors(&Device::Cpu).unwrap();
        let classifier = fixture::classifier();
        let expected = classifier
            .target_probability(&images, target_class)
            .unwrap();
        let found = seen.values.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        for (found, expected) in found.iter().zip(&expected) {
            assert!((found - expected).abs() < 1e-6, "{found} {expected}");
        }
    }

    #[test]
    fn no_gradient_where_the_threshold_is_reached() {
        let mut success = success(1);
        let triggers = Tensor::from_vec(fixture::patches(8), (8, 3, 3, 3), &Device::Cpu).unwrap();
        let below = {
            let all = success.observe(&triggers, 2.0, at(0, 0)).unwrap();
            let mut values = all.values.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            values.sort_by(f32::total_cmp);
            f64::from(values[4])
        };
        let seen = success.observe(&triggers, below, at(0, 0)).unwrap();
        let values = seen.values.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let gradients = seen
            .gradients
            .reshape((8, 27))
            .unwrap()
            .to_vec2::<f32>()
            .unwrap();
        let moved = |gradient: &Vec<f32>| gradient.iter().any(|g| *g != 0.0);
        assert_eq!(
            values
                .iter()
                .filter(|value| f64::from(**value) < below)
                .count(),
            4
        );
        for (value, gradient) in values.iter().zip(&gradients) {
            assert_eq!(f64::from(*value) < below, moved(gradient));
        }
    }

    #[test]
    fn refuses_what_cannot_be_tested() {
        let classifier = fixture::classifier();
        let test = synthetic(0, 1, 60).test;
        let images = DefenseImages::new(&test, &split(60, 50, 0).unwrap());
        let paper = AttackSuccessConfig::paper();
        let config = AttackSuccessConfig {
            target_class: 10,
            ..paper
        };
        let refused = AttackSuccess::new(classifier.clone(), images.clone(), config, 0);
        assert!(matches!(refused, Err(Error::TargetClass { .. })));
        for images_per_trigger in [0, 51] {
            let config = AttackSuccessConfig {
                images_per_trigger,
                ..paper
            };
            let refused = AttackSuccess::new(classifier.clone(), images.clone(), config, 0);
            assert!(matches!(refused, Err(Error::ImagesPerTrigger { .. })));
        }
    }
}
