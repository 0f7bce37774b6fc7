//! One side of a comparison: a program that stays warm between its turns.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use anyhow::{Context as _, Result, bail};

/// A program that says `ready NAME` and then answers each line `go N` with the
/// seconds that one of `N` steps took. It ends when its input does.
pub(crate) struct Player {
    /// How it calls itself, version included.
    pub(crate) name: String,
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
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

    /// Lets it take `steps` steps; the seconds for one.
    pub(crate) fn go(&mut self, steps: usize) -> Result<f64> {
        let input = self
            .input
            .as_mut()
            .context("the program's input is a pipe")?;
        writeln!(input, "go {steps}")
            .and_then(|()| input.flush())
            .context("the program ended")?;
        let line = self.line()?;
        match line.parse() {
            Ok(seconds) if seconds > 0.0 => Ok(seconds),
            _ => bail!("unexpected answer `{line}`"),
        }
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        if self.output.read_line(&mut line)? == 0 {
            bail!("the program ended without an answer");
        }
        Ok(line.trim().to_owned())
    }
}

impl Drop for Player {
    fn drop(&mut self) {
        drop(self.input.take());
        // It ends by itself; its exit status says nothing new.
        let _ = self.child.wait();
    }
}
