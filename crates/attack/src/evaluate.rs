//! What a backdoor does and what it costs: clean accuracy, attack success rate, and the share of
//! stamped images that keep their true class.

use mesa_datasets::{Images, Placement, Trigger, all_batches};
use mesa_models::{Classifier, ImagePool, Recipe, Seeds, Triggers};
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// Images per forward pass. With a place for each batch it is how many share one; else no figure depends on
/// it.
const BATCH_SIZE: usize = 250;

/// The trigger that is evaluated, the class it is meant to lead to, and where it is stamped.
#[derive(Clone, Debug)]
pub struct Attacked {
    /// The attacker's trigger.
    pub trigger: Trigger,
    /// The class that stamped images are to be taken for.
    pub target_class: u32,
    /// Where the trigger goes.
    pub placement: Placement,
}

impl Attacked {
    /// Those of some images that a success can be counted on: of other classes than the target.
    ///
    /// # Errors
    ///
    /// [`Error::OnlyTargetClass`] if there are none.
    pub fn others(&self, images: &Images) -> Result<Vec<usize>> {
        let others = images.not_of_class(self.target_class);
        if others.is_empty() {
            return Err(Error::OnlyTargetClass {
                images: images.len(),
                target_class: self.target_class,
            });
        }
        Ok(others)
    }

    fn check_class(&self, classifier: &dyn Classifier) -> Result<()> {
        let (target_class, num_classes) = (self.target_class, classifier.num_classes());
        if (target_class as usize) < num_classes {
            return Ok(());
        }
        Err(Error::TargetClass {
            target_class,
            num_classes,
        })
    }
}

/// What a classifier does on a set of images; all figures are fractions of whole sets, the last
/// partial batch included.
#[derive(Copy, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Evaluation {
    /// Images evaluated.
    pub images: usize,
    /// Share of the unstamped images that are predicted as their true class.
    pub clean_accuracy: f64,
    /// The figures of the stamped images, if there was a trigger.
    pub stamped: Option<StampedEvaluation>,
}

/// What a classifier does on stamped images, all of other classes than the target.
#[derive(Copy, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StampedEvaluation {
    /// Images that do not belong to the target class: only they are stamped and counted.
    pub images: usize,
    /// Attack success rate: the share that is predicted as the target class.
    pub asr: f64,
    /// The share that is predicted as its true class in spite of the trigger.
    pub regained_accuracy: f64,
}

/// Evaluates a classifier on all of `images`, each stamped once at a place of its own (or as
/// [`Attacked::placement`] says).
///
/// ASR = share of the images *not* of the target class that are predicted as the target class
/// once stamped. The places depend on `seed` only, so networks are compared on the same pictures.
///
/// # Errors
///
/// [`Error::NoImages`], [`Error::OnlyTargetClass`], a target class that the classifier does not
/// have, a trigger larger than the images.
///
/// # Examples
///
/// ```
/// use mesa_attack::{Attacked, evaluate};
/// use mesa_datasets::{Placement, Trigger, synthetic};
/// use mesa_models::{Network, Normalization, ResNetConfig, Seeds};
///
/// let images = synthetic(0, 1, 40).test;
/// let config = ResNetConfig::resnet18(4, 10);
/// let mut rng = Seeds::new(0, "weights").start();
/// let network = Network::resnet(config, Normalization::cifar10(), &mut rng)?;
/// let attacked = Attacked {
///     trigger: Trigger::pattern(170)?,
///     target_class: 0,
///     placement: Placement::PerImage,
/// };
/// let evaluation = evaluate(&network.freeze()?, &images, Some(&attacked), 0)?;
/// let stamped = evaluation.stamped.expect("there was a trigger");
/// assert!(stamped.asr + stamped.regained_accuracy <= 1.0);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn evaluate(
    classifier: &dyn Classifier,
    images: &Images,
    attacked: Option<&Attacked>,
    seed: u64,
) -> Result<Evaluation> {
    if let Some(attacked) = attacked {
        attacked.check_class(classifier)?;
    }
    evaluate_with(
        &mut |pool, recipe| Ok(classifier.classes(pool, recipe)?),
        images,
        attacked,
        seed,
    )
}

/// What [`evaluate`] finds on stamped images, without a pass over the clean ones.
///
/// # Errors
///
/// As for [`evaluate`].
pub fn evaluate_stamped(
    classifier: &dyn Classifier,
    images: &Images,
    attacked: &Attacked,
    seed: u64,
) -> Result<StampedEvaluation> {
    attacked.check_class(classifier)?;
    let pool = ImagePool::new(images.shared_pixels(), images.size())?;
    stamped_with(
        &mut |pool, recipe| Ok(classifier.classes(pool, recipe)?),
        (images, &pool),
        attacked,
        seed,
    )
}

/// The class of each image of a batch.
type Predict<'a> = &'a mut dyn FnMut(&ImagePool, &Recipe) -> Result<Vec<u32>>;

fn evaluate_with(
    predict: Predict<'_>,
    images: &Images,
    attacked: Option<&Attacked>,
    seed: u64,
) -> Result<Evaluation> {
    let all: Vec<usize> = (0..images.len()).collect();
    if all.is_empty() {
        return Err(Error::NoImages);
    }
    let pool = ImagePool::new(images.shared_pixels(), images.size())?;
    let mut right = 0;
    for indices in all_batches(&all, BATCH_SIZE) {
        let recipe = Recipe::plain(indices, images.labels());
        right += agreement(&predict(&pool, &recipe)?, &recipe);
    }
    Ok(Evaluation {
        images: all.len(),
        clean_accuracy: right as f64 / all.len() as f64,
        stamped: attacked
            .map(|attacked| stamped_with(predict, (images, &pool), attacked, seed))
            .transpose()?,
    })
}

fn stamped_with(
    predict: Predict<'_>,
    (images, pool): (&Images, &ImagePool),
    attacked: &Attacked,
    seed: u64,
) -> Result<StampedEvaluation> {
    let target_class = attacked.target_class;
    let others = attacked.others(images)?;
    let mut rng = Seeds::new(seed, "evaluation/places").start();
    let trigger = &attacked.trigger;
    let (mut fooled, mut regained) = (0, 0);
    for indices in all_batches(&others, BATCH_SIZE) {
        let placement = attacked.placement;
        let places = placement.places(&mut rng, indices.len(), images.size(), trigger.size())?;
        let mut recipe = Recipe::plain(indices, images.labels());
        let every: Vec<usize> = (0..indices.len()).collect();
        recipe.stamp(&every, &places, triggers(trigger));
        let predicted = predict(pool, &recipe)?;
        fooled += predicted
            .iter()
            .filter(|class| **class == target_class)
            .count();
        regained += agreement(&predicted, &recipe);
    }
    Ok(StampedEvaluation {
        images: others.len(),
        asr: fooled as f64 / others.len() as f64,
        regained_accuracy: regained as f64 / others.len() as f64,
    })
}

/// The attacker's trigger, with its mask and its opacity.
pub(crate) fn triggers(trigger: &Trigger) -> Triggers {
    Triggers {
        pixels: trigger.pixels().to_vec(),
        size: trigger.size(),
        mask: trigger.mask().map(<[bool]>::to_vec),
        opacity: trigger.opacity(),
    }
}

/// How many images are predicted as their true class.
fn agreement(predicted: &[u32], recipe: &Recipe) -> usize {
    let pairs = predicted.iter().zip(recipe.labels());
    pairs.filter(|(class, truth)| *class == truth).count()
}

#[cfg(test)]
mod tests {
    use candle::Tensor;
    use mesa_datasets::synthetic;

    use super::*;

    fn attacked() -> Attacked {
        Attacked {
            trigger: Trigger::pattern(170).unwrap(),
            target_class: 0,
            placement: Placement::Fixed { row: 0, column: 0 },
        }
    }

    /// Sees the first row of pattern 170 in the corner as class 0, everything else as class 1.
    fn corner(pixels: &Tensor) -> Result<Vec<u32>> {
        let row = pixels.narrow(1, 0, 1)?.narrow(2, 0, 1)?.narrow(3, 0, 3)?;
        let rows = row.flatten_from(1)?.to_vec2::<f32>()?;
        Ok(rows
            .iter()
            .map(|row| u32::from(row != &[0.0, 1.0, 0.0]))
            .collect())
    }

    #[test]
    fn success_leaves_out_the_target_class_and_no_image_is_dropped() {
        // 301 images: neither a multiple of the batch nor of anything else.
        let images = synthetic(0, 1, 301).test;
        let of_class = |class| images.len() - images.not_of_class(class).len();
        let mut seen = 0;
        let mut predict = |pool: &ImagePool, recipe: &Recipe| {
            seen += recipe.plans.len();
            corner(&pool.batch(recipe)?.0)
        };
        let evaluation = evaluate_with(&mut predict, &images, Some(&attacked()), 0).unwrap();
        let stamped = evaluation.stamped.unwrap();
        assert_eq!(evaluation.images, 301);
        assert_eq!(stamped.images, 301 - of_class(0));
        assert_eq!(seen, 301 + stamped.images);
        assert_eq!((stamped.asr, stamped.regained_accuracy), (1.0, 0.0));
        assert!((evaluation.clean_accuracy - of_class(1) as f64 / 301.0).abs() < 1e-12);
    }

    #[test]
    fn a_classifier_that_ignores_the_trigger_regains_what_it_knew() {
        let images = synthetic(0, 1, 50).test;
        let ones = (images.len() - images.not_of_class(1).len()) as f64;
        let mut predict = |_: &ImagePool, recipe: &Recipe| Ok(vec![1; recipe.plans.len()]);
        let evaluation = evaluate_with(&mut predict, &images, Some(&attacked()), 0).unwrap();
        let stamped = evaluation.stamped.unwrap();
        let share = ones / stamped.images as f64;
        assert!(ones > 0.0);
        assert_eq!((stamped.asr, stamped.regained_accuracy), (0.0, share));
    }

    #[test]
    fn refuses_images_of_the_target_class_alone() {
        let images = synthetic(0, 1, 50).test;
        let zeros: Vec<usize> = (0..50).filter(|i| images.labels()[*i] == 0).collect();
        let mut predict = |_: &ImagePool, recipe: &Recipe| Ok(vec![1; recipe.plans.len()]);
        let result = evaluate_with(&mut predict, &images.select(&zeros), Some(&attacked()), 0);
        assert!(matches!(result, Err(Error::OnlyTargetClass { .. })));
        let result = evaluate_with(&mut predict, &images.select(&[]), None, 0);
        assert!(matches!(result, Err(Error::NoImages)));
    }
}
