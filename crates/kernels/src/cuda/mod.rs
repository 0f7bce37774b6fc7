//! The same work on an NVIDIA GPU: convolutions by cuDNN, on a Hopper card some of them, and everything
//! else, by own kernels.
//!
//! Feature maps lie channels-last without a border, channels padded to a multiple of
//! [`CHANNEL_MULTIPLE`], in bf16 or f32 ([`Precision`]); statistics, sums, losses and master
//! weights are f32. Everything runs on one stream in the order in which it is asked for, so a
//! buffer is never written while it is read. Lengths are checked here, on the host, before
//! anything is started; what the device refuses comes back as a [`CudaError`].
//!
//! ```text
//! algorithm  bf16  failure  filter  launch  library             logic of the host, tested without a GPU
//! packing  priority  turns
//! device  buffer  function  graph                               the device, its memory, its kernels, recordings
//! mark                                                          times and versions, for measurements
//! descriptor  dnn  hopper  hopper_map  conv  images  norm  head  optimizer    what is computed
//! matrix  perceptron                                            what MESA's perceptrons are made of
//! check                                                         all of it against plain computations in f64
//! kernels.cu  hopper.cu  *.cuh                                  the kernels, compiled by build.rs
//! ```

mod algorithm;
mod bf16;
mod check;
mod failure;
mod filter;
mod launch;
mod library;
mod packing;
#[cfg(any(feature = "cuda", test))]
mod priority;
#[cfg(any(feature = "cuda", test))]
mod turns;

#[cfg(feature = "cuda")]
mod buffer;
#[cfg(feature = "cuda")]
mod conv;
#[cfg(feature = "cuda")]
mod descriptor;
#[cfg(feature = "cuda")]
mod device;
#[cfg(feature = "cuda")]
mod dnn;
#[cfg(feature = "cuda")]
mod function;
#[cfg(feature = "cuda")]
mod graph;
#[cfg(feature = "cuda")]
mod head;
#[cfg(feature = "cuda")]
mod hopper;
#[cfg(feature = "cuda")]
mod hopper_map;
#[cfg(feature = "cuda")]
mod images;
#[cfg(feature = "cuda")]
mod mark;
#[cfg(feature = "cuda")]
mod matrix;
#[cfg(feature = "cuda")]
mod norm;
#[cfg(feature = "cuda")]
mod optimizer;
#[cfg(feature = "cuda")]
mod perceptron;

#[doc(no_inline)]
pub use crate::{ImagePlan, Stamp, TargetGradient};
pub use algorithm::Precision;
pub use check::{Comparison, noise, relative_error};
pub use failure::{CudaError, Result};
pub use filter::{CHANNEL_MULTIPLE, pack_filter, padded, unpack_filter};
pub use packing::{PLAN_LEN, PlanLimits, pack_plans};

#[cfg(feature = "cuda")]
pub use self::{
    buffer::{DeviceBuffer, Element, Place, Values},
    check::check_kernels,
    conv::Convolution,
    device::{CudaDevice, MemoryUse},
    graph::Replays,
    head::{CudaHead, LinearParameters, Totals},
    images::{BatchPlans, Colors, DeviceImages, DevicePlans, DeviceTriggers},
    mark::{Mark, Versions},
    matrix::{Matrix, MatrixPlace},
    norm::{CudaNorm, Gate, NormParameters, OfResidual, Onward, Residual},
    optimizer::{Descent, DeviceDescent},
    perceptron::{Activation, AdamStep, DeviceAdam, LayerEnd},
};
