//! `mesa gpu pack` and `mesa gpu unpack`: records of run folders on their way from a machine with a
//! GPU to the repository.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::Read;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use flate2::{Compression, read::GzDecoder, write::GzEncoder};
use mesa_record::{GpuRecord, GpuRow, Row, Summary, write_bytes};
use serde_json::json;

use crate::args::{GpuPack, GpuUnpack};
use crate::commands::check_not_input;
use crate::output;

/// What is taken of a run folder: records, no weights.
const FILES: [&str; 4] = ["summary.json", "curves.csv", "config.toml", "gpu.json"];

/// The largest record, and the largest archive once unpacked, in bytes: 51 triggers take a few MB.
const LARGEST_FILE: u64 = 64 << 20;
const LARGEST_ARCHIVE: u64 = 512 << 20;

/// Records of one folder, by file.
type Files = BTreeMap<String, Vec<u8>>;

/// Records by folder.
type Records = BTreeMap<String, Files>;

pub(super) fn pack(args: &GpuPack, json: bool) -> Result<()> {
    let records: Vec<PathBuf> = args
        .folders
        .iter()
        .flat_map(|folder| FILES.map(|file| folder.join(file)))
        .collect();
    check_not_input(&args.to, records.iter().map(PathBuf::as_path))?;
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
    let (mut names, mut plain) = (Vec::new(), Vec::new());
    for (folder, records) in records {
        let Placed { name, is_older } = place(&folder, &records, &args.into)?;
        let there = args.into.join(&name);
        if is_older {
            plain.push(format!(
                "{folder}: nothing new, all of it is in {}",
                there.display()
            ));
            continue;
        }
        for (file, bytes) in &records {
            write_bytes(&there.join(file), bytes)?;
            names.push(format!("{name}/{file}"));
        }
        let beside = if name == folder {
            String::new()
        } else {
            format!(", since another run's records are in {folder}")
        };
        let count = files(records.len());
        plain.push(format!(
            "{folder}: wrote {count} to {}{beside}",
            there.display()
        ));
    }
    output::result(json, &json!({ "unpacked": names }), &plain.join("\n"))
}

/// Where the records of one folder go.
#[derive(Debug, PartialEq, Eq)]
struct Placed {
    name: String,
    /// What is there already holds all of it, and is left as it is.
    is_older: bool,
}

/// A folder in which records replace nothing but an earlier state of themselves: `paper-w64-2` where
/// another sweep lies in `paper-w64`.
fn place(folder: &str, files: &Files, into: &Path) -> Result<Placed> {
    let mut name = folder.to_owned();
    for number in 2.. {
        let there = read_folder(&into.join(&name))?;
        if grows_from(files, &there) {
            break;
        }
        if grows_from(&there, files) {
            let is_older = true;
            return Ok(Placed { name, is_older });
        }
        name = format!("{folder}-{number}");
    }
    let is_older = false;
    Ok(Placed { name, is_older })
}

/// The records that a folder has.
fn read_folder(folder: &Path) -> Result<Files> {
    let paths = FILES.map(|file| (file, folder.join(file)));
    let there = paths.into_iter().filter(|(_, path)| path.is_file());
    let read = |(file, path): (&str, PathBuf)| {
        let bytes = fs_err::read(&path)?;
        ensure!(
            bytes.len() as u64 <= LARGEST_FILE,
            "{} is larger than a record",
            path.display()
        );
        Ok((file.to_owned(), bytes))
    };
    there.map(read).collect()
}

/// Whether records hold all that earlier ones do: whatever they measured, or the very bytes.
fn grows_from(records: &Files, earlier: &Files) -> bool {
    earlier.iter().all(|(file, before)| {
        let Some(bytes) = records.get(file) else {
            return false;
        };
        bytes == before
            || match file.as_str() {
                "summary.json" => has_all_rows(bytes, before),
                "gpu.json" => has_all_parts(bytes, before),
                // They tell of the rows, which are compared where there are any.
                _ => earlier.contains_key("summary.json"),
            }
    })
}

/// Whether a run is a later state of another: it has itself computed every row that the other had, and
/// has the same figures of it.
fn has_all_rows(run: &[u8], earlier: &[u8]) -> bool {
    let parsed = |bytes| serde_json::from_slice::<Summary>(bytes);
    let (Ok(run), Ok(earlier)) = (parsed(run), parsed(earlier)) else {
        return false;
    };
    let kind = |run: &Summary| (run.preset.clone(), run.data.clone(), run.device.clone());
    let own = |row: &&Row| !row.committed;
    let mut before = earlier.rows.iter().filter(own).peekable();
    // Keys are of settings: the same sweep begun anew elsewhere has them as well, and other times.
    kind(&run) == kind(&earlier)
        && before.peek().is_some()
        && before.all(|before| run.rows.iter().filter(own).any(|row| row == before))
}

/// Whether a record has every part of an earlier one as it was.
fn has_all_parts(record: &[u8], earlier: &[u8]) -> bool {
    let parsed = |bytes| serde_json::from_slice::<GpuRecord>(bytes);
    let (Ok(record), Ok(earlier)) = (parsed(record), parsed(earlier)) else {
        return false;
    };
    let kept = |now: &[GpuRow], before: &[GpuRow]| before.is_empty() || now == before;
    (&record.program, &record.machine) == (&earlier.program, &earlier.machine)
        && (earlier.check.is_none() || record.check == earlier.check)
        && kept(&record.rates, &earlier.rates)
        && kept(&record.layers, &earlier.layers)
        && kept(&record.steps, &earlier.steps)
        && (earlier.comparisons.is_empty() || record.comparisons == earlier.comparisons)
}

fn files(count: usize) -> String {
    match count {
        1 => "one file".to_owned(),
        _ => format!("{count} files"),
    }
}

fn names(records: &Records) -> Vec<String> {
    let of_folder = |(folder, files): (&String, &Files)| -> Vec<String> {
        files
            .keys()
            .map(|name| format!("{folder}/{name}"))
            .collect()
    };
    records.iter().flat_map(of_folder).collect()
}

fn gather(folders: &[PathBuf]) -> Result<Records> {
    let mut records = Records::new();
    for folder in folders {
        let name = folder_name(folder)?;
        let files = read_folder(folder)?;
        ensure!(
            !files.is_empty(),
            "{} has no record: none of {}",
            folder.display(),
            FILES.join(", ")
        );
        if records.insert(name.clone(), files).is_some() {
            bail!("two of the folders are called `{name}`: pack them one by one");
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
    let of_folder = |(folder, files)| Files::iter(files).map(move |file| (folder, file));
    for (folder, (name, bytes)) in records.iter().flat_map(of_folder) {
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
        let (folder, name) = record_name(&path)
            .with_context(|| format!("it holds `{}`, which is not a record", path.display()))?;
        ensure!(
            entry.header().entry_type().is_file(),
            "`{}` is not a plain file",
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
        let files = records.entry(folder).or_default();
        if files.insert(name, bytes).is_some() {
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

    fn row(trigger: u32, asr: f64, committed: bool) -> String {
        format!(
            r#"{{"trigger": {trigger}, "seed": 0, "method": "ideal", "asr": {asr}, "wall_s": 1.0,
            "clean_accuracy": 0.9, "regained_accuracy": 0.9, "committed": {committed}, "key": "k"}}"#
        )
    }

    fn summary(rows: &[String]) -> String {
        let rows = rows.join(",");
        format!(
            r#"{{"preset": "paper", "data": "cifar10", "device": "G", "wall_s": 1.0,
            "peak_rss_mb": null, "rows": [{rows}]}}"#
        )
    }

    /// Puts records where they belong, as `unpack` does; the folder's name, none if it had all of them.
    fn put(file: &str, text: &str, into: &Path) -> Option<String> {
        let files = Files::from([(file.to_owned(), text.as_bytes().to_vec())]);
        let placed = place("run", &files, into).unwrap();
        if placed.is_older {
            return None;
        }
        write_bytes(&into.join(&placed.name).join(file), text.as_bytes()).unwrap();
        Some(placed.name)
    }

    #[test]
    fn another_sweep_does_not_replace_what_is_there() {
        let root = tempfile::tempdir().unwrap();
        let put = |text: &str| put("summary.json", text, root.path());
        let own = |trigger| row(trigger, 0.02, false);
        let known = |trigger| row(trigger, 0.02, true);
        let first = summary(&[own(170)]);
        assert_eq!(put(&first).unwrap(), "run");
        assert_eq!(put(&first).unwrap(), "run");
        // The same sweep, further on; then its earlier state again.
        let further = summary(&[own(170), own(16)]);
        assert_eq!(put(&further).unwrap(), "run");
        assert_eq!(put(&first), None);
        // Another one, which took the rows that were committed as done.
        let other = summary(&[known(170), known(16), own(0)]);
        assert_eq!(put(&other).unwrap(), "run-2");
        let other = summary(&[known(170), known(16), own(0), own(1)]);
        assert_eq!(put(&other).unwrap(), "run-2");
        // The first one, begun anew on another machine: the same keys, other figures.
        let anew = summary(&[row(170, 0.03, false), own(16)]);
        assert_eq!(put(&anew).unwrap(), "run-3");
        // Rows of others alone.
        let none_own = summary(&[known(170)]);
        assert_eq!(put(&none_own).unwrap(), "run-4");
        assert_eq!(put(&summary(&[own(5)])).unwrap(), "run-5");
        let kept = fs_err::read_to_string(root.path().join("run/summary.json")).unwrap();
        assert_eq!(kept, further);
    }

    #[test]
    fn a_measurement_replaces_only_an_earlier_state_of_itself() {
        let root = tempfile::tempdir().unwrap();
        let put = |record: &GpuRecord| {
            let text = serde_json::to_string(record).unwrap();
            put("gpu.json", &text, root.path())
        };
        let of = |work: &str| GpuRow {
            work: work.to_owned(),
            ..GpuRow::default()
        };
        let checked = GpuRecord {
            check: Some(mesa_record::GpuCheck::default()),
            ..GpuRecord::default()
        };
        let measured = GpuRecord {
            steps: vec![of("one")],
            ..checked.clone()
        };
        assert_eq!(put(&checked).unwrap(), "run");
        assert_eq!(put(&measured).unwrap(), "run");
        assert_eq!(put(&checked), None);
        // The same program on another card of the same name.
        let elsewhere = GpuRecord {
            steps: vec![of("another")],
            ..checked
        };
        assert_eq!(put(&elsewhere).unwrap(), "run-2");
        let newer = GpuRecord {
            program: "mesa 2".to_owned(),
            ..measured
        };
        assert_eq!(put(&newer).unwrap(), "run-3");
    }

    #[test]
    fn curves_alone_replace_nothing() {
        let root = tempfile::tempdir().unwrap();
        let put = |file: &str, text: &str| put(file, text, root.path());
        assert_eq!(put("curves.csv", "a").unwrap(), "run");
        assert_eq!(put("curves.csv", "b").unwrap(), "run-2");
        assert_eq!(
            put("summary.json", &summary(&[row(1, 0.1, false)])).unwrap(),
            "run-3"
        );
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
                format!("{error:#}").contains("not a record"),
                "{path}: {error:#}"
            );
        }
        let link = crafted("a/gpu.json", tar::EntryType::Symlink);
        let error = read(link.as_slice()).unwrap_err();
        assert!(error.to_string().contains("not a plain file"), "{error}");
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
