//! Images as bytes on the device, and batches made of them there: crop, flip, stamp, normalize.

use super::algorithm::Precision;
use super::buffer::{DeviceBuffer, Place, Values};
use super::conv::Convolution;
use super::device::CudaDevice;
use super::failure::{CudaError, Result};
use super::filter::CHANNEL_MULTIPLE;
use super::function::{Argument, Kernel};
use super::launch::{Grid, int};
use super::packing::{PLAN_LEN, PlanLimits, pack_plans};
use crate::ImagePlan;

/// Red, green, blue.
const COLORS: usize = 3;

/// Images as bytes, `(N, 3, height, width)`: the order in which CIFAR's files have them.
#[derive(Debug)]
pub struct DeviceImages {
    pixels: DeviceBuffer<u8>,
    count: usize,
    size: (usize, usize),
}

impl DeviceImages {
    /// Copies images of `size` (height, width) to the device.
    ///
    /// # Errors
    ///
    /// [`CudaError::Argument`] if the pixels are not those of whole images;
    /// [`CudaError::OutOfMemory`].
    pub fn new(device: &CudaDevice, pixels: &[u8], size: (usize, usize)) -> Result<Self> {
        let each = COLORS * size.0 * size.1;
        if each == 0 || pixels.is_empty() || !pixels.len().is_multiple_of(each) {
            return Err(CudaError::argument(
                "the number of pixels",
                pixels.len(),
                format!("a multiple of {each}, the values of one image"),
            ));
        }
        Ok(Self {
            pixels: DeviceBuffer::from_slice(device, pixels)?,
            count: pixels.len() / each,
            size,
        })
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Height and width.
    pub fn size(&self) -> (usize, usize) {
        self.size
    }

    /// What tells them from others.
    pub fn identity(&self) -> u64 {
        self.pixels.identity()
    }
}

/// Triggers to stamp, `(T, 3, height, width)`, values as in images: 0 is black, 1 is white.
#[derive(Debug)]
pub struct DeviceTriggers {
    pixels: DeviceBuffer<f32>,
    /// (height, width), each trigger's share of a pixel under it.
    cover: DeviceBuffer<f32>,
    count: usize,
    size: (usize, usize),
}

impl DeviceTriggers {
    /// Triggers of `size` (height, width) that take the share `opacity` of the pixels under them,
    /// where `mask` (all if none), `(height, width)`, says so.
    ///
    /// # Errors
    ///
    /// [`CudaError::Argument`] for pixels or a mask of another size, or an opacity outside (0, 1].
    pub fn new(
        device: &CudaDevice,
        pixels: &[f32],
        size: (usize, usize),
        mask: Option<&[bool]>,
        opacity: f32,
    ) -> Result<Self> {
        let plane = size.0 * size.1;
        let each = COLORS * plane;
        if each == 0 || pixels.is_empty() || !pixels.len().is_multiple_of(each) {
            return Err(CudaError::argument(
                "the number of a trigger's values",
                pixels.len(),
                format!("a multiple of {each}"),
            ));
        }
        if mask.is_some_and(|mask| mask.len() != plane) {
            let found = mask.map_or(0, <[bool]>::len);
            return Err(CudaError::argument("a mask's length", found, plane));
        }
        if !(opacity > 0.0 && opacity <= 1.0) {
            let expected = "above 0, at most 1";
            return Err(CudaError::argument("an opacity", opacity, expected));
        }
        let cover: Vec<f32> = (0..plane)
            .map(|at| mask.is_none_or(|mask| mask[at]))
            .map(|covered| if covered { opacity } else { 0.0 })
            .collect();
        Ok(Self {
            pixels: DeviceBuffer::from_slice(device, pixels)?,
            cover: DeviceBuffer::from_slice(device, &cover)?,
            count: pixels.len() / each,
            size,
        })
    }

    /// What tells them from others.
    pub fn identity(&self) -> u64 {
        self.pixels.identity()
    }

    /// Other values for as many triggers of the same size.
    ///
    /// # Errors
    ///
    /// [`CudaError::Argument`] for another number of values.
    pub fn write(&mut self, pixels: &[f32]) -> Result<()> {
        self.pixels.write(pixels)
    }

    /// Other values for the first triggers, of the same size; the others stay as they are.
    ///
    /// # Errors
    ///
    /// [`CudaError::Argument`] for more values than there are.
    pub fn write_first(&mut self, pixels: &[f32]) -> Result<()> {
        self.pixels.write_first(pixels)
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Height and width.
    pub fn size(&self) -> (usize, usize) {
        self.size
    }
}

/// Colors that making a batch needs, on the device.
#[derive(Debug)]
pub struct Colors {
    buffer: DeviceBuffer<f32>,
}

impl Colors {
    /// `fill` is the color that a crop shows outside of its image, in [0, 1]; `mean` and `std` are
    /// a network's normalization.
    ///
    /// # Errors
    ///
    /// [`CudaError::OutOfMemory`]; [`CudaError::Argument`] for deviations that are not positive.
    pub fn new(
        device: &CudaDevice,
        fill: [f32; COLORS],
        mean: [f32; COLORS],
        std: [f32; COLORS],
    ) -> Result<Self> {
        if !std.iter().all(|std| *std > 0.0) {
            return Err(CudaError::argument(
                "a color's standard deviation",
                format!("{std:?}"),
                "positive",
            ));
        }
        let inverse = std.map(|std| 1.0 / std);
        let values = [fill, mean, inverse].concat();
        Ok(Self {
            buffer: DeviceBuffer::from_slice(device, &values)?,
        })
    }

    fn address(&self, device: &CudaDevice) -> Result<u64> {
        self.buffer.whole(device, "colors", 3 * COLORS)
    }
}

/// Packed plans of one batch or of many, on the device.
#[derive(Debug)]
pub struct DevicePlans {
    buffer: DeviceBuffer<i32>,
    count: usize,
    limits: PlanLimits,
}

impl DevicePlans {
    /// Checks plans and copies them to the device.
    ///
    /// # Errors
    ///
    /// [`CudaError::Argument`] for the first plan that refers to what is not there;
    /// [`CudaError::OutOfMemory`].
    pub fn new(device: &CudaDevice, plans: &[ImagePlan], limits: PlanLimits) -> Result<Self> {
        Ok(Self {
            buffer: DeviceBuffer::from_slice(device, &pack_plans(plans, &limits)?)?,
            count: plans.len(),
            limits,
        })
    }

    /// How many plans there are.
    pub fn count(&self) -> usize {
        self.count
    }

    /// What they may refer to.
    pub fn limits(&self) -> &PlanLimits {
        &self.limits
    }
}

/// The plans of one batch, at a place of their own: work that is recorded knows their address, so
/// the plans of each batch are copied there.
#[derive(Debug)]
pub struct BatchPlans {
    buffer: DeviceBuffer<i32>,
    count: usize,
    limits: PlanLimits,
}

impl BatchPlans {
    /// Room for `count` plans that refer to nothing beyond `limits`.
    ///
    /// # Errors
    ///
    /// [`CudaError::OutOfMemory`].
    pub fn new(device: &CudaDevice, count: usize, limits: PlanLimits) -> Result<Self> {
        let empty = pack_plans(&vec![ImagePlan::plain(0, 0); count], &limits)?;
        Ok(Self {
            buffer: DeviceBuffer::from_slice(device, &empty)?,
            count,
            limits,
        })
    }

    /// Takes the plans from number `first` on.
    ///
    /// # Errors
    ///
    /// [`CudaError::Argument`] if there are not as many, or if they were made for other limits:
    /// what is recorded has been checked against these.
    pub fn take(&mut self, plans: &DevicePlans, first: usize) -> Result<()> {
        if plans.limits != self.limits {
            return Err(CudaError::argument(
                "what plans were made for",
                format!("{:?}", plans.limits),
                format!("{:?}", self.limits),
            ));
        }
        let place = Place {
            offset: first * PLAN_LEN,
            len: self.count * PLAN_LEN,
        };
        self.buffer.copy(&plans.buffer, place)
    }

    /// How many plans there are.
    pub fn count(&self) -> usize {
        self.count
    }

    /// What they may refer to.
    pub fn limits(&self) -> &PlanLimits {
        &self.limits
    }

    /// Their address.
    pub(crate) fn address(&self, device: &CudaDevice, batch: usize) -> Result<u64> {
        self.buffer.whole(device, "plans", batch * PLAN_LEN)
    }

    /// Refuses images and triggers that plans may refer to more of than there are.
    fn check(
        &self,
        images: Option<&DeviceImages>,
        size: (usize, usize),
        triggers: &DeviceTriggers,
    ) -> Result<()> {
        let limits = &self.limits;
        let fits = images.is_none_or(|images| limits.images <= images.count)
            && limits.size == size
            && limits.triggers <= triggers.count
            && limits.trigger_size == triggers.size;
        if fits {
            return Ok(());
        }
        Err(CudaError::argument(
            "what plans were made for",
            format!("{limits:?}"),
            format!(
                "no more than there is, on {size:?}: {:?} images, {} triggers of {:?}",
                images.map(DeviceImages::count),
                triggers.count,
                triggers.size
            ),
        ))
    }
}

impl CudaDevice {
    /// Makes a batch: an image for each plan, normalized, `(batch, height, width, 8)`, channels
    /// beyond the third zero.
    ///
    /// # Errors
    ///
    /// [`CudaError::Argument`] for buffers of another shape.
    #[allow(unsafe_code)]
    pub fn load_images(
        &self,
        images: &DeviceImages,
        triggers: &DeviceTriggers,
        colors: &Colors,
        plans: &BatchPlans,
        output: &mut Values,
    ) -> Result<()> {
        plans.check(Some(images), images.size, triggers)?;
        let batch = plans.count;
        let (height, width) = images.size;
        let (rows, columns) = triggers.size;
        let pixels = batch * height * width;
        let precision = output.precision();
        let arguments = [
            Argument::Pointer(images.pixels.whole(
                self,
                "images",
                images.count * COLORS * height * width,
            )?),
            Argument::Pointer(plans.address(self, batch)?),
            Argument::Pointer(triggers.pixels.whole(
                self,
                "triggers",
                triggers.count * COLORS * rows * columns,
            )?),
            Argument::Pointer(
                triggers
                    .cover
                    .whole(self, "a trigger's cover", rows * columns)?,
            ),
            Argument::Pointer(colors.address(self)?),
            Argument::Int(int(height)?),
            Argument::Int(int(width)?),
            Argument::Int(int(rows)?),
            Argument::Int(int(columns)?),
            Argument::Int(int(batch)?),
            Argument::Pointer(output.whole(
                self,
                "a batch of images",
                pixels * CHANNEL_MULTIPLE,
                precision,
            )?),
        ];
        // SAFETY: the arguments of `load_images`, whose lengths were checked; the plans refer to
        // nothing outside of these images and triggers.
        unsafe {
            self.launch(
                precision,
                Kernel::LoadImages,
                Grid::list(pixels)?,
                &arguments,
            )
        }
    }

    /// The gradient of the trigger that each image of a batch was stamped with,
    /// `(batch, 3, h, w)`, from that of the result of the network's first convolution: by its weights,
    /// divided by the deviation of each color, times the trigger's share of the pixel. Zero where
    /// nothing was stamped. The gradient of the rest of the images is computed nowhere.
    ///
    /// # Errors
    ///
    /// [`CudaError::Argument`] for buffers of another shape, or a convolution of another stride than 1.
    #[allow(unsafe_code)]
    pub fn trigger_gradient(
        &self,
        (first, weights, place): (&Convolution, &Values, Place),
        gradient: &Values,
        (triggers, colors, plans): (&DeviceTriggers, &Colors, &BatchPlans),
        output: &mut DeviceBuffer<f32>,
    ) -> Result<()> {
        let (shape, size) = (first.shape(), first.size());
        if shape.stride != 1 || shape.in_channels != CHANNEL_MULTIPLE {
            return Err(CudaError::argument(
                "the first convolution",
                format!("{} channels, stride {}", shape.in_channels, shape.stride),
                format!("{CHANNEL_MULTIPLE} channels, stride 1"),
            ));
        }
        plans.check(None, size, triggers)?;
        let batch = plans.count;
        let (rows, columns) = triggers.size;
        let precision: Precision = gradient.precision();
        let len = batch * size.0 * size.1 * shape.out_channels;
        let count = batch * COLORS * rows * columns;
        let arguments = [
            Argument::Pointer(gradient.whole(self, "a convolution's gradient", len, precision)?),
            Argument::Pointer(weights.at(self, place, first.weights_len(), precision)?),
            Argument::Pointer(plans.address(self, batch)?),
            Argument::Pointer(
                triggers
                    .cover
                    .whole(self, "a trigger's cover", rows * columns)?,
            ),
            Argument::Pointer(colors.address(self)?),
            Argument::Int(int(size.0)?),
            Argument::Int(int(size.1)?),
            Argument::Int(int(shape.out_channels)?),
            Argument::Int(int(shape.kernel)?),
            Argument::Int(int(rows)?),
            Argument::Int(int(columns)?),
            Argument::Pointer(output.whole(self, "the gradient of triggers", count)?),
        ];
        let grid = Grid::warps(count)?;
        // SAFETY: as above, for `trigger_gradient`, a block of which is a warp: a trigger lies inside of
        // its image, and what a tap reads beyond that is left out.
        unsafe { self.launch(precision, Kernel::TriggerGradient, grid, &arguments) }
    }
}
