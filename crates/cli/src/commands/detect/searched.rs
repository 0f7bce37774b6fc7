//! One class of a search: its triggers, and what they say of it.

use mesa_datasets::Place;
use mesa_defense::{ClassScore, DetectionRule, SuccessByPlace};
use mesa_record::{BestPlace, ClassDetection};
use mesa_report::PlaceMap;

use crate::modeling::Modeled;

/// What is known of one class.
pub(super) struct Searched {
    /// Its triggers, modeled where the settings say.
    pub(super) modeled: Modeled,
    /// Its triggers modeled in that place, where the rule asks for them.
    pub(super) there: Option<Modeled>,
}

impl Searched {
    /// The place in which the triggers modeled anywhere work best, and the share of images that they turn
    /// there.
    pub(super) fn best(&self) -> Option<(Place, f64)> {
        self.modeled.samples.results.by_place.as_ref()?.best()
    }

    /// The class by the triggers that tell most of it. The indices are those of triggers modeled anywhere
    /// and of what patches do in the best places.
    pub(super) fn figures(
        &self,
        rule: DetectionRule,
        (class, name): (u32, String),
        anywhere: Option<f64>,
        in_places: Option<f64>,
    ) -> ClassDetection {
        let score = |modeled: &Modeled, anomaly_index| ClassScore {
            sample_asr: modeled.sample_asr(),
            in_level_set: modeled.samples.results.in_level_set,
            anomaly_index,
        };
        let there = self.there.as_ref();
        let in_place = there.map(|there| score(there, in_places));
        let judged = rule.judge(score(&self.modeled, anywhere), in_place);
        let there = there.filter(|_| judged.in_place);
        let shown = there.unwrap_or(&self.modeled);
        ClassDetection {
            class,
            name,
            best_place: self.best().map(|(place, share)| BestPlace {
                row: place.row,
                column: place.column,
                share,
            }),
            sample_asr_anywhere: there.map(|_| self.modeled.sample_asr()),
            sample_asr: shown.sample_asr(),
            in_level_set: shown.samples.results.in_level_set,
            entropy_nats: shown.entropy.results.entropy_nats,
            entropy_se: shown.entropy.results.information_se,
            sample_std: shown.samples.results.sample_std,
            anomaly_index: if judged.in_place { in_places } else { anywhere },
            attacked: judged.attacked,
        }
    }

    /// The triggers that a class's figures are of.
    pub(super) fn shown(&self, figures: &ClassDetection) -> &Modeled {
        let there = self.there.as_ref();
        let placed = there.filter(|_| figures.sample_asr_anywhere.is_some());
        placed.unwrap_or(&self.modeled)
    }

    /// What patches do in the class's best place: those modeled there, else those modeled anywhere.
    pub(super) fn in_place(&self) -> f64 {
        let there = self.there.as_ref().map(Modeled::sample_asr);
        let by_place = self.modeled.samples.results.by_place.as_ref();
        let best = || by_place.map(SuccessByPlace::best_share);
        there.or_else(best).unwrap_or_default()
    }

    /// Where the triggers that were modeled anywhere work.
    pub(super) fn map(&self, title: String) -> Option<PlaceMap> {
        let counted = self.modeled.samples.results.by_place.as_ref()?;
        Some(PlaceMap {
            title,
            columns: counted.columns,
            stamped: counted.stamped.clone(),
            fooled: counted.fooled.clone(),
            marked: self.best().map(|(place, _)| place.into()),
        })
    }
}
