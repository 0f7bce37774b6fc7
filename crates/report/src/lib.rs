//! Records of runs as tables and figures.
//!
//! - [`Report`] turns a [`mesa_record::Summary`] into [`Table`]s with notes, for a
//!   terminal or a document; [`csv`] gives the rows to scripts.
//! - [`paper_figure`] is what the paper says, to stand beside ours.
//! - [`SamplesPicture`] draws sampled triggers as little patches.
//! - [`detection_text`] and [`detection_chart`] tell what a search for backdoors found.
//! - [`place`] puts the samples of several sub-models on planes that they share, by
//!   [`PrincipalPlane`] and [`tsne`]; [`distribution_text`] and [`distribution_picture`] show them.
//! - [`committed_files`] makes `docs/results.md` and the tables of README and
//!   `docs/performance.md` from the committed records; [`roofline_table`] is one of them.

mod blocks;
mod committed;
mod csv;
mod detection;
mod distribution;
mod distribution_picture;
mod error;
mod format;
#[cfg(test)]
mod made_up;
mod means;
mod mixture;
mod paper;
mod picture;
mod plan;
mod planes;
mod projection;
mod report;
mod roofline;
mod scaling;
mod speed;
mod svg;
mod table;
mod tsne;

pub use committed::{GeneratedFile, committed_files, read_committed};
pub use csv::csv;
pub use detection::{detection_chart, detection_text};
pub use distribution::{distribution_pictures, distribution_text};
pub use distribution_picture::{Axis, Plane, distribution_picture};
pub use error::{Error, Result};
pub use paper::{PaperFigure, TriggerKind, paper_figure};
pub use picture::{SampleGroup, SamplesPicture};
pub use planes::place;
pub use projection::PrincipalPlane;
pub use report::Report;
pub use roofline::roofline_table;
pub use table::Table;
pub use tsne::{Embedding, tsne};
