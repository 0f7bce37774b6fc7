//! The same networks on an NVIDIA GPU: the graph walked by `mesa_kernels::cuda`, without a graph
//! of its own. States go in and out under the names of [`crate::Network::state`], so that
//! checkpoints are the same on every device.
//!
//! ```text
//! plan      where parameters lie, which gradient takes which buffer, in what order
//! state     named tensors ↔ the flat buffers of the plan
//! engine    buffers of one batch size; forward and backward over the units
//! network   training          frozen   evaluation, gradients of triggers
//! training  a run on recipes  classifier   what all classifiers are asked
//! perceptrons   MESA's generator and statistics network
//! check     whole steps against the same on the CPU
//! ```
//!
//! Nothing is allocated in a step and nothing is read back: losses and right answers add up on the
//! device until somebody asks for them. A step is recorded when it comes for the second time, and
//! from then on is started as a whole; what changes from step to step (plans, rates, the target) is
//! read from buffers that are written before it.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::Hash;

mod check;
mod classifier;
mod engine;
mod frozen;
mod network;
mod perceptrons;
mod plan;
mod state;
mod training;

pub use check::check_steps;
pub(crate) use classifier::CudaClassifier;
pub use frozen::{CudaFrozen, TriggerGradient};
pub use network::{CudaNetwork, StepSettings};
pub(crate) use perceptrons::{CudaGenerator, CudaStatistics};
pub(crate) use training::{CudaTraining, STRETCH};

pub use mesa_kernels::cuda::{CudaDevice, CudaError, Precision};
use mesa_kernels::cuda::{DeviceImages, DevicePlans, DeviceTriggers, PlanLimits};

use crate::Result;

/// What a map holds for a key, made first if it is not there yet.
fn get_or_make<K: Eq + Hash, V>(
    map: &mut HashMap<K, V>,
    key: K,
    make: impl FnOnce() -> Result<V>,
) -> Result<&mut V> {
    Ok(match map.entry(key) {
        Entry::Occupied(known) => known.into_mut(),
        Entry::Vacant(place) => place.insert(make()?),
    })
}

/// How a network is computed on a GPU.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct CudaSettings {
    /// In what convolutions and activations are computed.
    pub precision: Precision,
    /// Whether only algorithms are used that give the same bits every time.
    pub deterministic: bool,
}

/// A GPU, and how networks are computed on it. Clones are the same opening of it: their work runs in
/// order, on one stream.
#[derive(Clone, Debug)]
pub struct Gpu {
    /// The device.
    pub device: CudaDevice,
    /// How networks are computed.
    pub settings: CudaSettings,
}

/// Images of a batch on the device, and what is done to them.
#[derive(Copy, Clone, Debug)]
pub struct DeviceBatch<'a> {
    /// All images.
    pub images: &'a DeviceImages,
    /// All triggers.
    pub triggers: &'a DeviceTriggers,
    /// The plans of this batch and of others.
    pub plans: &'a DevicePlans,
    /// The number of this batch's first plan.
    pub first: usize,
}

/// What recorded work knows of a batch: where its images and triggers lie, and to which of them
/// plans may refer. A batch with another key needs a recording of its own.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
struct BatchKey {
    images: u64,
    triggers: u64,
    limits: PlanLimits,
}

impl DeviceBatch<'_> {
    fn key(&self) -> BatchKey {
        BatchKey {
            images: self.images.identity(),
            triggers: self.triggers.identity(),
            limits: *self.plans.limits(),
        }
    }
}
