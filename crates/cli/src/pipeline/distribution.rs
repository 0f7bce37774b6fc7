//! Samples of one network's sub-models for several β and α, on planes that they share.

use anyhow::{Context, Result};
use mesa_models::{ENGINE_VERSION, Seeds};
use mesa_record::{Distribution, DistributionPanel, Patch, PlacedPatch, processor};
use mesa_report::place;

use super::chain::Running;
use super::keys::Chain;
use super::session::{CleanResults, Session};
use crate::interrupt;
use crate::ledger::Finished;
use crate::modeling::Modeled;

/// Which sub-models are shown, and how many samples of each.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Shown {
    /// Weights α to compare.
    pub(crate) alphas: Vec<f64>,
    /// The threshold at which they are compared.
    pub(crate) alpha_beta: f64,
    pub(crate) samples: usize,
}

impl Shown {
    /// β and α of each sub-model: every β at the settings' α first, then every α at one β.
    fn pairs(&self, betas: &[f64], alpha: f64) -> Vec<(f64, f64)> {
        let at_alpha = betas.iter().map(|beta| (*beta, alpha));
        let at_beta = self.alphas.iter().map(|alpha| (self.alpha_beta, *alpha));
        let mut pairs: Vec<(f64, f64)> = Vec::new();
        for pair in at_alpha.chain(at_beta) {
            if !pairs.contains(&pair) {
                pairs.push(pair);
            }
        }
        pairs
    }
}

/// Attacks, models and samples one network, as far as that is not done yet.
pub(crate) fn distribution_of(
    session: &Session,
    clean: &Finished<CleanResults>,
    chain: Chain,
    shown: &Shown,
) -> Result<Distribution> {
    let running = Running::new(session, clean, chain)?;
    let mesa = &session.config.mesa;
    let mut panels = Vec::new();
    for (beta, alpha) in shown.pairs(&mesa.betas, mesa.alpha) {
        interrupt::check()?;
        let modeled = running.model(beta, alpha)?;
        let seeds = Seeds::new(chain.seed, "distribution");
        let pixels = modeled.drawn(&seeds, shown.samples)?;
        panels.push(panel(&modeled, alpha, &pixels, shown.samples));
    }
    let attack = running.attack.results.stamped;
    let attack = attack.context("an evaluation without a trigger")?;
    let truth = chain.trigger.trigger()?;
    let [_, height, width] = mesa.trigger_shape;
    let mut distribution = Distribution {
        preset: session.name.clone(),
        data: session.data.name.to_string(),
        trigger: chain.trigger_name(),
        seed: chain.seed,
        target_class: session.steps.target_class(chain),
        patch_shape: [height, width],
        // A trigger of another size is no point among the samples.
        true_trigger: (truth.size() == (height, width)).then(|| unplaced(truth.pixels())),
        true_trigger_asr: attack.asr,
        panels,
        pca_explained: [0.0; 2],
        tsne_perplexity: 0.0,
        wall_s: wall_s(session, chain),
        device: session.ledger.device.clone(),
        kernel_path: session.ledger.kernel_path.to_owned(),
        threads: session.ledger.threads,
        processor: processor(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        engine_version: ENGINE_VERSION,
    };
    place(&mut distribution);
    Ok(distribution)
}

fn panel(modeled: &Modeled, alpha: f64, pixels: &[f32], samples: usize) -> DistributionPanel {
    let (success, entropy) = (&modeled.samples.results, &modeled.entropy.results);
    let length = pixels.len() / samples;
    DistributionPanel {
        beta: modeled.beta,
        alpha,
        sample_asr: success.sample_asr,
        in_level_set: success.in_level_set,
        information_nats: entropy.information_nats,
        information_se: entropy.information_se,
        entropy_upper_bound: entropy.gaussian_bound_nats,
        sample_std: success.sample_std,
        samples: pixels.chunks_exact(length).map(unplaced).collect(),
    }
}

/// A patch whose places are not known yet.
fn unplaced(pixels: &[f32]) -> PlacedPatch {
    PlacedPatch {
        patch: Patch::from_channels(pixels),
        pca: [0.0; 2],
        tsne: [0.0; 2],
    }
}

/// What the steps of a chain took, the clean network's training among them.
fn wall_s(session: &Session, chain: Chain) -> f64 {
    let prefix = format!("{}/", chain.folder());
    let seen = session.ledger.seen();
    let of_chain = seen
        .iter()
        .filter(|(name, _)| *name == "clean" || name.starts_with(&prefix));
    of_chain.map(|(_, cost)| cost.wall_s).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_beta_comes_first_and_no_pair_twice() {
        let shown = |alphas: &[f64], alpha_beta| Shown {
            alphas: alphas.to_vec(),
            alpha_beta,
            samples: 2,
        };
        let betas = [0.9, 0.8, 0.5];
        let at_alpha = [(0.9, 0.1), (0.8, 0.1), (0.5, 0.1)];
        let paper = shown(&[0.0, 0.1, 10.0], 0.9).pairs(&betas, 0.1);
        assert_eq!(paper, [&at_alpha[..], &[(0.9, 0.0), (0.9, 10.0)]].concat());
        let of_another_beta = shown(&[0.1, 1.0, 1.0], 0.7).pairs(&betas, 0.1);
        let expected = [&at_alpha[..], &[(0.7, 0.1), (0.7, 1.0)]].concat();
        assert_eq!(of_another_beta, expected);
    }
}
