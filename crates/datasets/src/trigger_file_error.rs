//! Why a file was not read as a trigger.

use std::path::PathBuf;

use crate::BoxError;

/// Why a file was not read as a trigger.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TriggerFileError {
    /// Its name ends in none of the formats that this build reads.
    #[error("{} is not a trigger: expected a file that ends in {formats}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// The endings.
        formats: &'static str,
    },
    /// A picture is larger than any that is decoded.
    #[error(
        "{} has {width} × {height} pixels, at most {most} × {most} are read; make it smaller",
        path.display()
    )]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its width in pixels.
        width: u32,
        /// Its height in pixels.
        height: u32,
        /// The longest side that is read.
        most: u32,
    },
    /// The picture is damaged, or none.
    #[error("{} is damaged or no image", path.display())]
    Image {
        /// The file.
        path: PathBuf,
        /// What the decoder said.
        source: BoxError,
    },
    /// The file is cut off or no safetensors file.
    #[error("{} is cut off or not in safetensors format", path.display())]
    Tensors {
        /// The file.
        path: PathBuf,
        /// What the decoder said.
        source: BoxError,
    },
    /// Its tensors are no trigger, or no pixel belongs to it.
    #[error("{} holds no trigger: expected {expected}, found {found}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What was expected.
        expected: &'static str,
        /// What is there.
        found: String,
    },
}
