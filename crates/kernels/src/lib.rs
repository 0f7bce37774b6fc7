//! The differentiable work that training a small image classifier spends its time in: 2-D
//! convolution, batch norm with the residual sum and ReLU that follow it, and the classifier's
//! head. Forward, input gradient and weight gradient are written by hand, without a graph, and
//! nothing is computed that nobody asked for.
//!
//! - [`Layout`]: how images lie in memory — channels last, with a border of zeros.
//! - [`Conv`], [`ConvInputGradient`]: convolution, by Winograd's transform where it applies.
//! - [`Unit`]: convolution + batch norm (+ residual) (+ ReLU) over a batch, in training.
//! - [`fold`], [`FixedNorm`], [`gate_gradient`]: the same where batch norm's statistics are fixed.
//! - [`multiply`]: products of a [`Matrix`] with another, for the perceptrons.
//! - [`Head`], [`cross_entropy`], [`softmax`]: what comes after the last unit.
//! - [`ImagePlan`], [`TargetGradient`]: what a device is asked about a batch of images.
//! - [`Path`]: AVX-512, AVX2 or portable code, chosen at run time (`MESA_CPU` overrules).
//! - [`multiply_add`]: what the processor can do at most.
//! - `cuda` (feature `cuda`): the same work on an NVIDIA GPU.
//!
//! Work is spread over rayon's current thread pool. Figures are the same to the last bit for any
//! number of threads; they differ in rounding between paths.
//!
//! This is the only crate with `unsafe` code. Implementations for a device live in a folder of
//! its name (`cpu/`), behind the types above.
//!
//! # Examples
//!
//! ```
//! use mesa_kernels::{Conv, ConvShape, Finish, Layout, Path, Start};
//!
//! // One 3×3 kernel of ones counts the pixels around each pixel of a white 2×2 image.
//! let shape = ConvShape { in_channels: 1, out_channels: 1, kernel: 3, stride: 1 };
//! let input = Layout::pixels(1, 2, 2);
//! let output = Layout::features(1, 2, 2, 0);
//! let mut image = vec![0.0; input.len()];
//! for (row, column) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
//!     image[input.offset(row, column)] = 1.0;
//! }
//! let weights = shape.pack(&[1.0; 9])?;
//! let mut counts = vec![0.0; output.len()];
//! Conv::new(shape, &input, &output)?.forward(
//!     Path::current()?,
//!     &[&image],
//!     &weights,
//!     &mut [&mut counts],
//!     Start::Zero,
//!     Finish::Linear,
//! );
//! assert_eq!(counts[output.offset(1, 0)], 4.0);
//! # Ok::<(), mesa_kernels::Error>(())
//! ```

mod batch_norm;
mod conv;
mod cpu;
#[cfg(feature = "cuda")]
pub mod cuda;
// Without the feature its host logic is compiled for its tests alone.
#[cfg(all(test, not(feature = "cuda")))]
#[allow(dead_code, unused_imports, unreachable_pub)]
mod cuda;
mod dense;
mod error;
mod fixed_norm;
mod layout;
mod matrix;
mod peak;
mod plan;
mod unit;
mod winograd;

pub use batch_norm::{EPSILON, gate_gradient};
pub use conv::{Conv, ConvInputGradient, ConvShape, Finish, Start};
pub use cpu::simd::Path;
pub use dense::{Head, cross_entropy, softmax};
pub use error::{Error, Result};
pub use fixed_norm::{FixedNorm, fold};
pub use layout::{BLOCK, Buffer, Layout};
pub use matrix::{Matrix, multiply};
pub use peak::multiply_add;
pub use plan::{ImagePlan, Stamp, TargetGradient};
pub use unit::{
    Activations, BatchMoments, Completed, GradientTarget, Input, Residual, Scratch, Unit,
    UnitGradients, UnitWeights,
};
