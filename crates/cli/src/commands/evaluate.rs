//! `mesa evaluate`: measure a network.

use std::fmt::Write as _;

use anyhow::Result;
use mesa_attack::{Attacked, evaluate};
use mesa_record::TriggerName;
use serde::Serialize;

use super::WHOLE_IMAGE;
use crate::args::{Evaluate, SplitName};
use crate::chosen_trigger::ChosenTrigger;
use crate::computer::Computer;
use crate::config::check_placement;
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
}

/// Below so many images a share of them is off by more than five points at times: two standard errors of a half
/// are 1 / √n.
const FEWEST_IMAGES: usize = 400;

pub(crate) fn run(args: &Evaluate, json: bool) -> Result<()> {
    logging::start(None)?;
    let computer = Computer::open(&args.device)?;
    let chosen = args.trigger.as_deref().map(ChosenTrigger::read);
    let chosen = chosen.transpose()?;
    let (_, settings) = inputs::settings(&args.preset, "cpu")?;
    let loaded = inputs::network(&args.model, args.normalize.normalize)?;
    let data = loaded.data(&args.data, &settings.data)?;
    let settings = settings.for_data(&data);
    let (split, images) = match args.split {
        SplitName::Evaluation => {
            let here = seen::split_words(&data, &settings.data);
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
    let attacked = chosen
        .as_ref()
        .zip(args.target)
        .map(|(chosen, target_class)| {
            let placement = match args.blend {
                Some(_) => WHOLE_IMAGE,
                None => args.placement.unwrap_or(settings.backdoor.placement),
            };
            let trigger = chosen.for_images(images.size(), args.blend)?;
            check_placement(placement, trigger.size())?;
            anyhow::Ok(Attacked {
                trigger,
                target_class,
                placement,
            })
        })
        .transpose()?;
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
    };
    let mut plain = format!(
        "{} on {} images of {} ({split})\n  clean accuracy     {}",
        measured.model,
        measured.images,
        measured.data,
        output::percent(measured.clean_accuracy)
    );
    if let (Some(trigger), Some(target), Some(stamped)) =
        (&measured.trigger, measured.target, found.stamped)
    {
        let (asr, regained) = (
            output::percent(stamped.asr),
            output::percent(stamped.regained_accuracy),
        );
        let images = stamped.images;
        let mut how = args.blend.map_or_else(String::new, |share| {
            format!(" as {} of the image", output::percent(share.into()))
        });
        if let Some(places) = &measured.placement {
            let _ = write!(how, " at {places}");
        }
        plain = format!(
            "{plain}\n  ASR                {asr}  (trigger {trigger}{how}, target class {target}, \
             {images} images)\n  regained accuracy  {regained}"
        );
    }
    output::result(json, &measured, &plain)
}
