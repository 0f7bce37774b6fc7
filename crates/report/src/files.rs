//! Files that are found, and files that are made.

use std::path::{Component, Path, PathBuf};

use mesa_record::write_text;

use crate::Result;

/// A file that is made from records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GeneratedFile {
    /// Where it belongs.
    pub path: PathBuf,
    /// What it shall hold; `None` if there shall be no such file.
    pub text: Option<String>,
}

impl GeneratedFile {
    /// One that holds a text.
    pub fn holding(path: impl Into<PathBuf>, text: String) -> Self {
        Self {
            path: path.into(),
            text: Some(text),
        }
    }

    /// What it shall hold, for tests.
    #[cfg(test)]
    pub(crate) fn text(&self) -> &str {
        self.text.as_deref().unwrap_or_default()
    }

    /// Whether the file on disk holds just that, or is not there if it shall not be.
    ///
    /// # Errors
    ///
    /// [`crate::Error::Io`] if it exists and cannot be read.
    pub fn is_current(&self) -> Result<bool> {
        Ok(match (&self.text, self.path.exists()) {
            (Some(text), true) => fs_err::read_to_string(&self.path)? == *text,
            (text, exists) => text.is_some() == exists,
        })
    }

    /// Writes it, or removes what shall not be, where it is not current; returns whether it had to.
    ///
    /// # Errors
    ///
    /// [`crate::Error::Record`] if it cannot be written, [`crate::Error::Io`] if it cannot be removed.
    pub fn write(&self) -> Result<bool> {
        let stale = !self.is_current()?;
        if stale {
            match &self.text {
                Some(text) => write_text(&self.path, text)?,
                None => fs_err::remove_file(&self.path)?,
            }
        }
        Ok(stale)
    }
}

/// Every file of that name below a folder, sorted.
pub(crate) fn below(folder: &Path, name: &str) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    find(
        folder,
        &|path| path.file_name().is_some_and(|found| found == name),
        &mut found,
    )?;
    found.sort();
    Ok(found)
}

/// Every file with that ending below a folder, sorted.
pub(crate) fn below_ending(folder: &Path, ending: &str) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    find(
        folder,
        &|path| path.extension().is_some_and(|found| found == ending),
        &mut found,
    )?;
    found.sort();
    Ok(found)
}

fn find(folder: &Path, wanted: &dyn Fn(&Path) -> bool, found: &mut Vec<PathBuf>) -> Result<()> {
    if !folder.is_dir() {
        return Ok(());
    }
    for entry in fs_err::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            find(&path, wanted, found)?;
        } else if wanted(&path) {
            found.push(path);
        }
    }
    Ok(())
}

/// The name of the folder that a file lies in.
pub(crate) fn folder_name(path: &Path) -> String {
    path.parent()
        .and_then(Path::file_name)
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default()
}

/// The way from a folder to a file, with slashes: what a page in that folder links to.
pub(crate) fn way(from: &Path, to: &Path) -> String {
    let from = if from.as_os_str().is_empty() {
        Path::new(".")
    } else {
        from
    };
    let from = std::path::absolute(from).unwrap_or_else(|_| from.to_owned());
    let to = std::path::absolute(to).unwrap_or_else(|_| to.to_owned());
    let names = |path: &Path| -> Vec<String> {
        let mut names = Vec::new();
        for component in path.components() {
            match component {
                Component::Normal(name) => names.push(name.to_string_lossy().into_owned()),
                Component::ParentDir => drop(names.pop()),
                _ => {}
            }
        }
        names
    };
    let (from, to) = (names(&from), names(&to));
    let shared = from.iter().zip(&to).take_while(|(a, b)| a == b).count();
    let up = from.len() - shared;
    let mut parts = vec!["..".to_owned(); up];
    parts.extend_from_slice(&to[shared..]);
    parts.join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ways_lead_from_folder_to_file() {
        let way = |from: &str, to: &str| way(Path::new(from), Path::new(to));
        assert_eq!(
            way("docs", "docs/records/a/summary.json"),
            "records/a/summary.json"
        );
        assert_eq!(way("./docs", "docs/x.json"), "x.json");
        assert_eq!(way("/tmp/pages", "/tmp/runs/a/x.json"), "../runs/a/x.json");
        assert_eq!(way("/tmp/runs/..", "/tmp/runs/a/x.json"), "runs/a/x.json");
    }

    #[test]
    fn files_are_found_at_any_depth() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["b/x.json", "a/deep/x.json", "y.json", "b/z.svg"] {
            mesa_record::write_text(&folder.path().join(name), "").unwrap();
        }
        let found = below(folder.path(), "x.json").unwrap();
        assert_eq!(found.len(), 2);
        assert!(found[0].ends_with("a/deep/x.json"));
        assert_eq!(folder_name(&found[1]), "b");
        assert_eq!(below_ending(folder.path(), "svg").unwrap().len(), 1);
        assert!(
            below(&folder.path().join("none"), "x.json")
                .unwrap()
                .is_empty()
        );
    }
}
