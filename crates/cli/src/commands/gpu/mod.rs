//! `mesa gpu`: whether a GPU computes what the processor does, how fast, and beside PyTorch.

#[cfg(feature = "cuda")]
mod all;
#[cfg(feature = "cuda")]
mod check;
#[cfg(feature = "cuda")]
mod compare;
#[cfg(feature = "cuda")]
mod layers;
#[cfg(feature = "cuda")]
mod measure;
#[cfg(feature = "cuda")]
mod norms;
mod pack;
#[cfg(feature = "cuda")]
mod steps;
#[cfg(feature = "cuda")]
mod timer;

// What needs no GPU is tested without one.
#[cfg(any(feature = "cuda", test))]
#[cfg_attr(not(feature = "cuda"), allow(dead_code))]
mod peer;
#[cfg(any(feature = "cuda", test))]
#[cfg_attr(not(feature = "cuda"), allow(dead_code))]
mod record;
#[cfg(any(feature = "cuda", test))]
#[cfg_attr(not(feature = "cuda"), allow(dead_code))]
mod rounds;
#[cfg(any(feature = "cuda", test))]
#[cfg_attr(not(feature = "cuda"), allow(dead_code))]
mod shapes;

use std::process::ExitCode;

use anyhow::Result;

use crate::args::{GpuAction, GpuCommand};
use crate::logging;

#[cfg_attr(
    not(feature = "cuda"),
    expect(
        unused_variables,
        reason = "only what takes the GPU shares threads out"
    )
)]
pub(crate) fn run(args: &GpuCommand, json: bool, threads: usize) -> Result<ExitCode> {
    // `all` logs to its run folder as well.
    if cfg!(not(feature = "cuda")) || !matches!(args.action, GpuAction::All(_)) {
        logging::start(None)?;
    }
    match &args.action {
        #[cfg(feature = "cuda")]
        GpuAction::All(args) => all::run(args, json, threads),
        #[cfg(feature = "cuda")]
        GpuAction::Check(args) => check::run(args, json),
        #[cfg(feature = "cuda")]
        GpuAction::Measure(args) => measure::run(args, json),
        #[cfg(not(feature = "cuda"))]
        GpuAction::Check(_) | GpuAction::Measure(_) | GpuAction::All(_) => anyhow::bail!(
            "this build computes on the processor only; build one that uses an NVIDIA GPU with \
             `cargo build --release --features cuda`"
        ),
        GpuAction::Pack(args) => pack::pack(args, json).map(|()| ExitCode::SUCCESS),
        GpuAction::Unpack(args) => pack::unpack(args, json).map(|()| ExitCode::SUCCESS),
    }
}
