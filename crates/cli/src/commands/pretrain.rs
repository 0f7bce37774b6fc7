//! `mesa pretrain`: train a clean network.

use anyhow::Result;
use mesa_models::{Schedule, save_network};
use serde::Serialize;
use serde_json::json;

use crate::args::{Pretrain, ScheduleName};
use crate::computer::Computer;
use crate::config::{NetworkConfig, PretrainConfig};
use crate::resume::{StateFile, Watch};
use crate::{inputs, logging, output, stages};

#[derive(Serialize)]
struct Trained {
    output: String,
    data: String,
    architecture: String,
    width: usize,
    test_accuracy: f64,
    wall_s: f64,
}

pub(crate) fn run(args: &Pretrain, json: bool) -> Result<()> {
    logging::start(None)?;
    super::check_not_input(&args.output, super::shared_inputs(&args.preset, &args.data))?;
    super::check_output(&args.output)?;
    let computer = Computer::open(&args.running.device)?;
    let (_, settings) = inputs::settings(&args.preset, "cpu")?;
    let mut config = settings.pretrain.clone();
    apply(args, &mut config);
    config.training.validate()?;
    let data = inputs::data(
        &args.data,
        settings.data.set,
        &settings.data,
        inputs::IfMissing::Leave,
    )?;
    let network = NetworkConfig {
        architecture: args.architecture.unwrap_or(settings.network.architecture),
        width: args.width.unwrap_or(settings.network.width),
    };
    let shape = network.shape(data.num_classes());
    let key = super::key(
        "pretrain",
        &data.digest,
        computer.tell(json!({"config": config, "shape": shape})),
    );
    let state = StateFile::beside(&args.output, key);
    let mut watch = Watch::new("pretrain", Some(state), args.running.save_every);
    let images = inputs::training_images(&data, config.images)?;
    tracing::info!(
        "training {} of width {} on {} images of {}, {} epochs",
        shape.architecture,
        shape.width,
        images.len(),
        data.name,
        config.training.epochs
    );
    let normalization = inputs::normalization(data.name);
    let network = stages::pretrain(
        &computer.processor,
        images,
        shape,
        normalization,
        &config,
        &mut watch,
    )?;
    let trained = computer.processor.freeze(&network)?;
    let test_accuracy = stages::evaluate(&trained, &data.test, None, 0)?.clean_accuracy;
    let wall_s = watch.effort().wall_s;
    let made_by = super::made_by(&[
        ("data", data.name.to_string()),
        ("data_sha256", data.digest.clone()),
        ("config", serde_json::to_string(&config)?),
        ("test_accuracy", format!("{test_accuracy:.4}")),
    ]);
    save_network(&args.output, &network, &made_by)?;
    watch.done();
    let trained = Trained {
        output: args.output.display().to_string(),
        data: data.name.to_string(),
        architecture: shape.architecture.name(),
        width: shape.width,
        test_accuracy,
        wall_s,
    };
    let plain = format!(
        "{}: {} on all {} test images of {}",
        trained.output,
        output::percent(test_accuracy),
        data.test.len(),
        data.name
    );
    output::result(json, &trained, &plain)
}

fn apply(args: &Pretrain, config: &mut PretrainConfig) {
    let training = &mut config.training;
    training.epochs = args.epochs.unwrap_or(training.epochs);
    training.batch_size = args.batch_size.unwrap_or(training.batch_size);
    training.learning_rate = args.learning_rate.unwrap_or(training.learning_rate);
    training.weight_decay = args.weight_decay.unwrap_or(training.weight_decay);
    training.label_smoothing = args.label_smoothing.unwrap_or(training.label_smoothing);
    if let Some(schedule) = args.schedule {
        training.schedule = match schedule {
            ScheduleName::Constant => Schedule::Constant,
            ScheduleName::Cosine => Schedule::Cosine,
            ScheduleName::OneCycle => Schedule::OneCycle { warmup: 0.2 },
        };
    }
    config.images = args.images.unwrap_or(config.images);
    config.seed = args.seed;
}
