//! cuDNN on one stream: plans of convolutions, the choice of their algorithms, the workspace.

use std::collections::HashMap;
use std::ffi::{c_int, c_void};
use std::sync::Arc;

use cudarc::cudnn::{CudnnError, result, sys};
use cudarc::driver::{CudaSlice, CudaStream, DevicePtr};

use super::algorithm::{Candidate, ConvKey, Direction, usable};
use super::descriptor::{Descriptor, Filter, Handle, Tensor, kept_math, math_type};
use super::device::{map_dnn, map_driver};
use super::failure::{CudaError, Result};

/// The most workspace an algorithm may take, in bytes.
const MEMORY_LIMIT: usize = 1 << 30;

/// The smallest version that will do, as cuDNN counts: the first 9.
const OLDEST: usize = 90_000;

/// cuDNN on one stream.
#[derive(Debug)]
pub(crate) struct Dnn {
    // Dropped in this order.
    plans: HashMap<ConvKey, Plan>,
    handle: Handle,
    /// Shared with the recordings that refer to it.
    workspace: Option<Arc<CudaSlice<u8>>>,
    stream: Arc<CudaStream>,
}

// SAFETY: cuDNN's handle and descriptors may be used from any thread, by one at a time; `Dnn` is
// only reached through a mutex, by a thread that has made the device's context current.
#[allow(unsafe_code)]
unsafe impl Send for Dnn {}

/// A convolution as cuDNN wants it described, and how it is computed.
#[derive(Debug)]
struct Plan {
    input: Tensor,
    output: Tensor,
    filter: Filter,
    convolution: Descriptor,
    algorithm: Algorithm,
    workspace: usize,
}

#[derive(Copy, Clone, Debug)]
enum Algorithm {
    Forward(sys::cudnnConvolutionFwdAlgo_t),
    BackwardData(sys::cudnnConvolutionBwdDataAlgo_t),
    BackwardFilter(sys::cudnnConvolutionBwdFilterAlgo_t),
}

/// Addresses of a convolution's three tensors; the one that its direction computes is written.
#[derive(Copy, Clone, Debug)]
pub(crate) struct Addresses {
    pub(crate) input: u64,
    pub(crate) filter: u64,
    pub(crate) output: u64,
}

impl Dnn {
    #[allow(unsafe_code)]
    pub(crate) fn new(stream: &Arc<CudaStream>) -> Result<Self> {
        let version = result::get_version();
        let bad = |status: String| CudaError::BadDnn { version, status };
        if version < OLDEST {
            return Err(bad("older than 9.0".to_owned()));
        }
        let handle = Handle::new().map_err(|CudnnError(code)| bad(format!("{code:?}")))?;
        // SAFETY: both were made above and by the caller; the stream outlives the handle, which is
        // dropped before it.
        let set = unsafe { result::set_stream(handle.0, stream.cu_stream().cast()) };
        map_dnn(set, "giving cuDNN its stream")?;
        Ok(Self {
            plans: HashMap::new(),
            handle,
            workspace: None,
            stream: stream.clone(),
        })
    }

    /// Chooses an algorithm and makes room for its workspace, unless that was done before.
    pub(crate) fn prepare(&mut self, key: &ConvKey) -> Result<()> {
        if let Some(plan) = self.plans.get(key) {
            // Where the last allocation failed there is none.
            return self.make_room(plan.workspace);
        }
        let plan = Plan::new(&self.handle, key)?;
        self.make_room(plan.workspace)?;
        self.plans.insert(*key, plan);
        Ok(())
    }

    /// Makes the workspace at least so many bytes large.
    pub(crate) fn make_room(&mut self, bytes: usize) -> Result<()> {
        let room = self
            .workspace
            .as_ref()
            .map_or(0, |workspace| workspace.num_bytes());
        if bytes > room {
            // Freed first, in the stream's order: what runs still may use it until then. What is
            // recorded keeps the one it knows.
            self.workspace = None;
            let allocated = self.stream.alloc_zeros(bytes);
            let doing = "allocating the workspace of convolutions";
            let ordinal = self.stream.context().ordinal();
            self.workspace = Some(Arc::new(map_driver(allocated, doing, ordinal)?));
        }
        Ok(())
    }

    /// The workspace's address and bytes.
    pub(crate) fn room(&self) -> (u64, usize) {
        let workspace = self.workspace.as_ref();
        workspace.map_or((0, 0), |workspace| {
            (workspace.device_ptr(&self.stream).0, workspace.num_bytes())
        })
    }

    /// Whether this convolution was prepared.
    pub(crate) fn knows(&self, key: &ConvKey) -> bool {
        self.plans.contains_key(key)
    }

    /// The workspace, which all convolutions share.
    pub(crate) fn workspace(&self) -> Option<&Arc<CudaSlice<u8>>> {
        self.workspace.as_ref()
    }

    /// Convolves: what is computed is written, or added to what is there.
    ///
    /// # Safety
    ///
    /// Each address holds as many values of the key's precision as its tensor has, and lives until
    /// the stream has come past this.
    #[allow(unsafe_code)]
    pub(crate) unsafe fn run(
        &mut self,
        key: &ConvKey,
        at: Addresses,
        accumulate: bool,
    ) -> Result<()> {
        self.prepare(key)?;
        let plan = &self.plans[key];
        let workspace = self.room().0;
        let (one, zero) = (1.0_f32, 0.0_f32);
        let alpha: *const c_void = (&raw const one).cast();
        let beta: *const c_void = if accumulate {
            &raw const one
        } else {
            &raw const zero
        }
        .cast();
        let address = |address: u64| address as *mut c_void;
        let (input, filter) = (address(at.input), address(at.filter));
        let (output, room) = (address(at.output), address(workspace));
        let convolution = plan.convolution.0;
        // SAFETY: handle and descriptors live in `self`; the workspace has at least the plan's
        // bytes (`prepare`); the caller promised the rest. Alpha and beta are f32 on the host, as
        // cuDNN asks for with both f32 and bf16 data, and are read before the call returns.
        let done = unsafe {
            match plan.algorithm {
                Algorithm::Forward(algorithm) => result::convolution_forward(
                    self.handle.0,
                    alpha,
                    plan.input.0,
                    input,
                    plan.filter.0,
                    filter,
                    convolution,
                    algorithm,
                    room,
                    plan.workspace,
                    beta,
                    plan.output.0,
                    output,
                ),
                Algorithm::BackwardData(algorithm) => result::convolution_backward_data(
                    self.handle.0,
                    alpha,
                    plan.filter.0,
                    filter,
                    plan.output.0,
                    output,
                    convolution,
                    algorithm,
                    room,
                    plan.workspace,
                    beta,
                    plan.input.0,
                    input,
                ),
                Algorithm::BackwardFilter(algorithm) => result::convolution_backward_filter(
                    self.handle.0,
                    alpha,
                    plan.input.0,
                    input,
                    plan.output.0,
                    output,
                    convolution,
                    algorithm,
                    room,
                    plan.workspace,
                    beta,
                    plan.filter.0,
                    filter,
                ),
            }
        };
        map_dnn(done, "convolving")
    }
}

/// Asks cuDNN's heuristics for algorithms of one direction, and takes the first that may be used
/// and whose workspace cuDNN is willing to name. The algorithm numbered 1, which is deterministic
/// in all three directions, is tried last, whether the heuristics offer it or not.
macro_rules! choose {
    ($handle:expr, $key:expr, $convolution:expr, $get:path, $size:path, $perf:ty, $one:path,
     ($first:expr, $second:expr, $third:expr), ($a:expr, $b:expr, $c:expr, $d:expr)) => {{
        const MOST: usize = 16;
        let mut count: c_int = 0;
        let mut offered = Vec::<$perf>::with_capacity(MOST);
        // SAFETY: handle and descriptors are alive, and there is room for as many answers as are
        // asked for, of which the function says how many it has written.
        unsafe {
            let answers = offered.as_mut_ptr();
            let most = MOST as c_int;
            let got = $get(
                $handle,
                $first,
                $second,
                $convolution,
                $third,
                most,
                &raw mut count,
                answers,
            );
            map_dnn(got, "asking cuDNN for algorithms")?;
            offered.set_len(usize::try_from(count).unwrap_or(0).min(MOST));
        }
        let success = sys::cudnnStatus_t::CUDNN_STATUS_SUCCESS;
        let certain = sys::cudnnDeterminism_t::CUDNN_DETERMINISTIC;
        let mut candidates: Vec<Candidate> = offered
            .iter()
            .map(|answer| Candidate {
                algorithm: answer.algo as u32,
                math: answer.mathType as u32,
                works: answer.status == success,
                deterministic: answer.determinism == certain,
                memory: answer.memory,
            })
            .collect();
        candidates.push(Candidate {
            algorithm: $one as u32,
            math: math_type($key.precision) as u32,
            works: true,
            deterministic: true,
            memory: 0,
        });
        let mut found = None;
        for candidate in usable(&candidates, $key.deterministic, MEMORY_LIMIT) {
            let of = |answer: &&$perf| answer.algo as u32 == candidate.algorithm;
            let algorithm = offered.iter().find(of).map_or($one, |answer| answer.algo);
            // SAFETY: handle and descriptors are alive.
            let size = unsafe {
                let math = kept_math($key.precision, candidate.math);
                let set = result::set_convolution_math_type($convolution, math);
                map_dnn(set, "setting the kind of arithmetic")?;
                $size($handle, $a, $b, $c, $d, algorithm)
            };
            if let Ok(bytes) = size
                && bytes <= MEMORY_LIMIT
            {
                found = Some((algorithm, bytes));
                break;
            }
        }
        found
    }};
}

impl Plan {
    #[allow(unsafe_code)]
    fn new(handle: &Handle, key: &ConvKey) -> Result<Self> {
        let side = |side: usize| side.div_ceil(key.stride);
        let input = Tensor::new(key, key.in_channels, (key.height, key.width))?;
        let output = Tensor::new(key, key.out_channels, (side(key.height), side(key.width)))?;
        let filter = Filter::new(key)?;
        let convolution = Descriptor::new(key)?;
        let (x, y, w, c) = (input.0, output.0, filter.0, convolution.0);
        let found = match key.direction {
            Direction::Forward => choose!(
                handle.0,
                key,
                c,
                result::get_convolution_forward_algorithm,
                result::get_convolution_forward_workspace_size,
                sys::cudnnConvolutionFwdAlgoPerf_t,
                sys::cudnnConvolutionFwdAlgo_t::CUDNN_CONVOLUTION_FWD_ALGO_IMPLICIT_PRECOMP_GEMM,
                (x, w, y),
                (x, w, c, y)
            )
            .map(|(algorithm, bytes)| (Algorithm::Forward(algorithm), bytes)),
            Direction::BackwardData => choose!(
                handle.0,
                key,
                c,
                result::get_convolution_backward_data_algorithm,
                result::get_convolution_backward_data_workspace_size,
                sys::cudnnConvolutionBwdDataAlgoPerf_t,
                sys::cudnnConvolutionBwdDataAlgo_t::CUDNN_CONVOLUTION_BWD_DATA_ALGO_1,
                (w, y, x),
                (w, y, c, x)
            )
            .map(|(algorithm, bytes)| (Algorithm::BackwardData(algorithm), bytes)),
            Direction::BackwardFilter => choose!(
                handle.0,
                key,
                c,
                result::get_convolution_backward_filter_algorithm,
                result::get_convolution_backward_filter_workspace_size,
                sys::cudnnConvolutionBwdFilterAlgoPerf_t,
                sys::cudnnConvolutionBwdFilterAlgo_t::CUDNN_CONVOLUTION_BWD_FILTER_ALGO_1,
                (x, y, w),
                (x, y, c, w)
            )
            .map(|(algorithm, bytes)| (Algorithm::BackwardFilter(algorithm), bytes)),
        };
        let Some((algorithm, workspace)) = found else {
            return Err(CudaError::NoAlgorithm {
                kind: if key.deterministic {
                    "deterministic"
                } else {
                    "usable"
                },
                what: key.describe(),
            });
        };
        Ok(Self {
            input,
            output,
            filter,
            convolution,
            algorithm,
            workspace,
        })
    }
}
