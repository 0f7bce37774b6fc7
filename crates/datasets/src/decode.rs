//! Decodes PNG and JPEG files.

use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageReader, Limits};

use crate::BoxError;

/// The largest decoded image that is accepted, in bytes: 8,192 × 8,192 pixels.
const LARGEST: u64 = 3 << 26;

/// Decodes a PNG or JPEG file by its contents, upright.
///
/// Nothing is allocated beyond what so small a file could hold, nor beyond [`LARGEST`].
pub(crate) fn decode(bytes: &[u8]) -> Result<DynamicImage, BoxError> {
    // Deflate, which compresses best of the two formats' methods, makes at most 1,032 of a byte.
    let warranted = ((1 << 20) + 1032 * bytes.len() as u64).min(LARGEST);
    let mut limits = Limits::default();
    limits.max_alloc = Some(warranted);
    let mut reader = ImageReader::new(std::io::Cursor::new(bytes)).with_guessed_format()?;
    reader.limits(limits);
    let mut decoder = reader.into_decoder()?;
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

    #[test]
    fn a_header_that_promises_more_than_the_file_is_refused() {
        let mut bytes = Vec::new();
        let image = RgbImage::from_pixel(32, 32, Rgb([1, 2, 3]));
        image
            .write_to(&mut std::io::Cursor::new(&mut bytes), ImageFormat::Png)
            .unwrap();
        assert!(decode(&bytes).is_ok());
        // 8,000 × 8,000 pixels in the header, with its checksum.
        bytes[16..24].copy_from_slice(&[0, 0, 0x1f, 0x40, 0, 0, 0x1f, 0x40]);
        let checksum = crc32(&bytes[12..29]).to_be_bytes();
        bytes[29..33].copy_from_slice(&checksum);
        let message = decode(&bytes).unwrap_err().to_string();
        assert!(message.contains("claims 192000000 bytes"), "{message}");
    }

    fn crc32(bytes: &[u8]) -> u32 {
        !bytes.iter().fold(!0, |crc, byte| {
            (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
                (crc >> 1) ^ (0xedb8_8320 & 0_u32.wrapping_sub(crc & 1))
            })
        })
    }
}
