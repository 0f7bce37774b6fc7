//! Random crop and horizontal flip, drawn for every image.

use std::ops::Range;

use rand::Rng;

use crate::Batch;
use crate::images::CHANNELS;

/// How far a crop may leave the image, in pixels.
const PADDING: u8 = 4;

/// Shifts every image by up to four pixels each way and mirrors every other one, at random.
///
/// What a shift uncovers takes the color `fill`, channel by channel: that of the mean pixel
/// ([`Images::mean_color`](crate::Images::mean_color)) is zero once normalized.
///
/// # Examples
///
/// ```
/// use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};
///
/// let data = mesa_datasets::synthetic(0, 20, 10);
/// let mut batch = data.train.batch(&[0, 1, 2]);
/// let mut rng = ChaCha8Rng::seed_from_u64(0);
/// mesa_datasets::augment(&mut rng, &mut batch, data.train.mean_color());
/// ```
pub fn augment<R: Rng>(rng: &mut R, batch: &mut Batch, fill: [f32; CHANNELS]) {
    let (height, width) = batch.size();
    let plane = height * width;
    let mut before = vec![0.0; CHANNELS * plane];
    for index in 0..batch.len() {
        let crop = Crop::draw(rng);
        let image = batch.image_mut(index);
        before.copy_from_slice(image);
        for (channel, color) in fill.into_iter().enumerate() {
            let range = channel * plane..(channel + 1) * plane;
            crop.copy(&before[range.clone()], &mut image[range], width, color);
        }
    }
}

/// What [`augment`] does to one image.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Crop {
    /// Rows and columns that the crop starts from the image's corner, at most four either way.
    pub shift: (i32, i32),
    /// Whether the crop is mirrored left to right.
    pub mirrored: bool,
}

impl Crop {
    /// Draws a crop, all alike.
    pub fn draw<R: Rng>(rng: &mut R) -> Self {
        let mut shift = || {
            let from_corner = rng.random_range(0..=2 * usize::from(PADDING));
            i32::from(from_corner as u8) - i32::from(PADDING)
        };
        let shift = (shift(), shift());
        Self {
            shift,
            mirrored: rng.random(),
        }
    }

    /// Writes this part of the channel `from`, padded with `fill`, to `to`.
    fn copy(&self, from: &[f32], to: &mut [f32], width: usize, fill: f32) {
        let height = from.len() / width;
        let (source_columns, target_columns) = overlap(self.shift.1, width);
        to.fill(fill);
        let (source_rows, target_rows) = overlap(self.shift.0, height);
        for (source, target) in source_rows.zip(target_rows) {
            let source = &from[source * width..][source_columns.clone()];
            to[target * width..][target_columns.clone()].copy_from_slice(source);
        }
        if self.mirrored {
            to.chunks_exact_mut(width).for_each(<[f32]>::reverse);
        }
    }
}

/// Where the pixels stand that a crop keeps: in the image, and in the crop.
fn overlap(shift: i32, len: usize) -> (Range<usize>, Range<usize>) {
    let lost = (shift.unsigned_abs() as usize).min(len);
    if shift >= 0 {
        (lost..len, 0..len - lost)
    } else {
        (0..len - lost, lost..len)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand_chacha::ChaCha8Rng;
    use rand_chacha::rand_core::SeedableRng;

    use super::*;
    use crate::Images;

    const FILL: [f32; CHANNELS] = [7.0, 8.0, 9.0];

    /// Every pixel of an image has a value of its own.
    fn numbered() -> Batch {
        let pixels = (0..CHANNELS * 64).map(|value| value as u8).collect();
        Images::new(pixels, vec![0], (8, 8)).unwrap().batch(&[0])
    }

    proptest! {
        #[test]
        fn channels_move_together_and_the_rest_is_filled(seed: u64) {
            let before = numbered();
            let mut after = before.clone();
            augment(&mut ChaCha8Rng::seed_from_u64(seed), &mut after, FILL);
            let (red, rest) = after.pixels.split_at(64);
            let mut kept = 0;
            for (cell, red) in red.iter().enumerate() {
                let source = before.pixels[..64].iter().position(|value| value.to_bits() == red.to_bits());
                let others = [rest[cell], rest[64 + cell]];
                if let Some(source) = source {
                    kept += 1;
                    let expected = [before.pixels[64 + source], before.pixels[128 + source]];
                    prop_assert_eq!(others.map(f32::to_bits), expected.map(f32::to_bits));
                } else {
                    let filled = [*red, others[0], others[1]];
                    prop_assert_eq!(filled.map(f32::to_bits), FILL.map(f32::to_bits));
                }
            }
            prop_assert!(kept >= 16, "a shift by four of eight keeps a quarter, not {}", kept);
        }
    }

    #[test]
    fn all_shifts_occur_mirrored_and_not() {
        let mut rng = ChaCha8Rng::seed_from_u64(0);
        let mut seen: Vec<Vec<u32>> = Vec::new();
        for _ in 0..3000 {
            let mut batch = numbered();
            augment(&mut rng, &mut batch, FILL);
            seen.push(batch.pixels.iter().map(|value| value.to_bits()).collect());
        }
        seen.sort();
        seen.dedup();
        assert_eq!(seen.len(), 9 * 9 * 2);
    }

    #[test]
    fn images_smaller_than_a_shift_survive() {
        let images = Images::new(vec![0; CHANNELS * 6], vec![0; 1], (3, 2)).unwrap();
        for seed in 0..50 {
            augment(
                &mut ChaCha8Rng::seed_from_u64(seed),
                &mut images.batch(&[0]),
                FILL,
            );
        }
    }
}
