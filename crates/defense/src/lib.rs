//! Backdoor removal: attack success as a testing function, retraining with sampled triggers,
//! controls.
//!
//! A defender holds the backdoored network and some clean, labeled images ([`DefenseImages`]).
//! [`AttackSuccess`] turns the two into the testing function that MESA models triggers with;
//! [`RetrainBatches`] feeds a training run that unlearns samples of those models, or of one of
//! the controls ([`TriggerSource`]); [`sample_success`] measures what the samples do, and
//! [`SampleTesting`] does so in pieces. [`anomaly_indices`] and [`DetectionRule`] tell from what
//! the samples against every class do which class is attacked, if any. [`reverse_trigger`] is the
//! baseline that MESA is compared with: a single trigger.

mod attack_success;
mod detection;
mod error;
#[cfg(test)]
mod fixture;
mod images;
mod point;
mod retrain;
mod sample_success;
mod trigger_source;

pub use attack_success::{AttackSuccess, AttackSuccessConfig};
pub use detection::{DetectionRule, anomaly_indices};
pub use error::{Error, Result};
pub use images::DefenseImages;
pub use point::{PointConfig, ReversedTrigger, reverse_trigger};
pub use retrain::{RetrainBatches, RetrainConfig};
pub use sample_success::{
    SampleProgress, SampleSuccess, SampleTest, SampleTesting, sample_success,
};
pub use trigger_source::{Ensemble, TriggerSource};
