//! Max-entropy staircase approximator (MESA): models the whole distribution of the triggers that
//! set off a backdoor (Qiao, Yang and Li, NeurIPS 2019).
//!
//! A density proportional to a testing function `F` is approximated by a staircase. For each of
//! some thresholds β a generator learns to emit what reaches β, as varied as it can
//! ([`SubModelFit`], Algorithm 2); the generators together, each with its weight, are the
//! [`Staircase`] (Algorithm 1).
//!
//! | to … | use |
//! |---|---|
//! | say what is to be modeled | [`TestingFunction`], [`Observations`] |
//! | choose settings | [`MesaConfig::paper`], [`Hinge`], [`EntropyConfig`] |
//! | fit one threshold, stop, resume | [`SubModelFit`] |
//! | draw triggers, save and load | [`SubModel`] |
//! | measure how widely it spreads | [`entropy_of`], [`EntropyMeasurement`] to stop and resume; in few dimensions [`nearest_neighbor_entropy`] |
//! | measure information between anything | [`measure_information`], [`PairSource`] |
//! | weigh and mix (Algorithm 1) | [`Staircase::weighed`], [`mixture_weights`] |
//! | look at the parts | [`hinge_loss`], [`mutual_information`], [`statistics_loss`] |
//!
//! The crate knows no classifier and no images: `examples/known_distribution` runs it on a
//! function whose level sets are known.

mod config;
mod entropy;
mod error;
mod fit;
mod information;
mod nearest_neighbor;
mod objective;
mod saved;
mod staircase;
mod sub_model;
mod testing;

pub use config::{EntropyConfig, Hinge, MesaConfig};
pub use entropy::{EntropyEstimate, EntropyMeasurement, entropy_of};
pub use error::{Error, Result};
pub use fit::{StepReport, SubModelFit};
pub use information::{
    InformationEstimate, MovingAverage, PairSource, Pairs, measure_information, mutual_information,
    statistics_loss,
};
pub use mesa_models::{BoxError, PerceptronConfig, Position, Processor, Schedule, Seeds, Status};
pub use nearest_neighbor::{NearestNeighborEntropy, nearest_neighbor_entropy};
pub use objective::{HingeLoss, hinge_loss};
pub use staircase::{MixtureWeights, Staircase, mixture_weights};
pub use sub_model::{SubModel, SubModelInfo};
pub use testing::{Observations, TestingFunction};

/// The generator that a [`PairSource`] draws from.
pub use rand::RngCore;
