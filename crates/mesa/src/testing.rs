//! The testing function: how well a trigger works, as MESA sees it.

use candle::{DType, Tensor};
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
    /// Checks the shapes against what was asked for, and that every value is a number: one that is none
    /// would count as a success, because it is not below β.
    pub(crate) fn check(&self, triggers: &Tensor, images_per_trigger: usize) -> Result<()> {
        let batch_size = triggers.dim(0)?;
        let values = vec![batch_size, images_per_trigger];
        let gradients: Vec<usize> = (values.iter().chain(&triggers.dims()[1..]))
            .copied()
            .collect();
        if self.values.dims() != values || self.gradients.dims() != gradients {
            return Err(Error::Observations {
                expected: format!("values {values:?} and gradients {gradients:?}"),
                found: format!("{:?} and {:?}", self.values.dims(), self.gradients.dims()),
            });
        }
        let values = self.values.flatten_all()?.to_dtype(DType::F32)?;
        let strange = values
            .to_vec1::<f32>()?
            .into_iter()
            .find(|value| !value.is_finite());
        match strange {
            Some(value) => Err(Error::Observations {
                expected: "numbers from 0 to 1".to_owned(),
                found: value.to_string(),
            }),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use candle::Device;

    use super::*;

    #[test]
    fn what_is_no_number_is_no_success() {
        let triggers = Tensor::zeros((2, 1, 1, 1), DType::F32, &Device::Cpu).unwrap();
        let observed = |second: f32| Observations {
            values: Tensor::new(&[[0.5], [second]], &Device::Cpu).unwrap(),
            gradients: Tensor::zeros((2, 1, 1, 1, 1), DType::F32, &Device::Cpu).unwrap(),
        };
        observed(1.0).check(&triggers, 1).unwrap();
        for strange in [f32::NAN, f32::INFINITY] {
            let refused = observed(strange).check(&triggers, 1);
            assert!(
                matches!(refused, Err(Error::Observations { .. })),
                "{strange}"
            );
        }
        let refused = observed(1.0).check(&triggers, 2);
        assert!(matches!(refused, Err(Error::Observations { .. })));
    }
}
