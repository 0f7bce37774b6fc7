//! `cargo xtask golden`: the PyTorch reference vectors in `tests/golden`.

use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result};

use crate::workspace;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Write nothing; fail where the committed vectors differ from fresh ones
    #[arg(long)]
    check: bool,
}

/// Starts the script that writes (or compares) the vectors. The tests read the
/// committed files and need no PyTorch.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let Some(python) = workspace::python_with_torch("the reference vectors' script") else {
        return Ok(ExitCode::FAILURE);
    };
    let status = Command::new(python)
        .current_dir(workspace::root()?)
        .arg("tests/golden/generate.py")
        .args(args.check.then_some("--check"))
        .status()
        .context("starting Python")?;
    Ok(workspace::exit_code(status))
}
