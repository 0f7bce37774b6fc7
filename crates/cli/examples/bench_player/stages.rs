//! All that is done for one trigger, through the library calls that `mesa run` makes.

use std::fmt::Write as _;
use std::ops::ControlFlow;
use std::str::FromStr;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use mesa::{EntropyConfig, MesaConfig, SubModel, SubModelFit, entropy_of};
use mesa_attack::{AttackConfig, Attacked, PoisonedBatches, evaluate};
use mesa_datasets::{Placement, Trigger as Patch, synthetic};
use mesa_defense::{RetrainBatches, RetrainConfig, SampleTest, TriggerSource, sample_success};
use mesa_models::{BatchSource, Network, Processor, Seeds, Trainer, TrainingConfig};

use crate::works::{self, Advance, ENDLESS};

/// Learning rate of preset `cpu`, of attack and retraining.
const LEARNING_RATE: f64 = 0.01;

/// Images that the attacker trains on here; the paper's number only decides how many steps an
/// epoch has, and steps are counted.
const ATTACK_IMAGES: usize = 5_120;

/// Batches that are not counted, before each part.
const WARM: usize = 2;

/// One stage: it is done `times` times and takes `size` units each time, of which `part` are
/// measured. What a unit is depends on the stage: see `xtask/src/bench/trigger.rs`.
#[derive(Clone, Debug)]
pub(crate) struct Stage {
    name: String,
    times: usize,
    size: usize,
    part: usize,
}

impl FromStr for Stage {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let parts: Vec<&str> = text.split(':').collect();
        let [name, times, size, part] = parts[..] else {
            bail!("a stage is NAME:TIMES:SIZE:PART")
        };
        Ok(Self {
            name: name.to_owned(),
            times: times.parse()?,
            size: size.parse()?,
            part: part.parse()?,
        })
    }
}

/// Every stage, ready to go on.
pub(crate) struct Trigger {
    stages: Vec<(Stage, Advance)>,
    whole: bool,
}

impl Trigger {
    pub(crate) fn new(stages: &[Stage], width: usize, whole: bool) -> Result<Self> {
        let stages = stages.iter().map(|stage| {
            let advance = match stage.name.as_str() {
                "attack" => attack(width)?,
                "fit" => works::mesa(width, MesaConfig::paper().batch_size)?,
                "retrain" => retrain(width)?,
                "evaluate" => evaluation(width)?,
                "samples" => samples(width)?,
                "entropy" => entropy()?,
                other => bail!("there is no stage `{other}`"),
            };
            Ok((stage.clone(), advance))
        });
        let stages = stages.collect::<Result<_>>()?;
        Ok(Self { stages, whole })
    }

    /// The seconds of one trigger, the mean of `turns`, and those of each stage.
    pub(crate) fn go(&mut self, turns: usize) -> Result<String> {
        let mut total = 0.0;
        let mut details = String::new();
        for (stage, advance) in &mut self.stages {
            let mut seconds = 0.0;
            for _ in 0..turns {
                advance(WARM * stage.part.div_ceil(20))?;
                let started = Instant::now();
                if self.whole {
                    (0..stage.times).try_for_each(|_| advance(stage.size))?;
                    seconds += started.elapsed().as_secs_f64();
                } else {
                    advance(stage.part)?;
                    let share = stage.part as f64 / (stage.times * stage.size) as f64;
                    seconds += started.elapsed().as_secs_f64() / share;
                }
            }
            seconds /= turns as f64;
            total += seconds;
            write!(details, " {}={seconds}", stage.name)?;
        }
        Ok(format!("{total}{details}"))
    }
}

fn training() -> TrainingConfig {
    TrainingConfig {
        epochs: ENDLESS,
        learning_rate: LEARNING_RATE,
        ..TrainingConfig::paper()
    }
}

/// Units: training steps on poisoned batches.
fn attack(width: usize) -> Result<Advance> {
    let config = AttackConfig {
        training: training(),
        ..AttackConfig::paper()
    };
    let images = synthetic(0, ATTACK_IMAGES, 1).train;
    let batches = PoisonedBatches::new(images, Patch::pattern(170)?, &config, 0)?;
    trainer(works::network(width)?, batches)
}

/// Units: training steps on batches that are stamped with a sub-model's samples.
fn retrain(width: usize) -> Result<Advance> {
    let config = RetrainConfig {
        training: training(),
        ..RetrainConfig::paper()
    };
    let source = TriggerSource::SubModel(sub_model()?);
    let batches = RetrainBatches::new(works::images()?.0, source, &config, 0)?;
    trainer(works::network(width)?, batches)
}

fn trainer(network: Network, mut batches: impl BatchSource + 'static) -> Result<Advance> {
    let mut trainer = Trainer::new(network, training())?;
    Ok(Box::new(move |steps| {
        let end = trainer.steps_done() + steps;
        trainer.run(&mut batches, &mut |trainer| {
            if trainer.steps_done() < end {
                ControlFlow::Continue(())
            } else {
                ControlFlow::Break(())
            }
        })?;
        Ok(())
    }))
}

/// Units: images, evaluated as they are and stamped where they are not of the target class.
fn evaluation(width: usize) -> Result<Advance> {
    let network = works::network(width)?;
    let (_, images) = works::images()?;
    let attacked = Attacked {
        trigger: Patch::pattern(170)?,
        target_class: 0,
        placement: Placement::PerImage,
    };
    Ok(Box::new(move |count| {
        let first: Vec<usize> = (0..count).collect();
        evaluate(
            &network.freeze()?,
            &images.select(&first),
            Some(&attacked),
            0,
        )?;
        Ok(())
    }))
}

/// Units: samples of a sub-model, each stamped on 64 images.
fn samples(width: usize) -> Result<Advance> {
    let frozen = works::network(width)?.freeze()?;
    let (sub_model, (images, _)) = (sub_model()?, works::images()?);
    Ok(Box::new(move |samples| {
        let test = SampleTest {
            samples,
            ..SampleTest::standard(0)
        };
        sample_success(&frozen, &sub_model, &images, test, 0)?;
        Ok(())
    }))
}

/// Units: steps of the statistics network that measures a sub-model's entropy, each with its
/// share of the evaluation on held-out noise.
fn entropy() -> Result<Advance> {
    let sub_model = sub_model()?;
    Ok(Box::new(move |steps| {
        let whole = EntropyConfig::standard();
        let config = EntropyConfig {
            steps,
            held_out: (whole.held_out * steps / whole.steps).max(2),
            ..whole
        };
        entropy_of(
            &Processor::Cpu,
            &sub_model,
            &config,
            &Seeds::new(0, "entropy"),
        )?;
        Ok(())
    }))
}

/// An unfitted sub-model: it samples as fast as a fitted one.
fn sub_model() -> Result<SubModel> {
    let seeds = Seeds::new(0, "bench/sub-model");
    let fit = SubModelFit::new(&Processor::Cpu, MesaConfig::paper(), 0.9, seeds);
    Ok(fit
        .context("the paper's settings are valid")?
        .into_sub_model()?)
}
