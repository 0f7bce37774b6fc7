//! Winograd's minimal filtering for 3×3 convolutions of stride 1, with 4×4 output tiles:
//! F(4×4, 3×3), a quarter of the products of the plain sum (Lavin and Gray 2016).
//!
//! ```text
//! y  = Aᵀ [ (G g Gᵀ) ⊙ (Bᵀ d B) ] A       d: 6×6 pixels, g: kernel, y: 4×4 pixels
//! ∂g = Gᵀ [ (A ∂y Aᵀ) ⊙ (Bᵀ d B) ] G      summed over tiles
//! ```
//!
//! Each of the 36 positions of ⊙ is a matrix product over channels (or, for ∂g, over tiles). The
//! input gradient is the convolution of ∂y with the kernel turned by half a turn.
//!
//! The interpolation points are 0, ±1/√2, ±√2 and ∞. In f32 they round to 2.3 times the error of
//! the plain sum, the usual 0, ±1, ±2, ∞ to 4.8 times.

use crate::layout::{BLOCK, Layout, blocks};

/// Side of the kernels.
pub(crate) const KERNEL: usize = 3;

/// Side of an output tile.
pub(crate) const TILE: usize = 4;

/// Side of an input tile, whose squares are the positions of ⊙.
pub(crate) const SIDE: usize = TILE + KERNEL - 1;

/// Positions of ⊙.
pub(crate) const POSITIONS: usize = SIDE * SIDE;

/// Tiles that go through a matrix product together: enough to use what is read of the weights,
/// few enough for transformed pixels to stay in cache.
pub(crate) const TILES: usize = 32;

/// Where the tiles of one image lie.
#[derive(Clone, Debug)]
pub(crate) struct Tiles {
    /// For each tile, the first of its 6×6 source pixels and the first of its 4×4 target pixels.
    pub(crate) offsets: Vec<(u32, u32)>,
    pub(crate) source: Layout,
    pub(crate) target: Layout,
}

impl Tiles {
    /// Tiles of images laid out as `source` (with a border) and `target`, if there are any.
    pub(crate) fn new(source: &Layout, target: &Layout) -> Option<Self> {
        let fits = source.border > 0
            && source.stride.is_multiple_of(BLOCK)
            && target.stride.is_multiple_of(BLOCK)
            && target.height.is_multiple_of(TILE)
            && target.width.is_multiple_of(TILE);
        let corners = (0..target.height).step_by(TILE).flat_map(|row| {
            (0..target.width)
                .step_by(TILE)
                .map(move |column| (row, column))
        });
        fits.then(|| Self {
            offsets: corners
                .map(|(row, column)| {
                    let first = source.offset(row, column) - source.row_len() - source.stride;
                    (first as u32, target.offset(row, column) as u32)
                })
                .collect(),
            source: *source,
            target: *target,
        })
    }

    /// Images whose tiles fill the matrix products.
    pub(crate) fn group(&self) -> usize {
        (TILES / self.offsets.len()).max(1)
    }

    /// Floats of transformed weights for one block of target channels.
    pub(crate) fn weights_per_block(&self) -> usize {
        POSITIONS * self.source.channels * BLOCK
    }

    /// Blocks of target channels.
    pub(crate) fn target_blocks(&self) -> usize {
        blocks(self.target.channels)
    }
}
