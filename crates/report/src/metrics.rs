//! What the figures are called and how they are computed: once, for every table, page and picture.

/// A figure of the tables, and what it means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Metric {
    /// What it is called.
    pub(crate) name: &'static str,
    /// What it is.
    pub(crate) meaning: &'static str,
}

/// Every figure of the tables. ASR, clean accuracy and regained accuracy are measured by
/// `mesa_attack::evaluate`, the others come from there or from this crate.
pub(crate) const GLOSSARY: &[Metric] = &[
    Metric {
        name: "ASR (attack success rate)",
        meaning: "share of stamped images, not of the target class, that are given the target class",
    },
    Metric {
        name: "worst",
        meaning: "the highest ASR of a network, repeats averaged first; of backdoored networks the lowest; a \
            run is one repeat",
    },
    Metric {
        name: "clean accuracy",
        meaning: "share of unstamped images that are given their true class",
    },
    Metric {
        name: "regained accuracy",
        meaning: "share of the stamped images behind the ASR that are given their true class",
    },
    Metric {
        name: "defense effectiveness",
        meaning: "[max(0, ΔASR) − max(0, ΔACC) + 1] / 2, with ΔASR and ΔACC the ASR and the clean \
            accuracy of the backdoored network minus those after the defense; 50 % where nothing \
            changes; the mean over networks, repeats averaged first",
    },
    Metric {
        name: "cost",
        meaning: "clean accuracy before minus after: in the row `backdoored` what the attack costs, in the \
            others what the defense costs beyond that",
    },
    Metric {
        name: "95 % interval",
        meaning: "of the mean ASR over networks, by Student's t, clipped to [0, 1]; a network's repeats \
            are averaged first; none below two networks. It is about the choice of triggers: networks of one \
            seed share all draws and, unless the notes name another, their clean network",
    },
    Metric {
        name: "above ideal",
        meaning: "ASR minus that of `ideal` on the same network, the mean over networks, and how far its \
            95 % interval reaches to either side: what is left to gain",
    },
    Metric {
        name: "± over repeats",
        meaning: "population standard deviation of the ASR over a network's repeats of `point`; of \
            several networks the mean",
    },
    Metric {
        name: "sample ASR",
        meaning: "ASR of the sub-model's own samples, of a `point` row that of the reversed trigger, \
            on clean images that the defense may see",
    },
    Metric {
        name: "in level set",
        meaning: "share of samples whose mean target probability, on images of other classes, is β or \
            more",
    },
    Metric {
        name: "entropy",
        meaning: "estimated lower bound on the information I between noise and noisy samples, no volume; \
            the noisy samples' own entropy is h = I − 23.86 nats for 3×3 triggers and noise 0.1. Its error \
            is that of the held-out noise alone, not of another training of the statistics network",
    },
    Metric {
        name: "h ≤",
        meaning: "entropy of the Gaussian with the noisy samples' covariance, which h never exceeds",
    },
    Metric {
        name: "γ",
        meaning: "what a sub-model weighs in `ensemble:weighted`, with the error that entropy's \
            carries into it (of means over networks the standard deviation between these), and at \
            equal h",
    },
    Metric {
        name: "anomaly index",
        meaning: "distance of the logit of a class's sample ASR from the median of the classes, in \
            robust standard deviations of at least 0.5",
    },
    Metric {
        name: "the paper's figures",
        meaning: "width 64, mean and worst over 51 black/white triggers or mean over 10 color \
            triggers",
    },
];

/// What a network does: two fractions.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Outcome {
    /// Attack success rate.
    pub(crate) asr: f64,
    /// Accuracy on clean images.
    pub(crate) clean_accuracy: f64,
}

/// How much of a backdoor a defense removes, less what it costs, as the literature writes it.
///
/// ```text
/// [max(0, ΔASR) − max(0, ΔACC) + 1] / 2,   Δ = before − after
/// ```
///
/// In [0, 1]: one half where nothing changes, one where a perfect attack is gone for nothing.
pub(crate) fn defense_effectiveness(before: Outcome, after: Outcome) -> f64 {
    let removed = (before.asr - after.asr).max(0.0);
    let cost = (before.clean_accuracy - after.clean_accuracy).max(0.0);
    f64::midpoint(removed - cost, 1.0)
}

/// Where a mean lies, in fractions.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Interval {
    /// The lower end.
    pub(crate) low: f64,
    /// The upper end.
    pub(crate) high: f64,
}

/// The 95 % interval of the mean of fractions, one for each network, by Student's t: mean
/// ± t(0.975, n − 1) · s / √n with s the sample standard deviation, clipped to [0, 1]. None below
/// two.
pub(crate) fn mean_interval(fractions: &[f64]) -> Option<Interval> {
    let (mean, reach) = mean_and_reach(fractions)?;
    Some(Interval {
        low: (mean - reach).clamp(0.0, 1.0),
        high: (mean + reach).clamp(0.0, 1.0),
    })
}

/// The mean, and how far its 95 % interval reaches to either side; none below two values.
pub(crate) fn mean_and_reach(values: &[f64]) -> Option<(f64, f64)> {
    let count = values.len();
    let (mean, std) = (mean(values)?, sample_std(values)?);
    Some((mean, student_t(count - 1) * std / (count as f64).sqrt()))
}

/// The 95 % interval of a share of which `count` of `of` were seen: Clopper and Pearson (1934), at whose
/// ends as much or more (as little or less) comes with a chance of 2.5 %.
pub(crate) fn share_interval(count: usize, of: usize) -> Interval {
    // The chance of at least `least` of `of`, which rises with the share.
    let at_least = |least: usize, share: f64| -> f64 {
        let mut ways = 1.0;
        let chance =
            |number: usize| share.powf(number as f64) * (1.0 - share).powf((of - number) as f64);
        (0..=of)
            .map(|number| {
                if number > 0 {
                    ways *= (of - number + 1) as f64 / number as f64;
                }
                if number < least {
                    0.0
                } else {
                    ways * chance(number)
                }
            })
            .sum()
    };
    let solve = |least: usize, wanted: f64| {
        let (mut low, mut high) = (0.0, 1.0);
        for _ in 0..60 {
            let middle = f64::midpoint(low, high);
            if at_least(least, middle) < wanted {
                low = middle;
            } else {
                high = middle;
            }
        }
        f64::midpoint(low, high)
    };
    Interval {
        low: if count == 0 { 0.0 } else { solve(count, 0.025) },
        high: if count == of {
            1.0
        } else {
            solve(count + 1, 0.975)
        },
    }
}

/// The mean, if there is anything.
pub(crate) fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

/// The population standard deviation: zero for a single value.
pub(crate) fn population_std(values: &[f64]) -> f64 {
    squares(values).map_or(0.0, |squares| (squares / values.len() as f64).sqrt())
}

/// The sample standard deviation; none below two.
pub(crate) fn sample_std(values: &[f64]) -> Option<f64> {
    let squares = squares(values)?;
    (values.len() > 1).then(|| (squares / (values.len() - 1) as f64).sqrt())
}

/// The sum of squared distances from the mean, if there is anything.
fn squares(values: &[f64]) -> Option<f64> {
    let mean = mean(values)?;
    Some(values.iter().map(|value| (value - mean).powi(2)).sum())
}

/// The 97.5 % quantile of Student's t, from 1 degree of freedom on.
#[rustfmt::skip]
const STUDENT_T: [f64; 30] = [
    12.706_2, 4.302_7, 3.182_4, 2.776_4, 2.570_6, 2.446_9, 2.364_6, 2.306_0, 2.262_2, 2.228_1,
    2.201_0, 2.178_8, 2.160_4, 2.144_8, 2.131_4, 2.119_9, 2.109_8, 2.100_9, 2.093_0, 2.086_0,
    2.079_6, 2.073_9, 2.068_7, 2.063_9, 2.059_5, 2.055_5, 2.051_8, 2.048_4, 2.045_2, 2.042_3,
];

/// The same for any degrees of freedom: beyond the table the expansion of Abramowitz and Stegun
/// (26.7.5), which is exact to five digits there.
fn student_t(degrees: usize) -> f64 {
    if let Some(known) = degrees
        .checked_sub(1)
        .and_then(|index| STUDENT_T.get(index))
    {
        return *known;
    }
    let (z, n) = (1.959_963_985_f64, degrees as f64);
    let first = (z.powi(3) + z) / 4.0;
    let second = (5.0 * z.powi(5) + 16.0 * z.powi(3) + 3.0 * z) / 96.0;
    let third = (3.0 * z.powi(7) + 19.0 * z.powi(5) + 17.0 * z.powi(3) - 15.0 * z) / 384.0;
    z + first / n + second / n.powi(2) + third / n.powi(3)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(asr: f64, clean_accuracy: f64) -> Outcome {
        Outcome {
            asr,
            clean_accuracy,
        }
    }

    #[test]
    fn effectiveness_is_the_closed_form() {
        for (before, after, expected) in [
            // All of it removed, at a tenth of the accuracy.
            (outcome(1.0, 0.9), outcome(0.0, 0.8), 0.95),
            // Worse on both: neither counts as a gain.
            (outcome(0.5, 0.8), outcome(0.9, 0.9), 0.5),
            (outcome(0.9, 0.9), outcome(0.9, 0.7), 0.4),
            (outcome(0.96, 0.91), outcome(0.03, 0.91), 0.965),
        ] {
            let found = defense_effectiveness(before, after);
            assert!((found - expected).abs() < 1e-12, "{found} {expected}");
        }
    }

    #[test]
    fn an_interval_is_that_of_students_t() {
        // Mean 0.2, s = 0.1, n = 3: 0.2 ± 4.3027 · 0.1 / √3 = 0.2 ± 0.24842.
        let interval = mean_interval(&[0.1, 0.2, 0.3]).unwrap();
        assert!(interval.low.abs() < 1e-12, "clipped: {interval:?}");
        assert!((interval.high - 0.448_42).abs() < 1e-5, "{interval:?}");
        let same = mean_interval(&[0.5; 4]).unwrap();
        assert!((same.low - 0.5).abs() < 1e-12 && (same.high - 0.5).abs() < 1e-12);
        assert_eq!((mean_interval(&[]), mean_interval(&[0.4])), (None, None));
        // Half a step either way with one degree of freedom: more than there is.
        let wide = mean_interval(&[0.4, 0.6]).unwrap();
        assert_eq!((wide.low, wide.high), (0.0, 1.0));
    }

    #[test]
    fn quantiles_go_on_beyond_the_table() {
        // Published: t(0.975, 40) = 2.0211, t(0.975, 50) = 2.0086, t(0.975, 120) = 1.9799.
        for (degrees, expected) in [(1, 12.7062), (40, 2.0211), (50, 2.0086), (120, 1.9799)] {
            assert!(
                (student_t(degrees) - expected).abs() < 5e-5,
                "{degrees}: {}",
                student_t(degrees)
            );
        }
        let falls = (1..200).all(|degrees| student_t(degrees) > student_t(degrees + 1));
        assert!(falls, "no jump where the table ends");
    }

    #[test]
    fn the_interval_of_a_share_is_clopper_and_pearsons() {
        // None or all of n: 1 - 0.025^(1/n); 5 of 10 as their tables have it.
        for (count, of, low, high) in [
            (0, 9, 0.0, 1.0 - 0.025_f64.powf(1.0 / 9.0)),
            (14, 14, 0.025_f64.powf(1.0 / 14.0), 1.0),
            (5, 10, 0.187_086, 0.812_914),
            (1, 1, 0.025, 1.0),
        ] {
            let found = share_interval(count, of);
            let distance = (found.low - low).abs().max((found.high - high).abs());
            assert!(distance < 1e-6, "{count} of {of}: {found:?}");
        }
    }

    #[test]
    fn the_population_deviation_divides_by_the_number() {
        assert!((population_std(&[0.1, 0.3]) - 0.1).abs() < 1e-12);
        assert!(population_std(&[0.4]).abs() < 1e-12);
    }
}
