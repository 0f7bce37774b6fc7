//! The commands that tell shells and `man` about this program.

use std::path::PathBuf;

use clap::Args;
use clap_complete::Shell;

/// Print the completions of a shell
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  mesa completions bash > ~/.local/share/bash-completion/completions/mesa
  mesa completions zsh > ~/.zfunc/_mesa
  mesa completions fish > ~/.config/fish/completions/mesa.fish")]
pub(crate) struct Completions {
    /// The shell
    #[arg(value_name = "SHELL")]
    pub(crate) shell: Shell,
}

/// Write the manual pages
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  mesa man ~/.local/share/man/man1

Writes mesa.1 and a page for each command, such as mesa-evaluate.1.")]
pub(crate) struct Man {
    /// Folder to write to; made if there is none
    #[arg(value_name = "DIR")]
    pub(crate) folder: PathBuf,
}
