//! Where the data is: named, in the environment, in the cache, or built in.

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

use crate::cifar::{file_names, load_cifar10, load_cifar100};
use crate::{Dataset, DatasetName, Error, Form, Result, forms, load_python};

/// What `--data` and `MESA_DATA` say in place of a folder to get the built-in classes.
const BUILT_IN: &str = "synthetic";

/// Who said where to look.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The user, for this command.
    Option,
    /// The environment.
    Environment,
    /// Nobody: it is the cache of this program.
    Cache,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Option => "named by --data",
            Self::Environment => "named by MESA_DATA",
            Self::Cache => "the cache",
        })
    }
}

/// The places where data may be.
///
/// A folder that was named beats one in the environment, which beats the cache: where one is
/// given, those after it are not looked at. Each may be the folder with the `.bin` files, the one
/// with the pickles of the Python version, an archive as downloaded (feature `archives`), or the
/// parent of these, and a parent may hold both data sets. One that was named may be a folder of
/// classes instead (feature `images`).
///
/// # Examples
///
/// ```
/// use std::path::Path;
/// use mesa_datasets::{DatasetName, Search};
///
/// let search = Search::new(Some(Path::new("synthetic")), None, None);
/// let found = search.find(None)?.expect("the built-in classes are always there");
/// assert_eq!(found.name, DatasetName::Synthetic);
/// # Ok::<(), mesa_datasets::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Search {
    place: Option<(Origin, PathBuf)>,
}

/// A data set that [`Search`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Which one.
    pub name: DatasetName,
    /// The folder with its files, or the archive; none for the built-in classes.
    pub folder: Option<PathBuf>,
    /// How it lies there.
    pub form: Form,
    /// Who said where to look.
    pub origin: Origin,
}

impl Search {
    /// Looks in `named` (`--data`), else in `environment` (`MESA_DATA`), else in `cache`.
    ///
    /// An empty environment variable counts as unset.
    pub fn new(
        named: Option<&Path>,
        environment: Option<OsString>,
        cache: Option<PathBuf>,
    ) -> Self {
        let named = named.map(|path| (Origin::Option, path.to_owned()));
        let environment = environment
            .filter(|value| !value.is_empty())
            .map(|value| (Origin::Environment, PathBuf::from(value)));
        let cache = cache.map(|path| (Origin::Cache, path));
        Self {
            place: named.or(environment).or(cache),
        }
    }

    /// Looks in `named`, else in `$MESA_DATA`, else in [`cache_folder`].
    pub fn from_environment(named: Option<&Path>) -> Self {
        Self::new(named, std::env::var_os("MESA_DATA"), cache_folder())
    }

    /// The folder that is looked in and who said so, if there is one.
    pub fn place(&self) -> Option<(Origin, &Path)> {
        self.place
            .as_ref()
            .map(|(origin, path)| (*origin, path.as_path()))
    }

    /// The data set `wanted`; where nothing decides, CIFAR-10, else CIFAR-100.
    ///
    /// None if no folder was named and the cache has none. The built-in classes, where they are
    /// asked for, also stand in for CIFAR-10. A folder of classes that was named stands in for
    /// anything: compare its number of classes yourself.
    ///
    /// # Errors
    ///
    /// [`Error::NoFolder`] if what was named is not there, [`Error::NoData`] if it does not hold what
    /// is wanted,
    /// [`Error::BuiltInMismatch`] if the built-in classes were asked for and CIFAR-100 is wanted,
    /// [`Error::Read`] if a folder cannot be listed.
    pub fn find(&self, wanted: Option<DatasetName>) -> Result<Option<Found>> {
        let names = wanted.map_or(vec![DatasetName::Cifar10, DatasetName::Cifar100], |n| {
            vec![n]
        });
        if names == [DatasetName::Synthetic] {
            let origin = self.place().map_or(Origin::Cache, |(origin, _)| origin);
            return Ok(Some(Found::built_in(origin)));
        }
        let Some((origin, path)) = self.place() else {
            return Ok(None);
        };
        if origin != Origin::Cache && path.as_os_str() == BUILT_IN {
            return match wanted {
                Some(wanted) if wanted.num_classes() != DatasetName::Synthetic.num_classes() => {
                    Err(Error::BuiltInMismatch {
                        origin: origin.to_string(),
                        wanted,
                    })
                }
                _ => Ok(Some(Found::built_in(origin))),
            };
        }
        let mut found = find_below(origin, path, &names)?.into_iter().next();
        if found.is_none() {
            found = find_classes(origin, path)?;
        }
        if found.is_none() && origin != Origin::Cache {
            return Err(no_data(origin, path, &names));
        }
        Ok(found)
    }

    /// Every data set that is there: what `mesa data` shows.
    ///
    /// # Errors
    ///
    /// As [`find`](Self::find).
    pub fn survey(&self) -> Result<Vec<Found>> {
        let names = [DatasetName::Cifar10, DatasetName::Cifar100];
        let Some((origin, path)) = self.place() else {
            return Ok(Vec::new());
        };
        if origin != Origin::Cache && path.as_os_str() == BUILT_IN {
            return Ok(vec![Found::built_in(origin)]);
        }
        let mut found = find_below(origin, path, &names)?;
        if found.is_empty() {
            found.extend(find_classes(origin, path)?);
        }
        if found.is_empty() && origin != Origin::Cache {
            return Err(no_data(origin, path, &names));
        }
        Ok(found)
    }
}

impl Found {
    fn built_in(origin: Origin) -> Self {
        Self {
            name: DatasetName::Synthetic,
            folder: None,
            form: Form::BuiltIn,
            origin,
        }
    }

    /// Loads it and verifies every byte; none for the built-in classes, whose size is the
    /// caller's choice: draw them with [`synthetic`](crate::synthetic).
    ///
    /// # Errors
    ///
    /// As [`load_cifar10`]; [`Error::Python`], [`Error::Archive`] and [`Error::Folder`] for the
    /// other forms.
    pub fn load(&self) -> Result<Option<Dataset>> {
        let Some(path) = &self.folder else {
            return Ok(None);
        };
        match (self.form, self.name) {
            (Form::Binary, DatasetName::Cifar10) => load_cifar10(path).map(Some),
            (Form::Binary, DatasetName::Cifar100) => load_cifar100(path).map(Some),
            (Form::Python, name) => load_python(name, path).map(Some),
            #[cfg(feature = "archives")]
            (Form::Archive, _) => crate::load_archive(path).map(Some),
            #[cfg(feature = "images")]
            (Form::Classes, _) => crate::load_folder(path).map(Some),
            _ => Ok(None),
        }
    }
}

/// `$XDG_CACHE_HOME/mesa`, or `~/.cache/mesa` where that is unset; none without a home.
///
/// As the XDG rules say, a path that is not absolute counts as unset.
pub fn cache_folder() -> Option<PathBuf> {
    cache_below(std::env::var_os("XDG_CACHE_HOME"), std::env::home_dir())
}

fn cache_below(xdg_cache_home: Option<OsString>, home: Option<PathBuf>) -> Option<PathBuf> {
    xdg_cache_home
        .map(PathBuf::from)
        .filter(|path| path.is_absolute())
        .or_else(|| {
            home.filter(|path| path.is_absolute())
                .map(|home| home.join(".cache"))
        })
        .map(|cache| cache.join("mesa"))
}

/// The data sets of these names in a folder or directly below it, in the order of the names.
fn find_below(origin: Origin, path: &Path, names: &[DatasetName]) -> Result<Vec<Found>> {
    #[cfg(feature = "archives")]
    if path.is_file() {
        let name = crate::archive::dataset_in(path)?.filter(|name| names.contains(name));
        let found = |name| Found {
            name,
            folder: Some(path.to_owned()),
            form: Form::Archive,
            origin,
        };
        return Ok(name.map(found).into_iter().collect());
    }
    let folders = candidates(path)?;
    let found = names.iter().filter_map(|name| {
        let (folder, form) = forms::find(&folders, *name)?;
        Some(Found {
            name: *name,
            folder: Some(folder),
            form,
            origin,
        })
    });
    Ok(found.collect())
}

/// A folder of classes, if somebody named one: the cache is no place for it.
#[cfg(feature = "images")]
fn find_classes(origin: Origin, path: &Path) -> Result<Option<Found>> {
    if origin == Origin::Cache || !crate::folder::is_folder_of_classes(path)? {
        return Ok(None);
    }
    Ok(Some(Found {
        name: DatasetName::Folder,
        folder: Some(path.to_owned()),
        form: Form::Classes,
        origin,
    }))
}

/// No folder of classes: this build decodes no images.
#[cfg(not(feature = "images"))]
#[expect(clippy::unnecessary_wraps, reason = "the signature of the other build")]
fn find_classes(_: Origin, _: &Path) -> Result<Option<Found>> {
    Ok(None)
}

/// The folder itself and those directly below it, the ones with official names first.
fn candidates(path: &Path) -> Result<Vec<PathBuf>> {
    let mut below = Vec::new();
    let read = |source| Error::Read {
        path: path.to_owned(),
        source,
    };
    if path.is_dir() {
        for entry in fs_err::read_dir(path).map_err(read)? {
            let entry = entry.map_err(read)?.path();
            if entry.is_dir() {
                below.push(entry);
            }
        }
    }
    below.sort();
    let mut folders = vec![path.to_owned()];
    folders.extend(forms::official_folders(path));
    folders.extend(below);
    Ok(folders)
}

fn no_data(origin: Origin, path: &Path, names: &[DatasetName]) -> Error {
    let files = names.iter().map(|name| match name {
        DatasetName::Folder => "two or more folders of .png or .jpg files".to_owned(),
        name => file_names(*name).join(", "),
    });
    let wanted: Vec<String> = names.iter().map(ToString::to_string).collect();
    if !path.exists() {
        return Error::NoFolder {
            path: path.to_owned(),
            origin: origin.to_string(),
        };
    }
    Error::NoData {
        path: path.to_owned(),
        origin: origin.to_string(),
        wanted: wanted.join(" or "),
        files: format!(
            "{} in it or in a folder directly below{}",
            files.collect::<Vec<_>>().join(" or "),
            classes_words(path)
        ),
    }
}

/// What is said of folders of classes where none was found.
#[cfg(feature = "images")]
fn classes_words(path: &Path) -> String {
    let nested = candidates(path)
        .unwrap_or_default()
        .into_iter()
        .find(|below| {
            crate::folder::is_folder_of_classes(below).is_ok_and(|holds_some| holds_some)
        });
    match nested {
        Some(nested) => format!("; {} holds folders of classes: name that one", nested.display()),
        None => ", or a folder of .png or .jpg files for each class, all of them in `train` and in `test` where \
                 the split is given"
            .to_owned(),
    }
}

#[cfg(not(feature = "images"))]
fn classes_words(_: &Path) -> String {
    String::new()
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    fn touch(folder: &Path, name: DatasetName) {
        fs_err::create_dir_all(folder).unwrap();
        for file in file_names(name) {
            fs_err::write(folder.join(file), b"").unwrap();
        }
    }

    fn named(folder: &Path) -> Search {
        Search::new(Some(folder), None, None)
    }

    fn folder_of(search: &Search, wanted: Option<DatasetName>) -> PathBuf {
        search.find(wanted).unwrap().unwrap().folder.unwrap()
    }

    #[test]
    fn an_option_beats_the_environment_beats_the_cache() {
        let [a, b, c] = ["a", "b", "c"].map(PathBuf::from);
        let environment = Some(OsString::from("b"));
        let all = Search::new(Some(&a), environment.clone(), Some(c.clone()));
        assert_eq!(all.place(), Some((Origin::Option, a.as_path())));
        let two = Search::new(None, environment, Some(c.clone()));
        assert_eq!(two.place(), Some((Origin::Environment, b.as_path())));
        let empty = Search::new(None, Some(OsString::new()), Some(c.clone()));
        assert_eq!(empty.place(), Some((Origin::Cache, c.as_path())));
    }

    #[test]
    fn the_folder_or_its_parent_will_do_whatever_its_name() {
        let root = TempDir::new().unwrap();
        let folder = root.path().join("photos");
        touch(&folder, DatasetName::Cifar10);
        assert_eq!(folder_of(&named(&folder), None), folder);
        assert_eq!(folder_of(&named(root.path()), None), folder);
        assert_eq!(
            folder_of(&named(root.path()), Some(DatasetName::Cifar10)),
            folder
        );
    }

    #[test]
    fn a_parent_may_hold_both() {
        let root = TempDir::new().unwrap();
        let (ten, hundred) = (
            root.path().join("cifar-10-batches-bin"),
            root.path().join("cifar-100-binary"),
        );
        touch(&hundred, DatasetName::Cifar100);
        assert_eq!(folder_of(&named(root.path()), None), hundred);
        touch(&ten, DatasetName::Cifar10);
        assert_eq!(folder_of(&named(root.path()), None), ten);
        assert_eq!(
            folder_of(&named(root.path()), Some(DatasetName::Cifar10)),
            ten
        );
        assert_eq!(
            folder_of(&named(root.path()), Some(DatasetName::Cifar100)),
            hundred
        );
        let survey = named(root.path()).survey().unwrap();
        assert_eq!(
            survey
                .iter()
                .filter_map(|found| found.name.num_classes())
                .sum::<usize>(),
            110
        );
    }

    #[test]
    fn complete_folders_come_before_incomplete_ones() {
        let root = TempDir::new().unwrap();
        let (broken, whole) = (root.path().join("a"), root.path().join("b"));
        touch(&broken, DatasetName::Cifar10);
        fs_err::remove_file(broken.join("data_batch_3.bin")).unwrap();
        assert_eq!(folder_of(&named(root.path()), None), broken);
        touch(&whole, DatasetName::Cifar10);
        assert_eq!(folder_of(&named(root.path()), None), whole);
    }

    /// People name the folder above, or have a training part alone.
    #[cfg(feature = "images")]
    #[test]
    fn folders_of_classes_that_are_one_further_down_are_named() {
        let root = TempDir::new().unwrap();
        let message = || named(root.path()).find(None).unwrap_err().to_string();
        assert!(
            message().contains("or a folder of .png or .jpg files for each class"),
            "{}",
            message()
        );
        for class in ["ant", "bee"] {
            let folder = root.path().join("train").join(class);
            fs_err::create_dir_all(&folder).unwrap();
            fs_err::write(folder.join("a.png"), "").unwrap();
        }
        assert!(
            message().ends_with("train holds folders of classes: name that one"),
            "{}",
            message()
        );
    }

    #[test]
    fn a_named_folder_without_data_is_an_error() {
        let root = TempDir::new().unwrap();
        let missing = root.path().join("missing");
        let environment = Some(missing.clone().into_os_string());
        for search in [named(&missing), Search::new(None, environment, None)] {
            assert!(matches!(search.find(None), Err(Error::NoFolder { .. })));
            assert!(matches!(search.survey(), Err(Error::NoFolder { .. })));
        }
        let empty = root.path().join("empty");
        fs_err::create_dir(&empty).unwrap();
        let environment = Some(empty.clone().into_os_string());
        let searches = [named(&empty), Search::new(None, environment, None)];
        for search in &searches {
            assert!(
                matches!(search.find(None), Err(Error::NoData { .. })),
                "{search:?}"
            );
            assert!(
                matches!(search.survey(), Err(Error::NoData { .. })),
                "{search:?}"
            );
        }
        touch(root.path(), DatasetName::Cifar10);
        let refused = named(root.path())
            .find(Some(DatasetName::Cifar100))
            .unwrap_err();
        let message = refused.to_string();
        assert!(
            message.contains("named by --data") && message.contains("train.bin"),
            "{message}"
        );
    }

    #[test]
    fn an_empty_or_missing_cache_is_none() {
        let root = TempDir::new().unwrap();
        for cache in [
            None,
            Some(root.path().to_owned()),
            Some(root.path().join("missing")),
        ] {
            let search = Search::new(None, None, cache);
            assert_eq!(search.find(None).unwrap(), None);
            assert_eq!(search.survey().unwrap(), []);
        }
        touch(&root.path().join("cifar-100-binary"), DatasetName::Cifar100);
        let search = Search::new(None, None, Some(root.path().to_owned()));
        assert_eq!(search.find(Some(DatasetName::Cifar10)).unwrap(), None);
        assert_eq!(search.find(None).unwrap().unwrap().origin, Origin::Cache);
    }

    #[test]
    fn the_built_in_classes_come_when_asked_for() {
        let built_in = named(Path::new("synthetic"));
        for wanted in [
            None,
            Some(DatasetName::Cifar10),
            Some(DatasetName::Synthetic),
        ] {
            let found = built_in.find(wanted).unwrap().unwrap();
            assert_eq!((found.name, found.folder), (DatasetName::Synthetic, None));
        }
        let refused = built_in.find(Some(DatasetName::Cifar100));
        assert!(matches!(refused, Err(Error::BuiltInMismatch { .. })));
    }

    #[test]
    fn the_cache_follows_xdg() {
        let home = Some(PathBuf::from("/home/someone"));
        let below = |xdg: Option<&str>| cache_below(xdg.map(OsString::from), home.clone());
        assert_eq!(
            below(Some("/var/cache")),
            Some(PathBuf::from("/var/cache/mesa"))
        );
        for unset in [None, Some(""), Some("relative")] {
            assert_eq!(
                below(unset),
                Some(PathBuf::from("/home/someone/.cache/mesa"))
            );
        }
        assert_eq!(cache_below(None, None), None);
    }
}
