//! Recorded work against the same work started launch by launch.

use super::reference::wide;
use super::{Comparison, noise, tolerance};
use crate::cuda::algorithm::Precision;
use crate::cuda::buffer::{DeviceBuffer, Values};
use crate::cuda::device::CudaDevice;
use crate::cuda::failure::{CudaError, Result};
use crate::cuda::graph::Replays;
use crate::cuda::optimizer::{Descent, DeviceDescent};

const COUNT: usize = 1000;

/// Of which those of a convolution, which nothing moves here.
const FILTERS: usize = 4;

/// Which work.
#[derive(Copy, Clone, Debug, PartialEq)]
enum Work {
    Recorded,
    /// Does what no recording can hold.
    Allocating,
    /// With a gradient that is dropped while its recording lives on.
    Dropped,
}

/// Gradient descent whose rate changes from call to call.
struct Weights {
    values: DeviceBuffer<f32>,
    velocity: DeviceBuffer<f32>,
    copies: Values,
    none: Values,
    descent: DeviceDescent,
}

impl Weights {
    fn descend(&mut self, device: &CudaDevice, gradient: &DeviceBuffer<f32>) -> Result<()> {
        device.descend(
            &self.descent,
            &mut self.values,
            &mut self.velocity,
            gradient,
            &self.none,
            &mut self.copies,
        )
    }
}

/// Work that is recorded, work that is not because it cannot be, and a recording whose buffers are
/// given up by everybody else.
pub(super) fn recordings(
    device: &CudaDevice,
    precision: Precision,
    found: &mut Vec<Comparison>,
) -> Result<()> {
    // An opening of its own: what it refuses to record is no news of the other one.
    let device = &CudaDevice::open(device.ordinal())?;
    let (start, mut slopes) = (noise(80, COUNT), noise(81, COUNT));
    slopes[..FILTERS].fill(0.0);
    let mut weights = Weights {
        values: DeviceBuffer::from_slice(device, &start)?,
        velocity: DeviceBuffer::zeros(device, COUNT)?,
        copies: Values::zeros(device, FILTERS, precision)?,
        none: Values::zeros(device, FILTERS, precision)?,
        descent: DeviceDescent::new(device)?,
    };
    let lasting = DeviceBuffer::from_slice(device, &slopes)?;
    let mut passing = Some(DeviceBuffer::from_slice(device, &slopes)?);
    let mut replays = Replays::new(3);
    let (mut expected, mut rate) = (wide(&start), 0.01_f32);
    for turn in 0..4 {
        for work in [Work::Recorded, Work::Allocating, Work::Dropped] {
            rate *= 1.25;
            weights.descent.set(Descent {
                rate,
                momentum: 0.0,
                decay: 0.0,
            })?;
            replays.run(device, work, || {
                if work == Work::Allocating {
                    DeviceBuffer::<f32>::zeros(device, COUNT)?;
                }
                let gradient = match work {
                    Work::Dropped => passing.as_ref(),
                    _ => Some(&lasting),
                };
                let gone = || CudaError::argument("the gradient", "gone", "recorded");
                weights.descend(device, gradient.ok_or_else(gone)?)
            })?;
            for (weight, slope) in expected.iter_mut().zip(&slopes) {
                *weight -= f64::from(rate) * f64::from(*slope);
            }
        }
        if turn == 1 {
            passing = None;
        }
    }
    let mut compare = |name: &str, result: &[f32], expected: &[f64], bar: f64| {
        found.push(Comparison::of_each(name, precision, result, expected, bar));
    };
    let bar = tolerance(Precision::F32);
    compare(
        "work recorded, refused, outlived",
        &weights.values.read()?,
        &expected,
        bar,
    );
    let refused = f32::from(u8::from(device.recording_refused().is_some()));
    let numbers = [replays.recorded() as f32, refused];
    compare(
        "work that was recorded, and refused",
        &numbers,
        &[2.0, 1.0],
        0.0,
    );
    Ok(())
}
