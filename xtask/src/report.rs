//! `cargo xtask report`: tables and pictures of the committed records.

use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result};

use crate::workspace;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Write nothing; fail where a committed table is not what the records say
    #[arg(long)]
    pub(crate) check: bool,
}

/// Starts `mesa report`, which reads `docs/records` and writes `docs/report.html`, `docs/results.md`,
/// `docs/results.csv`, README's figure, and the blocks of README and `docs/performance.md`.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let mesa = workspace::build(["--bin", "mesa"])?;
    let status = Command::new(mesa)
        .current_dir(workspace::root()?)
        .arg("report")
        .args(args.check.then_some("--check"))
        .status()
        .context("starting mesa report")?;
    Ok(workspace::exit_code(status))
}
