//! One trigger and seed: attack, model, defend, measure.

use anyhow::{Context, Result};
use mesa::{Staircase, SubModel, mixture_weights};
use mesa_attack::{Attacked, Evaluation, evaluate};
use mesa_defense::{Ensemble, TriggerSource};
use mesa_models::{Network, load_network, save_network};
use mesa_record::{Mixture, MixtureWeight, Row, Summary};

use super::keys::Chain;
use super::session::{CleanResults, Session};
use super::summary::put_row;
use crate::ledger::{Finished, Work};
use crate::method::Method;
use crate::modeling::{Modeled, Modeling, ModelingSteps};
use crate::{inputs, interrupt, stages};

/// A chain at work.
pub(super) struct Running<'a> {
    session: &'a Session,
    chain: Chain,
    folder: String,
    pub(super) attack: Finished<Evaluation>,
}

/// Computes the rows of one chain; `summary` is written after each.
pub(crate) fn run_chain(
    session: &Session,
    clean: &Finished<CleanResults>,
    chain: Chain,
    methods: &[Method],
    summary: &mut Summary,
) -> Result<()> {
    let mut put = |row: Row| -> Result<()> {
        put_row(summary, row);
        session.save_summary(summary, clean)
    };
    let evaluation = evaluate_clean(session, clean, chain, &chain.folder())?;
    put(session.row(chain, "clean", &evaluation.results, evaluation.wall_s)?)?;
    let running = Running::new(session, clean, chain)?;
    let attack = &running.attack;
    put(session.row(chain, "backdoored", &attack.results, attack.wall_s)?)?;
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
        put(running.defend(*method, &modeled)?)?;
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
            let network = stages::attack(network, images, &trigger, &config, chain.seed, watch)?;
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
            config: &session.config,
            images: &session.defense_images,
            suspect: &|| Ok(self.backdoored()?.freeze()?),
            folder: &self.folder,
            beta,
            alpha,
            target_class: session.steps.target_class(chain),
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
            ("seed", chain.seed.to_string()),
            session.split(),
        ];
        modeling.run(&steps, &session.made_by(&made_by))
    }

    /// Repairs the network by one method, and gives its row.
    fn defend(&self, method: Method, modeled: &[Modeled]) -> Result<Row> {
        let (session, chain) = (self.session, self.chain);
        let step = session.steps.defend(chain, method);
        let mixture = match method {
            Method::EnsembleWeighted => Some(self.mixture(modeled)?),
            _ => None,
        };
        let name = format!("{}/{}", self.folder, method.to_string().replace(':', "-"));
        let done = session.ledger.step(&name, &step, |files, watch| {
            let (images, backdoored) = (&session.defense_images, self.backdoored()?);
            let training = session.config.defense_training(method);
            let trained = (images.images().len() * training.epochs) as u64;
            let network = match self.source(method, modeled, mixture.as_ref())? {
                None => stages::fine_tune(backdoored, images, training, chain.seed, watch)?,
                Some(source) => {
                    let (images, config) = (images.clone(), &session.config.retrain);
                    stages::retrain(backdoored, images, source, config, chain.seed, watch)?
                }
            };
            let work = session.evaluate(chain, &network)?;
            if session.config.output.keep_repaired {
                let made_by = [
                    ("method", method.to_string()),
                    ("seed", chain.seed.to_string()),
                    session.split(),
                ];
                save_network(&files.checkpoint, &network, &session.made_by(&made_by))?;
            }
            Ok(Work {
                images: work.images + trained,
                ..work
            })
        })?;
        let mut row = session.row(chain, &method.to_string(), &done.results, done.wall_s)?;
        row.mixture = mixture;
        if let Method::Mesa(beta) = method {
            let known = find(modeled, beta)?;
            let (samples, entropy) = (&known.samples.results, &known.entropy.results);
            row.wall_s += known.fit.wall_s + known.samples.wall_s + known.entropy.wall_s;
            row.sample_asr = Some(samples.sample_asr);
            row.in_level_set = Some(samples.in_level_set);
            row.sample_mean = Some(samples.sample_mean);
            row.sample_std = Some(samples.sample_std);
            row.entropy_nats = Some(entropy.information_nats);
            row.entropy_se = Some(entropy.information_se);
            row.entropy_upper_bound = Some(entropy.gaussian_bound_nats);
        }
        Ok(row)
    }

    /// What a method stamps; `None` for the one that retrains in another way.
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
                entropy_nats: Some(entropy.information_nats),
                entropy_se: Some(entropy.information_se),
                entropy_upper_bound: Some(entropy.gaussian_bound_nats),
                in_level_set: Some(known.samples.results.in_level_set),
            })
        });
        Ok(Mixture {
            weights: weights.collect::<Result<_>>()?,
            readable: found.readable,
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
    /// Evaluates a network of a chain, on its own trigger.
    fn evaluate(&self, chain: Chain, network: &Network) -> Result<Work<Evaluation>> {
        let attacked = Attacked {
            trigger: chain.trigger.trigger()?,
            target_class: self.steps.target_class(chain),
            placement: self.config.backdoor.placement,
        };
        let images = &self.evaluation_images;
        let results = evaluate(&network.freeze()?, images, Some(&attacked), chain.seed)?;
        let stamped = results.stamped.map_or(0, |stamped| stamped.images);
        Ok(Work {
            images: (results.images + stamped) as u64,
            results,
        })
    }

    fn row(&self, chain: Chain, method: &str, found: &Evaluation, wall_s: f64) -> Result<Row> {
        let stamped = found.stamped.context("an evaluation without a trigger")?;
        let trigger = chain.trigger.to_string().as_str().into();
        let figures = [stamped.asr, found.clean_accuracy, stamped.regained_accuracy];
        let mut row = Row::new(trigger, chain.seed, method, figures);
        row.wall_s = wall_s;
        row.key = self.steps.row(chain, method).map(|key| key.to_string());
        Ok(row)
    }
}
