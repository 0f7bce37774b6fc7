//! Quantities of several steps, compared by name.

use mesa_kernels::cuda::{Comparison, Precision};

use super::wide;

/// What was found and what was expected, of several steps, by the names of quantities.
#[derive(Default)]
pub(super) struct Pairs {
    all: Vec<Pair>,
}

struct Pair {
    name: String,
    tolerance: f64,
    found: Vec<f32>,
    expected: Vec<f64>,
}

impl Pairs {
    pub(super) fn add(&mut self, name: &str, tolerance: f64, found: &[f32], expected: &[f32]) {
        self.add_wide(name, tolerance, found, wide(expected));
    }

    pub(super) fn add_wide(
        &mut self,
        name: &str,
        tolerance: f64,
        found: &[f32],
        expected: Vec<f64>,
    ) {
        let known = self.all.iter_mut().find(|pair| pair.name == name);
        if let Some(pair) = known {
            pair.found.extend(found);
            pair.expected.extend(expected);
            return;
        }
        self.all.push(Pair {
            name: name.to_owned(),
            tolerance,
            found: found.to_vec(),
            expected,
        });
    }

    /// A comparison of each quantity, over all steps.
    fn compared(self, of: &str, precision: Precision) -> impl Iterator<Item = Comparison> {
        self.all.into_iter().map(move |pair| {
            Comparison::new(
                format!("{of} {}", pair.name),
                precision,
                &pair.found,
                &pair.expected,
                pair.tolerance,
            )
        })
    }

    /// Notes them all.
    pub(super) fn compare(self, of: &str, precision: Precision, noted: &mut Vec<Comparison>) {
        noted.extend(self.compared(&format!("{of}:"), precision));
    }

    /// The one that is furthest off.
    pub(super) fn worst(self, of: &str, precision: Precision) -> Option<Comparison> {
        let all = self.compared(of, precision);
        all.max_by(|a, b| a.error.total_cmp(&b.error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_compared_over_all_steps() {
        let (mut pairs, mut noted) = (Pairs::default(), Vec::new());
        pairs.add("loss", 1e-6, &[1.0], &[1.0]);
        pairs.add("logits", 1e-6, &[1.0, 2.0], &[1.0, 2.0]);
        pairs.add("loss", 1e-6, &[3.0], &[4.0]);
        pairs.compare("training", Precision::F32, &mut noted);
        let passed: Vec<(&str, bool)> = noted
            .iter()
            .map(|one| (one.name.as_str(), one.passed()))
            .collect();
        assert_eq!(
            passed,
            [("training: loss", false), ("training: logits", true)]
        );
    }

    #[test]
    fn one_wrong_tensor_is_not_lost_among_the_others() {
        let mut pairs = Pairs::default();
        pairs.add("conv1", 1e-2, &[1e3], &[1e3]);
        pairs.add("bn1.bias", 1e-2, &[1e-3], &[2e-3]);
        let worst = pairs.worst("gradient of", Precision::F32).unwrap();
        assert_eq!(worst.name, "gradient of bn1.bias");
        assert!(!worst.passed());
    }
}
