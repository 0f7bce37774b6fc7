//! MESA on testing functions with a known answer: those of `examples/known_distribution`, fewer
//! iterations.
#![allow(clippy::unwrap_used, reason = "tests fail by unwrapping")]

#[path = "../examples/known_distribution/compare.rs"]
mod compare;
#[path = "../examples/known_distribution/fits.rs"]
#[allow(dead_code, reason = "the example draws what a test does not look at")]
mod fits;
#[path = "../examples/known_distribution/known.rs"]
mod known;
mod one_thread;

use compare::{coverage, energy_distance, uniform_coverage};
use fits::{BETAS, Measured, SAMPLES, STATISTICS_STEPS, bound, config, fit, measure};
use known::{CELLS, Known, Shape};
use mesa::{Schedule, Seeds, mixture_weights};
use one_thread::in_one_thread;

fn known(shape: Shape, dim: usize, steps: usize) -> Known {
    Known { shape, dim, steps }
}

fn all_shapes() -> impl Iterator<Item = Known> {
    [2, 3]
        .into_iter()
        .flat_map(|dim| [Shape::Ring, Shape::Blobs, Shape::Box].map(|shape| known(shape, dim, 0)))
}

fn fitted(known: Known, beta: f64, statistics_steps: usize) -> Measured {
    let config = config(&known, statistics_steps);
    measure(&known, &fit(known, beta, config, 0).unwrap(), 0).unwrap()
}

/// Fails with all that was measured, to choose a limit by.
fn assert_measured(known: &Known, measured: &Measured, what: &str, holds: bool) {
    let Measured {
        beta,
        reached,
        coverage,
        rarer_half,
        energy,
        entropy: (nats, _),
        entropy_of_uniform,
        ..
    } = measured;
    assert!(
        holds,
        "{what}: {} at {beta}: {reached:.3} reach it, {coverage:.3} of the cells, {rarer_half:.3} \
         in the rarer half, energy distance {energy:.4}, entropy {nats:.3} of {entropy_of_uniform:.3}",
        known.name(),
    );
}

/// What holds of every sub-model: limits leave room for other roundings on other processors.
fn assert_in_all_of_its_level_set(known: &Known, measured: &Measured) {
    let holds = |what, holds| assert_measured(known, measured, what, holds);
    holds("share in the level set", measured.reached > 0.75);
    holds("a part is missed", measured.rarer_half > 0.2);
    holds("energy distance", measured.energy < 0.1);
}

#[test]
fn the_closed_forms_agree_with_uniform_points() {
    for known in all_shapes() {
        let cube = Known {
            shape: Shape::Box,
            ..known
        };
        let mut rng = Seeds::new(0, "cube").start();
        // β so low that this box is all of the unit cube: points of it, by another way.
        let whole = cube.uniform(&mut rng, 1e-12, 40_000);
        for beta in [0.5, 0.9] {
            let inside = whole
                .iter()
                .filter(|point| known.value(point) >= beta)
                .count() as f64;
            let (share, volume) = (inside / 40_000.0, known.volume(beta));
            let error = 4.0 * (volume * (1.0 - volume) / 40_000.0).sqrt();
            assert!(
                (share - volume).abs() < error,
                "{}: {share} {volume}",
                known.name()
            );
            // Cells hold equally many: χ² of 255 degrees of freedom is 255 ± 23.
            let mut counts = vec![0.0f64; CELLS];
            for point in known.uniform(&mut rng, beta, 20 * CELLS) {
                counts[known.cell(&point, beta).unwrap()] += 1.0;
            }
            let square: f64 = counts
                .iter()
                .map(|count| (count - 20.0).powi(2) / 20.0)
                .sum();
            assert!(
                (165.0..350.0).contains(&square),
                "{}: {square}",
                known.name()
            );
        }
    }
}

#[test]
fn uniform_points_pass_for_uniform_and_half_of_them_does_not() {
    for known in all_shapes() {
        let mut rng = Seeds::new(1, "uniform").start();
        let [a, b, mut half] = [(); 3].map(|()| known.uniform(&mut rng, 0.8, 2 * SAMPLES));
        half.retain(|point| point.iter().sum::<f64>() < 0.5 * known.dim as f64);
        half.truncate(SAMPLES);
        let [a, b] = [a, b].map(|points| points[..SAMPLES].to_vec());
        assert!((coverage(&known, 0.8, &a) - uniform_coverage(SAMPLES)).abs() < 0.03);
        assert!(coverage(&known, 0.8, &half) < 0.65);
        assert!(energy_distance(&a, &b) < 0.006);
        assert!(energy_distance(&a, &half) > 0.05);
    }
}

#[test]
fn the_gradients_agree_with_finite_differences() {
    use candle::{Device, Tensor};
    use mesa::{Position, TestingFunction};

    for mut known in all_shapes() {
        let points = known.uniform(&mut Seeds::new(2, "points").start(), 0.05, 40);
        let flat: Vec<f32> = points.iter().flatten().map(|x| *x as f32).collect();
        let shape = (points.len(), 1, 1, known.dim);
        let triggers = Tensor::from_vec(flat, shape, &Device::Cpu).unwrap();
        let seen = known.observe(&triggers, 1.0, Position::default()).unwrap();
        let gradients = known::points(&seen.gradients).unwrap();
        let mut differ = 0;
        for (point, gradient) in points.iter().zip(&gradients) {
            for i in 0..known.dim {
                let moved = |by: f64| {
                    let mut point = point.clone();
                    point[i] += by;
                    known.value(&point)
                };
                let slope = (moved(1e-5) - moved(-1e-5)) / 2e-5;
                differ += usize::from((slope - gradient[i]).abs() > 2e-3);
            }
        }
        // None but points next to a kink, of which there may be one.
        assert!(differ <= 1, "{}: {differ}", known.name());
    }
}

#[test]
fn a_ring_is_filled_and_weighs_as_much() {
    if in_one_thread("a_ring_is_filled_and_weighs_as_much") {
        assert_filled_in_the_plane(Shape::Ring);
    }
}

#[test]
fn two_disks_are_filled_and_weigh_as_much() {
    if in_one_thread("two_disks_are_filled_and_weigh_as_much") {
        assert_filled_in_the_plane(Shape::Blobs);
    }
}

#[test]
fn a_rectangle_is_filled_and_weighs_as_much() {
    if in_one_thread("a_rectangle_is_filled_and_weighs_as_much") {
        assert_filled_in_the_plane(Shape::Box);
    }
}

/// Fits two thresholds and compares samples and weights with the closed form.
fn assert_filled_in_the_plane(shape: Shape) {
    let betas = [BETAS[0], BETAS[2]];
    let known = known(shape, 2, 800);
    let measured = betas.map(|beta| fitted(known, beta, STATISTICS_STEPS));
    for measured in &measured {
        assert_in_all_of_its_level_set(&known, measured);
        let holds = |what, holds| assert_measured(&known, measured, what, holds);
        holds("cells", measured.coverage > 0.45);
        holds("entropy", measured.shortfall() < 0.8);
    }
    let gamma = |entropies: [(f64, f64); 2]| {
        let weights = mixture_weights(&betas, &entropies).unwrap();
        weights.gamma[0]
    };
    let truth = gamma(measured.each_ref().map(|of| (of.log_volume, 0.0)));
    let found = gamma(measured.each_ref().map(|of| of.entropy));
    let name = known.name();
    assert!(
        (found - truth).abs() < 0.15,
        "{name}: γ {found:.3}, {truth:.3} by volume"
    );
}

#[test]
fn sub_models_in_space_reach_their_level_set_and_all_parts_of_it() {
    if !in_one_thread("sub_models_in_space_reach_their_level_set_and_all_parts_of_it") {
        return;
    }
    for shape in [Shape::Ring, Shape::Blobs, Shape::Box] {
        let known = known(shape, 3, 500);
        let measured = fitted(known, 0.5, STATISTICS_STEPS);
        assert_in_all_of_its_level_set(&known, &measured);
        assert_measured(&known, &measured, "cells", measured.coverage > 0.3);
    }
}

#[test]
fn the_bound_stays_below_the_entropy_of_noisy_samples() {
    if !in_one_thread("the_bound_stays_below_the_entropy_of_noisy_samples") {
        return;
    }
    let known = known(Shape::Box, 2, 300);
    let sub_model = fit(known, 0.8, config(&known, STATISTICS_STEPS), 0).unwrap();
    let measured = measure(&known, &sub_model, 0).unwrap();
    let (nats, se) = bound(&sub_model, 0, Schedule::Cosine).unwrap();
    let neighbors = measured.noisy_entropy;
    // It is a bound, and not an empty one: of the noise alone it would be −4.99.
    assert!(nats < neighbors + 3.0 * se, "{nats} of {neighbors}");
    assert!(nats > neighbors - 2.0, "{nats} of {neighbors}");
}
