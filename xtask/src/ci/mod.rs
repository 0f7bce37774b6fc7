//! `cargo xtask ci`: the checks of CI, cheapest first.

mod cuda;
mod smoke;

use std::{env, process::ExitCode};

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum;
use xshell::{Shell, cmd};

use crate::{report, suite, workspace};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only this step
    #[arg(value_enum)]
    step: Option<Step>,
}

/// In the order in which they run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Step {
    /// Formatting
    Fmt,
    /// What this program must not link
    Tree,
    /// Spelling, where `typos` is installed
    Typos,
    /// Unused dependencies, where cargo-machete is installed
    Machete,
    /// Licenses and advisories, where cargo-deny is installed
    Deny,
    /// Lints, warnings denied
    Clippy,
    /// The feature `cuda`, compiled, linted and its host logic tested, where nvcc is installed
    Cuda,
    /// The pages of every crate, warnings denied
    Doc,
    /// Whether every crate can be packaged
    Package,
    /// The whole test suite
    Test,
    /// A project outside of the workspace that takes two of its crates by path
    Embed,
    /// The preset `quick` on the built-in data, its figures held to bars
    Quick,
    /// Whether the committed tables are what the records say
    Report,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let shell = workspace::shell()?;
    let steps = args
        .step
        .as_ref()
        .map_or(Step::value_variants(), std::slice::from_ref);
    for &step in steps {
        let name = step
            .to_possible_value()
            .map(|value| value.get_name().to_owned());
        let name = name.unwrap_or_default();
        eprintln!("xtask: {name}");
        take(&shell, step).with_context(|| format!("the step {name} failed"))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn take(shell: &Shell, step: Step) -> Result<()> {
    let cargo = workspace::cargo();
    match step {
        Step::Fmt => cmd!(shell, "{cargo} fmt --all --check").run()?,
        Step::Tree => tree(shell)?,
        Step::Typos => if_installed(shell, "typos", &["typos"], &[])?,
        Step::Machete => if_installed(shell, "cargo-machete", &["cargo", "machete"], &[])?,
        Step::Deny => if_installed(shell, "cargo-deny", &["cargo", "deny"], &["check"])?,
        Step::Clippy => {
            cmd!(
                shell,
                "{cargo} clippy --workspace --all-targets -- -D warnings"
            )
            .run()?;
        }
        Step::Cuda => cuda::run(shell)?,
        Step::Doc => cmd!(shell, "{cargo} doc --workspace --no-deps")
            .env("RUSTDOCFLAGS", "-D warnings")
            .run()?,
        Step::Package => package(shell)?,
        Step::Test => succeed(suite::run(&suite::Args::default())?)?,
        Step::Embed => embed(shell)?,
        Step::Quick => smoke::run()?,
        Step::Report => succeed(report::run(&report::Args { check: true })?)?,
    }
    Ok(())
}

fn succeed(code: ExitCode) -> Result<()> {
    if code == ExitCode::SUCCESS {
        Ok(())
    } else {
        bail!("it ended with a failure")
    }
}

/// Fails if this program links candle: `cargo xtask` has to answer in seconds.
fn tree(shell: &Shell) -> Result<()> {
    let cargo = workspace::cargo();
    // Where the package is not in the tree, cargo fails or prints nothing,
    // depending on its version.
    let found = cmd!(
        shell,
        "{cargo} tree --package xtask --edges normal,build --prefix none"
    )
    .quiet()
    .read()?;
    if let Some(line) = found.lines().find(|line| line.starts_with("candle")) {
        bail!("xtask links {line}");
    }
    Ok(())
}

/// Packages what would be published, without building it again.
fn package(shell: &Shell) -> Result<()> {
    let cargo = workspace::cargo();
    Ok(cmd!(
        shell,
        "{cargo} package --workspace --exclude xtask --no-verify --allow-dirty --quiet"
    )
    .run()?)
}

/// Builds and runs `examples/own-testing-function`, with the workspace's versions and in its target
/// folder, so that what is built is not built again.
fn embed(shell: &Shell) -> Result<()> {
    let (cargo, root) = (workspace::cargo(), workspace::root()?);
    let project = root.join("examples/own-testing-function");
    shell.copy_file(root.join("Cargo.lock"), project.join("Cargo.lock"))?;
    let target = env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| root.join("target").into());
    let _inside = shell.push_dir(project);
    cmd!(shell, "{cargo} fmt --check").run()?;
    Ok(cmd!(shell, "{cargo} run --release")
        .env("CARGO_TARGET_DIR", target)
        .run()?)
}

fn if_installed(shell: &Shell, name: &str, program: &[&str], arguments: &[&str]) -> Result<()> {
    let (first, rest) = program.split_first().context("a program has a name")?;
    let installed = cmd!(shell, "{first} {rest...} --version")
        .quiet()
        .ignore_stderr();
    if installed.ignore_stdout().run().is_err() {
        eprintln!("xtask: skipped, {name} is not installed");
        return Ok(());
    }
    Ok(cmd!(shell, "{first} {rest...} {arguments...}").run()?)
}
