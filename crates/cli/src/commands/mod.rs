//! The subcommands, one file each.

pub(crate) mod attack;
pub(crate) mod data;
pub(crate) mod defend;
pub(crate) mod detect;
pub(crate) mod distributions;
pub(crate) mod evaluate;
pub(crate) mod export;
pub(crate) mod fit;
pub(crate) mod gpu;
pub(crate) mod plan;
pub(crate) mod pretrain;
pub(crate) mod report;
pub(crate) mod run;
pub(crate) mod sample;
pub(crate) mod shells;

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, bail};
use mesa_datasets::Placement;
use mesa_models::{ENGINE_VERSION, Normalization};
use mesa_record::{Key, Lock, RunDir, Step};
use serde_json::Value;

use crate::args::{DataArgs, PresetArgs};
use crate::logging;
use crate::output::Usage;

/// Where a pattern goes that is as large as the image.
const WHOLE_IMAGE: Placement = Placement::Fixed { row: 0, column: 0 };

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
    let command: Vec<String> = std::env::args_os()
        .skip(1)
        .map(|word| without_folders(&word.to_string_lossy()))
        .collect();
    let command = ("command", command.join(" "));
    entries
        .iter()
        .cloned()
        .chain([program, engine, command])
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
}

/// Where a sub-model's metadata say it was fitted, unless that is anywhere.
const PLACEMENT: &str = "placement";

/// A place as files say it, which do not where it is anywhere.
fn placement_words(placement: Placement) -> Option<String> {
    (placement != Placement::PerImage).then(|| placement.to_string())
}

/// What made a sub-model, and where its triggers were stamped.
fn placed(mut made_by: BTreeMap<String, String>, placement: Placement) -> BTreeMap<String, String> {
    made_by.extend(placement_words(placement).map(|words| (PLACEMENT.to_owned(), words)));
    made_by
}

/// Where a sub-model's triggers were stamped, by what made it, unless that is anywhere.
pub(crate) fn placement_of(made_by: &BTreeMap<String, String>) -> Result<Option<Placement>> {
    let place = made_by.get(PLACEMENT).map(|place| place.parse());
    Ok(place.transpose()?)
}

/// A word of the command line, its path cut down to the last part: files are handed on, and whose
/// folders they came from is nobody's business.
fn without_folders(word: &str) -> String {
    let (option, value) = match word.split_once('=') {
        Some((option, value)) if word.starts_with('-') => (format!("{option}="), value),
        _ => (String::new(), word),
    };
    match Path::new(value).file_name() {
        // `0.5,0.5,0.5/0.2,0.2,0.2` is no path.
        _ if value.parse::<Normalization>().is_ok() => word.to_owned(),
        Some(name) => option + &name.to_string_lossy(),
        None => option + value,
    }
}

/// The files that commands read beside those of their own.
fn shared_inputs<'a>(preset: &'a PresetArgs, data: &'a DataArgs) -> impl Iterator<Item = &'a Path> {
    preset
        .config
        .as_deref()
        .into_iter()
        .chain(data.data.as_deref())
}

/// Refuses an output that is one of a command's `inputs`: what is examined is evidence.
fn check_not_input<'a>(output: &Path, inputs: impl IntoIterator<Item = &'a Path>) -> Result<()> {
    // What is not there yet is none of them.
    let Ok(real) = output.canonicalize() else {
        return Ok(());
    };
    let is_it = |input: &&Path| input.canonicalize().is_ok_and(|input| input == real);
    match inputs.into_iter().find(is_it) {
        Some(input) => {
            let reason = format!(
                "{}: that is the input {}, which would be lost; name another file for the output",
                output.display(),
                input.display()
            );
            Err(Usage(reason).into())
        }
        None => Ok(()),
    }
}

/// Refuses a file where a folder is asked for, or one above it.
fn check_no_file(folder: &Path) -> Result<()> {
    let is_file = |part: &&Path| part.exists() && !part.is_dir();
    match folder.ancestors().find(is_file) {
        Some(file) => bail!("{} is a file, not a folder; name another", file.display()),
        None => Ok(()),
    }
}

/// Claims a run folder for this process, and begins its log.
fn claim(run: &RunDir) -> Result<Lock> {
    check_no_file(run.root())?;
    let lock = Lock::acquire(run.root())?;
    logging::start(Some(&run.log()))?;
    if let Some(holder) = lock.left_behind() {
        tracing::info!("taking over from {holder}, which ended without finishing");
    }
    Ok(lock)
}

/// Refuses an output that could not be written after an hour's work.
fn check_output(path: &Path) -> Result<()> {
    if path.is_dir() {
        bail!("{} is a folder; name a file with -o", path.display());
    }
    if path.exists() && !path.is_file() {
        bail!(
            "-o {}: that is not a file but a device or a pipe; name a file",
            path.display()
        );
    }
    let parent = path.parent().filter(|name| !name.as_os_str().is_empty());
    let folder = parent.unwrap_or(Path::new("."));
    check_no_file(folder).with_context(|| format!("-o {}", path.display()))?;
    if !folder.is_dir() {
        bail!(
            "the folder {} does not exist; create it or name another",
            folder.display()
        );
    }
    // Files are written under another name first and renamed.
    match tempfile::tempfile_in(folder) {
        Ok(_) => Ok(()),
        Err(error) => bail!(
            "-o {}: the folder {} takes no file ({}); make it writable or name another",
            path.display(),
            folder.display(),
            error.kind()
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_files_description_names_no_folders() {
        let words = [
            "fit",
            "/home/ada/bad.safetensors",
            "/data/lr=0.1/bad.safetensors",
            "--data=/home/ada/cifar",
            "--normalize=0.5,0.5,0.5/0.2,0.2,0.2",
            "0.5,0.5,0.5/0.2,0.2,0.2",
            "5e-4",
        ];
        let told: Vec<String> = words.map(without_folders).into();
        let expected = [
            "fit",
            "bad.safetensors",
            "bad.safetensors",
            "--data=cifar",
            "--normalize=0.5,0.5,0.5/0.2,0.2,0.2",
            "0.5,0.5,0.5/0.2,0.2,0.2",
            "5e-4",
        ];
        assert_eq!(told, expected);
    }
}
