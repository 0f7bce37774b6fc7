//! `cargo xtask test`: the whole test suite.

use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result};

use crate::workspace;

#[derive(clap::Args, Default)]
pub(crate) struct Args {
    /// Passed on to `cargo test`, such as a part of a test's name
    #[arg(
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "ARG"
    )]
    rest: Vec<String>,
}

/// Runs unit, integration and documentation tests of every crate and compiles
/// every example. Format, clippy, docs and the smoke run belong to `ci`.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let status = Command::new(workspace::cargo())
        .current_dir(workspace::root()?)
        .args(["test", "--workspace"])
        .args(&args.rest)
        // A reader's settings are not the tests': they bring their own data.
        .env_remove("MESA_DATA")
        // Nor is the network.
        .env("HF_HUB_OFFLINE", "1")
        .status()
        .context("starting cargo")?;
    Ok(workspace::exit_code(status))
}
