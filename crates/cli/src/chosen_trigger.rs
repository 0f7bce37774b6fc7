//! The trigger that a command line names: by its number or name, or by a file.

use std::path::Path;

use anyhow::{Result, ensure};
use mesa_datasets::{Trigger, TriggerFile, TriggerId};
use mesa_record::TriggerName;

use crate::output::Usage;

/// Endings of files that hold a trigger.
const ENDINGS: [&str; 4] = ["png", "jpg", "jpeg", "safetensors"];

/// The trigger that a command line names.
#[derive(Clone, Debug)]
pub(crate) struct ChosenTrigger {
    /// What it is called in records: a file's name says what it held.
    pub(crate) name: TriggerName,
    trigger: Trigger,
    file: Option<TriggerFile>,
}

impl ChosenTrigger {
    /// Reads a name or a file; a usage error if it is neither.
    pub(crate) fn read(text: &str) -> Result<Self> {
        match text.parse::<TriggerId>() {
            Ok(id) => Ok(Self {
                name: id.to_string().as_str().into(),
                trigger: id.trigger()?,
                file: None,
            }),
            Err(_) if is_file(text) => {
                let file = TriggerFile::read(Path::new(text))?;
                Ok(Self {
                    name: file.name().as_str().into(),
                    trigger: file.trigger()?,
                    file: Some(file),
                })
            }
            Err(error) => {
                let reason = format!("--trigger: {error}, or a .png, .jpg or .safetensors file");
                Err(Usage(reason).into())
            }
        }
    }

    /// The trigger for images of `size` (height, width): stamped as it is, or mixed with the whole
    /// image where its share `blend` is given.
    pub(crate) fn for_images(&self, size: (usize, usize), blend: Option<f32>) -> Result<Trigger> {
        let (height, width) = self.trigger.size();
        let Some(share) = blend else {
            ensure!(
                height <= size.0 && width <= size.1,
                "trigger {}: {height} × {width} pixels do not fit into images of {} × {}; make it \
                 smaller, or mix it with the whole image by --blend",
                self.name,
                size.0,
                size.1
            );
            return Ok(self.trigger.clone());
        };
        let trigger = match &self.file {
            Some(file) => file.trigger_of_size(size)?,
            None => self.trigger.clone(),
        };
        ensure!(
            trigger.size() == size,
            "--blend mixes a pattern with the whole image: trigger {} has {height} × {width} \
             pixels, the images {} × {}; name a .png file, which is resized, or random:0:{}x{}",
            self.name,
            size.0,
            size.1,
            size.0,
            size.1
        );
        Ok(trigger.blended(share)?)
    }

    /// Whether it is what a file held.
    pub(crate) fn is_from_file(&self) -> bool {
        self.file.is_some()
    }

    /// The trigger alone.
    pub(crate) fn into_trigger(self) -> Trigger {
        self.trigger
    }
}

fn is_file(text: &str) -> bool {
    let ending = Path::new(text).extension().unwrap_or_default();
    ENDINGS
        .iter()
        .any(|known| ending.eq_ignore_ascii_case(known))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_what_they_were_in_records() {
        for (text, json) in [("170", "170"), ("color:3", "\"color:3\"")] {
            let chosen = ChosenTrigger::read(text).unwrap();
            assert_eq!(serde_json::to_string(&chosen.name).unwrap(), json);
        }
    }

    #[test]
    fn says_what_a_trigger_may_be() {
        let error = ChosenTrigger::read("diamond").unwrap_err();
        assert!(error.is::<Usage>());
        assert!(
            error
                .to_string()
                .ends_with("or a .png, .jpg or .safetensors file")
        );
        let missing = ChosenTrigger::read("no/such.png").unwrap_err();
        assert!(!missing.is::<Usage>() && missing.to_string().contains("such.png"));
    }

    #[test]
    fn a_blended_pattern_covers_the_image() {
        let noise = ChosenTrigger::read("random:0:32x32").unwrap();
        let blended = noise.for_images((32, 32), Some(0.2)).unwrap();
        assert!((blended.opacity() - 0.2).abs() < 1e-6);
        let small = ChosenTrigger::read("170").unwrap();
        let error = small.for_images((32, 32), Some(0.2)).unwrap_err();
        assert!(error.to_string().contains("3 × 3"), "{error}");
        assert!(small.for_images((32, 32), None).is_ok());
        assert!(noise.for_images((28, 28), None).is_err());
    }
}
