//! What a pickle says of the storages that its tensors lie in.

use std::collections::HashMap;

use mesa_pickle::{Id, Pickle, Value, shown};
use safetensors::Dtype;

use super::LONGEST_NAME;
use super::allowed::element;
use crate::PytorchError;

/// Where a file keeps its storages' numbers.
pub(super) trait Storages<'a> {
    /// A storage's bytes, as many as `id` says, where they lie in the file.
    fn storage(&mut self, id: &StorageId<'_>) -> Result<&'a [u8], PytorchError>;
}

/// What a pickle says of a storage.
#[derive(Clone, Copy)]
pub(super) struct StorageId<'a> {
    /// What its elements are; an untyped storage counts bytes.
    pub(super) dtype: Option<Dtype>,
    pub(super) key: &'a str,
    pub(super) elements: usize,
    /// Bytes of an element.
    pub(super) width: usize,
    /// Bytes of all.
    pub(super) len: usize,
    /// Those elements that are meant, where they are a part of the storage that has a name of its own, as
    /// in files of early versions.
    pub(super) part: Option<Part<'a>>,
}

/// A part of a storage.
#[derive(Clone, Copy)]
pub(super) struct Part<'a> {
    pub(super) key: &'a str,
    pub(super) offset: usize,
    pub(super) elements: usize,
}

impl<'a> StorageId<'a> {
    /// What the tuple `("storage", class, key, device, elements[, part])` says; `None` for others.
    pub(super) fn read(pickle: &Pickle<'a>, tuple: Id) -> Option<Self> {
        let size = |id: Id| match pickle.get(id) {
            Value::Int(value) => usize::try_from(*value).ok(),
            _ => None,
        };
        let Value::Tuple(parts) = pickle.get(tuple) else {
            return None;
        };
        let &[kind, class, key, _, elements, ref part @ ..] = parts.as_slice() else {
            return None;
        };
        let (Value::Text("storage"), &Value::Text(key)) = (pickle.get(kind), pickle.get(key))
        else {
            return None;
        };
        if key.len() > LONGEST_NAME {
            return None;
        }
        let part = match part {
            [] => None,
            &[part] => match pickle.get(part) {
                Value::Other => None,
                // (its own name, offset, elements)
                Value::Tuple(parts) => match parts.as_slice() {
                    &[key, offset, elements] => Some(Part {
                        key: match pickle.get(key) {
                            &Value::Text(key) if key.len() <= LONGEST_NAME => key,
                            _ => return None,
                        },
                        offset: size(offset)?,
                        elements: size(elements)?,
                    }),
                    _ => return None,
                },
                _ => return None,
            },
            _ => return None,
        };
        let (dtype, elements) = (element(pickle, class), size(elements)?);
        let width = dtype.map_or(1, |dtype| dtype.bitsize() / 8);
        Some(Self {
            dtype,
            key,
            elements,
            width,
            len: elements.checked_mul(width)?,
            part,
        })
    }

    /// Of the storage's bytes those meant, if it has as many.
    pub(super) fn part_of<'b>(&self, bytes: &'b [u8]) -> Option<&'b [u8]> {
        let Some(Part {
            offset, elements, ..
        }) = self.part
        else {
            return Some(bytes);
        };
        let start = offset.checked_mul(self.width)?;
        let len = elements.checked_mul(self.width)?;
        bytes.get(start..start.checked_add(len)?)
    }
}

/// The tuples that stand for what lies outside of a pickle.
pub(super) fn outside(pickle: &Pickle<'_>) -> impl Iterator<Item = Id> {
    pickle.values().iter().filter_map(|value| match value {
        Value::Persistent(tuple) => Some(*tuple),
        _ => None,
    })
}

/// Checks that every reference to a storage says the same of it, or PyTorch would go by the first.
pub(super) fn check_storages(pickle: &Pickle<'_>) -> Result<(), PytorchError> {
    let mut known = HashMap::new();
    for id in outside(pickle).filter_map(|tuple| StorageId::read(pickle, tuple)) {
        let first = *known.entry(id.key).or_insert(id);
        let what = if id.len != first.len {
            "has several lengths by the tensors in it"
        } else if (id.dtype, id.elements) != (first.dtype, first.elements) {
            "has several types by the tensors in it"
        } else {
            continue;
        };
        return Err(PytorchError::Storage {
            key: shown(id.key),
            what,
        });
    }
    Ok(())
}
