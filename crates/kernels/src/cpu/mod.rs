//! The kernels on a CPU.

pub(crate) mod batch_norm;
pub(crate) mod conv;
pub(crate) mod matrix;
pub(crate) mod simd;
pub(crate) mod winograd;
