//! CIFAR-10 and CIFAR-100 from the official binary files.
//!
//! A record is one label byte (CIFAR-100: a coarse, then a fine one) and 3,072 pixel bytes, channel
//! first. A file of the official size must have the official digest. Sets of other sizes load as
//! well, for tests and experiments, but a file that is shorter or longer than its official
//! neighbors was damaged and is refused.

use std::io::Read;
use std::path::{Path, PathBuf};

use fs_err::File;
use rayon::prelude::*;
use sha2::{Digest, Sha256};

use crate::dataset::hex;
use crate::forms::{Form, cifar};
use crate::hub_order::HubOrder;
use crate::images::CHANNELS;
use crate::official::{CIFAR10, CIFAR100, Layout, OfficialFile};
use crate::{Dataset, DatasetName, Error, Images, Result, Source};

pub(crate) const SIDE: usize = 32;
pub(crate) const IMAGE_LEN: usize = CHANNELS * SIDE * SIDE;

/// Loads CIFAR-10 from the folder that holds `data_batch_1.bin` to `data_batch_5.bin` and
/// `test_batch.bin`.
///
/// # Errors
///
/// [`Error::MissingFile`], [`Error::PartialRecord`], [`Error::WrongRecordCount`],
/// [`Error::LabelOutOfRange`] and [`Error::WrongDigest`] name the file, the offset and what was
/// expected there; [`Error::Read`] if the system refuses.
pub fn load_cifar10(folder: &Path) -> Result<Dataset> {
    load(&CIFAR10, folder)
}

/// Loads CIFAR-100, fine labels, from the folder that holds `train.bin` and `test.bin`.
///
/// # Errors
///
/// As [`load_cifar10`].
pub fn load_cifar100(folder: &Path) -> Result<Dataset> {
    load(&CIFAR100, folder)
}

/// The official files, or where there are none the Hub's images in an order of their own.
fn load(layout: &Layout, folder: &Path) -> Result<Dataset> {
    let is_official = layout.files().any(|file| folder.join(file.name).exists());
    match HubOrder::of(layout.name) {
        Some(order) if !is_official && order.is_in(folder) => order.load(layout, folder),
        _ => layout.load(folder),
    }
}

/// The names of the files that make up a data set, training files first; none if it is built in or a
/// folder of classes.
pub fn file_names(name: DatasetName) -> Vec<&'static str> {
    cifar(name).map_or_else(Vec::new, |layout| layout.names(Form::Binary).collect())
}

impl Layout {
    pub(crate) fn files(&self) -> impl Iterator<Item = &OfficialFile> {
        self.train.iter().chain([&self.test])
    }

    pub(crate) fn record_len(&self) -> usize {
        self.labels.len() + IMAGE_LEN
    }

    fn official_len(&self, file: &OfficialFile) -> u64 {
        (file.records * self.record_len()) as u64
    }

    /// The longest file that is read of an archive or a pickle: labels, file names and the like
    /// take a few percent of the Python version.
    pub(crate) fn longest(&self) -> u64 {
        let longest = self.files().map(|file| self.official_len(file)).max();
        longest.unwrap_or(0) / 8 * 9 + (1 << 20)
    }

    fn load(&self, folder: &Path) -> Result<Dataset> {
        let files = self.open_all(folder)?;
        self.check_lengths(&files)?;
        self.read_all(folder, &files)
    }

    /// Loads files that have the layout of the official ones and nothing else in common with them.
    pub(crate) fn load_unofficial(&self, folder: &Path) -> Result<Dataset> {
        self.read_all(folder, &self.open_all(folder)?)
    }

    fn open_all(&self, folder: &Path) -> Result<Vec<FoundFile<'_>>> {
        self.files().map(|file| self.open(folder, file)).collect()
    }

    fn read_all(&self, folder: &Path, files: &[FoundFile]) -> Result<Dataset> {
        let (train, test) = files.split_at(self.train.len());
        let (train, test) = (self.read(train)?, self.read(test)?);
        Ok(self.dataset(train, test, Source::Folder(folder.to_owned())))
    }

    /// The data set of records that were read from another form, one list for each of the binary
    /// files, under the same checks.
    pub(crate) fn assemble(
        &self,
        records: Vec<(PathBuf, Vec<u8>)>,
        source: Source,
    ) -> Result<Dataset> {
        let mut files = Vec::with_capacity(records.len());
        let mut contents = Vec::with_capacity(records.len());
        for ((path, bytes), official) in records.into_iter().zip(self.files()) {
            files.push(self.found(path, bytes.len() as u64, official)?);
            contents.push(bytes);
        }
        self.check_lengths(&files)?;
        let digests = files
            .par_iter()
            .zip(&contents)
            .map(|(file, bytes)| self.check(file, bytes))
            .collect::<Result<Vec<_>>>()?;
        let (train, test) = contents.split_at(self.train.len());
        let (train_digests, test_digests) = digests.split_at(self.train.len());
        let images = |contents: &[Vec<u8>]| {
            let (pixels, labels) = self.unpack(contents.concat());
            Images::new(pixels, labels, (SIDE, SIDE))
        };
        let train = (images(train)?, train_digests.to_vec());
        let test = (images(test)?, test_digests.to_vec());
        Ok(self.dataset(train, test, source))
    }

    fn dataset(&self, train: Checked, test: Checked, source: Source) -> Dataset {
        let digests = [train.1, test.1].concat();
        let digest = hex(&Sha256::digest(digests.concat()));
        // Compared here and not by what was checked on the way, which other sizes pass.
        let found = digests.iter().map(|digest| hex(digest));
        let is_official = found.eq(self.files().map(|file| file.sha256.to_owned()));
        tracing::debug!(name = %self.name, %source, digest, "loaded");
        Dataset {
            name: self.name,
            train: train.0,
            test: test.0,
            class_names: self.class_names.iter().map(ToString::to_string).collect(),
            digest,
            source,
            is_official,
        }
    }

    fn open<'a>(&self, folder: &Path, official: &'a OfficialFile) -> Result<FoundFile<'a>> {
        let path = folder.join(official.name);
        let len = match fs_err::metadata(&path) {
            Ok(metadata) if metadata.is_file() => metadata.len(),
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                return Err(Error::Read { path, source });
            }
            _ => {
                let (records, record_len) = (official.records as u64, self.record_len() as u64);
                return Err(Error::MissingFile {
                    path,
                    records,
                    record_len,
                });
            }
        };
        self.found(path, len, official)
    }

    /// A file of so many bytes, which have to be whole records.
    fn found<'a>(
        &self,
        path: PathBuf,
        len: u64,
        official: &'a OfficialFile,
    ) -> Result<FoundFile<'a>> {
        let expected = self.record_len() as u64;
        let found = len % expected;
        if len == 0 || found != 0 {
            return Err(Error::PartialRecord {
                path,
                offset: len - found,
                expected,
                found,
            });
        }
        Ok(FoundFile {
            path,
            len,
            official,
        })
    }

    /// Either every file has its official length or none has.
    fn check_lengths(&self, files: &[FoundFile]) -> Result<()> {
        let odd = files
            .iter()
            .find(|file| file.len != self.official_len(file.official));
        match odd {
            None => Ok(()),
            Some(_)
                if files
                    .iter()
                    .all(|file| file.len != self.official_len(file.official)) =>
            {
                tracing::warn!("these are not {}'s official files: other sizes", self.name);
                Ok(())
            }
            Some(file) => Err(Error::WrongRecordCount {
                path: file.path.clone(),
                offset: file.len,
                expected_end: self.official_len(file.official),
                expected: file.official.records as u64,
            }),
        }
    }

    /// Reads files into one buffer, checks each, and packs the pixels where the records were.
    fn read(&self, files: &[FoundFile]) -> Result<Checked> {
        let total: u64 = files.iter().map(|file| file.len).sum();
        let mut bytes = vec![0; usize::try_from(total).expect("a file that fits into memory")];
        let mut parts = Vec::with_capacity(files.len());
        let mut rest = bytes.as_mut_slice();
        for file in files {
            let (part, after) = rest.split_at_mut(file.len as usize);
            parts.push((file, part));
            rest = after;
        }
        let digests = parts
            .into_par_iter()
            .map(|(file, part)| self.read_file(file, part))
            .collect::<Result<Vec<_>>>()?;
        let (pixels, labels) = self.unpack(bytes);
        Ok((Images::new(pixels, labels, (SIDE, SIDE))?, digests))
    }

    fn read_file(&self, file: &FoundFile, bytes: &mut [u8]) -> Result<Vec<u8>> {
        File::open(&file.path)
            .and_then(|mut open| open.read_exact(bytes))
            .map_err(|source| Error::Read {
                path: file.path.clone(),
                source,
            })?;
        self.check(file, bytes)
    }

    /// The digest of a file whose labels and, where it has the official size, contents are right.
    fn check(&self, file: &FoundFile, bytes: &[u8]) -> Result<Vec<u8>> {
        self.check_labels(&file.path, bytes)?;
        let digest = Sha256::digest(bytes).to_vec();
        let found = hex(&digest);
        if file.len == self.official_len(file.official) && found != file.official.sha256 {
            return Err(Error::WrongDigest {
                path: file.path.clone(),
                len: file.len,
                expected: file.official.sha256.to_owned(),
                found,
            });
        }
        Ok(digest)
    }

    fn check_labels(&self, path: &Path, bytes: &[u8]) -> Result<()> {
        for (record, bytes) in bytes.chunks_exact(self.record_len()).enumerate() {
            for (byte, (label, num_labels)) in bytes.iter().zip(self.labels).enumerate() {
                if label >= num_labels {
                    return Err(Error::LabelOutOfRange {
                        path: path.to_owned(),
                        offset: (record * self.record_len() + byte) as u64,
                        label: *label,
                        num_labels: *num_labels,
                    });
                }
            }
        }
        Ok(())
    }

    /// Pixels and labels of records, in the records' own memory.
    fn unpack(&self, mut bytes: Vec<u8>) -> (Vec<u8>, Vec<u8>) {
        let count = bytes.len() / self.record_len();
        let mut labels = Vec::with_capacity(count);
        for record in 0..count {
            let pixels = record * self.record_len() + self.labels.len();
            labels.push(bytes[pixels - 1]);
            bytes.copy_within(pixels..pixels + IMAGE_LEN, record * IMAGE_LEN);
        }
        bytes.truncate(count * IMAGE_LEN);
        (bytes, labels)
    }
}

/// Images and the digests of the files that they came from.
type Checked = (Images, Vec<Vec<u8>>);

/// A file that is there, with a whole number of records.
struct FoundFile<'a> {
    path: PathBuf,
    len: u64,
    official: &'a OfficialFile,
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    /// Three records in each file of a data set, pixels equal to the record's number.
    fn fixture(layout: &Layout) -> TempDir {
        let folder = TempDir::new().unwrap();
        for (number, file) in layout.files().enumerate() {
            write(&folder, file.name, &records(layout, 3 * number as u8));
        }
        folder
    }

    fn records(layout: &Layout, first: u8) -> Vec<u8> {
        let labels = layout.labels.len();
        (first..first + 3)
            .flat_map(|value| [vec![value; labels], vec![value; IMAGE_LEN]].concat())
            .map(|value| value % 10)
            .collect()
    }

    fn write(folder: &TempDir, name: &str, bytes: &[u8]) {
        fs_err::write(folder.path().join(name), bytes).unwrap();
    }

    #[test]
    fn reads_records_in_the_order_of_the_files() {
        for (layout, train) in [(&CIFAR10, 15), (&CIFAR100, 3)] {
            let data = layout.load(fixture(layout).path()).unwrap();
            assert_eq!((data.train.len(), data.test.len()), (train, 3));
            assert_eq!(Some(data.num_classes()), layout.name.num_classes());
            let records = (0..train).map(|index| data.train.image(index).to_vec());
            let expected = (0..train as u8).map(|value| vec![value % 10; IMAGE_LEN]);
            assert!(records.eq(expected));
            let labels: Vec<u8> = (0..train as u8).map(|value| value % 10).collect();
            assert_eq!(data.train.labels(), labels);
        }
    }

    #[test]
    fn the_class_of_cifar_100_is_the_fine_label() {
        let folder = fixture(&CIFAR100);
        let mut bytes = records(&CIFAR100, 0);
        (bytes[0], bytes[1]) = (19, 99);
        write(&folder, "train.bin", &bytes);
        assert_eq!(
            load_cifar100(folder.path()).unwrap().train.labels(),
            [99, 1, 2]
        );
    }

    #[test]
    fn the_digest_is_that_of_the_bytes() {
        let folder = fixture(&CIFAR10);
        let before = load_cifar10(folder.path()).unwrap().digest;
        assert_eq!(before, load_cifar10(folder.path()).unwrap().digest);
        let mut bytes = records(&CIFAR10, 3);
        bytes[5000] ^= 1;
        write(&folder, "data_batch_2.bin", &bytes);
        assert_ne!(before, load_cifar10(folder.path()).unwrap().digest);
    }

    #[test]
    fn official_is_what_has_the_official_digests_in_whatever_form() {
        let folder = fixture(&CIFAR100);
        let file = |number: usize| {
            let name = CIFAR100.files().nth(number).unwrap().name;
            let bytes = fs_err::read(folder.path().join(name)).unwrap();
            let sha256 = hex(&Sha256::digest(&bytes)).leak();
            (
                OfficialFile {
                    name,
                    records: 3,
                    sha256,
                },
                bytes,
            )
        };
        let ((train, train_bytes), (test, test_bytes)) = (file(0), file(1));
        let layout = Layout {
            train: &*Box::leak(Box::new([train])),
            test,
            ..CIFAR100
        };
        assert!(layout.load(folder.path()).unwrap().is_official);
        let records = || {
            let files = [&train_bytes, &test_bytes];
            files.map(|bytes| ("f".into(), bytes.clone())).to_vec()
        };
        let source = Source::Archive("cifar-100-python.tar.gz".into());
        assert!(
            layout
                .assemble(records(), source.clone())
                .unwrap()
                .is_official
        );
        // Files of another size load as well.
        assert!(!CIFAR100.assemble(records(), source).unwrap().is_official);
        assert!(!load_cifar100(folder.path()).unwrap().is_official);
        assert!(!crate::synthetic(0, 10, 10).is_official);
    }

    #[test]
    fn names_a_missing_file() {
        let folder = fixture(&CIFAR10);
        fs_err::remove_file(folder.path().join("data_batch_4.bin")).unwrap();
        let error = load_cifar10(folder.path()).unwrap_err();
        assert!(matches!(
            error,
            Error::MissingFile {
                records: 10_000,
                record_len: 3073,
                ..
            }
        ));
        assert!(
            error
                .to_string()
                .contains("data_batch_4.bin: missing, expected 10000 records")
        );
    }

    #[test]
    fn names_where_a_cut_off_file_ends() {
        let folder = fixture(&CIFAR10);
        write(&folder, "test_batch.bin", &records(&CIFAR10, 0)[..7000]);
        let error = load_cifar10(folder.path()).unwrap_err();
        assert!(matches!(
            error,
            Error::PartialRecord {
                offset: 6146,
                expected: 3073,
                found: 854,
                ..
            }
        ));
        assert!(
            error
                .to_string()
                .contains("test_batch.bin: expected a record of 3073 bytes")
        );
        write(&folder, "test_batch.bin", &[]);
        let refused = load_cifar10(folder.path());
        assert!(matches!(
            refused,
            Err(Error::PartialRecord {
                offset: 0,
                found: 0,
                ..
            })
        ));
    }

    #[test]
    fn names_records_of_another_length() {
        let folder = fixture(&CIFAR10);
        write(&folder, "data_batch_1.bin", &records(&CIFAR100, 0));
        let refused = load_cifar10(folder.path());
        assert!(matches!(
            refused,
            Err(Error::PartialRecord {
                offset: 9219,
                found: 3,
                ..
            })
        ));
    }

    #[test]
    fn names_a_label_out_of_range() {
        let folder = fixture(&CIFAR10);
        let mut bytes = records(&CIFAR10, 0);
        bytes[2 * 3073] = 10;
        write(&folder, "data_batch_5.bin", &bytes);
        let error = load_cifar10(folder.path()).unwrap_err();
        assert!(matches!(
            error,
            Error::LabelOutOfRange {
                offset: 6146,
                label: 10,
                num_labels: 10,
                ..
            }
        ));

        let folder = fixture(&CIFAR100);
        let mut bytes = records(&CIFAR100, 0);
        bytes[3074] = 20;
        write(&folder, "test.bin", &bytes);
        let refused = load_cifar100(folder.path());
        assert!(matches!(
            refused,
            Err(Error::LabelOutOfRange {
                offset: 3074,
                label: 20,
                num_labels: 20,
                ..
            })
        ));
        bytes[3074] = 0;
        bytes[3075] = 100;
        write(&folder, "test.bin", &bytes);
        let refused = load_cifar100(folder.path());
        assert!(matches!(
            refused,
            Err(Error::LabelOutOfRange {
                offset: 3075,
                label: 100,
                num_labels: 100,
                ..
            })
        ));
    }

    #[test]
    fn refuses_other_contents_of_the_official_size() {
        let folder = fixture(&CIFAR100);
        let zeros = vec![0; 10_000 * 3074];
        write(&folder, "test.bin", &zeros);
        let official = &CIFAR100.test;
        let path = folder.path().join(official.name);
        let found = FoundFile {
            path,
            len: zeros.len() as u64,
            official,
        };
        let error = CIFAR100.read(&[found]).unwrap_err();
        let message = error.to_string();
        assert!(matches!(
            error,
            Error::WrongDigest {
                len: 30_740_000,
                ..
            }
        ));
        assert!(message.contains("offsets 0 to 30740000") && message.contains("d8b1e6b7"));
    }

    #[test]
    fn refuses_a_file_cut_between_records_beside_official_ones() {
        let folder = fixture(&CIFAR100);
        write(&folder, "test.bin", &vec![0; 10_000 * 3074]);
        let error = load_cifar100(folder.path()).unwrap_err();
        assert!(matches!(
            error,
            Error::WrongRecordCount {
                offset: 9222,
                expected_end: 153_700_000,
                expected: 50_000,
                ..
            }
        ));
        assert!(error.to_string().contains("train.bin"));
    }
}
