//! The kernels by name, loaded from the PTX that build.rs has made, and started.

use std::sync::Arc;

use cudarc::driver::{
    CudaContext, CudaFunction, CudaStream, DriverError, LaunchArgs, PushKernelArg,
};
use cudarc::nvrtc::Ptx;

use super::algorithm::Precision;
use super::launch::Grid;

/// The kernels for values of f32, and for values of bf16.
const F32: &str = include_str!(concat!(env!("OUT_DIR"), "/kernels_f32.ptx"));
const BF16: &str = include_str!(concat!(env!("OUT_DIR"), "/kernels_bf16.ptx"));

/// A kernel.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kernel {
    LoadImages,
    TriggerGradient,
    Gather,
    Spread,
    MomentParts,
    Moments,
    FixedMoments,
    Normalize,
    GradientParts,
    GradientFactors,
    ApplyGradient,
    Add,
    Pool,
    Linear,
    CrossEntropy,
    AddToTotals,
    LinearGradient,
    FeatureGradient,
    TargetGradient,
    Descend,
    CopyWeights,
    Product,
    CopyColumns,
    ColumnSums,
    NormLeaky,
    FixedNormLeaky,
    NormLeakyGradient,
    ThroughFunction,
    Adam,
}

/// In the order of [`Kernel`].
const NAMES: [&str; 29] = [
    "load_images",
    "trigger_gradient",
    "gather",
    "spread",
    "moment_parts",
    "moments",
    "fixed_moments",
    "normalize",
    "gradient_parts",
    "gradient_factors",
    "apply_gradient",
    "add",
    "pool",
    "linear",
    "cross_entropy",
    "add_to_totals",
    "linear_gradient",
    "feature_gradient",
    "target_gradient",
    "descend",
    "copy_weights",
    "product",
    "copy_columns",
    "column_sums",
    "norm_leaky",
    "fixed_norm_leaky",
    "norm_leaky_gradient",
    "through_function",
    "adam",
];

/// An argument of a kernel.
#[derive(Copy, Clone, Debug)]
pub(crate) enum Argument {
    /// An address on the device; 0 is null.
    Pointer(u64),
    /// An `int`.
    Int(i32),
    /// A `float`.
    Float(f32),
}

impl Argument {
    /// The next argument of a launch.
    pub(crate) fn push<'a>(&'a self, launch: &mut LaunchArgs<'a>) {
        match self {
            Self::Pointer(address) => launch.arg(address),
            Self::Int(number) => launch.arg(number),
            Self::Float(number) => launch.arg(number),
        };
    }
}

/// All kernels, for both types of values.
#[derive(Debug)]
pub(crate) struct Functions {
    f32: Vec<CudaFunction>,
    bf16: Vec<CudaFunction>,
}

impl Functions {
    /// Hands the kernels to the driver, which compiles them for its card.
    pub(crate) fn load(context: &Arc<CudaContext>) -> Result<Self, DriverError> {
        let load = |ptx: &str| -> Result<Vec<CudaFunction>, DriverError> {
            let module = context.load_module(Ptx::from_src(ptx))?;
            NAMES
                .iter()
                .map(|name| module.load_function(name))
                .collect()
        };
        Ok(Self {
            f32: load(F32)?,
            bf16: load(BF16)?,
        })
    }

    /// Starts a kernel for values of `precision`.
    ///
    /// # Safety
    ///
    /// `arguments` are those of the kernel's declaration in `*.cuh`, in number, order and type, and
    /// every address has room for what the kernel reads and writes for these sizes. What lies there
    /// must live until the stream has come past this launch.
    #[allow(unsafe_code)]
    pub(crate) unsafe fn launch(
        &self,
        stream: &CudaStream,
        precision: Precision,
        kernel: Kernel,
        grid: Grid,
        arguments: &[Argument],
    ) -> Result<(), DriverError> {
        let functions = match precision {
            Precision::F32 | Precision::Tf32 => &self.f32,
            Precision::Bf16 => &self.bf16,
        };
        let mut launch = stream.launch_builder(&functions[kernel as usize]);
        for argument in arguments {
            argument.push(&mut launch);
        }
        // SAFETY: the caller's promise.
        unsafe { launch.launch(grid.config(0)) }?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kernel_is_in_the_compiled_texts() {
        for ptx in [F32, BF16] {
            for name in NAMES {
                assert!(ptx.contains(&format!(".entry {name}(")), "{name}");
            }
            assert_eq!(ptx.matches(".entry ").count(), NAMES.len());
        }
        assert_eq!(Kernel::Adam as usize + 1, NAMES.len());
    }

    #[test]
    fn names_stand_in_the_order_of_their_kernels() {
        for (kernel, name) in [
            (Kernel::LoadImages, "load_images"),
            (Kernel::Spread, "spread"),
            (Kernel::Normalize, "normalize"),
            (Kernel::Pool, "pool"),
            (Kernel::TargetGradient, "target_gradient"),
            (Kernel::Descend, "descend"),
            (Kernel::Product, "product"),
            (Kernel::NormLeaky, "norm_leaky"),
        ] {
            assert_eq!(NAMES[kernel as usize], name);
        }
    }
}
