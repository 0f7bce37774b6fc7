//! Own convolutions on a Hopper card (`hopper.cu`), for the shapes that [`OwnShape`] lists.

use std::ffi::c_void;
use std::sync::Arc;

use cudarc::driver::{
    CudaContext, CudaFunction, CudaStream, DeviceRepr, DriverError, PushKernelArg, sys,
};
use cudarc::nvrtc::Ptx;

use super::algorithm::{Direction, OwnShape};
use super::function::Argument;
use super::launch::{Grid, WARP};

/// The kernels, compiled for these cards alone.
const CODE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/hopper.cubin"));

/// The cards that they run on.
const COMPUTE_CAPABILITY: (i32, i32) = (9, 0);

/// Bytes of shared memory of a block that convolves an image, and of one of a weights' gradient. As in
/// `hopper.cu`, which says what is where.
fn shared(shape: OwnShape) -> [u32; 2] {
    match shape {
        OwnShape::First => [47_112, 153_280],
        OwnShape::Narrow => [227_536, 163_872],
        OwnShape::Wide => [231_504, 153_632],
    }
}

/// Threads of a group; as in `hopper.cu`.
const GROUP: u32 = 128;

/// Channels that lie in one row of shared memory; as in `hopper.cu`.
const SLICE: usize = 64;

/// Sums of a block of a weights' gradient: 64 outputs, nine taps, 64 inputs or all there are.
fn sums(shape: OwnShape) -> usize {
    SLICE * 9 * shape.inputs().min(SLICE)
}

/// The kernels of one shape.
#[derive(Debug)]
struct Kernels {
    convolve: CudaFunction,
    /// None where there is none.
    convolve_back: Option<CudaFunction>,
    weigh: CudaFunction,
    add_weights: CudaFunction,
}

/// All kernels.
#[derive(Debug)]
pub(crate) struct Hopper {
    first: Kernels,
    narrow: Kernels,
    wide: Kernels,
}

/// Images of feature maps, or weights, as the hardware copies them: a box at a time, zeros beyond.
#[derive(Copy, Clone, Debug)]
#[repr(transparent)]
struct Map(sys::CUtensorMap);

// SAFETY: a kernel takes it by value, as `__grid_constant__ CUtensorMap`.
#[allow(unsafe_code)]
unsafe impl DeviceRepr for Map {}

/// Where a batch's sums go that batch norm takes its moments from.
#[derive(Copy, Clone, Debug)]
pub(crate) struct Sums {
    /// What is subtracted from each channel before.
    pub(crate) shift: u64,
    /// (2, channels, images) sums.
    pub(crate) parts: u64,
}

impl Hopper {
    /// The kernels, if the card runs them.
    pub(crate) fn load(context: &Arc<CudaContext>) -> Result<Option<Self>, DriverError> {
        if context.compute_capability()? != COMPUTE_CAPABILITY {
            return Ok(None);
        }
        let module = context.load_module(Ptx::from_binary(CODE.to_vec()))?;
        let kernels = |shape: OwnShape| {
            let suffix = match shape {
                OwnShape::First => "first",
                OwnShape::Narrow => "64",
                OwnShape::Wide => "128",
            };
            let load = |name| module.load_function(&format!("{name}_{suffix}"));
            let back = shape.has(Direction::BackwardData);
            let kernels = Kernels {
                convolve: load("convolve")?,
                convolve_back: back.then(|| load("convolve_back")).transpose()?,
                weigh: load("weigh")?,
                add_weights: load("add_weights")?,
            };
            let attribute =
                sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            let [image, bands] = shared(shape).map(u32::cast_signed);
            kernels.convolve.set_attribute(attribute, image)?;
            if let Some(function) = &kernels.convolve_back {
                function.set_attribute(attribute, image)?;
            }
            kernels.weigh.set_attribute(attribute, bands)?;
            Ok::<_, DriverError>(kernels)
        };
        Ok(Some(Self {
            first: kernels(OwnShape::First)?,
            narrow: kernels(OwnShape::Narrow)?,
            wide: kernels(OwnShape::Wide)?,
        }))
    }

    fn kernels(&self, shape: OwnShape) -> &Kernels {
        match shape {
            OwnShape::First => &self.first,
            OwnShape::Narrow => &self.narrow,
            OwnShape::Wide => &self.wide,
        }
    }

    /// Convolves a batch of feature maps.
    ///
    /// # Safety
    ///
    /// Addresses are those of as many bf16 values as a batch of `shape`, and its weights, have, whole
    /// multiples of 128 bytes; those of `sums` of as many f32. All live until the stream has come past
    /// this.
    #[allow(unsafe_code)]
    pub(crate) unsafe fn forward(
        &self,
        stream: &CudaStream,
        shape: OwnShape,
        batch: u32,
        (input, weights, output): (u64, u64, u64),
        sums: Option<Sums>,
    ) -> Result<(), DriverError> {
        let (shift, parts) = sums.map_or((0, 0), |sums| (sums.shift, sums.parts));
        let images = input_map(shape, batch, input, 2)?;
        let mut maps = vec![images];
        let mut arguments = [output, shift, parts].map(Argument::Pointer).to_vec();
        if shape == OwnShape::First {
            arguments.insert(0, Argument::Pointer(weights));
        } else {
            maps.push(Map::weights(shape, weights)?);
        }
        let (function, grid) = (&self.kernels(shape).convolve, image_grid(shape, batch));
        // SAFETY: the arguments of `convolve`; the caller's promise.
        unsafe { launch(stream, function, grid, &maps, &arguments) }
    }

    /// The input's gradient, written or, with `accumulate`, added to what is there.
    ///
    /// # Safety
    ///
    /// As for [`Hopper::forward`].
    #[allow(unsafe_code)]
    pub(crate) unsafe fn input_gradient(
        &self,
        stream: &CudaStream,
        shape: OwnShape,
        batch: u32,
        (input, weights, gradient): (u64, u64, u64),
        accumulate: bool,
    ) -> Result<(), DriverError> {
        let maps = [
            output_map(shape, batch, gradient, 2)?,
            Map::weights(shape, weights)?,
        ];
        let arguments = [
            Argument::Pointer(input),
            Argument::Int(i32::from(accumulate)),
        ];
        let Some(function) = &self.kernels(shape).convolve_back else {
            return Err(DriverError(sys::CUresult::CUDA_ERROR_NOT_SUPPORTED));
        };
        let grid = image_grid(shape, batch);
        // SAFETY: the arguments of `convolve_back`; the caller's promise.
        unsafe { launch(stream, function, grid, &maps, &arguments) }
    }

    /// The gradient of the weights. `room` has [`Hopper::room`] bytes.
    ///
    /// # Safety
    ///
    /// As for [`Hopper::forward`].
    #[allow(unsafe_code)]
    pub(crate) unsafe fn weight_gradient(
        &self,
        stream: &CudaStream,
        shape: OwnShape,
        batch: u32,
        (input, weights, gradient): (u64, u64, u64),
        room: u64,
    ) -> Result<(), DriverError> {
        let kernels = self.kernels(shape);
        let (blocks, pairs) = (weight_blocks(shape, batch), slice_pairs(shape));
        let rows = band_rows(shape);
        // The rows above and below, and one more, where the last pixel's padding is.
        let maps = [
            input_map(shape, batch, input, rows + 3)?,
            output_map(shape, batch, gradient, rows)?,
        ];
        // Three groups that multiply, and a warp that copies where that goes on in between.
        let copies = if shape == OwnShape::First { 0 } else { WARP };
        let grid = Grid {
            blocks: (blocks, pairs),
            threads: (3 * GROUP + copies, 1),
        };
        let grid = (grid, shared(shape)[1]);
        let arguments = [Argument::Pointer(room)];
        // SAFETY: the arguments of `weigh`; the caller's promise.
        unsafe { launch(stream, &kernels.weigh, grid, &maps, &arguments) }?;
        let arguments = [
            Argument::Pointer(room),
            Argument::Int(weight_parts(shape, batch).cast_signed()),
            Argument::Pointer(weights),
        ];
        // Four threads for each four sums.
        let grid = Grid {
            blocks: (sums(shape) as u32 / 4 / 64, pairs),
            threads: (64, 4),
        };
        // SAFETY: the arguments of `add_weights`; the caller's promise.
        unsafe { launch(stream, &kernels.add_weights, (grid, 0), &[], &arguments) }
    }

    /// Bytes that a weights' gradient needs on the way.
    pub(crate) fn room(shape: OwnShape, batch: u32) -> usize {
        let blocks = weight_parts(shape, batch) * slice_pairs(shape);
        blocks as usize * sums(shape) * size_of::<f32>()
    }
}

/// A block for each image, and its shared memory.
fn image_grid(shape: OwnShape, batch: u32) -> (Grid, u32) {
    let groups = match shape {
        OwnShape::First | OwnShape::Narrow => 3,
        OwnShape::Wide => 4,
    };
    let grid = Grid {
        blocks: (batch, 1),
        threads: (groups * GROUP, 1),
    };
    (grid, shared(shape)[0])
}

/// Rows of pixels that a weights' gradient is summed over at once: a quarter of an image or all of it.
fn band_rows(shape: OwnShape) -> u32 {
    match shape {
        OwnShape::First | OwnShape::Narrow => 8,
        OwnShape::Wide => 16,
    }
}

/// Blocks that share the images of a weights' gradient, each four bands.
fn weight_blocks(shape: OwnShape, batch: u32) -> u32 {
    match shape {
        OwnShape::First => batch,
        OwnShape::Narrow => batch.next_multiple_of(2),
        OwnShape::Wide => batch.div_ceil(4).next_multiple_of(2),
    }
}

/// How often there are sums of them: two blocks add up theirs, but for those of the first layer.
fn weight_parts(shape: OwnShape, batch: u32) -> u32 {
    match shape {
        OwnShape::First => batch,
        OwnShape::Narrow | OwnShape::Wide => weight_blocks(shape, batch) / 2,
    }
}

/// Pairs of a slice of inputs and a slice of outputs.
fn slice_pairs(shape: OwnShape) -> u32 {
    (shape.inputs().div_ceil(SLICE) * (shape.outputs() / SLICE)) as u32
}

/// A convolution's input, `rows` rows of pixels at a time; the first layer's as a whole.
fn input_map(shape: OwnShape, batch: u32, address: u64, rows: u32) -> Result<Map, DriverError> {
    let rows = match shape {
        OwnShape::First => shape.side() as u32 + 2,
        OwnShape::Narrow | OwnShape::Wide => rows,
    };
    Map::images(shape.inputs(), shape.side(), batch, address, rows)
}

/// A convolution's output, `rows` rows of pixels at a time.
fn output_map(shape: OwnShape, batch: u32, address: u64, rows: u32) -> Result<Map, DriverError> {
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
        let slice = channels.min(SLICE) as u32;
        Self::new(
            address,
            [channels as u64, side as u64, side as u64, u64::from(batch)],
            [slice, side as u32 + 1, rows, 1],
        )
    }

    /// Weights, one tap at a time.
    fn weights(shape: OwnShape, address: u64) -> Result<Self, DriverError> {
        let (inputs, outputs) = (shape.inputs() as u64, shape.outputs());
        let sizes = [inputs, 9, outputs as u64];
        Self::new(address, sizes, [SLICE as u32, 1, outputs as u32])
    }

    /// bf16 values of `sizes`, innermost first, without gaps. Rows of a box are swizzled if they are a
    /// slice of channels.
    #[allow(unsafe_code)]
    fn new<const N: usize>(
        address: u64,
        sizes: [u64; N],
        a_box: [u32; N],
    ) -> Result<Self, DriverError> {
        let mut strides = sizes;
        strides[0] *= 2;
        for i in 1..N {
            strides[i] *= strides[i - 1];
        }
        let mut map = sys::CUtensorMap { opaque: [0; 16] };
        let ones = [1; N];
        let swizzle = if a_box[0] == SLICE as u32 {
            sys::CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_128B
        } else {
            sys::CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_NONE
        };
        // SAFETY: the map is written, arrays of as many numbers as there are dimensions (strides but
        // for the last) are read; the address is not.
        unsafe {
            sys::cuTensorMapEncodeTiled(
                &raw mut map,
                sys::CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
                N as u32,
                address as *mut c_void,
                sizes.as_ptr(),
                strides.as_ptr(),
                a_box.as_ptr(),
                ones.as_ptr(),
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

/// Starts a kernel whose arguments are maps and then others.
///
/// # Safety
///
/// They are those of the kernel's declaration, and what they say is true.
#[allow(unsafe_code)]
unsafe fn launch(
    stream: &CudaStream,
    function: &CudaFunction,
    (grid, shared_mem_bytes): (Grid, u32),
    maps: &[Map],
    arguments: &[Argument],
) -> Result<(), DriverError> {
    let mut launch = stream.launch_builder(function);
    for map in maps {
        launch.arg(map);
    }
    for argument in arguments {
        argument.push(&mut launch);
    }
    // SAFETY: the caller's promise.
    unsafe { launch.launch(grid.config(shared_mem_bytes)) }?;
    Ok(())
}
