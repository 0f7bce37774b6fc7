//! The whole chain of a run: clean network → attack → fits → defenses → rows,
//! each step done once and recorded.

mod assets;
mod chain;
mod committed;
mod distribution;
mod keys;
mod measure;
mod plan;
mod session;
mod summary;

pub(crate) use assets::repository;
pub(crate) use chain::{Open, run_chain};
pub(crate) use committed::is_all_committed;
pub(crate) use distribution::{Shown, distribution_of};
pub(crate) use keys::{Chain, fit_config};
pub(crate) use session::{Clock, Session, Setup};
pub(crate) use summary::set_damaged_summary_aside;
