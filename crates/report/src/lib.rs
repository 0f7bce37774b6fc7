//! Records of runs as tables, figures and pages.
//!
//! - [`Report`] turns a [`mesa_record::Summary`] into [`Table`]s with notes, for a
//!   terminal or a document; [`csv`] gives the rows to scripts.
//! - [`SamplesPicture`] draws sampled triggers as little patches.
//! - [`detection_text`] and [`detection_chart`] tell what a search for backdoors found.
//! - [`place`] puts the samples of several sub-models on planes that they share, by
//!   [`PrincipalPlane`] and [`tsne`]; [`distribution_text`] and [`distribution_pictures`] show them.
//! - [`gpu_tables`] tell what `mesa gpu measure` found; [`gpu_words`] on which GPU.
//! - [`committed_files`] makes `docs/report.html`, `docs/results.md`, README's figure and the tables
//!   of README and `docs/performance.md` from the committed records; [`roofline_table`] is one of
//!   them. [`run_files`] makes the same page of one run's folder.

mod background;
mod blocks;
mod commands;
mod committed;
mod csv;
mod curves;
mod defense;
mod defense_drawing;
mod defense_figure;
mod detection;
mod detection_dots;
mod detection_networks;
mod detection_roc;
mod detection_roc_figure;
mod distribution;
mod distribution_picture;
mod documents;
mod embed;
mod error;
mod files;
mod format;
mod gpu;
mod gpu_bars;
mod gpu_measured;
mod html;
mod live;
#[cfg(test)]
mod made_up;
mod marks;
mod means;
mod metrics;
mod mixture;
mod page;
#[cfg(test)]
mod page_checks;
mod paper;
mod patches;
mod picture;
mod place_picture;
mod plan;
mod planes;
mod projection;
mod report;
mod roofline;
mod rows;
mod run_folder;
mod runs;
mod scaling;
mod speed;
mod svg;
mod table;
mod tsne;
mod variations;
mod verdict;
mod words;

pub use commands::PRESETS;
pub use committed::{committed_files, read_committed};
pub use csv::csv;
pub use detection::{detection_chart, detection_text};
pub use distribution::{distribution_pictures, distribution_text};
pub use error::{Error, Result};
pub use files::GeneratedFile;
pub use gpu::{GpuAllParts, gpu_all_table, gpu_tables, gpu_words};
pub use live::live_text;
pub use patches::PatchOf;
pub use picture::{SampleGroup, SamplesPicture};
pub use place_picture::{PlaceMap, PlacesPicture};
pub use planes::place;
pub use projection::PrincipalPlane;
pub use report::Report;
pub use roofline::roofline_table;
pub use run_folder::run_files;
pub use table::Table;
pub use tsne::{Embedding, tsne};
