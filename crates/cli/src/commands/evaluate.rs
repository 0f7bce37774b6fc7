//! `mesa evaluate`: measure a network.

use std::fmt::Write as _;

use anyhow::Result;
use mesa_attack::{Attacked, evaluate};
use mesa_datasets::Images;
use mesa_record::TriggerName;
use serde::Serialize;

use super::WHOLE_IMAGE;
use crate::args::{Evaluate, SplitName};
use crate::chosen_trigger::ChosenTrigger;
use crate::computer::Computer;
use crate::config::{ExperimentConfig, check_placement};
use crate::modeled_triggers::{ModeledTriggers, SampledAsr};
use crate::output::Usage;
use crate::{inputs, interrupt, logging, output, seen};

#[derive(Serialize)]
struct Measured {
    model: String,
    data: String,
    split: &'static str,
    images: usize,
    trigger: Option<TriggerName>,
    #[serde(skip_serializing_if = "Option::is_none")]
    blend: Option<f32>,
    /// Where the trigger was stamped, if not anywhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    placement: Option<String>,
    target: Option<u32>,
    clean_accuracy: f64,
    asr: Option<f64>,
    regained_accuracy: Option<f64>,
    /// What samples of each sub-model do.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    samples: Vec<SampledAsr>,
}

/// Below so many images a share of them is off by more than five points at times: two standard errors of a half
/// are 1 / √n.
const FEWEST_IMAGES: usize = 400;

pub(crate) fn run(args: &Evaluate, json: bool) -> Result<()> {
    logging::start(None)?;
    check(args)?;
    let computer = Computer::open(&args.device)?;
    let chosen = args.trigger.as_deref().map(ChosenTrigger::read);
    let chosen = chosen.transpose()?;
    let (_, settings) = inputs::settings(&args.preset, "cpu")?;
    let loaded = inputs::network(&args.model, args.normalize.normalize)?;
    let data = loaded.data(&args.data, &settings.data)?;
    let settings = settings.for_data(&data);
    let here = seen::split_words(&data, &settings.data);
    let (split, images) = match args.split {
        SplitName::Evaluation => {
            seen::check(&args.model, &loaded.info.made_by, &here)?;
            (
                "evaluation",
                inputs::evaluation_images(&data, &settings.data)?,
            )
        }
        SplitName::Test => {
            seen::check_all(&args.model, &loaded.info.made_by)?;
            ("test", data.test.clone())
        }
    };
    let attacked = chosen.as_ref().zip(args.target);
    let attacked = attacked.map(|(chosen, class)| attack(args, chosen, class, &settings, &images));
    let attacked = attacked.transpose()?;
    let places = (args.placement, settings.retrain.placement);
    let modeled = args.with.iter().map(|file| {
        let made_by = inputs::sub_model_made_by(file)?;
        seen::check(file, &made_by, &here)?;
        ModeledTriggers::draw((file, &made_by), args.target, places, args.seed)
    });
    let modeled = modeled.collect::<Result<Vec<_>>>()?;
    let frozen = computer.processor.freeze(&loaded.network)?;
    let go_on = || "nothing was measured; the same command starts anew".to_owned();
    let stamps = attacked.as_ref().filter(|_| args.blend.is_none());
    let placement = stamps.map(|attacked| attacked.placement);
    let found = interrupt::stoppable(&frozen, go_on, |frozen| {
        Ok(evaluate(frozen, &images, attacked.as_ref(), args.seed)?)
    })?;
    let fewest = found.stamped.map_or(found.images, |stamped| stamped.images);
    if fewest < FEWEST_IMAGES {
        tracing::warn!(
            "{fewest} images are few: a share of them may be {:.0} points off",
            100.0 / (fewest as f64).sqrt()
        );
    }
    let samples = ModeledTriggers::asrs(&modeled, &frozen, &images, args.seed)?;
    loaded.warn_near_chance(found.clean_accuracy);
    let known = inputs::first(&images, inputs::CHECKED_IMAGES);
    loaded.warn_of_normalization(&known, found.clean_accuracy)?;
    let measured = Measured {
        model: args.model.display().to_string(),
        data: data.name.to_string(),
        split,
        images: found.images,
        target: args.target,
        trigger: chosen.map(|chosen| chosen.name),
        blend: args.blend,
        placement: placement.and_then(super::placement_words),
        clean_accuracy: found.clean_accuracy,
        asr: found.stamped.map(|stamped| stamped.asr),
        regained_accuracy: found.stamped.map(|stamped| stamped.regained_accuracy),
        samples,
    };
    let stamped = found.stamped.map_or(0, |stamped| stamped.images);
    output::result(json, &measured, &measured.plain(stamped))
}

/// Refuses options that nothing would come of.
fn check(args: &Evaluate) -> Result<()> {
    if args.trigger.is_none() && args.with.is_empty() {
        let said = [
            ("--placement", args.placement.is_some()),
            ("--target", args.target.is_some()),
        ];
        if let Some((option, _)) = said.into_iter().find(|(_, is_said)| *is_said) {
            let reason =
                format!("{option}: nothing is stamped; name what with --trigger or --with");
            return Err(Usage(reason).into());
        }
    }
    if args.split == SplitName::Test && !args.with.is_empty() {
        let reason = "--with: triggers were modeled with some of the images that --split test takes; leave out one";
        return Err(Usage(reason.to_owned()).into());
    }
    Ok(())
}

/// The trigger that is stamped, and where.
fn attack(
    args: &Evaluate,
    chosen: &ChosenTrigger,
    target_class: u32,
    settings: &ExperimentConfig,
    images: &Images,
) -> Result<Attacked> {
    let placement = match args.blend {
        Some(_) => WHOLE_IMAGE,
        None => args.placement.unwrap_or(settings.backdoor.placement),
    };
    let trigger = chosen.for_images(images.size(), args.blend)?;
    check_placement(placement, trigger.size())?;
    Ok(Attacked {
        trigger,
        target_class,
        placement,
    })
}

impl Measured {
    /// The same for people; so many images were stamped with the trigger.
    fn plain(&self, stamped: usize) -> String {
        let mut plain = format!(
            "{} on {} images of {} ({})\n  clean accuracy     {}",
            self.model,
            self.images,
            self.data,
            self.split,
            output::percent(self.clean_accuracy)
        );
        if let (Some(trigger), Some(target)) = (&self.trigger, self.target)
            && let (Some(asr), Some(regained)) = (self.asr, self.regained_accuracy)
        {
            let (asr, regained) = (output::percent(asr), output::percent(regained));
            let mut how = self.blend.map_or_else(String::new, |share| {
                format!(" as {} of the image", output::percent(share.into()))
            });
            if let Some(places) = &self.placement {
                let _ = write!(how, " at {places}");
            }
            plain = format!(
                "{plain}\n  ASR                {asr}  (trigger {trigger}{how}, target class {target}, \
                 {stamped} images)\n  regained accuracy  {regained}"
            );
        }
        for sampled in &self.samples {
            let _ = write!(
                plain,
                "\n  ASR of samples     {}  ({}, target class {}, {} images)",
                output::percent(sampled.asr),
                sampled.sub_model,
                sampled.target,
                sampled.images
            );
        }
        plain
    }
}
