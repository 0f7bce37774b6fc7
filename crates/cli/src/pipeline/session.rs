//! What all steps of a run share.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Result, bail};
use mesa_datasets::{Dataset, Images};
use mesa_defense::DefenseImages;
use mesa_models::{Network, Normalization, ResNetConfig, load_network_with, save_network};
use mesa_record::{AtOnce, RunDir, Step, file_digest};
use serde::{Deserialize, Serialize};

use super::assets;
use super::keys::Steps;
use crate::args::SaveEvery;
use crate::computer::Computer;
use crate::config::ExperimentConfig;
use crate::ledger::{Finished, Ledger, Work};
use crate::{inputs, seen, stages};

/// What all steps of a run share. Clones share the data and what they have seen.
#[derive(Clone)]
pub(crate) struct Session {
    pub(crate) name: String,
    pub(crate) config: ExperimentConfig,
    pub(crate) data: Dataset,
    pub(crate) attack_images: Images,
    pub(crate) defense_images: DefenseImages,
    pub(crate) evaluation_images: Images,
    pub(crate) ledger: Ledger,
    pub(crate) clean: CleanSource,
    pub(crate) steps: Steps,
    /// The same steps with a GPU's earlier kernels.
    pub(crate) earlier_steps: Vec<Steps>,
    pub(crate) computer: Computer,
    /// Where several networks are worked on at once, since when.
    pub(crate) clock: Option<Clock>,
}

/// The time that a run of several networks at once takes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    workers: usize,
    begun: Instant,
    before_s: f64,
}

impl Clock {
    /// A clock that goes on from where earlier starts of the run left it.
    pub(crate) fn start(workers: usize, earlier: Option<AtOnce>) -> Self {
        Self {
            workers: earlier.map_or(workers, |earlier| earlier.workers.max(workers)),
            begun: Instant::now(),
            before_s: earlier.map_or(0.0, |earlier| earlier.elapsed_s),
        }
    }

    pub(crate) fn read(&self) -> AtOnce {
        AtOnce {
            workers: self.workers,
            elapsed_s: self.before_s + self.begun.elapsed().as_secs_f64(),
        }
    }
}

/// Where the clean network comes from.
#[derive(Clone, Debug)]
pub(crate) enum CleanSource {
    /// A file: its place, how it normalizes, what it is called in records, its digest.
    File {
        path: PathBuf,
        normalization: Option<Normalization>,
        called: String,
        sha256: String,
    },
    /// This run, once.
    Trained,
}

impl CleanSource {
    /// The step that makes or checks it.
    fn step(&self, config: &ExperimentConfig, data_digest: &str, computer: &Computer) -> Step {
        match self {
            Self::File { sha256, .. } => Steps::clean_file(sha256, data_digest, computer),
            Self::Trained => Steps::pretrain(config, data_digest, computer),
        }
    }
}

/// What the step `clean` measured.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct CleanResults {
    pub(crate) source: String,
    pub(crate) sha256: String,
    pub(crate) test_accuracy: f64,
}

/// What a session is made of.
pub(crate) struct Setup {
    pub(crate) name: String,
    pub(crate) config: ExperimentConfig,
    pub(crate) data: Dataset,
    pub(crate) run: RunDir,
    pub(crate) clean: Option<PathBuf>,
    pub(crate) normalize: Option<Normalization>,
    pub(crate) save_every: SaveEvery,
    pub(crate) computer: Computer,
    pub(crate) threads: usize,
}

impl Session {
    /// A session that has computed nothing yet.
    pub(crate) fn new(setup: Setup) -> Result<Self> {
        let Setup {
            name,
            config,
            data,
            run,
            clean,
            normalize,
            save_every,
            computer,
            threads,
        } = setup;
        computer.check_folder(&run)?;
        let shape = config.network.shape(data.num_classes());
        let split = seen::split_words(&data, &config.data);
        let clean = clean_source((clean, normalize), shape, &data, &split)?;
        let steps_on = |computer: &Computer| {
            let clean = clean.step(&config, &data.digest, computer).key();
            Steps::new(&config, &data.digest, clean, computer)
        };
        let steps = steps_on(&computer);
        let earlier = computer.with_earlier_kernels();
        let earlier_steps = earlier.iter().map(steps_on).collect();
        Ok(Self {
            attack_images: inputs::training_images(&data, config.data.attack_images)?,
            defense_images: inputs::defense_images(&data, &config.data)?,
            evaluation_images: inputs::evaluation_images(&data, &config.data)?,
            ledger: Ledger::new(run, &data, save_every, &computer.name, threads)?,
            name,
            config,
            data,
            clean,
            steps,
            earlier_steps,
            computer,
            clock: None,
        })
    }

    /// The same for one of several workers, which has so many threads of its own.
    pub(crate) fn for_a_worker(&self, clock: Clock, threads: usize) -> Result<Self> {
        let mut session = Self {
            clock: Some(clock),
            computer: self.computer.for_another_thread()?,
            ..self.clone()
        };
        session.ledger.threads = threads;
        Ok(session)
    }

    /// Size of the networks of this run.
    pub(crate) fn shape(&self) -> ResNetConfig {
        self.config.network.shape(self.data.num_classes())
    }

    /// The step that makes or checks the clean network.
    pub(crate) fn clean_step(&self) -> Step {
        self.clean
            .step(&self.config, &self.data.digest, &self.computer)
    }

    /// Trains the clean network, or measures the one that was found.
    pub(crate) fn clean(&self) -> Result<Finished<CleanResults>> {
        self.ledger
            .step("clean", &self.clean_step(), |files, watch| {
                let (network, source, trained) = match &self.clean {
                    CleanSource::File {
                        path,
                        normalization,
                        called,
                        ..
                    } => {
                        let loaded = load_network_with(path, *normalization)?;
                        (loaded.network, called.clone(), 0)
                    }
                    CleanSource::Trained => {
                        let pretrain = &self.config.pretrain;
                        let images = inputs::first(&self.data.train, pretrain.images);
                        let count = (images.len() * pretrain.training.epochs) as u64;
                        let normalization = inputs::normalization(self.data.name);
                        let network = stages::pretrain(
                            &self.computer.processor,
                            images,
                            self.shape(),
                            normalization,
                            pretrain,
                            watch,
                        )?;
                        let made_by = [("data", self.data.name.to_string())];
                        save_network(&files.checkpoint, &network, &self.made_by(&made_by))?;
                        (network, "trained in this run".to_owned(), count)
                    }
                };
                let sha256 = match &self.clean {
                    CleanSource::File { sha256, .. } => sha256.clone(),
                    CleanSource::Trained => file_digest(&files.checkpoint)?,
                };
                let frozen = self.computer.processor.freeze(&network)?;
                let evaluated = stages::evaluate(&frozen, &self.data.test, None, 0)?;
                let images = trained + self.data.test.len() as u64;
                Ok(Work {
                    results: CleanResults {
                        source,
                        sha256,
                        test_accuracy: evaluated.clean_accuracy,
                    },
                    images,
                })
            })
    }

    /// The clean network.
    pub(crate) fn clean_network(&self, clean: &Finished<CleanResults>) -> Result<Network> {
        let (path, normalization) = match &self.clean {
            CleanSource::File {
                path,
                normalization,
                ..
            } => (path, *normalization),
            CleanSource::Trained => (&clean.files.checkpoint, None),
        };
        Ok(load_network_with(path, normalization)?.network)
    }

    /// Which test images a defense of this run sees, for the description of its files.
    pub(crate) fn split(&self) -> (&'static str, String) {
        let words = seen::split_words(&self.data, &self.config.data);
        (seen::SPLIT, words)
    }

    /// What made a file of this run.
    pub(crate) fn made_by(&self, entries: &[(&str, String)]) -> BTreeMap<String, String> {
        let program = [
            ("program", format!("mesa {}", env!("CARGO_PKG_VERSION"))),
            ("preset", self.name.clone()),
            ("data_sha256", self.data.digest.clone()),
        ];
        entries
            .iter()
            .cloned()
            .chain(program)
            .map(|(name, value)| (name.to_owned(), value))
            .collect()
    }
}

fn clean_source(
    (named, normalize): (Option<PathBuf>, Option<Normalization>),
    shape: ResNetConfig,
    data: &Dataset,
    split: &str,
) -> Result<CleanSource> {
    if let Some(path) = named {
        let loaded = inputs::network(&path, normalize)?;
        seen::check(&path, &loaded.info.made_by, split)?;
        if loaded.info.config != shape {
            bail!(
                "--clean {}: a {} of width {} and {} classes; the settings say a {} of width {} and \
                 {} classes",
                path.display(),
                loaded.info.config.architecture,
                loaded.info.config.width,
                loaded.info.config.num_classes,
                shape.architecture,
                shape.width,
                shape.num_classes
            );
        }
        let called = path
            .file_name()
            .map_or_else(String::new, |n| n.to_string_lossy().into_owned());
        loaded.check_normalization(&data.test)?;
        return Ok(CleanSource::File {
            path,
            normalization: Some(loaded.info.normalization),
            called,
            sha256: loaded.sha256,
        });
    }
    let Some(path) = assets::clean_network(shape, &data.name.to_string()) else {
        return Ok(CleanSource::Trained);
    };
    let file = path
        .file_name()
        .map_or_else(String::new, |n| n.to_string_lossy().into_owned());
    let sha256 = file_digest(&path)?;
    Ok(CleanSource::File {
        path,
        normalization: None,
        called: format!("assets/weights/{file}"),
        sha256,
    })
}
