//! Convolutions, images and optimizer against the reference.

use super::reference::{Taps, moments, wide};
use super::{Comparison, noise, tolerance};
use crate::ConvShape;
use crate::cuda::algorithm::Precision;
use crate::cuda::buffer::{DeviceBuffer, Place, Values};
use crate::cuda::conv::Convolution;
use crate::cuda::device::CudaDevice;
use crate::cuda::failure::{CudaError, Result};
use crate::cuda::images::{BatchPlans, Colors, DeviceImages, DevicePlans, DeviceTriggers};
use crate::cuda::norm::{CudaNorm, Gate, NormParameters, OfResidual, Onward, Residual};
use crate::cuda::optimizer::{Descent, DeviceDescent};
use crate::cuda::packing::PlanLimits;
use crate::{ImagePlan, Stamp};

/// Channels of input and output, kernel, stride, height and width.
type Layer = (usize, usize, usize, usize, (usize, usize));

/// What own kernels convolve.
const OWN: [Layer; 11] = [
    (8, 64, 3, 1, (32, 32)),
    (64, 64, 3, 1, (32, 32)),
    (128, 128, 3, 1, (16, 16)),
    (256, 256, 3, 1, (8, 8)),
    (512, 512, 3, 1, (4, 4)),
    (64, 128, 3, 2, (32, 32)),
    (128, 256, 3, 2, (16, 16)),
    (256, 512, 3, 2, (8, 8)),
    (64, 128, 1, 2, (32, 32)),
    (128, 256, 1, 2, (16, 16)),
    (256, 512, 1, 2, (8, 8)),
];

/// What the other ones do, with sizes that divide nothing.
const OTHERS: [Layer; 7] = [
    (8, 16, 3, 1, (32, 32)),
    (16, 32, 3, 2, (16, 16)),
    (16, 32, 1, 2, (16, 16)),
    (24, 16, 1, 2, (7, 9)),
    (16, 8, 1, 2, (6, 5)),
    (8, 24, 1, 2, (5, 6)),
    (64, 64, 3, 1, (7, 5)),
];

/// All three products of convolutions as a ResNet has them, and with sizes that divide nothing; the
/// input's gradient added to what is there and written over it; the moments of what is convolved.
pub(super) fn convolutions(
    device: &CudaDevice,
    precision: Precision,
    found: &mut Vec<Comparison>,
) -> Result<()> {
    // They take long on the host, and only bf16 has kernels of its own for them.
    let own = if precision == Precision::Bf16 {
        &OWN[..]
    } else {
        &[]
    };
    for (in_channels, out_channels, kernel, stride, size) in [own, &OTHERS].concat() {
        let shape = ConvShape {
            in_channels,
            out_channels,
            kernel,
            stride,
        };
        let batch = 5;
        let conv = Convolution::new(device, shape, size, batch, precision, true)?;
        conv.prepare(true, true)?;
        let values = |seed, len| Values::from_slice(device, &noise(seed, len), precision);
        let input = values(1, conv.input_len())?;
        let weights = values(2, conv.weights_len())?;
        let gradient = values(3, conv.output_len())?;
        let mut added = values(4, conv.input_len())?;
        let mut written = values(5, conv.input_len())?;
        let mut of_weights = Values::zeros(device, conv.weights_len(), precision)?;
        let mut output = Values::zeros(device, conv.output_len(), precision)?;
        let (x, w, g) = (input.read()?, weights.read()?, gradient.read()?);
        let mut expected = [
            vec![0.0; output.len()],
            wide(&added.read()?),
            vec![0.0; x.len()],
            vec![0.0; w.len()],
        ];
        let taps = Taps { shape, size, batch };
        taps.for_each(|i, k, o| {
            let [x, w, g] = [x[i], w[k], g[o]].map(f64::from);
            expected[0][o] += x * w;
            expected[1][i] += g * w;
            expected[2][i] += g * w;
            expected[3][k] += g * x;
        });
        let place = Place {
            offset: 0,
            len: conv.weights_len(),
        };
        conv.forward(&input, (&weights, place), &mut output)?;
        let (again, moments) = before_norm(device, &conv, out_channels, &input, (&weights, place))?;
        conv.input_gradient((&weights, place), &gradient, &mut added, true)?;
        conv.input_gradient((&weights, place), &gradient, &mut written, false)?;
        conv.weight_gradient(&input, &gradient, (&mut of_weights, place))?;
        let results = [
            output.read()?,
            added.read()?,
            written.read()?,
            of_weights.read()?,
        ];
        let names = [
            "forward",
            "input gradient, added",
            "input gradient, written",
            "weight gradient",
        ];
        let what =
            format!("convolution {kernel}x{kernel}/{stride} {in_channels} to {out_channels}");
        for ((name, result), expected) in names.iter().zip(&results).zip(&expected) {
            let name = format!("{what}: {name}");
            let bar = tolerance(precision);
            found.push(Comparison::of_each(name, precision, result, expected, bar));
        }
        let name = format!("{what}: forward to batch norm");
        let plain = wide(&results[0]);
        found.push(Comparison::of_each(name, precision, &again, &plain, 0.0));
        let filter = (&weights, place);
        fixed(
            device,
            (&conv, &what),
            (&input, out_channels),
            filter,
            found,
        )?;
        through_norm(device, (&conv, &what), filter, &gradient, found)?;
        let expected = moments_of(&results[0], out_channels);
        let (name, bar) = (format!("{what}: moments"), tolerance(Precision::F32));
        found.push(Comparison::of_each(
            name, precision, &moments, &expected, bar,
        ));
    }
    Ok(())
}

/// Weights' gradients of batches that several blocks share, whose sums are then added up.
pub(super) fn shared_weights(
    device: &CudaDevice,
    precision: Precision,
    found: &mut Vec<Comparison>,
) -> Result<()> {
    // Only bf16 has kernels of its own for them.
    if precision != Precision::Bf16 {
        return Ok(());
    }
    // Of so many images all but the last have no gradient: the host would sum for seconds.
    for ((in_channels, out_channels, kernel, stride, size), batch, first) in [
        (OWN[3], 33, 0),
        (OWN[4], 129, 126),
        (OWN[6], 17, 0),
        (OWN[7], 129, 126),
    ] {
        let shape = ConvShape {
            in_channels,
            out_channels,
            kernel,
            stride,
        };
        let conv = Convolution::new(device, shape, size, batch, precision, true)?;
        conv.prepare(false, true)?;
        let input = Values::from_slice(device, &noise(1, conv.input_len()), precision)?;
        let mut gradient = noise(3, conv.output_len());
        let (x_first, g_first) = (
            conv.input_len() / batch * first,
            gradient.len() / batch * first,
        );
        gradient[..g_first].fill(0.0);
        let gradient = Values::from_slice(device, &gradient, precision)?;
        let mut of_weights = Values::zeros(device, conv.weights_len(), precision)?;
        let place = Place {
            offset: 0,
            len: conv.weights_len(),
        };
        conv.weight_gradient(&input, &gradient, (&mut of_weights, place))?;
        let (x, g) = (input.read()?, gradient.read()?);
        let (x, g) = (&x[x_first..], &g[g_first..]);
        let mut expected = vec![0.0; conv.weights_len()];
        let taps = Taps {
            shape,
            size,
            batch: batch - first,
        };
        taps.for_each(|i, k, o| expected[k] += f64::from(g[o]) * f64::from(x[i]));
        let name =
            format!("weight gradient of {batch} images, {in_channels} to {out_channels} channels");
        let (result, bar) = (of_weights.read()?, tolerance(precision));
        found.push(Comparison::of_each(
            name, precision, &result, &expected, bar,
        ));
    }
    Ok(())
}

/// The result of a convolution before batch norm, and its means and variances as that takes them.
fn before_norm(
    device: &CudaDevice,
    conv: &Convolution,
    channels: usize,
    input: &Values,
    filter: (&Values, Place),
) -> Result<(Vec<f32>, Vec<f32>)> {
    let precision = input.precision();
    let mut output = Values::zeros(device, conv.output_len(), precision)?;
    let mut norm = CudaNorm::new(device, conv.output_len() / channels, channels, precision)?;
    // What ran until now is forgotten, whatever it was.
    let mut running = DeviceBuffer::from_slice(device, &noise(6, 2 * channels))?;
    let [mean, variance] = [0, channels].map(|offset| Place {
        offset,
        len: channels,
    });
    let running_mean = (&running, mean);
    conv.forward_to_norm(input, filter, &mut output, &mut norm, running_mean)?;
    let parameters = DeviceBuffer::from_slice(device, &noise(7, 2 * channels))?;
    let parameters = NormParameters {
        weights: &parameters,
        gamma: mean,
        beta: variance,
    };
    let moved = (&mut running, mean, variance);
    norm.take_moments(&output, parameters, moved, 1.0)?;
    Ok((output.read()?, running.read()?))
}

/// A convolution with fixed statistics, a residual and a ReLU: against these one after the other, and
/// where it is noted what passes.
fn fixed(
    device: &CudaDevice,
    (conv, what): (&Convolution, &str),
    (input, channels): (&Values, usize),
    filter: (&Values, Place),
    found: &mut Vec<Comparison>,
) -> Result<()> {
    let (precision, len) = (input.precision(), conv.output_len());
    let drawn = noise(31, 4 * channels);
    let numbers: Vec<f32> = drawn.iter().map(|value| value + 1.5).collect();
    let numbers = DeviceBuffer::from_slice(device, &numbers)?;
    let place = |part| Place {
        offset: part * channels,
        len: channels,
    };
    let parameters = NormParameters {
        weights: &numbers,
        gamma: place(0),
        beta: place(1),
    };
    let new = || -> Result<CudaNorm> {
        let mut norm = CudaNorm::new(device, len / channels, channels, precision)?;
        norm.fix_moments(parameters, (&numbers, place(2), place(3)))?;
        Ok(norm)
    };
    let other = Values::from_slice(device, &noise(32, len), precision)?;
    let of_other = new()?;
    let drawn = Values::from_slice(device, &noise(33, len), precision)?;
    let ones = DeviceBuffer::from_slice(device, &vec![1.0; 4 * channels])?;
    for (name, residual) in [
        ("no residual", None),
        ("residual", Some(Residual::Ready(&other))),
        (
            "normalized residual",
            Some(Residual::Raw(&other, &of_other)),
        ),
    ] {
        let mut results = Vec::new();
        for together in [false, true] {
            let mut norm = new()?;
            let mut output = Values::zeros(device, len, precision)?;
            let done =
                together && conv.forward_fixed(input, filter, &mut output, &mut norm, residual)?;
            if !done {
                let mut raw = Values::zeros(device, len, precision)?;
                conv.forward(input, filter, &mut raw)?;
                norm.normalize(&raw, residual, true, &mut output)?;
            }
            // Batch norm of nothing shows what passes.
            let parameters = NormParameters {
                weights: &ones,
                gamma: place(0),
                beta: place(1),
            };
            norm.fix_moments(parameters, (&ones, place(2), place(3)))?;
            let mut passes = Values::from_slice(device, &drawn.read()?, precision)?;
            norm.apply_gradient(&mut passes, Gate::Noted, &drawn, None)?;
            results.push([output.read()?, passes.read()?]);
        }
        let [[plain, _], [output, passes]] = &results[..] else {
            continue;
        };
        let bar = tolerance(precision);
        let name = format!("{what}: fixed statistics, {name}");
        let plain = wide(plain);
        found.push(Comparison::of_each(&name, precision, output, &plain, bar));
        let scale = (1.0 + f64::from(crate::EPSILON as f32)).sqrt();
        let through = output.iter().zip(drawn.read()?).map(|(output, drawn)| {
            let passed = if *output > 0.0 { drawn } else { 0.0 };
            f64::from(passed) / scale
        });
        let through: Vec<f64> = through.collect();
        let name = format!("{name}: what passes");
        found.push(Comparison::of_each(name, precision, passes, &through, bar));
    }
    Ok(())
}

/// What follows a gradient, and whether it is added to another.
const KINDS: [(&str, Onward, bool); 6] = [
    ("batch norm", Onward::Reduce, true),
    ("batch norm, written", Onward::Reduce, false),
    ("fixed statistics", Onward::Gate, true),
    ("fixed statistics, written", Onward::Gate, false),
    ("fixed statistics alone", Onward::Apply, true),
    ("fixed statistics alone, written", Onward::Apply, false),
];

/// An input's gradient, written or added to another, that lets batch norm's gradient begin: against the
/// same by that alone, with its sums and without.
fn through_norm(
    device: &CudaDevice,
    (conv, what): (&Convolution, &str),
    filter: (&Values, Place),
    gradient: &Values,
    found: &mut Vec<Comparison>,
) -> Result<()> {
    let (precision, channels) = (gradient.precision(), conv.in_channels());
    let len = conv.input_len();
    let raw = Values::from_slice(device, &noise(21, len), precision)?;
    let of_norm = DeviceBuffer::from_slice(device, &noise(22, 4 * channels))?;
    let place = |part| Place {
        offset: part * channels,
        len: channels,
    };
    let parameters = NormParameters {
        weights: &of_norm,
        gamma: place(0),
        beta: place(1),
    };
    let mut all = Vec::new();
    let both = |onward, accumulate| [(false, onward, accumulate), (true, onward, accumulate)];
    let ways = KINDS.map(|(_, onward, accumulate)| both(onward, accumulate));
    for (together, onward, accumulate) in ways.concat() {
        let sums = onward == Onward::Reduce;
        let mut norm = CudaNorm::new(device, len / channels, channels, precision)?;
        let mut running = DeviceBuffer::from_slice(device, &vec![1.0; 2 * channels])?;
        let (mean, variance) = (place(0), place(1));
        if sums {
            let running = (&mut running, mean, variance);
            norm.take_moments(&raw, parameters, running, 0.1)?;
        } else {
            norm.fix_moments(parameters, (&running, mean, variance))?;
        }
        let mut output = Values::zeros(device, len, precision)?;
        norm.normalize(&raw, None, true, &mut output)?;
        let mut target = Values::from_slice(device, &noise(23, len), precision)?;
        if together {
            let (target, norm) = ((&mut target, accumulate), (&mut norm, &raw));
            conv.input_gradient_to_norm(filter, gradient, target, norm, onward)?;
        } else {
            conv.input_gradient(filter, gradient, &mut target, accumulate)?;
        }
        let mut of_parameters = DeviceBuffer::zeros(device, 2 * channels)?;
        if sums {
            let targets = (&mut of_parameters, place(0), place(1));
            norm.reduce_gradient(&target, Gate::Noted, &raw, targets)?;
        }
        let mut of_raw = Values::zeros(device, len, precision)?;
        let to = (onward != Onward::Apply).then_some(OfResidual::First(&mut of_raw));
        norm.apply_gradient(&mut target, Gate::Noted, &raw, to)?;
        // In place where nothing is handed on.
        let [own, handed_on] = match onward {
            Onward::Apply => [&target, &of_raw],
            _ => [&of_raw, &target],
        };
        all.push([own.read()?, handed_on.read()?, of_parameters.read()?]);
    }
    let names = ["", ", handed on", ", of scale and shift"];
    for (pair, (kind, onward, _)) in all.chunks(2).zip(KINDS) {
        for ((name, alone), together) in names.iter().zip(&pair[0]).zip(&pair[1]) {
            let name = format!("{what}: gradient on to {kind}{name}");
            // The order of sums is another one.
            let bar = match onward {
                Onward::Reduce => tolerance(precision) / 4.0,
                _ => 0.0,
            };
            found.push(Comparison::of_each(
                name,
                precision,
                together,
                &wide(alone),
                bar,
            ));
        }
    }
    Ok(())
}

/// The same from the result itself; the variance unbiased.
fn moments_of(values: &[f32], channels: usize) -> Vec<f64> {
    let (mean, variance) = moments(values, channels);
    let rows = (values.len() / channels) as f64;
    let unbiased = variance.iter().map(|value| value * rows / (rows - 1.0));
    mean.iter().copied().chain(unbiased).collect()
}

/// Crop, flip, stamp, normalization, and the gradient of what was stamped.
pub(super) fn images(
    device: &CudaDevice,
    precision: Precision,
    found: &mut Vec<Comparison>,
) -> Result<()> {
    const SIDE: usize = 8;
    let (fill, mean, std) = ([0.4, 0.5, 0.6], [0.5, 0.45, 0.4], [0.2, 0.25, 0.3]);
    let bytes: Vec<u8> = noise(5, 4 * 3 * SIDE * SIDE)
        .iter()
        .map(|value| ((value + 1.0) * 127.5) as u8)
        .collect();
    let patches: Vec<f32> = noise(6, 2 * 3 * 3 * 2).iter().map(|v| v.abs()).collect();
    let mask = [true, true, false, true, true, true];
    let opacity = 0.75;
    let plans = [
        plan(2, (0, 0), false, None),
        plan(0, (-3, 2), false, Some((0, 5, 6))),
        plan(3, (4, -1), true, Some((1, 0, 0))),
        plan(1, (1, 1), true, None),
    ];
    let limits = PlanLimits {
        images: 4,
        size: (SIDE, SIDE),
        classes: 10,
        triggers: 2,
        trigger_size: (3, 2),
    };
    let batch = plans.len();
    let images = DeviceImages::new(device, &bytes, (SIDE, SIDE))?;
    let triggers = DeviceTriggers::new(device, &patches, (3, 2), Some(&mask), opacity)?;
    let colors = Colors::new(device, fill, mean, std)?;
    // The first plan is another batch's.
    let all = [&[plan(1, (0, 0), true, None)], &plans[..]].concat();
    let mut on_device = BatchPlans::new(device, batch, limits)?;
    on_device.take(&DevicePlans::new(device, &all, limits)?, 1)?;
    let shape = ConvShape {
        in_channels: 8,
        out_channels: 40,
        kernel: 3,
        stride: 1,
    };
    let size = (SIDE, SIDE);
    let first = Convolution::new(device, shape, size, batch, precision, true)?;
    let weights = Values::from_slice(device, &noise(8, 5 + first.weights_len()), precision)?;
    let place = Place {
        offset: 5,
        len: first.weights_len(),
    };
    let gradient = Values::from_slice(device, &noise(7, first.output_len()), precision)?;
    let g = of_images(
        (shape, size, batch),
        &gradient.read()?,
        &weights.read()?[5..],
    );

    let mut loaded = Values::zeros(device, batch * SIDE * SIDE * 8, precision)?;
    let mut of_triggers = DeviceBuffer::zeros(device, batch * 3 * 3 * 2)?;
    device.load_images(&images, &triggers, &colors, &on_device, &mut loaded)?;
    let stamped = (&triggers, &colors, &on_device);
    let first = (&first, &weights, place);
    device.trigger_gradient(first, &gradient, stamped, &mut of_triggers)?;

    let mut expected = vec![0.0; batch * SIDE * SIDE * 8];
    let mut of_expected = vec![0.0; batch * 3 * 3 * 2];
    for (number, plan) in plans.iter().enumerate() {
        for at in 0..3 * SIDE * SIDE {
            let (color, row, column) = (at / (SIDE * SIDE), at / SIDE % SIDE, at % SIDE);
            let flipped = if plan.mirrored {
                SIDE - 1 - column
            } else {
                column
            };
            let (y, x) = (row as i32 + plan.shift.0, flipped as i32 + plan.shift.1);
            let inside = (0..SIDE as i32).contains(&y) && (0..SIDE as i32).contains(&x);
            let mut value = f64::from(fill[color]);
            if inside {
                let from = (plan.image * 3 + color) * SIDE * SIDE + y as usize * SIDE + x as usize;
                value = f64::from(bytes[from]) / 255.0;
            }
            let to = ((number * SIDE + row) * SIDE + column) * 8 + color;
            let under = plan.stamp.filter(|stamp| {
                (stamp.row..stamp.row + 3).contains(&row)
                    && (stamp.column..stamp.column + 2).contains(&column)
            });
            if let Some(stamp) = under {
                let cell = (row - stamp.row) * 2 + column - stamp.column;
                let share = if mask[cell] { f64::from(opacity) } else { 0.0 };
                let paint = f64::from(patches[(stamp.trigger * 3 + color) * 6 + cell]);
                value = (1.0 - share) * value + share * paint;
                of_expected[(number * 3 + color) * 6 + cell] =
                    share * g[to] / f64::from(std[color]);
            }
            expected[to] = (value - f64::from(mean[color])) / f64::from(std[color]);
        }
    }
    let bar = tolerance(precision);
    let names = ["images from bytes", "gradient of stamped triggers"];
    let results = [loaded.read()?, of_triggers.read()?];
    for ((name, result), expected) in names.iter().zip(&results).zip([&expected, &of_expected]) {
        found.push(Comparison::of_each(*name, precision, result, expected, bar));
    }
    Ok(())
}

/// The gradient of normalized images from that of a convolution's result.
fn of_images(
    (shape, size, batch): (ConvShape, (usize, usize), usize),
    gradient: &[f32],
    weights: &[f32],
) -> Vec<f64> {
    let mut images = vec![0.0; batch * size.0 * size.1 * shape.in_channels];
    Taps { shape, size, batch }.for_each(|i, k, o| {
        images[i] += f64::from(gradient[o]) * f64::from(weights[k]);
    });
    images
}

fn plan(
    image: usize,
    shift: (i32, i32),
    mirrored: bool,
    stamp: Option<(usize, usize, usize)>,
) -> ImagePlan {
    ImagePlan {
        shift,
        mirrored,
        stamp: stamp.map(|(trigger, row, column)| Stamp {
            trigger,
            row,
            column,
        }),
        ..ImagePlan::plain(image, image)
    }
}

/// Copies to the device, of a few values and of more than the driver takes without waiting.
pub(super) fn copies(
    device: &CudaDevice,
    precision: Precision,
    found: &mut Vec<Comparison>,
) -> Result<()> {
    let start = noise(13, 40_000);
    let source = DeviceBuffer::from_slice(device, &start)?;
    let mut buffer = DeviceBuffer::zeros(device, start.len())?;
    buffer.copy_from(&source)?;
    let mut expected = start;
    for (seed, count) in [(14, 20_000), (15, 300)] {
        let values = noise(seed, count);
        buffer.write_first(&values)?;
        expected[..count].copy_from_slice(&values);
    }
    found.push(Comparison::of_each(
        "copies to a buffer's first places",
        precision,
        &buffer.read()?,
        &wide(&expected),
        0.0,
    ));
    if buffer.write_first(&noise(0, 40_001)).is_ok() {
        return Err(CudaError::argument("values to write", 40_001, "refused"));
    }
    Ok(())
}

/// Two steps of gradient descent.
pub(super) fn descent(
    device: &CudaDevice,
    precision: Precision,
    found: &mut Vec<Comparison>,
) -> Result<()> {
    // No whole number of threads; the first are weights of convolutions.
    let (count, filters) = (1003, 500);
    let start = noise(10, count);
    let plain = noise(11, count);
    let mut weights = DeviceBuffer::from_slice(device, &start)?;
    let mut velocity = DeviceBuffer::zeros(device, count)?;
    let of_others = DeviceBuffer::from_slice(device, &plain)?;
    let of_filters = Values::from_slice(device, &noise(12, filters), precision)?;
    let mut copies = Values::zeros(device, filters, precision)?;
    device.copy_weights(&weights, &mut copies)?;
    let bar = tolerance(precision);
    let (result, expected) = (copies.read()?, wide(&start[..filters]));
    found.push(Comparison::of_each(
        "copies of weights",
        precision,
        &result,
        &expected,
        bar,
    ));

    let descent = Descent {
        rate: 0.1,
        momentum: 0.9,
        decay: 0.01,
    };
    let mut on_device = DeviceDescent::new(device)?;
    on_device.set(descent)?;
    let [rate, momentum, decay] = [descent.rate, descent.momentum, descent.decay].map(f64::from);
    let mut gradient = wide(&of_filters.read()?);
    gradient.extend(wide(&plain[filters..]));
    let (mut w, mut v) = (wide(&start), vec![0.0; count]);
    for _ in 0..2 {
        let (velocity, copies) = (&mut velocity, &mut copies);
        device.descend(
            &on_device,
            &mut weights,
            velocity,
            &of_others,
            &of_filters,
            copies,
        )?;
        for at in 0..count {
            v[at] = momentum * v[at] + gradient[at] + decay * w[at];
            w[at] -= rate * v[at];
        }
    }
    let results = [weights.read()?, velocity.read()?, copies.read()?];
    let names = [
        "weights after two steps",
        "velocities",
        "copies after two steps",
    ];
    let copied = w[..filters].to_vec();
    let kinds = [Precision::F32, Precision::F32, precision];
    for (((name, result), expected), kind) in
        names.iter().zip(&results).zip([&w, &v, &copied]).zip(kinds)
    {
        let bar = tolerance(kind);
        found.push(Comparison::of_each(*name, precision, result, expected, bar));
    }
    Ok(())
}
