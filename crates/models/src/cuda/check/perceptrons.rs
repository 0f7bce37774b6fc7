//! MESA's perceptrons: training of both, and what a generator makes, against the CPU.

use mesa_kernels::cuda::{Comparison, Precision};

use super::{Pairs, flat, recorded};
use crate::cuda::Gpu;
use crate::host::host_values;
use crate::{
    AdamConfig, Generator, GeneratorTrainer, NamedTensors, PerceptronConfig, Processor, Result,
    Sampler, Schedule, Seeds, StatisticsNetwork, StatisticsTrainer, uniform_noise,
};

/// Widths that fill no block.
const CONFIG: PerceptronConfig = PerceptronConfig {
    noise_dim: 24,
    network_width: 40,
    trigger_shape: [3, 3, 3],
};
const BATCH: usize = 20;
/// Another batch size: fits have one, but nothing keeps the two apart except the buffers' keys.
const OTHER: usize = 33;
/// Every other step at each size: launched, recorded, replayed.
const STEPS: usize = 6;

/// The largest errors: of what comes forward, and of parameters after steps of Adam, whose first
/// steps are as long as the learning rate whatever the gradient: where that is all rounding, its
/// sign is too.
const FORWARD: f64 = 1e-4;
const STEPPED: f64 = 1e-3;

/// All that a training gives away.
#[derive(Default)]
struct Course {
    triggers: Vec<f32>,
    scores: Vec<f32>,
    trigger_gradients: Vec<f32>,
    /// By the generator that was trained, and by a copy of it on the CPU.
    samples: [Vec<f32>; 2],
    generator: NamedTensors,
    statistics: NamedTensors,
    moments: NamedTensors,
    /// Passes of either perceptron that were recorded.
    recorded: usize,
}

/// A few iterations as a fit has them, stopped and taken up again after `stop` of them.
fn course(on: &Processor, stop: Option<usize>) -> Result<Course> {
    let mut rng = Seeds::new(4, "perceptrons").start();
    let adam = AdamConfig {
        learning_rate: 1e-3,
        // Large enough to be seen.
        epsilon: 1e-3,
        ..AdamConfig::paper()
    };
    let new = || -> Result<(GeneratorTrainer, StatisticsTrainer)> {
        let mut rng = Seeds::new(5, "perceptrons").start();
        let generator = Generator::new(&mut rng, CONFIG)?;
        let statistics = StatisticsNetwork::new(&mut rng, CONFIG)?;
        Ok((
            GeneratorTrainer::new(on, generator, adam)?,
            StatisticsTrainer::new(on, statistics, adam)?,
        ))
    };
    let (mut generator, mut statistics) = new()?;
    let mut noise = |count| uniform_noise(&mut rng, count, CONFIG.noise_dim);
    let mut course = Course::default();
    for step in 0..STEPS {
        let count = if step % 2 == 0 { BATCH } else { OTHER };
        let (own, fresh) = (noise(count)?, noise(count)?);
        let triggers = generator.triggers(&own)?;
        course.triggers.extend(host_values(&triggers)?);
        let scores = statistics.score_pairs(&own, &fresh, &triggers)?;
        course.scores.extend(host_values(&scores.matched)?);
        course.scores.extend(host_values(&scores.mismatched)?);
        // Something that is not linear in either.
        let matched = scores.matched.as_tensor().exp()?.mean_all()?;
        let objective = (scores.mismatched.sqr()?.mean_all()? - matched)?.backward()?;
        let gradient = statistics.trigger_gradient(&objective)?;
        course.trigger_gradients.extend(host_values(&gradient)?);
        let pull = (triggers - 0.3)?;
        generator.step(&(pull + gradient)?)?;
        // As the measurement of entropy does, also between replays.
        let factor = Schedule::Cosine.factor(step, STEPS);
        statistics.set_learning_rate(adam.learning_rate * factor);
        statistics.step(&objective)?;
        if stop == Some(step) {
            let (of_generator, of_statistics) = (generator.state()?, statistics.state()?);
            (generator, statistics) = new()?;
            generator.load_state(of_generator.each_ref())?;
            statistics.load_state(of_statistics.each_ref())?;
        }
    }
    course.recorded = generator.recorded() + statistics.recorded();
    let [of_generator, of_adam] = generator.state()?;
    course.moments = of_adam;
    course.generator = of_generator;
    course.statistics = statistics.state()?[0].clone();
    let generator = generator.into_generator()?;
    let mut there = Sampler::new(on, &generator)?;
    let mut here = Sampler::new(&Processor::Cpu, &generator)?;
    for count in [OTHER, BATCH, OTHER, OTHER] {
        let noise = noise(count)?;
        for (sampler, samples) in [&mut there, &mut here].into_iter().zip(&mut course.samples) {
            samples.extend(host_values(&sampler.triggers(&noise)?)?);
        }
    }
    Ok(course)
}

/// Whether a parameter decides what a generator makes: biases in front of batch norm do not, and their
/// gradients are nothing but rounding.
fn matters(name: &str) -> bool {
    let idle = [
        "linear1.bias",
        "linear2.bias",
        "linear3.bias",
        "running_mean",
        "steps",
    ];
    !idle.iter().any(|end| name.ends_with(end))
}

pub(super) fn check(gpu: &Gpu, found: &mut Vec<Comparison>) -> Result<()> {
    let expected = course(&Processor::Cpu, None)?;
    let on = Processor::Cuda(gpu.clone());
    let result = course(&on, None)?;
    let mut pairs = Pairs::default();
    let lists = |course: &Course| {
        [
            course.triggers.clone(),
            course.scores.clone(),
            course.trigger_gradients.clone(),
        ]
    };
    let names = ["triggers", "scores", "triggers' gradients"];
    for ((name, found), expected) in names.iter().zip(lists(&result)).zip(lists(&expected)) {
        pairs.add(name, FORWARD, &found, &expected);
    }
    // By one generator: batch norm's means follow the idle biases only by and by, so generators whose
    // biases went other ways differ for a while.
    let [found_samples, expected_samples] = &result.samples;
    pairs.add("samples", FORWARD, found_samples, expected_samples);
    for (name, found, expected) in [
        ("generator", &result.generator, &expected.generator),
        (
            "statistics network",
            &result.statistics,
            &expected.statistics,
        ),
        ("moments", &result.moments, &expected.moments),
    ] {
        pairs.add(
            name,
            STEPPED,
            &flat(found, matters)?,
            &flat(expected, matters)?,
        );
    }
    pairs.compare("perceptrons", Precision::F32, found);
    // At each of two sizes the generator's pass and step, and the scores, the triggers' gradient and the
    // step of the statistics network.
    recorded(
        &gpu.device,
        "perceptrons",
        result.recorded,
        10,
        gpu.settings,
        found,
    );
    let stopped = course(&on, Some(1))?;
    let bits = |course: &Course| -> Result<Vec<f32>> {
        let mut all = [lists(course).concat(), course.samples[0].clone()].concat();
        for state in [&course.generator, &course.statistics, &course.moments] {
            all.extend(flat(state, |name| name != "steps")?);
        }
        Ok(all)
    };
    let expected: Vec<f64> = bits(&result)?.into_iter().map(f64::from).collect();
    found.push(Comparison::new(
        "perceptrons, stopped and taken up again: the same bits",
        Precision::F32,
        &bits(&stopped)?,
        &expected,
        0.0,
    ));
    Ok(())
}
