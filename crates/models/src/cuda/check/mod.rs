//! Compares whole steps on a GPU with the same steps on the CPU, at fixed inputs.

mod full_width;
mod inputs;
mod pairs;
mod perceptrons;
mod runs;

use mesa_kernels::cuda::{Comparison, CudaDevice, Precision, TargetGradient};

use self::full_width::{FULL_WIDTH, at_once, one_step};
use self::inputs::{BATCH, CLASSES, IMAGES, Inputs, OnDevice, TRIGGER};
use self::pairs::Pairs;
use super::{CudaFrozen, CudaNetwork, CudaSettings, Gpu, StepSettings};
use crate::graph::COLORS;
use crate::host::host_values;
use crate::state::NamedTensors;
use crate::{Network, Normalization, ResNetConfig, Result, Seeds, Sgd};

/// Channels that are padded on the device (12 to 16), as those of the next stages are not.
const WIDTH: usize = 12;
/// How comparisons call kinds of networks, the kinds, and their widths.
const KINDS: [(&str, &str, usize); 4] = [
    ("", "resnet18", WIDTH),
    ("padded shortcuts, ", "paddedresnet20", WIDTH),
    ("pre-activation, ", "preactresnet18", WIDTH),
    ("wide, ", "wideresnet16", WIDTH),
];
const TARGET: u32 = 4;
const OTHER: u32 = 7;

/// Weight decay is large, so that a step without it is seen.
const MOMENTUM: f64 = 0.9;
const WEIGHT_DECAY: f64 = 5e-2;

/// Steps of training: their first plan, learning rate and label smoothing. The first one is
/// computed launch by launch, the second one recorded, the others replay that: what a recording has
/// of the step that it was made from is wrong for the next one.
const STEPS: [(usize, f64, f64); 4] = [
    (0, 0.005, 0.1),
    (5, 0.02, 0.0),
    (8, 0.01, 0.2),
    (3, 0.005, 0.1),
];

/// The largest error of weights and velocities after an update by given gradients: a few roundings
/// to 6e-8.
const UPDATE: f64 = 1e-6;

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

/// The largest error of a single tensor's gradient. It is larger than that of all together, because a gate
/// that opens wrongly is much of a small one; one that is missing, or another's, is off by 1 or more.
fn tensor_tolerance(precision: Precision) -> f64 {
    match precision {
        Precision::F32 => 1e-1,
        Precision::Tf32 => 6e-1,
        Precision::Bf16 => 9e-1,
    }
}

/// Compares training, evaluation and gradients of triggers of small networks, in every precision; and
/// of networks of width 64 in bf16, of which a `quick` check computes one step each, of few images.
///
/// What cannot be computed is a comparison that has not [passed](Comparison::passed), and the others
/// go on.
///
/// # Errors
///
/// [`crate::Error`] if the inputs cannot be made, on the host or on the device.
pub fn check_steps(device: &CudaDevice, quick: bool) -> Result<Vec<Comparison>> {
    let inputs = Inputs::new(2, BATCH)?;
    let mut on_device = inputs.on(device)?;
    let mut found = Vec::new();
    for precision in [Precision::F32, Precision::Tf32, Precision::Bf16] {
        let settings = CudaSettings {
            precision,
            deterministic: true,
        };
        let failed = |name: &str, error| Comparison::failed(name, precision, &error);
        let full = if precision == Precision::Bf16 {
            &FULL_WIDTH[..]
        } else {
            &[]
        };
        if quick {
            for &(of, kind, width) in full {
                let result = one_step((device, settings, of), start(kind, width)?, &mut found);
                let error = result.err();
                found.extend(error.map(|error| failed(&format!("{of}one step"), error)));
            }
        }
        let whole = if quick { &[] } else { full };
        for &(of, kind, width) in KINDS.iter().chain(whole) {
            let start = start(kind, width)?;
            let on = (device, settings, of);
            let steps = &STEPS[..];
            let both = (&inputs, &on_device);
            let trained = match training(on, start.clone(), steps, both, &mut found) {
                Ok(trained) => trained,
                Err(error) => {
                    found.push(failed(&format!("{of}training"), error));
                    start
                }
            };
            let result = frozen(on, &trained, &inputs, &mut on_device, &mut found);
            let error = result.err();
            found.extend(error.map(|error| failed(&format!("{of}evaluation"), error)));
            on_device.write_triggers(&inputs)?;
        }
        let result = replayed(device, settings, &on_device, &mut found);
        device.set_recording(true);
        found.extend(result.err().map(|error| failed("repeated steps", error)));
        let gpu = Gpu {
            device: device.clone(),
            settings,
        };
        if !quick && precision == Precision::Bf16 {
            let result = at_once(device, settings, &mut found);
            found.extend(result.err().map(|error| failed("networks at once", error)));
        }
        let result = runs::check(&gpu, &mut found);
        found.extend(result.err().map(|error| failed("runs", error)));
        // They are f32 whatever the classifier is.
        if precision == Precision::F32 {
            let result = perceptrons::check(&gpu, &mut found);
            found.extend(result.err().map(|error| failed("perceptrons", error)));
        }
    }
    Ok(found)
}

/// The network that comparisons start from.
fn start(kind: &str, width: usize) -> Result<Network> {
    let config = ResNetConfig::new(kind.parse()?, width, CLASSES);
    let mut rng = Seeds::new(0, "gpu check").start();
    Network::resnet(config, Normalization::cifar10(), &mut rng)
}

/// Steps of training of a network (`of`: how comparisons call it): loss, gradients, statistics, update.
/// Returns the network as the CPU has trained it.
///
/// Both sides take each step from the same place, the CPU's. Left to themselves they part: where
/// their gradients differ by a gate (see [`tolerances`]), their weights do after the update, by far
/// more than rounding; that closes or opens further gates in the next step, and so on. What two
/// such steps have in common says little of either. The update is compared by itself, with what
/// the device's own gradients come to on the host, to the last bits.
fn training(
    (device, settings, of): (&CudaDevice, CudaSettings, &str),
    mut expected: Network,
    steps: &[(usize, f64, f64)],
    (inputs, on_device): (&Inputs, &OnDevice),
    found: &mut Vec<Comparison>,
) -> Result<Network> {
    let mut sgd = Sgd::new(MOMENTUM, WEIGHT_DECAY);
    let mut network = CudaNetwork::new(device, &expected, settings, inputs.batch, [0.0; COLORS])?;
    let (forward, backward) = tolerances(settings.precision);
    let (mut pairs, mut tensors) = (Pairs::default(), Pairs::default());
    for &(first, learning_rate, label_smoothing) in steps {
        network.load_state(&expected.state()?, &sgd.state(&expected)?)?;
        let before = (network.state()?, network.velocity_state()?);
        let step = StepSettings {
            learning_rate,
            momentum: MOMENTUM,
            weight_decay: WEIGHT_DECAY,
            label_smoothing,
        };
        network.step(on_device.batch(first), &step)?;
        let (images, labels) = (inputs.images(first)?, inputs.labels(first)?);
        let logits = host_values(&expected.clone().training_logits(&images)?)?;
        let loss = expected.gradients(&images, &labels, label_smoothing)?.loss;
        pairs.add("logits", forward, &network.training_logits()?, &logits);
        let result = network.take_loss()?.loss;
        pairs.add("loss", forward, &[result as f32], &[loss as f32]);
        let (after, gradients) = (network.state()?, network.gradient_state()?);
        let wanted = expected.gradient_state()?;
        let all = flat(&wanted, |_| true)?;
        pairs.add(
            "all gradients",
            backward,
            &flat(&gradients, |_| true)?,
            &all,
        );
        for (name, tensor) in &gradients {
            let wanted = wanted.get(name).map(host_values).transpose()?;
            let bar = tensor_tolerance(settings.precision);
            tensors.add(
                name,
                bar,
                &host_values(tensor)?,
                &wanted.unwrap_or_default(),
            );
        }
        let statistics = |name: &str| name.contains("running");
        let running = flat(&expected.state()?, statistics)?;
        let name = "running statistics";
        pairs.add(name, forward, &flat(&after, statistics)?, &running);
        let (weights, velocities) = updated(&before, &gradients, &step)?;
        let result = flat(&after, |name| !statistics(name))?;
        pairs.add_wide("weights, updated", UPDATE, &result, weights);
        let result = flat(&network.velocity_state()?, |_| true)?;
        pairs.add_wide("velocities, updated", UPDATE, &result, velocities);
        sgd.step(&mut expected, learning_rate);
    }
    let name = format!("{of}training");
    pairs.compare(&name, settings.precision, found);
    found.extend(tensors.worst(&format!("{name}: gradient of"), settings.precision));
    if steps.len() > 1 {
        recorded(device, &name, network.recorded(), 1, settings, found);
    }
    Ok(expected)
}

/// Weights and velocities after an update, by the equations of [`Sgd`].
fn updated(
    (state, velocity): &(NamedTensors, NamedTensors),
    gradients: &NamedTensors,
    step: &StepSettings,
) -> Result<(Vec<f64>, Vec<f64>)> {
    let weights = wide(&flat(state, |name| !name.contains("running"))?);
    let velocities = wide(&flat(velocity, |_| true)?);
    let gradients = wide(&flat(gradients, |_| true)?);
    // As the device has them.
    let [rate, momentum, decay] = [step.learning_rate, step.momentum, step.weight_decay]
        .map(|number| f64::from(number as f32));
    let slopes = gradients.iter().zip(&weights).map(|(g, w)| g + decay * w);
    let velocities: Vec<f64> = velocities
        .iter()
        .zip(slopes)
        .map(|(velocity, slope)| momentum * velocity + slope)
        .collect();
    let weights = weights.iter().zip(&velocities).map(|(w, v)| w - rate * v);
    Ok((weights.collect(), velocities))
}

/// Notes whether work that repeats was recorded: if not, it is right all the same, and slow.
fn recorded(
    device: &CudaDevice,
    what: &str,
    number: usize,
    expected: usize,
    settings: CudaSettings,
    found: &mut Vec<Comparison>,
) {
    let reason = device.recording_refused();
    let reason = reason.map_or_else(String::new, |reason| format!(" ({reason})"));
    found.push(Comparison::new(
        format!("{what}: recorded{reason}"),
        settings.precision,
        &[number as f32],
        &[expected as f64],
        0.0,
    ));
}

/// Evaluation and the gradient of triggers, of the same trained network on both sides. Everything
/// more than twice, each time of something else: launch by launch, recorded, replayed.
fn frozen(
    (device, settings, of): (&CudaDevice, CudaSettings, &str),
    trained: &Network,
    inputs: &Inputs,
    on_device: &mut OnDevice,
    found: &mut Vec<Comparison>,
) -> Result<()> {
    let expected = trained.freeze()?;
    let mut network = CudaFrozen::new(device, trained, settings)?;
    let (forward, backward) = tolerances(settings.precision);
    let mut pairs = Pairs::default();
    for (first, target) in [(0, TARGET), (5, OTHER), (3, TARGET)] {
        let (images, batch) = (inputs.images(first)?, on_device.batch(first));
        let logits = host_values(&expected.logits(&images)?)?;
        let result = network.logits(batch, BATCH)?.read()?;
        pairs.add("logits", forward, &result, &logits);
        // In batches that do not fill the last one; the last images of all are not in `logits`.
        let loss = network.evaluate(batch, BATCH - 5)?.loss;
        let mut wanted = mean_loss(&logits, first) * BATCH as f64;
        let rest = IMAGES - BATCH - first;
        if rest > 0 {
            let last = IMAGES - BATCH;
            let logits = host_values(&expected.logits(&inputs.images(last)?)?)?;
            let new = &logits[(BATCH - rest) * CLASSES..];
            wanted += mean_loss(new, IMAGES - rest) * rest as f64;
        }
        let wanted = (wanted / (BATCH + rest) as f64) as f32;
        pairs.add("loss", forward, &[loss as f32], &[wanted]);
        let chances = expected.target_probability(&images, target)?;
        let result = network.target_probability(batch, BATCH, target)?;
        pairs.add("probabilities", forward, &result.read()?, &chances);
    }
    let name = format!("{of}evaluation");
    pairs.compare(&name, settings.precision, found);

    let mut pairs = Pairs::default();
    for (first, target, logarithm, seed) in [
        (0, TARGET, true, 2),
        (8, OTHER, false, 3),
        (3, TARGET, false, 4),
        (5, OTHER, true, 3),
    ] {
        let inputs = Inputs::new(seed, BATCH)?;
        on_device.write_triggers(&inputs)?;
        let (images, places) = (inputs.images(first)?, inputs.places(first));
        let (chances, gradient) = expected.target_gradient(
            &images,
            target,
            places,
            TRIGGER,
            TargetGradient::LogProbability,
        )?;
        let (name, wanted, gradient) = if logarithm {
            let wanted = TargetGradient::LogProbability;
            ("gradient of ln p", wanted, gradient)
        } else {
            // A bound between the probabilities, far from all of them in rounding.
            let below = between(&chances);
            let (_, gradient) = expected.target_gradient(
                &images,
                target,
                places,
                TRIGGER,
                TargetGradient::Probability(below),
            )?;
            let wanted = TargetGradient::Probability(below);
            ("gradient of p below a bound", wanted, gradient)
        };
        let batch = on_device.batch(first);
        let result = network.trigger_gradient(batch, BATCH, target, wanted)?;
        pairs.add(
            "probabilities",
            forward,
            &result.probabilities.read()?,
            &chances,
        );
        let values = result.gradients.read()?;
        pairs.add(name, backward, &values, &host_values(&gradient)?);
    }
    pairs.compare(&format!("{of}triggers"), settings.precision, found);
    // Logits, probabilities, gradients, and losses of batches of 11 and of what is left: 2, 8, 10.
    // Of these none comes twice.
    recorded(device, &name, network.recorded(), 4, settings, found);
    Ok(())
}

/// Cross-entropy of images from number `first` on, whose labels are their numbers.
fn mean_loss(logits: &[f32], first: usize) -> f64 {
    let logits = wide(logits);
    let rows = logits.chunks(CLASSES);
    let count = rows.len();
    let losses = rows.enumerate().map(|(at, row)| {
        let total: f64 = row.iter().map(|logit| logit.exp()).sum();
        total.ln() - row[(first + at) % CLASSES]
    });
    losses.sum::<f64>() / count as f64
}

/// Steps that replay a recording have to end with the same bits as those that do not, whatever
/// changes between them: plans, rates, the images and triggers themselves.
fn replayed(
    device: &CudaDevice,
    settings: CudaSettings,
    on_device: &OnDevice,
    found: &mut Vec<Comparison>,
) -> Result<()> {
    let other = Inputs::new(5, BATCH)?.on(device)?;
    let run = |recording: bool| -> Result<Vec<f32>> {
        device.set_recording(recording);
        let mut network = CudaNetwork::new(
            device,
            &start(KINDS[0].1, WIDTH)?,
            settings,
            BATCH,
            [0.0; COLORS],
        )?;
        let mut step = StepSettings {
            learning_rate: 0.02,
            momentum: MOMENTUM,
            weight_decay: WEIGHT_DECAY,
            label_smoothing: 0.1,
        };
        // What is recorded is a kind of step: on these images three, on the others two.
        for (images, first) in [
            (on_device, 0),
            (&other, 8),
            (on_device, 3),
            (&other, 5),
            (on_device, 8),
        ] {
            network.step(images.batch(first), &step)?;
            step.learning_rate *= 0.7;
            step.momentum *= 0.9;
            step.weight_decay *= 0.8;
            step.label_smoothing += 0.1;
            if first == 3 {
                // Larger batches want a larger workspace; the recording goes on with its own.
                let mut larger = network.freeze()?;
                larger.logits(on_device.batch(0), IMAGES)?;
            }
        }
        let mut numbers = vec![network.take_loss()?.loss as f32];
        numbers.extend(flat(&network.state()?, |_| true)?);
        numbers.extend(flat(&network.gradient_state()?, |_| true)?);
        numbers.extend(network.training_logits()?);
        Ok(numbers)
    };
    // Recorded ones first: what they keep must not be of the others' making.
    let result = run(true)?;
    found.push(Comparison::new(
        "steps, launched and replayed: the same bits",
        settings.precision,
        &result,
        &wide(&run(false)?),
        0.0,
    ));
    Ok(())
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
