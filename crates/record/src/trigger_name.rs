//! The name of a trigger, as records hold it.

use std::fmt;
use std::str::FromStr;

use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The name of a trigger: a number for the 512 black/white patterns, a string
/// (`color:3`) for all others, in JSON as in text.
///
/// # Examples
///
/// ```
/// use mesa_record::TriggerName;
///
/// assert_eq!(serde_json::to_string(&TriggerName::from("170"))?, "170");
/// assert_eq!(serde_json::to_string(&TriggerName::from("color:3"))?, "\"color:3\"");
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TriggerName {
    /// One of the 512 patterns by its number.
    Pattern(u16),
    /// Any other.
    Named(String),
}

impl From<&str> for TriggerName {
    fn from(text: &str) -> Self {
        u16::from_str(text).map_or_else(|_| Self::Named(text.to_owned()), Self::Pattern)
    }
}

impl fmt::Display for TriggerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pattern(number) => write!(f, "{number}"),
            Self::Named(name) => f.write_str(name),
        }
    }
}

impl Serialize for TriggerName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Pattern(number) => serializer.serialize_u16(*number),
            Self::Named(name) => serializer.serialize_str(name),
        }
    }
}

impl<'de> Deserialize<'de> for TriggerName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Name;
        impl Visitor<'_> for Name {
            type Value = TriggerName;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a pattern's number (170) or a trigger's name (\"color:3\")")
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<TriggerName, E> {
                u16::try_from(number)
                    .map(TriggerName::Pattern)
                    .map_err(|_| E::invalid_value(de::Unexpected::Unsigned(number), &self))
            }

            fn visit_i64<E: de::Error>(self, number: i64) -> Result<TriggerName, E> {
                u64::try_from(number)
                    .map_err(|_| E::invalid_value(de::Unexpected::Signed(number), &self))
                    .and_then(|number| self.visit_u64(number))
            }

            fn visit_str<E: de::Error>(self, name: &str) -> Result<TriggerName, E> {
                Ok(TriggerName::from(name))
            }
        }
        deserializer.deserialize_any(Name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_numbers_and_strings() {
        let names: Vec<TriggerName> = serde_json::from_str(r#"[170, "color:3", "16"]"#).unwrap();
        let expected = [
            TriggerName::Pattern(170),
            TriggerName::Named("color:3".to_owned()),
            TriggerName::Pattern(16),
        ];
        assert_eq!(names, expected);
        assert!(serde_json::from_str::<TriggerName>("-1").is_err());
    }
}
