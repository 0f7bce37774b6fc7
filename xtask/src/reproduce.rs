//! `cargo xtask reproduce`: build `mesa` and become it.
//!
//! `mesa run` is the worker: it takes many runs one after the other, uses every
//! core and keeps its own records. With one worker there is nothing for a parent
//! to do, so on Unix this process turns into it: Ctrl-C, a kill and the exit
//! code then need no passing on, and no worker can outlive its parent.

use std::{
    env,
    ffi::OsString,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use anyhow::{Context as _, Result};

use crate::workspace;

/// What to reproduce; passed on to `mesa run` as it is.
#[derive(clap::Args, Clone, Default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is an option of the command line"
)]
pub(crate) struct Args {
    /// `quick` (one trigger, minutes on a CPU), `cpu` (the paper's schedule at
    /// width 16), `paper`, or another file's name in assets/presets [default: quick]
    #[arg(long, conflicts_with = "config")]
    preset: Option<String>,
    /// A file of settings, like those in assets/presets
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Pattern numbers, color:N or `all`, separated by commas
    #[arg(long, value_name = "LIST")]
    triggers: Option<String>,
    /// Seeds, half-open: `0..3` is 0, 1 and 2
    #[arg(long, value_name = "RANGE")]
    seeds: Option<String>,
    /// Only these methods, separated by commas
    #[arg(long, value_name = "LIST")]
    methods: Option<String>,
    /// A folder with CIFAR's binary files (or its parent), or `synthetic`
    #[arg(long, value_name = "DIR")]
    data: Option<OsString>,
    /// auto, cpu or cuda
    #[arg(long)]
    device: Option<String>,
    /// In what a GPU computes: bf16, tf32 or f32
    #[arg(long, value_name = "PRECISION")]
    precision: Option<String>,
    /// Let a GPU use algorithms that do not give the same bits every time
    #[arg(long)]
    nondeterministic: bool,
    /// Networks that are worked on at once
    #[arg(long, value_name = "N")]
    workers: Option<String>,
    /// Stop after so many minutes
    #[arg(long, value_name = "MINUTES")]
    time_limit: Option<String>,
    /// A clean network to start from
    #[arg(long, value_name = "FILE")]
    clean: Option<PathBuf>,
    /// Where records and checkpoints go [default: runs/PRESET]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Only the i-th of n parts of the sweep: `1/4` … `4/4`
    #[arg(long, value_name = "I/N")]
    shard: Option<String>,
    /// How often unfinished work is saved: `epoch`, or a number of seconds
    #[arg(long, value_name = "epoch|SECONDS")]
    save_every: Option<String>,
    /// Number of threads
    #[arg(long, value_name = "N")]
    threads: Option<String>,
    /// Take the committed records in docs/records as done
    #[arg(long = "continue")]
    go_on: bool,
    /// Show the plan and stop
    #[arg(long)]
    dry_run: bool,
    /// Tell nothing but warnings
    #[arg(short, long)]
    quiet: bool,
    /// Further options of `mesa run`, as they are: `cargo xtask reproduce --clean net.pth -- --normalize none`
    #[arg(last = true, value_name = "OPTION")]
    more: Vec<OsString>,
}

/// Builds `mesa` and starts it; on Unix a success does not return.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let here = env::current_dir().context("reading the current folder")?;
    let mut command = mesa_run(args, &here)?;
    become_it(&mut command)
}

/// Builds `mesa`; the command that runs what `args` ask for, or shows its plan.
pub(crate) fn mesa_run(args: &Args, here: &Path) -> Result<Command> {
    let root = workspace::root()?;
    let mut command = Command::new(workspace::build_with(["--bin", "mesa"], args.features())?);
    command
        .current_dir(&root)
        .arg("run")
        .args(args.dry_run.then_some("--dry-run"))
        .args(args.passed_on(&root, here));
    Ok(command)
}

#[cfg(unix)]
fn become_it(command: &mut Command) -> Result<ExitCode> {
    use std::os::unix::process::CommandExt as _;
    Err(command.exec()).context("starting mesa")
}

#[cfg(not(unix))]
fn become_it(command: &mut Command) -> Result<ExitCode> {
    Ok(workspace::exit_code(
        command.status().context("starting mesa")?,
    ))
}

impl Args {
    /// One preset on one data set, into `out`.
    pub(crate) fn of(preset: &str, data: &str, out: &Path) -> Self {
        Self {
            preset: Some(preset.to_owned()),
            data: Some(data.into()),
            out: Some(out.to_owned()),
            ..Self::default()
        }
    }

    /// What building takes besides: a GPU was asked for.
    fn features(&self) -> &'static [&'static str] {
        if self.device.as_deref() == Some("cuda") {
            &["--features", "cuda"]
        } else {
            &[]
        }
    }

    /// The arguments of `mesa run`: those that the user gave. It is started in
    /// the root, so paths are read from where the user stands.
    fn passed_on(&self, root: &Path, here: &Path) -> Vec<OsString> {
        let resolve = |path: &Path| -> OsString {
            if root == here {
                path.into()
            } else {
                here.join(path).into()
            }
        };
        let text = |value: &Option<String>| value.as_ref().map(OsString::from);
        let path = |value: &Option<PathBuf>| value.as_deref().map(resolve);
        let data = self.data.as_ref().map(|data| {
            if data == "synthetic" {
                data.clone()
            } else {
                resolve(Path::new(data))
            }
        });
        let mut passed_on: Vec<OsString> = Vec::new();
        for (name, value) in [
            ("--preset", text(&self.preset)),
            ("--config", path(&self.config)),
            ("--triggers", text(&self.triggers)),
            ("--seeds", text(&self.seeds)),
            ("--methods", text(&self.methods)),
            ("--data", data),
            ("--device", text(&self.device)),
            ("--precision", text(&self.precision)),
            ("--workers", text(&self.workers)),
            ("--time-limit", text(&self.time_limit)),
            ("--clean", path(&self.clean)),
            ("--out", path(&self.out)),
            ("--shard", text(&self.shard)),
            ("--save-every", text(&self.save_every)),
            ("--threads", text(&self.threads)),
        ] {
            if let Some(value) = value {
                passed_on.extend([name.into(), value]);
            }
        }
        if self.nondeterministic {
            passed_on.push("--nondeterministic".into());
        }
        if self.go_on {
            passed_on.push("--continue".into());
        }
        if self.quiet {
            passed_on.push("--quiet".into());
        }
        passed_on.extend_from_slice(&self.more);
        passed_on
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passes_on_what_was_given_and_nothing_else() {
        assert!(
            Args::default()
                .passed_on(Path::new("/w"), Path::new("/w"))
                .is_empty()
        );
        let args = Args {
            preset: Some("cpu".into()),
            triggers: Some("170,16".into()),
            go_on: true,
            ..Args::default()
        };
        let passed_on = args.passed_on(Path::new("/w"), Path::new("/w"));
        assert_eq!(
            passed_on,
            ["--preset", "cpu", "--triggers", "170,16", "--continue"]
        );
    }

    #[test]
    fn takes_what_readme_offers_and_passes_on_what_it_does_not_know() {
        #[derive(clap::Parser)]
        struct Line {
            #[command(flatten)]
            args: Args,
        }
        let line = "x --quiet --preset cpu --clean net.pth -- --normalize none".split(' ');
        let args = <Line as clap::Parser>::try_parse_from(line).unwrap().args;
        let passed_on = args.passed_on(Path::new("/w"), Path::new("/w"));
        let expected = "--preset cpu --clean net.pth --quiet --normalize none";
        assert_eq!(passed_on, expected.split(' ').collect::<Vec<_>>());
    }

    #[test]
    fn reads_paths_from_where_the_user_stands() {
        let args = Args {
            data: Some("cifar".into()),
            out: Some("/elsewhere".into()),
            ..Args::default()
        };
        let passed_on = args.passed_on(Path::new("/w"), Path::new("/w/docs"));
        assert_eq!(
            passed_on,
            ["--data", "/w/docs/cifar", "--out", "/elsewhere"]
        );
    }

    #[test]
    fn synthetic_data_is_no_path() {
        let args = Args {
            data: Some("synthetic".into()),
            ..Args::default()
        };
        assert_eq!(
            args.passed_on(Path::new("/w"), Path::new("/")),
            ["--data", "synthetic"]
        );
    }
}
