//! What can go wrong when tables and figures are made.

use std::path::PathBuf;

/// A result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong when tables and figures are made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A record could not be read or a file not be written.
    #[error(transparent)]
    Record(#[from] mesa_record::Error),
    /// A file or folder could not be read; the source names it.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// The marks between which a generated block stands are not there.
    #[error("{} has no line {marker}", path.display())]
    MissingMarker {
        /// The file.
        path: PathBuf,
        /// The line that was looked for.
        marker: String,
    },
    /// The folder of a run is not there.
    #[error("there is no folder {}", folder.display())]
    NoFolder {
        /// The folder.
        folder: PathBuf,
    },
    /// A folder is none of a run, or the run has measured nothing yet.
    #[error("{} holds no summary.json, detection.json or distribution.json: it is not a folder of `mesa run`, `mesa detect` or `mesa distributions`, or nothing was measured yet", folder.display())]
    NothingMeasured {
        /// The folder.
        folder: PathBuf,
    },
    /// A search for backdoors whose verdict is not there yet.
    #[error("{}: the search is not finished ({classes} class{} done), and only at its end is there a verdict to report; if it does not run, start the same `mesa detect` again, which goes on where it was", folder.display(), if *classes == 1 { "" } else { "es" })]
    SearchNotDone {
        /// The folder.
        folder: PathBuf,
        /// The classes that are done.
        classes: usize,
    },
    /// Pixels that are no whole number of patches.
    #[error("{pixels} numbers are no whole number of {height}x{width} patches in three channels")]
    PatchShape {
        /// How many numbers were given.
        pixels: usize,
        /// Height of a patch.
        height: usize,
        /// Width of a patch.
        width: usize,
    },
}
