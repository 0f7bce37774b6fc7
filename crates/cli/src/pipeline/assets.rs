//! The clean networks that come with this project.

use std::path::{Path, PathBuf};

use mesa_datasets::cache_folder;
use mesa_models::{ResNetConfig, load_network};
use mesa_record::write_bytes;

/// The committed network that a program without the repository has: of preset `quick` and `cpu`.
const BUILT_IN: &[u8] = include_bytes!("../../weights/resnet18-w16-cifar10.safetensors");

// A checkout without symbolic links has a path in its place.
const _: () = assert!(BUILT_IN.len() > 1_000_000);

/// The committed clean network of this size, trained on this data.
///
/// Looked for in `assets/weights` below the working folder, then beside the
/// folders above the program (`target/release/mesa` lies in the repository), then in the program itself.
pub(crate) fn clean_network(shape: ResNetConfig, data: &str) -> Option<PathBuf> {
    for folder in folders() {
        let Ok(entries) = fs_err::read_dir(&folder) else {
            continue;
        };
        let mut paths: Vec<PathBuf> = entries.filter_map(|e| Some(e.ok()?.path())).collect();
        paths.sort();
        for path in paths {
            if path.extension().is_some_and(|e| e == "safetensors") && fits(&path, shape, data) {
                return Some(path);
            }
        }
    }
    if shape == ResNetConfig::resnet18(16, 10) && data == "cifar10" {
        return built_in();
    }
    None
}

/// The network in the program, as a file of the cache; none where that cannot be written.
fn built_in() -> Option<PathBuf> {
    let Some(cache) = cache_folder() else {
        tracing::warn!(
            "there is no home folder to unpack this program's clean network in; set HOME"
        );
        return None;
    };
    let path = cache.join("weights/resnet18-w16-cifar10.safetensors");
    let is_there = fs_err::read(&path).is_ok_and(|bytes| bytes == BUILT_IN);
    if !is_there && let Err(error) = write_bytes(&path, BUILT_IN) {
        tracing::warn!("the clean network of this program was not unpacked: {error}");
        return None;
    }
    Some(path)
}

/// Whether a file is such a network; what is none is passed over.
fn fits(path: &Path, shape: ResNetConfig, data: &str) -> bool {
    match load_network(path) {
        Ok((_, info)) => {
            info.config == shape && info.made_by.get("data").is_some_and(|name| name == data)
        }
        Err(error) => {
            tracing::warn!("passed over: {error}");
            false
        }
    }
}

/// The folder with this project's `assets` and `docs`, if the program is in or below it.
pub(crate) fn repository() -> Option<PathBuf> {
    candidates().find(|folder| folder.join("assets/weights").is_dir())
}

fn folders() -> Vec<PathBuf> {
    candidates()
        .map(|folder| folder.join("assets/weights"))
        .filter(|f| f.is_dir())
        .collect()
}

/// The working folder, then those above the program.
fn candidates() -> impl Iterator<Item = PathBuf> {
    let program = std::env::current_exe().unwrap_or_default();
    let above: Vec<PathBuf> = program.ancestors().skip(1).map(Path::to_owned).collect();
    std::iter::once(PathBuf::from(".")).chain(above)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_network_in_the_program_is_that_of_the_small_presets() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("net.safetensors");
        write_bytes(&path, BUILT_IN).unwrap();
        assert!(fits(&path, ResNetConfig::resnet18(16, 10), "cifar10"));
    }
}
