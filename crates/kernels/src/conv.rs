//! 2-D convolution: forward, input gradient, weight gradient.
//!
//! ```text
//! y[r, c, o] = Σ over ky, kx, i of  x[s·r + ky − p, s·c + kx − p, i] · w[ky, kx, i, o]
//! ```
//!
//! with kernel side 3 (padding p = 1) or 1 (p = 0) and stride s = 1 or 2. All three products are
//! sums over *taps*: a fixed offset into the other image and a matrix. A [`Gather`] lists the
//! pixels to compute, where each finds its centre in the other image, and the taps; one loop
//! nest then serves every kernel side, stride and direction (see `cpu/conv.rs`). The input
//! gradient of a strided convolution is one gather for each parity of row and column.
//!
//! Weights are packed by blocks of 16 output channels, `[block][tap][input channel][16]`, so that
//! the innermost loop reads them in order.
//!
//! Where tiles of 4×4 pixels cover the output of a 3×3 convolution of stride 1, the same three
//! products go through Winograd's transform instead (see `winograd.rs`), with a quarter of the
//! multiplications.

use rayon::prelude::*;

use crate::cpu;
use crate::layout::{BLOCK, Buffer, Layout, at_least, blocks};
use crate::winograd::{self, Tiles};
use crate::{Error, Path, Result};

/// What a convolution does, without where its data lies.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct ConvShape {
    /// Channels of the input.
    pub in_channels: usize,
    /// Channels of the output.
    pub out_channels: usize,
    /// Side of the square kernel: 1 or 3.
    pub kernel: usize,
    /// Step between output pixels, in input pixels: 1 or 2.
    pub stride: usize,
}

impl ConvShape {
    /// Rows (or columns) of the output for `input` rows (or columns).
    pub fn output_side(&self, input: usize) -> usize {
        input.div_ceil(self.stride)
    }

    /// Taps of the kernel.
    pub fn taps(&self) -> usize {
        self.kernel * self.kernel
    }

    /// Dimensions of the weights: (output channel, input channel, row, column).
    pub fn dims(&self) -> Vec<usize> {
        vec![
            self.out_channels,
            self.in_channels,
            self.kernel,
            self.kernel,
        ]
    }

    /// Floats of the packed weights.
    pub fn packed_len(&self) -> usize {
        blocks(self.out_channels) * self.block_len()
    }

    /// Floats of one block of 16 output channels of the packed weights.
    fn block_len(&self) -> usize {
        self.taps() * self.in_channels * BLOCK
    }

    /// Floats of one block of 16 input channels of the transposed weights.
    fn transposed_block_len(&self) -> usize {
        self.taps() * self.out_channels * BLOCK
    }

    /// Refuses layouts of other images than the shape's.
    fn check_layouts(&self, input: &Layout, output: &Layout) -> Result<()> {
        let fit = input.channels == self.in_channels
            && output.channels == self.out_channels
            && input.stride >= input.channels
            && output.stride >= output.channels
            && output.height == self.output_side(input.height)
            && output.width == self.output_side(input.width);
        if fit {
            Ok(())
        } else {
            Err(self.error(input.height, input.width))
        }
    }

    /// Packs weights given as (output channel, input channel, row, column).
    ///
    /// # Errors
    ///
    /// [`Error::Length`] if `weights` does not belong to the shape.
    pub fn pack(&self, weights: &[f32]) -> Result<Vec<f32>> {
        check_len("weights", weights.len(), self.dims().iter().product())?;
        let mut packed = vec![0.0; self.packed_len()];
        self.for_each(|plain, packed_at, _| packed[packed_at] = weights[plain]);
        Ok(packed)
    }

    /// The inverse of [`ConvShape::pack`].
    ///
    /// # Errors
    ///
    /// [`Error::Length`] if `packed` does not belong to the shape.
    pub fn unpack(&self, packed: &[f32]) -> Result<Vec<f32>> {
        check_len("packed weights", packed.len(), self.packed_len())?;
        let mut weights = vec![0.0; self.dims().iter().product()];
        self.for_each(|plain, packed_at, _| weights[plain] = packed[packed_at]);
        Ok(weights)
    }

    /// Rewrites one block of 16 input channels of packed weights as
    /// `[tap][output channel][16]`; the taps in reverse order if `turned`.
    fn transpose_block(&self, packed: &[f32], block: usize, turned: bool, target: &mut [f32]) {
        let (taps, inputs, outputs) = (self.taps(), self.in_channels, self.out_channels);
        let lanes = BLOCK.min(inputs - block * BLOCK);
        for tap in 0..taps {
            let to = if turned { taps - 1 - tap } else { tap };
            for output in 0..outputs {
                let from = (output / BLOCK * taps + tap) * inputs + block * BLOCK;
                let row = &mut target[(to * outputs + output) * BLOCK..][..BLOCK];
                row[lanes..].fill(0.0);
                for (lane, value) in row[..lanes].iter_mut().enumerate() {
                    *value = packed[(from + lane) * BLOCK + output % BLOCK];
                }
            }
        }
    }

    /// Calls `visit(plain index, packed index, output channel)` for every weight.
    pub(crate) fn for_each(&self, mut visit: impl FnMut(usize, usize, usize)) {
        let taps = self.taps();
        for output in 0..self.out_channels {
            let (block, lane) = (output / BLOCK, output % BLOCK);
            for input in 0..self.in_channels {
                for tap in 0..taps {
                    let plain = (output * self.in_channels + input) * taps + tap;
                    let packed = ((block * taps + tap) * self.in_channels + input) * BLOCK + lane;
                    visit(plain, packed, output);
                }
            }
        }
    }

    /// The tiles of Winograd's transform from one layout to the other, if it applies.
    fn tiles(&self, source: &Layout, target: &Layout) -> Option<Tiles> {
        let fits = self.kernel == winograd::KERNEL && self.stride == 1;
        fits.then(|| Tiles::new(source, target)).flatten()
    }

    fn check(&self, height: usize, width: usize) -> Result<()> {
        let fits = matches!(self.kernel, 1 | 3) && matches!(self.stride, 1 | 2);
        if fits && self.in_channels * self.out_channels * height * width > 0 {
            return Ok(());
        }
        Err(self.error(height, width))
    }

    fn error(&self, height: usize, width: usize) -> Error {
        Error::Shape {
            kernel: self.kernel,
            stride: self.stride,
            in_channels: self.in_channels,
            out_channels: self.out_channels,
            height,
            width,
        }
    }
}

/// One tap: where it reads, and its matrix.
#[derive(Copy, Clone, Debug)]
pub(crate) struct Tap {
    /// Floats from a pixel's centre to what the tap reads.
    pub(crate) source: isize,
    /// Floats from a block's first weight to the tap's matrix.
    pub(crate) weights: usize,
}

/// Pixels to compute, and what each is computed from.
#[derive(Clone, Debug)]
pub(crate) struct Gather {
    pub(crate) taps: Vec<Tap>,
    /// For each pixel, where its centre lies in the source image.
    pub(crate) sources: Vec<u32>,
    /// For each pixel, where it lies in the target image.
    pub(crate) targets: Vec<u32>,
    /// Channels of the source that are summed over.
    pub(crate) source_channels: usize,
    /// Blocks of target channels.
    pub(crate) target_blocks: usize,
    /// Floats of packed weights for one block of target channels.
    pub(crate) weights_per_block: usize,
    /// Floats a source, and a target, image must have.
    pub(crate) source_len: usize,
    pub(crate) target_len: usize,
}

/// What a convolution's sum starts from.
#[derive(Copy, Clone, Debug)]
pub enum Start<'a> {
    /// Zero.
    Zero,
    /// What the target holds: the result is added to it.
    Existing,
    /// A bias for each channel (padded to whole blocks).
    Bias(&'a [f32]),
    /// A bias for each channel, and for each target an image of its layout.
    BiasAndResidual(&'a [f32], &'a [&'a [f32]]),
}

/// What is done to a convolution's sum before it is stored.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Finish {
    /// Nothing.
    Linear,
    /// `max(x, 0)`.
    Relu,
}

/// A convolution between images of two layouts, on the CPU.
#[derive(Clone, Debug)]
pub struct Conv {
    shape: ConvShape,
    gather: Gather,
    tiles: Option<Tiles>,
}

impl Conv {
    /// A convolution from images laid out as `input` to images laid out as `output`, by
    /// Winograd's transform where that can be.
    ///
    /// # Errors
    ///
    /// [`Error::Shape`] for a kernel, stride or size there is no code for, or layouts that do not
    /// belong to the shape.
    pub fn new(shape: ConvShape, input: &Layout, output: &Layout) -> Result<Self> {
        let tiles = shape.tiles(input, output);
        Ok(Self {
            tiles,
            ..Self::direct(shape, input, output)?
        })
    }

    /// The same as a plain sum over taps, whatever the shape.
    ///
    /// # Errors
    ///
    /// As for [`Conv::new`].
    pub fn direct(shape: ConvShape, input: &Layout, output: &Layout) -> Result<Self> {
        shape.check(input.height, input.width)?;
        let padding = shape.kernel / 2;
        shape.check_layouts(input, output)?;
        if !(output.holds_blocks() && input.border >= padding) {
            return Err(shape.error(input.height, input.width));
        }
        let row = input.row_len() as isize;
        let taps = (0..shape.kernel).flat_map(|ky| (0..shape.kernel).map(move |kx| (ky, kx)));
        let gather = Gather {
            taps: taps
                .map(|(ky, kx)| Tap {
                    source: (ky as isize - padding as isize) * row
                        + (kx as isize - padding as isize) * input.stride as isize,
                    weights: (ky * shape.kernel + kx) * shape.in_channels * BLOCK,
                })
                .collect(),
            sources: pixels(output, |r, c| {
                input.offset(r * shape.stride, c * shape.stride)
            }),
            targets: pixels(output, |r, c| output.offset(r, c)),
            source_channels: shape.in_channels,
            target_blocks: blocks(shape.out_channels),
            weights_per_block: shape.block_len(),
            source_len: input.len(),
            target_len: output.len(),
        };
        Ok(Self {
            shape,
            gather,
            tiles: None,
        })
    }

    /// The shape it was made for.
    pub fn shape(&self) -> &ConvShape {
        &self.shape
    }

    /// How many images it takes to be fast: [`Conv::forward`] and [`Conv::weight_gradient`] reuse
    /// weights over them.
    pub fn group(&self) -> usize {
        self.tiles.as_ref().map_or(1, Tiles::group)
    }

    /// What [`Conv::forward`] reads: packed weights as they are, or transformed ones, which are
    /// written to `room`.
    ///
    /// # Panics
    ///
    /// If `packed` does not belong to the shape.
    pub fn weights<'a>(&self, path: Path, packed: &'a [f32], room: &'a mut Buffer) -> &'a [f32] {
        assert_eq!(packed.len(), self.shape.packed_len());
        let Some(tiles) = &self.tiles else {
            return packed;
        };
        let len = tiles.weights_per_block();
        let room = at_least(room, tiles.target_blocks() * len);
        room.par_chunks_mut(len)
            .zip(packed.par_chunks(self.shape.block_len()))
            .for_each(|(transformed, plain)| {
                cpu::winograd::transform_weights(path, self.shape.in_channels, plain, transformed);
            });
        room
    }

    /// `target = finish(start + convolution of source)` for each image, with the weights that
    /// [`Conv::weights`] made.
    ///
    /// # Panics
    ///
    /// If a slice is shorter than its layout or shape asks for.
    pub fn forward(
        &self,
        path: Path,
        sources: &[&[f32]],
        weights: &[f32],
        targets: &mut [&mut [f32]],
        start: Start<'_>,
        finish: Finish,
    ) {
        match &self.tiles {
            Some(tiles) => {
                cpu::winograd::forward(path, tiles, sources, weights, targets, start, finish);
            }
            None => {
                cpu::conv::gather(path, &self.gather, sources, weights, targets, start, finish);
            }
        }
    }

    /// What images of sources and target gradients give to the weight gradient, for the blocks of
    /// 16 output channels from `first_block` on that `sum` holds, in a form that
    /// [`Conv::collect_gradient`] understands; added to `sum` if `accumulate`.
    ///
    /// # Panics
    ///
    /// If a slice is shorter than its layout or shape asks for.
    pub fn weight_gradient(
        &self,
        path: Path,
        sources: &[&[f32]],
        target_gradients: &[&[f32]],
        first_block: usize,
        sum: &mut [f32],
        accumulate: bool,
    ) {
        match &self.tiles {
            Some(tiles) => cpu::winograd::weight_gradient(
                path,
                tiles,
                sources,
                target_gradients,
                first_block,
                sum,
                accumulate,
            ),
            None => cpu::conv::weight_gradient(
                path,
                &self.gather,
                sources,
                target_gradients,
                first_block,
                sum,
                accumulate,
            ),
        }
    }

    /// Floats of one block of 16 output channels in the sums of [`Conv::weight_gradient`].
    pub fn sum_per_block(&self) -> usize {
        match &self.tiles {
            Some(tiles) => tiles.weights_per_block(),
            None => self.gather.weights_per_block,
        }
    }

    /// Blocks of 16 output channels.
    pub fn blocks(&self) -> usize {
        self.gather.target_blocks
    }

    /// The packed weight gradient: that of one or more sums over all blocks, which are added in
    /// their order into the first.
    ///
    /// # Panics
    ///
    /// If a slice does not belong to the shape.
    pub fn collect_gradient(&self, path: Path, sums: &mut [f32], gradient: &mut [f32]) {
        let len = self.sum_per_block();
        let (total, others) = sums.split_at_mut(len * self.blocks());
        let others = &*others;
        total
            .par_chunks_mut(len)
            .zip(gradient.par_chunks_mut(self.shape.block_len()))
            .enumerate()
            .for_each(|(block, (total, gradient))| {
                for other in others.chunks(len * self.blocks()) {
                    let other = &other[block * len..][..len];
                    total
                        .iter_mut()
                        .zip(other)
                        .for_each(|(sum, value)| *sum += value);
                }
                if self.tiles.is_some() {
                    cpu::winograd::collect_gradient(path, self.shape.in_channels, total, gradient);
                } else {
                    gradient.copy_from_slice(total);
                }
            });
    }
}

/// The input gradient of a convolution, on the CPU.
#[derive(Clone, Debug)]
pub struct ConvInputGradient {
    shape: ConvShape,
    /// One for each parity of row and column that any tap reaches.
    gathers: Vec<Gather>,
    /// Whether the gathers reach every pixel of the input.
    complete: bool,
    tiles: Option<Tiles>,
}

impl ConvInputGradient {
    /// From output gradients laid out as `output`, with a border of at least 1 where the kernel
    /// is 3, to input gradients laid out as `input`; by Winograd's transform where that can be.
    ///
    /// # Errors
    ///
    /// [`Error::Shape`] as for [`Conv::new`].
    pub fn new(shape: ConvShape, output: &Layout, input: &Layout) -> Result<Self> {
        let tiles = shape.tiles(output, input);
        Ok(Self {
            tiles,
            ..Self::direct(shape, output, input)?
        })
    }

    /// The same as a plain sum over taps, whatever the shape.
    ///
    /// # Errors
    ///
    /// As for [`Conv::new`].
    pub fn direct(shape: ConvShape, output: &Layout, input: &Layout) -> Result<Self> {
        shape.check(input.height, input.width)?;
        let padding = shape.kernel / 2;
        shape.check_layouts(input, output)?;
        if !(input.holds_blocks() && output.border >= padding) {
            return Err(shape.error(input.height, input.width));
        }
        let mut gathers = Vec::new();
        for row_parity in 0..shape.stride.min(input.height) {
            for column_parity in 0..shape.stride.min(input.width) {
                let taps: Vec<Tap> = parity_taps(&shape, row_parity)
                    .flat_map(|(ky, dy)| {
                        parity_taps(&shape, column_parity).map(move |(kx, dx)| (ky, dy, kx, dx))
                    })
                    .map(|(ky, dy, kx, dx)| Tap {
                        source: dy * output.row_len() as isize + dx * output.stride as isize,
                        weights: (ky * shape.kernel + kx) * shape.out_channels * BLOCK,
                    })
                    .collect();
                if taps.is_empty() {
                    continue;
                }
                let of_parity = Layout {
                    height: (input.height - row_parity).div_ceil(shape.stride),
                    width: (input.width - column_parity).div_ceil(shape.stride),
                    ..*input
                };
                gathers.push(Gather {
                    taps,
                    sources: pixels(&of_parity, |r, c| output.offset(r, c)),
                    targets: pixels(&of_parity, |r, c| {
                        input.offset(
                            r * shape.stride + row_parity,
                            c * shape.stride + column_parity,
                        )
                    }),
                    source_channels: shape.out_channels,
                    target_blocks: blocks(shape.in_channels),
                    weights_per_block: shape.transposed_block_len(),
                    source_len: output.len(),
                    target_len: input.len(),
                });
            }
        }
        let reached: usize = gathers.iter().map(|gather| gather.targets.len()).sum();
        Ok(Self {
            shape,
            gathers,
            complete: reached == input.pixel_count(),
            tiles: None,
        })
    }

    /// How many images it takes to be fast, as [`Conv::group`].
    pub fn group(&self) -> usize {
        self.tiles.as_ref().map_or(1, Tiles::group)
    }

    /// What [`ConvInputGradient::run`] reads, from packed weights.
    ///
    /// # Panics
    ///
    /// If `packed` does not belong to the shape.
    pub fn weights<'a>(&self, path: Path, packed: &[f32], room: &'a mut Buffer) -> &'a [f32] {
        let shape = &self.shape;
        assert_eq!(packed.len(), shape.packed_len());
        let len = match &self.tiles {
            Some(tiles) => tiles.weights_per_block(),
            None => shape.transposed_block_len(),
        };
        let room = at_least(room, blocks(shape.in_channels) * len);
        room.par_chunks_mut(len).enumerate().for_each_init(
            Vec::new,
            |transposed, (block, room)| {
                if self.tiles.is_none() {
                    shape.transpose_block(packed, block, false, room);
                    return;
                }
                transposed.resize(shape.transposed_block_len(), 0.0);
                shape.transpose_block(packed, block, true, transposed);
                cpu::winograd::transform_weights(path, shape.out_channels, transposed, room);
            },
        );
        room
    }

    /// The gradient of each image, with the weights that [`ConvInputGradient::weights`] made;
    /// added to `targets` if `accumulate`.
    ///
    /// # Panics
    ///
    /// If a slice is shorter than its layout or shape asks for.
    pub fn run(
        &self,
        path: Path,
        sources: &[&[f32]],
        weights: &[f32],
        targets: &mut [&mut [f32]],
        accumulate: bool,
    ) {
        let start = if accumulate {
            Start::Existing
        } else {
            Start::Zero
        };
        if let Some(tiles) = &self.tiles {
            cpu::winograd::forward(
                path,
                tiles,
                sources,
                weights,
                targets,
                start,
                Finish::Linear,
            );
            return;
        }
        if !accumulate && !self.complete {
            for target in &mut *targets {
                target.fill(0.0);
            }
        }
        for gather in &self.gathers {
            cpu::conv::gather(
                path,
                gather,
                sources,
                weights,
                targets,
                start,
                Finish::Linear,
            );
        }
    }
}

/// The taps along one axis that reach inputs of a parity: kernel index, and the output's distance
/// from `input / stride`. An input `i = s·i′ + parity` feeds output `(i + p − k) / s`.
fn parity_taps(shape: &ConvShape, parity: usize) -> impl Iterator<Item = (usize, isize)> + use<> {
    let (stride, padding) = (shape.stride as isize, (shape.kernel / 2) as isize);
    (0..shape.kernel)
        .map(move |k| (k, parity as isize + padding - k as isize))
        .filter(move |(_, distance)| distance.rem_euclid(stride) == 0)
        .map(move |(k, distance)| (k, distance.div_euclid(stride)))
}

fn pixels(layout: &Layout, at: impl Fn(usize, usize) -> usize) -> Vec<u32> {
    (0..layout.height)
        .flat_map(|row| (0..layout.width).map(move |column| (row, column)))
        .map(|(row, column)| at(row, column) as u32)
        .collect()
}

fn check_len(what: &'static str, actual: usize, expected: usize) -> Result<()> {
    if actual == expected {
        Ok(())
    } else {
        Err(Error::Length {
            what,
            actual,
            expected,
        })
    }
}
