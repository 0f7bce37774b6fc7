//! A data set: training and test images, and where they came from.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{Error, Images, Result};

/// The data sets this crate knows.
///
/// # Examples
///
/// ```
/// use mesa_datasets::DatasetName;
///
/// let name: DatasetName = "cifar100".parse()?;
/// assert_eq!(name.num_classes(), Some(100));
/// assert_eq!(name.to_string(), "cifar100");
/// # Ok::<(), mesa_datasets::Error>(())
/// ```
#[derive(Copy, Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DatasetName {
    /// Ten classes, 50,000 + 10,000 photographs.
    Cifar10,
    /// A hundred classes, 50,000 + 10,000 photographs.
    Cifar100,
    /// Ten built-in, procedurally drawn classes.
    Synthetic,
    /// A folder with one folder of images for each class, however many.
    Folder,
}

impl DatasetName {
    /// How many classes it has; none where only the folder says it.
    pub fn num_classes(self) -> Option<usize> {
        match self {
            Self::Cifar10 | Self::Synthetic => Some(10),
            Self::Cifar100 => Some(100),
            Self::Folder => None,
        }
    }
}

impl fmt::Display for DatasetName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Cifar10 => "cifar10",
            Self::Cifar100 => "cifar100",
            Self::Synthetic => "synthetic",
            Self::Folder => "folder",
        })
    }
}

impl FromStr for DatasetName {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        [Self::Cifar10, Self::Cifar100, Self::Synthetic, Self::Folder]
            .into_iter()
            .find(|candidate| candidate.to_string() == name)
            .ok_or_else(|| Error::UnknownDataset {
                name: name.to_owned(),
            })
    }
}

/// Where images came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// The folder with the files of CIFAR, binary or Python version.
    Folder(PathBuf),
    /// The folder with the images of the Hugging Face Hub in an order that is not that of the
    /// official files: the same training gives other figures.
    HubOrder(PathBuf),
    /// One of CIFAR's archives.
    Archive(PathBuf),
    /// Drawn by this program.
    BuiltIn,
    /// A folder of classes.
    Classes {
        /// The folder.
        folder: PathBuf,
        /// How its images come to be for training or for testing.
        division: Division,
    },
}

/// How the images of a folder of classes come to be for training or for testing.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Division {
    /// It has a folder for either.
    Given,
    /// It has a folder of test images and none to train with.
    TestOnly,
    /// A sixth of each class is drawn for testing.
    Drawn {
        /// Seed of the draw.
        seed: u64,
    },
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Folder(path) | Self::Archive(path) => path.display().fmt(f),
            Self::HubOrder(path) => write!(
                f,
                "{} (NOT the official files: the Hub's images in an order of their own)",
                path.display()
            ),
            Self::BuiltIn => f.pad("built-in"),
            Self::Classes { folder, division } => {
                write!(f, "{} ", folder.display())?;
                match division {
                    Division::Given => f.write_str("(its own train and test)"),
                    Division::TestOnly => f.write_str("(test images only)"),
                    Division::Drawn { seed } => {
                        write!(
                            f,
                            "(a sixth of each class for testing, drawn by seed {seed})"
                        )
                    }
                }
            }
        }
    }
}

/// Training and test images with what identifies them.
#[derive(Clone, Debug)]
pub struct Dataset {
    /// Which data set it is.
    pub name: DatasetName,
    /// Training images; none where a folder has test images only.
    pub train: Images,
    /// Test images.
    pub test: Images,
    /// A name for every class.
    pub class_names: Vec<String>,
    /// SHA-256 in hex: of the files' digests in their order, or of the built-in images.
    pub digest: String,
    /// Where the images came from.
    pub source: Source,
    /// Whether every file of it has the official digest; false for all but CIFAR.
    pub is_official: bool,
}

impl Dataset {
    /// How many classes there are.
    pub fn num_classes(&self) -> usize {
        self.class_names.len()
    }
}

/// Bytes as lower-case hex.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;

    bytes
        .iter()
        .fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
            write!(text, "{byte:02x}").expect("a string takes everything");
            text
        })
}
