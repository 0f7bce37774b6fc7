//! The perceptrons' layers and their optimizer against the reference.

use super::reference::{moments, wide};
use super::{Comparison, noise, tolerance};
use crate::cuda::algorithm::Precision;
use crate::cuda::buffer::{DeviceBuffer, Place};
use crate::cuda::device::CudaDevice;
use crate::cuda::failure::Result;
use crate::cuda::matrix::{Matrix, MatrixPlace};
use crate::cuda::norm::NormParameters;
use crate::cuda::perceptron::{Activation, AdamStep, DeviceAdam, LayerEnd};

/// Rows, columns and terms: several blocks, and none of them full at the edges.
const ROWS: usize = 37;
const COLUMNS: usize = 70;
const DEPTH: usize = 45;
/// Columns of a wider matrix before those of a layer.
const MARGIN: usize = 3;
const LEAK: f64 = 0.2;

/// All of it is f32: compared once.
pub(super) fn perceptrons(
    device: &CudaDevice,
    precision: Precision,
    found: &mut Vec<Comparison>,
) -> Result<()> {
    if precision == Precision::F32 {
        products(device, found)?;
        norms(device, found)?;
        adam(device, found)?;
    }
    Ok(())
}

fn compare(found: &mut Vec<Comparison>, name: &str, result: &[f32], expected: &[f64]) {
    let (precision, bar) = (Precision::F32, tolerance(Precision::F32));
    found.push(Comparison::of_each(name, precision, result, expected, bar));
}

fn leaky(x: f64) -> f64 {
    if x > 0.0 { x } else { LEAK * x }
}

fn slope(y: f32) -> f64 {
    if y > 0.0 { 1.0 } else { LEAK }
}

/// Values of a matrix that lies in a wider one.
fn cut(values: &[f32], place: MatrixPlace) -> Vec<f32> {
    let rows = (0..place.rows).map(|row| place.offset + row * place.row_len);
    rows.flat_map(|start| values[start..start + place.columns].iter().copied())
        .collect()
}

/// A linear layer whose inputs and outputs lie within wider matrices, and all of it in f64.
struct Layer {
    inputs: DeviceBuffer<f32>,
    parameters: DeviceBuffer<f32>,
    gradient: DeviceBuffer<f32>,
    x: Vec<f64>,
    w: Vec<f64>,
    bias: Vec<f64>,
    g: Vec<f64>,
}

const WEIGHT: Place = Place {
    offset: 5,
    len: COLUMNS * DEPTH,
};
const BIAS: Place = Place {
    offset: WEIGHT.offset + WEIGHT.len,
    len: COLUMNS,
};

/// Columns behind the margin of a wider matrix.
fn wider(columns: usize) -> MatrixPlace {
    MatrixPlace::new(ROWS, MARGIN + columns).columns(MARGIN, columns)
}

fn weight_place() -> MatrixPlace {
    MatrixPlace {
        offset: WEIGHT.offset,
        ..MatrixPlace::new(COLUMNS, DEPTH)
    }
}

impl Layer {
    fn new(device: &CudaDevice) -> Result<Self> {
        let x = noise(20, ROWS * (MARGIN + DEPTH));
        let flat = noise(21, BIAS.offset + BIAS.len);
        let g = noise(22, ROWS * COLUMNS);
        Ok(Self {
            inputs: DeviceBuffer::from_slice(device, &x)?,
            parameters: DeviceBuffer::from_slice(device, &flat)?,
            gradient: DeviceBuffer::from_slice(device, &g)?,
            x: wide(&cut(&x, wider(DEPTH))),
            w: wide(&cut(&flat, weight_place())),
            bias: wide(&flat[BIAS.offset..]),
            g: wide(&g),
        })
    }

    fn inputs(&self) -> Matrix<'_> {
        Matrix::new(&self.inputs, wider(DEPTH))
    }

    fn weight(&self) -> Matrix<'_> {
        Matrix::new(&self.parameters, weight_place())
    }

    fn of_outputs(&self) -> Matrix<'_> {
        Matrix::new(&self.gradient, MatrixPlace::new(ROWS, COLUMNS))
    }
}

/// The three products of a linear layer, each with what it ends with.
fn products(device: &CudaDevice, found: &mut Vec<Comparison>) -> Result<()> {
    let layer = Layer::new(device)?;
    for (name, activation) in [
        ("linear layer", Activation::Identity),
        ("linear layer, leaky ReLU", Activation::LeakyRelu),
        ("linear layer, sigmoid", Activation::Sigmoid),
    ] {
        forward(device, &layer, (name, activation), found)?;
    }
    backward(device, &layer, found)?;
    elementwise(device, &layer, found)
}

fn forward(
    device: &CudaDevice,
    layer: &Layer,
    (name, activation): (&str, Activation),
    found: &mut Vec<Comparison>,
) -> Result<()> {
    let mut outputs = DeviceBuffer::zeros(device, ROWS * (MARGIN + COLUMNS))?;
    let end = LayerEnd {
        bias: Some((&layer.parameters, BIAS)),
        activation,
        gate: None,
    };
    let target = (&mut outputs, wider(COLUMNS));
    device.product(layer.inputs(), layer.weight().transposed(), end, target)?;
    let expected = (0..ROWS * COLUMNS).map(|at| {
        let (row, column) = (at / COLUMNS, at % COLUMNS);
        let terms = (0..DEPTH).map(|i| layer.x[row * DEPTH + i] * layer.w[column * DEPTH + i]);
        let sum = terms.sum::<f64>() + layer.bias[column];
        match activation {
            Activation::Identity => sum,
            Activation::LeakyRelu => leaky(sum),
            Activation::Sigmoid => 1.0 / (1.0 + (-sum).exp()),
        }
    });
    let expected: Vec<f64> = expected.collect();
    let all = outputs.read()?;
    compare(found, name, &cut(&all, wider(COLUMNS)), &expected);
    let margin = MatrixPlace::new(ROWS, MARGIN + COLUMNS).columns(0, MARGIN);
    let beside = cut(&all, margin);
    let untouched = vec![0.0; beside.len()];
    compare(found, "columns beside its outputs", &beside, &untouched);
    Ok(())
}

fn backward(device: &CudaDevice, layer: &Layer, found: &mut Vec<Comparison>) -> Result<()> {
    let Layer { x, w, g, .. } = layer;
    // The inputs' values are taken for the output of a leaky ReLU.
    let mut of_input = DeviceBuffer::zeros(device, ROWS * DEPTH)?;
    let end = LayerEnd {
        gate: Some((&layer.inputs, wider(DEPTH))),
        ..LayerEnd::default()
    };
    let target = (&mut of_input, MatrixPlace::new(ROWS, DEPTH));
    device.product(layer.of_outputs(), layer.weight(), end, target)?;
    let expected = (0..ROWS * DEPTH).map(|at| {
        let (row, i) = (at / DEPTH, at % DEPTH);
        let terms = (0..COLUMNS).map(|o| g[row * COLUMNS + o] * w[o * DEPTH + i]);
        terms.sum::<f64>() * slope(x[at] as f32)
    });
    let expected: Vec<f64> = expected.collect();
    let result = of_input.read()?;
    compare(found, "linear layer's input gradient", &result, &expected);

    let mut of_parameters = DeviceBuffer::zeros(device, BIAS.offset + BIAS.len)?;
    let target = (&mut of_parameters, weight_place());
    let of_outputs = layer.of_outputs().transposed();
    device.product(of_outputs, layer.inputs(), LayerEnd::default(), target)?;
    device.column_sums((&layer.gradient, ROWS), (&mut of_parameters, BIAS))?;
    let mut expected = vec![0.0; of_parameters.len()];
    for (at, g) in g.iter().enumerate() {
        let (row, output) = (at / COLUMNS, at % COLUMNS);
        expected[BIAS.offset + output] += g;
        for i in 0..DEPTH {
            expected[WEIGHT.offset + output * DEPTH + i] += g * x[row * DEPTH + i];
        }
    }
    let result = of_parameters.read()?;
    compare(
        found,
        "linear layer's parameter gradients",
        &result,
        &expected,
    );
    Ok(())
}

fn elementwise(device: &CudaDevice, layer: &Layer, found: &mut Vec<Comparison>) -> Result<()> {
    let mut copy = DeviceBuffer::zeros(device, ROWS * (MARGIN + DEPTH))?;
    let place = wider(DEPTH);
    device.copy_columns((&layer.inputs, place), (&mut copy, place))?;
    let mut expected = vec![0.0; copy.len()];
    for (at, x) in layer.x.iter().enumerate() {
        expected[at / DEPTH * (MARGIN + DEPTH) + MARGIN + at % DEPTH] = *x;
    }
    compare(found, "copied columns", &copy.read()?, &expected);

    let (g, ys) = (&layer.g, noise(23, ROWS * COLUMNS));
    let mut through = DeviceBuffer::zeros(device, g.len())?;
    let y = DeviceBuffer::from_slice(device, &ys)?;
    for (name, activation) in [
        ("gradient in front of a leaky ReLU", Activation::LeakyRelu),
        ("gradient in front of a sigmoid", Activation::Sigmoid),
    ] {
        device.through_function(&layer.gradient, &y, activation, &mut through)?;
        let expected = g.iter().zip(&ys).map(|(g, y)| match activation {
            Activation::Sigmoid => g * f64::from(*y) * (1.0 - f64::from(*y)),
            _ => g * slope(*y),
        });
        compare(found, name, &through.read()?, &expected.collect::<Vec<_>>());
    }
    Ok(())
}

/// Batch norm over rows with its leaky ReLU, and all of it in f64.
struct Norm {
    x: Vec<f32>,
    /// Scales, then shifts.
    flat: Vec<f32>,
    /// Means, then variances.
    running: Vec<f32>,
    input: DeviceBuffer<f32>,
    weights: DeviceBuffer<f32>,
}

const EPSILON: f64 = 1e-5;
const MOMENTUM: f32 = 0.1;
const LEN: usize = ROWS * COLUMNS;
const GAMMA: Place = Place {
    offset: 0,
    len: COLUMNS,
};
const BETA: Place = Place {
    offset: COLUMNS,
    len: COLUMNS,
};

impl Norm {
    fn new(device: &CudaDevice) -> Result<Self> {
        // A mean far from zero, and a column that hardly varies.
        let spread = |at: usize| {
            if at.is_multiple_of(COLUMNS) {
                3e-3
            } else {
                1.0
            }
        };
        let x = noise(30, LEN).into_iter().enumerate();
        let x: Vec<f32> = x.map(|(at, x)| 3.0 + spread(at) * x).collect();
        let flat = noise(31, 2 * COLUMNS);
        let mut running: Vec<f32> = noise(33, 2 * COLUMNS).iter().map(|x| 1.5 + x).collect();
        running[COLUMNS] = 1e-5;
        Ok(Self {
            input: DeviceBuffer::from_slice(device, &x)?,
            weights: DeviceBuffer::from_slice(device, &flat)?,
            running,
            x,
            flat,
        })
    }

    fn parameters(&self) -> NormParameters<'_> {
        NormParameters {
            weights: &self.weights,
            gamma: GAMMA,
            beta: BETA,
        }
    }

    /// The output where `normalized(at)` is x̂.
    fn output(&self, normalized: impl Fn(usize) -> f64) -> Vec<f64> {
        let value = |at: usize| {
            let column = at % COLUMNS;
            let [gamma, beta] = [self.flat[column], self.flat[COLUMNS + column]].map(f64::from);
            leaky(normalized(at) * gamma + beta)
        };
        (0..LEN).map(value).collect()
    }
}

fn norms(device: &CudaDevice, found: &mut Vec<Comparison>) -> Result<()> {
    let norm = Norm::new(device)?;
    let place = MatrixPlace::new(ROWS, COLUMNS + MARGIN).columns(0, COLUMNS);
    let mut running = DeviceBuffer::from_slice(device, &norm.running)?;
    let mut output = DeviceBuffer::zeros(device, ROWS * (COLUMNS + MARGIN))?;
    let of_running = (&running, GAMMA, BETA);
    device.fixed_norm_leaky(
        &norm.input,
        norm.parameters(),
        of_running,
        (&mut output, place),
    )?;
    let expected = norm.output(|at| {
        let column = at % COLUMNS;
        let [mean, variance] =
            [norm.running[column], norm.running[COLUMNS + column]].map(f64::from);
        (f64::from(norm.x[at]) - mean) / (variance + EPSILON).sqrt()
    });
    let result = cut(&output.read()?, place);
    compare(found, "batch norm over rows, fixed", &result, &expected);

    let mut statistics = DeviceBuffer::zeros(device, 2 * COLUMNS)?;
    device.norm_leaky(
        &norm.input,
        norm.parameters(),
        (&mut running, GAMMA, BETA),
        MOMENTUM,
        &mut statistics,
        (&mut output, place),
    )?;
    let (mean, variance) = moments(&norm.x, COLUMNS);
    let inverse = variance.iter().map(|v| 1.0 / (v + EPSILON).sqrt());
    let inverse: Vec<f64> = inverse.collect();
    let hat = |at: usize| (f64::from(norm.x[at]) - mean[at % COLUMNS]) * inverse[at % COLUMNS];
    let y = cut(&output.read()?, place);
    compare(found, "batch norm over rows", &y, &norm.output(hat));
    let unbiased = ROWS as f64 / (ROWS as f64 - 1.0);
    let newest = variance.iter().map(|v| v * unbiased);
    let newest = mean.iter().copied().chain(newest);
    let moved = norm.running.iter().zip(newest).map(|(old, new)| {
        let share = f64::from(MOMENTUM);
        (1.0 - share) * f64::from(*old) + share * new
    });
    let moved: Vec<f64> = moved.collect();
    compare(found, "its running statistics", &running.read()?, &moved);

    one_row(device, &norm, found)?;
    let g = noise(32, LEN);
    let gradient = DeviceBuffer::from_slice(device, &g)?;
    let mut of_x = DeviceBuffer::zeros(device, LEN)?;
    let mut of_parameters = DeviceBuffer::zeros(device, 2 * COLUMNS)?;
    device.norm_leaky_gradient(
        &gradient,
        (&norm.input, &statistics),
        (&output, place),
        norm.parameters(),
        &mut of_x,
        &mut of_parameters,
    )?;
    let through = |at: usize| f64::from(g[at]) * slope(y[at]);
    let mut sums = vec![0.0; 2 * COLUMNS];
    for at in 0..LEN {
        sums[at % COLUMNS] += through(at) * hat(at);
        sums[COLUMNS + at % COLUMNS] += through(at);
    }
    let expected = (0..LEN).map(|at| {
        let column = at % COLUMNS;
        let shared = sums[COLUMNS + column] + hat(at) * sums[column];
        f64::from(norm.flat[column]) * inverse[column] * (through(at) - shared / ROWS as f64)
    });
    let expected: Vec<f64> = expected.collect();
    compare(found, "its input's gradient", &of_x.read()?, &expected);
    let result = of_parameters.read()?;
    compare(found, "its parameters' gradients", &result, &sums);
    Ok(())
}

/// A batch of one row varies nowhere.
fn one_row(device: &CudaDevice, norm: &Norm, found: &mut Vec<Comparison>) -> Result<()> {
    let input = DeviceBuffer::from_slice(device, &norm.x[..COLUMNS])?;
    let mut running = DeviceBuffer::from_slice(device, &norm.running)?;
    let mut statistics = DeviceBuffer::zeros(device, 2 * COLUMNS)?;
    let mut output = DeviceBuffer::zeros(device, COLUMNS)?;
    device.norm_leaky(
        &input,
        norm.parameters(),
        (&mut running, GAMMA, BETA),
        MOMENTUM,
        &mut statistics,
        (&mut output, MatrixPlace::new(1, COLUMNS)),
    )?;
    let shifts = norm.flat[COLUMNS..].iter();
    let expected: Vec<f64> = shifts.map(|beta| leaky(f64::from(*beta))).collect();
    compare(found, "batch norm over one row", &output.read()?, &expected);
    let variances = norm.running[COLUMNS..].iter();
    let kept = 1.0 - f64::from(MOMENTUM);
    let kept: Vec<f64> = variances.map(|old| kept * f64::from(*old)).collect();
    let result = running.read()?;
    compare(found, "its running variances", &result[COLUMNS..], &kept);
    Ok(())
}

/// Two steps with different factors.
fn adam(device: &CudaDevice, found: &mut Vec<Comparison>) -> Result<()> {
    let count = 1003;
    let (start, gradients) = (noise(40, count), [noise(41, count), noise(42, count)]);
    let zeros = || DeviceBuffer::zeros(device, count);
    let mut weights = DeviceBuffer::from_slice(device, &start)?;
    let (mut first, mut second) = (zeros()?, zeros()?);
    let (mut w, mut m, mut v) = (wide(&start), vec![0.0; count], vec![0.0; count]);
    let mut on_device = DeviceAdam::new(device)?;
    for (gradient, (step_size, correction)) in gradients.iter().zip([(0.1, 0.05), (0.07, 0.08)]) {
        let step = AdamStep {
            first: [0.5, 0.5],
            second: [0.999, 0.001],
            step_size,
            correction,
            epsilon: 1e-3,
        };
        on_device.set(step)?;
        let on = DeviceBuffer::from_slice(device, gradient)?;
        device.adam(&on_device, &mut weights, [&mut first, &mut second], &on)?;
        let [step_size, correction] = [step_size, correction].map(f64::from);
        for (at, g) in wide(gradient).into_iter().enumerate() {
            m[at] = 0.5 * m[at] + 0.5 * g;
            v[at] = 0.999 * v[at] + 0.001 * g * g;
            w[at] -= step_size * m[at] / (v[at].sqrt() / correction + 1e-3);
        }
    }
    compare(
        found,
        "weights after two steps of Adam",
        &weights.read()?,
        &w,
    );
    compare(found, "its first moments", &first.read()?, &m);
    compare(found, "its second moments", &second.read()?, &v);
    Ok(())
}
