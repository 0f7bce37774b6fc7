//! The claim of one process on a run folder.

use std::fmt;
use std::io::{Read, Seek, Write};
use std::path::Path;
use std::time::SystemTime;

use fs_err::{File, OpenOptions};
use serde::{Deserialize, Serialize};

use crate::machine::host_name;
use crate::{Error, Result, utc};

/// The claim of one process on a run folder, given up when dropped.
///
/// It is a lock of the operating system on the file `lock`, so that it ends
/// with the process however that ends; what the file says is for people.
#[derive(Debug)]
pub struct Lock {
    file: File,
    left_behind: Option<Holder>,
}

/// Who holds a run folder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// Number of the process.
    pub pid: u32,
    /// Machine it runs on.
    pub host: String,
    /// When it took the folder, in UTC.
    pub started: String,
    /// What was started.
    pub command: String,
}

impl Lock {
    /// Claims `dir`, which is created if needed.
    ///
    /// # Errors
    ///
    /// [`Error::Locked`] with its holder if another process has it,
    /// [`Error::Io`] if the folder cannot be written.
    pub fn acquire(dir: &Path) -> Result<Self> {
        fs_err::create_dir_all(dir)?;
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(dir.join("lock"))?;
        let claimed = file.file().try_lock();
        let holder = read_holder(&mut file);
        match claimed {
            Ok(()) => {}
            Err(std::fs::TryLockError::WouldBlock) => {
                let holder = Box::new(holder.unwrap_or_else(Holder::unknown));
                return Err(Error::Locked {
                    dir: dir.to_owned(),
                    holder,
                });
            }
            Err(std::fs::TryLockError::Error(source)) => {
                return Err(Error::Write {
                    path: dir.join("lock"),
                    source,
                });
            }
        }
        let mut lock = Self {
            file,
            left_behind: holder,
        };
        lock.write(
            &serde_json::to_string(&Holder::this_process()).expect("plain fields become JSON"),
        )?;
        Ok(lock)
    }

    /// The process that held the folder before and ended without giving it
    /// up: it was killed, or its machine went down.
    pub fn left_behind(&self) -> Option<&Holder> {
        self.left_behind.as_ref()
    }

    fn write(&mut self, text: &str) -> Result<()> {
        self.file.set_len(0)?;
        self.file.rewind()?;
        self.file.write_all(text.as_bytes())?;
        self.file.flush()?;
        Ok(())
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // An empty file says that its last holder ended in order. If this
        // fails the next one merely says that it took over.
        let _ = self.write("");
    }
}

impl Holder {
    fn this_process() -> Self {
        Self {
            pid: std::process::id(),
            host: host_name(),
            started: utc(SystemTime::now()),
            command: std::env::args_os()
                .map(|word| word.to_string_lossy().into_owned())
                .collect::<Vec<_>>()
                .join(" "),
        }
    }

    fn unknown() -> Self {
        let unknown = || "unknown".to_owned();
        Self {
            pid: 0,
            host: unknown(),
            started: unknown(),
            command: unknown(),
        }
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            pid,
            host,
            started,
            command,
        } = self;
        write!(f, "process {pid} on {host}, started {started} ({command})")
    }
}

fn read_holder(file: &mut File) -> Option<Holder> {
    let mut text = String::new();
    file.read_to_string(&mut text).ok()?;
    serde_json::from_str(&text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_claim_is_told_who_holds_it() {
        let dir = tempfile::tempdir().unwrap();
        let lock = Lock::acquire(dir.path()).unwrap();
        assert!(lock.left_behind().is_none());
        let error = Lock::acquire(dir.path()).unwrap_err();
        let Error::Locked { holder, .. } = &error else {
            panic!("{error}")
        };
        assert_eq!(holder.pid, std::process::id());
        drop(lock);
        assert!(Lock::acquire(dir.path()).unwrap().left_behind().is_none());
    }

    #[test]
    fn a_lock_of_a_dead_process_is_taken_over() {
        let dir = tempfile::tempdir().unwrap();
        let dead = Holder {
            pid: 4_000_000,
            ..Holder::unknown()
        };
        fs_err::write(
            dir.path().join("lock"),
            serde_json::to_string(&dead).unwrap(),
        )
        .unwrap();
        let lock = Lock::acquire(dir.path()).unwrap();
        assert_eq!(lock.left_behind(), Some(&dead));
    }
}
