//! State dicts and whole modules as `torch.save` writes them: a pickle, which names the tensors, and
//! plain numbers for each storage, in a zip archive or, before PyTorch 1.6, one after the other. Nothing
//! in the file is executed.

mod archive;
mod legacy;
mod module;
mod write;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use mesa_pickle::{Allowed, Error as PickleError, Id, ORDERED_DICT, Pickle, Value, shown};
use safetensors::Dtype;

use self::archive::{Archive, ZIP};
pub(crate) use self::write::to_bytes;
use crate::PytorchError;
use crate::state_dict::RawTensor;

/// Keys under which programs keep the state dict beside other things.
const KEYS: [&str; 5] = ["net", "netC", "state_dict", "model", "model_state_dict"];

/// Record in which this project keeps what else it knows of a network; PyTorch passes over it.
const INFO_RECORD: &str = "mesa.json";

/// Longest pickle that is read. A state dict with its optimizer takes a few hundredths of a MiB; beside
/// it may stand what was done to each of 60,000 images, in some two hundred bytes.
const LONGEST_PICKLE: usize = 16 << 20;

/// Most opcodes that are read of it: a tensor and its name take some forty, an image some thirty.
const MOST_OPCODES: usize = 1 << 21;

/// Longest name of a tensor, or of a module's part.
const LONGEST_NAME: usize = 1 << 10;

/// Most dimensions of a tensor: twice those of a convolution's weights.
const MOST_DIMENSIONS: usize = 8;

const REBUILD_TENSOR: &str = "torch._utils._rebuild_tensor_v2";
const REBUILD_TENSOR_OF_TYPE: &str = "torch._utils._rebuild_tensor_v3";
const REBUILD_PARAMETER: &str = "torch._utils._rebuild_parameter";
const UNTYPED_STORAGE: &str = "torch.storage.UntypedStorage";

/// Everything that a pickle may call, with the type of a storage's or tensor's elements.
const GLOBALS: [(&str, Option<Dtype>); 52] = [
    (REBUILD_TENSOR, None),
    (REBUILD_TENSOR_OF_TYPE, None),
    (REBUILD_PARAMETER, None),
    (UNTYPED_STORAGE, None),
    ("torch.FloatStorage", Some(Dtype::F32)),
    ("torch.HalfStorage", Some(Dtype::F16)),
    ("torch.BFloat16Storage", Some(Dtype::BF16)),
    ("torch.DoubleStorage", Some(Dtype::F64)),
    ("torch.LongStorage", Some(Dtype::I64)),
    ("torch.IntStorage", Some(Dtype::I32)),
    ("torch.ShortStorage", Some(Dtype::I16)),
    ("torch.CharStorage", Some(Dtype::I8)),
    ("torch.ByteStorage", Some(Dtype::U8)),
    ("torch.BoolStorage", Some(Dtype::BOOL)),
    ("torch.float32", Some(Dtype::F32)),
    ("torch.float16", Some(Dtype::F16)),
    ("torch.bfloat16", Some(Dtype::BF16)),
    ("torch.float64", Some(Dtype::F64)),
    ("torch.int64", Some(Dtype::I64)),
    ("torch.int32", Some(Dtype::I32)),
    ("torch.int16", Some(Dtype::I16)),
    ("torch.int8", Some(Dtype::I8)),
    ("torch.uint8", Some(Dtype::U8)),
    ("torch.bool", Some(Dtype::BOOL)),
    // What stands beside a state dict: sizes, devices, schedules, NumPy's scalars and arrays.
    (ORDERED_DICT, None),
    ("collections.Counter", None),
    ("torch.Size", None),
    ("torch.device", None),
    ("numpy.dtype", None),
    ("numpy.core.multiarray.scalar", None),
    ("numpy._core.multiarray.scalar", None),
    ("numpy.core.multiarray._reconstruct", None),
    ("numpy._core.multiarray._reconstruct", None),
    ("numpy.ndarray", None),
    ("_codecs.encode", None),
    ("collections.defaultdict", None),
    ("collections.deque", None),
    ("datetime.date", None),
    ("datetime.datetime", None),
    ("datetime.timedelta", None),
    ("pathlib.PosixPath", None),
    ("pathlib.WindowsPath", None),
    ("pathlib._local.PosixPath", None),
    ("pathlib._local.WindowsPath", None),
    // What stands among a module's attributes, in TorchScript and before PyTorch 1.2.
    ("__builtin__.set", None),
    ("builtins.set", None),
    ("torch.jit._pickle.build_boollist", None),
    ("torch.jit._pickle.build_doublelist", None),
    ("torch.jit._pickle.build_intlist", None),
    ("torch.jit._pickle.build_tensorlist", None),
    ("torch.jit._pickle.restore_type_tag", None),
    ("torch.nn.backends.thnn._get_thnn_function_backend", None),
];

/// What a file of PyTorch holds.
pub(crate) struct Contents<'a> {
    pub(crate) tensors: BTreeMap<String, RawTensor<'a>>,
    /// The text of [`INFO_RECORD`].
    pub(crate) info: Option<&'a str>,
    /// Whether the tensors are those of a whole module.
    pub(crate) is_module: bool,
    /// Classes and functions of other programs.
    pub(crate) classes: BTreeSet<String>,
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
            read_tensors(archive.record("data.pkl")?)?,
            Box::new(archive),
            info,
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
    check_types(&pickle)?;
    let found = state_dict(&pickle)?;
    Ok(Contents {
        tensors: tensors(&pickle, found.entries, &mut *storages)?,
        info,
        is_module: found.is_module,
        classes: module::foreign_classes(&pickle),
    })
}

/// Whether every reference to a storage says the same of it, or PyTorch would go by the first.
fn check_types(pickle: &Pickle<'_>) -> Result<(), PytorchError> {
    let mut known = HashMap::new();
    for value in pickle.values() {
        let &Value::Persistent(tuple) = value else {
            continue;
        };
        let Some(id) = StorageId::read(pickle, tuple) else {
            continue;
        };
        let said = (id.dtype, id.elements);
        if *known.entry(id.key).or_insert(said) != said {
            return Err(PytorchError::Storage {
                key: shown(id.key),
                what: "has several types or lengths by the tensors in it",
            });
        }
    }
    Ok(())
}

/// The pickle of a file's tensors.
fn read_tensors(bytes: &[u8]) -> Result<Pickle<'_>, PytorchError> {
    let allowed = Allowed {
        globals: &GLOBALS.map(|(name, _)| name),
        objects: Some(|name| !runs_code(name)),
        advice: "tensors, plain values and modules are read, and nothing is called. torch.load runs \
                 what a file names: only if you trust whoever made it, load it there and save the \
                 state dict alone, from a whole module by torch.save(model.state_dict(), FILE), from \
                 a dictionary that holds one under a key by torch.save(torch.load(FILE)[KEY], OTHER)",
        most_opcodes: MOST_OPCODES,
    };
    read_pickle(bytes, "its tensors", allowed)
}

/// Modules whose functions run commands or code, or open files and connections: nothing that belongs to a
/// network is in one of them.
const RUNNING: [&str; 31] = [
    "_io",
    "_operator",
    "_pickle",
    "_posixsubprocess",
    "asyncio",
    "bdb",
    "cProfile",
    "codeop",
    "ctypes",
    "http",
    "importlib",
    "io",
    "marshal",
    "multiprocessing",
    "nt",
    "operator",
    "os",
    "pdb",
    "pickle",
    "pip",
    "posix",
    "pty",
    "runpy",
    "shutil",
    "socket",
    "subprocess",
    "sys",
    "threading",
    "timeit",
    "urllib",
    "webbrowser",
];

/// Such modules whose names programs have for packages of their own, too.
const RUNNING_ALONE: [&str; 5] = ["code", "commands", "platform", "profile", "signal"];

/// Of Python's own functions those that do, by either version's name of their module.
const RUNNING_BUILTINS: [&str; 10] = [
    "__import__",
    "apply",
    "breakpoint",
    "compile",
    "eval",
    "exec",
    "execfile",
    "file",
    "input",
    "open",
];

/// Whether a class or function of this name runs whatever a file wants to have run.
fn runs_code(name: &str) -> bool {
    let Some((module, function)) = name.rsplit_once('.') else {
        return false;
    };
    let package = module.split('.').next().unwrap_or_default();
    match module {
        "builtins" | "__builtin__" => RUNNING_BUILTINS.contains(&function),
        "torch.hub" => true,
        _ => RUNNING.contains(&package) || RUNNING_ALONE.contains(&module),
    }
}

/// The pickle that some bytes begin with; `of` says what it tells of.
fn read_pickle<'a>(
    bytes: &'a [u8],
    of: &'static str,
    allowed: Allowed<'_>,
) -> Result<Pickle<'a>, PytorchError> {
    let most = &bytes[..bytes.len().min(LONGEST_PICKLE)];
    Pickle::read(most, allowed).map_err(|source| match source {
        PickleError::CutOff if most.len() < bytes.len() => PytorchError::LongPickle {
            most: LONGEST_PICKLE,
        },
        PickleError::Global { name, .. } if runs_code(&name) => PytorchError::RunsCode { name },
        source => PytorchError::Pickle { of, source },
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

/// Where a file keeps its storages' numbers.
trait Storages<'a> {
    /// A storage's bytes, as many as `id` says, where they lie in the file.
    fn storage(&mut self, id: &StorageId<'_>) -> Result<&'a [u8], PytorchError>;
}

/// What a pickle says of a storage.
#[derive(Clone, Copy)]
struct StorageId<'a> {
    /// What its elements are; an untyped storage counts bytes.
    dtype: Option<Dtype>,
    key: &'a str,
    elements: usize,
    /// Bytes of an element.
    width: usize,
    /// Bytes of all.
    len: usize,
    /// Those elements that are meant, where they are a part of the storage that has a name of its own, as
    /// in files of early versions.
    part: Option<Part<'a>>,
}

/// A part of a storage.
#[derive(Clone, Copy)]
struct Part<'a> {
    key: &'a str,
    offset: usize,
    elements: usize,
}

impl<'a> StorageId<'a> {
    /// What the tuple `("storage", class, key, device, elements[, part])` says; `None` for others.
    fn read(pickle: &Pickle<'a>, tuple: Id) -> Option<Self> {
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
    fn part_of<'b>(&self, bytes: &'b [u8]) -> Option<&'b [u8]> {
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

/// The type of elements that a global names.
fn element(pickle: &Pickle<'_>, id: Id) -> Option<Dtype> {
    let Value::Global(name) = pickle.get(id) else {
        return None;
    };
    GLOBALS.iter().find(|(known, _)| known == name)?.1
}

/// A state dict's entries, and whether they are a module's.
struct StateDict {
    entries: Vec<(String, Id)>,
    is_module: bool,
}

/// The state dict: what lies under one of [`KEYS`], else what is saved; a whole module stands for its
/// own.
fn state_dict(pickle: &Pickle<'_>) -> Result<StateDict, PytorchError> {
    let outer = entries(pickle, pickle.root())?;
    // Before the tensors that may stand beside it: grids, accuracies.
    for key in KEYS {
        let inner = outer.iter().find(|(name, _)| *name == key);
        let inner = inner.map(|(_, inner)| state_dict_of(pickle, pickle.get(*inner)));
        if let Some(found) = inner.transpose()?.flatten() {
            return Ok(found);
        }
    }
    let keys: Vec<String> = outer.iter().take(20).map(|(key, _)| shown(key)).collect();
    let found = state_dict_of(pickle, pickle.root())?;
    found.ok_or_else(|| match pickle.root() {
        Value::Object(..) => PytorchError::Module {
            what: "holds no tensors, as a frozen TorchScript does",
        },
        _ => PytorchError::NoStateDict {
            keys: keys.join(", "),
        },
    })
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
    Ok(has_tensors.then_some(StateDict { entries, is_module }))
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
            REBUILD_TENSOR | REBUILD_TENSOR_OF_TYPE | REBUILD_PARAMETER,
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
            // (storage, offset, shape, strides, requires_grad, hooks[, type]); what may come after them
            // changes the numbers.
            (REBUILD_TENSOR | REBUILD_TENSOR_OF_TYPE, &[storage, offset, shape, strides, ..])
                if parts.len() <= if function == REBUILD_TENSOR { 6 } else { 7 } =>
            {
                let (declared, storage) = self.storage(storage)?;
                let dtype = match parts.get(6) {
                    Some(dtype) if function == REBUILD_TENSOR_OF_TYPE => {
                        element(self.pickle, *dtype)
                    }
                    _ => declared,
                };
                Ok(Some(RawTensor {
                    dtype: dtype.ok_or_else(|| self.wrong())?,
                    shape: self.sizes(shape)?,
                    strides: self.sizes(strides)?,
                    offset: self.size(offset)?,
                    storage,
                }))
            }
            (REBUILD_PARAMETER | REBUILD_TENSOR | REBUILD_TENSOR_OF_TYPE, _) => Err(self.wrong()),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_runs_code_is_called_so() {
        // pickle.dumps of an object whose __reduce__ is (os.system, ("true",)).
        let bytes = b"cposix\nsystem\n(S'true'\ntR.";
        let allowed = Allowed {
            globals: &[],
            objects: None,
            advice: "",
            most_opcodes: MOST_OPCODES,
        };
        let error = read_pickle(bytes, "its tensors", allowed).unwrap_err();
        assert!(matches!(&error, PytorchError::RunsCode { name } if name == "posix.system"));
        assert!(error.to_string().contains("THIS FILE RUNS CODE"), "{error}");
    }

    #[test]
    fn functions_that_run_code_are_told_from_classes_that_are_merely_not_read() {
        for name in [
            "builtins.eval",
            "__builtin__.exec",
            "subprocess.Popen",
            "os.popen",
            "os.path.join",
            "code.interact",
            "torch.hub.load",
        ] {
            assert!(runs_code(name), "{name}");
        }
        for name in [
            "builtins.set",
            "argparse.Namespace",
            "torch.nn.modules.linear.Linear",
            "code.models.ResNet",
            "ResNet",
        ] {
            assert!(!runs_code(name), "{name}");
        }
    }
}
