//! What pages are built of: every text is escaped by `maud`, figures are embedded as they are drawn.

use std::fmt::Write as _;

use maud::{DOCTYPE, Markup, PreEscaped, html};

use crate::Table;
use crate::embed::{title, width};
use crate::svg::Figure;
use crate::table::one_line;

/// The shares of its size to which a figure shrinks and grows at most, so that its words stay
/// readable; on narrower screens it scrolls within its box.
const SHARES: (f64, f64) = (0.72, 1.3);

/// Letters from which on the first cell of a row is broken into lines on a narrow screen.
const LONG: usize = 20;

/// A page that needs nothing but itself: no other file, no network, no script.
pub(crate) fn page(title: &str, body: &Markup) -> String {
    let markup = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (title) }
                style { (PreEscaped(include_str!("page.css"))) }
            }
            body { (body) }
        }
    };
    let mut text = markup.into_string();
    text.push('\n');
    text
}

/// A table that scrolls within its box; row by row the files that its first cell links to.
pub(crate) fn table_markup(table: &Table, links: &[Vec<String>]) -> Markup {
    let label = if table.title.is_empty() {
        "table"
    } else {
        &table.title
    };
    let number = |index| table.is_number(index).then_some("number");
    html! {
        @if !table.title.is_empty() { p.title { (table.title) } }
        div.scroll role="region" tabindex="0" aria-label=(label) {
            table {
                thead {
                    tr {
                        @for (index, column) in table.columns.iter().enumerate() {
                            th scope="col" class=[number(index)] { (one_line(column)) }
                        }
                    }
                }
                tbody {
                    @for (row, cells) in table.rows.iter().enumerate() {
                        tr { (cells_markup(table, cells, links.get(row))) }
                    }
                }
            }
        }
    }
}

fn cells_markup(table: &Table, cells: &[String], links: Option<&Vec<String>>) -> Markup {
    let number = |index| table.is_number(index).then_some("number");
    html! {
        @for (index, cell) in cells.iter().enumerate() {
            @if index == 0 {
                @let long = (cell.chars().count() > LONG).then_some("long");
                th scope="row" class=[long] {
                    @match links.map(Vec::as_slice) {
                        Some([first, others @ ..]) => {
                            a href=(address(first)) { (inline(cell)) }
                            @for (number, other) in others.iter().enumerate() {
                                " " a href=(address(other)) { "(" (number + 2) ")" }
                            }
                        },
                        _ => { (inline(cell)) },
                    }
                }
            } @else {
                td class=[number(index)] { (inline(cell)) }
            }
        }
    }
}

/// A figure with its caption.
pub(crate) fn figure_markup(figure: &Figure) -> Markup {
    let style = width(&figure.svg).map(|width| {
        let [least, most] = [SHARES.0, SHARES.1].map(|share| (width as f64 * share).round());
        format!("min-width:{least}px;max-width:{most}px")
    });
    let label = title(&figure.svg).map_or_else(
        || "figure".to_owned(),
        // Escaped already, but for what ends an attribute.
        |title| format!("figure: {}", title.replace('"', "&quot;")),
    );
    html! {
        figure {
            div.scroll role="group" tabindex="0" aria-label=(PreEscaped(label)) {
                div.least style=[style] { (PreEscaped(figure.svg.trim())) }
            }
            figcaption { (figure.caption) }
        }
    }
}

/// Commands to copy.
pub(crate) fn commands_markup(commands: &[String]) -> Markup {
    html! {
        @if !commands.is_empty() { pre tabindex="0" { code { (commands.join("\n")) } } }
    }
}

/// Links to files, by their names.
pub(crate) fn links_markup(links: &[String]) -> Markup {
    html! {
        @for (index, link) in links.iter().enumerate() {
            @if index > 0 { ", " }
            a href=(address(link)) { (link) }
        }
    }
}

/// Lines below a table.
pub(crate) fn notes_markup(notes: &[String]) -> Markup {
    html! {
        @if !notes.is_empty() { ul.notes { @for note in notes { li { (inline(note)) } } } }
    }
}

/// Text with what stands between backticks as code.
pub(crate) fn inline(text: &str) -> Markup {
    let parts: Vec<&str> = text.split('`').collect();
    // A single backtick is one.
    let paired = parts.len() % 2 == 1;
    html! {
        @if paired {
            @for (index, part) in parts.iter().enumerate() {
                @if index % 2 == 1 { code { (part) } } @else { (part) }
            }
        } @else { (text) }
    }
}

/// A relative path as an address: what means something else there is written in hexadecimal.
fn address(path: &str) -> String {
    let mut address = String::new();
    for byte in path.bytes() {
        if byte.is_ascii_alphanumeric() || b"/._-~".contains(&byte) {
            address.push(char::from(byte));
        } else {
            let _ = write!(address, "%{byte:02X}");
        }
    }
    address
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_escaped_and_first_cells_linked() {
        let mut table = Table::new("a <b>".into(), &["name", "two\nlines"]);
        table.rows.push(vec!["<script>".into(), "1 & 2".into()]);
        let links = [vec![
            "records/a b#c.json".to_owned(),
            "other.json".to_owned(),
        ]];
        let html = table_markup(&table, &links).into_string();
        insta::assert_snapshot!(html);
    }

    #[test]
    fn code_is_what_stands_between_backticks() {
        let html = |text| inline(text).into_string();
        assert_eq!(html("a `b<` c"), "a <code>b&lt;</code> c");
        assert_eq!(html("a ` b"), "a ` b");
    }

    #[test]
    fn figures_stay_readable() {
        let figure = Figure {
            svg: "<svg xmlns=\"x\" width=\"1000\" height=\"2\"><title>a \"b\" &lt;</title></svg>\n"
                .into(),
            caption: "1 < 2".into(),
        };
        let html = figure_markup(&figure.of("c & d")).into_string();
        let titles = [
            "aria-label=\"figure: c &amp; d: a &quot;b&quot; &lt;\"",
            "<title>c &amp; d: a \"b\" &lt;</title>",
        ];
        assert!(titles.iter().all(|title| html.contains(title)), "{html}");
        assert!(
            html.contains("min-width:720px;max-width:1300px") && html.contains("1 &lt; 2"),
            "{html}"
        );
    }
}
