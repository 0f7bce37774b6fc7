//! One trigger and seed: attack, model, defend, measure.

use std::sync::Mutex;

use anyhow::{Context, Result, bail};
use mesa::{Staircase, SubModel, mixture_weights};
use mesa_attack::{Attacked, Evaluation};
use mesa_defense::{Ensemble, RetrainConfig, TriggerSource};
use mesa_models::{Network, Processor, Seeds, load_network, save_network};
use mesa_record::{ATTACK_TOOK, Mixture, MixtureWeight, Patch, Row, StepFiles, Summary};
use rand::Rng;
use serde::{Deserialize, Serialize};

use super::keys::Chain;
use super::session::{CleanResults, Session};
use super::summary::put_row;
use crate::ledger::{Finished, Work};
use crate::method::{Defense, Method};
use crate::modeled_triggers::TARGET_CLASS;
use crate::modeling::{Modeled, Modeling, ModelingSteps};
use crate::output::percent;
use crate::queue::locked;
use crate::resume::Watch;
use crate::{inputs, interrupt, stages};

/// Images of the modeling split that a reversed trigger's ASR is measured on; another number needs
/// another key.
const REVERSED_ON: usize = 2_000;

/// What a repeat of `point` found.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct PointResults {
    evaluation: Evaluation,
    reversed_trigger: Patch,
    reversed_asr: f64,
}

/// The seed of one repeat, search and retraining alike: repeats are independent of each other.
fn repeat_seed(seed: u64, repeat: u64) -> u64 {
    Seeds::new(seed, &format!("point/{repeat}"))
        .start()
        .random()
}

/// A chain at work.
pub(super) struct Running<'a> {
    session: &'a Session,
    chain: Chain,
    folder: String,
    pub(super) attack: Finished<Evaluation>,
}

/// A chain and the methods left to do on it.
pub(crate) type Open = (Chain, Vec<Method>);

/// Computes the rows of one chain; after each `summary` is written and shown.
pub(crate) fn run_chain(
    session: &Session,
    clean: &Finished<CleanResults>,
    (chain, methods): (Chain, &[Method]),
    summary: &Mutex<&mut Summary>,
    show: &dyn Fn(&Summary),
) -> Result<()> {
    let put = |row: Row| -> Result<()> {
        let mut summary = locked(summary);
        put_row(&mut summary, row);
        session.save_summary(&mut summary, clean)?;
        show(&summary);
        Ok(())
    };
    let evaluation = evaluate_clean(session, clean, chain, &chain.folder())?;
    put(session.row(chain, "clean", &evaluation.results, evaluation.cost.wall_s)?)?;
    let running = Running::new(session, clean, chain)?;
    let attack = &running.attack;
    let attacked = session.row(chain, "backdoored", &attack.results, attack.cost.wall_s)?;
    if attacked.asr < ATTACK_TOOK {
        tracing::warn!(
            "the attack of trigger {} (seed {}) did not take: an ASR of {} is below {}, and there is no backdoor \
             to remove; the table leaves its network out of means",
            attacked.trigger,
            attacked.seed,
            percent(attacked.asr),
            percent(ATTACK_TOOK)
        );
    }
    put(attacked)?;
    let mut modeled: Vec<Modeled> = Vec::new();
    for method in methods {
        interrupt::check()?;
        for beta in session.steps.betas_of(*method) {
            if modeled
                .iter()
                .all(|known| known.beta.to_bits() != beta.to_bits())
            {
                modeled.push(running.model(beta, session.config.mesa.alpha)?);
            }
        }
        for defense in session.config.defenses(*method) {
            interrupt::check()?;
            put(running.row(defense, &modeled)?)?;
        }
    }
    session.draw_samples(chain, &modeled)
}

fn evaluate_clean(
    session: &Session,
    clean: &Finished<CleanResults>,
    chain: Chain,
    folder: &str,
) -> Result<Finished<Evaluation>> {
    let step = session.steps.clean_evaluation(chain);
    session
        .ledger
        .step(&format!("{folder}/clean"), &step, |_, _| {
            session.evaluate(chain, &session.clean_network(clean)?)
        })
}

fn attack(
    session: &Session,
    clean: &Finished<CleanResults>,
    chain: Chain,
    folder: &str,
) -> Result<Finished<Evaluation>> {
    let step = session.steps.attack(chain);
    session
        .ledger
        .step(&format!("{folder}/attack"), &step, |files, watch| {
            let mut config = session.config.backdoor.clone();
            config.target_class = session.steps.target_class(chain);
            let images = session.attack_images.clone();
            let trained = (images.len() * config.training.epochs) as u64;
            let trigger = chain.trigger.trigger()?;
            let network = session.clean_network(clean)?;
            let network = stages::attack(
                session.processor(),
                network,
                images,
                &trigger,
                &config,
                chain.seed,
                watch,
            )?;
            let work = session.evaluate(chain, &network)?;
            let made_by = [
                ("trigger", chain.trigger.to_string()),
                ("seed", chain.seed.to_string()),
            ];
            save_network(&files.checkpoint, &network, &session.made_by(&made_by))?;
            Ok(Work {
                images: work.images + trained,
                ..work
            })
        })
}

impl<'a> Running<'a> {
    /// Attacks the clean network.
    pub(super) fn new(
        session: &'a Session,
        clean: &Finished<CleanResults>,
        chain: Chain,
    ) -> Result<Self> {
        let folder = chain.folder();
        Ok(Self {
            attack: attack(session, clean, chain, &folder)?,
            session,
            chain,
            folder,
        })
    }

    fn backdoored(&self) -> Result<Network> {
        Ok(load_network(&self.attack.files.checkpoint)?.0)
    }

    /// Fits the sub-model of one β and α, and measures it.
    pub(super) fn model(&self, beta: f64, alpha: f64) -> Result<Modeled> {
        let (session, chain) = (self.session, self.chain);
        let modeling = Modeling {
            ledger: &session.ledger,
            processor: session.processor(),
            config: &session.config,
            images: &session.defense_images,
            suspect: &|| Ok(session.processor().freeze(&self.backdoored()?)?),
            folder: &self.folder,
            beta,
            alpha,
            test: session
                .config
                .sample_test(session.steps.target_class(chain), &session.defense_images),
            seed: chain.seed,
        };
        let of_alpha = session.steps.with_alpha(alpha);
        let steps = ModelingSteps {
            fit: of_alpha.fit(chain, beta),
            samples: of_alpha.samples(chain, beta),
            entropy: of_alpha.entropy(chain, beta),
        };
        let made_by = [
            ("trigger", chain.trigger.to_string()),
            (TARGET_CLASS, session.steps.target_class(chain).to_string()),
            ("seed", chain.seed.to_string()),
            session.split(),
        ];
        modeling.run(&steps, &session.made_by(&made_by))
    }

    /// Repairs the network, and gives the row.
    fn row(&self, defense: Defense, modeled: &[Modeled]) -> Result<Row> {
        match defense.repeat {
            Some(repeat) => self.point(defense, repeat),
            None => self.defend(defense, modeled),
        }
    }

    /// Reverses one trigger, and retrains with it.
    fn point(&self, defense: Defense, repeat: u64) -> Result<Row> {
        let (session, chain) = (self.session, self.chain);
        let config = &session.config;
        let step = session.steps.defend(chain, defense);
        let name = format!("{}/{}", self.folder, defense.step_name());
        let done = session.ledger.step(&name, &step, |files, watch| {
            let (images, search) = (&session.defense_images, &config.point.search);
            let [_, height, width] = config.mesa.trigger_shape;
            let target_class = session.steps.target_class(chain);
            let suspect = session.processor().freeze(&self.backdoored()?)?;
            let seed = repeat_seed(chain.seed, repeat);
            let size = (height, width);
            let reversed = stages::reverse(&suspect, images, search, size, target_class, seed)?;
            let reversing = Attacked {
                trigger: reversed.trigger().clone(),
                target_class,
                placement: config.retrain.placement,
            };
            let known = images.take(REVERSED_ON);
            let found = stages::evaluate(&suspect, known.images(), Some(&reversing), seed)?;
            let stamped = found.stamped.context("an evaluation without a trigger")?;
            tracing::info!(
                "{name}: a trigger of {:.1} % ASR is reversed",
                stamped.asr * 100.0
            );
            let reversed_trigger = Patch::from_channels(reversed.trigger().pixels());
            let source = TriggerSource::Reversed(reversed);
            let work = self.repaired(defense, Some(source), seed, files, watch)?;
            Ok(Work {
                images: work.images + search.images() as u64,
                results: PointResults {
                    evaluation: work.results,
                    reversed_trigger,
                    reversed_asr: stamped.asr,
                },
            })
        })?;
        let found = &done.results;
        let mut row = session.row(chain, "point", &found.evaluation, done.cost.wall_s)?;
        row.repeat = Some(repeat);
        row.key = session
            .steps
            .row(chain, "point", row.repeat)
            .map(|key| key.to_string());
        row.sample_asr = Some(found.reversed_asr);
        row.reversed_trigger = Some(found.reversed_trigger.clone());
        Ok(row)
    }

    /// The backdoored network, repaired and evaluated.
    fn repaired(
        &self,
        defense: Defense,
        source: Option<TriggerSource>,
        seed: u64,
        files: &StepFiles,
        watch: &mut Watch,
    ) -> Result<Work<Evaluation>> {
        let (session, method) = (self.session, defense.method);
        let (images, backdoored) = (&session.defense_images, self.backdoored()?);
        let config = RetrainConfig {
            training: session.config.defense_training(method).clone(),
            ..session.config.retrain.clone()
        };
        let trained = (images.images().len() * config.training.epochs) as u64;
        let network = stages::repair(
            session.processor(),
            backdoored,
            images,
            source,
            &config,
            seed,
            watch,
        )?;
        let work = session.evaluate(self.chain, &network)?;
        if session.config.output.keep_repaired {
            let made_by = [
                ("method", method.to_string()),
                ("seed", self.chain.seed.to_string()),
                session.split(),
            ];
            save_network(&files.checkpoint, &network, &session.made_by(&made_by))?;
        }
        Ok(Work {
            images: work.images + trained,
            ..work
        })
    }

    /// Repairs the network by a method that is done once.
    fn defend(&self, defense: Defense, modeled: &[Modeled]) -> Result<Row> {
        let (session, chain, method) = (self.session, self.chain, defense.method);
        let step = session.steps.defend(chain, defense);
        let mixture = match method {
            Method::EnsembleWeighted => Some(self.mixture(modeled)?),
            _ => None,
        };
        let name = format!("{}/{}", self.folder, defense.step_name());
        let done = session.ledger.step(&name, &step, |files, watch| {
            let source = self.source(method, modeled, mixture.as_ref())?;
            self.repaired(defense, source, chain.seed, files, watch)
        })?;
        let mut row = session.row(chain, &method.to_string(), &done.results, done.cost.wall_s)?;
        row.mixture = mixture;
        if let Method::Mesa(beta) = method {
            let known = find(modeled, beta)?;
            let (samples, entropy) = (&known.samples.results, &known.entropy.results);
            let costs = [&known.fit.cost, &known.samples.cost, &known.entropy.cost];
            row.wall_s += costs.map(|cost| cost.wall_s).iter().sum::<f64>();
            row.sample_asr = Some(samples.sample_asr);
            row.in_level_set = Some(samples.in_level_set);
            row.sample_mean = Some(samples.sample_mean);
            row.sample_std = Some(samples.sample_std);
            row.information_nats = Some(entropy.information_nats);
            row.information_se = Some(entropy.information_se);
            row.entropy_upper_bound = Some(entropy.gaussian_bound_nats);
        }
        Ok(row)
    }

    /// What a method that is done once stamps; `None` for the one that retrains in another way.
    fn source(
        &self,
        method: Method,
        modeled: &[Modeled],
        mixture: Option<&Mixture>,
    ) -> Result<Option<TriggerSource>> {
        let [_, height, width] = self.session.config.mesa.trigger_shape;
        let load = |beta: f64| -> Result<SubModel> {
            inputs::sub_model(&find(modeled, beta)?.fit.files.checkpoint)
        };
        let all = || -> Result<Vec<SubModel>> {
            self.session
                .config
                .mesa
                .betas
                .iter()
                .map(|beta| load(*beta))
                .collect()
        };
        Ok(Some(match method {
            Method::FineTune => return Ok(None),
            Method::Point => bail!("a reversed trigger is found by each repeat for itself"),
            Method::Ideal => TriggerSource::Ideal(self.chain.trigger.trigger()?),
            Method::NoTrigger => TriggerSource::None,
            Method::Random => TriggerSource::Random {
                size: (height, width),
            },
            Method::Mesa(beta) => TriggerSource::SubModel(load(beta)?),
            Method::EnsembleTurns => TriggerSource::Turns(Ensemble::new(all()?)?),
            Method::EnsembleWeighted => {
                let mixture = mixture.context("the mixture was weighed before")?;
                let gamma: Vec<f64> = mixture.weights.iter().map(|weight| weight.gamma).collect();
                TriggerSource::Weighted(Staircase::new(all()?, &gamma)?)
            }
        }))
    }

    /// γ of the sub-models, in the configuration's order.
    fn mixture(&self, modeled: &[Modeled]) -> Result<Mixture> {
        let betas = &self.session.config.mesa.betas;
        let entropies = betas
            .iter()
            .map(|beta| {
                let found = find(modeled, *beta)?.entropy.results;
                Ok((found.entropy_nats, found.information_se))
            })
            .collect::<Result<Vec<_>>>()?;
        let found = mixture_weights(betas, &entropies)?;
        let weights = betas.iter().enumerate().map(|(index, beta)| {
            let known = find(modeled, *beta)?;
            let entropy = &known.entropy.results;
            Ok(MixtureWeight {
                beta: *beta,
                gamma: found.gamma[index],
                gamma_se: found.gamma_se[index],
                gamma_equal_entropy: found.gamma_at_equal_entropy[index],
                information_nats: Some(entropy.information_nats),
                information_se: Some(entropy.information_se),
                entropy_upper_bound: Some(entropy.gaussian_bound_nats),
                in_level_set: Some(known.samples.results.in_level_set),
            })
        });
        Ok(Mixture {
            weights: weights.collect::<Result<_>>()?,
        })
    }
}

fn find(modeled: &[Modeled], beta: f64) -> Result<&Modeled> {
    modeled
        .iter()
        .find(|known| known.beta.to_bits() == beta.to_bits())
        .with_context(|| format!("the sub-model of β = {beta} was fitted before"))
}

impl Session {
    /// What computes its networks.
    pub(super) fn processor(&self) -> &Processor {
        &self.computer.processor
    }

    /// Evaluates a network of a chain, on its own trigger.
    fn evaluate(&self, chain: Chain, network: &Network) -> Result<Work<Evaluation>> {
        let attacked = Attacked {
            trigger: chain.trigger.trigger()?,
            target_class: self.steps.target_class(chain),
            placement: self.config.backdoor.placement,
        };
        let images = &self.evaluation_images;
        let frozen = self.processor().freeze(network)?;
        let results = stages::evaluate(&frozen, images, Some(&attacked), chain.seed)?;
        let stamped = results.stamped.map_or(0, |stamped| stamped.images);
        Ok(Work {
            images: (results.images + stamped) as u64,
            results,
        })
    }

    fn row(&self, chain: Chain, method: &str, found: &Evaluation, wall_s: f64) -> Result<Row> {
        let stamped = found.stamped.context("an evaluation without a trigger")?;
        let trigger = chain.trigger_name();
        let figures = [stamped.asr, found.clean_accuracy, stamped.regained_accuracy];
        let mut row = Row::new(trigger, chain.seed, method, figures);
        row.wall_s = wall_s;
        row.key = self
            .steps
            .row(chain, method, None)
            .map(|key| key.to_string());
        Ok(row)
    }
}
