//! What all pictures are drawn with. They stand on a ground of their own, so that they read the
//! same on light and on dark pages.

use std::fmt::Write as _;

/// The ground, and the words on it.
pub(crate) const GROUND: &str = "#dfe5ec";
pub(crate) const INK: &str = "#16202c";

/// The start of a picture: its size, its title for those who do not see it, the ground.
pub(crate) fn opened(width: usize, height: usize, title: &str) -> String {
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
         viewBox=\"0 0 {width} {height}\" role=\"img\" font-family=\"sans-serif\">\n\
         <title>{}</title>\n\
         <rect width=\"{width}\" height=\"{height}\" rx=\"6\" fill=\"{GROUND}\"/>\n",
        escaped(title)
    )
}

/// A line of text that starts at `x`.
pub(crate) fn text(svg: &mut String, x: usize, y: usize, size: usize, words: &str) {
    let words = escaped(words);
    let _ = writeln!(
        svg,
        "<text x=\"{x}\" y=\"{y}\" font-size=\"{size}\" fill=\"{INK}\">{words}</text>"
    );
}

pub(crate) fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}
