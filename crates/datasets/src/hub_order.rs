//! Images of the Hugging Face Hub in an order that is not that of the official files.
//!
//! They have the layout of the official files, names of their own, and their digests beside them in
//! the format of `sha256sum`: nothing takes them for the official ones, and damage is found.

use std::io::{self, Read};
use std::path::Path;

use fs_err::File;
use sha2::{Digest, Sha256};

use crate::dataset::hex;
use crate::official::{Layout, OfficialFile};
use crate::{Dataset, DatasetName, Error, Result, Source};

/// How the files of such a data set are called.
pub(crate) struct HubOrder {
    /// The folder in the cache.
    #[cfg_attr(
        not(feature = "hub"),
        expect(dead_code, reason = "only what fetches writes")
    )]
    pub(crate) folder: &'static str,
    /// Training and test records. How many there are is not known beforehand.
    pub(crate) files: [OfficialFile; 2],
    /// The digests of the files.
    pub(crate) sums: &'static str,
}

const fn unknown(name: &'static str) -> OfficialFile {
    OfficialFile {
        name,
        records: 0,
        sha256: "",
    }
}

static CIFAR10: HubOrder = HubOrder {
    folder: "cifar-10-hub-order",
    files: [
        unknown("cifar10-hub-train.bin"),
        unknown("cifar10-hub-test.bin"),
    ],
    sums: "cifar10-hub.sha256",
};

static CIFAR100: HubOrder = HubOrder {
    folder: "cifar-100-hub-order",
    files: [
        unknown("cifar100-hub-train.bin"),
        unknown("cifar100-hub-test.bin"),
    ],
    sums: "cifar100-hub.sha256",
};

impl HubOrder {
    /// The names for a data set; none if it is built in.
    pub(crate) fn of(name: DatasetName) -> Option<&'static Self> {
        match name {
            DatasetName::Cifar10 => Some(&CIFAR10),
            DatasetName::Cifar100 => Some(&CIFAR100),
            DatasetName::Synthetic | DatasetName::Folder => None,
        }
    }

    /// Whether a folder holds all of it.
    pub(crate) fn is_in(&self, folder: &Path) -> bool {
        let names = self.files.iter().map(|file| file.name);
        names
            .chain([self.sums])
            .all(|name| folder.join(name).is_file())
    }

    /// Loads the files, whose records are those of `layout`, and compares their digests.
    pub(crate) fn load(&'static self, layout: &Layout, folder: &Path) -> Result<Dataset> {
        let sums_path = folder.join(self.sums);
        let sums = fs_err::read_to_string(&sums_path).map_err(|source| Error::Read {
            path: sums_path,
            source,
        })?;
        for file in &self.files {
            let path = folder.join(file.name);
            let line = sums_line(&digest(&path)?, file.name);
            if !sums.lines().any(|known| known == line.trim_end()) {
                let sums = self.sums;
                return Err(Error::Changed { path, sums });
            }
        }
        let [train, test] = &self.files;
        let layout = Layout {
            name: layout.name,
            labels: layout.labels,
            python_labels: layout.python_labels,
            train: std::slice::from_ref(train),
            test: unknown(test.name),
            class_names: layout.class_names,
        };
        tracing::warn!(
            "{} in {} are NOT the official files but the images of the Hugging Face Hub in an order \
             of their own: figures differ from those of the official files",
            layout.name,
            folder.display()
        );
        Ok(Dataset {
            source: Source::HubOrder(folder.to_owned()),
            ..layout.load_unofficial(folder)?
        })
    }
}

/// A file's line among the digests.
pub(crate) fn sums_line(digest: &str, name: &str) -> String {
    format!("{digest}  {name}\n")
}

fn digest(path: &Path) -> Result<String> {
    File::open(path)
        .and_then(|mut file| digest_of(&mut file))
        .map_err(|source| Error::Read {
            path: path.to_owned(),
            source,
        })
}

/// SHA-256 of what is left to read, in hex.
pub(crate) fn digest_of(file: &mut File) -> io::Result<String> {
    let mut digest = Sha256::new();
    let mut chunk = vec![0; 64 * 1024];
    loop {
        match file.read(&mut chunk)? {
            0 => return Ok(hex(&digest.finalize())),
            len => digest.update(&chunk[..len]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Search, load_cifar10};

    /// Two training records and a test record.
    fn folder() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let record = |label: u8| [vec![label], vec![label; 3072]].concat();
        let train = [record(3), record(4)].concat();
        let mut sums = String::new();
        for (file, bytes) in CIFAR10.files.iter().zip([train, record(5)]) {
            fs_err::write(folder.path().join(file.name), &bytes).unwrap();
            sums += &sums_line(&hex(&Sha256::digest(&bytes)), file.name);
        }
        fs_err::write(folder.path().join(CIFAR10.sums), sums).unwrap();
        folder
    }

    #[test]
    fn they_load_under_their_own_label() {
        let folder = folder();
        let data = load_cifar10(folder.path()).unwrap();
        assert_eq!(data.train.labels(), [3, 4]);
        assert_eq!(data.test.labels(), [5]);
        assert_eq!(data.source, Source::HubOrder(folder.path().to_owned()));
        assert!(data.source.to_string().contains("NOT the official files"));
    }

    #[test]
    fn damage_is_found() {
        let folder = folder();
        let path = folder.path().join("cifar10-hub-test.bin");
        let mut bytes = fs_err::read(&path).unwrap();
        bytes[100] ^= 1;
        fs_err::write(&path, bytes).unwrap();
        let error = load_cifar10(folder.path()).unwrap_err();
        assert!(matches!(error, Error::Changed { .. }), "{error}");
        assert!(error.to_string().contains("cifar10-hub-test.bin"));
    }

    #[test]
    fn a_search_finds_them_after_official_files_and_only_when_complete() {
        let folder = folder();
        let search = Search::new(None, None, Some(folder.path().to_owned()));
        let found = || search.find(Some(DatasetName::Cifar10)).unwrap();
        assert_eq!(found().unwrap().folder.as_deref(), Some(folder.path()));
        assert_eq!(search.find(Some(DatasetName::Cifar100)).unwrap(), None);
        let official = folder.path().join("photos");
        fs_err::create_dir(&official).unwrap();
        for name in crate::file_names(DatasetName::Cifar10) {
            fs_err::write(official.join(name), b"").unwrap();
        }
        assert_eq!(found().unwrap().folder.as_deref(), Some(&*official));
        fs_err::remove_dir_all(&official).unwrap();
        fs_err::remove_file(folder.path().join(CIFAR10.sums)).unwrap();
        assert_eq!(found(), None);
    }
}
