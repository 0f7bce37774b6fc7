//! PyTorch's side of the comparison: processes that stay warm between their turns.
//!
//! Each computes one step in one way, so that what compiles does so while others do, and one that
//! fails or takes too long costs the others nothing.

use std::env;
use std::ffi::OsString;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// Written to a folder to be started from there: compilers look for a source file.
const SCRIPTS: [(&str, &str); 3] = [
    ("gpu_peer.py", include_str!("gpu_peer.py")),
    ("perceptrons.py", include_str!("perceptrons.py")),
    ("resnet.py", include_str!("resnet.py")),
];

/// How long an answer may take: turns are short.
const ANSWER: Duration = Duration::from_secs(20);

/// How many threads PyTorch compiles with.
const THREADS: &str = "TORCHINDUCTOR_COMPILE_THREADS";

/// A way to compute a step in PyTorch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Way {
    /// Which step.
    pub(super) work: &'static str,
    /// How.
    pub(super) variant: &'static str,
}

/// What a step in PyTorch is made of.
#[derive(Clone, Copy, Debug)]
pub(super) struct PeerSizes {
    pub(super) width: usize,
    pub(super) batch_size: usize,
    /// Tiny sizes, on a processor if there is no GPU.
    pub(super) quick: bool,
}

/// The Python that has torch: `MESA_PYTHON`, else `python3`.
pub(super) fn python() -> OsString {
    env::var_os("MESA_PYTHON").unwrap_or_else(|| "python3".into())
}

/// Whether there is a torch to import. Importing it takes seconds: whether it sees the GPU, each
/// process finds out for itself.
pub(super) fn has_torch(python: &OsString) -> bool {
    Command::new(python)
        .args([
            "-c",
            "import importlib.util as util; assert util.find_spec('torch')",
        ])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// The scripts in a folder of their own.
pub(super) fn write_scripts(folder: &Path) -> Result<PathBuf> {
    fs_err::create_dir_all(folder)?;
    for (name, text) in SCRIPTS {
        fs_err::write(folder.join(name), text)?;
    }
    Ok(folder.join(SCRIPTS[0].0))
}

/// A started process.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) way: Way,
    /// How it calls itself, once it is ready.
    pub(super) name: String,
    /// Seconds until it was ready.
    pub(super) ready_s: f64,
    child: Child,
    input: Option<ChildStdin>,
    lines: Receiver<String>,
    log: PathBuf,
    started: Instant,
}

impl Peer {
    /// Starts PyTorch on its way to be ready; what it complains of goes to a file.
    pub(super) fn start(
        python: &OsString,
        script: &Path,
        way: Way,
        sizes: PeerSizes,
        gpu: usize,
    ) -> Result<Self> {
        let mut command = Command::new(python);
        command
            .arg(script)
            .args(["--work", way.work, "--variant", way.variant])
            .args(["--width", &sizes.width.to_string()])
            .args(["--batch-size", &sizes.batch_size.to_string()])
            .args(["--gpu", &gpu.to_string()])
            .args(sizes.quick.then_some("--quick"));
        // Several compile at the same time, each with a share of the processors.
        if env::var_os(THREADS).is_none() {
            let all = std::thread::available_parallelism().map_or(1, usize::from);
            command.env(THREADS, (all / 4).max(1).to_string());
        }
        let log = script.with_file_name(format!("{}-{}.log", way.work, way.variant));
        Self::spawn(command, way, log)
    }

    fn spawn(mut command: Command, way: Way, log: PathBuf) -> Result<Self> {
        let (errors, _) = fs_err::File::create(&log)?.into_parts();
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(errors)
            .spawn()
            .with_context(|| format!("starting {}", command.get_program().display()))?;
        let input = child.stdin.take();
        let output = child.stdout.take().context("its output is a pipe")?;
        let (sender, lines) = mpsc::channel();
        // Ends with the process, or with whoever listens.
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines() {
                let Ok(line) = line else { return };
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Ok(Self {
            way,
            name: String::new(),
            ready_s: 0.0,
            child,
            input,
            lines,
            log,
            started: Instant::now(),
        })
    }

    /// Waits until it is ready, no longer than `limit` from its start.
    pub(super) fn wait(&mut self, limit: Duration) -> Result<()> {
        let left = limit.saturating_sub(self.started.elapsed());
        let Some(line) = self.line(left)? else {
            bail!("not ready after {:.0} s", limit.as_secs_f64())
        };
        let (seconds, name) = line
            .strip_prefix("ready ")
            .and_then(|words| words.split_once(' '))
            .with_context(|| format!("unexpected answer `{line}`"))?;
        self.ready_s = seconds.parse().context("reading when it was ready")?;
        name.clone_into(&mut self.name);
        Ok(())
    }

    /// Lets it take `steps` steps: the seconds of one.
    pub(super) fn go(&mut self, steps: usize) -> Result<f64> {
        let input = self.input.as_mut().context("its input is a pipe")?;
        let asked = writeln!(input, "go {steps}").and_then(|()| input.flush());
        if asked.is_err() {
            bail!("{}", self.why_it_ended());
        }
        let Some(line) = self.line(ANSWER)? else {
            bail!("no answer within {} s", ANSWER.as_secs())
        };
        match line.parse::<f64>() {
            Ok(seconds) if seconds > 0.0 => Ok(seconds),
            _ => bail!("unexpected answer `{line}`"),
        }
    }

    /// The next line; none if there is none in time.
    fn line(&mut self, limit: Duration) -> Result<Option<String>> {
        match self.lines.recv_timeout(limit) {
            Ok(line) => Ok(Some(line)),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => bail!("{}", self.why_it_ended()),
        }
    }

    /// The last thing it complained of.
    fn why_it_ended(&self) -> String {
        let text = fs_err::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let last = text.lines().rfind(|line| !line.trim().is_empty());
        let last: String = last
            .unwrap_or("it said nothing")
            .chars()
            .take(200)
            .collect();
        format!("PyTorch ended: {last}")
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        drop(self.input.take());
        // It may be in the middle of compiling; there is nothing it has to put away.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
#[cfg(unix)]
mod tests {
    use super::*;

    const WAY: Way = Way {
        work: "train",
        variant: "eager",
    };

    fn start(program: &str, folder: &tempfile::TempDir) -> Peer {
        let mut command = Command::new("sh");
        command.args(["-c", program]);
        Peer::spawn(command, WAY, folder.path().join("log")).unwrap()
    }

    #[test]
    fn one_that_is_ready_answers() {
        let folder = tempfile::tempdir().unwrap();
        let program = "echo ready 1.5 PyTorch 2; while read go count; do echo 0.$count; done";
        let mut peer = start(program, &folder);
        peer.wait(Duration::from_secs(10)).unwrap();
        assert_eq!((peer.name.as_str(), peer.ready_s), ("PyTorch 2", 1.5));
        assert!((peer.go(25).unwrap() - 0.25).abs() < 1e-12);
        assert!(peer.go(0).unwrap_err().to_string().contains("unexpected"));
    }

    #[test]
    fn one_that_fails_says_why_and_one_that_is_late_is_ended() {
        let folder = tempfile::tempdir().unwrap();
        let mut peer = start("echo 'no kernel image' >&2; echo >&2; exit 3", &folder);
        let error = peer.wait(Duration::from_secs(10)).unwrap_err();
        assert_eq!(error.to_string(), "PyTorch ended: no kernel image");
        let mut late = start("exec sleep 600", &folder);
        let error = late.wait(Duration::from_millis(50)).unwrap_err();
        assert!(error.to_string().contains("not ready"), "{error}");
        let started = Instant::now();
        drop(late);
        assert!(started.elapsed() < Duration::from_secs(5));
    }

    #[test]
    fn a_python_without_torch_is_none() {
        assert!(!has_torch(&"false".into()));
        assert!(!has_torch(&"/nowhere/python3".into()));
    }

    #[test]
    fn scripts_find_each_other() {
        let folder = tempfile::tempdir().unwrap();
        let script = write_scripts(&folder.path().join("peer")).unwrap();
        assert!(script.with_file_name("resnet.py").exists());
        assert!(SCRIPTS[0].1.contains("from resnet import ResNet18"));
    }
}
