//! The program under test, and the smallest of runs.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use serde_json::Value;

/// The `mesa` program, deaf to this machine's environment.
pub(crate) fn mesa(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mesa"));
    command.args(arguments);
    for name in ["MESA_DATA", "MESA_LOG", "MESA_PARENT_PID", "XDG_CACHE_HOME"]
        .into_iter()
        .chain(["HF_ENDPOINT", "HF_HOME", "HF_HUB_CACHE", "HF_TOKEN"])
        .chain(["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"])
        .chain(["ALL_PROXY", "HTTPS_PROXY", "HTTP_PROXY"])
        .chain(["all_proxy", "https_proxy", "http_proxy"])
    {
        command.env_remove(name);
    }
    // No cache, no home: what is found is what a test gives.
    command
        .env("HOME", "/nonexistent")
        // Nor a network, but where a test has a Hub of its own.
        .env("HF_HUB_OFFLINE", "1")
        .env("COLUMNS", "100")
        .env("NO_COLOR", "1");
    command
}

/// What a command said and how it ended.
#[derive(Clone)]
pub(crate) struct Said {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl From<Output> for Said {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

pub(crate) fn say(arguments: &[&str]) -> Said {
    mesa(arguments).output().unwrap().into()
}

/// What a command printed as JSON; it has to succeed.
pub(crate) fn json(arguments: &[&str]) -> Value {
    let said = say(arguments);
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    serde_json::from_str(&said.stdout).unwrap()
}

/// The settings of a run that takes seconds.
pub(crate) fn tiny() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/tiny.toml")
}

/// Every file below a folder and what is in it.
pub(crate) fn contents(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs_err::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.append(&mut contents(&path));
        } else {
            let bytes = fs_err::read(&path).unwrap();
            found.insert(path, bytes);
        }
    }
    found
}

/// What a folder held, for tests that start from the same: each has a copy.
pub(crate) struct Kept(BTreeMap<PathBuf, Vec<u8>>);

impl Kept {
    pub(crate) fn of(folder: &Path) -> Self {
        let files = contents(folder).into_iter();
        let below = |path: &Path| path.strip_prefix(folder).unwrap().to_owned();
        Self(files.map(|(path, bytes)| (below(&path), bytes)).collect())
    }

    pub(crate) fn copy_to(&self, folder: &Path) {
        for (name, bytes) in &self.0 {
            let path = folder.join(name);
            fs_err::create_dir_all(path.parent().unwrap()).unwrap();
            fs_err::write(path, bytes).unwrap();
        }
    }
}

/// A run of [`tiny`] in a folder of its own.
pub(crate) struct TinyRun {
    pub(crate) folder: PathBuf,
    /// Kept for its destructor.
    _temporary: tempfile::TempDir,
}

impl TinyRun {
    pub(crate) fn new() -> Self {
        let temporary = tempfile::tempdir().unwrap();
        Self {
            folder: temporary.path().join("run"),
            _temporary: temporary,
        }
    }

    /// A copy of one that is finished, with all methods, and what it said: it is made but once.
    pub(crate) fn finished() -> (Self, Said) {
        static FINISHED: OnceLock<(Kept, Said)> = OnceLock::new();
        let (kept, said) = FINISHED.get_or_init(|| {
            let run = Self::new();
            let said = run.finish(&["--threads", "1"]);
            (Kept::of(&run.folder), said)
        });
        let run = Self::new();
        kept.copy_to(&run.folder);
        (run, said.clone())
    }

    pub(crate) fn command(&self, more: &[&str]) -> Command {
        let mut command = mesa(&["run", "--data", "synthetic"]);
        command
            .arg("--config")
            .arg(tiny())
            .arg("--out")
            .arg(&self.folder)
            .args(more);
        command
    }

    pub(crate) fn say(&self, more: &[&str]) -> Said {
        self.command(more).output().unwrap().into()
    }

    /// Starts it; the caller ends it.
    pub(crate) fn start(&self, more: &[&str]) -> Child {
        self.command(more)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap()
    }

    /// Runs it to its end.
    pub(crate) fn finish(&self, more: &[&str]) -> Said {
        let said = self.say(more);
        assert_eq!(said.code, Some(0), "{}", said.stderr);
        said
    }

    pub(crate) fn summary(&self) -> Value {
        let text = fs_err::read_to_string(self.folder.join("summary.json")).unwrap();
        serde_json::from_str(&text).unwrap()
    }

    /// The record of a step.
    pub(crate) fn record(&self, step: &str) -> Value {
        let path = self.folder.join("records").join(format!("{step}.json"));
        serde_json::from_str(&fs_err::read_to_string(path).unwrap()).unwrap()
    }

    /// The rows as text without what a clock measured.
    pub(crate) fn figures(&self) -> String {
        self.figures_of(|_| true)
    }

    /// The same of the rows before any defense, and of some methods.
    pub(crate) fn figures_with(&self, methods: &[&str]) -> String {
        self.figures_of(|row| {
            let method = row["method"].as_str().unwrap();
            ["clean", "backdoored"].contains(&method) || methods.contains(&method)
        })
    }

    /// The same of some of the rows.
    pub(crate) fn figures_of(&self, wanted: impl Fn(&Value) -> bool) -> String {
        let mut rows = self.summary()["rows"].as_array().unwrap().clone();
        rows.retain(wanted);
        for row in &mut rows {
            row.as_object_mut().unwrap().remove("wall_s");
        }
        serde_json::to_string_pretty(&rows).unwrap()
    }
}

/// A file's path in a temporary folder.
pub(crate) fn in_temporary(folder: &tempfile::TempDir, name: &str) -> String {
    folder.path().join(name).display().to_string()
}

/// Sends a signal, `INT` or `TERM`.
#[cfg(unix)]
pub(crate) fn send(signal: &str, child: &Child) {
    let kill = format!("kill -{signal} {}", child.id());
    let sent = Command::new("sh").args(["-c", &kill]).status().unwrap();
    assert!(sent.success());
}

pub(crate) fn wait_until(mut holds: impl FnMut() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(
            started.elapsed() < Duration::from_mins(1),
            "waited a minute in vain"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}
