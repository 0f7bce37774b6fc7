//! Batch norm with the residual sum and the ReLU that follow it, of one layer; the sum that comes before
//! it where there is one.

mod add;
mod handover;

pub use self::handover::Onward;
use self::handover::Passed;
use super::algorithm::Precision;
use super::buffer::{DeviceBuffer, Place, Values};
use super::device::CudaDevice;
use super::failure::{CudaError, Result};
use super::filter::CHANNEL_MULTIPLE;
use super::function::{Argument, Kernel};
use super::launch::{Grid, Parts, int};

/// A channel's mean, scale, shift and inverse deviation.
const COEFFICIENTS: usize = 4;

/// A channel's factor of the image in a gradient, and a constant.
const FACTORS: usize = 2;

/// Batch norm of one layer, for feature maps of `rows` pixels (all images together).
///
/// [`crate::Unit`] says what is computed.
#[derive(Debug)]
pub struct CudaNorm {
    device: CudaDevice,
    rows: usize,
    channels: usize,
    precision: Precision,
    parts: Parts,
    sums: DeviceBuffer<f32>,
    /// Parts of the sums that a convolution has taken for the next moments, if it has.
    taken: Option<usize>,
    /// Whether statistics are fixed, not a batch's.
    fixed: bool,
    /// What a convolution has done to the gradient that is reduced or applied next, if anything.
    passed: Option<Passed>,
    coefficients: DeviceBuffer<f32>,
    factors: DeviceBuffer<f32>,
    /// Where the output was positive, a bit for each channel of a pixel: a sixteenth of what it is to
    /// read the output.
    positive: DeviceBuffer<u8>,
}

/// Learned scale and shift in a flat buffer of parameters.
#[derive(Copy, Clone, Debug)]
pub struct NormParameters<'a> {
    /// The flat buffer.
    pub weights: &'a DeviceBuffer<f32>,
    /// Where the scales lie.
    pub gamma: Place,
    /// Where the shifts lie.
    pub beta: Place,
}

impl NormParameters<'_> {
    /// The addresses of so many scales and shifts.
    pub(super) fn addresses(&self, device: &CudaDevice, channels: usize) -> Result<[Argument; 2]> {
        let address = |place| self.weights.at(device, place, channels);
        Ok([
            Argument::Pointer(address(self.gamma)?),
            Argument::Pointer(address(self.beta)?),
        ])
    }
}

/// What is added to a normalized layer.
#[derive(Copy, Clone, Debug)]
pub enum Residual<'a> {
    /// Feature maps as they are.
    Ready(&'a Values),
    /// The result of another convolution, normalized on the way.
    Raw(&'a Values, &'a CudaNorm),
}

/// Where a layer's residual gets its gradient: what passes of that of the layer's output.
#[derive(Debug)]
pub enum OfResidual<'a> {
    /// The first one: it stays where it was, and the layer's own goes to this buffer.
    First(&'a mut Values),
    /// Another one: it is added to this.
    More(&'a mut Values),
}

/// Where a layer lets a gradient through.
#[derive(Copy, Clone, Debug)]
pub enum Gate {
    /// Everywhere: it has no ReLU.
    Open,
    /// Where its output was positive, as [`CudaNorm::normalize`] has noted.
    Noted,
}

impl CudaNorm {
    /// Room for the statistics of one layer.
    ///
    /// # Errors
    ///
    /// [`CudaError::Argument`] for channels that are no whole multiple; [`CudaError::OutOfMemory`].
    pub fn new(
        device: &CudaDevice,
        rows: usize,
        channels: usize,
        precision: Precision,
    ) -> Result<Self> {
        if rows == 0 || channels == 0 || !channels.is_multiple_of(CHANNEL_MULTIPLE) {
            return Err(CudaError::argument(
                "rows and channels of a layer",
                format!("{rows} and {channels}"),
                format!("positive, channels a multiple of {CHANNEL_MULTIPLE}"),
            ));
        }
        let parts = Parts::of(rows, channels);
        Ok(Self {
            device: device.clone(),
            rows,
            channels,
            precision,
            parts,
            // A convolution that takes them has a part for 128 pixels or more, and an even number.
            sums: DeviceBuffer::zeros(device, parts.count.max(rows / 128 + 2) * 2 * channels)?,
            taken: None,
            fixed: false,
            passed: None,
            coefficients: DeviceBuffer::zeros(device, COEFFICIENTS * channels)?,
            factors: DeviceBuffer::zeros(device, FACTORS * channels)?,
            positive: DeviceBuffer::zeros(device, rows * channels / CHANNEL_MULTIPLE)?,
        })
    }

    /// Takes the statistics of the batch `y`, and moves the running ones (mean, variance; places of
    /// a flat buffer) by the share `momentum` towards them; the variance that runs is unbiased.
    ///
    /// # Errors
    ///
    /// [`CudaError::Argument`] for buffers of another shape.
    #[allow(unsafe_code)]
    pub fn take_moments(
        &mut self,
        y: &Values,
        parameters: NormParameters<'_>,
        (running, mean, variance): (&mut DeviceBuffer<f32>, Place, Place),
        momentum: f32,
    ) -> Result<()> {
        let image = self.layer("a convolution's result", y)?;
        let [rows, channels] = [int(self.rows)?, int(self.channels)?];
        let sums = self.sums()?;
        (self.fixed, self.passed) = (false, None);
        let taken = self.taken.take();
        if taken.is_none() {
            let arguments = [
                image,
                Argument::Int(rows),
                Argument::Int(channels),
                Argument::Int(int(self.parts.rows)?),
                sums,
            ];
            let grid = Grid::sums(self.channels, &self.parts)?;
            // SAFETY: the arguments of `moment_parts`; lengths were checked.
            unsafe {
                self.device
                    .launch(self.precision, Kernel::MomentParts, grid, &arguments)
            }?;
        }
        let [gamma, beta] = parameters.addresses(&self.device, self.channels)?;
        let arguments = [
            image,
            Argument::Int(i32::from(taken.is_some())),
            sums,
            Argument::Int(int(taken.unwrap_or(self.parts.count))?),
            Argument::Int(rows),
            Argument::Int(channels),
            gamma,
            beta,
            Argument::Float(momentum),
            self.channel_place(running, mean)?,
            self.channel_place(running, variance)?,
            self.coefficients()?,
        ];
        let grid = Grid::warps(self.channels)?;
        // SAFETY: the arguments of `moments`; lengths were checked, a block is a warp.
        unsafe {
            self.device
                .launch(self.precision, Kernel::Moments, grid, &arguments)
        }
    }

    /// Takes running statistics (mean, variance) instead of a batch's.
    ///
    /// # Errors
    ///
    /// As for [`CudaNorm::take_moments`].
    #[allow(unsafe_code)]
    pub fn fix_moments(
        &mut self,
        parameters: NormParameters<'_>,
        (running, mean, variance): (&DeviceBuffer<f32>, Place, Place),
    ) -> Result<()> {
        let [gamma, beta] = parameters.addresses(&self.device, self.channels)?;
        let arguments = [
            self.channel_place(running, mean)?,
            self.channel_place(running, variance)?,
            gamma,
            beta,
            Argument::Int(int(self.channels)?),
            self.coefficients()?,
        ];
        self.forget_sums();
        (self.fixed, self.passed) = (true, None);
        let grid = Grid::list(self.channels)?;
        // SAFETY: the arguments of `fixed_moments`; lengths were checked.
        unsafe {
            self.device
                .launch(self.precision, Kernel::FixedMoments, grid, &arguments)
        }
    }

    /// `output = relu(normalized y + residual)`, the ReLU if asked for. With it, it is noted where the
    /// output is positive.
    ///
    /// # Errors
    ///
    /// As for [`CudaNorm::take_moments`].
    #[allow(unsafe_code)]
    pub fn normalize(
        &mut self,
        y: &Values,
        residual: Option<Residual<'_>>,
        relu: bool,
        output: &mut Values,
    ) -> Result<()> {
        let (other, other_coefficients) = self.residual(residual)?;
        let arguments = [
            self.layer("a convolution's result", y)?,
            self.coefficients()?,
            Argument::Pointer(other),
            Argument::Pointer(other_coefficients),
            Argument::Int(i32::from(relu)),
            Argument::Int(int(self.groups())?),
            Argument::Int(int(self.channels)?),
            self.layer("a layer's output", output)?,
            self.noted()?,
        ];
        self.forget_gradient();
        let grid = Grid::list(self.groups())?;
        // SAFETY: the arguments of `normalize`; lengths were checked.
        unsafe {
            self.device
                .launch(self.precision, Kernel::Normalize, grid, &arguments)
        }
    }

    /// Reduces a gradient of the layer's output, for [`CudaNorm::apply_gradient`]. Writes the
    /// gradients of scale and shift to places of a flat buffer.
    ///
    /// # Errors
    ///
    /// As for [`CudaNorm::take_moments`].
    #[allow(unsafe_code)]
    pub fn reduce_gradient(
        &mut self,
        gradient: &Values,
        gate: Gate,
        y: &Values,
        (targets, gamma, beta): (&mut DeviceBuffer<f32>, Place, Place),
    ) -> Result<()> {
        let [rows, channels] = [int(self.rows)?, int(self.channels)?];
        self.forget_sums();
        let arguments = [
            self.layer("a gradient", gradient)?,
            self.gate(gate)?,
            self.layer("a convolution's result", y)?,
            self.coefficients()?,
            Argument::Int(rows),
            Argument::Int(channels),
            Argument::Int(int(self.parts.rows)?),
            self.sums()?,
        ];
        let there = match self.passed {
            None => None,
            Some(passed) if passed.onward == Onward::Reduce => Some(passed.parts),
            Some(passed) => {
                return Err(CudaError::argument(
                    "the gradient of a batch's statistics",
                    format!("{:?}", passed.onward),
                    "not let through, or with its sums",
                ));
            }
        };
        if there.is_none() {
            let grid = Grid::sums(self.channels, &self.parts)?;
            // SAFETY: the arguments of `gradient_parts`; lengths were checked.
            unsafe {
                self.device
                    .launch(self.precision, Kernel::GradientParts, grid, &arguments)
            }?;
        }
        let arguments = [
            self.sums()?,
            Argument::Int(int(there.unwrap_or(self.parts.count))?),
            Argument::Int(rows),
            Argument::Int(channels),
            self.coefficients()?,
            self.factors()?,
            self.channel_place(targets, gamma)?,
            self.channel_place(targets, beta)?,
        ];
        let grid = Grid::warps(self.channels)?;
        // SAFETY: the arguments of `gradient_factors`; lengths were checked, a block is a warp.
        unsafe {
            self.device
                .launch(self.precision, Kernel::GradientFactors, grid, &arguments)
        }
    }

    /// Turns the gradient of the layer's output into that of the convolution's result `y`, in place but
    /// for [`OfResidual::First`]. After [`CudaNorm::reduce_gradient`], or [`CudaNorm::fix_moments`] for
    /// fixed statistics.
    ///
    /// # Errors
    ///
    /// As for [`CudaNorm::take_moments`].
    #[allow(unsafe_code)]
    pub fn apply_gradient(
        &mut self,
        gradient: &mut Values,
        gate: Gate,
        y: &Values,
        residual: Option<OfResidual<'_>>,
    ) -> Result<()> {
        let done = self.passed.map(|passed| passed.onward);
        if done == Some(Onward::Apply) && residual.is_some() {
            return Err(CudaError::argument(
                "the gradient of a layer with a residual",
                "applied already",
                "let through at most",
            ));
        }
        let null = Argument::Pointer(0);
        let output = self.layer("a gradient", gradient)?;
        let (target, residual) = match residual {
            None => (output, null),
            Some(OfResidual::First(own)) => (self.layer("a gradient", own)?, null),
            Some(OfResidual::More(more)) => (output, self.layer("a residual's gradient", more)?),
        };
        let image = self.layer("a convolution's result", y)?;
        let arguments = [
            output,
            self.gate(gate)?,
            if self.fixed { null } else { image },
            self.coefficients()?,
            self.factors()?,
            target,
            residual,
            Argument::Int(int(self.groups())?),
            Argument::Int(int(self.channels)?),
        ];
        self.passed = None;
        if done == Some(Onward::Apply) {
            return Ok(());
        }
        let grid = Grid::list(self.groups())?;
        // SAFETY: the arguments of `apply_gradient`; lengths were checked. Each thread reads its
        // values before it writes them.
        unsafe {
            self.device
                .launch(self.precision, Kernel::ApplyGradient, grid, &arguments)
        }
    }

    /// The addresses of a residual and of what normalizes it; null where there is none.
    fn residual(&self, residual: Option<Residual<'_>>) -> Result<(u64, u64)> {
        let (values, norm) = match residual {
            None => return Ok((0, 0)),
            Some(Residual::Ready(values)) => (values, None),
            Some(Residual::Raw(values, norm)) => (values, Some(norm)),
        };
        let len = self.rows * self.channels;
        let address = values.whole(&self.device, "a residual", len, self.precision)?;
        let Some(norm) = norm else {
            return Ok((address, 0));
        };
        if norm.channels != self.channels {
            let (found, expected) = (norm.channels, self.channels);
            return Err(CudaError::argument(
                "a residual's channels",
                found,
                expected,
            ));
        }
        norm.device.check_same(&self.device)?;
        Ok((address, norm.coefficients_address()?))
    }

    /// Threads that take [`CHANNEL_MULTIPLE`] channels each.
    fn groups(&self) -> usize {
        self.rows * self.channels / CHANNEL_MULTIPLE
    }

    fn layer(&self, what: &'static str, values: &Values) -> Result<Argument> {
        let len = self.rows * self.channels;
        let address = values.whole(&self.device, what, len, self.precision)?;
        Ok(Argument::Pointer(address))
    }

    fn noted(&self) -> Result<Argument> {
        Ok(Argument::Pointer(self.noted_address()?))
    }

    fn noted_address(&self) -> Result<u64> {
        self.positive.whole(&self.device, "a gate", self.groups())
    }

    /// Where it is noted what passes; null if everything does, or has been let through already.
    fn gate(&self, gate: Gate) -> Result<Argument> {
        match gate {
            Gate::Noted if self.passed.is_none() => self.noted(),
            Gate::Noted | Gate::Open => Ok(Argument::Pointer(0)),
        }
    }

    fn channel_place(&self, buffer: &DeviceBuffer<f32>, place: Place) -> Result<Argument> {
        let address = buffer.at(&self.device, place, self.channels)?;
        Ok(Argument::Pointer(address))
    }

    fn sums(&self) -> Result<Argument> {
        Ok(Argument::Pointer(self.sums_address()?))
    }

    fn sums_address(&self) -> Result<u64> {
        self.sums.whole(&self.device, "sums", self.sums.len())
    }

    fn coefficients(&self) -> Result<Argument> {
        Ok(Argument::Pointer(self.coefficients_address()?))
    }

    fn coefficients_address(&self) -> Result<u64> {
        let len = COEFFICIENTS * self.channels;
        self.coefficients.whole(&self.device, "coefficients", len)
    }

    fn factors(&self) -> Result<Argument> {
        let len = FACTORS * self.channels;
        let address = self.factors.whole(&self.device, "factors", len)?;
        Ok(Argument::Pointer(address))
    }
}
