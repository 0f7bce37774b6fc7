//! CIFAR's Python version: pickles of NumPy arrays, read without executing anything.
//!
//! Each file is a dictionary with an array `data` of bytes, `(N, 3072)`, and a list `labels`
//! (CIFAR-100: `fine_labels` and `coarse_labels`). Python 2 wrote the official files; other
//! programs have written them again with Python 3. What is read is put into the records of the
//! binary version, so the same digests tell whether it is the official data.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use mesa_pickle::{Allowed, Id, Pickle, Value};

use crate::forms::{Form, cifar};
use crate::images::CHANNELS;
use crate::official::Layout;
use crate::{Dataset, DatasetName, Error, PythonError, Result, Source};

const IMAGE_LEN: usize = CHANNELS * 32 * 32;

const DTYPE: &str = "numpy.dtype";
const ENCODE: &str = "_codecs.encode";
const RECONSTRUCT: [&str; 2] = [
    "numpy.core.multiarray._reconstruct",
    "numpy._core.multiarray._reconstruct",
];

/// Everything that a pickle may name; nothing of it is called.
const GLOBALS: [&str; 5] = [
    RECONSTRUCT[0],
    RECONSTRUCT[1],
    "numpy.ndarray",
    DTYPE,
    ENCODE,
];

/// CIFAR-100's training images have a number or a text, kept or not, in three lists: some 200,000
/// opcodes. Without a bound the values would take many times the memory of the file.
const ALLOWED: Allowed<'_> = Allowed {
    globals: &GLOBALS,
    objects: None,
    advice: "only NumPy's arrays, numbers and texts are read",
    most_opcodes: 1 << 20,
};

/// Loads CIFAR-10 from the folder that holds `data_batch_1` to `data_batch_5` and `test_batch`, or
/// CIFAR-100 from the one that holds `train` and `test`.
///
/// Nothing in the pickles is executed: an opcode or a global that arrays, numbers and texts do
/// without is refused by name. A file is read up to an eighth more than the official images take,
/// and up to 2^20 opcodes, some 200 MB of values at most. The digest is that of the same images in
/// the binary version.
///
/// # Errors
///
/// [`Error::Python`] names the file and what is refused or missing in it, [`Error::Read`] one that
/// cannot be read; the others are those of [`load_cifar10`](crate::load_cifar10).
/// [`Error::UnknownDataset`] for a name that is not CIFAR's.
pub fn load_python(name: DatasetName, folder: &Path) -> Result<Dataset> {
    let Some(layout) = cifar(name) else {
        return Err(Error::UnknownDataset {
            name: name.to_string(),
        });
    };
    let records = layout
        .names(Form::Python)
        .map(|name| {
            let path = folder.join(name);
            let records = read(layout, &path, &whole(&path, layout.longest())?)?;
            Ok((path, records))
        })
        .collect::<Result<Vec<_>>>()?;
    assemble(layout, records, Source::Folder(folder.to_owned()))
}

/// The data set of records that pickles held.
pub(crate) fn assemble(
    layout: &Layout,
    records: Vec<(PathBuf, Vec<u8>)>,
    source: Source,
) -> Result<Dataset> {
    layout
        .assemble(records, source)
        .map_err(|error| match error {
            Error::WrongDigest {
                path,
                expected,
                found,
                ..
            } => PythonError::WrongDigest {
                path,
                expected,
                found,
            }
            .into(),
            other => other,
        })
}

/// A file's bytes, if it is not longer than any of CIFAR's.
fn whole(path: &Path, longest: u64) -> Result<Vec<u8>> {
    let read = |source| Error::Read {
        path: path.to_owned(),
        source,
    };
    let len = fs_err::metadata(path).map_err(read)?.len();
    if len > longest {
        return Err(PythonError::TooLong {
            path: path.to_owned(),
            len,
            longest,
        }
        .into());
    }
    fs_err::read(path).map_err(read)
}

/// Reads a file of the Python version as records of the binary one.
pub(crate) fn read(layout: &Layout, path: &Path, bytes: &[u8]) -> Result<Vec<u8>> {
    let pickle = Pickle::read(bytes, ALLOWED).map_err(|source| PythonError::Pickle {
        path: path.to_owned(),
        source,
    })?;
    Ok(Batch {
        pickle: &pickle,
        path,
    }
    .records(layout)?)
}

/// A pickle that is being read.
struct Batch<'p, 'a> {
    pickle: &'p Pickle<'a>,
    path: &'p Path,
}

type Checked<T> = Result<T, PythonError>;

impl<'p> Batch<'p, '_> {
    /// Label bytes and pixels, record by record.
    fn records(&self, layout: &Layout) -> Checked<Vec<u8>> {
        let (rows, fortran, pixels) = self.array(self.entry("data")?)?;
        let labels = layout
            .python_labels
            .iter()
            .zip(layout.labels)
            .map(|(key, num_labels)| self.labels(key, *num_labels, rows))
            .collect::<Checked<Vec<_>>>()?;
        let mut records = Vec::with_capacity(rows * layout.record_len());
        for row in 0..rows {
            records.extend(labels.iter().map(|labels| labels[row]));
            if fortran {
                records.extend(pixels.iter().skip(row).step_by(rows));
            } else {
                records.extend_from_slice(&pixels[row * IMAGE_LEN..][..IMAGE_LEN]);
            }
        }
        Ok(records)
    }

    /// What the dictionary holds under a key, which Python 2 wrote as bytes.
    fn entry(&self, key: &str) -> Checked<Id> {
        let Value::Dict(items) = self.pickle.root() else {
            return Err(self.wrong("a dictionary"));
        };
        let found = items
            .iter()
            .rev()
            .find(|(name, _)| match self.pickle.get(*name) {
                Value::Text(text) => *text == key,
                Value::Bytes(bytes) => *bytes == key.as_bytes(),
                // Not decoded: a long text may be the key of every entry. Keys are ASCII, and so
                // the same in Latin-1.
                Value::Called(..) => self.encoded(*name) == Some(key),
                _ => false,
            });
        let missing = || self.wrong(&format!("an entry {key:?}, as every batch of CIFAR has"));
        found.map(|(_, value)| *value).ok_or_else(missing)
    }

    /// The labels of all images, each below `num_labels`.
    fn labels(&self, key: &str, num_labels: u8, rows: usize) -> Checked<Vec<u8>> {
        let Value::List(items) = self.pickle.get(self.entry(key)?) else {
            return Err(self.wrong(&format!("a list under {key:?}")));
        };
        if items.len() != rows {
            let found = items.len();
            return Err(self.wrong(&format!("{rows} {key}, one for each image, found {found}")));
        }
        let label = |(image, id): (usize, &Id)| {
            let Value::Int(label) = *self.pickle.get(*id) else {
                return Err(self.wrong(&format!("whole numbers under {key:?}")));
            };
            u8::try_from(label)
                .ok()
                .filter(|label| *label < num_labels)
                .ok_or_else(|| PythonError::LabelOutOfRange {
                    path: self.path.to_owned(),
                    image,
                    label,
                    num_labels,
                })
        };
        items.iter().enumerate().map(label).collect()
    }

    /// An array of bytes `(N, 3072)`: N, whether its columns lie together, and its elements.
    fn array(&self, id: Id) -> Checked<(usize, bool, Cow<'p, [u8]>)> {
        let wrong = || self.wrong("an array of bytes of the shape (N, 3072) under \"data\"");
        let &Value::Built(name, _, state) = self.pickle.get(id) else {
            return Err(wrong());
        };
        // (version, shape, type, whether the first index runs fastest, elements)
        let Value::Tuple(state) = self.pickle.get(state) else {
            return Err(wrong());
        };
        let (true, &[_, shape, dtype, fortran, elements]) =
            (RECONSTRUCT.contains(&name), state.as_slice())
        else {
            return Err(wrong());
        };
        let (Value::Tuple(shape), true) = (self.pickle.get(shape), self.is_byte(dtype)) else {
            return Err(wrong());
        };
        let sizes: Vec<&Value<'_>> = shape.iter().map(|size| self.pickle.get(*size)).collect();
        let &[&Value::Int(rows), &Value::Int(columns)] = sizes.as_slice() else {
            return Err(wrong());
        };
        let fortran = matches!(self.pickle.get(fortran), Value::Bool(true) | Value::Int(1));
        let elements = self.bytes(elements)?;
        let rows = usize::try_from(rows).map_err(|_| wrong())?;
        let columns = usize::try_from(columns).map_err(|_| wrong())?;
        // The elements are there already: a shape cannot claim more of them.
        if columns != IMAGE_LEN || rows.checked_mul(IMAGE_LEN) != Some(elements.len()) {
            return Err(wrong());
        }
        Ok((rows, fortran, elements))
    }

    /// Whether a type is `numpy.dtype("u1", …)`.
    fn is_byte(&self, id: Id) -> bool {
        let (Value::Called(DTYPE, arguments) | Value::Built(DTYPE, arguments, _)) =
            self.pickle.get(id)
        else {
            return false;
        };
        let Value::Tuple(arguments) = self.pickle.get(*arguments) else {
            return false;
        };
        let name = arguments.first().map(|name| self.pickle.get(*name));
        matches!(name, Some(Value::Text("u1") | Value::Bytes(b"u1")))
    }

    /// Bytes; Python 3 writes them in protocol 2 as a text of Latin-1 to be encoded.
    fn bytes(&self, id: Id) -> Checked<Cow<'p, [u8]>> {
        let wrong = || self.wrong("bytes");
        if let Value::Bytes(bytes) = self.pickle.get(id) {
            return Ok(Cow::Borrowed(*bytes));
        }
        let text = self.encoded(id).ok_or_else(wrong)?;
        let bytes = text
            .chars()
            .map(|c| u8::try_from(u32::from(c)).map_err(|_| wrong()));
        Ok(Cow::Owned(bytes.collect::<Checked<_>>()?))
    }

    /// The text of `_codecs.encode(text, "latin1")`, as it stands there.
    fn encoded(&self, id: Id) -> Option<&'p str> {
        let Value::Called(ENCODE, arguments) = self.pickle.get(id) else {
            return None;
        };
        let Value::Tuple(arguments) = self.pickle.get(*arguments) else {
            return None;
        };
        let &[text, encoding] = arguments.as_slice() else {
            return None;
        };
        match (self.pickle.get(text), self.pickle.get(encoding)) {
            (Value::Text(text), Value::Text("latin1")) => Some(*text),
            _ => None,
        }
    }

    fn wrong(&self, expected: &str) -> PythonError {
        PythonError::Content {
            path: self.path.to_owned(),
            expected: expected.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::official::{CIFAR10, CIFAR100};

    /// A batch as Python 2 writes it, without memo: `labels` under their keys, `rows` images.
    fn batch(labels: &[(&str, &[u8])], rows: u16, dtype: &str, elements: &[u8]) -> Vec<u8> {
        let mut out = b"\x80\x02}(".to_vec();
        for (key, labels) in labels {
            text(&mut out, key);
            out.extend(b"](");
            out.extend(labels.iter().flat_map(|label| [b'K', *label]));
            out.push(b'e');
        }
        text(&mut out, "data");
        out.extend(b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\0\x85U\x01b\x87R");
        out.extend(b"(K\x01M");
        out.extend(rows.to_le_bytes());
        out.extend(b"M\x00\x0c\x86cnumpy\ndtype\n");
        text(&mut out, dtype);
        out.extend(b"K\0K\x01\x87R\x89T");
        out.extend((elements.len() as u32).to_le_bytes());
        out.extend(elements);
        out.extend(b"tbu.");
        out
    }

    fn text(out: &mut Vec<u8>, text: &str) {
        out.extend([b'U', text.len() as u8]);
        out.extend(text.as_bytes());
    }

    fn refused(layout: &Layout, bytes: &[u8]) -> String {
        let error = read(layout, Path::new("data_batch_3"), bytes).unwrap_err();
        let source = std::error::Error::source(&error).map(ToString::to_string);
        format!("{error}: {}", source.unwrap_or_default())
    }

    #[test]
    fn a_batch_becomes_binary_records() {
        let elements: Vec<u8> = (0..2 * IMAGE_LEN).map(|at| (at % 250) as u8).collect();
        let bytes = batch(&[("labels", &[3, 9])], 2, "u1", &elements);
        let records = read(&CIFAR10, Path::new("a"), &bytes).unwrap();
        let (first, second) = elements.split_at(IMAGE_LEN);
        assert_eq!(records, [&[3], first, &[9], second].concat());
        let labels: [(&str, &[u8]); 2] = [("fine_labels", &[99]), ("coarse_labels", &[19])];
        let bytes = batch(&labels, 1, "u1", first);
        let records = read(&CIFAR100, Path::new("a"), &bytes).unwrap();
        assert_eq!(records[..2], [19, 99]);
    }

    #[test]
    fn what_is_no_batch_is_refused_with_the_file_and_what_was_expected() {
        let image = [0; IMAGE_LEN];
        let of = |labels: &[u8]| batch(&[("labels", labels)], 1, "u1", &image);
        for (bytes, expected) in [
            (of(&[10]), "expected a label below 10 for image 0, found 10"),
            (
                of(&[1, 2]),
                "expected 1 labels, one for each image, found 2",
            ),
            (batch(&[], 1, "u1", &image), "expected an entry \"labels\""),
            (
                batch(&[("labels", &[1])], 1, "f8", &image),
                "an array of bytes",
            ),
            (
                batch(&[("labels", &[1])], 1, "u1", &image[1..]),
                "an array of bytes",
            ),
            // A shape that claims more than there is.
            (
                batch(&[("labels", &[1])], 60_000, "u1", &image),
                "an array of bytes",
            ),
            (b"\x80\x02].".to_vec(), "expected a dictionary"),
            (of(&[1])[..100].to_vec(), "it is cut off"),
        ] {
            let message = refused(&CIFAR10, &bytes);
            assert!(
                message.contains("data_batch_3") && message.contains(expected),
                "{message}"
            );
        }
    }

    /// A dictionary whose every key is one call of `_codecs.encode`, of so long a text.
    fn same_key(text_len: u32, entries: usize) -> Vec<u8> {
        let mut out = b"\x80\x02}(c_codecs\nencode\nX".to_vec();
        out.extend(text_len.to_le_bytes());
        out.resize(out.len() + text_len as usize, b'a');
        out.extend(b"X\x06\0\0\0latin1\x86Rq\x01N");
        out.extend(b"h\x01N".repeat(entries));
        out.extend(b"u.");
        out
    }

    #[test]
    fn a_key_is_compared_without_decoding_it() {
        // Decoding it for each of the entries would take minutes.
        let bytes = same_key(4 << 20, 100_000);
        let start = std::time::Instant::now();
        let message = refused(&CIFAR10, &bytes);
        assert!(message.contains("an entry \"data\""), "{message}");
        assert!(start.elapsed().as_secs() < 20, "{:?}", start.elapsed());
    }

    #[test]
    fn a_file_of_nothing_but_opcodes_is_refused_with_the_bound() {
        let message = refused(&CIFAR10, &vec![b']'; 30 << 20]);
        assert!(message.contains("more than 1048576 opcodes"), "{message}");
        let message = refused(&CIFAR10, &same_key(1, 1 << 20));
        assert!(message.contains("more than 1048576 opcodes"), "{message}");
    }

    #[test]
    fn nothing_is_executed_and_what_is_refused_is_named() {
        for (bytes, expected) in [
            (
                &b"cos\nsystem\n(U\x04truetR."[..],
                "`os.system`, which is refused",
            ),
            (b"cnumpy\nload\n.", "`numpy.load`, which is refused"),
            (
                b"cnumpy.core.multiarray\nscalar\n.",
                "`numpy.core.multiarray.scalar`",
            ),
            (b"(U\x04trueios\nsystem\n.", "`os.system`, which is refused"),
            (b"}\x82\x01.", "opcode EXT1"),
        ] {
            let message = refused(&CIFAR10, bytes);
            assert!(message.contains(expected), "{message}");
        }
    }
}
