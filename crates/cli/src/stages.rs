//! The four trainings (clean network, attack, sub-model, repair), the search of the baseline, the test of
//! samples and the evaluation, each on whatever it is given: the single commands and the whole run
//! differ only in where things come from and go.

use std::sync::Arc;

use anyhow::Result;
use mesa::{
    EntropyConfig, EntropyEstimate, EntropyMeasurement, MesaConfig, SubModel, SubModelFit,
    TestingFunction,
};
use mesa_attack::{AttackConfig, Attacked, Evaluation, PoisonedBatches, StampedEvaluation};
use mesa_datasets::{Images, Trigger};
use mesa_defense::{
    AttackSuccess, AttackSuccessConfig, DefenseImages, PointConfig, RetrainBatches, RetrainConfig,
    ReversedTrigger, SampleSuccess, SampleTest, SampleTesting, TriggerSource, reverse_trigger,
};
use mesa_models::{
    BatchSource, Classifier, Network, Normalization, Processor, ResNetConfig, Seeds, Trainer,
    TrainingConfig,
};

use crate::augmented::AugmentedBatches;
use crate::computer::tell_refusal;
use crate::config::PretrainConfig;
use crate::interrupt::{how_to_start_anew, stoppable};
use crate::resumable::{Extent, IMAGES};
use crate::resume::Watch;

/// Trains a clean network from nothing.
pub(crate) fn pretrain(
    processor: &Processor,
    images: Images,
    shape: ResNetConfig,
    normalization: Normalization,
    config: &PretrainConfig,
    watch: &mut Watch,
) -> Result<Network> {
    let mut rng = Seeds::new(config.seed, "pretrain/weights").start();
    let network = Network::resnet(shape, normalization, &mut rng)?;
    let mut batches =
        AugmentedBatches::new(images, config.training.batch_size, "pretrain", config.seed)?;
    train(processor, network, &config.training, &mut batches, watch)
}

/// Plants a backdoor.
pub(crate) fn attack(
    processor: &Processor,
    clean: Network,
    images: Images,
    trigger: &Trigger,
    config: &AttackConfig,
    seed: u64,
    watch: &mut Watch,
) -> Result<Network> {
    config.validate(clean.config().num_classes)?;
    let mut batches = PoisonedBatches::new(images, trigger.clone(), config, seed)?;
    train(processor, clean, &config.training, &mut batches, watch)
}

/// Fits the sub-model of one β.
pub(crate) fn fit(
    processor: &Processor,
    suspect: Arc<dyn Classifier>,
    images: DefenseImages,
    testing: AttackSuccessConfig,
    (config, beta): (&MesaConfig, f64),
    seed: u64,
    watch: &mut Watch,
) -> Result<SubModel> {
    let mut testing = AttackSuccess::new(suspect, images, testing, seed)?;
    let seeds = Seeds::new(seed, "mesa/fit");
    let mut fit = SubModelFit::new(processor, config.clone(), beta, seeds)?;
    let extent = Extent {
        epochs: config.epochs,
        steps_per_epoch: testing.steps_per_epoch(config.batch_size),
        batch_size: config.batch_size,
        unit: IMAGES,
    };
    watch.take_up(&mut fit, extent)?;
    fit.run(&mut testing, &mut |fit| watch.observe(fit))?;
    watch.finish(&fit)?;
    Ok(fit.into_sub_model()?)
}

/// Measures how widely a sub-model spreads.
pub(crate) fn entropy(
    processor: &Processor,
    sub_model: &SubModel,
    config: &EntropyConfig,
    seed: u64,
    watch: &mut Watch,
) -> Result<EntropyEstimate> {
    let seeds = Seeds::new(seed, "entropy");
    let mut measurement = EntropyMeasurement::new(processor, sub_model, config, &seeds)?;
    let extent = Extent {
        epochs: 1,
        steps_per_epoch: config.steps,
        batch_size: config.batch_size,
        unit: "pairs",
    };
    watch.take_up(&mut measurement, extent)?;
    measurement.run(&mut |measurement| watch.observe(measurement))?;
    watch.finish(&measurement)?;
    Ok(measurement.finish()?)
}

/// Tests a sub-model's samples on the network they were fitted on.
pub(crate) fn sample_test(
    suspect: &dyn Classifier,
    sub_model: &SubModel,
    images: &DefenseImages,
    test: SampleTest,
    seed: u64,
    watch: &mut Watch,
) -> Result<SampleSuccess> {
    let mut testing = SampleTesting::new(suspect, sub_model, images, test, seed)?;
    let extent = Extent {
        epochs: 1,
        steps_per_epoch: testing.batches(),
        batch_size: testing.batch_size(),
        unit: IMAGES,
    };
    watch.take_up(&mut testing, extent)?;
    testing.run(suspect, &mut |testing| watch.observe(testing))?;
    watch.finish(&testing)?;
    Ok(testing.finish()?)
}

/// Repairs a backdoored network: retrained with the triggers of a source, or without one trained on as if it
/// were clean, which is what people do first.
pub(crate) fn repair(
    processor: &Processor,
    backdoored: Network,
    images: &DefenseImages,
    source: Option<TriggerSource>,
    config: &RetrainConfig,
    seed: u64,
    watch: &mut Watch,
) -> Result<Network> {
    let training = &config.training;
    let mut batches: Box<dyn BatchSource> = if let Some(source) = source {
        Box::new(RetrainBatches::new(images.clone(), source, config, seed)?)
    } else {
        let (images, size) = (images.images().clone(), training.batch_size);
        Box::new(AugmentedBatches::new(images, size, "fine-tune", seed)?)
    };
    train(processor, backdoored, training, &mut *batches, watch)
}

/// Reverses one trigger by its pixels; what Ctrl-C stops starts anew.
pub(crate) fn reverse(
    suspect: &dyn Classifier,
    images: &DefenseImages,
    config: &PointConfig,
    size: (usize, usize),
    target_class: u32,
    seed: u64,
) -> Result<ReversedTrigger> {
    stoppable(suspect, how_to_start_anew, |suspect| {
        let found = reverse_trigger(suspect, images, config, size, target_class, seed);
        Ok(found?)
    })
}

/// Evaluates a network, between two batches of which Ctrl-C ends it.
pub(crate) fn evaluate(
    classifier: &dyn Classifier,
    images: &Images,
    attacked: Option<&Attacked>,
    seed: u64,
) -> Result<Evaluation> {
    stoppable(classifier, how_to_start_anew, |classifier| {
        Ok(mesa_attack::evaluate(classifier, images, attacked, seed)?)
    })
}

/// The same on stamped images alone.
pub(crate) fn evaluate_stamped(
    classifier: &dyn Classifier,
    images: &Images,
    attacked: &Attacked,
    seed: u64,
) -> Result<StampedEvaluation> {
    stoppable(classifier, how_to_start_anew, |classifier| {
        Ok(mesa_attack::evaluate_stamped(
            classifier, images, attacked, seed,
        )?)
    })
}

fn train(
    processor: &Processor,
    network: Network,
    config: &TrainingConfig,
    batches: &mut dyn BatchSource,
    watch: &mut Watch,
) -> Result<Network> {
    let extent = Extent {
        epochs: config.epochs,
        steps_per_epoch: batches.steps_per_epoch(),
        batch_size: config.batch_size,
        unit: IMAGES,
    };
    let mut trainer = Trainer::new(network, config.clone())?.on(processor);
    watch.take_up(&mut trainer, extent)?;
    trainer.run(batches, &mut |trainer| watch.observe(trainer))?;
    tell_refusal(processor);
    watch.finish(&trainer)?;
    Ok(trainer.into_network())
}
