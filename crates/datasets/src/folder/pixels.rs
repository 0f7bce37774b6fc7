//! The files of a folder of classes as images of 32×32 pixels in eight bits.

use std::path::{Path, PathBuf};

use image::RgbImage;
use image::imageops::{FilterType, resize};
use rayon::prelude::*;

use crate::decode::{LONGEST_SIDE, NotDecoded, decode};
use crate::images::CHANNELS;
use crate::{Error, FolderError, Images, Result};

pub(super) const SIDE: usize = 32;
pub(super) const PLANE: usize = SIDE * SIDE;

/// How many images had another size, and one of those sizes.
#[derive(Default)]
pub(super) struct Resized {
    pub(super) count: usize,
    pub(super) of: usize,
    pub(super) example: Option<(u32, u32)>,
}

pub(super) fn decode_all(part: &[(PathBuf, u8)], resized: &mut Resized) -> Result<Images> {
    let decoded: Vec<Result<Decoded>> = part.par_iter().map(|(path, _)| shrunk(path)).collect();
    let mut pixels = Vec::with_capacity(part.len() * CHANNELS * PLANE);
    // In order, so that of several damaged images the same one is named each time.
    for image in decoded {
        let image = image?;
        pixels.extend(image.pixels);
        if let Some(size) = image.resized_from {
            resized.count += 1;
            resized.example.get_or_insert(size);
        }
    }
    resized.of += part.len();
    let labels = part.iter().map(|(_, label)| *label).collect();
    Images::new(pixels, labels, (SIDE, SIDE))
}

pub(super) struct Decoded {
    /// `(3, 32, 32)`.
    pub(super) pixels: Vec<u8>,
    /// Width and height, if they were others.
    pub(super) resized_from: Option<(u32, u32)>,
}

pub(super) fn shrunk(path: &Path) -> Result<Decoded> {
    let bytes = fs_err::read(path).map_err(|source| Error::Read {
        path: path.to_owned(),
        source,
    })?;
    let mut image = decode(&bytes, LONGEST_SIDE)
        .map_err(|refused| match refused {
            NotDecoded::TooLarge { width, height } => FolderError::TooLarge {
                path: path.to_owned(),
                width,
                height,
                most: LONGEST_SIDE,
            },
            NotDecoded::Broken(source) => FolderError::Image {
                path: path.to_owned(),
                source,
            },
        })?
        .into_rgb8();
    let side = SIDE as u32;
    let size = image.dimensions();
    let other = size != (side, side);
    if other {
        image = resize(&image, side, side, FilterType::CatmullRom);
    }
    Ok(Decoded {
        pixels: channel_first(&image),
        resized_from: other.then_some(size),
    })
}

fn channel_first(image: &RgbImage) -> Vec<u8> {
    let interleaved = image.as_raw();
    (0..CHANNELS)
        .flat_map(|channel| interleaved.iter().skip(channel).step_by(CHANNELS).copied())
        .collect()
}

#[cfg(test)]
mod tests {
    use image::Rgb;

    use super::*;

    #[test]
    fn pixels_are_channel_first_and_row_by_row() {
        let image = RgbImage::from_fn(32, 32, |x, y| Rgb([x as u8, y as u8, 9]));
        let pixels = channel_first(&image);
        assert_eq!(
            (pixels[5], pixels[PLANE + 5 * SIDE], pixels[2 * PLANE]),
            (5, 5, 9)
        );
    }
}
