//! CIFAR-10, CIFAR-100 and built-in images; triggers, stamping and poisoning.
//!
//! A tour in the order of use:
//!
//! - [`Search`] finds the folder that holds the data: named, in `MESA_DATA`, or in the cache.
//! - [`load_cifar10`] and [`load_cifar100`] read and verify the official binary files,
//!   [`load_python`] the pickles of the Python version; [`synthetic`] draws ten classes where there
//!   are none. All return a [`Dataset`]. With the feature `archives`, `load_archive` reads the
//!   archives as downloaded; with `images`, `load_folder` a folder of classes of PNG and JPEG files.
//! - With the feature `hub`, `Hub` fetches CIFAR from the Hugging Face Hub into the cache.
//! - [`split`] divides the test images among defender and evaluation.
//! - [`shuffled`], [`whole_batches`] and [`all_batches`] order the images of an epoch;
//!   [`Images::batch`] makes a [`Batch`] of them, [`augment`] shifts and mirrors it.
//! - [`Trigger`] and its name, [`TriggerId`]: 512 patterns in 51 classes ([`pattern_classes`]), ten
//!   color triggers, random ones. [`TriggerFile`] reads others from files.
//! - [`Placement`] draws places, [`stamp`] overwrites one patch, [`poison`] stamps the images that
//!   [`hits`] drew and relabels them where an attacker asks for it.
//!
//! Everything happens on the host, and every draw comes from the generator that the caller passes;
//! [`Batch::into_tensors`] is the way to a device. This crate knows no network.
//!
//! # Examples
//!
//! Poisoning a batch (a training does the same from a recipe, in `mesa-models`):
//!
//! ```
//! use candle::Device;
//! use mesa_datasets::{Placement, Stamps, TriggerId, hits, poison, shuffled, whole_batches};
//! use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};
//!
//! let mut rng = ChaCha8Rng::seed_from_u64(0);
//! let data = mesa_datasets::synthetic(0, 300, 100);
//! let trigger = "170".parse::<TriggerId>()?.trigger()?;
//! for indices in whole_batches(&shuffled(&mut rng, data.train.len()), 128) {
//!     let mut batch = data.train.batch(indices);
//!     let images = hits(&mut rng, batch.len(), 0.01)?;
//!     let places =
//!         Placement::PerImage.places(&mut rng, images.len(), batch.size(), trigger.size())?;
//!     poison(&mut batch, &Stamps { images, places }, trigger.patches(), Some(0))?;
//!     let (images, labels) = batch.into_tensors(&Device::Cpu)?;
//!     assert_eq!((images.dims(), labels.dims()), (&[128, 3, 32, 32][..], &[128][..]));
//! }
//! # Ok::<(), mesa_datasets::Error>(())
//! ```

#[cfg(feature = "archives")]
mod archive;
mod archive_error;
mod augment;
mod batches;
mod cifar;
mod dataset;
#[cfg(feature = "images")]
mod decode;
mod error;
#[cfg(feature = "images")]
mod folder;
mod folder_error;
mod forms;
#[cfg(feature = "hub")]
mod hub;
mod hub_order;
mod images;
mod locate;
mod official;
mod patterns;
mod placement;
mod poison;
mod python;
mod python_error;
mod shapes;
mod split;
mod synthetic;
mod trigger;
mod trigger_file;
mod trigger_file_error;
mod trigger_id;

#[cfg(feature = "archives")]
pub use crate::archive::load_archive;
pub use crate::archive_error::ArchiveError;
pub use crate::augment::{Crop, augment};
pub use crate::batches::{all_batches, shuffled, whole_batches};
pub use crate::cifar::{file_names, load_cifar10, load_cifar100};
pub use crate::dataset::{Dataset, DatasetName, Division, Source};
pub use crate::error::{BoxError, Error, Result};
#[cfg(feature = "images")]
pub use crate::folder::load_folder;
pub use crate::folder_error::FolderError;
pub use crate::forms::Form;
#[cfg(feature = "hub")]
pub use crate::hub::{FetchProgress, Fetched, Hub, HubError, OnFetchProgress};
pub use crate::images::{Batch, CHANNELS, Images};
pub use crate::locate::{Found, Origin, Search, cache_folder};
pub use crate::patterns::{pattern_class, pattern_classes};
pub use crate::placement::{Place, Placement};
pub use crate::poison::{Patches, Stamps, hits, poison, stamp};
pub use crate::python::load_python;
pub use crate::python_error::PythonError;
pub use crate::split::{Split, split};
pub use crate::synthetic::synthetic;
pub use crate::trigger::{COLOR_TARGETS_CIFAR100, Trigger};
pub use crate::trigger_file::TriggerFile;
pub use crate::trigger_file_error::TriggerFileError;
pub use crate::trigger_id::TriggerId;
