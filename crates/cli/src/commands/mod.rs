//! The subcommands, one file each.

pub(crate) mod attack;
pub(crate) mod data;
pub(crate) mod defend;
pub(crate) mod evaluate;
pub(crate) mod export;
pub(crate) mod fit;
pub(crate) mod plan;
pub(crate) mod pretrain;
pub(crate) mod report;
pub(crate) mod run;
pub(crate) mod sample;
pub(crate) mod shells;

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, bail};
use mesa_models::ENGINE_VERSION;
use mesa_record::{Key, Step};
use serde_json::Value;

/// Starts as many threads as asked for, or as there are processors; returns how many.
pub(crate) fn start_threads(asked: Option<u16>) -> Result<usize> {
    let available = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = asked.map_or(available, usize::from);
    rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .build_global()
        .context("starting the threads")?;
    Ok(threads)
}

/// The key of what a single command does.
fn key(kind: &str, data_digest: &str, config: Value) -> Key {
    Step::new(kind, ENGINE_VERSION, data_digest)
        .with_config(config)
        .key()
}

/// What made a file: for its metadata.
fn made_by(entries: &[(&str, String)]) -> BTreeMap<String, String> {
    let program = ("program", format!("mesa {}", env!("CARGO_PKG_VERSION")));
    let engine = ("engine_version", ENGINE_VERSION.to_string());
    let command = (
        "command",
        std::env::args().skip(1).collect::<Vec<_>>().join(" "),
    );
    entries
        .iter()
        .cloned()
        .chain([program, engine, command])
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
}

/// Refuses an output that could not be written after an hour's work.
fn check_output(path: &Path) -> Result<()> {
    if path.is_dir() {
        bail!("{} is a folder; name a file with -o", path.display());
    }
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() && !parent.is_dir() => {
            bail!(
                "the folder {} does not exist; create it or name another",
                parent.display()
            )
        }
        _ => Ok(()),
    }
}
