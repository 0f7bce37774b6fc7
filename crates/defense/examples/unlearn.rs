//! Models the triggers of a small backdoored network, and retrains it with samples of the model.
//!
//! The trigger is larger than the paper's and always in one place, so that so small a network
//! learns it in a minute.
//!
//! ```text
//! cargo run --release -p mesa-defense --example unlearn
//! ```
#![expect(clippy::print_stdout, reason = "an example shows what it finds")]

use std::error::Error;
use std::ops::ControlFlow;

use candle::{Device, Tensor};
use mesa::{MesaConfig, Processor, SubModelFit};
use mesa_datasets::{
    Images, Placement, Stamps, Trigger, TriggerId, hits, poison, split, synthetic,
};
use mesa_defense::{
    AttackSuccess, AttackSuccessConfig, DefenseImages, RetrainBatches, RetrainConfig, SampleTest,
    TriggerSource, sample_success,
};
use mesa_models::{
    BatchSource, BoxError, EpochOrder, FrozenClassifier, Network, Normalization, Position,
    ResNetConfig, Schedule, Seeds, Trainer, TrainingConfig,
};

const TARGET_CLASS: u32 = 0;
const BATCH_SIZE: usize = 32;
const PLACEMENT: Placement = Placement::Fixed {
    row: 26,
    column: 26,
};

/// What the attacker did: three images in ten are stamped and relabelled.
struct Poisoned(Images, Trigger);

impl BatchSource for Poisoned {
    fn steps_per_epoch(&self) -> usize {
        self.0.len() / BATCH_SIZE
    }

    fn batch(&mut self, at: Position) -> Result<(Tensor, Tensor), BoxError> {
        let mut order = EpochOrder::new(Seeds::new(0, "order"), self.0.len());
        let mut batch = self.0.batch(order.batch(at, BATCH_SIZE));
        let mut rng = Seeds::new(0, "poison").at(at);
        let images = hits(&mut rng, batch.len(), 0.3)?;
        let (count, size) = (images.len(), self.1.size());
        let places = PLACEMENT.places(&mut rng, count, batch.size(), size)?;
        let stamps = Stamps { images, places };
        poison(&mut batch, &stamps, self.1.patches(), Some(TARGET_CLASS))?;
        Ok(batch.into_tensors(&Device::Cpu)?)
    }
}

fn train(
    network: Network,
    config: TrainingConfig,
    batches: &mut dyn BatchSource,
) -> Result<Network, Box<dyn Error>> {
    let mut trainer = Trainer::new(network, config)?;
    trainer.run(batches, &mut |_| ControlFlow::Continue(()))?;
    Ok(trainer.into_network())
}

/// Share of images of other classes that the attacker's trigger turns into the target class.
fn asr(
    classifier: &FrozenClassifier,
    images: &Images,
    trigger: &Trigger,
) -> Result<f64, Box<dyn Error>> {
    let mut batch = images.batch(&images.not_of_class(TARGET_CLASS));
    let mut rng = Seeds::new(0, "places").start();
    let places = PLACEMENT.places(&mut rng, batch.len(), batch.size(), trigger.size())?;
    poison(&mut batch, &Stamps::all(places), trigger.patches(), None)?;
    let predicted = classifier.predict(&batch.into_tensors(&Device::Cpu)?.0)?;
    let fooled = predicted
        .iter()
        .filter(|class| **class == TARGET_CLASS)
        .count();
    Ok(fooled as f64 / predicted.len() as f64)
}

fn main() -> Result<(), Box<dyn Error>> {
    let data = synthetic(0, 4_000, 2_500);
    let trigger = "random:7:5x5".parse::<TriggerId>()?.trigger()?;
    let split = split(data.test.len(), 2_000, 0)?;
    let (held, evaluation) = (
        DefenseImages::new(&data.test, &split),
        data.test.select(split.second()),
    );

    let training = TrainingConfig {
        epochs: 5,
        batch_size: BATCH_SIZE,
        learning_rate: 0.05,
        schedule: Schedule::Cosine,
        ..TrainingConfig::paper()
    };
    let shape = ResNetConfig::resnet18(8, data.num_classes());
    let mut rng = Seeds::new(0, "weights").start();
    let network = Network::resnet(shape, Normalization::cifar10(), &mut rng)?;
    let mut poisoned = Poisoned(data.train.clone(), trigger.clone());
    let backdoored = train(network, training.clone(), &mut poisoned)?;
    let suspect = backdoored.freeze()?;
    println!(
        "ASR before          {:5.1} %",
        100.0 * asr(&suspect, &evaluation, &trigger)?
    );

    let config = MesaConfig {
        network_width: 64,
        trigger_shape: [3, 5, 5],
        learning_rate: 1e-3,
        epochs: 20,
        ..MesaConfig::paper()
    };
    let testing = AttackSuccessConfig {
        target_class: TARGET_CLASS,
        trigger_size: trigger.size(),
        placement: PLACEMENT,
        ..AttackSuccessConfig::paper()
    };
    let mut success = AttackSuccess::new(suspect.clone(), held.clone(), testing, 0)?;
    let mut fit = SubModelFit::new(&Processor::Cpu, config, 0.8, Seeds::new(0, "fit"))?;
    fit.run(&mut success, &mut |_| ControlFlow::Continue(()))?;
    let sub_model = fit.into_sub_model()?;
    let test = SampleTest {
        samples: 64,
        images_per_sample: 16,
        placement: PLACEMENT,
        ..SampleTest::standard(TARGET_CLASS)
    };
    let samples = sample_success(&suspect, &sub_model, &held, test, 0)?;
    println!("ASR of the samples  {:5.1} %", 100.0 * samples.sample_asr);

    let config = RetrainConfig {
        stamp_rate: 0.1,
        placement: PLACEMENT,
        training: TrainingConfig {
            learning_rate: 0.01,
            epochs: 3,
            ..training
        },
    };
    let source = TriggerSource::SubModel(sub_model);
    let mut batches = RetrainBatches::new(held, source, &config, 0)?;
    let repaired = train(backdoored, config.training, &mut batches)?.freeze()?;
    println!(
        "ASR after           {:5.1} %",
        100.0 * asr(&repaired, &evaluation, &trigger)?
    );
    Ok(())
}
