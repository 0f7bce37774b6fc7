//! How images lie in memory: channels last, channels padded, with a border of zeros.

use std::ops::{Deref, DerefMut};

/// Output channels are worked on in blocks of this many: one AVX-512 register.
pub const BLOCK: usize = 16;

/// `n` rounded up to whole blocks.
pub(crate) fn blocks(channels: usize) -> usize {
    channels.div_ceil(BLOCK)
}

/// The memory layout of one image: pixels row by row, the channels of a pixel together.
///
/// ```text
/// offset(row, column) = ((row + border) · (width + 2·border) + column + border) · stride
/// ```
///
/// The channels of a pixel are followed by padding up to `stride`; padding and border hold zeros
/// wherever a kernel reads them, which spares the kernels every special case at an edge.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Channels of a pixel.
    pub channels: usize,
    /// Rows, without the border.
    pub height: usize,
    /// Columns, without the border.
    pub width: usize,
    /// Rows and columns of zeros on each side.
    pub border: usize,
    /// Floats from one pixel to the next.
    pub stride: usize,
}

impl Layout {
    /// Feature maps: channels padded to a multiple of [`BLOCK`].
    pub fn features(channels: usize, height: usize, width: usize, border: usize) -> Self {
        Self {
            channels,
            height,
            width,
            border,
            stride: blocks(channels) * BLOCK,
        }
    }

    /// Input images, whose few channels are padded to a multiple of 4, with a border of 1.
    pub fn pixels(channels: usize, height: usize, width: usize) -> Self {
        Self {
            channels,
            height,
            width,
            border: 1,
            stride: channels.div_ceil(4) * 4,
        }
    }

    /// Whether a pixel has room for its channels in whole blocks, as kernels write them.
    pub(crate) fn holds_blocks(&self) -> bool {
        self.stride.is_multiple_of(BLOCK) && self.stride >= self.channels
    }

    /// Floats of one image.
    pub fn len(&self) -> usize {
        (self.height + 2 * self.border) * self.row_len()
    }

    /// Whether there is no pixel.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Floats from one row to the next.
    pub fn row_len(&self) -> usize {
        (self.width + 2 * self.border) * self.stride
    }

    /// Where the first channel of a pixel lies.
    pub fn offset(&self, row: usize, column: usize) -> usize {
        (row + self.border) * self.row_len() + (column + self.border) * self.stride
    }

    /// Pixels of one image, without the border.
    pub fn pixel_count(&self) -> usize {
        self.height * self.width
    }
}

/// Floats aligned to a cache line, zero at first.
#[derive(Clone, Default)]
pub struct Buffer {
    lines: Vec<Line>,
    len: usize,
}

/// The first `len` floats of a buffer that grows as needed.
pub(crate) fn at_least(buffer: &mut Buffer, len: usize) -> &mut [f32] {
    if buffer.len() < len {
        *buffer = Buffer::zeros(len);
    }
    &mut buffer[..len]
}

#[derive(Copy, Clone)]
#[repr(C, align(64))]
struct Line([f32; 16]);

impl Buffer {
    /// `len` zeros.
    pub fn zeros(len: usize) -> Self {
        Self {
            lines: vec![Line([0.0; 16]); len.div_ceil(16)],
            len,
        }
    }

    /// A copy of `values`.
    pub fn from_slice(values: &[f32]) -> Self {
        let mut buffer = Self::zeros(values.len());
        buffer.copy_from_slice(values);
        buffer
    }
}

#[allow(unsafe_code)]
impl Deref for Buffer {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        // SAFETY: `lines` holds at least `len` floats, contiguous (`repr(C)`, 64 bytes each).
        unsafe { std::slice::from_raw_parts(self.lines.as_ptr().cast(), self.len) }
    }
}

#[allow(unsafe_code)]
impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [f32] {
        // SAFETY: as above, and `self` is borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.lines.as_mut_ptr().cast(), self.len) }
    }
}

impl std::fmt::Debug for Buffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Buffer({} floats)", self.len)
    }
}
