//! `cargo xtask gpu`: builds `mesa` for an NVIDIA GPU, checks it there, and measures it.

use std::{
    env,
    ffi::OsString,
    path::PathBuf,
    process::{Command, ExitCode},
};

use anyhow::{Context as _, Result};

use crate::workspace;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Folder of gpu.json, with --all of everything [default: runs/gpu, or runs/gpu-all]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Only the check
    #[arg(long)]
    check: bool,
    /// `mesa gpu all`: the check, the measurement, the paper's main result, an archive
    #[arg(long, conflicts_with = "check")]
    all: bool,
    /// Further options of `mesa gpu all`: `cargo xtask gpu --all -- --minutes 60`
    #[arg(last = true, value_name = "OPTION", requires = "all")]
    more: Vec<OsString>,
}

/// Starts `mesa gpu check`, then `mesa gpu measure`: a card is hard to come by, so a comparison that
/// misses its tolerance ends this with 1, and not before the rest is measured. The evaluation takes
/// half an hour and is started only if it is asked for.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let mesa = workspace::build_with(["--bin", "mesa"], &["--features", "mesa-cli/cuda"])?;
    let commands: &[&str] = match (args.all, args.check) {
        (true, _) => &["all"],
        (_, true) => &["check"],
        _ => &["check", "measure"],
    };
    // From where the user stands, not from the root.
    let here = env::current_dir().context("reading the current folder")?;
    let out = args.out.as_ref().map(|out| here.join(out));
    let out: Vec<_> = out
        .iter()
        .flat_map(|out| ["--out".as_ref(), out.as_os_str()])
        .collect();
    let mut code = ExitCode::SUCCESS;
    for command in commands {
        let status = Command::new(&mesa)
            .current_dir(workspace::root()?)
            .args(["gpu", command])
            .args(&out)
            .args(&args.more)
            .status()
            .with_context(|| format!("starting mesa gpu {command}"))?;
        if !status.success() {
            code = workspace::exit_code(status);
        }
    }
    Ok(code)
}
