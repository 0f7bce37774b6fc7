//! What `mesa distributions` found: `distribution.json`.

use serde::{Deserialize, Serialize};

use crate::{Patch, TriggerName};

/// Samples of several sub-models of one backdoored network, on planes that they share.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Distribution {
    /// The preset or file of settings.
    pub preset: String,
    /// The data set.
    pub data: String,
    /// The attacker's trigger.
    pub trigger: TriggerName,
    /// Seed of the chain.
    pub seed: u64,
    /// The attacked class.
    pub target_class: u32,
    /// Height and width of every patch.
    pub patch_shape: [usize; 2],
    /// The attacker's trigger, where it is of that size. Nothing was modeled with it; on the t-SNE
    /// plane it is one point among the samples.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub true_trigger: Option<PlacedPatch>,
    /// ASR of the attacker's trigger.
    pub true_trigger_asr: f64,
    /// One for each pair of β and α, in the order in which they are drawn.
    pub panels: Vec<DistributionPanel>,
    /// Shares of the variance that the first two principal components have.
    pub pca_explained: [f64; 2],
    /// Perplexity of the t-SNE.
    pub tsne_perplexity: f64,
    /// Time spent on all steps, over every start.
    pub wall_s: f64,
    /// The device: `cpu`, or a GPU's name and its precision.
    pub device: String,
    /// Which kernels computed.
    pub kernel_path: String,
    /// Number of threads.
    pub threads: usize,
    /// Processor, as the system names it.
    pub processor: String,
    /// Version of the program.
    pub version: String,
    /// Number of the engine.
    pub engine_version: u32,
}

/// One sub-model's samples, and what is known of them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DistributionPanel {
    /// The threshold.
    pub beta: f64,
    /// What a nat of entropy is worth.
    pub alpha: f64,
    /// Share of stamped images, none of the class, that the samples turn into it.
    pub sample_asr: f64,
    /// Share of the samples whose mean probability reaches β.
    pub in_level_set: f64,
    /// Estimate of I(x̃; z), in nats.
    #[serde(alias = "entropy_nats")]
    pub information_nats: f64,
    /// Its standard error.
    #[serde(alias = "entropy_se")]
    pub information_se: f64,
    /// Gaussian upper bound of h(x̃), in nats.
    pub entropy_upper_bound: f64,
    /// Standard deviation of a pixel over the samples.
    pub sample_std: f64,
    /// The samples.
    pub samples: Vec<PlacedPatch>,
}

/// A patch and its places on the planes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PlacedPatch {
    /// Its pixels.
    pub patch: Patch,
    /// On the plane of the first two principal components.
    pub pca: [f64; 2],
    /// On the plane of t-SNE.
    pub tsne: [f64; 2],
}
