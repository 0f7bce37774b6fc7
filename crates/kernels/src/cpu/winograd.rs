//! The loop nests of Winograd convolution.
//!
//! **Forward** (and the input gradient):
//!
//! ```text
//! for each chunk of 32 tiles
//!   for each tile, register of channels            Bᵀ d B → pixels[position][tile][channel]
//!   for each group of output-channel blocks
//!     for each position                            a matrix product: [tile][channel] · weights
//!       for each P tiles                           accumulators: P tiles × R registers
//!         for each input channel                   R weight loads, P broadcasts, P·R products
//!     for each tile                                Aᵀ m A, start, finish → target
//! ```
//!
//! **Weight gradient**: as above with A ∂y Aᵀ beside the pixels, and products that sum over the
//! tiles of a chunk; what they sum to stays in transformed form until all chunks are done.

use std::cell::RefCell;

use crate::Path;
use crate::conv::{Finish, Start};
use crate::cpu::simd::{Simd, Task};
use crate::layout::{BLOCK, Buffer, at_least};
use crate::winograd::{POSITIONS, SIDE, TILE, TILES, Tiles};

thread_local! {
    /// Transformed pixels and products of a chunk; grows to the largest and is reused.
    static ROOM: RefCell<Buffer> = RefCell::new(Buffer::default());
}

/// The positive interpolation points.
const A: f32 = std::f32::consts::FRAC_1_SQRT_2;
const B: f32 = std::f32::consts::SQRT_2;

/// Floats between positions, beyond what they hold: without them all 36 would fall into the same
/// lines of the cache.
const SKEW: usize = 16;

/// Blocks of output channels whose products are kept at a time.
const PAIR: usize = 2;

/// See [`crate::Conv::forward`].
pub(crate) fn forward(
    path: Path,
    tiles: &Tiles,
    sources: &[&[f32]],
    weights: &[f32],
    targets: &mut [&mut [f32]],
    start: Start<'_>,
    finish: Finish,
) {
    assert_eq!(sources.len(), targets.len());
    assert!(sources.iter().all(|s| s.len() >= tiles.source.len()));
    assert!(targets.iter().all(|t| t.len() >= tiles.target.len()));
    assert!(weights.len() >= tiles.target_blocks() * tiles.weights_per_block());
    let (bias, residuals) = match start {
        Start::Zero | Start::Existing => (None, None),
        Start::Bias(bias) => (Some(bias), None),
        Start::BiasAndResidual(bias, residuals) => (Some(bias), Some(residuals)),
    };
    assert!(bias.is_none_or(|bias| bias.len() >= tiles.target_blocks() * BLOCK));
    assert!(residuals.is_none_or(|residuals| {
        residuals.len() == targets.len() && residuals.iter().all(|r| r.len() >= tiles.target.len())
    }));
    let chunk = TILES.min(sources.len() * tiles.offsets.len()).max(1);
    let pixels_row = chunk * tiles.source.stride + SKEW;
    let width = PAIR.min(tiles.target_blocks()) * BLOCK;
    let products_row = chunk * width + SKEW;
    with_room(POSITIONS * (pixels_row + products_row), |room| {
        let (pixels, products) = room.split_at_mut(POSITIONS * pixels_row);
        path.run(Forward {
            tiles,
            sources,
            weights,
            targets,
            existing: matches!(start, Start::Existing),
            residuals,
            bias,
            relu: finish == Finish::Relu,
            chunk,
            width,
            pixels: Rows {
                start: pixels.as_mut_ptr(),
                len: pixels_row,
            },
            products: Rows {
                start: products.as_mut_ptr(),
                len: products_row,
            },
        });
    });
}

fn with_room(len: usize, work: impl FnOnce(&mut [f32])) {
    ROOM.with_borrow_mut(|room| {
        work(at_least(room, len));
    });
}

/// One row of floats for each position.
#[derive(Copy, Clone)]
struct Rows {
    start: *mut f32,
    len: usize,
}

#[allow(unsafe_code)]
impl Rows {
    /// # Safety
    ///
    /// `position` and `at` lie inside.
    #[inline(always)]
    unsafe fn at(self, position: usize, at: usize) -> *mut f32 {
        // SAFETY: the caller's promise.
        unsafe { self.start.add(position * self.len + at) }
    }
}

struct Forward<'a, 'b> {
    tiles: &'a Tiles,
    sources: &'a [&'a [f32]],
    weights: &'a [f32],
    targets: &'a mut [&'b mut [f32]],
    existing: bool,
    residuals: Option<&'a [&'a [f32]]>,
    bias: Option<&'a [f32]>,
    relu: bool,
    chunk: usize,
    /// Channels of a row of products, or of gradients.
    width: usize,
    pixels: Rows,
    products: Rows,
}

impl Task for Forward<'_, '_> {
    #[inline(always)]
    fn run<S: Simd>(mut self) {
        let count = self.sources.len() * self.tiles.offsets.len();
        let blocks = self.tiles.target_blocks();
        for first in (0..count).step_by(self.chunk) {
            let tiles = first..(first + self.chunk).min(count);
            gather_pixels::<S>(self.tiles, self.sources, tiles.clone(), self.pixels);
            let mut block = 0;
            while block < blocks {
                let pair = block + PAIR <= blocks;
                for position in 0..POSITIONS {
                    self.product::<S>(position, tiles.len(), block, pair);
                }
                let vectors = if pair { PAIR } else { 1 } * BLOCK / S::LANES;
                for (at, tile) in tiles.clone().enumerate() {
                    for vector in 0..vectors {
                        self.scatter::<S>(at, tile, block * BLOCK, vector * S::LANES);
                    }
                }
                block += if pair { PAIR } else { 1 };
            }
        }
    }
}

impl Forward<'_, '_> {
    /// The products of one position: all tiles of a chunk, one or two blocks of channels.
    #[inline(always)]
    fn product<S: Simd>(&self, position: usize, tiles: usize, block: usize, pair: bool) {
        match (S::LANES, pair) {
            (16, true) => self.tile_rows::<S, 8, 2>(position, tiles, block, 0),
            (16, false) => self.tile_rows::<S, 8, 1>(position, tiles, block, 0),
            (8, _) => {
                for i in 0..if pair { PAIR } else { 1 } {
                    self.tile_rows::<S, 6, 2>(position, tiles, block + i, i);
                }
            }
            _ => {
                for i in 0..if pair { PAIR } else { 1 } {
                    self.tile_rows::<S, 2, 4>(position, tiles, block + i, i);
                }
            }
        }
    }

    /// `R · LANES` channels, `P` tiles at a time; into the `place`-th block of the products.
    #[inline(always)]
    fn tile_rows<S: Simd, const P: usize, const R: usize>(
        &self,
        position: usize,
        tiles: usize,
        block: usize,
        place: usize,
    ) {
        let mut tile = 0;
        while tile + P <= tiles {
            self.tile::<S, P, R>(position, tile, block, place);
            tile += P;
        }
        while tile + 4 <= tiles && P > 4 {
            self.tile::<S, 4, R>(position, tile, block, place);
            tile += 4;
        }
        while tile < tiles {
            self.tile::<S, 1, R>(position, tile, block, place);
            tile += 1;
        }
    }

    #[inline(always)]
    #[allow(unsafe_code)]
    fn tile<S: Simd, const P: usize, const R: usize>(
        &self,
        position: usize,
        tile: usize,
        block: usize,
        place: usize,
    ) {
        let vectors = BLOCK / S::LANES;
        let per_block = self.tiles.weights_per_block();
        let (channels, stride) = (self.tiles.source.channels, self.tiles.source.stride);
        // SAFETY: `position` < 36, `tile + P` <= the chunk that the rows were made for, and
        // `block + R / vectors` <= target_blocks, whose weights `forward` asserted.
        unsafe {
            let pixels = self.pixels.at(position, tile * stride).cast_const();
            let weights = self
                .weights
                .as_ptr()
                .add(block * per_block + position * channels * BLOCK);
            let mut sums = [[S::splat(0.0); R]; P];
            for channel in 0..channels {
                let row = weights.add(channel * BLOCK);
                let w: [S::V; R] = std::array::from_fn(|r| {
                    S::load(row.add(r / vectors * per_block + r % vectors * S::LANES))
                });
                for p in 0..P {
                    let value = S::splat(*pixels.add(p * stride + channel));
                    for r in 0..R {
                        sums[p][r] = S::mul_add(value, w[r], sums[p][r]);
                    }
                }
            }
            for p in 0..P {
                let to = self
                    .products
                    .at(position, (tile + p) * self.width + place * BLOCK);
                for r in 0..R {
                    S::store(to.add(r * S::LANES), sums[p][r]);
                }
            }
        }
    }

    /// `Aᵀ m A` of one tile and register of channels, into its target.
    #[inline(always)]
    #[allow(unsafe_code)]
    fn scatter<S: Simd>(&mut self, at: usize, tile: usize, first_channel: usize, channel: usize) {
        let per_image = self.tiles.offsets.len();
        let (image, offset) = (
            tile / per_image,
            self.tiles.offsets[tile % per_image].1 as usize,
        );
        let layout = &self.tiles.target;
        let (row_len, stride) = (layout.row_len(), layout.stride);
        let target_channel = first_channel + channel;
        // SAFETY: the tile's 4×4 pixels lie inside an image of the target's layout, whose length
        // `forward` asserted, as are those of residuals and bias; the products hold the chunk.
        unsafe {
            let from = self.products.at(0, at * self.width + channel).cast_const();
            let mut half = [[S::splat(0.0); SIDE]; TILE];
            for column in 0..SIDE {
                let m: [S::V; SIDE] = std::array::from_fn(|row| {
                    S::load(from.add((row * SIDE + column) * self.products.len))
                });
                let y = narrow::<S>(m);
                for row in 0..TILE {
                    half[row][column] = y[row];
                }
            }
            let to = self.targets[image]
                .as_mut_ptr()
                .add(offset + target_channel);
            let start = match self.residuals {
                Some(residuals) => Some(residuals[image].as_ptr().add(offset + target_channel)),
                None => self.existing.then_some(to.cast_const()),
            };
            let bias = match self.bias {
                Some(bias) => S::load(bias.as_ptr().add(target_channel)),
                None => S::splat(0.0),
            };
            let least = S::splat(if self.relu { 0.0 } else { f32::NEG_INFINITY });
            for (row, half) in half.into_iter().enumerate() {
                let (y, to) = (narrow::<S>(half), to.add(row * row_len));
                match start {
                    Some(start) => {
                        let start = start.add(row * row_len);
                        for column in 0..TILE {
                            let sum = S::add(y[column], bias);
                            let sum = S::add(sum, S::load(start.add(column * stride)));
                            S::store(to.add(column * stride), S::max(sum, least));
                        }
                    }
                    None => {
                        for column in 0..TILE {
                            let sum = S::add(y[column], bias);
                            S::store(to.add(column * stride), S::max(sum, least));
                        }
                    }
                }
            }
        }
    }
}

/// `Bᵀ d B` of every tile and register of channels.
#[inline(always)]
#[allow(unsafe_code)]
fn gather_pixels<S: Simd>(
    tiles: &Tiles,
    sources: &[&[f32]],
    range: std::ops::Range<usize>,
    pixels: Rows,
) {
    let per_image = tiles.offsets.len();
    let (row_len, stride) = (tiles.source.row_len(), tiles.source.stride);
    for (at, tile) in range.enumerate() {
        let offset = tiles.offsets[tile % per_image].0 as usize;
        let source = sources[tile / per_image];
        for channel in (0..stride).step_by(S::LANES) {
            // SAFETY: the tile's 6×6 pixels lie inside an image of the source's layout, whose
            // length the caller asserted; the rows hold the chunk.
            unsafe {
                let from = source.as_ptr().add(offset + channel);
                let mut half = [[S::splat(0.0); SIDE]; SIDE];
                for column in 0..SIDE {
                    let d: [S::V; SIDE] = std::array::from_fn(|row| {
                        S::load(from.add(row * row_len + column * stride))
                    });
                    let t = of_pixels::<S>(d);
                    for row in 0..SIDE {
                        half[row][column] = t[row];
                    }
                }
                let to = pixels.at(0, at * stride + channel);
                for row in 0..SIDE {
                    let t = of_pixels::<S>(half[row]);
                    for column in 0..SIDE {
                        S::store(to.add((row * SIDE + column) * pixels.len), t[column]);
                    }
                }
            }
        }
    }
}

/// See [`crate::Conv::weight_gradient`].
pub(crate) fn weight_gradient(
    path: Path,
    tiles: &Tiles,
    sources: &[&[f32]],
    target_gradients: &[&[f32]],
    first_block: usize,
    gradient: &mut [f32],
    accumulate: bool,
) {
    assert_eq!(sources.len(), target_gradients.len());
    assert!(sources.iter().all(|s| s.len() >= tiles.source.len()));
    assert!(
        target_gradients
            .iter()
            .all(|t| t.len() >= tiles.target.len())
    );
    if sources.is_empty() && !accumulate {
        gradient.fill(0.0);
    }
    let blocks = gradient.len() / tiles.weights_per_block();
    assert!(first_block + blocks <= tiles.target_blocks());
    let chunk = TILES.min(sources.len() * tiles.offsets.len()).max(1);
    let pixels_row = chunk * tiles.source.stride + SKEW;
    let width = PAIR.min(blocks) * BLOCK;
    let products_row = chunk * width + SKEW;
    with_room(POSITIONS * (pixels_row + products_row), |room| {
        let (pixels, gradients) = room.split_at_mut(POSITIONS * pixels_row);
        path.run(WeightGradient {
            tiles,
            sources,
            target_gradients,
            first_block,
            blocks,
            gradient: gradient.as_mut_ptr(),
            accumulate,
            chunk,
            width,
            pixels: Rows {
                start: pixels.as_mut_ptr(),
                len: pixels_row,
            },
            gradients: Rows {
                start: gradients.as_mut_ptr(),
                len: products_row,
            },
        });
    });
}

struct WeightGradient<'a> {
    tiles: &'a Tiles,
    sources: &'a [&'a [f32]],
    target_gradients: &'a [&'a [f32]],
    first_block: usize,
    blocks: usize,
    gradient: *mut f32,
    /// Whether sums start from what `gradient` holds: later chunks do.
    accumulate: bool,
    chunk: usize,
    /// Channels of a row of products, or of gradients.
    width: usize,
    pixels: Rows,
    gradients: Rows,
}

impl Task for WeightGradient<'_> {
    #[inline(always)]
    fn run<S: Simd>(mut self) {
        let count = self.sources.len() * self.tiles.offsets.len();
        for first in (0..count).step_by(self.chunk) {
            let tiles = first..(first + self.chunk).min(count);
            gather_pixels::<S>(self.tiles, self.sources, tiles.clone(), self.pixels);
            let mut block = 0;
            while block < self.blocks {
                let pair = block + PAIR <= self.blocks;
                let vectors = if pair { PAIR } else { 1 } * BLOCK / S::LANES;
                for (at, tile) in tiles.clone().enumerate() {
                    for vector in 0..vectors {
                        self.spread_gradient::<S>(at, tile, block, vector * S::LANES);
                    }
                }
                for position in 0..POSITIONS {
                    self.product::<S>(position, tiles.len(), block, pair);
                }
                block += if pair { PAIR } else { 1 };
            }
            self.accumulate = true;
        }
    }
}

impl WeightGradient<'_> {
    /// `A ∂y Aᵀ` of one tile and register of channels.
    #[inline(always)]
    #[allow(unsafe_code)]
    fn spread_gradient<S: Simd>(&self, at: usize, tile: usize, block: usize, channel: usize) {
        let per_image = self.tiles.offsets.len();
        let (image, offset) = (
            tile / per_image,
            self.tiles.offsets[tile % per_image].1 as usize,
        );
        let layout = &self.tiles.target;
        let (row_len, stride) = (layout.row_len(), layout.stride);
        // SAFETY: the tile's 4×4 pixels lie inside an image of the target's layout, whose length
        // `weight_gradient` asserted; the rows hold the chunk.
        unsafe {
            let from = self.target_gradients[image]
                .as_ptr()
                .add(offset + (self.first_block + block) * BLOCK + channel);
            let mut half = [[S::splat(0.0); TILE]; SIDE];
            for column in 0..TILE {
                let g: [S::V; TILE] =
                    std::array::from_fn(|row| S::load(from.add(row * row_len + column * stride)));
                let w = widen::<S>(g);
                for row in 0..SIDE {
                    half[row][column] = w[row];
                }
            }
            let to = self.gradients.at(0, at * self.width + channel);
            for row in 0..SIDE {
                let w = widen::<S>(half[row]);
                for column in 0..SIDE {
                    S::store(
                        to.add((row * SIDE + column) * self.gradients.len),
                        w[column],
                    );
                }
            }
        }
    }

    #[inline(always)]
    fn product<S: Simd>(&self, position: usize, tiles: usize, block: usize, pair: bool) {
        match (S::LANES, pair) {
            (16, true) => self.channels::<S, 8, 2>(position, tiles, block, 0),
            (16, false) => self.channels::<S, 16, 1>(position, tiles, block, 0),
            (8, _) => {
                for i in 0..if pair { PAIR } else { 1 } {
                    self.channels::<S, 6, 2>(position, tiles, block + i, i);
                }
            }
            _ => {
                for i in 0..if pair { PAIR } else { 1 } {
                    self.channels::<S, 2, 4>(position, tiles, block + i, i);
                }
            }
        }
    }

    #[inline(always)]
    fn channels<S: Simd, const C: usize, const R: usize>(
        &self,
        position: usize,
        tiles: usize,
        block: usize,
        place: usize,
    ) {
        let count = self.tiles.source.channels;
        let mut channel = 0;
        while channel + C <= count {
            self.tile::<S, C, R>(position, tiles, block, place, channel);
            channel += C;
        }
        while channel + 4 <= count && C > 4 {
            self.tile::<S, 4, R>(position, tiles, block, place, channel);
            channel += 4;
        }
        while channel < count {
            self.tile::<S, 1, R>(position, tiles, block, place, channel);
            channel += 1;
        }
    }

    #[inline(always)]
    #[allow(unsafe_code)]
    fn tile<S: Simd, const C: usize, const R: usize>(
        &self,
        position: usize,
        tiles: usize,
        block: usize,
        place: usize,
        channel: usize,
    ) {
        let vectors = BLOCK / S::LANES;
        let per_block = self.tiles.weights_per_block();
        let (channels, stride) = (self.tiles.source.channels, self.tiles.source.stride);
        let within = |r: usize| r / vectors * per_block + r % vectors * S::LANES;
        // SAFETY: `position` < 36, `channel + C` <= channels, `block + R / vectors` <= blocks,
        // which `gradient` holds; the rows hold `tiles` tiles.
        unsafe {
            let gradient = self
                .gradient
                .add(block * per_block + (position * channels + channel) * BLOCK);
            let pixels = self.pixels.at(position, channel).cast_const();
            let gradients = self.gradients.at(position, place * BLOCK).cast_const();
            let mut sums = [[S::splat(0.0); R]; C];
            if self.accumulate {
                for c in 0..C {
                    for r in 0..R {
                        sums[c][r] = S::load(gradient.add(c * BLOCK + within(r)));
                    }
                }
            }
            for tile in 0..tiles {
                let from = pixels.add(tile * stride);
                let row = gradients.add(tile * self.width);
                let g: [S::V; R] = std::array::from_fn(|r| S::load(row.add(r * S::LANES)));
                for c in 0..C {
                    let value = S::splat(*from.add(c));
                    for r in 0..R {
                        sums[c][r] = S::mul_add(value, g[r], sums[c][r]);
                    }
                }
            }
            for c in 0..C {
                for r in 0..R {
                    S::store(gradient.add(c * BLOCK + within(r)), sums[c][r]);
                }
            }
        }
    }
}

/// `G g Gᵀ` of one block of target channels: from `[tap][source channel][16]` to
/// `[position][source channel][16]`.
pub(crate) fn transform_weights(
    path: Path,
    channels: usize,
    plain: &[f32],
    transformed: &mut [f32],
) {
    assert!(plain.len() >= 9 * channels * BLOCK);
    assert!(transformed.len() >= POSITIONS * channels * BLOCK);
    path.run(TransformWeights {
        channels,
        plain,
        transformed,
    });
}

struct TransformWeights<'a> {
    channels: usize,
    plain: &'a [f32],
    transformed: &'a mut [f32],
}

impl Task for TransformWeights<'_> {
    #[inline(always)]
    #[allow(unsafe_code)]
    fn run<S: Simd>(self) {
        let row_len = self.channels * BLOCK;
        for at in (0..row_len).step_by(S::LANES) {
            // SAFETY: at + LANES <= row_len, and `transform_weights` asserted the lengths.
            unsafe {
                let from = self.plain.as_ptr().add(at);
                let mut half = [[S::splat(0.0); 3]; SIDE];
                for column in 0..3 {
                    let g =
                        std::array::from_fn(|row| S::load(from.add((row * 3 + column) * row_len)));
                    let u = of_kernel::<S>(g);
                    for row in 0..SIDE {
                        half[row][column] = u[row];
                    }
                }
                let to = self.transformed.as_mut_ptr().add(at);
                for row in 0..SIDE {
                    let u = of_kernel::<S>(half[row]);
                    for column in 0..SIDE {
                        S::store(to.add((row * SIDE + column) * row_len), u[column]);
                    }
                }
            }
        }
    }
}

/// `Gᵀ u G` of one block of target channels: the inverse direction of [`transform_weights`], for
/// gradients.
pub(crate) fn collect_gradient(
    path: Path,
    channels: usize,
    transformed: &[f32],
    plain: &mut [f32],
) {
    assert!(plain.len() >= 9 * channels * BLOCK);
    assert!(transformed.len() >= POSITIONS * channels * BLOCK);
    path.run(CollectGradient {
        channels,
        transformed,
        plain,
    });
}

struct CollectGradient<'a> {
    channels: usize,
    transformed: &'a [f32],
    plain: &'a mut [f32],
}

impl Task for CollectGradient<'_> {
    #[inline(always)]
    #[allow(unsafe_code)]
    fn run<S: Simd>(self) {
        let row_len = self.channels * BLOCK;
        for at in (0..row_len).step_by(S::LANES) {
            // SAFETY: at + LANES <= row_len, and `collect_gradient` asserted the lengths.
            unsafe {
                let from = self.transformed.as_ptr().add(at);
                let mut half = [[S::splat(0.0); SIDE]; 3];
                for column in 0..SIDE {
                    let u = std::array::from_fn(|row| {
                        S::load(from.add((row * SIDE + column) * row_len))
                    });
                    let g = to_kernel::<S>(u);
                    for row in 0..3 {
                        half[row][column] = g[row];
                    }
                }
                let to = self.plain.as_mut_ptr().add(at);
                for row in 0..3 {
                    let g = to_kernel::<S>(half[row]);
                    for column in 0..3 {
                        S::store(to.add((row * 3 + column) * row_len), g[column]);
                    }
                }
            }
        }
    }
}

/// `Bᵀ d`: row of point p holds the coefficients of ∏ over the other points q of (x − q).
#[inline(always)]
fn of_pixels<S: Simd>(d: [S::V; SIDE]) -> [S::V; SIDE] {
    let times = |x, factor: f32, y| S::mul_add(x, S::splat(factor), y);
    let (even_a, odd_a) = (times(d[2], -2.0, d[4]), times(d[1], -2.0, d[3]));
    let (even_b, odd_b) = (times(d[2], -0.5, d[4]), times(d[1], -0.5, d[3]));
    [
        times(d[2], -2.5, S::add(d[0], d[4])),
        times(odd_a, A, even_a),
        times(odd_a, -A, even_a),
        times(odd_b, B, even_b),
        times(odd_b, -B, even_b),
        times(d[3], -2.5, S::add(d[1], d[5])),
    ]
}

/// `Aᵀ m`: column of point p holds 1, p, p², p³; that of ∞ 0, 0, 0, 1.
#[inline(always)]
fn narrow<S: Simd>(m: [S::V; SIDE]) -> [S::V; TILE] {
    let times = |x, factor: f32, y| S::mul_add(x, S::splat(factor), y);
    let (sum_a, difference_a) = (S::add(m[1], m[2]), S::sub(m[1], m[2]));
    let (sum_b, difference_b) = (S::add(m[3], m[4]), S::sub(m[3], m[4]));
    let zero = S::splat(0.0);
    [
        S::add(m[0], S::add(sum_a, sum_b)),
        times(difference_b, B, times(difference_a, A, zero)),
        times(sum_b, 2.0, times(sum_a, 0.5, zero)),
        times(difference_b, 2.0 * B, times(difference_a, 0.5 * A, m[5])),
    ]
}

/// `A g`, the transpose of [`narrow`].
#[inline(always)]
fn widen<S: Simd>(g: [S::V; TILE]) -> [S::V; SIDE] {
    let times = |x, factor: f32, y| S::mul_add(x, S::splat(factor), y);
    let (even_a, odd_a) = (times(g[2], 0.5, g[0]), times(g[3], 0.5, g[1]));
    let (even_b, odd_b) = (times(g[2], 2.0, g[0]), times(g[3], 2.0, g[1]));
    [
        g[0],
        times(odd_a, A, even_a),
        times(odd_a, -A, even_a),
        times(odd_b, B, even_b),
        times(odd_b, -B, even_b),
        g[3],
    ]
}

/// `G g`: row of point p holds 1, p, p² over ∏ over the other finite points q of (p − q).
#[inline(always)]
fn of_kernel<S: Simd>(g: [S::V; 3]) -> [S::V; SIDE] {
    let times = |x, factor: f32, y| S::mul_add(x, S::splat(factor), y);
    let zero = S::splat(0.0);
    let even_a = times(g[2], -1.0 / 3.0, times(g[0], -2.0 / 3.0, zero));
    let even_b = times(g[2], 1.0 / 3.0, times(g[0], 1.0 / 6.0, zero));
    [
        g[0],
        times(g[1], -2.0 / 3.0 * A, even_a),
        times(g[1], 2.0 / 3.0 * A, even_a),
        times(g[1], B / 6.0, even_b),
        times(g[1], -B / 6.0, even_b),
        g[2],
    ]
}

/// `Gᵀ u`, the transpose of [`of_kernel`].
#[inline(always)]
fn to_kernel<S: Simd>(u: [S::V; SIDE]) -> [S::V; 3] {
    let times = |x, factor: f32, y| S::mul_add(x, S::splat(factor), y);
    let (sum_a, difference_a) = (S::add(u[1], u[2]), S::sub(u[1], u[2]));
    let (sum_b, difference_b) = (S::add(u[3], u[4]), S::sub(u[3], u[4]));
    let zero = S::splat(0.0);
    [
        times(sum_b, 1.0 / 6.0, times(sum_a, -2.0 / 3.0, u[0])),
        times(
            difference_b,
            B / 6.0,
            times(difference_a, -2.0 / 3.0 * A, zero),
        ),
        times(sum_b, 1.0 / 3.0, times(sum_a, -1.0 / 3.0, u[5])),
    ]
}
