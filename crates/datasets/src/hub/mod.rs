//! CIFAR-10 and CIFAR-100 from the Hugging Face Hub, cached once as binary files.
//!
//! The Hub has them as Parquet files of PNGs. They are downloaded into Hugging Face's own cache,
//! decoded, and written as records of the official binary files, whose digests say whether every byte
//! is right. The names and the cache are hf-hub's; docs/architecture.md says why its client is not used.

mod client;
mod download;
mod error;
mod rows;
mod settings;
mod store;

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use hf_hub::{Repo, RepoType};

use crate::official::{CIFAR10, CIFAR100, Layout};
use crate::{Dataset, DatasetName, Result, load_cifar10, load_cifar100};

pub use self::error::HubError;

use self::client::Client;
use self::download::{Downloaded, cached, download};
use self::settings::Settings;

/// How far a fetch has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FetchProgress<'a> {
    /// Bytes of a file that have arrived, now or before.
    Downloading {
        /// The file in the repository.
        file: &'a str,
        /// Bytes that are there.
        done: u64,
        /// Bytes of the whole file.
        total: u64,
    },
    /// Images that have been decoded.
    Decoding {
        /// The file's name.
        file: &'a str,
        /// Images that are decoded.
        done: u64,
        /// Images in the file.
        total: u64,
    },
}

/// Told of every step; [`ControlFlow::Break`] ends the fetch with [`HubError::Stopped`].
pub type OnFetchProgress<'a> = &'a mut dyn FnMut(FetchProgress<'_>) -> ControlFlow<()>;

/// What a fetch left in the cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fetched {
    /// Which data set.
    pub name: DatasetName,
    /// The folder with the binary files.
    pub folder: PathBuf,
    /// Whether they are the official files, byte for byte; else they have names of their own.
    pub is_official: bool,
    /// The repository they came from.
    pub repo: &'static str,
    /// Its commit, that of both files.
    pub commit: String,
}

impl Fetched {
    /// Loads it and verifies every byte.
    ///
    /// # Errors
    ///
    /// As [`load_cifar10`].
    pub fn load(&self) -> Result<Dataset> {
        match self.name {
            DatasetName::Cifar100 => load_cifar100(&self.folder),
            _ => load_cifar10(&self.folder),
        }
    }
}

/// The Hugging Face Hub, or what `HF_ENDPOINT` names in its place.
///
/// # Examples
///
/// ```no_run
/// use std::ops::ControlFlow;
/// use mesa_datasets::{DatasetName, Hub, cache_folder};
///
/// let cache = cache_folder().expect("a home folder");
/// let hub = Hub::from_environment()?;
/// let fetched = hub.fetch(DatasetName::Cifar10, &cache, &mut |_| ControlFlow::Continue(()))?;
/// let data = fetched.load()?;
/// # Ok::<(), mesa_datasets::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Hub {
    settings: Settings,
}

impl Hub {
    /// Reads `HF_ENDPOINT`, `HF_HOME`, `HF_HUB_CACHE`, `HF_TOKEN`, `HF_HUB_OFFLINE`, `SSL_CERT_FILE`
    /// and, where that is unset, `REQUESTS_CA_BUNDLE`, which mean what they mean to Hugging Face's
    /// own library.
    ///
    /// # Errors
    ///
    /// [`HubError::BadEndpoint`], and [`HubError::NoHome`] if nothing says where downloads may lie.
    pub fn from_environment() -> Result<Self> {
        let settings = Settings::new(|name| std::env::var(name).ok(), std::env::home_dir())?;
        Ok(Self { settings })
    }

    /// The Hub's address: `HF_ENDPOINT`, or <https://huggingface.co>.
    pub fn endpoint(&self) -> &str {
        &self.settings.endpoint
    }

    /// Whether the network is not to be used: `HF_HUB_OFFLINE`.
    pub fn is_offline(&self) -> bool {
        self.settings.is_offline
    }

    /// Downloads a data set unless Hugging Face's cache has it, and writes it below `cache`, this
    /// program's own, as the official binary files.
    ///
    /// The Hub's rows may be the official files' in another order of blocks. Where they are anything
    /// else they are written under other names, which [`load_cifar10`](crate::load_cifar10) reads as
    /// well and labels ([`Source::HubOrder`](crate::Source::HubOrder)).
    ///
    /// # Errors
    ///
    /// [`HubError`], in [`Error::Hub`](crate::Error::Hub). What was downloaded until then is kept, and
    /// the next call goes on from there; nothing unfinished has a finished file's name.
    pub fn fetch(
        &self,
        name: DatasetName,
        cache: &Path,
        on_progress: OnFetchProgress,
    ) -> Result<Fetched> {
        let set = OnHub::of(name).ok_or(HubError::NotOnHub { name })?;
        let train = self.file(&set, set.train, MAIN, on_progress)?;
        // Not `main` again, which may have moved on since.
        let test = self.file(&set, set.test, &train.commit, on_progress)?;
        let decode = |file: &Downloaded, on_progress: OnFetchProgress| {
            rows::records(&file.path, set.layout, set.labels, on_progress)
        };
        let train_records = decode(&train, on_progress)?;
        let test_records = decode(&test, on_progress)?;
        let (folder, is_official) = store::store(set.layout, &train_records, &test_records, cache)?;
        Ok(Fetched {
            name,
            folder,
            is_official,
            repo: set.repo,
            commit: train.commit,
        })
    }

    fn file(
        &self,
        set: &OnHub,
        file: &str,
        revision: &str,
        on_progress: OnFetchProgress,
    ) -> Result<Downloaded, HubError> {
        let Settings {
            cache,
            endpoint,
            is_offline,
            ..
        } = &self.settings;
        let repo = Repo::new(set.repo.to_owned(), RepoType::Dataset);
        let is_of = |found: &Downloaded| revision == MAIN || found.commit == revision;
        if let Some(found) = cached(cache, &repo, file).filter(is_of) {
            tracing::debug!(path = %found.path.display(), "downloaded before");
            return Ok(found);
        }
        if *is_offline {
            return Err(HubError::Offline {
                repo: set.repo.to_owned(),
                file: file.to_owned(),
                cache: cache.path().clone(),
            });
        }
        let url = format!("{endpoint}/datasets/{}/resolve/{revision}/{file}", set.repo);
        let client = Client::new(&self.settings)?;
        let found = download(&client, cache, &repo, &url, file, on_progress)?;
        if !is_of(&found) {
            return Err(HubError::NotTheHub {
                url,
                expected: "the commit that was asked for in X-Repo-Commit",
            });
        }
        Ok(found)
    }
}

/// The branch whose newest commit is taken.
const MAIN: &str = "main";

/// Where the Hub has a data set, and how its columns are called.
struct OnHub {
    layout: &'static Layout,
    repo: &'static str,
    train: &'static str,
    test: &'static str,
    /// In the order of a record's label bytes.
    labels: &'static [&'static str],
}

impl OnHub {
    fn of(name: DatasetName) -> Option<Self> {
        match name {
            DatasetName::Cifar10 => Some(Self {
                layout: &CIFAR10,
                repo: "uoft-cs/cifar10",
                train: "plain_text/train-00000-of-00001.parquet",
                test: "plain_text/test-00000-of-00001.parquet",
                labels: &["label"],
            }),
            DatasetName::Cifar100 => Some(Self {
                layout: &CIFAR100,
                repo: "uoft-cs/cifar100",
                train: "cifar100/train-00000-of-00001.parquet",
                test: "cifar100/test-00000-of-00001.parquet",
                labels: &["coarse_label", "fine_label"],
            }),
            DatasetName::Synthetic | DatasetName::Folder => None,
        }
    }
}
