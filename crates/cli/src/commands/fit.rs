//! `mesa fit`: model the triggers of a network.

use std::iter;

use anyhow::{Result, ensure};
use mesa_defense::DetectionRule;
use serde::Serialize;
use serde_json::json;

use crate::args::Fit;
use crate::computer::Computer;
use crate::modeled_triggers::TARGET_CLASS;
use crate::resume::{StateFile, Watch};
use crate::{inputs, logging, output, seen, stages};

#[derive(Serialize)]
struct Fitted {
    output: String,
    data: String,
    beta: f64,
    sample_asr: f64,
    in_level_set: f64,
    sample_mean: f64,
    sample_std: f64,
    wall_s: f64,
}

pub(crate) fn run(args: &Fit, json: bool) -> Result<()> {
    logging::start(None)?;
    let files = iter::once(args.model.as_path());
    let files = files.chain(super::shared_inputs(&args.preset, &args.data));
    super::check_not_input(&args.output, files)?;
    super::check_output(&args.output)?;
    let computer = Computer::open(&args.running.device)?;
    let (_, mut settings) = inputs::settings(&args.preset, "cpu")?;
    settings.place(args.placement.placement)?;
    let asked = &mut settings.mesa;
    asked.learning_rate = args.learning_rate.unwrap_or(asked.learning_rate);
    asked.alpha = args.alpha.unwrap_or(asked.alpha);
    asked.validate()?;
    let suspect = inputs::network(&args.model, args.normalize.normalize)?;
    let classes = suspect.info.config.num_classes;
    ensure!(
        (args.target as usize) < classes,
        "--target {}: the network has the classes 0 to {}",
        args.target,
        classes - 1
    );
    let data = suspect.clean_data(&args.data, &settings.data)?;
    let settings = settings.for_data(&data);
    let mut config = settings.mesa.clone();
    config.epochs = args.epochs.unwrap_or(config.epochs);
    config.validate()?;
    let images = inputs::defense_images(&data, &settings.data)?;
    suspect.check_normalization(images.images())?;
    let placement = settings.retrain.placement;
    let detail = json!({
        "config": config, "beta": args.beta, "seed": args.seed, "target": args.target,
        "images": settings.data, "placement": placement, "model": suspect.sha256,
    });
    let key = super::key("fit", &data.digest, computer.tell(detail));
    let after = json!({"fit": key, "samples": settings.samples});
    let state = StateFile::beside(&args.output, key);
    let samples_state = state.part("samples", super::key("samples", &data.digest, after));
    let mut watch = Watch::new(
        &format!("mesa:{}", args.beta),
        Some(state),
        args.running.save_every,
    );
    tracing::info!(
        "modeling triggers of class {} at β = {} with {} images of {}, {} epochs",
        args.target,
        args.beta,
        images.images().len(),
        data.name,
        config.epochs
    );
    let frozen = computer.processor.freeze(&suspect.network)?;
    let testing = inputs::testing(&config, args.target, placement);
    let sub_model = stages::fit(
        &computer.processor,
        frozen.clone(),
        images.clone(),
        testing,
        (&config, args.beta),
        args.seed,
        &mut watch,
    )?;
    let test = settings.sample_test(args.target, &images);
    let fit_s = watch.effort().wall_s;
    let mut testing = Watch::new("samples", Some(samples_state), args.running.save_every);
    let found = stages::sample_test(&frozen, &sub_model, &images, test, args.seed, &mut testing)?;
    let made_by = super::made_by(&[
        ("data", data.name.to_string()),
        ("model_sha256", suspect.sha256),
        (TARGET_CLASS, args.target.to_string()),
        (seen::SPLIT, seen::split_words(&data, &settings.data)),
        ("config", serde_json::to_string(&config)?),
    ]);
    let made_by = super::placed(made_by, placement);
    sub_model.save(&args.output, &made_by)?;
    let fitted = Fitted {
        output: args.output.display().to_string(),
        data: data.name.to_string(),
        beta: args.beta,
        sample_asr: found.sample_asr,
        in_level_set: found.in_level_set,
        sample_mean: found.sample_mean,
        sample_std: found.sample_std,
        wall_s: fit_s + testing.effort().wall_s,
    };
    testing.done();
    watch.done();
    fitted.warn(args.target);
    output::result(json, &fitted, &fitted.plain())
}

impl Fitted {
    /// Warns where the class is not likely to be the attacked one.
    fn warn(&self, target: u32) {
        if self.sample_asr < DetectionRule::standard().sample_asr {
            tracing::warn!(
                "the triggers turn only {} of the images into class {target}: no backdoor that works wherever such \
                 triggers stand was found in this class. One that works in some places only looks like this as \
                 well: `mesa detect` finds the places, and tries all classes",
                output::percent(self.sample_asr)
            );
        }
    }

    fn plain(&self) -> String {
        format!(
            "{}: ASR of samples {}, share with F ≥ {} {}, pixels {:.2} ± {:.2}",
            self.output,
            output::percent(self.sample_asr),
            self.beta,
            output::percent(self.in_level_set),
            self.sample_mean,
            self.sample_std
        )
    }
}
