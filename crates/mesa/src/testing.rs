//! The testing function: how well a trigger works, as MESA sees it.

use candle::Tensor;
use mesa_models::{BoxError, Position};

use crate::{Error, Result};

/// The function `F` that MESA models the level sets of: triggers in, success in `[0, 1]` out.
///
/// MESA knows nothing else of what it attacks, so a closed-form function with a known answer
/// serves as well as a classifier.
///
/// # Examples
///
/// ```
/// use candle::Tensor;
/// use mesa::{BoxError, Observations, Position, TestingFunction};
///
/// /// F(x) = x, for triggers of a single number.
/// struct Identity;
///
/// impl TestingFunction for Identity {
///     fn trigger_shape(&self) -> [usize; 3] {
///         [1, 1, 1]
///     }
///     fn steps_per_epoch(&self, _batch_size: usize) -> usize {
///         10
///     }
///     fn observe(&mut self, triggers: &Tensor, _: f64, _: Position) -> Result<Observations, BoxError> {
///         let values = triggers.flatten_from(1)?;
///         let gradients = triggers.ones_like()?.unsqueeze(1)?;
///         Ok(Observations { values, gradients })
///     }
/// }
/// ```
pub trait TestingFunction {
    /// Channels, height and width of a trigger.
    fn trigger_shape(&self) -> [usize; 3];

    /// Batches in one pass over whatever the function is observed on.
    fn steps_per_epoch(&self, batch_size: usize) -> usize;

    /// Observes each trigger once or more.
    ///
    /// The gradient of an observation is only asked for where its value is less than `below`;
    /// elsewhere it may be left zero. What is random is drawn from streams for the step `at`, so
    /// that a resumed run sees the same.
    ///
    /// # Errors
    ///
    /// Whatever keeps it from answering.
    fn observe(
        &mut self,
        triggers: &Tensor,
        below: f64,
        at: Position,
    ) -> Result<Observations, BoxError>;
}

/// What a testing function answers for `B` triggers, each observed `m` times.
#[derive(Clone, Debug)]
pub struct Observations {
    /// Success of each observation, `(B, m)` in `[0, 1]`.
    pub values: Tensor,
    /// Its gradient with respect to the trigger, `(B, m, C, h, w)`, per unit of pixel value.
    pub gradients: Tensor,
}

impl Observations {
    /// Checks the shapes against what was asked for.
    pub(crate) fn check(&self, triggers: &Tensor, images_per_trigger: usize) -> Result<()> {
        let batch_size = triggers.dim(0)?;
        let values = vec![batch_size, images_per_trigger];
        let gradients: Vec<usize> = (values.iter().chain(&triggers.dims()[1..]))
            .copied()
            .collect();
        if self.values.dims() == values && self.gradients.dims() == gradients {
            return Ok(());
        }
        Err(Error::Observations {
            expected: format!("values {values:?} and gradients {gradients:?}"),
            found: format!("{:?} and {:?}", self.values.dims(), self.gradients.dims()),
        })
    }
}
