//! Why a downloaded archive was not read.

use std::io;
use std::path::PathBuf;

/// Why a downloaded archive was not read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ArchiveError {
    /// The archive ends in the middle, has a wrong checksum, or is of another format.
    #[error(
        "{} is cut off, damaged or no .tar.gz archive; download it again",
        path.display()
    )]
    Damaged {
        /// The archive.
        path: PathBuf,
        /// What the decoder said.
        source: io::Error,
    },
    /// A file in it is longer than any official one.
    #[error(
        "{}: expected at most {longest} bytes, found {len}",
        path.display()
    )]
    TooLong {
        /// The file, below the archive.
        path: PathBuf,
        /// Its length.
        len: u64,
        /// The longest that is read.
        longest: u64,
    },
    /// It unpacks to more than is read of an archive.
    #[error("{} unpacks to more than {most} bytes; download it again", path.display())]
    Unpacked {
        /// The archive.
        path: PathBuf,
        /// The most that is read.
        most: u64,
    },
    /// A file is in it twice.
    #[error("{} is there twice", path.display())]
    Twice {
        /// The file, below the archive.
        path: PathBuf,
    },
    /// It holds none of the known data sets, or not all of one.
    #[error("{} lacks {missing}", path.display())]
    Incomplete {
        /// The archive.
        path: PathBuf,
        /// The files that it lacks.
        missing: String,
    },
}
