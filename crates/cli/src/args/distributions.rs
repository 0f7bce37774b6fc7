//! `mesa distributions`.

use std::ops::Range;

use clap::Args;

use super::runs::seeds;
use super::{PresetArgs, Running, Selection, Sources, beta};

/// Draw the triggers that an attacked network answers to, for several β and α
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  mesa distributions                             trigger 170: β 0.9, 0.8, 0.5; α 0, 0.1, 10
  mesa distributions --triggers 16 --alphas 0,1 --alpha-beta 0.5
  mesa distributions --preset quick --data synthetic -n 64

Models the triggers of each network for every β of the settings, and at one β
(--alpha-beta) for every α. Draws samples of each model, and places them as
little patches on two planes that all of them share: the first two principal
components, and t-SNE. The attacker's trigger is marked; no model has seen it.

Writes distribution.json, pca-beta.svg, pca-alpha.svg, tsne-beta.svg and
tsne-alpha.svg to distributions/TRIGGER-seed-SEED in the run folder, and prints
a table. The run folder is that of `mesa run`: what either has attacked and
modeled the other reuses. Stopped or killed, the same command goes on where it
was. The settings are those of the preset `cpu` unless --preset or --config says
otherwise.")]
pub(crate) struct Distributions {
    #[command(flatten)]
    pub(crate) preset: PresetArgs,
    /// Triggers of the networks: numbers, `color:0` … `color:9`, `all` for
    /// the 51 patterns, separated by commas
    #[arg(long, value_name = "LIST", default_value = "170")]
    pub(crate) triggers: String,
    /// Seeds, half-open: `0..3` is 0, 1 and 2
    #[arg(long, value_name = "RANGE", default_value = "0..1", value_parser = seeds)]
    pub(crate) seeds: Range<u64>,
    /// Weights α of the entropy to compare, per nat, separated by commas
    #[arg(
        long,
        value_name = "LIST",
        default_value = "0,0.1,10",
        value_delimiter = ',',
        value_parser = alpha
    )]
    pub(crate) alphas: Vec<f64>,
    /// The threshold β at which they are compared, in (0, 1)
    #[arg(long, value_name = "BETA", default_value = "0.9", value_parser = beta)]
    pub(crate) alpha_beta: f64,
    /// Samples of each model
    #[arg(
        short = 'n',
        long,
        default_value_t = 128,
        value_parser = clap::value_parser!(u16).range(2..=512)
    )]
    pub(crate) count: u16,
    #[command(flatten)]
    pub(crate) sources: Sources,
    #[command(flatten)]
    pub(crate) running: Running,
}

impl Distributions {
    /// The networks, as `mesa run` is told them.
    pub(crate) fn selection(&self) -> Selection {
        Selection {
            preset: self.preset.clone(),
            triggers: Some(self.triggers.clone()),
            seeds: Some(self.seeds.clone()),
            methods: None,
            sources: self.sources.clone(),
            shard: None,
            go_on: false,
        }
    }
}

fn alpha(text: &str) -> Result<f64, String> {
    match text.trim().parse::<f64>() {
        Ok(alpha) if alpha.is_finite() && alpha >= 0.0 => Ok(alpha.abs()),
        _ => Err(format!("α is a number of 0 or more, not `{text}`")),
    }
}
