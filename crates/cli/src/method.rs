//! The methods that a run compares, by name.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// One way of repairing a network.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Method {
    /// Retraining with the attacker's own trigger.
    Ideal,
    /// Retraining with nothing stamped.
    NoTrigger,
    /// Retraining with uniform random patches.
    Random,
    /// Fine-tuning with shifts and flips, and nothing stamped.
    FineTune,
    /// Retraining with one reversed trigger, several times.
    Point,
    /// Retraining with samples of the sub-model of one β.
    Mesa(f64),
    /// All sub-models, one in each epoch.
    EnsembleTurns,
    /// All sub-models, drawn by weight for each image.
    EnsembleWeighted,
}

impl Method {
    /// Whether the method needs the sub-model of every β.
    pub(crate) fn is_ensemble(self) -> bool {
        matches!(self, Self::EnsembleTurns | Self::EnsembleWeighted)
    }
}

/// One repair of a network, and one row: a method, and of [`Method::Point`] one of its repeats.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Defense {
    pub(crate) method: Method,
    pub(crate) repeat: Option<u64>,
}

impl Defense {
    /// All that a method comes to.
    pub(crate) fn all(method: Method, repeats: u64) -> Vec<Self> {
        match method {
            Method::Point => (0..repeats)
                .map(|repeat| Self {
                    method,
                    repeat: Some(repeat),
                })
                .collect(),
            _ => vec![Self {
                method,
                repeat: None,
            }],
        }
    }

    /// The name of its step: `mesa-0.9`, `point-3`.
    pub(crate) fn step_name(self) -> String {
        let method = self.method.to_string().replace(':', "-");
        match self.repeat {
            Some(repeat) => format!("{method}-{repeat}"),
            None => method,
        }
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ideal => f.pad("ideal"),
            Self::NoTrigger => f.pad("no-trigger"),
            Self::Random => f.pad("random"),
            Self::FineTune => f.pad("fine-tune"),
            Self::Point => f.pad("point"),
            Self::Mesa(beta) => f.pad(&format!("mesa:{beta}")),
            Self::EnsembleTurns => f.pad("ensemble:turns"),
            Self::EnsembleWeighted => f.pad("ensemble:weighted"),
        }
    }
}

impl FromStr for Method {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(beta) = text.strip_prefix("mesa:") {
            return match beta.parse() {
                Ok(beta) if beta > 0.0 && beta < 1.0 => Ok(Self::Mesa(beta)),
                _ => Err(format!(
                    "`{text}`: β is a number between 0 and 1, as in `mesa:0.9`"
                )),
            };
        }
        let others = [
            Self::Ideal,
            Self::NoTrigger,
            Self::Random,
            Self::FineTune,
            Self::Point,
            Self::EnsembleTurns,
            Self::EnsembleWeighted,
        ];
        others
            .into_iter()
            .find(|method| method.to_string() == text)
            .ok_or_else(|| {
                format!(
                    "`{text}` is not a method; there are mesa:β (as in mesa:0.9), ensemble:turns, \
                 ensemble:weighted, ideal, no-trigger, random, fine-tune and point"
                )
            })
    }
}

impl Serialize for Method {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Method {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_written() {
        for name in [
            "mesa:0.9",
            "mesa:0.55",
            "ensemble:turns",
            "ensemble:weighted",
            "ideal",
            "fine-tune",
            "point",
        ] {
            assert_eq!(name.parse::<Method>().unwrap().to_string(), name);
        }
        for wrong in ["mesa:1", "mesa:", "mesa:x", "best", ""] {
            assert!(wrong.parse::<Method>().is_err(), "{wrong}");
        }
    }
}
