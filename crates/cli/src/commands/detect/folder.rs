//! Where a search's results go, and which searches are not the same.

use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use mesa_record::{Detection, RunDir, file_digest, write_text};

use super::PRESET;
use crate::args::Detect;
use crate::inputs;

pub(super) fn file_name(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}

/// `runs/detect-MODEL-DIGEST`: files of one name are not one network. Other settings than the default's
/// and a place that is named are searches of their own.
pub(super) fn default_folder(args: &Detect) -> Result<PathBuf> {
    let stem = args.model.file_stem().unwrap_or_default();
    let digest = file_digest(&args.model)?;
    let mut name = format!("detect-{}-{}", stem.to_string_lossy(), &digest[..8]);
    let settings = inputs::settings_name(&args.preset, PRESET);
    if args.preset.config.is_some() || settings != PRESET {
        name = format!("{name}-{settings}");
    }
    if let Some(placement) = args.placement.placement {
        let plain = placement.to_string().replace([':', ','], "-");
        name = format!("{name}-{plain}");
    }
    Ok(PathBuf::from("runs").join(name))
}

/// What tells searches apart, in the command line's words.
pub(super) fn search_words(
    (model, sha256): (&str, &str),
    (preset, data, data_sha256): (&str, &str, Option<&str>),
    (beta, seed): (f64, u64),
    placement: Option<&str>,
) -> String {
    let (digest, normalized) = sha256.split_at_checked(64).unwrap_or((sha256, ""));
    let short = |digest: &str| digest.get(..12).unwrap_or(digest).to_owned();
    let of_data = data_sha256.map_or_else(String::new, |digest| format!(" ({})", short(digest)));
    format!(
        "of {model} ({}{normalized}), settings {preset}, {data}{of_data}, --beta {beta}, --seed {seed}, --placement \
         {}",
        short(digest),
        placement.unwrap_or("per-image")
    )
}

/// The file that says whose search the folder holds, from the first class on: the verdict comes last.
fn words_file(run: &RunDir) -> PathBuf {
    run.root().join("search.txt")
}

/// Refuses a folder with another search, finished or not, whose sub-models would give way.
pub(super) fn check_folder(run: &RunDir, this: &str) -> Result<()> {
    let Some(other) = words_of(run) else {
        return Ok(());
    };
    ensure!(
        other == this,
        "{} holds a search {other}; this one is {this}; name another --out",
        run.root().display()
    );
    Ok(())
}

/// Says whose search the folder holds from now on.
pub(super) fn take_folder(run: &RunDir, this: &str) -> Result<()> {
    Ok(write_text(&words_file(run), &format!("{this}\n"))?)
}

/// The search whose results a folder holds, if there are any.
fn words_of(run: &RunDir) -> Option<String> {
    if let Ok(text) = fs_err::read_to_string(words_file(run)) {
        // One that was stopped before its first step has nothing to lose: states are kept by their keys.
        return run
            .root()
            .join("records")
            .exists()
            .then(|| text.trim().to_owned());
    }
    // Searches of earlier versions have their verdict alone.
    let text = fs_err::read_to_string(run.root().join("detection.json")).ok()?;
    let other = serde_json::from_str::<Detection>(&text).ok()?;
    Some(search_words(
        (&other.model, &other.model_sha256),
        (&other.preset, &other.data, other.data_sha256.as_deref()),
        (other.beta, other.seed),
        other.placement.as_deref(),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_search_has_its_folder_from_its_first_record_on() {
        let folder = tempfile::tempdir().unwrap();
        let run = RunDir::new(folder.path().join("run"));
        check_folder(&run, "of a").unwrap();
        take_folder(&run, "of a").unwrap();
        check_folder(&run, "of b").unwrap();
        take_folder(&run, "of b").unwrap();
        fs_err::create_dir(run.root().join("records")).unwrap();
        check_folder(&run, "of b").unwrap();
        let error = check_folder(&run, "of a").unwrap_err().to_string();
        assert!(
            error.contains("holds a search of b; this one is of a"),
            "{error}"
        );
    }
}
