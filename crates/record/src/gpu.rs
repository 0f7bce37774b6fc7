//! What `mesa gpu` found out about a GPU: the record of its check and of its measurements.

use serde::{Deserialize, Serialize};

/// `gpu.json`: whether the GPU computes what the processor does, and how fast.
///
/// Written after each part, so that what was measured before a failure is kept.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct GpuRecord {
    /// When, as `2026-01-31T12:00:00Z`.
    pub made: String,
    /// The program and its version.
    pub program: String,
    /// What it ran on.
    pub machine: GpuMachine,
    /// Whether sizes were so small that times say nothing.
    #[serde(default)]
    pub quick: bool,
    /// Width of the ResNet-18 whose steps are measured.
    #[serde(default)]
    pub width: usize,
    /// Images in a batch, unless a row says otherwise.
    #[serde(default)]
    pub batch_size: usize,
    /// What the check came to, if it ran on this device with this program.
    #[serde(default)]
    pub check: Option<GpuCheck>,
    /// The device's own rates.
    #[serde(default)]
    pub rates: Vec<GpuRow>,
    /// Convolutions of the network and batch norm, each alone.
    #[serde(default)]
    pub layers: Vec<GpuRow>,
    /// Whole steps.
    #[serde(default)]
    pub steps: Vec<GpuRow>,
    /// PyTorch's version, or why there is nothing to compare with.
    #[serde(default)]
    pub peer: Option<String>,
    /// The same steps in PyTorch.
    #[serde(default)]
    pub comparisons: Vec<GpuComparison>,
}

/// A GPU and what drives it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GpuMachine {
    /// The card's name.
    pub device: String,
    /// Its memory in MiB.
    pub memory_mb: usize,
    /// The driver's version; empty where the system does not tell.
    pub driver: String,
    /// The newest CUDA that the driver knows.
    pub cuda: String,
    /// cuDNN's version.
    pub cudnn: String,
    /// The host's processor.
    pub processor: String,
}

/// Kernels and steps against the processor's.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct GpuCheck {
    /// How many comparisons there were.
    pub comparisons: usize,
    /// Those that miss their tolerance.
    pub failed: Vec<GpuChecked>,
    /// In each precision the one that comes closest to its tolerance.
    pub closest: Vec<GpuChecked>,
    /// Whether whole steps of wide networks were left out.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub quick: bool,
}

/// One comparison.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct GpuChecked {
    /// What was compared.
    pub name: String,
    /// `f32`, `tf32` or `bf16`.
    pub precision: String,
    /// ‖found − expected‖ / ‖expected‖; none where nothing could be computed.
    pub error: Option<f64>,
    /// The largest error that passes.
    pub tolerance: f64,
    /// Whether it does.
    pub passed: bool,
}

/// One kind of work, measured.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct GpuRow {
    /// Which work.
    pub work: String,
    /// Which part of it, if it has several.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub part: String,
    /// `f32`, `tf32` or `bf16`.
    pub precision: String,
    /// Whether only algorithms that give the same bits every time were used.
    pub deterministic: bool,
    /// How often it comes in a training step; 0 where that makes no sense.
    #[serde(default)]
    pub count: usize,
    /// Images in a batch; 0 where there are none.
    #[serde(default)]
    pub images: usize,
    /// Multiplications and additions of one, in GFLOP.
    #[serde(default)]
    pub gflop: f64,
    /// Bytes that one has to move at least, in MB.
    #[serde(default)]
    pub megabytes: f64,
    /// What one took.
    pub time: Option<GpuTime>,
    /// Why there is no time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed: Option<String>,
}

/// Seconds of one of many, medians over rounds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct GpuTime {
    /// One after the other, from the first request to the end of the last.
    pub wall_s: f64,
    /// The fastest round.
    pub lowest_s: f64,
    /// The slowest round.
    pub highest_s: f64,
    /// Until the host has asked for it.
    pub host_s: f64,
    /// By the device's clock, with everything asked for beforehand.
    pub device_s: f64,
    /// How many rounds there were.
    pub rounds: usize,
}

/// A step beside PyTorch's, in turns.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct GpuComparison {
    /// Which step.
    pub work: String,
    /// How PyTorch computes it.
    pub variant: String,
    /// Median of ours, in seconds.
    #[serde(default)]
    pub ours_s: f64,
    /// Median of PyTorch's, in seconds.
    #[serde(default)]
    pub peer_s: f64,
    /// PyTorch's over ours: above 1 we are faster.
    #[serde(default)]
    pub ratio: f64,
    /// The same for each pair of turns.
    #[serde(default)]
    pub pairs: Vec<f64>,
    /// Seconds until PyTorch was ready, compilation included.
    #[serde(default)]
    pub ready_s: f64,
    /// Why it was not measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed: Option<String>,
}

impl GpuRecord {
    /// The highest rate of products in a precision that anything reached here, in TFLOP/s: what
    /// shares are shares of.
    pub fn matrix_tflops(&self, precision: &str) -> Option<f64> {
        let of_it = self.rates.iter().filter(|row| row.precision == precision);
        of_it.filter_map(GpuRow::tflops).reduce(f64::max)
    }

    /// The share of the matrix rate of its precision that a row reaches.
    pub fn share(&self, row: &GpuRow) -> Option<f64> {
        Some(row.tflops()? / self.matrix_tflops(&row.precision)?)
    }
}

impl GpuRow {
    /// Operations a second, in TFLOP/s; none where there are none.
    pub fn tflops(&self) -> Option<f64> {
        let time = self.time?;
        (self.gflop > 0.0).then(|| self.gflop / 1e3 / time.wall_s)
    }

    /// The same by the device's clock, the host's requests left out.
    pub fn device_tflops(&self) -> Option<f64> {
        let time = self.time?;
        (self.gflop > 0.0 && time.device_s > 0.0).then(|| self.gflop / 1e3 / time.device_s)
    }

    /// Bytes a second, in GB/s.
    pub fn gigabytes_per_s(&self) -> Option<f64> {
        let time = self.time?;
        (self.megabytes > 0.0).then(|| self.megabytes / 1e3 / time.wall_s)
    }

    /// The same by the device's clock.
    pub fn device_gigabytes_per_s(&self) -> Option<f64> {
        let time = self.time?;
        (self.megabytes > 0.0 && time.device_s > 0.0).then(|| self.megabytes / 1e3 / time.device_s)
    }

    /// Images a second.
    pub fn images_per_s(&self) -> Option<f64> {
        let time = self.time?;
        (self.images > 0).then(|| self.images as f64 / time.wall_s)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(precision: &str, gflop: f64, megabytes: f64, wall_s: f64) -> GpuRow {
        GpuRow {
            precision: precision.to_owned(),
            images: 100,
            gflop,
            megabytes,
            time: Some(GpuTime {
                wall_s,
                ..GpuTime::default()
            }),
            ..GpuRow::default()
        }
    }

    #[test]
    fn shares_are_of_the_best_rate_in_the_same_precision() {
        let mut record = GpuRecord {
            rates: vec![
                row("bf16", 400.0, 0.0, 1e-3),
                row("bf16", 600.0, 0.0, 1e-3),
                row("f32", 50.0, 0.0, 1e-3),
                row("", 0.0, 2000.0, 1e-3),
            ],
            ..GpuRecord::default()
        };
        assert_eq!(record.matrix_tflops("bf16"), Some(600.0));
        assert_eq!(record.matrix_tflops("tf32"), None);
        let step = row("bf16", 400.0, 0.0, 2e-3);
        assert_eq!(record.share(&step), Some(200.0 / 600.0));
        assert_eq!(step.images_per_s(), Some(50_000.0));
        record.rates.clear();
        assert_eq!(record.share(&step), None);
    }

    #[test]
    fn a_record_of_one_part_is_read() {
        let text = r#"{"made": "", "program": "mesa 0", "machine": {"device": "G", "memory_mb": 1,
            "driver": "", "cuda": "13.0", "cudnn": "9.1", "processor": "P"},
            "rates": [{"work": "w", "precision": "bf16", "deterministic": true, "time": null,
            "failed": "no algorithm"}]}"#;
        let record: GpuRecord = serde_json::from_str(text).unwrap();
        assert_eq!(record.matrix_tflops("bf16"), None);
        assert!(record.check.is_none() && record.steps.is_empty());
    }
}
