//! The settings of a whole experiment: the TOML file, made of the crates' own.

mod differences;
mod paper;

use std::ops::Range;
use std::path::Path;

use anyhow::{Context, Result, anyhow, ensure};
use mesa::{EntropyConfig, MesaConfig};
use mesa_attack::AttackConfig;
use mesa_datasets::{Dataset, DatasetName, Placement};
use mesa_defense::{PointConfig, RetrainConfig};
use mesa_models::{Architecture, IMAGE_SIDE, ResNetConfig, TrainingConfig};
use serde::{Deserialize, Serialize};

use crate::method::{Defense, Method};
use crate::output::Usage;
use crate::presets;

/// The settings of a whole experiment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ExperimentConfig {
    /// Triggers, written as for `--triggers`.
    pub(crate) triggers: String,
    /// Seeds, half-open.
    pub(crate) seeds: SeedRange,
    /// Methods to compare.
    pub(crate) methods: Vec<Method>,
    pub(crate) data: DataConfig,
    pub(crate) network: NetworkConfig,
    pub(crate) pretrain: PretrainConfig,
    pub(crate) backdoor: AttackConfig,
    /// The attack where the data are the built-in classes, if another: they
    /// are told apart by large shapes, and a small trigger takes longer to learn.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) backdoor_on_synthetic: Option<AttackConfig>,
    pub(crate) mesa: MesaConfig,
    pub(crate) entropy: EntropyConfig,
    pub(crate) retrain: RetrainConfig,
    /// Training of the method `fine-tune`, with shifts and flips.
    pub(crate) fine_tune: TrainingConfig,
    pub(crate) point: PointSettings,
    pub(crate) samples: SamplesConfig,
    pub(crate) output: OutputConfig,
}

/// A half-open range of seeds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SeedRange {
    pub(crate) from: u64,
    pub(crate) to: u64,
}

/// Which images.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct DataConfig {
    /// The data set.
    pub(crate) set: DatasetName,
    /// Training images that the attack sees: the first so many.
    pub(crate) attack_images: usize,
    /// Test images in the modeling split; the others are for evaluation.
    pub(crate) split_at: usize,
    /// Images of the modeling split that MESA and the retraining see: the first so many.
    pub(crate) modeling_images: usize,
    /// Seed of the split.
    pub(crate) split_seed: u64,
    /// Whether the built-in classes may stand in where no data is found.
    pub(crate) synthetic_if_missing: bool,
    /// Training images to draw of the built-in classes.
    pub(crate) synthetic_train: usize,
    /// Test images to draw of the built-in classes.
    pub(crate) synthetic_test: usize,
    /// Seed of the built-in classes.
    pub(crate) synthetic_seed: u64,
}

impl DataConfig {
    fn for_folder(self, test_images: usize) -> Self {
        let split_at = self.split_at.min(test_images * 4 / 5);
        Self {
            set: DatasetName::Folder,
            split_at,
            modeling_images: self.modeling_images.min(split_at),
            ..self
        }
    }
}

/// The victim.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NetworkConfig {
    /// Its kind; the paper's is not written down.
    #[serde(default, skip_serializing_if = "Architecture::is_papers")]
    pub(crate) architecture: Architecture,
    /// Channels of the first layer.
    pub(crate) width: usize,
}

impl NetworkConfig {
    /// The network for so many classes.
    pub(crate) fn shape(self, num_classes: usize) -> ResNetConfig {
        ResNetConfig::new(self.architecture, self.width, num_classes)
    }
}

/// Training of the clean network, where none is given.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PretrainConfig {
    /// Training images to use: the first so many.
    pub(crate) images: usize,
    /// Seed of the weights, the order and the augmentation.
    pub(crate) seed: u64,
    pub(crate) training: TrainingConfig,
}

/// The baseline `point`: one trigger is reversed, then retrained with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PointSettings {
    /// How often, independently.
    pub(crate) repeats: u64,
    /// How a trigger is reversed.
    pub(crate) search: PointConfig,
}

/// How a sub-model's samples are judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SamplesConfig {
    /// Samples to draw.
    pub(crate) count: usize,
    /// Non-target images of the modeling split that each is stamped on.
    pub(crate) images_per_sample: usize,
}

impl SamplesConfig {
    /// As many stamped images of fewer for each sample, by more samples.
    pub(crate) fn on(self, images_per_sample: usize) -> Self {
        let stamped = self.count * self.images_per_sample;
        Self {
            count: stamped.div_ceil(images_per_sample),
            images_per_sample,
        }
    }
}

/// What is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct OutputConfig {
    /// Whether the repaired networks are kept as files, beside the backdoored ones.
    pub(crate) keep_repaired: bool,
}

impl ExperimentConfig {
    /// The preset of this name.
    pub(crate) fn preset(name: &str) -> Result<Self> {
        Self::parse(presets::text(name)?).with_context(|| format!("loading the preset `{name}`"))
    }

    /// The settings in a file.
    pub(crate) fn load(path: &Path) -> Result<Self> {
        let text = fs_err::read_to_string(path)?;
        Self::parse(&text).with_context(|| format!("loading {}", path.display()))
    }

    /// The settings of a TOML text, checked; its `base`, if it names one, says the rest.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let table = toml::Value::Table(presets::resolved(text)?);
        let config: Self = serde_path_to_error::deserialize(table).map_err(|error| {
            let path = error.path().to_string();
            let reason = error.into_inner().message().to_owned();
            anyhow!("`{path}`: {reason}")
        })?;
        config.validate()?;
        Ok(config)
    }

    /// These settings for the data that were found: one attack is left, and of a folder of
    /// classes at most four fifths of the test images are for modeling, as of CIFAR's 10,000. Where those
    /// are fewer than the settings count on, they are seen more often, so that modeling and retraining
    /// have as many steps; where they do not fill a batch, it is smaller.
    pub(crate) fn for_data(mut self, data: &Dataset) -> Self {
        if data.name == DatasetName::Folder {
            let counted_on = self.data.modeling_images;
            self.data = self.data.for_folder(data.test.len());
            self.for_images(counted_on);
        }
        self.for_data_set(data.name)
    }

    /// Has as many steps with the modeling images that there are as with those that were counted on, and
    /// no batch larger than they are.
    fn for_images(&mut self, counted_on: usize) {
        let there = self.data.modeling_images;
        let more = |epochs: &mut usize, batch_size: &mut usize| {
            let before = counted_on / *batch_size;
            // Batch norm needs two.
            *batch_size = (*batch_size).min(there.max(2));
            let now = there / *batch_size;
            if now > 0 && now < before {
                *epochs = (*epochs * before).div_ceil(now);
            }
        };
        more(&mut self.mesa.epochs, &mut self.mesa.batch_size);
        for training in [&mut self.retrain.training, &mut self.fine_tune] {
            more(&mut training.epochs, &mut training.batch_size);
        }
        let search = &mut self.point.search;
        search.batch_size = search.batch_size.min(there.max(1));
        let batches = (there / search.batch_size).clamp(1, search.batches_per_pass);
        search.passes = (search.passes * search.batches_per_pass).div_ceil(batches);
        search.batches_per_pass = batches;
        // Each sample is shown on so many images of other classes; where those are fewer there are more samples,
        // or too few images would be stamped to tell places apart.
        if there < 2 * self.samples.images_per_sample {
            self.samples = self.samples.on((there / 4).max(1));
        }
    }

    /// The same for data of which only the name is known.
    pub(crate) fn for_data_set(mut self, name: DatasetName) -> Self {
        let other = self.backdoor_on_synthetic.take();
        if let (DatasetName::Synthetic, Some(backdoor)) = (name, other) {
            self.backdoor = backdoor;
        }
        self
    }

    /// The same as TOML.
    pub(crate) fn to_toml(&self) -> Result<String> {
        Ok(toml::to_string(self)?)
    }

    /// How a method trains the backdoored network on.
    pub(crate) fn defense_training(&self, method: Method) -> &TrainingConfig {
        match method {
            Method::FineTune => &self.fine_tune,
            _ => &self.retrain.training,
        }
    }

    /// All repairs that a method comes to.
    pub(crate) fn defenses(&self, method: Method) -> Vec<Defense> {
        Defense::all(method, self.point.repeats)
    }

    /// The seeds as a range.
    pub(crate) fn seeds(&self) -> Range<u64> {
        self.seeds.from..self.seeds.to
    }

    /// Models triggers elsewhere, where that is asked for.
    pub(crate) fn place(&mut self, placement: Option<Placement>) -> Result<()> {
        let [_, height, width] = self.mesa.trigger_shape;
        if let Some(placement) = placement {
            check_placement(placement, (height, width))?;
            self.retrain.placement = placement;
        }
        Ok(())
    }

    fn validate(&self) -> Result<()> {
        // A folder's are compared with the target class once they are known.
        let classes = self.data.set.num_classes().unwrap_or(usize::MAX);
        ensure!(!self.seeds().is_empty(), "`seeds`: the range is empty");
        let betas = &self.mesa.betas;
        ensure!(!betas.is_empty(), "`mesa.betas`: at least one is needed");
        for method in &self.methods {
            if let Method::Mesa(beta) = method {
                ensure!(
                    betas.contains(beta),
                    "`methods`: {method} needs {beta} in `mesa.betas`"
                );
            }
        }
        ensure!(
            self.data.modeling_images <= self.data.split_at,
            "`data.modeling_images`: there are only {} images in the modeling split",
            self.data.split_at
        );
        ensure!(
            self.samples.count > 0,
            "`samples.count`: at least one is needed"
        );
        ensure!(
            self.samples.images_per_sample > 0,
            "`samples.images_per_sample`: at least one is needed"
        );
        ensure!(
            self.network.width > 0,
            "`network.width`: at least one channel is needed"
        );
        self.pretrain
            .training
            .validate()
            .context("`pretrain.training`")?;
        self.backdoor.validate(classes).context("`backdoor`")?;
        if let Some(backdoor) = &self.backdoor_on_synthetic {
            backdoor
                .validate(DatasetName::Synthetic.num_classes().unwrap_or(usize::MAX))
                .context("`backdoor_on_synthetic`")?;
        }
        self.mesa.validate().context("`mesa`")?;
        // A deterministic generator's samples have infinitely much information on its noise.
        ensure!(
            self.mesa.trigger_noise_std > 0.0,
            "`mesa.trigger_noise_std`: 0 leaves the entropy of samples infinite, and every \
             sub-model's is measured; above 0 is needed"
        );
        self.entropy.validate().context("`entropy`")?;
        self.retrain.validate().context("`retrain`")?;
        let [_, height, width] = self.mesa.trigger_shape;
        let patch = (height, width);
        check_place(self.retrain.placement, patch).context("`retrain.placement`")?;
        check_place(self.point.search.placement, patch).context("`point.search.placement`")?;
        self.fine_tune.validate().context("`fine_tune`")?;
        ensure!(
            self.point.repeats > 0,
            "`point.repeats`: at least one is needed"
        );
        self.point.search.validate().context("`point.search`")?;
        Ok(())
    }
}

/// Refuses a fixed place at which a patch (height, width) leaves the image.
pub(crate) fn check_placement(placement: Placement, patch: (usize, usize)) -> Result<()> {
    check_place(placement, patch)
        .map_err(|error| Usage(format!("the placement {placement}: {error}")).into())
}

/// The same of a place that settings say, which is no wrong use of the command line.
pub(crate) fn check_place(
    placement: Placement,
    patch: (usize, usize),
) -> mesa_datasets::Result<()> {
    placement.check((IMAGE_SIDE, IMAGE_SIDE), patch)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_typo_is_named_by_its_path() {
        let text = presets::text("paper")
            .unwrap()
            .replace("poison_rate = 0.01", "poisson_rate = 0.01");
        let error = format!("{:#}", ExperimentConfig::parse(&text).unwrap_err());
        assert!(
            error.contains("backdoor") && error.contains("poisson_rate"),
            "{error}"
        );
        let text = presets::text("paper")
            .unwrap()
            .replace("width = 64", "width = \"wide\"");
        let error = format!("{:#}", ExperimentConfig::parse(&text).unwrap_err());
        assert!(error.contains("`network.width`"), "{error}");
    }

    #[test]
    fn triggers_without_noise_are_refused_before_anything_is_fitted() {
        let text = presets::text("paper")
            .unwrap()
            .replace("trigger_noise_std = 0.1", "trigger_noise_std = 0.0");
        let error = ExperimentConfig::parse(&text).unwrap_err().to_string();
        assert!(
            error.contains("`mesa.trigger_noise_std`") && error.contains("above 0 is needed"),
            "{error}"
        );
    }

    #[test]
    fn few_images_of_ones_own_are_seen_as_often_as_makes_as_many_steps() {
        let mut data = mesa_datasets::synthetic(0, 1, 640);
        data.name = DatasetName::Folder;
        let config = ExperimentConfig::paper();
        let found = config.clone().for_data(&data);
        // 512 images are 4 batches of 128, where 8,000 are 62; the preset `cpu-images-500` does the same.
        for epochs in [
            found.mesa.epochs,
            found.retrain.training.epochs,
            found.fine_tune.epochs,
        ] {
            assert_eq!(epochs, 155);
        }
        assert_eq!(found.backdoor, config.backdoor);
        let mut few = mesa_datasets::synthetic(0, 1, 100);
        few.name = DatasetName::Folder;
        let found = config.clone().for_data(&few);
        assert_eq!((found.mesa.batch_size, found.mesa.epochs), (80, 620));
        let retraining = &found.retrain.training;
        assert_eq!((retraining.batch_size, retraining.epochs), (80, 620));
        let search = &found.point.search;
        let steps = search.passes * search.batches_per_pass;
        assert_eq!(
            (search.batch_size, search.batches_per_pass, steps),
            (80, 1, 55)
        );
        let samples = &found.samples;
        let stamped = samples.count * samples.images_per_sample;
        assert_eq!(samples.images_per_sample, 20);
        assert!(stamped >= config.samples.count * config.samples.images_per_sample);
        data.name = DatasetName::Cifar10;
        assert_eq!(config.clone().for_data(&data), config);
    }

    #[test]
    fn of_few_images_of_ones_own_four_fifths_are_for_modeling() {
        let mut data = mesa_datasets::synthetic(0, 1, 50);
        let config = ExperimentConfig::paper();
        assert_eq!(config.clone().for_data(&data), config);
        data.name = DatasetName::Folder;
        let found = config.clone().for_data(&data).data;
        assert_eq!((found.split_at, found.modeling_images), (40, 40));
        assert_eq!(found.set, DatasetName::Folder);
        let mut small = config;
        (small.data.split_at, small.data.modeling_images) = (20, 10);
        let found = small.for_data(&data).data;
        assert_eq!((found.split_at, found.modeling_images), (20, 10));
    }

    #[test]
    fn what_is_written_is_read_again() {
        let config = ExperimentConfig::preset("quick").unwrap();
        assert_eq!(
            ExperimentConfig::parse(&config.to_toml().unwrap()).unwrap(),
            config
        );
    }
}
