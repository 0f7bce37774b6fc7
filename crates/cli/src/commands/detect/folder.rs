//! Where a search's results go, and which searches are not the same.

use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use mesa_record::{Detection, RunDir, file_digest};

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

/// Refuses a folder with the verdict of another search, whose sub-models would give way.
pub(super) fn check_folder(run: &RunDir, this: &str) -> Result<()> {
    let path = run.root().join("detection.json");
    let Ok(text) = fs_err::read_to_string(&path) else {
        return Ok(());
    };
    let Ok(other) = serde_json::from_str::<Detection>(&text) else {
        return Ok(());
    };
    let other = search_words(
        (&other.model, &other.model_sha256),
        (&other.preset, &other.data, other.data_sha256.as_deref()),
        (other.beta, other.seed),
        other.placement.as_deref(),
    );
    ensure!(
        other == this,
        "{} holds a search {other}; this one is {this}; name another --out",
        run.root().display()
    );
    Ok(())
}
