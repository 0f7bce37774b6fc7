//! Triggers from files: a picture whose transparency says which pixels belong to it, or a tensor.

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};

use candle::{DType, Device, Tensor};
use sha2::{Digest, Sha256};

use crate::dataset::hex;
use crate::{CHANNELS, Error, Result, Trigger, TriggerFileError};

/// The name of the tensor that says which pixels belong to the trigger.
const MASK: &str = "mask";

/// What a file of tensors has to hold.
const ONE: &str = "one tensor (3, height, width) of f32 in [0, 1], and perhaps `mask`";

/// Digits of a file's digest in the name of its trigger.
const DIGITS: usize = 8;

/// A file that holds a trigger, read once: its name and its pixels are of the same bytes.
///
/// - Of a picture (feature `images`) those pixels belong to the trigger whose alpha is above one
///   half; under the others images stay as they are.
/// - Of a safetensors file it is the tensor `(3, height, width)` or `(1, 3, height, width)` of any
///   name, f32 in [0, 1], where a second one, `mask`, `(height, width)`, is above one half.
#[derive(Clone)]
pub struct TriggerFile {
    path: PathBuf,
    bytes: Vec<u8>,
}

impl fmt::Debug for TriggerFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "TriggerFile({}, {} bytes)",
            self.path.display(),
            self.bytes.len()
        )
    }
}

impl TriggerFile {
    /// Reads a `.png`, `.jpg`, `.jpeg` or `.safetensors` file.
    ///
    /// # Errors
    ///
    /// [`Error::Read`] for a file that cannot be read.
    pub fn read(path: &Path) -> Result<Self> {
        let bytes = fs_err::read(path).map_err(|source| Error::Read {
            path: path.to_owned(),
            source,
        })?;
        Ok(Self {
            path: path.to_owned(),
            bytes,
        })
    }

    /// What the trigger is called in records, fit for names of folders and lists: the file's name
    /// without its ending, and the first eight digits of the file's SHA-256.
    pub fn name(&self) -> String {
        let stem = self.path.file_stem().unwrap_or_default().to_string_lossy();
        let kept = |letter: char| letter.is_alphanumeric() || matches!(letter, '-' | '_' | '.');
        let stem: String = stem
            .chars()
            .map(|c| if kept(c) { c } else { '-' })
            .collect();
        format!("{stem}-{}", &hex(&Sha256::digest(&self.bytes))[..DIGITS])
    }

    /// The trigger, of any size.
    ///
    /// # Errors
    ///
    /// [`Error::TriggerFile`] names the file and what is wrong with it.
    pub fn trigger(&self) -> Result<Trigger> {
        self.decode(None)
    }

    /// The trigger, a picture being resized to `size` (height, width) if it has another.
    ///
    /// # Errors
    ///
    /// As [`TriggerFile::trigger`]; [`Error::TriggerFile`] for a tensor of another size, too.
    pub fn trigger_of_size(&self, size: (usize, usize)) -> Result<Trigger> {
        self.decode(Some(size))
    }

    fn decode(&self, size: Option<(usize, usize)>) -> Result<Trigger> {
        let ending = self.path.extension().unwrap_or_default();
        match ending.to_ascii_lowercase().to_str() {
            Some("safetensors") => self.tensor(size),
            #[cfg(feature = "images")]
            Some("png" | "jpg" | "jpeg") => self.picture(size),
            _ => Err(TriggerFileError::Format {
                path: self.path.clone(),
                formats: if cfg!(feature = "images") {
                    ".png, .jpg, .jpeg or .safetensors"
                } else {
                    ".safetensors (this build reads no pictures)"
                },
            }
            .into()),
        }
    }

    #[cfg(feature = "images")]
    fn picture(&self, size: Option<(usize, usize)>) -> Result<Trigger> {
        use crate::decode::{NotDecoded, decode};
        use crate::trigger::LONGEST_SIDE;

        let longest = LONGEST_SIDE.into();
        let image = decode(&self.bytes, longest).map_err(|refused| match refused {
            NotDecoded::TooLarge { width, height } => TriggerFileError::TooLarge {
                path: self.path.clone(),
                width,
                height,
                most: longest,
            },
            NotDecoded::Broken(source) => TriggerFileError::Image {
                path: self.path.clone(),
                source,
            },
        })?;
        let mut image = image.into_rgba8();
        if let Some((height, width)) = size {
            let (height, width) = (height as u32, width as u32);
            let found = image.dimensions();
            if found != (width, height) {
                tracing::info!(
                    "{}: resized from {}×{} to {width}×{height}",
                    self.path.display(),
                    found.0,
                    found.1
                );
                image = resized(image, width, height);
            }
        }
        let (width, height) = image.dimensions();
        // Reserved at once: of a flattened iterator nothing knows the length.
        let mut pixels = Vec::with_capacity(CHANNELS * image.pixels().len());
        for channel in 0..CHANNELS {
            let values = image.pixels().map(|pixel| pixel.0[channel]);
            pixels.extend(values.map(|value| f32::from(value) / 255.0));
        }
        let trigger = Trigger::new(pixels, (height as usize, width as usize))?;
        self.masked(
            trigger,
            image.pixels().map(|pixel| pixel.0[3] > 127).collect(),
        )
    }

    fn tensor(&self, size: Option<(usize, usize)>) -> Result<Trigger> {
        let tensors = candle::safetensors::load_buffer(&self.bytes, &Device::Cpu);
        let mut tensors: HashMap<String, Tensor> =
            tensors.map_err(|error| TriggerFileError::Tensors {
                path: self.path.clone(),
                source: error.into(),
            })?;
        let mask = tensors.remove(MASK);
        let shapes = || {
            let shapes = tensors
                .values()
                .map(|t| format!("{:?} {:?}", t.dtype(), t.dims()));
            format!("[{}]", shapes.collect::<Vec<_>>().join(", "))
        };
        let mut rest = tensors.values();
        let (Some(tensor), None) = (rest.next(), rest.next()) else {
            return Err(self.wrong(ONE, shapes()));
        };
        let ([CHANNELS, height, width] | [1, CHANNELS, height, width]) = *tensor.dims() else {
            return Err(self.wrong(ONE, shapes()));
        };
        if tensor.dtype() != DType::F32 {
            return Err(self.wrong(ONE, shapes()));
        }
        if size.is_some_and(|size| size != (height, width)) {
            return Err(self.wrong(
                "a pattern of the images' size (pictures are resized, tensors are not)",
                format!("{height} × {width}"),
            ));
        }
        let pixels = tensor.flatten_all()?.to_vec1::<f32>()?;
        if let Some(value) = pixels.iter().find(|value| !(0.0..=1.0).contains(*value)) {
            return Err(self.wrong("values in [0, 1]", value.to_string()));
        }
        let trigger = Trigger::new(pixels, (height, width))?;
        let Some(mask) = mask else {
            return Ok(trigger);
        };
        if mask.dims() != [height, width] {
            let found = format!("{:?}", mask.dims());
            return Err(self.wrong("a mask (height, width) as large as the trigger", found));
        }
        let mask = mask.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
        self.masked(trigger, mask.into_iter().map(|value| value > 0.5).collect())
    }

    fn masked(&self, trigger: Trigger, mask: Vec<bool>) -> Result<Trigger> {
        if !mask.contains(&true) {
            let nothing = "a trigger that is transparent everywhere".to_owned();
            return Err(self.wrong("a pixel that belongs to the trigger", nothing));
        }
        trigger.with_mask(mask)
    }

    fn wrong(&self, expected: &'static str, found: String) -> Error {
        TriggerFileError::Content {
            path: self.path.clone(),
            expected,
            found,
        }
        .into()
    }
}

/// A picture in another size. What transparent pixels would look like takes no part: colors are
/// weighed by their alpha.
#[cfg(feature = "images")]
fn resized(mut image: image::RgbaImage, width: u32, height: u32) -> image::RgbaImage {
    use image::imageops::{FilterType, resize};

    for image::Rgba([colors @ .., alpha]) in image.pixels_mut() {
        for color in colors {
            *color = ((u32::from(*color) * u32::from(*alpha) + 127) / 255) as u8;
        }
    }
    let mut image = resize(&image, width, height, FilterType::CatmullRom);
    for image::Rgba([colors @ .., alpha]) in image.pixels_mut() {
        let alpha = u32::from(*alpha).max(1);
        for color in colors {
            *color = ((u32::from(*color) * 255 + alpha / 2) / alpha).min(255) as u8;
        }
    }
    image
}

#[cfg(test)]
#[cfg(feature = "images")]
mod tests {
    use std::collections::HashMap;

    use image::{Rgba, RgbaImage};
    use tempfile::TempDir;

    use super::*;

    #[derive(Debug)]
    struct Named {
        name: String,
        trigger: Trigger,
    }

    fn load(path: &Path) -> Result<Named> {
        let file = TriggerFile::read(path)?;
        Ok(Named {
            name: file.name(),
            trigger: file.trigger()?,
        })
    }

    fn load_of_size(path: &Path, size: (usize, usize)) -> Result<Trigger> {
        TriggerFile::read(path)?.trigger_of_size(size)
    }

    /// Two by three pixels: red, the last two of them transparent.
    fn picture(folder: &TempDir, transparent: u8) -> PathBuf {
        let path = folder.path().join("my sticker:1.png");
        let alpha = |x: u32| if x > 0 { transparent } else { 255 };
        let pixel = |x, y| Rgba([255, y as u8, 51, alpha(x)]);
        RgbaImage::from_fn(3, 2, pixel).save(&path).unwrap();
        path
    }

    fn tensors(folder: &TempDir, tensors: &[(&str, Tensor)]) -> PathBuf {
        let path = folder.path().join("t.SafeTensors");
        let tensors: HashMap<&str, Tensor> = tensors.iter().cloned().collect();
        candle::safetensors::save(&tensors, &path).unwrap();
        path
    }

    fn tensor(value: f32, shape: &[usize]) -> Tensor {
        Tensor::full(value, shape, &Device::Cpu).unwrap()
    }

    #[test]
    fn of_a_picture_what_is_opaque_belongs_to_the_trigger() {
        let folder = TempDir::new().unwrap();
        let named = load(&picture(&folder, 127)).unwrap();
        let trigger = &named.trigger;
        assert_eq!(trigger.size(), (2, 3));
        assert_eq!(trigger.mask(), Some(&[true, false, false].repeat(2)[..]));
        let value = |channel: usize, at: usize| trigger.pixels()[channel * 6 + at];
        let bytes =
            [value(0, 0), value(1, 3), value(2, 5)].map(|value| (value * 255.0).round() as u8);
        assert_eq!(bytes, [255, 1, 51]);
        let digits = named.name.strip_prefix("my-sticker-1-").unwrap();
        assert!(digits.len() == 8 && digits.chars().all(|digit| digit.is_ascii_hexdigit()));
        // Half and more is opaque, and then no mask is needed.
        assert_eq!(load(&picture(&folder, 128)).unwrap().trigger.mask(), None);
        let other = load(&picture(&folder, 129)).unwrap().name;
        assert_ne!(other, named.name);
    }

    #[test]
    fn a_picture_takes_the_size_that_is_asked_for() {
        let folder = TempDir::new().unwrap();
        let path = picture(&folder, 255);
        let trigger = load_of_size(&path, (32, 30)).unwrap();
        assert_eq!(trigger.size(), (32, 30));
        assert!(
            trigger.pixels()[..960]
                .iter()
                .all(|value| (value - 1.0).abs() < 0.01)
        );
    }

    #[test]
    fn the_color_of_transparent_pixels_takes_no_part_in_resizing() {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("half.png");
        let pixel = |x, _| {
            if x < 31 {
                Rgba([255, 0, 51, 255])
            } else {
                Rgba([0, 255, 255, 0])
            }
        };
        RgbaImage::from_fn(63, 63, pixel).save(&path).unwrap();
        let trigger = load_of_size(&path, (32, 32)).unwrap();
        let plane = 32 * 32;
        let mask = trigger.mask().unwrap();
        for (at, _) in mask.iter().enumerate().filter(|(_, kept)| **kept) {
            let color = [0, 1, 2].map(|channel| trigger.pixels()[channel * plane + at]);
            for (value, expected) in color.into_iter().zip([1.0, 0.0, 0.2]) {
                assert!((value - expected).abs() < 0.01, "{at}: {color:?}");
            }
        }
        assert_eq!(mask.iter().filter(|kept| **kept).count() % 32, 0);
    }

    #[test]
    fn a_tensor_is_a_trigger_with_or_without_a_mask() {
        let folder = TempDir::new().unwrap();
        let path = tensors(&folder, &[("x", tensor(0.25, &[1, 3, 4, 5]))]);
        let trigger = load(&path).unwrap().trigger;
        assert_eq!((trigger.size(), trigger.mask()), ((4, 5), None));
        let mask = Tensor::new(&[[1_f32, 0.0], [0.0, 1.0]], &Device::Cpu).unwrap();
        let path = tensors(&folder, &[("x", tensor(0.25, &[3, 2, 2])), ("mask", mask)]);
        let trigger = load(&path).unwrap().trigger;
        assert_eq!(trigger.mask(), Some(&[true, false, false, true][..]));
        let other = load_of_size(&path, (32, 32)).unwrap_err().to_string();
        assert!(other.contains("tensors are not), found 2 × 2"), "{other}");
    }

    #[test]
    fn what_is_no_trigger_is_named() {
        let folder = TempDir::new().unwrap();
        let good = tensor(0.5, &[3, 2, 2]);
        for (content, expected) in [
            (
                vec![("x", tensor(1.5, &[3, 2, 2]))],
                "expected values in [0, 1], found 1.5",
            ),
            (vec![("x", tensor(f32::NAN, &[3, 2, 2]))], "found NaN"),
            (
                vec![("x", tensor(0.5, &[2, 2]))],
                "expected one tensor (3, height, width)",
            ),
            (
                vec![("x", tensor(0.5, &[4, 3, 2, 2]))],
                "[F32 [4, 3, 2, 2]]",
            ),
            (
                vec![("x", good.clone()), ("y", good.clone())],
                "expected one tensor",
            ),
            (vec![("mask", tensor(1.0, &[2, 2]))], "expected one tensor"),
            (vec![("x", good.to_dtype(DType::F64).unwrap())], "F64"),
            (
                vec![("x", good.clone()), ("mask", tensor(1.0, &[2, 3]))],
                "a mask (height, width) as large as the trigger",
            ),
            (
                vec![("x", good), ("mask", tensor(0.5, &[2, 2]))],
                "transparent everywhere",
            ),
        ] {
            let message = load(&tensors(&folder, &content)).unwrap_err().to_string();
            assert!(
                message.contains("t.SafeTensors") && message.contains(expected),
                "{message}"
            );
        }
        let path = picture(&folder, 0);
        fs_err::write(&path, &fs_err::read(&path).unwrap()[..50]).unwrap();
        let message = load(&path).unwrap_err().to_string();
        assert!(
            message.contains("sticker:1.png is damaged or no image"),
            "{message}"
        );
        for name in ["a.gif", "a"] {
            let path = folder.path().join(name);
            fs_err::write(&path, "").unwrap();
            let message = load(&path).unwrap_err().to_string();
            assert!(message.contains("a file that ends in .png"), "{message}");
        }
        let path = folder.path().join("cut.safetensors");
        fs_err::write(&path, [255; 20]).unwrap();
        let message = load(&path).unwrap_err().to_string();
        assert!(
            message.contains("is cut off or not in safetensors format"),
            "{message}"
        );
    }
}
