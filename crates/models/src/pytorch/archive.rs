//! Files as `torch.save` writes them since PyTorch 1.6: zip archives with a record for the pickle
//! and one of plain numbers for each storage.

use std::collections::BTreeMap;
use std::io::{Cursor, copy, sink};

use mesa_pickle::shown;
use zip::read::{ArchiveOffset, Config};
use zip::{CompressionMethod, ZipArchive};

use super::{StorageId, Storages};
use crate::PytorchError;

/// How zip archives begin.
pub(super) const ZIP: &[u8] = b"PK\x03\x04";

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
        // Where PyTorch looks for them: beside what comes first.
        let first = zip.file_names().next().and_then(Result::ok);
        let slash = first.as_ref().and_then(|name| name.find('/'));
        let (Some(first), Some(slash)) = (first, slash) else {
            return Err(PytorchError::MissingRecord {
                name: "data.pkl".to_owned(),
            });
        };
        let folder = first[..=slash].to_owned();
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
