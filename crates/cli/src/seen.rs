//! Which test images a file's making saw: noted in the file, so that nothing is evaluated on images
//! that its defense was made with.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Result, bail};
use mesa_datasets::{Dataset, DatasetName};

use crate::config::DataConfig;

/// The entry of a file's description.
pub(crate) const SPLIT: &str = "split";

/// A split in words that are the same if and only if its parts are.
pub(crate) fn split_words(data: &Dataset, config: &DataConfig) -> String {
    let drawn = match data.name {
        DatasetName::Synthetic => format!(" (seed {})", config.synthetic_seed),
        DatasetName::Cifar10 | DatasetName::Cifar100 if data.is_official => String::new(),
        // One folder is not another, nor are files of CIFAR's form.
        _ => format!(" (SHA-256 {})", data.digest),
    };
    format!(
        "the first {} of {} test images of {}{drawn}, shuffled by seed {}",
        config.split_at,
        data.test.len(),
        data.name,
        config.split_seed
    )
}

/// Refuses a file whose making saw another split's modeling images; one that says nothing of a
/// split (a clean or an attacked network) saw no test image.
pub(crate) fn check(path: &Path, made_by: &BTreeMap<String, String>, here: &str) -> Result<()> {
    match made_by.get(SPLIT) {
        Some(seen) if seen != here => bail!(
            "{} was made with {}; these settings take {here}, so that images it has seen may \
             be among those for evaluation: name the same settings with --preset or --config",
            path.display(),
            shown(seen)
        ),
        _ => Ok(()),
    }
}

/// Refuses to evaluate on all test images what a part of them repaired.
pub(crate) fn check_all(path: &Path, made_by: &BTreeMap<String, String>) -> Result<()> {
    match made_by.get(SPLIT) {
        Some(seen) => bail!(
            "--split test: {} was repaired with {}, which are among them, so that the figures \
             would flatter it; leave out --split: by default it is evaluated on the images held out",
            path.display(),
            shown(seen)
        ),
        None => Ok(()),
    }
}

/// What a file says, which may be a stranger's: nothing that a terminal would obey, and not too much.
fn shown(text: &str) -> String {
    // What is said of a folder's split has a digest in it.
    const LONGEST: usize = 400;
    let cut = text.chars().take(LONGEST);
    cut.flat_map(char::escape_debug).collect()
}

#[cfg(test)]
mod tests {
    use mesa_datasets::synthetic;

    use super::*;
    use crate::config::ExperimentConfig;

    #[test]
    fn what_a_file_says_is_shown_whole_and_without_what_a_terminal_obeys() {
        let mut folder = synthetic(0, 1, 50);
        folder.name = DatasetName::Folder;
        folder.digest = "0".repeat(64);
        let words = split_words(&folder, &ExperimentConfig::paper().data);
        let refused = |seen: &str| {
            let made_by = BTreeMap::from([(SPLIT.to_owned(), seen.to_owned())]);
            check_all(Path::new("good"), &made_by)
                .unwrap_err()
                .to_string()
        };
        assert!(refused(&words).contains(&words));
        assert!(refused("a\u{1b}[2J").contains(r"a\u{1b}[2J"));
    }

    #[test]
    fn another_split_is_refused_and_no_split_is_fine() {
        let mut config = ExperimentConfig::paper().data;
        let data = synthetic(0, 1, 50);
        let seen = split_words(&data, &config);
        let made_by = BTreeMap::from([(SPLIT.to_owned(), seen.clone())]);
        let path = Path::new("good.safetensors");
        check(path, &made_by, &seen).unwrap();
        check(path, &BTreeMap::new(), &seen).unwrap();
        config.split_seed = 1;
        let error = check(path, &made_by, &split_words(&data, &config)).unwrap_err();
        assert!(
            error.to_string().contains("--preset or --config"),
            "{error}"
        );
        config.split_seed = 0;
        let shorter = split_words(&synthetic(0, 1, 40), &config);
        assert!(check(path, &made_by, &shorter).is_err());
    }

    /// As many images in another order are another split.
    #[test]
    fn files_of_cifars_form_are_told_apart_unless_they_are_the_official_ones() {
        let config = ExperimentConfig::paper().data;
        let mut data = synthetic(0, 1, 50);
        data.name = DatasetName::Cifar10;
        let words = |digest: &str, is_official| {
            let mut data = data.clone();
            (data.digest, data.is_official) = (digest.to_owned(), is_official);
            split_words(&data, &config)
        };
        assert_eq!(words("a", true), words("b", true));
        assert_ne!(words("a", false), words("b", false));
        assert_ne!(words("a", false), words("a", true));
    }
}
