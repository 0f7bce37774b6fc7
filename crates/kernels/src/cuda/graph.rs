//! Work that repeats, recorded once as a CUDA graph and started as a whole from then on: a step of
//! training is some 160 launches, and starting each takes the host longer than the device takes to
//! run it.
//!
//! A recording holds addresses and the values of arguments. So whatever changes from call to call
//! has to lie in a buffer that is written outside of the work, or be part of its key. Each buffer
//! that the work named is kept alive by its recording: no address of one can dangle.

use std::any::Any;
use std::sync::{Arc, Mutex, PoisonError};

use cudarc::driver::{CudaStream, DriverError, result, sys};

use super::device::CudaDevice;
use super::failure::{CudaError, Result};
use super::priority::Priorities;

/// Memory that a recording refers to.
pub(crate) type Kept = Arc<dyn Any + Send + Sync>;

/// Held while a thread records, and while one opens a GPU: a context must not be waited for as a
/// whole while one of its streams is recorded.
pub(crate) static RECORDING: Mutex<()> = Mutex::new(());

/// Recordings of one piece of work, one for each key.
#[derive(Debug)]
pub struct Replays<K> {
    /// The one used last comes last.
    known: Vec<(K, State)>,
    most: usize,
}

#[derive(Debug)]
enum State {
    /// It ran once, so that cuDNN has made its plans and loaded its kernels.
    Ran,
    Recorded(Recording),
    /// The driver or cuDNN will not have it recorded: it is started launch by launch.
    Refused,
}

impl<K: PartialEq> Replays<K> {
    /// Nothing yet. The `most` recordings that were used last are kept.
    pub fn new(most: usize) -> Self {
        Self {
            known: Vec::new(),
            most: most.max(1),
        }
    }

    /// Does `work`: itself when its key is new, from a recording later on. It has to ask for the
    /// same launches whenever the key is the same, and for nothing else: allocating, copying to or
    /// from the host and waiting are refused while it is recorded.
    ///
    /// # Errors
    ///
    /// Those of `work`; [`CudaError::Driver`] if a recording does not start.
    pub fn run<E: From<CudaError> + std::fmt::Display>(
        &mut self,
        device: &CudaDevice,
        key: K,
        mut work: impl FnMut() -> Result<(), E>,
    ) -> Result<(), E> {
        let Some(at) = self.known.iter().position(|(known, _)| *known == key) else {
            work()?;
            if self.known.len() >= self.most {
                self.known.remove(0);
            }
            self.known.push((key, State::Ran));
            return Ok(());
        };
        self.known[at..].rotate_left(1);
        let last = self.known.len() - 1;
        let state = &mut self.known[last].1;
        if device.records() && matches!(state, State::Ran) {
            *state = match Recording::of(device, &mut work) {
                Ok(recording) => State::Recorded(recording),
                Err(reason) => {
                    device.note_refusal(reason);
                    State::Refused
                }
            };
        }
        match state {
            State::Recorded(recording) if device.records() => Ok(recording.start()?),
            _ => work(),
        }
    }

    /// How many pieces of work are recorded.
    pub fn recorded(&self) -> usize {
        let states = self.known.iter();
        states
            .filter(|(_, state)| matches!(state, State::Recorded(_)))
            .count()
    }
}

/// Launches that the driver starts as a whole.
struct Graph {
    started: sys::CUgraphExec,
    stream: Arc<CudaStream>,
}

// SAFETY: a graph may be used from any thread, by one at a time. It is started and dropped only,
// both through a mutable reference.
#[allow(unsafe_code)]
unsafe impl Send for Graph {}
// SAFETY: as above; a shared reference gives no access to the graph.
#[allow(unsafe_code)]
unsafe impl Sync for Graph {}

impl Graph {
    /// What was recorded on `stream` until now; none if nothing was.
    #[allow(unsafe_code)]
    fn recorded(
        stream: &Arc<CudaStream>,
        priorities: Priorities,
    ) -> Result<Option<Self>, DriverError> {
        stream.context().bind_to_thread()?;
        // SAFETY: the stream is alive. What is recorded is a graph, which is destroyed here, once.
        unsafe {
            let recorded = result::stream::end_capture(stream.cu_stream())?;
            if recorded.is_null() {
                return Ok(None);
            }
            // A driver that gives none starts the graph all the same.
            let flags = match priorities.give(recorded) {
                Ok(()) => {
                    sys::CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_USE_NODE_PRIORITY
                }
                Err(_) => sys::CUgraphInstantiate_flags(0),
            };
            let started = result::graph::instantiate(recorded, flags);
            let destroyed = result::graph::destroy(recorded);
            let graph = Self {
                started: started?,
                stream: stream.clone(),
            };
            destroyed?;
            Ok(Some(graph))
        }
    }

    #[allow(unsafe_code)]
    fn start(&mut self) -> Result<(), DriverError> {
        self.stream.context().bind_to_thread()?;
        // SAFETY: both are alive.
        unsafe { result::graph::launch(self.started, self.stream.cu_stream()) }
    }
}

impl Drop for Graph {
    #[allow(unsafe_code)]
    fn drop(&mut self) {
        // SAFETY: it was alive until now. A driver that refuses has nothing to be told.
        let _ = unsafe { result::graph::exec_destroy(self.started) };
    }
}

/// Launches, and all memory that they refer to.
struct Recording {
    // Dropped in this order.
    graph: Option<Graph>,
    kept: Vec<Kept>,
    device: CudaDevice,
}

impl Recording {
    /// Records what `work` starts, without running it; the reason if that cannot be done.
    fn of<E: From<CudaError> + std::fmt::Display>(
        device: &CudaDevice,
        work: &mut dyn FnMut() -> Result<(), E>,
    ) -> Result<Self, String> {
        let _turn = device.turn();
        let _alone = RECORDING.lock().unwrap_or_else(PoisonError::into_inner);
        let stream = device.stream();
        // Of other threads only what they do on this stream matters, and they wait for their turn.
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        let begun = device.driver(stream.begin_capture(mode), "beginning to record");
        begun.map_err(|error| error.to_string())?;
        let recorded = Unfinished::begin(device);
        let worked = work();
        let (ended, kept) = recorded.end();
        // The first failure says most: the end of a recording that was spoilt fails as well.
        worked.map_err(|error| error.to_string())?;
        let graph = device.driver(ended, "ending to record");
        let graph = graph.map_err(|error| error.to_string())?;
        Ok(Self {
            graph: Some(graph.ok_or("nothing was recorded")?),
            kept,
            device: device.clone(),
        })
    }

    fn start(&mut self) -> Result<()> {
        let _turn = self.device.turn();
        let started = self.graph.as_mut().map_or(Ok(()), Graph::start);
        self.device.driver(started, "starting recorded work")
    }
}

/// A recording under way. A panic ends it as well, so that the device can be used on.
struct Unfinished<'a>(Option<&'a CudaDevice>);

impl<'a> Unfinished<'a> {
    fn begin(device: &'a CudaDevice) -> Self {
        device.keep_from_now();
        Self(Some(device))
    }

    fn end(mut self) -> (Result<Option<Graph>, DriverError>, Vec<Kept>) {
        let device = self.0.take().expect("it is ended once");
        (Self::ended(device), device.keep_no_more())
    }

    fn ended(device: &CudaDevice) -> Result<Option<Graph>, DriverError> {
        Graph::recorded(device.stream(), device.priorities())
    }
}

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        if let Some(device) = self.0 {
            // Only a panic comes here: what was recorded is of no use.
            drop(Self::ended(device));
            device.keep_no_more();
        }
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        // What still runs is freed by the driver when it is done; memory is freed in the stream's
        // order, so after it.
        let _turn = self.device.turn();
        self.device.bind();
        self.graph = None;
        self.kept.clear();
    }
}

impl std::fmt::Debug for Recording {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let kept = self.kept.len();
        write!(formatter, "Recording {{ buffers: {kept} }}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recordings_move_between_threads() {
        fn movable<T: Send + Sync>() {}
        movable::<Replays<usize>>();
    }
}
