//! How near the kernels come to what a processor can do: the record of the roofline.

use serde::{Deserialize, Serialize};

/// `roofline.json`: the limits of one machine, and what each layer reaches of them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RooflineRecord {
    /// The processor's name and the kernel path.
    pub machine: String,
    /// Threads that worked.
    pub threads: usize,
    /// Images in a batch.
    pub batch_size: usize,
    /// Multiplications and additions a second, all threads together, in GFLOP/s.
    pub peak_gflops: f64,
    /// Memory traffic of all threads together, in GB/s.
    pub bandwidth_gbs: f64,
    /// Layers, and totals.
    pub rows: Vec<RooflineRow>,
}

/// One layer in one direction, or a total; times are of one such layer and a whole batch.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RooflineRow {
    /// Width of the network.
    pub width: usize,
    /// Which layer; of a total, what is summed.
    pub layer: String,
    /// Layers of that shape.
    pub count: usize,
    /// `forward`, `input gradient` or `weight gradient`; empty for a total.
    pub direction: String,
    /// Operations of the plain sum, in GFLOP.
    pub plain_gflop: f64,
    /// Operations that are left: a quarter, where Winograd's transform applies.
    pub gflop: f64,
    /// Bytes to be moved at least, in MB.
    pub megabytes: f64,
    /// The larger of both limits, in milliseconds.
    pub limit_ms: f64,
    /// What it took, in milliseconds.
    pub measured_ms: f64,
}

impl RooflineRow {
    /// The share of the limit that is reached.
    pub fn share(&self) -> f64 {
        self.limit_ms / self.measured_ms
    }
}
