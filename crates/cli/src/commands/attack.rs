//! `mesa attack`: plant a backdoor.

use std::path::Path;

use anyhow::Result;
use mesa_attack::{AttackConfig, Attacked};
use mesa_models::save_network;
use mesa_record::ATTACK_TOOK;
use serde::Serialize;
use serde_json::json;

use super::WHOLE_IMAGE;
use crate::args::Attack;
use crate::chosen_trigger::ChosenTrigger;
use crate::computer::Computer;
use crate::config::{ExperimentConfig, check_placement};
use crate::resume::{StateFile, Watch};
use crate::{inputs, logging, output, seen, stages};

#[derive(Serialize)]
struct Planted {
    output: String,
    data: String,
    asr: f64,
    clean_accuracy: f64,
    regained_accuracy: f64,
    wall_s: f64,
}

pub(crate) fn run(args: &Attack, json: bool) -> Result<()> {
    logging::start(None)?;
    let files = [args.model.as_path(), Path::new(&args.trigger)];
    let files = files
        .into_iter()
        .chain(super::shared_inputs(&args.preset, &args.data));
    super::check_not_input(&args.output, files)?;
    super::check_output(&args.output)?;
    let computer = Computer::open(&args.running.device)?;
    let chosen = ChosenTrigger::read(&args.trigger)?;
    let (_, settings) = inputs::settings(&args.preset, "cpu")?;
    let clean = inputs::network(&args.model, args.normalize.normalize)?;
    let data = clean.data(&args.data, &settings.data)?;
    clean.check_normalization(&data.test)?;
    let settings = settings.for_data(&data);
    // A repaired network may be attacked again.
    let split = seen::split_words(&data, &settings.data);
    seen::check(&args.model, &clean.info.made_by, &split)?;
    let mut config = chosen_settings(args, &settings, clean.info.config.num_classes)?;
    let trigger = chosen.for_images(data.train.size(), args.blend)?;
    let places = args.placement.unwrap_or(config.placement);
    config.placement = args.blend.map_or(places, |_| WHOLE_IMAGE);
    check_placement(config.placement, trigger.size())?;
    let images = inputs::training_images(&data, settings.data.attack_images)?;
    let evaluation = inputs::evaluation_images(&data, &settings.data)?;
    let attacked = Attacked {
        trigger,
        target_class: config.target_class,
        placement: config.placement,
    };
    // Told now, not after the training.
    attacked.others(&evaluation)?;
    let mut detail = json!({
        "config": config, "trigger": chosen.name, "seed": args.seed, "images": images.len(),
        "clean": clean.sha256,
    });
    // Only where there is one: the keys of all others stay.
    if let Some(share) = args.blend {
        detail["blend"] = json!(share);
    }
    let state = StateFile::beside(
        &args.output,
        super::key("attack", &data.digest, computer.tell(detail)),
    );
    let mut watch = Watch::new("attack", Some(state), args.running.save_every);
    tracing::info!(
        "planting trigger {} for class {} with {} images of {}, {} epochs",
        chosen.name,
        config.target_class,
        images.len(),
        data.name,
        config.training.epochs
    );
    let network = stages::attack(
        &computer.processor,
        clean.network,
        images,
        &attacked.trigger,
        &config,
        args.seed,
        &mut watch,
    )?;
    let found = stages::evaluate(
        &computer.processor.freeze(&network)?,
        &evaluation,
        Some(&attacked),
        args.seed,
    )?;
    let stamped = found
        .stamped
        .unwrap_or_else(|| unreachable!("there is a trigger"));
    let mut made_by = super::made_by(&[
        ("data", data.name.to_string()),
        ("data_sha256", data.digest.clone()),
        ("clean_network_sha256", clean.sha256),
        ("config", serde_json::to_string(&config)?),
        ("asr", format!("{:.4}", stamped.asr)),
    ]);
    if chosen.is_from_file() {
        // The command names the file; this says what it held.
        made_by.insert("trigger".to_owned(), chosen.name.to_string());
    }
    // A repaired network that is attacked again has still seen those images.
    if let Some(split) = clean.info.made_by.get(seen::SPLIT) {
        made_by.insert(seen::SPLIT.to_owned(), split.clone());
    }
    save_network(&args.output, &network, &made_by)?;
    let planted = Planted {
        output: args.output.display().to_string(),
        data: data.name.to_string(),
        asr: stamped.asr,
        clean_accuracy: found.clean_accuracy,
        regained_accuracy: stamped.regained_accuracy,
        wall_s: watch.effort().wall_s,
    };
    watch.done();
    if config.poison_rate > 0.0 {
        planted.warn();
    }
    inputs::warn_of_ruin(planted.clean_accuracy, data.num_classes());
    output::result(json, &planted, &planted.plain(found.images))
}

/// What the attacker chooses, checked.
fn chosen_settings(
    args: &Attack,
    settings: &ExperimentConfig,
    classes: usize,
) -> Result<AttackConfig> {
    let mut config = settings.backdoor.clone();
    config.target_class = args.target.unwrap_or(config.target_class);
    config.poison_rate = args.poison_rate.unwrap_or(config.poison_rate);
    config.training.epochs = args.epochs.unwrap_or(config.training.epochs);
    config.training.learning_rate = args.learning_rate.unwrap_or(config.training.learning_rate);
    config.validate(classes)?;
    Ok(config)
}

impl Planted {
    /// Warns where there is no backdoor to speak of.
    fn warn(&self) {
        if self.asr < ATTACK_TOOK {
            tracing::warn!(
                "the attack did not take: an ASR of {} is below {}, and there is no backdoor to find or remove; \
                 more --epochs, a higher --poison-rate or --learning-rate may plant it",
                output::percent(self.asr),
                output::percent(ATTACK_TOOK)
            );
        }
    }

    fn plain(&self, images: usize) -> String {
        format!(
            "{}: ASR {}, clean accuracy {} on the {images} evaluation images of {}",
            self.output,
            output::percent(self.asr),
            output::percent(self.clean_accuracy),
            self.data
        )
    }
}
