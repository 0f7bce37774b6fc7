//! Compares with reference vectors that PyTorch computed in f64 (`golden/generate.py`), and with
//! what other programs wrote (the scripts beside it).
//!
//! Tolerances are relative to the largest value of a tensor. What f32 costs is a few units of its
//! last place (6e-8) for each level of summation; a wrong formula costs orders of magnitude more.

mod adam;
mod checkpoints;
mod cifar_python;
mod crafted_checkpoints;
mod kernels;
mod perceptrons;
mod projection;
mod resnet;
mod step_accuracy;

use std::collections::BTreeMap;

use candle::{DType, Device, Tensor};
use safetensors::SafeTensors;

/// One file of reference vectors.
pub(crate) struct Vectors {
    tensors: BTreeMap<String, Tensor>,
    metadata: BTreeMap<String, String>,
}

impl Vectors {
    pub(crate) fn load(name: &str) -> Self {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden");
        let bytes = fs_err::read(format!("{folder}/{name}.safetensors")).unwrap();
        let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
        let metadata = header.metadata().clone().unwrap_or_default();
        let tensors = candle::safetensors::load_buffer(&bytes, &Device::Cpu).unwrap();
        Self {
            tensors: tensors.into_iter().collect(),
            metadata: metadata.into_iter().collect(),
        }
    }

    /// A number of the file's metadata.
    fn number(&self, name: &str) -> f64 {
        self.metadata[name].parse().unwrap()
    }

    /// A tensor as f32; the file holds some inputs as f16, exactly.
    fn tensor(&self, name: &str) -> Tensor {
        let tensor = self.tensors.get(name);
        let tensor = tensor.unwrap_or_else(|| panic!("no reference vector {name}"));
        tensor.to_dtype(DType::F32).unwrap()
    }

    pub(crate) fn values(&self, name: &str) -> Vec<f32> {
        values(&self.tensor(name))
    }

    /// All tensors under a prefix, without it.
    fn under(&self, prefix: &str) -> BTreeMap<String, Tensor> {
        let named =
            |name: &String| Some((name.strip_prefix(prefix)?.to_owned(), self.tensor(name)));
        self.tensors.keys().filter_map(named).collect()
    }

    /// Cases are the parts of names before the first dot.
    fn cases(&self) -> Vec<&str> {
        let mut cases: Vec<&str> = self
            .tensors
            .keys()
            .filter_map(|name| Some(name.split_once('.')?.0))
            .collect();
        cases.dedup();
        cases
    }
}

fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

/// Fails where two tensors differ by more than `tolerance` of the largest expected value.
pub(crate) fn assert_close(what: &str, found: &[f32], expected: &[f32], tolerance: f32) {
    assert_eq!(found.len(), expected.len(), "{what}: length");
    let largest = expected
        .iter()
        .fold(0.0_f32, |largest, value| largest.max(value.abs()));
    for (at, (a, b)) in found.iter().zip(expected).enumerate() {
        let off = (a - b).abs() / largest.max(1e-6);
        assert!(
            off <= tolerance,
            "{what}: value {at} is {a}, expected {b}: off by {off:.2e} of the largest, {largest}"
        );
    }
}
