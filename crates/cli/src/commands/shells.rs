//! `mesa completions` and `mesa man`: what shells and `man` know about this program.

use std::path::Path;

use anyhow::{Context, Result};
use clap::builder::PossibleValuesParser;
use clap::{Command, CommandFactory};
use clap_mangen::Man as Page;
use serde_json::json;

use crate::args::{Cli, Completions, Man};
use crate::output::{self, Usage};
use crate::presets;

pub(crate) fn completions(args: &Completions, json: bool) -> Result<()> {
    if json {
        let reason = "--json: completions are a script, whatever is asked for";
        return Err(Usage(reason.to_owned()).into());
    }
    let mut script = Vec::new();
    let mut command = with_presets(Cli::command());
    clap_complete::generate(args.shell, &mut command, "mesa", &mut script);
    output::text(&String::from_utf8(script)?)
}

/// A command that knows which presets there are. Where a preset is taken none but these are refused
/// as well, but with other words and by another exit code.
fn with_presets(command: Command) -> Command {
    let takes_one = command.get_arguments().any(|arg| arg.get_id() == "preset");
    let command = if takes_one {
        command.mut_arg("preset", |arg| {
            arg.value_parser(PossibleValuesParser::new(presets::names()))
        })
    } else {
        command
    };
    command.mut_subcommands(with_presets)
}

pub(crate) fn man(args: &Man, json: bool) -> Result<()> {
    super::check_no_file(&args.folder)?;
    fs_err::create_dir_all(&args.folder)?;
    let mut command = Cli::command().disable_help_subcommand(true);
    command.build();
    let mut written = Vec::new();
    write_pages(&command, &args.folder, &mut written)
        .with_context(|| format!("writing to {}", args.folder.display()))?;
    if json {
        output::text(&serde_json::to_string_pretty(
            &json!({ "written": written }),
        )?)?;
    }
    Ok(())
}

/// Writes the page of a command and those of the commands below it.
fn write_pages(command: &Command, folder: &Path, written: &mut Vec<String>) -> Result<()> {
    for below in command.get_subcommands() {
        write_pages(below, folder, written)?;
    }
    let path = Page::new(command.clone()).generate_to(folder)?;
    written.push(path.display().to_string());
    Ok(())
}
