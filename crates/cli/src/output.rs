//! What goes to standard output: tables and JSON, nothing else.

use std::io::{self, Write};

use anyhow::Result;
use serde::Serialize;

/// The name of standard output where a file is asked for.
pub(crate) const STDOUT: &str = "-";

/// A wrong use of the command line that clap cannot see; exit code 2.
#[derive(Debug)]
pub(crate) struct Usage(pub(crate) String);

impl std::fmt::Display for Usage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Usage {}

/// Prints `text`; a closed pipe is no failure.
pub(crate) fn text(text: &str) -> Result<()> {
    let mut stdout = io::stdout().lock();
    match writeln!(stdout, "{}", text.trim_end()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

/// Prints `value` as JSON, or else `plain`.
pub(crate) fn result<T: Serialize>(json: bool, value: &T, plain: &str) -> Result<()> {
    if json {
        text(&serde_json::to_string_pretty(value)?)
    } else {
        text(plain)
    }
}

/// Tells standard error why the command ends.
pub(crate) fn complain(message: &str) {
    // Nothing sensible is left to do if standard error is closed.
    let _ = writeln!(io::stderr(), "{message}");
}

/// A fraction in percent.
pub(crate) fn percent(fraction: f64) -> String {
    format!("{:.2} %", 100.0 * fraction)
}
