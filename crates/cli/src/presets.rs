//! The built-in settings, and settings that say only what they change of others.

use anyhow::{Result, bail};
use toml::{Table, Value};

macro_rules! presets {
    ($($name:literal),* $(,)?) => {
        [$(($name, include_str!(concat!("../presets/", $name, ".toml")))),*]
    };
}

/// Every preset's name and text.
pub(crate) const PRESETS: [(&str, &str); 15] = presets![
    "quick",
    "cpu",
    "paper",
    "paper-color",
    "paper-cifar100",
    "cpu-cifar100",
    "cpu-target-5",
    "cpu-corner",
    "cpu-images-500",
    "cpu-images-2500",
    "cpu-patch-2x2",
    "cpu-patch-4x4",
    "cpu-patch-5x5",
    "cpu-preactresnet18",
    "cpu-retrain-0.001",
];

/// Settings that are told apart by the name of what they hold: never a mixture of two.
pub(crate) const WHOLE: [&str; 2] = ["placement", "schedule"];

/// What `--preset` takes.
pub(crate) fn names() -> Vec<&'static str> {
    PRESETS.iter().map(|(name, _)| *name).collect()
}

/// The text of a preset.
pub(crate) fn text(name: &str) -> Result<&'static str> {
    let Some((_, text)) = PRESETS.iter().find(|(known, _)| *known == name) else {
        bail!(
            "there is no preset `{name}`; there are {} (a file of settings goes with --config)",
            names().join(", ")
        );
    };
    Ok(text)
}

/// The settings in a text; where it names a preset as its `base`, those of the base with what the
/// text says instead.
pub(crate) fn resolved(text: &str) -> Result<Table> {
    let mut own: Table = toml::from_str(text)?;
    let Some(base) = own.remove("base") else {
        return Ok(own);
    };
    let Value::String(base) = base else {
        bail!("`base`: the name of a preset in quotes, as in \"cpu\"");
    };
    let mut settings = resolved(self::text(&base)?)?;
    replace(&mut settings, own);
    Ok(settings)
}

/// Puts `new` in the place of what `settings` says, table by table.
fn replace(settings: &mut Table, new: Table) {
    for (name, value) in new {
        match (settings.get_mut(&name), value) {
            (Some(Value::Table(old)), Value::Table(new)) if !WHOLE.contains(&name.as_str()) => {
                replace(old, new);
            }
            (_, value) => drop(settings.insert(name, value)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ExperimentConfig;
    use crate::method::Method;

    #[test]
    fn every_preset_can_be_read_and_differs_as_its_name_says() {
        let of = |name| ExperimentConfig::preset(name).unwrap();
        assert_eq!(PRESETS.len(), mesa_report::PRESETS.len());
        let all = of("paper").methods;
        for ((name, _), (known, left_out)) in PRESETS.iter().zip(mesa_report::PRESETS) {
            let has = |method: &&Method| !left_out.contains(&method.to_string().as_str());
            let expected: Vec<Method> = all.iter().filter(has).copied().collect();
            assert_eq!((*name, of(name).methods), (known, expected));
        }
        let (cpu, target) = (of("cpu"), of("cpu-target-5"));
        assert_eq!(target.backdoor.target_class, 5);
        let mut back = target;
        back.backdoor.target_class = 0;
        assert_eq!(back, cpu);
        assert_eq!(of("cpu-images-500").data.modeling_images, 500);
        assert_eq!(of("cpu-images-2500").data.modeling_images, 2500);
        assert_eq!(of("cpu-patch-5x5").mesa.trigger_shape, [3, 5, 5]);
        assert_eq!(of("cpu-cifar100").mesa.network_width, 2048);
        assert_eq!(of("paper-color").network.width, 64);
    }

    #[test]
    fn a_text_with_a_base_says_only_what_it_changes() {
        let found = resolved(
            "base = \"cpu\"\ntriggers = \"16\"\n[retrain.training]\nepochs = 3\n\
             schedule = { one-cycle = { warmup = 0.5 } }\n[pretrain.training]\nschedule = \"cosine\"\n",
        );
        let found = found.unwrap();
        let cpu = resolved(text("cpu").unwrap()).unwrap();
        assert_eq!(found["triggers"].as_str(), Some("16"));
        let training = &found["retrain"]["training"];
        assert_eq!(training["epochs"].as_integer(), Some(3));
        assert_eq!(training["momentum"], cpu["retrain"]["training"]["momentum"]);
        assert_eq!(
            found["pretrain"]["training"]["schedule"].as_str(),
            Some("cosine")
        );
        assert_eq!(found["mesa"], cpu["mesa"]);
    }

    #[test]
    fn an_unknown_base_is_named() {
        let error = resolved("base = \"fast\"").unwrap_err().to_string();
        assert!(
            error.contains("no preset `fast`") && error.contains("quick"),
            "{error}"
        );
        assert!(resolved("base = 3").is_err());
    }
}
