//! Records as files of this program's cache: the official ones where the records allow it.

use std::collections::HashSet;
use std::io::Write;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use sha2::{Digest, Sha256};

use super::HubError;
use crate::dataset::hex;
use crate::forms::Form;
use crate::hub_order::{HubOrder, sums_line};
use crate::official::{Layout, OfficialFile};

/// Where files are written before they are moved to their place. Data sets are looked for in the
/// cache and one folder below: here they are too deep to be taken for finished ones.
const UNFINISHED: &str = "unfinished";

/// Writes training and test records below `cache` and returns the folder, and whether it holds the
/// official files.
///
/// The Hub may have the official files' blocks in another order; any other order is kept, under other
/// names. The folder appears at once, with everything in it.
pub(super) fn store(
    layout: &Layout,
    train: &[u8],
    test: &[u8],
    cache: &Path,
) -> Result<(PathBuf, bool), HubError> {
    let record_len = layout.record_len();
    let official = blocks(train, record_len, layout.train).zip(blocks(
        test,
        record_len,
        std::slice::from_ref(&layout.test),
    ));
    if let Some((mut files, test)) = official {
        files.extend(test);
        let place = cache.join(layout.folder(Form::Binary));
        write_all(&files, cache, &place)?;
        return Ok((place, true));
    }
    let order = HubOrder::of(layout.name).ok_or(HubError::NotOnHub { name: layout.name })?;
    let [train_file, test_file] = &order.files;
    let mut files = vec![(train_file.name, train), (test_file.name, test)];
    let sums = sums(&files);
    files.push((order.sums, sums.as_bytes()));
    let place = cache.join(order.folder);
    write_all(&files, cache, &place)?;
    Ok((place, false))
}

/// A file's name and contents.
type NamedBytes<'a> = (&'static str, &'a [u8]);

/// The official files that the records make up block by block, in the order of the records; none if
/// a block is no official file, or one appears twice.
fn blocks<'a>(
    records: &'a [u8],
    record_len: usize,
    files: &[OfficialFile],
) -> Option<Vec<NamedBytes<'a>>> {
    let expected: usize = files.iter().map(|file| file.records * record_len).sum();
    if records.len() != expected {
        return None;
    }
    // Official files of one data set and part have the same length.
    let block_len = files.first()?.records * record_len;
    let found = records
        .par_chunks(block_len)
        .map(|block| {
            let digest = hex(&Sha256::digest(block));
            let file = files.iter().find(|file| file.sha256 == digest)?;
            Some((file.name, block))
        })
        .collect::<Option<Vec<_>>>()?;
    let names: HashSet<_> = found.iter().map(|(name, _)| *name).collect();
    (names.len() == files.len()).then_some(found)
}

fn sums(files: &[NamedBytes]) -> String {
    let lines = files
        .iter()
        .map(|(name, bytes)| sums_line(&hex(&Sha256::digest(bytes)), name));
    lines.collect()
}

/// Writes files where nobody looks for them, then moves their folder to its place.
fn write_all(files: &[NamedBytes], cache: &Path, place: &Path) -> Result<(), HubError> {
    let unfinished = cache.join(UNFINISHED);
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| HubError::Write { path, source }
    };
    fs_err::create_dir_all(&unfinished).map_err(failed(&unfinished))?;
    let aside = tempfile::tempdir_in(&unfinished).map_err(failed(&unfinished))?;
    let folder = aside.path().join("files");
    fs_err::create_dir(&folder).map_err(failed(&folder))?;
    for (name, bytes) in files {
        let path = folder.join(name);
        fs_err::File::create(&path)
            .and_then(|mut file| {
                file.write_all(bytes)?;
                file.sync_all()
            })
            .map_err(failed(&path))?;
    }
    // Tried, not asked for: another process may put its own there in between.
    if fs_err::rename(&folder, place).is_err() {
        // What stands there is damaged, incomplete or the same; other files in it are not this
        // program's.
        for (name, _) in files {
            let path = place.join(name);
            fs_err::rename(folder.join(name), &path).map_err(failed(&path))?;
        }
    }
    drop(aside);
    // Fails, as it should, while another process has something there.
    let _ = fs_err::remove_dir(&unfinished);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::DatasetName;

    /// A data set of three training files and a test file of two records each.
    struct Small {
        layout: Layout,
        files: Vec<Vec<u8>>,
    }

    fn small() -> Small {
        let leak = |text: String| -> &'static str { Box::leak(text.into_boxed_str()) };
        let files: Vec<Vec<u8>> = (0..4u8)
            .map(|file| {
                let record = |label: u8| [vec![label], vec![file; 3072]].concat();
                [record(2 * file), record(2 * file + 1)].concat()
            })
            .collect();
        let official = |number: usize| OfficialFile {
            name: leak(format!("part_{number}.bin")),
            records: 2,
            sha256: leak(hex(&Sha256::digest(&files[number]))),
        };
        let layout = Layout {
            name: DatasetName::Cifar10,
            python_labels: &["labels"],
            labels: &[10],
            train: Box::leak(Box::new([official(0), official(1), official(2)])),
            test: official(3),
            class_names: &["thing"],
        };
        Small { layout, files }
    }

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs_err::read_dir(folder).unwrap();
        let mut names: Vec<String> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn blocks_in_any_order_become_the_official_files() {
        let Small { layout, files } = small();
        for order in [[0, 1, 2], [2, 0, 1], [1, 0, 2]] {
            let cache = tempfile::tempdir().unwrap();
            let train = order.map(|number| files[number].clone()).concat();
            let (folder, is_official) = store(&layout, &train, &files[3], cache.path()).unwrap();
            assert!(is_official);
            assert_eq!(folder, cache.path().join("cifar-10-batches-bin"));
            for (number, bytes) in files.iter().enumerate() {
                let path = folder.join(format!("part_{number}.bin"));
                assert!(fs_err::read(path).unwrap() == *bytes, "{order:?} {number}");
            }
            assert_eq!(names(cache.path()), ["cifar-10-batches-bin"]);
        }
    }

    #[test]
    fn any_other_order_is_kept_under_other_names() {
        let Small { layout, files } = small();
        let train = files[..3].concat();
        let mut swapped = train.clone();
        swapped.rotate_left(3073);
        let twice = [&files[0][..], &files[0], &files[1]].concat();
        let short = files[..2].concat();
        for (train, test) in [
            (swapped, &files[3]),
            (twice, &files[3]),
            (short, &files[3]),
            (train, &files[0]),
        ] {
            let cache = tempfile::tempdir().unwrap();
            let (folder, is_official) = store(&layout, &train, test, cache.path()).unwrap();
            assert!(!is_official);
            assert_eq!(
                names(&folder),
                [
                    "cifar10-hub-test.bin",
                    "cifar10-hub-train.bin",
                    "cifar10-hub.sha256"
                ]
            );
            let data = crate::load_cifar10(&folder).unwrap();
            assert_eq!(data.source, crate::Source::HubOrder(folder));
            assert_eq!(data.train.len(), train.len() / 3073);
        }
    }

    #[test]
    fn a_damaged_folder_is_repaired_and_a_killed_conversion_not_found() {
        let Small { layout, files } = small();
        let cache = tempfile::tempdir().unwrap();
        let folder = cache.path().join("cifar-10-batches-bin");
        fs_err::create_dir(&folder).unwrap();
        fs_err::write(folder.join("part_1.bin"), b"damaged").unwrap();
        fs_err::write(folder.join("notes.txt"), b"mine").unwrap();
        // What a process leaves that was killed while it wrote.
        let left = cache.path().join("unfinished/killed/files");
        fs_err::create_dir_all(&left).unwrap();
        for name in crate::file_names(DatasetName::Cifar10) {
            fs_err::write(left.join(name), b"").unwrap();
        }
        let search = crate::Search::new(None, None, Some(cache.path().to_owned()));
        assert_eq!(search.find(None).unwrap(), None);
        store(&layout, &files[..3].concat(), &files[3], cache.path()).unwrap();
        assert_eq!(
            names(&folder),
            [
                "notes.txt",
                "part_0.bin",
                "part_1.bin",
                "part_2.bin",
                "part_3.bin"
            ]
        );
        assert_eq!(fs_err::read(folder.join("part_1.bin")).unwrap(), files[1]);
    }
}
