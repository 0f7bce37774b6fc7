//! Points in the device's work, for measuring how long it takes, and what it runs on.

use std::time::Duration;

use cudarc::cudnn;
use cudarc::driver::{CudaEvent, sys};

use super::device::CudaDevice;
use super::failure::Result;

/// A point in what a device was asked for.
#[derive(Debug)]
pub struct Mark {
    event: CudaEvent,
    device: CudaDevice,
}

/// Versions of what computes, as their makers count.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Versions {
    /// The newest CUDA that the driver knows: 13000 is 13.0.
    pub driver: u32,
    /// cuDNN: 91900 is 9.19.0.
    pub dnn: usize,
}

impl CudaDevice {
    /// Marks the point that has been asked for so far.
    ///
    /// # Errors
    ///
    /// [`super::CudaError::Driver`] if the device has failed.
    pub fn mark(&self) -> Result<Mark> {
        let flags = Some(sys::CUevent_flags::CU_EVENT_DEFAULT);
        let event = self.driver(self.stream().record_event(flags), "marking a moment")?;
        Ok(Mark {
            event,
            device: self.clone(),
        })
    }

    /// Versions of the driver and of cuDNN.
    ///
    /// # Errors
    ///
    /// [`super::CudaError::Driver`] if the driver does not tell its own.
    pub fn versions(&self) -> Result<Versions> {
        Ok(Versions {
            driver: self.driver_version()?,
            dnn: cudnn::result::get_version(),
        })
    }
}

impl Mark {
    /// Waits until the device has come to `end`: the time from here to there, on its own clock.
    ///
    /// # Errors
    ///
    /// [`super::CudaError`] for whatever went wrong on the device on the way.
    pub fn until(&self, end: &Self) -> Result<Duration> {
        let waited = end.event.synchronize();
        self.device.driver(waited, "waiting for the GPU")?;
        let elapsed = self.event.elapsed_ms(&end.event);
        let milliseconds = self.device.driver(elapsed, "reading the GPU's clock")?;
        Ok(Duration::from_secs_f64(
            f64::from(milliseconds).max(0.0) / 1e3,
        ))
    }
}
