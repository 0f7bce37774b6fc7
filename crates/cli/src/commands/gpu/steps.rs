//! Whole steps: training, evaluation, gradients of triggers, and those of MESA's perceptrons.

use std::ops::ControlFlow;

use anyhow::Result;
use candle::Tensor;
use mesa::{MesaConfig, MovingAverage, SubModelFit, mutual_information, statistics_loss};
use mesa_datasets::{Placement, split, synthetic};
use mesa_defense::{AttackSuccess, AttackSuccessConfig, DefenseImages};
use mesa_kernels::cuda::{
    CudaDevice, DeviceImages, DevicePlans, DeviceTriggers, ImagePlan, PlanLimits, Precision, Stamp,
    TargetGradient, noise,
};
use mesa_models::cuda::{CudaFrozen, CudaNetwork, CudaSettings, DeviceBatch, Gpu, StepSettings};
use mesa_models::{
    AdamConfig, Generator, GeneratorTrainer, Network, Normalization, PerceptronConfig, Processor,
    ResNetConfig, Sampler, Seeds, StatisticsNetwork, StatisticsTrainer, uniform_noise,
};
use mesa_record::GpuRow;
use rand::Rng;

use super::shapes::StepGflop;
use super::timer::{Timer, Work, precision_name};

pub(super) const TRAINING: &str = "training step";
pub(super) const EVALUATION: &str = "evaluation";
pub(super) const TRIGGERS: &str = "MESA step: gradient of triggers";
pub(super) const FIT: &str = "MESA step: whole iteration of a fit";
const PERCEPTRONS: &str = "MESA step: both perceptrons";
const ENTROPY: &str = "entropy: statistics network";

const CLASSES: usize = 10;
const SIDE: usize = 32;
const TRIGGER: (usize, usize) = (3, 3);
const TARGET: u32 = 0;
const BETA: f32 = 0.9;
const STEP: StepSettings = StepSettings {
    learning_rate: 0.01,
    momentum: 0.9,
    weight_decay: 5e-4,
    label_smoothing: 0.0,
};

const ALL: [(Precision, bool); 6] = [
    (Precision::Bf16, true),
    (Precision::Bf16, false),
    (Precision::Tf32, true),
    (Precision::Tf32, false),
    (Precision::F32, true),
    (Precision::F32, false),
];

/// Images, triggers and plans that steps of any kind work on.
#[derive(Debug)]
pub(super) struct Inputs {
    images: DeviceImages,
    triggers: DeviceTriggers,
    plans: DevicePlans,
    network: Network,
    count: usize,
}

impl Inputs {
    pub(super) fn new(device: &CudaDevice, width: usize, count: usize) -> Result<Self> {
        let bytes: Vec<u8> = noise(1, count * 3 * SIDE * SIDE)
            .iter()
            .map(|value| byte(*value))
            .collect();
        let triggers = vec![0.5; 3 * TRIGGER.0 * TRIGGER.1];
        let plans: Vec<ImagePlan> = (0..count).map(plan).collect();
        let limits = PlanLimits {
            images: count,
            size: (SIDE, SIDE),
            classes: CLASSES,
            triggers: 1,
            trigger_size: TRIGGER,
        };
        let config = ResNetConfig::resnet18(width, CLASSES);
        let mut rng = Seeds::new(0, "gpu").start();
        Ok(Self {
            images: DeviceImages::new(device, &bytes, (SIDE, SIDE))?,
            triggers: DeviceTriggers::new(device, &triggers, TRIGGER, None, 1.0)?,
            plans: DevicePlans::new(device, &plans, limits)?,
            network: Network::resnet(config, Normalization::cifar10(), &mut rng)?,
            count,
        })
    }

    fn batch(&self, first: usize) -> DeviceBatch<'_> {
        DeviceBatch {
            images: &self.images,
            triggers: &self.triggers,
            plans: &self.plans,
            first,
        }
    }

    /// Training steps on one batch after the other, without an end.
    pub(super) fn training<'a>(
        &'a self,
        device: &CudaDevice,
        settings: CudaSettings,
        batch: usize,
    ) -> Result<Box<dyn FnMut() -> Result<()> + 'a>> {
        let mut network = CudaNetwork::new(device, &self.network, settings, batch, [0.5; 3])?;
        let mut first = 0;
        Ok(Box::new(move || {
            network.step(self.batch(first), &STEP)?;
            first = if first + 2 * batch <= self.count {
                first + batch
            } else {
                0
            };
            Ok(())
        }))
    }

    /// Scores of a batch.
    fn evaluation<'a>(
        &'a self,
        device: &CudaDevice,
        settings: CudaSettings,
        batch: usize,
    ) -> Result<Box<dyn FnMut() -> Result<()> + 'a>> {
        let mut frozen = CudaFrozen::new(device, &self.network, settings)?;
        Ok(Box::new(move || {
            frozen.logits(self.batch(0), batch)?;
            Ok(())
        }))
    }

    /// The classifier's part of MESA's step: forward, and the gradient of the triggers.
    pub(super) fn gradient<'a>(
        &'a self,
        device: &CudaDevice,
        settings: CudaSettings,
        batch: usize,
    ) -> Result<Box<dyn FnMut() -> Result<()> + 'a>> {
        let mut frozen = CudaFrozen::new(device, &self.network, settings)?;
        let wanted = TargetGradient::Probability(BETA);
        Ok(Box::new(move || {
            frozen.trigger_gradient(self.batch(0), batch, TARGET, wanted)?;
            Ok(())
        }))
    }
}

impl Inputs {
    /// A whole iteration of a fit: the generator's step through the classifier, and the statistics
    /// network's.
    pub(super) fn fit<'a>(
        &'a self,
        device: &CudaDevice,
        settings: CudaSettings,
        (sizes, batch): (PerceptronConfig, usize),
    ) -> Result<Box<dyn FnMut() -> Result<()> + 'a>> {
        let on = processor(device, settings);
        let images = synthetic(0, 1, self.count).test;
        let images = DefenseImages::new(&images, &split(self.count, self.count, 0)?);
        let [_, height, width] = sizes.trigger_shape;
        let testing = AttackSuccessConfig {
            target_class: TARGET,
            trigger_size: (height, width),
            images_per_trigger: 1,
            placement: Placement::PerImage,
        };
        let mut testing = AttackSuccess::new(on.freeze(&self.network)?, images, testing, 0)?;
        let config = MesaConfig {
            noise_dim: sizes.noise_dim,
            network_width: sizes.network_width,
            trigger_shape: sizes.trigger_shape,
            batch_size: batch,
            // It never comes to its end.
            epochs: 1 << 20,
            ..MesaConfig::paper()
        };
        let mut fit = SubModelFit::new(&on, config, f64::from(BETA), Seeds::new(0, "gpu"))?;
        Ok(Box::new(move || {
            fit.run(&mut testing, &mut |_| ControlFlow::Break(()))?;
            Ok(())
        }))
    }
}

/// Training in every way; evaluation and triggers in every precision.
pub(super) fn steps(timer: &mut Timer, inputs: &Inputs) -> Result<Vec<GpuRow>> {
    let (batch, evaluation) = (timer.sizes().batch_size, timer.sizes().evaluation_batch);
    let gflop = StepGflop::of(timer.sizes().width);
    let device = timer.device().clone();
    let mut rng = Seeds::new(0, "gpu").start();
    let generator = Generator::new(&mut rng, timer.sizes().perceptrons)?;
    let mut rows = Vec::new();
    let mut works = Vec::new();
    for (precision, deterministic) in ALL {
        let settings = CudaSettings {
            precision,
            deterministic,
        };
        let once = inputs.training(&device, settings, batch);
        add(
            (&mut works, &mut rows),
            once,
            row(TRAINING, settings, batch, gflop.training),
        );
    }
    rows.extend(timer.rows(works)?);
    let mut works = Vec::new();
    for (precision, deterministic) in ALL {
        if !deterministic && precision != Precision::Bf16 {
            continue;
        }
        let settings = CudaSettings {
            precision,
            deterministic,
        };
        let once = inputs.evaluation(&device, settings, evaluation);
        let of_it = row(EVALUATION, settings, evaluation, gflop.forward);
        add((&mut works, &mut rows), once, of_it);
        let once = inputs.gradient(&device, settings, batch);
        let of_it = row(TRIGGERS, settings, batch, gflop.trigger);
        add((&mut works, &mut rows), once, of_it);
    }
    // The host takes part in each of these; perceptrons are f32 whatever the classifier is.
    let (sizes, pairs) = (timer.sizes().perceptrons, timer.sizes().pairs);
    let [classifier, settings] = [Precision::Bf16, Precision::F32].map(|precision| CudaSettings {
        precision,
        deterministic: true,
    });
    for (of_it, once) in [
        (
            row(FIT, classifier, batch, 0.0),
            inputs.fit(&device, classifier, (sizes, batch)),
        ),
        (
            row(PERCEPTRONS, settings, batch, 0.0),
            iteration(&device, settings, (sizes, batch)),
        ),
        (
            row(ENTROPY, settings, pairs, 0.0),
            entropy(&device, settings, (&generator, pairs)),
        ),
    ] {
        add((&mut works, &mut rows), once, of_it);
    }
    rows.extend(timer.rows(works)?);
    // By kind of work, for whoever reads the record.
    let kinds = [TRAINING, EVALUATION, TRIGGERS, FIT, PERCEPTRONS, ENTROPY];
    rows.sort_by_key(|row| kinds.map(|work| row.work != work));
    Ok(rows)
}

/// One iteration of a fit but for the classifier: the generator's step up the bound, and the statistics
/// network's.
fn iteration(
    device: &CudaDevice,
    settings: CudaSettings,
    (sizes, batch): (PerceptronConfig, usize),
) -> Result<Box<dyn FnMut() -> Result<()>>> {
    let on = processor(device, settings);
    let mut rng = Seeds::new(1, "gpu").start();
    let generator = Generator::new(&mut rng, sizes)?;
    let mut generator = GeneratorTrainer::new(&on, generator, AdamConfig::paper())?;
    let mut statistics = Measured::new(&on, &mut rng, sizes)?;
    let alpha = MesaConfig::paper().alpha;
    let mut noise = move || uniform_noise(&mut rng, batch, sizes.noise_dim);
    Ok(Box::new(move || {
        let (own, fresh) = (noise()?, noise()?);
        let triggers = generator.triggers(&own)?;
        let scores = statistics.network.score_pairs(&own, &fresh, &triggers)?;
        let information = mutual_information(&scores.matched, &scores.mismatched)?;
        let gradient = statistics
            .network
            .trigger_gradient(&information.backward()?)?;
        generator.step(&(gradient * -alpha)?)?;
        let (own, fresh) = (noise()?, noise()?);
        let triggers = generator.triggers(&own)?;
        statistics.step(&own, &fresh, &triggers)
    }))
}

/// One step of the measurement of entropy, but for the noise on samples, which is the host's.
fn entropy<'a>(
    device: &CudaDevice,
    settings: CudaSettings,
    (generator, pairs): (&'a Generator, usize),
) -> Result<Box<dyn FnMut() -> Result<()> + 'a>> {
    let (on, sizes) = (processor(device, settings), generator.config());
    let mut rng = Seeds::new(2, "gpu").start();
    let mut sampler = Sampler::new(&on, generator)?;
    let mut statistics = Measured::new(&on, &mut rng, sizes)?;
    let mut noise = move || uniform_noise(&mut rng, pairs, sizes.noise_dim);
    Ok(Box::new(move || {
        let (own, fresh) = (noise()?, noise()?);
        let triggers = sampler.triggers(&own)?;
        statistics.step(&own, &fresh, &triggers)
    }))
}

fn processor(device: &CudaDevice, settings: CudaSettings) -> Processor {
    let device = device.clone();
    Processor::Cuda(Gpu { device, settings })
}

/// A statistics network that is trained.
struct Measured {
    network: StatisticsTrainer,
    average: MovingAverage,
}

impl Measured {
    fn new(on: &Processor, rng: &mut impl Rng, sizes: PerceptronConfig) -> Result<Self> {
        let network = StatisticsNetwork::new(rng, sizes)?;
        Ok(Self {
            network: StatisticsTrainer::new(on, network, AdamConfig::paper())?,
            average: MovingAverage::new(MesaConfig::paper().moving_average_rate),
        })
    }

    fn step(&mut self, noise: &Tensor, fresh: &Tensor, triggers: &Tensor) -> Result<()> {
        let scores = self.network.score_pairs(noise, fresh, triggers)?;
        let average = &mut self.average;
        let (loss, _) = statistics_loss(&scores.matched, &scores.mismatched, average)?;
        Ok(self.network.step(&loss.backward()?)?)
    }
}

/// What can be made is measured; of what cannot, the reason is kept.
fn add<'a>(
    (works, rows): (&mut Vec<Work<'a>>, &mut Vec<GpuRow>),
    once: Result<Box<dyn FnMut() -> Result<()> + 'a>>,
    row: GpuRow,
) {
    match once {
        Ok(once) => works.push(Work {
            row,
            once,
            is_launches: false,
        }),
        Err(error) => rows.push(GpuRow {
            failed: Some(format!("{error:#}")),
            ..row
        }),
    }
}

fn row(work: &str, settings: CudaSettings, images: usize, gflop_each: f64) -> GpuRow {
    GpuRow {
        work: work.to_owned(),
        precision: precision_name(settings.precision).to_owned(),
        deterministic: settings.deterministic,
        images,
        gflop: gflop_each * images as f64,
        ..GpuRow::default()
    }
}

/// Every kind of crop and flip, each image stamped at a place of its own.
fn plan(image: usize) -> ImagePlan {
    let shift = |modulus: usize| i32::try_from(image % modulus).unwrap_or(0) - 4;
    ImagePlan {
        stamp: Some(Stamp {
            trigger: 0,
            row: image % 29,
            column: image % 28,
        }),
        shift: (shift(9), shift(7)),
        mirrored: image.is_multiple_of(2),
        ..ImagePlan::plain(image, image % CLASSES)
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "between 8 and 248"
)]
fn byte(value: f32) -> u8 {
    (value * 120.0 + 128.0) as u8
}
