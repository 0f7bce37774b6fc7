//! Files that are replaced whole or not at all.

use std::io::Write;
use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::{Error, Result};

/// Writes `value` as indented JSON to `path`, by rename: a reader, or a run
/// after a crash, sees the old file or the new one.
///
/// # Errors
///
/// [`Error::Write`] or [`Error::Io`] if the folder or the file cannot be written.
pub fn write_json<T: Serialize>(path: &Path, value: &T) -> Result<()> {
    let mut text = serde_json::to_string_pretty(value).map_err(|source| Error::Json {
        path: path.to_owned(),
        source,
    })?;
    text.push('\n');
    write_text(path, &text)
}

/// Writes `text` to `path`, by rename, like [`write_json`].
///
/// # Errors
///
/// [`Error::Write`] or [`Error::Io`] if the folder or the file cannot be written.
pub fn write_text(path: &Path, text: &str) -> Result<()> {
    write_bytes(path, text.as_bytes())
}

/// Writes `bytes` to `path`, by rename, like [`write_json`].
///
/// # Errors
///
/// [`Error::Write`] or [`Error::Io`] if the folder or the file cannot be written.
pub fn write_bytes(path: &Path, bytes: &[u8]) -> Result<()> {
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    fs_err::create_dir_all(folder)?;
    let replace = || -> std::io::Result<()> {
        let mut builder = tempfile::Builder::new();
        // Temporary files are private; results are for whom the umask says.
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
        let mut file = builder.prefix(".writing-").tempfile_in(folder)?;
        file.write_all(bytes)?;
        file.as_file().sync_all()?;
        file.persist(path)?;
        Ok(())
    };
    replace().map_err(|source| Error::Write {
        path: path.to_owned(),
        source,
    })
}

/// Reads a file that [`write_json`] wrote.
///
/// # Errors
///
/// [`Error::Io`] if it cannot be read, [`Error::Json`] if it holds something else.
pub fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let text = fs_err::read_to_string(path)?;
    serde_json::from_str(&text).map_err(|source| Error::Json {
        path: path.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replaces_a_file_and_leaves_nothing_else_behind() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep/numbers.json");
        write_json(&path, &vec![1, 2]).unwrap();
        write_json(&path, &vec![3]).unwrap();
        assert_eq!(read_json::<Vec<u32>>(&path).unwrap(), [3]);
        assert_eq!(fs_err::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn names_a_damaged_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cut.json");
        write_text(&path, "[1, 2").unwrap();
        let error = read_json::<Vec<u32>>(&path).unwrap_err();
        assert!(matches!(&error, Error::Json { path: named, .. } if *named == path));
    }
}
