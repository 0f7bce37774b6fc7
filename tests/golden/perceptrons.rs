//! Generator, statistics network and one iteration of Algorithm 2.

use std::collections::BTreeMap;

use candle::{Device, Tensor};
use mesa::{Hinge, MovingAverage, Observations, hinge_loss, mutual_information, statistics_loss};
use mesa_models::{Adam, AdamConfig, Generator, PerceptronConfig, Seeds, StatisticsNetwork};

use super::{Vectors, assert_close, values};

const TOLERANCE: f32 = 1e-5;

fn config(vectors: &Vectors) -> PerceptronConfig {
    PerceptronConfig {
        noise_dim: vectors.number("noise_dim") as usize,
        network_width: vectors.number("width") as usize,
        trigger_shape: [3, 3, 3],
    }
}

/// `fc1` and `bn1` of the script are `linear1` and `norm1` here.
fn generator_state(named: BTreeMap<String, Tensor>) -> BTreeMap<String, Tensor> {
    let ours = |name: String| name.replace("fc", "linear").replace("bn", "norm");
    named
        .into_iter()
        .map(|(name, tensor)| (ours(name), tensor))
        .collect()
}

/// The first two layers of the script are one matrix here, noise columns first.
fn statistics_state(mut named: BTreeMap<String, Tensor>) -> BTreeMap<String, Tensor> {
    let mut take = |name: &str| named.remove(name).unwrap();
    let input = Tensor::cat(&[take("fc_noise.weight"), take("fc_trigger.weight")], 1).unwrap();
    let state = BTreeMap::from([
        ("input.weight".to_owned(), input),
        ("input.bias".to_owned(), take("bias")),
        ("hidden.weight".to_owned(), take("fc2.weight")),
        ("hidden.bias".to_owned(), take("fc2.bias")),
        ("output.weight".to_owned(), take("fc3.weight")),
        ("output.bias".to_owned(), take("fc3.bias")),
    ]);
    assert!(named.is_empty());
    state
}

fn networks(vectors: &Vectors) -> (Generator, StatisticsNetwork) {
    let (mut rng, config) = (Seeds::new(0, "golden").start(), config(vectors));
    let mut generator = Generator::new(&mut rng, config).unwrap();
    generator
        .load_state(&generator_state(vectors.under("generator.")))
        .unwrap();
    let mut statistics = StatisticsNetwork::new(&mut rng, config).unwrap();
    statistics
        .load_state(&statistics_state(vectors.under("statistics.")))
        .unwrap();
    (generator, statistics)
}

/// Biases in front of batch norm, which takes them out again: their gradient is zero, rounding
/// makes it anything of that size, and Adam makes a whole step of its sign.
const WITHOUT_EFFECT: [&str; 3] = ["linear1.bias", "linear2.bias", "linear3.bias"];

/// Compares every gradient by name.
fn assert_gradients(found: &BTreeMap<String, Tensor>, expected: &BTreeMap<String, Tensor>) {
    assert!(found.keys().eq(expected.keys()));
    for (name, gradient) in found {
        let gradient = values(gradient);
        if WITHOUT_EFFECT.contains(&name.as_str()) {
            assert!(gradient.iter().all(|g| g.abs() < 1e-7), "{name}");
            continue;
        }
        assert_close(name, &gradient, &values(&expected[name]), TOLERANCE);
    }
}

fn assert_states(found: &BTreeMap<String, Tensor>, expected: &BTreeMap<String, Tensor>) {
    for (name, expected) in expected {
        assert_close(name, &values(&found[name]), &values(expected), 1e-6);
    }
}

#[test]
fn evaluation_mode_agrees() {
    let vectors = Vectors::load("mesa");
    let (generator, statistics) = networks(&vectors);
    let noise = vectors.tensor("g_step.noise");
    let triggers = generator.forward(&noise).unwrap();
    let expected = vectors.values("evaluation.triggers");
    assert_close("triggers", &values(&triggers), &expected, TOLERANCE);
    let scores = statistics
        .score_pairs(&noise, &noise, &triggers)
        .unwrap()
        .matched;
    assert_close(
        "scores",
        &values(&scores),
        &vectors.values("evaluation.scores"),
        TOLERANCE,
    );
}

/// `sigmoid(w·x + c)` of the noisy triggers and its gradient, by hand.
fn observe(vectors: &Vectors, noisy: &Tensor) -> (Vec<f32>, Tensor) {
    let direction = vectors.values("direction");
    let rows = noisy.flatten_from(1).unwrap().to_vec2::<f32>().unwrap();
    let offset = vectors.number("offset");
    let value = |row: &Vec<f32>| {
        let score = row
            .iter()
            .zip(&direction)
            .map(|(x, w)| f64::from(x * w))
            .sum::<f64>()
            + offset;
        (1.0 / (1.0 + (-score).exp())) as f32
    };
    let observed: Vec<f32> = rows.iter().map(value).collect();
    let slopes: Vec<f32> = observed
        .iter()
        .flat_map(|p| direction.iter().map(move |w| p * (1.0 - p) * w))
        .collect();
    (
        observed,
        Tensor::from_vec(slopes, noisy.shape(), &Device::Cpu).unwrap(),
    )
}

fn scalar(tensor: &Tensor) -> f32 {
    tensor.to_scalar().unwrap()
}

/// Hinge on the noisy triggers, information of the clean ones, one step of Adam.
#[test]
fn the_generators_step_agrees() {
    let vectors = Vectors::load("mesa");
    let (mut generator, statistics) = networks(&vectors);
    let alpha = vectors.number("alpha");
    let noise = vectors.tensor("g_step.noise");
    let generated = generator.forward_train(&noise).unwrap();
    let triggers = &generated.triggers;
    assert_close(
        "triggers",
        &values(triggers),
        &vectors.values("g_step.triggers"),
        TOLERANCE,
    );

    let trigger_noise = vectors
        .tensor("g_step.trigger_noise")
        .reshape(triggers.shape())
        .unwrap();
    let (observed, slopes) = observe(&vectors, &(triggers + trigger_noise).unwrap());
    assert_close(
        "values",
        &observed,
        &vectors.values("g_step.values"),
        TOLERANCE,
    );
    assert_close(
        "slopes",
        &values(&slopes),
        &vectors.values("g_step.value_gradient"),
        TOLERANCE,
    );
    let count = observed.len();
    let observations = Observations {
        values: Tensor::from_vec(observed, (count, 1), &Device::Cpu).unwrap(),
        gradients: slopes.unsqueeze(1).unwrap(),
    };
    let hinge = hinge_loss(&observations, vectors.number("beta"), Hinge::Image).unwrap();
    assert_close(
        "hinge",
        &[hinge.loss as f32],
        &vectors.values("g_step.hinge"),
        TOLERANCE,
    );

    let fresh = vectors.tensor("g_step.fresh_noise");
    let scores = statistics.score_pairs(&noise, &fresh, triggers).unwrap();
    let (matched, mismatched) = (&scores.matched, &scores.mismatched);
    assert_close(
        "matched",
        &values(matched),
        &vectors.values("g_step.matched"),
        TOLERANCE,
    );
    let expected = vectors.values("g_step.mismatched");
    assert_close("mismatched", &values(mismatched), &expected, TOLERANCE);
    let information = mutual_information(matched, mismatched).unwrap();
    let expected = vectors.values("g_step.information");
    assert_close("information", &[scalar(&information)], &expected, TOLERANCE);
    let objective = hinge.loss as f32 - alpha as f32 * scalar(&information);
    assert_close(
        "objective",
        &[objective],
        &vectors.values("g_step.objective"),
        TOLERANCE,
    );

    let information = information.backward().unwrap();
    let information = statistics.trigger_gradient(&scores, &information).unwrap();
    let gradient = (&hinge.gradient - (information * alpha).unwrap()).unwrap();
    let gradients = generator
        .parameter_gradients(&generated, &gradient)
        .unwrap();
    let expected = generator_state(vectors.under("g_step.gradient."));
    assert_gradients(&gradients, &expected);
    Adam::new(generator.parameters(), AdamConfig::paper())
        .unwrap()
        .step(&gradients)
        .unwrap();
    let mut expected = generator_state(vectors.under("g_step.next."));
    expected.retain(|name, _| !WITHOUT_EFFECT.contains(&name.as_str()));
    assert_states(&generator.state().unwrap(), &expected);
}

/// The bound's gradient with the moving average, for a generator that has just stepped and moves
/// its running statistics once more.
#[test]
fn the_statistics_networks_step_agrees() {
    let vectors = Vectors::load("mesa");
    let (mut generator, statistics) = networks(&vectors);
    generator
        .load_state(&generator_state(vectors.under("g_step.next.")))
        .unwrap();
    let noise = vectors.tensor("t_step.noise");
    let triggers = generator.forward_train(&noise).unwrap().triggers;
    assert_close(
        "triggers",
        &values(&triggers),
        &vectors.values("t_step.triggers"),
        TOLERANCE,
    );
    let running = generator_state(vectors.under("t_step.generator."));
    assert_eq!(running.len(), 6);
    assert_states(&generator.state().unwrap(), &running);

    let mut average = MovingAverage::new(vectors.number("moving_average_rate"));
    average.update(vectors.number("moving_average"));
    let fresh = vectors.tensor("t_step.fresh_noise");
    let scores = statistics.score_pairs(&noise, &fresh, &triggers).unwrap();
    let (loss, bound) = statistics_loss(&scores.matched, &scores.mismatched, &mut average).unwrap();
    assert_close(
        "bound",
        &[bound as f32],
        &vectors.values("t_step.information"),
        TOLERANCE,
    );
    let next = average.value().unwrap() as f32;
    assert_close(
        "average",
        &[next],
        &vectors.values("t_step.next_average"),
        1e-6,
    );

    let loss = loss.backward().unwrap();
    let gradients = statistics.parameter_gradients(&scores, &loss).unwrap();
    let expected = statistics_state(vectors.under("t_step.gradient."));
    assert_gradients(&gradients, &expected);
    Adam::new(statistics.parameters(), AdamConfig::paper())
        .unwrap()
        .step(&gradients)
        .unwrap();
    let expected = statistics_state(vectors.under("t_step.next."));
    assert_states(&statistics.state().unwrap(), &expected);
}
