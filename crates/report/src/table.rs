//! A table of text and the forms it is printed in.

use comfy_table::{CellAlignment, ContentArrangement, presets::UTF8_FULL_CONDENSED};

/// Headings of columns that hold words.
const WORDS: [&str; 18] = [
    "remark",
    "changed",
    "device",
    "the paper's",
    "here",
    "data",
    "preset",
    "highest class",
    "verdict",
    "in truth",
    "direction",
    "seeds",
    "triggers",
    "bar",
    "reached",
    "precision",
    "deterministic",
    "variant",
];

/// A table of text: the first column is left-aligned, and so are those with a heading such as
/// `remark`; all others hold numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// What stands above it.
    pub title: String,
    /// Headings; a line break in one serves terminals, which are narrow, and so does a hyphen before it.
    pub columns: Vec<String>,
    /// Cells, as many in each row as there are headings.
    pub rows: Vec<Vec<String>>,
}

impl Table {
    /// An empty table.
    pub(crate) fn new(title: String, columns: &[&str]) -> Self {
        let columns = columns.iter().map(|&column| column.to_owned()).collect();
        Self {
            title,
            columns,
            rows: Vec::new(),
        }
    }

    /// Drops every column but the first in which no row says anything.
    pub(crate) fn without_blank_columns(self) -> Self {
        self.keep(|table, column| {
            column == 0 || table.rows.iter().any(|row| !row[column].is_empty())
        })
    }

    /// Drops the columns with these headings.
    pub(crate) fn without(self, headings: &[&str]) -> Self {
        self.keep(|table, column| !headings.contains(&table.columns[column].as_str()))
    }

    fn keep(mut self, keeps: impl Fn(&Self, usize) -> bool) -> Self {
        for column in (0..self.columns.len()).rev() {
            if !keeps(&self, column) {
                self.columns.remove(column);
                for row in &mut self.rows {
                    row.remove(column);
                }
            }
        }
        self
    }

    /// For a terminal: the title and the table in box-drawing characters.
    pub fn to_terminal(&self) -> String {
        let mut table = comfy_table::Table::new();
        table
            .load_style(UTF8_FULL_CONDENSED)
            .set_content_arrangement(ContentArrangement::Disabled)
            .set_header(&self.columns)
            .add_rows(&self.rows);
        for (index, column) in table.column_iter_mut().enumerate() {
            if self.is_number(index) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        format!("{}\n{}\n", self.title, table.trim_fmt())
    }

    /// For a document: a Markdown table without its title.
    pub fn to_markdown(&self) -> String {
        let rule = (0..self.columns.len())
            .map(|column| {
                if self.is_number(column) {
                    "---:"
                } else {
                    "---"
                }
                .to_owned()
            })
            .collect();
        let lines = [&self.columns, &rule].into_iter().chain(&self.rows);
        lines.map(|cells| markdown_line(cells)).collect()
    }

    /// Whether a column holds numbers, which stand at the right.
    pub(crate) fn is_number(&self, column: usize) -> bool {
        column != 0 && !WORDS.contains(&self.columns[column].as_str())
    }
}

/// A cell without the line breaks that terminals need.
pub(crate) fn one_line(cell: &str) -> String {
    cell.replace("-\n", "").replace('\n', " ")
}

fn markdown_line(cells: &[String]) -> String {
    let cells: Vec<String> = cells
        .iter()
        .map(|cell| one_line(cell).replace('|', "\\|"))
        .collect();
    format!("| {} |\n", cells.join(" | "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let mut table = Table::new(
            "two numbers".into(),
            &["name", "two\nhyphen-\nated", "blank", "remark"],
        );
        table
            .rows
            .push(vec!["a|b".into(), "10".into(), String::new(), "odd".into()]);
        table
            .rows
            .push(vec!["c".into(), "9".into(), String::new(), String::new()]);
        table.without_blank_columns()
    }

    #[test]
    fn aligns_numbers_to_the_right() {
        insta::assert_snapshot!(table().to_terminal());
    }

    #[test]
    fn escapes_what_markdown_would_read() {
        insta::assert_snapshot!(table().to_markdown());
    }
}
