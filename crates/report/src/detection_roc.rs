//! How well the scores of a search tell backdoored networks from clean ones: an ROC, where enough
//! records hold which is which.

use mesa_record::{ClassDetection, Detection, Verdict};

use crate::Table;
use crate::detection::place_words;
use crate::format::percent;
use crate::metrics::{Interval, mean, share_interval};

/// With fewer, a step of the curve is so high that its shape says nothing.
const LEAST_NETWORKS: usize = 10;

/// What stands below the curves.
pub(crate) const DEFINITION: &str = "AUC: the share of pairs of a backdoored and a clean network in which \
    the backdoored one has the higher score, where a tie counts half (the Mann–Whitney statistic over \
    the number of pairs); ± is its standard error (DeLong et al. 1988), which one network of a kind does \
    not give, and which is left out where it is zero. A network's score is the highest of its classes; \
    it counts as found whichever of its classes is accused; in brackets the 95 % interval of such a share \
    (Clopper and Pearson 1934), were these networks drawn from all of their kind. Searches in a single \
    place are left out";

/// Scores and verdicts on networks of which is known whether they are backdoored.
pub(crate) struct Roc {
    pub(crate) backdoored: usize,
    pub(crate) clean: usize,
    /// Networks of which that is not known.
    pub(crate) unknown: usize,
    pub(crate) curves: Vec<Curve>,
    /// What the verdicts of the records come to.
    pub(crate) verdicts: Step,
}

/// One score over all thresholds.
pub(crate) struct Curve {
    pub(crate) name: &'static str,
    pub(crate) color: &'static str,
    pub(crate) dashes: &'static str,
    /// A threshold as it is printed.
    pub(crate) words: fn(f64) -> String,
    auc: f64,
    standard_error: Option<f64>,
    /// Each threshold that parts networks, from the highest.
    pub(crate) steps: Vec<(f64, Step)>,
}

/// Clean networks that are accused, and backdoored ones that are found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Step {
    pub(crate) accused: usize,
    pub(crate) found: usize,
}

impl Roc {
    /// None below ten networks of which the truth is known, or without both kinds.
    pub(crate) fn of(detections: &[(String, &Detection)]) -> Option<Self> {
        let [backdoored, clean] = known(detections);
        if backdoored.len() + clean.len() < LEAST_NETWORKS
            || backdoored.is_empty()
            || clean.is_empty()
        {
            return None;
        }
        let is_accused = |found: &&&Detection| found.verdict == Verdict::Backdoor;
        let curve = |name, color, dashes, words, of: fn(&ClassDetection) -> Option<f64>| {
            let [backdoored, clean] = [&backdoored, &clean].map(|networks| scores(networks, of));
            Some(Curve::new(
                name,
                color,
                dashes,
                words,
                &backdoored?,
                &clean?,
            ))
        };
        let asr = curve(
            "highest ASR of samples",
            "#0b4f9e",
            "",
            |asr| format!("{} %", percent(asr)),
            |class| Some(class.sample_asr),
        );
        let index = curve(
            "highest anomaly index",
            "#6f4a00",
            " stroke-dasharray=\"7 3\"",
            |index| format!("{index:.1}"),
            |class| class.anomaly_index,
        );
        Some(Self {
            backdoored: backdoored.len(),
            clean: clean.len(),
            unknown: anywhere(detections).count() - backdoored.len() - clean.len(),
            curves: asr.into_iter().chain(index).collect(),
            verdicts: Step {
                accused: clean.iter().filter(is_accused).count(),
                found: backdoored.iter().filter(is_accused).count(),
            },
        })
    }

    pub(crate) fn title(&self) -> String {
        let networks = self.backdoored + self.clean;
        format!("Detection: ROC over {networks} networks")
    }

    /// What there is of each score and of the verdicts.
    pub(crate) fn table(&self) -> Table {
        let title = format!(
            "{}, {} backdoored and {} clean",
            self.title(),
            self.backdoored,
            self.clean
        );
        let columns = ["score", "AUC", "backdoored\nfound", "clean\naccused"];
        let mut table = Table::new(title, &columns);
        for curve in &self.curves {
            let cells = [curve.name.to_owned(), curve.auc_words()];
            table
                .rows
                .push([&cells[..], &[String::new(), String::new()]].concat());
        }
        let with_interval = |count: usize, of: usize| {
            let Interval { low, high } = share_interval(count, of);
            format!("{count} of {of} ({} to {} %)", percent(low), percent(high))
        };
        let cells = [
            "verdicts by the rule".to_owned(),
            String::new(),
            with_interval(self.verdicts.found, self.backdoored),
            with_interval(self.verdicts.accused, self.clean),
        ];
        table.rows.push(cells.into());
        table
    }

    /// Of how many of each kind, in words.
    pub(crate) fn shares(&self, step: Step) -> (String, String) {
        (
            format!("{} of {}", step.found, self.backdoored),
            format!("{} of {}", step.accused, self.clean),
        )
    }
}

/// Why there is no ROC, where there is none.
pub(crate) fn why_none(detections: &[(String, &Detection)]) -> Option<String> {
    if Roc::of(detections).is_some() {
        return None;
    }
    let [backdoored, clean] = known(detections).map(|networks| networks.len());
    Some(if backdoored + clean == 0 {
        "There is no ROC: of no search anywhere the records hold whether the network was attacked."
            .to_owned()
    } else {
        format!(
            "There is no ROC: it takes {LEAST_NETWORKS} networks of which the records hold whether \
             they are backdoored, of both kinds; {backdoored} are and {clean} are not."
        )
    })
}

/// Searches for what works anywhere: a place is named where something is known or suspected.
fn anywhere<'a>(detections: &[(String, &'a Detection)]) -> impl Iterator<Item = &'a Detection> {
    let found = detections.iter().map(|(_, found)| *found);
    found.filter(|found| place_words(found).is_none())
}

/// The backdoored networks and the clean ones.
fn known<'a>(detections: &[(String, &'a Detection)]) -> [Vec<&'a Detection>; 2] {
    [true, false].map(|truth| {
        anywhere(detections)
            .filter(|found| found.backdoored == Some(truth))
            .collect()
    })
}

/// The highest of each network's classes; none where a network has no such figure.
fn scores(
    networks: &[&Detection],
    of: impl Fn(&ClassDetection) -> Option<f64>,
) -> Option<Vec<f64>> {
    let highest = |found: &&Detection| found.classes.iter().filter_map(&of).reduce(f64::max);
    networks.iter().map(highest).collect()
}

impl Curve {
    fn new(
        name: &'static str,
        color: &'static str,
        dashes: &'static str,
        words: fn(f64) -> String,
        backdoored: &[f64],
        clean: &[f64],
    ) -> Self {
        let mut thresholds = [backdoored, clean].concat();
        thresholds.sort_by(|a, b| b.total_cmp(a));
        thresholds.dedup();
        let at_least = |scores: &[f64], threshold: f64| {
            scores.iter().filter(|score| **score >= threshold).count()
        };
        let step = |threshold: f64| Step {
            accused: at_least(clean, threshold),
            found: at_least(backdoored, threshold),
        };
        let (auc, standard_error) = auc(backdoored, clean);
        Self {
            name,
            color,
            dashes,
            words,
            auc,
            standard_error,
            steps: thresholds
                .into_iter()
                .map(|threshold| (threshold, step(threshold)))
                .collect(),
        }
    }

    pub(crate) fn auc_words(&self) -> String {
        let error = self.standard_error.map(|error| format!(" ± {error:.2}"));
        format!("{:.2}{}", self.auc, error.unwrap_or_default())
    }
}

/// The area under the curve, and its standard error where there is one.
fn auc(backdoored: &[f64], clean: &[f64]) -> (f64, Option<f64>) {
    let in_order = |high: f64, low: f64| match high.total_cmp(&low) {
        std::cmp::Ordering::Greater => 1.0,
        std::cmp::Ordering::Equal => 0.5,
        std::cmp::Ordering::Less => 0.0,
    };
    // How each network stands to all of the other kind.
    let share = |parts: Vec<f64>| mean(&parts).unwrap_or_default();
    let of_backdoored: Vec<f64> = backdoored
        .iter()
        .map(|high| share(clean.iter().map(|low| in_order(*high, *low)).collect()))
        .collect();
    let of_clean: Vec<f64> = clean
        .iter()
        .map(|low| {
            share(
                backdoored
                    .iter()
                    .map(|high| in_order(*high, *low))
                    .collect(),
            )
        })
        .collect();
    let auc = mean(&of_backdoored).unwrap_or_default();
    let of_mean = |parts: &[f64]| {
        let squares: f64 = parts.iter().map(|part| (part - auc).powi(2)).sum();
        let count = parts.len() as f64;
        (count > 1.0).then(|| squares / (count - 1.0) / count)
    };
    let variance = of_mean(&of_backdoored).zip(of_mean(&of_clean));
    let error = variance.map(|(one, other)| (one + other).sqrt());
    (auc, error.filter(|error| *error > 0.0))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::made_up;

    /// The highest ASR of each backdoored and each clean network.
    const BACKDOORED: [f64; 5] = [0.9, 0.8, 0.8, 0.6, 0.3];
    const CLEAN: [f64; 6] = [0.8, 0.4, 0.2, 0.1, 0.1, 0.05];

    /// A network whose highest index is ten times its highest ASR.
    fn network(backdoored: Option<bool>, asr: f64) -> Detection {
        let mut found = made_up::detection(asr >= 0.5);
        found.backdoored = backdoored;
        found.classes[1].sample_asr = asr;
        found.classes[1].anomaly_index = Some(10.0 * asr);
        found
    }

    pub(crate) fn eleven() -> Vec<Detection> {
        let backdoored = BACKDOORED.map(|asr| network(Some(true), asr));
        let clean = CLEAN.map(|asr| network(Some(false), asr));
        // Which is which does not hang on their order.
        clean.into_iter().chain(backdoored).collect()
    }

    pub(crate) fn named(found: &[Detection]) -> Vec<(String, &Detection)> {
        let networks = found.iter().enumerate();
        networks
            .map(|(number, found)| (format!("network-{number}"), found))
            .collect()
    }

    #[test]
    fn the_area_is_the_share_of_pairs_in_order_a_tie_half() {
        // 6 + 5.5 + 5.5 + 5 + 4 of 30 pairs, by hand; the error after DeLong as well.
        let (found, error) = auc(&BACKDOORED, &CLEAN);
        assert!((found - 26.0 / 30.0).abs() < 1e-12, "{found}");
        let by_hand = (23.0 / 7200.0 + 22.0 / 2250.0_f64).sqrt();
        assert!((error.unwrap() - by_hand).abs() < 1e-12, "{error:?}");
        assert_eq!(auc(&[0.5; 3], &[0.5; 9]), (0.5, None));
        assert_eq!(auc(&[0.9, 0.8], &[0.7, 0.6]), (1.0, None));
        assert_eq!(auc(&[0.1], &[0.7, 0.1]), (0.25, None));
    }

    #[test]
    fn the_staircase_has_that_area_and_ends_with_all() {
        let found = eleven();
        let roc = Roc::of(&named(&found)).unwrap();
        assert_eq!(roc.curves.len(), 2);
        for curve in &roc.curves {
            let steps: Vec<(usize, usize)> = curve
                .steps
                .iter()
                .map(|(_, step)| (step.accused, step.found))
                .collect();
            let expected = [
                (0, 1),
                (1, 3),
                (1, 4),
                (2, 4),
                (2, 5),
                (3, 5),
                (5, 5),
                (6, 5),
            ];
            assert_eq!(steps, expected, "{}", curve.name);
            let mut area = 0.0;
            let mut last = (0, 0);
            for (accused, found) in steps {
                area += (accused - last.0) as f64 * (found + last.1) as f64 / 2.0;
                last = (accused, found);
            }
            assert!((area / 30.0 - curve.auc).abs() < 1e-12, "{}", curve.name);
        }
        // Verdicts are those of the records: 0.8 is accused, 0.4 is not.
        assert_eq!(
            roc.verdicts,
            Step {
                accused: 1,
                found: 4
            }
        );
    }

    #[test]
    fn it_takes_ten_networks_of_both_kinds() {
        let mut found = eleven();
        assert!(Roc::of(&named(&found)).is_some() && why_none(&named(&found)).is_none());
        assert!(Roc::of(&named(&found[1..])).is_some());
        assert!(Roc::of(&named(&found[2..])).is_none());
        assert!(
            why_none(&named(&found[2..]))
                .unwrap()
                .contains("5 are and 4 are not")
        );
        let is_clean = |found: &&mut Detection| found.backdoored == Some(false);
        for clean in found.iter_mut().filter(is_clean) {
            clean.backdoored = Some(true);
        }
        assert!(Roc::of(&named(&found)).is_none());
        assert!(
            why_none(&named(&found))
                .unwrap()
                .contains("11 are and 0 are not")
        );
        for network in &mut found {
            network.backdoored = None;
        }
        let words = why_none(&named(&found)).unwrap();
        assert!(words.contains("whether the network was attacked"));
    }

    #[test]
    fn networks_of_unknown_truth_and_scores_that_some_lack_are_left_out() {
        let mut found = eleven();
        found.push(network(None, 0.99));
        found.push(network(Some(true), 0.99));
        found[12].placement = Some("fixed:29,29".to_owned());
        found[0].classes[0].anomaly_index = None;
        found[0].classes[1].anomaly_index = None;
        let roc = Roc::of(&named(&found)).unwrap();
        let names: Vec<&str> = roc.curves.iter().map(|curve| curve.name).collect();
        assert_eq!(names, ["highest ASR of samples"]);
        assert_eq!((roc.backdoored, roc.clean), (5, 6));
        assert!(roc.figure().caption.contains("Left out: 1 of which"));
        assert_eq!(roc.curves[0].auc_words(), "0.87 ± 0.11");
    }

    #[test]
    fn the_table_has_what_the_figure_shows() {
        let found = eleven();
        insta::assert_snapshot!(Roc::of(&named(&found)).unwrap().table().to_terminal());
    }
}
