//! Backdoor removal: attack success as a testing function, retraining with sampled triggers,
//! controls.
//!
//! A defender holds the backdoored network and some clean, labeled images ([`DefenseImages`]).
//! [`AttackSuccess`] turns the two into the testing function that MESA models triggers with;
//! [`RetrainBatches`] feeds a training run that unlearns samples of those models, or of one of
//! the controls ([`TriggerSource`]); [`sample_success`] measures what the samples do, and
//! [`SampleTesting`] does so in pieces. [`anomaly_indices`] and [`DetectionRule`] tell from what
//! the samples against every class do which class is attacked, if any; [`SuccessByPlace`] says where in
//! an image they do it. [`reverse_trigger`] is the
//! baseline that MESA is compared with: a single trigger.
//!
//! # What a defense may see
//!
//! The suspicious network and the defender's clean images; never the attacker's trigger, the images
//! that results are measured on, or the attack's success. The types see to it: modeling and
//! reversing take [`DefenseImages`], which only a split's first part can fill,
//!
//! ```
//! use mesa_defense::{AttackSuccess, AttackSuccessConfig, DefenseImages, Result};
//! use mesa_models::FrozenClassifier;
//!
//! fn model(
//!     suspect: FrozenClassifier,
//!     images: DefenseImages,
//!     config: AttackSuccessConfig,
//! ) -> Result<AttackSuccess> {
//!     AttackSuccess::new(suspect, images, config, 0)
//! }
//! ```
//!
//! so that the same function of any images does not compile,
//!
//! ```compile_fail,E0308
//! use mesa_defense::{AttackSuccess, AttackSuccessConfig, Result};
//! use mesa_models::FrozenClassifier;
//!
//! fn model(
//!     suspect: FrozenClassifier,
//!     images: mesa_datasets::Images,
//!     config: AttackSuccessConfig,
//! ) -> Result<AttackSuccess> {
//!     AttackSuccess::new(suspect, images, config, 0)
//! }
//! ```
//!
//! a split is drawn and cannot be put together by hand,
//!
//! ```compile_fail,E0451
//! use mesa_datasets::Split;
//!
//! fn of_my_choice(indices: Vec<usize>) -> Split {
//!     Split { first: indices, second: Vec::new() }
//! }
//! ```
//!
//! and a reversed trigger comes out of a search alone: none can be made of the attacker's.
//!
//! ```
//! use mesa_datasets::Trigger;
//! use mesa_defense::{ReversedTrigger, TriggerSource};
//!
//! fn baseline(found: ReversedTrigger) -> TriggerSource {
//!     TriggerSource::Reversed(found)
//! }
//! ```
//!
//! ```compile_fail,E0308
//! use mesa_datasets::Trigger;
//! use mesa_defense::{ReversedTrigger, TriggerSource};
//!
//! fn baseline(found: Trigger) -> TriggerSource {
//!     TriggerSource::Reversed(found)
//! }
//! ```

mod attack_success;
mod detection;
mod error;
#[cfg(test)]
mod fixture;
mod images;
mod point;
mod retrain;
mod sample_success;
mod sample_testing;
mod success_by_place;
mod trigger_source;

pub use attack_success::{AttackSuccess, AttackSuccessConfig};
pub use detection::{ClassScore, DetectionRule, Judgement, LEAST_IN_PLACE, anomaly_indices};
pub use error::{Error, Result};
pub use images::DefenseImages;
pub use point::{PointConfig, ReversedTrigger, reverse_trigger};
pub use retrain::{RetrainBatches, RetrainConfig};
pub use sample_success::{SampleSuccess, SampleTest, sample_success};
pub use sample_testing::{SampleProgress, SampleTesting};
pub use success_by_place::SuccessByPlace;
pub use trigger_source::{Ensemble, TriggerSource};
