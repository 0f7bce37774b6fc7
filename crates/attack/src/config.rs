//! What an attacker chooses, by default as the paper's does.

use mesa_datasets::Placement;
use mesa_models::TrainingConfig;
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// How a backdoor is planted: fine-tuning on the training images, some of which are stamped and
/// relabelled.
///
/// # Examples
///
/// ```
/// use mesa_attack::AttackConfig;
///
/// let config = AttackConfig::paper();
/// assert_eq!((config.target_class, config.poison_rate), (0, 0.01));
/// assert_eq!(config.training.epochs, 10);
/// config.validate(10)?;
/// # Ok::<(), mesa_attack::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AttackConfig {
    /// The class that stamped images are to be taken for.
    pub target_class: u32,
    /// Probability with which each image of a batch is stamped and relabelled; a fraction.
    pub poison_rate: f64,
    /// Where the trigger goes.
    pub placement: Placement,
    /// How the clean network is fine-tuned.
    pub training: TrainingConfig,
}

impl AttackConfig {
    /// The paper's attack on CIFAR-10: target class 0, every image poisoned with probability
    /// 0.01, 10 epochs of SGD at learning rate 0.001, no augmentation.
    pub fn paper() -> Self {
        Self {
            target_class: 0,
            poison_rate: 0.01,
            placement: Placement::PerImage,
            training: TrainingConfig::paper(),
        }
    }

    /// Checks the values against the classifier's class count.
    ///
    /// # Errors
    ///
    /// [`Error::PoisonRate`], [`Error::TargetClass`], and what [`TrainingConfig::validate`] finds.
    pub fn validate(&self, num_classes: usize) -> Result<()> {
        if !(0.0..=1.0).contains(&self.poison_rate) {
            return Err(Error::PoisonRate(self.poison_rate));
        }
        if self.target_class as usize >= num_classes {
            return Err(Error::TargetClass {
                target_class: self.target_class,
                num_classes,
            });
        }
        Ok(self.training.validate()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_a_class_that_does_not_exist_and_a_rate_that_is_no_fraction() {
        let config = AttackConfig {
            target_class: 10,
            ..AttackConfig::paper()
        };
        assert!(matches!(
            config.validate(10),
            Err(Error::TargetClass {
                target_class: 10,
                num_classes: 10
            })
        ));
        assert!(config.validate(11).is_ok());
        for poison_rate in [-0.1, 1.1, f64::NAN] {
            let config = AttackConfig {
                poison_rate,
                ..AttackConfig::paper()
            };
            assert!(matches!(config.validate(10), Err(Error::PoisonRate(_))));
        }
    }
}
