//! Images and labels as bytes, and batches of them as floats.

use std::fmt;
use std::sync::Arc;

use candle::{Device, Tensor};

use crate::{Error, Result};

/// Channels of every image and trigger: red, green, blue.
pub const CHANNELS: usize = 3;

/// Labeled images, eight bits a channel, channel first: `(N, 3, H, W)`.
///
/// Clones share the pixels.
///
/// # Examples
///
/// ```
/// let images = mesa_datasets::Images::new(vec![255; 2 * 3 * 4 * 4], vec![7, 8], (4, 4))?;
/// let batch = images.batch(&[1]);
/// assert_eq!(batch.labels, [8]);
/// assert_eq!(batch.pixels, [1.0; 3 * 4 * 4]);
/// # Ok::<(), mesa_datasets::Error>(())
/// ```
#[derive(Clone)]
pub struct Images {
    pixels: Arc<Vec<u8>>,
    labels: Arc<Vec<u8>>,
    size: (usize, usize),
}

impl Images {
    /// Images of `(height, width)` pixels, one for each label.
    ///
    /// # Errors
    ///
    /// [`Error::PixelCount`] if the pixels are not those of `labels.len()` images.
    pub fn new(pixels: Vec<u8>, labels: Vec<u8>, size: (usize, usize)) -> Result<Self> {
        let expected = labels.len() * CHANNELS * size.0 * size.1;
        if pixels.len() != expected {
            return Err(Error::PixelCount {
                expected,
                found: pixels.len(),
            });
        }
        Ok(Self {
            pixels: Arc::new(pixels),
            labels: Arc::new(labels),
            size,
        })
    }

    /// How many images there are.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// Height and width in pixels.
    pub fn size(&self) -> (usize, usize) {
        self.size
    }

    /// The class of every image.
    pub fn labels(&self) -> &[u8] {
        &self.labels
    }

    /// All pixels, image by image, `(N, 3, H, W)`.
    pub fn pixels(&self) -> &[u8] {
        &self.pixels
    }

    /// The same, to be shared.
    pub fn shared_pixels(&self) -> Arc<Vec<u8>> {
        Arc::clone(&self.pixels)
    }

    /// The pixels of one image, `(3, H, W)`.
    ///
    /// # Panics
    ///
    /// If there is no image `index`.
    pub fn image(&self, index: usize) -> &[u8] {
        let len = self.image_len();
        &self.pixels[index * len..][..len]
    }

    /// A copy of the images with these indices, in this order.
    ///
    /// # Panics
    ///
    /// If there is no image of some index.
    #[must_use]
    pub fn select(&self, indices: &[usize]) -> Self {
        let mut pixels = Vec::with_capacity(indices.len() * self.image_len());
        for index in indices {
            pixels.extend_from_slice(self.image(*index));
        }
        let labels = indices.iter().map(|index| self.labels[*index]).collect();
        Self {
            pixels: Arc::new(pixels),
            labels: Arc::new(labels),
            size: self.size,
        }
    }

    /// The images with these indices, in this order, as floats in [0, 1].
    ///
    /// # Panics
    ///
    /// If there is no image of some index.
    pub fn batch(&self, indices: &[usize]) -> Batch {
        let mut pixels = Vec::with_capacity(indices.len() * self.image_len());
        for index in indices {
            pixels.extend(
                self.image(*index)
                    .iter()
                    .map(|value| f32::from(*value) / 255.0),
            );
        }
        let labels = indices
            .iter()
            .map(|index| u32::from(self.labels[*index]))
            .collect();
        Batch {
            pixels,
            labels,
            height: self.size.0,
            width: self.size.1,
        }
    }

    /// The indices of the images that are not of `class`.
    pub fn not_of_class(&self, class: u32) -> Vec<usize> {
        (0..self.len())
            .filter(|index| u32::from(self.labels[*index]) != class)
            .collect()
    }

    /// The mean color, each channel in [0, 1]; zero where there is no image.
    pub fn mean_color(&self) -> [f32; CHANNELS] {
        let plane = self.size.0 * self.size.1;
        let mut sums = [0_u64; CHANNELS];
        if self.is_empty() || plane == 0 {
            return [0.0; CHANNELS];
        }
        for (index, values) in self.pixels.chunks_exact(plane).enumerate() {
            sums[index % CHANNELS] += values.iter().map(|value| u64::from(*value)).sum::<u64>();
        }
        sums.map(|sum| (sum as f64 / (self.len() * plane) as f64 / 255.0) as f32)
    }

    fn image_len(&self) -> usize {
        CHANNELS * self.size.0 * self.size.1
    }
}

impl fmt::Debug for Images {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Images({} of 3 × {} × {})",
            self.len(),
            self.size.0,
            self.size.1
        )
    }
}

/// A mini-batch on the host, before it becomes tensors: what augmentation and poisoning change.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    /// Pixels in [0, 1], `(B, 3, height, width)`; stamped triggers may leave the interval.
    pub pixels: Vec<f32>,
    /// Classes, `(B,)`.
    pub labels: Vec<u32>,
    /// Rows of an image.
    pub height: usize,
    /// Columns of an image.
    pub width: usize,
}

impl Batch {
    /// How many images there are.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// Height and width in pixels.
    pub fn size(&self) -> (usize, usize) {
        (self.height, self.width)
    }

    /// The pixels of one image, `(3, height, width)`.
    ///
    /// # Panics
    ///
    /// If there is no image `index`.
    pub fn image_mut(&mut self, index: usize) -> &mut [f32] {
        let len = CHANNELS * self.height * self.width;
        &mut self.pixels[index * len..][..len]
    }

    /// Images `(B, 3, H, W)` and labels `(B,)` on a device.
    ///
    /// # Errors
    ///
    /// [`Error::Tensor`] if the device has no room.
    ///
    /// # Examples
    ///
    /// ```
    /// use candle::Device;
    ///
    /// let data = mesa_datasets::synthetic(0, 20, 10);
    /// let (images, labels) = data.train.batch(&[3, 1, 4]).into_tensors(&Device::Cpu)?;
    /// assert_eq!(images.dims(), [3, 3, 32, 32]);
    /// assert_eq!(labels.dims(), [3]);
    /// # Ok::<(), mesa_datasets::Error>(())
    /// ```
    pub fn into_tensors(self, device: &Device) -> Result<(Tensor, Tensor)> {
        let count = self.labels.len();
        let shape = (count, CHANNELS, self.height, self.width);
        let images = Tensor::from_vec(self.pixels, shape, device)?;
        let labels = Tensor::from_vec(self.labels, count, device)?;
        Ok((images, labels))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbered(count: u8) -> Images {
        let pixels = (0..count).flat_map(|value| [value; 12]).collect();
        Images::new(pixels, (0..count).collect(), (2, 2)).unwrap()
    }

    #[test]
    fn refuses_pixels_that_do_not_match_the_labels() {
        let refused = Images::new(vec![0; 13], vec![0], (2, 2));
        assert!(matches!(
            refused,
            Err(Error::PixelCount {
                expected: 12,
                found: 13
            })
        ));
    }

    #[test]
    fn a_batch_keeps_the_order_of_its_indices() {
        let batch = numbered(10).batch(&[9, 0, 4, 4]);
        assert_eq!(batch.labels, [9, 0, 4, 4]);
        assert_eq!(batch.pixels[0].to_bits(), (9.0_f32 / 255.0).to_bits());
        assert_eq!(batch.pixels[12..24], [0.0; 12]);
        assert_eq!(batch.pixels[24..36], batch.pixels[36..48]);
    }

    #[test]
    fn selected_images_keep_their_labels() {
        let chosen = numbered(10).select(&[7, 2]);
        assert_eq!(chosen.labels(), [7, 2]);
        assert_eq!(chosen.image(1), [2; 12]);
        assert_eq!(chosen.not_of_class(7), [1]);
    }

    #[test]
    fn the_mean_color_is_per_channel() {
        let pixels = [[0_u8; 4], [51; 4], [255; 4]].concat();
        let images = Images::new(pixels, vec![0], (2, 2)).unwrap();
        let [red, green, blue] = images.mean_color();
        assert!(red.abs() < 1e-6 && (green - 0.2).abs() < 1e-6 && (blue - 1.0).abs() < 1e-6);
    }
}
