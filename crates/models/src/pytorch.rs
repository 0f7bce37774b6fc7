//! State dicts as `torch.save` writes them: a zip archive that holds a pickle, which names
//! the tensors, and one record of plain numbers for each storage. Nothing in the file is executed.

mod write;

use std::collections::BTreeMap;
use std::io::{Cursor, copy, sink};

use mesa_pickle::{Allowed, Id, ORDERED_DICT, Pickle, Value, shown};
use safetensors::Dtype;
use zip::read::{ArchiveOffset, Config};
use zip::{CompressionMethod, ZipArchive};

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

/// Most dimensions of a tensor: twice those of a convolution's weights.
const MOST_DIMENSIONS: usize = 8;

const REBUILD_TENSOR: &str = "torch._utils._rebuild_tensor_v2";
const REBUILD_TENSOR_OF_TYPE: &str = "torch._utils._rebuild_tensor_v3";
const REBUILD_PARAMETER: &str = "torch._utils._rebuild_parameter";
const UNTYPED_STORAGE: &str = "torch.storage.UntypedStorage";

/// Everything that a pickle may name, with the type of a storage's or tensor's elements.
const GLOBALS: [(&str, Option<Dtype>); 35] = [
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
];

/// What a file of PyTorch holds.
pub(crate) struct Contents<'a> {
    pub(crate) tensors: BTreeMap<String, RawTensor<'a>>,
    /// The text of [`INFO_RECORD`].
    pub(crate) info: Option<&'a str>,
}

/// How zip archives begin.
const ZIP: &[u8] = b"PK\x03\x04";

/// How files of PyTorch began before it wrote zip archives.
const LEGACY: &[u8] = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46";

/// Whether a file begins like one of PyTorch, of whatever version.
pub(crate) fn is_pytorch(bytes: &[u8]) -> bool {
    bytes.starts_with(ZIP) || bytes.starts_with(LEGACY)
}

/// Reads a file's state dict; the tensors' numbers stay where they are.
pub(crate) fn read(bytes: &[u8]) -> Result<Contents<'_>, PytorchError> {
    if !bytes.starts_with(ZIP) {
        return Err(PytorchError::NotZip);
    }
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
    let program = archive.record("data.pkl")?;
    if program.len() > LONGEST_PICKLE {
        return Err(PytorchError::LongPickle { len: program.len() });
    }
    let allowed = Allowed {
        globals: &GLOBALS.map(|(name, _)| name),
        advice: "only tensors and plain values are read. From a whole module or other objects, \
                 save the state dict: torch.save(model.state_dict(), FILE); from a dictionary that \
                 holds one under a key, that: torch.save(torch.load(FILE)[KEY], OTHER)",
        most_opcodes: MOST_OPCODES,
    };
    let pickle = Pickle::read(program, allowed)?;
    let mut tensors = BTreeMap::new();
    for (name, value) in state_dict(&pickle)? {
        let mut described = Described {
            pickle: &pickle,
            archive: &mut archive,
            name,
        };
        if let Some(tensor) = described.tensor(value)? {
            tensors.insert(name.to_owned(), tensor);
        }
    }
    Ok(Contents { tensors, info })
}

/// The records of an archive.
struct Archive<'a> {
    bytes: &'a [u8],
    zip: ZipArchive<Cursor<&'a [u8]>>,
    /// The folder that holds every record, with its slash.
    folder: String,
    /// Records that were checked.
    known: BTreeMap<String, &'a [u8]>,
}

impl<'a> Archive<'a> {
    fn open(bytes: &'a [u8]) -> Result<Self, PytorchError> {
        let config = Config {
            archive_offset: ArchiveOffset::Known(0),
        };
        let mut zip = ZipArchive::with_config(config, Cursor::new(bytes))?;
        if zip.has_duplicate_names() || zip.has_overlapping_entries()? {
            return Err(PytorchError::Overlap);
        }
        let mut folders = zip.file_names().filter_map(|name| {
            let name = name.ok()?;
            Some(name.strip_suffix("data.pkl")?.to_owned())
        });
        let folder =
            folders.find(|folder| folder.ends_with('/') && folder.matches('/').count() == 1);
        let folder = folder.ok_or_else(|| PytorchError::MissingRecord {
            name: "data.pkl".to_owned(),
        })?;
        drop(folders);
        Ok(Self {
            bytes,
            zip,
            folder,
            known: BTreeMap::new(),
        })
    }

    fn record(&mut self, name: &str) -> Result<&'a [u8], PytorchError> {
        let found = self.find(name)?;
        found.ok_or_else(|| PytorchError::MissingRecord { name: shown(name) })
    }

    /// A record's bytes where they lie in the file, if there is such a record.
    fn find(&mut self, name: &str) -> Result<Option<&'a [u8]>, PytorchError> {
        if let Some(known) = self.known.get(name) {
            return Ok(Some(known));
        }
        let Some(index) = self.zip.index_for_name(&format!("{}{name}", self.folder)) else {
            return Ok(None);
        };
        let damaged = || PytorchError::Damaged { name: shown(name) };
        let mut entry = self.zip.by_index(index)?;
        if entry.compression() != CompressionMethod::Stored
            || entry.encrypted()
            || entry.size() != entry.compressed_size()
        {
            return Err(PytorchError::Compressed { name: shown(name) });
        }
        let start = entry.data_start().ok_or_else(damaged)? as usize;
        let len = entry.size() as usize;
        let bytes = start
            .checked_add(len)
            .and_then(|end| self.bytes.get(start..end));
        let bytes = bytes.ok_or_else(damaged)?;
        // Reading to the end compares the checksum.
        let read = copy(&mut entry, &mut sink()).map_err(|_| damaged())?;
        if read != len as u64 {
            return Err(damaged());
        }
        self.known.insert(name.to_owned(), bytes);
        Ok(Some(bytes))
    }
}

/// The entries of the state dict: what lies under one of [`KEYS`], else what is saved.
fn state_dict<'p>(pickle: &'p Pickle<'_>) -> Result<Vec<(&'p str, Id)>, PytorchError> {
    let outer = entries(pickle, pickle.root());
    let has_tensors = |entries: &[(&str, Id)]| {
        let mut values = entries.iter().map(|(_, value)| *value);
        values.any(|value| is_tensor(pickle, value))
    };
    // Before the tensors that may stand beside it: grids, accuracies.
    for key in KEYS {
        // The last of equal keys, as Python has it.
        let Some((_, value)) = outer.iter().rfind(|(name, _)| *name == key) else {
            continue;
        };
        let inner = entries(pickle, pickle.get(*value));
        if has_tensors(&inner) {
            return Ok(inner);
        }
    }
    if has_tensors(&outer) {
        return Ok(outer);
    }
    let keys: Vec<String> = outer.iter().take(20).map(|(key, _)| shown(key)).collect();
    Err(PytorchError::NoStateDict {
        keys: keys.join(", "),
    })
}

/// A dictionary's entries whose keys are texts; none of anything else.
fn entries<'p>(pickle: &'p Pickle<'_>, value: &'p Value<'_>) -> Vec<(&'p str, Id)> {
    let Value::Dict(items) = value else {
        return Vec::new();
    };
    let named = |(key, value): &(Id, Id)| match pickle.get(*key) {
        Value::Text(name) => Some((*name, *value)),
        _ => None,
    };
    items.iter().filter_map(named).collect()
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
    archive: &'p mut Archive<'a>,
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
            // (storage, offset, shape, strides, requires_grad, hooks[, type])
            (REBUILD_TENSOR | REBUILD_TENSOR_OF_TYPE, &[storage, offset, shape, strides, ..]) => {
                let (declared, storage) = self.storage(storage)?;
                let dtype = match parts.get(6) {
                    Some(dtype) if function == REBUILD_TENSOR_OF_TYPE => self.element(*dtype),
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
        let &Value::Persistent(id) = self.pickle.get(id) else {
            return Err(self.wrong());
        };
        // ("storage", class, key, device, elements)
        let &[kind, class, key, _, elements] = self.tuple(id)? else {
            return Err(self.wrong());
        };
        let (Value::Text("storage"), Value::Text(key)) =
            (self.pickle.get(kind), self.pickle.get(key))
        else {
            return Err(self.wrong());
        };
        let dtype = self.element(class);
        // An untyped storage counts bytes.
        let width = dtype.map_or(1, |dtype| dtype.bitsize() / 8);
        let name = format!("data/{key}");
        let bytes = self.archive.record(&name)?;
        if self.size(elements)?.checked_mul(width) != Some(bytes.len()) {
            return Err(PytorchError::Damaged { name: shown(&name) });
        }
        Ok((dtype, bytes))
    }

    /// The type of elements that a global names.
    fn element(&self, id: Id) -> Option<Dtype> {
        let Value::Global(name) = self.pickle.get(id) else {
            return None;
        };
        GLOBALS.iter().find(|(known, _)| known == name)?.1
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
