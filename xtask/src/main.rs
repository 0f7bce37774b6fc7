//! The workspace's own tasks. `cargo xtask --help` lists them.
//!
//! Nothing here links candle: this program answers in seconds, also on a fresh
//! clone, and starts `mesa` for whatever needs tensors.

mod bench;
mod ci;
mod golden;
mod gpu;
mod report;
mod reproduce;
mod suite;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(
    name = "cargo xtask",
    bin_name = "cargo xtask",
    about = "The workspace's own tasks"
)]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Run every test and doctest, as CI does
    Test(suite::Args),
    /// Run the checks of CI, cheapest first, or one of them
    Ci(ci::Args),
    /// Rewrite the PyTorch reference vectors, or compare them
    Golden(golden::Args),
    /// Measure the hot path; with --peer, side by side with PyTorch
    Bench(bench::Args),
    /// Build `mesa` for an NVIDIA GPU, check it there and measure it
    Gpu(gpu::Args),
    /// Build `mesa` and make the table of a preset: attack, MESA, repair, evaluation
    Reproduce(Box<reproduce::Args>),
    /// Write the tables and pictures of the committed records
    Report(report::Args),
}

fn main() -> ExitCode {
    let done = match Cli::parse().task {
        Task::Test(args) => suite::run(&args),
        Task::Ci(args) => ci::run(&args),
        Task::Golden(args) => golden::run(&args),
        Task::Bench(args) => bench::run(&args),
        Task::Gpu(args) => gpu::run(&args),
        Task::Reproduce(args) => reproduce::run(&args),
        Task::Report(args) => report::run(&args),
    };
    match done {
        Ok(code) => code,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}
