//! Small stand-ins for tests.

use mesa::{MesaConfig, SubModel, SubModelFit};
use mesa_models::{FrozenClassifier, Network, Normalization, Processor, ResNetConfig, Seeds};
use rand::Rng;

/// An untrained classifier of ten classes.
pub(crate) fn classifier() -> FrozenClassifier {
    let config = ResNetConfig::resnet18(4, 10);
    let mut rng = Seeds::new(0, "test").start();
    let network = Network::resnet(config, Normalization::cifar10(), &mut rng).unwrap();
    network.freeze().unwrap()
}

/// `count` 3×3 patches of uniform color.
pub(crate) fn patches(count: usize) -> Vec<f32> {
    let mut rng = Seeds::new(1, "test").start();
    (0..27 * count).map(|_| rng.random()).collect()
}

/// An untrained generator of 3×3 triggers.
pub(crate) fn sub_model(beta: f64, seed: u64) -> SubModel {
    sub_model_of([3, 3, 3], beta, seed)
}

/// An untrained generator of triggers of any shape.
pub(crate) fn sub_model_of(trigger_shape: [usize; 3], beta: f64, seed: u64) -> SubModel {
    let config = MesaConfig {
        network_width: 8,
        trigger_shape,
        ..MesaConfig::paper()
    };
    let seeds = Seeds::new(seed, "sub-model");
    let fit = SubModelFit::new(&Processor::Cpu, config, beta, seeds).unwrap();
    fit.into_sub_model().unwrap()
}
