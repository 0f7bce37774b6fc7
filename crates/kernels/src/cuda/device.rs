//! A GPU that was opened: its stream, its kernels, its cuDNN handle.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cudarc::cudnn::CudnnError;
use cudarc::driver::{CudaContext, CudaStream, DriverError, result, sys};

use super::algorithm::Precision;
use super::dnn::Dnn;
use super::failure::{CudaError, Result, TOOLKIT, check_driver};
use super::function::{Argument, Functions, Kernel};
use super::launch::Grid;
use super::library;

/// A GPU. Clones are the same one; whatever is asked of it runs in order, on one stream.
#[derive(Clone, Debug)]
pub struct CudaDevice {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    // Dropped in this order: what cuDNN holds lives in the context.
    dnn: Mutex<Dnn>,
    functions: Functions,
    stream: Arc<CudaStream>,
    ordinal: usize,
    name: String,
}

/// The device's memory, in bytes.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct MemoryUse {
    /// Free for new allocations; what this process's pool holds in reserve does not count.
    pub free: usize,
    /// All of it.
    pub total: usize,
}

impl CudaDevice {
    /// Opens GPU number `ordinal`, from 0 on, with a stream of its own.
    ///
    /// # Errors
    ///
    /// [`CudaError`] says what is missing: driver, device, cuDNN, a newer driver or card.
    pub fn open(ordinal: usize) -> Result<Self> {
        library::find()?;
        map_driver(result::init(), "starting the driver", ordinal)?;
        check_driver(driver_version(ordinal)?, TOOLKIT)?;
        let context = map_driver(CudaContext::new(ordinal), "opening the GPU", ordinal)?;
        disable_event_tracking(&context);
        if context.has_async_alloc() {
            let kept = keep_freed_memory(&context);
            map_driver(kept, "setting up the memory pool", ordinal)?;
        }
        let stream = map_driver(context.new_stream(), "making a stream", ordinal)?;
        let functions = map_driver(
            Functions::load(&context),
            "compiling the kernels for the card",
            ordinal,
        )?;
        let dnn = Dnn::new(&stream)?;
        let name = map_driver(context.name(), "reading the GPU's name", ordinal)?;
        Ok(Self {
            inner: Arc::new(Inner {
                dnn: Mutex::new(dnn),
                functions,
                stream,
                ordinal,
                name,
            }),
        })
    }

    /// The card's name.
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// How much memory there is.
    ///
    /// # Errors
    ///
    /// [`CudaError::Driver`] if the device has failed.
    pub fn memory(&self) -> Result<MemoryUse> {
        let result = self.inner.stream.context().mem_get_info();
        let (free, total) = self.driver(result, "asking for free memory")?;
        Ok(MemoryUse { free, total })
    }

    /// Waits until everything asked for so far is done.
    ///
    /// # Errors
    ///
    /// [`CudaError`] for whatever went wrong on the way: the device reports it late.
    pub fn synchronize(&self) -> Result<()> {
        self.driver(self.inner.stream.synchronize(), "waiting for the GPU")
    }

    /// Refuses memory that was allocated through another opening of a GPU: it belongs to another
    /// stream, and nothing would keep the two in order.
    pub(crate) fn check_same(&self, other: &Self) -> Result<()> {
        if Arc::ptr_eq(&self.inner, &other.inner) {
            return Ok(());
        }
        Err(CudaError::argument(
            "the device of a buffer",
            format!("another opening of {}", other.name()),
            "the one that computes",
        ))
    }

    /// The driver's version as drivers count it.
    pub(crate) fn driver_version(&self) -> Result<u32> {
        driver_version(self.inner.ordinal)
    }

    pub(crate) fn stream(&self) -> &Arc<CudaStream> {
        &self.inner.stream
    }

    /// cuDNN, for one caller at a time, with the device's context current.
    pub(crate) fn dnn(&self) -> Result<MutexGuard<'_, Dnn>> {
        let bound = self.inner.stream.context().bind_to_thread();
        self.driver(bound, "binding the GPU to a thread")?;
        Ok(self
            .inner
            .dnn
            .lock()
            .unwrap_or_else(PoisonError::into_inner))
    }

    /// The driver's answer, as this crate's.
    pub(crate) fn driver<T>(
        &self,
        result: Result<T, DriverError>,
        doing: &'static str,
    ) -> Result<T> {
        map_driver(result, doing, self.inner.ordinal)
    }

    /// Starts a kernel.
    ///
    /// # Safety
    ///
    /// As for [`Functions::launch`].
    #[allow(unsafe_code)]
    pub(crate) unsafe fn launch(
        &self,
        precision: Precision,
        kernel: Kernel,
        grid: Grid,
        arguments: &[Argument],
    ) -> Result<()> {
        let functions = &self.inner.functions;
        // SAFETY: the caller's promise.
        let result =
            unsafe { functions.launch(&self.inner.stream, precision, kernel, grid, arguments) };
        self.driver(result, "starting a kernel")
    }
}

/// The driver's answer, as this crate's.
pub(crate) fn map_driver<T>(
    result: Result<T, DriverError>,
    doing: &'static str,
    ordinal: usize,
) -> Result<T> {
    result.map_err(|DriverError(code)| {
        CudaError::driver(code as u32, &format!("{code:?}"), doing, ordinal)
    })
}

/// cuDNN's answer, as this crate's.
pub(crate) fn map_dnn<T>(result: Result<T, CudnnError>, doing: &'static str) -> Result<T> {
    result.map_err(|CudnnError(code)| CudaError::dnn(code as u32, &format!("{code:?}"), doing))
}

/// The driver's version as drivers count it.
#[allow(unsafe_code)]
fn driver_version(ordinal: usize) -> Result<u32> {
    let mut version = 0;
    // SAFETY: the address of an int, which is all the function writes.
    let result = unsafe { sys::cuDriverGetVersion(&raw mut version) }.result();
    map_driver(result, "asking for the driver's version", ordinal)?;
    Ok(u32::try_from(version).unwrap_or(0))
}

/// Spares two events for each buffer.
#[allow(unsafe_code)]
fn disable_event_tracking(context: &CudaContext) {
    // SAFETY: a buffer is used on the one stream that its device has, and freed on it.
    unsafe { context.disable_event_tracking() };
}

/// Lets the memory pool keep what is freed: by default each synchronization hands it back.
#[allow(unsafe_code)]
fn keep_freed_memory(context: &CudaContext) -> Result<(), DriverError> {
    let mut threshold = u64::MAX;
    let attribute = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
    // SAFETY: the device is that of a live context, the pool its default one, and the attribute is
    // a 64-bit number.
    unsafe {
        let pool = result::device::get_default_mem_pool(context.cu_device())?;
        result::mem_pool::set_attribute(pool, attribute, (&raw mut threshold).cast())
    }
}
