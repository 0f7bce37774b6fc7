//! The commands that do one step on files.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use mesa_datasets::Placement;
use mesa_models::Architecture;

use super::{DataArgs, DeviceArgs, NormalizeArgs, PlacementArgs, PresetArgs, Running, beta};

/// Show which data sets are found where, and check them; fetch CIFAR
#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "\
Examples:
  mesa data                   what $MESA_DATA or ~/.cache/mesa holds
  mesa data --data DIR        the same for a folder or a .tar.gz archive
  mesa data --data photos     your own images: photos/cat/1.jpg, photos/dog/7.png, …
  mesa data --data synthetic  the built-in classes
  mesa data fetch cifar10     from the Hugging Face Hub into ~/.cache/mesa

A folder holds data if it, or a folder in it, has the official binary files:
  CIFAR-10   data_batch_1.bin … data_batch_5.bin, test_batch.bin
  CIFAR-100  train.bin, test.bin
or those of the Python version, which have the same names without .bin, or an
archive as downloaded: cifar-10-binary.tar.gz, cifar-100-python.tar.gz, ….
Every record and the digest of every official file are checked. Nothing in a
pickle is executed: what arrays of numbers do without is refused by name.

Or it holds a folder of .png, .jpg or .jpeg files for each class: sorted by name
they are the classes 0, 1, …. With such folders below `train` and `test` (or
`val`) that is the split; with `test` alone all are for testing, and nothing can
be trained; else a sixth of each class, drawn by a fixed seed, is for testing.
Other sizes than 32×32 are resized. Of the test images at most four fifths are
for modeling, as of CIFAR's; the others are for evaluation.
Exit code 1 if nothing is found or a file is damaged."
)]
pub(crate) struct DataCommand {
    #[command(subcommand)]
    pub(crate) action: Option<DataAction>,
    #[command(flatten)]
    pub(crate) data: DataArgs,
}

#[derive(Debug, Subcommand)]
pub(crate) enum DataAction {
    Fetch(DataFetch),
}

/// Fetch CIFAR-10 or CIFAR-100 from the Hugging Face Hub
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  mesa data fetch cifar10                           184 MB of images into ~/.cache/mesa
  mesa data fetch cifar100 --json
  HF_ENDPOINT=https://hub.example mesa data fetch cifar10   from a mirror

The Parquet files of uoft-cs/cifar10 or uoft-cs/cifar100 are downloaded into
Hugging Face's cache, decoded, and written as the official binary files, each
verified by its SHA-256. Rows in an order that is not that of the official
files are kept under other names, and said to be so. What is in the cache
already is verified and left as it is. Stopped or cut off, the same command
goes on with the download where it was.

Environment, as for Hugging Face's own tools:
  HF_ENDPOINT      the Hub's address [default: https://huggingface.co]
  HF_HOME          where downloads and the login lie [default: ~/.cache/huggingface]
  HF_HUB_CACHE     where downloads lie [default: hub in HF_HOME]
  HF_TOKEN         a token of your own; the data sets need none
  HF_HUB_OFFLINE   1: take what was downloaded before, open no connection
  HTTPS_PROXY      a proxy
  SSL_CERT_FILE    certificates to trust in place of the built-in ones; else
                   REQUESTS_CA_BUNDLE

Exit code 1 if the Hub does not give the data.")]
pub(crate) struct DataFetch {
    /// The data set
    #[arg(value_enum, value_name = "NAME")]
    pub(crate) name: OnHub,
}

/// A data set that the Hub has
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum OnHub {
    /// Ten classes
    Cifar10,
    /// A hundred classes
    Cifar100,
}

/// Train a clean network
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  mesa pretrain -o clean.safetensors
  mesa pretrain -o wide.safetensors --width 64 --epochs 60
  mesa pretrain -o preact.safetensors --architecture preactresnet18
  mesa pretrain -o toy.safetensors --data synthetic --epochs 4 --images 6000

ResNets for 32×32 images, every image flipped and shifted at random anew in
each epoch. The settings are those of the preset `cpu` unless --preset or
--config says otherwise. Stopped or killed, the same command goes on from
FILE.state.")]
pub(crate) struct Pretrain {
    /// File to write the network to (safetensors)
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: PathBuf,
    #[command(flatten)]
    pub(crate) data: DataArgs,
    #[command(flatten)]
    pub(crate) running: Running,
    #[command(flatten)]
    pub(crate) preset: PresetArgs,
    /// Kind of network: resnet18, resnet34, resnet50, resnet101 or resnet152; in three narrow stages
    /// resnet20, 32, 44, 56 or 110, with shortcuts that learn nothing paddedresnet20, …; with batch norm
    /// before the convolutions of a block preactresnet18, …; such ones in three wide stages
    /// wideresnet10, 16, … to wideresnet40 [default: resnet18, or the preset's]
    #[arg(long, value_name = "NAME")]
    pub(crate) architecture: Option<Architecture>,
    /// Channels of the first stage's 3×3 convolutions: 16 times k for a WRN-16-k [default: 16, or
    /// the preset's]
    #[arg(long, value_name = "CHANNELS")]
    pub(crate) width: Option<usize>,
    /// Passes over the images
    #[arg(long)]
    pub(crate) epochs: Option<usize>,
    /// Images in a batch
    #[arg(long)]
    pub(crate) batch_size: Option<usize>,
    /// Highest learning rate
    #[arg(long)]
    pub(crate) learning_rate: Option<f64>,
    /// How the learning rate moves over the whole training
    #[arg(long, value_enum)]
    pub(crate) schedule: Option<ScheduleName>,
    /// L2 penalty of the weights
    #[arg(long)]
    pub(crate) weight_decay: Option<f64>,
    /// Share of each label spread over all classes
    #[arg(long)]
    pub(crate) label_smoothing: Option<f64>,
    /// Train on the first N images only
    #[arg(long, value_name = "N")]
    pub(crate) images: Option<usize>,
    /// Seed of the weights, the order and the augmentation
    #[arg(long, default_value_t = 0)]
    pub(crate) seed: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ScheduleName {
    /// Always the same
    Constant,
    /// Down to zero along a half cosine
    Cosine,
    /// Up in the first part, then down to zero
    OneCycle,
}

/// Plant a backdoor in a clean network
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  mesa attack clean.safetensors --trigger 170 --target 0 -o bad.safetensors
  mesa attack clean.safetensors --trigger color:3 --target 0 -o bad.safetensors --epochs 3
  mesa attack clean.safetensors --trigger sticker.png --target 0 -o bad.safetensors
  mesa attack clean.safetensors --trigger photo.png --blend 0.2 --target 0 -o bad.safetensors

A trigger is the number of a black/white 3×3 pattern (0 to 511; bit 8 is the
top-left pixel, row by row, 1 is white), `color:0` … `color:9`,
`random:SEED:HEIGHTxWIDTH`, or a file: of a picture (.png, .jpg) those pixels
belong to it whose alpha is above one half; of a safetensors file it is the tensor
(3, height, width) in [0, 1], with a second one `mask` (height, width) if not all
pixels belong to it. In records a file's trigger is called by the file's name and
the first digits of its SHA-256.
The settings are those of the preset `cpu` unless --preset or --config says
otherwise. Stopped or killed, the same command goes on from FILE.state.")]
pub(crate) struct Attack {
    /// The clean network (safetensors, .pt, .pth)
    #[arg(value_name = "CLEAN")]
    pub(crate) model: PathBuf,
    #[command(flatten)]
    pub(crate) normalize: NormalizeArgs,
    /// The attacker's trigger: a number, a name or a file
    #[arg(long)]
    pub(crate) trigger: String,
    /// Mix the pattern with the whole image, of which it makes up this share, instead of stamping
    /// it; a picture is resized to the image
    #[arg(long, value_name = "SHARE", value_parser = share)]
    pub(crate) blend: Option<f32>,
    /// Where it is stamped: `per-image` (anywhere), `per-batch`, or `fixed:ROW,COLUMN` of its top-left
    /// pixel [default: that of the settings, anywhere]
    #[arg(long, value_name = "PLACES", conflicts_with = "blend")]
    pub(crate) placement: Option<Placement>,
    /// Class that stamped images shall be given [default: that of the settings, 0 unless they say
    /// otherwise]
    #[arg(long, value_name = "CLASS", value_parser = class_number)]
    pub(crate) target: Option<u32>,
    /// File to write the backdoored network to
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: PathBuf,
    #[command(flatten)]
    pub(crate) data: DataArgs,
    #[command(flatten)]
    pub(crate) running: Running,
    #[command(flatten)]
    pub(crate) preset: PresetArgs,
    /// Passes over the images
    #[arg(long)]
    pub(crate) epochs: Option<usize>,
    /// Learning rate
    #[arg(long)]
    pub(crate) learning_rate: Option<f64>,
    /// Share of images that are stamped and relabeled
    #[arg(long)]
    pub(crate) poison_rate: Option<f64>,
    /// Seed of the order, the stamped images and the places
    #[arg(long, default_value_t = 0)]
    pub(crate) seed: u64,
}

/// Model the triggers that a network answers to (MESA)
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  mesa fit bad.safetensors --target 0 --beta 0.9 -o g90.safetensors
  mesa fit bad.safetensors --target 0 --beta 0.5 -o g50.safetensors --preset quick

Fits a generator of triggers that give images the target class with a
probability of at least β, as many different ones as possible. It sees only
the network and the 8,000 images of the modeling split, never the trigger.
The settings are those of the preset `cpu` unless --preset or --config says
otherwise. Stopped or killed, the same command goes on from FILE.state.")]
pub(crate) struct Fit {
    /// The backdoored network (safetensors, .pt, .pth)
    #[arg(value_name = "MODEL")]
    pub(crate) model: PathBuf,
    #[command(flatten)]
    pub(crate) normalize: NormalizeArgs,
    /// The attacked class; `mesa detect` tries all of them
    #[arg(long, value_name = "CLASS", value_parser = class_number)]
    pub(crate) target: u32,
    /// The threshold β of the level set, in (0, 1)
    #[arg(long, value_parser = beta)]
    pub(crate) beta: f64,
    /// File to write the sub-model to
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: PathBuf,
    #[command(flatten)]
    pub(crate) data: DataArgs,
    #[command(flatten)]
    pub(crate) running: Running,
    #[command(flatten)]
    pub(crate) preset: PresetArgs,
    #[command(flatten)]
    pub(crate) placement: PlacementArgs,
    /// Passes over the modeling split
    #[arg(long)]
    pub(crate) epochs: Option<usize>,
    /// Learning rate of the generator and the statistics network
    #[arg(long)]
    pub(crate) learning_rate: Option<f64>,
    /// Weight α of the entropy
    #[arg(long)]
    pub(crate) alpha: Option<f64>,
    /// Seed of the initial weights, the noise and the places
    #[arg(long, default_value_t = 0)]
    pub(crate) seed: u64,
}

/// Draw triggers from a fitted sub-model
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  mesa sample g90.safetensors -n 64 -o triggers.svg           a picture
  mesa sample g90.safetensors -n 512 -o triggers.safetensors  a tensor (n, 3, 3, 3) in [0, 1]
  mesa sample g90.safetensors -o - | display                  the picture, to another program")]
pub(crate) struct Sample {
    /// The sub-model, as `mesa fit` writes it
    #[arg(value_name = "SUB_MODEL")]
    pub(crate) sub_model: PathBuf,
    /// How many triggers
    #[arg(short = 'n', long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) count: u32,
    /// File to write: `.svg` for a picture, `.safetensors` for the tensor `triggers`;
    /// `-` for the picture on standard output
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: PathBuf,
    /// The true trigger, shown beside the samples in a picture
    #[arg(long)]
    pub(crate) trigger: Option<String>,
    /// Seed of the noise
    #[arg(long, default_value_t = 0)]
    pub(crate) seed: u64,
}

/// Write a network in another format
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  mesa export good.safetensors -o good.pth
  mesa export resnet18.pth -o resnet18.safetensors --normalize none

A .pt or .pth file is a state dict: model.load_state_dict(torch.load(FILE)) takes
it where the model's layers have the names of --names. Either format also says how
images are normalized, which PyTorch passes over.")]
pub(crate) struct Export {
    /// The network (safetensors, .pt, .pth)
    #[arg(value_name = "MODEL")]
    pub(crate) model: PathBuf,
    #[command(flatten)]
    pub(crate) normalize: NormalizeArgs,
    /// File to write: `.safetensors`, `.pt` or `.pth`
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: PathBuf,
    /// How the layers of a ResNet are named
    #[arg(long, value_enum, default_value = "common")]
    pub(crate) names: Names,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Names {
    /// `shortcut.0`, `linear`: as in most PyTorch networks for CIFAR
    Common,
    /// `downsample.0`, `fc`
    Torchvision,
}

/// Remove a backdoor: retrain with sampled triggers under true labels
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  mesa defend bad.safetensors --with g90.safetensors -o good.safetensors
  mesa defend bad.safetensors --with g90.safetensors g80.safetensors g50.safetensors -o good.safetensors
  mesa defend bad.safetensors --control no-trigger -o control.safetensors
  mesa defend bad.safetensors --control ideal --trigger 170 -o ideal.safetensors

Several sub-models take turns, one in each epoch; with --weighted each image's
trigger is drawn from one of them with its weight γ, which is measured first.
The patches of `--control random` have the size that the settings give triggers
(`mesa.trigger_shape`).
The settings are those of the preset `cpu` unless --preset or --config says
otherwise. Stopped or killed, the same command goes on from FILE.state.")]
pub(crate) struct Defend {
    /// The backdoored network (safetensors, .pt, .pth)
    #[arg(value_name = "MODEL")]
    pub(crate) model: PathBuf,
    #[command(flatten)]
    pub(crate) normalize: NormalizeArgs,
    /// Sub-models to draw triggers from, as `mesa fit` writes them
    #[arg(long, value_name = "SUB_MODEL", num_args = 1.., required_unless_present = "control")]
    pub(crate) with: Vec<PathBuf>,
    /// Mix several sub-models by their weights γ
    #[arg(long, requires = "with")]
    pub(crate) weighted: bool,
    /// Retrain with something other than a model of the triggers
    #[arg(long, value_enum, conflicts_with = "with")]
    pub(crate) control: Option<Control>,
    /// The attacker's own trigger, for `--control ideal`: a number, a name or a file, as for
    /// `mesa attack`
    #[arg(long, required_if_eq("control", "ideal"))]
    pub(crate) trigger: Option<String>,
    /// The share that the attacker's trigger makes up of the whole image, where it is blended
    #[arg(long, value_name = "SHARE", requires = "trigger", value_parser = share)]
    pub(crate) blend: Option<f32>,
    /// The attacked class, for `--control point`
    #[arg(long, value_name = "CLASS", requires = "control", required_if_eq("control", "point"), value_parser = class_number)]
    pub(crate) target: Option<u32>,
    /// File to write the repaired network to
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: PathBuf,
    #[command(flatten)]
    pub(crate) data: DataArgs,
    #[command(flatten)]
    pub(crate) running: Running,
    #[command(flatten)]
    pub(crate) preset: PresetArgs,
    /// Where triggers are stamped: `per-image` (anywhere), `per-batch`, or `fixed:ROW,COLUMN` of
    /// their top-left pixel [default: where the sub-models were fitted, else that of the settings,
    /// anywhere]
    #[arg(long, value_name = "PLACES", conflicts_with = "blend")]
    pub(crate) placement: Option<Placement>,
    /// Passes over the modeling split
    #[arg(long)]
    pub(crate) epochs: Option<usize>,
    /// Learning rate
    #[arg(long)]
    pub(crate) learning_rate: Option<f64>,
    /// Share of images that are stamped
    #[arg(long)]
    pub(crate) poison_rate: Option<f64>,
    /// Seed of the order, the stamped images, the places and the samples
    #[arg(long, default_value_t = 0)]
    pub(crate) seed: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Control {
    /// The attacker's own trigger: about the best that can be hoped for
    Ideal,
    /// The same retraining with nothing stamped
    NoTrigger,
    /// The same retraining with uniform random patches
    Random,
    /// Training on as if the network were clean, with shifts and flips: the settings'
    /// `fine_tune`
    FineTune,
    /// The baseline: one trigger against `--target`, reversed by SGD on its pixels
    Point,
}

/// Measure a network's accuracy and how far a trigger works
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  mesa evaluate good.safetensors --trigger 170 --target 0
  mesa evaluate good.safetensors --with g90.safetensors
  mesa evaluate bad.safetensors --trigger sticker.png --target 0
  mesa evaluate bad.safetensors --trigger photo.png --blend 0.2 --target 0
  mesa evaluate clean.safetensors --split test --json
  mesa evaluate resnet18.pth --normalize cifar10

clean_accuracy     share of images given their true class
asr                share of stamped images, not of the target class, given the target class
samples            with --with: that of triggers which MESA has modeled, for those who do not have the
                   attacker's own
regained_accuracy  share of those images given their true class all the same

`evaluation` is the test images that neither modeling nor retraining sees:
2,000 of CIFAR-10's in all presets. `test` is all of them; a repaired network,
which has seen the others, is refused. The split and, without --placement, the
places of the trigger are those of the preset `cpu` unless --preset or --config
says otherwise; a network that was repaired with another split is refused.
Without --trigger the last two are null in the JSON.

State dicts that PyTorch saved (.pt, .pth, or .pth.tar before version 1.6) are
read where their layers are those of a ResNet, PreActResNet or WideResNet for
32×32 images; nothing in them is executed. They do not say how images are
normalized: --normalize does.")]
pub(crate) struct Evaluate {
    /// The network (safetensors, .pt, .pth)
    #[arg(value_name = "MODEL")]
    pub(crate) model: PathBuf,
    #[command(flatten)]
    pub(crate) normalize: NormalizeArgs,
    /// The trigger to stamp: a number, a name or a file, as for `mesa attack`
    #[arg(long, requires = "target")]
    pub(crate) trigger: Option<String>,
    /// Sub-models of `mesa fit` or `mesa detect`, samples of which are stamped; they say the class
    #[arg(long, value_name = "SUB_MODEL", num_args = 1..)]
    pub(crate) with: Vec<PathBuf>,
    /// Mix the pattern with the whole image, of which it makes up this share, instead of stamping
    /// it; a picture is resized to the image
    #[arg(long, value_name = "SHARE", requires = "trigger", value_parser = share)]
    pub(crate) blend: Option<f32>,
    /// Where it is stamped: `per-image` (anywhere), `per-batch`, or `fixed:ROW,COLUMN` of its top-left
    /// pixel [default: where a sub-model was fitted; that of the settings, anywhere]
    #[arg(long, value_name = "PLACES", conflicts_with = "blend")]
    pub(crate) placement: Option<Placement>,
    /// The attacked class; with a trigger it has to be named, a sub-model says it
    #[arg(long, value_name = "CLASS", value_parser = class_number)]
    pub(crate) target: Option<u32>,
    /// Which images
    #[arg(long, value_enum, default_value = "evaluation")]
    pub(crate) split: SplitName,
    #[command(flatten)]
    pub(crate) data: DataArgs,
    #[command(flatten)]
    pub(crate) device: DeviceArgs,
    #[command(flatten)]
    pub(crate) preset: PresetArgs,
    /// Seed of the places
    #[arg(long, default_value_t = 0)]
    pub(crate) seed: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum SplitName {
    /// The test images kept for evaluation
    Evaluation,
    /// All test images
    Test,
}

/// A share of an image: more than nothing, at most all.
fn share(text: &str) -> Result<f32, String> {
    match text.parse::<f32>() {
        Ok(share) if share > 0.0 && share <= 1.0 => Ok(share),
        _ => Err(format!(
            "`{text}` is not a share of an image; write 0.2 for a fifth"
        )),
    }
}

/// The number of a class.
fn class_number(text: &str) -> Result<u32, String> {
    text.parse().map_err(|_| {
        format!(
            "`{text}` is no class number; write 0 for the first class (`mesa data --json` names the \
             classes in order)"
        )
    })
}
