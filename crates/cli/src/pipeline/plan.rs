//! What is left to do, counted in images and bytes.

use mesa_record::{Plan, PlannedChain, PlannedStage, Row, Summary, processor};

use super::committed::is_all_committed;
use super::keys::Chain;
use super::session::{CleanSource, Session};
use crate::method::Method;
use crate::modeling::step_name;

/// The kinds of steps, in their order.
const KINDS: [&str; 6] = ["pretrain", "attack", "fit", "reverse", "defend", "evaluate"];

/// What is left to do for some chains.
#[derive(Clone, Debug, Default, PartialEq)]
struct Work {
    /// Steps and images for each of [`KINDS`].
    counts: [(usize, u64); KINDS.len()],
    /// Entropy measurements, which see no images.
    entropies: usize,
    /// Bytes of files kept.
    bytes: f64,
}

impl Work {
    fn add(&mut self, kind: &str, images: usize) {
        let index = KINDS
            .iter()
            .position(|known| *known == kind)
            .expect("steps are of these kinds");
        self.counts[index].0 += 1;
        self.counts[index].1 += images as u64;
    }

    /// Whether nothing is left.
    fn is_empty(&self) -> bool {
        self.entropies == 0 && self.counts.iter().all(|(steps, _)| *steps == 0)
    }
}

/// What is left to do for these chains and methods.
fn work(session: &Session, chains: &[(Chain, Vec<Method>)]) -> Work {
    let mut work = Work::default();
    let config = &session.config;
    let network = 4.0 * session.shape().parameter_count() as f64;
    // The clean and the stamped images.
    let evaluation = session.evaluation_images.len() * 19 / 10;
    let modeling = session.defense_images.images().len();
    if !session.ledger.is_done("clean", &session.clean_step()) {
        if let CleanSource::Trained = session.clean {
            let images = config.pretrain.images.min(session.data.train.len());
            work.add("pretrain", images * config.pretrain.training.epochs);
            work.bytes += network;
        }
        work.add("evaluate", session.data.test.len());
    }
    for (chain, methods) in chains {
        let (steps, folder) = (&session.steps, chain.folder());
        if !session
            .ledger
            .is_done(&format!("{folder}/clean"), &steps.clean_evaluation(*chain))
        {
            work.add("evaluate", evaluation);
        }
        if !session
            .ledger
            .is_done(&format!("{folder}/attack"), &steps.attack(*chain))
        {
            work.add(
                "attack",
                session.attack_images.len() * config.backdoor.training.epochs,
            );
            work.add("evaluate", evaluation);
            work.bytes += network;
        }
        let mut betas: Vec<f64> = methods
            .iter()
            .flat_map(|method| steps.betas_of(*method))
            .collect();
        betas.sort_by(f64::total_cmp);
        betas.dedup();
        for beta in betas {
            if !session
                .ledger
                .is_done(&step_name(&folder, "fit", beta), &steps.fit(*chain, beta))
            {
                work.add(
                    "fit",
                    modeling * config.mesa.images_per_trigger * config.mesa.epochs,
                );
                work.bytes += 2.5e6;
            }
            if !session.ledger.is_done(
                &step_name(&folder, "samples", beta),
                &steps.samples(*chain, beta),
            ) {
                work.add(
                    "evaluate",
                    config.samples.count * config.samples.images_per_sample,
                );
            }
            if !session.ledger.is_done(
                &step_name(&folder, "entropy", beta),
                &steps.entropy(*chain, beta),
            ) {
                work.entropies += 1;
            }
        }
        for defense in methods.iter().flat_map(|method| config.defenses(*method)) {
            let name = format!("{folder}/{}", defense.step_name());
            if !session
                .ledger
                .is_done(&name, &steps.defend(*chain, defense))
            {
                if defense.method == Method::Point {
                    work.add("reverse", config.point.search.images());
                }
                let training = config.defense_training(defense.method);
                work.add("defend", modeling * training.epochs);
                work.add("evaluate", evaluation);
                work.bytes += if config.output.keep_repaired {
                    network
                } else {
                    0.0
                };
            }
        }
    }
    // A state in progress: weights and moments.
    work.bytes += if work.is_empty() { 0.0 } else { 2.0 * network };
    work
}

impl Session {
    /// The plan for these chains, without times.
    pub(crate) fn plan(
        &self,
        chains: &[(Chain, Vec<Method>)],
        methods: &[Method],
        summary: &Summary,
    ) -> Plan {
        let open: Vec<_> = chains
            .iter()
            .filter(|(chain, left)| !is_all_committed(*chain, left, summary))
            .cloned()
            .collect();
        let work = work(self, &open);
        let mut stages: Vec<PlannedStage> = KINDS
            .iter()
            .zip(work.counts)
            .map(|(kind, (steps, images))| stage(kind, steps, images))
            .collect();
        stages.push(stage("entropy", work.entropies, 0));
        stages.retain(|stage| stage.steps > 0);
        let planned = chains.iter().map(|(chain, left)| {
            let trigger = chain.trigger_name();
            let done = |method: &&Method| {
                let is_done =
                    |row: &Row| row.committed || !left.contains(method) || self.holds(row);
                self.has_rows(summary, *chain, **method, is_done)
            };
            let (done, left): (Vec<&Method>, Vec<&Method>) = methods.iter().partition(done);
            PlannedChain {
                seed: chain.seed,
                methods: left.into_iter().map(ToString::to_string).collect(),
                done: done.into_iter().map(ToString::to_string).collect(),
                trigger,
            }
        });
        Plan {
            preset: self.name.clone(),
            data: self.data.name.to_string(),
            out: self.ledger.run.root().display().to_string(),
            clean_network: match &self.clean {
                CleanSource::File { called, .. } => called.clone(),
                CleanSource::Trained => "trained once, in this run".to_owned(),
            },
            chains: planned.collect(),
            stages,
            estimated_s: None,
            estimated_bytes: work.bytes,
            threads: self.ledger.threads,
            kernel_path: self.ledger.kernel_path.to_owned(),
            processor: processor(),
            device: self.ledger.device.clone(),
            engine_version: mesa_models::ENGINE_VERSION,
            measured_batches: None,
            peak_rss_mb: None,
        }
    }
}

fn stage(kind: &str, steps: usize, images: u64) -> PlannedStage {
    PlannedStage {
        kind: kind.to_owned(),
        steps,
        images,
        estimated_s: None,
        images_per_s: None,
    }
}
