//! Stochastic gradient descent with momentum and weight decay, with PyTorch's conventions.

use mesa_kernels::Buffer;
use rayon::prelude::*;

use crate::Network;
use crate::Result;
use crate::host::host_values;
use crate::state::NamedTensors;

/// SGD with momentum `μ` and weight decay `λ`:
///
/// ```text
/// v ← μ·v + (∂w + λ·w)        w ← w − learning rate · v
/// ```
///
/// Every learned tensor decays; batch norm's running statistics are not learned.
#[derive(Clone, Debug)]
pub struct Sgd {
    momentum: f32,
    weight_decay: f32,
    /// One for each parameter of the network; empty until the first step.
    velocity: Vec<Buffer>,
}

impl Sgd {
    /// An optimizer at rest.
    pub fn new(momentum: f64, weight_decay: f64) -> Self {
        Self {
            momentum: momentum as f32,
            weight_decay: weight_decay as f32,
            velocity: Vec::new(),
        }
    }

    /// Moves the weights along the gradients of the last [`Network::gradients`].
    pub fn step(&mut self, network: &mut Network, learning_rate: f64) {
        let (momentum, decay, rate) = (self.momentum, self.weight_decay, learning_rate as f32);
        let parameters = network.parameters_mut();
        if self.velocity.is_empty() {
            self.velocity = parameters
                .iter()
                .map(|p| Buffer::zeros(p.values.len()))
                .collect();
        }
        parameters
            .par_iter_mut()
            .zip(&mut self.velocity)
            .for_each(|(parameter, velocity)| {
                let values = parameter.values.iter_mut().zip(parameter.gradient.iter());
                for ((value, gradient), velocity) in values.zip(velocity.iter_mut()) {
                    *velocity = momentum * *velocity + (gradient + decay * *value);
                    *value -= rate * *velocity;
                }
            });
    }

    /// The velocities by the names of their parameters, in PyTorch's layout.
    ///
    /// # Errors
    ///
    /// [`crate::Error::Tensor`] if candle cannot make one.
    pub fn state(&self, network: &Network) -> Result<NamedTensors> {
        let parameters = network.parameters().iter();
        parameters
            .zip(&self.velocity)
            .map(|(parameter, velocity)| Ok((parameter.name.clone(), parameter.tensor(velocity)?)))
            .collect()
    }

    /// Takes the velocities of a [`Sgd::state`]; an empty one is an optimizer at rest.
    ///
    /// # Errors
    ///
    /// [`crate::Error::MissingTensor`], [`crate::Error::UnexpectedTensor`] or
    /// [`crate::Error::TensorShape`] by name.
    pub fn load_state(&mut self, network: &Network, state: &NamedTensors) -> Result<()> {
        if state.is_empty() {
            self.velocity.clear();
            return Ok(());
        }
        crate::state::check(&network.gradient_state()?, state)?;
        let velocity = network
            .parameters()
            .iter()
            .map(|parameter| parameter.pack(&host_values(&state[&parameter.name])?));
        self.velocity = velocity.collect::<Result<_>>()?;
        Ok(())
    }
}
