//! Own convolutions on a Hopper card (`hopper.cu`), for the shapes that [`OwnShape`] lists.

use std::sync::Arc;

use cudarc::driver::{
    CudaContext, CudaFunction, CudaStream, DeviceRepr, DriverError, PushKernelArg, sys,
};
use cudarc::nvrtc::Ptx;

use super::algorithm::{Direction, OwnShape};
use super::function::Argument;
use super::hopper_map::{Map, Pixels, SLICE, input_map, output_map};
use super::launch::{Grid, WARP};

/// The kernels, compiled for these cards alone.
const CODE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/hopper.cubin"));

/// The cards that they run on.
const COMPUTE_CAPABILITY: (i32, i32) = (9, 0);

/// Bytes of shared memory of a block that convolves, of one that takes the input's gradient, and of one
/// that takes the weights'. As in `hopper.cu`; the shapes in `hopper_*.cuh` say what is where.
fn shared(shape: OwnShape) -> [u32; 3] {
    match shape {
        OwnShape::First => [80_904, 0, 153_280],
        OwnShape::Narrow => [84_064, 84_064, 163_872],
        OwnShape::Wide => [110_632, 110_632, 153_632],
        OwnShape::Deep => [208_944, 208_944, 155_680],
        OwnShape::Deepest => [221_232, 221_232, 180_256],
        OwnShape::ToWide => [167_968, 94_240, 190_512],
        OwnShape::ToDeep => [167_968, 219_184, 181_296],
        OwnShape::ToDeepest => [172_064, 225_328, 190_512],
        OwnShape::ShortToWide => [98_352, 73_776, 0],
        OwnShape::ShortToDeep | OwnShape::ShortToDeepest => [98_352, 98_352, 0],
    }
}

/// What the kernels of a shape are called after.
fn suffix(shape: OwnShape) -> &'static str {
    match shape {
        OwnShape::First => "first",
        OwnShape::Narrow => "64",
        OwnShape::Wide => "128",
        OwnShape::Deep => "256",
        OwnShape::Deepest => "512",
        OwnShape::ToWide => "down_128",
        OwnShape::ToDeep => "down_256",
        OwnShape::ToDeepest => "down_512",
        OwnShape::ShortToWide => "short_128",
        OwnShape::ShortToDeep => "short_256",
        OwnShape::ShortToDeepest => "short_512",
    }
}

/// Threads of a group; as in `hopper.cu`.
const GROUP: u32 = 128;

/// Pixels of a tile of the output, and of one of a weights' gradient where the stride is 2; as in
/// `hopper_tile.cuh`.
const TILE: usize = 128;
const HALF_TILE: usize = 64;

/// Sums of a block of a weights' gradient: 64 outputs, nine taps, 64 inputs or all there are.
fn sums(shape: OwnShape) -> usize {
    SLICE * 9 * shape.inputs().min(SLICE)
}

/// Whether a block convolves a tile of an image or of several, not whole rows of one image.
fn is_tiled(shape: OwnShape) -> bool {
    !matches!(shape, OwnShape::First | OwnShape::Narrow | OwnShape::Wide)
}

/// The kernels of one shape.
#[derive(Debug)]
struct Kernels {
    convolve: CudaFunction,
    convolve_fixed: CudaFunction,
    /// None where there is none.
    convolve_back: Option<CudaFunction>,
    /// The weights' gradient, and what adds up its parts.
    weigh: Option<[CudaFunction; 2]>,
}

/// All kernels.
#[derive(Debug)]
pub(crate) struct Hopper {
    /// Those of each shape, in the order of [`OwnShape::ALL`].
    kernels: Vec<Kernels>,
}

/// Where a batch's sums go that batch norm takes its moments from.
#[derive(Copy, Clone, Debug)]
pub(crate) struct Sums {
    /// What is subtracted from each channel before.
    pub(crate) shift: u64,
    /// (2, channels, [`Hopper::sums`]) sums.
    pub(crate) parts: u64,
}

/// How a gradient is let through on its way to memory; as in `hopper_store.cuh`, see `Passing` there.
#[derive(Copy, Clone, Debug, Default)]
#[repr(C)]
pub(crate) struct Through {
    /// A bit for each value; null: nothing of all this.
    pub(crate) gates: u64,
    /// What batch norm normalizes, and its means.
    pub(crate) images: u64,
    pub(crate) means: u64,
    /// By which what passes is multiplied; null if by none.
    pub(crate) scales: u64,
    /// (2, channels, [`Hopper::sums`]) sums; null if none are wanted.
    pub(crate) parts: u64,
}

/// How a result is normalized on its way to memory; as in `hopper_store.cuh`, see `Normalizing` there.
#[derive(Copy, Clone, Debug)]
#[repr(C)]
pub(crate) struct Normal {
    /// Means, scales and shifts.
    pub(crate) coefficients: u64,
    /// What is added; null if nothing is. What normalizes that; null if it is ready.
    pub(crate) residual: u64,
    pub(crate) residual_coefficients: u64,
    /// A bit for each value: where the output is positive.
    pub(crate) gates: u64,
}

// SAFETY: kernels take them by value, as structures of as many pointers.
#[allow(unsafe_code)]
unsafe impl DeviceRepr for Through {}
#[allow(unsafe_code)]
unsafe impl DeviceRepr for Normal {}

/// What comes after a convolution.
#[derive(Copy, Clone, Debug)]
pub(crate) enum Then {
    /// Nothing.
    Nothing,
    /// Batch norm, which takes its moments from these sums.
    Moments(Sums),
    /// Batch norm with fixed statistics, the residual and a ReLU: all of it.
    Normalize(Normal),
}

impl Hopper {
    /// The kernels, if the card runs them.
    pub(crate) fn load(context: &Arc<CudaContext>) -> Result<Option<Self>, DriverError> {
        if context.compute_capability()? != COMPUTE_CAPABILITY {
            return Ok(None);
        }
        let module = context.load_module(Ptx::from_binary(CODE.to_vec()))?;
        let kernels = OwnShape::ALL.into_iter().map(|shape| {
            let load = |name, shared_bytes: u32| {
                use sys::CUfunction_attribute_enum as Attribute;

                let function = module.load_function(&format!("{name}_{}", suffix(shape)))?;
                function.set_attribute(
                    Attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES,
                    shared_bytes.cast_signed(),
                )?;
                if shared_bytes > 0 {
                    // A multiprocessor changes how it divides memory between cache and this only when it
                    // is idle: where less were given away, another network's blocks would have to wait.
                    function.set_attribute(
                        Attribute::CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT,
                        100,
                    )?;
                }
                Ok::<_, DriverError>(function)
            };
            let [forward, back, weights] = shared(shape);
            let has_back = shape.has(Direction::BackwardData);
            let weigh = || Ok([load("weigh", weights)?, load("add_weights", 0)?]);
            let has_weigh = shape.has(Direction::BackwardFilter);
            Ok::<_, DriverError>(Kernels {
                convolve: load("convolve", forward)?,
                convolve_fixed: load("convolve_fixed", forward)?,
                convolve_back: has_back.then(|| load("convolve_back", back)).transpose()?,
                weigh: has_weigh.then(weigh).transpose()?,
            })
        });
        let kernels = kernels.collect::<Result<_, _>>()?;
        Ok(Some(Self { kernels }))
    }

    fn kernels(&self, shape: OwnShape) -> &Kernels {
        &self.kernels[shape as usize]
    }

    /// Convolves a batch of feature maps.
    ///
    /// # Safety
    ///
    /// Addresses are those of as many bf16 values as a batch of `shape`, and its weights, have, whole
    /// multiples of 128 bytes; those of what comes then, of as many values as are said. All live until the
    /// stream has come past this.
    #[allow(unsafe_code)]
    pub(crate) unsafe fn forward(
        &self,
        stream: &CudaStream,
        shape: OwnShape,
        batch: u32,
        (input, weights, output): (u64, u64, u64),
        then: Then,
    ) -> Result<(), DriverError> {
        let mut arguments = vec![Argument::Pointer(output)];
        let maps = if shape == OwnShape::First {
            arguments.insert(0, Argument::Pointer(weights));
            vec![input_map(shape, batch, input, 2)?]
        } else if is_tiled(shape) {
            arguments.insert(1, Argument::Int(batch.cast_signed()));
            let pixels = Pixels::of(shape, TILE);
            // With a stride of 2 odd rows of the input, and even ones; the even ones alone for 1x1.
            let step = shape.stride() as u32;
            let more = (shape.kernel() as u32).saturating_sub(step);
            let input = |rows| pixels.map(shape.inputs(), batch, input, (step, step), rows);
            let weights = Map::half_tap(shape, weights, SLICE)?;
            vec![input(pixels.rows + more)?, input(pixels.rows)?, weights]
        } else {
            let images = input_map(shape, batch, input, 2)?;
            vec![images, Map::weights(shape, weights)?]
        };
        let grid = grid(shape, Direction::Forward, batch);
        if let Then::Normalize(normal) = then {
            let function = &self.kernels(shape).convolve_fixed;
            // SAFETY: the arguments of `convolve_fixed`; the caller's promise.
            return unsafe { launch(stream, function, grid, &maps, &arguments, Some(&normal)) };
        }
        let (shift, parts) = match then {
            Then::Moments(sums) => (sums.shift, sums.parts),
            _ => (0, 0),
        };
        arguments.extend([shift, parts].map(Argument::Pointer));
        let function = &self.kernels(shape).convolve;
        // SAFETY: the arguments of `convolve`; the caller's promise.
        unsafe { launch(stream, function, grid, &maps, &arguments, NO_MORE) }
    }

    /// The input's gradient, written or, with `accumulate`, added to what is there; then let through.
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
        through: Option<Through>,
    ) -> Result<(), DriverError> {
        let accumulate = Argument::Int(i32::from(accumulate));
        let mut arguments = vec![Argument::Pointer(input), accumulate];
        let maps = if is_tiled(shape) {
            arguments.insert(1, Argument::Int(batch.cast_signed()));
            let pixels = Pixels::of(shape, TILE);
            // Neighbours above and below, or below alone, or none.
            let rows = pixels.rows + shape.kernel().saturating_sub(shape.stride()) as u32;
            let gradients = pixels.map(shape.outputs(), batch, gradient, (1, 1), rows)?;
            let outputs = (shape.inputs() / 2).min(SLICE);
            [gradients, Map::half_tap(shape, weights, outputs)?]
        } else {
            let gradients = output_map(shape, batch, gradient, 2)?;
            [gradients, Map::weights(shape, weights)?]
        };
        let Some(function) = &self.kernels(shape).convolve_back else {
            return Err(DriverError(sys::CUresult::CUDA_ERROR_NOT_SUPPORTED));
        };
        let grid = grid(shape, Direction::BackwardData, batch);
        if through.is_some() && !shape.lets_through() {
            return Err(DriverError(sys::CUresult::CUDA_ERROR_NOT_SUPPORTED));
        }
        let through = shape.lets_through().then(|| through.unwrap_or_default());
        // SAFETY: the arguments of `convolve_back`; the caller's promise.
        unsafe { launch(stream, function, grid, &maps, &arguments, through.as_ref()) }
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
        let Some([weigh, add_weights]) = &self.kernels(shape).weigh else {
            return Err(DriverError(sys::CUresult::CUDA_ERROR_NOT_SUPPORTED));
        };
        let parts = weight_parts(shape, batch);
        let mut arguments = vec![Argument::Pointer(room)];
        let maps = if is_tiled(shape) {
            arguments.push(Argument::Pointer(weights));
            let pixels = Pixels::of(shape, weight_tile(shape));
            let step = shape.stride() as u32;
            // Half of the input's rows, which are not skipped.
            let rows = (step * (pixels.rows - 1) + 3).div_ceil(2);
            [
                pixels.map(shape.inputs(), batch, input, (step, 1), rows)?,
                pixels.map(shape.outputs(), batch, gradient, (1, 1), pixels.rows)?,
            ]
        } else {
            // The rows above and below, and one more, where the last pixel's padding is.
            let rows = band_rows(shape);
            [
                input_map(shape, batch, input, rows + 3)?,
                output_map(shape, batch, gradient, rows)?,
            ]
        };
        let grid = grid(shape, Direction::BackwardFilter, batch);
        // SAFETY: the arguments of `weigh`; the caller's promise.
        unsafe { launch(stream, weigh, grid, &maps, &arguments, NO_MORE) }?;
        if is_tiled(shape) && parts == 1 {
            return Ok(());
        }
        let arguments = [
            Argument::Pointer(room),
            Argument::Int(parts.cast_signed()),
            Argument::Pointer(weights),
        ];
        // Four threads for each four sums.
        let grid = Grid {
            blocks: (sums(shape) as u32 / 4 / 64, slice_pairs(shape)),
            threads: (64, 4),
        };
        // SAFETY: the arguments of `add_weights`; the caller's promise.
        unsafe { launch(stream, add_weights, (grid, 0), &[], &arguments, NO_MORE) }
    }

    /// How many sums there are of each channel of a convolution's result, or of its input's gradient.
    pub(crate) fn sums(shape: OwnShape, batch: u32) -> u32 {
        if is_tiled(shape) {
            tiles(shape, TILE, batch).next_multiple_of(2)
        } else {
            batch * image_bands(shape)
        }
    }

    /// Bytes that a weights' gradient needs on the way.
    pub(crate) fn room(shape: OwnShape, batch: u32) -> usize {
        let parts = match weight_parts(shape, batch) {
            // They are the gradient.
            1 if is_tiled(shape) => 0,
            parts => parts * slice_pairs(shape),
        };
        parts as usize * sums(shape) * size_of::<f32>()
    }
}

/// Blocks and threads of one of the three products, and the blocks' shared memory.
fn grid(shape: OwnShape, direction: Direction, batch: u32) -> (Grid, u32) {
    let [forward, back, weights] = shared(shape);
    // A group multiplies for 64 channels, or for a strip of an image, or for taps; a warp copies where
    // that goes on in between.
    let (blocks, groups, copies, bytes) = match direction {
        Direction::BackwardFilter if is_tiled(shape) => {
            // Two blocks for two slices of outputs.
            let blocks = (2 * weight_parts(shape, batch), slice_pairs(shape) / 2);
            (blocks, 3, true, weights)
        }
        Direction::BackwardFilter => {
            let blocks = (weight_blocks(shape, batch), slice_pairs(shape));
            (blocks, 3, shape != OwnShape::First, weights)
        }
        Direction::Forward if is_tiled(shape) => {
            let channels = shape.outputs() / (2 * SLICE);
            (
                (Hopper::sums(shape, batch), channels as u32),
                2,
                true,
                forward,
            )
        }
        Direction::BackwardData if is_tiled(shape) => {
            let slices = (shape.inputs() / SLICE).min(2);
            let channels = (shape.inputs() / (slices * SLICE)) as u32;
            // With a stride of 2 for even and for odd rows of each, unless those are zeros.
            let halved = shape.stride() == 2 && shape.kernel() == 3;
            let groups = if halved { 2 * slices } else { slices };
            let blocks = (Hopper::sums(shape, batch), channels);
            (blocks, groups as u32, true, back)
        }
        Direction::Forward | Direction::BackwardData => {
            let groups = if shape == OwnShape::First { 3 } else { 2 };
            ((batch * image_bands(shape), 1), groups, false, forward)
        }
    };
    let threads = (groups * GROUP + if copies { WARP } else { 0 }, 1);
    (Grid { blocks, threads }, bytes)
}

/// Blocks that convolve an image; not for tiles.
fn image_bands(shape: OwnShape) -> u32 {
    match shape {
        OwnShape::Narrow => 4,
        OwnShape::Wide => 2,
        _ => 1,
    }
}

/// Rows of pixels that a weights' gradient is summed over at once: a quarter of an image or all of it;
/// not for tiles.
fn band_rows(shape: OwnShape) -> u32 {
    if shape == OwnShape::Wide { 16 } else { 8 }
}

/// Blocks that share the images of a weights' gradient, each four bands; not for tiles.
fn weight_blocks(shape: OwnShape, batch: u32) -> u32 {
    match shape {
        OwnShape::First => batch,
        OwnShape::Wide => batch.div_ceil(4).next_multiple_of(2),
        _ => batch.next_multiple_of(2),
    }
}

/// Parts of a weights' gradient: one for each block, or for each two where two add up theirs.
fn weight_parts(shape: OwnShape, batch: u32) -> u32 {
    if is_tiled(shape) {
        // As in `hopper_tile.cuh`.
        let bands = if shape == OwnShape::ToDeepest { 32 } else { 16 };
        tiles(shape, weight_tile(shape), batch).div_ceil(bands)
    } else if shape == OwnShape::First {
        batch
    } else {
        weight_blocks(shape, batch) / 2
    }
}

/// Pixels of the output that a weights' gradient is summed over at once.
fn weight_tile(shape: OwnShape) -> usize {
    if shape.stride() == 1 { TILE } else { HALF_TILE }
}

/// Tiles of a batch: several of an image, or of several images.
fn tiles(shape: OwnShape, count: usize, batch: u32) -> u32 {
    (batch as usize * shape.side() * shape.side()).div_ceil(count) as u32
}

/// Pairs of a slice of inputs and a slice of outputs.
fn slice_pairs(shape: OwnShape) -> u32 {
    (shape.inputs().div_ceil(SLICE) * (shape.outputs() / SLICE)) as u32
}

/// No structure among a kernel's arguments.
const NO_MORE: Option<&Through> = None;

/// Starts a kernel whose arguments are maps, then others, and perhaps a structure.
///
/// # Safety
///
/// They are those of the kernel's declaration, and what they say is true.
#[allow(unsafe_code)]
unsafe fn launch<T: DeviceRepr>(
    stream: &CudaStream,
    function: &CudaFunction,
    (grid, shared_mem_bytes): (Grid, u32),
    maps: &[Map],
    arguments: &[Argument],
    more: Option<&T>,
) -> Result<(), DriverError> {
    let mut launch = stream.launch_builder(function);
    for map in maps {
        launch.arg(map);
    }
    for argument in arguments {
        argument.push(&mut launch);
    }
    if let Some(more) = more {
        launch.arg(more);
    }
    // SAFETY: the caller's promise.
    unsafe { launch.launch(grid.config(shared_mem_bytes)) }?;
    Ok(())
}
