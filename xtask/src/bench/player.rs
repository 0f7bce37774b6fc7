//! One side of a comparison: a program that stays warm between its turns.

use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader, Write as _},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use anyhow::{Context as _, Result, bail};

/// A program that says `ready NAME` and then answers requests: `go N` with the seconds that one of
/// `N` steps took, `memory` with what it held at its start and at most. It ends when its input
/// does.
pub(crate) struct Player {
    /// How it calls itself, version included.
    pub(crate) name: String,
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

/// What a turn took.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Turn {
    /// Seconds for one step.
    pub(crate) seconds: f64,
    /// Seconds of its stages, where it has some.
    pub(crate) stages_s: BTreeMap<String, f64>,
}

/// What a program holds, in MiB.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Memory {
    /// Before it made a network.
    pub(crate) start_mb: f64,
    /// At most, so far.
    pub(crate) peak_mb: f64,
}

impl Player {
    /// Starts the program and waits until it is ready.
    pub(crate) fn start(command: &mut Command) -> Result<Self> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("starting {}", command.get_program().display()))?;
        let input = child.stdin.take();
        let output = child
            .stdout
            .take()
            .context("the program's output is a pipe")?;
        let mut player = Self {
            name: String::new(),
            child,
            input,
            output: BufReader::new(output),
        };
        let line = player.line()?;
        let Some(name) = line.strip_prefix("ready ") else {
            bail!("unexpected answer `{line}`")
        };
        name.clone_into(&mut player.name);
        Ok(player)
    }

    /// Lets it take `steps` steps.
    pub(crate) fn go(&mut self, steps: usize) -> Result<Turn> {
        let line = self.ask(&format!("go {steps}"))?;
        turn(&line).with_context(|| format!("unexpected answer `{line}`"))
    }

    /// Asks what it holds.
    pub(crate) fn memory(&mut self) -> Result<Memory> {
        let line = self.ask("memory")?;
        let numbers: Vec<f64> = line
            .split(' ')
            .filter_map(|part| part.parse().ok())
            .collect();
        let [start_mb, peak_mb] = numbers[..] else {
            bail!("unexpected answer `{line}`")
        };
        Ok(Memory { start_mb, peak_mb })
    }

    fn ask(&mut self, request: &str) -> Result<String> {
        let input = self
            .input
            .as_mut()
            .context("the program's input is a pipe")?;
        writeln!(input, "{request}")
            .and_then(|()| input.flush())
            .context("the program ended")?;
        self.line()
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        if self.output.read_line(&mut line)? == 0 {
            bail!("the program ended without an answer");
        }
        Ok(line.trim().to_owned())
    }
}

/// `SECONDS`, then `STAGE=SECONDS` for each stage.
fn turn(line: &str) -> Option<Turn> {
    let mut parts = line.split(' ');
    let seconds = parts
        .next()?
        .parse()
        .ok()
        .filter(|seconds| *seconds > 0.0)?;
    let stages_s = parts.map(|part| {
        let (name, seconds) = part.split_once('=')?;
        Some((name.to_owned(), seconds.parse().ok()?))
    });
    Some(Turn {
        seconds,
        stages_s: stages_s.collect::<Option<_>>()?,
    })
}

impl Drop for Player {
    fn drop(&mut self) {
        drop(self.input.take());
        // It ends by itself; its exit status says nothing new.
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_seconds_with_and_without_stages() {
        let stages = |line| turn(line).map(|turn| (turn.seconds, turn.stages_s.len()));
        assert_eq!(stages("0.5"), Some((0.5, 0)));
        assert_eq!(stages("3.5 attack=1.5 fit=2"), Some((3.5, 2)));
        assert_eq!(stages("3.5 attack"), None);
        assert_eq!(stages("0"), None);
        assert_eq!(stages(""), None);
    }
}
