//! What convolutions do for batch norm on their way, before it or after it, and how it knows.

use super::{CudaNorm, Residual};
use crate::cuda::algorithm::Precision;
use crate::cuda::buffer::{DeviceBuffer, Place, Values};
use crate::cuda::device::CudaDevice;
use crate::cuda::failure::{CudaError, Result};
use crate::cuda::hopper::{Normal, Sums, Through};

/// Which of a channel's coefficients the mean and the scale are; as in `norm.cuh`.
const MEAN: usize = 0;
const SCALE: usize = 1;

/// What a convolution that completes the gradient of a layer's output does to it on its way, of what
/// [`CudaNorm::reduce_gradient`] and [`CudaNorm::apply_gradient`] do.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Onward {
    /// With a batch's statistics: lets it through the ReLU and takes the sums.
    Reduce,
    /// With fixed statistics: lets it through the ReLU.
    Gate,
    /// With fixed statistics, and without a residual that is handed a gradient: all of it.
    Apply,
}

/// What has been done to a gradient.
#[derive(Copy, Clone, Debug)]
pub(super) struct Passed {
    pub(super) onward: Onward,
    /// Of its sums.
    pub(super) parts: usize,
}

impl CudaNorm {
    /// Where a convolution puts so many parts of its result's sums, for the moments that are taken
    /// next; and the running mean, which is what they are taken around.
    /// [`CudaNorm::note_sums`] says that they are there.
    pub(in crate::cuda) fn place_for_sums(
        &mut self,
        device: &CudaDevice,
        (rows, channels): (usize, usize),
        parts: usize,
        (running, mean): (&DeviceBuffer<f32>, Place),
    ) -> Result<Sums> {
        self.forget_sums();
        self.forget_gradient();
        self.device.check_same(device)?;
        let fits = parts * 2 * channels <= self.sums.len();
        if (rows, channels) != (self.rows, self.channels) || !fits {
            return Err(CudaError::argument(
                "parts, rows and channels of a convolution's result",
                format!("{parts}, {rows} and {channels}"),
                format!("those of {} rows and {} channels", self.rows, self.channels),
            ));
        }
        Ok(Sums {
            shift: running.at(&self.device, mean, self.channels)?,
            parts: self.sums_address()?,
        })
    }

    /// Sums of so many parts were put there.
    pub(in crate::cuda) fn note_sums(&mut self, parts: usize) {
        self.taken = Some(parts);
    }

    /// How a convolution that completes the gradient of this layer's output lets it through, and where it
    /// puts so many parts of its sums with the result `y` that is normalized here.
    /// [`CudaNorm::let_through`] says that it has.
    pub(in crate::cuda) fn place_for_gradient(
        &mut self,
        device: &CudaDevice,
        y: &Values,
        len: usize,
        (onward, parts): (Onward, usize),
    ) -> Result<Through> {
        self.forget_sums();
        self.forget_gradient();
        self.device.check_same(device)?;
        self.check_bf16()?;
        let fits = parts * 2 * self.channels <= self.sums.len();
        if len != self.rows * self.channels || !fits || self.fixed == (onward == Onward::Reduce) {
            return Err(CudaError::argument(
                "values, parts and what is done to a gradient",
                format!("{len}, {parts} and {onward:?}"),
                format!(
                    "those of {} rows and {} channels, of {} statistics",
                    self.rows,
                    self.channels,
                    if self.fixed { "fixed" } else { "a batch's" }
                ),
            ));
        }
        let row = |which| {
            let (offset, len) = (which * self.channels, self.channels);
            self.coefficients.at(device, Place { offset, len }, len)
        };
        let [means, scales] = [row(MEAN)?, row(SCALE)?];
        let only = |when, address| if onward == when { address } else { 0 };
        Ok(Through {
            gates: self.noted_address()?,
            images: y.whole(device, "a convolution's result", len, self.precision)?,
            means,
            scales: only(Onward::Apply, scales),
            parts: only(Onward::Reduce, self.sums_address()?),
        })
    }

    /// Own convolutions are of this type of values alone.
    fn check_bf16(&self) -> Result<()> {
        if self.precision == Precision::Bf16 {
            return Ok(());
        }
        let found = format!("{:?}", self.precision);
        Err(CudaError::argument("the type of a layer", found, "bf16"))
    }

    /// What was done to a gradient does not count: another one comes.
    pub(in crate::cuda) fn forget_gradient(&mut self) {
        self.passed = None;
    }

    /// A gradient was let through, with so many parts of its sums.
    pub(in crate::cuda) fn let_through(&mut self, onward: Onward, parts: usize) {
        self.passed = Some(Passed { onward, parts });
    }

    /// How a convolution normalizes its result of `len` values with fixed statistics, what it adds, and
    /// where it notes what is positive.
    pub(in crate::cuda) fn place_for_result(
        &mut self,
        device: &CudaDevice,
        len: usize,
        residual: Option<Residual<'_>>,
    ) -> Result<Normal> {
        self.device.check_same(device)?;
        self.check_bf16()?;
        if len != self.rows * self.channels || !self.fixed {
            return Err(CudaError::argument(
                "values to normalize, and statistics",
                format!("{len}, and fixed ones"),
                format!(
                    "{} rows of {} channels, fixed before",
                    self.rows, self.channels
                ),
            ));
        }
        self.forget_gradient();
        let (residual, of_residual) = self.residual(residual)?;
        Ok(Normal {
            coefficients: self.coefficients_address()?,
            residual,
            residual_coefficients: of_residual,
            gates: self.noted_address()?,
        })
    }

    /// What was put there before does not count.
    pub(in crate::cuda) fn forget_sums(&mut self) {
        self.taken = None;
    }
}
