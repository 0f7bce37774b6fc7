//! Sizes of the two perceptrons of MESA (Qiao et al. 2019, Algorithm 2; as in the authors' code).

use candle::Tensor;
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// The noise reaches the generator in as many equal parts, one more with each layer.
pub(crate) const NOISE_PARTS: usize = 4;

/// Sizes that the generator and its statistics network share.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PerceptronConfig {
    /// Length of the noise vector; a multiple of four.
    pub noise_dim: usize,
    /// Units of each hidden layer.
    pub network_width: usize,
    /// Channels, height and width of a trigger.
    pub trigger_shape: [usize; 3],
}

impl PerceptronConfig {
    /// 64 noise values, 512 units, 3×3 color triggers: the paper's CIFAR-10 setting.
    pub fn paper() -> Self {
        Self {
            noise_dim: 64,
            network_width: 512,
            trigger_shape: [3, 3, 3],
        }
    }

    /// Numbers in one trigger.
    pub fn trigger_len(&self) -> usize {
        self.trigger_shape.iter().product()
    }

    /// The gradient of the triggers `(B, C, h, w)` from that of all pairs' triggers `(2 B, C h w)`: each
    /// is in a matched and in a mismatched pair.
    pub(crate) fn of_triggers(&self, of_pairs: &Tensor) -> Result<Tensor> {
        let batch_size = of_pairs.dim(0)? / 2;
        let matched = of_pairs.narrow(0, 0, batch_size)?;
        let both = (matched + of_pairs.narrow(0, batch_size, batch_size)?)?;
        let [channels, height, width] = self.trigger_shape;
        Ok(both.reshape((batch_size, channels, height, width))?)
    }

    /// Checks that networks of these sizes can be built.
    ///
    /// # Errors
    ///
    /// [`Error::PerceptronConfig`] if a size is zero or the noise does not divide into four parts.
    pub fn validate(&self) -> Result<()> {
        let sized = self.noise_dim > 0 && self.network_width > 0 && self.trigger_len() > 0;
        if sized && self.noise_dim.is_multiple_of(NOISE_PARTS) {
            Ok(())
        } else {
            Err(Error::PerceptronConfig { config: *self })
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use candle::Var;

    use super::*;
    use crate::small_perceptrons::small;
    use crate::{Generator, Seeds, StatisticsNetwork};

    #[test]
    fn the_papers_sizes_have_as_many_parameters_as_the_authors_networks() {
        let mut rng = Seeds::new(0, "count").start();
        let config = PerceptronConfig::paper();
        let count = |parameters: BTreeMap<String, Var>| -> usize {
            parameters.values().map(|var| var.elem_count()).sum()
        };
        let generator = Generator::new(&mut rng, config).unwrap();
        let layers = (16 + 1) * 512 + 2 * (528 + 1) * 512 + (528 + 1) * 27;
        assert_eq!(count(generator.parameters()), layers + 3 * 2 * 512);
        let statistics = StatisticsNetwork::new(&mut rng, config).unwrap();
        let layers = (64 + 27 + 1) * 512 + (512 + 1) * 512 + (512 + 1);
        assert_eq!(count(statistics.parameters()), layers);
    }

    #[test]
    fn rejects_noise_that_does_not_divide() {
        let config = PerceptronConfig {
            noise_dim: 6,
            ..small()
        };
        assert!(matches!(
            config.validate(),
            Err(Error::PerceptronConfig { .. })
        ));
    }
}
