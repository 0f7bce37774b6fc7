//! Integration tests: the `mesa` program from outside, the presets, reference vectors.

#![allow(
    clippy::unwrap_used,
    reason = "a test that fails may panic, its helpers too"
)]

mod cli;
mod detect;
mod distributions;
mod golden;
mod hub;
mod own_files;
mod pipeline;
mod presets;
mod program;
mod pytorch;
mod report;
mod signals;
