use mesa_datasets::Error as DatasetError;
use mesa_models::Error as ModelError;

/// What can go wrong while planting a backdoor or measuring one.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The poison rate is no fraction.
    #[error("poison rate {0} is not between 0 and 1")]
    PoisonRate(f64),
    /// The attacked class does not exist.
    #[error(
        "target class {target_class} does not exist among {num_classes} classes, which are counted from 0"
    )]
    TargetClass {
        /// The class asked for.
        target_class: u32,
        /// How many there are.
        num_classes: usize,
    },
    /// Not even one full batch.
    #[error("{images} images do not fill one batch of {batch_size}")]
    TooFewImages {
        /// Images there are.
        images: usize,
        /// Images a batch takes.
        batch_size: usize,
    },
    /// A measure over no images at all.
    #[error("there are no images to evaluate on")]
    NoImages,
    /// ASR leaves out the target class, and nothing is left.
    #[error(
        "all {images} images belong to target class {target_class}: no success rate without others"
    )]
    OnlyTargetClass {
        /// Images there are.
        images: usize,
        /// The attacked class.
        target_class: u32,
    },
    /// Images, triggers and stamping.
    #[error(transparent)]
    Dataset(#[from] DatasetError),
    /// The classifier.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// Tensor operations.
    #[error(transparent)]
    Tensor(#[from] candle::Error),
}

/// A result whose error is this crate's.
pub type Result<T, E = Error> = std::result::Result<T, E>;
