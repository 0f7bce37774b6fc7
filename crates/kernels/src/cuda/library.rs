//! Looks for NVIDIA's libraries before their first use.
//!
//! Both ways of linking end the program where a library is missing: one panics at the first call,
//! the other exits. So they are opened here first, under the names by which they will be.

use super::failure::{CudaError, Result};

/// The driver.
#[cfg(not(windows))]
const DRIVER: &[&str] = &["libcuda.so.1", "libcuda.so"];
#[cfg(windows)]
const DRIVER: &[&str] = &["nvcuda.dll"];

/// cuDNN 9, for any version of CUDA.
#[cfg(not(windows))]
const DNN: &[&str] = &["libcudnn.so.9"];
#[cfg(windows)]
const DNN: &[&str] = &["cudnn64_9.dll"];

/// Checks that the driver and cuDNN can be loaded.
#[cfg(feature = "cuda")]
#[allow(unsafe_code)]
pub(crate) fn find() -> Result<()> {
    find_with(&|name| {
        // SAFETY: loading runs the initializers of NVIDIA's libraries, which this process is about
        // to use anyway. The handle is kept open: what is loaded once stays where it is.
        match unsafe { libloading::Library::new(name) } {
            Ok(library) => {
                std::mem::forget(library);
                Ok(())
            }
            // The loader's own words lie below.
            Err(error) => Err(std::error::Error::source(&error)
                .map_or_else(|| error.to_string(), ToString::to_string)),
        }
    })
}

/// The same with another way to open a library.
pub(crate) fn find_with(open: &dyn Fn(&str) -> Result<(), String>) -> Result<()> {
    let any = |names: &[&'static str]| -> Result<(), String> {
        let mut first = None;
        for name in names {
            match open(name) {
                Ok(()) => return Ok(()),
                Err(error) => first = first.or(Some(error)),
            }
        }
        Err(first.unwrap_or_default())
    };
    any(DRIVER).map_err(|reason| CudaError::NoDriver {
        library: DRIVER[0],
        reason,
    })?;
    any(DNN).map_err(|reason| CudaError::NoDnn {
        library: DNN[0],
        reason,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn only(present: &[&str]) -> Result<()> {
        find_with(&|name| {
            if present.contains(&name) {
                Ok(())
            } else {
                Err(format!("{name}: cannot open shared object file"))
            }
        })
    }

    #[test]
    fn names_the_library_that_is_missing() {
        let nothing = only(&[]);
        assert!(
            matches!(&nothing, Err(CudaError::NoDriver { library, reason })
                if *library == DRIVER[0] && reason.contains(DRIVER[0])),
            "{nothing:?}"
        );
        let driver = only(&[DRIVER[0]]);
        assert!(
            matches!(&driver, Err(CudaError::NoDnn { library, .. }) if *library == DNN[0]),
            "{driver:?}"
        );
        // cuDNN alone does not help.
        assert!(matches!(only(DNN), Err(CudaError::NoDriver { .. })));
    }

    #[test]
    fn any_of_a_librarys_names_will_do() {
        for driver in DRIVER {
            for dnn in DNN {
                only(&[driver, dnn]).unwrap();
            }
        }
    }
}
