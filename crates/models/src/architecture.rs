//! Which residual network: how deep, and where its batch norm stands.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// How many layers a network has: the number in its name (He et al. 2016, table 1).
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "usize", into = "usize")]
pub enum Depth {
    /// ResNet-18, the paper's.
    #[default]
    ResNet18,
    /// ResNet-34.
    ResNet34,
    /// ResNet-50.
    ResNet50,
    /// ResNet-101.
    ResNet101,
    /// ResNet-152.
    ResNet152,
}

impl Depth {
    /// Every depth, rising.
    pub const ALL: [Self; 5] = [
        Self::ResNet18,
        Self::ResNet34,
        Self::ResNet50,
        Self::ResNet101,
        Self::ResNet152,
    ];

    /// The number of layers.
    pub fn layers(self) -> usize {
        match self {
            Self::ResNet18 => 18,
            Self::ResNet34 => 34,
            Self::ResNet50 => 50,
            Self::ResNet101 => 101,
            Self::ResNet152 => 152,
        }
    }

    /// Blocks of each stage.
    pub(crate) fn blocks(self) -> [usize; 4] {
        match self {
            Self::ResNet18 => [2, 2, 2, 2],
            Self::ResNet34 | Self::ResNet50 => [3, 4, 6, 3],
            Self::ResNet101 => [3, 4, 23, 3],
            Self::ResNet152 => [3, 8, 36, 3],
        }
    }

    /// Whether blocks are bottlenecks of three convolutions, not pairs of 3×3 ones.
    pub(crate) fn has_bottlenecks(self) -> bool {
        self.layers() >= 50
    }

    /// That of the network whose tensors have these names, or the nearest one.
    fn of_names<'a>(names: impl Iterator<Item = &'a str> + Clone) -> Self {
        let has_bottlenecks = names.clone().any(|name| name.ends_with(".conv3.weight"));
        // The third stage tells them apart.
        let third = |name: &&str| name.starts_with("layer3.") && name.ends_with(".conv1.weight");
        let found = names.filter(third).count();
        let alike = Self::ALL
            .into_iter()
            .filter(|depth| depth.has_bottlenecks() == has_bottlenecks);
        let nearest = alike.min_by_key(|depth| depth.blocks()[2].abs_diff(found));
        nearest.unwrap_or_default()
    }

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde calls it")]
    pub(crate) fn is_papers(&self) -> bool {
        *self == Self::default()
    }
}

impl From<Depth> for usize {
    fn from(depth: Depth) -> Self {
        depth.layers()
    }
}

impl TryFrom<usize> for Depth {
    type Error = Error;

    fn try_from(layers: usize) -> Result<Self> {
        let found = Self::ALL.into_iter().find(|depth| depth.layers() == layers);
        found.ok_or(Error::Depth { layers })
    }
}

impl fmt::Display for Depth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ResNet-{}", self.layers())
    }
}

/// A kind of residual network, of whatever size: `resnet18`, `preactresnet18` and so on.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Architecture {
    /// Its layers.
    pub depth: Depth,
    /// Whether batch norm and ReLU come before each convolution of a block, not behind it (He et al.
    /// 2016b): the network that most toolkits for backdoors attack.
    pub preactivation: bool,
}

impl Architecture {
    /// Every kind: those with batch norm behind the convolutions, by depth, then the others.
    pub fn all() -> impl Iterator<Item = Self> {
        [false, true].into_iter().flat_map(|preactivation| {
            Depth::ALL.map(|depth| Self {
                depth,
                preactivation,
            })
        })
    }

    /// That of the network whose tensors have these names, or the nearest one.
    pub(crate) fn of_names<'a>(names: &(impl Iterator<Item = &'a str> + Clone)) -> Self {
        // Without batch norm of their own: the stem, and the projections.
        let is_norm = |name: &str| name.starts_with("bn1.") || name.contains(".shortcut.1.");
        let projects = names.clone().any(|name| name.contains(".shortcut.0."));
        Self {
            depth: Depth::of_names(names.clone()),
            preactivation: projects && !names.clone().any(is_norm),
        }
    }

    /// Its name in files and settings.
    pub fn name(self) -> String {
        let kind = if self.preactivation {
            "preactresnet"
        } else {
            "resnet"
        };
        format!("{kind}{}", self.depth.layers())
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
        f.write_str(if self.preactivation { "PreAct" } else { "" })?;
        self.depth.fmt(f)
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
        let preactivation = Architecture {
            preactivation: true,
            ..Architecture::default()
        };
        assert_eq!(preactivation.name(), "preactresnet18");
        assert_eq!(preactivation.to_string(), "PreActResNet-18");
        let refused = "resnet20".parse::<Architecture>().unwrap_err().to_string();
        assert!(
            refused.contains("resnet20") && refused.contains("preactresnet18"),
            "{refused}"
        );
    }
}
