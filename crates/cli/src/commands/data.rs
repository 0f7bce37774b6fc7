//! `mesa data`: what is found where, checked.

use anyhow::{Result, bail};
use mesa_datasets::{Dataset, Search, cache_folder, synthetic};
use serde::Serialize;

use crate::args::DataCommand;
use crate::config::ExperimentConfig;
use crate::{logging, output};

/// One data set that was found and checked.
#[derive(Serialize)]
struct Checked {
    name: String,
    source: String,
    origin: String,
    train_images: usize,
    test_images: usize,
    classes: usize,
    sha256: String,
}

pub(crate) fn run(args: &DataCommand, json: bool) -> Result<()> {
    logging::start(None)?;
    let search = Search::from_environment(args.data.data.as_deref());
    let mut checked = Vec::new();
    for found in search.survey()? {
        let config = ExperimentConfig::preset("quick")?.data;
        let data = found.load()?.unwrap_or_else(|| {
            synthetic(
                config.synthetic_seed,
                config.synthetic_train,
                config.synthetic_test,
            )
        });
        checked.push(describe(&data, &found.origin.to_string()));
    }
    if checked.is_empty() {
        let cache =
            cache_folder().map_or_else(|| "no cache".to_owned(), |c| c.display().to_string());
        bail!(
            "no data found ({cache}); name a folder with --data DIR or MESA_DATA, or use the \
             built-in classes with --data synthetic"
        );
    }
    let lines: Vec<String> = checked
        .iter()
        .map(|data| {
            format!(
                "{}: {} training and {} test images of {} classes, complete and undamaged\n  \
                 {} ({})\n  SHA-256 {}",
                data.name,
                data.train_images,
                data.test_images,
                data.classes,
                data.source,
                data.origin,
                data.sha256
            )
        })
        .collect();
    output::result(json, &checked, &lines.join("\n"))
}

fn describe(data: &Dataset, origin: &str) -> Checked {
    Checked {
        name: data.name.to_string(),
        source: data.source.to_string(),
        origin: origin.to_owned(),
        train_images: data.train.len(),
        test_images: data.test.len(),
        classes: data.num_classes(),
        sha256: data.digest.clone(),
    }
}
