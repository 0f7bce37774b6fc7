//! Batch norm, residual and ReLU against the reference.

use super::reference::{moments, wide};
use super::{Comparison, noise, tolerance};
use crate::EPSILON;
use crate::cuda::algorithm::Precision;
use crate::cuda::buffer::{DeviceBuffer, Place, Values};
use crate::cuda::device::CudaDevice;
use crate::cuda::failure::Result;
use crate::cuda::norm::{CudaNorm, Gate, NormParameters, OfResidual, Residual};

/// Rows that fill no whole number of parts, channels that fill no whole block.
const ROWS: usize = 3 * 81;
const CHANNELS: usize = 40;

/// Where scale, shift, running mean and running variance lie in buffers of two channels' lengths.
const FIRST: Place = Place {
    offset: 0,
    len: CHANNELS,
};
const SECOND: Place = Place {
    offset: CHANNELS,
    len: CHANNELS,
};

/// A layer with a mean that is large against its deviation, its parameters and its gradient.
struct Layer {
    y: Values,
    parameters: DeviceBuffer<f32>,
    scales: Vec<f32>,
    norm: CudaNorm,
}

impl Layer {
    fn new(device: &CudaDevice, precision: Precision, seed: u32) -> Result<Self> {
        let shifted = noise(seed, ROWS * CHANNELS);
        let y: Vec<f32> = shifted.iter().map(|value| 0.5 * value + 3.0).collect();
        let scales: Vec<f32> = noise(seed + 1, 2 * CHANNELS)
            .iter()
            .map(|v| v + 1.5)
            .collect();
        Ok(Self {
            y: Values::from_slice(device, &y, precision)?,
            parameters: DeviceBuffer::from_slice(device, &scales)?,
            scales,
            norm: CudaNorm::new(device, ROWS, CHANNELS, precision)?,
        })
    }

    /// Splits the borrow: the norm changes, its parameters do not.
    fn parts(&mut self) -> (&mut CudaNorm, &Values, NormParameters<'_>) {
        let parameters = NormParameters {
            weights: &self.parameters,
            gamma: FIRST,
            beta: SECOND,
        };
        (&mut self.norm, &self.y, parameters)
    }

    /// The normalized layer, from means and variances.
    fn normalized(&self, mean: &[f64], variance: &[f64]) -> Result<Vec<f64>> {
        let y = self.y.read()?;
        let of = |at: usize| {
            let channel = at % CHANNELS;
            let gamma = f64::from(self.scales[channel]);
            let beta = f64::from(self.scales[CHANNELS + channel]);
            let deviation = (variance[channel] + EPSILON).sqrt();
            gamma * (f64::from(y[at]) - mean[channel]) / deviation + beta
        };
        Ok((0..y.len()).map(of).collect())
    }
}

/// Statistics of a batch, the running ones, and both directions with a normalized residual.
pub(super) fn training(
    device: &CudaDevice,
    precision: Precision,
    found: &mut Vec<Comparison>,
) -> Result<()> {
    let mut layer = Layer::new(device, precision, 20)?;
    let mut other = Layer::new(device, precision, 30)?;
    let mut start = noise(40, 2 * CHANNELS);
    // Small, so that the newest variance is seen beside it, unbiased or not.
    start[CHANNELS..].fill(0.01);
    let mut running = DeviceBuffer::from_slice(device, &start)?;
    for layer in [&mut other, &mut layer] {
        running.write(&start)?;
        let (norm, y, parameters) = layer.parts();
        norm.take_moments(y, parameters, (&mut running, FIRST, SECOND), 0.1)?;
    }
    let (mean, variance) = moments(&layer.y.read()?, CHANNELS);
    let unbiased = ROWS as f64 / (ROWS as f64 - 1.0);
    let newest = mean
        .iter()
        .copied()
        .chain(variance.iter().map(|v| v * unbiased));
    let expected: Vec<f64> = start
        .iter()
        .zip(newest)
        .map(|(old, new)| 0.9 * f64::from(*old) + 0.1 * new)
        .collect();
    let bar = tolerance(Precision::F32);
    let result = running.read()?;
    for (name, part) in [
        ("running means", 0..CHANNELS),
        ("running variances", CHANNELS..2 * CHANNELS),
    ] {
        let (result, expected) = (&result[part.clone()], &expected[part]);
        found.push(Comparison::of_each(name, precision, result, expected, bar));
    }

    let of_other = moments(&other.y.read()?, CHANNELS);
    let mut output = Values::zeros(device, ROWS * CHANNELS, precision)?;
    let residual = Some(Residual::Raw(&other.y, &other.norm));
    layer
        .norm
        .normalize(&layer.y, residual, true, &mut output)?;
    let own = layer.normalized(&mean, &variance)?;
    let added = other.normalized(&of_other.0, &of_other.1)?;
    let sums = own.iter().zip(&added).map(|(a, b)| (a + b).max(0.0));
    let expected: Vec<f64> = sums.collect();
    let gate = output.read()?;
    let bar = tolerance(precision);
    let name = "normalize + normalized residual + ReLU";
    found.push(Comparison::of_each(name, precision, &gate, &expected, bar));
    backward(device, &mut layer, &gate, (&mean, &variance), found)
}

/// The gradients of a batch-normalized layer whose output was `gate`, with a residual that gets its first
/// one, and with one that has another.
fn backward(
    device: &CudaDevice,
    layer: &mut Layer,
    gate: &[f32],
    (mean, variance): (&[f64], &[f64]),
    found: &mut Vec<Comparison>,
) -> Result<()> {
    let precision = layer.y.precision();
    let bar = tolerance(precision);
    let gradient = noise(50, ROWS * CHANNELS);
    let mut gradient = Values::from_slice(device, &gradient, precision)?;
    let mut of_residual = Values::from_slice(device, &noise(51, ROWS * CHANNELS), precision)?;
    let mut of_parameters = DeviceBuffer::zeros(device, 2 * CHANNELS)?;
    let expected = Backward::of(layer, &gradient, gate, mean, variance)?;
    let handed_on: Vec<f64> = wide(&of_residual.read()?)
        .iter()
        .zip(&expected.gated)
        .map(|(old, new)| old + new)
        .collect();
    let targets = (&mut of_parameters, FIRST, SECOND);
    let y = &layer.y;
    layer
        .norm
        .reduce_gradient(&gradient, Gate::Noted, y, targets)?;
    let mut stays = Values::from_slice(device, &gradient.read()?, precision)?;
    let mut of_y = Values::zeros(device, ROWS * CHANNELS, precision)?;
    let residual = Some(OfResidual::First(&mut of_y));
    layer
        .norm
        .apply_gradient(&mut stays, Gate::Noted, y, residual)?;
    let residual = Some(OfResidual::More(&mut of_residual));
    layer
        .norm
        .apply_gradient(&mut gradient, Gate::Noted, y, residual)?;
    for (name, result, expected, bar) in [
        (
            "gradient of a batch-normalized layer, elsewhere",
            of_y.read()?,
            &expected.of_y,
            bar,
        ),
        (
            "gradient of such a layer that stays for the residual",
            stays.read()?,
            &expected.gated,
            0.0,
        ),
        (
            "gradients of scale and shift",
            of_parameters.read()?,
            &expected.parameters,
            bar,
        ),
        (
            "gradient of a batch-normalized layer",
            gradient.read()?,
            &expected.of_y,
            bar,
        ),
        (
            "gradient handed on, added",
            of_residual.read()?,
            &handed_on,
            bar,
        ),
    ] {
        found.push(Comparison::of_each(name, precision, &result, expected, bar));
    }
    Ok(())
}

/// Gradients of a layer without a residual: without a ReLU, and with one.
pub(super) fn gates(
    device: &CudaDevice,
    precision: Precision,
    found: &mut Vec<Comparison>,
) -> Result<()> {
    let mut layer = Layer::new(device, precision, 80)?;
    let mut running = DeviceBuffer::zeros(device, 2 * CHANNELS)?;
    let (norm, y, parameters) = layer.parts();
    norm.take_moments(y, parameters, (&mut running, FIRST, SECOND), 0.1)?;
    let mut output = Values::zeros(device, ROWS * CHANNELS, precision)?;
    norm.normalize(y, None, true, &mut output)?;
    let drawn = noise(90, ROWS * CHANNELS);
    let mut gradients = |gate: Gate| -> Result<[Vec<f32>; 2]> {
        let mut gradient = Values::from_slice(device, &drawn, precision)?;
        let mut of_parameters = DeviceBuffer::zeros(device, 2 * CHANNELS)?;
        let (norm, y, _) = layer.parts();
        norm.reduce_gradient(&gradient, gate, y, (&mut of_parameters, FIRST, SECOND))?;
        norm.apply_gradient(&mut gradient, gate, y, None)?;
        Ok([of_parameters.read()?, gradient.read()?])
    };
    let open = gradients(Gate::Open)?;
    let noted = gradients(Gate::Noted)?;

    let (mean, variance) = moments(&layer.y.read()?, CHANNELS);
    let gradient = Values::from_slice(device, &drawn, precision)?;
    let everywhere = vec![1.0; ROWS * CHANNELS];
    for (name, gate, [of_parameters, of_y]) in [
        ("no ReLU", everywhere, &open),
        ("ReLU, no residual", output.read()?, &noted),
    ] {
        let expected = Backward::of(&layer, &gradient, &gate, &mean, &variance)?;
        for (part, result, expected) in [
            ("of scale and shift", of_parameters, &expected.parameters),
            ("of a layer", of_y, &expected.of_y),
        ] {
            let (name, bar) = (format!("{name}: gradient {part}"), tolerance(precision));
            found.push(Comparison::of_each(name, precision, result, expected, bar));
        }
    }
    Ok(())
}

/// A skip: one layer added to another.
pub(super) fn skip(
    device: &CudaDevice,
    precision: Precision,
    found: &mut Vec<Comparison>,
) -> Result<()> {
    let values = |seed| Values::from_slice(device, &noise(seed, ROWS * CHANNELS), precision);
    let (mut sum, more) = (values(91)?, values(92)?);
    let expected = wide(&sum.read()?).into_iter().zip(wide(&more.read()?));
    let expected: Vec<f64> = expected.map(|(a, b)| a + b).collect();
    device.add(&more, &mut sum)?;
    let (result, bar) = (sum.read()?, tolerance(precision));
    found.push(Comparison::of_each(
        "skip, added",
        precision,
        &result,
        &expected,
        bar,
    ));
    Ok(())
}

/// The gradients of a layer, by the equations of `src/batch_norm.rs`.
struct Backward {
    gated: Vec<f64>,
    parameters: Vec<f64>,
    of_y: Vec<f64>,
}

impl Backward {
    fn of(
        layer: &Layer,
        gradient: &Values,
        gate: &[f32],
        mean: &[f64],
        variance: &[f64],
    ) -> Result<Self> {
        let y = layer.y.read()?;
        let gated: Vec<f64> = gradient
            .read()?
            .iter()
            .zip(gate)
            .map(|(g, gate)| if *gate > 0.0 { f64::from(*g) } else { 0.0 })
            .collect();
        let deviation = |channel: usize| (variance[channel] + EPSILON).sqrt();
        let centred = |at: usize| {
            let channel = at % CHANNELS;
            (f64::from(y[at]) - mean[channel]) / deviation(channel)
        };
        let mut parameters = vec![0.0; 2 * CHANNELS];
        for (at, g) in gated.iter().enumerate() {
            parameters[at % CHANNELS] += g * centred(at);
            parameters[CHANNELS + at % CHANNELS] += g;
        }
        let rows = ROWS as f64;
        let of_y = (0..y.len())
            .map(|at| {
                let channel = at % CHANNELS;
                let (product, sum) = (parameters[channel], parameters[CHANNELS + channel]);
                let inner = gated[at] - sum / rows - centred(at) * product / rows;
                f64::from(layer.scales[channel]) / deviation(channel) * inner
            })
            .collect();
        Ok(Self {
            gated,
            parameters,
            of_y,
        })
    }
}

/// Fixed statistics: both directions, with a residual as it is.
pub(super) fn fixed(
    device: &CudaDevice,
    precision: Precision,
    found: &mut Vec<Comparison>,
) -> Result<()> {
    let mut layer = Layer::new(device, precision, 60)?;
    let statistics: Vec<f32> = noise(70, 2 * CHANNELS).iter().map(|v| v + 1.5).collect();
    let running = DeviceBuffer::from_slice(device, &statistics)?;
    let (norm, _, parameters) = layer.parts();
    norm.fix_moments(parameters, (&running, FIRST, SECOND))?;
    let residual = Values::from_slice(device, &noise(71, ROWS * CHANNELS), precision)?;
    let mut output = Values::zeros(device, ROWS * CHANNELS, precision)?;
    layer.norm.normalize(
        &layer.y,
        Some(Residual::Ready(&residual)),
        true,
        &mut output,
    )?;
    let (mean, variance) = (wide(&statistics[..CHANNELS]), wide(&statistics[CHANNELS..]));
    let own = layer.normalized(&mean, &variance)?;
    let sums = own.iter().zip(wide(&residual.read()?));
    let expected: Vec<f64> = sums.map(|(a, b)| (a + b).max(0.0)).collect();
    let gate = output.read()?;
    let bar = tolerance(precision);
    let name = "fixed statistics + residual + ReLU";
    found.push(Comparison::of_each(name, precision, &gate, &expected, bar));

    let gradient = noise(72, ROWS * CHANNELS);
    let mut gradient = Values::from_slice(device, &gradient, precision)?;
    let g = gradient.read()?;
    let mut of_y = Values::zeros(device, ROWS * CHANNELS, precision)?;
    let to = Some(OfResidual::First(&mut of_y));
    layer
        .norm
        .apply_gradient(&mut gradient, Gate::Noted, &layer.y, to)?;
    let gated = (0..g.len()).map(|at| {
        if gate[at] > 0.0 {
            f64::from(g[at])
        } else {
            0.0
        }
    });
    let gated: Vec<f64> = gated.collect();
    let scaled = gated.iter().enumerate().map(|(at, g)| {
        let channel = at % CHANNELS;
        g * f64::from(layer.scales[channel]) / (variance[channel] + EPSILON).sqrt()
    });
    let expected: Vec<f64> = scaled.collect();
    for (name, result, expected) in [
        ("gradient through fixed statistics", of_y.read()?, &expected),
        (
            "gradient that stays for the residual",
            gradient.read()?,
            &gated,
        ),
    ] {
        found.push(Comparison::of_each(name, precision, &result, expected, bar));
    }
    Ok(())
}
