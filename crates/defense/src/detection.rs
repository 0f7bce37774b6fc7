//! Which classes are attacked: what MESA's samples reach against each class, beside the others.

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// Fewest classes among which one can stand out.
const FEWEST_CLASSES: usize = 5;

/// Least spread of the classes, in units of the logit: classes that agree by chance shall not
/// make a small difference look large.
const LEAST_SPREAD: f64 = 0.5;

/// Least share of a class's samples that reach β where they were modeled in one place.
pub const LEAST_IN_PLACE: f64 = 0.5;

/// Turns a median absolute deviation into the standard deviation of a normal distribution.
const NORMAL_SPREAD: f64 = 1.4826;

/// When a class counts as attacked: its samples work, and they work far better than those of
/// the other classes.
///
/// Both are asked for. Without a backdoor some class is always the easiest to reach with a patch,
/// so the share alone would need a threshold for every network; and where every class is hard to
/// reach the index alone would call a difference of a few images an anomaly.
///
/// # Examples
///
/// ```
/// use mesa_defense::{DetectionRule, anomaly_indices};
///
/// let asrs = [0.96, 0.02, 0.08, 0.05, 0.03, 0.04, 0.02, 0.06, 0.03, 0.05];
/// let indices = anomaly_indices(&asrs, 32_768).ok_or("too few classes")?;
/// let rule = DetectionRule::standard();
/// let attacked: Vec<bool> = asrs
///     .iter()
///     .zip(&indices)
///     .map(|(asr, index)| rule.is_met(*asr, Some(*index)))
///     .collect();
/// assert!(attacked[0] && attacked[1..].iter().all(|found| !found));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Copy, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DetectionRule {
    /// Least share of clean images, none of the class, that the class's samples turn into it.
    pub sample_asr: f64,
    /// Least anomaly index, where there is one ([`anomaly_indices`]).
    pub anomaly_index: f64,
}

impl DetectionRule {
    /// Half of the images, and an index of 3.5, above which Iglewicz and Hoaglin (1993) call a
    /// value an outlier.
    pub fn standard() -> Self {
        Self {
            sample_asr: 0.5,
            anomaly_index: 3.5,
        }
    }

    /// # Errors
    ///
    /// [`Error::Setting`] if the share is none or the index is not positive.
    pub fn validate(&self) -> Result<()> {
        let wrong = |field, value, must_be| {
            Err(Error::Setting {
                field,
                value,
                must_be,
            })
        };
        if !(self.sample_asr > 0.0 && self.sample_asr <= 1.0) {
            return wrong("sample_asr", self.sample_asr, "above 0 and at most 1");
        }
        if !(self.anomaly_index > 0.0 && self.anomaly_index.is_finite()) {
            return wrong("anomaly_index", self.anomaly_index, "above 0 and finite");
        }
        Ok(())
    }

    /// Whether a class has to be modeled again in the place where its samples work best: standing
    /// anywhere they miss β on the whole or the share that is asked for, in that place they turn half of that
    /// share.
    ///
    /// A backdoor that works in some places only has no trigger that works in all of them, and MESA's
    /// samples are the best compromise. What they do in one place tells it from a class that patches
    /// hardly reach.
    pub fn asks_for_place(&self, beta: f64, sample_asr: f64, in_best_place: f64) -> bool {
        sample_asr < beta.max(self.sample_asr) && in_best_place >= self.sample_asr / 2.0
    }

    /// Whether a class counts as attacked by what patches do that were modeled in its best place. There they
    /// have an easier task, and without a backdoor, too, some place is the easiest: at least half of them
    /// have to reach β (`in_level_set`), which those of a network's weak spots do not.
    fn is_met_in_place(
        &self,
        sample_asr: f64,
        in_level_set: f64,
        anomaly_index: Option<f64>,
    ) -> bool {
        in_level_set >= LEAST_IN_PLACE && self.is_met(sample_asr, anomaly_index)
    }

    /// Whether a class counts as attacked, and by which triggers: those modeled anywhere, and those of its
    /// best place where it was modeled there. What works anywhere tells more, whatever works better in one
    /// place.
    pub fn judge(&self, anywhere: ClassScore, in_place: Option<ClassScore>) -> Judgement {
        let judgement = |attacked, in_place| Judgement { attacked, in_place };
        if self.is_met(anywhere.sample_asr, anywhere.anomaly_index) {
            return judgement(true, false);
        }
        let Some(there) = in_place else {
            return judgement(false, false);
        };
        let attacked =
            self.is_met_in_place(there.sample_asr, there.in_level_set, there.anomaly_index);
        judgement(attacked, attacked || there.sample_asr > anywhere.sample_asr)
    }

    /// Whether a class with these figures counts as attacked. `anomaly_index` is `None` where
    /// the classes are too few for one; the share then decides alone.
    pub fn is_met(&self, sample_asr: f64, anomaly_index: Option<f64>) -> bool {
        sample_asr >= self.sample_asr
            && anomaly_index.is_none_or(|index| index >= self.anomaly_index)
    }
}

/// What samples of triggers against a class do.
#[derive(Copy, Clone, Debug, PartialEq)]
pub struct ClassScore {
    /// Share of clean images, none of the class, that they turn into it.
    pub sample_asr: f64,
    /// Share of the samples that reach β.
    pub in_level_set: f64,
    /// How far the class stands above the others by them, where that can be told.
    pub anomaly_index: Option<f64>,
}

/// What [`DetectionRule::judge`] says of a class.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Judgement {
    /// Whether it counts as attacked.
    pub attacked: bool,
    /// Whether the triggers of its best place say so, and not those modeled anywhere.
    pub in_place: bool,
}

/// How far each class stands above the others: the distance of the logit of its samples' ASR
/// from the median of all classes, in robust standard deviations,
/// `(l − median l) / (1.4826 · median |l − median l|)`, the spread being at least 0.5.
///
/// `sample_asrs` are shares of `stamped` images each. The logit, with half an image added on
/// either side so that it is finite, spreads the shares near 0 and 1. `None` for fewer than five
/// classes.
pub fn anomaly_indices(sample_asrs: &[f64], stamped: usize) -> Option<Vec<f64>> {
    if sample_asrs.len() < FEWEST_CLASSES {
        return None;
    }
    let logits: Vec<f64> = sample_asrs
        .iter()
        .map(|share| {
            let hit = share * stamped as f64;
            ((hit + 0.5) / (stamped as f64 - hit + 0.5)).ln()
        })
        .collect();
    let middle = median(&logits);
    let distances: Vec<f64> = logits.iter().map(|logit| (logit - middle).abs()).collect();
    let spread = (NORMAL_SPREAD * median(&distances)).max(LEAST_SPREAD);
    Some(
        logits
            .iter()
            .map(|logit| (logit - middle) / spread)
            .collect(),
    )
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let half = sorted.len() / 2;
    if sorted.len().is_multiple_of(2) {
        f64::midpoint(sorted[half - 1], sorted[half])
    } else {
        sorted[half]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Shares whose logits are the given ones, for many images.
    fn shares(logits: &[f64]) -> Vec<f64> {
        logits.iter().map(|l| 1.0 / (1.0 + (-l).exp())).collect()
    }

    #[test]
    fn an_index_is_a_distance_in_robust_standard_deviations() {
        // Median −4, absolute deviations 1 1 0 2 6: their median is 1.
        let found = anomaly_indices(&shares(&[-5.0, -3.0, -4.0, -6.0, 2.0]), 1 << 40).unwrap();
        let expected = [-1.0, 1.0, 0.0, -2.0, 6.0].map(|distance| distance / 1.4826);
        for (found, expected) in found.iter().zip(expected) {
            assert!((found - expected).abs() < 1e-6, "{found} {expected}");
        }
    }

    #[test]
    fn classes_that_agree_make_nothing_stand_out() {
        let found = anomaly_indices(&[0.0, 0.0, 0.0, 0.0, 0.0, 1e-4], 30_000).unwrap();
        // Three images more than none are a logit of ln 7 apart.
        assert!((found[5] - 7_f64.ln() / 0.5).abs() < 1e-2, "{}", found[5]);
        assert!(!DetectionRule::standard().is_met(1e-4, Some(found[5])));
    }

    #[test]
    fn every_image_and_none_have_finite_indices() {
        let found = anomaly_indices(&[1.0, 0.0, 0.0, 0.01, 0.02], 100).unwrap();
        assert!(found.iter().all(|index| index.is_finite()));
        assert!(found[0] > 3.5);
    }

    #[test]
    fn few_classes_have_no_index_and_are_judged_by_their_share() {
        assert_eq!(anomaly_indices(&[0.9, 0.1, 0.1, 0.1], 100), None);
        let rule = DetectionRule::standard();
        assert!(rule.is_met(0.5, None) && !rule.is_met(0.49, None));
        assert!(!rule.is_met(0.9, Some(3.4)) && rule.is_met(0.9, Some(3.5)));
    }

    #[test]
    fn a_class_is_modeled_again_where_one_place_stands_out() {
        let rule = DetectionRule::standard();
        assert!(rule.asks_for_place(0.9, 0.15, 0.25));
        assert!(!rule.asks_for_place(0.9, 0.15, 0.24));
        assert!(!rule.asks_for_place(0.9, 0.9, 1.0), "it works anywhere");
        assert!(rule.asks_for_place(0.9, 0.89, 1.0));
        assert!(
            rule.asks_for_place(0.3, 0.4, 1.0),
            "above β, and too little"
        );
        assert!(rule.is_met_in_place(0.9, 0.5, Some(3.5)));
        assert!(!rule.is_met_in_place(0.9, 0.49, Some(9.0)), "a weak spot");
        assert!(!rule.is_met_in_place(0.49, 1.0, Some(9.0)));
        assert!(!rule.is_met_in_place(0.9, 1.0, Some(3.4)));
    }

    #[test]
    fn a_class_is_judged_by_the_triggers_that_tell_most_of_it() {
        let score = |sample_asr, in_level_set| ClassScore {
            sample_asr,
            in_level_set,
            anomaly_index: Some(9.0),
        };
        let rule = DetectionRule::standard();
        let judge = |anywhere, in_place: Option<ClassScore>| {
            let found = rule.judge(score(anywhere, 0.0), in_place);
            (found.attacked, found.in_place)
        };
        assert_eq!(judge(0.6, None), (true, false));
        assert_eq!(judge(0.6, Some(score(1.0, 1.0))), (true, false));
        assert_eq!(judge(0.2, Some(score(1.0, 1.0))), (true, true));
        assert_eq!(judge(0.2, Some(score(0.7, 0.49))), (false, true));
        assert_eq!(judge(0.2, Some(score(0.1, 0.0))), (false, false));
        assert_eq!(judge(0.2, None), (false, false));
    }

    #[test]
    fn a_rule_that_finds_everything_is_refused() {
        let sample_asr = DetectionRule {
            sample_asr: 0.0,
            ..DetectionRule::standard()
        };
        let anomaly_index = DetectionRule {
            anomaly_index: f64::NAN,
            ..DetectionRule::standard()
        };
        for (rule, expected) in [(sample_asr, "sample_asr"), (anomaly_index, "anomaly_index")] {
            let refused = rule.validate();
            assert!(matches!(refused, Err(Error::Setting { field, .. }) if field == expected));
        }
    }
}
