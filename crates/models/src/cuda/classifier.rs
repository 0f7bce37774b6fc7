//! A classifier on a GPU behind the interface that all classifiers share.

use std::sync::{Mutex, PoisonError};

use candle::{Device, Tensor};
use mesa_kernels::cuda::{
    CudaDevice, DeviceImages, DevicePlans, DeviceTriggers, PlanLimits, TargetGradient,
};

use super::{CudaFrozen, DeviceBatch, Gpu};
use crate::graph::COLORS;
use crate::{Classifier, Error, ImagePool, Network, Normalization, Recipe, Result, Triggers};

/// Sets of triggers of different numbers or shapes that stay on the device.
const KEPT_TRIGGERS: usize = 4;

/// A network on a GPU, with the images that it was last asked about.
#[derive(Debug)]
pub(crate) struct CudaClassifier {
    num_classes: usize,
    normalization: Normalization,
    held: Mutex<Held>,
}

#[derive(Debug)]
struct Held {
    device: CudaDevice,
    frozen: CudaFrozen,
    images: Option<(ImagePool, DeviceImages)>,
    triggers: Vec<PlacedTriggers>,
}

/// Triggers on the device, and what they are besides their values.
#[derive(Debug)]
pub(super) struct PlacedTriggers {
    count: usize,
    size: (usize, usize),
    mask: Option<Vec<bool>>,
    opacity: f32,
    pub(super) on_device: DeviceTriggers,
}

impl PlacedTriggers {
    /// Room for `count` triggers like these; at least one, as kernels want it.
    pub(super) fn new(device: &CudaDevice, like: &Triggers, count: usize) -> Result<Self> {
        let count = count.max(1);
        let zeros = vec![0.0; count * COLORS * like.size.0 * like.size.1];
        let mask = like.mask.as_deref();
        Ok(Self {
            count,
            size: like.size,
            mask: like.mask.clone(),
            opacity: like.opacity,
            on_device: DeviceTriggers::new(device, &zeros, like.size, mask, like.opacity)?,
        })
    }

    /// Whether `count` triggers like these fit exactly.
    pub(super) fn fits(&self, like: &Triggers, count: usize) -> bool {
        self.count == count.max(1)
            && self.size == like.size
            && self.mask == like.mask
            && self.opacity.to_bits() == like.opacity.to_bits()
    }
}

impl CudaClassifier {
    pub(crate) fn new(gpu: &Gpu, network: &Network) -> Result<Self> {
        Ok(Self {
            num_classes: network.config().num_classes,
            normalization: network.normalization(),
            held: Mutex::new(Held {
                device: gpu.device.clone(),
                frozen: CudaFrozen::new(&gpu.device, network, gpu.settings)?,
                images: None,
                triggers: Vec::new(),
            }),
        })
    }

    /// Runs `work` on a batch made by `recipe`.
    fn with_batch<T>(
        &self,
        pool: &ImagePool,
        recipe: &Recipe,
        work: impl FnOnce(&mut CudaFrozen, DeviceBatch<'_>) -> Result<T>,
    ) -> Result<T> {
        recipe.check_uncropped()?;
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.take_images(pool)?;
        let at = held.take_triggers(&recipe.triggers)?;
        let Held {
            device,
            frozen,
            images,
            triggers,
        } = &mut *held;
        let Some((_, images)) = images else {
            return Err(nothing("images on the device"));
        };
        let limits = PlanLimits {
            images: pool.len(),
            size: pool.size(),
            classes: self.num_classes,
            triggers: recipe.triggers.count().max(1),
            trigger_size: recipe.triggers.size,
        };
        let plans = DevicePlans::new(device, &recipe.plans, limits)?;
        let batch = DeviceBatch {
            images,
            triggers: &triggers[at].on_device,
            plans: &plans,
            first: 0,
        };
        work(frozen, batch)
    }
}

impl Held {
    fn take_images(&mut self, pool: &ImagePool) -> Result<()> {
        let known = self.images.as_ref();
        if known.is_some_and(|(known, _)| known.is_same(pool)) {
            return Ok(());
        }
        // Recordings of work on the old ones keep them until they are pushed out themselves.
        self.images = None;
        let images = DeviceImages::new(&self.device, pool.pixels(), pool.size())?;
        self.images = Some((pool.clone(), images));
        Ok(())
    }

    /// Puts triggers on the device; returns which of the sets they are.
    fn take_triggers(&mut self, triggers: &Triggers) -> Result<usize> {
        let count = triggers.count();
        let known = self
            .triggers
            .iter()
            .position(|set| set.fits(triggers, count));
        let at = if let Some(at) = known {
            at
        } else {
            if self.triggers.len() == KEPT_TRIGGERS {
                self.triggers.remove(0);
            }
            let set = PlacedTriggers::new(&self.device, triggers, count)?;
            self.triggers.push(set);
            self.triggers.len() - 1
        };
        if count > 0 {
            self.triggers[at].on_device.write(&triggers.pixels)?;
        }
        Ok(at)
    }
}

impl Classifier for CudaClassifier {
    fn num_classes(&self) -> usize {
        self.num_classes
    }

    fn normalization(&self) -> Normalization {
        self.normalization
    }

    fn scores(&self, pool: &ImagePool, recipe: &Recipe) -> Result<Vec<f32>> {
        let count = recipe.plans.len();
        self.with_batch(pool, recipe, |frozen, batch| {
            Ok(frozen.logits(batch, count)?.read()?)
        })
    }

    fn trigger_gradient(
        &self,
        pool: &ImagePool,
        recipe: &Recipe,
        target_class: u32,
        wanted: TargetGradient,
    ) -> Result<(Vec<f32>, Tensor)> {
        let count = recipe.places()?.len();
        let (rows, columns) = recipe.triggers.size;
        self.with_batch(pool, recipe, |frozen, batch| {
            let found = frozen.trigger_gradient(batch, count, target_class, wanted)?;
            let (probabilities, gradients) = (found.probabilities.read()?, found.gradients.read()?);
            let shape = (count, COLORS, rows, columns);
            let gradients = Tensor::from_vec(gradients, shape, &Device::Cpu)?;
            Ok((probabilities, gradients))
        })
    }
}

pub(super) fn nothing(what: &'static str) -> Error {
    Error::Batch {
        what,
        expected: "some".to_owned(),
        found: "none".to_owned(),
    }
}
