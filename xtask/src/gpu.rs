//! `cargo xtask gpu`: builds `mesa` for an NVIDIA GPU, checks it there, and measures it.

use std::{
    path::PathBuf,
    process::{Command, ExitCode},
};

use anyhow::{Context as _, Result};

use crate::workspace;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Folder of gpu.json
    #[arg(long, value_name = "DIR", default_value = "runs/gpu")]
    out: PathBuf,
    /// Only the check
    #[arg(long)]
    check: bool,
}

/// Starts `mesa gpu check`, then `mesa gpu measure`: a card is hard to come by, so a comparison that
/// misses its tolerance ends this with 1, and not before the rest is measured.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let mesa = workspace::build_with(["--bin", "mesa"], &["--features", "mesa-cli/cuda"])?;
    let commands: &[&str] = if args.check {
        &["check"]
    } else {
        &["check", "measure"]
    };
    let mut code = ExitCode::SUCCESS;
    for command in commands {
        let status = Command::new(&mesa)
            .current_dir(workspace::root()?)
            .args(["gpu", command, "--out"])
            .arg(&args.out)
            .status()
            .with_context(|| format!("starting mesa gpu {command}"))?;
        if !status.success() {
            code = workspace::exit_code(status);
        }
    }
    Ok(code)
}
