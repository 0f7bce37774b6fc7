//! How work is spread over threads, blocks and parts.

use super::failure::{CudaError, Result};
use super::filter::CHANNEL_MULTIPLE;

/// Threads of a block that goes over a list.
pub(crate) const BLOCK: u32 = 128;

/// Threads of a block that sums over rows, at most; as in `norm.cuh`.
pub(crate) const SUM_THREADS: usize = 256;

/// Groups of [`CHANNEL_MULTIPLE`] channels that one block sums, at most.
const MOST_COLUMNS: usize = 64;

/// Threads of a warp; as in `kernels.cu`.
pub(crate) const WARP: u32 = 32;

/// Rows and columns of a block of a perceptron's matrix, and the rows of its threads; as in
/// `perceptron.cuh`.
const TILE: u32 = 32;
const TILE_ROWS: u32 = 8;

/// Blocks in a grid's second dimension, as CUDA allows them.
const MOST_BLOCKS_DOWN: u32 = 65_535;

/// The most parts that sums over rows are taken in, two for each of an H100's 132 multiprocessors,
/// and the fewest rows that a thread of one sums: as many pixels as moments have on their way at once.
const MOST_PARTS: usize = 264;
const FEWEST_ROWS: usize = 4;

/// Blocks and threads of a launch.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) struct Grid {
    pub(crate) blocks: (u32, u32),
    pub(crate) threads: (u32, u32),
}

impl Grid {
    /// The same as the driver wants it, with so many bytes of shared memory for each block.
    #[cfg(feature = "cuda")]
    pub(crate) fn config(self, shared_mem_bytes: u32) -> cudarc::driver::LaunchConfig {
        cudarc::driver::LaunchConfig {
            grid_dim: (self.blocks.0, self.blocks.1, 1),
            block_dim: (self.threads.0, self.threads.1, 1),
            shared_mem_bytes,
        }
    }

    /// A thread for each of `count` items.
    pub(crate) fn list(count: usize) -> Result<Self> {
        let blocks = index(count)?.div_ceil(BLOCK).max(1);
        Ok(Self {
            blocks: (blocks, 1),
            threads: (BLOCK, 1),
        })
    }

    /// A warp for each of `count` items.
    pub(crate) fn warps(count: usize) -> Result<Self> {
        Ok(Self {
            blocks: (index(count)?.max(1), 1),
            threads: (WARP, 1),
        })
    }

    /// A block for each tile of a matrix.
    pub(crate) fn tiles(rows: usize, columns: usize) -> Result<Self> {
        let blocks = (index(columns)?.div_ceil(TILE), index(rows)?.div_ceil(TILE));
        if blocks.1 > MOST_BLOCKS_DOWN {
            let most = MOST_BLOCKS_DOWN * TILE;
            return Err(CudaError::argument(
                "the rows of a matrix",
                rows,
                format!("at most {most}; take a smaller batch"),
            ));
        }
        Ok(Self {
            blocks,
            threads: (TILE, TILE_ROWS),
        })
    }

    /// Blocks that sum over the rows of each part, for all channels.
    pub(crate) fn sums(channels: usize, parts: &Parts) -> Result<Self> {
        let (columns, rows) = sum_block(channels);
        let blocks = channels.div_ceil(columns * CHANNEL_MULTIPLE);
        Ok(Self {
            blocks: (index(blocks)?, index(parts.count)?),
            threads: (index(columns)?, index(rows)?),
        })
    }
}

/// Columns of [`CHANNEL_MULTIPLE`] channels, and rows, of a block that sums.
fn sum_block(channels: usize) -> (usize, usize) {
    let columns = (channels / CHANNEL_MULTIPLE).clamp(1, MOST_COLUMNS);
    (columns, SUM_THREADS / columns)
}

/// How a sum over rows is taken apart. It depends on nothing but the numbers of rows and channels,
/// so that the same sum is rounded alike on every card.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) struct Parts {
    pub(crate) count: usize,
    pub(crate) rows: usize,
}

impl Parts {
    pub(crate) fn of(rows: usize, channels: usize) -> Self {
        let at_once = sum_block(channels).1;
        let wanted = rows.div_ceil(FEWEST_ROWS * at_once).clamp(1, MOST_PARTS);
        // Whole rows of blocks: none has threads without work but the last.
        let in_part = rows.div_ceil(wanted).next_multiple_of(at_once);
        Self {
            count: rows.div_ceil(in_part).max(1),
            rows: in_part,
        }
    }
}

/// A number of items that a kernel's `int` can count, with room for a last, incomplete block.
pub(crate) fn index(count: usize) -> Result<u32> {
    let most = i32::MAX as usize - 2 * BLOCK as usize;
    match u32::try_from(count) {
        Ok(number) if count <= most => Ok(number),
        _ => Err(CudaError::argument(
            "the number of values of a buffer",
            count,
            format!("at most {most}; take a smaller batch"),
        )),
    }
}

/// The same as a kernel's argument.
pub(crate) fn int(count: usize) -> Result<i32> {
    Ok(index(count)?.cast_signed())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_item_has_a_thread() {
        for count in [1, 255, 256, 257, 1_000_000] {
            let grid = Grid::list(count).unwrap();
            let threads = (grid.blocks.0 * grid.threads.0) as usize;
            assert!(threads >= count && threads < count + BLOCK as usize);
        }
        assert_eq!(Grid::warps(1280).unwrap().blocks, (1280, 1));
    }

    #[test]
    fn parts_cover_every_row_once_and_none_is_empty() {
        for rows in [1, 2, 63, 64, 65, 1000, 2048, 128 * 1024, 512 * 1024 + 3] {
            for channels in [8, 24, 64, 96, 512, 1032] {
                let parts = Parts::of(rows, channels);
                assert!(parts.count <= MOST_PARTS);
                assert!(parts.count * parts.rows >= rows, "{rows}: {parts:?}");
                assert!((parts.count - 1) * parts.rows < rows, "{rows}: {parts:?}");
            }
        }
    }

    #[test]
    fn all_channels_have_a_column_and_blocks_fill_the_card() {
        for (channels, rows, blocks, threads) in [
            (8, 2048, (1, 2), (1, 256)),
            (40, 2048, (1, 11), (5, 51)),
            (64, 128 * 1024, (1, 256), (8, 32)),
            (512, 2048, (1, 128), (64, 4)),
            (1032, 2048, (3, 128), (64, 4)),
        ] {
            let grid = Grid::sums(channels, &Parts::of(rows, channels)).unwrap();
            assert_eq!((grid.blocks, grid.threads), (blocks, threads), "{channels}");
            assert!((threads.0 * threads.1) as usize <= SUM_THREADS);
        }
    }

    #[test]
    fn tiles_cover_a_matrix() {
        let grid = Grid::tiles(37, 70).unwrap();
        assert_eq!((grid.blocks, grid.threads), ((3, 2), (32, 8)));
        assert!(Grid::tiles(65_535 * 32, 1).is_ok());
        assert!(Grid::tiles(65_535 * 32 + 1, 1).is_err());
    }

    #[test]
    fn counts_beyond_an_int_are_refused() {
        assert!(index(2_000_000_000).is_ok());
        for count in [i32::MAX as usize, 1 << 32, usize::MAX] {
            assert!(matches!(index(count), Err(CudaError::Argument { .. })));
        }
    }
}
