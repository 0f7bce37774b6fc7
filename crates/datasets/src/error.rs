//! What can go wrong with data, triggers and poisoning.

use std::io;
use std::path::PathBuf;

use crate::DatasetName;

/// The result of this crate's functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of a decoder, whose type is nobody's business here.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// What can go wrong with data, triggers and poisoning.
///
/// Every refusal of a data file names the file, the offset in bytes and what was expected there.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A tensor could not be made of a batch.
    #[error(transparent)]
    Tensor(#[from] candle::Error),
    /// A folder of classes is no data set.
    #[error(transparent)]
    Folder(#[from] crate::FolderError),
    /// A file of CIFAR's Python version was not read.
    #[error(transparent)]
    Python(#[from] crate::PythonError),
    /// A downloaded archive was not read.
    #[error(transparent)]
    Archive(#[from] crate::ArchiveError),
    /// A file holds no trigger.
    #[error(transparent)]
    TriggerFile(#[from] crate::TriggerFileError),
    /// A mask does not say of each pixel whether it belongs to the trigger, or none does.
    #[error("expected a mask of {expected} pixels with one that belongs to the trigger")]
    Mask {
        /// Pixels of the trigger.
        expected: usize,
    },
    /// A share of a blended pattern that is none.
    #[error("a pattern cannot make up {opacity} of an image, expected more than 0 and at most 1")]
    BadOpacity {
        /// The share.
        opacity: f32,
    },
    /// The operating system refused to read a file or folder.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file of the data set is not there.
    #[error(
        "{}: missing, expected {records} records of {record_len} bytes from offset 0",
        path.display()
    )]
    MissingFile {
        /// The file that was expected.
        path: PathBuf,
        /// How many records the official file has.
        records: u64,
        /// Bytes of one record.
        record_len: u64,
    },
    /// A file has no record at all, or ends inside one: it was cut off, or its records have
    /// another length.
    #[error(
        "{}: expected a record of {expected} bytes at offset {offset}, found the last {found} \
         bytes of the file",
        path.display()
    )]
    PartialRecord {
        /// The file.
        path: PathBuf,
        /// Where the incomplete record begins.
        offset: u64,
        /// Bytes of one record.
        expected: u64,
        /// Bytes that are left there.
        found: u64,
    },
    /// One file has fewer or more records than the official one, while its neighbors are official.
    #[error(
        "{}: expected the end of {expected} records at offset {expected_end}, the file ends at \
         offset {offset}",
        path.display()
    )]
    WrongRecordCount {
        /// The file.
        path: PathBuf,
        /// Where the file ends.
        offset: u64,
        /// Where the official file ends.
        expected_end: u64,
        /// How many records the official file has.
        expected: u64,
    },
    /// A label is not one of the classes.
    #[error(
        "{}: expected a label below {num_labels} at offset {offset}, found {label}",
        path.display()
    )]
    LabelOutOfRange {
        /// The file.
        path: PathBuf,
        /// Where the label stands.
        offset: u64,
        /// The label that stands there.
        label: u8,
        /// How many labels there are.
        num_labels: u8,
    },
    /// A file has the official name and size but other contents.
    #[error(
        "{}: expected SHA-256 {expected} over offsets 0 to {len}, found {found}",
        path.display()
    )]
    WrongDigest {
        /// The file.
        path: PathBuf,
        /// Bytes of the file.
        len: u64,
        /// Digest of the official file, in hex.
        expected: String,
        /// Digest of this file, in hex.
        found: String,
    },
    /// A file's digest is not the one that stands beside it.
    #[error(
        "{}: not as it was written, {sums:?} beside it has another SHA-256; remove the folder and \
         fetch the data again",
        path.display()
    )]
    Changed {
        /// The file.
        path: PathBuf,
        /// The file with the digests.
        sums: &'static str,
    },
    /// The Hugging Face Hub gave no data.
    #[cfg(feature = "hub")]
    #[error(transparent)]
    Hub(#[from] crate::HubError),
    /// What was named as the folder of a data set is not there.
    #[error("there is no folder or archive {} ({origin})", path.display())]
    NoFolder {
        /// The folder.
        path: PathBuf,
        /// Who named it.
        origin: String,
    },
    /// A folder that was named holds no data set.
    #[error(
        "{} ({origin}) holds no {wanted}: expected {files}",
        path.display()
    )]
    NoData {
        /// The folder.
        path: PathBuf,
        /// Who named it.
        origin: String,
        /// The data set that was looked for.
        wanted: String,
        /// What would have been taken and where, and what nearly was.
        files: String,
    },
    /// The built-in classes were asked for where another data set is needed.
    #[error("the built-in classes ({origin}) cannot stand in for {wanted}: they are ten")]
    BuiltInMismatch {
        /// Who asked for the built-in classes.
        origin: String,
        /// The data set that is needed.
        wanted: DatasetName,
    },
    /// A name is not that of a data set.
    #[error("unknown data set {name:?}, expected cifar10, cifar100, folder or synthetic")]
    UnknownDataset {
        /// The name.
        name: String,
    },
    /// Pixels do not fill a whole number of images or patches.
    #[error("expected {expected} bytes or values of pixels, found {found}")]
    PixelCount {
        /// Values that the shape asks for.
        expected: usize,
        /// Values that were given.
        found: usize,
    },
    /// The first part of a split is larger than the whole.
    #[error("cannot take the first {first} of {len} images")]
    SplitTooLarge {
        /// Images there are.
        len: usize,
        /// Images asked for.
        first: usize,
    },
    /// A black/white 3×3 pattern has nine bits.
    #[error("pattern {pattern} does not exist, expected 0 to 511")]
    NoSuchPattern {
        /// The number.
        pattern: u16,
    },
    /// There are ten color triggers.
    #[error("color trigger {index} does not exist, expected 0 to 9")]
    NoSuchColor {
        /// The number.
        index: u8,
    },
    /// A trigger's name cannot be read.
    #[error(
        "cannot read trigger {text:?}, expected a pattern number (0 to 511), color:0 to color:9, \
         random:SEED or random:SEED:HEIGHTxWIDTH (sides of 1 to 4096)"
    )]
    BadTriggerId {
        /// The text.
        text: String,
    },
    /// A placement's name cannot be read.
    #[error("cannot read placement {text:?}, expected per-image, per-batch or fixed:ROW,COLUMN")]
    BadPlacement {
        /// The text.
        text: String,
    },
    /// A patch is empty or larger than the image.
    #[error(
        "a patch of {} × {} does not fit into an image of {} × {}",
        patch.0, patch.1, image.0, image.1
    )]
    PatchTooLarge {
        /// Height and width of the patch.
        patch: (usize, usize),
        /// Height and width of the image.
        image: (usize, usize),
    },
    /// A fixed place puts part of the patch outside the image.
    #[error(
        "a patch at row {row}, column {column} leaves the image, the last place is row \
         {last_row}, column {last_column}"
    )]
    PlaceOutside {
        /// Row of the patch's top-left pixel.
        row: usize,
        /// Column of the patch's top-left pixel.
        column: usize,
        /// The last row that is possible.
        last_row: usize,
        /// The last column that is possible.
        last_column: usize,
    },
    /// An image that is to be stamped is not in the batch.
    #[error("image {index} is not in a batch of {len}")]
    NoSuchImage {
        /// The image's index.
        index: usize,
        /// Images in the batch.
        len: usize,
    },
    /// There is neither one patch for all nor one for each stamped image.
    #[error("expected one patch or {expected}, found {found}")]
    PatchCount {
        /// Images to stamp.
        expected: usize,
        /// Patches given.
        found: usize,
    },
    /// There is not one place for each stamped image.
    #[error("expected {expected} places, found {found}")]
    PlaceCount {
        /// Images to stamp.
        expected: usize,
        /// Places given.
        found: usize,
    },
    /// A probability lies outside [0, 1].
    #[error("a poison rate of {rate} is not a probability")]
    BadRate {
        /// The rate.
        rate: f64,
    },
}
