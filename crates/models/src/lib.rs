//! Residual networks for 32×32 images on the kernels crate, small perceptrons on candle, optimizers and
//! checkpoints. With the feature `cuda` the networks also run on an NVIDIA GPU (`cuda`).

mod adam;
mod architecture;
mod checkpoint;
mod classifier;
#[cfg(feature = "cuda")]
pub mod cuda;
mod epoch_order;
mod error;
mod files;
mod format_error;
mod frozen;
mod generator;
mod graph;
mod host;
mod init;
mod layers;
mod network;
mod no_tensors;
mod normalize;
mod normalizing;
#[cfg(test)]
mod on_threads;
mod optim;
mod perceptron_config;
mod perceptron_trainers;
mod processor;
mod pytorch;
mod recipe;
mod resnet;
mod seeds;
#[cfg(test)]
mod small_networks;
#[cfg(test)]
mod small_perceptrons;
mod state;
mod state_dict;
mod statistics_network;
mod status;
mod trainer;
mod training_config;

pub use adam::{Adam, AdamConfig};
pub use architecture::{Architecture, Family};
pub use checkpoint::{
    CheckpointInfo, LoadedNetwork, Metadata, NormalizationSource, load_network, load_network_with,
    save_network, save_network_as,
};
pub use classifier::Classifier;
pub use epoch_order::EpochOrder;
pub use error::{Error, Result};
pub use files::{load_tensors, save_tensors};
pub use format_error::{LayoutError, PytorchError};
pub use frozen::FrozenClassifier;
pub use generator::{Generated, Generator, uniform_noise};
pub use graph::IMAGE_SIDE;
pub use mesa_kernels::Path as CpuPath;
pub use mesa_kernels::{ImagePlan, Stamp, TargetGradient};
pub use mesa_pickle::Error as PickleError;
pub use network::{BatchLoss, Network};
pub use normalize::Normalization;
pub use optim::Sgd;
pub use perceptron_config::PerceptronConfig;
pub use perceptron_trainers::{GeneratorTrainer, Sampler, StatisticsTrainer};
pub use processor::Processor;
pub use recipe::{ImagePool, Recipe, Recipes, Triggers};
pub use resnet::ResNetConfig;
pub use seeds::{Position, Seeds, fnv1a};
pub use state::NamedTensors;
pub use state_dict::LayerNames;
pub use statistics_network::{PairScores, StatisticsNetwork};
pub use status::Status;
pub use trainer::{BatchSource, BoxError, EpochStats, Trainer};
pub use training_config::{Schedule, TrainingConfig};

/// Version of the numbers this crate computes, raised by hand whenever figures may change:
/// results of another version are not reused.
pub const ENGINE_VERSION: u32 = 2;
