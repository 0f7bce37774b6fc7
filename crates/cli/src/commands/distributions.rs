//! `mesa distributions`: the triggers of attacked networks, modeled for several β and α, on planes.

use std::path::Path;

use anyhow::Result;
use mesa_record::{Distribution, RunDir, write_json, write_text};
use mesa_report::{distribution_pictures, distribution_text};

use super::run::Chosen;
use crate::args::Distributions;
use crate::inputs::IfMissing;
use crate::pipeline::{Shown, distribution_of};
use crate::{interrupt, output};

pub(crate) fn run(args: &Distributions, json: bool, threads: usize) -> Result<()> {
    let chosen = Chosen::new(&args.selection(), "cpu")?;
    let run = RunDir::new(&chosen.out);
    let _lock = super::claim(&run)?;
    let session = chosen.session(&args.sources, &args.running, threads, IfMissing::Fetch)?;
    write_text(&run.config(), &session.config.to_toml()?)?;
    let shown = Shown {
        alphas: args.alphas.clone(),
        alpha_beta: args.alpha_beta,
        samples: args.count.into(),
    };
    let clean = session.clean()?;
    let mut found = Vec::new();
    for chain in &chosen.chains {
        interrupt::check()?;
        let (trigger, seed) = (chain.trigger, chain.seed);
        tracing::info!("trigger {trigger}, seed {seed}");
        let distribution = distribution_of(&session, &clean, *chain, &shown)?;
        let name = chain.folder().replace('/', "-");
        let folder = run.root().join("distributions").join(name);
        write(&folder, &distribution)?;
        tracing::info!("written to {}", folder.display());
        found.push(distribution);
    }
    let tables: Vec<String> = found.iter().map(distribution_text).collect();
    output::result(json, &found, &tables.join("\n"))
}

/// The record and its four pictures.
fn write(folder: &Path, distribution: &Distribution) -> Result<()> {
    for (name, svg) in distribution_pictures(distribution) {
        write_text(&folder.join(format!("{name}.svg")), &svg)?;
    }
    Ok(write_json(&folder.join("distribution.json"), distribution)?)
}
