//! CIFAR's archives as they are downloaded, read without unpacking them.
//!
//! `cifar-10-binary.tar.gz`, `cifar-10-python.tar.gz` and their likes of CIFAR-100 under any name:
//! what they hold decides. Memory grows with what was really read, file by file, and no file may
//! be much longer than the official one. Long names in entries of their own are passed over: CIFAR's
//! are short, and a reader that follows them keeps them whole.

use std::collections::BTreeMap;
use std::io::{self, BufReader, Read, sink};
use std::path::{Path, PathBuf};

use flate2::read::GzDecoder;
use fs_err::File;
use tar::Archive;

use crate::forms::{Form, LAYOUTS};
use crate::official::Layout;
use crate::python;
use crate::{ArchiveError, Dataset, DatasetName, Error, Result, Source};

/// The longest archive that is unpacked in memory, in bytes; CIFAR's take 190 million.
const LONGEST: u64 = 1 << 29;

type Unpacked = Archive<io::Take<GzDecoder<BufReader<File>>>>;

/// Loads the data set in an archive: `cifar-10-binary.tar.gz`, `cifar-10-python.tar.gz`,
/// `cifar-100-binary.tar.gz` or `cifar-100-python.tar.gz`, whatever its name.
///
/// # Errors
///
/// [`Error::Archive`] if it is cut off, damaged or holds no whole data set, [`Error::Python`] if a
/// pickle in it is refused, [`Error::Read`] if the file cannot be opened, and those of
/// [`load_cifar10`](crate::load_cifar10).
pub fn load_archive(path: &Path) -> Result<Dataset> {
    let Some((layout, form)) = kind(path)? else {
        return Err(ArchiveError::Incomplete {
            path: path.to_owned(),
            missing: "the files of CIFAR-10 and CIFAR-100, binary or Python version".to_owned(),
        }
        .into());
    };
    let mut found = contents(path, layout, form, LONGEST)?;
    let mut records = Vec::new();
    let mut missing = Vec::new();
    for name in layout.names(form) {
        match found.remove(name) {
            Some((inside, bytes)) if form == Form::Python => {
                records.push((inside.clone(), python::read(layout, &inside, &bytes)?));
            }
            Some(whole) => records.push(whole),
            None => missing.push(name),
        }
    }
    if !missing.is_empty() {
        return Err(ArchiveError::Incomplete {
            path: path.to_owned(),
            missing: missing.join(", "),
        }
        .into());
    }
    let source = Source::Archive(path.to_owned());
    match form {
        Form::Python => python::assemble(layout, records, source),
        _ => layout.assemble(records, source),
    }
}

/// Which data set an archive begins to hold, if any.
pub(crate) fn dataset_in(path: &Path) -> Result<Option<DatasetName>> {
    Ok(kind(path)?.map(|(layout, _)| layout.name))
}

/// The layout and form of the first known file in an archive.
fn kind(path: &Path) -> Result<Option<(&'static Layout, Form)>> {
    let damaged = |source| damaged(path, source);
    let mut archive = open(path, LONGEST)?;
    for entry in archive.entries().map_err(damaged)?.raw(true) {
        let entry = entry.map_err(damaged)?;
        let inside = entry.path().map_err(damaged)?.into_owned();
        // CIFAR-100's Python version has files named `train` and `test`: the folder tells.
        let folder = inside.parent().and_then(Path::file_name);
        let name = inside.file_name().and_then(|name| name.to_str());
        for layout in LAYOUTS {
            for form in [Form::Binary, Form::Python] {
                let official = folder.is_some_and(|folder| folder == layout.folder(form));
                if official
                    && name.is_some_and(|name| layout.names(form).any(|known| known == name))
                {
                    return Ok(Some((layout, form)));
                }
            }
        }
    }
    Ok(None)
}

/// The files of one form by their names, with their places below the archive, which unpacks to at
/// most so many bytes.
fn contents(
    path: &Path,
    layout: &Layout,
    form: Form,
    most: u64,
) -> Result<BTreeMap<&'static str, (PathBuf, Vec<u8>)>> {
    let damaged = |source| damaged(path, source);
    let longest = layout.longest();
    let mut archive = open(path, most)?;
    let mut found = BTreeMap::new();
    for entry in archive.entries().map_err(damaged)?.raw(true) {
        let entry = entry.map_err(damaged)?;
        let inside = entry.path().map_err(damaged)?.into_owned();
        let in_folder =
            inside.parent().and_then(Path::file_name) == Some(layout.folder(form).as_ref());
        let known = layout
            .names(form)
            .find(|name| inside.file_name() == Some(name.as_ref()));
        let is_file = entry.header().entry_type().is_file();
        let (Some(name), true) = (known, in_folder && is_file) else {
            continue;
        };
        let inside = path.join(inside);
        let len = entry.size();
        if len > longest {
            return Err(ArchiveError::TooLong {
                path: inside,
                len,
                longest,
            }
            .into());
        }
        // Nothing is reserved: the length is only a claim.
        let mut bytes = Vec::new();
        entry
            .take(longest)
            .read_to_end(&mut bytes)
            .map_err(damaged)?;
        if bytes.len() as u64 != len {
            return Err(damaged(io::ErrorKind::UnexpectedEof.into()));
        }
        if found.insert(name, (inside.clone(), bytes)).is_some() {
            return Err(ArchiveError::Twice { path: inside }.into());
        }
    }
    // The checksum stands at the end.
    let mut rest = archive.into_inner();
    io::copy(&mut rest, &mut sink()).map_err(damaged)?;
    if rest.limit() == 0 {
        return Err(ArchiveError::Unpacked {
            path: path.to_owned(),
            most,
        }
        .into());
    }
    Ok(found)
}

/// The archive, up to one byte more than it may have.
fn open(path: &Path, most: u64) -> Result<Unpacked> {
    let file = File::open(path).map_err(|source| Error::Read {
        path: path.to_owned(),
        source,
    })?;
    Ok(Archive::new(
        GzDecoder::new(BufReader::new(file)).take(most + 1),
    ))
}

fn damaged(path: &Path, source: io::Error) -> Error {
    ArchiveError::Damaged {
        path: path.to_owned(),
        source,
    }
    .into()
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::GzEncoder;
    use tempfile::TempDir;

    use super::*;
    use crate::{Search, load_cifar10};

    /// An archive of these files.
    fn packed(files: &[(&str, &[u8])]) -> Vec<u8> {
        let mut builder = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
        for (name, bytes) in files {
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o644);
            builder.append_data(&mut header, name, *bytes).unwrap();
        }
        builder.into_inner().unwrap().finish().unwrap()
    }

    /// One image in each file of CIFAR-10's binary version.
    fn binary() -> Vec<(String, Vec<u8>)> {
        let layout = LAYOUTS[0];
        let files = layout.names(Form::Binary).enumerate();
        let file = |(number, name): (usize, &str)| {
            let mut record = vec![number as u8; layout.record_len()];
            record[7] = 200;
            (format!("{}/{name}", layout.folder(Form::Binary)), record)
        };
        files.map(file).collect()
    }

    fn of(files: &[(String, Vec<u8>)]) -> Vec<u8> {
        let files: Vec<(&str, &[u8])> = files
            .iter()
            .map(|(name, bytes)| (name.as_str(), bytes.as_slice()))
            .collect();
        packed(&files)
    }

    fn refused(bytes: &[u8]) -> String {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("c.tar.gz");
        fs_err::write(&path, bytes).unwrap();
        load_archive(&path).unwrap_err().to_string()
    }

    #[test]
    fn an_archive_holds_the_data_of_its_files() {
        let folder = TempDir::new().unwrap();
        for (name, bytes) in binary() {
            fs_err::write(
                folder.path().join(Path::new(&name).file_name().unwrap()),
                bytes,
            )
            .unwrap();
        }
        let expected = load_cifar10(folder.path()).unwrap();
        let mut files = binary();
        files.insert(
            0,
            (
                "cifar-10-batches-bin/readme.html".to_owned(),
                b"hello".to_vec(),
            ),
        );
        files.push(("./other/data_batch_1.bin".to_owned(), vec![0; 7]));
        let archive = TempDir::new().unwrap();
        let path = archive.path().join("cifar-10-binary.tar.gz");
        fs_err::write(&path, of(&files)).unwrap();
        // By its own name, and in a folder that was named.
        for named in [path.as_path(), archive.path()] {
            let found = Search::new(Some(named), None, None)
                .find(None)
                .unwrap()
                .unwrap();
            assert_eq!(
                (found.name, found.form),
                (DatasetName::Cifar10, Form::Archive)
            );
            let data = found.load().unwrap().unwrap();
            assert_eq!(data.digest, expected.digest);
            assert_eq!(data.train.image(1), expected.train.image(1));
        }
        let other = Search::new(Some(&path), None, None).find(Some(DatasetName::Cifar100));
        assert!(matches!(other, Err(Error::NoData { .. })));
    }

    #[test]
    fn a_truncated_archive_is_refused_wherever_it_ends() {
        let whole = of(&binary());
        for len in [0, 5, 40, whole.len() / 2, whole.len() - 9, whole.len() - 1] {
            let message = refused(&whole[..len]);
            assert!(
                message.contains("c.tar.gz is cut off, damaged"),
                "{len}: {message}"
            );
        }
        let mut flipped = whole.clone();
        // The checksum of the contents.
        let at = flipped.len() - 6;
        flipped[at] ^= 1;
        assert!(refused(&flipped).contains("is cut off, damaged"));
    }

    #[test]
    fn names_what_is_missing_twice_or_too_long() {
        let mut files = binary();
        files.remove(3);
        let message = refused(&of(&files));
        assert!(
            message.ends_with("c.tar.gz lacks data_batch_4.bin"),
            "{message}"
        );
        files.push(files[0].clone());
        assert!(refused(&of(&files)).contains("data_batch_1.bin is there twice"));
        assert!(refused(&packed(&[("a/b.txt", b"")])).contains("lacks the files of CIFAR-10"));
        let mut python = b"cos\nsystem\n.".to_vec();
        let name = "cifar-10-batches-py/test_batch";
        let all: Vec<String> = LAYOUTS[0]
            .names(Form::Python)
            .map(|name| format!("cifar-10-batches-py/{name}"))
            .collect();
        let pickles: Vec<(&str, &[u8])> = all.iter().map(|n| (n.as_str(), &python[..])).collect();
        assert!(refused(&packed(&pickles)).contains("as a pickle of CIFAR"));
        python.resize(40 << 20, 0);
        let message = refused(&packed(&[(name, &python)]));
        assert!(
            message.contains("test_batch: expected at most"),
            "{message}"
        );
    }

    #[test]
    fn an_archive_longer_than_is_read_is_refused_whatever_its_checksum() {
        let mut files = binary();
        files.push(("other.txt".to_owned(), vec![0; 100_000]));
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("c.tar.gz");
        fs_err::write(&path, of(&files)).unwrap();
        let read = |most| contents(&path, LAYOUTS[0], Form::Binary, most);
        let mut unpacked = Vec::new();
        let mut whole = GzDecoder::new(File::open(&path).unwrap());
        let len = whole.read_to_end(&mut unpacked).unwrap() as u64;
        assert_eq!(read(len).unwrap().len(), 6);
        let message = read(len - 1).unwrap_err().to_string();
        assert!(message.contains("unpacks to more than"), "{message}");
        for most in [len - 2000, len / 2] {
            assert!(read(most).is_err(), "{most}");
        }
    }

    #[test]
    fn names_in_entries_of_their_own_are_not_kept() {
        let mut builder = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
        for kind in [tar::EntryType::GNULongName, tar::EntryType::XHeader] {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(kind);
            header.set_size(1 << 20);
            // The name of a file that is looked for.
            let name = "cifar-10-batches-bin/data_batch_1.bin";
            builder
                .append_data(&mut header, name, io::repeat(b'a').take(1 << 20))
                .unwrap();
        }
        for (name, bytes) in binary() {
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            builder
                .append_data(&mut header, name, bytes.as_slice())
                .unwrap();
        }
        let bytes = builder.into_inner().unwrap().finish().unwrap();
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("c.tar.gz");
        fs_err::write(&path, bytes).unwrap();
        assert_eq!(load_archive(&path).unwrap().train.len(), 5);
    }

    #[test]
    fn a_length_that_is_only_claimed_reserves_nothing() {
        let mut header = tar::Header::new_gnu();
        header
            .set_path("cifar-10-batches-bin/data_batch_1.bin")
            .unwrap();
        header.set_size(30_000_000);
        header.set_cksum();
        let mut gz = GzEncoder::new(Vec::new(), Compression::fast());
        gz.write_all(header.as_bytes()).unwrap();
        assert!(refused(&gz.finish().unwrap()).contains("is cut off"));
    }
}
