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
        text(&harmless(plain))
    }
}

/// Tells standard error why the command ends.
pub(crate) fn complain(message: &str) {
    // Nothing sensible is left to do if standard error is closed.
    let _ = writeln!(io::stderr(), "{}", harmless(message));
}

/// A message without what a terminal would obey: it may quote a stranger's file.
fn harmless(message: &str) -> String {
    let mut shown = String::with_capacity(message.len());
    for letter in message.chars() {
        if letter.is_control() && !matches!(letter, '\n' | '\t') {
            shown.extend(letter.escape_default());
        } else {
            shown.push(letter);
        }
    }
    shown
}

/// A word as a shell takes it.
pub(crate) fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-+=:,@".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// A fraction in percent.
pub(crate) fn percent(fraction: f64) -> String {
    format!("{:.2} %", 100.0 * fraction)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_would_obey_is_shown_as_text() {
        assert_eq!(
            harmless("a `β`\n\u{1b}]0;x\u{7}"),
            "a `β`\n\\u{1b}]0;x\\u{7}"
        );
    }

    #[test]
    fn a_word_with_spaces_or_quotes_is_one_to_a_shell() {
        let words = ["", "runs/a.pth", "my net.pth", "it's"].map(quoted);
        assert_eq!(words, ["''", "runs/a.pth", "'my net.pth'", r"'it'\''s'"]);
    }
}
