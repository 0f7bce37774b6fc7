//! A file of the Hub in Hugging Face's own cache, downloaded once.
//!
//! A file under its final name is complete: bytes arrive in `NAME.incomplete`, which later calls go
//! on with, and which is renamed when its length and, where the Hub names it, its digest are right.

use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use fs_err::{File, OpenOptions};
use hf_hub::{Cache, Repo};
use ureq::http::StatusCode;

use super::client::{Client, Remote, SILENCE, is_silence, refused};
use super::{FetchProgress, HubError, OnFetchProgress};
use crate::hub_order::digest_of;

/// Bytes between two reports.
const CHUNK: usize = 64 * 1024;

/// A file in the cache.
#[derive(Debug)]
pub(super) struct Downloaded {
    pub(super) path: PathBuf,
    /// The commit it belongs to.
    pub(super) commit: String,
}

/// The file if it was downloaded before, by whichever of Hugging Face's libraries.
pub(super) fn cached(cache: &Cache, repo: &Repo, file: &str) -> Option<Downloaded> {
    let path = cache.repo(repo.clone()).get(file)?;
    // `…/snapshots/COMMIT/FILE`
    let commit = path.ancestors().nth(Path::new(file).components().count())?;
    let commit = commit.file_name()?.to_string_lossy().into_owned();
    Some(Downloaded { path, commit })
}

/// Downloads a file into the cache.
pub(super) fn download(
    client: &Client,
    cache: &Cache,
    repo: &Repo,
    url: &str,
    file: &str,
    on_progress: OnFetchProgress,
) -> Result<Downloaded, HubError> {
    let remote = client.ask(url)?;
    let blobs = cache.path().join(repo.folder_name()).join("blobs");
    create_folder(&blobs)?;
    let blob = blobs.join(&remote.etag);
    if !is_whole(&remote, &blob) {
        let incomplete = blobs.join(format!("{}.incomplete", remote.etag));
        receive(client, &remote, &incomplete, file, on_progress)?;
        fs_err::rename(&incomplete, &blob).map_err(|source| HubError::Write {
            path: blob.clone(),
            source,
        })?;
    }
    let cache = cache.repo(repo.clone());
    let path = cache.pointer_path(&remote.commit).join(file);
    point(&path, &blob, file)?;
    cache
        .create_ref(&remote.commit)
        .map_err(|source| HubError::Write {
            path: path.clone(),
            source,
        })?;
    Ok(Downloaded {
        path,
        commit: remote.commit,
    })
}

/// Whether a file that was downloaded before, perhaps by another program, is what the Hub announces.
fn is_whole(remote: &Remote, blob: &Path) -> bool {
    let Ok(mut file) = File::open(blob) else {
        return false;
    };
    let checked = check(remote, &mut file);
    if let Err(error) = &checked {
        tracing::warn!("{} is downloaded again: {error}", blob.display());
    }
    checked.is_ok()
}

/// Downloads what is missing of a file, and checks the whole.
fn receive(
    client: &Client,
    remote: &Remote,
    incomplete: &Path,
    file: &str,
    on_progress: OnFetchProgress,
) -> Result<(), HubError> {
    let write = |source| HubError::Write {
        path: incomplete.to_owned(),
        source,
    };
    let mut output = OpenOptions::new()
        .create(true)
        .append(true)
        .read(true)
        .open(incomplete)
        .map_err(write)?;
    // Two that append to one file would make neither's. The lock goes with the handle.
    if output.file().try_lock().is_err() {
        return Err(HubError::Busy {
            path: incomplete.to_owned(),
        });
    }
    let mut done = output.metadata().map_err(write)?.len();
    if done > remote.size {
        output.set_len(0).map_err(write)?;
        done = 0;
    }
    if done < remote.size {
        transfer(client, remote, &mut output, done, file, on_progress)?;
    }
    output.sync_all().map_err(write)?;
    let checked = check(remote, &mut output);
    if checked.is_err() {
        // Nothing in it can be gone on with.
        output.set_len(0).map_err(write)?;
    }
    checked
}

fn transfer(
    client: &Client,
    remote: &Remote,
    output: &mut File,
    mut done: u64,
    file: &str,
    on_progress: OnFetchProgress,
) -> Result<(), HubError> {
    let total = remote.size;
    let write = |path: &Path, source| HubError::Write {
        path: path.to_owned(),
        source,
    };
    let response = client.open(&remote.url, done)?;
    match response.status() {
        StatusCode::PARTIAL_CONTENT => {
            let range = response.headers().get("content-range");
            let range = range.and_then(|range| range.to_str().ok());
            let (start, end) = (format!("bytes {done}-"), format!("/{total}"));
            if !range.is_some_and(|range| range.starts_with(&start) && range.ends_with(&end)) {
                return Err(HubError::NotTheHub {
                    url: remote.url.clone(),
                    expected: "the bytes that were asked for in Content-Range",
                });
            }
        }
        // All of it, whether or not a part was asked for.
        StatusCode::OK => {
            output.set_len(0).map_err(|e| write(output.path(), e))?;
            done = 0;
        }
        status => return Err(refused(&remote.url, status)),
    }
    let mut body = response.into_body().into_reader();
    let mut chunk = vec![0; CHUNK];
    loop {
        let progress = FetchProgress::Downloading { file, done, total };
        if on_progress(progress) == ControlFlow::Break(()) {
            return Err(HubError::Stopped);
        }
        let url = remote.url.clone();
        let read = match body.read(&mut chunk) {
            Ok(0) if done == total => return Ok(()),
            Ok(0) => {
                return Err(HubError::CutOff {
                    url,
                    done,
                    total,
                    source: None,
                });
            }
            Ok(read) => read,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) if is_silence(&error) => {
                return Err(HubError::Stalled {
                    url,
                    seconds: SILENCE.as_secs(),
                    done,
                    total,
                });
            }
            Err(source) => {
                return Err(HubError::CutOff {
                    url,
                    done,
                    total,
                    source: Some(source),
                });
            }
        };
        let bytes = &chunk[..read];
        output
            .write_all(bytes)
            .map_err(|e| write(output.path(), e))?;
        done += read as u64;
        if done > total {
            return Err(damaged(remote, format!("{total} bytes"), "more".to_owned()));
        }
    }
}

/// Checks the length, and the digest where the Hub names one: files that are not in its large-file
/// store have a shorter name.
fn check(remote: &Remote, output: &mut File) -> Result<(), HubError> {
    let failed = |path: &Path, source| HubError::Write {
        path: path.to_owned(),
        source,
    };
    let len = output
        .metadata()
        .map_err(|e| failed(output.path(), e))?
        .len();
    if len != remote.size {
        let (expected, found) = (format!("{} bytes", remote.size), format!("{len} bytes"));
        return Err(damaged(remote, expected, found));
    }
    if remote.etag.len() != 64 || !remote.etag.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Ok(());
    }
    output
        .seek(SeekFrom::Start(0))
        .map_err(|e| failed(output.path(), e))?;
    let found = digest_of(output).map_err(|e| failed(output.path(), e))?;
    if found == remote.etag.to_lowercase() {
        return Ok(());
    }
    let expected = format!("SHA-256 {}", remote.etag);
    Err(damaged(remote, expected, found))
}

fn damaged(remote: &Remote, expected: String, found: String) -> HubError {
    HubError::Damaged {
        url: remote.url.clone(),
        expected,
        found,
    }
}

/// Lets the file's name in a commit lead to its contents, as Hugging Face's libraries do.
fn point(path: &Path, blob: &Path, file: &str) -> Result<(), HubError> {
    let write = |source| HubError::Write {
        path: path.to_owned(),
        source,
    };
    if let Some(parent) = path.parent() {
        create_folder(parent)?;
    }
    if fs_err::symlink_metadata(path).is_ok() {
        fs_err::remove_file(path).map_err(write)?;
    }
    #[cfg(unix)]
    {
        // From `snapshots/COMMIT/FILE` up to the repository: such links survive a move of the cache.
        let up = "../".repeat(Path::new(file).components().count() + 1);
        let name = blob.file_name().expect("a blob has a name");
        let target = Path::new(&up).join("blobs").join(name);
        fs_err::os::unix::fs::symlink(target, path).map_err(write)
    }
    #[cfg(not(unix))]
    {
        let _ = file;
        fs_err::hard_link(blob, path).map_err(write)
    }
}

fn create_folder(path: &Path) -> Result<(), HubError> {
    fs_err::create_dir_all(path).map_err(|source| HubError::Write {
        path: path.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use sha2::{Digest, Sha256};

    use super::*;
    use crate::dataset::hex;

    #[test]
    fn a_blob_of_the_right_length_and_other_bytes_is_not_whole() {
        let folder = tempfile::tempdir().unwrap();
        let blob = folder.path().join("blob");
        let remote = |etag: &str| Remote {
            url: "https://hub/f".to_owned(),
            commit: "0b27".to_owned(),
            etag: etag.to_owned(),
            size: 4,
        };
        let named = remote(&hex(&Sha256::digest(b"good")));
        assert!(!is_whole(&named, &blob));
        for (bytes, expected) in [(b"good", true), (b"evil", false)] {
            fs_err::write(&blob, bytes).unwrap();
            assert_eq!(is_whole(&named, &blob), expected);
            // Names that are no digests say nothing of the bytes.
            assert!(is_whole(&remote("5d41402a"), &blob));
            assert!(is_whole(&remote(&"z".repeat(64)), &blob));
        }
        fs_err::write(&blob, b"longer").unwrap();
        assert!(!is_whole(&remote("5d41402a"), &blob));
    }
}
