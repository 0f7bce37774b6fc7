//! What can go wrong in this crate.

use crate::BoxError;

/// A result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong in this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A tensor operation failed.
    #[error(transparent)]
    Tensor(#[from] candle::Error),
    /// A perceptron, its optimizer or a file of theirs failed.
    #[error(transparent)]
    Models(#[from] mesa_models::Error),
    /// The testing function failed.
    #[error("failed to evaluate the testing function")]
    Testing(#[source] BoxError),
    /// The testing function answered with tensors of other shapes than agreed, or with what is no number.
    #[error("the testing function returned {found}, expected {expected}")]
    Observations {
        /// Shapes asked for.
        expected: String,
        /// Shapes returned.
        found: String,
    },
    /// A mean over nothing was asked for.
    #[error("the batch is empty")]
    EmptyBatch,
    /// A setting is out of range.
    #[error("{name} = {value} is not {expected}")]
    Config {
        /// The setting's name.
        name: &'static str,
        /// Its value.
        value: String,
        /// What it must be.
        expected: &'static str,
    },
    /// Training left the range of numbers.
    #[error("training diverged in epoch {epoch}, step {step}: the loss is {loss}")]
    Diverged {
        /// Epoch of the step.
        epoch: usize,
        /// Step in the epoch.
        step: usize,
        /// The loss found.
        loss: f64,
    },
    /// The mean exponential of the statistics network's scores is out of the range of numbers.
    #[error(
        "the statistics network has diverged: its scores reach {score}, out of the range of their exponentials"
    )]
    Scores {
        /// The one that is no number, else the one farthest from zero.
        score: f32,
    },
    /// A saved state belongs to another fit or measurement.
    #[error("the saved state belongs to other work ({found}), expected {expected}")]
    OtherFit {
        /// The settings of this fit.
        expected: String,
        /// The settings in the file.
        found: String,
    },
    /// A file is no saved generator, or lacks a part of its description.
    #[error("the file's metadata has no valid {name}")]
    Metadata {
        /// The missing or unreadable entry.
        name: &'static str,
    },
    /// A mixture needs as many thresholds, entropies and sub-models as each other, one at least.
    #[error("a mixture of {sub_models} sub-models cannot use {others} weights or entropies")]
    Mixture {
        /// How many sub-models.
        sub_models: usize,
        /// How many of the other.
        others: usize,
    },
}
