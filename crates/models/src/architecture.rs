//! Which residual network: its family and its layers.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// What residual networks have in common but for how deep and how wide they are.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub enum Family {
    /// Batch norm behind each convolution; four stages, or three of narrow layers (He et al. 2016).
    #[default]
    ResNet,
    /// The narrow ones with nothing to learn in their shortcuts, which fill up with channels of zeros
    /// (option A of He et al. 2016).
    PaddedResNet,
    /// Batch norm and ReLU before each convolution of a block (He et al. 2016b): the network that most
    /// toolkits for backdoors attack.
    PreActResNet,
    /// The same in three stages of wider layers, with batch norm behind the last sum (Zagoruyko and
    /// Komodakis 2016).
    WideResNet,
}

impl Family {
    const ALL: [Self; 4] = [
        Self::ResNet,
        Self::PaddedResNet,
        Self::PreActResNet,
        Self::WideResNet,
    ];

    /// The numbers of layers that its networks have.
    fn layers(self) -> &'static [usize] {
        match self {
            Self::ResNet => &[18, 20, 32, 34, 44, 50, 56, 101, 110, 152],
            Self::PaddedResNet => &[20, 32, 44, 56, 110],
            Self::PreActResNet => &[18, 34, 50, 101, 152],
            Self::WideResNet => &[10, 16, 22, 28, 34, 40],
        }
    }

    /// That of the network whose tensors have these names, or the nearest one.
    pub(crate) fn of_names<'a>(names: &(impl Iterator<Item = &'a str> + Clone)) -> Self {
        let any = |is: fn(&str) -> bool| names.clone().any(is);
        // Without batch norm of their own: the stem, and the projections.
        let is_norm = |name: &str| name.starts_with("bn1.") || name.contains(".shortcut.1.");
        if any(|name| name.starts_with("block1.layer.")) {
            Self::WideResNet
        } else if any(|name| name.contains(".shortcut.0.")) && !any(is_norm) {
            Self::PreActResNet
        } else if is_of_three(names) && !any(|name| name.contains(".shortcut.")) {
            Self::PaddedResNet
        } else {
            Self::ResNet
        }
    }

    /// Its name in the literature.
    fn title(self) -> &'static str {
        match self {
            Self::ResNet => "ResNet",
            Self::PaddedResNet => "PaddedResNet",
            Self::PreActResNet => "PreActResNet",
            Self::WideResNet => "WideResNet",
        }
    }
}

/// Whether the third stage of a network with these names is its last.
fn is_of_three<'a>(names: &(impl Iterator<Item = &'a str> + Clone)) -> bool {
    let has = |stage: &str| names.clone().any(|name| name.starts_with(stage));
    has("layer3.") && !has("layer4.")
}

/// A kind of residual network, of whatever width: `resnet18`, `preactresnet18`, `wideresnet16` and so
/// on.
///
/// # Examples
///
/// ```
/// use mesa_models::Architecture;
///
/// let kind: Architecture = "wideresnet16".parse()?;
/// assert_eq!(kind.layers(), 16);
/// assert_eq!(kind.to_string(), "WideResNet-16");
/// # Ok::<(), mesa_models::Error>(())
/// ```
#[derive(Copy, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Architecture {
    family: Family,
    layers: usize,
}

impl Default for Architecture {
    /// The paper's: ResNet-18.
    fn default() -> Self {
        Self {
            family: Family::ResNet,
            layers: 18,
        }
    }
}

impl Architecture {
    /// Every kind, by family, then by layers.
    pub fn all() -> impl Iterator<Item = Self> {
        Family::ALL.into_iter().flat_map(|family| {
            let layers = family.layers().iter();
            layers.map(move |layers| Self {
                family,
                layers: *layers,
            })
        })
    }

    /// Its family.
    pub fn family(self) -> Family {
        self.family
    }

    /// Its layers: the number in its name.
    pub fn layers(self) -> usize {
        self.layers
    }

    /// Blocks of each stage.
    pub(crate) fn blocks(self) -> Vec<usize> {
        match (self.family, self.layers) {
            // Two convolutions in each block; the others are the stem and three projections.
            (Family::WideResNet, layers) => vec![(layers - 4) / 6; 3],
            // The stem and the linear layer.
            (_, layers @ (20 | 32 | 44 | 56 | 110)) => vec![(layers - 2) / 6; 3],
            (_, 18) => vec![2, 2, 2, 2],
            (_, 34 | 50) => vec![3, 4, 6, 3],
            (_, 101) => vec![3, 4, 23, 3],
            _ => vec![3, 8, 36, 3],
        }
    }

    /// Whether blocks are bottlenecks of three convolutions, not pairs of 3×3 ones.
    pub(crate) fn has_bottlenecks(self) -> bool {
        self.blocks().len() == 4 && self.layers >= 50
    }

    /// That of the network whose tensors have these names, or the nearest one.
    pub(crate) fn of_names<'a>(names: &(impl Iterator<Item = &'a str> + Clone)) -> Self {
        let family = Family::of_names(names);
        let is_of_three = family == Family::WideResNet || is_of_three(names);
        let has_third = || names.clone().any(|name| name.contains(".conv3.weight"));
        let has_bottlenecks = family != Family::WideResNet && has_third();
        // The third stage tells depths apart.
        let third = |name: &&str| {
            let in_stage = name.starts_with("layer3.") || name.starts_with("block3.layer.");
            in_stage && name.ends_with(".conv1.weight")
        };
        let found = names.clone().filter(third).count();
        let of_family = Self::all().filter(|kind| kind.family == family);
        let nearest = of_family.min_by_key(|kind| {
            let blocks = kind.blocks();
            (
                kind.has_bottlenecks() != has_bottlenecks,
                (blocks.len() == 3) != is_of_three,
                blocks[2].abs_diff(found),
            )
        });
        nearest.unwrap_or_default()
    }

    /// Its name in files and settings.
    pub fn name(self) -> String {
        format!("{}{}", self.family.title().to_lowercase(), self.layers)
    }

    /// The names of all kinds, as errors list them.
    pub(crate) fn names() -> String {
        Self::all().map(Self::name).collect::<Vec<_>>().join(", ")
    }

    /// Whether it is the paper's, of which files and records say nothing.
    pub fn is_papers(&self) -> bool {
        *self == Self::default()
    }
}

impl fmt::Display for Architecture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.family.title(), self.layers)
    }
}

impl FromStr for Architecture {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let found = Self::all().find(|kind| kind.name() == name);
        found.ok_or_else(|| Error::Architecture {
            name: name.to_owned(),
            known: Self::names(),
        })
    }
}

impl TryFrom<String> for Architecture {
    type Error = Error;

    fn try_from(name: String) -> Result<Self> {
        name.parse()
    }
}

impl From<Architecture> for String {
    fn from(architecture: Architecture) -> Self {
        architecture.name()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_called_by_its_name() {
        for kind in Architecture::all() {
            assert_eq!(kind.name().parse::<Architecture>().unwrap(), kind);
        }
        let preactivated: Architecture = "preactresnet18".parse().unwrap();
        assert_eq!(preactivated.to_string(), "PreActResNet-18");
        assert_eq!(preactivated.family(), Family::PreActResNet);
        let refused = "resnet19".parse::<Architecture>().unwrap_err().to_string();
        assert!(
            refused.contains("resnet19") && refused.contains("wideresnet16"),
            "{refused}"
        );
    }
}
