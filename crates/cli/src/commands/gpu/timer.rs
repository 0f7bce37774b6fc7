//! How long work takes on the GPU: for whoever waits for it, for the host, for the device itself.

use std::time::{Duration, Instant};

use anyhow::Result;
use mesa_kernels::cuda::{Convolution, CudaDevice, Place, Precision, Replays, Values};
use mesa_record::{GpuRow, GpuTime};

use super::rounds::{Sample, interleave, repetitions};
use super::shapes::{Large, Sizes};

/// The most repetitions that are asked for at once: a stream takes about a thousand requests, and
/// then the host waits.
const MOST_QUEUED: usize = 8;

/// Takes times on one device.
#[derive(Debug)]
pub(super) struct Timer {
    device: CudaDevice,
    sizes: Sizes,
    busy: Busy,
}

/// Something that keeps the device busy while the host asks for what is measured, so that the
/// device never waits for a request in between.
#[derive(Debug)]
struct Busy {
    convolution: Convolution,
    input: Values,
    weights: Values,
    output: Values,
    /// Seconds of one.
    takes: f64,
}

/// One kind of work: what is known of it, and what does it once.
pub(super) struct Work<'a> {
    pub(super) row: GpuRow,
    pub(super) once: Box<dyn FnMut() -> Result<()> + 'a>,
    /// Whether it does nothing but start launches, so that it can be recorded. On the device's
    /// clock a recording is what a step makes of it; launch by launch the host may be slower than
    /// the device, however much it is ahead. Steps record themselves.
    pub(super) is_launches: bool,
}

/// A work in its turns.
struct Turn<'a> {
    work: Work<'a>,
    /// How often a turn repeats it, once that is known.
    each: Option<usize>,
    replays: Replays<()>,
}

impl Timer {
    /// Makes the device warm.
    pub(super) fn new(device: &CudaDevice, sizes: Sizes) -> Result<Self> {
        let mut timer = Self {
            device: device.clone(),
            busy: Busy::new(device, sizes.large[0])?,
            sizes,
        };
        timer.busy.once()?;
        device.synchronize()?;
        let started = Instant::now();
        let mut count = 0;
        while count == 0 || started.elapsed() < Duration::from_secs_f64(timer.sizes.warm_s) {
            for _ in 0..timer.sizes.most {
                timer.busy.once()?;
                count += 1;
            }
            device.synchronize()?;
        }
        timer.busy.takes = started.elapsed().as_secs_f64() / f64::from(count);
        Ok(timer)
    }

    /// The times of every work, taken in turns. What fails has its reason instead.
    pub(super) fn rows(&mut self, works: Vec<Work<'_>>) -> Result<Vec<GpuRow>> {
        let turn = |work| Turn {
            work,
            each: None,
            replays: Replays::new(1),
        };
        let mut turns: Vec<Turn<'_>> = works.into_iter().map(turn).collect();
        let rounds = self.sizes.rounds;
        let times = interleave(&mut turns, rounds, |turn| self.sample(turn))?;
        let found = turns.into_iter().zip(times);
        Ok(found
            .map(|(turn, time)| with(turn.work.row, time))
            .collect())
    }

    /// Does a work for the first time, when algorithms are chosen, and finds out how often a turn
    /// repeats it.
    fn first(&self, once: &mut dyn FnMut() -> Result<()>) -> Result<usize> {
        once()?;
        self.device.synchronize()?;
        let started = Instant::now();
        once()?;
        self.device.synchronize()?;
        let takes = started.elapsed().as_secs_f64();
        Ok(repetitions(takes, self.sizes.turn_s, self.sizes.most))
    }

    /// Finds out how often a turn repeats a work, and records it where it can be.
    fn first_turn(&self, turn: &mut Turn<'_>) -> Result<usize> {
        let once = &mut *turn.work.once;
        let each = *turn.each.insert(self.first(once)?);
        if turn.work.is_launches {
            let mut all = || (0..each.min(MOST_QUEUED)).try_for_each(|_| once());
            // At first it runs as it is, the second time it is recorded.
            for _ in 0..2 {
                turn.replays.run(&self.device, (), &mut all)?;
            }
            let refused = self.device.recording_refused();
            if let Some(reason) = refused.filter(|_| turn.replays.recorded() == 0) {
                let work = &turn.work.row.work;
                tracing::warn!("{work}: its device time may be the host's: {reason}");
            }
        }
        Ok(each)
    }

    fn sample(&mut self, turn: &mut Turn<'_>) -> Result<Sample> {
        let each = match turn.each {
            Some(each) => each,
            None => self.first_turn(turn)?,
        };
        let once = &mut *turn.work.once;
        self.device.synchronize()?;
        let started = Instant::now();
        for _ in 0..each {
            once()?;
        }
        let host = started.elapsed().as_secs_f64();
        self.device.synchronize()?;
        let wall = started.elapsed().as_secs_f64();
        let host_s = host / each as f64;
        let queued = each.min(MOST_QUEUED);
        let (device, replays) = (self.device.clone(), &mut turn.replays);
        let mut all = || (0..queued).try_for_each(|_| once());
        let mut work = || {
            if turn.work.is_launches {
                replays.run(&device, (), &mut all)
            } else {
                all()
            }
        };
        let device = self.by_its_own_clock(host_s * queued as f64, &mut work)?;
        Ok(Sample {
            host: host_s,
            wall: wall / each as f64,
            device: device / queued as f64,
        })
    }

    /// Seconds on the device's clock, everything asked for beforehand, which takes `host_s`.
    fn by_its_own_clock(
        &mut self,
        host_s: f64,
        work: &mut dyn FnMut() -> Result<()>,
    ) -> Result<f64> {
        // Half as much again as the requests take.
        let blocks = repetitions(self.busy.takes, 1.5 * host_s, 400);
        for _ in 0..=blocks.min(self.sizes.most * 8) {
            self.busy.once()?;
        }
        let start = self.device.mark()?;
        work()?;
        let end = self.device.mark()?;
        Ok(start.until(&end)?.as_secs_f64())
    }

    pub(super) fn device(&self) -> &CudaDevice {
        &self.device
    }

    pub(super) fn sizes(&self) -> &Sizes {
        &self.sizes
    }
}

impl Busy {
    fn new(device: &CudaDevice, large: Large) -> Result<Self> {
        let precision = Precision::Bf16;
        let (shape, side) = (large.layer().shape, large.side);
        let size = (side, side);
        let convolution = Convolution::new(device, shape, size, large.images, precision, true)?;
        convolution.prepare(false, false)?;
        let zeros = |len| Values::zeros(device, len, precision);
        Ok(Self {
            input: zeros(convolution.input_len())?,
            weights: zeros(convolution.weights_len())?,
            output: zeros(convolution.output_len())?,
            convolution,
            takes: 0.0,
        })
    }

    fn once(&mut self) -> Result<()> {
        let place = Place {
            offset: 0,
            len: self.convolution.weights_len(),
        };
        let weights = (&self.weights, place);
        Ok(self
            .convolution
            .forward(&self.input, weights, &mut self.output)?)
    }
}

fn with(row: GpuRow, time: Result<GpuTime, String>) -> GpuRow {
    match time {
        Ok(time) => GpuRow {
            time: Some(time),
            ..row
        },
        Err(reason) => GpuRow {
            failed: Some(reason),
            ..row
        },
    }
}

/// As records call it.
pub(super) fn precision_name(precision: Precision) -> &'static str {
    match precision {
        Precision::F32 => "f32",
        Precision::Tf32 => "tf32",
        Precision::Bf16 => "bf16",
    }
}
