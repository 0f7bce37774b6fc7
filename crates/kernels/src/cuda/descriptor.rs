//! What cuDNN wants described: tensors, weights, convolutions; each destroyed with its owner.

use std::ffi::c_int;

use cudarc::cudnn::{CudnnError, result, sys};

use super::algorithm::{ConvKey, Precision};
use super::device::map_dnn;
use super::failure::Result;

/// cuDNN's handle.
#[derive(Debug)]
pub(super) struct Handle(pub(super) sys::cudnnHandle_t);

impl Handle {
    pub(super) fn new() -> Result<Self, CudnnError> {
        result::create_handle().map(Self)
    }
}

/// What the convolution is allowed to compute with. On cards from Ampere on the default is TF32
/// for f32 data; only FMA means f32.
pub(super) fn math_type(precision: Precision) -> sys::cudnnMathType_t {
    match precision {
        Precision::F32 => sys::cudnnMathType_t::CUDNN_FMA_MATH,
        Precision::Tf32 => sys::cudnnMathType_t::CUDNN_DEFAULT_MATH,
        Precision::Bf16 => sys::cudnnMathType_t::CUDNN_TENSOR_OP_MATH,
    }
}

/// The arithmetic that an offered algorithm wants, as far as the precision allows it: never a
/// conversion to f16, and for f32 nothing but f32.
pub(super) fn kept_math(precision: Precision, offered: u32) -> sys::cudnnMathType_t {
    use sys::cudnnMathType_t::{CUDNN_DEFAULT_MATH, CUDNN_FMA_MATH, CUDNN_TENSOR_OP_MATH};
    [CUDNN_DEFAULT_MATH, CUDNN_FMA_MATH, CUDNN_TENSOR_OP_MATH]
        .into_iter()
        .find(|math| precision != Precision::F32 && *math as u32 == offered)
        .unwrap_or(math_type(precision))
}

fn data_type(precision: Precision) -> sys::cudnnDataType_t {
    match precision {
        Precision::F32 | Precision::Tf32 => sys::cudnnDataType_t::CUDNN_DATA_FLOAT,
        Precision::Bf16 => sys::cudnnDataType_t::CUDNN_DATA_BFLOAT16,
    }
}

/// Sizes as cuDNN takes them.
fn sizes<const N: usize>(sizes: [usize; N]) -> Result<[c_int; N]> {
    let mut result = [0; N];
    for (to, from) in result.iter_mut().zip(sizes) {
        *to = super::launch::int(from)?;
    }
    Ok(result)
}

/// Channels last.
const NHWC: sys::cudnnTensorFormat_t = sys::cudnnTensorFormat_t::CUDNN_TENSOR_NHWC;

/// Feature maps.
#[derive(Debug)]
pub(super) struct Tensor(pub(super) sys::cudnnTensorDescriptor_t);

impl Tensor {
    #[allow(unsafe_code)]
    pub(super) fn new(
        key: &ConvKey,
        channels: usize,
        (height, width): (usize, usize),
    ) -> Result<Self> {
        let dims = sizes([key.batch, channels, height, width])?;
        let made = result::create_tensor_descriptor();
        let tensor = Self(map_dnn(made, "describing a tensor")?);
        let kind = data_type(key.precision);
        // SAFETY: made above.
        let set = unsafe { result::set_tensor4d_descriptor(tensor.0, NHWC, kind, dims) };
        map_dnn(set, "describing a tensor")?;
        Ok(tensor)
    }
}

/// Weights.
#[derive(Debug)]
pub(super) struct Filter(pub(super) sys::cudnnFilterDescriptor_t);

impl Filter {
    #[allow(unsafe_code)]
    pub(super) fn new(key: &ConvKey) -> Result<Self> {
        let dims = sizes([key.out_channels, key.in_channels, key.kernel, key.kernel])?;
        let made = result::create_filter_descriptor();
        let filter = Self(map_dnn(made, "describing weights")?);
        let kind = data_type(key.precision);
        // SAFETY: made above. Dimensions are named in this order whatever the format, which says
        // that they lie as (output, row, column, input).
        let set = unsafe { result::set_filter4d_descriptor(filter.0, kind, NHWC, dims) };
        map_dnn(set, "describing weights")?;
        Ok(filter)
    }
}

/// Padding, stride and arithmetic.
#[derive(Debug)]
pub(super) struct Descriptor(pub(super) sys::cudnnConvolutionDescriptor_t);

impl Descriptor {
    #[allow(unsafe_code)]
    pub(super) fn new(key: &ConvKey) -> Result<Self> {
        let doing = "describing a convolution";
        let [padding, stride] = sizes([key.kernel / 2, key.stride])?;
        let made = result::create_convolution_descriptor();
        let convolution = Self(map_dnn(made, doing)?);
        // SAFETY: made above.
        unsafe {
            map_dnn(
                result::set_convolution2d_descriptor(
                    convolution.0,
                    padding,
                    padding,
                    stride,
                    stride,
                    1,
                    1,
                    sys::cudnnConvolutionMode_t::CUDNN_CROSS_CORRELATION,
                    sys::cudnnDataType_t::CUDNN_DATA_FLOAT,
                ),
                doing,
            )?;
            let math = math_type(key.precision);
            map_dnn(
                result::set_convolution_math_type(convolution.0, math),
                doing,
            )?;
        }
        Ok(convolution)
    }
}

macro_rules! destroyed {
    ($($kind:ident by $destroy:ident),*) => {$(
        #[allow(unsafe_code)]
        impl Drop for $kind {
            fn drop(&mut self) {
                // SAFETY: made once, and destroyed here only. A failure leaves nothing to be done.
                let _ = unsafe { result::$destroy(self.0) };
            }
        }
    )*};
}

destroyed!(
    Handle by destroy_handle,
    Tensor by destroy_tensor_descriptor,
    Filter by destroy_filter_descriptor,
    Descriptor by destroy_convolution_descriptor
);
