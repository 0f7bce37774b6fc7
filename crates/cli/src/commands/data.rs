//! `mesa data`: what is found where, checked; what the Hub has, fetched.

use anyhow::{Context, Result, bail};
use mesa_datasets::{Dataset, DatasetName, Search, cache_folder, synthetic};
use serde::Serialize;

use crate::args::{DataAction, DataCommand, DataFetch, OnHub};
use crate::config::ExperimentConfig;
use crate::{hub, logging, output};

/// One data set that was found and checked.
#[derive(Serialize)]
struct Checked {
    name: String,
    source: String,
    origin: String,
    train_images: usize,
    test_images: usize,
    classes: usize,
    class_names: Vec<String>,
    sha256: String,
    /// Whether these are the official files; where not, figures differ from those of others.
    is_official: bool,
}

/// What a fetch led to.
#[derive(Serialize)]
struct Delivered {
    #[serde(flatten)]
    checked: Checked,
    /// The repository and its commit; none where the cache had the data already.
    repo: Option<String>,
    commit: Option<String>,
}

pub(crate) fn run(args: &DataCommand, json: bool) -> Result<()> {
    logging::start(None)?;
    match &args.action {
        Some(DataAction::Fetch(args)) => fetch(args, json),
        None => survey(args, json),
    }
}

/// Fetches a data set into the cache, unless it is there.
fn fetch(args: &DataFetch, json: bool) -> Result<()> {
    let name = match args.name {
        OnHub::Cifar10 => DatasetName::Cifar10,
        OnHub::Cifar100 => DatasetName::Cifar100,
    };
    let cache = cache_folder().context("there is no home folder to keep data in; set HOME")?;
    let search = Search::new(None, None, Some(cache.clone()));
    // What is damaged is fetched anew.
    let there = search
        .find(Some(name))
        .and_then(|found| found.map_or(Ok(None), |found| found.load()));
    let there = there.unwrap_or_else(|error| {
        tracing::warn!("the cache is damaged, fetching it anew: {error}");
        None
    });
    let (data, fetched) = if let Some(data) = there {
        tracing::info!("the cache has {name} already");
        (data, None)
    } else {
        let fetched = hub::fetch(name, &cache)?;
        (fetched.load()?, Some(fetched))
    };
    if let Some(elsewhere) = std::env::var_os("MESA_DATA").filter(|value| !value.is_empty()) {
        tracing::warn!(
            "MESA_DATA is set: commands look in {}, not in the cache, unless it is unset",
            elsewhere.display()
        );
    }
    let delivered = Delivered {
        checked: describe(&data, &mesa_datasets::Origin::Cache.to_string()),
        repo: fetched.as_ref().map(|fetched| fetched.repo.to_owned()),
        commit: fetched.map(|fetched| fetched.commit),
    };
    output::result(json, &delivered, &line(&delivered.checked))
}

fn survey(args: &DataCommand, json: bool) -> Result<()> {
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
            "no data found ({cache}); fetch it with `mesa data fetch cifar10`, name a folder with \
             --data DIR or MESA_DATA, or use the built-in classes with --data synthetic"
        );
    }
    let lines: Vec<String> = checked.iter().map(line).collect();
    output::result(json, &checked, &lines.join("\n"))
}

/// A data set for people.
fn line(data: &Checked) -> String {
    format!(
        "{}: {} training and {} test images of {} classes, complete and undamaged\n  \
         {} ({}){}\n  SHA-256 {}",
        data.name,
        data.train_images,
        data.test_images,
        data.classes,
        data.source,
        data.origin,
        classes(data),
        data.sha256
    )
}

/// A folder's classes with their numbers, for `--target`; those of other data are known.
fn classes(data: &Checked) -> String {
    if data.name != DatasetName::Folder.to_string() {
        return String::new();
    }
    let names = data.class_names.iter().enumerate();
    let names: Vec<String> = names
        .map(|(number, name)| format!("{number} {}", name.escape_debug()))
        .collect();
    format!("\n  classes {}", names.join(", "))
}

fn describe(data: &Dataset, origin: &str) -> Checked {
    Checked {
        name: data.name.to_string(),
        source: data.source.to_string(),
        origin: origin.to_owned(),
        train_images: data.train.len(),
        test_images: data.test.len(),
        classes: data.num_classes(),
        class_names: data.class_names.clone(),
        sha256: data.digest.clone(),
        is_official: data.is_official,
    }
}
