//! Small networks of every kind for tests, and their bits.

use candle::{Device, Tensor};
use rand::Rng;

use crate::{FrozenClassifier, Network, Normalization, ResNetConfig, Seeds};

/// Batch norm behind the convolutions, and before; shortcuts that learn nothing.
pub(crate) const KINDS: [&str; 3] = ["resnet18", "preactresnet18", "paddedresnet20"];

/// A network of four classes.
pub(crate) fn network_of(kind: &str, width: usize) -> Network {
    let config = ResNetConfig::new(kind.parse().unwrap(), width, 4);
    let mut rng = Seeds::new(1, "weights").start();
    Network::resnet(config, Normalization::cifar10(), &mut rng).unwrap()
}

/// The bits of everything in a network's state, by name.
pub(crate) fn bits(network: &Network) -> Vec<(String, Vec<u32>)> {
    let values = |tensor: &Tensor| tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let state = network.state().unwrap();
    let of = |(name, tensor): (&String, &Tensor)| {
        (
            name.clone(),
            values(tensor).iter().map(|value| value.to_bits()).collect(),
        )
    };
    state.iter().map(of).collect()
}

/// A classifier of three classes, and the images that its running statistics are of.
pub(crate) fn classifier_and_images(batch: usize) -> (FrozenClassifier, Tensor) {
    classifier_of(KINDS[0], batch)
}

pub(crate) fn classifier_of(kind: &str, batch: usize) -> (FrozenClassifier, Tensor) {
    let mut rng = Seeds::new(4, "weights").start();
    let config = ResNetConfig::new(kind.parse().unwrap(), 6, 3);
    let mut network = Network::resnet(config, Normalization::cifar10(), &mut rng).unwrap();
    let pixels: Vec<f32> = (0..batch * 3072).map(|_| rng.random()).collect();
    let images = Tensor::from_vec(pixels, (batch, 3, 32, 32), &Device::Cpu).unwrap();
    // Running statistics that normalize, so that the classes' scores differ.
    for _ in 0..40 {
        network.training_logits(&images).unwrap();
    }
    (network.freeze().unwrap(), images)
}
