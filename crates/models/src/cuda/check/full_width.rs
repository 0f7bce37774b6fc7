//! Networks of width 64, whose convolutions are kernels of our own on some cards.

use mesa_kernels::cuda::{Comparison, CudaDevice, TargetGradient};

use super::inputs::{BATCH, Inputs, TRIGGER};
use super::pairs::Pairs;
use super::{
    CudaFrozen, CudaNetwork, CudaSettings, MOMENTUM, STEPS, StepSettings, TARGET, WEIGHT_DECAY,
    flat, start, tolerances, training, wide,
};
use crate::graph::COLORS;
use crate::host::host_values;
use crate::{Network, Result};

/// Those that have convolutions of their own on some cards, in bf16.
pub(super) const FULL_WIDTH: [(&str, &str, usize); 2] = [
    ("width 64, ", "resnet18", 64),
    ("pre-activation, width 64, ", "preactresnet18", 64),
];
/// Images of a step of full width where that has to be quick.
const FEW: usize = 4;
/// Images of a batch, and steps, of networks that are trained at once.
const MANY: usize = 128;
const MANY_STEPS: usize = 12;

/// One step of a network and one gradient of triggers, of few images: that takes an emulated GPU a minute
/// at full width, where some cards have kernels of their own.
pub(super) fn one_step(
    on: (&CudaDevice, CudaSettings, &str),
    start: Network,
    found: &mut Vec<Comparison>,
) -> Result<()> {
    let (device, settings, of) = on;
    let inputs = Inputs::new(2, FEW)?;
    let on_device = inputs.on(device)?;
    let trained = training(on, start, &STEPS[..1], (&inputs, &on_device), found)?;
    let (forward, backward) = tolerances(settings.precision);
    let mut network = CudaFrozen::new(device, &trained, settings)?;
    let wanted = TargetGradient::LogProbability;
    let images = inputs.images(0)?;
    let (chances, gradient) =
        (trained.freeze()?).target_gradient(&images, TARGET, inputs.places(0), TRIGGER, wanted)?;
    let result = network.trigger_gradient(on_device.batch(0), FEW, TARGET, wanted)?;
    let mut pairs = Pairs::default();
    let found_chances = result.probabilities.read()?;
    pairs.add("probabilities", forward, &found_chances, &chances);
    let values = result.gradients.read()?;
    pairs.add(
        "gradient of ln p",
        backward,
        &values,
        &host_values(&gradient)?,
    );
    pairs.compare(&format!("{of}triggers"), settings.precision, found);
    Ok(())
}

/// Networks of full width that several threads train at once have to end with the bits of one that is
/// trained alone: blocks of different networks lie on one multiprocessor, and what one forgets to wait
/// for shows beside others.
pub(super) fn at_once(
    device: &CudaDevice,
    settings: CudaSettings,
    found: &mut Vec<Comparison>,
) -> Result<()> {
    let (of, kind, width) = FULL_WIDTH[0];
    let trained = || -> Result<Vec<f32>> {
        let device = CudaDevice::open(device.ordinal())?;
        let on_device = Inputs::new(2, BATCH)?.repeated(&device, MANY)?;
        let start = start(kind, width)?;
        let mut network = CudaNetwork::new(&device, &start, settings, MANY, [0.0; COLORS])?;
        let step = StepSettings {
            learning_rate: 0.01,
            momentum: MOMENTUM,
            weight_decay: WEIGHT_DECAY,
            label_smoothing: 0.1,
        };
        for _ in 0..MANY_STEPS {
            network.step(on_device.batch(0), &step)?;
        }
        let mut frozen = network.freeze()?;
        let gradients = frozen.trigger_gradient(
            on_device.batch(0),
            MANY,
            TARGET,
            TargetGradient::LogProbability,
        )?;
        let mut numbers = flat(&network.state()?, |_| true)?;
        numbers.extend(gradients.gradients.read()?);
        Ok(numbers)
    };
    let alone = wide(&trained()?);
    let together: Vec<Result<Vec<f32>>> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(trained)).collect();
        let joined = threads.into_iter().map(std::thread::ScopedJoinHandle::join);
        joined
            .map(|result| result.unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    });
    for (number, one) in together.into_iter().enumerate() {
        found.push(Comparison::new(
            format!("{of}four networks at once, number {number}: the bits of one alone"),
            settings.precision,
            &one?,
            &alone,
            0.0,
        ));
    }
    Ok(())
}
