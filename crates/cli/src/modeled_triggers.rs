//! What samples of a sub-model do to a network, on images that neither has seen: all that a defender can
//! measure a backdoor by.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use mesa_attack::Attacked;
use mesa_datasets::{Images, Placement, Trigger};
use mesa_models::{Classifier, Metadata, Seeds};
use serde::Serialize;

use crate::commands::placement_of;
use crate::{inputs, stages};

/// The entry of a sub-model's description that names the class it was fitted to.
pub(crate) const TARGET_CLASS: &str = "target_class";

/// Samples drawn of a sub-model.
const SAMPLES: usize = 64;

/// Images, none of the target class, that each is stamped on.
const IMAGES_EACH: usize = 64;

/// Samples of a sub-model, and where they go.
pub(crate) struct ModeledTriggers {
    file: PathBuf,
    target_class: u32,
    placement: Placement,
    triggers: Vec<Trigger>,
}

/// What they do.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct SampledAsr {
    /// The sub-model's file.
    pub(crate) sub_model: String,
    /// The class that it was fitted to.
    pub(crate) target: u32,
    /// Share of stamped images, none of the class, that are predicted as it.
    pub(crate) asr: f64,
    /// Stamped images, repetitions counted.
    pub(crate) images: usize,
}

impl ModeledTriggers {
    /// Samples of the sub-model in a file, by what made it: against the class that it was fitted to, or the one
    /// that the user names where the file is too old to say. They go where the user says (`asked`), else where
    /// it was fitted: where the settings say (`usual`) but for what the file does.
    pub(crate) fn draw(
        (file, made_by): (&Path, &Metadata),
        target: Option<u32>,
        (asked, usual): (Option<Placement>, Placement),
        seed: u64,
    ) -> Result<Self> {
        let of_class = made_by.get(TARGET_CLASS);
        let fitted_to = of_class.and_then(|class| class.parse().ok());
        let place = placement_of(made_by)?;
        let drawn =
            inputs::sub_model(file)?.sample(&mut Seeds::new(seed, "samples").start(), SAMPLES)?;
        let (_, _, height, width) = drawn.dims4()?;
        let pixels = drawn.flatten_from(1)?.to_vec2()?.into_iter();
        let triggers = pixels.map(|pixels| Trigger::new(pixels, (height, width)));
        Ok(Self {
            file: file.to_owned(),
            target_class: fitted_to.or(target).with_context(|| {
                format!(
                    "{} does not say which class it was fitted to; name it with --target",
                    file.display()
                )
            })?,
            placement: asked.or(place).unwrap_or(usual),
            triggers: triggers.collect::<Result<_, _>>()?,
        })
    }

    /// The ASRs of several, in their order.
    pub(crate) fn asrs(
        all: &[Self],
        classifier: &dyn Classifier,
        images: &Images,
        seed: u64,
    ) -> Result<Vec<SampledAsr>> {
        let asr = |modeled: &Self| modeled.asr(classifier, images, seed);
        all.iter().map(asr).collect()
    }

    /// Their ASR: each is stamped on images of its own, as far as there are so many.
    fn asr(&self, classifier: &dyn Classifier, images: &Images, seed: u64) -> Result<SampledAsr> {
        let others = images.not_of_class(self.target_class);
        ensure!(
            !others.is_empty(),
            "no image is of another class than {}",
            self.target_class
        );
        let (mut fooled, mut stamped) = (0.0, 0);
        for (number, trigger) in self.triggers.iter().enumerate() {
            let each = IMAGES_EACH.min(others.len());
            let of = |index: usize| others[(number * each + index) % others.len()];
            let chosen: Vec<usize> = (0..each).map(of).collect();
            let attacked = Attacked {
                trigger: trigger.clone(),
                target_class: self.target_class,
                placement: self.placement,
            };
            let seed = seed.wrapping_add(number as u64);
            let chosen = images.select(&chosen);
            let found = stages::evaluate_stamped(classifier, &chosen, &attacked, seed)?;
            fooled += found.asr * found.images as f64;
            stamped += found.images;
        }
        Ok(SampledAsr {
            sub_model: self.file.display().to_string(),
            target: self.target_class,
            asr: fooled / stamped as f64,
            images: stamped,
        })
    }
}
