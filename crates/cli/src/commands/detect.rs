//! `mesa detect`: is there a backdoor, and in which class?

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use mesa_datasets::{Dataset, Place, Placement};
use mesa_defense::{ClassScore, DefenseImages, DetectionRule, SampleTest, anomaly_indices};
use mesa_models::{Classifier, ENGINE_VERSION};
use mesa_record::{
    BestPlace, ClassDetection, Detection, Key, Lock, RunDir, Step, Verdict, file_digest, processor,
    write_json, write_text,
};
use mesa_report::{
    PlaceMap, PlacesPicture, SampleGroup, SamplesPicture, detection_chart, detection_text,
};
use serde::Serialize;
use serde_json::json;

use crate::args::Detect;
use crate::computer::Computer;
use crate::config::{DataConfig, ExperimentConfig};
use crate::ledger::Ledger;
use crate::modeling::{Modeled, Modeling, ModelingSteps};
use crate::output::Usage;
use crate::pipeline::fit_config;
use crate::progress::duration;
use crate::{inputs, interrupt, logging, output, seen, stages};

/// What the process ends with where a backdoor was found.
const EXIT_BACKDOOR: u8 = 10;

/// The settings that are taken where nobody names any.
const PRESET: &str = "cpu";

/// The fewest images that modeling was tried with: preset `cpu-images-500`.
const FEWEST_IMAGES: usize = 500;

/// A class that takes less was already modeled by an earlier start.
const AT_ONCE: Duration = Duration::from_secs(1);

/// What is known of one class.
struct Searched {
    /// Its triggers, modeled where the settings say.
    modeled: Modeled,
    /// Its triggers modeled in that place, where the rule asks for them.
    there: Option<Modeled>,
}

impl Searched {
    /// The place in which the triggers modeled anywhere work best, and the share of images that they turn
    /// there.
    fn best(&self) -> Option<(Place, f64)> {
        self.modeled.samples.results.by_place.as_ref()?.best()
    }

    /// The class by the triggers that tell most of it. The indices are those of triggers modeled anywhere
    /// and of what patches do in the best places.
    fn figures(
        &self,
        rule: DetectionRule,
        (class, name): (u32, String),
        anywhere: Option<f64>,
        in_places: Option<f64>,
    ) -> ClassDetection {
        let score = |modeled: &Modeled, anomaly_index| ClassScore {
            sample_asr: modeled.sample_asr(),
            in_level_set: modeled.samples.results.in_level_set,
            anomaly_index,
        };
        let there = self.there.as_ref();
        let in_place = there.map(|there| score(there, in_places));
        let judged = rule.judge(score(&self.modeled, anywhere), in_place);
        let there = there.filter(|_| judged.in_place);
        let shown = there.unwrap_or(&self.modeled);
        ClassDetection {
            class,
            name,
            best_place: self.best().map(|(place, share)| BestPlace {
                row: place.row,
                column: place.column,
                share,
            }),
            sample_asr_anywhere: there.map(|_| self.modeled.sample_asr()),
            sample_asr: shown.sample_asr(),
            in_level_set: shown.samples.results.in_level_set,
            entropy_nats: shown.entropy.results.entropy_nats,
            entropy_se: shown.entropy.results.information_se,
            sample_std: shown.samples.results.sample_std,
            anomaly_index: if judged.in_place { in_places } else { anywhere },
            attacked: judged.attacked,
        }
    }

    /// The triggers that a class's figures are of.
    fn shown(&self, figures: &ClassDetection) -> &Modeled {
        let there = self.there.as_ref();
        let placed = there.filter(|_| figures.sample_asr_anywhere.is_some());
        placed.unwrap_or(&self.modeled)
    }

    /// What patches do in the class's best place: those modeled there, else those modeled anywhere.
    fn in_place(&self) -> f64 {
        let there = self.there.as_ref().map(Modeled::sample_asr);
        let best = || self.best().map(|(_, share)| share);
        there.or_else(best).unwrap_or_default()
    }

    /// Where the triggers that were modeled anywhere work.
    fn map(&self, title: String) -> Option<PlaceMap> {
        let counted = self.modeled.samples.results.by_place.as_ref()?;
        Some(PlaceMap {
            title,
            columns: counted.columns,
            stamped: counted.stamped.clone(),
            fooled: counted.fooled.clone(),
            marked: self.best().map(|(place, _)| place.into()),
        })
    }
}

/// What `--json` prints.
#[derive(Serialize)]
struct Told<'a> {
    #[serde(flatten)]
    detection: &'a Detection,
    /// The run folder.
    folder: String,
    /// The command that removes what was found.
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
    if !(args.beta > 0.0 && args.beta < 1.0) {
        let reason = format!("--beta {}: β is a probability between 0 and 1", args.beta);
        return Err(Usage(reason).into());
    }
    // No folder for a file that is not there.
    fs_err::metadata(&args.model)?;
    let run = match &args.out {
        Some(folder) => RunDir::new(folder),
        None => RunDir::new(default_folder(args)?),
    };
    let lock = Lock::acquire(run.root())?;
    logging::start(Some(&run.log()))?;
    if let Some(holder) = lock.left_behind() {
        tracing::info!("taking over from {holder}, which ended without finishing");
    }
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
        let _ = writeln!(plain, "\nto remove it:\n  {command}");
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
        Verdict::NothingFound => ExitCode::SUCCESS,
    })
}

fn file_name(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}

/// `runs/detect-MODEL-DIGEST`: files of one name are not one network. Other settings than the default's
/// and a place that is named are searches of their own.
fn default_folder(args: &Detect) -> Result<PathBuf> {
    let stem = args.model.file_stem().unwrap_or_default();
    let digest = file_digest(&args.model)?;
    let mut name = format!("detect-{}-{}", stem.to_string_lossy(), &digest[..8]);
    let settings = args
        .preset
        .config
        .as_ref()
        .and_then(|path| path.file_stem());
    let settings = settings.map(|stem| stem.to_string_lossy());
    let settings = settings.as_deref().or(args.preset.preset.as_deref());
    let is_file = args.preset.config.is_some();
    if let Some(settings) = settings.filter(|name| is_file || *name != PRESET) {
        name = format!("{name}-{settings}");
    }
    if let Some(placement) = args.placement.placement {
        let plain = placement.to_string().replace([':', ','], "-");
        name = format!("{name}-{plain}");
    }
    Ok(PathBuf::from("runs").join(name))
}

/// What tells searches apart, in the command line's words.
fn search_words(
    (model, sha256): (&str, &str),
    (preset, data): (&str, &str),
    (beta, seed): (f64, u64),
    placement: Option<&str>,
) -> String {
    let (digest, normalized) = sha256.split_at_checked(64).unwrap_or((sha256, ""));
    format!(
        "of {model} ({}{normalized}), settings {preset}, {data}, --beta {beta}, --seed {seed}, --placement {}",
        digest.get(..12).unwrap_or(digest),
        placement.unwrap_or("per-image")
    )
}

/// Refuses a folder with the verdict of another search, whose sub-models would give way.
fn check_folder(run: &RunDir, this: &str) -> Result<()> {
    let path = run.root().join("detection.json");
    let Ok(text) = fs_err::read_to_string(&path) else {
        return Ok(());
    };
    let Ok(other) = serde_json::from_str::<Detection>(&text) else {
        return Ok(());
    };
    let other = search_words(
        (&other.model, &other.model_sha256),
        (&other.preset, &other.data),
        (other.beta, other.seed),
        other.placement.as_deref(),
    );
    ensure!(
        other == this,
        "{} holds a search {other}; this one is {this}; name another --out",
        run.root().display()
    );
    Ok(())
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
        let data = loaded.data(&args.data, &no_stand_in)?;
        let settings = settings.for_data(&data);
        settings.mesa.validate()?;
        let this = search_words(
            (&file_name(&args.model), &loaded.sha256),
            (&preset, &data.name.to_string()),
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
        loaded.warn_of_normalization(images.images())?;
        if let Some(words) = loaded.near_chance(clean_accuracy) {
            bail!("nothing can be told of this network: {words}");
        }
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
            ..settings.sample_test(class)
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
            ("target_class", class.to_string()),
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
        Detection {
            model: file_name(&self.args.model),
            model_sha256: self.model_sha256.clone(),
            data: self.data.name.to_string(),
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
            stamped_images: stamped,
            classes,
            wall_s: self.ledger.seen().values().map(|cost| cost.wall_s).sum(),
            device: self.ledger.device.clone(),
            processor: processor(),
            threads: self.ledger.threads,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            engine_version: ENGINE_VERSION,
        }
    }

    /// Draws samples of the attacked classes, or of the one that came closest, and where they work.
    fn draw(&self, detection: &Detection, found: &[Searched]) -> Result<()> {
        let (drawn, whose) = match detection.verdict {
            Verdict::Backdoor => (detection.attacked_classes.clone(), "the attacked classes"),
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

    /// The command that removes what was found.
    fn how_to_remove(&self, detection: &Detection, found: &[Searched]) -> Option<String> {
        let args = self.args;
        let mut words = vec![
            "mesa defend".to_owned(),
            quoted(&args.model),
            "--with".to_owned(),
        ];
        for (figures, searched) in detection.classes.iter().zip(found) {
            if figures.attacked {
                words.push(quoted(&searched.shown(figures).fit.files.checkpoint));
            }
        }
        let mut option = |name: &str, value: Option<String>| {
            words.extend(value.into_iter().flat_map(|value| [name.to_owned(), value]));
        };
        option("--data", args.data.data.as_deref().map(quoted));
        option(
            "--normalize",
            args.normalize.normalize.map(|how| how.to_string()),
        );
        option("--preset", args.preset.preset.clone());
        option("--config", args.preset.config.as_deref().map(quoted));
        option(
            "--placement",
            args.placement.placement.map(|places| places.to_string()),
        );
        option("-o", Some("repaired.safetensors".to_owned()));
        (detection.verdict == Verdict::Backdoor).then(|| words.join(" "))
    }
}

/// A path as a shell takes it.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-+=:,@".contains(c);
    if !text.is_empty() && text.chars().all(is_plain) {
        return text;
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}
