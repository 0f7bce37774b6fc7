//! Data from the Hugging Face Hub, with progress.

use std::ops::ControlFlow;
use std::path::Path;

use anyhow::Result;
use mesa_datasets::{DatasetName, Error, FetchProgress, Fetched, Hub, HubError};

use crate::interrupt;
use crate::progress::{Progress, bytes};

/// Fetches a data set into `cache`.
///
/// Ends with [`interrupt::Interrupted`] where Ctrl-C stops it.
pub(crate) fn fetch(name: DatasetName, cache: &Path) -> Result<Fetched> {
    let hub = Hub::from_environment()?;
    if !hub.is_offline() {
        tracing::info!("fetching {name} from {}", hub.endpoint());
    }
    let mut shown: Option<(String, Progress)> = None;
    let fetched = hub.fetch(name, cache, &mut |progress| {
        let (label, done, total) = labeled(progress);
        if shown.as_ref().is_none_or(|(before, _)| *before != label) {
            // The bar before goes first, else there are two for a moment.
            shown = None;
            let progress = Progress::new(&label, done as usize, total as usize);
            shown = Some((label, progress));
        }
        if let Some((_, bar)) = &mut shown {
            bar.update(done as usize, || match progress {
                FetchProgress::Downloading { .. } => {
                    format!("{} of {}", bytes(done as f64), bytes(total as f64))
                }
                FetchProgress::Decoding { .. } => format!("{done} of {total} images"),
            });
        }
        if interrupt::requested() {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    });
    drop(shown);
    match fetched {
        Err(Error::Hub(HubError::Stopped)) => Err(interrupt::Interrupted {
            go_on: interrupt::how_to_go_on(),
        }
        .into()),
        fetched => Ok(fetched?),
    }
}

/// What a bar is called, and how far it is.
fn labeled(progress: FetchProgress) -> (String, u64, u64) {
    // `plain_text/train-00000-of-00001.parquet` is `train`.
    let part = |file: &str| {
        let name = file.rsplit('/').next().unwrap_or(file);
        name.split(['-', '.']).next().unwrap_or(name).to_owned()
    };
    match progress {
        FetchProgress::Downloading { file, done, total } => {
            (format!("downloading {}", part(file)), done, total)
        }
        FetchProgress::Decoding { file, done, total } => {
            (format!("decoding {}", part(file)), done, total)
        }
    }
}
