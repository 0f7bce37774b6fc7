//! How a resumable run ended.

/// How a run that may be stopped and resumed ended.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Status {
    /// All steps are taken.
    Finished,
    /// Its observer asked it to stop; it can go on from there.
    Stopped,
}
