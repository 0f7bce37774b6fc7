//! What commands read: settings, images, networks.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail, ensure};
use mesa::{MesaConfig, SubModel};
use mesa_datasets::{
    Dataset, DatasetName, Division, HubError, Images, Placement, Search, Source, Split,
    cache_folder, split, synthetic,
};
use mesa_defense::{AttackSuccessConfig, DefenseImages};
use mesa_models::{
    CheckpointInfo, Family, LoadedNetwork, Network, Normalization, NormalizationSource,
    load_network_with, load_tensors,
};
use mesa_record::file_digest;

use crate::args::{DataArgs, PresetArgs};
use crate::config::{DataConfig, ExperimentConfig};
use crate::interrupt::Interrupted;
use crate::output::{Usage, percent};
use crate::{hub, stages};

/// What the settings that were asked for are called, or the preset `default`.
pub(crate) fn settings_name(args: &PresetArgs, default: &str) -> String {
    let Some(path) = &args.config else {
        return args.preset.as_deref().unwrap_or(default).to_owned();
    };
    let stem = path.file_stem().map(|stem| stem.to_string_lossy());
    stem.map_or_else(|| "config".to_owned(), Cow::into_owned)
}

/// The settings that were asked for and their name, or those of the preset `default`.
pub(crate) fn settings(args: &PresetArgs, default: &str) -> Result<(String, ExperimentConfig)> {
    let name = settings_name(args, default);
    if let Some(path) = &args.config {
        let config = ExperimentConfig::load(path)?;
        if ExperimentConfig::preset(&name).is_ok_and(|preset| preset != config) {
            let reason = format!(
                "--config {}: runs and records are named by the file, and {name} is a preset with other settings; \
                 rename the file",
                path.display()
            );
            return Err(Usage(reason).into());
        }
        return Ok((name, config));
    }
    if Path::new(&name)
        .extension()
        .is_some_and(|extension| extension == "toml")
    {
        bail!("`--preset {name}`: a file of settings goes with --config");
    }
    let config = ExperimentConfig::preset(&name)?;
    Ok((name, config))
}

/// What to do first where no data is found and the built-in classes may stand in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum IfMissing {
    /// Ask the Hugging Face Hub.
    Fetch,
    /// Nothing: a plan downloads nothing.
    Leave,
}

/// Loads the data set that was named, is in the environment, or is cached; a folder of classes that
/// was named stands in for whatever is wanted.
pub(crate) fn data(
    args: &DataArgs,
    wanted: DatasetName,
    config: &DataConfig,
    if_missing: IfMissing,
) -> Result<Dataset> {
    let search = Search::from_environment(args.data.as_deref());
    let built_in = || {
        synthetic(
            config.synthetic_seed,
            config.synthetic_train,
            config.synthetic_test,
        )
    };
    if let Some(found) = search.find(Some(wanted))? {
        return Ok(found.load()?.unwrap_or_else(built_in));
    }
    let cache = cache_folder().map_or_else(String::new, |path| format!(" in {}", path.display()));
    if config.synthetic_if_missing {
        // Nobody named a folder, else the search would have found it or failed.
        let reason = match if_missing {
            IfMissing::Fetch => match fetch(wanted) {
                Ok(data) => return Ok(data),
                Err(error) if !is_of_the_hub(&error) => return Err(error),
                Err(error) => format!(" and none on the Hugging Face Hub ({error:#})"),
            },
            IfMissing::Leave => " (a run asks the Hugging Face Hub first)".to_owned(),
        };
        tracing::warn!(
            "NO CIFAR DATA FOUND{cache}{reason}: using ten BUILT-IN, drawn classes instead; figures \
             are marked `synthetic` and say nothing about photographs. Real data: `mesa data fetch \
             cifar10`, --data DIR or MESA_DATA"
        );
        return Ok(built_in());
    }
    let cifar = matches!(wanted, DatasetName::Cifar10 | DatasetName::Cifar100);
    let how = if cifar {
        format!(
            "fetch it with `mesa data fetch {wanted}`, or name the folder with the binary files \
             (https://www.cs.toronto.edu/~kriz/cifar.html, \"binary version\"), or one with a folder of \
             images for each class"
        )
    } else {
        "name a folder with a folder of images for each class".to_owned()
    };
    // The built-in classes are ten.
    let built_in = if wanted == DatasetName::Cifar10 {
        "; --data synthetic takes the built-in classes"
    } else {
        ""
    };
    bail!("no data found{cache}; {how}, with --data DIR or MESA_DATA{built_in}")
}

/// Whether the Hub failed, and not this machine: a full disk, or another process that fetches the
/// same, is nothing that other data may stand in for; nor is Ctrl-C.
fn is_of_the_hub(error: &anyhow::Error) -> bool {
    if error.is::<Interrupted>() {
        return false;
    }
    !matches!(
        error.downcast_ref(),
        Some(mesa_datasets::Error::Hub(
            HubError::Busy { .. } | HubError::Write { .. }
        ))
    )
}

/// Fetches a data set into the cache and loads it.
fn fetch(name: DatasetName) -> Result<Dataset> {
    let cache = cache_folder().context("there is no home folder to keep data in")?;
    Ok(hub::fetch(name, &cache)?.load()?)
}

/// The first `count` images to train with.
pub(crate) fn training_images(data: &Dataset, count: usize) -> Result<Images> {
    ensure!(
        !data.train.is_empty(),
        "there is nothing to train with in {}; a folder `train` beside `test` would hold it",
        data.source
    );
    Ok(first(&data.train, count))
}

/// The split of the test images into modeling and evaluation.
pub(crate) fn test_split(data: &Dataset, config: &DataConfig) -> Result<Split> {
    let len = data.test.len();
    ensure!(
        config.split_at < len,
        "`data.split_at`: {} of {len} test images leave none for evaluation",
        config.split_at
    );
    Ok(split(len, config.split_at, config.split_seed)?)
}

/// What the defender holds.
pub(crate) fn defense_images(data: &Dataset, config: &DataConfig) -> Result<DefenseImages> {
    let split = test_split(data, config)?;
    Ok(DefenseImages::new(&data.test, &split).take(config.modeling_images))
}

/// The images that results are measured on.
pub(crate) fn evaluation_images(data: &Dataset, config: &DataConfig) -> Result<Images> {
    Ok(data.test.select(test_split(data, config)?.second()))
}

/// The first `count` images, or all where there are fewer.
pub(crate) fn first(images: &Images, count: usize) -> Images {
    if count >= images.len() {
        return images.clone();
    }
    images.select(&(0..count).collect::<Vec<_>>())
}

/// A network from a file, with the file's digest.
pub(crate) struct Loaded {
    path: PathBuf,
    pub(crate) network: Network,
    pub(crate) info: CheckpointInfo,
    normalization_from: NormalizationSource,
    /// The file's digest, followed by the normalization where the file does not say it: what is
    /// computed depends on both.
    pub(crate) sha256: String,
}

/// Names of a file, of classes or keys, that are shown before the rest is left out.
const NAMED: usize = 12;

/// Loads a network; `normalize` is for files that do not say how images are normalized.
pub(crate) fn network(path: &Path, normalize: Option<Normalization>) -> Result<Loaded> {
    let loaded = load_network_with(path, normalize).map_err(|error| match error {
        mesa_models::Error::NoNormalization { .. } => anyhow!("{error} with --normalize"),
        mesa_models::Error::Layout { .. } if SubModel::load(path).is_ok() => anyhow!(
            "{} is a sub-model of triggers, as `mesa fit` writes them; name a network",
            path.display()
        ),
        error => error.into(),
    });
    let LoadedNetwork {
        network,
        info,
        normalization_from,
        own_normalization,
        is_module,
        key,
        classes,
        beside,
    } = loaded?;
    let normalization = info.normalization;
    let file = path.display();
    if is_module {
        tracing::info!(
            "{file} is a whole module, taken for the {} that its layers are named like; what else its class does \
             is not known here",
            info.config.architecture
        );
    }
    if let Some(key) = key {
        tracing::info!("{file}: what lies under `{key}` is taken for the network");
    }
    let is_padded = info.config.architecture.family() == Family::PaddedResNet;
    if is_padded && normalization_from != NormalizationSource::File {
        tracing::info!(
            "{file} has no weights in its shortcuts: they are taken for every second pixel between channels of zeros, as in \
             pytorch_resnet_cifar10"
        );
    }
    if !beside.is_empty() {
        tracing::warn!(
            "{file} also holds tensors under {}, which are not read; what is said here is of the network beside them",
            first_names(beside.iter().map(|key| format!("`{key}`")))
        );
    }
    if !classes.is_empty() {
        tracing::warn!(
            "to read {file}, torch.load would run code of {} classes and functions of other programs ({}); \
             nothing of it was run here",
            classes.len(),
            first_names(classes.iter().cloned())
        );
    }
    match (normalization_from, own_normalization) {
        (NormalizationSource::Classes, _) => tracing::info!(
            "{file} does not say how images are normalized; taken for CIFAR-{classes}'s, {normalization}, because \
             it has {classes} classes; --normalize says otherwise",
            classes = info.config.num_classes
        ),
        (NormalizationSource::Layer, _) => tracing::info!(
            "{file} has a layer that normalizes images by {normalization}; --normalize says otherwise"
        ),
        (NormalizationSource::Caller, Some(own)) if own != normalization => tracing::warn!(
            "{file} has a layer that normalizes images by {own}, which --normalize replaces"
        ),
        _ => {}
    }
    let mut sha256 = file_digest(path)?;
    if normalization_from != NormalizationSource::File {
        sha256 = format!("{sha256} normalized {normalization}");
    }
    Ok(Loaded {
        path: path.to_owned(),
        network,
        info,
        normalization_from,
        sha256,
    })
}

/// The first few of some names.
fn first_names(names: impl Iterator<Item = String>) -> String {
    let mut names = names;
    let mut named: Vec<String> = names.by_ref().take(NAMED).collect();
    named.extend(names.next().map(|_| "…".to_owned()));
    named.join(", ")
}

/// Images that show whether a network is near chance.
pub(crate) const CHECKED_IMAGES: usize = 500;

/// How networks in files of others are normalized for the most part; the last but one is `BackdoorBench`'s.
const COMMON_NORMALIZATIONS: [&str; 6] = [
    "cifar10",
    "cifar100",
    "imagenet",
    "none",
    "0.4914,0.4822,0.4465/0.247,0.243,0.261",
    "0.5,0.5,0.5/0.5,0.5,0.5",
];

/// More accuracy than choices between like normalizations are worth.
const MUCH_BETTER: f64 = 0.05;

/// Share of what can be gained over chance below which a network is near it.
const NEAR_CHANCE: f64 = 0.1;

/// The share below which somebody who knows better may want to be told.
const LOW: f64 = 0.5;

/// The share of what can be gained over chance that a network of so many classes has gained.
fn above_chance(clean_accuracy: f64, classes: usize) -> f64 {
    let chance = 1.0 / classes as f64;
    (clean_accuracy - chance) / (1.0 - chance)
}

/// Whether a network of so many classes is hardly better than guessing.
fn is_near_chance(clean_accuracy: f64, classes: usize) -> bool {
    above_chance(clean_accuracy, classes) < NEAR_CHANCE
}

/// Warns of a training that left a network hardly better than guessing.
pub(crate) fn warn_of_ruin(clean_accuracy: f64, classes: usize) {
    if is_near_chance(clean_accuracy, classes) {
        tracing::warn!(
            "a clean accuracy of {} is near chance: the training has ruined the network, unless it was so before; try \
             a lower --learning-rate",
            percent(clean_accuracy)
        );
    }
}

impl Loaded {
    /// What to say of a network that is hardly better than guessing, if it is one.
    pub(crate) fn near_chance(&self, clean_accuracy: f64) -> Option<String> {
        let classes = self.info.config.num_classes;
        let chance = 1.0 / classes as f64;
        if !is_near_chance(clean_accuracy, classes) {
            return None;
        }
        let cause = match self.normalization_from {
            NormalizationSource::File => "as its file says how images are normalized, it was \
                trained on other data, or hardly trained"
                .to_owned(),
            NormalizationSource::Caller
            | NormalizationSource::Layer
            | NormalizationSource::Classes => format!(
                "the usual causes are a wrong normalization ({} was taken, and --normalize says otherwise), classes \
                 in another order than the data's, and a network that computes otherwise than its layers' names say \
                 (with max-pooling, say, other strides or shortcuts)",
                self.info.normalization
            ),
        };
        Some(format!(
            "a clean accuracy of {} is near chance, {}: {cause}",
            percent(clean_accuracy),
            percent(chance)
        ))
    }

    /// Warns of a network that is hardly better than guessing.
    pub(crate) fn warn_near_chance(&self, clean_accuracy: f64) {
        if let Some(words) = self.near_chance(clean_accuracy) {
            tracing::warn!("{words}");
        }
    }

    /// The data set of as many classes.
    pub(crate) fn data(&self, args: &DataArgs, config: &DataConfig) -> Result<Dataset> {
        let classes = self.info.config.num_classes;
        let wanted = match classes {
            10 => DatasetName::Cifar10,
            100 => DatasetName::Cifar100,
            _ => DatasetName::Folder,
        };
        let no_stand_in = DataConfig {
            // The built-in classes are ten.
            synthetic_if_missing: config.synthetic_if_missing && classes == 10,
            ..config.clone()
        };
        let data = data(args, wanted, &no_stand_in, IfMissing::Leave).with_context(|| {
            format!(
                "looking for data of {classes} classes, as many as the network has; --data names a folder with one folder \
                 of images for each"
            )
        })?;
        ensure!(
            data.num_classes() == classes,
            "the network has {classes} classes, {} has {}",
            data.source,
            data.num_classes()
        );
        let is_drawn = matches!(
            data.source,
            Source::Classes {
                division: Division::Drawn { .. },
                ..
            }
        );
        let trained_on = self.info.made_by.get("data_sha256");
        if is_drawn && trained_on.is_some_and(|digest| *digest != data.digest) {
            tracing::warn!(
                "{} was trained on other images than {} holds now: which of them are for testing is drawn anew where \
                 files come or go, so that the network may have seen some of those it is tested on",
                self.path.display(),
                data.source
            );
        }
        Ok(data)
    }

    /// [`Self::data`] for a defender, who may hold more clean images than the share that is for testing.
    pub(crate) fn clean_data(&self, args: &DataArgs, config: &DataConfig) -> Result<Dataset> {
        let data = self.data(args, config)?;
        if let Source::Classes {
            folder,
            division: Division::Drawn { .. },
        } = &data.source
        {
            tracing::info!(
                "{folder}: {test} of {all} images are used to model and to evaluate with, the sixth of each class that `mesa pretrain` and \
                 `mesa attack` leave out; if no network was trained with the others, move the classes into \
                 {folder}/test, and all are used",
                folder = folder.display(),
                test = data.test.len(),
                all = data.test.len() + data.train.len()
            );
        }
        Ok(data)
    }

    /// Warns where nothing but a guess says how images are normalized, and the guess seems wrong, by what
    /// the network makes of the first of `images`.
    pub(crate) fn check_normalization(&self, images: &Images) -> Result<()> {
        if self.normalization_from != NormalizationSource::File {
            let images = first(images, CHECKED_IMAGES);
            let found = stages::evaluate(&self.network.freeze()?, &images, None, 0)?;
            self.warn_near_chance(found.clean_accuracy);
            self.warn_of_normalization(&images, found.clean_accuracy)?;
        }
        Ok(())
    }

    /// Warns where the file does not say how images are normalized, and the network is much better with
    /// another common normalization than with the one that was taken: `ours` is its accuracy with that, on
    /// `images` or more of their kind.
    pub(crate) fn warn_of_normalization(&self, images: &Images, ours: f64) -> Result<()> {
        if self.normalization_from == NormalizationSource::File {
            return Ok(());
        }
        let mut best = (ours, "");
        for how in COMMON_NORMALIZATIONS {
            let other: Normalization = how.parse()?;
            if other == self.info.normalization {
                continue;
            }
            let other = load_network_with(&self.path, Some(other))?.network;
            let with_it = stages::evaluate(&other.freeze()?, images, None, 0)?.clean_accuracy;
            if with_it > best.0 {
                best = (with_it, how);
            }
        }
        let (with_it, how) = best;
        // Between two that are near chance there is nothing to choose.
        if is_near_chance(with_it, self.info.config.num_classes) {
            return Ok(());
        }
        // Of few images a handful may be luck.
        let error = (ours * (1.0 - ours) / images.len() as f64).sqrt();
        if with_it - ours >= MUCH_BETTER.max(3.0 * error) {
            tracing::warn!(
                "the normalization {} is probably not this network's: its accuracy on {} clean images is {}, with \
                 --normalize {how} it is {}",
                self.info.normalization,
                images.len(),
                percent(ours),
                percent(with_it)
            );
        } else if above_chance(ours, self.info.config.num_classes) < LOW {
            tracing::warn!(
                "a clean accuracy of {} is low for a network in use: if more is known of this one, it computes otherwise \
                 than its layers' names say (with max-pooling, say, other strides or shortcuts), and what is found here is not \
                 about it",
                percent(ours)
            );
        }
        Ok(())
    }
}

/// How the defender tests triggers.
pub(crate) fn testing(
    config: &MesaConfig,
    target_class: u32,
    placement: Placement,
) -> AttackSuccessConfig {
    let [_, height, width] = config.trigger_shape;
    AttackSuccessConfig {
        target_class,
        trigger_size: (height, width),
        images_per_trigger: config.images_per_trigger,
        placement,
    }
}

/// Loads a sub-model.
pub(crate) fn sub_model(path: &Path) -> Result<SubModel> {
    SubModel::load(path).map_err(|error| {
        // Which normalization does not matter to what the file holds.
        match load_network_with(path, None) {
            Ok(_) | Err(mesa_models::Error::NoNormalization { .. }) => anyhow!(
                "{} is a network; name a sub-model of its triggers, as `mesa fit` writes them",
                path.display()
            ),
            Err(_) => anyhow!(error).context(format!("loading the sub-model {}", path.display())),
        }
    })
}

/// What made a sub-model.
pub(crate) fn sub_model_made_by(path: &Path) -> Result<BTreeMap<String, String>> {
    match load_tensors(path) {
        Ok((_, made_by)) => Ok(made_by),
        // What is none is called what it is.
        Err(error) => Err(sub_model(path).err().unwrap_or_else(|| error.into())),
    }
}

/// How pixels of a data set are normalized.
pub(crate) fn normalization(name: DatasetName) -> Normalization {
    match name {
        DatasetName::Cifar100 => Normalization::cifar100(),
        // CIFAR-10's are those of photographs in general; the network's file says which it took.
        DatasetName::Cifar10 | DatasetName::Synthetic | DatasetName::Folder => {
            Normalization::cifar10()
        }
    }
}
