//! State dicts and whole modules as `torch.save` writes them: a pickle, which names the tensors, and
//! plain numbers for each storage, in a zip archive or, before PyTorch 1.6, one after the other. Nothing
//! in the file is executed.

mod allowed;
mod archive;
mod legacy;
mod module;
mod storage;
mod write;

use std::collections::{BTreeMap, BTreeSet, HashSet};

use mesa_pickle::{Id, Pickle, Value, shown};
use safetensors::Dtype;

use self::allowed::{
    REBUILD_PARAMETER, REBUILD_TENSOR, REBUILD_TENSOR_AT_FIRST, REBUILD_TENSOR_OF_TYPE,
    read_tensors,
};
use self::archive::{Archive, PICKLE, ZIP};
use self::storage::{StorageId, Storages};
pub(crate) use self::write::to_bytes;
use crate::PytorchError;
use crate::state_dict::RawTensor;

/// Keys under which programs keep the state dict beside other things.
const KEYS: [&str; 5] = ["net", "netC", "state_dict", "model", "model_state_dict"];

/// Keys under which programs keep an optimizer's state, tensors among it.
const OPTIMIZERS: [&str; 6] = [
    "lr_scheduler",
    "optim",
    "optimizer",
    "optimizer_state_dict",
    "scheduler",
    "scheduler_state_dict",
];

/// Most values that are looked at for tensors beside a network under an unusual key.
const MOST_LOOKED_AT: usize = 1 << 20;

/// Record in which this project keeps what else it knows of a network; PyTorch passes over it.
const INFO_RECORD: &str = "mesa.json";

/// Longest name of a tensor, or of a module's part.
const LONGEST_NAME: usize = 1 << 10;

/// Most dimensions of a tensor: twice those of a convolution's weights.
const MOST_DIMENSIONS: usize = 8;

/// What a file of tensors holds, of PyTorch or another.
pub(crate) struct Contents<'a> {
    pub(crate) tensors: BTreeMap<String, RawTensor<'a>>,
    /// What this project wrote of the network.
    pub(crate) info: Option<String>,
    /// Whether the tensors are those of a whole module.
    pub(crate) is_module: bool,
    /// The key that they lie under, if it is an unusual one.
    pub(crate) key: Option<String>,
    /// Classes and functions of other programs.
    pub(crate) classes: BTreeSet<String>,
    /// Keys of other tensors by name, which may be of another network.
    pub(crate) beside: Vec<String>,
}

/// Whether a file begins like one of PyTorch, of whatever version.
pub(crate) fn is_pytorch(bytes: &[u8]) -> bool {
    bytes.starts_with(ZIP) || legacy::is_legacy(bytes) || is_tar(bytes)
}

/// Whether a file begins like a tar archive: by the sum of its header, in which that itself counts as
/// spaces.
fn is_tar(bytes: &[u8]) -> bool {
    let Some(header) = bytes.get(..512) else {
        return false;
    };
    let (before, rest) = header.split_at(148);
    let (sum, after) = rest.split_at(8);
    let sum = sum
        .split(|byte| matches!(byte, 0 | b' '))
        .find(|part| !part.is_empty());
    let sum = sum.and_then(|digits| std::str::from_utf8(digits).ok());
    let counted = before.iter().chain(after).chain(&[b' '; 8]);
    let counted: u32 = counted.map(|byte| u32::from(*byte)).sum();
    sum.and_then(|digits| u32::from_str_radix(digits, 8).ok()) == Some(counted)
}

/// What runs code where a file is a bare pickle, or begins with one, in neither format of `torch.save`:
/// `torch.load` gets that far with it.
pub(crate) fn running_code(bytes: &[u8]) -> Option<PytorchError> {
    if bytes.starts_with(ZIP) || legacy::is_legacy(bytes) {
        return None;
    }
    let refused = read_tensors(bytes).err();
    refused.filter(|error| matches!(error, PytorchError::RunsCode { .. }))
}

/// Reads a file's state dict; the tensors' numbers stay where they are.
pub(crate) fn read(bytes: &[u8]) -> Result<Contents<'_>, PytorchError> {
    let (pickle, mut storages, info): (_, Box<dyn Storages<'_>>, _) = if bytes.starts_with(ZIP) {
        let mut archive = Archive::open(bytes)?;
        if let Some(order) = archive.find("byteorder")?
            && order != b"little"
        {
            return Err(PytorchError::ByteOrder {
                found: shown(&String::from_utf8_lossy(order)),
            });
        }
        let info = archive.find(INFO_RECORD)?;
        let info = info.and_then(|text| std::str::from_utf8(text).ok());
        (
            read_tensors(archive.record(PICKLE)?)?,
            Box::new(archive),
            info.map(str::to_owned),
        )
    } else if is_tar(bytes) {
        // PyTorch asks that first.
        return Err(PytorchError::Tar);
    } else if legacy::is_legacy(bytes) {
        let (pickle, storages) = legacy::open(bytes)?;
        (pickle, Box::new(storages), None)
    } else {
        return Err(PytorchError::OtherFormat);
    };
    let found = state_dict(&pickle)?;
    Ok(Contents {
        tensors: tensors(&pickle, found.entries, &mut *storages)?,
        info,
        is_module: found.is_module,
        key: found.key,
        classes: module::foreign_classes(&pickle),
        beside: found.beside,
    })
}

/// The state dict's tensors by name.
fn tensors<'a>(
    pickle: &Pickle<'a>,
    entries: Vec<(String, Id)>,
    storages: &mut dyn Storages<'a>,
) -> Result<BTreeMap<String, RawTensor<'a>>, PytorchError> {
    let mut tensors = BTreeMap::new();
    for (name, value) in entries {
        let mut described = Described {
            pickle,
            storages,
            name: &name,
        };
        if let Some(tensor) = described.tensor(value)? {
            tensors.insert(name, tensor);
        }
    }
    Ok(tensors)
}

/// A state dict's entries, whether they are a module's, and the keys of others.
struct StateDict {
    entries: Vec<(String, Id)>,
    is_module: bool,
    /// The key that it lies under, if that is none of [`KEYS`].
    key: Option<String>,
    beside: Vec<String>,
}

/// Entries of a dictionary that are looked at for tensors which are not read.
const LOOKED_AT: usize = 1 << 10;

/// Modules beside a network that are gone through for tensors: a file may have many of one that takes long.
const WALKS: usize = 8;

/// The state dict: what lies under the one of [`KEYS`] that has tensors, else what is saved, else what lies
/// under the only other key with tensors; a whole module stands for its own.
fn state_dict(pickle: &Pickle<'_>) -> Result<StateDict, PytorchError> {
    let outer = entries(pickle, pickle.root())?;
    // Before the tensors that may stand beside it: grids, accuracies.
    let mut under = Vec::new();
    for (key, inner) in outer.iter().filter(|(key, _)| KEYS.contains(key)) {
        if let Some(found) = state_dict_of(pickle, pickle.get(*inner))? {
            under.push((*key, found));
        }
    }
    if under.len() > 1 {
        // Which of them a program loads is for it to say.
        let keys: Vec<&str> = under.iter().map(|(key, _)| *key).collect();
        return Err(PytorchError::SeveralNetworks {
            keys: keys.join("`, `"),
        });
    }
    let is_named = |(name, value): &(&str, Id)| name.contains('.') && is_tensor(pickle, *value);
    let found = match under.pop() {
        Some((_, found)) => Some(found),
        None if outer.iter().any(is_named) => state_dict_of(pickle, pickle.root())?,
        None => match under_another_key(pickle, &outer)? {
            Some(found) => return Ok(found),
            None => state_dict_of(pickle, pickle.root())?,
        },
    };
    if let Some(mut found) = found {
        let others = outer.iter().filter(|(key, _)| !KEYS.contains(key));
        let mut walks = 0;
        let others = others
            .take(LOOKED_AT)
            .filter(|(_, value)| has_tensors(pickle, *value, &mut walks));
        found.beside = others.map(|(key, _)| shown(key)).collect();
        return Ok(found);
    }
    let keys: Vec<String> = outer.iter().take(20).map(|(key, _)| shown(key)).collect();
    Err(match pickle.root() {
        Value::Object(..) => PytorchError::Module {
            what: "holds no tensors, as a frozen TorchScript does",
        },
        _ => PytorchError::NoStateDict {
            keys: keys.join(", "),
        },
    })
}

/// What lies under the only key beside [`KEYS`] that has tensors below it, an optimizer's and bare ones aside: with
/// any other, which of them a program loads would be for it to say.
fn under_another_key(
    pickle: &Pickle<'_>,
    outer: &[(&str, Id)],
) -> Result<Option<StateDict>, PytorchError> {
    let Value::Dict(items) = pickle.root() else {
        return Ok(None);
    };
    let mut left = MOST_LOOKED_AT;
    // Of all keys, also those that are no texts.
    let mut holding = items.iter().filter(|(key, value)| {
        let is_optimizers =
            matches!(pickle.get(*key), Value::Text(key) if OPTIMIZERS.contains(key));
        !is_optimizers && !is_tensor(pickle, *value) && holds_tensors(pickle, *value, &mut left)
    });
    let (Some((_, value)), None) = (holding.next(), holding.next()) else {
        return Ok(None);
    };
    let Some((key, _)) = outer.iter().find(|(_, of)| of == value) else {
        return Ok(None);
    };
    let found = state_dict_of(pickle, pickle.get(*value))?;
    Ok(found.map(|found| StateDict {
        key: Some(shown(key)),
        ..found
    }))
}

/// Whether there is a tensor, or a storage of one, anywhere below a value; so it is taken to be where more than
/// is `left` would have to be looked at.
fn holds_tensors(pickle: &Pickle<'_>, value: Id, left: &mut usize) -> bool {
    let (mut open, mut seen) = (vec![value], HashSet::new());
    while let Some(id) = open.pop() {
        if !seen.insert(id) {
            continue;
        }
        if *left == 0 {
            return true;
        }
        *left -= 1;
        match pickle.get(id) {
            Value::Dict(items) => open.extend(items.iter().flat_map(|(key, value)| [*key, *value])),
            Value::List(items) | Value::Tuple(items) => open.extend(items),
            Value::Object(class, state) => open.extend(state.iter().chain([class])),
            Value::Called(_, arguments) => open.push(*arguments),
            Value::Built(_, arguments, state) => open.extend([arguments, state]),
            // What it is filled with is not kept.
            Value::Persistent(_) | Value::Filled => return true,
            _ => {}
        }
    }
    false
}

/// That of a module or of a dictionary, if there are tensors in it.
fn state_dict_of(
    pickle: &Pickle<'_>,
    value: &Value<'_>,
) -> Result<Option<StateDict>, PytorchError> {
    let is_module = matches!(value, Value::Object(..));
    let entries = if is_module {
        module::state_dict(pickle, value)?
    } else {
        let entries = entries(pickle, value)?.into_iter();
        entries.map(|(name, id)| (name.to_owned(), id)).collect()
    };
    let has_tensors = entries.iter().any(|(_, value)| is_tensor(pickle, *value));
    Ok(has_tensors.then_some(StateDict {
        entries,
        is_module,
        key: None,
        beside: Vec::new(),
    }))
}

/// Whether there are tensors in a module, or among the first of a dictionary's values. `walks` counts the modules
/// that were gone through.
fn has_tensors(pickle: &Pickle<'_>, value: Id, walks: &mut usize) -> bool {
    let value = pickle.get(value);
    match value {
        Value::Dict(items) => {
            let mut values = items.iter().take(LOOKED_AT).map(|(_, value)| *value);
            values.any(|value| is_tensor(pickle, value))
        }
        Value::Object(_, Some(_)) => {
            *walks += 1;
            // One that is not understood, or not gone through, may be a network as well.
            *walks > WALKS || !matches!(state_dict_of(pickle, value), Ok(None))
        }
        _ => false,
    }
}

/// A dictionary's entries whose keys are texts; none of anything else. No key comes twice in what
/// PyTorch writes, and which of them counts would be for Python to say.
fn entries<'p>(
    pickle: &'p Pickle<'_>,
    value: &'p Value<'_>,
) -> Result<Vec<(&'p str, Id)>, PytorchError> {
    let Value::Dict(items) = value else {
        return Ok(Vec::new());
    };
    let mut entries = Vec::new();
    let mut seen = HashSet::new();
    for (key, value) in items {
        let name = match pickle.get(*key) {
            Value::Text(name) => *name,
            // A text of Python 2.
            Value::Bytes(name) => match std::str::from_utf8(name) {
                Ok(name) => name,
                Err(_) => continue,
            },
            Value::Other | Value::Bool(_) | Value::Int(_) | Value::Long(_) | Value::Tuple(_) => {
                continue;
            }
            // What a call makes may be a text.
            _ => return Err(PytorchError::Key),
        };
        if name.len() > LONGEST_NAME {
            return Err(PytorchError::LongName { most: LONGEST_NAME });
        }
        if !seen.insert(name) {
            return Err(PytorchError::Repeated { name: shown(name) });
        }
        entries.push((name, *value));
    }
    Ok(entries)
}

fn is_tensor(pickle: &Pickle<'_>, id: Id) -> bool {
    matches!(
        pickle.get(id),
        Value::Called(
            REBUILD_TENSOR | REBUILD_TENSOR_AT_FIRST | REBUILD_TENSOR_OF_TYPE | REBUILD_PARAMETER,
            _
        )
    )
}

/// A tensor that is being read.
struct Described<'p, 'a> {
    pickle: &'p Pickle<'a>,
    storages: &'p mut dyn Storages<'a>,
    name: &'p str,
}

impl<'p, 'a> Described<'p, 'a> {
    /// The tensor that a value stands for; `None` for other values.
    fn tensor(&mut self, id: Id) -> Result<Option<RawTensor<'a>>, PytorchError> {
        let &Value::Called(function, arguments) = self.pickle.get(id) else {
            return Ok(None);
        };
        let parts = self.tuple(arguments)?;
        match (function, parts) {
            // (data, requires_grad, hooks); the data is no parameter again.
            (REBUILD_PARAMETER, &[data, ..]) => match self.pickle.get(data) {
                Value::Called(REBUILD_PARAMETER, _) => Err(self.wrong()),
                _ => self.tensor(data),
            },
            // (storage, offset, shape, strides), then (requires_grad, hooks); what may come after them changes
            // the numbers.
            (
                REBUILD_TENSOR | REBUILD_TENSOR_AT_FIRST,
                &[storage, offset, shape, strides, ref more @ ..],
            ) if more.len() <= if function == REBUILD_TENSOR { 2 } else { 0 } => {
                let (dtype, storage) = self.storage(storage)?;
                Ok(Some(RawTensor {
                    dtype: dtype.ok_or_else(|| self.wrong())?,
                    shape: self.sizes(shape)?,
                    strides: self.sizes(strides)?,
                    offset: self.size(offset)?,
                    storage,
                }))
            }
            // The same and a type, of those that have no storage of their own: none that networks here have.
            (REBUILD_TENSOR_OF_TYPE, &[_, _, _, _, _, _, dtype]) => {
                Err(match self.pickle.get(dtype) {
                    Value::Global(found) => PytorchError::Type {
                        name: shown(self.name),
                        found: shown(found),
                    },
                    _ => self.wrong(),
                })
            }
            _ if is_tensor(self.pickle, id) => Err(self.wrong()),
            _ => Ok(None),
        }
    }

    /// A storage's bytes, and the type of its elements if it has one.
    fn storage(&mut self, id: Id) -> Result<(Option<Dtype>, &'a [u8]), PytorchError> {
        let &Value::Persistent(tuple) = self.pickle.get(id) else {
            return Err(self.wrong());
        };
        let id = StorageId::read(self.pickle, tuple).ok_or_else(|| self.wrong())?;
        let bytes = self.storages.storage(&id)?;
        let bytes = id.part_of(bytes).ok_or_else(|| self.wrong())?;
        Ok((id.dtype, bytes))
    }

    fn sizes(&self, id: Id) -> Result<Vec<usize>, PytorchError> {
        let parts = self.tuple(id)?;
        // Thousands of tensors may share a tuple: a long one would be copied for each.
        if parts.len() > MOST_DIMENSIONS {
            return Err(self.wrong());
        }
        parts.iter().map(|part| self.size(*part)).collect()
    }

    fn size(&self, id: Id) -> Result<usize, PytorchError> {
        let Value::Int(value) = self.pickle.get(id) else {
            return Err(self.wrong());
        };
        usize::try_from(*value).map_err(|_| self.wrong())
    }

    fn tuple(&self, id: Id) -> Result<&'p [Id], PytorchError> {
        match self.pickle.get(id) {
            Value::Tuple(parts) => Ok(parts),
            _ => Err(self.wrong()),
        }
    }

    fn wrong(&self) -> PytorchError {
        PytorchError::Tensor {
            name: shown(self.name),
        }
    }
}
