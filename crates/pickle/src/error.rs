//! Why a pickle was not read.

/// A result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a pickle was not read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An opcode that plain data do without.
    #[error("opcode {name} at byte {at} is refused: tensors and plain values do without it")]
    Opcode {
        /// Its name, or its number if it has none.
        name: String,
        /// Where it stands.
        at: usize,
    },
    /// A class or function that is not on the list.
    #[error("it names `{name}`, which is refused: {advice}")]
    Global {
        /// Its full name.
        name: String,
        /// What is read, and what to do.
        advice: &'static str,
    },
    /// A longer program than the caller reads.
    #[error("it has more than {most} opcodes, which is more than is read: {advice}")]
    TooManyOpcodes {
        /// The most that are read.
        most: usize,
        /// What is read, and what to do.
        advice: &'static str,
    },
    /// The pickle ends in the middle.
    #[error("it is cut off")]
    CutOff,
    /// The pickle makes no sense.
    #[error("it is damaged: {what} before byte {at}")]
    Malformed {
        /// What was found.
        what: &'static str,
        /// Where.
        at: usize,
    },
}
