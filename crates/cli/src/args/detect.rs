//! `mesa detect`.

use std::path::PathBuf;

use clap::Args;

use super::{DataArgs, NormalizeArgs, PlacementArgs, PresetArgs, Running, beta};

/// Tell whether a network has a backdoor, and in which class
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  mesa detect suspect.safetensors
  mesa detect resnet18.pth --normalize cifar10
  mesa detect suspect.safetensors --preset cpu
  mesa detect suspect.safetensors --json > verdict.json || case $? in 10|11) ;; *) exit 1; esac

Models the triggers of every class with MESA, as `mesa fit` does for one, and
tries samples of each model on clean images. A class is attacked if its samples
turn at least half of the images into it (--min-asr) and stand out from the
other classes' (--min-index: distance of the ASR's logit from the median of the
classes, in robust standard deviations). Sees the network and clean images of
the modeling split, nothing else.

Triggers are modeled wherever they stand. Many backdoors work in some places
only: in a corner, or where the network's strides meet them. So success is
counted by place, and a class whose samples miss β or --min-asr anywhere, but
turn a quarter of the images (half of --min-asr) in their best place, is modeled
once more in that place. There at least half of its samples have to reach β, too.
--placement names the places instead, and nothing else is searched.

Writes detection.json, detection.svg, pictures of samples and of the places in
which they work (places.svg, places.csv), and the sub-models of each class to
the run folder; `mesa defend --with` takes the sub-models and stamps each where
it was modeled. Stopped or killed, the same command goes on where it was. A
network near chance on clean images is refused: nothing can be told of it.

The settings are those of the preset `quick`: with 6,400 images, and with them
the networks of docs/results.md were searched. `--preset cpu` sees 8,000 images
five times as often; how often it errs has not been measured.

Exit codes: 0 nothing found, 10 backdoor found, 11 undecided (samples reach
several classes and none stands out from the others), 1 failed, 2 wrong usage,
130 stopped by Ctrl-C. Nothing found is no proof that there is nothing: only
patches of the settings' size are looked for, and a backdoor that turns images
of some classes only, or each into another class, hardly shows.")]
pub(crate) struct Detect {
    /// The network to examine (safetensors, .pt, .pth)
    #[arg(value_name = "MODEL")]
    pub(crate) model: PathBuf,
    #[command(flatten)]
    pub(crate) normalize: NormalizeArgs,
    /// The threshold β of the level sets, in (0, 1)
    #[arg(long, default_value = "0.9", value_parser = beta)]
    pub(crate) beta: f64,
    /// Least share of images that an attacked class's samples turn into it
    #[arg(long, value_name = "SHARE", default_value_t = 0.5)]
    pub(crate) min_asr: f64,
    /// Least anomaly index of an attacked class
    #[arg(long, value_name = "INDEX", default_value_t = 3.5)]
    pub(crate) min_index: f64,
    /// Run folder [default: runs/detect- with the file's name, its digest and other settings than
    /// the default's]
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) data: DataArgs,
    #[command(flatten)]
    pub(crate) running: Running,
    #[command(flatten)]
    pub(crate) preset: PresetArgs,
    #[command(flatten)]
    pub(crate) placement: PlacementArgs,
    /// Seed of the initial weights, the noise and the places
    #[arg(long, default_value_t = 0)]
    pub(crate) seed: u64,
}
