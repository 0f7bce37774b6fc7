//! Adam with PyTorch's semantics, over named variables.

use std::collections::BTreeMap;

use candle::{CpuStorage, InplaceOp2, InplaceOp3, Layout, Tensor, Var};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::Result;
use crate::layers::{floats, floats_mut};
use crate::state::{self, NamedTensors};

/// Numbers that one task of an update takes at most.
const BLOCK: usize = 1 << 16;

/// Settings of [`Adam`].
#[derive(Copy, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdamConfig {
    /// Step length.
    pub learning_rate: f64,
    /// Decay rate of the gradient's average.
    pub beta1: f64,
    /// Decay rate of the squared gradient's average.
    pub beta2: f64,
    /// Added to the root of the squared gradient's average.
    pub epsilon: f64,
}

impl AdamConfig {
    /// The paper's settings for both perceptrons: 2e-4, decay rates 0.5 and 0.999.
    pub fn paper() -> Self {
        Self {
            learning_rate: 2e-4,
            beta1: 0.5,
            beta2: 0.999,
            epsilon: 1e-8,
        }
    }
}

/// The Adam optimizer (Kingma and Ba 2015), as PyTorch computes it.
///
/// ```text
/// m ← β₁ m + (1 − β₁) g        v ← β₂ v + (1 − β₂) g²
/// w ← w − learning_rate / (1 − β₁ᵗ) · m / (√v / √(1 − β₂ᵗ) + ε)
/// ```
///
/// # Examples
///
/// ```
/// use std::collections::BTreeMap;
///
/// use candle::{Device, Var};
/// use mesa_models::{Adam, AdamConfig};
///
/// let weight = Var::new(&[1f32, -2.0], &Device::Cpu)?;
/// let parameters = BTreeMap::from([("weight".to_owned(), weight.clone())]);
/// let mut adam = Adam::new(parameters, AdamConfig::paper())?;
/// let gradient = (weight.detach() * 2.0)?; // of the sum of squares
/// adam.step(&BTreeMap::from([("weight".to_owned(), gradient)]))?;
/// // The first step is as long as the learning rate, whatever the gradient.
/// assert!((weight.to_vec1::<f32>()?[0] - 0.9998).abs() < 1e-6);
/// # Ok::<(), mesa_models::Error>(())
/// ```
#[derive(Debug)]
pub struct Adam {
    config: AdamConfig,
    steps: u32,
    parameters: BTreeMap<String, Var>,
    first: BTreeMap<String, Var>,
    second: BTreeMap<String, Var>,
}

impl Adam {
    /// An optimizer that has taken no step yet.
    ///
    /// # Errors
    ///
    /// [`Error::Tensor`](crate::Error::Tensor) if there is no memory for the moments.
    pub fn new(parameters: BTreeMap<String, Var>, config: AdamConfig) -> Result<Self> {
        let zeros = || -> Result<BTreeMap<String, Var>> {
            let zero = |(name, var): (&String, &Var)| {
                Ok((name.clone(), Var::from_tensor(&var.detach().zeros_like()?)?))
            };
            parameters.iter().map(zero).collect()
        };
        let (first, second) = (zeros()?, zeros()?);
        Ok(Self {
            config,
            steps: 0,
            parameters,
            first,
            second,
        })
    }

    /// Sets the step length from the next step on.
    pub fn set_learning_rate(&mut self, learning_rate: f64) {
        self.config.learning_rate = learning_rate;
    }

    /// Moves every variable along its gradient, given by the variable's name.
    ///
    /// # Errors
    ///
    /// [`Error::MissingTensor`](crate::Error::MissingTensor) and its like where gradients are not those of the
    /// variables; nothing has changed then.
    pub fn step(&mut self, gradients: &NamedTensors) -> Result<()> {
        let variables = self.parameters.iter();
        let variables: NamedTensors = variables
            .map(|(name, var)| (name.clone(), var.as_tensor().clone()))
            .collect();
        state::check(&variables, gradients)?;
        self.steps += 1;
        let update = Update::new(self.config, self.steps);
        for (name, var) in &self.parameters {
            let gradient = gradients[name].contiguous()?;
            update.apply(var, &self.first[name], &self.second[name], &gradient)?;
        }
        Ok(())
    }

    /// Copies of the moments and the number of steps, by name.
    ///
    /// # Errors
    ///
    /// [`Error::Tensor`](crate::Error::Tensor) if memory cannot be copied.
    pub fn state(&self) -> Result<NamedTensors> {
        let moments = [state::copies(&self.first)?, state::copies(&self.second)?];
        adam_state(moments, self.steps)
    }

    /// Takes over a state of [`Adam::state`].
    ///
    /// # Errors
    ///
    /// [`Error::MissingTensor`](crate::Error::MissingTensor) and its like where it belongs to
    /// other variables; nothing has changed then.
    pub fn load_state(&mut self, tensors: &NamedTensors) -> Result<()> {
        state::check(&self.state()?, tensors)?;
        for (prefix, moments) in [("first", &self.first), ("second", &self.second)] {
            for (name, var) in moments {
                var.set(&tensors[&format!("{prefix}.{name}")])?;
            }
        }
        self.steps = tensors["steps"].to_vec1::<u32>()?[0];
        Ok(())
    }

    /// Settings and the number of steps, for whoever goes on from here elsewhere.
    #[cfg(feature = "cuda")]
    pub(crate) fn progress(&self) -> (AdamConfig, u32) {
        (self.config, self.steps)
    }

    /// The variables, their gradients' averages and those of the squares, by name.
    #[cfg(feature = "cuda")]
    pub(crate) fn variables(&self) -> [&BTreeMap<String, Var>; 3] {
        [&self.parameters, &self.first, &self.second]
    }
}

/// A state as of [`Adam::state`]: both moments by the names of their variables, and the steps taken.
pub(crate) fn adam_state([first, second]: [NamedTensors; 2], steps: u32) -> Result<NamedTensors> {
    let mut tensors = NamedTensors::new();
    for (prefix, moments) in [("first", first), ("second", second)] {
        let named = |(name, tensor)| (format!("{prefix}.{name}"), tensor);
        tensors.extend(moments.into_iter().map(named));
    }
    let steps = Tensor::new(&[steps], &candle::Device::Cpu)?;
    tensors.insert("steps".into(), steps);
    Ok(tensors)
}

/// One step's factors.
pub(crate) struct Update {
    pub(crate) beta1: f64,
    pub(crate) beta2: f64,
    pub(crate) step_size: f64,
    pub(crate) second_correction: f64,
    pub(crate) epsilon: f64,
}

impl Update {
    /// Those of step number `steps`, the first being 1.
    pub(crate) fn new(config: AdamConfig, steps: u32) -> Self {
        let correction = |beta: f64| 1.0 - beta.powf(f64::from(steps));
        Self {
            beta1: config.beta1,
            beta2: config.beta2,
            step_size: config.learning_rate / correction(config.beta1),
            second_correction: correction(config.beta2).sqrt(),
            epsilon: config.epsilon,
        }
    }

    fn apply(&self, var: &Var, first: &Var, second: &Var, gradient: &Tensor) -> candle::Result<()> {
        first.inplace_op2(gradient, &FirstMoment(self.beta1))?;
        second.inplace_op2(gradient, &SecondMoment(self.beta2))?;
        var.inplace_op3(first, second, self)
    }
}

struct FirstMoment(f64);

impl InplaceOp2 for FirstMoment {
    fn name(&self) -> &'static str {
        "adam-first-moment"
    }

    fn cpu_fwd(
        &self,
        moment: &mut CpuStorage,
        moment_layout: &Layout,
        gradient: &CpuStorage,
        gradient_layout: &Layout,
    ) -> candle::Result<()> {
        let (beta, rest) = (self.0 as f32, (1.0 - self.0) as f32);
        let gradient = floats(gradient, gradient_layout)?;
        in_blocks(floats_mut(moment, moment_layout)?, |start, moment| {
            for (m, g) in moment.iter_mut().zip(&gradient[start..]) {
                *m = beta * *m + rest * g;
            }
        });
        Ok(())
    }
}

struct SecondMoment(f64);

impl InplaceOp2 for SecondMoment {
    fn name(&self) -> &'static str {
        "adam-second-moment"
    }

    fn cpu_fwd(
        &self,
        moment: &mut CpuStorage,
        moment_layout: &Layout,
        gradient: &CpuStorage,
        gradient_layout: &Layout,
    ) -> candle::Result<()> {
        let (beta, rest) = (self.0 as f32, (1.0 - self.0) as f32);
        let gradient = floats(gradient, gradient_layout)?;
        in_blocks(floats_mut(moment, moment_layout)?, |start, moment| {
            for (v, g) in moment.iter_mut().zip(&gradient[start..]) {
                *v = beta * *v + rest * g * g;
            }
        });
        Ok(())
    }
}

impl InplaceOp3 for Update {
    fn name(&self) -> &'static str {
        "adam-update"
    }

    fn cpu_fwd(
        &self,
        weight: &mut CpuStorage,
        weight_layout: &Layout,
        first: &CpuStorage,
        first_layout: &Layout,
        second: &CpuStorage,
        second_layout: &Layout,
    ) -> candle::Result<()> {
        let (step_size, epsilon) = (self.step_size as f32, self.epsilon as f32);
        let correction = self.second_correction as f32;
        let (first, second) = (floats(first, first_layout)?, floats(second, second_layout)?);
        in_blocks(floats_mut(weight, weight_layout)?, |start, weight| {
            let moments = first[start..].iter().zip(&second[start..]);
            for (w, (m, v)) in weight.iter_mut().zip(moments) {
                *w -= step_size * m / (v.sqrt() / correction + epsilon);
            }
        });
        Ok(())
    }
}

/// Every number is computed by itself, so how they are spread over threads changes nothing.
fn in_blocks(values: &mut [f32], update: impl Fn(usize, &mut [f32]) + Sync) {
    if values.len() <= BLOCK {
        update(0, values);
    } else {
        let blocks = values.par_chunks_mut(BLOCK).enumerate();
        blocks.for_each(|(i, block)| update(i * BLOCK, block));
    }
}

#[cfg(test)]
mod tests {
    use approx::assert_relative_eq;
    use candle::Device;

    use super::*;

    fn one(value: f32, config: AdamConfig) -> (Var, Adam) {
        let var = Var::new(&[value], &Device::Cpu).unwrap();
        let parameters = BTreeMap::from([("w".to_owned(), var.clone())]);
        (var, Adam::new(parameters, config).unwrap())
    }

    fn push(var: &Var, adam: &mut Adam, gradient: f64) -> f32 {
        let gradient = Tensor::new(&[gradient as f32], &Device::Cpu).unwrap();
        adam.step(&BTreeMap::from([("w".to_owned(), gradient)]))
            .unwrap();
        var.to_vec1::<f32>().unwrap()[0]
    }

    #[test]
    fn follows_hand_computed_steps() {
        let config = AdamConfig {
            learning_rate: 0.1,
            beta1: 0.5,
            beta2: 0.9,
            epsilon: 1e-8,
        };
        let (var, mut adam) = one(1.0, config);
        // m = 1, v = 0.4; corrected: 2 / (2 + ε): a step of 0.1.
        assert_relative_eq!(push(&var, &mut adam, 2.0), 0.9, epsilon = 1e-6);
        // m = 0.5 − 0.5 = 0, so it rests; v = 0.36 + 0.1 = 0.46.
        assert_relative_eq!(push(&var, &mut adam, -1.0), 0.9, epsilon = 1e-6);
        // m = 1.5, v = 0.414 + 0.9 = 1.314; 1.5 / 0.875 over √(1.314 / 0.271) = 0.7785…
        let step = 0.1 * (1.5 / 0.875) / (1.314_f32 / 0.271).sqrt();
        assert_relative_eq!(push(&var, &mut adam, 3.0), 0.9 - step, epsilon = 1e-6);
    }

    #[test]
    fn epsilon_stands_outside_the_corrected_root() {
        let config = AdamConfig {
            learning_rate: 1.0,
            beta1: 0.5,
            beta2: 0.999,
            epsilon: 1e-2,
        };
        let (var, mut adam) = one(0.0, config);
        let expected = -0.01 / (0.01 + 0.01);
        assert_relative_eq!(push(&var, &mut adam, 0.01), expected, epsilon = 1e-5);
    }

    #[test]
    fn a_restored_optimizer_goes_on_alike() {
        let (var, mut adam) = one(0.3, AdamConfig::paper());
        push(&var, &mut adam, 1.0);
        let saved = (var.to_vec1::<f32>().unwrap()[0], adam.state().unwrap());
        let expected = push(&var, &mut adam, -0.5);
        let (var, mut adam) = one(saved.0, AdamConfig::paper());
        adam.load_state(&saved.1).unwrap();
        assert_eq!(push(&var, &mut adam, -0.5).to_bits(), expected.to_bits());
    }

    #[test]
    fn gradients_of_other_variables_are_refused_and_change_nothing() {
        let (var, mut adam) = one(0.3, AdamConfig::paper());
        let before = adam.state().unwrap();
        let gradient = |name: &str| {
            let gradient = Tensor::new(&[1.0_f32], &Device::Cpu).unwrap();
            NamedTensors::from([(name.to_owned(), gradient)])
        };
        for gradients in [NamedTensors::new(), gradient("v")] {
            let refused = adam.step(&gradients);
            assert!(matches!(refused, Err(crate::Error::MissingTensor { name }) if name == "w"));
        }
        assert_eq!(var.to_vec1::<f32>().unwrap(), [0.3]);
        let steps = |state: &NamedTensors| state["steps"].to_vec1::<u32>().unwrap();
        assert_eq!(steps(&adam.state().unwrap()), steps(&before));
    }
}
