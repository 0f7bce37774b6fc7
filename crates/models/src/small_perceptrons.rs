//! Small perceptrons for tests, and a comparison of their gradients with finite differences.

use candle::{Device, Tensor, Var};

use crate::{Generator, PerceptronConfig, Seeds, uniform_noise};

/// Sizes of which none is another.
pub(crate) fn small() -> PerceptronConfig {
    PerceptronConfig {
        noise_dim: 8,
        network_width: 12,
        trigger_shape: [3, 2, 1],
    }
}

/// A generator of [`small`] sizes.
pub(crate) fn generator(seed: u64) -> Generator {
    Generator::new(&mut Seeds::new(seed, "g").start(), small()).unwrap()
}

/// Noise for five triggers of [`small`] sizes.
pub(crate) fn noise(seed: u64) -> Tensor {
    uniform_noise(&mut Seeds::new(seed, "z").start(), 5, 8).unwrap()
}

/// All numbers of a tensor.
pub(crate) fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

/// Moves one weight up and down and compares the loss's slope with its exact gradient.
pub(crate) fn assert_slope(name: &str, var: &Var, exact: &Tensor, loss: &mut dyn FnMut() -> f32) {
    let before = values(var);
    let at = before.len() / 2;
    let mut moved = |by: f32| {
        let mut after = before.clone();
        after[at] += by;
        let after = Tensor::from_vec(after, var.shape(), &Device::Cpu).unwrap();
        var.set(&after).unwrap();
        loss()
    };
    let numeric = (moved(2e-3) - moved(-2e-3)) / 4e-3;
    moved(0.0);
    let exact = values(exact)[at];
    let close = (numeric - exact).abs() < 2e-3 + 0.02 * exact.abs();
    assert!(close, "{name}: {numeric} {exact}");
}
