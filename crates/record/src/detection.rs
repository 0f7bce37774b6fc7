//! What `mesa detect` found: `detection.json`.

use serde::{Deserialize, Serialize};

/// What modeling triggers against every class of one network found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Detection {
    /// Name of the network's file.
    pub model: String,
    /// Its SHA-256.
    pub model_sha256: String,
    /// The data set.
    pub data: String,
    /// Its digest; `None` in records that did not keep it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data_sha256: Option<String>,
    /// The preset or file of settings.
    pub preset: String,
    /// The threshold that was modeled.
    pub beta: f64,
    /// The seed.
    pub seed: u64,
    /// Where triggers were modeled, where that was not anywhere: `fixed:29,29`, the row and column of their
    /// top-left pixel, or `per-batch`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub placement: Option<String>,
    /// The network's accuracy on clean images that the search may see; `None` in records that did
    /// not measure it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clean_accuracy: Option<f64>,
    /// Whether the network is backdoored, where that is known. No search can tell: `mesa detect` leaves
    /// it out, and whoever commits a record of a network of their own adds it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backdoored: Option<bool>,
    /// `backdoor`, `nothing found` or `undecided`.
    pub verdict: Verdict,
    /// The classes that count as attacked.
    pub attacked_classes: Vec<u32>,
    /// Least share of images that an attacked class's samples turn into it.
    pub rule_sample_asr: f64,
    /// Least anomaly index of an attacked class.
    pub rule_anomaly_index: f64,
    /// Least share of the samples of an attacked class that reach β, where it was modeled in its best place;
    /// `None` in records that did not keep it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule_in_level_set: Option<f64>,
    /// Clean images that each class's samples were stamped on, repetitions counted.
    pub stamped_images: usize,
    /// One for each class, in their order.
    pub classes: Vec<ClassDetection>,
    /// Time spent, over every start.
    pub wall_s: f64,
    /// The device: `cpu`, or a GPU's name and its precision.
    pub device: String,
    /// Processor, as the system names it.
    pub processor: String,
    /// Number of threads.
    pub threads: usize,
    /// Version of the program.
    pub version: String,
    /// Number of the engine.
    pub engine_version: u32,
}

impl Detection {
    /// The class that its samples reach best.
    pub fn closest(&self) -> Option<&ClassDetection> {
        let classes = self.classes.iter();
        classes.max_by(|a, b| a.sample_asr.total_cmp(&b.sample_asr))
    }

    /// The classes that are reached as an attacked one is, however much the others are.
    pub fn reached(&self) -> impl Iterator<Item = &ClassDetection> {
        // What the rule has always asked for.
        let least = self.rule_in_level_set.unwrap_or(0.5);
        let is_enough = |asr: f64| asr >= self.rule_sample_asr;
        let in_place = move |class: &ClassDetection| {
            is_enough(class.sample_asr) && class.in_level_set >= least
        };
        self.classes
            .iter()
            .filter(move |class| match class.sample_asr_anywhere {
                Some(anywhere) => is_enough(anywhere) || in_place(class),
                None => is_enough(class.sample_asr),
            })
    }
}

/// Whether a backdoor was found.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verdict {
    /// At least one class counts as attacked.
    #[serde(rename = "backdoor")]
    Backdoor,
    /// None does. That is no proof that there is none.
    #[serde(rename = "nothing found")]
    NothingFound,
    /// None does, since several are reached as an attacked class is and so none stands out.
    #[serde(rename = "undecided")]
    Undecided,
}

/// What modeling triggers against one class found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClassDetection {
    /// The class.
    pub class: u32,
    /// Its name.
    pub name: String,
    /// The place in which patches modeled anywhere work best, where they were.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub best_place: Option<BestPlace>,
    /// Share of stamped images that patches modeled anywhere turn into the class, where the figures below
    /// are of patches modeled in the best place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sample_asr_anywhere: Option<f64>,
    /// Share of stamped images, none of the class, that its samples turn into it.
    pub sample_asr: f64,
    /// Share of the samples whose mean probability reaches β.
    pub in_level_set: f64,
    /// Entropy of the noisy samples, in nats.
    pub entropy_nats: f64,
    /// Its standard error.
    pub entropy_se: f64,
    /// Standard deviation of a pixel over the samples.
    pub sample_std: f64,
    /// How far the class stands above the others; `None` if they are too few. A class modeled in its best
    /// place is compared with what the others do in theirs.
    pub anomaly_index: Option<f64>,
    /// Whether the class counts as attacked.
    pub attacked: bool,
}

/// Where patches that were modeled anywhere work best.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct BestPlace {
    /// Row of their top-left pixel.
    pub row: usize,
    /// Its column.
    pub column: usize,
    /// Share of images that they turn there, estimated from some dozens.
    pub share: f64,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn class(sample_asr: f64, in_level_set: f64, anywhere: Option<f64>) -> ClassDetection {
        ClassDetection {
            class: 0,
            name: "cat".to_owned(),
            best_place: None,
            sample_asr_anywhere: anywhere,
            sample_asr,
            in_level_set,
            entropy_nats: 0.0,
            entropy_se: 0.0,
            sample_std: 0.0,
            anomaly_index: Some(0.0),
            attacked: false,
        }
    }

    #[test]
    fn a_class_is_reached_anywhere_or_by_samples_that_reach_beta_in_its_place() {
        let mut found = Detection {
            model: String::new(),
            model_sha256: String::new(),
            data: String::new(),
            data_sha256: None,
            preset: String::new(),
            beta: 0.9,
            seed: 0,
            placement: None,
            clean_accuracy: None,
            backdoored: None,
            verdict: Verdict::NothingFound,
            attacked_classes: Vec::new(),
            rule_sample_asr: 0.5,
            rule_anomaly_index: 3.5,
            rule_in_level_set: Some(0.5),
            stamped_images: 1,
            classes: vec![
                class(0.5, 0.0, None),
                class(0.49, 1.0, None),
                class(0.9, 0.5, Some(0.1)),
                class(0.9, 0.49, Some(0.1)),
                class(0.9, 0.0, Some(0.5)),
            ],
            wall_s: 0.0,
            device: String::new(),
            processor: String::new(),
            threads: 1,
            version: String::new(),
            engine_version: 1,
        };
        for kept in [Some(0.5), None] {
            found.rule_in_level_set = kept;
            let reached: Vec<f64> = found.reached().map(|class| class.in_level_set).collect();
            assert_eq!(reached, [0.0, 0.5, 0.0]);
        }
    }
}
