//! Where networks are computed.

use std::sync::Arc;

use crate::{Classifier, Network, Result};

/// Where networks are computed. Networks themselves, and their files, are the same everywhere.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub enum Processor {
    /// The CPU, on all threads of the pool.
    #[default]
    Cpu,
    /// An NVIDIA GPU.
    #[cfg(feature = "cuda")]
    Cuda(crate::cuda::Gpu),
}

impl Processor {
    /// The network as it is, for inference.
    ///
    /// # Errors
    ///
    /// As for [`Network::freeze`]; on a GPU also if its memory does not suffice.
    pub fn freeze(&self, network: &Network) -> Result<Arc<dyn Classifier>> {
        match self {
            Self::Cpu => Ok(Arc::new(network.freeze()?)),
            #[cfg(feature = "cuda")]
            Self::Cuda(gpu) => Ok(Arc::new(crate::cuda::CudaClassifier::new(gpu, network)?)),
        }
    }
}
