//! `mesa defend`: remove a backdoor.

use std::fmt::Write as _;
use std::iter;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use mesa::{EntropyConfig, EntropyEstimate, Staircase, SubModel};
use mesa_datasets::{Placement, Trigger};
use mesa_defense::{Ensemble, RetrainConfig, ReversedTrigger, TriggerSource};
use mesa_models::{Metadata, Processor, save_network};
use mesa_record::file_digest;
use serde::Serialize;
use serde_json::json;

use super::WHOLE_IMAGE;
use crate::args::{Control, Defend, SaveEvery};
use crate::chosen_trigger::ChosenTrigger;
use crate::computer::Computer;
use crate::config::{ExperimentConfig, check_placement};
use crate::inputs::Loaded;
use crate::modeled_triggers::{ModeledTriggers, SampledAsr, TARGET_CLASS};
use crate::output::Usage;
use crate::resume::{StateFile, Watch};
use crate::{inputs, logging, output, seen, stages};

#[derive(Serialize)]
struct Repaired {
    output: String,
    data: String,
    method: String,
    clean_accuracy: f64,
    /// What samples of each sub-model did before and do now.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    samples: Vec<Removed>,
    wall_s: f64,
}

/// What samples of a sub-model do, on evaluation images.
#[derive(Serialize)]
struct Removed {
    #[serde(flatten)]
    now: SampledAsr,
    asr_before: f64,
}

pub(crate) fn run(args: &Defend, json: bool) -> Result<()> {
    logging::start(None)?;
    check(args)?;
    let computer = Computer::open(&args.running.device)?;
    let (_, mut settings) = inputs::settings(&args.preset, "cpu")?;
    let fitted = args.with.iter().map(|path| inputs::sub_model_made_by(path));
    let fitted: Vec<_> = fitted.collect::<Result<_>>()?;
    let own = place(args, &fitted, &mut settings)?;
    let chosen = args
        .trigger
        .as_deref()
        .map(ChosenTrigger::read)
        .transpose()?;
    let backdoored = inputs::network(&args.model, args.normalize.normalize)?;
    let data = backdoored.clean_data(&args.data, &settings.data)?;
    let settings = settings.for_data(&data);
    let split = seen::split_words(&data, &settings.data);
    check_seen(args, &backdoored, &fitted, &split)?;
    let trigger = chosen
        .as_ref()
        .map(|chosen| chosen.for_images(data.test.size(), args.blend))
        .transpose()?;
    let images = inputs::defense_images(&data, &settings.data)?;
    backdoored.check_normalization(images.images())?;
    let reverse = |target: u32| -> Result<ReversedTrigger> {
        let [_, height, width] = settings.mesa.trigger_shape;
        let suspect = computer.processor.freeze(&backdoored.network)?;
        let size = (height, width);
        let search = &settings.point.search;
        stages::reverse(&suspect, &images, search, size, target, args.seed)
    };
    let given = (trigger, own.as_slice());
    let (method, source) = source(&computer.processor, args, given, &settings, &reverse)?;
    let config = retraining(args, &settings, source.as_ref())?;
    let (shown, patch) = match &source {
        Some(source) => (json!(config), source.size()),
        None => (json!(config.training), None),
    };
    let own: Vec<Placement> = own.into_iter().flatten().collect();
    check_places(own.iter().copied().chain([config.placement]), patch)?;
    let with = digests(&args.with)?;
    // A file is known by its contents; keys of the others stay.
    let trigger = chosen.map(|chosen| chosen.name.to_string());
    let mut detail = json!({
        "config": shown, "method": method, "with": with, "trigger": trigger,
        "patch": patch,
        "seed": args.seed, "images": settings.data, "model": backdoored.sha256,
        "entropy": settings.entropy,
    });
    if let Some(share) = args.blend {
        detail["blend"] = json!(share);
    }
    if !own.is_empty() {
        detail["places"] = json!(own);
    }
    if let Some(target) = args.target {
        detail["point"] = json!({"target_class": target, "search": settings.point.search});
    }
    let key = super::key("defend", &data.digest, computer.tell(detail));
    let state = StateFile::beside(&args.output, key);
    let mut watch = Watch::new(&method, Some(state), args.running.save_every);
    tracing::info!(
        "retraining by {method} with {} images of {}, {} epochs",
        images.images().len(),
        data.name,
        config.training.epochs
    );
    let evaluation = inputs::evaluation_images(&data, &settings.data)?;
    let modeled = modeled(args, &fitted, settings.retrain.placement)?;
    let suspect = computer.processor.freeze(&backdoored.network)?;
    let before = ModeledTriggers::asrs(&modeled, &suspect, &evaluation, args.seed)?;
    let network = stages::repair(
        &computer.processor,
        backdoored.network,
        &images,
        source,
        &config,
        args.seed,
        &mut watch,
    )?;
    let repaired = computer.processor.freeze(&network)?;
    let found = stages::evaluate(&repaired, &evaluation, None, args.seed)?;
    let made_by = super::made_by(&[
        ("data", data.name.to_string()),
        ("model_sha256", backdoored.sha256),
        ("method", method.clone()),
        (seen::SPLIT, split),
        ("config", shown.to_string()),
    ]);
    save_network(&args.output, &network, &made_by)?;
    let now = ModeledTriggers::asrs(&modeled, &repaired, &evaluation, args.seed)?;
    let repaired = Repaired {
        output: args.output.display().to_string(),
        data: data.name.to_string(),
        method,
        clean_accuracy: found.clean_accuracy,
        samples: removed(now, &before),
        wall_s: watch.effort().wall_s,
    };
    watch.done();
    inputs::warn_of_ruin(found.clean_accuracy, data.num_classes());
    output::result(json, &repaired, &repaired.plain(found.images))
}

/// Samples of the sub-models, but for those of earlier versions, which do not say their class.
fn modeled(args: &Defend, fitted: &[Metadata], usual: Placement) -> Result<Vec<ModeledTriggers>> {
    let known = args.with.iter().map(PathBuf::as_path).zip(fitted);
    let known = known.filter(|(_, made_by)| made_by.contains_key(TARGET_CLASS));
    let places = (args.placement, usual);
    let drawn = known.map(|known| ModeledTriggers::draw(known, None, places, args.seed));
    drawn.collect()
}

fn digests(files: &[PathBuf]) -> Result<Vec<String>> {
    let digests = files.iter().map(|path| file_digest(path));
    Ok(digests.collect::<Result<_, _>>()?)
}

/// What samples do now beside what they did before.
fn removed(now: Vec<SampledAsr>, before: &[SampledAsr]) -> Vec<Removed> {
    let pairs = now.into_iter().zip(before);
    let removed = pairs.map(|(now, before)| Removed {
        now,
        asr_before: before.asr,
    });
    removed.collect()
}

/// Refuses what the repair that was asked for would leave out, and an output that cannot be one.
fn check(args: &Defend) -> Result<()> {
    let stamps = !matches!(args.control, Some(Control::FineTune | Control::NoTrigger));
    let useless = [
        (
            args.trigger.is_some() && args.control != Some(Control::Ideal),
            "--trigger: only `--control ideal` stamps the attacker's own",
        ),
        (
            args.poison_rate.is_some() && !stamps,
            "--poison-rate: `--control fine-tune` and `no-trigger` stamp nothing",
        ),
        (
            args.placement.is_some() && !stamps,
            "--placement: `--control fine-tune` and `no-trigger` stamp nothing",
        ),
        (
            args.target.is_some() && args.control != Some(Control::Point),
            "--target: only `--control point` has to know the attacked class",
        ),
        (
            args.weighted && args.with.len() < 2,
            "--weighted: it mixes several sub-models, each with a --with of its own",
        ),
    ];
    if let Some((_, reason)) = useless.into_iter().find(|(is_so, _)| *is_so) {
        return Err(Usage(reason.to_owned()).into());
    }
    super::check_not_input(&args.output, files_read(args))?;
    super::check_output(&args.output)
}

impl Repaired {
    fn plain(&self, images: usize) -> String {
        let mut plain = format!(
            "{}: clean accuracy {} on the {images} evaluation images of {}",
            self.output,
            output::percent(self.clean_accuracy),
            self.data
        );
        for Removed { now, asr_before } in &self.samples {
            let _ = write!(
                plain,
                "\n  samples of {} turn {} of them into class {}, {} before",
                now.sub_model,
                output::percent(now.asr),
                now.target,
                output::percent(*asr_before)
            );
        }
        if !self.samples.is_empty() {
            // What a sub-model does not hold, its samples do not show.
            plain.push_str(
                "\n  these are like those that it was retrained with; whether others are left, `mesa detect` says",
            );
        }
        plain.push_str("\n  for the ASR of a trigger that is known: mesa evaluate --trigger");
        plain
    }
}

/// The files that the command reads.
fn files_read(args: &Defend) -> impl Iterator<Item = &Path> {
    let with = args.with.iter().map(PathBuf::as_path);
    let trigger = args.trigger.as_deref().map(Path::new);
    let own = iter::once(args.model.as_path()).chain(with).chain(trigger);
    own.chain(super::shared_inputs(&args.preset, &args.data))
}

/// Has triggers stamped where the command line says, else where the sub-models were fitted, by what
/// their files say; returns the place of each, where those are several.
fn place(
    args: &Defend,
    fitted: &[Metadata],
    settings: &mut ExperimentConfig,
) -> Result<Vec<Option<Placement>>> {
    if let Some(placement) = args.placement {
        settings.retrain.placement = placement;
        settings.point.search.placement = placement;
        return Ok(vec![None; fitted.len()]);
    }
    let places = fitted.iter().map(super::placement_of);
    let places: Vec<Option<Placement>> = places.collect::<Result<_>>()?;
    if places.iter().any(|place| *place != places[0]) {
        if args.weighted {
            let reason = "--weighted: the triggers were modeled in several places; --placement says \
                          where to stamp them";
            return Err(Usage(reason.to_owned()).into());
        }
        let anywhere = settings.retrain.placement;
        let words = places
            .iter()
            .map(|place| place.unwrap_or(anywhere).to_string());
        let words: Vec<String> = words.collect();
        tracing::info!(
            "stamping where the triggers were modeled: {} by turns",
            words.join(", ")
        );
        return Ok(places);
    }
    if let Some(place) = places.first().copied().flatten() {
        tracing::info!("stamping where the triggers were modeled: {place}");
        settings.retrain.placement = place;
    }
    Ok(vec![None; fitted.len()])
}

/// Refuses sub-models whose turn would never come: they take one epoch each.
fn check_turns(source: Option<&TriggerSource>, epochs: usize) -> Result<()> {
    let turns = match source {
        Some(TriggerSource::Turns(ensemble)) => ensemble.turns(),
        _ => 0,
    };
    if turns <= epochs {
        return Ok(());
    }
    let reason = format!(
        "--with: {turns} sub-models take turns, an epoch each, and of {epochs} epochs some would get none: --epochs \
         {turns} has one for each"
    );
    Err(Usage(reason).into())
}

/// Refuses a place in which a patch does not fit.
fn check_places(
    mut places: impl Iterator<Item = Placement>,
    patch: Option<(usize, usize)>,
) -> Result<()> {
    places.try_for_each(|place| patch.map_or(Ok(()), |patch| check_placement(place, patch)))
}

/// Refuses a network and sub-models whose making saw other images.
fn check_seen(args: &Defend, backdoored: &Loaded, fitted: &[Metadata], split: &str) -> Result<()> {
    seen::check(&args.model, &backdoored.info.made_by, split)?;
    for (path, made_by) in args.with.iter().zip(fitted) {
        seen::check(path, made_by, split)?;
        warn_of_another_network(path, made_by, (&args.model, &backdoored.sha256));
    }
    check_alike(args, fitted)
}

/// Refuses to weigh sub-models of different classes or networks: their entropies are those of different
/// functions, and say nothing of each other.
fn check_alike(args: &Defend, fitted: &[Metadata]) -> Result<()> {
    let known = |key: &str| {
        let mut values: Vec<&String> = fitted.iter().filter_map(|one| one.get(key)).collect();
        values.sort();
        values.dedup();
        values.len()
    };
    if args.weighted && (known(TARGET_CLASS) > 1 || known("model_sha256") > 1) {
        let reason = "--weighted: it mixes sub-models of one network and one class, for several β; without \
                      it those of several take turns";
        return Err(Usage(reason.to_owned()).into());
    }
    Ok(())
}

/// Warns of a sub-model that was fitted to another network.
fn warn_of_another_network(path: &Path, made_by: &Metadata, (model, sha256): (&Path, &str)) {
    if made_by.get("model_sha256").is_some_and(|of| of != sha256) {
        tracing::warn!(
            "{} was fitted to another network than {}, or to the same network in another file format or with another \
             normalization",
            path.display(),
            model.display()
        );
    }
}

/// The settings of the retraining, with what the command line says instead.
fn retraining(
    args: &Defend,
    settings: &ExperimentConfig,
    source: Option<&TriggerSource>,
) -> Result<RetrainConfig> {
    let mut config = settings.retrain.clone();
    config.stamp_rate = args.poison_rate.unwrap_or(config.stamp_rate);
    if source.is_none() {
        config.training = settings.fine_tune.clone();
    }
    if args.blend.is_some() {
        config.placement = WHOLE_IMAGE;
    }
    config.training.epochs = args.epochs.unwrap_or(config.training.epochs);
    config.training.learning_rate = args.learning_rate.unwrap_or(config.training.learning_rate);
    config.validate()?;
    check_turns(source, config.training.epochs)?;
    Ok(config)
}

/// The method's name, and where the triggers come from; `None` for the one that only trains on. Given are
/// the attacker's trigger and the place of each sub-model, where they are several.
fn source(
    processor: &Processor,
    args: &Defend,
    (trigger, own): (Option<Trigger>, &[Option<Placement>]),
    settings: &ExperimentConfig,
    reverse: &dyn Fn(u32) -> Result<ReversedTrigger>,
) -> Result<(String, Option<TriggerSource>)> {
    if let Some(control) = args.control {
        let (method, source) = match control {
            Control::FineTune => return Ok(("fine-tune".to_owned(), None)),
            Control::NoTrigger => ("no-trigger", TriggerSource::None),
            Control::Random => {
                let [_, height, width] = settings.mesa.trigger_shape;
                let size = (height, width);
                ("random", TriggerSource::Random { size })
            }
            Control::Point => {
                let target = args.target.context("`--control point` needs --target")?;
                ("point", TriggerSource::Reversed(reverse(target)?))
            }
            Control::Ideal => {
                let trigger = trigger.context("`--control ideal` needs --trigger")?;
                ("ideal", TriggerSource::Ideal(trigger))
            }
        };
        return Ok((method.to_owned(), Some(source)));
    }
    let mut sub_models: Vec<SubModel> = args
        .with
        .iter()
        .map(|path| inputs::sub_model(path))
        .collect::<Result<_>>()?;
    if args.weighted {
        let staircase = weigh(processor, sub_models, &settings.entropy, args.seed)?;
        return Ok((
            "ensemble:weighted".to_owned(),
            Some(TriggerSource::Weighted(staircase)),
        ));
    }
    if sub_models.len() == 1 {
        let sub_model = sub_models.remove(0);
        let method = format!("mesa:{}", sub_model.info().beta);
        return Ok((method, Some(TriggerSource::SubModel(sub_model))));
    }
    let turns = sub_models.into_iter().zip(own.iter().copied());
    Ok((
        "ensemble:turns".to_owned(),
        Some(TriggerSource::Turns(Ensemble::placed(turns.collect())?)),
    ))
}

/// Measures the sub-models' entropies and mixes them by these.
fn weigh(
    processor: &Processor,
    sub_models: Vec<SubModel>,
    config: &EntropyConfig,
    seed: u64,
) -> Result<Staircase> {
    Staircase::check_alike(&sub_models).map_err(|error| Usage(format!("--weighted: {error}")))?;
    let found = sub_models
        .iter()
        .map(|sub_model| {
            let label = format!("entropy-{}", sub_model.info().beta);
            let mut watch = Watch::new(&label, None, SaveEvery::Epoch);
            stages::entropy(processor, sub_model, config, seed, &mut watch)
        })
        .collect::<Result<Vec<_>>>()?;
    let (staircase, weights) = Staircase::weighed(sub_models, &found)?;
    let mixed = staircase.sub_models().iter().zip(&found);
    for (index, (sub_model, found)) in mixed.enumerate() {
        tracing::info!(
            "γ of β = {}: {:.3} ± {:.3} ({:.3} at equal h); information {:.2} ± {:.2} nats, \
             h ≤ {:.2} nats",
            sub_model.info().beta,
            weights.gamma[index],
            weights.gamma_se[index],
            weights.gamma_at_equal_entropy[index],
            found.information_nats,
            found.information_se,
            found.gaussian_bound_nats
        );
    }
    let fails = |found: &EntropyEstimate| found.information_nats < -2.0 * found.information_se;
    if found.iter().any(fails) {
        tracing::warn!(
            "an estimate of the information is below zero by more than twice its error, which it never is: γ \
             cannot be read"
        );
    } else if !weights.readable {
        tracing::warn!(
            "the measured entropy does not fall as β rises by more than its error: γ cannot be read"
        );
    }
    Ok(staircase)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::{Cli, Command};

    fn args_of(line: &str) -> Defend {
        let Command::Defend(args) = Cli::parse_from(line.split(' ')).command else {
            unreachable!("that is what was parsed")
        };
        args
    }

    #[test]
    fn sub_models_of_several_classes_or_networks_are_not_weighed() {
        let of = |class: &str, model: &str| {
            let entries = [(TARGET_CLASS, class), ("model_sha256", model)];
            let entries = entries.map(|(name, value)| (name.to_owned(), value.to_owned()));
            Metadata::from(entries)
        };
        let weighted = args_of("mesa defend m --with a b --weighted -o x");
        let turns = args_of("mesa defend m --with a b -o x");
        for (fitted, is_refused) in [
            ([of("0", "m"), of("0", "m")], false),
            ([of("0", "m"), of("3", "m")], true),
            ([of("0", "m"), of("0", "n")], true),
        ] {
            assert_eq!(check_alike(&weighted, &fitted).is_err(), is_refused);
            assert!(check_alike(&turns, &fitted).is_ok());
        }
    }

    #[test]
    fn random_patches_have_the_size_of_the_settings_triggers() {
        let args = args_of("mesa defend m --control random -o x");
        let mut settings = ExperimentConfig::paper();
        settings.mesa.trigger_shape = [3, 2, 5];
        let reverse = |_| unreachable!("nothing is reversed for random patches");
        let (method, source) =
            source(&Processor::Cpu, &args, (None, &[]), &settings, &reverse).unwrap();
        let size = source.unwrap().size();
        assert_eq!((method.as_str(), size), ("random", Some((2, 5))));
    }
}
