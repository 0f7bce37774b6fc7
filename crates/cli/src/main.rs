//! The `mesa` command: parse, dispatch, exit code.

mod args;
mod augmented;
mod chosen_trigger;
mod commands;
mod computer;
mod config;
mod hub;
mod inputs;
mod interrupt;
mod ledger;
mod live;
mod logging;
mod method;
mod modeled_triggers;
mod modeling;
mod output;
mod pipeline;
mod presets;
mod progress;
mod queue;
mod resumable;
mod resume;
mod seen;
mod stages;

use std::process::ExitCode;

use clap::Parser;

use crate::args::{Cli, Command};
use crate::interrupt::{EXIT_INTERRUPTED, Interrupted};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = Cli::parse();
    if cli.quiet {
        progress::be_quiet();
    }
    interrupt::watch();
    let error = match run(cli) {
        Ok(code) => return code,
        Err(error) => error,
    };
    if let Some(stopped) = error.downcast_ref::<Interrupted>() {
        output::complain(&stopped.to_string());
        return ExitCode::from(EXIT_INTERRUPTED);
    }
    if let Some(usage) = error.downcast_ref::<output::Usage>() {
        output::complain(&format!(
            "error: {usage}\n\nFor more information, try '--help'."
        ));
        return ExitCode::from(2);
    }
    output::complain(&format!("error: {error:#}"));
    ExitCode::FAILURE
}

fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    interrupt::end_with_parent()?;
    let threads = commands::start_threads(cli.threads)?;
    let json = cli.json;
    match cli.command {
        Command::Data(args) => commands::data::run(&args, json),
        Command::Pretrain(args) => commands::pretrain::run(&args, json),
        Command::Detect(args) => return commands::detect::run(&args, json, threads),
        Command::Attack(args) => commands::attack::run(&args, json),
        Command::Fit(args) => commands::fit::run(&args, json),
        Command::Sample(args) => commands::sample::run(&args, json),
        Command::Defend(args) => commands::defend::run(&args, json),
        Command::Evaluate(args) => commands::evaluate::run(&args, json),
        Command::Export(args) => commands::export::run(&args, json),
        Command::Run(args) => commands::run::run(&args, json, threads),
        Command::Plan(args) => commands::plan::run(&args, json, threads),
        Command::Distributions(args) => commands::distributions::run(&args, json, threads),
        Command::Report(args) => commands::report::run(&args, json),
        Command::Gpu(args) => return commands::gpu::run(&args, json, threads),
        Command::Completions(args) => commands::shells::completions(&args, json),
        Command::Man(args) => commands::shells::man(&args, json),
    }?;
    Ok(ExitCode::SUCCESS)
}
