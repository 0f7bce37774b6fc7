//! The device's rates, and each convolution alone.

use std::cell::RefCell;

use anyhow::Result;
use mesa_kernels::ConvShape;
use mesa_kernels::cuda::{
    CHANNEL_MULTIPLE, Convolution, DeviceBuffer, Place, Precision, Values, noise,
};
use mesa_record::GpuRow;

use super::shapes::{Layer, resnet18};
use super::timer::{Timer, Work, precision_name};

/// As many values are drawn; larger buffers repeat them. A prime, so that rows do not repeat.
const DRAWN: usize = 1_048_573;

/// Rates of products in every precision, and of copies.
pub(super) fn rates(timer: &mut Timer) -> Result<Vec<GpuRow>> {
    let mut rows = copies(timer)?;
    let drawn = noise(1, DRAWN);
    for precision in [Precision::Bf16, Precision::Tf32, Precision::F32] {
        let mut large = timer.sizes().large.clone();
        if precision != Precision::Bf16 {
            // Slower by far, and no aim is a share of them.
            large.truncate(2);
        }
        for large in large {
            // One at a time: these are large.
            let images = large.images;
            let layer = large.layer();
            match Tensors::new(timer, &drawn, layer, images, precision) {
                Ok(tensors) => {
                    let tensors = RefCell::new(tensors);
                    let works = [true, false].map(|deterministic| {
                        let convolution =
                            convolution(timer, layer, images, precision, deterministic);
                        tensors_work(&tensors, convolution, Direction::Forward, deterministic)
                    });
                    rows.extend(timer.rows(works.into())?);
                }
                Err(error) => rows.push(GpuRow {
                    failed: Some(format!("{error:#}")),
                    ..row(layer, images, precision, true, Direction::Forward)
                }),
            }
        }
    }
    Ok(rows)
}

fn copies(timer: &mut Timer) -> Result<Vec<GpuRow>> {
    let len = timer.sizes().copied;
    let row = GpuRow {
        work: "copy on the device".to_owned(),
        deterministic: true,
        megabytes: 8e-6 * len as f64,
        ..GpuRow::default()
    };
    let make = || -> Result<_> {
        let source = DeviceBuffer::<f32>::zeros(timer.device(), len)?;
        Ok((source, DeviceBuffer::<f32>::zeros(timer.device(), len)?))
    };
    match make() {
        Ok((source, mut target)) => timer.rows(vec![Work {
            row,
            once: Box::new(move || Ok(target.copy_from(&source)?)),
            is_launches: false, // A copy is not recorded; it is a single request.
        }]),
        Err(error) => Ok(vec![GpuRow {
            failed: Some(format!("{error:#}")),
            ..row
        }]),
    }
}

/// Every convolution of the network in every direction: in bf16, deterministic and not, and TF32.
pub(super) fn convolutions(timer: &mut Timer) -> Result<Vec<GpuRow>> {
    let (width, images) = (timer.sizes().width, timer.sizes().batch_size);
    let drawn = noise(2, DRAWN);
    let mut rows = Vec::new();
    for (number, layer) in resnet18(width).into_iter().enumerate() {
        let made = [Precision::Bf16, Precision::Tf32]
            .map(|precision| Tensors::new(timer, &drawn, layer, images, precision));
        let [Ok(bf16), Ok(tf32)] = made else {
            let failed = made.into_iter().find_map(Result::err);
            rows.push(GpuRow {
                failed: failed.map(|error| format!("{error:#}")),
                ..row(layer, images, Precision::Bf16, true, Direction::Forward)
            });
            continue;
        };
        let (bf16, tf32) = (RefCell::new(bf16), RefCell::new(tf32));
        let mut works = Vec::new();
        for (tensors, precision, deterministic) in [
            (&bf16, Precision::Bf16, true),
            (&bf16, Precision::Bf16, false),
            (&tf32, Precision::Tf32, true),
        ] {
            for direction in [
                Direction::Forward,
                Direction::InputGradient,
                Direction::WeightGradient,
            ] {
                let convolution = convolution(timer, layer, images, precision, deterministic);
                let mut work = tensors_work(tensors, convolution, direction, deterministic);
                // In training nothing goes back to the image.
                if number == 0 && direction == Direction::InputGradient {
                    work.row.count = 0;
                }
                works.push(work);
            }
        }
        rows.extend(timer.rows(works)?);
    }
    Ok(rows)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    Forward,
    InputGradient,
    WeightGradient,
}

impl Direction {
    fn name(self) -> &'static str {
        match self {
            Self::Forward => "forward",
            Self::InputGradient => "input gradient",
            Self::WeightGradient => "weight gradient",
        }
    }
}

/// Inputs and outputs of one convolution in one precision. Zeros would take less power, so that
/// clocks would be higher: what is read is drawn.
struct Tensors {
    layer: Layer,
    images: usize,
    precision: Precision,
    input: Values,
    weights: Values,
    output: Values,
    input_gradient: Values,
    weight_gradient: Values,
}

impl Tensors {
    fn new(
        timer: &Timer,
        drawn: &[f32],
        layer: Layer,
        images: usize,
        precision: Precision,
    ) -> Result<Self> {
        let device = timer.device();
        let convolution = convolution(timer, layer, images, precision, true)?;
        let fill = |len: usize| {
            let values: Vec<f32> = drawn.iter().copied().cycle().take(len).collect();
            Values::from_slice(device, &values, precision)
        };
        let zeros = |len| Values::zeros(device, len, precision);
        Ok(Self {
            layer,
            images,
            precision,
            input: fill(convolution.input_len())?,
            weights: fill(convolution.weights_len())?,
            // The forward pass, which comes first, fills it.
            output: zeros(convolution.output_len())?,
            input_gradient: zeros(convolution.input_len())?,
            weight_gradient: zeros(convolution.weights_len())?,
        })
    }

    fn run(&mut self, convolution: &Convolution, direction: Direction) -> Result<()> {
        let place = Place {
            offset: 0,
            len: convolution.weights_len(),
        };
        match direction {
            Direction::Forward => {
                convolution.forward(&self.input, (&self.weights, place), &mut self.output)
            }
            Direction::InputGradient => convolution.input_gradient(
                (&self.weights, place),
                &self.output,
                &mut self.input_gradient,
                false,
            ),
            Direction::WeightGradient => convolution.weight_gradient(
                &self.input,
                &self.output,
                (&mut self.weight_gradient, place),
            ),
        }?;
        Ok(())
    }
}

/// As the device computes it: channels padded.
fn convolution(
    timer: &Timer,
    layer: Layer,
    images: usize,
    precision: Precision,
    deterministic: bool,
) -> Result<Convolution> {
    let shape = ConvShape {
        in_channels: layer.shape.in_channels.next_multiple_of(CHANNEL_MULTIPLE),
        out_channels: layer.shape.out_channels.next_multiple_of(CHANNEL_MULTIPLE),
        ..layer.shape
    };
    let size = (layer.side, layer.side);
    let device = timer.device();
    Ok(Convolution::new(
        device,
        shape,
        size,
        images,
        precision,
        deterministic,
    )?)
}

fn tensors_work<'a>(
    tensors: &'a RefCell<Tensors>,
    convolution: Result<Convolution>,
    direction: Direction,
    deterministic: bool,
) -> Work<'a> {
    let Tensors {
        layer,
        images,
        precision,
        ..
    } = *tensors.borrow();
    let once: Box<dyn FnMut() -> Result<()> + 'a> = match convolution {
        Ok(convolution) => Box::new(move || tensors.borrow_mut().run(&convolution, direction)),
        Err(error) => {
            let reason = format!("{error:#}");
            Box::new(move || anyhow::bail!("{reason}"))
        }
    };
    Work {
        row: row(layer, images, precision, deterministic, direction),
        once,
        is_launches: true,
    }
}

fn row(
    layer: Layer,
    images: usize,
    precision: Precision,
    deterministic: bool,
    direction: Direction,
) -> GpuRow {
    let ConvShape {
        in_channels,
        out_channels,
        ..
    } = layer.shape;
    let output_side = layer.shape.output_side(layer.side);
    let values = images * layer.side * layer.side * in_channels
        + images * output_side * output_side * out_channels
        + layer.shape.taps() * in_channels * out_channels;
    GpuRow {
        work: layer.name(),
        part: direction.name().to_owned(),
        precision: precision_name(precision).to_owned(),
        deterministic,
        count: layer.count,
        images,
        gflop: images as f64 * layer.gflop(),
        megabytes: 1e-6 * (values * precision.bytes()) as f64,
        ..GpuRow::default()
    }
}
