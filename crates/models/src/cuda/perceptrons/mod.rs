//! MESA's two perceptrons on a GPU, in f32: the layers of `layers.rs` and the optimizer of `adam.rs`.
//! Noise, triggers, scores and their gradients pass through the host, some kilobytes for each step;
//! the losses made of them are computed there.

mod generator;
mod learned;
mod statistics;

use std::collections::HashMap;

pub(crate) use generator::CudaGenerator;
pub(crate) use statistics::CudaStatistics;

use crate::perceptron_trainers::unmade;
use crate::{Error, Result};

/// Batch sizes and passes whose work stays recorded.
const MOST_RECORDED: usize = 8;

fn batch_of<B>(batches: &mut HashMap<usize, B>, rows: usize) -> Result<&mut B> {
    batches.get_mut(&rows).ok_or_else(|| unmade("buffers"))
}

fn check_len(what: &'static str, found: usize, expected: usize) -> Result<()> {
    if found == expected {
        return Ok(());
    }
    Err(Error::Batch {
        what,
        expected: expected.to_string(),
        found: found.to_string(),
    })
}
