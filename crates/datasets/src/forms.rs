//! The forms in which data lie on a disk: CIFAR's binary and Python versions, unpacked or as
//! downloaded, and folders of classes.

use std::path::{Path, PathBuf};

use crate::DatasetName;
use crate::hub_order::HubOrder;
use crate::official::{CIFAR10, CIFAR100, Layout};

/// The form in which data lie on a disk.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Form {
    /// Nowhere: the built-in classes.
    BuiltIn,
    /// A folder with CIFAR's binary files.
    Binary,
    /// A folder with the pickles of CIFAR's Python version.
    Python,
    /// One of CIFAR's `.tar.gz` archives (feature `archives`).
    Archive,
    /// A folder with a folder of images for each class (feature `images`).
    Classes,
}

pub(crate) const LAYOUTS: [&Layout; 2] = [&CIFAR10, &CIFAR100];

/// What the files of CIFAR look like; none for other data.
pub(crate) fn cifar(name: DatasetName) -> Option<&'static Layout> {
    LAYOUTS.into_iter().find(|layout| layout.name == name)
}

impl Layout {
    /// The names of the files in one form, training files first.
    pub(crate) fn names(&self, form: Form) -> impl Iterator<Item = &'static str> {
        let files = self.train.iter().chain([&self.test]);
        let names: Vec<&'static str> = files.map(|file| file.name).collect();
        names.into_iter().map(move |name| match form {
            Form::Python => name.strip_suffix(".bin").unwrap_or(name),
            _ => name,
        })
    }

    /// The folder that the official archive unpacks to.
    pub(crate) fn folder(&self, form: Form) -> &'static str {
        match (self.name, form) {
            (DatasetName::Cifar100, Form::Python) => "cifar-100-python",
            (DatasetName::Cifar100, _) => "cifar-100-binary",
            (_, Form::Python) => "cifar-10-batches-py",
            _ => "cifar-10-batches-bin",
        }
    }

    /// The names of the archives as downloaded.
    fn archives(&self) -> [&'static str; 2] {
        match self.name {
            DatasetName::Cifar100 => ["cifar-100-binary.tar.gz", "cifar-100-python.tar.gz"],
            _ => ["cifar-10-binary.tar.gz", "cifar-10-python.tar.gz"],
        }
    }
}

/// Where in these folders a data set of CIFAR lies: the first whole set in the order of the forms,
/// else the Hub's images in an order of their own, else the first of which some files are there;
/// loading it then says which one is missing.
pub(crate) fn find(folders: &[PathBuf], name: DatasetName) -> Option<(PathBuf, Form)> {
    let layout = cifar(name)?;
    let whole = |form| {
        let all = |folder: &&PathBuf| layout.names(form).all(|file| folder.join(file).is_file());
        Some((folders.iter().find(all)?.clone(), form))
    };
    let archive = || {
        let paths = folders
            .iter()
            .flat_map(|folder| layout.archives().map(|name| folder.join(name)));
        let mut paths = paths.filter(|path| cfg!(feature = "archives") && path.is_file());
        Some((paths.next()?, Form::Archive))
    };
    // Read as the binary version is, once there is nothing of it.
    let hub_order = || {
        let order = HubOrder::of(name)?;
        let folder = folders.iter().find(|folder| order.is_in(folder))?;
        Some((folder.clone(), Form::Binary))
    };
    let part = |form| {
        let some = |folder: &&PathBuf| {
            // `train` and `test` may be anybody's files.
            let ours = form == Form::Binary || folder.ends_with(layout.folder(form));
            ours && layout.names(form).any(|file| folder.join(file).is_file())
        };
        Some((folders.iter().find(some)?.clone(), form))
    };
    whole(Form::Binary)
        .or_else(|| whole(Form::Python))
        .or_else(archive)
        .or_else(hub_order)
        .or_else(|| part(Form::Binary))
        .or_else(|| part(Form::Python))
}

/// The folders below this one that have the names of the official archives' folders.
pub(crate) fn official_folders(path: &Path) -> impl Iterator<Item = PathBuf> {
    LAYOUTS
        .into_iter()
        .flat_map(|layout| [Form::Binary, Form::Python].map(|form| path.join(layout.folder(form))))
}
