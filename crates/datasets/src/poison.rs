//! Stamps a `poison_rate` share of a batch; the attack relabels it, the defense does not.

use rand::Rng;

use crate::images::CHANNELS;
use crate::placement::{check_place, last_place};
use crate::{Batch, Error, Place, Result, Trigger};

/// Patches to stamp, `(n, 3, height, width)`: one for all images or one for each.
///
/// Values may lie outside [0, 1]: the noisy triggers of a fit do.
#[derive(Copy, Clone, Debug)]
pub struct Patches<'a> {
    pixels: &'a [f32],
    size: (usize, usize),
    /// Which pixels of each patch are stamped, if not all.
    mask: Option<&'a [bool]>,
    /// A patch's share of a pixel under it.
    opacity: f32,
}

impl<'a> Patches<'a> {
    /// Patches of `(height, width)` pixels, one after another.
    ///
    /// # Errors
    ///
    /// [`Error::PixelCount`] if the pixels do not fill a whole number of patches, or a patch has no
    /// pixels.
    pub fn new(pixels: &'a [f32], size: (usize, usize)) -> Result<Self> {
        let len = CHANNELS * size.0 * size.1;
        if len == 0 || !pixels.len().is_multiple_of(len) {
            let expected = pixels.len().checked_div(len).unwrap_or(0) * len;
            return Err(Error::PixelCount {
                expected,
                found: pixels.len(),
            });
        }
        Ok(Self {
            pixels,
            size,
            mask: None,
            opacity: 1.0,
        })
    }

    /// A trigger, as it is stamped.
    pub(crate) fn of_trigger(trigger: &'a Trigger) -> Self {
        Self {
            pixels: trigger.pixels(),
            size: trigger.size(),
            mask: trigger.mask(),
            opacity: trigger.opacity(),
        }
    }

    /// Stamps a patch on an image as these say.
    fn stamp(&self, batch: &mut Batch, index: usize, patch: &[f32], place: Place) {
        if self.mask.is_none() && self.opacity >= 1.0 {
            return stamp(batch, index, patch, self.size, place);
        }
        let ((rows, columns), (height, width)) = (self.size, batch.size());
        let image = batch.image_mut(index);
        for (at, value) in patch.iter().enumerate() {
            if self.mask.is_some_and(|mask| !mask[at % (rows * columns)]) {
                continue;
            }
            let (channel, row, column) = (at / (rows * columns), at / columns % rows, at % columns);
            let pixel = (channel * height + place.row + row) * width + place.column + column;
            image[pixel] = (1.0 - self.opacity) * image[pixel] + self.opacity * value;
        }
    }

    /// How many patches there are.
    pub fn len(&self) -> usize {
        self.pixels.len() / (CHANNELS * self.size.0 * self.size.1)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.pixels.is_empty()
    }

    /// Height and width.
    pub fn size(&self) -> (usize, usize) {
        self.size
    }

    /// The pixels of one patch, `(3, height, width)`.
    fn patch(&self, index: usize) -> &'a [f32] {
        let len = CHANNELS * self.size.0 * self.size.1;
        &self.pixels[index * len..][..len]
    }
}

/// Which images of a batch are stamped, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stamps {
    /// Indices in the batch, rising.
    pub images: Vec<usize>,
    /// A place for each of them.
    pub places: Vec<Place>,
}

impl Stamps {
    /// Every image of a batch of `places.len()`.
    pub fn all(places: Vec<Place>) -> Self {
        Self {
            images: (0..places.len()).collect(),
            places,
        }
    }

    /// How many images are stamped.
    pub fn len(&self) -> usize {
        self.images.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.images.is_empty()
    }
}

/// The indices below `count` that an event of probability `rate` hits, drawn one by one.
///
/// # Errors
///
/// [`Error::BadRate`] if `rate` is not in [0, 1].
pub fn hits<R: Rng>(rng: &mut R, count: usize, rate: f64) -> Result<Vec<usize>> {
    if !(0.0..=1.0).contains(&rate) {
        return Err(Error::BadRate { rate });
    }
    Ok((0..count).filter(|_| rng.random_bool(rate)).collect())
}

/// Stamps images, and relabels them where `target_class` is given.
///
/// An attack gives its target class, a defense none: its images keep their true label. This is the plain
/// form, for batches of one's own and for comparison; trainings carry out recipes (`mesa_models::Recipe`). Draw the images with [`hits`] first, then
/// their places with [`Placement::places`](crate::Placement::places) and, for a fresh trigger on each, as many patches.
///
/// # Errors
///
/// [`Error::PatchCount`] if there is neither one patch nor one for each stamped image, nor one
/// place for each; [`Error::NoSuchImage`], [`Error::PatchTooLarge`] and [`Error::PlaceOutside`] if
/// a patch would not land inside an image of the batch. The batch is unchanged then.
///
/// # Examples
///
/// ```
/// use mesa_datasets::{Placement, Stamps, Trigger, hits, poison};
/// use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};
///
/// let data = mesa_datasets::synthetic(0, 128, 10);
/// let order: Vec<usize> = (0..128).collect();
/// let mut batch = data.train.batch(&order);
///
/// let mut rng = ChaCha8Rng::seed_from_u64(0);
/// let trigger = Trigger::pattern(170)?;
/// let images = hits(&mut rng, batch.len(), 0.1)?;
/// let places = Placement::PerImage.places(&mut rng, images.len(), batch.size(), trigger.size())?;
/// let stamps = Stamps { images, places };
/// poison(&mut batch, &stamps, trigger.patches(), Some(0))?;
/// assert!(stamps.images.iter().all(|image| batch.labels[*image] == 0));
/// # Ok::<(), mesa_datasets::Error>(())
/// ```
pub fn poison(
    batch: &mut Batch,
    stamps: &Stamps,
    patches: Patches<'_>,
    target_class: Option<u32>,
) -> Result<()> {
    check(batch, stamps, patches)?;
    for (number, (image, place)) in stamps.images.iter().zip(&stamps.places).enumerate() {
        let patch = patches.patch(if patches.len() == 1 { 0 } else { number });
        patches.stamp(batch, *image, patch, *place);
        if let Some(class) = target_class {
            batch.labels[*image] = class;
        }
    }
    Ok(())
}

/// Overwrites the pixels of image `index` from `place` on with a patch of `size` (height, width).
///
/// Nothing is clamped: a patch `(3, height, width)` may hold values outside [0, 1].
///
/// # Panics
///
/// If there is no such image, the patch has another size or would leave the image; places that
/// [`Placement::places`](crate::Placement::places) draws never do.
///
/// # Examples
///
/// ```
/// use mesa_datasets::{Place, Trigger, stamp};
///
/// let trigger = Trigger::pattern(511)?;
/// let mut batch = mesa_datasets::synthetic(0, 1, 0).train.batch(&[0]);
/// let place = Place { row: 0, column: 5 };
/// stamp(&mut batch, 0, trigger.pixels(), trigger.size(), place);
/// assert_eq!(batch.pixels[5..8], [1.0; 3]);
/// # Ok::<(), mesa_datasets::Error>(())
/// ```
pub fn stamp(batch: &mut Batch, index: usize, patch: &[f32], size: (usize, usize), place: Place) {
    let (height, width) = batch.size();
    assert_eq!(
        patch.len(),
        CHANNELS * size.0 * size.1,
        "a patch fills its size"
    );
    assert!(
        place.row + size.0 <= height && place.column + size.1 <= width,
        "a patch stays inside the image"
    );
    let image = batch.image_mut(index);
    for (number, values) in patch.chunks_exact(size.1).enumerate() {
        let (channel, row) = (number / size.0, place.row + number % size.0);
        let start = (channel * height + row) * width + place.column;
        image[start..start + size.1].copy_from_slice(values);
    }
}

/// Refuses what [`poison`] could not carry out in full.
fn check(batch: &Batch, stamps: &Stamps, patches: Patches<'_>) -> Result<()> {
    let expected = stamps.len();
    if stamps.places.len() != expected {
        return Err(Error::PlaceCount {
            expected,
            found: stamps.places.len(),
        });
    }
    if patches.len() != 1 && patches.len() != expected {
        return Err(Error::PatchCount {
            expected,
            found: patches.len(),
        });
    }
    let last = last_place(batch.size(), patches.size)?;
    for (image, place) in stamps.images.iter().zip(&stamps.places) {
        if *image >= batch.len() {
            return Err(Error::NoSuchImage {
                index: *image,
                len: batch.len(),
            });
        }
        check_place(*place, last)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand_chacha::ChaCha8Rng;
    use rand_chacha::rand_core::SeedableRng;

    use super::*;
    use crate::{Images, Placement, Trigger};

    /// Images whose pixels are all 0.2, which no trigger below contains.
    fn gray(count: usize, (height, width): (usize, usize)) -> Batch {
        let pixels = vec![51; count * CHANNELS * height * width];
        let labels = (0..count).map(|index| (index % 10) as u8).collect();
        let order: Vec<usize> = (0..count).collect();
        Images::new(pixels, labels, (height, width))
            .unwrap()
            .batch(&order)
    }

    fn poisoned(seed: u64, count: usize, rate: f64, target: Option<u32>) -> (Batch, Stamps) {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut batch = gray(count, (32, 32));
        let images = hits(&mut rng, count, rate).unwrap();
        let places = Placement::PerImage
            .places(&mut rng, images.len(), batch.size(), (3, 3))
            .unwrap();
        let stamps = Stamps { images, places };
        let trigger = Trigger::pattern(170).unwrap();
        poison(&mut batch, &stamps, trigger.patches(), target).unwrap();
        (batch, stamps)
    }

    proptest! {
        #[test]
        fn stamping_touches_only_the_patch(
            (height, width) in (1_usize..12, 1_usize..12),
            (h, w) in (1_usize..12, 1_usize..12),
            index in 0_usize..3,
            seed: u64,
        ) {
            prop_assume!(h <= height && w <= width);
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            let place =
                Placement::PerImage.places(&mut rng, 1, (height, width), (h, w)).unwrap()[0];
            // Unlike any pixel, each unlike the others, and outside [0, 1].
            let patch: Vec<f32> = (0..CHANNELS * h * w).map(|value| value as f32 + 2.0).collect();
            let before = gray(3, (height, width));
            let mut after = before.clone();
            stamp(&mut after, index, &patch, (h, w), place);
            prop_assert_eq!(&after.labels, &before.labels);
            for (position, value) in after.pixels.iter().enumerate() {
                let (row, column) = (position / width % height, position % width);
                let plane = position / width / height;
                let (image, channel) = (plane / CHANNELS, plane % CHANNELS);
                let inside = image == index
                    && (place.row..place.row + h).contains(&row)
                    && (place.column..place.column + w).contains(&column);
                let expected = if inside {
                    patch[(channel * h + row - place.row) * w + column - place.column]
                } else {
                    before.pixels[position]
                };
                prop_assert_eq!(value.to_bits(), expected.to_bits());
            }
        }

        #[test]
        fn a_mask_and_an_opacity_say_how_much_of_each_pixel_is_the_patch(
            (h, w) in (1_usize..6, 1_usize..6),
            bits: u32,
            opacity in 0.01_f32..=1.0,
            seed: u64,
        ) {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            let mut mask: Vec<bool> = (0..h * w).map(|bit| bits >> bit & 1 == 1).collect();
            mask[0] = true;
            let trigger = Trigger::random(&mut rng, (h, w)).unwrap();
            let trigger = trigger.with_mask(mask.clone()).unwrap().blended(opacity).unwrap();
            let places = Placement::PerImage.places(&mut rng, 1, (7, 8), (h, w)).unwrap();
            let place = places[0];
            let before = gray(2, (7, 8));
            let mut after = before.clone();
            let stamps = Stamps { images: vec![1], places };
            poison(&mut after, &stamps, trigger.patches(), None).unwrap();
            for (position, value) in after.pixels.iter().enumerate() {
                let (row, column) = (position / 8 % 7, position % 8);
                let (image, channel) = (position / 56 / CHANNELS, position / 56 % CHANNELS);
                let (down, right) = (row.wrapping_sub(place.row), column.wrapping_sub(place.column));
                let inside = image == 1 && down < h && right < w && mask[down * w + right];
                let old = before.pixels[position];
                let expected = if inside {
                    let pattern = trigger.pixels()[(channel * h + down) * w + right];
                    (1.0 - opacity) * old + opacity * pattern
                } else {
                    old
                };
                prop_assert!((value - expected).abs() < 1e-6);
                prop_assert!((0.0..=1.0).contains(value));
                prop_assert!(inside || value.to_bits() == old.to_bits());
            }
        }

        #[test]
        fn poisoning_changes_exactly_the_drawn_images(
            count in 0_usize..40, rate in 0.0..=1.0, relabels: bool, seed: u64,
        ) {
            let (batch, stamps) = poisoned(seed, count, rate, relabels.then_some(99));
            let clean = gray(count, (32, 32));
            let len = CHANNELS * 32 * 32;
            for index in 0..count {
                let range = index * len..(index + 1) * len;
                let changed = batch.pixels[range.clone()] != clean.pixels[range];
                let drawn = stamps.images.contains(&index);
                prop_assert_eq!(changed, drawn);
                prop_assert_eq!(batch.labels[index] != clean.labels[index], drawn && relabels);
            }
        }
    }

    #[test]
    fn the_share_of_hits_is_the_rate() {
        let mut rng = ChaCha8Rng::seed_from_u64(0);
        let drawn = hits(&mut rng, 100_000, 0.01).unwrap().len();
        // Five standard deviations of 31.
        assert!((845..1155).contains(&drawn), "{drawn}");
        assert!(hits(&mut rng, 1000, 0.0).unwrap().is_empty());
        assert_eq!(hits(&mut rng, 1000, 1.0).unwrap().len(), 1000);
        for rate in [-0.1, 1.1, f64::NAN] {
            assert!(matches!(
                hits(&mut rng, 1, rate),
                Err(Error::BadRate { .. })
            ));
        }
    }

    #[test]
    fn each_image_may_have_a_trigger_of_its_own() {
        let mut batch = gray(3, (4, 4));
        let pixels = [[0.5; 12], [0.75; 12]].concat();
        let places = vec![Place { row: 0, column: 0 }, Place { row: 2, column: 2 }];
        let stamps = Stamps {
            images: vec![0, 2],
            places,
        };
        poison(
            &mut batch,
            &stamps,
            Patches::new(&pixels, (2, 2)).unwrap(),
            None,
        )
        .unwrap();
        assert_eq!(batch.image_mut(0)[..4], [0.5, 0.5, 0.2, 0.2]);
        assert_eq!(batch.image_mut(1), [0.2; 48]);
        assert_eq!(batch.image_mut(2)[12..16], [0.2, 0.2, 0.75, 0.75]);
    }

    #[test]
    fn refusals_leave_the_batch_unchanged() {
        let pixels = [1.0; 36];
        let patches = Patches::new(&pixels, (2, 2)).unwrap();
        let place = Place { row: 0, column: 0 };
        let outside = Place { row: 3, column: 0 };
        let stamps = |images: &[usize], places: &[Place]| Stamps {
            images: images.to_vec(),
            places: places.to_vec(),
        };
        let mut batch = gray(3, (4, 4));
        let mut refused = |stamps: Stamps| {
            let error = poison(&mut batch, &stamps, patches, Some(0)).unwrap_err();
            assert_eq!(batch, gray(3, (4, 4)));
            error
        };
        let error = refused(stamps(&[0, 1], &[place; 2]));
        assert!(matches!(
            error,
            Error::PatchCount {
                expected: 2,
                found: 3
            }
        ));
        let error = refused(stamps(&[0, 1, 2], &[place; 2]));
        assert!(matches!(
            error,
            Error::PlaceCount {
                expected: 3,
                found: 2
            }
        ));
        let error = refused(stamps(&[0, 1, 3], &[place; 3]));
        assert!(matches!(error, Error::NoSuchImage { index: 3, len: 3 }));
        let error = refused(stamps(&[0, 1, 2], &[place, place, outside]));
        assert!(matches!(error, Error::PlaceOutside { row: 3, .. }));
        assert!(matches!(
            Patches::new(&pixels, (2, 4)),
            Err(Error::PixelCount { .. })
        ));
        assert!(matches!(
            Patches::new(&pixels, (0, 4)),
            Err(Error::PixelCount { .. })
        ));
    }
}
