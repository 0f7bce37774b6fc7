//! Networks in files that PyTorch saved: read in every variant, refused where they hold more,
//! and never a panic, a hang or a bomb whatever happened to the bytes.

use std::collections::BTreeSet;
use std::io::{Cursor, Read, Write};
use std::path::{Path, PathBuf};

use mesa_models::{
    Error, NormalizationSource, PickleError, PytorchError, Seeds, load_network_with,
};
use rand::Rng;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipArchive, ZipWriter};

use super::{Vectors, assert_close, values};

/// As for the networks of the other reference vectors.
const TOLERANCE: f32 = 2e-5;

/// Each variant with its kind, width and number of classes.
const ZIPPED: [(&str, &str, usize, usize); 10] = [
    ("bare", "resnet18", 2, 10),
    ("net", "resnet18", 3, 10),
    ("model", "resnet18", 2, 4),
    ("state_dict", "resnet18", 2, 10),
    ("model_state_dict", "resnet50", 2, 10),
    ("attack_result", "preactresnet18", 2, 10),
    ("netc", "preactresnet18", 2, 10),
    ("module", "wideresnet10", 2, 10),
    ("module_key", "wideresnet10", 2, 10),
    ("traced", "wideresnet10", 2, 10),
];

/// Files in the format before PyTorch 1.6, each with the one that has the same network in a later one.
const LEGACY: [(&str, &str); 3] = [
    ("legacy", "bare"),
    ("first_legacy", "bare"),
    ("module_legacy", "module"),
];

fn is_legacy(name: &str) -> bool {
    LEGACY.iter().any(|(legacy, _)| *legacy == name)
}

pub(super) fn file(name: &str) -> PathBuf {
    let folder = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../tests/golden/checkpoints"
    );
    // As training scripts of that time call it.
    let suffix = if is_legacy(name) { "pth.tar" } else { "pth" };
    Path::new(folder).join(format!("{name}.{suffix}"))
}

/// What reading these bytes gives.
pub(super) fn read(bytes: &[u8]) -> Result<mesa_models::LoadedNetwork, Error> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("network.pth");
    fs_err::write(&path, bytes).unwrap();
    load_network_with(&path, Some("cifar10".parse().unwrap()))
}

pub(super) fn refusal(bytes: &[u8]) -> PytorchError {
    match read(bytes) {
        Err(Error::Pytorch { source, .. }) => source,
        other => panic!("{:?}", other.map(|loaded| loaded.info)),
    }
}

fn names() -> impl Iterator<Item = &'static str> {
    let zipped = ZIPPED.into_iter().map(|(name, ..)| name);
    zipped.chain(LEGACY.into_iter().map(|(name, _)| name))
}

#[test]
fn every_variant_gives_pytorchs_logits() {
    let vectors = Vectors::load("checkpoints");
    let images = vectors.tensor("images");
    let normalization = vectors.metadata["normalization"].parse().unwrap();
    for (name, kind, width, num_classes) in ZIPPED {
        let loaded = load_network_with(&file(name), Some(normalization)).unwrap();
        assert_eq!(loaded.normalization_from, NormalizationSource::Caller);
        let is_module = ["module", "module_key", "traced"].contains(&name);
        assert_eq!(loaded.is_module, is_module, "{name}");
        // Whole modules have it among their attributes.
        let (own, classes) = if name.starts_with("module") {
            let names = ["WideBlock", "WideResNet", "WideStage"];
            (Some(normalization), BTreeSet::from(names))
        } else {
            (None, BTreeSet::new())
        };
        assert_eq!(loaded.own_normalization, own, "{name}");
        let found = loaded.classes.iter();
        let found: BTreeSet<_> = found
            .filter_map(|class| class.split('.').next_back())
            .collect();
        assert_eq!(found, classes, "{name}");
        let config = loaded.info.config;
        let found = (config.architecture.name(), config.width, config.num_classes);
        assert_eq!(found, (kind.to_owned(), width, num_classes));
        let logits = loaded.network.freeze().unwrap().logits(&images).unwrap();
        let expected = vectors.values(&format!("{name}.logits"));
        assert_close(name, &values(&logits), &expected, TOLERANCE);
    }
}

#[test]
fn the_format_before_1_6_gives_the_same_bits() {
    let bits = |name: &str| {
        let loaded = load_network_with(&file(name), None).unwrap();
        let bits = |(name, tensor): (String, candle::Tensor)| {
            let values = values(&tensor).into_iter().map(f32::to_bits);
            (name, tensor.dims().to_vec(), values.collect::<Vec<_>>())
        };
        let state = loaded.network.state().unwrap();
        (loaded.info, state.into_iter().map(bits).collect::<Vec<_>>())
    };
    for (legacy, later) in LEGACY {
        assert_eq!(bits(legacy), bits(later));
        // What it is counts, not what it is called.
        assert!(read(&fs_err::read(file(legacy)).unwrap()).is_ok());
    }
}

#[test]
fn ten_classes_are_taken_for_cifar10_and_other_numbers_for_nothing() {
    let loaded = load_network_with(&file("bare"), None).unwrap();
    assert_eq!(loaded.normalization_from, NormalizationSource::Classes);
    assert!(matches!(
        load_network_with(&file("model"), None),
        Err(Error::NoNormalization { num_classes: 4, .. })
    ));
}

#[test]
fn other_files_of_pytorch_are_refused_with_what_to_do() {
    let refused = |name: &str| refusal(&fs_err::read(file(name)).unwrap());
    let order = refused("refused_big_endian");
    assert!(matches!(&order, PytorchError::ByteOrder { found } if found == "big"));
    // A module of another kind is read, and is no network.
    let bytes = fs_err::read(file("refused_module")).unwrap();
    let Err(Error::Layout { source, .. }) = read(&bytes) else {
        panic!("a single layer is no network")
    };
    let words = source.to_string();
    assert!(words.ends_with("unexpected: bias, weight"), "{words}");
    // A class may be named, a call is refused by name.
    let called = with_pickle(b"\x80\x02}(X\x03\0\0\0netcmodels\nload\n)Ru.");
    let called = refusal(&called);
    let PytorchError::Pickle {
        source: source @ PickleError::Global { name, .. },
        ..
    } = &called
    else {
        panic!("{called:?}")
    };
    assert_eq!(name, "models.load");
    assert!(source.to_string().contains("torch.save(model.state_dict()"));
    // Named alone it runs nothing, and no network needs it.
    let named = refusal(&with_pickle(b"\x80\x02cposix\nsystem\n)\x81."));
    assert!(matches!(&named, PytorchError::RunsCode { name } if name == "posix.system"));
}

/// The same archive, but for what `change` makes of its records.
pub(super) fn rewritten(
    bytes: &[u8],
    method: CompressionMethod,
    mut change: impl FnMut(&str, Vec<u8>) -> Option<Vec<u8>>,
) -> Vec<u8> {
    let mut old = ZipArchive::new(Cursor::new(bytes)).unwrap();
    let mut new = ZipWriter::new(Cursor::new(Vec::new()));
    for index in 0..old.len() {
        let mut entry = old.by_index(index).unwrap();
        let name = entry.name().unwrap().into_owned();
        let mut content = Vec::new();
        entry.read_to_end(&mut content).unwrap();
        if let Some(content) = change(&name, content) {
            let options = SimpleFileOptions::default().compression_method(method);
            new.start_file(name, options).unwrap();
            new.write_all(&content).unwrap();
        }
    }
    new.finish().unwrap().into_inner()
}

/// The file `bare` with another pickle, and with one number in its first storage.
pub(super) fn with_pickle(pickle: &[u8]) -> Vec<u8> {
    let whole = fs_err::read(file("bare")).unwrap();
    rewritten(&whole, CompressionMethod::Stored, |name, content| {
        Some(if name.ends_with("data.pkl") {
            pickle.to_vec()
        } else if name.ends_with("data/0") {
            vec![0; 4]
        } else {
            content
        })
    })
}

#[test]
fn a_file_cut_off_anywhere_or_with_flipped_bits_is_an_error_or_a_network() {
    let mut rng = Seeds::new(0, "flipped").start();
    for name in names() {
        let whole = fs_err::read(file(name)).unwrap();
        assert!(read(&whole).is_ok());
        for len in (0..whole.len()).step_by(whole.len() / 150) {
            assert!(read(&whole[..len]).is_err(), "{name}, {len} bytes");
        }
        for _ in 0..150 {
            let mut flipped = whole.clone();
            for _ in 0..rng.random_range(1..4) {
                let at = rng.random_range(0..whole.len());
                flipped[at] ^= 1 << rng.random_range(0..8);
            }
            let _ = read(&flipped);
        }
        // The directory at an archive's end is where lies about lengths and places stand.
        for _ in 0..150 {
            let mut flipped = whole.clone();
            let at = rng.random_range(whole.len() - 400..whole.len());
            flipped[at] = rng.random();
            let _ = read(&flipped);
        }
    }
}

/// Checksums catch most flips: here the pickle is changed and the checksum is right.
#[test]
fn a_changed_pickle_is_an_error_or_a_network() {
    let mut rng = Seeds::new(0, "changed").start();
    for name in names() {
        let whole = fs_err::read(file(name)).unwrap();
        let mut networks = 0;
        for _ in 0..150 {
            let mut change = |content: &mut Vec<u8>, len| {
                let at = rng.random_range(0..len);
                match rng.random_range(0..3) {
                    0 => content.truncate(at),
                    1 => content[at] = rng.random(),
                    _ => drop(content.splice(at..at, [rng.random(), rng.random()])),
                }
            };
            let changed = if is_legacy(name) {
                // Its pickles come first.
                let mut content = whole.clone();
                change(&mut content, whole.len() / 8);
                content
            } else {
                rewritten(&whole, CompressionMethod::Stored, |name, mut content| {
                    if name.ends_with("data.pkl") {
                        let len = content.len();
                        change(&mut content, len);
                    }
                    Some(content)
                })
            };
            networks += usize::from(read(&changed).is_ok());
        }
        assert!(networks < 75, "{name}: most changes are noticed");
    }
}

#[test]
fn archives_that_torch_save_never_writes_are_refused_by_name() {
    let whole = fs_err::read(file("bare")).unwrap();
    let same = |_: &str, content: Vec<u8>| Some(content);
    assert!(read(&rewritten(&whole, CompressionMethod::Stored, same)).is_ok());
    let without = |suffix: &'static str| {
        rewritten(&whole, CompressionMethod::Stored, move |name, content| {
            (!name.ends_with(suffix)).then_some(content)
        })
    };
    let missing = refusal(&without("data/7"));
    assert!(matches!(&missing, PytorchError::MissingRecord { name } if name == "data/7"));
    let missing = refusal(&without("data.pkl"));
    assert!(
        matches!(&missing, PytorchError::OtherArchive { .. }),
        "{missing}"
    );
    // Files from before PyTorch 2.1 do not name their byte order.
    assert!(read(&without("byteorder")).is_ok());
    let short = rewritten(&whole, CompressionMethod::Stored, |name, mut content| {
        if name.ends_with("data/7") {
            content.pop();
        }
        Some(content)
    });
    assert!(matches!(refusal(&short), PytorchError::Damaged { name } if name == "data/7"));

    // The method and the lengths in the directory: 10 and 20 bytes into an entry of 46 bytes, which
    // the name follows, and the next entry.
    let name = b"archive/data/7PK\x01\x02";
    let name = whole.windows(name.len()).position(|part| part == name);
    let at = name.unwrap() - 46;
    assert!(whole[at..].starts_with(b"PK\x01\x02"));
    let mut compressed = whole.clone();
    compressed[at + 10] = 8;
    assert!(read(&compressed).is_err());
    for lie in [[0xff, 0xff, 0xff, 0x7f], [0, 0, 0, 0]] {
        let mut longer = whole.clone();
        longer[at + 20..at + 24].copy_from_slice(&lie);
        longer[at + 24..at + 28].copy_from_slice(&lie);
        assert!(read(&longer).is_err());
    }
}
