//! Texts of strangers in messages.

/// A text from a file, fit for a terminal: cut to a hundred characters, control characters escaped.
///
/// # Examples
///
/// ```
/// assert_eq!(mesa_pickle::shown("a\u{1b}[2J"), r"a\u{1b}[2J");
/// ```
pub fn shown(text: &str) -> String {
    const LONGEST: usize = 100;
    let cut: String = text.chars().take(LONGEST).collect();
    let dots = if cut.len() < text.len() { "…" } else { "" };
    format!("{}{dots}", cut.escape_debug())
}
