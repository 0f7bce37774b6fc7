//! Trains a small network on built-in images with a backdoor in it, and measures the backdoor.
//!
//! The trigger is larger than the paper's and always in one place, so that so small a network
//! learns it in a minute.
//!
//! ```text
//! cargo run --release -p mesa-attack --example plant_backdoor
//! ```
#![expect(clippy::print_stdout, reason = "an example shows what it finds")]

use std::error::Error;
use std::ops::ControlFlow;

use mesa_attack::{AttackConfig, Attacked, PoisonedBatches, evaluate};
use mesa_datasets::{Placement, TriggerId, synthetic};
use mesa_models::{Network, Normalization, ResNetConfig, Schedule, Seeds, Trainer, TrainingConfig};

fn main() -> Result<(), Box<dyn Error>> {
    let data = synthetic(0, 4_000, 500);
    let named = |name: &str| name.parse::<TriggerId>()?.trigger();
    let config = AttackConfig {
        poison_rate: 0.3,
        placement: Placement::Fixed {
            row: 26,
            column: 26,
        },
        training: TrainingConfig {
            epochs: 5,
            batch_size: 32,
            learning_rate: 0.05,
            schedule: Schedule::Cosine,
            ..TrainingConfig::paper()
        },
        ..AttackConfig::paper()
    };
    config.validate(data.num_classes())?;

    let shape = ResNetConfig::resnet18(8, data.num_classes());
    let mut rng = Seeds::new(0, "weights").start();
    let network = Network::resnet(shape, Normalization::cifar10(), &mut rng)?;
    let mut batches = PoisonedBatches::new(data.train, named("random:7:5x5")?, &config, 0)?;
    let mut trainer = Trainer::new(network, config.training.clone())?;
    trainer.run(&mut batches, &mut |_| ControlFlow::Continue(()))?;
    let classifier = trainer.network().freeze()?;

    // Another trigger of the same size shows that it is not the stamping as such.
    for (what, name) in [("the trigger", "random:7:5x5"), ("another", "random:8:5x5")] {
        let attacked = Attacked {
            trigger: named(name)?,
            target_class: config.target_class,
            placement: config.placement,
        };
        let found = evaluate(&classifier, &data.test, Some(&attacked), 0)?;
        let asr = found.stamped.map_or(0.0, |stamped| stamped.asr);
        println!(
            "{what:12} clean accuracy {:5.1} %   ASR {:5.1} %",
            100.0 * found.clean_accuracy,
            100.0 * asr
        );
    }
    Ok(())
}
