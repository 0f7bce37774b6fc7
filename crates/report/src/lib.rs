//! Records of runs as tables and figures.
//!
//! - [`Report`] turns a [`mesa_record::Summary`] into [`Table`]s with notes, for a
//!   terminal or a document; [`csv`] gives the rows to scripts.
//! - [`paper_figure`] is what the paper says, to stand beside ours.
//! - [`SamplesPicture`] draws sampled triggers as little patches.
//! - [`detection_text`] and [`detection_chart`] tell what a search for backdoors found.
//! - [`committed_files`] makes `docs/results.md` and the tables of README and
//!   `docs/performance.md` from the committed records; [`roofline_table`] is one of them.

mod blocks;
mod committed;
mod csv;
mod detection;
mod error;
mod format;
mod live;
#[cfg(test)]
mod made_up;
mod means;
mod mixture;
mod paper;
mod picture;
mod plan;
mod report;
mod roofline;
mod scaling;
mod speed;
mod svg;
mod table;

pub use committed::{GeneratedFile, committed_files, read_committed};
pub use csv::csv;
pub use detection::{detection_chart, detection_text};
pub use error::{Error, Result};
pub use live::live_table;
pub use paper::{PaperFigure, TriggerKind, paper_figure};
pub use picture::{SampleGroup, SamplesPicture};
pub use report::Report;
pub use roofline::roofline_table;
pub use table::Table;
