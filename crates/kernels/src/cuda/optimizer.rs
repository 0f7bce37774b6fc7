//! Stochastic gradient descent over one flat buffer of parameters.

use super::algorithm::Precision;
use super::buffer::{DeviceBuffer, Values};
use super::device::CudaDevice;
use super::failure::Result;
use super::function::{Argument, Kernel};
use super::launch::{Grid, int};

/// `v ← momentum·v + (∂w + decay·w)`, then `w ← w − rate·v`.
#[derive(Copy, Clone, Debug, PartialEq)]
pub struct Descent {
    /// Learning rate.
    pub rate: f32,
    /// Share of the velocity that is kept.
    pub momentum: f32,
    /// L2 penalty on all weights.
    pub decay: f32,
}

impl CudaDevice {
    /// Moves all weights by one step, in one launch. `gradient` and `convolution_gradient` are
    /// added up: where one has a gradient, the other holds zero. `copies` takes the new weights as
    /// convolutions read them.
    ///
    /// # Errors
    ///
    /// [`super::CudaError::Argument`] for buffers of another shape.
    #[allow(unsafe_code)]
    pub fn descend(
        &self,
        descent: &Descent,
        weights: &mut DeviceBuffer<f32>,
        velocity: &mut DeviceBuffer<f32>,
        gradient: &DeviceBuffer<f32>,
        convolution_gradient: &Values,
        copies: &mut Values,
    ) -> Result<()> {
        let (count, precision) = (weights.len(), copies.precision());
        let arguments = [
            Argument::Pointer(weights.whole(self, "weights", count)?),
            Argument::Pointer(velocity.whole(self, "velocities", count)?),
            Argument::Pointer(gradient.whole(self, "gradients", count)?),
            Argument::Pointer(convolution_gradient.whole(
                self,
                "gradients of convolutions",
                count,
                precision,
            )?),
            Argument::Pointer(copies.whole(self, "copies of weights", count, precision)?),
            Argument::Int(int(count)?),
            Argument::Float(descent.rate),
            Argument::Float(descent.momentum),
            Argument::Float(descent.decay),
        ];
        // SAFETY: the arguments of `descend`; lengths were checked.
        unsafe { self.launch(precision, Kernel::Descend, Grid::list(count)?, &arguments) }
    }

    /// Rounds all weights to the type that convolutions read.
    ///
    /// # Errors
    ///
    /// As for [`CudaDevice::descend`].
    #[allow(unsafe_code)]
    pub fn copy_weights(&self, weights: &DeviceBuffer<f32>, copies: &mut Values) -> Result<()> {
        let count = weights.len();
        let precision: Precision = copies.precision();
        let arguments = [
            Argument::Pointer(weights.whole(self, "weights", count)?),
            Argument::Pointer(copies.whole(self, "copies of weights", count, precision)?),
            Argument::Int(int(count)?),
        ];
        // SAFETY: the arguments of `copy_weights`; lengths were checked.
        unsafe {
            self.launch(
                precision,
                Kernel::CopyWeights,
                Grid::list(count)?,
                &arguments,
            )
        }
    }
}
