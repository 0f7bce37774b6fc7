//! Where settings differ from the paper's, as far as they decide a figure.

use mesa_datasets::DatasetName;
use mesa_models::Schedule;
use mesa_record::Difference;
use serde_json::Value;

use super::ExperimentConfig;
use crate::presets;

impl ExperimentConfig {
    /// The paper's settings on the data of these: on CIFAR-100 its perceptrons are 2,048 wide.
    fn paper_on_the_same_data(&self) -> Self {
        let mut paper = Self::paper();
        if self.data.set == DatasetName::Cifar100 {
            paper.data.set = DatasetName::Cifar100;
            paper.mesa.network_width = 2048;
            // The measurement is ours, and so is what suits it to that width.
            paper.entropy.learning_rate = 2e-4;
            paper.entropy.schedule = Schedule::Cosine;
        }
        paper
    }

    /// Each setting that decides a figure and differs from the paper's.
    pub(crate) fn differences(&self) -> Vec<Difference> {
        let (mut paper, mut here) = (Vec::new(), Vec::new());
        flatten("", &figures(&self.paper_on_the_same_data()), &mut paper);
        flatten("", &figures(self), &mut here);
        let lookup = |list: &[(String, String)], name: &str| {
            list.iter()
                .find(|(n, _)| n == name)
                .map_or_else(|| "—".to_owned(), |(_, v)| v.clone())
        };
        let mut names: Vec<&String> = here.iter().chain(&paper).map(|(name, _)| name).collect();
        names.dedup();
        let mut differences: Vec<Difference> = Vec::new();
        for name in names {
            let (paper, here) = (lookup(&paper, name), lookup(&here, name));
            if paper != here && differences.iter().all(|known| known.name != *name) {
                differences.push(Difference {
                    name: name.clone(),
                    paper,
                    here,
                });
            }
        }
        differences
    }
}

/// The settings that decide a network's figures: not which networks and
/// methods are computed, nor the training of the clean network, of which the
/// sources say only that it is about 95 % accurate.
fn figures(config: &ExperimentConfig) -> Value {
    let mut value = serde_json::to_value(config).expect("settings are plain values");
    if let Some(tables) = value.as_object_mut() {
        for other in [
            "triggers",
            "seeds",
            "methods",
            "output",
            "pretrain",
            "backdoor_on_synthetic",
        ] {
            tables.remove(other);
        }
        // Written down where it is the paper's, too: what another differs from.
        if let Some(network) = tables.get_mut("network") {
            network["architecture"] = config.network.architecture.name().into();
        }
        // How many of them, not what each does.
        if let Some(point) = tables.get_mut("point").and_then(Value::as_object_mut) {
            point.remove("repeats");
        }
        if let Some(data) = tables.get_mut("data").and_then(Value::as_object_mut) {
            data.retain(|name, _| !name.starts_with("synthetic"));
        }
    }
    value
}

/// All leaves of a value by their paths.
fn flatten(path: &str, value: &Value, leaves: &mut Vec<(String, String)>) {
    let name = path.rsplit('.').next().unwrap_or_default();
    match value {
        Value::Object(fields) if presets::WHOLE.contains(&name) => {
            leaves.push((path.to_owned(), in_words(fields)));
        }
        Value::Object(fields) => {
            for (name, field) in fields {
                let path = if path.is_empty() {
                    name.clone()
                } else {
                    format!("{path}.{name}")
                };
                flatten(&path, field, leaves);
            }
        }
        Value::String(text) => leaves.push((path.to_owned(), text.clone())),
        leaf => leaves.push((path.to_owned(), leaf.to_string())),
    }
}

/// `fixed (column 29, row 29)`
fn in_words(fields: &serde_json::Map<String, Value>) -> String {
    let words = fields.iter().map(|(name, value)| match value.as_object() {
        Some(fields) => format!("{name} ({})", in_words(fields)),
        None => format!("{name} {value}"),
    });
    words.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_apart_by_its_name_is_one_difference() {
        let corner = ExperimentConfig::preset("cpu-corner").unwrap();
        let found = corner.differences();
        let found: Vec<_> = (found.iter())
            .filter(|difference| difference.name.contains("placement"))
            .map(|found| [&*found.name, &*found.paper, &*found.here])
            .collect();
        let expected = [
            "backdoor.placement",
            "per-image",
            "fixed (column 29, row 29)",
        ];
        assert_eq!(found, [expected]);
    }

    #[test]
    fn another_kind_of_network_differs_from_the_papers() {
        let kind = |preset: &str| {
            let config = ExperimentConfig::preset(preset).unwrap();
            let found = config.differences();
            let found = found
                .into_iter()
                .find(|found| found.name == "network.architecture");
            found.map(|found| [found.paper, found.here])
        };
        let expected = ["resnet18", "preactresnet18"].map(str::to_owned);
        assert_eq!(kind("cpu-preactresnet18"), Some(expected));
        assert_eq!(kind("cpu"), None);
    }

    fn names(preset: &str) -> Vec<String> {
        let config = ExperimentConfig::preset(preset).unwrap();
        config
            .differences()
            .into_iter()
            .map(|difference| difference.name)
            .collect()
    }

    #[test]
    fn the_paper_preset_is_the_paper() {
        assert_eq!(
            ExperimentConfig::preset("paper").unwrap(),
            ExperimentConfig::paper()
        );
        assert!(names("paper").is_empty());
    }

    #[test]
    fn the_cpu_preset_differs_in_width_two_learning_rates_and_our_measurement_only() {
        let expected = [
            "backdoor.training.learning_rate",
            "entropy.schedule",
            "network.width",
            "retrain.training.learning_rate",
        ];
        assert_eq!(names("cpu"), expected);
        // On CIFAR-100 the paper's perceptrons are wider, too, and the measurement is that of `cpu`.
        let without_ours = expected.iter().filter(|name| !name.starts_with("entropy"));
        assert!(names("cpu-cifar100").iter().eq(without_ours));
        assert!(names("paper-cifar100").is_empty());
    }

    #[test]
    fn the_quick_preset_changes_effort_and_never_the_method() {
        let allowed = [
            "backdoor.poison_rate",
            "backdoor.training.epochs",
            "backdoor.training.learning_rate",
            "backdoor.training.schedule",
            "data.attack_images",
            "data.modeling_images",
            "entropy.schedule",
            "entropy.steps",
            "fine_tune.epochs",
            "mesa.epochs",
            "mesa.learning_rate",
            "network.width",
            "retrain.stamp_rate",
            "retrain.training.epochs",
            "retrain.training.learning_rate",
            "retrain.training.schedule",
        ];
        for name in names("quick") {
            assert!(allowed.contains(&name.as_str()), "{name}");
        }
    }
}
