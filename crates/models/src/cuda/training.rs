//! A training run on a GPU: recipes go there a stretch at a time, losses come back with it.

use mesa_kernels::ImagePlan;
use mesa_kernels::cuda::{DeviceImages, DevicePlans, PlanLimits};

use super::classifier::{PlacedTriggers, nothing};
use super::{CudaNetwork, DeviceBatch, Gpu, StepSettings};
use crate::state::NamedTensors;
use crate::{BatchLoss, Error, ImagePool, Network, Recipe, Result, Triggers};

/// Steps that are asked for at once. The device works on one stretch while the host makes the
/// next; losses are known, and a run can be stopped and saved, between two.
pub(crate) const STRETCH: usize = 8;

/// A network in training, the images it is trained on, and room for triggers.
#[derive(Debug)]
pub(crate) struct CudaTraining {
    gpu: Gpu,
    network: CudaNetwork,
    pool: ImagePool,
    images: DeviceImages,
    triggers: Option<PlacedTriggers>,
}

impl CudaTraining {
    /// Moves a network and its velocities to the device.
    pub(crate) fn start(
        gpu: &Gpu,
        network: &Network,
        velocity: &NamedTensors,
        pool: &ImagePool,
        batch_size: usize,
    ) -> Result<Self> {
        let device = &gpu.device;
        let fill = pool.fill();
        let mut on_device = CudaNetwork::new(device, network, gpu.settings, batch_size, fill)?;
        if !velocity.is_empty() {
            on_device.load_state(&network.state()?, velocity)?;
        }
        Ok(Self {
            gpu: gpu.clone(),
            network: on_device,
            images: DeviceImages::new(device, pool.pixels(), pool.size())?,
            pool: pool.clone(),
            triggers: None,
        })
    }

    /// Asks for a step on each recipe, and returns before they are done.
    pub(crate) fn ask(&mut self, recipes: &[Recipe], settings: &[StepSettings]) -> Result<()> {
        let batch_size = self.network.batch_size();
        if let Some(other) = recipes
            .iter()
            .find(|recipe| recipe.plans.len() != batch_size)
        {
            return Err(Error::Batch {
                what: "the number of images in a batch",
                expected: batch_size.to_string(),
                found: other.plans.len().to_string(),
            });
        }
        let like = like(recipes)?;
        let len = like.pixels.len() / like.count().max(1);
        let (plans, pixels) = together(recipes);
        // Always as much room, so that addresses stay the same.
        let room = if len == 0 { 0 } else { STRETCH * batch_size };
        if !self
            .triggers
            .as_ref()
            .is_some_and(|set| set.fits(like, room))
        {
            self.triggers = None;
            self.triggers = Some(PlacedTriggers::new(&self.gpu.device, like, room)?);
        }
        let Some(triggers) = &mut self.triggers else {
            return Err(nothing("triggers on the device"));
        };
        // Of those before that are left behind these no plan speaks.
        triggers.on_device.write_first(&pixels)?;
        let limits = PlanLimits {
            images: self.pool.len(),
            size: self.pool.size(),
            classes: self.network.config().num_classes,
            triggers: room.max(1),
            trigger_size: like.size,
        };
        let plans = DevicePlans::new(&self.gpu.device, &plans, limits)?;
        for (step, settings) in settings.iter().enumerate() {
            let batch = DeviceBatch {
                images: &self.images,
                triggers: &triggers.on_device,
                plans: &plans,
                first: step * batch_size,
            };
            self.network.step(batch, settings)?;
        }
        Ok(())
    }

    /// Waits for what was asked for: its mean loss, and the images that were classified right.
    pub(crate) fn take_loss(&mut self) -> Result<BatchLoss> {
        self.network.take_loss()
    }

    /// The network's tensors and the velocities, as they are on the device.
    pub(crate) fn state(&self) -> Result<(NamedTensors, NamedTensors)> {
        Ok((self.network.state()?, self.network.velocity_state()?))
    }
}

/// The plans and the triggers of all recipes, one after another: plans refer to triggers by their
/// place among all.
fn together(recipes: &[Recipe]) -> (Vec<ImagePlan>, Vec<f32>) {
    let (mut plans, mut pixels, mut before) = (Vec::new(), Vec::new(), 0);
    for recipe in recipes {
        plans.extend(recipe.plans.iter().map(|plan| {
            let mut plan = *plan;
            if let Some(stamp) = &mut plan.stamp {
                stamp.trigger += before;
            }
            plan
        }));
        pixels.extend_from_slice(&recipe.triggers.pixels);
        before += recipe.triggers.count();
    }
    (plans, pixels)
}

/// Triggers that stand for those of all recipes, which differ in number and values only.
fn like(recipes: &[Recipe]) -> Result<&Triggers> {
    let first = recipes.first().ok_or_else(|| nothing("batches"))?;
    let shape = |triggers: &Triggers| (triggers.size, triggers.mask.clone(), triggers.opacity);
    let stamping = || {
        recipes
            .iter()
            .map(|recipe| &recipe.triggers)
            .filter(|t| t.count() > 0)
    };
    let chosen = stamping().next().unwrap_or(&first.triggers);
    match stamping().find(|triggers| shape(triggers) != shape(chosen)) {
        None => Ok(chosen),
        Some(other) => Err(Error::Batch {
            what: "a batch's triggers",
            expected: format!("like those before, {:?}", shape(chosen)),
            found: format!("{:?}", shape(other)),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recipe(triggers: Triggers) -> Recipe {
        Recipe {
            plans: Vec::new(),
            triggers,
        }
    }

    #[test]
    fn every_image_keeps_its_own_trigger() {
        let mut recipes = Vec::new();
        for values in [vec![1.0, 2.0], vec![], vec![3.0]] {
            let mut recipe = Recipe::plain(&[0, 1, 2], &[0; 3]);
            let images = if values.len() == 2 {
                vec![0, 2]
            } else {
                vec![1; values.len()]
            };
            let places = vec![(0, 0); values.len()];
            let pixels: Vec<f32> = values.iter().flat_map(|value| [*value; 3]).collect();
            recipe.stamp(&images, &places, Triggers::opaque(pixels, (1, 1)));
            recipes.push(recipe);
        }
        let (plans, pixels) = together(&recipes);
        let stamped = plans
            .iter()
            .map(|plan| Some(pixels[3 * plan.stamp?.trigger] as u8));
        let stamped: Vec<Option<u8>> = stamped.collect();
        let (none, one) = ([None; 3], [None, Some(3), None]);
        assert_eq!(stamped, [[Some(1), None, Some(2)], none, one].concat());
    }

    #[test]
    fn batches_without_a_trigger_go_with_any() {
        let none = || recipe(Triggers::none());
        let small = || recipe(Triggers::opaque(vec![0.5; 12], (2, 2)));
        assert_eq!(like(&[none(), small(), none()]).unwrap().size, (2, 2));
        assert_eq!(like(&[none()]).unwrap().count(), 0);
        let large = recipe(Triggers::opaque(vec![0.5; 27], (3, 3)));
        assert!(like(&[small(), large]).is_err());
        assert!(like(&[]).is_err());
    }
}
