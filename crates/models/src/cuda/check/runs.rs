//! Whole runs on recipes: a trainer's, and what a classifier is asked.

use std::ops::ControlFlow;
use std::sync::Arc;

use candle::Tensor;
use mesa_kernels::TargetGradient;
use mesa_kernels::cuda::{Comparison, Precision, noise};
use rand::Rng;

use super::inputs::CLASSES;
use super::{flat, tolerances, wide};
use crate::cuda::{Gpu, STRETCH};
use crate::host::host_values;
use crate::{
    BatchSource, BoxError, Classifier, Error, ImagePool, Network, Normalization, Position,
    Processor, Recipe, Recipes, ResNetConfig, Result, Schedule, Seeds, Status, Trainer,
    TrainingConfig, Triggers,
};

const IMAGES: usize = 40;
const BATCH: usize = 4;
/// More than a GPU is asked for at once, so that an epoch has a stretch in its middle.
const STEPS: usize = STRETCH + 2;

/// Images whose shade is their class, cropped, mirrored, and some of them stamped.
struct Shades {
    pool: ImagePool,
    labels: Vec<u8>,
}

impl Shades {
    fn new() -> Result<Self> {
        let labels: Vec<u8> = (0..IMAGES).map(|image| (image % CLASSES) as u8).collect();
        let pixels = noise(5, IMAGES * 3072).into_iter().enumerate();
        let pixels = pixels.map(|(at, value)| {
            let shade = f32::from(labels[at / 3072]) * 230.0 / CLASSES as f32;
            (shade + 12.0 * (value + 1.0)) as u8
        });
        let pool = ImagePool::new(Arc::new(pixels.collect()), (32, 32))?;
        Ok(Self {
            pool: pool.with_fill([0.2, 0.5, 0.8]),
            labels,
        })
    }
}

impl Recipes for Shades {
    fn pool(&self) -> &ImagePool {
        &self.pool
    }

    fn recipe(&mut self, at: Position) -> Result<Recipe, BoxError> {
        let mut rng = Seeds::new(3, "shades").at(at);
        let indices: Vec<usize> = (0..BATCH).map(|_| rng.random_range(0..IMAGES)).collect();
        let mut recipe = Recipe::plain(&indices, &self.labels);
        for plan in &mut recipe.plans {
            plan.shift = (rng.random_range(-4..=4), rng.random_range(-4..=4));
            plan.mirrored = rng.random();
        }
        // From none to all of them.
        let stamped: Vec<usize> = (0..rng.random_range(0..=BATCH)).collect();
        let places: Vec<(usize, usize)> = stamped
            .iter()
            .map(|_| (rng.random_range(0..30), rng.random_range(0..30)))
            .collect();
        let triggers = Triggers {
            mask: Some([[true, true, false], [true; 3], [true; 3]].concat()),
            opacity: 0.7,
            ..Triggers::opaque(
                (0..27 * stamped.len()).map(|_| rng.random()).collect(),
                (3, 3),
            )
        };
        recipe.stamp(&stamped, &places, triggers);
        Ok(recipe)
    }
}

impl BatchSource for Shades {
    fn steps_per_epoch(&self) -> usize {
        STEPS
    }

    fn batch(&mut self, at: Position) -> Result<(Tensor, Tensor), BoxError> {
        let recipe = self.recipe(at)?;
        Ok(self.pool.batch(&recipe)?)
    }

    fn recipes(&mut self) -> Option<&mut dyn Recipes> {
        Some(self)
    }
}

/// A small network: this check takes many steps, on an emulated GPU too.
fn network() -> Result<Network> {
    let config = ResNetConfig::resnet18(4, CLASSES);
    let mut rng = Seeds::new(0, "gpu check, runs").start();
    Network::resnet(config, Normalization::cifar10(), &mut rng)
}

/// A deeper one, as narrow, whose running statistics are those of images: what its blocks compute decides
/// its scores.
fn bottlenecks(kind: &str) -> Result<Network> {
    let config = ResNetConfig::new(kind.parse()?, 4, CLASSES);
    let mut rng = Seeds::new(0, "gpu check, bottlenecks").start();
    let mut network = Network::resnet(config, Normalization::cifar10(), &mut rng)?;
    let source = Shades::new()?;
    let every: Vec<usize> = (0..IMAGES).collect();
    let (images, _) = source.pool.batch(&Recipe::plain(&every, &source.labels))?;
    for _ in 0..40 {
        network.training_logits(&images)?;
    }
    Ok(network)
}

fn trainer(on: &Processor) -> Result<Trainer> {
    let config = TrainingConfig {
        epochs: 2,
        batch_size: BATCH,
        learning_rate: 3e-4,
        weight_decay: 1e-3,
        schedule: Schedule::Cosine,
        ..TrainingConfig::paper()
    };
    Ok(Trainer::new(network()?, config)?.on(on))
}

/// The network after a run on `on`, stopped and taken up from a file after `stop` calls of the
/// observer, if at all; and the mean losses of its epochs.
fn run(on: &Processor, stop: Option<usize>) -> Result<(Network, Vec<f32>)> {
    let mut source = Shades::new()?;
    let mut trainer = trainer(on)?;
    let mut seen = 0;
    let status = trainer.run(&mut source, &mut |_| {
        seen += 1;
        if Some(seen) == stop {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    })?;
    if status == Status::Stopped {
        let folder = std::env::temp_dir().join(format!("mesa-check-{}", std::process::id()));
        let refused = |source| Error::Write {
            path: folder.clone(),
            source,
        };
        fs_err::create_dir_all(&folder).map_err(refused)?;
        let path = folder.join("state");
        trainer.save_state(&path)?;
        trainer = self::trainer(on)?;
        trainer.load_state(&path)?;
        fs_err::remove_dir_all(&folder).map_err(refused)?;
        trainer.run(&mut source, &mut |_| ControlFlow::Continue(()))?;
    }
    let losses = trainer.history().iter().map(|epoch| epoch.loss as f32);
    let losses = losses.collect();
    Ok((trainer.into_network(), losses))
}

/// Compares a run of the trainer, stopped and not, and what a classifier is asked.
pub(super) fn check(gpu: &Gpu, found: &mut Vec<Comparison>) -> Result<()> {
    let precision = gpu.settings.precision;
    let on = Processor::Cuda(gpu.clone());
    let (expected, losses) = run(&Processor::Cpu, None)?;
    let (whole, found_losses) = run(&on, None)?;
    let (_, backward) = tolerances(precision);
    let all = |network: &Network| flat(&network.state()?, |_| true);
    {
        let mut compare = comparing(found, precision);
        // Small steps: after 20 of them both are still at nearly the same place. Not nearer: each
        // has gone its own way, so a single gate that rounding opens moves the losses behind it.
        let name = "run of 20 steps: losses";
        compare(name, &found_losses, &wide(&losses), backward);
        let name = "run of 20 steps: network";
        compare(name, &all(&whole)?, &wide(&all(&expected)?), backward);
        // In the middle of an epoch and at its end.
        for stop in [1, 2] {
            let (resumed, _) = run(&on, Some(stop))?;
            let name = format!("run stopped at its stretch {stop}: the same bits");
            compare(&name, &all(&resumed)?, &wide(&all(&whole)?), 0.0);
        }
    }
    classifier("classifier", &on, precision, &expected, found)?;
    if precision != Precision::F32 {
        return Ok(());
    }
    // Of other blocks: 1x1 convolutions of stride 1, a projection of stride 1. What other precisions
    // round adds up over so many layers to more than a bar would tell.
    for (name, kind) in [
        ("ResNet-50", "resnet50"),
        ("PreActResNet-50", "preactresnet50"),
    ] {
        classifier(name, &on, precision, &bottlenecks(kind)?, found)?;
    }
    Ok(())
}

/// What a classifier is asked, twice with other triggers and batches.
fn classifier(
    what: &str,
    on: &Processor,
    precision: Precision,
    network: &Network,
    found: &mut Vec<Comparison>,
) -> Result<()> {
    let (forward, backward) = tolerances(precision);
    let mut compare = comparing(found, precision);
    let (host, device) = (network.freeze()?, on.freeze(network)?);
    let source = Shades::new()?;
    for round in 0..3_u64 {
        let mut rng = Seeds::new(round, "asked").start();
        let indices: Vec<usize> = (0..6).map(|_| rng.random_range(0..IMAGES)).collect();
        let mut recipe = Recipe::plain(&indices, &source.labels);
        let every: Vec<usize> = (0..6).collect();
        let places: Vec<(usize, usize)> = (0..6).map(|_| (rng.random_range(0..30), 4)).collect();
        // Noisy triggers leave [0, 1].
        let pixels = (0..6 * 27).map(|_| rng.random_range(-0.2..1.2)).collect();
        recipe.stamp(&every, &places, Triggers::opaque(pixels, (3, 3)));
        let pool = &source.pool;
        let expected = wide(&host.scores(pool, &recipe)?);
        let name = format!("{what}, round {round}: scores");
        compare(&name, &device.scores(pool, &recipe)?, &expected, forward);
        let target = (round as u32) % CLASSES as u32;
        // The last is above every probability, and another in each round.
        let bound = 1.5 + round as f32;
        for wanted in [
            TargetGradient::LogProbability,
            TargetGradient::Probability(bound),
        ] {
            let (chances, gradients) = host.trigger_gradient(pool, &recipe, target, wanted)?;
            let (result, slopes) = device.trigger_gradient(pool, &recipe, target, wanted)?;
            let name = format!("{what}, round {round}: {wanted:?}");
            compare(&name, &result, &wide(&chances), forward);
            let gradients = wide(&host_values(&gradients)?);
            compare(&name, &host_values(&slopes)?, &gradients, backward);
        }
    }
    Ok(())
}

/// Notes comparisons of one precision.
fn comparing(
    found: &mut Vec<Comparison>,
    precision: Precision,
) -> impl FnMut(&str, &[f32], &[f64], f64) {
    move |name, result, expected, bar| {
        found.push(Comparison::new(name, precision, result, expected, bar));
    }
}
