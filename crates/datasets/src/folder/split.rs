//! Which images of a folder of classes are for training and which for testing, in which order.

use std::path::{Path, PathBuf};

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

use super::SEED;
use super::listing::Listing;
use crate::batches::shuffled;
use crate::{FolderError, Result};

/// Of so many images of a class one is for testing, as of CIFAR's 60,000.
const TEST_SHARE: usize = 6;

/// Streams of the orders; a class's split draws from the stream of its label.
pub(super) const TRAIN_ORDER: u64 = 256;
pub(super) const TEST_ORDER: u64 = 257;

/// Files with their labels.
pub(super) type Part = Vec<(PathBuf, u8)>;

/// The training and test images of a folder that has both; their classes are those of the first.
pub(super) fn together(
    train: Listing,
    test: Listing,
    test_folder: &Path,
) -> Result<(Listing, [Part; 2])> {
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
        nested: [train.nested, test.nested].concat(),
        unread: train.unread + test.unread,
        without: [train.without, test.without].concat(),
        classes: train.classes,
    };
    Ok((listing, [trained, tested]))
}

/// Every image with its class.
pub(super) fn labeled(listing: &Listing) -> impl Iterator<Item = (PathBuf, u8)> {
    let classes = listing.classes.iter().enumerate();
    classes.flat_map(|(label, class)| {
        class
            .files
            .iter()
            .map(move |file| (file.clone(), label as u8))
    })
}

/// A sixth of each class for testing, at least one image; the rest is for training.
pub(super) fn divided(listing: &Listing) -> Result<[Part; 2]> {
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

pub(super) fn ordered(part: &[(PathBuf, u8)], order: u64) -> Part {
    let indices = shuffled(&mut stream(order), part.len());
    indices
        .into_iter()
        .map(|index| part[index].clone())
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::folder::listing::Class;

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
            let listing = Listing { classes, ..Listing::default() };
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
