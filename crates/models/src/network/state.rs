//! A network's tensors by name, out and in.

use candle::{Device, Tensor};

use super::{Network, Parameter};
use crate::Result;
use crate::host::host_values;
use crate::state::{self, NamedTensors};

impl Network {
    /// Every learned tensor and running statistic under its PyTorch name, in PyTorch's layout.
    ///
    /// # Errors
    ///
    /// [`crate::Error::Tensor`] if candle cannot make one.
    pub fn state(&self) -> Result<NamedTensors> {
        let mut state = NamedTensors::new();
        for parameter in &self.parameters {
            state.insert(parameter.name.clone(), parameter.tensor(&parameter.values)?);
        }
        for (unit, running) in self.graph.units.iter().zip(&self.running) {
            let (Some(norm), Some(running)) = (&unit.norm, running) else {
                continue;
            };
            for (name, values) in [
                ("running_mean", &running.mean),
                ("running_var", &running.variance),
            ] {
                let tensor = Tensor::from_slice(values, values.len(), &Device::Cpu)?;
                state.insert(format!("{norm}.{name}"), tensor);
            }
        }
        Ok(state)
    }

    /// The gradients of the last [`Network::gradients`], by name, in PyTorch's layout.
    ///
    /// # Errors
    ///
    /// [`crate::Error::Tensor`] if candle cannot make one.
    pub fn gradient_state(&self) -> Result<NamedTensors> {
        let of = |parameter: &Parameter| {
            Ok((
                parameter.name.clone(),
                parameter.tensor(&parameter.gradient)?,
            ))
        };
        self.parameters.iter().map(of).collect()
    }

    /// Takes the tensors of a [`Network::state`].
    ///
    /// # Errors
    ///
    /// [`crate::Error::MissingTensor`], [`crate::Error::UnexpectedTensor`] or [`crate::Error::TensorShape`] by name;
    /// the network is then as it was.
    pub fn load_state(&mut self, state: &NamedTensors) -> Result<()> {
        state::check(&self.state()?, state)?;
        for parameter in &mut self.parameters {
            let values = host_values(&state[&parameter.name])?;
            parameter.set(&values)?;
        }
        for (unit, running) in self.graph.units.iter().zip(&mut self.running) {
            if let (Some(norm), Some(running)) = (&unit.norm, running) {
                running.mean = host_values(&state[&format!("{norm}.running_mean")])?;
                running.variance = host_values(&state[&format!("{norm}.running_var")])?;
            }
        }
        Ok(())
    }
}
