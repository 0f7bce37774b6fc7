//! Named tensors in safetensors files, written atomically and with the same bytes each time.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

use candle::{DType, Device, Tensor};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde_json::{Map, Value, json};

use crate::no_tensors::no_tensors;
use crate::pytorch::running_code;
use crate::state_dict::{RawTensor, contiguous};
use crate::{Error, NamedTensors, Result};

/// Writes tensors (f32 or u32) and a description to a safetensors file.
///
/// The file appears whole or not at all. The same content gives the same bytes.
///
/// # Errors
///
/// [`Error::Write`] names the file that could not be written; [`Error::NotWritten`] the tensor of a training
/// that has diverged, which [`load_tensors`] would refuse.
///
/// # Examples
///
/// ```
/// use std::collections::BTreeMap;
///
/// use candle::{Device, Tensor};
/// use mesa_models::{load_tensors, save_tensors};
///
/// let folder = tempfile::tempdir()?;
/// let path = folder.path().join("weights.safetensors");
/// let tensors = BTreeMap::from([("bias".to_owned(), Tensor::new(&[1f32, 2.0], &Device::Cpu)?)]);
/// let description = BTreeMap::from([("made_by".to_owned(), "an example".to_owned())]);
/// save_tensors(&path, &tensors, &description)?;
/// let (tensors, found) = load_tensors(&path)?;
/// assert_eq!(tensors["bias"].to_vec1::<f32>()?, [1.0, 2.0]);
/// assert_eq!(found, description);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn save_tensors(
    path: &Path,
    tensors: &NamedTensors,
    metadata: &BTreeMap<String, String>,
) -> Result<()> {
    check_finite(path, tensors)?;
    let mut header = Map::new();
    header.insert("__metadata__".into(), json!(metadata));
    let mut data = Vec::new();
    for (name, tensor) in tensors {
        let start = data.len();
        let dtype = append(&mut data, tensor)?;
        let entry = json!({
            "dtype": dtype, "shape": tensor.dims(), "data_offsets": [start, data.len()],
        });
        header.insert(name.clone(), entry);
    }
    // serde_json's maps are sorted or keep this order; both are the same each time.
    let mut header = Value::Object(header).to_string();
    // Eight bytes of alignment, as the format recommends.
    while !header.len().is_multiple_of(8) {
        header.push(' ');
    }
    write_file(
        path,
        &[
            &(header.len() as u64).to_le_bytes(),
            header.as_bytes(),
            &data,
        ],
    )
}

/// Writes a file of these parts; it appears whole or not at all.
pub(crate) fn write_file(path: &Path, parts: &[&[u8]]) -> Result<()> {
    let written = (|| {
        let folder = path
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty());
        let mut builder = tempfile::Builder::new();
        // Temporary files are private; results are for whom the umask says.
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
        let mut file = builder
            .prefix(".saving-")
            .suffix(".tmp")
            .tempfile_in(folder.unwrap_or(Path::new(".")))?;
        for part in parts {
            file.write_all(part)?;
        }
        file.as_file().sync_all()?;
        file.persist(path).map_err(|error| error.error)?;
        Ok(())
    })();
    written.map_err(|source| Error::Write {
        path: path.to_owned(),
        source,
    })
}

/// Refuses to write a NaN or an infinity at `path`.
pub(crate) fn check_finite(path: &Path, tensors: &NamedTensors) -> Result<()> {
    for (name, tensor) in tensors {
        let is_finite = tensor.dtype() != DType::F32
            || tensor
                .flatten_all()?
                .to_vec1::<f32>()?
                .iter()
                .all(|value| value.is_finite());
        if !is_finite {
            return Err(Error::NotWritten {
                path: path.to_owned(),
                name: name.clone(),
            });
        }
    }
    Ok(())
}

fn append(data: &mut Vec<u8>, tensor: &Tensor) -> Result<&'static str> {
    let tensor = tensor.flatten_all()?;
    if tensor.dtype() == DType::U32 {
        data.extend(
            tensor
                .to_vec1::<u32>()?
                .into_iter()
                .flat_map(u32::to_le_bytes),
        );
        return Ok("U32");
    }
    let values = tensor.to_vec1::<f32>()?;
    data.extend(values.into_iter().flat_map(f32::to_le_bytes));
    Ok("F32")
}

/// Reads a safetensors file: tensors on the host, and its description.
///
/// Nothing larger than the file itself is allocated, whatever its header says.
///
/// # Errors
///
/// [`Error::Read`] if the file cannot be read, [`Error::NoTensors`] if it is empty or text,
/// [`Error::NotSafetensors`] if it is cut off or of another format, [`Error::TensorType`] for types
/// other than f32 and u32, [`Error::NotFinite`] for a NaN or infinity among the weights.
pub fn load_tensors(path: &Path) -> Result<(NamedTensors, BTreeMap<String, String>)> {
    let bytes = read_file(path)?;
    let refused = |source| Error::NotSafetensors {
        path: path.to_owned(),
        source,
    };
    let (_, header) = SafeTensors::read_metadata(&bytes).map_err(refused)?;
    let metadata = header
        .metadata()
        .clone()
        .unwrap_or_default()
        .into_iter()
        .collect();
    let file = SafeTensors::deserialize(&bytes).map_err(refused)?;
    let mut tensors = NamedTensors::new();
    for (name, view) in file.iter() {
        let words = view
            .data()
            .chunks_exact(4)
            .map(|word| [word[0], word[1], word[2], word[3]]);
        let tensor = match view.dtype() {
            Dtype::U32 => {
                let values: Vec<u32> = words.map(u32::from_le_bytes).collect();
                Tensor::from_vec(values, view.shape(), &Device::Cpu)?
            }
            Dtype::F32 => {
                let values: Vec<f32> = words.map(f32::from_le_bytes).collect();
                if values.iter().any(|value| !value.is_finite()) {
                    return Err(Error::NotFinite {
                        path: path.to_owned(),
                        name: name.into(),
                    });
                }
                Tensor::from_vec(values, view.shape(), &Device::Cpu)?
            }
            other => {
                let (path, name) = (path.to_owned(), name.to_owned());
                return Err(Error::TensorType {
                    path,
                    name,
                    found: format!("{other:?}"),
                });
            }
        };
        tensors.insert(name.to_owned(), tensor);
    }
    Ok((tensors, metadata))
}

/// Whether a file begins like one of safetensors: a length, then JSON.
pub(crate) fn is_safetensors(bytes: &[u8]) -> bool {
    bytes.get(8) == Some(&b'{')
}

/// The tensors of a safetensors file where they lie, and its description.
pub(crate) fn raw_tensors<'a>(
    path: &Path,
    bytes: &'a [u8],
) -> Result<(BTreeMap<String, RawTensor<'a>>, BTreeMap<String, String>)> {
    let refused = |source| Error::NotSafetensors {
        path: path.to_owned(),
        source,
    };
    let (_, header) = SafeTensors::read_metadata(bytes).map_err(refused)?;
    let file = SafeTensors::deserialize(bytes).map_err(refused)?;
    let raw = |(name, view): (String, TensorView<'a>)| {
        let tensor = RawTensor {
            dtype: view.dtype(),
            shape: view.shape().to_vec(),
            strides: contiguous(view.shape()),
            offset: 0,
            storage: view.data(),
        };
        (name, tensor)
    };
    let metadata = header.metadata().clone().unwrap_or_default();
    Ok((
        file.tensors().into_iter().map(raw).collect(),
        metadata.into_iter().collect(),
    ))
}

/// Reads a file that may hold tensors.
pub(crate) fn read_file(path: &Path) -> Result<Vec<u8>> {
    let read = || {
        // Reading a pipe that nobody writes to would wait forever.
        let kind = std::fs::metadata(path)?.file_type();
        if !kind.is_file() && !kind.is_dir() {
            return Err(std::io::Error::other(
                "it is a pipe or a device, not a file",
            ));
        }
        fs_err::read(path)
    };
    let bytes = read().map_err(|source| Error::Read {
        path: path.to_owned(),
        source,
    })?;
    if let Some(source) = running_code(&bytes) {
        return Err(Error::Pytorch {
            path: path.to_owned(),
            source,
        });
    }
    match no_tensors(&bytes) {
        Some(found) => Err(Error::NoTensors {
            path: path.to_owned(),
            found,
        }),
        None => Ok(bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn saved(folder: &Path, values: &[f32]) -> std::path::PathBuf {
        let path = folder.join("a.safetensors");
        let tensors = BTreeMap::from([
            (
                "weight".to_owned(),
                Tensor::from_slice(values, (1, values.len()), &Device::Cpu).unwrap(),
            ),
            ("steps".to_owned(), Tensor::new(7u32, &Device::Cpu).unwrap()),
        ]);
        let metadata: BTreeMap<_, _> = (0..9).map(|i| (format!("k{i}"), i.to_string())).collect();
        save_tensors(&path, &tensors, &metadata).unwrap();
        path
    }

    #[test]
    fn comes_back_as_it_was_and_leaves_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = saved(folder.path(), &[1.5, -2.0]);
        let bytes = fs_err::read(&path).unwrap();
        let (tensors, metadata) = load_tensors(&path).unwrap();
        assert_eq!(tensors["weight"].to_vec2::<f32>().unwrap(), [[1.5, -2.0]]);
        assert_eq!(tensors["steps"].to_scalar::<u32>().unwrap(), 7);
        assert_eq!(metadata["k3"], "3");
        assert_eq!(
            fs_err::read(saved(folder.path(), &[1.5, -2.0])).unwrap(),
            bytes
        );
        assert_eq!(fs_err::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn refuses_every_cut_off_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = saved(folder.path(), &[1.0, 2.0]);
        let bytes = fs_err::read(&path).unwrap();
        for len in 1..bytes.len() {
            fs_err::write(&path, &bytes[..len]).unwrap();
            let error = load_tensors(&path).unwrap_err();
            assert!(
                matches!(error, Error::NotSafetensors { .. }),
                "{len}: {error}"
            );
        }
    }

    #[test]
    fn refuses_a_header_that_promises_more_than_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("huge.safetensors");
        fs_err::write(&path, [&(u64::MAX / 2).to_le_bytes()[..], b"{}"].concat()).unwrap();
        assert!(matches!(
            load_tensors(&path),
            Err(Error::NotSafetensors { .. })
        ));
    }

    #[test]
    fn what_is_not_a_number_is_neither_written_nor_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = saved(folder.path(), &[1.0, 2.0]);
        let mut bytes = fs_err::read(&path).unwrap();
        for value in [f32::NAN, f32::INFINITY] {
            let tensor = Tensor::new(&[1.0, value], &Device::Cpu).unwrap();
            let tensors = BTreeMap::from([("weight".to_owned(), tensor)]);
            let refused = save_tensors(&path, &tensors, &BTreeMap::new());
            assert!(matches!(refused, Err(Error::NotWritten { name, .. }) if name == "weight"));
        }
        assert_eq!(fs_err::read(&path).unwrap(), bytes, "the old file stays");
        let last = bytes.len() - 4;
        bytes[last..].copy_from_slice(&f32::NAN.to_le_bytes());
        fs_err::write(&path, bytes).unwrap();
        let error = load_tensors(&path).unwrap_err();
        assert!(matches!(error, Error::NotFinite { name, .. } if name == "weight"));
    }

    #[test]
    fn names_a_file_that_is_not_there() {
        let error = load_tensors(Path::new("nowhere.safetensors")).unwrap_err();
        assert!(matches!(error, Error::Read { path, .. } if path.ends_with("nowhere.safetensors")));
    }
}
