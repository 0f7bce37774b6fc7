//! `mesa gpu pack` and `mesa gpu unpack`: records of run folders on their way from a machine with a
//! GPU to the repository.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::Read;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use flate2::{Compression, read::GzDecoder, write::GzEncoder};
use mesa_record::{GpuRecord, Row, Summary, write_bytes};
use serde_json::json;

use crate::args::{GpuPack, GpuUnpack};
use crate::output;

/// What is taken of a run folder: records, no weights.
const FILES: [&str; 4] = ["summary.json", "curves.csv", "config.toml", "gpu.json"];

/// The largest record, and the largest archive once unpacked, in bytes: 51 triggers take a few MB.
const LARGEST_FILE: u64 = 64 << 20;
const LARGEST_ARCHIVE: u64 = 512 << 20;

/// Records by folder and file.
type Records = BTreeMap<(String, String), Vec<u8>>;

pub(super) fn pack(args: &GpuPack, json: bool) -> Result<()> {
    let names = write(&args.folders, &args.to)?;
    let plain = format!("wrote {} to {}", files(names.len()), args.to.display());
    output::result(json, &json!({ "packed": names }), &plain)
}

/// Writes the archive of the folders' records; returns what is in it.
pub(super) fn write(folders: &[PathBuf], to: &Path) -> Result<Vec<String>> {
    let records = gather(folders)?;
    let archive = archived(&records).context("making the archive")?;
    write_bytes(to, &archive)?;
    Ok(names(&records))
}

/// Whether there is something to pack in a folder.
#[cfg_attr(not(feature = "cuda"), allow(dead_code))]
pub(super) fn has_record(folder: &Path) -> bool {
    FILES.iter().any(|file| folder.join(file).is_file())
}

pub(super) fn unpack(args: &GpuUnpack, json: bool) -> Result<()> {
    let file = fs_err::File::open(&args.archive)?;
    // Everything is read and checked before anything is written.
    let records = read(file).with_context(|| format!("reading {}", args.archive.display()))?;
    let records = placed(records, &args.into)?;
    for ((folder, name), bytes) in &records {
        write_bytes(&args.into.join(folder).join(name), bytes)?;
    }
    let names = names(&records);
    let plain = format!("wrote {} below {}", files(names.len()), args.into.display());
    output::result(json, &json!({ "unpacked": names }), &plain)
}

/// The records under the names of folders in which they replace nothing but earlier states of
/// themselves: `paper-w64` becomes `paper-w64-2` where another sweep lies there.
fn placed(records: Records, into: &Path) -> Result<Records> {
    let mut folders: BTreeMap<String, BTreeMap<String, Vec<u8>>> = BTreeMap::new();
    for ((folder, name), bytes) in records {
        folders.entry(folder).or_default().insert(name, bytes);
    }
    let mut placed = Records::new();
    for (folder, files) in folders {
        let mut name = folder.clone();
        for number in 2.. {
            // Two of the archive may come to the same name.
            let is_taken = placed.keys().any(|(other, _)| *other == name);
            if !is_taken && grows_from(&files, &into.join(&name))? {
                break;
            }
            name = format!("{folder}-{number}");
        }
        for (file, bytes) in files {
            placed.insert((name.clone(), file), bytes);
        }
    }
    Ok(placed)
}

/// Whether records hold all that the records in a folder do.
fn grows_from(records: &BTreeMap<String, Vec<u8>>, folder: &Path) -> Result<bool> {
    for file in FILES {
        let path = folder.join(file);
        if !path.is_file() {
            continue;
        }
        let before = fs_err::read(&path)?;
        let Some(bytes) = records.get(file) else {
            return Ok(false);
        };
        let goes_on = match file {
            "summary.json" => has_all_rows(bytes, &before),
            "gpu.json" => is_of_the_same(bytes, &before),
            // They go with the rows.
            _ => true,
        };
        if *bytes != before && !goes_on {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Whether a run has itself computed every row that an earlier state of it had.
fn has_all_rows(run: &[u8], earlier: &[u8]) -> bool {
    let parsed = |bytes| serde_json::from_slice::<Summary>(bytes);
    let (Ok(run), Ok(earlier)) = (parsed(run), parsed(earlier)) else {
        return false;
    };
    let same = |one: &Row, other: &Row| {
        let place = |row: &Row| (row.seed, row.repeat, row.key.clone());
        (&one.trigger, &one.method, place(one)) == (&other.trigger, &other.method, place(other))
    };
    let own = |row: &&Row| !row.committed;
    earlier
        .rows
        .iter()
        .filter(own)
        .all(|before| run.rows.iter().filter(own).any(|row| same(row, before)))
}

/// Whether two records are of the same program on the same machine.
fn is_of_the_same(record: &[u8], earlier: &[u8]) -> bool {
    let parsed = |bytes| serde_json::from_slice::<GpuRecord>(bytes);
    let (Ok(record), Ok(earlier)) = (parsed(record), parsed(earlier)) else {
        return false;
    };
    (record.program, record.machine) == (earlier.program, earlier.machine)
}

fn files(count: usize) -> String {
    match count {
        1 => "one file".to_owned(),
        _ => format!("{count} files"),
    }
}

fn names(records: &Records) -> Vec<String> {
    let names = records.keys();
    names
        .map(|(folder, name)| format!("{folder}/{name}"))
        .collect()
}

fn gather(folders: &[PathBuf]) -> Result<Records> {
    let mut records = Records::new();
    for folder in folders {
        let name = folder_name(folder)?;
        let before = records.len();
        for file in FILES {
            let path = folder.join(file);
            if !path.is_file() {
                continue;
            }
            let bytes = fs_err::read(&path)?;
            ensure!(
                bytes.len() as u64 <= LARGEST_FILE,
                "{} is larger than a record",
                path.display()
            );
            if records
                .insert((name.clone(), file.to_owned()), bytes)
                .is_some()
            {
                bail!("two of the folders are called `{name}`: pack them one by one");
            }
        }
        if records.len() == before {
            bail!(
                "{} has no record: none of {}",
                folder.display(),
                FILES.join(", ")
            );
        }
    }
    Ok(records)
}

/// What a folder is called, also `.`.
fn folder_name(folder: &Path) -> Result<String> {
    let whole = fs_err::canonicalize(folder)?;
    let name = whole.file_name().and_then(OsStr::to_str);
    name.map(str::to_owned)
        .with_context(|| format!("{} has no name to call its records by", folder.display()))
}

/// The same bytes for the same records: no times, no owners.
fn archived(records: &Records) -> Result<Vec<u8>> {
    let compressed = GzEncoder::new(Vec::new(), Compression::default());
    let mut archive = tar::Builder::new(compressed);
    for ((folder, name), bytes) in records {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        archive.append_data(&mut header, format!("{folder}/{name}"), bytes.as_slice())?;
    }
    Ok(archive.into_inner()?.finish()?)
}

fn read(archive: impl Read) -> Result<Records> {
    // Headers count too: an archive of nothing but those would have no end either.
    let bounded = GzDecoder::new(archive).take(LARGEST_ARCHIVE);
    let mut archive = tar::Archive::new(bounded);
    let mut records = Records::new();
    for entry in archive.entries()? {
        let mut entry = entry?;
        let path = entry.path()?.into_owned();
        let key = record_name(&path)
            .with_context(|| format!("it holds `{}`, which is no record", path.display()))?;
        ensure!(
            entry.header().entry_type().is_file(),
            "`{}` is no plain file",
            path.display()
        );
        let size = entry.size();
        ensure!(
            size <= LARGEST_FILE,
            "`{}` is larger than a record",
            path.display()
        );
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes)?;
        ensure!(
            bytes.len() as u64 == size,
            "`{}` is cut off",
            path.display()
        );
        if records.insert(key, bytes).is_some() {
            bail!("it holds `{}` twice", path.display());
        }
    }
    ensure!(!records.is_empty(), "there is no record in it");
    Ok(records)
}

/// The folder and the file, of a path that is just that.
fn record_name(path: &Path) -> Option<(String, String)> {
    let parts: Vec<Component<'_>> = path.components().collect();
    let [Component::Normal(folder), Component::Normal(name)] = parts[..] else {
        return None;
    };
    let (folder, name) = (folder.to_str()?, name.to_str()?);
    // What is a plain name here may be something else on Windows.
    let plain = !folder.contains(['\\', ':', '\0']) && folder.len() <= 255;
    (plain && FILES.contains(&name)).then(|| (folder.to_owned(), name.to_owned()))
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn run_folder(root: &Path, name: &str, files: &[&str]) -> PathBuf {
        let folder = root.join(name);
        fs_err::create_dir_all(&folder).unwrap();
        for file in files {
            fs_err::write(folder.join(file), format!("{name} {file}")).unwrap();
        }
        folder
    }

    /// An archive of one entry with a path that `tar` itself would refuse to write.
    fn crafted(path: &str, kind: tar::EntryType) -> Vec<u8> {
        let mut header = tar::Header::new_old();
        header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
        header.set_size(2);
        header.set_mode(0o644);
        header.set_entry_type(kind);
        header.set_cksum();
        let compressed = GzEncoder::new(Vec::new(), Compression::default());
        let mut archive = tar::Builder::new(compressed);
        archive.append(&header, &b"{}"[..]).unwrap();
        archive.into_inner().unwrap().finish().unwrap()
    }

    #[test]
    fn records_come_back_as_they_were_and_nothing_else_does() {
        let root = tempfile::tempdir().unwrap();
        let files = ["summary.json", "curves.csv", "weights.safetensors"];
        let first = run_folder(root.path(), "a", &files);
        let second = run_folder(root.path(), "b", &["gpu.json"]);
        let to = root.path().join("deep/all.tar.gz");
        let folders = vec![first, second];
        pack(
            &GpuPack {
                folders: folders.clone(),
                to: to.clone(),
            },
            true,
        )
        .unwrap();
        let into = root.path().join("records");
        let archive = to.clone();
        unpack(
            &GpuUnpack {
                archive,
                into: into.clone(),
            },
            true,
        )
        .unwrap();
        let text = |path| fs_err::read_to_string(into.join(path)).unwrap();
        assert_eq!(text("a/summary.json"), "a summary.json");
        assert_eq!(text("b/gpu.json"), "b gpu.json");
        assert_eq!(fs_err::read_dir(into.join("a")).unwrap().count(), 2);
        assert_eq!(
            fs_err::read(&to).unwrap(),
            archived(&gather(&folders).unwrap()).unwrap(),
            "the same records make the same archive"
        );
    }

    #[test]
    fn another_sweep_does_not_replace_what_is_there() {
        let row = |trigger: u32, committed: bool| {
            format!(
                r#"{{"trigger": {trigger}, "seed": 0, "method": "ideal", "asr": 0.02, "wall_s": 1.0,
                "clean_accuracy": 0.9, "regained_accuracy": 0.9, "committed": {committed}}}"#
            )
        };
        let summary = |rows: &[String]| {
            let rows = rows.join(",");
            format!(
                r#"{{"preset": "paper", "data": "cifar10", "device": "G", "wall_s": 1.0,
                "peak_rss_mb": null, "rows": [{rows}]}}"#
            )
        };
        let of_folder = |text: String| {
            let key = ("paper-w64".to_owned(), "summary.json".to_owned());
            Records::from([(key, text.into_bytes())])
        };
        let root = tempfile::tempdir().unwrap();
        let unpacked = |text: &str| {
            let records = placed(of_folder(text.to_owned()), root.path()).unwrap();
            let ((folder, name), bytes) = records.first_key_value().unwrap();
            write_bytes(&root.path().join(folder).join(name), bytes).unwrap();
            folder.clone()
        };
        let first = summary(&[row(170, false)]);
        assert_eq!(unpacked(&first), "paper-w64");
        assert_eq!(unpacked(&first), "paper-w64");
        // The same sweep, further on.
        let further = summary(&[row(170, false), row(16, false)]);
        assert_eq!(unpacked(&further), "paper-w64");
        // Another one, which took the rows that were committed as done.
        let other = summary(&[row(170, true), row(16, true), row(0, false)]);
        assert_eq!(unpacked(&other), "paper-w64-2");
        let other = summary(&[row(170, true), row(16, true), row(0, false), row(1, false)]);
        assert_eq!(unpacked(&other), "paper-w64-2");
        assert_eq!(unpacked(&summary(&[row(2, false)])), "paper-w64-3");
        let kept = fs_err::read_to_string(root.path().join("paper-w64/summary.json")).unwrap();
        assert_eq!(kept, further);
    }

    #[test]
    fn a_measurement_replaces_only_one_of_its_program_and_machine() {
        let record = |program: &str, made: &str| GpuRecord {
            program: program.to_owned(),
            made: made.to_owned(),
            ..GpuRecord::default()
        };
        let bytes = |record| serde_json::to_vec(&record).unwrap();
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("gpu");
        let file = "gpu.json".to_owned();
        write_bytes(&folder.join(&file), &bytes(record("mesa 1", "monday"))).unwrap();
        let again = BTreeMap::from([(file.clone(), bytes(record("mesa 1", "tuesday")))]);
        assert!(grows_from(&again, &folder).unwrap());
        let other = BTreeMap::from([(file, bytes(record("mesa 2", "tuesday")))]);
        assert!(!grows_from(&other, &folder).unwrap());
    }

    #[test]
    fn nothing_escapes_from_an_archive() {
        let file = tar::EntryType::Regular;
        for path in [
            "../summary.json",
            "/tmp/summary.json",
            "a/../summary.json",
            "a/b/summary.json",
            "summary.json",
            "a/run.sh",
            "..",
            "a\\b/summary.json",
            "c:/gpu.json",
        ] {
            let error = read(crafted(path, file).as_slice()).unwrap_err();
            assert!(
                format!("{error:#}").contains("no record"),
                "{path}: {error:#}"
            );
        }
        let link = crafted("a/gpu.json", tar::EntryType::Symlink);
        let error = read(link.as_slice()).unwrap_err();
        assert!(error.to_string().contains("no plain file"), "{error}");
        assert_eq!(
            read(crafted("a/gpu.json", file).as_slice()).unwrap().len(),
            1
        );
    }

    #[test]
    fn what_is_no_archive_or_too_much_is_refused() {
        assert!(read(&b"not compressed"[..]).is_err());
        let root = tempfile::tempdir().unwrap();
        let empty = run_folder(root.path(), "empty", &["weights.safetensors"]);
        let error = gather(&[empty]).unwrap_err();
        assert!(error.to_string().contains("has no record"), "{error}");
        let twice = run_folder(root.path(), "x", &["gpu.json"]);
        let error = gather(&[twice.clone(), twice]).unwrap_err();
        assert!(error.to_string().contains("called `x`"), "{error}");
        let mut header = tar::Header::new_gnu();
        header.set_path("a/gpu.json").unwrap();
        header.set_size(LARGEST_FILE + 1);
        header.set_entry_type(tar::EntryType::Regular);
        header.set_cksum();
        let mut large = GzEncoder::new(Vec::new(), Compression::default());
        large.write_all(header.as_bytes()).unwrap();
        let error = read(large.finish().unwrap().as_slice()).unwrap_err();
        assert!(error.to_string().contains("larger"), "{error}");
    }
}
