//! What decides whether an old result may be reused.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

/// Everything that decides the figures of a step, up to the kernel path.
///
/// # Examples
///
/// ```
/// use mesa_record::Step;
///
/// let attack = Step::new("attack", 1, "digest of the data")
///     .with_config(serde_json::json!({"learning_rate": 0.001}));
/// let defend = Step::new("defend", 1, "digest of the data").after("attack", &attack.key());
/// let changed = attack.clone().with_config(serde_json::json!({"learning_rate": 0.01}));
/// assert_ne!(attack.key(), changed.key());
/// assert_ne!(defend.key(), defend.clone().after("attack", &changed.key()).key());
/// ```
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Step {
    /// What the step does: `attack`, `fit`, ….
    pub kind: String,
    /// Its own configuration: every hyper-parameter, seed and trigger.
    pub config: Value,
    /// The steps whose results it reads.
    pub after: BTreeMap<String, Key>,
    /// Digest of the data set.
    pub data_digest: String,
    /// Number of the engine.
    pub engine_version: u32,
}

/// A digest of a [`Step`]: equal keys mean equal figures.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Key(String);

impl Step {
    /// A step with no configuration and no predecessors yet.
    pub fn new(kind: &str, engine_version: u32, data_digest: &str) -> Self {
        Self {
            kind: kind.to_owned(),
            config: Value::Null,
            after: BTreeMap::new(),
            data_digest: data_digest.to_owned(),
            engine_version,
        }
    }

    /// The same step with this configuration.
    #[must_use]
    pub fn with_config(mut self, config: Value) -> Self {
        self.config = config;
        self
    }

    /// The same step, which also reads the result of step `name`.
    #[must_use]
    pub fn after(mut self, name: &str, key: &Key) -> Self {
        self.after.insert(name.to_owned(), key.clone());
        self
    }

    /// The digest of all of it.
    ///
    /// # Panics
    ///
    /// Never: a step is always valid JSON.
    pub fn key(&self) -> Key {
        let value = serde_json::to_value(self).expect("strings, numbers and maps are valid JSON");
        let mut text = String::new();
        write_sorted(&value, &mut text);
        Key(hexadecimal(&Sha256::digest(text.as_bytes())))
    }
}

impl Key {
    /// All 64 hexadecimal digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The first twelve digits, for file names and people.
    pub fn short(&self) -> &str {
        self.0.get(..12).unwrap_or(&self.0)
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

pub(crate) fn hexadecimal(bytes: &[u8]) -> String {
    let digit = |value: u8| char::from(b"0123456789abcdef"[usize::from(value)]);
    bytes
        .iter()
        .flat_map(|byte| [digit(byte >> 4), digit(byte & 15)])
        .collect()
}

/// JSON with sorted fields, whatever `serde_json` was built to keep.
fn write_sorted(value: &Value, text: &mut String) {
    match value {
        Value::Object(fields) => {
            let sorted: BTreeMap<_, _> = fields.iter().collect();
            text.push('{');
            for (name, field) in sorted {
                text.push_str(&Value::from(name.as_str()).to_string());
                text.push(':');
                write_sorted(field, text);
                text.push(',');
            }
            text.push('}');
        }
        Value::Array(items) => {
            text.push('[');
            for item in items {
                write_sorted(item, text);
                text.push(',');
            }
            text.push(']');
        }
        scalar => text.push_str(&scalar.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_part_counts() {
        let base = Step::new("fit", 1, "data").with_config(json!({"beta": 0.9, "alpha": 0.1}));
        let key = base.key();
        assert_eq!(key, base.key());
        let others = [
            Step {
                kind: "attack".into(),
                ..base.clone()
            },
            Step {
                engine_version: 2,
                ..base.clone()
            },
            Step {
                data_digest: "other".into(),
                ..base.clone()
            },
            base.clone().with_config(json!({"beta": 0.8, "alpha": 0.1})),
            base.clone().after("attack", &key),
        ];
        for other in others {
            assert_ne!(other.key(), key, "{other:?}");
        }
        assert_eq!(key.short().len(), 12);
    }
}
