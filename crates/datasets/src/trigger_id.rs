//! Names of triggers: on the command line, in records and in configurations.

use std::fmt;
use std::str::FromStr;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::patterns::NUM_PATTERNS;
use crate::trigger::{COLOR_TRIGGERS, LONGEST_SIDE};
use crate::{COLOR_TARGETS_CIFAR100, Error, Result, Trigger};

/// Rows and columns of a random trigger whose name does not say.
const SIDE: usize = 3;

/// The name of a trigger: on the command line, in records and in configurations.
///
/// Written as a number for patterns, as `color:3`, `random:7` or `random:7:5x4` (seed, then
/// height and width where they are not 3×3) for others.
///
/// # Examples
///
/// ```
/// use mesa_datasets::{Trigger, TriggerId};
///
/// let id: TriggerId = "color:3".parse()?;
/// assert_eq!(id.trigger()?, Trigger::color(3)?);
/// assert_eq!(TriggerId::parse_list("170,color:3")?, [TriggerId::Pattern(170), id]);
/// assert_eq!(TriggerId::parse_list("all")?.len(), 51);
/// # Ok::<(), mesa_datasets::Error>(())
/// ```
#[derive(Copy, Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum TriggerId {
    /// A black/white 3×3 pattern, below 512.
    Pattern(u16),
    /// One of the paper's color triggers, below 10.
    Color(u8),
    /// Uniformly random colors.
    Random {
        /// Seed of the colors.
        seed: u64,
        /// Rows.
        height: usize,
        /// Columns.
        width: usize,
    },
}

impl TriggerId {
    /// The trigger of this name.
    ///
    /// # Errors
    ///
    /// [`Error::NoSuchPattern`] and [`Error::NoSuchColor`] for numbers that do not exist,
    /// [`Error::PixelCount`] for a random trigger without pixels.
    pub fn trigger(self) -> Result<Trigger> {
        match self {
            Self::Pattern(pattern) => Trigger::pattern(pattern),
            Self::Color(index) => Trigger::color(index),
            Self::Random {
                seed,
                height,
                width,
            } => Trigger::random(&mut ChaCha8Rng::seed_from_u64(seed), (height, width)),
        }
    }

    /// Reads names separated by commas; `all` stands for the 51 pattern classes.
    ///
    /// # Errors
    ///
    /// [`Error::BadTriggerId`] names the part that cannot be read.
    pub fn parse_list(text: &str) -> Result<Vec<Self>> {
        let mut ids = Vec::new();
        for name in text.split(',').map(str::trim) {
            if name == "all" {
                ids.extend(crate::pattern_classes().into_iter().map(Self::Pattern));
            } else {
                ids.push(name.parse()?);
            }
        }
        Ok(ids)
    }

    /// The class this trigger aims at on CIFAR-100 in the paper, where it has one.
    pub fn cifar100_target(self) -> Option<u32> {
        match self {
            Self::Color(index) => COLOR_TARGETS_CIFAR100.get(usize::from(index)).copied(),
            _ => None,
        }
    }

    fn parse(text: &str) -> Option<Self> {
        let (kind, rest) = text.split_once(':').unwrap_or((text, ""));
        match kind {
            "color" => rest.parse().ok().map(Self::Color),
            "random" => {
                let (seed, size) = rest.split_once(':').unwrap_or((rest, "3x3"));
                let (height, width) = size.split_once('x')?;
                Some(Self::Random {
                    seed: seed.parse().ok()?,
                    height: height.parse().ok()?,
                    width: width.parse().ok()?,
                })
            }
            _ => text.parse().ok().map(Self::Pattern),
        }
    }

    fn exists(self) -> bool {
        match self {
            Self::Pattern(pattern) => pattern < NUM_PATTERNS,
            Self::Color(index) => usize::from(index) < COLOR_TRIGGERS.len(),
            Self::Random { height, width, .. } => {
                let sides = 1..=LONGEST_SIDE.into();
                sides.contains(&height) && sides.contains(&width)
            }
        }
    }
}

impl FromStr for TriggerId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::parse(text)
            .filter(|id| id.exists())
            .ok_or_else(|| Error::BadTriggerId {
                text: text.to_owned(),
            })
    }
}

impl fmt::Display for TriggerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pattern(pattern) => pattern.fmt(f),
            Self::Color(index) => f.pad(&format!("color:{index}")),
            Self::Random {
                seed,
                height: SIDE,
                width: SIDE,
            } => f.pad(&format!("random:{seed}")),
            Self::Random {
                seed,
                height,
                width,
            } => f.pad(&format!("random:{seed}:{height}x{width}")),
        }
    }
}

impl Serialize for TriggerId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Pattern(pattern) => serializer.serialize_u16(*pattern),
            other => serializer.collect_str(other),
        }
    }
}

impl<'de> Deserialize<'de> for TriggerId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(IdVisitor)
    }
}

struct IdVisitor;

impl Visitor<'_> for IdVisitor {
    type Value = TriggerId;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a pattern number or the name of a trigger")
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<TriggerId, E> {
        self.visit_str(&number.to_string())
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<TriggerId, E> {
        self.visit_str(&number.to_string())
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<TriggerId, E> {
        text.parse().map_err(E::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_triggers_follow_their_seed() {
        let a: TriggerId = "random:7:5x4".parse().unwrap();
        let b: TriggerId = "random:8:5x4".parse().unwrap();
        assert_eq!(a.trigger().unwrap(), a.trigger().unwrap());
        assert_ne!(a.trigger().unwrap(), b.trigger().unwrap());
        assert_eq!(a.trigger().unwrap().size(), (5, 4));
    }

    #[test]
    fn names_survive_text_and_json() {
        for name in [
            "0",
            "511",
            "color:0",
            "color:9",
            "random:12",
            "random:1:32x2",
        ] {
            let id: TriggerId = name.parse().unwrap();
            assert_eq!(id.to_string(), name);
            let json = serde_json::to_string(&id).unwrap();
            assert_eq!(json.starts_with('"'), name.contains(':'));
            assert_eq!(serde_json::from_str::<TriggerId>(&json).unwrap(), id);
        }
    }

    #[test]
    fn names_of_nothing_are_refused() {
        for name in [
            "512",
            "-1",
            "color:10",
            "color",
            "random:",
            "random:1:0x3",
            "blue",
            "",
        ] {
            let refused = name.parse::<TriggerId>();
            assert!(matches!(refused, Err(Error::BadTriggerId { .. })), "{name}");
        }
        assert!(TriggerId::parse_list("170,,3").is_err());
        assert!(serde_json::from_str::<TriggerId>("-3").is_err());
    }

    #[test]
    fn only_color_triggers_have_a_target_on_cifar100() {
        assert_eq!(TriggerId::Color(9).cifar100_target(), Some(7));
        assert_eq!(TriggerId::Pattern(170).cifar100_target(), None);
    }
}
