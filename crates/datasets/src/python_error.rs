//! Why a file of CIFAR's Python version was not read.

use std::path::PathBuf;

/// Why a file of CIFAR's Python version was not read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PythonError {
    /// The pickle is refused or damaged.
    #[error("failed to read {} as a pickle of CIFAR", path.display())]
    Pickle {
        /// The file.
        path: PathBuf,
        /// What is refused, by name, or what is damaged.
        source: mesa_pickle::Error,
    },
    /// Something that every batch has is missing, or is described in another way.
    #[error("{}: expected {expected}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What was expected.
        expected: String,
    },
    /// A label is not one of the classes.
    #[error(
        "{}: expected a label below {num_labels} for image {image}, found {label}",
        path.display()
    )]
    LabelOutOfRange {
        /// The file.
        path: PathBuf,
        /// The image's number.
        image: usize,
        /// Its label.
        label: i64,
        /// How many labels there are.
        num_labels: u8,
    },
    /// The official number of images, but other images or labels.
    #[error(
        "{}: these are not the official images and labels: expected SHA-256 {expected} of their \
         binary records, found {found}",
        path.display()
    )]
    WrongDigest {
        /// The file.
        path: PathBuf,
        /// Digest of the official records, in hex.
        expected: String,
        /// Digest of these, in hex.
        found: String,
    },
    /// A file longer than any of CIFAR's.
    #[error("{}: expected at most {longest} bytes, found {len}", path.display())]
    TooLong {
        /// The file.
        path: PathBuf,
        /// Its length.
        len: u64,
        /// The longest that is read.
        longest: u64,
    },
}
