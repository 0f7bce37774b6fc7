//! `summary.json`: what a run measured, one row for each trigger, seed and method.

use serde::{Deserialize, Serialize};

use crate::{Patch, TriggerName};

/// The least attack success rate at which an attack counts as one that took.
/// Rows of a network below stay out of means.
pub const ATTACK_TOOK: f64 = 0.85;

/// What a run measured. Fractions are in [0, 1], times in seconds.
///
/// # Examples
///
/// ```
/// use mesa_record::Summary;
///
/// let text = r#"{"preset": "quick", "data": "cifar10", "device": "cpu", "wall_s": 200.0,
///     "peak_rss_mb": 500.0, "rows": [{"trigger": 170, "seed": 0, "method": "backdoored",
///     "asr": 0.97, "clean_accuracy": 0.91, "regained_accuracy": 0.03, "wall_s": 40.0}]}"#;
/// let summary: Summary = serde_json::from_str(text)?;
/// assert_eq!(summary.rows[0].method, "backdoored");
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// Name of the preset, or of the configuration file.
    pub preset: String,
    /// The data set: `cifar10`, `cifar100` or `synthetic`.
    pub data: String,
    /// The device: `cpu`, or a card's name and how it computes.
    pub device: String,
    /// Time spent on all steps, over every start of the run.
    pub wall_s: f64,
    /// Most memory held at once, in MiB, over every start of the run.
    pub peak_rss_mb: Option<f64>,
    /// Where networks were worked on at once: the steps' times overlap, and this is by the clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at_once: Option<AtOnce>,
    /// One row for each trigger, seed and method.
    pub rows: Vec<Row>,
    /// Version of the program.
    #[serde(default)]
    pub version: String,
    /// Number of the engine, raised whenever figures may change.
    #[serde(default)]
    pub engine_version: u32,
    /// Which kernels computed: `avx512`, `avx2`, `portable`, ….
    #[serde(default)]
    pub kernel_path: String,
    /// Number of threads.
    #[serde(default)]
    pub threads: usize,
    /// Processor, as the system names it.
    #[serde(default)]
    pub processor: String,
    /// SHA-256 of the data set.
    #[serde(default)]
    pub data_digest: String,
    /// The clean network that every trigger and seed started from.
    #[serde(default)]
    pub clean_network: Option<NetworkRecord>,
    /// Others that rows of earlier records started from: trained alike elsewhere, not the same bits.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub other_clean_networks: Vec<NetworkRecord>,
    /// Each value that differs from the paper's.
    #[serde(default)]
    pub differences: Vec<Difference>,
}

/// A run of several networks at once.
#[derive(Copy, Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AtOnce {
    /// How many at most.
    pub workers: usize,
    /// Seconds by the clock for all rows, over every start of the run; the clean network aside.
    pub elapsed_s: f64,
}

/// One method's figures on one network.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// The attacker's trigger.
    pub trigger: TriggerName,
    /// Seed of the whole chain.
    pub seed: u64,
    /// `clean`, `backdoored`, or a defense: `mesa:0.9`, `ensemble:turns`, ….
    pub method: String,
    /// Of a `point` row: which of the independent repeats, from 0 on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repeat: Option<u64>,
    /// Attack success rate, over images not of the target class.
    pub asr: f64,
    /// Accuracy on clean images.
    pub clean_accuracy: f64,
    /// Share of the stamped images behind `asr` that are given their true class.
    pub regained_accuracy: f64,
    /// Time for this row's own steps.
    pub wall_s: f64,
    /// Of a `mesa:β` row: attack success rate of the sub-model's samples; of a `point` row that of
    /// the reversed trigger, on the first 2,000 of the images that the defense sees.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sample_asr: Option<f64>,
    /// Of a `mesa:β` row: share of samples whose mean target probability is β or more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub in_level_set: Option<f64>,
    /// Of a `mesa:β` row: estimate of I(x̃; z), in nats.
    #[serde(
        default,
        alias = "entropy_nats",
        skip_serializing_if = "Option::is_none"
    )]
    pub information_nats: Option<f64>,
    /// Standard error of `information_nats`.
    #[serde(default, alias = "entropy_se", skip_serializing_if = "Option::is_none")]
    pub information_se: Option<f64>,
    /// Of a `mesa:β` row: Gaussian upper bound of h(x̃), in nats.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entropy_upper_bound: Option<f64>,
    /// Of a `mesa:β` row: mean of the samples' pixels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sample_mean: Option<f64>,
    /// Of a `mesa:β` row: standard deviation of a pixel over the samples, root mean square over the pixels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sample_std: Option<f64>,
    /// Of a `point` row: the trigger that was reversed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reversed_trigger: Option<Patch>,
    /// Of the `ensemble:weighted` row: what its sub-models weigh.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mixture: Option<Mixture>,
    /// Whether the row comes from a committed record and was not computed by this run.
    #[serde(default, skip_serializing_if = "is_false")]
    pub committed: bool,
    /// Key of the step that measured the row: equal keys, equal figures.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
}

/// The weights γ of a staircase's sub-models.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Mixture {
    /// One for each sub-model.
    pub weights: Vec<MixtureWeight>,
}

/// The weight of one sub-model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MixtureWeight {
    /// The sub-model's threshold.
    pub beta: f64,
    /// Its weight γ.
    pub gamma: f64,
    /// Standard error of γ, from that of the entropies.
    pub gamma_se: f64,
    /// γ if every level set had the same entropy.
    pub gamma_equal_entropy: f64,
    /// Estimate of I(x̃; z) of the sub-model, in nats.
    #[serde(
        default,
        alias = "entropy_nats",
        skip_serializing_if = "Option::is_none"
    )]
    pub information_nats: Option<f64>,
    /// Standard error of `information_nats`.
    #[serde(default, alias = "entropy_se", skip_serializing_if = "Option::is_none")]
    pub information_se: Option<f64>,
    /// Gaussian upper bound of h(x̃), in nats.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entropy_upper_bound: Option<f64>,
    /// Share of the sub-model's samples whose mean target probability is β or more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub in_level_set: Option<f64>,
}

/// Which network something started from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NetworkRecord {
    /// `assets/weights/…`, the file that was named, or `trained in this run`.
    pub source: String,
    /// SHA-256 of the file.
    pub sha256: String,
    /// Accuracy on all test images.
    pub test_accuracy: f64,
}

/// A value that differs from the paper's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    /// Path of the value in the configuration.
    pub name: String,
    /// The paper's.
    pub paper: String,
    /// The one used.
    pub here: String,
}

impl Summary {
    /// Notes which clean networks rows of another summary started from, beside this one's.
    pub fn note_clean_networks(&mut self, of: &Self) {
        for network in of.clean_network.iter().chain(&of.other_clean_networks) {
            let known = self.clean_network.iter().chain(&self.other_clean_networks);
            if known
                .into_iter()
                .all(|known| known.sha256 != network.sha256)
            {
                self.other_clean_networks.push(network.clone());
            }
        }
    }

    /// The row of a trigger, seed and method; of `point` the first repeat's.
    pub fn row(&self, trigger: &TriggerName, seed: u64, method: &str) -> Option<&Row> {
        self.rows
            .iter()
            .find(|row| row.trigger == *trigger && row.seed == seed && row.method == method)
    }

    /// Whether the attack with `trigger` and `seed` reached [`ATTACK_TOOK`];
    /// `None` if there is no such network.
    pub fn attack_took(&self, trigger: &TriggerName, seed: u64) -> Option<bool> {
        self.row(trigger, seed, "backdoored")
            .map(|row| row.asr >= ATTACK_TOOK)
    }
}

impl Row {
    /// A row with the figures that every method has.
    pub fn new(trigger: TriggerName, seed: u64, method: &str, figures: [f64; 3]) -> Self {
        let [asr, clean_accuracy, regained_accuracy] = figures;
        Self {
            trigger,
            seed,
            method: method.to_owned(),
            repeat: None,
            asr,
            clean_accuracy,
            regained_accuracy,
            wall_s: 0.0,
            sample_asr: None,
            in_level_set: None,
            information_nats: None,
            information_se: None,
            entropy_upper_bound: None,
            sample_mean: None,
            sample_std: None,
            reversed_trigger: None,
            mixture: None,
            committed: false,
            key: None,
        }
    }
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "the signature serde calls"
)]
fn is_false(value: &bool) -> bool {
    !value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_row_has_exactly_the_promised_fields() {
        let row = Row::new("170".into(), 0, "ideal", [0.02, 0.9, 0.88]);
        let json = serde_json::to_value(&row).unwrap();
        let names: Vec<_> = json.as_object().unwrap().keys().cloned().collect();
        let expected = [
            "asr",
            "clean_accuracy",
            "method",
            "regained_accuracy",
            "seed",
            "trigger",
            "wall_s",
        ];
        let mut names = names;
        names.sort();
        assert_eq!(names, expected);
        assert_eq!(serde_json::from_value::<Row>(json).unwrap(), row);
    }
}
