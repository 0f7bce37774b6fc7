//! The end of a classifier on the device: average pooling, the linear layer, softmax, its losses.

use super::algorithm::Precision;
use super::buffer::{DeviceBuffer, Place, Values};
use super::device::CudaDevice;
use super::failure::{CudaError, Result};
use super::function::{Argument, Kernel};
use super::images::BatchPlans;
use super::launch::{Grid, WARP, int};
use crate::TargetGradient;

/// The head of a classifier and its buffers, for one batch size.
///
/// [`crate::Head`] and [`crate::cross_entropy`] say what is computed.
#[derive(Debug)]
pub struct CudaHead {
    device: CudaDevice,
    precision: Precision,
    batch: usize,
    pixels: usize,
    channels: usize,
    classes: usize,
    pooled: DeviceBuffer<f32>,
    logits: DeviceBuffer<f32>,
    gradient: DeviceBuffer<f32>,
    losses: DeviceBuffer<f32>,
    correct: DeviceBuffer<f32>,
    probabilities: DeviceBuffer<f32>,
    settings: DeviceBuffer<f32>,
    /// What `settings` holds.
    set: [f32; SETTINGS],
}

/// What losses read on the device, where recorded work finds it; as in `head.cuh`.
const SETTINGS: usize = 4;
const SMOOTHING: usize = 0;
const TARGET: usize = 1;
const LOGARITHM: usize = 2;
const BELOW: usize = 3;

/// Classes that an f32 tells apart.
const MOST_CLASSES: usize = 1 << 24;

/// The linear layer's weights (class, channel) and bias in a flat buffer of parameters.
#[derive(Copy, Clone, Debug)]
pub struct LinearParameters<'a> {
    /// The flat buffer.
    pub weights: &'a DeviceBuffer<f32>,
    /// Where the weights lie.
    pub weight: Place,
    /// Where the bias lies.
    pub bias: Place,
}

/// Losses and right answers that add up on the device.
#[derive(Debug)]
pub struct Totals {
    buffer: DeviceBuffer<f64>,
}

impl Totals {
    /// Nothing yet.
    ///
    /// # Errors
    ///
    /// [`CudaError::OutOfMemory`].
    pub fn new(device: &CudaDevice) -> Result<Self> {
        Ok(Self {
            buffer: DeviceBuffer::zeros(device, 2)?,
        })
    }

    /// Waits for the device: the summed losses of all images since the last time, in nats, and how
    /// many of them were classified right. Starts again at zero.
    ///
    /// # Errors
    ///
    /// [`CudaError`] for whatever went wrong on the device up to here.
    pub fn take(&mut self) -> Result<(f64, usize)> {
        let totals = self.buffer.read()?;
        self.buffer.clear()?;
        Ok((totals[0], totals[1] as usize))
    }
}

impl CudaHead {
    /// A head over `batch` feature maps of `pixels` pixels.
    ///
    /// # Errors
    ///
    /// [`CudaError::Argument`] if a size is zero; [`CudaError::OutOfMemory`].
    pub fn new(
        device: &CudaDevice,
        batch: usize,
        pixels: usize,
        channels: usize,
        classes: usize,
        precision: Precision,
    ) -> Result<Self> {
        let sizes = [batch, pixels, channels, classes];
        if sizes.contains(&0) || classes > MOST_CLASSES {
            let (found, expected) = (format!("{sizes:?}"), "above 0, and few classes");
            return Err(CudaError::argument("a size of the head", found, expected));
        }
        Ok(Self {
            device: device.clone(),
            precision,
            batch,
            pixels,
            channels,
            classes,
            pooled: DeviceBuffer::zeros(device, batch * channels)?,
            logits: DeviceBuffer::zeros(device, batch * classes)?,
            gradient: DeviceBuffer::zeros(device, batch * classes)?,
            losses: DeviceBuffer::zeros(device, batch)?,
            correct: DeviceBuffer::zeros(device, batch)?,
            probabilities: DeviceBuffer::zeros(device, batch)?,
            settings: DeviceBuffer::zeros(device, SETTINGS)?,
            set: [0.0; SETTINGS],
        })
    }

    /// Logits `(batch, classes)` of the last [`CudaHead::forward`].
    pub fn logits(&self) -> &DeviceBuffer<f32> {
        &self.logits
    }

    /// Probabilities of the class of the last [`CudaHead::target`].
    pub fn probabilities(&self) -> &DeviceBuffer<f32> {
        &self.probabilities
    }

    /// The gradient of the logits, of the last [`CudaHead::loss`] or [`CudaHead::target`].
    pub fn logit_gradient(&self) -> &DeviceBuffer<f32> {
        &self.gradient
    }

    /// Feature maps to logits.
    ///
    /// # Errors
    ///
    /// [`CudaError::Argument`] for buffers of another shape.
    #[allow(unsafe_code)]
    pub fn forward(&mut self, features: &Values, parameters: LinearParameters<'_>) -> Result<()> {
        let [batch, channels, classes] = self.sizes()?;
        let pooled = self.pooled()?;
        let arguments = [
            self.features(features)?,
            batch,
            Argument::Int(int(self.pixels)?),
            channels,
            pooled,
        ];
        let grid = Grid::list(self.batch * self.channels)?;
        // SAFETY: the arguments of `pool`; lengths were checked.
        unsafe {
            self.device
                .launch(self.precision, Kernel::Pool, grid, &arguments)
        }?;
        let arguments = [
            pooled,
            self.weight(parameters.weights, parameters.weight)?,
            self.bias(parameters.weights, parameters.bias)?,
            channels,
            classes,
            self.of_logits(&self.logits)?,
        ];
        let grid = Grid::warps(self.batch * self.classes)?;
        // SAFETY: the arguments of `linear`; lengths were checked, a block is a warp.
        unsafe {
            self.device
                .launch(self.precision, Kernel::Linear, grid, &arguments)
        }
    }

    /// The share of the label that [`CudaHead::loss`] spreads over all classes from now on; none
    /// at first.
    ///
    /// # Errors
    ///
    /// [`CudaError::Driver`] if the device has failed.
    pub fn set_smoothing(&mut self, smoothing: f32) -> Result<()> {
        let mut settings = self.set;
        settings[SMOOTHING] = smoothing;
        self.set(settings)
    }

    /// What [`CudaHead::target`] computes from now on: the probability of class `target`, and the
    /// gradient of what is `wanted`.
    ///
    /// # Errors
    ///
    /// [`CudaError::Argument`] for a class that does not exist.
    pub fn set_target(&mut self, target: usize, wanted: TargetGradient) -> Result<()> {
        if target >= self.classes {
            let expected = format!("below {}", self.classes);
            return Err(CudaError::argument("the target class", target, expected));
        }
        let mut settings = self.set;
        settings[TARGET] = target as f32;
        (settings[LOGARITHM], settings[BELOW]) = match wanted {
            TargetGradient::Probability(below) => (0.0, below),
            TargetGradient::LogProbability => (1.0, f32::INFINITY),
        };
        self.set(settings)
    }

    fn set(&mut self, settings: [f32; SETTINGS]) -> Result<()> {
        if settings != self.set {
            self.settings.write(&settings)?;
            self.set = settings;
        }
        Ok(())
    }

    /// Cross-entropy against the labels of the plans, smoothed: added to the totals, and its mean's gradient kept for
    /// [`CudaHead::weight_gradients`] and [`CudaHead::feature_gradient`].
    ///
    /// # Errors
    ///
    /// [`CudaError::Argument`] for buffers of another shape, or plans for more classes.
    #[allow(unsafe_code)]
    pub fn loss(&mut self, plans: &BatchPlans, totals: &mut Totals) -> Result<()> {
        let labels = plans.limits().classes;
        if labels > self.classes {
            let expected = format!("at most {}", self.classes);
            return Err(CudaError::argument("the plans' classes", labels, expected));
        }
        let [batch, _, classes] = self.sizes()?;
        let losses = self.of_images(&self.losses)?;
        let correct = self.of_images(&self.correct)?;
        let arguments = [
            self.of_logits(&self.logits)?,
            Argument::Pointer(plans.address(&self.device, self.batch)?),
            batch,
            classes,
            self.settings()?,
            Argument::Float(1.0 / self.batch as f32),
            losses,
            correct,
            self.of_logits(&self.gradient)?,
        ];
        let grid = Grid::list(self.batch)?;
        // SAFETY: the arguments of `cross_entropy`; lengths and labels were checked.
        unsafe {
            self.device
                .launch(self.precision, Kernel::CrossEntropy, grid, &arguments)
        }?;
        let totals = totals.buffer.whole(&self.device, "totals", 2)?;
        let arguments = [losses, correct, batch, Argument::Pointer(totals)];
        let grid = Grid::warps(1)?;
        debug_assert_eq!(grid.threads.0, WARP);
        // SAFETY: the arguments of `add_to_totals`; lengths were checked, and it is one warp.
        unsafe {
            self.device
                .launch(self.precision, Kernel::AddToTotals, grid, &arguments)
        }
    }

    /// The probability of the class of [`CudaHead::set_target`] for every image, and the gradient
    /// of what is wanted with respect to the logits, kept for [`CudaHead::feature_gradient`].
    ///
    /// # Errors
    ///
    /// [`CudaError::Driver`] if the device has failed.
    #[allow(unsafe_code)]
    pub fn target(&mut self) -> Result<()> {
        let [batch, _, classes] = self.sizes()?;
        let arguments = [
            self.of_logits(&self.logits)?,
            batch,
            classes,
            self.settings()?,
            self.of_images(&self.probabilities)?,
            self.of_logits(&self.gradient)?,
        ];
        let grid = Grid::list(self.batch)?;
        // SAFETY: the arguments of `target_gradient`; lengths were checked, the class
        // when it was set.
        unsafe {
            self.device
                .launch(self.precision, Kernel::TargetGradient, grid, &arguments)
        }
    }

    /// The gradients of the linear layer, written to places of a flat buffer.
    ///
    /// # Errors
    ///
    /// [`CudaError::Argument`] for places of another length.
    #[allow(unsafe_code)]
    pub fn weight_gradients(
        &self,
        (targets, weight, bias): (&mut DeviceBuffer<f32>, Place, Place),
    ) -> Result<()> {
        let [batch, channels, classes] = self.sizes()?;
        let arguments = [
            self.of_logits(&self.gradient)?,
            self.pooled()?,
            batch,
            channels,
            classes,
            self.weight(targets, weight)?,
            self.bias(targets, bias)?,
        ];
        let grid = Grid::list(self.classes * (self.channels + 1))?;
        // SAFETY: the arguments of `linear_gradient`; lengths were checked.
        unsafe {
            self.device
                .launch(self.precision, Kernel::LinearGradient, grid, &arguments)
        }
    }

    /// The gradient of the feature maps.
    ///
    /// # Errors
    ///
    /// [`CudaError::Argument`] for buffers of another shape.
    #[allow(unsafe_code)]
    pub fn feature_gradient(
        &self,
        parameters: LinearParameters<'_>,
        features: &mut Values,
    ) -> Result<()> {
        let [batch, channels, classes] = self.sizes()?;
        let arguments = [
            self.of_logits(&self.gradient)?,
            self.weight(parameters.weights, parameters.weight)?,
            batch,
            Argument::Int(int(self.pixels)?),
            channels,
            classes,
            self.features(features)?,
        ];
        let grid = Grid::list(self.batch * self.channels)?;
        // SAFETY: the arguments of `feature_gradient`; lengths were checked.
        unsafe {
            self.device
                .launch(self.precision, Kernel::FeatureGradient, grid, &arguments)
        }
    }

    /// Batch, channels and classes.
    fn sizes(&self) -> Result<[Argument; 3]> {
        Ok([
            Argument::Int(int(self.batch)?),
            Argument::Int(int(self.channels)?),
            Argument::Int(int(self.classes)?),
        ])
    }

    fn settings(&self) -> Result<Argument> {
        let address = self.settings.whole(&self.device, "settings", SETTINGS)?;
        Ok(Argument::Pointer(address))
    }

    fn features(&self, values: &Values) -> Result<Argument> {
        let len = self.batch * self.pixels * self.channels;
        let address = values.whole(&self.device, "feature maps", len, self.precision)?;
        Ok(Argument::Pointer(address))
    }

    fn pooled(&self) -> Result<Argument> {
        let len = self.batch * self.channels;
        let address = self.pooled.whole(&self.device, "pooled features", len)?;
        Ok(Argument::Pointer(address))
    }

    fn of_logits(&self, buffer: &DeviceBuffer<f32>) -> Result<Argument> {
        let len = self.batch * self.classes;
        Ok(Argument::Pointer(buffer.whole(
            &self.device,
            "logits",
            len,
        )?))
    }

    fn of_images(&self, buffer: &DeviceBuffer<f32>) -> Result<Argument> {
        let address = buffer.whole(&self.device, "values of images", self.batch)?;
        Ok(Argument::Pointer(address))
    }

    fn weight(&self, buffer: &DeviceBuffer<f32>, place: Place) -> Result<Argument> {
        let len = self.classes * self.channels;
        Ok(Argument::Pointer(buffer.at(&self.device, place, len)?))
    }

    fn bias(&self, buffer: &DeviceBuffer<f32>, place: Place) -> Result<Argument> {
        Ok(Argument::Pointer(buffer.at(
            &self.device,
            place,
            self.classes,
        )?))
    }
}
