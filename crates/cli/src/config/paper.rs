//! The paper's settings, and what the sources leave open of them.

use mesa::{EntropyConfig, MesaConfig};
use mesa_attack::AttackConfig;
use mesa_datasets::DatasetName;
use mesa_defense::{PointConfig, RetrainConfig};
use mesa_models::{Architecture, Schedule, TrainingConfig};

use super::{
    DataConfig, ExperimentConfig, NetworkConfig, OutputConfig, PointSettings, PretrainConfig,
    SamplesConfig, SeedRange,
};
use crate::method::Method;

impl ExperimentConfig {
    /// The paper's settings, of which the preset `paper` is the file.
    pub(crate) fn paper() -> Self {
        Self {
            triggers: "all".to_owned(),
            seeds: SeedRange { from: 0, to: 1 },
            methods: vec![
                Method::NoTrigger,
                Method::Random,
                Method::FineTune,
                Method::Point,
                Method::Mesa(0.9),
                Method::Mesa(0.8),
                Method::Mesa(0.5),
                Method::EnsembleTurns,
                Method::EnsembleWeighted,
                Method::Ideal,
            ],
            data: DataConfig {
                set: DatasetName::Cifar10,
                attack_images: 50_000,
                split_at: 8_000,
                modeling_images: 8_000,
                split_seed: 0,
                synthetic_if_missing: false,
                synthetic_train: 50_000,
                synthetic_test: 10_000,
                synthetic_seed: 0,
            },
            network: NetworkConfig {
                architecture: Architecture::default(),
                width: 64,
            },
            pretrain: PretrainConfig {
                images: 50_000,
                seed: 0,
                training: pretraining(),
            },
            backdoor: AttackConfig::paper(),
            backdoor_on_synthetic: None,
            mesa: MesaConfig::paper(),
            entropy: EntropyConfig {
                schedule: Schedule::Constant,
                ..EntropyConfig::standard()
            },
            retrain: RetrainConfig::paper(),
            fine_tune: fine_tuning(),
            point: PointSettings {
                repeats: 10,
                search: PointConfig::paper(),
            },
            samples: SamplesConfig {
                count: 512,
                images_per_sample: 64,
            },
            output: OutputConfig {
                keep_repaired: false,
            },
        }
    }
}

/// The clean network's training, which the sources leave open: what reaches
/// about 95 % at width 64.
fn pretraining() -> TrainingConfig {
    TrainingConfig {
        epochs: 60,
        batch_size: 128,
        learning_rate: 0.1,
        momentum: 0.9,
        weight_decay: 5e-4,
        label_smoothing: 0.0,
        schedule: Schedule::OneCycle { warmup: 0.2 },
    }
}

/// The baseline `fine-tune`: what people do first with a network they do not trust.
fn fine_tuning() -> TrainingConfig {
    TrainingConfig {
        learning_rate: 0.01,
        schedule: Schedule::Cosine,
        ..TrainingConfig::paper()
    }
}
