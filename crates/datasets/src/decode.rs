//! Decodes PNG and JPEG files.

use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageReader, Limits};

use crate::BoxError;

/// The widest and highest picture that is decoded, in pixels.
pub(crate) const LONGEST_SIDE: u32 = 4096;

/// What the decoder may allocate, in bytes: such a picture of four channels of sixteen bits.
const LARGEST: u64 = 8 * (LONGEST_SIDE as u64).pow(2);

/// Why a picture was not decoded.
#[derive(Debug)]
pub(crate) enum NotDecoded {
    /// It is wider or higher than [`LONGEST_SIDE`].
    TooLarge { width: u32, height: u32 },
    /// What the decoder said.
    Broken(BoxError),
}

impl<E: Into<BoxError>> From<E> for NotDecoded {
    fn from(error: E) -> Self {
        Self::Broken(error.into())
    }
}

/// Decodes a PNG or JPEG file by its contents, upright.
///
/// The decoder allocates no more than so small a file could hold, nor more than [`LARGEST`], 128
/// MiB. Turning a picture upright or converting it to eight bits holds it twice for a moment: 256
/// MiB at most.
pub(crate) fn decode(bytes: &[u8]) -> Result<DynamicImage, NotDecoded> {
    // Deflate, which compresses best of the two formats' methods, makes at most 1,032 of a byte.
    let warranted = ((1 << 20) + 1032 * bytes.len() as u64).min(LARGEST);
    let mut limits = Limits::default();
    limits.max_alloc = Some(warranted);
    let mut reader = ImageReader::new(std::io::Cursor::new(bytes)).with_guessed_format()?;
    reader.limits(limits);
    let mut decoder = reader.into_decoder()?;
    let (width, height) = decoder.dimensions();
    if width.max(height) > LONGEST_SIDE {
        return Err(NotDecoded::TooLarge { width, height });
    }
    let claimed = decoder.total_bytes();
    if claimed > warranted {
        return Err(format!("it claims {claimed} bytes of pixels, more than it may have").into());
    }
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    let mut image = DynamicImage::from_decoder(decoder)?;
    image.apply_orientation(orientation);
    Ok(image)
}

#[cfg(test)]
mod tests {
    use image::{ImageFormat, Rgb, RgbImage};

    use super::*;

    /// A PNG file of 32×32 pixels whose header says another size.
    fn claiming(width: u32, height: u32) -> Vec<u8> {
        let mut bytes = Vec::new();
        let image = RgbImage::from_pixel(32, 32, Rgb([1, 2, 3]));
        image
            .write_to(&mut std::io::Cursor::new(&mut bytes), ImageFormat::Png)
            .unwrap();
        bytes[16..20].copy_from_slice(&width.to_be_bytes());
        bytes[20..24].copy_from_slice(&height.to_be_bytes());
        let checksum = crc32(&bytes[12..29]).to_be_bytes();
        bytes[29..33].copy_from_slice(&checksum);
        bytes
    }

    #[test]
    fn a_header_that_promises_more_than_the_file_is_refused() {
        assert!(decode(&claiming(32, 32)).is_ok());
        let Err(NotDecoded::Broken(error)) = decode(&claiming(4000, 4000)) else {
            panic!("it was decoded")
        };
        let message = error.to_string();
        assert!(message.contains("claims 48000000 bytes"), "{message}");
    }

    #[test]
    fn a_picture_of_long_sides_is_refused_by_its_header() {
        for (width, height) in [(4097, 32), (32, 4097), (60_000, 60_000)] {
            let refused = decode(&claiming(width, height)).unwrap_err();
            assert!(
                matches!(refused, NotDecoded::TooLarge { width: w, height: h }
                    if (w, h) == (width, height)),
                "{refused:?}"
            );
        }
    }

    fn crc32(bytes: &[u8]) -> u32 {
        !bytes.iter().fold(!0, |crc, byte| {
            (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
                (crc >> 1) ^ (0xedb8_8320 & 0_u32.wrapping_sub(crc & 1))
            })
        })
    }
}
