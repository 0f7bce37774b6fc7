//! Decodes PNG and JPEG files.

use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageReader, Limits};

use crate::BoxError;

/// The widest and highest image of a data set that is decoded, in pixels: more than a camera's.
pub(crate) const LONGEST_SIDE: u32 = 12_288;

/// What the decoder may allocate, in bytes: some 89 million pixels of three channels of eight bits.
const LARGEST: u64 = 256 << 20;

/// Why a picture was not decoded.
#[derive(Debug)]
pub(crate) enum NotDecoded {
    /// It is wider or higher than what is decoded.
    TooLarge { width: u32, height: u32 },
    /// What the decoder said.
    Broken(BoxError),
}

impl<E: Into<BoxError>> From<E> for NotDecoded {
    fn from(error: E) -> Self {
        Self::Broken(error.into())
    }
}

/// Decodes a PNG or JPEG file by its contents, upright, of at most so many pixels a side.
///
/// The decoder allocates no more than so small a file could hold, nor more than [`LARGEST`], 256
/// MiB. Turning a picture upright or converting it to eight bits holds it twice for a moment: 512
/// MiB at most.
pub(crate) fn decode(bytes: &[u8], longest_side: u32) -> Result<DynamicImage, NotDecoded> {
    // Deflate, which compresses best of the two formats' methods, makes at most 1,032 of a byte, and a pixel
    // of a palette of two colors, which is a bit there, becomes four bytes where one is transparent.
    let warranted = ((1 << 20) + 32 * 1032 * bytes.len() as u64).min(LARGEST);
    let mut limits = Limits::default();
    limits.max_alloc = Some(warranted);
    let mut reader = ImageReader::new(std::io::Cursor::new(bytes)).with_guessed_format()?;
    reader.limits(limits);
    let mut decoder = reader.into_decoder()?;
    let (width, height) = decoder.dimensions();
    if width.max(height) > longest_side {
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
        assert!(decode(&claiming(32, 32), LONGEST_SIDE).is_ok());
        let Err(NotDecoded::Broken(error)) = decode(&claiming(4000, 4000), LONGEST_SIDE) else {
            panic!("it was decoded")
        };
        let message = error.to_string();
        assert!(message.contains("claims 48000000 bytes"), "{message}");
    }

    /// The least that a million pixels take: some 2 kB.
    #[test]
    fn a_large_picture_of_two_colors_is_decoded() {
        let mut bytes = b"\x89PNG\r\n\x1a\n".to_vec();
        let mut chunk = |kind: &[u8; 4], data: &[u8]| {
            bytes.extend((data.len() as u32).to_be_bytes());
            let start = bytes.len();
            bytes.extend(kind);
            bytes.extend(data);
            let checksum = crc32(&bytes[start..]);
            bytes.extend(checksum.to_be_bytes());
        };
        let sides = 1024_u32.to_be_bytes();
        // One bit a pixel, of a palette.
        chunk(b"IHDR", &[&sides[..], &sides, &[1, 3, 0, 0, 0]].concat());
        chunk(b"PLTE", &[10, 20, 30, 200, 100, 0]);
        chunk(b"tRNS", &[255, 0]);
        let mut packed = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::best());
        std::io::Write::write_all(&mut packed, &vec![0; 1024 * 129]).unwrap();
        chunk(b"IDAT", &packed.finish().unwrap());
        chunk(b"IEND", &[]);
        assert!(bytes.len() < 1000, "{}", bytes.len());
        let image = decode(&bytes, LONGEST_SIDE).unwrap().into_rgb8();
        assert_eq!(
            (image.dimensions(), image[(1023, 7)].0),
            ((1024, 1024), [10, 20, 30])
        );
    }

    /// A camera held sideways says so, and what is decoded stands upright.
    #[test]
    fn a_turned_picture_is_turned_back() {
        let mut bytes = Vec::new();
        let mut image = RgbImage::from_pixel(2, 1, Rgb([0, 0, 0]));
        image[(0, 0)] = Rgb([250, 250, 250]);
        let file = &mut std::io::Cursor::new(&mut bytes);
        image.write_to(file, ImageFormat::Png).unwrap();
        assert_eq!(decode(&bytes, LONGEST_SIDE).unwrap().into_rgb8(), image);
        // Exif: little-endian, one entry, orientation (0x0112), one short: 6, to be turned clockwise.
        let exif = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0";
        let mut chunk = (exif.len() as u32).to_be_bytes().to_vec();
        chunk.extend(b"eXIf");
        chunk.extend(exif);
        chunk.extend(crc32(&chunk[4..]).to_be_bytes());
        // Behind the header.
        bytes.splice(33..33, chunk);
        let upright = decode(&bytes, LONGEST_SIDE).unwrap().into_rgb8();
        assert_eq!(upright.dimensions(), (1, 2));
        assert_eq!((upright[(0, 0)].0[0], upright[(0, 1)].0[0]), (250, 0));
    }

    #[test]
    fn a_picture_of_long_sides_is_refused_by_its_header() {
        for (width, height) in [(12_289, 32), (32, 12_289), (60_000, 60_000)] {
            let refused = decode(&claiming(width, height), LONGEST_SIDE).unwrap_err();
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
