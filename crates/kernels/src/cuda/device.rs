//! A GPU that was opened: its stream, its kernels, its cuDNN handle.

use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cudarc::cudnn::CudnnError;
use cudarc::driver::{CudaContext, CudaStream, DriverError, result, sys};

use super::algorithm::Precision;
use super::dnn::Dnn;
use super::failure::{CudaError, Result, TOOLKIT, check_driver};
use super::function::{Argument, Functions, Kernel};
use super::graph::{Kept, RECORDING};
use super::hopper::Hopper;
use super::launch::Grid;
use super::library;
use super::priority::Priorities;
use super::turns::{Turn, Turns};

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
    hopper: Option<Hopper>,
    stream: Arc<CudaStream>,
    priorities: Priorities,
    turns: Turns,
    recording: Recorder,
    ordinal: usize,
    name: String,
}

/// What there is to say of recordings.
#[derive(Debug)]
struct Recorder {
    wanted: AtomicBool,
    /// What the work that is recorded now refers to; nothing if none is.
    kept: Mutex<Option<Vec<Kept>>>,
    refused: Mutex<Option<String>>,
}

/// cuDNN, for one caller.
pub(crate) struct DnnTurn<'a> {
    // Dropped in this order.
    dnn: MutexGuard<'a, Dnn>,
    _turn: Turn<'a>,
}

impl Deref for DnnTurn<'_> {
    type Target = Dnn;

    fn deref(&self) -> &Dnn {
        &self.dnn
    }
}

impl DerefMut for DnnTurn<'_> {
    fn deref_mut(&mut self) -> &mut Dnn {
        &mut self.dnn
    }
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
        let _alone = RECORDING.lock().unwrap_or_else(PoisonError::into_inner);
        library::find()?;
        map_driver(result::init(), "starting the driver", ordinal)?;
        check_driver(driver_version(ordinal)?, TOOLKIT)?;
        let context = map_driver(CudaContext::new(ordinal), "opening the GPU", ordinal)?;
        disable_event_tracking(&context);
        if context.has_async_alloc() {
            let kept = keep_freed_memory(&context);
            map_driver(kept, "setting up the memory pool", ordinal)?;
        }
        let priorities = map_driver(Priorities::next(), "asking for priorities", ordinal)?;
        let stream = context.new_stream_with_priority(priorities.of_stream());
        let stream = map_driver(stream, "making a stream", ordinal)?;
        let functions = map_driver(
            Functions::load(&context),
            "compiling the kernels for the card",
            ordinal,
        )?;
        let hopper = map_driver(
            Hopper::load(&context),
            "loading the card's own convolutions",
            ordinal,
        )?;
        let dnn = Dnn::new(&stream)?;
        let name = map_driver(context.name(), "reading the GPU's name", ordinal)?;
        Ok(Self {
            inner: Arc::new(Inner {
                dnn: Mutex::new(dnn),
                functions,
                hopper,
                stream,
                priorities,
                turns: Turns::default(),
                recording: Recorder {
                    wanted: AtomicBool::new(true),
                    kept: Mutex::new(None),
                    refused: Mutex::new(None),
                },
                ordinal,
                name,
            }),
        })
    }

    /// The card's name.
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// Its number, from 0 on.
    pub fn ordinal(&self) -> usize {
        self.inner.ordinal
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
        let _turn = self.turn();
        self.driver(self.inner.stream.synchronize(), "waiting for the GPU")
    }

    /// Whether work that repeats is recorded ([`super::Replays`]), as it is from the start, or
    /// started launch by launch.
    pub fn set_recording(&self, wanted: bool) {
        self.inner.recording.wanted.store(wanted, Ordering::Relaxed);
    }

    /// Why the first work that could not be recorded was not, if there was any: it is slower to
    /// start, not wrong.
    pub fn recording_refused(&self) -> Option<String> {
        lock(&self.inner.recording.refused).clone()
    }

    pub(crate) fn records(&self) -> bool {
        self.inner.recording.wanted.load(Ordering::Relaxed)
    }

    pub(crate) fn note_refusal(&self, reason: String) {
        lock(&self.inner.recording.refused).get_or_insert(reason);
    }

    /// Keeps what [`CudaDevice::keep`] is given, until [`CudaDevice::keep_no_more`] hands it out.
    pub(crate) fn keep_from_now(&self) {
        *lock(&self.inner.recording.kept) = Some(Vec::new());
    }

    pub(crate) fn keep_no_more(&self) -> Vec<Kept> {
        lock(&self.inner.recording.kept).take().unwrap_or_default()
    }

    /// Memory whose address is about to be used: a recording has to keep it.
    pub(crate) fn keep<T: Send + Sync + 'static>(&self, memory: &Arc<T>) {
        if let Some(kept) = &mut *lock(&self.inner.recording.kept) {
            kept.push(memory.clone());
        }
    }

    /// Refuses, while this device records, what is not a launch.
    pub(crate) fn check_not_recording(&self, doing: &'static str) -> Result<()> {
        if lock(&self.inner.recording.kept).is_none() {
            return Ok(());
        }
        let expected = "launches alone";
        Err(CudaError::argument(
            "part of recorded work",
            doing,
            expected,
        ))
    }

    /// Makes the device's context current, to free what lies in it. A context that is gone has
    /// nothing left to free.
    pub(crate) fn bind(&self) {
        let _ = self.inner.stream.context().bind_to_thread();
    }

    /// Lets no other thread ask anything of the device's stream.
    pub(crate) fn turn(&self) -> Turn<'_> {
        self.inner.turns.take()
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

    /// Priorities of its launches.
    pub(crate) fn priorities(&self) -> Priorities {
        self.inner.priorities
    }

    /// Own convolutions, if the card runs them.
    pub(crate) fn hopper(&self) -> Option<&Hopper> {
        self.inner.hopper.as_ref()
    }

    /// cuDNN, for one caller at a time, with the device's context current.
    pub(crate) fn dnn(&self) -> Result<DnnTurn<'_>> {
        // Taken first, always: whoever records has the turn, and comes for cuDNN later.
        let turn = self.turn();
        let bound = self.inner.stream.context().bind_to_thread();
        self.driver(bound, "binding the GPU to a thread")?;
        Ok(DnnTurn {
            dnn: lock(&self.inner.dnn),
            _turn: turn,
        })
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
        let _turn = self.turn();
        // SAFETY: the caller's promise.
        let result =
            unsafe { functions.launch(&self.inner.stream, precision, kernel, grid, arguments) };
        self.driver(result, "starting a kernel")
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
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
