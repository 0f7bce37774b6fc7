//! Feature maps and weights as a Hopper card copies them into shared memory, for the convolutions of
//! `hopper.rs`: a box at a time, zeros beyond the border.

use std::ffi::c_void;

use cudarc::driver::{DeviceRepr, DriverError, sys};

use super::algorithm::OwnShape;

/// Channels that lie in one row of shared memory; as in `hopper.cu`.
pub(super) const SLICE: usize = 64;

/// Images of feature maps, or weights, as the hardware copies them: a box at a time, zeros beyond.
#[derive(Copy, Clone, Debug)]
#[repr(transparent)]
pub(super) struct Map(sys::CUtensorMap);

// SAFETY: a kernel takes it by value, as `__grid_constant__ CUtensorMap`.
#[allow(unsafe_code)]
unsafe impl DeviceRepr for Map {}

/// Pixels of a tile of images of a convolution's output; as in `hopper_tile.cuh`.
#[derive(Copy, Clone, Debug)]
pub(super) struct Pixels {
    /// Columns of an image.
    side: u32,
    /// Rows of each image.
    pub(super) rows: u32,
    /// Images.
    images: u32,
}

impl Pixels {
    /// Those of a tile of `count` pixels.
    pub(super) fn of(shape: OwnShape, count: usize) -> Self {
        let side = shape.side();
        let rows = side.min(count / side);
        Self {
            side: side as u32,
            rows: rows as u32,
            images: (count / (rows * side)) as u32,
        }
    }

    /// Feature maps of which every `step.0`th column and `step.1`th row of these images is copied, from
    /// the first on, `rows` of them; in the order (row, image, column), a slice of channels each. They
    /// are `step.0` times as large as the output.
    pub(super) fn map(
        self,
        channels: usize,
        batch: u32,
        address: u64,
        step: (u32, u32),
        rows: u32,
    ) -> Result<Map, DriverError> {
        let side = u64::from(self.side * step.0);
        let (pixel, images) = (2 * channels as u64, u64::from(batch));
        Map::new(
            address,
            [channels as u64, side, images, side],
            [pixel, side * side * pixel, side * pixel],
            [SLICE as u32, step.0 * self.side, self.images, step.1 * rows],
            [1, step.0, 1, step.1],
        )
    }
}

/// A convolution's input, `rows` rows of pixels at a time; the first layer's as a whole.
pub(super) fn input_map(
    shape: OwnShape,
    batch: u32,
    address: u64,
    rows: u32,
) -> Result<Map, DriverError> {
    let rows = match shape {
        OwnShape::First => shape.side() as u32 + 2,
        _ => rows,
    };
    Map::images(shape.inputs(), shape.side(), batch, address, rows)
}

/// A convolution's output, `rows` rows of pixels at a time.
pub(super) fn output_map(
    shape: OwnShape,
    batch: u32,
    address: u64,
    rows: u32,
) -> Result<Map, DriverError> {
    Map::images(shape.outputs(), shape.side(), batch, address, rows)
}

impl Map {
    /// Feature maps, a slice of channels and some rows of pixels at a time, each with a pixel of
    /// padding.
    fn images(
        channels: usize,
        side: usize,
        batch: u32,
        address: u64,
        rows: u32,
    ) -> Result<Self, DriverError> {
        let (slice, row) = (channels.min(SLICE) as u32, side as u64);
        let pixel = 2 * channels as u64;
        Self::new(
            address,
            [channels as u64, row, row, u64::from(batch)],
            [pixel, row * pixel, row * row * pixel],
            [slice, side as u32 + 1, rows, 1],
            [1; 4],
        )
    }

    /// Weights, one tap at a time.
    pub(super) fn weights(shape: OwnShape, address: u64) -> Result<Self, DriverError> {
        let (inputs, outputs) = (shape.inputs() as u64, shape.outputs());
        Self::new(
            address,
            [inputs, 9, outputs as u64],
            [2 * inputs, 18 * inputs],
            [SLICE as u32, 1, outputs as u32],
            [1; 3],
        )
    }

    /// Weights, so many outputs of a slice of inputs of one tap at a time; by input, output, row and column
    /// of the kernel.
    pub(super) fn half_tap(
        shape: OwnShape,
        address: u64,
        outputs: usize,
    ) -> Result<Self, DriverError> {
        let (inputs, side) = (shape.inputs() as u64, shape.kernel() as u64);
        Self::new(
            address,
            [inputs, shape.outputs() as u64, side, side],
            [2 * side * side * inputs, 2 * side * inputs, 2 * inputs],
            [SLICE as u32, outputs as u32, 1, 1],
            [1; 4],
        )
    }

    /// bf16 values of `sizes`, innermost first, `strides` bytes apart but for the innermost; of a box
    /// every `steps`th. Rows of a box are swizzled if they are a slice of channels.
    #[allow(unsafe_code)]
    fn new<const N: usize, const M: usize>(
        address: u64,
        sizes: [u64; N],
        strides: [u64; M],
        a_box: [u32; N],
        steps: [u32; N],
    ) -> Result<Self, DriverError> {
        const { assert!(M + 1 == N, "the innermost has no stride") }
        let mut map = sys::CUtensorMap { opaque: [0; 16] };
        let swizzle = if a_box[0] == SLICE as u32 {
            sys::CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_128B
        } else {
            sys::CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_NONE
        };
        // SAFETY: the map is written, arrays of as many numbers as there are dimensions (strides but
        // for one) are read; the address is not.
        unsafe {
            sys::cuTensorMapEncodeTiled(
                &raw mut map,
                sys::CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
                N as u32,
                address as *mut c_void,
                sizes.as_ptr(),
                strides.as_ptr(),
                a_box.as_ptr(),
                steps.as_ptr(),
                sys::CUtensorMapInterleave::CU_TENSOR_MAP_INTERLEAVE_NONE,
                swizzle,
                sys::CUtensorMapL2promotion::CU_TENSOR_MAP_L2_PROMOTION_L2_128B,
                sys::CUtensorMapFloatOOBfill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
            )
        }
        .result()?;
        Ok(Self(map))
    }
}
