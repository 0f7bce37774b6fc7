//! Batches as recipes: which images, cropped how, stamped with what.
//!
//! A recipe says everything that chance decides, and nothing of where it is carried out: here, on
//! the host, or by a kernel on a GPU that holds the images (`images.cuh`). Both do the same.

use std::fmt;
use std::sync::Arc;

use candle::{Device, Tensor};
use mesa_kernels::{ImagePlan, Stamp};

use crate::graph::COLORS;
use crate::{BoxError, Error, Position, Result};

/// Images as bytes, `(N, 3, height, width)`, that recipes refer to. Clones share them.
#[derive(Clone)]
pub struct ImagePool {
    pixels: Arc<Vec<u8>>,
    size: (usize, usize),
    fill: [f32; COLORS],
}

/// Triggers to stamp, `(T, 3, height, width)`, values as in images: 0 is black, 1 is white.
#[derive(Clone, Debug, PartialEq)]
pub struct Triggers {
    /// Their values, one trigger after another.
    pub pixels: Vec<f32>,
    /// Height and width.
    pub size: (usize, usize),
    /// Which pixels of each are stamped, `(height, width)`; all if none.
    pub mask: Option<Vec<bool>>,
    /// A trigger's share of a pixel under it.
    pub opacity: f32,
}

/// How a batch is made of the images of a pool.
#[derive(Clone, Debug, PartialEq)]
pub struct Recipe {
    /// What is done to each image, in the batch's order.
    pub plans: Vec<ImagePlan>,
    /// What is stamped.
    pub triggers: Triggers,
}

/// Batches of one pool of images, told as recipes.
///
/// A recipe depends on its position alone, so that a run resumes anywhere.
pub trait Recipes {
    /// The images that recipes refer to.
    fn pool(&self) -> &ImagePool;

    /// The batch of a step.
    ///
    /// # Errors
    ///
    /// Whatever goes wrong.
    fn recipe(&mut self, at: Position) -> Result<Recipe, BoxError>;
}

impl Triggers {
    /// Nothing to stamp.
    pub fn none() -> Self {
        Self::opaque(Vec::new(), (1, 1))
    }

    /// Triggers of `size` (height, width) that replace the pixels under them.
    pub fn opaque(pixels: Vec<f32>, size: (usize, usize)) -> Self {
        Self {
            pixels,
            size,
            mask: None,
            opacity: 1.0,
        }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.pixels.len() / (COLORS * self.size.0 * self.size.1).max(1)
    }

    /// The values of one trigger.
    fn one(&self, index: usize) -> &[f32] {
        let len = COLORS * self.size.0 * self.size.1;
        &self.pixels[index * len..][..len]
    }
}

impl Recipe {
    /// The images with these indices, as they are; `labels` are those of the whole pool.
    pub fn plain(indices: &[usize], labels: &[u8]) -> Self {
        let plan = |index: &usize| ImagePlan::plain(*index, usize::from(labels[*index]));
        Self {
            plans: indices.iter().map(plan).collect(),
            triggers: Triggers::none(),
        }
    }

    /// Stamps image `images[i]` of the batch at row and column `places[i]`: with trigger `i`, or
    /// with the only one. Labels stay.
    pub fn stamp<P: Copy + Into<(usize, usize)>>(
        &mut self,
        images: &[usize],
        places: &[P],
        triggers: Triggers,
    ) {
        let single = triggers.count() == 1;
        self.triggers = triggers;
        for (number, (image, place)) in images.iter().zip(places).enumerate() {
            let (row, column) = (*place).into();
            self.plans[*image].stamp = Some(Stamp {
                trigger: if single { 0 } else { number },
                row,
                column,
            });
        }
    }

    /// The class of each image.
    pub fn labels(&self) -> impl ExactSizeIterator<Item = u32> + '_ {
        self.plans.iter().map(|plan| plan.label as u32)
    }

    /// Where each image is stamped, if all are, with triggers that replace what is under them: what a
    /// gradient of triggers is defined for, on every processor alike.
    pub(crate) fn places(&self) -> Result<Vec<(usize, usize)>> {
        let Triggers { mask, opacity, .. } = &self.triggers;
        if mask.is_some() || opacity.to_bits() != 1.0_f32.to_bits() {
            return Err(Error::Batch {
                what: "a trigger whose gradient is asked for",
                expected: "opaque and whole".to_owned(),
                found: format!("masked ({}), opacity {opacity}", mask.is_some()),
            });
        }
        let place = |plan: &ImagePlan| plan.stamp.map(|stamp| (stamp.row, stamp.column));
        let places: Option<Vec<_>> = self.plans.iter().map(place).collect();
        places.ok_or_else(|| Error::Batch {
            what: "an image whose trigger's gradient is asked for",
            expected: "stamped".to_owned(),
            found: "plain".to_owned(),
        })
    }

    /// Refuses crops, which networks in evaluation mode are not asked about.
    pub(crate) fn check_uncropped(&self) -> Result<()> {
        let cropped = |plan: &&ImagePlan| plan.shift != (0, 0);
        match self.plans.iter().find(cropped) {
            None => Ok(()),
            Some(plan) => Err(Error::Batch {
                what: "a crop in evaluation",
                expected: "none".to_owned(),
                found: format!("{:?}", plan.shift),
            }),
        }
    }
}

impl ImagePool {
    /// Images of `size` (height, width). Crops show black outside of them.
    ///
    /// # Errors
    ///
    /// [`Error::Batch`] if the bytes are not those of whole images.
    pub fn new(pixels: Arc<Vec<u8>>, size: (usize, usize)) -> Result<Self> {
        let each = COLORS * size.0 * size.1;
        if each == 0 || !pixels.len().is_multiple_of(each) {
            return Err(Error::Batch {
                what: "the number of an image pool's bytes",
                expected: format!("a multiple of {each}"),
                found: pixels.len().to_string(),
            });
        }
        Ok(Self {
            pixels,
            size,
            fill: [0.0; COLORS],
        })
    }

    /// The same with the color, in [0, 1], that crops show outside of their image.
    #[must_use]
    pub fn with_fill(mut self, fill: [f32; COLORS]) -> Self {
        self.fill = fill;
        self
    }

    /// All bytes.
    pub fn pixels(&self) -> &[u8] {
        &self.pixels
    }

    /// Height and width.
    pub fn size(&self) -> (usize, usize) {
        self.size
    }

    /// The color that crops show outside of their image.
    pub fn fill(&self) -> [f32; COLORS] {
        self.fill
    }

    /// How many images there are.
    pub fn len(&self) -> usize {
        self.pixels.len() / (COLORS * self.size.0 * self.size.1)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.pixels.is_empty()
    }

    /// Whether both hold the same bytes in the same place.
    #[cfg(feature = "cuda")]
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.pixels, &other.pixels) && self.size == other.size
    }

    /// Carries a recipe out: images f32 `(B, 3, height, width)`, in [0, 1] but for what is stamped,
    /// and labels u32 `(B,)`.
    ///
    /// # Errors
    ///
    /// [`Error::Batch`] for an image or a trigger that does not exist, or one that leaves its
    /// image.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::sync::Arc;
    ///
    /// use mesa_models::{ImagePool, Recipe, Triggers};
    ///
    /// let pool = ImagePool::new(Arc::new(vec![255; 2 * 3 * 4 * 4]), (4, 4))?;
    /// let mut recipe = Recipe::plain(&[1], &[3, 7]);
    /// recipe.stamp(&[0], &[(0, 2)], Triggers::opaque(vec![0.0; 3], (1, 1)));
    /// let (images, labels) = pool.batch(&recipe)?;
    /// assert_eq!(images.flatten_all()?.to_vec1::<f32>()?[..4], [1.0, 1.0, 0.0, 1.0]);
    /// assert_eq!(labels.to_vec1::<u32>()?, [7]);
    /// # Ok::<(), mesa_models::Error>(())
    /// ```
    pub fn batch(&self, recipe: &Recipe) -> Result<(Tensor, Tensor)> {
        let (height, width) = self.size;
        let len = COLORS * height * width;
        let mut pixels = Vec::with_capacity(recipe.plans.len() * len);
        for plan in &recipe.plans {
            self.check(plan, &recipe.triggers)?;
            let start = pixels.len();
            let bytes = &self.pixels[plan.image * len..][..len];
            self.crop(bytes, plan, &mut pixels);
            if let Some(stamp) = plan.stamp {
                recipe.triggers.apply(stamp, &mut pixels[start..], width);
            }
        }
        let count = recipe.plans.len();
        let images = Tensor::from_vec(pixels, (count, COLORS, height, width), &Device::Cpu)?;
        let labels = Tensor::from_vec(recipe.labels().collect(), count, &Device::Cpu)?;
        Ok((images, labels))
    }

    /// Adds an image's pixels: row `r` shows row `r + shift` of the image.
    fn crop(&self, bytes: &[u8], plan: &ImagePlan, pixels: &mut Vec<f32>) {
        let share = |byte: &u8| f32::from(*byte) / 255.0;
        if plan.shift == (0, 0) && !plan.mirrored {
            pixels.extend(bytes.iter().map(share));
            return;
        }
        let (height, width) = self.size;
        let within = |at: usize, shift: i32, side: usize| {
            let at = at.checked_add_signed(shift as isize);
            at.filter(|at| *at < side)
        };
        for (plane, fill) in bytes.chunks_exact(height * width).zip(self.fill) {
            for row in 0..height {
                let Some(source) = within(row, plan.shift.0, height) else {
                    pixels.extend(std::iter::repeat_n(fill, width));
                    continue;
                };
                let source = &plane[source * width..][..width];
                pixels.extend((0..width).map(|column| {
                    let column = if plan.mirrored {
                        width - 1 - column
                    } else {
                        column
                    };
                    within(column, plan.shift.1, width).map_or(fill, |at| share(&source[at]))
                }));
            }
        }
    }

    fn check(&self, plan: &ImagePlan, triggers: &Triggers) -> Result<()> {
        let refuse = |what, found: String, expected: String| {
            Err(Error::Batch {
                what,
                expected,
                found,
            })
        };
        if plan.image >= self.len() {
            let expected = format!("below {}", self.len());
            return refuse("an image's index", plan.image.to_string(), expected);
        }
        let Some(stamp) = plan.stamp else {
            return Ok(());
        };
        if stamp.trigger >= triggers.count() {
            let expected = format!("below {}", triggers.count());
            return refuse("a trigger's index", stamp.trigger.to_string(), expected);
        }
        let (rows, columns) = triggers.size;
        if stamp.row + rows > self.size.0 || stamp.column + columns > self.size.1 {
            let found = format!("({}, {})", stamp.row, stamp.column);
            let expected = format!("one where {rows}x{columns} pixels fit into {:?}", self.size);
            return refuse("a trigger's place", found, expected);
        }
        Ok(())
    }
}

impl Triggers {
    /// Stamps an image `(3, height, width)`.
    fn apply(&self, stamp: Stamp, image: &mut [f32], width: usize) {
        let (rows, columns) = self.size;
        let plane = image.len() / COLORS;
        for (at, value) in self.one(stamp.trigger).iter().enumerate() {
            if self
                .mask
                .as_ref()
                .is_some_and(|mask| !mask[at % (rows * columns)])
            {
                continue;
            }
            let (color, row, column) = (at / (rows * columns), at / columns % rows, at % columns);
            let pixel = color * plane + (stamp.row + row) * width + stamp.column + column;
            image[pixel] = (1.0 - self.opacity) * image[pixel] + self.opacity * value;
        }
    }
}

impl fmt::Debug for ImagePool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ImagePool({} of {:?})", self.len(), self.size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two images of 3×4 pixels, every byte another.
    fn pool() -> ImagePool {
        let pixels = (0..72).collect();
        ImagePool::new(Arc::new(pixels), (3, 4))
            .unwrap()
            .with_fill([0.5, 0.25, 0.75])
    }

    fn values(recipe: &Recipe) -> Vec<f32> {
        let (images, _) = pool().batch(recipe).unwrap();
        images.flatten_all().unwrap().to_vec1().unwrap()
    }

    fn bits(values: &[f32]) -> Vec<u32> {
        values.iter().map(|value| value.to_bits()).collect()
    }

    #[test]
    fn a_crop_shows_what_the_kernel_shows() {
        for (shift, mirrored) in [
            ((0, 0), false),
            ((0, 0), true),
            ((1, -2), false),
            ((-1, 1), true),
            ((3, 0), false),
            ((0, -4), true),
        ] {
            let mut recipe = Recipe::plain(&[1], &[0, 0]);
            recipe.plans[0].shift = shift;
            recipe.plans[0].mirrored = mirrored;
            let found = values(&recipe);
            for color in 0..3_i32 {
                for row in 0..3_i32 {
                    for column in 0..4_i32 {
                        // As `load_images` of images.cuh has it.
                        let source_row = row + shift.0;
                        let source_column = if mirrored { 3 - column } else { column } + shift.1;
                        let inside =
                            (0..3).contains(&source_row) && (0..4).contains(&source_column);
                        let expected = if inside {
                            (36 + (color * 3 + source_row) * 4 + source_column) as f32 / 255.0
                        } else {
                            pool().fill()[color as usize]
                        };
                        let at = ((color * 3 + row) * 4 + column) as usize;
                        assert_eq!(found[at].to_bits(), expected.to_bits(), "{shift:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_trigger_covers_its_mask_by_its_opacity() {
        let plain = values(&Recipe::plain(&[0], &[0, 0]));
        let mut recipe = Recipe::plain(&[0], &[0, 0]);
        let triggers = Triggers {
            mask: Some(vec![true, false]),
            opacity: 0.25,
            ..Triggers::opaque(vec![1.0; 6], (1, 2))
        };
        recipe.stamp(&[0], &[(2, 1)], triggers);
        let found = values(&recipe);
        for at in 0..36 {
            let covered = at % 12 == 9;
            let expected = if covered {
                0.75 * plain[at] + 0.25
            } else {
                plain[at]
            };
            assert_eq!(found[at].to_bits(), expected.to_bits(), "{at}");
        }
    }

    #[test]
    fn each_stamped_image_has_its_own_trigger_unless_there_is_only_one() {
        let mut own = Recipe::plain(&[0, 1, 0], &[0, 0]);
        let two = [[2.0; 3], [3.0; 3]].concat();
        own.stamp(&[0, 2], &[(0, 0), (1, 1)], Triggers::opaque(two, (1, 1)));
        let stamps = own
            .plans
            .iter()
            .map(|plan| plan.stamp.map(|stamp| stamp.trigger));
        assert_eq!(stamps.collect::<Vec<_>>(), [Some(0), None, Some(1)]);
        let found = values(&own);
        assert_eq!(bits(&[found[0], found[72 + 5]]), bits(&[2.0, 3.0]));
        let mut one = Recipe::plain(&[0, 1], &[0, 0]);
        one.stamp(
            &[0, 1],
            &[(0, 0); 2],
            Triggers::opaque(vec![9.0; 3], (1, 1)),
        );
        assert!(
            one.plans
                .iter()
                .all(|plan| plan.stamp.unwrap().trigger == 0)
        );
    }

    #[test]
    fn what_is_not_there_is_refused() {
        let mut image = Recipe::plain(&[0], &[0, 0]);
        image.plans[0].image = 2;
        let mut trigger = Recipe::plain(&[0], &[0, 0]);
        trigger.stamp(&[0], &[(0, 0)], Triggers::none());
        let mut place = Recipe::plain(&[0], &[0, 0]);
        place.stamp(&[0], &[(0, 3)], Triggers::opaque(vec![0.0; 6], (1, 2)));
        for recipe in [image, trigger, place] {
            let refused = pool().batch(&recipe);
            assert!(matches!(refused, Err(Error::Batch { .. })), "{recipe:?}");
        }
        assert!(ImagePool::new(Arc::new(vec![0; 37]), (3, 4)).is_err());
        assert!(Recipe::plain(&[0], &[0, 0]).places().is_err());
        let mut cropped = Recipe::plain(&[0], &[0, 0]);
        cropped.plans[0].shift = (0, 1);
        assert!(cropped.check_uncropped().is_err());
        let mut blended = Recipe::plain(&[0], &[0, 0]);
        let triggers = Triggers {
            opacity: 0.5,
            ..Triggers::opaque(vec![0.0; 3], (1, 1))
        };
        blended.stamp(&[0], &[(0, 0)], triggers);
        assert!(blended.places().is_err());
    }
}
