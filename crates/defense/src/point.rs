//! The baseline: one trigger reversed by gradient descent on its pixels.

use mesa_datasets::{CHANNELS, Placement, Trigger};
use mesa_models::{Classifier, EpochOrder, Position, Seeds, TargetGradient};
use rand::Rng;
use serde::{Deserialize, Serialize};

use crate::attack_success::{check_target, pool_of, stamp_each};
use crate::{DefenseImages, Error, Result};

/// How one trigger is reversed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PointConfig {
    /// Passes; pixels are clipped to [0, 1] after each.
    pub passes: usize,
    /// Batches in a pass.
    pub batches_per_pass: usize,
    /// Images in a batch.
    pub batch_size: usize,
    /// Learning rate, for pixels as the network sees them: normalized.
    pub learning_rate: f64,
    /// Momentum.
    pub momentum: f64,
    /// Where the trigger goes.
    pub placement: Placement,
}

impl PointConfig {
    /// The authors' notebook: 5 passes of 11 batches of 100 images, rate 0.1, momentum 0.9, one
    /// place for each batch.
    pub fn paper() -> Self {
        Self {
            passes: 5,
            batches_per_pass: 11,
            batch_size: 100,
            learning_rate: 0.1,
            momentum: 0.9,
            placement: Placement::PerBatch,
        }
    }

    /// Images that a search looks at, repetitions counted.
    pub fn images(&self) -> usize {
        self.passes * self.batches_per_pass * self.batch_size
    }

    /// Checks the values.
    ///
    /// # Errors
    ///
    /// [`Error::Setting`] names the field.
    pub fn validate(&self) -> Result<()> {
        let wrong = |field, value: f64, must_be| {
            Err(Error::Setting {
                field,
                value,
                must_be,
            })
        };
        for (field, count) in [
            ("passes", self.passes),
            ("batches_per_pass", self.batches_per_pass),
            ("batch_size", self.batch_size),
        ] {
            if count == 0 {
                return wrong(field, 0.0, "at least 1");
            }
        }
        if !(self.learning_rate > 0.0 && self.learning_rate.is_finite()) {
            return wrong("learning_rate", self.learning_rate, "above 0 and finite");
        }
        if !(0.0..1.0).contains(&self.momentum) {
            return wrong("momentum", self.momentum, "at least 0 and below 1");
        }
        Ok(())
    }
}

/// A trigger that was reversed. Only [`reverse_trigger`] makes one: whatever is built on it has
/// not seen the attacker's.
#[derive(Clone, Debug, PartialEq)]
pub struct ReversedTrigger {
    trigger: Trigger,
    mean_probabilities: Vec<f64>,
}

impl ReversedTrigger {
    /// The trigger.
    pub fn trigger(&self) -> &Trigger {
        &self.trigger
    }

    /// Mean probability of the target class over the images of each pass, as they were seen.
    pub fn mean_probabilities(&self) -> &[f64] {
        &self.mean_probabilities
    }
}

/// Reverses one trigger: descends the mean cross-entropy to `target_class` of clean images, all
/// classes included, that are stamped with it.
///
/// Starts from uniform pixels, steps on the pixels as the network sees them
/// (`u = (x − mean) / std`, so that `∂L/∂u = std · ∂L/∂x`), and keeps the last iterate. Of the
/// attacker's trigger nothing is known but its size. Each seed is an independent repeat.
///
/// # Errors
///
/// [`Error::Setting`], [`Error::TargetClass`]; [`Error::TooFewImages`] if the images do not fill a
/// pass.
///
/// # Examples
///
/// ```
/// use mesa_datasets::{split, synthetic};
/// use mesa_defense::{DefenseImages, PointConfig, reverse_trigger};
/// use mesa_models::{Network, Normalization, ResNetConfig, Seeds};
///
/// let config = ResNetConfig::resnet18(4, 10);
/// let mut rng = Seeds::new(0, "weights").start();
/// let suspect = Network::resnet(config, Normalization::cifar10(), &mut rng)?.freeze()?;
/// let images = DefenseImages::new(&synthetic(0, 1, 50).test, &split(50, 40, 0)?);
/// let config = PointConfig { batches_per_pass: 2, batch_size: 20, ..PointConfig::paper() };
///
/// let found = reverse_trigger(&suspect, &images, &config, (3, 3), 0, 0)?;
/// assert_eq!(found.trigger().size(), (3, 3));
/// assert_eq!(found.mean_probabilities().len(), 5);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn reverse_trigger(
    classifier: &dyn Classifier,
    images: &DefenseImages,
    config: &PointConfig,
    size: (usize, usize),
    target_class: u32,
    seed: u64,
) -> Result<ReversedTrigger> {
    config.validate()?;
    check_target(classifier, target_class)?;
    let (held, seen) = (
        images.images().len(),
        config.batches_per_pass * config.batch_size,
    );
    if held < seen {
        return Err(Error::TooFewImages {
            images: held,
            batch_size: seen,
        });
    }
    let mut rng = Seeds::new(seed, "point/start").start();
    let mut pixels: Vec<f32> = (0..CHANNELS * size.0 * size.1)
        .map(|_| rng.random())
        .collect();
    let mut velocity = vec![0.0; pixels.len()];
    let mut order = EpochOrder::new(Seeds::new(seed, "point/order"), held);
    let place_seeds = Seeds::new(seed, "point/places");
    let std = classifier.normalization().std;
    let pool = pool_of(images.images())?;
    let mut mean_probabilities = Vec::new();
    for epoch in 0..config.passes {
        let mut sum = 0.0;
        for step in 0..config.batches_per_pass {
            let at = Position { epoch, step };
            let batch = (images.images(), order.batch(at, config.batch_size));
            let mut rng = place_seeds.at(at);
            let recipe = stamp_each(&mut rng, batch, &pixels, size, config.placement)?;
            let wanted = TargetGradient::LogProbability;
            let (probabilities, gradients) =
                classifier.trigger_gradient(&pool, &recipe, target_class, wanted)?;
            sum += probabilities.iter().map(|p| f64::from(*p)).sum::<f64>();
            let ascent: Vec<f32> = gradients.mean(0)?.flatten_all()?.to_vec1()?;
            descend(&mut pixels, &mut velocity, &ascent, std, config);
        }
        for pixel in &mut pixels {
            *pixel = pixel.clamp(0.0, 1.0);
        }
        mean_probabilities.push(sum / seen as f64);
    }
    Ok(ReversedTrigger {
        trigger: Trigger::new(pixels, size)?,
        mean_probabilities,
    })
}

/// One step on normalized pixels. `ascent` is `−∂L/∂x`, of plain pixels, channel by channel.
fn descend(
    pixels: &mut [f32],
    velocity: &mut [f32],
    ascent: &[f32],
    std: [f32; CHANNELS],
    config: &PointConfig,
) {
    let (rate, momentum) = (config.learning_rate as f32, config.momentum as f32);
    let plane = pixels.len() / CHANNELS;
    for (at, pixel) in pixels.iter_mut().enumerate() {
        let std = std[at / plane];
        velocity[at] = momentum * velocity[at] - std * ascent[at];
        *pixel -= std * rate * velocity[at];
    }
}

#[cfg(test)]
mod tests {
    use mesa_datasets::{split, synthetic};

    use super::*;
    use crate::fixture;

    fn images() -> DefenseImages {
        DefenseImages::new(&synthetic(0, 1, 80).test, &split(80, 60, 0).unwrap())
    }

    fn config() -> PointConfig {
        PointConfig {
            passes: 6,
            batches_per_pass: 3,
            batch_size: 20,
            ..PointConfig::paper()
        }
    }

    fn reverse(seed: u64) -> ReversedTrigger {
        let classifier = fixture::classifier();
        reverse_trigger(&classifier, &images(), &config(), (3, 3), 0, seed).unwrap()
    }

    #[test]
    fn the_target_becomes_likelier_with_every_pass() {
        // All images at one place, so that every pass measures the same.
        let config = PointConfig {
            batches_per_pass: 1,
            batch_size: 60,
            placement: Placement::Fixed { row: 9, column: 20 },
            // An untrained network hardly looks at a patch.
            learning_rate: 300.0,
            ..config()
        };
        let classifier = fixture::classifier();
        for target in 0..10 {
            let found =
                reverse_trigger(&classifier, &images(), &config, (3, 3), target, 1).unwrap();
            let seen = found.mean_probabilities();
            assert!(
                seen.windows(2).all(|pair| pair[1] > pair[0]),
                "class {target}: {seen:?}"
            );
        }
    }

    #[test]
    fn repeats_differ_and_pixels_are_colors() {
        let (one, other) = (reverse(1), reverse(2));
        assert_ne!(one.trigger(), other.trigger());
        assert_eq!(one, reverse(1));
        assert!(
            one.trigger()
                .pixels()
                .iter()
                .all(|x| (0.0..=1.0).contains(x))
        );
    }

    #[test]
    fn what_leaves_the_range_of_colors_is_clipped_to_it() {
        let config = PointConfig {
            learning_rate: 1e5,
            ..config()
        };
        let classifier = fixture::classifier();
        let found = reverse_trigger(&classifier, &images(), &config, (3, 3), 0, 1).unwrap();
        let pixels = found.trigger().pixels();
        assert!(pixels.iter().all(|x| (0.0..=1.0).contains(x)));
        let at_an_end = pixels.iter().filter(|x| [0.0, 1.0].contains(*x)).count();
        assert!(at_an_end > 0, "{pixels:?}");
    }

    #[test]
    fn a_step_is_one_of_sgd_on_normalized_pixels() {
        // In u = x / std (the mean drops out) the same by the textbook: v ← μ v + ∂L/∂u, u ← u − η v.
        let config = PointConfig {
            learning_rate: 0.5,
            momentum: 0.25,
            ..config()
        };
        let std = [0.5, 2.0, 1.0];
        let (mut pixels, mut velocity) = (vec![1.0, 1.0, 1.0], vec![0.0; 3]);
        let (mut u, mut v) = ([2.0_f32, 0.5, 1.0], [0.0_f32; 3]);
        for ascent in [[1.0, -2.0, 4.0], [0.5, 0.0, -1.0]] {
            descend(&mut pixels, &mut velocity, &ascent, std, &config);
            for at in 0..3 {
                v[at] = 0.25 * v[at] - std[at] * ascent[at];
                u[at] -= 0.5 * v[at];
                assert!((pixels[at] - std[at] * u[at]).abs() < 1e-6);
            }
        }
    }

    #[test]
    fn refuses_settings_that_reverse_nothing() {
        let few = PointConfig {
            batch_size: 21,
            ..config()
        };
        let classifier = fixture::classifier();
        let refused = reverse_trigger(&classifier, &images(), &few, (3, 3), 0, 0);
        assert!(matches!(
            refused,
            Err(Error::TooFewImages {
                images: 60,
                batch_size: 63
            })
        ));
        let passes = PointConfig {
            passes: 0,
            ..config()
        };
        let learning_rate = PointConfig {
            learning_rate: 0.0,
            ..config()
        };
        let momentum = PointConfig {
            momentum: 1.0,
            ..config()
        };
        for (config, expected) in [
            (passes, "passes"),
            (learning_rate, "learning_rate"),
            (momentum, "momentum"),
        ] {
            let refused = config.validate();
            assert!(matches!(refused, Err(Error::Setting { field, .. }) if field == expected));
        }
    }
}
