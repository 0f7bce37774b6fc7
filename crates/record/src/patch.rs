//! A trigger's pixels, as records hold them.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// The pixels of a small patch: a byte for each channel, six hexadecimal digits (RGB) for each
/// pixel, row by row.
///
/// # Examples
///
/// ```
/// use mesa_record::Patch;
///
/// // Channel by channel, as tensors are: two pixels, white and half green.
/// let patch = Patch::from_channels(&[1.0, 0.0, 1.0, 0.5, 1.0, 0.0]);
/// assert_eq!(serde_json::to_string(&patch)?, "\"ffffff 008000\"");
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Patch(Vec<[u8; 3]>);

impl Patch {
    /// The patch of `(3, h, w)` values in [0, 1], flattened; what lies outside is clipped.
    pub fn from_channels(values: &[f32]) -> Self {
        let plane = values.len() / 3;
        let byte = |at: usize| (values[at].clamp(0.0, 1.0) * 255.0).round() as u8;
        let pixel = |at: usize| [byte(at), byte(plane + at), byte(2 * plane + at)];
        Self((0..plane).map(pixel).collect())
    }

    /// The pixels, row by row.
    pub fn pixels(&self) -> &[[u8; 3]] {
        &self.0
    }

    /// `(3, h, w)` values in [0, 1], flattened.
    pub fn to_channels(&self) -> Vec<f32> {
        let channel = |index: usize| {
            self.0
                .iter()
                .map(move |pixel| f32::from(pixel[index]) / 255.0)
        };
        (0..3).flat_map(channel).collect()
    }
}

impl fmt::Display for Patch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, [red, green, blue]) in self.0.iter().enumerate() {
            let space = if index == 0 { "" } else { " " };
            write!(f, "{space}{red:02x}{green:02x}{blue:02x}")?;
        }
        Ok(())
    }
}

impl Serialize for Patch {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Patch {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let pixel = |word: &str| {
            let digits = word.len() == 6 && word.bytes().all(|byte| byte.is_ascii_hexdigit());
            let number = digits.then(|| u32::from_str_radix(word, 16).ok()).flatten();
            number
                .map(|number| [(number >> 16) as u8, (number >> 8) as u8, number as u8])
                .ok_or_else(|| de::Error::custom(format!("`{word}` is not a pixel such as ff8000")))
        };
        text.split_whitespace()
            .map(pixel)
            .collect::<Result<_, _>>()
            .map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        let values: Vec<f32> = (0..27_u8).map(|i| f32::from(i * 9) / 255.0).collect();
        let patch = Patch::from_channels(&values);
        let json = serde_json::to_string(&patch).unwrap();
        let read: Patch = serde_json::from_str(&json).unwrap();
        assert_eq!(read, patch);
        assert_eq!(read.to_channels(), values);
        assert_eq!(read.pixels()[1], [9, 90, 171]);
    }

    #[test]
    fn colors_outside_are_clipped_and_other_words_refused() {
        let patch = Patch::from_channels(&[-1.0, 2.0, 0.5]);
        assert_eq!(patch.to_string(), "00ff80");
        for wrong in ["\"ff\"", "\"ff80000\"", "\"+f8000\"", "\"gg8000\"", "1"] {
            assert!(serde_json::from_str::<Patch>(wrong).is_err(), "{wrong}");
        }
    }
}
