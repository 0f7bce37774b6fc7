//! Batch norm alone: each of its passes, at the size of each of the network's stages.

use std::cell::RefCell;

use anyhow::Result;
use mesa_kernels::cuda::{
    CHANNEL_MULTIPLE, CudaNorm, DeviceBuffer, Gate, NormParameters, OfResidual, Place, Precision,
    Values, noise,
};
use mesa_record::GpuRow;

use super::timer::{Timer, Work, precision_name};

/// The passes in bf16.
pub(super) fn norms(timer: &mut Timer) -> Result<Vec<GpuRow>> {
    let (width, images) = (timer.sizes().width, timer.sizes().batch_size);
    let mut rows = Vec::new();
    for stage in 0..4 {
        let (side, channels) = (32 >> stage, width << stage);
        let layer = match Layer::new(timer, images * side * side, channels) {
            Ok(layer) => RefCell::new(layer),
            Err(error) => {
                rows.push(GpuRow {
                    failed: Some(format!("{error:#}")),
                    ..row(&PASSES[0], (side, channels), images)
                });
                continue;
            }
        };
        let layer = &layer;
        let works = PASSES.map(|pass| Work {
            row: row(&pass, (side, channels), images),
            once: Box::new(move || layer.borrow_mut().run(pass.kind)),
            is_launches: true,
        });
        rows.extend(timer.rows(works.into())?);
    }
    Ok(rows)
}

#[derive(Clone, Copy)]
enum Kind {
    Moments,
    Normalize,
    Reduce,
    Apply { residual: bool },
}

#[derive(Clone, Copy)]
struct Pass {
    kind: Kind,
    name: &'static str,
    /// Feature maps that are read or written; notes of gates, a sixteenth of one, do not count.
    maps: usize,
    /// How often it comes in a stage, where convolutions leave it to batch norm.
    count: usize,
}

const PASSES: [Pass; 5] = [
    Pass {
        kind: Kind::Moments,
        name: "statistics",
        maps: 1,
        count: 5,
    },
    Pass {
        kind: Kind::Normalize,
        name: "normalize, ReLU",
        maps: 2,
        count: 5,
    },
    Pass {
        kind: Kind::Reduce,
        name: "gradient's sums",
        maps: 2,
        count: 5,
    },
    Pass {
        kind: Kind::Apply { residual: true },
        name: "gradient",
        maps: 4,
        count: 2,
    },
    Pass {
        kind: Kind::Apply { residual: false },
        name: "gradient, no residual",
        maps: 3,
        count: 3,
    },
];

fn row(pass: &Pass, (side, channels): (usize, usize), images: usize) -> GpuRow {
    let precision = Precision::Bf16;
    let values = pass.maps * images * side * side * channels;
    GpuRow {
        work: format!("batch norm, {channels} channels, {side}x{side}"),
        part: pass.name.to_owned(),
        precision: precision_name(precision).to_owned(),
        deterministic: true,
        count: pass.count,
        images,
        megabytes: 1e-6 * (values * precision.bytes()) as f64,
        ..GpuRow::default()
    }
}

/// A layer with all that its passes read.
struct Layer {
    norm: CudaNorm,
    raw: Values,
    output: Values,
    gradient: Values,
    residual: Values,
    weights: DeviceBuffer<f32>,
    running: DeviceBuffer<f32>,
    targets: DeviceBuffer<f32>,
    places: [Place; 2],
}

impl Layer {
    fn new(timer: &Timer, rows: usize, channels: usize) -> Result<Self> {
        let channels = channels.next_multiple_of(CHANNEL_MULTIPLE);
        let (device, precision) = (timer.device(), Precision::Bf16);
        let values = |seed| {
            let drawn = noise(seed, rows * channels);
            Values::from_slice(device, &drawn, precision)
        };
        let ones = || DeviceBuffer::from_slice(device, &vec![1.0; 2 * channels]);
        let place = |offset| Place {
            offset,
            len: channels,
        };
        Ok(Self {
            norm: CudaNorm::new(device, rows, channels, precision)?,
            raw: values(3)?,
            output: Values::zeros(device, rows * channels, precision)?,
            gradient: values(4)?,
            residual: values(5)?,
            weights: ones()?,
            running: ones()?,
            targets: ones()?,
            places: [place(0), place(channels)],
        })
    }

    fn run(&mut self, kind: Kind) -> Result<()> {
        let [first, second] = self.places;
        let (norm, raw) = (&mut self.norm, &self.raw);
        match kind {
            Kind::Moments => {
                let parameters = NormParameters {
                    weights: &self.weights,
                    gamma: first,
                    beta: second,
                };
                norm.take_moments(raw, parameters, (&mut self.running, first, second), 0.1)
            }
            Kind::Normalize => norm.normalize(raw, None, true, &mut self.output),
            Kind::Reduce => {
                let targets = (&mut self.targets, first, second);
                norm.reduce_gradient(&self.gradient, Gate::Noted, raw, targets)
            }
            Kind::Apply { residual } => {
                let target = residual.then_some(OfResidual::First(&mut self.residual));
                norm.apply_gradient(&mut self.gradient, Gate::Noted, raw, target)
            }
        }?;
        Ok(())
    }
}
