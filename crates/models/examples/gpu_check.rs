//! Compares every kernel, and whole steps of training and evaluation, on the first GPU with the
//! CPU: takes seconds, prints a line for each comparison, and fails if one misses its tolerance.
//!
//! ```sh
//! cargo run --release -p mesa-models --features cuda --example gpu_check
//! ```
#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::process::ExitCode;

use mesa_kernels::cuda::{Comparison, CudaDevice, check_kernels};
use mesa_models::cuda::check_steps;

fn main() -> ExitCode {
    match compare() {
        Ok(0) => ExitCode::SUCCESS,
        Ok(failed) => {
            println!("{failed} comparisons miss their tolerance");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("the check did not run to its end: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Prints all comparisons; returns how many miss their tolerance.
fn compare() -> Result<usize, mesa_models::Error> {
    let device = CudaDevice::open(0)?;
    println!("{}", device.name());
    let mut failed = 0;
    let mut print = |found: Vec<Comparison>| {
        for one in found {
            let verdict = if one.passed() { "ok" } else { "WRONG" };
            failed += usize::from(!one.passed());
            println!(
                "{verdict:5} {:4} {:.1e} of {:.0e}  {}",
                format!("{:?}", one.precision),
                one.error,
                one.tolerance,
                one.name
            );
        }
    };
    print(check_kernels(&device));
    print(check_steps(&device)?);
    Ok(failed)
}
