//! What a folder of classes holds, by the names of its files.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use crate::{Error, Result};

/// The folders of training and of test images; the former may be missing where there are no other
/// classes either.
pub(super) fn given_split(folder: &Path) -> Result<Option<(Option<PathBuf>, PathBuf)>> {
    let train = folder.join("train");
    let train = holds_classes(&train)?.then_some(train);
    for name in ["test", "val", "valid", "validation"] {
        let test = folder.join(name);
        if holds_classes(&test)? && (train.is_some() || !holds_classes(folder)?) {
            return Ok(Some((train, test)));
        }
    }
    Ok(None)
}

pub(super) fn holds_classes(folder: &Path) -> Result<bool> {
    if !folder.is_dir() {
        return Ok(false);
    }
    for entry in entries(folder)? {
        if !is_hidden(&entry) && entry.is_dir() && entries(&entry)?.iter().any(|f| is_image(f)) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// One class and its images, by name.
pub(super) struct Class {
    pub(super) name: String,
    pub(super) folder: PathBuf,
    pub(super) files: Vec<PathBuf>,
}

/// What a folder of classes holds.
#[derive(Default)]
pub(super) struct Listing {
    /// By name; each has an image.
    pub(super) classes: Vec<Class>,
    /// Files that are no images, or hidden.
    pub(super) skipped: usize,
    /// Folders within classes, whose images are not taken.
    pub(super) nested: Vec<PathBuf>,
    /// Pictures of kinds that are not read.
    pub(super) unread: usize,
    /// Names of folders without images.
    pub(super) without: Vec<String>,
}

impl Listing {
    pub(super) fn of(folder: &Path) -> Result<Self> {
        let mut listing = Self::default();
        for path in entries(folder)? {
            if is_hidden(&path) || !path.is_dir() {
                listing.skipped += 1;
                continue;
            }
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let name = name.into_owned();
            let mut files = Vec::new();
            for inside in entries(&path)? {
                if is_image(&inside) {
                    files.push(inside);
                } else if inside.is_dir() && !is_hidden(&inside) {
                    listing.nested.push(inside);
                } else if has_ending(&inside, &UNREAD) {
                    listing.unread += 1;
                } else {
                    listing.skipped += 1;
                }
            }
            if files.is_empty() {
                listing.without.push(name);
                continue;
            }
            listing.classes.push(Class {
                name,
                folder: path,
                files,
            });
        }
        Ok(listing)
    }
}

/// What is in a folder, by name.
fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let read = |source| Error::Read {
        path: folder.to_owned(),
        source,
    };
    let mut paths = Vec::new();
    for entry in fs_err::read_dir(folder).map_err(read)? {
        paths.push(entry.map_err(read)?.path());
    }
    paths.sort();
    Ok(paths)
}

fn is_hidden(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default();
    name.as_encoded_bytes().starts_with(b".")
}

/// Endings of the pictures that are read.
const READ: [&str; 3] = ["png", "jpg", "jpeg"];

/// Endings of pictures that people keep in such folders as well.
const UNREAD: [&str; 8] = ["webp", "bmp", "gif", "tif", "tiff", "ppm", "pgm", "avif"];

fn is_image(path: &Path) -> bool {
    !is_hidden(path) && has_ending(path, &READ) && path.is_file()
}

fn has_ending(path: &Path, endings: &[&str]) -> bool {
    let known = |extension: &OsStr| {
        endings
            .iter()
            .any(|known| extension.eq_ignore_ascii_case(known))
    };
    path.extension().is_some_and(known)
}
