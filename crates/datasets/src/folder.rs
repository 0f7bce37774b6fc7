//! Images of one's own: a folder with one folder of PNG and JPEG files for each class.
//!
//! Folders sorted by name are the classes 0, 1, …. Where the folder holds `train` and `test` (or
//! `val`, `valid`, `validation`), each with the folders of the classes, that is the split, and where it holds `test` alone
//! there is nothing to train with; else a sixth of each class, CIFAR's share, is drawn for testing.
//! In any case the images are in random order, for "the first so many" has to be some of every class.

mod listing;
mod pixels;
mod split;

use std::collections::BTreeSet;
use std::path::Path;

use sha2::{Digest, Sha256};

use self::listing::{Listing, given_split, holds_classes};
use self::pixels::{Resized, SIDE, decode_all};
use self::split::{Part, TEST_ORDER, TRAIN_ORDER, divided, labeled, ordered, together};
use crate::dataset::hex;
use crate::{Dataset, DatasetName, Division, FolderError, Images, Result, Source};

/// Seed of the split and of the order, noted with the source.
pub(crate) const SEED: u64 = 0;

/// Loads a folder of classes: `DIR/<class>/*.png` (or `.jpg`, `.jpeg`, in any case), or the same
/// below `DIR/train` and `DIR/test` (or `DIR/val`), or below `DIR/test` alone.
///
/// Images become 32×32 pixels of eight bits in red, green and blue: other sizes are resized
/// (Catmull-Rom, to the square whatever their aspect), gray and 16-bit images converted,
/// transparency dropped, and cameras' orientation applied. How many were resized and how many
/// other files were passed over is told through `tracing`. The order and, where the folder does
/// not say it, the split depend on the names of the files and on a fixed seed alone.
///
/// # Errors
///
/// [`crate::Error::Folder`] if there are fewer than two classes or more than 256, if a class cannot be
/// divided, or if an image is damaged or has a side of more than
/// 12,288 pixels; [`crate::Error::Read`] if a folder or a file cannot be read.
pub fn load_folder(folder: &Path) -> Result<Dataset> {
    let (listing, parts, division) = match given_split(folder)? {
        Some((Some(train), test)) => {
            let (listing, parts) = together(Listing::of(&train)?, Listing::of(&test)?, &test)?;
            (listing, parts, Division::Given)
        }
        Some((None, test)) => {
            let listing = Listing::of(&test)?;
            let parts = [Part::new(), labeled(&listing).collect()];
            (listing, parts, Division::TestOnly)
        }
        None => {
            let listing = Listing::of(folder)?;
            let parts = divided(&listing)?;
            (listing, parts, Division::Drawn { seed: SEED })
        }
    };
    check_classes(folder, listing.classes.len())?;
    let [train, test] = parts;
    let mut resized = Resized::default();
    let train = decode_all(&ordered(&train, TRAIN_ORDER), &mut resized)?;
    let test = decode_all(&ordered(&test, TEST_ORDER), &mut resized)?;
    tell(folder, &listing, &test, &resized);
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
            division,
        },
        is_official: false,
    })
}

/// Whether [`load_folder`] would find images of at least one class there.
pub(crate) fn is_folder_of_classes(folder: &Path) -> Result<bool> {
    Ok(given_split(folder)?.is_some() || holds_classes(folder)?)
}

fn check_classes(folder: &Path, found: usize) -> Result<()> {
    let path = folder.to_owned();
    match found {
        0 | 1 => Err(FolderError::TooFewClasses { path, found }.into()),
        2..=256 => Ok(()),
        _ => Err(FolderError::TooManyClasses { path, found }.into()),
    }
}

/// Says once what was changed and what was left out.
fn tell(folder: &Path, listing: &Listing, test: &Images, resized: &Resized) {
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
    let numbers: Option<Vec<u64>> = listing
        .classes
        .iter()
        .map(|class| class.name.parse().ok())
        .collect();
    if numbers.is_some_and(|numbers| !numbers.is_sorted()) {
        let names: Vec<&str> = listing
            .classes
            .iter()
            .map(|class| class.name.as_str())
            .collect();
        tracing::warn!(
            "{folder}: its folders are named by numbers and taken in the order of their names, as PyTorch takes them: the \
             classes 0, 1, 2, … are {}, …; where a network counts otherwise, name them 00, 01, …",
            names[..names.len().min(3)].join(", ").escape_debug()
        );
    }
    if listing.unread > 0 {
        let unread = listing.unread;
        tracing::warn!(
            "{folder}: {unread} pictures that are neither PNG nor JPEG were passed over; convert them to have them \
             counted"
        );
    }
    if let Some(nested) = listing.nested.first() {
        let (count, nested) = (listing.nested.len(), nested.to_string_lossy());
        tracing::warn!(
            "{folder}: {count} folders within classes were passed over with whatever is in them, such as {}; move \
             their images up to have them counted",
            nested.escape_debug()
        );
    }
    if !listing.without.is_empty() {
        let names = listing.without.join(", ");
        tracing::warn!(
            "{folder}: no images in {}, which are no classes",
            names.escape_debug()
        );
    }
    let tested: BTreeSet<u8> = test.labels().iter().copied().collect();
    let classes = (0..=u8::MAX).zip(&listing.classes);
    let untested = classes.filter(|(label, _)| !tested.contains(label));
    let untested: Vec<&str> = untested.map(|(_, class)| class.name.as_str()).collect();
    if !untested.is_empty() {
        tracing::warn!(
            "{folder}: no test images of {}, of which nothing can be measured",
            untested.join(", ").escape_debug()
        );
    }
}

#[cfg(test)]
mod tests {
    use image::{DynamicImage, ImageFormat, Luma, Rgb, RgbImage, Rgba};
    use tempfile::TempDir;

    use super::pixels::{PLANE, shrunk};
    use super::*;
    use crate::Error;
    use crate::images::CHANNELS;

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
    fn what_is_passed_over_is_told_apart() {
        let root = TempDir::new().unwrap();
        class(root.path(), "ant", 2);
        class(&root.path().join("ant"), "more", 3);
        class(root.path(), "bee", 2);
        for name in [
            "bee/a.webp",
            "bee/b.TIFF",
            "bee/notes.txt",
            "bee/.hidden.png",
        ] {
            fs_err::write(root.path().join(name), "").unwrap();
        }
        let listing = Listing::of(root.path()).unwrap();
        assert_eq!((listing.unread, listing.skipped), (2, 2));
        assert_eq!(listing.nested, [root.path().join("ant/more")]);
        let files: Vec<usize> = listing
            .classes
            .iter()
            .map(|class| class.files.len())
            .collect();
        assert_eq!(files, [2, 2]);
    }

    #[test]
    fn train_and_test_folders_are_the_split() {
        for test in ["test", "val", "valid", "validation"] {
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
    fn a_test_folder_alone_leaves_nothing_to_train_with() {
        let root = TempDir::new().unwrap();
        let test = root.path().join("test");
        class(&test, "ant", 1);
        class(&test, "bee", 4);
        assert!(is_folder_of_classes(root.path()).unwrap());
        let data = load_folder(root.path()).unwrap();
        assert_eq!((data.train.len(), data.test.len()), (0, 5));
        assert_eq!(data.class_names, ["ant", "bee"]);
        assert!(data.source.to_string().ends_with("(test images only)"));
        // Beside classes it is a folder without images, and none of theirs are left out.
        class(root.path(), "cat", 6);
        class(root.path(), "dog", 6);
        let data = load_folder(root.path()).unwrap();
        assert_eq!((data.train.len(), data.test.len()), (10, 2));
        assert_eq!(data.class_names, ["cat", "dog"]);
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
        RgbImage::new(12_289, 2).save(&path).unwrap();
        let message = refused(root.path()).to_string();
        assert!(
            message.ends_with(
                "wide.png has 12289 × 2 pixels, at most 12288 × 12288 are read; make it smaller"
            ),
            "{message}"
        );
        RgbImage::new(12_288, 2).save(&path).unwrap();
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
}
