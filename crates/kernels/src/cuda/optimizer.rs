//! Stochastic gradient descent over one flat buffer of parameters.

use super::algorithm::Precision;
use super::buffer::{DeviceBuffer, Place, Values};
use super::device::CudaDevice;
use super::failure::{CudaError, Result};
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

/// A [`Descent`] on the device, where recorded work finds it.
#[derive(Debug)]
pub struct DeviceDescent {
    buffer: DeviceBuffer<f32>,
    /// What the buffer holds.
    set: Descent,
}

/// Parameters of one thread; as in `optimizer.cuh`.
const AT_ONCE: usize = 4;

/// Numbers of a [`Descent`], in the order of `optimizer.cuh`.
const NUMBERS: usize = 3;

impl DeviceDescent {
    /// One that moves nothing.
    ///
    /// # Errors
    ///
    /// [`super::CudaError::OutOfMemory`].
    pub fn new(device: &CudaDevice) -> Result<Self> {
        Ok(Self {
            buffer: DeviceBuffer::zeros(device, NUMBERS)?,
            set: Descent {
                rate: 0.0,
                momentum: 0.0,
                decay: 0.0,
            },
        })
    }

    /// Another one from now on. Nothing is copied if it is the same.
    ///
    /// # Errors
    ///
    /// [`super::CudaError::Driver`] if the device has failed.
    pub fn set(&mut self, descent: Descent) -> Result<()> {
        if descent != self.set {
            let Descent {
                rate,
                momentum,
                decay,
            } = descent;
            self.buffer.write(&[rate, momentum, decay])?;
            self.set = descent;
        }
        Ok(())
    }
}

impl CudaDevice {
    /// Moves all weights by one step, in one launch. The first ones are those of convolutions, as many
    /// as `convolution_gradient` and `copies` have; `copies` takes their new values as convolutions read
    /// them. The gradient of the others is read from `gradient`, where they have it.
    ///
    /// # Errors
    ///
    /// [`super::CudaError::Argument`] for buffers of another shape, or as many weights of convolutions
    /// as are no multiple of four.
    #[allow(unsafe_code)]
    pub fn descend(
        &self,
        descent: &DeviceDescent,
        weights: &mut DeviceBuffer<f32>,
        velocity: &mut DeviceBuffer<f32>,
        gradient: &DeviceBuffer<f32>,
        convolution_gradient: &Values,
        copies: &mut Values,
    ) -> Result<()> {
        let (count, filters) = (weights.len(), copies.len());
        let precision = copies.precision();
        if filters > count || !filters.is_multiple_of(AT_ONCE) {
            return Err(CudaError::argument(
                "weights of convolutions",
                filters,
                format!("a multiple of {AT_ONCE}, at most {count}"),
            ));
        }
        let arguments = [
            Argument::Pointer(weights.whole(self, "weights", count)?),
            Argument::Pointer(velocity.whole(self, "velocities", count)?),
            Argument::Pointer(gradient.whole(self, "gradients", count)?),
            Argument::Pointer(convolution_gradient.whole(
                self,
                "gradients of convolutions",
                filters,
                precision,
            )?),
            Argument::Pointer(copies.whole(self, "copies of weights", filters, precision)?),
            Argument::Int(int(filters)?),
            Argument::Int(int(count)?),
            Argument::Pointer(descent.buffer.whole(self, "settings", NUMBERS)?),
        ];
        let grid = Grid::list(count.div_ceil(AT_ONCE))?;
        // SAFETY: the arguments of `descend`; lengths were checked.
        unsafe { self.launch(precision, Kernel::Descend, grid, &arguments) }
    }

    /// Rounds the first weights, as many as `copies` has, to the type that convolutions read.
    ///
    /// # Errors
    ///
    /// As for [`CudaDevice::descend`].
    #[allow(unsafe_code)]
    pub fn copy_weights(&self, weights: &DeviceBuffer<f32>, copies: &mut Values) -> Result<()> {
        let count = copies.len();
        let precision: Precision = copies.precision();
        let first = Place {
            offset: 0,
            len: count,
        };
        let arguments = [
            Argument::Pointer(weights.at(self, first, count)?),
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
