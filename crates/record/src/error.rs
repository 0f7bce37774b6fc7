//! What can go wrong with the files of a run.

use std::path::PathBuf;

use crate::Holder;

/// A result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong with the files of a run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Another process works in the run folder.
    #[error("the run folder {} is in use by {holder}; wait for it, stop it, or choose another folder with --out", dir.display())]
    Locked {
        /// The run folder.
        dir: PathBuf,
        /// Who holds it.
        holder: Box<Holder>,
    },
    /// A file or folder could not be read or written; the source names it.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// A file could not be replaced.
    #[error("could not write {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file is not what this crate writes.
    #[error("{} is not a valid record", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// Where and why.
        source: serde_json::Error,
    },
    /// A table is not what this crate writes.
    #[error("{}, line {line}: not of the form {expected}", path.display())]
    Csv {
        /// The file.
        path: PathBuf,
        /// The line, from 1 on.
        line: usize,
        /// The columns.
        expected: &'static str,
    },
}
