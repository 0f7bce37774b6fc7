//! Backdoor injection by data poisoning, and its measures.
//!
//! [`PoisonedBatches`] feeds the training run that plants a backdoor in a clean classifier;
//! [`evaluate`] measures what it does (ASR) and what it costs (clean accuracy).

mod config;
mod error;
mod evaluate;
mod poisoned;

pub use config::AttackConfig;
pub use error::{Error, Result};
pub use evaluate::{Attacked, Evaluation, StampedEvaluation, evaluate, evaluate_stamped};
pub use poisoned::PoisonedBatches;
