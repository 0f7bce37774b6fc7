//! Compares every kernel with a plain computation in f64 on the host, at fixed inputs.
//!
//! Inputs are rounded to the kernels' type before the host computes with them, so an error is the
//! kernel's own: of its sums, its products and the rounding of its results.

#[cfg(feature = "cuda")]
mod cases;
#[cfg(feature = "cuda")]
mod graph_cases;
#[cfg(feature = "cuda")]
mod head_cases;
#[cfg(feature = "cuda")]
mod norm_cases;
#[cfg(feature = "cuda")]
mod perceptron_cases;
mod reference;

use super::algorithm::Precision;
#[cfg(feature = "cuda")]
use super::{device::CudaDevice, failure::Result};

/// What one comparison came to.
#[derive(Clone, Debug, PartialEq)]
pub struct Comparison {
    /// What was compared.
    pub name: String,
    /// In what the device computed.
    pub precision: Precision,
    /// ‖found − expected‖ / ‖expected‖, Euclidean; or more, where single values were compared, too.
    pub error: f64,
    /// The largest error that passes.
    pub tolerance: f64,
}

impl Comparison {
    /// Compares what a device found with what was expected, as a whole.
    pub fn new(
        name: impl Into<String>,
        precision: Precision,
        found: &[f32],
        expected: &[f64],
        tolerance: f64,
    ) -> Self {
        Self {
            name: name.into(),
            precision,
            error: relative_error(found, expected),
            tolerance,
        }
    }

    /// The same, and every value: none may be off by more than eight times the tolerance, in root
    /// mean squares of what was expected. So one wrong pixel is seen among many right ones. Only where
    /// both sides open the same gates: one that rounding opens changes single values wholly.
    pub fn of_each(
        name: impl Into<String>,
        precision: Precision,
        found: &[f32],
        expected: &[f64],
        tolerance: f64,
    ) -> Self {
        let whole = Self::new(name, precision, found, expected, tolerance);
        Self {
            error: whole.error.max(largest_error(found, expected) / SINGLE),
            ..whole
        }
    }

    /// What could not be computed at all, and why; an infinite error.
    pub fn failed(name: &str, precision: Precision, reason: &dyn std::error::Error) -> Self {
        Self {
            name: format!("{name}: {reason}"),
            precision,
            error: f64::INFINITY,
            tolerance: 0.0,
        }
    }

    /// Whether the error is within its tolerance; one that is no number is not.
    pub fn passed(&self) -> bool {
        self.error <= self.tolerance
    }
}

/// By how much more than all together a single value may be off. What rounding does to the largest of
/// many values, some five root mean squares, is below that by far.
const SINGLE: f64 = 8.0;

/// The largest error of one kernel. f32: sums of a few thousand products, each rounded to 6e-8,
/// in any order. TF32 rounds factors to 10 bits (5e-4 each), bf16 results to 7 (2e-3 to 4e-3).
pub(crate) fn tolerance(precision: Precision) -> f64 {
    match precision {
        Precision::F32 => 1e-4,
        Precision::Tf32 => 5e-3,
        Precision::Bf16 => 2e-2,
    }
}

/// ‖found − expected‖ / ‖expected‖; infinite where the lengths differ, or where nothing was
/// expected and something was found.
pub fn relative_error(found: &[f32], expected: &[f64]) -> f64 {
    if found.len() != expected.len() {
        return f64::INFINITY;
    }
    let pairs = found.iter().zip(expected);
    let difference = pairs.map(|(a, b)| (f64::from(*a) - b).powi(2)).sum::<f64>();
    let size = expected.iter().map(|b| b * b).sum::<f64>();
    if difference == 0.0 {
        return 0.0;
    }
    (difference / size).sqrt()
}

/// max |found − expected| / √(mean of expected²); infinite as [`relative_error`] is.
fn largest_error(found: &[f32], expected: &[f64]) -> f64 {
    if found.len() != expected.len() {
        return f64::INFINITY;
    }
    let pairs = found.iter().zip(expected);
    let mut largest = 0.0;
    for (a, b) in pairs {
        let difference = (f64::from(*a) - b).abs();
        // `max` leaves out what is no number, on either side.
        if difference.is_nan() {
            return f64::INFINITY;
        }
        largest = difference.max(largest);
    }
    if largest == 0.0 {
        return 0.0;
    }
    let square = expected.iter().map(|b| b * b).sum::<f64>() / expected.len() as f64;
    largest / square.sqrt()
}

/// A group of comparisons.
#[cfg(feature = "cuda")]
type Case = fn(&CudaDevice, Precision, &mut Vec<Comparison>) -> Result<()>;

/// Compares every kernel, in every precision. What cannot be computed is a comparison that has not
/// [passed](Comparison::passed), and the others go on.
#[cfg(feature = "cuda")]
pub fn check_kernels(device: &CudaDevice) -> Vec<Comparison> {
    let cases: [(&str, Case); 12] = [
        ("copies", cases::copies),
        ("convolutions", cases::convolutions),
        ("weights' gradients of many images", cases::shared_weights),
        ("images", cases::images),
        ("head", head_cases::head),
        ("gradient descent", cases::descent),
        ("recordings", graph_cases::recordings),
        ("batch norm in training", norm_cases::training),
        ("gates of gradients", norm_cases::gates),
        ("batch norm with fixed statistics", norm_cases::fixed),
        ("skips", norm_cases::skip),
        ("perceptrons' layers", perceptron_cases::perceptrons),
    ];
    let mut found = Vec::new();
    for precision in [Precision::F32, Precision::Tf32, Precision::Bf16] {
        for (name, case) in cases {
            if let Err(error) = case(device, precision, &mut found) {
                found.push(Comparison::failed(name, precision, &error));
            }
        }
    }
    found
}

/// Numbers in [-1, 1) that look random, the same every time.
pub fn noise(seed: u32, len: usize) -> Vec<f32> {
    // Numbers of PCG's kind, the upper 24 bits of which are good.
    let mut state = u64::from(seed).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let next = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    std::iter::repeat_with(next).take(len).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_relative_to_what_was_expected() {
        assert_eq!(relative_error(&[3.0, 4.0], &[3.0, 4.0]), 0.0);
        assert!((relative_error(&[3.0, 4.5], &[3.0, 4.0]) - 0.1).abs() < 1e-12);
        assert_eq!(relative_error(&[0.0], &[0.0]), 0.0);
    }

    #[test]
    fn nothing_that_is_wrong_passes() {
        let compared = |found: &[f32], expected: &[f64]| {
            Comparison::new("it", Precision::F32, found, expected, 1e-4).passed()
        };
        assert!(compared(&[1.0], &[1.0]));
        assert!(!compared(&[1.0], &[1.1]));
        assert!(!compared(&[f32::NAN], &[1.0]));
        assert!(!compared(&[f32::INFINITY], &[1.0]));
        assert!(!compared(&[1e-9], &[0.0]));
        assert!(!compared(&[1.0, 0.0], &[1.0]));
    }

    #[test]
    fn one_wrong_value_among_many_is_seen() {
        let expected = vec![1.0; 1_000_000];
        let mut found = vec![1.0; 1_000_000];
        found[77] = 0.0;
        let compared =
            |found: &[f32]| Comparison::of_each("it", Precision::Bf16, found, &expected, 2e-2);
        assert!(!compared(&found).passed());
        assert!(Comparison::new("it", Precision::Bf16, &found, &expected, 2e-2).passed());
        found[77] = 1.0 + 0.9 * SINGLE as f32 * 2e-2;
        assert!(compared(&found).passed());
        for wrong in [f32::NAN, f32::INFINITY] {
            found[77] = wrong;
            assert!(!compared(&found).passed());
        }
        assert!(!compared(&[1.0]).passed());
        assert_eq!(compared(&vec![1.0; 1_000_000]).error, 0.0);
    }

    #[test]
    fn noise_fills_its_range_evenly() {
        let values = noise(3, 10_000);
        let mean = values.iter().sum::<f32>() / 10_000.0;
        let square = values.iter().map(|value| value * value).sum::<f32>() / 10_000.0;
        assert!(values.iter().all(|value| (-1.0..1.0).contains(value)));
        assert!(mean.abs() < 0.02 && (square - 1.0 / 3.0).abs() < 0.02);
        assert_ne!(noise(4, 8), noise(5, 8));
    }
}
