//! What all pictures are drawn with. They stand on a ground of their own, so that they read the
//! same on light and on dark pages.

use std::fmt::Write as _;

/// The ground, and the words on it.
pub(crate) const GROUND: &str = "#dfe5ec";
pub(crate) const INK: &str = "#16202c";
/// Lines that help the eye and carry nothing.
pub(crate) const GRID: &str = "#b4c0cd";

/// How wide a letter is at most in most words, as a share of the size of the type.
const LETTER: f64 = 0.58;

/// A picture and what stands below it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Figure {
    pub(crate) svg: String,
    pub(crate) caption: String,
}

impl Figure {
    /// The same under a name that tells it from figures of its kind, for those who hear a page: the
    /// picture's title begins with it.
    pub(crate) fn of(mut self, name: &str) -> Self {
        let title = format!("<title>{}: ", escaped(name));
        self.svg = self.svg.replacen("<title>", &title, 1);
        self
    }
}

/// A picture that is being drawn. Lengths are in pixels, from the top left.
#[derive(Debug, Default)]
pub(crate) struct Canvas {
    body: String,
}

/// Which part of a line of text stands at its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Anchor {
    Start,
    Middle,
    End,
}

/// A point: from the left, from the top.
pub(crate) type Point = (f64, f64);

impl Canvas {
    /// A line of text.
    pub(crate) fn text(&mut self, at: Point, size: f64, anchor: Anchor, words: &str) {
        self.text_with(at, size, anchor, "", words);
    }

    /// A line of text that reads upwards.
    pub(crate) fn upward_text(&mut self, at: Point, size: f64, anchor: Anchor, words: &str) {
        let turn = format!(" transform=\"rotate(-90 {} {})\"", short(at.0), short(at.1));
        self.text_with(at, size, anchor, &turn, words);
    }

    fn text_with(&mut self, at: Point, size: f64, anchor: Anchor, more: &str, words: &str) {
        let anchor = match anchor {
            Anchor::Start => "",
            Anchor::Middle => " text-anchor=\"middle\"",
            Anchor::End => " text-anchor=\"end\"",
        };
        let _ = writeln!(
            self.body,
            "<text x=\"{}\" y=\"{}\" font-size=\"{size}\" fill=\"{INK}\"{anchor}{more}>{}</text>",
            short(at.0),
            short(at.1),
            escaped(words)
        );
    }

    /// A straight line; `stroke` is its attributes.
    pub(crate) fn line(&mut self, from: Point, to: Point, stroke: &str) {
        let d = format!(
            "M{} {}L{} {}",
            short(from.0),
            short(from.1),
            short(to.0),
            short(to.1)
        );
        self.path(&d, stroke);
    }

    /// Straight lines from point to point.
    pub(crate) fn polyline(&mut self, points: &[Point], stroke: &str) {
        let mut d = String::new();
        for (index, (x, y)) in points.iter().enumerate() {
            let command = if index == 0 { 'M' } else { 'L' };
            let _ = write!(d, "{command}{} {}", short(*x), short(*y));
        }
        self.path(&d, &format!("fill=\"none\" {stroke}"));
    }

    /// Any line or area; `style` is its attributes.
    pub(crate) fn path(&mut self, d: &str, style: &str) {
        let _ = writeln!(self.body, "<path d=\"{d}\" {style}/>");
    }

    /// A rectangle by its top left corner and its size; `style` is its attributes.
    pub(crate) fn rect(&mut self, at: Point, size: Point, style: &str) {
        let _ = writeln!(
            self.body,
            "<rect x=\"{}\" y=\"{}\" width=\"{}\" height=\"{}\" {style}/>",
            short(at.0),
            short(at.1),
            short(size.0),
            short(size.1)
        );
    }

    /// A circle; `style` is its attributes.
    pub(crate) fn circle(&mut self, at: Point, radius: f64, style: &str) {
        let _ = writeln!(
            self.body,
            "<circle cx=\"{}\" cy=\"{}\" r=\"{}\" {style}/>",
            short(at.0),
            short(at.1),
            short(radius)
        );
    }

    /// The picture, with a title and a description for those who do not see it.
    pub(crate) fn finished(self, size: Point, title: &str, description: &str) -> String {
        let (width, height) = (size.0.ceil() as usize, size.1.ceil() as usize);
        let mut svg = opened_with(width, height, title, description);
        svg.push_str(&self.body);
        svg.push_str("</svg>\n");
        svg
    }
}

/// The start of a picture: its size, its title for those who do not see it, the ground.
pub(crate) fn opened(width: usize, height: usize, title: &str) -> String {
    opened_with(width, height, title, "")
}

fn opened_with(width: usize, height: usize, title: &str, description: &str) -> String {
    let description = if description.is_empty() {
        String::new()
    } else {
        format!("<desc>{}</desc>\n", escaped(description))
    };
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
         viewBox=\"0 0 {width} {height}\" role=\"img\" font-family=\"sans-serif\">\n\
         <title>{}</title>\n{description}\
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

/// A length with at most one decimal, none where it is zero.
pub(crate) fn short(length: f64) -> f64 {
    (length * 10.0).round() / 10.0 + 0.0
}

/// About how long a line of text is.
pub(crate) fn text_width(words: &str, size: f64) -> f64 {
    words.chars().count() as f64 * size * LETTER
}

/// A line of text cut to the room there is.
pub(crate) fn cut(words: &str, size: f64, room: f64) -> String {
    let letters = (room / (size * LETTER)).max(2.0) as usize;
    match words.char_indices().nth(letters) {
        Some(_) => {
            let kept: String = words.chars().take(letters - 1).collect();
            format!("{}…", kept.trim_end())
        }
        None => words.to_owned(),
    }
}

/// Lines of words, none longer than the room there is unless a single word is.
pub(crate) fn wrapped(words: &str, size: f64, room: f64) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in words.split_whitespace() {
        match lines.last_mut() {
            Some(line) if text_width(line, size) + text_width(word, size) + size <= room => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

/// Lines of a name, broken behind its hyphens; a part that is longer than the room there is gets cut.
pub(crate) fn wrapped_name(name: &str, size: f64, room: f64) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for part in name.split_inclusive('-') {
        match lines.last_mut() {
            Some(line) if text_width(line, size) + text_width(part, size) <= room => {
                line.push_str(part);
            }
            _ => lines.push(part.to_owned()),
        }
    }
    lines.iter().map(|line| cut(line, size, room)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_drawn_has_short_numbers_and_escaped_words() {
        let mut canvas = Canvas::default();
        canvas.text((1.0 / 3.0, -0.01), 12.0, Anchor::Middle, "a <b> & c");
        canvas.line((0.0, 0.0), (10.0, 2.55), "stroke=\"#000000\"");
        let svg = canvas.finished((20.0, 9.5), "t <t>", "d & d");
        let expected = "<text x=\"0.3\" y=\"0\" font-size=\"12\" fill=\"#16202c\" \
            text-anchor=\"middle\">a &lt;b&gt; &amp; c</text>\n\
            <path d=\"M0 0L10 2.6\" stroke=\"#000000\"/>\n</svg>\n";
        assert!(svg.ends_with(expected), "{svg}");
        assert!(svg.contains("viewBox=\"0 0 20 10\""));
        assert!(svg.contains("<title>t &lt;t&gt;</title>\n<desc>d &amp; d</desc>"));
    }

    #[test]
    fn words_are_cut_and_wrapped_to_the_room_there_is() {
        assert_eq!(cut("trigger", 10.0, 100.0), "trigger");
        assert_eq!(cut("ääääääääää", 10.0, 30.0), "ääää…");
        let lines = wrapped("one two three four", 10.0, 60.0);
        assert!(lines.len() > 1 && lines.iter().all(|line| text_width(line, 10.0) <= 60.0));
        assert_eq!(lines.join(" "), "one two three four");
        let name = "trigger-170-seed-1-w16";
        assert_eq!(wrapped_name(name, 10.0, 1000.0), [name]);
        let lines = wrapped_name(name, 10.0, 80.0);
        assert_eq!(lines, ["trigger-170-", "seed-1-w16"]);
        assert_eq!(wrapped_name("ääääääääää-ä", 10.0, 30.0), ["ääää…", "ä"]);
    }
}
