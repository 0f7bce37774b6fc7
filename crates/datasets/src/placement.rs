//! Where triggers are stamped.

use std::fmt;
use std::str::FromStr;

use rand::Rng;
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// How places are chosen.
///
/// # Examples
///
/// ```
/// use mesa_datasets::{Place, Placement};
/// use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};
///
/// let mut rng = ChaCha8Rng::seed_from_u64(0);
/// let places = Placement::PerBatch.places(&mut rng, 128, (32, 32), (3, 3))?;
/// assert!(places.iter().all(|place| *place == places[0]));
///
/// let placement: Placement = "fixed:29,0".parse()?;
/// let places = placement.places(&mut rng, 1, (32, 32), (3, 3))?;
/// assert_eq!(places, [Place { row: 29, column: 0 }]);
/// # Ok::<(), mesa_datasets::Error>(())
/// ```
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Placement {
    /// A place of its own for every image, all valid ones alike: the default of this project.
    PerImage,
    /// One random place for all images of a batch, as in the authors' code.
    PerBatch,
    /// Always the same place.
    Fixed {
        /// Row of the top-left pixel.
        row: usize,
        /// Column of the top-left pixel.
        column: usize,
    },
}

/// Where the top-left pixel of a trigger goes.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Place {
    /// Row.
    pub row: usize,
    /// Column.
    pub column: usize,
}

impl From<Place> for (usize, usize) {
    /// Row and column.
    fn from(place: Place) -> Self {
        (place.row, place.column)
    }
}

impl Placement {
    /// Refuses a fixed place at which a patch (height, width) leaves the image.
    ///
    /// # Errors
    ///
    /// As [`Placement::places`].
    pub fn check(self, image: (usize, usize), patch: (usize, usize)) -> Result<()> {
        let last = last_place(image, patch)?;
        match self {
            Self::Fixed { row, column } => check_place(Place { row, column }, last),
            Self::PerImage | Self::PerBatch => Ok(()),
        }
    }

    /// Draws `count` places for a patch of `patch` (height, width) in images of `image`.
    ///
    /// # Errors
    ///
    /// [`Error::PatchTooLarge`] if the patch is empty or larger than the image,
    /// [`Error::PlaceOutside`] if it leaves the image at the fixed place.
    pub fn places<R: Rng>(
        self,
        rng: &mut R,
        count: usize,
        image: (usize, usize),
        patch: (usize, usize),
    ) -> Result<Vec<Place>> {
        let last = last_place(image, patch)?;
        Ok(match self {
            Self::PerImage => (0..count).map(|_| random_place(rng, last)).collect(),
            Self::PerBatch => vec![random_place(rng, last); count],
            Self::Fixed { row, column } => {
                self.check(image, patch)?;
                vec![Place { row, column }; count]
            }
        })
    }
}

/// The lowest, rightmost place at which a patch fits.
pub(crate) fn last_place(image: (usize, usize), patch: (usize, usize)) -> Result<Place> {
    let fits = |patch: usize, image: usize| (1..=image).contains(&patch);
    if !fits(patch.0, image.0) || !fits(patch.1, image.1) {
        return Err(Error::PatchTooLarge { patch, image });
    }
    Ok(Place {
        row: image.0 - patch.0,
        column: image.1 - patch.1,
    })
}

/// Refuses a place beyond the last one.
pub(crate) fn check_place(place: Place, last: Place) -> Result<()> {
    if place.row > last.row || place.column > last.column {
        return Err(Error::PlaceOutside {
            row: place.row,
            column: place.column,
            last_row: last.row,
            last_column: last.column,
        });
    }
    Ok(())
}

fn random_place<R: Rng>(rng: &mut R, last: Place) -> Place {
    Place {
        row: rng.random_range(0..=last.row),
        column: rng.random_range(0..=last.column),
    }
}

impl fmt::Display for Placement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PerImage => f.pad("per-image"),
            Self::PerBatch => f.pad("per-batch"),
            Self::Fixed { row, column } => f.pad(&format!("fixed:{row},{column}")),
        }
    }
}

impl FromStr for Placement {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let fixed = || {
            let (row, column) = text.strip_prefix("fixed:")?.split_once(',')?;
            Some(Self::Fixed {
                row: row.trim().parse().ok()?,
                column: column.trim().parse().ok()?,
            })
        };
        match text {
            "per-image" => Ok(Self::PerImage),
            "per-batch" => Ok(Self::PerBatch),
            _ => fixed().ok_or_else(|| Error::BadPlacement {
                text: text.to_owned(),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;
    use rand_chacha::ChaCha8Rng;
    use rand_chacha::rand_core::SeedableRng;

    use super::*;

    #[test]
    fn every_valid_place_of_a_trigger_is_drawn() {
        let mut rng = ChaCha8Rng::seed_from_u64(0);
        let places = Placement::PerImage
            .places(&mut rng, 20_000, (32, 32), (3, 3))
            .unwrap();
        assert_eq!(places.into_iter().collect::<HashSet<_>>().len(), 30 * 30);
    }

    #[test]
    fn refuses_patches_that_do_not_fit() {
        let mut rng = ChaCha8Rng::seed_from_u64(0);
        for patch in [(33, 3), (3, 33), (0, 3), (3, 0)] {
            let refused = Placement::PerImage.places(&mut rng, 1, (32, 32), patch);
            assert!(
                matches!(refused, Err(Error::PatchTooLarge { .. })),
                "{patch:?}"
            );
        }
        let outside = Placement::Fixed { row: 3, column: 30 };
        let refused = outside.places(&mut rng, 1, (32, 32), (3, 3));
        assert!(matches!(
            refused,
            Err(Error::PlaceOutside {
                last_column: 29,
                ..
            })
        ));
    }

    #[test]
    fn placements_survive_text_and_json() {
        let fixed = Placement::Fixed { row: 4, column: 5 };
        for placement in [Placement::PerImage, Placement::PerBatch, fixed] {
            assert_eq!(
                placement.to_string().parse::<Placement>().unwrap(),
                placement
            );
            let json = serde_json::to_string(&placement).unwrap();
            assert_eq!(serde_json::from_str::<Placement>(&json).unwrap(), placement);
        }
        for text in ["fixed", "fixed:1", "fixed:1,-1", "everywhere"] {
            assert!(
                matches!(text.parse::<Placement>(), Err(Error::BadPlacement { .. })),
                "{text}"
            );
        }
    }

    proptest! {
        #[test]
        fn places_keep_the_patch_inside(
            height in 1_usize..40, width in 1_usize..40, h in 1_usize..40, w in 1_usize..40,
            seed: u64,
        ) {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            for placement in [Placement::PerImage, Placement::PerBatch] {
                let drawn = placement.places(&mut rng, 8, (height, width), (h, w));
                prop_assert_eq!(drawn.is_ok(), h <= height && w <= width);
                for place in drawn.unwrap_or_default() {
                    prop_assert!(place.row + h <= height && place.column + w <= width);
                }
            }
        }
    }
}
