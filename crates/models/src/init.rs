//! Seeded initial weights, distributed as PyTorch's defaults.

use rand::Rng;

/// Uniform in `± 1/√fan_in`: what PyTorch's `kaiming_uniform_(a = √5)` comes to, the default of
/// its linear layers and convolutions.
pub(crate) fn uniform(count: usize, fan_in: usize, rng: &mut impl Rng) -> Vec<f32> {
    let bound = 1.0 / (fan_in as f32).sqrt();
    (0..count)
        .map(|_| rng.random_range(-bound..bound))
        .collect()
}
