//! MESA's two perceptrons in training, and a generator that is done, wherever they are computed.

use candle::Tensor;
use candle::backprop::GradStore;

use crate::generator::Generated;
use crate::{
    Adam, AdamConfig, Error, Generator, NamedTensors, PairScores, Processor, Result,
    StatisticsNetwork,
};

#[cfg(feature = "cuda")]
use crate::cuda::{CudaGenerator, CudaStatistics};
#[cfg(feature = "cuda")]
use crate::host::host_values;

/// A generator and its optimizer.
///
/// # Examples
///
/// ```
/// use mesa_models::{
///     AdamConfig, Generator, GeneratorTrainer, PerceptronConfig, Processor, Seeds, uniform_noise,
/// };
///
/// let mut rng = Seeds::new(0, "doc").start();
/// let config = PerceptronConfig { network_width: 16, ..PerceptronConfig::paper() };
/// let generator = Generator::new(&mut rng, config)?;
/// let mut trainer = GeneratorTrainer::new(&Processor::Cpu, generator, AdamConfig::paper())?;
/// let noise = uniform_noise(&mut rng, 8, config.noise_dim)?;
/// let dark = trainer.triggers(&noise)?;
/// // Down the gradient of minus the sum of all pixels: they get lighter.
/// trainer.step(&dark.ones_like()?.neg()?)?;
/// let lighter = (trainer.triggers(&noise)? - dark)?;
/// assert!(lighter.mean_all()?.to_scalar::<f32>()? > 0.0);
/// # Ok::<(), mesa_models::Error>(())
/// ```
#[derive(Debug)]
pub struct GeneratorTrainer(GeneratorOn);

#[derive(Debug)]
#[allow(clippy::large_enum_variant)] // One of each for a fit.
enum GeneratorOn {
    Cpu {
        generator: Generator,
        adam: Adam,
        generated: Option<Generated>,
    },
    #[cfg(feature = "cuda")]
    Cuda(CudaGenerator),
}

impl GeneratorTrainer {
    /// A generator that has taken no step yet.
    ///
    /// # Errors
    ///
    /// [`Error::Tensor`] or, on a GPU, [`Error::Cuda`](crate::Error) where memory does not suffice.
    pub fn new(processor: &Processor, generator: Generator, adam: AdamConfig) -> Result<Self> {
        let adam = Adam::new(generator.parameters(), adam)?;
        Ok(Self(match processor {
            Processor::Cpu => GeneratorOn::Cpu {
                generator,
                adam,
                generated: None,
            },
            #[cfg(feature = "cuda")]
            Processor::Cuda(gpu) => {
                GeneratorOn::Cuda(CudaGenerator::new(&gpu.device, &generator, &adam)?)
            }
        }))
    }

    /// Triggers for noise, with batch norm's statistics of this batch (training mode), which move
    /// the running ones.
    ///
    /// # Shapes
    ///
    /// - `noise`: `(B, noise_dim)`.
    /// - returns: `(B, C, h, w)` in `[0, 1]`.
    ///
    /// # Errors
    ///
    /// [`Error::Tensor`] if the noise is of another shape.
    pub fn triggers(&mut self, noise: &Tensor) -> Result<Tensor> {
        match &mut self.0 {
            GeneratorOn::Cpu {
                generator,
                generated,
                ..
            } => {
                let made = generator.forward_train(noise)?;
                Ok(generated.insert(made).triggers.clone())
            }
            #[cfg(feature = "cuda")]
            GeneratorOn::Cuda(generator) => generator.forward_train(noise),
        }
    }

    /// One step of the optimizer, down the gradient of the triggers that were made last.
    ///
    /// # Shapes
    ///
    /// - `trigger_gradient`: `(B, C, h, w)`, of whatever is to be minimized.
    ///
    /// # Errors
    ///
    /// [`Error::Tensor`] if the gradient is of another shape, [`Error::Batch`] if no triggers were
    /// made.
    pub fn step(&mut self, trigger_gradient: &Tensor) -> Result<()> {
        match &mut self.0 {
            GeneratorOn::Cpu {
                generator,
                adam,
                generated,
            } => {
                let generated = generated.as_ref().ok_or_else(|| unmade("triggers"))?;
                adam.step(&generator.parameter_gradients(generated, trigger_gradient)?)
            }
            #[cfg(feature = "cuda")]
            GeneratorOn::Cuda(generator) => generator.step(trigger_gradient),
        }
    }

    /// Copies of the generator's state and of its optimizer's.
    ///
    /// # Errors
    ///
    /// [`Error::Tensor`] if memory cannot be copied.
    pub fn state(&self) -> Result<[NamedTensors; 2]> {
        match &self.0 {
            GeneratorOn::Cpu {
                generator, adam, ..
            } => Ok([generator.state()?, adam.state()?]),
            #[cfg(feature = "cuda")]
            GeneratorOn::Cuda(generator) => generator.state(),
        }
    }

    /// Takes over states of [`GeneratorTrainer::state`].
    ///
    /// # Errors
    ///
    /// As for [`Generator::load_state`] and [`Adam::load_state`].
    pub fn load_state(&mut self, [of_generator, of_adam]: [&NamedTensors; 2]) -> Result<()> {
        match &mut self.0 {
            GeneratorOn::Cpu {
                generator,
                adam,
                generated,
            } => {
                generator.load_state(of_generator)?;
                *generated = None;
                adam.load_state(of_adam)
            }
            #[cfg(feature = "cuda")]
            GeneratorOn::Cuda(generator) => generator.load_state([of_generator, of_adam]),
        }
    }

    /// How many of its passes a GPU has recorded.
    #[cfg(feature = "cuda")]
    pub(crate) fn recorded(&self) -> usize {
        match &self.0 {
            GeneratorOn::Cpu { .. } => 0,
            GeneratorOn::Cuda(generator) => generator.recorded(),
        }
    }

    /// The generator, whatever it has learned so far.
    ///
    /// # Errors
    ///
    /// [`Error::Tensor`] if memory cannot be copied.
    pub fn into_generator(self) -> Result<Generator> {
        match self.0 {
            GeneratorOn::Cpu { generator, .. } => Ok(generator),
            #[cfg(feature = "cuda")]
            GeneratorOn::Cuda(generator) => generator.to_host(),
        }
    }
}

/// A statistics network and its optimizer.
#[derive(Debug)]
pub struct StatisticsTrainer {
    on: StatisticsOn,
    scores: Option<PairScores>,
}

#[derive(Debug)]
#[allow(clippy::large_enum_variant)] // One of each for a fit.
enum StatisticsOn {
    Cpu {
        statistics: StatisticsNetwork,
        adam: Adam,
    },
    #[cfg(feature = "cuda")]
    Cuda(CudaStatistics),
}

impl StatisticsTrainer {
    /// A statistics network that has taken no step yet.
    ///
    /// # Errors
    ///
    /// As for [`GeneratorTrainer::new`].
    pub fn new(
        processor: &Processor,
        statistics: StatisticsNetwork,
        adam: AdamConfig,
    ) -> Result<Self> {
        let adam = Adam::new(statistics.parameters(), adam)?;
        let on = match processor {
            Processor::Cpu => StatisticsOn::Cpu { statistics, adam },
            #[cfg(feature = "cuda")]
            Processor::Cuda(gpu) => {
                StatisticsOn::Cuda(CudaStatistics::new(&gpu.device, &statistics, &adam)?)
            }
        };
        Ok(Self { on, scores: None })
    }

    /// Scores pairs; see [`StatisticsNetwork::score_pairs`]. What follows refers to these.
    ///
    /// # Errors
    ///
    /// [`Error::Tensor`] if the shapes do not fit.
    pub fn score_pairs(
        &mut self,
        noise: &Tensor,
        fresh_noise: &Tensor,
        triggers: &Tensor,
    ) -> Result<&PairScores> {
        let scores = match &mut self.on {
            StatisticsOn::Cpu { statistics, .. } => {
                statistics.score_pairs(noise, fresh_noise, triggers)?
            }
            #[cfg(feature = "cuda")]
            StatisticsOn::Cuda(statistics) => {
                statistics.score_pairs(noise, fresh_noise, triggers)?
            }
        };
        Ok(self.scores.insert(scores))
    }

    /// The gradient of the triggers of the last pairs, `(B, C, h, w)`, of an objective made of their
    /// scores.
    ///
    /// # Errors
    ///
    /// [`Error::Batch`] if no pairs were scored.
    pub fn trigger_gradient(&mut self, objective: &GradStore) -> Result<Tensor> {
        let scores = self.scores.as_ref().ok_or_else(|| unmade("pairs"))?;
        match &mut self.on {
            StatisticsOn::Cpu { statistics, .. } => statistics.trigger_gradient(scores, objective),
            #[cfg(feature = "cuda")]
            StatisticsOn::Cuda(statistics) => {
                statistics.trigger_gradient(&host_values(&scores.gradient(objective)?)?)
            }
        }
    }

    /// Sets the optimizer's step length from the next step on.
    pub fn set_learning_rate(&mut self, learning_rate: f64) {
        match &mut self.on {
            StatisticsOn::Cpu { adam, .. } => adam.set_learning_rate(learning_rate),
            #[cfg(feature = "cuda")]
            StatisticsOn::Cuda(statistics) => statistics.set_learning_rate(learning_rate),
        }
    }

    /// One step of the optimizer, down an objective made of the last pairs' scores.
    ///
    /// # Errors
    ///
    /// [`Error::Batch`] if no pairs were scored.
    pub fn step(&mut self, objective: &GradStore) -> Result<()> {
        let scores = self.scores.as_ref().ok_or_else(|| unmade("pairs"))?;
        match &mut self.on {
            StatisticsOn::Cpu { statistics, adam } => {
                adam.step(&statistics.parameter_gradients(scores, objective)?)
            }
            #[cfg(feature = "cuda")]
            StatisticsOn::Cuda(statistics) => {
                statistics.step(&host_values(&scores.gradient(objective)?)?)
            }
        }
    }

    /// Copies of the network's state and of its optimizer's.
    ///
    /// # Errors
    ///
    /// [`Error::Tensor`] if memory cannot be copied.
    pub fn state(&self) -> Result<[NamedTensors; 2]> {
        match &self.on {
            StatisticsOn::Cpu { statistics, adam } => Ok([statistics.state()?, adam.state()?]),
            #[cfg(feature = "cuda")]
            StatisticsOn::Cuda(statistics) => statistics.state(),
        }
    }

    /// Takes over states of [`StatisticsTrainer::state`].
    ///
    /// # Errors
    ///
    /// As for [`StatisticsNetwork::load_state`] and [`Adam::load_state`].
    pub fn load_state(&mut self, [of_statistics, of_adam]: [&NamedTensors; 2]) -> Result<()> {
        self.scores = None;
        match &mut self.on {
            StatisticsOn::Cpu { statistics, adam } => {
                statistics.load_state(of_statistics)?;
                adam.load_state(of_adam)
            }
            #[cfg(feature = "cuda")]
            StatisticsOn::Cuda(statistics) => statistics.load_state([of_statistics, of_adam]),
        }
    }

    /// How many of its passes a GPU has recorded.
    #[cfg(feature = "cuda")]
    pub(crate) fn recorded(&self) -> usize {
        match &self.on {
            StatisticsOn::Cpu { .. } => 0,
            StatisticsOn::Cuda(statistics) => statistics.recorded(),
        }
    }
}

/// A generator that no longer changes.
#[derive(Debug)]
pub struct Sampler<'a>(SamplerOn<'a>);

#[derive(Debug)]
enum SamplerOn<'a> {
    Cpu(&'a Generator),
    /// A copy of it.
    #[cfg(feature = "cuda")]
    Cuda(Box<CudaGenerator>),
}

impl<'a> Sampler<'a> {
    /// The generator as it is.
    ///
    /// # Errors
    ///
    /// As for [`GeneratorTrainer::new`].
    pub fn new(processor: &Processor, generator: &'a Generator) -> Result<Self> {
        Ok(Self(match processor {
            Processor::Cpu => SamplerOn::Cpu(generator),
            #[cfg(feature = "cuda")]
            Processor::Cuda(gpu) => {
                let adam = Adam::new(generator.parameters(), AdamConfig::paper())?;
                let copy = CudaGenerator::new(&gpu.device, generator, &adam)?;
                SamplerOn::Cuda(Box::new(copy))
            }
        }))
    }

    /// Triggers for noise; see [`Generator::forward`].
    ///
    /// # Errors
    ///
    /// [`Error::Tensor`] if the noise is of another shape.
    pub fn triggers(&mut self, noise: &Tensor) -> Result<Tensor> {
        match &mut self.0 {
            SamplerOn::Cpu(generator) => generator.forward(noise),
            #[cfg(feature = "cuda")]
            SamplerOn::Cuda(generator) => generator.forward(noise),
        }
    }
}

/// An error for a step that refers to nothing.
pub(crate) fn unmade(what: &'static str) -> Error {
    Error::Batch {
        what,
        expected: "made before a step".to_owned(),
        found: "none".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{PerceptronConfig, Seeds, uniform_noise};

    const CONFIG: PerceptronConfig = PerceptronConfig {
        noise_dim: 8,
        network_width: 12,
        trigger_shape: [3, 2, 1],
    };

    #[test]
    fn a_step_refers_to_what_this_state_has_made() {
        let mut rng = Seeds::new(0, "trainers").start();
        let noise = uniform_noise(&mut rng, 5, CONFIG.noise_dim).unwrap();
        let generator = Generator::new(&mut rng, CONFIG).unwrap();
        let statistics = StatisticsNetwork::new(&mut rng, CONFIG).unwrap();
        let (on, adam) = (Processor::Cpu, AdamConfig::paper());
        let mut generator = GeneratorTrainer::new(&on, generator, adam).unwrap();
        let mut statistics = StatisticsTrainer::new(&on, statistics, adam).unwrap();
        let refused = |result: Result<()>| matches!(result, Err(Error::Batch { .. }));

        let gradient = Tensor::zeros((5, 3, 2, 1), candle::DType::F32, noise.device()).unwrap();
        assert!(refused(generator.step(&gradient)));
        let triggers = generator.triggers(&noise).unwrap();
        generator.step(&gradient).unwrap();
        let state = generator.state().unwrap();
        generator.load_state(state.each_ref()).unwrap();
        assert!(refused(generator.step(&gradient)));

        let nothing = triggers.sum_all().unwrap().backward().unwrap();
        assert!(refused(statistics.step(&nothing)));
        let scores = statistics.score_pairs(&noise, &noise, &triggers).unwrap();
        let objective = scores.matched.sum_all().unwrap().backward().unwrap();
        statistics.step(&objective).unwrap();
        let state = statistics.state().unwrap();
        statistics.load_state(state.each_ref()).unwrap();
        assert!(refused(statistics.step(&objective)));
        assert!(statistics.trigger_gradient(&objective).is_err());
    }
}
