//! `mesa completions` and `mesa man`: what shells and `man` know about this program.

use anyhow::{Context, Result};
use clap::CommandFactory;

use crate::args::{Cli, Completions, Man};
use crate::output;

pub(crate) fn completions(args: &Completions) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "mesa", &mut script);
    output::text(&String::from_utf8(script)?)
}

pub(crate) fn man(args: &Man) -> Result<()> {
    fs_err::create_dir_all(&args.folder)?;
    clap_mangen::generate_to(Cli::command(), &args.folder)
        .with_context(|| format!("writing to {}", args.folder.display()))
}
