//! Images of one's own: a folder with one folder of PNG and JPEG files for each class.
//!
//! Folders sorted by name are the classes 0, 1, …. Where the folder holds `train` and `test` (or
//! `val`), each with the folders of the classes, that is the split; else a sixth of each class,
//! CIFAR's share, is drawn for testing. Either way the images are in random order, for "the first
//! so many" has to be some of every class.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use image::RgbImage;
use image::imageops::{FilterType, resize};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use rayon::prelude::*;
use sha2::{Digest, Sha256};

use crate::batches::shuffled;
use crate::dataset::hex;
use crate::decode::{LONGEST_SIDE, NotDecoded, decode};
use crate::images::CHANNELS;
use crate::{Dataset, DatasetName, Error, FolderError, Images, Result, Source};

/// Seed of the split and of the order, noted with the source.
pub(crate) const SEED: u64 = 0;

/// Of so many images of a class one is for testing, as of CIFAR's 60,000.
const TEST_SHARE: usize = 6;

const SIDE: usize = 32;
const PLANE: usize = SIDE * SIDE;

/// Streams of the orders; a class's split draws from the stream of its label.
const TRAIN_ORDER: u64 = 256;
const TEST_ORDER: u64 = 257;

/// Loads a folder of classes: `DIR/<class>/*.png` (or `.jpg`, `.jpeg`, in any case), or the same
/// below `DIR/train` and `DIR/test` (or `DIR/val`).
///
/// Images become 32×32 pixels of eight bits in red, green and blue: other sizes are resized
/// (Catmull-Rom, to the square whatever their aspect), gray and 16-bit images converted,
/// transparency dropped, and cameras' orientation applied. How many were resized and how many
/// other files were passed over is told through `tracing`. The order and, where the folder does
/// not say it, the split depend on the names of the files and on a fixed seed alone.
///
/// # Errors
///
/// [`Error::Folder`] if there are fewer than two classes or more than 256, if a class cannot be
/// divided, or if an image is damaged or has a side of more than
/// 4,096 pixels; [`Error::Read`] if a folder or a file cannot be read.
pub fn load_folder(folder: &Path) -> Result<Dataset> {
    let given = given_split(folder)?;
    let is_given = given.is_some();
    let (listing, parts) = if let Some((train, test)) = given {
        together(Listing::of(&train)?, Listing::of(&test)?, &test)?
    } else {
        let listing = Listing::of(folder)?;
        let parts = divided(&listing)?;
        (listing, parts)
    };
    check_classes(folder, listing.classes.len())?;
    let [train, test] = parts;
    let mut resized = Resized::default();
    let train = decode_all(&ordered(&train, TRAIN_ORDER), &mut resized)?;
    let test = decode_all(&ordered(&test, TEST_ORDER), &mut resized)?;
    tell(folder, &listing, &resized);
    let mut digest = Sha256::new();
    for part in [&train, &test] {
        digest.update(part.labels());
        digest.update(part.pixels());
    }
    Ok(Dataset {
        name: DatasetName::Folder,
        train,
        test,
        class_names: listing
            .classes
            .into_iter()
            .map(|class| class.name)
            .collect(),
        digest: hex(&digest.finalize()),
        source: Source::Classes {
            folder: folder.to_owned(),
            split_seed: (!is_given).then_some(SEED),
        },
        is_official: false,
    })
}

/// Whether [`load_folder`] would find images of at least one class there.
pub(crate) fn is_folder_of_classes(folder: &Path) -> Result<bool> {
    Ok(given_split(folder)?.is_some() || holds_classes(folder)?)
}

/// The folders of training and of test images, if there are both.
fn given_split(folder: &Path) -> Result<Option<(PathBuf, PathBuf)>> {
    let train = folder.join("train");
    for name in ["test", "val"] {
        let test = folder.join(name);
        if train.is_dir() && test.is_dir() && holds_classes(&train)? && holds_classes(&test)? {
            return Ok(Some((train, test)));
        }
    }
    Ok(None)
}

fn holds_classes(folder: &Path) -> Result<bool> {
    if !folder.is_dir() {
        return Ok(false);
    }
    for entry in entries(folder)? {
        if !is_hidden(&entry) && entry.is_dir() && entries(&entry)?.iter().any(|f| is_image(f)) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// One class and its images, by name.
struct Class {
    name: String,
    folder: PathBuf,
    files: Vec<PathBuf>,
}

/// What a folder of classes holds.
struct Listing {
    /// By name; each has an image.
    classes: Vec<Class>,
    /// Files and folders that are no images.
    skipped: usize,
    /// Names of folders without images.
    without: Vec<String>,
}

impl Listing {
    fn of(folder: &Path) -> Result<Self> {
        let mut listing = Self {
            classes: Vec::new(),
            skipped: 0,
            without: Vec::new(),
        };
        for path in entries(folder)? {
            if is_hidden(&path) || !path.is_dir() {
                listing.skipped += 1;
                continue;
            }
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let name = name.into_owned();
            let inside = entries(&path)?;
            let count = inside.len();
            let files: Vec<PathBuf> = inside.into_iter().filter(|file| is_image(file)).collect();
            if files.is_empty() {
                listing.without.push(name);
                continue;
            }
            listing.skipped += count - files.len();
            listing.classes.push(Class {
                name,
                folder: path,
                files,
            });
        }
        Ok(listing)
    }
}

/// What is in a folder, by name.
fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let read = |source| Error::Read {
        path: folder.to_owned(),
        source,
    };
    let mut paths = Vec::new();
    for entry in fs_err::read_dir(folder).map_err(read)? {
        paths.push(entry.map_err(read)?.path());
    }
    paths.sort();
    Ok(paths)
}

fn is_hidden(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default();
    name.as_encoded_bytes().starts_with(b".")
}

fn is_image(path: &Path) -> bool {
    let known = |extension: &OsStr| {
        ["png", "jpg", "jpeg"]
            .iter()
            .any(|known| extension.eq_ignore_ascii_case(known))
    };
    !is_hidden(path) && path.extension().is_some_and(known) && path.is_file()
}

/// Files with their labels.
type Part = Vec<(PathBuf, u8)>;

/// The training and test images of a folder that has both; their classes are those of the first.
fn together(train: Listing, test: Listing, test_folder: &Path) -> Result<(Listing, [Part; 2])> {
    let mut tested = Part::new();
    for class in test.classes {
        let label = train
            .classes
            .iter()
            .position(|known| known.name == class.name);
        let label = label.ok_or_else(|| FolderError::UnknownClass {
            class: class.name,
            path: test_folder.to_owned(),
        })?;
        tested.extend(class.files.into_iter().map(|file| (file, label as u8)));
    }
    let trained = labeled(&train).collect();
    let listing = Listing {
        skipped: train.skipped + test.skipped,
        without: [train.without, test.without].concat(),
        classes: train.classes,
    };
    Ok((listing, [trained, tested]))
}

fn labeled(listing: &Listing) -> impl Iterator<Item = (PathBuf, u8)> {
    let classes = listing.classes.iter().enumerate();
    classes.flat_map(|(label, class)| {
        class
            .files
            .iter()
            .map(move |file| (file.clone(), label as u8))
    })
}

/// A sixth of each class for testing, at least one image; the rest is for training.
fn divided(listing: &Listing) -> Result<[Part; 2]> {
    let (mut train, mut test) = (Part::new(), Part::new());
    for (label, class) in listing.classes.iter().enumerate() {
        let len = class.files.len();
        if len < 2 {
            return Err(FolderError::OneImage {
                path: class.folder.clone(),
            }
            .into());
        }
        let tested = (len / TEST_SHARE).max(1);
        // A class that joins or leaves does not draw the others' split anew.
        let order = shuffled(&mut stream(label as u64), len);
        for (rank, index) in order.into_iter().enumerate() {
            let part = if rank < tested { &mut test } else { &mut train };
            part.push((class.files[index].clone(), label as u8));
        }
    }
    Ok([train, test])
}

fn stream(number: u64) -> ChaCha8Rng {
    let mut rng = ChaCha8Rng::seed_from_u64(SEED);
    rng.set_stream(number);
    rng
}

fn check_classes(folder: &Path, found: usize) -> Result<()> {
    let path = folder.to_owned();
    match found {
        0 | 1 => Err(FolderError::TooFewClasses { path, found }.into()),
        2..=256 => Ok(()),
        _ => Err(FolderError::TooManyClasses { path, found }.into()),
    }
}

fn ordered(part: &[(PathBuf, u8)], order: u64) -> Part {
    let indices = shuffled(&mut stream(order), part.len());
    indices
        .into_iter()
        .map(|index| part[index].clone())
        .collect()
}

/// How many images had another size, and one of those sizes.
#[derive(Default)]
struct Resized {
    count: usize,
    of: usize,
    example: Option<(u32, u32)>,
}

fn decode_all(part: &[(PathBuf, u8)], resized: &mut Resized) -> Result<Images> {
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

struct Decoded {
    /// `(3, 32, 32)`.
    pixels: Vec<u8>,
    /// Width and height, if they were others.
    resized_from: Option<(u32, u32)>,
}

fn shrunk(path: &Path) -> Result<Decoded> {
    let bytes = fs_err::read(path).map_err(|source| Error::Read {
        path: path.to_owned(),
        source,
    })?;
    let mut image = decode(&bytes)
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

/// Says once what was changed and what was left out.
fn tell(folder: &Path, listing: &Listing, resized: &Resized) {
    let folder = folder.display();
    if let Some((width, height)) = resized.example {
        tracing::info!(
            "{folder}: {} of {} images were resized to {SIDE}×{SIDE} (one was {width}×{height})",
            resized.count,
            resized.of
        );
    }
    if listing.skipped > 0 {
        let skipped = listing.skipped;
        tracing::info!("{folder}: {skipped} files that are no images, or hidden, were passed over");
    }
    if !listing.without.is_empty() {
        let names = listing.without.join(", ");
        tracing::warn!(
            "{folder}: no images in {}, which are no classes",
            names.escape_debug()
        );
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use image::{DynamicImage, ImageFormat, Luma, Rgb, Rgba};
    use proptest::prelude::*;
    use tempfile::TempDir;

    use super::*;

    /// A class of `count` PNG files, each of its own color.
    fn class(folder: &Path, name: &str, count: u8) {
        fs_err::create_dir_all(folder.join(name)).unwrap();
        for number in 0..count {
            let color = Rgb([name.as_bytes()[0], number, 7]);
            let path = folder.join(name).join(format!("{number:03}.png"));
            RgbImage::from_pixel(32, 32, color).save(path).unwrap();
        }
    }

    fn refused(folder: &Path) -> FolderError {
        match load_folder(folder).unwrap_err() {
            Error::Folder(error) => error,
            other => panic!("{other}"),
        }
    }

    /// The red and green of every image: which class and file it was.
    fn colors(images: &Images) -> BTreeSet<(u8, u8)> {
        let colors = (0..images.len()).map(|at| (images.image(at)[0], images.image(at)[PLANE]));
        colors.collect()
    }

    #[test]
    fn sorted_folders_are_the_classes_and_a_sixth_of_each_is_for_testing() {
        let root = TempDir::new().unwrap();
        class(root.path(), "cat", 13);
        class(root.path(), "ant", 12);
        class(root.path(), "bee", 2);
        let data = load_folder(root.path()).unwrap();
        assert_eq!(data.class_names, ["ant", "bee", "cat"]);
        assert_eq!((data.train.len(), data.test.len()), (22, 5));
        for (label, tested) in [(0, 2), (1, 1), (2, 2)] {
            let others = data.test.not_of_class(label).len();
            assert_eq!(data.test.len() - others, tested, "{label}");
        }
        for part in [&data.train, &data.test] {
            for at in 0..part.len() {
                assert_eq!(part.image(at)[0], b"abc"[usize::from(part.labels()[at])]);
            }
        }
        let (train, test) = (colors(&data.train), colors(&data.test));
        assert_eq!(train.len() + test.len(), 27);
        assert!(train.is_disjoint(&test));
        assert_eq!(data.digest, load_folder(root.path()).unwrap().digest);
        // The first few images are of several classes.
        let first: BTreeSet<u8> = data.train.labels()[..8].iter().copied().collect();
        assert!(first.len() > 1);
    }

    #[test]
    fn train_and_test_folders_are_the_split() {
        for test in ["test", "val"] {
            let root = TempDir::new().unwrap();
            class(&root.path().join("train"), "ant", 3);
            class(&root.path().join("train"), "bee", 4);
            class(&root.path().join(test), "bee", 2);
            let data = load_folder(root.path()).unwrap();
            assert_eq!((data.train.len(), data.test.len()), (7, 2));
            assert_eq!(data.test.labels(), [1, 1]);
            assert!(
                data.source
                    .to_string()
                    .ends_with("(its own train and test)")
            );
            class(&root.path().join(test), "fly", 1);
            let message = refused(root.path()).to_string();
            assert!(
                message.contains("\"fly\"") && message.contains(test),
                "{message}"
            );
        }
    }

    #[test]
    fn classes_may_be_called_train_and_test() {
        let root = TempDir::new().unwrap();
        class(root.path(), "train", 2);
        class(root.path(), "test", 3);
        let data = load_folder(root.path()).unwrap();
        assert_eq!(data.class_names, ["test", "train"]);
    }

    #[test]
    fn every_kind_of_image_becomes_32_by_32_in_eight_bits() {
        let root = TempDir::new().unwrap();
        let folder = root.path().join("a");
        class(root.path(), "a", 1);
        class(root.path(), "b", 2);
        let save = |image: DynamicImage, name: &str, format| {
            image.save_with_format(folder.join(name), format).unwrap();
        };
        let gray = image::ImageBuffer::from_pixel(32, 32, Luma([0x4040_u16]));
        save(gray.into(), "gray.PNG", ImageFormat::Png);
        let clear = image::ImageBuffer::from_pixel(20, 50, Rgba([64_u8, 64, 64, 0]));
        save(clear.into(), "clear.png", ImageFormat::Png);
        let photo = RgbImage::from_pixel(100, 7, Rgb([64, 64, 64]));
        save(photo.into(), "photo.JPeG", ImageFormat::Jpeg);
        // A name says nothing about the format.
        let other = RgbImage::from_pixel(32, 32, Rgb([64, 64, 64]));
        save(other.into(), "misnamed.jpg", ImageFormat::Png);
        fs_err::remove_file(folder.join("000.png")).unwrap();
        for name in ["gray.PNG", "clear.png", "photo.JPeG", "misnamed.jpg"] {
            let image = shrunk(&folder.join(name)).unwrap();
            assert_eq!(image.pixels.len(), CHANNELS * PLANE);
            assert!(
                image.pixels.iter().all(|value| value.abs_diff(64) <= 1),
                "{name}"
            );
        }
        assert_eq!(
            shrunk(&folder.join("clear.png")).unwrap().resized_from,
            Some((20, 50))
        );
        assert_eq!(load_folder(root.path()).unwrap().train.len(), 3 + 1);
    }

    #[test]
    fn pixels_are_channel_first_and_row_by_row() {
        let image = RgbImage::from_fn(32, 32, |x, y| Rgb([x as u8, y as u8, 9]));
        let pixels = channel_first(&image);
        assert_eq!(
            (pixels[5], pixels[PLANE + 5 * SIDE], pixels[2 * PLANE]),
            (5, 5, 9)
        );
    }

    #[test]
    fn what_is_hidden_or_no_image_is_passed_over() {
        let root = TempDir::new().unwrap();
        class(root.path(), "a", 2);
        class(root.path(), "b", 2);
        let before = load_folder(root.path()).unwrap().digest;
        class(root.path(), ".git", 3);
        fs_err::create_dir(root.path().join("masks")).unwrap();
        for name in [
            "labels.csv",
            "a/.DS_Store",
            "a/._001.png",
            "b/notes.txt",
            "masks/x.tif",
        ] {
            fs_err::write(root.path().join(name), "no image").unwrap();
        }
        let listing = Listing::of(root.path()).unwrap();
        assert_eq!(
            (listing.skipped, listing.without),
            (5, vec!["masks".to_owned()])
        );
        assert_eq!(load_folder(root.path()).unwrap().digest, before);
    }

    #[test]
    fn a_damaged_image_is_named() {
        let root = TempDir::new().unwrap();
        class(root.path(), "a", 2);
        class(root.path(), "b", 2);
        let path = root.path().join("b/001.png");
        let bytes = fs_err::read(&path).unwrap();
        let mut flipped = bytes.clone();
        flipped[45] ^= 0xff;
        for damaged in [&bytes[..bytes.len() / 2], &flipped, b"GIF89a no", b""] {
            fs_err::write(&path, damaged).unwrap();
            let message = refused(root.path()).to_string();
            assert!(
                message.contains("001.png is damaged or no image"),
                "{message}"
            );
        }
    }

    #[test]
    fn an_image_that_is_too_large_is_named_with_what_to_do() {
        let root = TempDir::new().unwrap();
        class(root.path(), "a", 2);
        class(root.path(), "b", 2);
        let path = root.path().join("b/wide.png");
        RgbImage::new(4097, 2).save(&path).unwrap();
        let message = refused(root.path()).to_string();
        assert!(
            message.ends_with(
                "wide.png has 4097 × 2 pixels, at most 4096 × 4096 are read; make it smaller"
            ),
            "{message}"
        );
        RgbImage::new(4096, 2).save(&path).unwrap();
        assert!(load_folder(root.path()).is_ok());
    }

    #[test]
    fn too_little_is_refused_with_what_is_needed() {
        let root = TempDir::new().unwrap();
        class(root.path(), "a", 2);
        let refusal = refused(root.path());
        assert!(matches!(
            refusal,
            FolderError::TooFewClasses { found: 1, .. }
        ));
        assert!(
            refusal.to_string().contains("one folder of .png"),
            "{refusal}"
        );
        class(root.path(), "b", 1);
        let refusal = refused(root.path());
        assert!(matches!(&refusal, FolderError::OneImage { path } if path.ends_with("b")));
        assert!(matches!(
            check_classes(root.path(), 257),
            Err(Error::Folder(FolderError::TooManyClasses {
                found: 257,
                ..
            }))
        ));
    }

    proptest! {
        #[test]
        fn a_split_uses_every_image_once_and_some_of_each_class(
            sizes in proptest::collection::vec(2_usize..40, 2..6)
        ) {
            let class = |(number, size): (usize, &usize)| Class {
                name: number.to_string(),
                folder: PathBuf::new(),
                files: (0..*size).map(|file| PathBuf::from(format!("{number}/{file}"))).collect(),
            };
            let classes = sizes.iter().enumerate().map(class).collect();
            let listing = Listing { classes, skipped: 0, without: Vec::new() };
            let [train, test] = divided(&listing).unwrap();
            for (label, size) in sizes.iter().enumerate() {
                let of = |part: &Part| part.iter().filter(|(_, l)| usize::from(*l) == label).count();
                prop_assert_eq!(of(&test), (size / 6).max(1));
                prop_assert_eq!(of(&train) + of(&test), *size);
            }
            let mut all: Vec<_> = [train, test].concat();
            all.sort();
            all.dedup();
            prop_assert_eq!(all.len(), sizes.iter().sum::<usize>());
        }
    }
}
