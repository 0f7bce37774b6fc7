//! One fitted generator: the model of one level set.

use std::collections::BTreeMap;
use std::path::Path;

use candle::Tensor;
use mesa_models::{
    Generator, NamedTensors, PerceptronConfig, Seeds, load_tensors, save_tensors, uniform_noise,
};
use rand::Rng;

use crate::{Error, Result};

/// Samples that pass through the generator at once.
const SAMPLE_CHUNK: usize = 1024;

/// What a sub-model was fitted for.
#[derive(Copy, Clone, Debug, PartialEq)]
pub struct SubModelInfo {
    /// The threshold β.
    pub beta: f64,
    /// Weight α of the entropy.
    pub alpha: f64,
    /// Standard deviation of the noise on triggers during the fit, in pixel units.
    pub trigger_noise_std: f64,
    /// Sizes of the generator.
    pub sizes: PerceptronConfig,
}

/// A fitted generator: triggers that reach one β, spread widely.
#[derive(Debug)]
pub struct SubModel {
    generator: Generator,
    info: SubModelInfo,
}

impl SubModel {
    pub(crate) fn new(generator: Generator, info: SubModelInfo) -> Self {
        Self { generator, info }
    }

    /// What it was fitted for.
    pub fn info(&self) -> SubModelInfo {
        self.info
    }

    /// Draws triggers, without noise and in evaluation mode.
    ///
    /// # Shapes
    ///
    /// - returns: `(count, C, h, w)` in `[0, 1]`.
    ///
    /// # Errors
    ///
    /// [`Error::Tensor`] if there is no memory for them, [`Error::EmptyBatch`] if `count` is zero.
    pub fn sample(&self, rng: &mut impl Rng, count: usize) -> Result<Tensor> {
        if count == 0 {
            return Err(Error::EmptyBatch);
        }
        let chunks: Result<Vec<Tensor>> = (0..count)
            .step_by(SAMPLE_CHUNK)
            .map(|start| {
                let len = SAMPLE_CHUNK.min(count - start);
                let noise = uniform_noise(rng, len, self.info.sizes.noise_dim)?;
                Ok(self.generator.forward(&noise)?)
            })
            .collect();
        Ok(Tensor::cat(&chunks?, 0)?)
    }

    pub(crate) fn generator(&self) -> &Generator {
        &self.generator
    }

    /// Writes the generator with its description, atomically; `made_by` is kept beside it.
    ///
    /// # Errors
    ///
    /// [`Error::Models`] if the file cannot be written.
    pub fn save(&self, path: &Path, made_by: &BTreeMap<String, String>) -> Result<()> {
        let SubModelInfo {
            beta,
            alpha,
            trigger_noise_std,
            sizes,
        } = self.info;
        let [channels, height, width] = sizes.trigger_shape;
        let mut metadata = made_by.clone();
        for (name, value) in [
            ("kind", "mesa-sub-model".to_owned()),
            ("beta", beta.to_string()),
            ("alpha", alpha.to_string()),
            ("trigger_noise_std", trigger_noise_std.to_string()),
            ("noise_dim", sizes.noise_dim.to_string()),
            ("network_width", sizes.network_width.to_string()),
            ("trigger_channels", channels.to_string()),
            ("trigger_height", height.to_string()),
            ("trigger_width", width.to_string()),
        ] {
            metadata.insert(name.to_owned(), value);
        }
        Ok(save_tensors(path, &self.generator.state()?, &metadata)?)
    }

    /// Reads a saved sub-model.
    ///
    /// # Errors
    ///
    /// [`Error::Metadata`] if the file describes no sub-model, [`Error::Models`] if it cannot be
    /// read or its tensors do not fit the description.
    pub fn load(path: &Path) -> Result<Self> {
        let (tensors, metadata) = load_tensors(path)?;
        if metadata
            .get("kind")
            .is_none_or(|kind| kind != "mesa-sub-model")
        {
            return Err(Error::Metadata { name: "kind" });
        }
        let trigger_shape = [
            entry(&metadata, "trigger_channels")?,
            entry(&metadata, "trigger_height")?,
            entry(&metadata, "trigger_width")?,
        ];
        let sizes = PerceptronConfig {
            noise_dim: entry(&metadata, "noise_dim")?,
            network_width: entry(&metadata, "network_width")?,
            trigger_shape,
        };
        check_sizes(&sizes, &tensors)?;
        let mut generator = Generator::new(&mut Seeds::new(0, "load").start(), sizes)?;
        generator.load_state(&tensors)?;
        let info = SubModelInfo {
            beta: entry(&metadata, "beta")?,
            alpha: entry(&metadata, "alpha")?,
            trigger_noise_std: entry(&metadata, "trigger_noise_std")?,
            sizes,
        };
        Ok(Self { generator, info })
    }
}

/// Holds the sizes in the metadata to the tensors in the file, before anything is allocated.
fn check_sizes(sizes: &PerceptronConfig, tensors: &NamedTensors) -> Result<()> {
    let dims = |name: &str| tensors.get(name).map(Tensor::dims).unwrap_or_default();
    let trigger_len = sizes
        .trigger_shape
        .iter()
        .try_fold(1usize, |len, n| len.checked_mul(*n));
    let wide = dims("linear1.bias") == [sizes.network_width];
    if !wide || Some(dims("linear4.bias")) != trigger_len.as_ref().map(std::slice::from_ref) {
        return Err(Error::Metadata {
            name: "network_width, trigger shape",
        });
    }
    match dims("linear1.weight") {
        [_, part] if part.checked_mul(4) == Some(sizes.noise_dim) => Ok(()),
        _ => Err(Error::Metadata { name: "noise_dim" }),
    }
}

/// An entry of a file's metadata.
pub(crate) fn entry<T: std::str::FromStr>(
    metadata: &BTreeMap<String, String>,
    name: &'static str,
) -> Result<T> {
    let value = metadata.get(name).and_then(|value| value.parse().ok());
    value.ok_or(Error::Metadata { name })
}
