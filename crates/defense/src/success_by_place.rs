//! Where in an image patches work.

use mesa_datasets::Place;
use serde::{Deserialize, Serialize};

/// Images by which a place is taken for an ordinary one before any is stamped there.
const PRIOR: f64 = 16.0;

/// How often patches worked in each place of an image.
///
/// A network is not the same everywhere: its strides tell an even row from an odd one, its padding the
/// border from the middle. So a backdoor that was planted in one place may work in some others and
/// nowhere between.
///
/// # Examples
///
/// ```
/// use mesa_datasets::Place;
/// use mesa_defense::SuccessByPlace;
///
/// let mut found = SuccessByPlace::new((32, 32), (3, 3));
/// let corner = Place { row: 29, column: 29 };
/// for _ in 0..9 {
///     found.count(corner, true);
///     found.count(Place { row: 4, column: 7 }, false);
/// }
/// let (place, share) = found.best().ok_or("nothing worked")?;
/// assert_eq!(place, corner);
/// // Half of all 18 images; so are 16 more that nobody stamped: (9 + 8) / (9 + 16).
/// assert_eq!(share, 0.68);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SuccessByPlace {
    /// Columns in which a patch may stand.
    pub columns: usize,
    /// Images that were stamped in each place, row by row.
    pub stamped: Vec<u32>,
    /// How many of these were predicted as the target class.
    pub fooled: Vec<u32>,
}

impl SuccessByPlace {
    /// Nothing counted yet, for patches (height, width) that fit into images (height, width).
    pub fn new(image: (usize, usize), patch: (usize, usize)) -> Self {
        let columns = (image.1 + 1).saturating_sub(patch.1);
        let places = (image.0 + 1).saturating_sub(patch.0) * columns;
        Self {
            columns,
            stamped: vec![0; places],
            fooled: vec![0; places],
        }
    }

    /// Counts one stamped image.
    ///
    /// # Panics
    ///
    /// If the patch leaves the image there.
    pub fn count(&mut self, place: Place, fooled: bool) {
        assert!(place.column < self.columns, "a patch stands in its row");
        let at = place.row * self.columns + place.column;
        self.stamped[at] += 1;
        self.fooled[at] += u32::from(fooled);
    }

    /// The place in which patches work best, and what share of images they turn there, estimated: a
    /// place that few images have seen counts as an ordinary one, so that one lucky image does not win. It is
    /// the highest of many estimates all the same, and above the mean where all places are alike. `None`
    /// where nothing worked.
    pub fn best(&self) -> Option<(Place, f64)> {
        let sum = |counts: &[u32]| counts.iter().map(|count| f64::from(*count)).sum::<f64>();
        if self.fooled.iter().all(|count| *count == 0) {
            return None;
        }
        let ordinary = sum(&self.fooled) / sum(&self.stamped);
        let share = |at: usize| {
            let (fooled, stamped) = (f64::from(self.fooled[at]), f64::from(self.stamped[at]));
            (fooled + PRIOR * ordinary) / (stamped + PRIOR)
        };
        let best = (0..self.stamped.len()).max_by(|a, b| share(*a).total_cmp(&share(*b)))?;
        let place = Place {
            row: best / self.columns,
            column: best % self.columns,
        };
        Some((place, share(best)))
    }

    /// The share of [`SuccessByPlace::best`], at least what half an image of a place would make: what nobody
    /// saw work is not told from what hardly ever does.
    pub fn best_share(&self) -> f64 {
        let stamped: f64 = self.stamped.iter().map(|count| f64::from(*count)).sum();
        let of_a_place = stamped / self.stamped.len().max(1) as f64;
        let least = 0.5 / (of_a_place + PRIOR);
        self.best().map_or(least, |(_, share)| share.max(least))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lucky_image_is_no_place() {
        let mut found = SuccessByPlace::new((8, 8), (3, 3));
        let (lucky, good) = (Place { row: 0, column: 5 }, Place { row: 5, column: 0 });
        found.count(lucky, true);
        for image in 0..40 {
            found.count(good, image % 4 > 0);
            found.count(Place { row: 2, column: 2 }, false);
        }
        let (place, share) = found.best().unwrap();
        assert_eq!(place, good);
        let ordinary = 31.0 / 81.0;
        assert!((share - (30.0 + 16.0 * ordinary) / 56.0).abs() < 1e-12);
    }

    #[test]
    fn every_place_of_a_patch_is_counted_and_none_besides() {
        let found = SuccessByPlace::new((32, 20), (3, 5));
        assert_eq!((found.columns, found.stamped.len()), (16, 30 * 16));
        assert_eq!(found.best(), None);
        let mut found = SuccessByPlace::new((8, 8), (3, 3));
        found.count(Place { row: 1, column: 1 }, false);
        assert_eq!(found.best(), None, "nothing worked");
        let nothing = found.best_share();
        assert!((nothing - 0.5 / (1.0 / 36.0 + PRIOR)).abs() < 1e-12);
        found.count(Place { row: 1, column: 1 }, true);
        assert!(found.best_share() > nothing);
        assert_eq!(SuccessByPlace::new((2, 9), (3, 3)).stamped.len(), 0);
    }

    #[test]
    #[should_panic(expected = "a patch stands in its row")]
    fn a_place_outside_is_not_counted_in_the_next_row() {
        SuccessByPlace::new((8, 8), (3, 3)).count(Place { row: 0, column: 6 }, true);
    }
}
