//! Lets a classifier take pixels in [0, 1].

use serde::{Deserialize, Serialize};

/// Mean and standard deviation of each color, which a classifier takes from its images first:
/// `(pixel − mean) / std`.
#[derive(Copy, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Normalization {
    /// Means of red, green and blue.
    pub mean: [f32; 3],
    /// Standard deviations of red, green and blue.
    pub std: [f32; 3],
}

impl Normalization {
    /// The statistics of CIFAR-10 that the paper's code uses.
    pub fn cifar10() -> Self {
        Self {
            mean: [0.4914, 0.4822, 0.4465],
            std: [0.2023, 0.1994, 0.2010],
        }
    }

    /// The statistics of CIFAR-100.
    pub fn cifar100() -> Self {
        Self {
            mean: [0.5071, 0.4867, 0.4408],
            std: [0.2675, 0.2565, 0.2761],
        }
    }

    /// None: for networks that take pixels as they are.
    pub fn identity() -> Self {
        Self {
            mean: [0.0; 3],
            std: [1.0; 3],
        }
    }
}
