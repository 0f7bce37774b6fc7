//! `mesa detect`: is there a backdoor, and in which class?

mod folder;
mod repair;
mod searched;

use std::fmt::Write as _;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use mesa_datasets::{Dataset, Place, Placement};
use mesa_defense::{DefenseImages, DetectionRule, LEAST_IN_PLACE, SampleTest, anomaly_indices};
use mesa_models::{Classifier, ENGINE_VERSION};
use mesa_record::{
    ClassDetection, Detection, Key, RunDir, Step, Verdict, processor, write_json, write_text,
};
use mesa_report::{PlacesPicture, SampleGroup, SamplesPicture, detection_chart, detection_text};
use serde::Serialize;
use serde_json::json;

use self::folder::{check_folder, default_folder, file_name, search_words, take_folder};
use self::searched::Searched;
use crate::args::Detect;
use crate::computer::Computer;
use crate::config::{DataConfig, ExperimentConfig};
use crate::ledger::Ledger;
use crate::modeled_triggers::TARGET_CLASS;
use crate::modeling::{Modeled, Modeling, ModelingSteps};
use crate::output::Usage;
use crate::pipeline::fit_config;
use crate::progress::duration;
use crate::{inputs, interrupt, output, seen, stages};

/// What the process ends with where a backdoor was found.
const EXIT_BACKDOOR: u8 = 10;
/// And where several classes are reached and none stands out.
const EXIT_UNDECIDED: u8 = 11;

/// The settings that are taken where nobody names any: those that networks whose answer is known were
/// searched with (`docs/records/detection`).
const PRESET: &str = "quick";

/// The fewest images that modeling was tried with: preset `cpu-images-500`.
const FEWEST_IMAGES: usize = 500;

/// A class that takes less was already modeled by an earlier start.
const AT_ONCE: Duration = Duration::from_secs(1);

/// What `--json` prints.
#[derive(Serialize)]
struct Told<'a> {
    #[serde(flatten)]
    detection: &'a Detection,
    /// The run folder.
    folder: String,
    /// The command that removes what was found, or may be there.
    repair: Option<String>,
}

/// A search at work.
struct Search<'a> {
    args: &'a Detect,
    rule: DetectionRule,
    preset: String,
    settings: ExperimentConfig,
    suspect: Arc<dyn Classifier>,
    clean_accuracy: f64,
    model_sha256: String,
    data: Dataset,
    images: DefenseImages,
    ledger: Ledger,
    computer: Computer,
}

pub(crate) fn run(args: &Detect, json: bool, threads: usize) -> Result<ExitCode> {
    let rule = DetectionRule {
        sample_asr: args.min_asr,
        anomaly_index: args.min_index,
    };
    rule.validate()
        .map_err(|error| Usage(format!("--min-asr and --min-index: {error}")))?;
    // No folder for a file that is not there.
    let there = std::fs::metadata(&args.model);
    there.with_context(|| format!("failed to read {}", args.model.display()))?;
    let run = match &args.out {
        Some(folder) => RunDir::new(folder),
        None => RunDir::new(default_folder(args)?),
    };
    let _lock = super::claim(&run)?;
    let search = Search::new(args, rule, run, threads)?;
    let found = search.classes()?;
    let detection = search.judge(&found);
    let folder = search.ledger.run.root();
    write_json(&folder.join("detection.json"), &detection)?;
    write_text(&folder.join("detection.svg"), &detection_chart(&detection))?;
    search.draw(&detection, &found)?;
    search.ledger.write_curves()?;
    let mut plain = detection_text(&detection);
    let repair = search.how_to_remove(&detection, &found);
    if let Some(command) = &repair {
        let why = match detection.verdict {
            Verdict::Undecided => "to see whether repairing costs accuracy",
            _ => "to remove it",
        };
        let _ = writeln!(plain, "\n{why}:\n  {command}");
    }
    tracing::info!("written to {}", folder.display());
    let told = Told {
        detection: &detection,
        folder: folder.display().to_string(),
        repair,
    };
    output::result(json, &told, &plain)?;
    Ok(match detection.verdict {
        Verdict::Backdoor => ExitCode::from(EXIT_BACKDOOR),
        Verdict::Undecided => ExitCode::from(EXIT_UNDECIDED),
        Verdict::NothingFound => ExitCode::SUCCESS,
    })
}

impl<'a> Search<'a> {
    fn new(args: &'a Detect, rule: DetectionRule, run: RunDir, threads: usize) -> Result<Self> {
        let computer = Computer::open(&args.running.device)?;
        let (preset, mut settings) = inputs::settings(&args.preset, PRESET)?;
        settings.place(args.placement.placement)?;
        let loaded = inputs::network(&args.model, args.normalize.normalize)?;
        // A verdict on other images than the network's would look like one on the network.
        let no_stand_in = DataConfig {
            synthetic_if_missing: false,
            ..settings.data.clone()
        };
        let data = loaded.clean_data(&args.data, &no_stand_in)?;
        let settings = settings.for_data(&data);
        settings.mesa.validate()?;
        let this = search_words(
            (&file_name(&args.model), &loaded.sha256),
            (&preset, &data.name.to_string(), Some(&data.digest)),
            (args.beta, args.seed),
            super::placement_words(settings.retrain.placement).as_deref(),
        );
        check_folder(&run, &this)?;
        let images = inputs::defense_images(&data, &settings.data)?;
        tracing::info!(
            "modeling triggers of all {} classes of {} at β = {} with {} images of {}, {} epochs; each class \
             is saved when it is done",
            data.num_classes(),
            args.model.display(),
            args.beta,
            images.images().len(),
            data.name,
            settings.mesa.epochs
        );
        if images.images().len() < FEWEST_IMAGES {
            tracing::warn!(
                "{} images are few to model triggers with; {FEWEST_IMAGES} are the fewest that this was tried \
                 with",
                images.images().len()
            );
        }
        let suspect = computer.processor.freeze(&loaded.network)?;
        let known = inputs::first(images.images(), inputs::CHECKED_IMAGES);
        let clean_accuracy = stages::evaluate(&suspect, &known, None, 0)?.clean_accuracy;
        loaded.warn_of_normalization(&known, clean_accuracy)?;
        if let Some(words) = loaded.near_chance(clean_accuracy) {
            bail!("nothing can be told of this network: {words}");
        }
        take_folder(&run, &this)?;
        Ok(Self {
            suspect,
            clean_accuracy,
            model_sha256: loaded.sha256,
            images,
            ledger: Ledger::new(run, &data, args.running.save_every, &computer.name, threads)?,
            computer,
            args,
            rule,
            preset,
            settings,
            data,
        })
    }

    /// Models the triggers of every class.
    fn classes(&self) -> Result<Vec<Searched>> {
        let classes = self.suspect.num_classes();
        let mut found = Vec::new();
        let (mut done, mut took) = (0, Duration::ZERO);
        for class in 0..classes {
            interrupt::check()?;
            let name = self.data.class_names[class].escape_debug();
            let left = (done > 0).then(|| took / done * (classes - class) as u32);
            let left = left.map_or_else(String::new, |left| {
                format!(", about {} left", duration(left.as_secs_f64()))
            });
            tracing::info!("class {class} ({name}), {} of {classes}{left}", class + 1);
            let began = Instant::now();
            found.push(self.class(class as u32)?);
            // What an earlier start had done takes no time.
            if began.elapsed() > AT_ONCE {
                (done, took) = (done + 1, took + began.elapsed());
            }
        }
        Ok(found)
    }

    /// Models the triggers of one class, where the rule asks for it once more in the place in which those
    /// work best.
    fn class(&self, class: u32) -> Result<Searched> {
        let modeled = self.model(class, &self.settings, &format!("class-{class}"))?;
        let mut searched = Searched {
            modeled,
            there: None,
        };
        let (beta, sample_asr) = (self.args.beta, searched.modeled.sample_asr());
        let asks = |(_, share): &_| self.rule.asks_for_place(beta, sample_asr, *share);
        if let Some((place, _)) = searched.best().filter(asks) {
            interrupt::check()?;
            searched.there = Some(self.model_at(class, place)?);
        }
        Ok(searched)
    }

    /// Models the triggers of one class in one place.
    fn model_at(&self, class: u32, place: Place) -> Result<Modeled> {
        let Place { row, column } = place;
        tracing::info!(
            "class {class} again, where its patches work best: row {row}, column {column}"
        );
        let mut settings = self.settings.clone();
        settings.retrain.placement = Placement::Fixed { row, column };
        self.model(
            class,
            &settings,
            &format!("class-{class}/at-{row}-{column}"),
        )
    }

    /// Models the triggers of one class where the settings say, and measures what they do.
    fn model(&self, class: u32, settings: &ExperimentConfig, folder: &str) -> Result<Modeled> {
        let args = self.args;
        let test = SampleTest {
            // A place that was named is all that is searched.
            by_place: args.placement.placement.is_none()
                && settings.retrain.placement == Placement::PerImage,
            ..settings.sample_test(class, &self.images)
        };
        let modeling = Modeling {
            ledger: &self.ledger,
            processor: &self.computer.processor,
            config: settings,
            images: &self.images,
            suspect: &|| Ok(self.suspect.clone()),
            folder,
            beta: args.beta,
            alpha: settings.mesa.alpha,
            test,
            seed: args.seed,
        };
        let fit = self.fit_step(class, settings);
        let steps = ModelingSteps {
            samples: self.after_fit("samples", &json!(test), &fit.key()),
            entropy: self.after_fit("entropy", &json!(settings.entropy), &fit.key()),
            fit,
        };
        let made_by = super::made_by(&[
            ("data", self.data.name.to_string()),
            ("model_sha256", self.model_sha256.clone()),
            (TARGET_CLASS, class.to_string()),
            (seen::SPLIT, seen::split_words(&self.data, &settings.data)),
            ("config", serde_json::to_string(&settings.mesa)?),
        ]);
        let made_by = super::placed(made_by, settings.retrain.placement);
        modeling.run(&steps, &made_by)
    }

    fn fit_step(&self, class: u32, settings: &ExperimentConfig) -> Step {
        let mut config = fit_config(settings, self.args.beta, class, self.args.seed);
        config["model"] = json!(self.model_sha256);
        Step::new("fit", ENGINE_VERSION, &self.data.digest).with_config(self.computer.tell(config))
    }

    fn after_fit(&self, kind: &str, config: &serde_json::Value, fit: &Key) -> Step {
        let config = json!({kind: config, "seed": self.args.seed});
        Step::new(kind, ENGINE_VERSION, &self.data.digest)
            .with_config(config)
            .after("fit", fit)
    }

    /// Compares the classes: what their samples do anywhere, or where they work best.
    fn judge(&self, found: &[Searched]) -> Detection {
        let rule = self.rule;
        let stamped = self.settings.samples.count * self.settings.samples.images_per_sample;
        let indices = |asr: fn(&Searched) -> f64| {
            let asrs: Vec<f64> = found.iter().map(asr).collect();
            anomaly_indices(&asrs, stamped)
        };
        let anywhere = indices(|class| class.modeled.sample_asr());
        let in_places = indices(Searched::in_place);
        let classes = found.iter().enumerate().map(|(class, searched)| {
            let of = |indices: &Option<Vec<f64>>| indices.as_ref().map(|indices| indices[class]);
            let name = self.data.class_names[class].clone();
            searched.figures(rule, (class as u32, name), of(&anywhere), of(&in_places))
        });
        let classes: Vec<ClassDetection> = classes.collect();
        let attacked = classes.iter().filter(|class| class.attacked);
        let attacked_classes: Vec<u32> = attacked.map(|class| class.class).collect();
        let mut detection = Detection {
            model: file_name(&self.args.model),
            model_sha256: self.model_sha256.clone(),
            data: self.data.name.to_string(),
            data_sha256: Some(self.data.digest.clone()),
            preset: self.preset.clone(),
            beta: self.args.beta,
            seed: self.args.seed,
            placement: super::placement_words(self.settings.retrain.placement),
            clean_accuracy: Some(self.clean_accuracy),
            backdoored: None,
            verdict: if attacked_classes.is_empty() {
                Verdict::NothingFound
            } else {
                Verdict::Backdoor
            },
            attacked_classes,
            rule_sample_asr: rule.sample_asr,
            rule_anomaly_index: rule.anomaly_index,
            rule_in_level_set: Some(LEAST_IN_PLACE),
            stamped_images: stamped,
            classes,
            wall_s: self.ledger.seen().values().map(|cost| cost.wall_s).sum(),
            device: self.ledger.device.clone(),
            processor: processor(),
            threads: self.ledger.threads,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            engine_version: ENGINE_VERSION,
        };
        // The index compares classes: where several are reached, none stands out.
        if detection.verdict == Verdict::NothingFound && detection.reached().count() > 1 {
            detection.verdict = Verdict::Undecided;
        }
        detection
    }

    /// Draws samples of the attacked classes, or of the one that came closest, and where they work.
    fn draw(&self, detection: &Detection, found: &[Searched]) -> Result<()> {
        let (drawn, whose) = match detection.verdict {
            Verdict::Backdoor => (detection.attacked_classes.clone(), "the attacked classes"),
            Verdict::Undecided => {
                let reached = detection.reached().map(|class| class.class);
                (reached.collect(), "the classes that are reached")
            }
            Verdict::NothingFound => {
                let closest = detection.closest().map(|class| class.class);
                (
                    closest.into_iter().collect(),
                    "the class that comes closest",
                )
            }
        };
        let classes = detection.classes.iter().zip(found);
        let drawn: Vec<_> = classes
            .filter(|(figures, _)| drawn.contains(&figures.class))
            .collect();
        let groups = drawn.iter().map(|(figures, searched)| {
            let asr = 100.0 * figures.sample_asr;
            Ok(SampleGroup {
                title: format!("class {}, sample ASR {asr:.1} %", figures.class),
                pixels: searched.shown(figures).pictured(self.args.seed)?,
            })
        });
        let groups = groups.collect::<Result<Vec<_>>>()?;
        let [_, height, width] = self.settings.mesa.trigger_shape;
        let samples = SamplesPicture {
            title: format!("{}: samples of {whose}", detection.model),
            patch_shape: (height, width),
            true_trigger: None,
            groups,
        };
        let run = &self.ledger.run;
        write_text(&run.samples(), &samples.to_svg()?)?;
        let maps = drawn.iter().filter_map(|(figures, searched)| {
            searched.map(format!("class {}, modeled anywhere", figures.class))
        });
        let places = PlacesPicture {
            title: format!("Where patches work on {}", detection.model),
            maps: maps.collect(),
        };
        if !places.maps.is_empty() {
            write_text(&run.places(), &places.to_svg())?;
            write_text(&run.places().with_extension("csv"), &places.to_csv())?;
        }
        Ok(())
    }
}
