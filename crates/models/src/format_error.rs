//! What can be wrong with a network in a file of another program.

use mesa_pickle::Error as PickleError;

use crate::{Architecture, ResNetConfig};

/// Why a PyTorch checkpoint was not read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PytorchError {
    /// Neither of the two formats.
    #[error(
        "it is in neither format of torch.save, the zip archives since PyTorch 1.6 or the pickles \
         before it; if you trust whoever made it, load it with what wrote it and save it with \
         torch.save(model.state_dict(), FILE)"
    )]
    OtherFormat,
    /// A function that runs commands or code, which no network needs.
    #[error(
        "it names `{name}`: THIS FILE RUNS CODE on whoever loads it. Nothing of it was run here; do not \
         give it to torch.load"
    )]
    RunsCode {
        /// The function's full name.
        name: String,
    },
    /// PyTorch's first format, or an archive of files.
    #[error(
        "it is a tar archive, as PyTorch wrote before 0.1.11; load it there and save it again with \
         torch.save(model.state_dict(), FILE), or unpack it if it holds checkpoints as files"
    )]
    Tar,
    /// What comes before the tensors in the format before 1.6 is not as PyTorch wrote it.
    #[error("{field} is not as PyTorch wrote it before 1.6: the file is damaged, fetch it again")]
    Header {
        /// What is wrong.
        field: &'static str,
    },
    /// A file that Python 2 wrote, whose texts are bytes.
    #[error(
        "it was written by Python 2: load it in Python 3 with torch.load(FILE, encoding=\"latin1\"), save it again \
         with torch.save, and name that file"
    )]
    Python2,
    /// Something outside the pickle, in the format before 1.6, that is not described as a storage.
    #[error(
        "its pickle refers to something that is no storage as PyTorch before 1.6 describes one; \
         load it there and save it again with torch.save(model.state_dict(), FILE)"
    )]
    NotStorage,
    /// A storage in the format before 1.6 is not where or as the tensors say.
    #[error("its storage `{key}` {what}: the file is damaged, fetch it again")]
    Storage {
        /// The storage.
        key: String,
        /// What is wrong with it.
        what: &'static str,
    },
    /// A storage in the format before 1.6 has another length than the tensors say.
    #[error(
        "its storage `{key}` has {found} elements, but {expected} by the tensors in it: the file is \
         damaged, fetch it again"
    )]
    StorageLength {
        /// The storage.
        key: String,
        /// The elements that stand before its numbers.
        found: i64,
        /// The elements by the tensors.
        expected: usize,
    },
    /// Something follows the last storage in the format before 1.6.
    #[error("{len} bytes follow its last storage: the file is damaged, fetch it again")]
    Trailing {
        /// How many bytes.
        len: usize,
    },
    /// The archive's structure is damaged.
    #[error("its zip archive is cut off or damaged")]
    Zip(#[from] zip::result::ZipError),
    /// Records share bytes or a name.
    #[error("records of its zip archive overlap or share a name")]
    Overlap,
    /// A zip archive of something else.
    #[error(
        "it is a zip archive without the record `data.pkl` that torch.save writes; it holds [{holds}]: if a checkpoint \
         is among them, unpack it first"
    )]
    OtherArchive {
        /// The first of its entries.
        holds: String,
    },
    /// A max-pooling layer, which no network here has.
    #[error(
        "its module has a max-pooling layer, `{name}`, and networks that are read have none; if its class never uses \
         that layer, save the state dict alone: torch.save(model.state_dict(), FILE)"
    )]
    Pooling {
        /// The layer.
        name: String,
    },
    /// A record is missing.
    #[error("it holds no record `{name}`")]
    MissingRecord {
        /// The record.
        name: String,
    },
    /// A record is compressed or encrypted.
    #[error("record `{name}` is compressed or encrypted, which torch.save never does")]
    Compressed {
        /// The record.
        name: String,
    },
    /// A record's length or checksum is wrong.
    #[error("record `{name}` is damaged: its length or its checksum is wrong")]
    Damaged {
        /// The record.
        name: String,
    },
    /// Numbers of another byte order than this project reads.
    #[error(
        "its byte order is `{found}`; only `little` is read: save it with \
         torch.save(model.state_dict(), FILE) on a machine of that order"
    )]
    ByteOrder {
        /// What the file says.
        found: String,
    },
    /// A pickle longer than any state dict's.
    #[error(
        "its pickle has more than the {most} bytes that are read; save the state dict alone: \
         torch.save(model.state_dict(), FILE), or torch.save(torch.load(FILE)[KEY], OTHER)"
    )]
    LongPickle {
        /// The most that are read.
        most: usize,
    },
    /// A pickle is refused or damaged.
    #[error("its pickle of {of} was not read")]
    Pickle {
        /// What the pickle tells of.
        of: &'static str,
        /// Why.
        source: PickleError,
    },
    /// Nothing in it is a state dict.
    #[error(
        "it holds no state dict that is told from the others: expected a module, or tensors by name, or either under \
         `net`, `netC`, `state_dict`, `model` or `model_state_dict`, or under a key that no other has tensors \
         beside; found the keys [{keys}]; save the one that is meant alone: \
         torch.save(torch.load(FILE, weights_only=True)[KEY], OTHER)"
    )]
    NoStateDict {
        /// The keys it has.
        keys: String,
    },
    /// More than one state dict or module under the usual keys.
    #[error(
        "it holds networks under `{keys}`, and which of them is meant is not said; save the one that is used \
         alone: torch.save(torch.load(FILE, weights_only=True)[KEY], OTHER)"
    )]
    SeveralNetworks {
        /// Their keys.
        keys: String,
    },
    /// A module that is none of a network.
    #[error(
        "its module {what}; if you trust whoever made it, load it there and save the state dict alone: \
         torch.save(model.state_dict(), FILE)"
    )]
    Module {
        /// What is wrong with it.
        what: &'static str,
    },
    /// A key that stands in a dictionary twice.
    #[error("`{name}` stands twice in one dictionary, which PyTorch never writes")]
    Repeated {
        /// The key.
        name: String,
    },
    /// A key that something would have to be called for.
    #[error(
        "a dictionary of it has a key that is neither a name nor a number, which PyTorch never writes"
    )]
    Key,
    /// Something that another program would read otherwise.
    #[error("its zip archive {what}, which torch.save never writes")]
    Ambiguous {
        /// What it has.
        what: &'static str,
    },
    /// A key that is no name.
    #[error("one of its names has more than {most} bytes, which no tensor's has")]
    LongName {
        /// The most that are read.
        most: usize,
    },
    /// A tensor of a type of which no network here is.
    #[error("tensor {name} is of the type {found}; f16, bf16, f32 and f64 are read")]
    Type {
        /// The tensor.
        name: String,
        /// Its type.
        found: String,
    },
    /// A tensor that is not described as PyTorch does it.
    #[error("tensor {name} is not described as PyTorch does it")]
    Tensor {
        /// The tensor.
        name: String,
    },
}

/// Why tensors are no network of this project.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LayoutError {
    /// Names that none of the networks known has, or does without.
    #[error(
        "its names are not those of a ResNet for 32x32 images (read are ResNets and PreActResNets of 18, 34, \
         50, 101 and 152 layers, ResNets of 20, 32, 44, 56 and 110 with projections or padded shortcuts, and WideResNets); of the nearest, \
         {nearest}, missing: {missing}; unexpected: {unexpected}"
    )]
    Names {
        /// The network whose names come closest.
        nearest: Architecture,
        /// Names that are missing.
        missing: String,
        /// Names that nothing asks for.
        unexpected: String,
    },
    /// A first convolution as networks for photographs have it.
    #[error(
        "it is a {nearest} for large images, such as torchvision's for 224x224: its first convolution has \
         7x7 taps; read are networks for 32x32 images, where it has 3x3 and no max-pooling follows"
    )]
    Stem {
        /// The network whose names it has.
        nearest: Architecture,
    },
    /// A size that no network has.
    #[error(
        "its layers have the sizes of no network: a {} of width {} with {} classes",
        config.architecture, config.width, config.num_classes
    )]
    Size {
        /// The size they say.
        config: ResNetConfig,
    },
    /// A shape that does not go with the network's size.
    #[error("{name} has the shape {found}, expected {expected}")]
    Shape {
        /// The tensor.
        name: String,
        /// What belongs there, and why.
        expected: String,
        /// What is there.
        found: String,
    },
    /// Tensors that share so much that the file could not have held them apart.
    #[error("its tensors have {elements} elements, more than its {file_len} bytes warrant")]
    TooLarge {
        /// Elements of all tensors.
        elements: usize,
        /// Length of the file.
        file_len: usize,
    },
    /// A tensor of a type that no weights have.
    #[error("{name} is of type {found}, expected F16, BF16, F32 or F64")]
    Type {
        /// The tensor.
        name: String,
        /// Its type.
        found: String,
    },
    /// A tensor that reaches beyond its storage.
    #[error("{name} reaches beyond its storage")]
    Storage {
        /// The tensor.
        name: String,
    },
    /// A NaN, an infinity, or a value beyond f32.
    #[error("{name} holds a value that is not finite in f32")]
    NotFinite {
        /// The tensor.
        name: String,
    },
    /// A variance below zero, of which batch norm has no square root.
    #[error(
        "{name} holds the variance {value} at element {element}; no variance is negative: the file \
         is damaged or its training went wrong"
    )]
    NegativeVariance {
        /// The tensor.
        name: String,
        /// Which of its elements.
        element: usize,
        /// The value.
        value: f32,
    },
    /// A mean and a standard deviation of colors that are not in front of the network.
    #[error(
        "{name} and what stands beside it seem to normalize images, but not in front of the network, which is \
         not read"
    )]
    Normalizing {
        /// The tensor.
        name: String,
    },
    /// A tensor operation failed.
    #[error(transparent)]
    Tensor(#[from] candle::Error),
}
