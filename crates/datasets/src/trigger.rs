//! Triggers: black/white patterns, the paper's color triggers, random ones.

use candle::{Device, Tensor};
use rand::Rng;

use crate::images::CHANNELS;
use crate::patterns::NUM_PATTERNS;
use crate::{Error, Patches, Result};

/// Rows and columns of the numbered patterns and the color triggers.
const SIDE: usize = 3;

/// The most rows, and columns, of a trigger that is drawn or read from a picture.
pub(crate) const LONGEST_SIDE: u16 = 4096;

/// CIFAR-100's target class of each color trigger; on CIFAR-10 it is always 0.
pub const COLOR_TARGETS_CIFAR100: [u32; 10] = [8, 96, 91, 79, 19, 90, 50, 7, 51, 7];

/// Colors read off the paper's poster (± 2/255), `0xRRGGBB`, row by row.
#[rustfmt::skip]
#[expect(clippy::unreadable_literal, reason = "colors are read as RRGGBB")]
pub(crate) const COLOR_TRIGGERS: [[u32; SIDE * SIDE]; 10] = [
    [0xd19db3, 0xca8712, 0x38fde5, 0xaa6a2f, 0x4fcecd, 0x3f5d02, 0x784d10, 0x77df39, 0x6799f3],
    [0x2579fa, 0x56d375, 0x83626f, 0x3fa993, 0xdd47e9, 0x71d905, 0x4c2921, 0x2ce3ae, 0x44c87e],
    [0xfe7ef4, 0x15f560, 0xf76cfb, 0x7e10b4, 0x2bfb36, 0x80a5dc, 0x96ce9e, 0x3392bc, 0x0021f2],
    [0xc3a792, 0x3904cd, 0x968cee, 0x94be16, 0x5fe417, 0x24d6a4, 0xedd4e6, 0x68d4eb, 0x92d9c8],
    [0x52ba00, 0xf4c77b, 0x6b6882, 0x6b7973, 0xa567a2, 0x066267, 0xf69ade, 0xb10b37, 0x51cff1],
    [0x98ca14, 0x8fd6c0, 0x609d46, 0x979b22, 0xbba90d, 0xddd797, 0xacafa1, 0x21617f, 0xcf3fc9],
    [0x6bda14, 0x222d3c, 0x47b1f3, 0xc1328e, 0x24e099, 0x5e1ed7, 0xf04350, 0xc5f720, 0x330334],
    [0xc5a475, 0xcb71cc, 0x42713c, 0x9e8492, 0x60fa76, 0x8e201c, 0x47ec83, 0x7df42b, 0xab22cb],
    [0x8246c8, 0x109145, 0xa63af4, 0x9af350, 0xda21b7, 0x9b7da3, 0x7b8f63, 0xcc5f0f, 0x453339],
    [0xe7fd22, 0x249281, 0x51b3eb, 0xf78feb, 0x080452, 0x94607b, 0x86de33, 0xc0430b, 0x0da515],
];

/// A picture that is stamped on images: `(3, height, width)`.
///
/// It covers the pixels under it, unless it has a mask or is [blended](Self::blended).
///
/// # Examples
///
/// ```
/// use mesa_datasets::Trigger;
///
/// let trigger = Trigger::pattern(170)?; // 0b010_101_010: a diamond
/// assert_eq!((trigger.height(), trigger.width()), (3, 3));
/// assert_eq!(trigger.pixels()[..9], [0., 1., 0., 1., 0., 1., 0., 1., 0.]);
/// # Ok::<(), mesa_datasets::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Trigger {
    pixels: Vec<f32>,
    height: usize,
    width: usize,
    mask: Option<Vec<bool>>,
    opacity: f32,
}

impl Trigger {
    /// A trigger of `(height, width)` pixels, `(3, height, width)`.
    ///
    /// # Errors
    ///
    /// [`Error::PixelCount`] if the pixels do not fill that shape, or it is empty.
    pub fn new(pixels: Vec<f32>, size: (usize, usize)) -> Result<Self> {
        let (height, width) = size;
        let expected = CHANNELS * height * width;
        if pixels.len() != expected || expected == 0 {
            return Err(Error::PixelCount {
                expected,
                found: pixels.len(),
            });
        }
        Ok(Self {
            pixels,
            height,
            width,
            mask: None,
            opacity: 1.0,
        })
    }

    /// The same trigger of which only the pixels marked in `mask`, `(height, width)`, belong to it:
    /// under the others images stay as they are.
    ///
    /// # Errors
    ///
    /// [`Error::Mask`] if the mask has another size or marks nothing.
    ///
    /// # Examples
    ///
    /// ```
    /// use mesa_datasets::{Place, Stamps, Trigger, poison};
    ///
    /// let corner = Trigger::pattern(511)?.with_mask([true, false, false].repeat(3))?;
    /// let mut batch = mesa_datasets::synthetic(0, 1, 0).train.batch(&[0]);
    /// let before = batch.pixels.clone();
    /// let stamps = Stamps::all(vec![Place { row: 0, column: 0 }]);
    /// poison(&mut batch, &stamps, corner.patches(), None)?;
    /// assert_eq!((batch.pixels[0], batch.pixels[1]), (1.0, before[1]));
    /// # Ok::<(), mesa_datasets::Error>(())
    /// ```
    pub fn with_mask(self, mask: Vec<bool>) -> Result<Self> {
        let expected = self.height * self.width;
        if mask.len() != expected || !mask.contains(&true) {
            return Err(Error::Mask { expected });
        }
        let mask = mask.contains(&false).then_some(mask);
        Ok(Self { mask, ..self })
    }

    /// The same trigger mixed with the pixels under it instead of covering them.
    ///
    /// ```text
    /// x′ = (1 − opacity) · x + opacity · pattern
    /// ```
    ///
    /// With a pattern of the image's size this is the blended attack of Chen et al. 2017
    /// (arXiv:1712.05526). Both lie in [0, 1], hence so does the mixture; it is not rounded to
    /// eight bits.
    ///
    /// # Errors
    ///
    /// [`Error::BadOpacity`] if `opacity` is not in (0, 1].
    pub fn blended(self, opacity: f32) -> Result<Self> {
        if !(opacity > 0.0 && opacity <= 1.0) {
            return Err(Error::BadOpacity { opacity });
        }
        Ok(Self { opacity, ..self })
    }

    /// Any of the 512 black/white 3×3 patterns.
    ///
    /// Bit 8 is the top-left pixel, row by row; 1 is white in all three channels.
    ///
    /// # Errors
    ///
    /// [`Error::NoSuchPattern`] from 512 on.
    pub fn pattern(pattern: u16) -> Result<Self> {
        if pattern >= NUM_PATTERNS {
            return Err(Error::NoSuchPattern { pattern });
        }
        let plane = (0..SIDE * SIDE)
            .rev()
            .map(|bit| f32::from(pattern >> bit & 1));
        let plane: Vec<f32> = plane.collect();
        Self::new(plane.repeat(CHANNELS), (SIDE, SIDE))
    }

    /// One of the paper's ten random color triggers, as read off its poster.
    ///
    /// # Errors
    ///
    /// [`Error::NoSuchColor`] from 10 on.
    pub fn color(index: u8) -> Result<Self> {
        let colors = COLOR_TRIGGERS
            .get(usize::from(index))
            .ok_or(Error::NoSuchColor { index })?;
        let pixels = [16, 8, 0].into_iter().flat_map(|shift| {
            colors
                .iter()
                .map(move |color| f32::from((color >> shift & 0xff) as u8) / 255.0)
        });
        Self::new(pixels.collect(), (SIDE, SIDE))
    }

    /// Uniformly random colors.
    ///
    /// # Errors
    ///
    /// [`Error::PixelCount`] if the size is empty.
    pub fn random<R: Rng>(rng: &mut R, size: (usize, usize)) -> Result<Self> {
        let pixels = (0..CHANNELS * size.0 * size.1)
            .map(|_| rng.random())
            .collect();
        Self::new(pixels, size)
    }

    /// Pixels in [0, 1], `(3, height, width)`.
    pub fn pixels(&self) -> &[f32] {
        &self.pixels
    }

    /// Rows.
    pub fn height(&self) -> usize {
        self.height
    }

    /// Columns.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Height and width.
    pub fn size(&self) -> (usize, usize) {
        (self.height, self.width)
    }

    /// Which pixels belong to it, `(height, width)`; none if all do.
    pub fn mask(&self) -> Option<&[bool]> {
        self.mask.as_deref()
    }

    /// Its share of a pixel that it is stamped on.
    pub fn opacity(&self) -> f32 {
        self.opacity
    }

    /// This trigger for every stamped image.
    pub fn patches(&self) -> Patches<'_> {
        Patches::of_trigger(self)
    }

    /// The trigger as a tensor `(3, height, width)`.
    ///
    /// # Errors
    ///
    /// [`Error::Tensor`] if the device has no room.
    pub fn tensor(&self, device: &Device) -> Result<Tensor> {
        Ok(Tensor::from_slice(
            &self.pixels,
            (CHANNELS, self.height, self.width),
            device,
        )?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bit_eight_is_the_top_left_pixel() {
        let trigger = Trigger::pattern(0b100_000_011).unwrap();
        let plane = [1., 0., 0., 0., 0., 0., 0., 1., 1.];
        assert_eq!(trigger.pixels(), [plane, plane, plane].concat());
        assert!(matches!(
            Trigger::pattern(512),
            Err(Error::NoSuchPattern { pattern: 512 })
        ));
    }

    #[test]
    fn color_triggers_are_channel_first() {
        let trigger = Trigger::color(0).unwrap();
        let bytes: Vec<u32> = trigger
            .pixels()
            .iter()
            .map(|v| (v * 255.0) as u32)
            .collect();
        assert_eq!((bytes[0], bytes[9], bytes[18]), (0xd1, 0x9d, 0xb3));
        assert_eq!((bytes[8], bytes[17], bytes[26]), (0x67, 0x99, 0xf3));
        assert!(matches!(
            Trigger::color(10),
            Err(Error::NoSuchColor { index: 10 })
        ));
    }

    #[test]
    fn a_mask_that_marks_nothing_or_has_another_size_is_refused() {
        let trigger = Trigger::pattern(170).unwrap();
        for mask in [vec![false; 9], vec![true; 8]] {
            let refused = trigger.clone().with_mask(mask);
            assert!(matches!(refused, Err(Error::Mask { expected: 9 })));
        }
        // All of it: stamped as if there were no mask.
        assert_eq!(trigger.clone().with_mask(vec![true; 9]).unwrap(), trigger);
    }

    #[test]
    fn an_opacity_is_a_share() {
        let trigger = Trigger::pattern(170).unwrap();
        for opacity in [0.0, -0.1, 1.1, f32::NAN] {
            let refused = trigger.clone().blended(opacity);
            assert!(
                matches!(refused, Err(Error::BadOpacity { .. })),
                "{opacity}"
            );
        }
        assert_eq!(trigger.clone().blended(1.0).unwrap(), trigger);
    }
}
