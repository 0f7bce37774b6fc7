//! What can go wrong on a GPU, and what to do about it.

/// A result on a GPU.
pub type Result<T, E = CudaError> = std::result::Result<T, E>;

/// What can go wrong on a GPU.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CudaError {
    /// The driver's library cannot be loaded.
    #[error(
        "there is no NVIDIA driver here ({library}: {reason}); install one, or compute on the CPU"
    )]
    NoDriver {
        /// The library's name.
        library: &'static str,
        /// What the loader said.
        reason: String,
    },
    /// The driver finds no GPU, or not this one.
    #[error(
        "the NVIDIA driver finds no GPU number {ordinal}; `nvidia-smi` lists what it finds, \
         CUDA_VISIBLE_DEVICES may hide some"
    )]
    NoDevice {
        /// Which GPU was asked for, from 0 on.
        ordinal: usize,
    },
    /// The driver is older than the toolkit that compiled the kernels.
    #[error(
        "the NVIDIA driver is too old: it runs CUDA {}, this program was built for {}; update the \
         driver, or build with an older toolkit",
        version(*.driver),
        version(*.needed)
    )]
    OldDriver {
        /// The driver's version as drivers count it: 1000 · major + 10 · minor; 0 if unknown.
        driver: u32,
        /// The version that is needed, counted alike.
        needed: u32,
    },
    /// cuDNN's library cannot be loaded.
    #[error(
        "cuDNN 9 cannot be loaded ({library}: {reason}); install it (`pip install nvidia-cudnn-cu13`, \
         or -cu12) and name its folder in LD_LIBRARY_PATH"
    )]
    NoDnn {
        /// The library's name.
        library: &'static str,
        /// What the loader said.
        reason: String,
    },
    /// cuDNN is there, but does not work with what else is.
    #[error(
        "cuDNN {version} does not start ({status}): its parts, the driver and the card have to \
         belong together; install one whole release of cuDNN 9"
    )]
    BadDnn {
        /// cuDNN's version as it counts it.
        version: usize,
        /// Name of its status.
        status: String,
    },
    /// The kernels were compiled for newer cards.
    #[error(
        "the kernels do not run on this card; build again with CUDA_COMPUTE_CAP set to its compute \
         capability (such as 80)"
    )]
    OldCard,
    /// The GPU's memory does not suffice.
    #[error(
        "out of GPU memory while {doing}; close what else uses the card, or take a smaller batch, \
         fewer jobs at a time or a narrower network"
    )]
    OutOfMemory {
        /// What was being done.
        doing: &'static str,
    },
    /// The driver reports another failure.
    #[error("the NVIDIA driver reports error {code} ({name}) while {doing}")]
    Driver {
        /// What was being done.
        doing: &'static str,
        /// The driver's number of it.
        code: u32,
        /// The driver's name for it.
        name: String,
    },
    /// cuDNN reports another failure.
    #[error("cuDNN reports error {code} ({name}) while {doing}")]
    Dnn {
        /// What was being done.
        doing: &'static str,
        /// cuDNN's number of it.
        code: u32,
        /// cuDNN's name for it.
        name: String,
    },
    /// cuDNN offers no algorithm that may be used.
    #[error("cuDNN has no {kind} algorithm for {what}")]
    NoAlgorithm {
        /// `deterministic`, or `usable` where any is allowed.
        kind: &'static str,
        /// Which convolution.
        what: String,
    },
    /// A buffer, a size or an index that does not belong to the rest.
    #[error("{what} is {found}, expected {expected}")]
    Argument {
        /// Which argument.
        what: &'static str,
        /// What it was.
        found: String,
        /// What it should have been.
        expected: String,
    },
}

impl CudaError {
    /// An argument that is not what it has to be.
    pub(crate) fn argument(
        what: &'static str,
        found: impl std::fmt::Display,
        expected: impl std::fmt::Display,
    ) -> Self {
        Self::Argument {
            what,
            found: found.to_string(),
            expected: expected.to_string(),
        }
    }

    /// The driver's error `code` while `doing` something with GPU `ordinal`.
    pub(crate) fn driver(code: u32, name: &str, doing: &'static str, ordinal: usize) -> Self {
        match code {
            // Out of memory.
            2 => Self::OutOfMemory { doing },
            // No device, no such device.
            100 | 101 => Self::NoDevice { ordinal },
            // No image for this card; PTX that cannot be compiled for it.
            209 | 218 => Self::OldCard,
            // PTX of a newer toolkit; library and kernel module of different versions; a driver of
            // forward compatibility on a card without.
            222 | 803 | 804 => Self::OldDriver {
                driver: 0,
                needed: TOOLKIT,
            },
            _ => Self::Driver {
                doing,
                code,
                name: name.to_owned(),
            },
        }
    }

    /// cuDNN's status `code` while `doing` something.
    pub(crate) fn dnn(code: u32, name: &str, doing: &'static str) -> Self {
        match code {
            // Allocation failed, on the host or on the device.
            4003 | 4004 => Self::OutOfMemory { doing },
            _ => Self::Dnn {
                doing,
                code,
                name: name.to_owned(),
            },
        }
    }
}

/// The toolkit that compiled the kernels, counted as drivers do; 0 if none did.
pub(crate) const TOOLKIT: u32 = match option_env!("MESA_CUDA_VERSION") {
    Some(text) => number(text),
    None => 0,
};

/// Refuses a driver that is older than the toolkit: it could not compile the kernels.
pub(crate) fn check_driver(driver: u32, needed: u32) -> Result<()> {
    if driver < needed {
        return Err(CudaError::OldDriver { driver, needed });
    }
    Ok(())
}

const fn number(text: &str) -> u32 {
    let bytes = text.as_bytes();
    let (mut at, mut value) = (0, 0);
    while at < bytes.len() {
        value = value * 10 + (bytes[at] - b'0') as u32;
        at += 1;
    }
    value
}

fn version(counted: u32) -> String {
    if counted == 0 {
        return "an older one".to_owned();
    }
    format!("{}.{}", counted / 1000, counted % 1000 / 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_that_runs_out_has_an_error_of_its_own() {
        let wanted = CudaError::OutOfMemory { doing: "planning" };
        assert_eq!(CudaError::driver(2, "", "planning", 0), wanted);
        assert_eq!(CudaError::dnn(4004, "", "planning"), wanted);
        assert!(wanted.to_string().contains("smaller batch"));
    }

    #[test]
    fn what_the_user_can_mend_is_told_apart() {
        let of = |code| CudaError::driver(code, "", "opening it", 3);
        assert_eq!(of(100), CudaError::NoDevice { ordinal: 3 });
        assert_eq!(of(101), CudaError::NoDevice { ordinal: 3 });
        assert_eq!(of(209), CudaError::OldCard);
        assert!(matches!(of(222), CudaError::OldDriver { .. }));
        assert!(matches!(of(803), CudaError::OldDriver { .. }));
    }

    #[test]
    fn anything_else_keeps_its_number_and_name() {
        let error = CudaError::driver(700, "CUDA_ERROR_ILLEGAL_ADDRESS", "training", 0);
        assert_eq!(
            error.to_string(),
            "the NVIDIA driver reports error 700 (CUDA_ERROR_ILLEGAL_ADDRESS) while training"
        );
        let error = CudaError::dnn(3000, "CUDNN_STATUS_NOT_SUPPORTED", "convolving");
        assert_eq!(
            error.to_string(),
            "cuDNN reports error 3000 (CUDNN_STATUS_NOT_SUPPORTED) while convolving"
        );
    }

    #[test]
    fn a_driver_has_to_be_as_new_as_the_toolkit() {
        check_driver(13_000, 13_000).unwrap();
        check_driver(13_010, 13_000).unwrap();
        let old = check_driver(12_080, 13_000).unwrap_err();
        assert!(old.to_string().contains("runs CUDA 12.8"), "{old}");
        assert!(old.to_string().contains("built for 13.0"), "{old}");
    }

    #[test]
    fn numbers_are_read_at_compile_time() {
        assert_eq!(number("13000"), 13_000);
        assert_eq!(number(""), 0);
    }
}
