//! Lets a classifier take pixels in [0, 1].

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::Error;

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

    /// The statistics of `ImageNet`, which many networks for other images are trained with, too.
    pub fn imagenet() -> Self {
        Self {
            mean: [0.485, 0.456, 0.406],
            std: [0.229, 0.224, 0.225],
        }
    }

    /// Whether pixels can be normalized so: finite means, finite deviations above zero.
    pub(crate) fn is_usable(&self) -> bool {
        let of_deviations = |std: &f32| std.is_finite() && *std > 0.0;
        self.mean.iter().all(|mean| mean.is_finite()) && self.std.iter().all(of_deviations)
    }

    /// None: for networks that take pixels as they are.
    pub fn identity() -> Self {
        Self {
            mean: [0.0; 3],
            std: [1.0; 3],
        }
    }
}

/// `cifar10`, `cifar100`, `imagenet`, `none`, or means and standard deviations, `M,M,M/S,S,S`.
///
/// # Examples
///
/// ```
/// use mesa_models::Normalization;
///
/// assert_eq!("cifar10".parse::<Normalization>()?, Normalization::cifar10());
/// let halves: Normalization = "0.5,0.5,0.5/0.5,0.5,0.5".parse()?;
/// assert_eq!(halves.mean, [0.5; 3]);
/// # Ok::<(), mesa_models::Error>(())
/// ```
impl FromStr for Normalization {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let three = |part: &str| -> Option<[f32; 3]> {
            let numbers: Option<Vec<f32>> = part
                .split(',')
                .map(|number| number.trim().parse().ok())
                .collect();
            numbers?.try_into().ok()
        };
        let numbers = || {
            let (mean, std) = text.split_once('/')?;
            let (mean, std) = (three(mean)?, three(std)?);
            Some(Self { mean, std }).filter(Self::is_usable)
        };
        match text {
            "cifar10" => Ok(Self::cifar10()),
            "cifar100" => Ok(Self::cifar100()),
            "imagenet" => Ok(Self::imagenet()),
            "none" => Ok(Self::identity()),
            _ => numbers().ok_or_else(|| Error::NormalizationText {
                text: text.to_owned(),
            }),
        }
    }
}

impl fmt::Display for Normalization {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let three = |numbers: [f32; 3]| numbers.map(|number| number.to_string()).join(",");
        write!(f, "{}/{}", three(self.mean), three(self.std))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comes_back_from_its_text() {
        for normalization in [
            Normalization::cifar10(),
            Normalization::cifar100(),
            Normalization::imagenet(),
            Normalization::identity(),
        ] {
            let text = normalization.to_string();
            assert_eq!(text.parse::<Normalization>().unwrap(), normalization);
        }
        assert_eq!(
            "none".parse::<Normalization>().unwrap(),
            Normalization::identity()
        );
    }

    #[test]
    fn refuses_what_divides_by_zero_or_is_no_triple() {
        for text in [
            "",
            "cifar",
            "1,2,3",
            "0,0,0/1,1",
            "0,0,0/1,0,1",
            "0,0,nan/1,1,1",
        ] {
            assert!(text.parse::<Normalization>().is_err(), "{text}");
        }
    }
}
