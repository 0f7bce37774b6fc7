//! How fast this machine is: a few batches of each kind of step.

use std::time::Instant;

use anyhow::Result;
use mesa::{EntropyConfig, SubModelFit, entropy_of};
use mesa_attack::evaluate;
use mesa_datasets::{Images, Trigger};
use mesa_defense::TriggerSource;
use mesa_models::{Network, Seeds};
use mesa_record::{Plan, peak_rss_mb};

use super::session::Session;
use crate::resume::Watch;
use crate::{inputs, interrupt, stages};

/// Images for each second of each kind of step, and seconds for an entropy measurement.
#[derive(Clone, Copy, Debug)]
struct Rates {
    pretrain: f64,
    attack: f64,
    fit: f64,
    defend: f64,
    evaluate: f64,
    entropy_s: f64,
}

impl Session {
    /// Runs `batches` batches of each kind of step that `plan` has, on an untrained
    /// network, and fills in the times.
    ///
    /// The fit is measured at its slowest: every image still needs a gradient.
    pub(crate) fn measure(&self, plan: &mut Plan, batches: usize) -> Result<()> {
        let batches = batches.max(2);
        let rates = self.rates(plan, batches)?;
        for stage in &mut plan.stages {
            let rate = match stage.kind.as_str() {
                "pretrain" => rates.pretrain,
                "attack" => rates.attack,
                // The search reads the same gradient.
                "fit" | "reverse" => rates.fit,
                "defend" => rates.defend,
                "evaluate" => rates.evaluate,
                _ => {
                    stage.estimated_s = Some(rates.entropy_s * stage.steps as f64);
                    continue;
                }
            };
            // A training of a single batch tells no rate.
            stage.images_per_s = Some(rate).filter(|rate| rate.is_finite() && *rate > 0.0);
            stage.estimated_s = stage.images_per_s.map(|rate| stage.images as f64 / rate);
        }
        plan.estimated_s = Some(
            plan.stages
                .iter()
                .filter_map(|stage| stage.estimated_s)
                .sum(),
        );
        plan.measured_batches = Some(batches);
        plan.peak_rss_mb = peak_rss_mb();
        Ok(())
    }

    fn rates(&self, plan: &Plan, batches: usize) -> Result<Rates> {
        let has = |kind: &str| plan.stages.iter().any(|stage| stage.kind == kind);
        let mut rates = Rates {
            pretrain: f64::NAN,
            attack: f64::NAN,
            fit: f64::NAN,
            defend: f64::NAN,
            evaluate: f64::NAN,
            entropy_s: f64::NAN,
        };
        let config = &self.config;
        let network = || -> Result<Network> {
            interrupt::check()?;
            let mut rng = Seeds::new(0, "measure").start();
            let normalization = inputs::normalization(self.data.name);
            Ok(Network::resnet(self.shape(), normalization, &mut rng)?)
        };
        if has("pretrain") {
            let mut watch = Watch::measuring("measuring: pretrain", batches);
            let images = first_batches(
                &self.data.train,
                config.pretrain.training.batch_size,
                batches,
            );
            let normalization = inputs::normalization(self.data.name);
            stages::pretrain(
                self.processor(),
                images,
                self.shape(),
                normalization,
                &config.pretrain,
                &mut watch,
            )?;
            rates.pretrain = watch.images_per_s();
        }
        if has("attack") {
            let mut watch = Watch::measuring("measuring: attack", batches);
            let trigger = Trigger::pattern(170)?;
            let backdoor = &config.backdoor;
            stages::attack(
                self.processor(),
                network()?,
                self.attack_images.clone(),
                &trigger,
                backdoor,
                0,
                &mut watch,
            )?;
            rates.attack = watch.images_per_s();
        }
        if has("defend") {
            let mut watch = Watch::measuring("measuring: defend", batches);
            let [_, height, width] = config.mesa.trigger_shape;
            let size = (height, width);
            let source = TriggerSource::Random { size };
            stages::repair(
                self.processor(),
                network()?,
                &self.defense_images,
                Some(source),
                &config.retrain,
                0,
                &mut watch,
            )?;
            rates.defend = watch.images_per_s();
        }
        let gradients = has("fit") || has("reverse");
        if gradients || has("evaluate") {
            let frozen = self.processor().freeze(&network()?)?;
            if gradients {
                let mut watch = Watch::measuring("measuring: fit", batches);
                let testing = inputs::testing(&config.mesa, 0, config.retrain.placement);
                let images = self.defense_images.clone();
                let mesa = (&config.mesa, config.mesa.betas[0]);
                stages::fit(
                    self.processor(),
                    frozen.clone(),
                    images,
                    testing,
                    mesa,
                    0,
                    &mut watch,
                )?;
                rates.fit = watch.images_per_s() * config.mesa.images_per_trigger as f64;
            }
            let images = first_batches(&self.data.test, 128, batches);
            let started = Instant::now();
            evaluate(&frozen, &images, None, 0)?;
            rates.evaluate = images.len() as f64 / started.elapsed().as_secs_f64();
        }
        if has("entropy") {
            rates.entropy_s = self.entropy_s(batches)?;
        }
        Ok(rates)
    }

    /// Seconds for one entropy measurement, from a few of its steps.
    fn entropy_s(&self, steps: usize) -> Result<f64> {
        let (mesa, whole) = (self.config.mesa.clone(), &self.config.entropy);
        let beta = mesa.betas[0];
        let fit = SubModelFit::new(self.processor(), mesa, beta, Seeds::new(0, "measure"))?;
        let few = EntropyConfig {
            steps,
            held_out: 512,
            ..whole.clone()
        };
        let started = Instant::now();
        entropy_of(
            self.processor(),
            &fit.into_sub_model()?,
            &few,
            &Seeds::new(0, "measure"),
        )?;
        let pairs = |config: &EntropyConfig| {
            // A training step costs about three evaluations.
            (3 * config.steps * config.batch_size + config.held_out) as f64
        };
        Ok(started.elapsed().as_secs_f64() * pairs(whole) / pairs(&few))
    }
}

/// As many images as some batches need, or all.
fn first_batches(images: &Images, batch_size: usize, batches: usize) -> Images {
    inputs::first(images, batch_size * batches)
}
