use mesa_datasets::Error as DatasetError;
use mesa_models::Error as ModelError;

/// What can go wrong while modeling triggers on a classifier, or unlearning them.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The stamping rate is no fraction.
    #[error("stamp rate {0} is not between 0 and 1")]
    StampRate(f64),
    /// The class under suspicion does not exist.
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
    /// A trigger cannot be stamped on that many different images.
    #[error(
        "{images_per_trigger} images per trigger is not between 1 and the {images} images held"
    )]
    ImagesPerTrigger {
        /// Images asked for.
        images_per_trigger: usize,
        /// Images there are.
        images: usize,
    },
    /// Success rates leave out the target class, and too little is left.
    #[error("{found} images are not of target class {target_class}, but {needed} are needed")]
    TooFewOthers {
        /// Images of other classes.
        found: usize,
        /// How many are needed.
        needed: usize,
        /// The attacked class.
        target_class: u32,
    },
    /// A classifier's answer that means nothing.
    #[error(
        "the network's scores of an image are no numbers: it has diverged, or its file is damaged"
    )]
    NoScores,
    /// Figures were asked for before all samples were tested.
    #[error("only {done} of {batches} batches of samples are tested")]
    Unfinished {
        /// Batches that are done.
        done: usize,
        /// Batches of the whole test.
        batches: usize,
    },
    /// Progress that belongs to a test of another size.
    #[error(
        "{found_batches} batches of {found_samples} samples are no part of a test of {batches} \
         batches of {samples} samples"
    )]
    OtherTest {
        /// Samples of this test.
        samples: usize,
        /// Batches of this test.
        batches: usize,
        /// Samples of the other.
        found_samples: usize,
        /// Batches done of the other.
        found_batches: usize,
    },
    /// A setting that makes no sense.
    #[error("`{field}`: {value} is not {must_be}")]
    Setting {
        /// The field.
        field: &'static str,
        /// What it holds.
        value: f64,
        /// What it must be.
        must_be: &'static str,
    },
    /// An ensemble of nothing.
    #[error("an ensemble needs at least one sub-model")]
    EmptyEnsemble,
    /// Sub-models whose triggers differ in size.
    #[error("sub-models emit triggers of different shapes: {first:?} and {other:?}")]
    TriggerShapes {
        /// The first sub-model's channels, height and width.
        first: [usize; 3],
        /// Another's.
        other: [usize; 3],
    },
    /// Images, triggers and stamping.
    #[error(transparent)]
    Dataset(#[from] DatasetError),
    /// The classifier.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The trigger model.
    #[error(transparent)]
    Mesa(#[from] mesa::Error),
    /// Tensor operations.
    #[error(transparent)]
    Tensor(#[from] candle::Error),
}

/// A result whose error is this crate's.
pub type Result<T, E = Error> = std::result::Result<T, E>;
