//! Settings of a training run: how long, how fast, and how the learning rate moves.

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// How the learning rate moves over a run.
#[derive(Copy, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Schedule {
    /// Stays as it is.
    Constant,
    /// Half a cosine, down to zero.
    Cosine,
    /// Rises linearly over the share `warmup` of the steps, then half a cosine down to zero.
    OneCycle {
        /// Share of the steps that rise.
        warmup: f64,
    },
}

impl Schedule {
    /// What the largest learning rate is multiplied by in step `step` of `total`, counted from 0.
    ///
    /// # Examples
    ///
    /// ```
    /// use mesa_models::Schedule;
    ///
    /// assert_eq!(Schedule::Constant.factor(7, 10), 1.0);
    /// assert!(Schedule::Cosine.factor(0, 10) > 0.99);
    /// assert!(Schedule::Cosine.factor(9, 10) < 0.01);
    /// ```
    pub fn factor(&self, step: usize, total: usize) -> f64 {
        let cosine = |t: f64| 0.5 * (1.0 + (std::f64::consts::PI * t).cos());
        let done = (step as f64 + 0.5) / total as f64;
        match *self {
            Self::Constant => 1.0,
            Self::Cosine => cosine(done),
            Self::OneCycle { warmup } if done < warmup => done / warmup,
            Self::OneCycle { warmup } => cosine((done - warmup) / (1.0 - warmup)),
        }
    }
}

/// Hyper-parameters of a training run with SGD.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainingConfig {
    /// Passes over the data.
    pub epochs: usize,
    /// Images in a batch.
    pub batch_size: usize,
    /// Largest learning rate of the schedule.
    pub learning_rate: f64,
    /// Share of the velocity that is kept from step to step.
    pub momentum: f64,
    /// L2 penalty on all weights.
    pub weight_decay: f64,
    /// Share of the label that is spread over all classes.
    pub label_smoothing: f64,
    /// How the learning rate moves.
    pub schedule: Schedule,
}

impl TrainingConfig {
    /// The paper's settings, of attack and defense alike: 10 epochs of batches of 128, learning
    /// rate 0.001, momentum 0.9, nothing else.
    pub fn paper() -> Self {
        Self {
            epochs: 10,
            batch_size: 128,
            learning_rate: 1e-3,
            momentum: 0.9,
            weight_decay: 0.0,
            label_smoothing: 0.0,
            schedule: Schedule::Constant,
        }
    }

    /// Checks that every field makes sense.
    ///
    /// # Errors
    ///
    /// [`Error::TrainingConfig`] names the first field that does not.
    pub fn validate(&self) -> Result<()> {
        let wrong = |field, expected, found: String| {
            Err(Error::TrainingConfig {
                field,
                expected,
                found,
            })
        };
        if self.epochs == 0 {
            return wrong("epochs", "at least 1", self.epochs.to_string());
        }
        if self.batch_size < 2 {
            return wrong(
                "batch_size",
                "at least 2, for batch norm",
                self.batch_size.to_string(),
            );
        }
        if !(self.learning_rate > 0.0 && self.learning_rate.is_finite()) {
            return wrong("learning_rate", "above 0", self.learning_rate.to_string());
        }
        if !(0.0..1.0).contains(&self.momentum) {
            return wrong("momentum", "from 0 to below 1", self.momentum.to_string());
        }
        if !(0.0..1.0).contains(&self.weight_decay) {
            return wrong(
                "weight_decay",
                "from 0 to below 1",
                self.weight_decay.to_string(),
            );
        }
        if !(0.0..1.0).contains(&self.label_smoothing) {
            return wrong(
                "label_smoothing",
                "from 0 to below 1",
                self.label_smoothing.to_string(),
            );
        }
        match self.schedule {
            Schedule::OneCycle { warmup } if !(0.0..1.0).contains(&warmup) => {
                wrong("schedule.warmup", "from 0 to below 1", warmup.to_string())
            }
            _ => Ok(()),
        }
    }

    /// The learning rate of step `step` of `total`.
    pub(crate) fn learning_rate_at(&self, step: usize, total: usize) -> f64 {
        self.learning_rate * self.schedule.factor(step, total)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_cycle_rises_in_a_line_and_falls_along_a_cosine() {
        let schedule = Schedule::OneCycle { warmup: 0.25 };
        let factors: Vec<f64> = (0..8).map(|step| schedule.factor(step, 8)).collect();
        // Two steps rise to the middle of each; then the cosine of what is left, from its start.
        let falls = |sixths: f64| 0.5 * (1.0 + (std::f64::consts::PI * sixths / 6.0).cos());
        let expected = [0.25, 0.75]
            .into_iter()
            .chain((0..6).map(|step| falls(f64::from(step) + 0.5)));
        for (step, (found, expected)) in factors.iter().zip(expected).enumerate() {
            assert!(
                (found - expected).abs() < 1e-12,
                "step {step}: {found}, not {expected}"
            );
        }
    }

    #[test]
    fn settings_that_make_no_sense_are_named() {
        type Change = fn(&mut TrainingConfig);
        let wrong: [(&str, Change); 9] = [
            ("epochs", |config| config.epochs = 0),
            ("batch_size", |config| config.batch_size = 1),
            ("learning_rate", |config| config.learning_rate = 0.0),
            ("learning_rate", |config| {
                config.learning_rate = f64::INFINITY;
            }),
            ("momentum", |config| config.momentum = 1.0),
            ("weight_decay", |config| config.weight_decay = -0.1),
            ("label_smoothing", |config| config.label_smoothing = 1.0),
            ("schedule.warmup", |config| {
                config.schedule = Schedule::OneCycle { warmup: 1.0 };
            }),
            ("schedule.warmup", |config| {
                config.schedule = Schedule::OneCycle { warmup: f64::NAN };
            }),
        ];
        assert!(TrainingConfig::paper().validate().is_ok());
        for (expected, change) in wrong {
            let mut config = TrainingConfig::paper();
            change(&mut config);
            let refused = config.validate();
            assert!(
                matches!(refused, Err(Error::TrainingConfig { field, .. }) if field == expected),
                "{expected}: {refused:?}"
            );
        }
    }
}
