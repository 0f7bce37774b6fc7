//! Settings of MESA.

use mesa_models::{AdamConfig, PerceptronConfig, Schedule};
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// Where the hinge at β is taken when a trigger is observed more than once.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Hinge {
    /// On each observation: asks that nearly all of them reach β (the authors' code).
    Image,
    /// On the mean of a trigger's observations: asks that the mean reaches β.
    Mean,
}

/// The widest hidden layer: 2^32 weights.
const WIDEST: usize = 1 << 16;

/// Settings of all sub-models.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MesaConfig {
    /// Thresholds β, one sub-model each, in (0, 1); in the order in which an ensemble takes turns.
    pub betas: Vec<f64>,
    /// Weight α of the entropy, per nat.
    pub alpha: f64,
    /// Length of the generator's noise; a multiple of four.
    pub noise_dim: usize,
    /// Units in each hidden layer of both perceptrons.
    pub network_width: usize,
    /// Channels, height and width of a trigger.
    pub trigger_shape: [usize; 3],
    /// Triggers in a batch.
    pub batch_size: usize,
    /// Passes over the testing function's data.
    pub epochs: usize,
    /// Adam's step length, for both perceptrons.
    pub learning_rate: f64,
    /// Adam's decay rate of the gradient's average.
    pub adam_beta1: f64,
    /// Adam's decay rate of the squared gradient's average.
    pub adam_beta2: f64,
    /// Weight of the newest batch in the moving average that corrects the gradient of `T`.
    pub moving_average_rate: f64,
    /// Standard deviation of the Gaussian noise on triggers, in pixel units, when they are tested.
    pub trigger_noise_std: f64,
    /// Observations of the testing function for each trigger.
    pub images_per_trigger: usize,
    /// Where the hinge is taken.
    pub hinge: Hinge,
    /// Steps of the statistics network after each step of the generator. The authors take one,
    /// and files that do not name it mean one; where the level set is small, more of them keep
    /// the generator from collapsing inside of it, on some and not on others (see the known answer in the
    /// documentation).
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub statistics_steps: usize,
}

fn one() -> usize {
    1
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_one(steps: &usize) -> bool {
    *steps == 1
}

impl MesaConfig {
    /// The paper's settings for CIFAR-10: 3×3 color triggers, β = 0.9, 0.8 and 0.5.
    pub fn paper() -> Self {
        let (sizes, adam) = (PerceptronConfig::paper(), AdamConfig::paper());
        Self {
            betas: vec![0.9, 0.8, 0.5],
            alpha: 0.1,
            noise_dim: sizes.noise_dim,
            network_width: sizes.network_width,
            trigger_shape: sizes.trigger_shape,
            batch_size: 128,
            epochs: 10,
            learning_rate: adam.learning_rate,
            adam_beta1: adam.beta1,
            adam_beta2: adam.beta2,
            moving_average_rate: 0.001,
            trigger_noise_std: 0.1,
            images_per_trigger: 1,
            hinge: Hinge::Image,
            statistics_steps: one(),
        }
    }

    /// Checks that every setting is in its range.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] names the first that is not.
    pub fn validate(&self) -> Result<()> {
        for (i, beta) in self.betas.iter().enumerate() {
            require("beta", *beta, *beta > 0.0 && *beta < 1.0, "between 0 and 1")?;
            let is_new = !self.betas[..i].contains(beta);
            require("betas", *beta, is_new, "there once only")?;
        }
        let finite = |value: f64| value.is_finite() && value >= 0.0;
        require(
            "alpha",
            self.alpha,
            finite(self.alpha),
            "a number of 0 or more",
        )?;
        let width = self.network_width;
        let is_one = (1..=WIDEST).contains(&width);
        require("network_width", width, is_one, "between 1 and 65536")?;
        let shape = format!("{:?}", self.trigger_shape);
        let is_one = self.trigger_shape.iter().all(|side| *side > 0);
        require("trigger_shape", shape, is_one, "of sizes above zero")?;
        let fits = self.sizes().validate().is_ok();
        require(
            "noise_dim",
            self.noise_dim,
            fits,
            "a multiple of four above zero",
        )?;
        // Batch norm in training mode needs two rows.
        require(
            "batch_size",
            self.batch_size,
            self.batch_size >= 2,
            "at least 2",
        )?;
        require("epochs", self.epochs, self.epochs > 0, "at least 1")?;
        let images = self.images_per_trigger;
        require("images_per_trigger", images, images > 0, "at least 1")?;
        let steps = self.statistics_steps;
        require("statistics_steps", steps, steps > 0, "at least 1")?;
        let rate = self.learning_rate;
        require(
            "learning_rate",
            rate,
            rate.is_finite() && rate > 0.0,
            "above 0",
        )?;
        let decay =
            |name, value: f64| require(name, value, (0.0..1.0).contains(&value), "in [0, 1)");
        decay("adam_beta1", self.adam_beta1)?;
        decay("adam_beta2", self.adam_beta2)?;
        let rate = self.moving_average_rate;
        require(
            "moving_average_rate",
            rate,
            rate > 0.0 && rate <= 1.0,
            "in (0, 1]",
        )?;
        let std = self.trigger_noise_std;
        require(
            "trigger_noise_std",
            std,
            finite(std),
            "a number of 0 or more",
        )
    }

    /// The sizes of both perceptrons.
    pub fn sizes(&self) -> PerceptronConfig {
        PerceptronConfig {
            noise_dim: self.noise_dim,
            network_width: self.network_width,
            trigger_shape: self.trigger_shape,
        }
    }

    /// The settings of both optimizers.
    pub fn adam(&self) -> AdamConfig {
        AdamConfig {
            learning_rate: self.learning_rate,
            beta1: self.adam_beta1,
            beta2: self.adam_beta2,
            ..AdamConfig::paper()
        }
    }
}

/// Settings of the entropy measurement after fitting.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EntropyConfig {
    /// Training steps of the fresh statistics network.
    pub steps: usize,
    /// Pairs in a training batch.
    pub batch_size: usize,
    /// Adam's largest step length.
    pub learning_rate: f64,
    /// How it moves. Where it stays as it is, the last steps decide what the bound comes to; where it
    /// goes down to zero, seeds agree. Settings that do not say it are of a time when it stayed.
    #[serde(default = "constant")]
    pub schedule: Schedule,
    /// Pairs of fresh noise on which the bound is evaluated.
    pub held_out: usize,
}

fn constant() -> Schedule {
    Schedule::Constant
}

impl EntropyConfig {
    /// 1,000 steps of 256 pairs, their length going down to zero, evaluated on 16,384.
    pub fn standard() -> Self {
        Self {
            steps: 1000,
            batch_size: 256,
            learning_rate: 1e-3,
            schedule: Schedule::Cosine,
            held_out: 16_384,
        }
    }

    /// Checks that every setting is in its range.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] names the first that is not.
    pub fn validate(&self) -> Result<()> {
        require(
            "batch_size",
            self.batch_size,
            self.batch_size > 0,
            "at least 1",
        )?;
        require("held_out", self.held_out, self.held_out >= 2, "at least 2")?;
        if let Schedule::OneCycle { warmup } = self.schedule {
            let is_share = (0.0..1.0).contains(&warmup);
            require("schedule.warmup", warmup, is_share, "from 0 to below 1")?;
        }
        let rate = self.learning_rate;
        require(
            "learning_rate",
            rate,
            rate.is_finite() && rate > 0.0,
            "above 0",
        )
    }
}

pub(crate) fn require(
    name: &'static str,
    value: impl std::fmt::Display,
    holds: bool,
    expected: &'static str,
) -> Result<()> {
    if holds {
        Ok(())
    } else {
        Err(Error::Config {
            name,
            value: value.to_string(),
            expected,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_papers_settings_are_valid() {
        MesaConfig::paper().validate().unwrap();
        EntropyConfig::standard().validate().unwrap();
    }

    #[test]
    fn no_weight_of_the_entropy_is_a_weight() {
        let without = MesaConfig {
            alpha: 0.0,
            ..MesaConfig::paper()
        };
        without.validate().unwrap();
    }

    #[test]
    fn names_the_setting_that_is_out_of_range() {
        let named = |config: MesaConfig| match config.validate() {
            Err(Error::Config { name, .. }) => name,
            other => panic!("{other:?}"),
        };
        let paper = MesaConfig::paper;
        assert_eq!(
            named(MesaConfig {
                betas: vec![0.5, 1.0],
                ..paper()
            }),
            "beta"
        );
        assert_eq!(
            named(MesaConfig {
                alpha: f64::NAN,
                ..paper()
            }),
            "alpha"
        );
        assert_eq!(
            named(MesaConfig {
                noise_dim: 63,
                ..paper()
            }),
            "noise_dim"
        );
        assert_eq!(
            named(MesaConfig {
                batch_size: 1,
                ..paper()
            }),
            "batch_size"
        );
        assert_eq!(
            named(MesaConfig {
                moving_average_rate: 0.0,
                ..paper()
            }),
            "moving_average_rate"
        );
        assert_eq!(
            named(MesaConfig {
                images_per_trigger: 0,
                ..paper()
            }),
            "images_per_trigger"
        );
        assert_eq!(
            named(MesaConfig {
                statistics_steps: 0,
                ..paper()
            }),
            "statistics_steps"
        );
    }

    #[test]
    fn one_statistics_step_is_what_files_mean_that_name_none() {
        let written = serde_json::to_string(&MesaConfig::paper()).unwrap();
        assert!(!written.contains("statistics_steps"));
        let read: MesaConfig = serde_json::from_str(&written).unwrap();
        assert_eq!(read, MesaConfig::paper());
        let more = MesaConfig {
            statistics_steps: 5,
            ..MesaConfig::paper()
        };
        let written = serde_json::to_string(&more).unwrap();
        assert_eq!(serde_json::from_str::<MesaConfig>(&written).unwrap(), more);
    }
}
