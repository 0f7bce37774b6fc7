//! `mesa export`: write a network in another format.

use std::path::Path;

use anyhow::Result;
use mesa_models::{LayerNames, Normalization, save_network_as};
use serde::Serialize;

use crate::args::{Export, Names};
use crate::output::Usage;
use crate::{inputs, logging, output};

#[derive(Serialize)]
struct Exported {
    output: String,
    architecture: String,
    width: usize,
    num_classes: usize,
    normalization: Normalization,
    parameters: usize,
}

pub(crate) fn run(args: &Export, json: bool) -> Result<()> {
    logging::start(None)?;
    super::check_not_input(&args.output, [args.model.as_path()])?;
    super::check_output(&args.output)?;
    check_extension(&args.output)?;
    let loaded = inputs::network(&args.model, args.normalize.normalize)?;
    let mut made_by = super::made_by(&[("model_sha256", loaded.sha256)]);
    // What made the weights says more than what copied them.
    made_by.extend(loaded.info.made_by);
    let names = match args.names {
        Names::Common => LayerNames::Common,
        Names::Torchvision => LayerNames::Torchvision,
    };
    save_network_as(&args.output, &loaded.network, &made_by, names)?;
    let config = loaded.info.config;
    let exported = Exported {
        output: args.output.display().to_string(),
        architecture: config.architecture.name(),
        width: config.width,
        num_classes: config.num_classes,
        normalization: loaded.info.normalization,
        parameters: loaded.network.parameter_count(),
    };
    let plain = format!(
        "{}: {} of width {}, {} classes, {} parameters, images normalized by {}",
        exported.output,
        config.architecture,
        exported.width,
        exported.num_classes,
        exported.parameters,
        exported.normalization
    );
    output::result(json, &exported, &plain)
}

fn check_extension(path: &Path) -> Result<()> {
    let extension = path.extension().and_then(|extension| extension.to_str());
    if matches!(extension, Some("safetensors" | "pt" | "pth")) {
        return Ok(());
    }
    let reason = format!(
        "{}: name a file that ends in .safetensors, .pt or .pth",
        path.display()
    );
    Err(Usage(reason).into())
}
