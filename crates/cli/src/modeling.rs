//! The sub-model of one class and one β: fitted, its samples tested, its entropy measured. Three
//! steps of a run folder, for `mesa run` and `mesa detect` alike.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::Result;
use mesa::MesaConfig;
use mesa_defense::{DefenseImages, SampleSuccess, SampleTest};
use mesa_models::{Classifier, Processor, Seeds};
use mesa_record::Step;
use serde::{Deserialize, Serialize};

use crate::config::{ExperimentConfig, SamplesConfig};
use crate::ledger::{Finished, Ledger, Work};
use crate::{inputs, interrupt, stages};

/// Samples of a sub-model in a picture.
const PICTURED: usize = 64;

/// What is to be modeled.
pub(crate) struct Modeling<'a> {
    pub(crate) ledger: &'a Ledger,
    pub(crate) processor: &'a Processor,
    pub(crate) config: &'a ExperimentConfig,
    pub(crate) images: &'a DefenseImages,
    /// The network, asked for only where a step is left to do.
    pub(crate) suspect: &'a dyn Fn() -> Result<Arc<dyn Classifier>>,
    /// Where the steps' files are, below the folders of the run.
    pub(crate) folder: &'a str,
    pub(crate) beta: f64,
    /// Weight of the entropy, the settings' or another.
    pub(crate) alpha: f64,
    /// The class, and how samples against it are tested.
    pub(crate) test: SampleTest,
    pub(crate) seed: u64,
}

/// The three steps.
pub(crate) struct ModelingSteps {
    pub(crate) fit: Step,
    pub(crate) samples: Step,
    pub(crate) entropy: Step,
}

/// What a fit's record says: all else is in its file and in the steps after it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct FitResults {
    beta: f64,
}

/// What the entropy measurement of one sub-model found.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct EntropyResults {
    pub(crate) information_nats: f64,
    pub(crate) information_se: f64,
    pub(crate) entropy_nats: f64,
    pub(crate) gaussian_bound_nats: f64,
}

/// One sub-model and what is known of it.
pub(crate) struct Modeled {
    pub(crate) beta: f64,
    pub(crate) fit: Finished<FitResults>,
    pub(crate) samples: Finished<SampleSuccess>,
    pub(crate) entropy: Finished<EntropyResults>,
}

impl Modeled {
    /// Samples for a picture, `(64, 3, height, width)`, flattened.
    pub(crate) fn pictured(&self, seed: u64) -> Result<Vec<f32>> {
        self.drawn(&Seeds::new(seed, "picture"), PICTURED)
    }

    /// Samples of a stream, `(count, 3, height, width)`, flattened.
    pub(crate) fn drawn(&self, seeds: &Seeds, count: usize) -> Result<Vec<f32>> {
        let sub_model = inputs::sub_model(&self.fit.files.checkpoint)?;
        let samples = sub_model.sample(&mut seeds.start(), count)?;
        Ok(samples.flatten_all()?.to_vec1()?)
    }

    /// Share of stamped images that the samples turn into the class.
    pub(crate) fn sample_asr(&self) -> f64 {
        self.samples.results.sample_asr
    }
}

/// The name of a step of a sub-model at the settings' α.
pub(crate) fn step_name(folder: &str, kind: &str, beta: f64) -> String {
    format!("{folder}/{kind}-{beta}")
}

impl Modeling<'_> {
    /// Does what is left of the steps; `made_by` goes into the sub-model's file.
    pub(crate) fn run(
        &self,
        steps: &ModelingSteps,
        made_by: &BTreeMap<String, String>,
    ) -> Result<Modeled> {
        let fit = self.fit(&steps.fit, made_by)?;
        interrupt::check()?;
        let samples = self.samples(&steps.samples, &fit)?;
        interrupt::check()?;
        let entropy = self.entropy(&steps.entropy, &fit)?;
        Ok(Modeled {
            beta: self.beta,
            fit,
            samples,
            entropy,
        })
    }

    /// The name of a step: the settings' α is not named.
    fn name(&self, kind: &str) -> String {
        let name = step_name(self.folder, kind, self.beta);
        if self.alpha.to_bits() == self.config.mesa.alpha.to_bits() {
            name
        } else {
            format!("{name}-alpha-{}", self.alpha)
        }
    }

    fn fit(&self, step: &Step, made_by: &BTreeMap<String, String>) -> Result<Finished<FitResults>> {
        let beta = self.beta;
        let mesa = &MesaConfig {
            alpha: self.alpha,
            ..self.config.mesa.clone()
        };
        self.ledger.step(&self.name("fit"), step, |files, watch| {
            let images = self.images.clone();
            let seen = (images.images().len() * mesa.images_per_trigger * mesa.epochs) as u64;
            let placement = self.config.retrain.placement;
            let testing = inputs::testing(mesa, self.test.target_class, placement);
            let suspect = (self.suspect)()?;
            let config = (mesa, beta);
            let on = self.processor;
            let sub_model = stages::fit(on, suspect, images, testing, config, self.seed, watch)?;
            sub_model.save(&files.checkpoint, made_by)?;
            Ok(Work {
                results: FitResults { beta },
                images: seen,
            })
        })
    }

    fn samples(&self, step: &Step, fit: &Finished<FitResults>) -> Result<Finished<SampleSuccess>> {
        self.ledger.step(&self.name("samples"), step, |_, watch| {
            let test = self.test;
            let sub_model = inputs::sub_model(&fit.files.checkpoint)?;
            let suspect = (self.suspect)()?;
            let results =
                stages::sample_test(&suspect, &sub_model, self.images, test, self.seed, watch)?;
            Ok(Work {
                results,
                images: (test.samples * test.images_per_sample) as u64,
            })
        })
    }

    fn entropy(&self, step: &Step, fit: &Finished<FitResults>) -> Result<Finished<EntropyResults>> {
        self.ledger.step(&self.name("entropy"), step, |_, watch| {
            let sub_model = inputs::sub_model(&fit.files.checkpoint)?;
            let config = &self.config.entropy;
            let found = stages::entropy(self.processor, &sub_model, config, self.seed, watch)?;
            let results = EntropyResults {
                information_nats: found.information_nats,
                information_se: found.information_se,
                entropy_nats: found.entropy_nats,
                gaussian_bound_nats: found.gaussian_bound_nats,
            };
            Ok(Work { results, images: 0 })
        })
    }
}

impl ExperimentConfig {
    /// How samples against a class are tested: none on an image twice, however few are of other
    /// classes, and all on as many images.
    pub(crate) fn sample_test(&self, target_class: u32, images: &DefenseImages) -> SampleTest {
        let others = images.images().not_of_class(target_class).len();
        let shown = self.samples.images_per_sample.min(others.max(1));
        let SamplesConfig {
            count,
            images_per_sample,
        } = self.samples.on(shown);
        SampleTest {
            target_class,
            samples: count,
            images_per_sample,
            placement: self.retrain.placement,
            by_place: false,
        }
    }
}
