//! Files as `torch.save` wrote them before PyTorch 1.6: one after the other, a magic number, the
//! format's version, what machine it was, the object and the keys of its storages, each a pickle, and
//! then of each storage how many elements it has and these. Old repositories publish them as `.pth.tar`.

use std::collections::BTreeMap;

use mesa_pickle::{Allowed, Id, Pickle, Value, shown};

use super::allowed::{MOST_OPCODES, read_pickle, read_tensors};
use super::storage::{StorageId, Storages, outside};
use crate::PytorchError;

/// 0x1950a86a20f9469cfc6c, which the first pickle is.
const MAGIC: Value<'_> = Value::Long(&[0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19]);

/// What the second pickle is.
const VERSION: Value<'_> = Value::Int(1001);

/// What the third pickle says of the order of bytes.
const LITTLE_ENDIAN: &str = "little_endian";

/// The pickles before the object: three numbers and four names make some thirty opcodes.
const HEADER: Allowed<'_> = Allowed {
    globals: &[],
    objects: None,
    advice: "PyTorch writes a few plain values before its tensors",
    most_opcodes: 64,
};

/// The pickle after the object: a key takes three opcodes here, and in the object its tensor some forty.
const KEYS: Allowed<'_> = Allowed {
    globals: &[],
    objects: None,
    advice: "PyTorch writes the keys of storages after its tensors",
    most_opcodes: MOST_OPCODES / 8,
};

/// Whether a file begins like one of this format, of whatever protocol of pickles.
pub(super) fn is_legacy(bytes: &[u8]) -> bool {
    Pickle::read(bytes, HEADER).is_ok_and(|first| *first.root() == MAGIC)
}

/// Reads all but the numbers, of which it notes where they are.
pub(super) fn open(bytes: &[u8]) -> Result<(Pickle<'_>, Numbers<'_>), PytorchError> {
    let mut rest = bytes;
    for (field, expected) in [
        ("its magic number", MAGIC),
        ("its format's version", VERSION),
    ] {
        let pickle = read_pickle(rest, field, HEADER)?;
        if *pickle.root() != expected {
            return Err(PytorchError::Header { field });
        }
        rest = &rest[pickle.len()..];
    }
    let machine = read_pickle(rest, "the machine that wrote it", HEADER)?;
    check_order(&machine)?;
    rest = &rest[machine.len()..];
    let pickle = read_tensors(rest)?;
    rest = &rest[pickle.len()..];
    let keys = read_pickle(rest, "its storages' keys", KEYS)?;
    rest = &rest[keys.len()..];
    let numbers = Numbers::find(rest, &keys, expected(&pickle)?)?;
    Ok((pickle, numbers))
}

fn check_order(machine: &Pickle<'_>) -> Result<(), PytorchError> {
    let is_little = match machine.root() {
        // The last of equal keys, as Python has it.
        Value::Dict(items) => items
            .iter()
            .rfind(|(key, _)| *machine.get(*key) == Value::Text(LITTLE_ENDIAN))
            .map(|(_, value)| machine.get(*value)),
        _ => None,
    };
    match is_little {
        Some(Value::Bool(true)) => Ok(()),
        Some(Value::Bool(false)) => Err(PytorchError::ByteOrder {
            found: "big".to_owned(),
        }),
        None if is_of_python_2(machine) => Err(PytorchError::Python2),
        _ => Err(PytorchError::Header {
            field: "its `little_endian`",
        }),
    }
}

/// Whether its texts are bytes.
fn is_of_python_2(machine: &Pickle<'_>) -> bool {
    let is_key = |id: Id| *machine.get(id) == Value::Bytes(LITTLE_ENDIAN.as_bytes());
    matches!(machine.root(), Value::Dict(items) if items.iter().any(|(key, _)| is_key(*key)))
}

/// Every storage that the pickle refers to: how long one is, and so where the next begins, only its
/// tensors say.
fn expected<'a>(pickle: &Pickle<'a>) -> Result<BTreeMap<&'a str, StorageId<'a>>, PytorchError> {
    let mut expected = BTreeMap::new();
    let mut views = BTreeMap::new();
    for tuple in outside(pickle).filter(|tuple| !is_class(pickle, *tuple)) {
        let id = StorageId::read(pickle, tuple).ok_or(PytorchError::NotStorage)?;
        expected.insert(id.key, id);
        if let Some(part) = id.part {
            let said = (id.key, part.offset, part.elements);
            if *views.entry(part.key).or_insert(said) != said {
                return Err(wrong(part.key, "is several parts of storages"));
            }
        }
    }
    // PyTorch keeps both under one name.
    match views.keys().find(|view| expected.contains_key(**view)) {
        Some(view) => Err(wrong(view, "is a storage and a part of one")),
        None => Ok(expected),
    }
}

/// Whether a tuple `("module", class, file, source)` stands for the class of a whole module, whose
/// source nobody asks for.
fn is_class(pickle: &Pickle<'_>, tuple: Id) -> bool {
    let Value::Tuple(parts) = pickle.get(tuple) else {
        return false;
    };
    let [kind, class, ..] = parts.as_slice() else {
        return false;
    };
    *pickle.get(*kind) == Value::Text("module") && matches!(pickle.get(*class), Value::Class(..))
}

/// Where the storages' numbers are, by the storages' keys.
#[derive(Debug)]
pub(super) struct Numbers<'a>(BTreeMap<&'a str, &'a [u8]>);

impl<'a> Numbers<'a> {
    /// Goes through what follows the pickles.
    fn find(
        mut rest: &'a [u8],
        keys: &Pickle<'a>,
        mut expected: BTreeMap<&'a str, StorageId<'a>>,
    ) -> Result<Self, PytorchError> {
        let no_keys = PytorchError::Header {
            field: "its list of storages",
        };
        let Value::List(list) = keys.root() else {
            return Err(no_keys);
        };
        let mut found = BTreeMap::new();
        for key in list {
            let &Value::Text(key) = keys.get(*key) else {
                return Err(no_keys);
            };
            let Some(id) = expected.remove(key) else {
                let known = found.contains_key(key);
                let what = if known {
                    "is listed twice"
                } else {
                    "is listed, but no tensor lies in it"
                };
                return Err(wrong(key, what));
            };
            let (numbers, after) = split(rest, &id)?;
            found.insert(key, numbers);
            rest = after;
        }
        if let Some(key) = expected.keys().next() {
            return Err(wrong(key, "is missing"));
        }
        if !rest.is_empty() {
            return Err(PytorchError::Trailing { len: rest.len() });
        }
        Ok(Self(found))
    }
}

/// The numbers of the storage that comes next, and what follows them.
fn split<'a>(bytes: &'a [u8], id: &StorageId<'_>) -> Result<(&'a [u8], &'a [u8]), PytorchError> {
    let cut_off = || wrong(id.key, "is cut off");
    let (count, after) = bytes.split_first_chunk().ok_or_else(cut_off)?;
    let count = i64::from_le_bytes(*count);
    if usize::try_from(count) != Ok(id.elements) {
        return Err(PytorchError::StorageLength {
            key: shown(id.key),
            found: count,
            expected: id.elements,
        });
    }
    after.split_at_checked(id.len).ok_or_else(cut_off)
}

impl<'a> Storages<'a> for Numbers<'a> {
    fn storage(&mut self, id: &StorageId<'_>) -> Result<&'a [u8], PytorchError> {
        let numbers = self.0.get(id.key).copied();
        numbers.ok_or_else(|| wrong(id.key, "is missing"))
    }
}

fn wrong(key: &str, what: &'static str) -> PytorchError {
    PytorchError::Storage {
        key: shown(key),
        what,
    }
}

#[cfg(test)]
mod tests {
    use mesa_pickle::Error as PickleError;

    use super::*;
    use crate::pytorch::{is_pytorch, read};

    /// A storage as its tensor has it: its key, how many elements, and what comes after.
    type Storage<'a> = (&'a str, u8, &'a [u8]);

    const FIRST: Storage<'_> = ("71", 3, b"N");
    const SECOND: Storage<'_> = ("8", 2, b"N");

    /// A file in its parts, of which tests change one.
    #[derive(Clone)]
    struct File {
        magic: Vec<u8>,
        version: Vec<u8>,
        machine: Vec<u8>,
        object: Vec<u8>,
        keys: Vec<u8>,
        numbers: Vec<u8>,
    }

    impl File {
        /// Two tensors of two elements, the first from the second element of its storage on.
        fn new() -> Self {
            Self {
                magic: b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.".to_vec(),
                version: b"\x80\x02M\xe9\x03.".to_vec(),
                machine: machine(b"\x88"),
                object: object(&[("a", 1, FIRST), ("b", 0, SECOND)]),
                keys: keys(&["71", "8"]),
                numbers: [numbers(3, &[0.5, 1.5, 2.5]), numbers(2, &[3.5, 4.5])].concat(),
            }
        }

        fn bytes(&self) -> Vec<u8> {
            let pickles = [&self.magic, &self.version, &self.machine, &self.object];
            [
                pickles.map(Vec::as_slice).concat(),
                self.keys.clone(),
                self.numbers.clone(),
            ]
            .concat()
        }

        fn refusal(&self) -> PytorchError {
            let bytes = self.bytes();
            match read(&bytes) {
                Err(error) => error,
                Ok(contents) => panic!("{:?}", contents.tensors),
            }
        }
    }

    fn changed(change: impl FnOnce(&mut File)) -> File {
        let mut file = File::new();
        change(&mut file);
        file
    }

    fn text(out: &mut Vec<u8>, text: &str) {
        out.push(b'X');
        out.extend((text.len() as u32).to_le_bytes());
        out.extend(text.as_bytes());
    }

    fn machine(is_little: &[u8]) -> Vec<u8> {
        let mut out = b"\x80\x02}(".to_vec();
        text(&mut out, "protocol_version");
        out.extend(b"M\xe9\x03");
        text(&mut out, LITTLE_ENDIAN);
        out.extend(is_little);
        out.extend(b"u.");
        out
    }

    fn object(tensors: &[(&str, u8, Storage<'_>)]) -> Vec<u8> {
        let mut out = b"\x80\x02}(".to_vec();
        for (name, offset, (key, elements, part)) in tensors {
            text(&mut out, name);
            out.extend(b"ctorch._utils\n_rebuild_tensor_v2\n((");
            text(&mut out, "storage");
            out.extend(b"ctorch\nFloatStorage\n");
            text(&mut out, key);
            text(&mut out, "cuda:0");
            out.extend([b'K', *elements]);
            out.extend(*part);
            out.extend([b't', b'Q', b'K', *offset]);
            out.extend(b"K\x02\x85K\x01\x85\x89}tR");
        }
        out.extend(b"u.");
        out
    }

    fn keys(keys: &[&str]) -> Vec<u8> {
        let mut out = b"\x80\x02](".to_vec();
        for key in keys {
            text(&mut out, key);
        }
        out.extend(b"e.");
        out
    }

    fn numbers(count: i64, values: &[f32]) -> Vec<u8> {
        let mut out = count.to_le_bytes().to_vec();
        out.extend(values.iter().flat_map(|value| value.to_le_bytes()));
        out
    }

    #[test]
    fn tensors_lie_in_the_files_own_bytes() {
        let bytes = File::new().bytes();
        let contents = read(&bytes).unwrap();
        let (a, b) = (&contents.tensors["a"], &contents.tensors["b"]);
        assert_eq!(
            (a.offset, a.storage),
            (1, &numbers(3, &[0.5, 1.5, 2.5])[8..])
        );
        assert_eq!((b.offset, b.storage), (0, &numbers(2, &[3.5, 4.5])[8..]));
        let end = bytes.as_ptr_range().end;
        assert_eq!(b.storage.as_ptr_range().end, end, "the last of the file");
        assert!(contents.info.is_none());
    }

    #[test]
    fn later_protocols_of_pickles_frame_the_magic_number() {
        let framed = changed(|file| {
            let frame = b"\x80\x04\x95\x0d\0\0\0\0\0\0\0";
            file.magic = [&frame[..], &file.magic[2..]].concat();
        });
        assert!(is_pytorch(&framed.bytes()));
        assert_eq!(read(&framed.bytes()).unwrap().tensors.len(), 2);
    }

    #[test]
    fn a_part_with_a_name_of_its_own_lies_within_the_storage() {
        // ("9", 1, 2): two elements from the second on; then three.
        let with = |elements: u8| {
            let part = [b"(X\x01\0\0\x009K\x01K", &[elements][..], b"t"].concat();
            changed(|file| {
                file.object = object(&[("a", 0, ("71", 3, &part)), ("b", 0, SECOND)]);
            })
        };
        let bytes = with(2).bytes();
        let storage = read(&bytes).unwrap().tensors["a"].storage;
        assert_eq!(storage, &numbers(2, &[1.5, 2.5])[8..]);
        assert!(matches!(with(3).refusal(), PytorchError::Tensor { name } if name == "a"));
    }

    #[test]
    fn a_file_cut_off_anywhere_is_an_error() {
        let whole = File::new().bytes();
        for len in 0..whole.len() {
            assert!(read(&whole[..len]).is_err(), "{len} bytes");
            let _ = is_pytorch(&whole[..len]);
        }
    }

    #[test]
    fn a_byte_changed_anywhere_is_an_error_or_tensors_within_the_file() {
        let whole = File::new().bytes();
        let mut refused = 0;
        for at in 0..whole.len() {
            for value in [0, 1, 0x7f, 0x80, 0xff, whole[at] ^ 1, whole[at] ^ 0x20] {
                let mut changed = whole.clone();
                changed[at] = value;
                let Ok(found) = read(&changed) else {
                    refused += 1;
                    continue;
                };
                for (name, tensor) in &found.tensors {
                    let values = tensor.values(name);
                    let len: usize = tensor.shape.iter().product();
                    assert!(values.is_err() || values.is_ok_and(|values| values.len() == len));
                }
            }
        }
        // Most bytes are numbers, or names of what is beside the tensors.
        assert!(refused > whole.len(), "{refused} of {}", 7 * whole.len());
    }

    #[test]
    fn what_comes_before_the_tensors_is_compared() {
        let version = changed(|file| file.version = b"\x80\x02M\xea\x03.".to_vec());
        assert!(
            matches!(version.refusal(), PytorchError::Header { field } if field.contains("version"))
        );
        let big = changed(|file| file.machine = machine(b"\x89"));
        assert!(matches!(big.refusal(), PytorchError::ByteOrder { found } if found == "big"));
        for machine in [machine(b"N"), b"\x80\x02N.".to_vec(), b"}.".to_vec()] {
            let other = changed(|file| file.machine = machine);
            let refused = other.refusal();
            assert!(matches!(&refused, PytorchError::Header { .. }), "{refused}");
        }
        // As cPickle wrote it: U is a short string of bytes.
        let two = b"\x80\x02}U\x0dlittle_endian\x88s.".to_vec();
        let two = changed(|file| file.machine = two);
        assert!(matches!(two.refusal(), PytorchError::Python2));
        let long = changed(|file| file.machine = b"N".repeat(1000));
        assert!(matches!(
            long.refusal(),
            PytorchError::Pickle {
                source: PickleError::TooManyOpcodes { .. },
                ..
            }
        ));
        let called = changed(|file| file.keys = b"\x80\x02cos\nsystem\n.".to_vec());
        assert!(matches!(
            called.refusal(),
            PytorchError::RunsCode { name } if name == "os.system"
        ));
    }

    #[test]
    fn storages_are_where_and_as_long_as_the_tensors_say() {
        let listed = |listed: &[&str]| changed(|file| file.keys = keys(listed)).refusal();
        let tensors = |tensors: &[_]| changed(|file| file.object = object(tensors)).refusal();
        for (refused, expected_key, expected) in [
            (listed(&["71", "71"]), "71", "twice"),
            (listed(&["71"]), "8", "missing"),
            (listed(&["71", "9"]), "9", "no tensor"),
            (listed(&["71", "\x1b"]), "\\u{1b}", "no tensor"),
            (
                tensors(&[("a", 0, FIRST), ("b", 0, ("71", 2, b"N"))]),
                "71",
                "several lengths",
            ),
            (
                changed(|file| file.numbers.truncate(35)).refusal(),
                "8",
                "cut off",
            ),
        ] {
            assert!(
                matches!(&refused, PytorchError::Storage { key, what }
                    if key == expected_key && what.contains(expected)),
                "{refused}"
            );
        }
        for keys in [&b"\x80\x02N."[..], b"]K\x01a."] {
            let other = changed(|file| file.keys = keys.to_vec()).refusal();
            assert!(matches!(&other, PytorchError::Header { .. }), "{other}");
        }
        let longer = changed(|file| file.numbers.push(0)).refusal();
        assert!(matches!(longer, PytorchError::Trailing { len: 1 }));
    }

    #[test]
    fn a_count_that_is_not_the_tensors_is_refused_whatever_it_is() {
        for count in [0, 2, 4, -1, i64::MAX, i64::MIN, 3 + (1 << 32), 1 << 62] {
            let other = changed(|file| file.numbers[..8].copy_from_slice(&count.to_le_bytes()));
            assert!(matches!(
                other.refusal(),
                PytorchError::StorageLength { key, found, expected: 3 } if key == "71" && found == count
            ));
        }
    }

    #[test]
    fn what_lies_outside_the_pickle_is_a_storage() {
        let others = [
            // None; no tuple; a size below zero, and one whose bytes are beyond any number.
            &b"\x80\x02NQ."[..],
            b"\x80\x02K\x01Q.",
            b"\x80\x02(X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x007NJ\xff\xff\xff\xffNtQ.",
            b"\x80\x02(X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x007N\
                \x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7fNtQ.",
            // A module's source, as whole networks bring it.
            b"\x80\x02(X\x06\0\0\0modulectorch\nSize\nNNtQ.",
        ];
        for object in others {
            let refused = changed(|file| file.object = object.to_vec()).refusal();
            assert!(matches!(refused, PytorchError::NotStorage), "{refused}");
        }
    }

    #[test]
    fn a_storage_without_elements_takes_its_count_alone() {
        let empty = changed(|file| {
            file.object = object(&[("a", 0, FIRST), ("b", 0, ("8", 0, b"N"))]);
            file.numbers = [numbers(3, &[0.5, 1.5, 2.5]), numbers(0, &[])].concat();
        });
        assert!(
            read(&empty.bytes()).unwrap().tensors["b"]
                .storage
                .is_empty()
        );
    }

    #[test]
    fn other_formats_are_told_apart() {
        // With and without the mark of later tars, and with such a header before a file of this format.
        let sealed = |start: &[u8]| {
            let mut tar = vec![0; 512];
            tar[..start.len()].copy_from_slice(start);
            let counted = tar.iter().map(|byte| u32::from(*byte)).sum::<u32>() + 8 * 32;
            tar[148..156].copy_from_slice(format!("{counted:06o}\0 ").as_bytes());
            tar
        };
        for start in [
            &b"network/conv1"[..],
            b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.",
        ] {
            let tar = sealed(start);
            assert!(is_pytorch(&tar));
            assert!(matches!(read(&tar), Err(PytorchError::Tar)));
        }
        let mut other = sealed(b"network/conv1");
        other[0] = b'o';
        assert!(!is_pytorch(&other));
        assert!(!is_pytorch(b"\x80\x02K\x01."));
        assert!(matches!(
            read(b"\x80\x02K\x01."),
            Err(PytorchError::OtherFormat)
        ));
    }
}
