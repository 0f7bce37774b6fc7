//! Small networks of every kind for tests, and their bits.

use candle::Tensor;

use crate::{Network, Normalization, ResNetConfig, Seeds};

/// Batch norm behind the convolutions, and before.
pub(crate) const KINDS: [&str; 2] = ["resnet18", "preactresnet18"];

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
