//! The inputs of the comparisons.

use candle::{Device, Tensor};
use mesa_kernels::cuda::{
    CudaDevice, DeviceImages, DevicePlans, DeviceTriggers, ImagePlan, PlanLimits, Stamp, noise,
};

use crate::Result;
use crate::cuda::DeviceBatch;
use crate::graph::{COLORS, IMAGE_SIDE};

/// Images of a batch, mostly, and all of them: batches overlap, and no two of them are the same.
pub(super) const BATCH: usize = 16;
pub(super) const IMAGES: usize = 24;
pub(super) const CLASSES: usize = 10;
pub(super) const TRIGGER: (usize, usize) = (3, 3);

/// The same images on both sides.
pub(super) struct Inputs {
    pub(super) batch: usize,
    bytes: Vec<u8>,
    patches: Vec<f32>,
    plans: Vec<ImagePlan>,
    limits: PlanLimits,
    images: Tensor,
    labels: Tensor,
    places: Vec<(usize, usize)>,
}

impl Inputs {
    /// The images, in batches of `batch`, with triggers drawn by `seed`; all else is the same for any.
    pub(super) fn new(seed: u32, batch: usize) -> Result<Self> {
        let plane = IMAGE_SIDE * IMAGE_SIDE;
        // Images whose class shows in their shade: those of noise alone are alike, and gradients
        // that cancel say little of the kernels.
        let bytes: Vec<u8> = noise(1, IMAGES * COLORS * plane)
            .iter()
            .enumerate()
            .map(|(at, value)| {
                let (image, color) = (at / (COLORS * plane), at / plane % COLORS);
                let shade = (3 * image + 5 * color) % CLASSES;
                (25.0 * shade as f32 + 15.0 * (value + 1.0)) as u8
            })
            .collect();
        let area = TRIGGER.0 * TRIGGER.1;
        let patches: Vec<f32> = noise(seed, COLORS * area).iter().map(|v| v.abs()).collect();
        let places: Vec<(usize, usize)> = (0..IMAGES).map(|image| (image, 29 - image)).collect();
        let mut pixels: Vec<f32> = bytes.iter().map(|byte| f32::from(*byte) / 255.0).collect();
        let mut plans = Vec::new();
        for (image, &(row, column)) in places.iter().enumerate() {
            let stamp = Stamp {
                trigger: 0,
                row,
                column,
            };
            plans.push(ImagePlan {
                stamp: Some(stamp),
                ..ImagePlan::plain(image, image % CLASSES)
            });
            for (at, value) in patches.iter().enumerate() {
                let (color, y, x) = (at / area, at / TRIGGER.1 % TRIGGER.0, at % TRIGGER.1);
                let plane_at = (image * COLORS + color) * plane;
                pixels[plane_at + (row + y) * IMAGE_SIDE + column + x] = *value;
            }
        }
        let labels: Vec<u32> = plans.iter().map(|plan| plan.label as u32).collect();
        let shape = (IMAGES, COLORS, IMAGE_SIDE, IMAGE_SIDE);
        Ok(Self {
            batch,
            bytes,
            patches,
            plans,
            limits: PlanLimits {
                images: IMAGES,
                size: (IMAGE_SIDE, IMAGE_SIDE),
                classes: CLASSES,
                triggers: 1,
                trigger_size: TRIGGER,
            },
            images: Tensor::from_vec(pixels, shape, &Device::Cpu)?,
            labels: Tensor::from_vec(labels, IMAGES, &Device::Cpu)?,
            places,
        })
    }

    /// The images of the batch from number `first` on.
    pub(super) fn images(&self, first: usize) -> Result<Tensor> {
        Ok(self.images.narrow(0, first, self.batch)?.contiguous()?)
    }

    /// Their labels.
    pub(super) fn labels(&self, first: usize) -> Result<Tensor> {
        Ok(self.labels.narrow(0, first, self.batch)?.contiguous()?)
    }

    /// Where their triggers are.
    pub(super) fn places(&self, first: usize) -> &[(usize, usize)] {
        &self.places[first..][..self.batch]
    }

    pub(super) fn on(&self, device: &CudaDevice) -> Result<OnDevice> {
        self.repeated(device, IMAGES)
    }

    /// A batch of `count` images can begin at number 0: they come again and again.
    pub(super) fn repeated(&self, device: &CudaDevice, count: usize) -> Result<OnDevice> {
        let plans: Vec<ImagePlan> = self.plans.iter().cycle().take(count).copied().collect();
        Ok(OnDevice {
            images: DeviceImages::new(device, &self.bytes, self.limits.size)?,
            triggers: DeviceTriggers::new(device, &self.patches, TRIGGER, None, 1.0)?,
            plans: DevicePlans::new(device, &plans, self.limits)?,
        })
    }
}

/// The images on the GPU.
pub(super) struct OnDevice {
    images: DeviceImages,
    triggers: DeviceTriggers,
    plans: DevicePlans,
}

impl OnDevice {
    /// Puts the triggers of other inputs in the place of these.
    pub(super) fn write_triggers(&mut self, inputs: &Inputs) -> Result<()> {
        Ok(self.triggers.write(&inputs.patches)?)
    }

    pub(super) fn batch(&self, first: usize) -> DeviceBatch<'_> {
        DeviceBatch {
            images: &self.images,
            triggers: &self.triggers,
            plans: &self.plans,
            first,
        }
    }
}

#[cfg(test)]
mod tests {
    use approx::assert_abs_diff_eq;

    use super::*;
    use crate::host::host_values;

    #[test]
    fn plans_and_images_are_the_same_inputs() {
        let inputs = Inputs::new(2, BATCH).unwrap();
        let pixels = host_values(&inputs.images).unwrap();
        let (first, stamp) = (3 * COLORS * 1024, inputs.plans[3].stamp.unwrap());
        let stamped = pixels[first + stamp.row * IMAGE_SIDE + stamp.column];
        assert_abs_diff_eq!(stamped, inputs.patches[0]);
        // Its corner is not stamped.
        assert_abs_diff_eq!(pixels[first], f32::from(inputs.bytes[first]) / 255.0);
        mesa_kernels::cuda::pack_plans(&inputs.plans, &inputs.limits).unwrap();
    }
}
