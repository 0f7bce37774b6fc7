//! The record on disk: written after each part, each command keeping the other's.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::Result;
use mesa_record::{GpuMachine, GpuRecord, read_json, utc, write_json};

/// The file's name in its folder.
pub(super) const FILE: &str = "gpu.json";

/// `gpu.json` in the making.
#[derive(Debug)]
pub(super) struct Recorder {
    path: PathBuf,
    pub(super) record: GpuRecord,
}

impl Recorder {
    /// What is there of the same machine and program, to be added to; else an empty record.
    pub(super) fn open(folder: &Path, machine: GpuMachine) -> Self {
        let path = folder.join(FILE);
        let program = format!("mesa {}", env!("MESA_LONG_VERSION"));
        let old = path.exists().then(|| read_json::<GpuRecord>(&path));
        let record = match old {
            Some(Ok(old)) if old.machine == machine && old.program == program => old,
            old => {
                match old {
                    None => {}
                    Some(Err(error)) => tracing::warn!("{error}; it is replaced"),
                    Some(Ok(old)) => tracing::warn!(
                        "{} is of {} on {}: it is replaced, not added to",
                        path.display(),
                        old.program,
                        old.machine.device
                    ),
                }
                GpuRecord {
                    program,
                    machine,
                    ..GpuRecord::default()
                }
            }
        };
        Self { path, record }
    }

    /// Writes the record.
    pub(super) fn save(&mut self) -> Result<()> {
        self.record.made = utc(SystemTime::now());
        Ok(write_json(&self.path, &self.record)?)
    }

    /// Where it lies.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

/// The driver's version as Linux tells it, or nothing.
pub(super) fn driver_version() -> String {
    fs_err::read_to_string("/proc/driver/nvidia/version")
        .ok()
        .and_then(|text| number_in(&text))
        .unwrap_or_default()
}

/// The first word that is a version: `NVRM version: … Kernel Module  580.95.05  Tue …`.
fn number_in(text: &str) -> Option<String> {
    let is_version =
        |word: &&str| word.contains('.') && word.chars().all(|c| c.is_ascii_digit() || c == '.');
    text.split_whitespace().find(is_version).map(str::to_owned)
}

/// `13000` is CUDA 13.0.
pub(super) fn cuda_words(version: u32) -> String {
    format!("{}.{}", version / 1000, version % 1000 / 10)
}

/// `91900` is cuDNN 9.19.0.
pub(super) fn dnn_words(version: usize) -> String {
    let [major, minor, patch] = [version / 10_000, version / 100 % 100, version % 100];
    format!("{major}.{minor}.{patch}")
}

#[cfg(test)]
mod tests {
    use mesa_record::GpuCheck;

    use super::*;

    #[test]
    fn versions_are_written_as_people_do() {
        assert_eq!(cuda_words(12_080), "12.8");
        assert_eq!(dnn_words(91_900), "9.19.0");
        let text = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.95.05  Tue Sep\nGCC 13";
        assert_eq!(number_in(text).unwrap(), "580.95.05");
        assert_eq!(number_in("nothing. here"), None);
    }

    #[test]
    fn one_command_keeps_what_the_other_wrote_of_the_same_machine() {
        let folder = tempfile::tempdir().unwrap();
        let machine = |device: &str| GpuMachine {
            device: device.to_owned(),
            ..GpuMachine::default()
        };
        let mut first = Recorder::open(folder.path(), machine("A"));
        first.record.check = Some(GpuCheck::default());
        first.save().unwrap();
        let same = Recorder::open(folder.path(), machine("A"));
        assert!(same.record.check.is_some());
        let other = Recorder::open(folder.path(), machine("B"));
        assert!(other.record.check.is_none());
        fs_err::write(first.path(), "{").unwrap();
        let damaged = Recorder::open(folder.path(), machine("A"));
        assert!(damaged.record.check.is_none());
    }
}
