//! Why a folder of classes was not read.

use std::path::PathBuf;

use crate::BoxError;

/// Why a folder of classes was not read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FolderError {
    /// Too little to tell anything apart.
    #[error(
        "{} holds {found} classes of images, at least two are needed: one folder of .png, .jpg or \
         .jpeg files for each class",
        path.display()
    )]
    TooFewClasses {
        /// The folder.
        path: PathBuf,
        /// Classes that hold an image.
        found: usize,
    },
    /// Labels are bytes.
    #[error("{} holds {found} classes, at most 256 are possible", path.display())]
    TooManyClasses {
        /// The folder.
        path: PathBuf,
        /// Classes there are.
        found: usize,
    },
    /// A class that cannot be divided into training and test images.
    #[error(
        "{} holds one image only, at least two are needed: one to train with and one to test with",
        path.display()
    )]
    OneImage {
        /// The folder of the class.
        path: PathBuf,
    },
    /// A class that has test images and no training images.
    #[error("class {class:?} has images in {} only, none to train with", path.display())]
    UnknownClass {
        /// The class.
        class: String,
        /// The folder of the test images.
        path: PathBuf,
    },
    /// A picture is larger than any that is decoded.
    #[error(
        "{} has {width} × {height} pixels, at most {most} × {most} are read; make it smaller",
        path.display()
    )]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its width in pixels.
        width: u32,
        /// Its height in pixels.
        height: u32,
        /// The longest side that is read.
        most: u32,
    },
    /// An image is damaged, or no image whatever its name says.
    #[error("{} is damaged or no image; repair or remove it", path.display())]
    Image {
        /// The file.
        path: PathBuf,
        /// What the decoder said.
        source: BoxError,
    },
}
