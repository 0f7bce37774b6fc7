/// What can go wrong in the kernels.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// `MESA_CPU` names no path.
    #[error("MESA_CPU is `{name}`, which is none of portable, avx2, avx512")]
    UnknownPath {
        /// What was given.
        name: String,
    },
    /// `MESA_CPU` names a path that this processor cannot run.
    #[error("this processor lacks the instructions of MESA_CPU={name}; leave it unset to choose")]
    UnavailablePath {
        /// The path's name.
        name: &'static str,
    },
    /// A buffer's length does not belong to the shape.
    #[error("{what} has {actual} values, {expected} belong to its shape")]
    Length {
        /// Which buffer.
        what: &'static str,
        /// Its length.
        actual: usize,
        /// The length the shape asks for.
        expected: usize,
    },
    /// Matrices that have no product.
    #[error("a matrix of {columns} columns times one of {rows} rows")]
    Depths {
        /// Columns of the left one.
        columns: usize,
        /// Rows of the right one.
        rows: usize,
    },
    /// A convolution that has no kernel here.
    #[error(
        "no {kernel}x{kernel} convolution of stride {stride} from {in_channels} to {out_channels} \
         channels on {height}x{width} images: kernels are 1 or 3, strides 1 or 2, the rest above 0"
    )]
    Shape {
        /// Kernel side.
        kernel: usize,
        /// Stride.
        stride: usize,
        /// Input channels.
        in_channels: usize,
        /// Output channels.
        out_channels: usize,
        /// Input height.
        height: usize,
        /// Input width.
        width: usize,
    },
}

/// A result of the kernels.
pub type Result<T, E = Error> = std::result::Result<T, E>;
