//! Compares whole steps on a GPU with the same steps on the CPU, at fixed inputs.

mod inputs;
mod runs;

use std::ops::Range;

use mesa_kernels::cuda::{Comparison, CudaDevice, Precision, TargetGradient};

use self::inputs::{BATCH, CLASSES, Inputs, OnDevice, TRIGGER};
use super::{CudaFrozen, CudaNetwork, CudaSettings, Gpu, StepSettings};
use crate::graph::COLORS;
use crate::network::host_values;
use crate::state::NamedTensors;
use crate::{Network, Normalization, ResNetConfig, Result, Seeds, Sgd};

/// Channels that are padded on the device (12 to 16), as those of the next stages are not.
const WIDTH: usize = 12;
const TARGET: u32 = 4;
const STEP: StepSettings = StepSettings {
    // Small, so that both sides take their second step from nearly the same place.
    learning_rate: 0.005,
    momentum: 0.9,
    // Large, so that a step without it is seen.
    weight_decay: 5e-2,
    label_smoothing: 0.1,
};

/// The largest errors of whole steps: of what comes forward (logits, losses, statistics) and of
/// what goes back (gradients, updates).
///
/// Both sides round. f32: 20 layers of sums rounded to 6e-8, on the CPU by way of Winograd's
/// transform, and divided by the deviations of a small batch. TF32 rounds every factor to 5e-4,
/// bf16 every activation to 2e-3: over 20 layers errors e of the activations add up like √20, to
/// 2e-3 and 1e-2. Going back, a ReLU whose input is rounded across zero passes what it should not,
/// or the reverse: a share of about e of all gates, which changes a gradient by √e at each of 17
/// of them, so by √(17·e): 0.2 and 0.4. A wrong kernel's error is of the order of one; what it may
/// be off by less is for the comparisons of single kernels, which are tight, and for f32.
fn tolerances(precision: Precision) -> (f64, f64) {
    match precision {
        Precision::F32 => (1e-3, 1e-2),
        Precision::Tf32 => (2e-2, 3e-1),
        Precision::Bf16 => (5e-2, 5e-1),
    }
}

/// Compares training, evaluation and gradients of triggers of a small network, in every precision.
/// What cannot be computed is a comparison that has not [passed](Comparison::passed), and the others
/// go on.
///
/// # Errors
///
/// [`crate::Error`] if the inputs cannot be made, on the host or on the device.
pub fn check_steps(device: &CudaDevice) -> Result<Vec<Comparison>> {
    let inputs = Inputs::new()?;
    let on_device = inputs.on(device)?;
    let mut found = Vec::new();
    for precision in [Precision::F32, Precision::Tf32, Precision::Bf16] {
        let settings = CudaSettings {
            precision,
            deterministic: true,
        };
        let failed = |name: &str, error| Comparison::failed(name, precision, &error);
        let trained = match training(device, settings, &inputs, &on_device, &mut found) {
            Ok(trained) => trained,
            Err(error) => {
                found.push(failed("training", error));
                start()?
            }
        };
        let result = frozen(device, settings, &inputs, &on_device, &trained, &mut found);
        found.extend(result.err().map(|error| failed("evaluation", error)));
        let result = repeated(device, settings, &on_device, &mut found);
        found.extend(result.err().map(|error| failed("repeated steps", error)));
        let gpu = Gpu {
            device: device.clone(),
            settings,
        };
        let result = runs::check(&gpu, &mut found);
        found.extend(result.err().map(|error| failed("runs", error)));
    }
    Ok(found)
}

/// The network all comparisons start from.
fn start() -> Result<Network> {
    let config = ResNetConfig {
        width: WIDTH,
        num_classes: CLASSES,
    };
    let mut rng = Seeds::new(0, "gpu check").start();
    Network::resnet18(config, Normalization::cifar10(), &mut rng)
}

/// A step of training: loss, gradients, statistics, update. Returns the network as the CPU has
/// trained it.
fn training(
    device: &CudaDevice,
    settings: CudaSettings,
    inputs: &Inputs,
    on_device: &OnDevice,
    found: &mut Vec<Comparison>,
) -> Result<Network> {
    let mut expected = start()?;
    let before = expected.state()?;
    let mut network = CudaNetwork::new(device, &expected, settings, BATCH, [0.0; COLORS])?;
    network.step(on_device.batch(), &STEP)?;
    let loss = network.take_loss()?;

    let smoothing = STEP.label_smoothing;
    let logits = expected.clone().training_logits(&inputs.images)?;
    let wanted = expected.gradients(&inputs.images, &inputs.labels, smoothing)?;
    let mut sgd = Sgd::new(STEP.momentum, STEP.weight_decay);
    sgd.step(&mut expected, STEP.learning_rate);

    let (forward, backward) = tolerances(settings.precision);
    let mut compare = comparing(found, settings.precision);
    let logits = wide(&host_values(&logits)?);
    compare(
        "training: logits",
        &network.training_logits()?,
        &logits,
        forward,
    );
    compare(
        "training: loss",
        &[loss.loss as f32],
        &[wanted.loss],
        forward,
    );
    let result = flat(&network.gradient_state()?, |_| true)?;
    let gradients = wide(&flat(&expected.gradient_state()?, |_| true)?);
    compare("training: all gradients", &result, &gradients, backward);
    let of_unit = |name: &str| name == "conv1.weight";
    let result = flat(&network.gradient_state()?, of_unit)?;
    let gradients = wide(&flat(&expected.gradient_state()?, of_unit)?);
    compare(
        "training: first layer's gradient",
        &result,
        &gradients,
        backward,
    );
    let statistics = |name: &str| name.contains("running");
    let after = network.state()?;
    let result = flat(&after, statistics)?;
    let running = wide(&flat(&expected.state()?, statistics)?);
    compare("training: running statistics", &result, &running, forward);
    // A second step, for momentum.
    network.step(on_device.batch(), &STEP)?;
    expected.gradients(&inputs.images, &inputs.labels, smoothing)?;
    sgd.step(&mut expected, STEP.learning_rate);
    let learned = |name: &str| !name.contains("running");
    let moved = |after: &NamedTensors| -> Result<Vec<f32>> {
        let pairs = flat(after, learned)?
            .into_iter()
            .zip(flat(&before, learned)?);
        Ok(pairs.map(|(after, before)| after - before).collect())
    };
    let (result, updates) = (moved(&network.state()?)?, moved(&expected.state()?)?);
    let name = "training: two updates";
    compare(name, &result, &wide(&updates), backward);
    Ok(expected)
}

/// Evaluation and the gradient of triggers, of the same trained network on both sides.
fn frozen(
    device: &CudaDevice,
    settings: CudaSettings,
    inputs: &Inputs,
    on_device: &OnDevice,
    trained: &Network,
    found: &mut Vec<Comparison>,
) -> Result<()> {
    let expected = trained.freeze()?;
    let mut network = CudaFrozen::new(device, trained, settings)?;
    let (forward, backward) = tolerances(settings.precision);
    let mut compare = comparing(found, settings.precision);
    let logits = wide(&host_values(&expected.logits(&inputs.images)?)?);
    let result = network.logits(on_device.batch(), BATCH)?.read()?;
    compare("evaluation: logits", &result, &logits, forward);
    let mean = |range: Range<usize>| -> f64 {
        let losses = range.clone().map(|image| {
            let row = &logits[image * CLASSES..][..CLASSES];
            let total: f64 = row.iter().map(|logit| logit.exp()).sum();
            total.ln() - row[image % CLASSES]
        });
        losses.sum::<f64>() / range.len() as f64
    };
    // In batches that do not fill the last one.
    let loss = network.evaluate(on_device.batch(), BATCH - 5)?.loss;
    compare(
        "evaluation: loss",
        &[loss as f32],
        &[mean(0..BATCH)],
        forward,
    );

    let (images, places) = (&inputs.images, &inputs.places);
    let chances = wide(&expected.target_probability(images, TARGET)?);
    let result = network.target_probability(on_device.batch(), BATCH, TARGET)?;
    let (name, result) = ("evaluation: probabilities", result.read()?);
    compare(name, &result, &chances, forward);
    let (chances, gradient) =
        expected.target_log_probability_gradient(images, TARGET, places, TRIGGER)?;
    let wanted = TargetGradient::LogProbability;
    let result = network.trigger_gradient(on_device.batch(), BATCH, TARGET, wanted)?;
    let (probabilities, values) = (result.probabilities.read()?, result.gradients.read()?);
    compare(
        "triggers: probabilities",
        &probabilities,
        &wide(&chances),
        forward,
    );
    let gradient = wide(&host_values(&gradient)?);
    compare("triggers: gradient of ln p", &values, &gradient, backward);
    // A bound between the probabilities, far from all of them in rounding.
    let below = between(&chances);
    let (_, gradient) =
        expected.target_probability_gradient(images, TARGET, places, TRIGGER, below)?;
    let wanted = TargetGradient::Probability(below);
    let result = network.trigger_gradient(on_device.batch(), BATCH, TARGET, wanted)?;
    let gradient = wide(&host_values(&gradient)?);
    let values = result.gradients.read()?;
    compare(
        "triggers: gradient of p below a bound",
        &values,
        &gradient,
        backward,
    );
    Ok(())
}

/// Two runs of three steps have to end with the same bits.
fn repeated(
    device: &CudaDevice,
    settings: CudaSettings,
    on_device: &OnDevice,
    found: &mut Vec<Comparison>,
) -> Result<()> {
    let run = || -> Result<Vec<f32>> {
        let mut network = CudaNetwork::new(device, &start()?, settings, BATCH, [0.0; COLORS])?;
        for _ in 0..3 {
            network.step(on_device.batch(), &STEP)?;
        }
        flat(&network.state()?, |_| true)
    };
    let (name, expected) = ("three steps, twice: the same bits", wide(&run()?));
    found.push(Comparison::new(
        name,
        settings.precision,
        &run()?,
        &expected,
        0.0,
    ));
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

/// The middle of the widest gap between neighbors.
fn between(values: &[f32]) -> f32 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f32::total_cmp);
    let gaps = sorted.windows(2).map(|pair| (pair[1] - pair[0], pair));
    let widest = gaps.max_by(|a, b| a.0.total_cmp(&b.0));
    widest.map_or(0.5, |(_, pair)| f32::midpoint(pair[0], pair[1]))
}

/// Values of the tensors whose names are wanted, in name order.
fn flat(state: &NamedTensors, wanted: impl Fn(&str) -> bool) -> Result<Vec<f32>> {
    let mut values = Vec::new();
    for (name, tensor) in state {
        if wanted(name) {
            values.extend(host_values(tensor)?);
        }
    }
    Ok(values)
}

fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().copied().map(f64::from).collect()
}

#[cfg(test)]
mod tests {
    use approx::assert_abs_diff_eq;

    use super::*;

    #[test]
    fn the_bound_lies_in_the_widest_gap() {
        assert_abs_diff_eq!(between(&[0.1, 0.9, 0.2, 0.3]), 0.6);
        assert_abs_diff_eq!(between(&[0.1]), 0.5);
    }
}
