//! The generator of triggers, one of MESA's two perceptrons (Qiao et al. 2019, Algorithm 2; sizes as in
//! the authors' code), and the noise it takes.

use std::collections::BTreeMap;

use candle::{Device, Tensor, Var};
use rand::Rng;

use crate::layers::{
    Linear, NormLeaky, NormTape, insert_linear, linear_gradients, sigmoid, sigmoid_gradient,
};
use crate::perceptron_config::NOISE_PARTS;
use crate::state::{self, NamedTensors};
use crate::{PerceptronConfig, Result};

/// The generator `G`: noise in, triggers in `[0, 1]` out.
///
/// Three hidden layers with batch norm and leaky ReLU (0.2), then a linear layer and a sigmoid.
/// The noise comes in four parts: the first enters the first layer, each further one is
/// appended to what enters the next.
///
/// # Examples
///
/// ```
/// use mesa_models::{Generator, PerceptronConfig, Seeds, uniform_noise};
///
/// let mut rng = Seeds::new(0, "doc").start();
/// let config = PerceptronConfig { network_width: 16, ..PerceptronConfig::paper() };
/// let mut generator = Generator::new(&mut rng, config)?;
/// let noise = uniform_noise(&mut rng, 8, config.noise_dim)?;
/// assert_eq!(generator.forward_train(&noise)?.triggers.dims(), [8, 3, 3, 3]);
/// assert_eq!(generator.forward(&noise)?.dims(), [8, 3, 3, 3]);
/// # Ok::<(), mesa_models::Error>(())
/// ```
#[derive(Debug)]
pub struct Generator {
    config: PerceptronConfig,
    linears: [Linear; 4],
    norms: [NormLeaky; 3],
}

impl Generator {
    /// A generator with PyTorch's default initialization.
    ///
    /// # Errors
    ///
    /// [`crate::Error::PerceptronConfig`] if the sizes do not fit together.
    pub fn new(rng: &mut impl Rng, config: PerceptronConfig) -> Result<Self> {
        config.validate()?;
        let (part, width) = (config.noise_dim / NOISE_PARTS, config.network_width);
        let mut linear = |inputs, outputs| Linear::new(rng, inputs, outputs);
        let linears = [
            linear(part, width)?,
            linear(width + part, width)?,
            linear(width + part, width)?,
            linear(width + part, config.trigger_len())?,
        ];
        let norm = || NormLeaky::new(width);
        Ok(Self {
            config,
            linears,
            norms: [norm()?, norm()?, norm()?],
        })
    }

    /// The sizes it was built with.
    pub fn config(&self) -> PerceptronConfig {
        self.config
    }

    /// Triggers for noise, with batch norm's running statistics (evaluation mode).
    ///
    /// # Shapes
    ///
    /// - `noise`: `(B, noise_dim)`.
    /// - returns: `(B, C, h, w)` in `[0, 1]`; no gradient.
    ///
    /// # Errors
    ///
    /// [`crate::Error::Tensor`] if the noise is of another shape.
    pub fn forward(&self, noise: &Tensor) -> Result<Tensor> {
        let mut xs = self.noise_part(noise, 0)?;
        for (i, norm) in self.norms.iter().enumerate() {
            let hidden = norm.forward(&self.linears[i].forward(&xs)?)?;
            xs = Tensor::cat(&[hidden, self.noise_part(noise, i + 1)?], 1)?;
        }
        self.as_triggers(&self.linears[3].forward(&xs)?)
    }

    /// Triggers for noise, with batch norm's statistics of this batch (training mode), which
    /// move the running ones.
    ///
    /// # Errors
    ///
    /// [`crate::Error::Tensor`] if the noise is of another shape.
    pub fn forward_train(&mut self, noise: &Tensor) -> Result<Generated> {
        let mut inputs = vec![self.noise_part(noise, 0)?];
        let mut tapes = Vec::new();
        for i in 0..self.norms.len() {
            let hidden = self.linears[i].forward(&inputs[i])?;
            let (hidden, tape) = self.norms[i].forward_train(&hidden)?;
            tapes.push(tape);
            inputs.push(Tensor::cat(&[hidden, self.noise_part(noise, i + 1)?], 1)?);
        }
        let triggers = self.as_triggers(&self.linears[3].forward(&inputs[3])?)?;
        Ok(Generated {
            triggers,
            inputs,
            tapes,
        })
    }

    /// The gradients of all parameters, by name, from that of the triggers.
    ///
    /// # Shapes
    ///
    /// - `trigger_gradient`: `(B, C, h, w)`, of whatever is to be minimized.
    ///
    /// # Errors
    ///
    /// [`crate::Error::Tensor`] if the gradient is of another shape.
    pub fn parameter_gradients(
        &self,
        generated: &Generated,
        trigger_gradient: &Tensor,
    ) -> Result<NamedTensors> {
        let mut gradients = NamedTensors::new();
        let mut gradient =
            sigmoid_gradient(&generated.triggers, trigger_gradient)?.flatten_from(1)?;
        for i in (0..self.linears.len()).rev() {
            let (weight, bias) = linear_gradients(&generated.inputs[i], &gradient)?;
            gradients.insert(format!("linear{}.weight", i + 1), weight);
            gradients.insert(format!("linear{}.bias", i + 1), bias);
            if i > 0 {
                // The noise appended behind the hidden units needs none.
                let width = self.config.network_width;
                gradient = self.linears[i]
                    .input_gradient(&gradient)?
                    .narrow(1, 0, width)?;
                let norm = self.norms[i - 1].backward(&generated.tapes[i - 1], &gradient)?;
                gradients.insert(format!("norm{i}.weight"), norm.weight);
                gradients.insert(format!("norm{i}.bias"), norm.bias);
                gradient = norm.xs;
            }
        }
        Ok(gradients)
    }

    fn noise_part(&self, noise: &Tensor, part: usize) -> Result<Tensor> {
        let len = self.config.noise_dim / NOISE_PARTS;
        Ok(noise.narrow(1, part * len, len)?)
    }

    fn as_triggers(&self, xs: &Tensor) -> Result<Tensor> {
        let [channels, height, width] = self.config.trigger_shape;
        Ok(sigmoid(xs)?.reshape(((), channels, height, width))?)
    }

    /// What training changes, in name order.
    pub fn parameters(&self) -> BTreeMap<String, Var> {
        let mut parameters = BTreeMap::new();
        for (i, linear) in self.linears.iter().enumerate() {
            insert_linear(&mut parameters, &format!("linear{}", i + 1), linear);
        }
        for (i, norm) in self.norms.iter().enumerate() {
            parameters.insert(format!("norm{}.weight", i + 1), norm.weight.clone());
            parameters.insert(format!("norm{}.bias", i + 1), norm.bias.clone());
        }
        parameters
    }

    /// Copies of all parameters and running statistics, by name.
    ///
    /// # Errors
    ///
    /// [`crate::Error::Tensor`] if memory cannot be copied.
    pub fn state(&self) -> Result<NamedTensors> {
        let mut tensors = state::copies(&self.parameters())?;
        for (i, norm) in self.norms.iter().enumerate() {
            tensors.insert(
                format!("norm{}.running_mean", i + 1),
                norm.running_mean.copy()?,
            );
            tensors.insert(
                format!("norm{}.running_var", i + 1),
                norm.running_var.copy()?,
            );
        }
        Ok(tensors)
    }

    /// Takes over a state of [`Generator::state`].
    ///
    /// # Errors
    ///
    /// [`crate::Error::MissingTensor`], [`crate::Error::UnexpectedTensor`] or
    /// [`crate::Error::TensorShape`] where it belongs to a generator of another kind; nothing has
    /// changed then.
    pub fn load_state(&mut self, tensors: &NamedTensors) -> Result<()> {
        state::check(&self.state()?, tensors)?;
        state::load(&self.parameters(), tensors)?;
        for (i, norm) in self.norms.iter_mut().enumerate() {
            let named = |name| tensors[&format!("norm{}.{name}", i + 1)].copy();
            norm.running_mean = named("running_mean")?;
            norm.running_var = named("running_var")?;
        }
        Ok(())
    }
}

/// Triggers that a generator made in training mode, and what their gradient needs.
#[derive(Debug)]
pub struct Generated {
    /// The triggers, `(B, C, h, w)` in `[0, 1]`.
    pub triggers: Tensor,
    inputs: Vec<Tensor>,
    tapes: Vec<NormTape>,
}

/// Noise for the generator: uniform in `[0, 1)`, drawn on the host, shape `(count, noise_dim)`.
///
/// # Errors
///
/// [`crate::Error::Tensor`] if there is no memory for it.
pub fn uniform_noise(rng: &mut impl Rng, count: usize, noise_dim: usize) -> Result<Tensor> {
    let values: Vec<f32> = (0..count * noise_dim).map(|_| rng.random()).collect();
    Ok(Tensor::from_vec(values, (count, noise_dim), &Device::Cpu)?)
}

#[cfg(test)]
mod tests {
    use crate::Error;
    use crate::small_perceptrons::{assert_slope, generator, noise, values};

    #[test]
    fn a_state_restores_the_same_outputs() {
        let mut trained = generator(0);
        trained.forward_train(&noise(1)).unwrap();
        let mut other = generator(1);
        assert_ne!(
            values(&other.forward(&noise(2)).unwrap()),
            values(&trained.forward(&noise(2)).unwrap())
        );
        other.load_state(&trained.state().unwrap()).unwrap();
        assert_eq!(
            values(&other.forward(&noise(2)).unwrap()),
            values(&trained.forward(&noise(2)).unwrap())
        );
    }

    #[test]
    fn rejects_the_state_of_another_network() {
        let mut generator = generator(0);
        let mut state = generator.state().unwrap();
        let bias = state.remove("linear4.bias").unwrap();
        let error = generator.load_state(&state).unwrap_err();
        assert!(matches!(error, Error::MissingTensor { name } if name == "linear4.bias"));
        state.insert("linear4.bias".into(), bias.narrow(0, 0, 2).unwrap());
        let error = generator.load_state(&state).unwrap_err();
        assert!(matches!(error, Error::TensorShape { name, .. } if name == "linear4.bias"));
        state.insert("linear4.bias".into(), bias.clone());
        state.insert("linear5.bias".into(), bias);
        let error = generator.load_state(&state).unwrap_err();
        assert!(matches!(error, Error::UnexpectedTensor { name } if name == "linear5.bias"));
    }

    #[test]
    fn the_generators_gradient_agrees_with_finite_differences() {
        let mut generator = generator(3);
        let probe = noise(9).narrow(1, 0, 6).unwrap();
        let probe = probe.reshape((5, 3, 2, 1)).unwrap();
        let generated = generator.forward_train(&noise(4)).unwrap();
        let gradients = generator.parameter_gradients(&generated, &probe).unwrap();
        let parameters = generator.parameters();
        assert!(gradients.keys().eq(parameters.keys()));
        for (name, var) in &parameters {
            assert_slope(name, var, &gradients[name], &mut || {
                let triggers = generator.forward_train(&noise(4)).unwrap().triggers;
                let loss = (triggers * &probe).unwrap().sum_all().unwrap();
                loss.to_scalar().unwrap()
            });
        }
    }
}
