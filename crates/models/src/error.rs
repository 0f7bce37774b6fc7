//! What can go wrong in this crate.

use std::path::PathBuf;

use crate::PerceptronConfig;

/// A result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong in this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A tensor operation failed.
    #[error(transparent)]
    Tensor(#[from] candle::Error),
    /// Sizes of which no generator can be built.
    #[error("perceptron sizes must be positive, the noise a multiple of four, found {config:?}")]
    PerceptronConfig {
        /// The sizes.
        config: PerceptronConfig,
    },
    /// A state lacks a tensor.
    #[error("tensor {name} is missing")]
    MissingTensor {
        /// Its name.
        name: String,
    },
    /// A state holds a tensor that nothing asks for.
    #[error("unexpected tensor {name}")]
    UnexpectedTensor {
        /// Its name.
        name: String,
    },
    /// A tensor has another shape or type.
    #[error("tensor {name} is {found}, expected {expected}")]
    TensorShape {
        /// Its name.
        name: String,
        /// Type and shape asked for.
        expected: String,
        /// Type and shape found.
        found: String,
    },
    /// A kernel refused its shapes or its path.
    #[error(transparent)]
    Kernel(#[from] mesa_kernels::Error),
    /// A GPU cannot be used, or failed.
    #[cfg(feature = "cuda")]
    #[error(transparent)]
    Cuda(#[from] mesa_kernels::cuda::CudaError),
    /// Sizes of which no ResNet can be built.
    #[error("a ResNet has a width of 1 to 1024 and 2 to 10000 classes, found {config:?}")]
    ResNetConfig {
        /// The sizes.
        config: crate::ResNetConfig,
    },
    /// A kind of network that does not exist.
    #[error("there is no network `{name}`; there are {known}")]
    Architecture {
        /// The name.
        name: String,
        /// Names that exist.
        known: String,
    },
    /// Images, labels, places or another argument that the network cannot take.
    #[error("{what} is {found}, expected {expected}")]
    Batch {
        /// Which argument.
        what: &'static str,
        /// Shape or value asked for.
        expected: String,
        /// Shape or value found.
        found: String,
    },
    /// The loss is no number any more.
    #[error("the loss became {loss} in epoch {}, step {}; a lower learning rate may help", at.epoch, at.step)]
    Diverged {
        /// The loss.
        loss: f64,
        /// Where.
        at: crate::Position,
    },
    /// A setting of a training run that makes no sense.
    #[error("training setting {field} is {found}, expected {expected}")]
    TrainingConfig {
        /// Which field.
        field: &'static str,
        /// What it asks for.
        expected: &'static str,
        /// What was given.
        found: String,
    },
    /// What makes the batches failed.
    #[error("making a batch failed")]
    Source(#[source] crate::BoxError),
    /// A file is no checkpoint, or not the one that was asked for.
    #[error("{}: {reason}", path.display())]
    Checkpoint {
        /// The file.
        path: std::path::PathBuf,
        /// What is wrong with it, and what to do.
        reason: String,
    },
    /// A file of PyTorch is of another kind, damaged, or holds more than tensors.
    #[error("failed to read {} as a PyTorch checkpoint", path.display())]
    Pytorch {
        /// The file.
        path: PathBuf,
        /// Why.
        source: crate::PytorchError,
    },
    /// A file's tensors are not those of a network.
    #[error("{} holds no network of this project", path.display())]
    Layout {
        /// The file.
        path: PathBuf,
        /// Why.
        source: crate::LayoutError,
    },
    /// A file does not say how images are normalized, and nothing else does.
    #[error(
        "{} does not say how its images are normalized, and a network of {num_classes} classes may \
         be of any data; name its normalization",
        path.display()
    )]
    NoNormalization {
        /// The file.
        path: PathBuf,
        /// Its classes.
        num_classes: usize,
    },
    /// A normalization was given for a file that has another.
    #[error("{} says that its images are normalized by {found}; leave out another", path.display())]
    OtherNormalization {
        /// The file.
        path: PathBuf,
        /// What the file says.
        found: crate::Normalization,
    },
    /// A text that is no normalization.
    #[error(
        "`{text}` is no normalization: expected cifar10, cifar100, imagenet, none or three means and three \
         positive standard deviations, M,M,M/S,S,S"
    )]
    NormalizationText {
        /// The text.
        text: String,
    },
    /// A file could not be read.
    #[error("failed to read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file could not be written.
    #[error("failed to write {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A NaN or an infinity, which makes a file that nothing reads.
    #[error(
        "{} was not written: tensor {name} holds a value that is not finite, so what made it has diverged; try \
         a lower learning rate",
        path.display()
    )]
    NotWritten {
        /// The file.
        path: PathBuf,
        /// The tensor's name.
        name: String,
    },
    /// A file of a kind that holds no tensors, whatever its name says.
    #[error("{} is {found}", path.display())]
    NoTensors {
        /// The file.
        path: PathBuf,
        /// What it is, and what to do.
        found: String,
    },
    /// A file is cut off or no safetensors file.
    #[error("{} is cut off or not in safetensors format", path.display())]
    NotSafetensors {
        /// The file.
        path: PathBuf,
        /// Why.
        source: safetensors::SafeTensorError,
    },
    /// A file holds a tensor of a type that is not used here.
    #[error("tensor {name} in {} is of type {found}, expected F32 or U32", path.display())]
    TensorType {
        /// The file.
        path: PathBuf,
        /// The tensor's name.
        name: String,
        /// Its type.
        found: String,
    },
    /// A file holds a NaN or an infinity.
    #[error("tensor {name} in {} holds a value that is not finite", path.display())]
    NotFinite {
        /// The file.
        path: PathBuf,
        /// The tensor's name.
        name: String,
    },
}
