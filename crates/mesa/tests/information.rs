//! The mutual-information bound where the answer is known.
#![allow(clippy::unwrap_used, reason = "tests fail by unwrapping")]

mod one_thread;

use candle::{Device, Tensor};
use mesa::{
    EntropyConfig, InformationEstimate, PairSource, Pairs, PerceptronConfig, Processor, RngCore,
    Schedule, Seeds, measure_information,
};
use one_thread::in_one_thread;
use rand::Rng;
use rand_distr::{Distribution, StandardNormal};

/// A noise of four numbers, the first of which a trigger of one number follows.
#[derive(Copy, Clone)]
enum Joint {
    /// Both standard normal, with this correlation.
    Gaussian(f32),
    /// Uniform noise; the trigger is the same number and normal noise of this deviation.
    Additive(f32),
}

impl PairSource for Joint {
    fn sizes(&self) -> PerceptronConfig {
        PerceptronConfig {
            noise_dim: 4,
            network_width: 64,
            trigger_shape: [1, 1, 1],
        }
    }

    fn draw(&mut self, mut rng: &mut dyn RngCore, count: usize) -> mesa::Result<Pairs> {
        let normal = |rng: &mut dyn RngCore| -> f32 { StandardNormal.sample(rng) };
        let mut noise = || -> Vec<f32> {
            let draw = |_| match self {
                Self::Gaussian(_) => normal(rng),
                Self::Additive(_) => rng.random(),
            };
            (0..4 * count).map(draw).collect()
        };
        let (noise, fresh_noise) = (noise(), noise());
        let follow = |first: f32| match *self {
            Self::Gaussian(rho) => rho * first + (1.0 - rho * rho).sqrt() * normal(&mut rng),
            Self::Additive(std) => first + std * normal(&mut rng),
        };
        let triggers: Vec<f32> = noise.iter().copied().step_by(4).map(follow).collect();
        let device = &Device::Cpu;
        Ok(Pairs {
            noise: Tensor::from_vec(noise, (count, 4), device)?,
            fresh_noise: Tensor::from_vec(fresh_noise, (count, 4), device)?,
            triggers: Tensor::from_vec(triggers, (count, 1, 1, 1), device)?,
        })
    }
}

fn measured(mut joint: Joint) -> InformationEstimate {
    let config = EntropyConfig {
        steps: 1500,
        batch_size: 256,
        learning_rate: 2e-3,
        schedule: Schedule::Cosine,
        held_out: 16_384,
    };
    let seeds = Seeds::new(0, "information");
    measure_information(&Processor::Cpu, &mut joint, &config, &seeds).unwrap()
}

/// Never above the truth but for sampling error, and below it by no more than 0.03 nats and a
/// twentieth.
fn assert_tight(found: InformationEstimate, truth: f64) {
    let slack = 3.0 * found.se + 1e-3;
    assert!(found.nats < truth + slack, "{found:?} of {truth}");
    let least = truth - 0.03 - 0.05 * truth;
    assert!(found.nats > least, "{found:?} of {truth}");
}

#[test]
fn correlated_gaussians_have_the_information_of_their_correlation() {
    if !in_one_thread("correlated_gaussians_have_the_information_of_their_correlation") {
        return;
    }
    for rho in [0.0f32, 0.5, 0.8, 0.95] {
        let truth = -0.5 * (1.0 - f64::from(rho).powi(2)).ln();
        assert_tight(measured(Joint::Gaussian(rho)), truth);
    }
}

/// `h(u + σ ε)` of a uniform `u` on the unit interval, by the trapezoid rule over its density.
fn smeared_uniform_entropy(std: f64) -> f64 {
    let (steps, from, to) = (4000, -8.0 * std, 1.0 + 8.0 * std);
    let width = (to - from) / f64::from(steps);
    let term = |i: i32| {
        let x = from + f64::from(i) * width;
        let density = normal_cdf(x / std) - normal_cdf((x - 1.0) / std);
        if density > 0.0 {
            -density * density.ln() * width
        } else {
            0.0
        }
    };
    (0..=steps).map(term).sum()
}

/// The normal distribution function, by Simpson's rule from 0.
fn normal_cdf(x: f64) -> f64 {
    let steps = 200;
    let width = x / f64::from(steps);
    let density = |x: f64| (-0.5 * x * x).exp() / std::f64::consts::TAU.sqrt();
    let weight = |i: i32| match i {
        0 => 1.0,
        _ if i == steps => 1.0,
        _ if i % 2 == 1 => 4.0,
        _ => 2.0,
    };
    let sum: f64 = (0..=steps)
        .map(|i| weight(i) * density(f64::from(i) * width))
        .sum();
    0.5 + sum * width / 3.0
}

#[test]
fn a_number_plus_noise_has_the_information_of_its_smeared_density() {
    if !in_one_thread("a_number_plus_noise_has_the_information_of_its_smeared_density") {
        return;
    }
    for std in [0.5f32, 0.1, 0.02] {
        let noise = 0.5 * (std::f64::consts::TAU * std::f64::consts::E).ln() + f64::from(std).ln();
        let truth = smeared_uniform_entropy(f64::from(std)) - noise;
        assert_tight(measured(Joint::Additive(std)), truth);
    }
}

#[test]
fn the_schedule_moves_the_step_length() {
    let found = |learning_rate, schedule| {
        let config = EntropyConfig {
            steps: 1,
            batch_size: 32,
            learning_rate,
            schedule,
            held_out: 64,
        };
        let mut joint = Joint::Gaussian(0.5);
        let seeds = Seeds::new(0, "schedule");
        measure_information(&Processor::Cpu, &mut joint, &config, &seeds).unwrap()
    };
    // A single step lies in the middle of the cosine.
    let whole = found(1e-2, Schedule::Cosine);
    assert_eq!(whole, found(5e-3, Schedule::Constant));
    assert_ne!(whole, found(1e-2, Schedule::Constant));
}

/// Where the step length stays as it is, the last steps decide what the bound comes to.
#[test]
fn seeds_agree_where_the_step_length_goes_down_to_zero() {
    if !in_one_thread("seeds_agree_where_the_step_length_goes_down_to_zero") {
        return;
    }
    let bounds = |schedule| -> Vec<f64> {
        let bound = |seed| {
            let config = EntropyConfig {
                steps: 300,
                learning_rate: 2e-2,
                schedule,
                held_out: 4096,
                ..EntropyConfig::standard()
            };
            let mut joint = Joint::Additive(0.02);
            let seeds = Seeds::new(seed, "agree");
            let found = measure_information(&Processor::Cpu, &mut joint, &config, &seeds);
            found.unwrap().nats
        };
        (0..4).map(bound).collect()
    };
    let ends = |bounds: &[f64]| {
        let low = bounds.iter().copied().fold(f64::INFINITY, f64::min);
        (
            low,
            bounds.iter().copied().fold(f64::NEG_INFINITY, f64::max),
        )
    };
    let (constant, cosine) = (bounds(Schedule::Constant), bounds(Schedule::Cosine));
    println!("one step length {constant:?}, down to zero {cosine:?}");
    let ((lowest, highest), (low, high)) = (ends(&constant), ends(&cosine));
    assert!(
        high - low < 0.5 * (highest - lowest),
        "{cosine:?} of {constant:?}"
    );
    assert!(low > lowest + 0.1, "{cosine:?} of {constant:?}");
}
