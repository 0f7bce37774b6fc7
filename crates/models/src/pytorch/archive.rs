//! Files as `torch.save` writes them since PyTorch 1.6: zip archives with a record for the pickle
//! and one of plain numbers for each storage.

use std::collections::{BTreeMap, HashSet};
use std::io::{Cursor, copy, sink};

use mesa_pickle::shown;
use zip::read::{ArchiveOffset, Config};
use zip::{CompressionMethod, ZipArchive};

use super::storage::{StorageId, Storages};
use crate::PytorchError;

/// How zip archives begin.
pub(super) const ZIP: &[u8] = b"PK\x03\x04";

/// The record of the pickle that says where the tensors lie.
pub(super) const PICKLE: &str = "data.pkl";

/// Entries of another archive that are named.
const NAMED: usize = 3;

/// The records of an archive.
pub(super) struct Archive<'a> {
    bytes: &'a [u8],
    zip: ZipArchive<Cursor<&'a [u8]>>,
    /// The folder that holds every record, with its slash.
    folder: String,
    /// Records that were checked.
    known: BTreeMap<String, &'a [u8]>,
}

impl<'a> Archive<'a> {
    /// Finds the records, of which none is checked yet.
    pub(super) fn open(bytes: &'a [u8]) -> Result<Self, PytorchError> {
        let config = Config {
            archive_offset: ArchiveOffset::Known(0),
        };
        let mut zip = ZipArchive::with_config(config, Cursor::new(bytes))?;
        if zip.has_duplicate_names() || zip.has_overlapping_entries()? {
            return Err(PytorchError::Overlap);
        }
        check_end(bytes, &zip)?;
        let mut names = HashSet::new();
        let directory = bytes.get(zip.central_directory_start() as usize..);
        let mut directory = directory.unwrap_or_default();
        for name in zip.file_names() {
            let raw = raw_name(&mut directory);
            let raw = raw.filter(|raw| name.is_ok_and(|name| name.as_bytes() == *raw));
            let Some(raw) = raw else {
                return Err(PytorchError::Ambiguous {
                    what: "has a record by two names",
                });
            };
            // PyTorch does not tell them apart.
            if !names.insert(raw.to_ascii_lowercase()) {
                return Err(PytorchError::Ambiguous {
                    what: "has names that differ in case alone",
                });
            }
        }
        // Where PyTorch looks for them: beside what comes first.
        let first = zip.file_names().next().transpose()?.unwrap_or_default();
        let Some(slash) = first.find('/') else {
            return Err(other_archive(&zip));
        };
        let folder = first[..=slash].to_owned();
        if zip.index_for_name(&format!("{folder}{PICKLE}")).is_none() {
            return Err(other_archive(&zip));
        }
        Ok(Self {
            bytes,
            zip,
            folder,
            known: BTreeMap::new(),
        })
    }

    /// [`Self::find`] of a record that every archive has.
    pub(super) fn record(&mut self, name: &str) -> Result<&'a [u8], PytorchError> {
        let found = self.find(name)?;
        found.ok_or_else(|| PytorchError::MissingRecord { name: shown(name) })
    }

    /// A record's bytes where they lie in the file, if there is such a record.
    pub(super) fn find(&mut self, name: &str) -> Result<Option<&'a [u8]>, PytorchError> {
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

/// What is said of an archive without [`PICKLE`].
fn other_archive(zip: &ZipArchive<Cursor<&[u8]>>) -> PytorchError {
    let names = zip.file_names().take(NAMED);
    let names = names.map(|name| shown(&name.unwrap_or_default()));
    let mut names: Vec<String> = names.collect();
    if zip.len() > NAMED {
        names.push(format!("and {} more", zip.len() - NAMED));
    }
    PytorchError::OtherArchive {
        holds: names.join(", "),
    }
}

/// Checks that an archive has one end, without a comment, whichever way a program looks for it.
fn check_end(bytes: &[u8], zip: &ZipArchive<Cursor<&[u8]>>) -> Result<(), PytorchError> {
    let number = |at: usize, len: usize| -> Option<u64> {
        let mut number = [0; 8];
        number[..len].copy_from_slice(bytes.get(at..at.checked_add(len)?)?);
        Some(u64::from_le_bytes(number))
    };
    let starts = |at: usize, mark: &[u8]| bytes.get(at..).is_some_and(|b| b.starts_with(mark));
    // How many entries the directory has, and where it begins.
    let found = [zip.len() as u64, zip.central_directory_start()].map(Some);
    let end = bytes.len().saturating_sub(22);
    let short = [number(end + 10, 2), number(end + 16, 4)];
    // A longer form says it too, where a locator stands before the end, and may then say it alone.
    let locator = end.saturating_sub(20);
    let agrees = if starts(locator, b"PK\x06\x07") {
        let long = number(locator + 8, 8).map_or(usize::MAX, |at| at as usize);
        let is_short = |(at, most)| short[at] == found[at] || short[at] == Some(most);
        starts(long, b"PK\x06\x06")
            && [number(long + 32, 8), number(long + 48, 8)] == found
            && [(0, 0xffff), (1, 0xffff_ffff)].into_iter().all(is_short)
    } else {
        short == found
    };
    if starts(end, b"PK\x05\x06") && number(end + 20, 2) == Some(0) && agrees {
        return Ok(());
    }
    Err(PytorchError::Ambiguous {
        what: "has a comment or several ends",
    })
}

/// The name of a directory's first entry as it stands there, which an extra field may replace; goes on to
/// the next.
fn raw_name<'a>(directory: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (header, rest) = directory.split_at_checked(46)?;
    let len = |at: usize| usize::from(u16::from_le_bytes([header[at], header[at + 1]]));
    let (name, rest) = rest.split_at_checked(len(28))?;
    *directory = rest.get(len(30) + len(32)..)?;
    Some(name)
}

impl<'a> Storages<'a> for Archive<'a> {
    fn storage(&mut self, id: &StorageId<'_>) -> Result<&'a [u8], PytorchError> {
        let name = format!("data/{}", id.key);
        let bytes = self.record(&name)?;
        if bytes.len() != id.len {
            return Err(PytorchError::Damaged { name: shown(&name) });
        }
        Ok(bytes)
    }
}
