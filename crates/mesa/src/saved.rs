//! What saved states of fits and measurements have in common.

use candle::Tensor;
use mesa_models::{NamedTensors, fnv1a};

use crate::Result;

/// Tensors of one part of a state, named after it.
pub(crate) fn named_after(
    part: &str,
    state: NamedTensors,
) -> impl Iterator<Item = (String, Tensor)> {
    state
        .into_iter()
        .map(move |(name, tensor)| (format!("{part}/{name}"), tensor))
}

/// The tensors of one part, by their own names.
pub(crate) fn part(tensors: &NamedTensors, part: &str) -> NamedTensors {
    let named = |(name, tensor): (&String, &Tensor)| {
        let name = name.strip_prefix(part)?.strip_prefix('/')?;
        Some((name.to_owned(), tensor.clone()))
    };
    tensors.iter().filter_map(named).collect()
}

/// A moving average's value as metadata has it, to the bit; 0 where there is none.
pub(crate) fn average_entry(value: Option<f64>) -> String {
    value.map(f64::to_bits).unwrap_or_default().to_string()
}

/// The value of such an entry.
pub(crate) fn average_of(bits: u64) -> Option<f64> {
    (bits != 0).then_some(f64::from_bits(bits))
}

/// A number that tells apart what tensors hold.
pub(crate) fn digest(tensors: &NamedTensors) -> Result<u64> {
    let mut bytes = Vec::new();
    for (name, tensor) in tensors {
        bytes.extend_from_slice(name.as_bytes());
        for value in tensor.flatten_all()?.to_vec1::<f32>()? {
            bytes.extend_from_slice(&value.to_bits().to_le_bytes());
        }
    }
    Ok(fnv1a(&bytes))
}
