//! CIFAR's Python version as Python 2 and 3 write it, beside the same images in binary files.

use std::path::Path;

use mesa_datasets::{DatasetName, file_names, load_cifar10, load_cifar100, load_python};

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden/cifar");

/// A pixel of the fixtures: see `cifar_python.py`.
fn pixel(row: usize, column: usize) -> u8 {
    ((row * 7 + column) % 251) as u8
}

/// Two images in every binary file, each after its label bytes.
fn binary(folder: &Path, name: DatasetName, labels: [&[u8]; 2]) {
    let mut records = Vec::new();
    for (row, labels) in labels.into_iter().enumerate() {
        records.extend_from_slice(labels);
        records.extend((0..3072).map(|column| pixel(row, column)));
    }
    for file in file_names(name) {
        fs_err::write(folder.join(file), &records).unwrap();
    }
}

/// The same file of the Python version under every name.
fn python(folder: &Path, name: DatasetName, fixture: &str) {
    for file in file_names(name) {
        let source = Path::new(FOLDER).join(fixture).with_extension("pkl");
        fs_err::copy(source, folder.join(file.strip_suffix(".bin").unwrap())).unwrap();
    }
}

#[test]
fn every_python_writes_the_images_of_the_binary_files() {
    let folder = tempfile::tempdir().unwrap();
    binary(folder.path(), DatasetName::Cifar10, [&[6], &[9]]);
    let expected = load_cifar10(folder.path()).unwrap();
    for fixture in [
        "cifar10_python2",
        "cifar10_protocol2",
        "cifar10_protocol4_fortran",
    ] {
        let folder = tempfile::tempdir().unwrap();
        python(folder.path(), DatasetName::Cifar10, fixture);
        let data = load_python(DatasetName::Cifar10, folder.path()).unwrap();
        assert_eq!(data.train.labels(), [6, 9].repeat(5), "{fixture}");
        assert_eq!(data.test.image(1), expected.test.image(1), "{fixture}");
        assert_eq!(data.digest, expected.digest, "{fixture}");
    }
}

#[test]
fn the_class_of_cifar_100_is_the_fine_label_in_either_version() {
    let folder = tempfile::tempdir().unwrap();
    binary(folder.path(), DatasetName::Cifar100, [&[11, 19], &[15, 99]]);
    let expected = load_cifar100(folder.path()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    python(folder.path(), DatasetName::Cifar100, "cifar100_python2");
    let data = load_python(DatasetName::Cifar100, folder.path()).unwrap();
    assert_eq!(data.train.labels(), [19, 99]);
    assert_eq!(data.digest, expected.digest);
}
