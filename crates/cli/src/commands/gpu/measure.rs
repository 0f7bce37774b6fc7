//! `mesa gpu measure`: rates, layers, steps, and the same steps in PyTorch.

use std::process::ExitCode;
use std::time::Instant;

use anyhow::Result;
use mesa_kernels::cuda::CudaDevice;
use mesa_record::{GpuRecord, GpuRow};

use super::check::{device_words, open};
use super::record::Recorder;
use super::shapes::Sizes;
use super::steps::Inputs;
use super::timer::Timer;
use super::{compare, layers, norms, steps};
use crate::{args, output};

pub(super) fn run(args: &args::GpuMeasure, json: bool) -> Result<ExitCode> {
    measure(args, |record| {
        output::result(json, record, &mesa_report::gpu_tables(record))
    })?;
    Ok(ExitCode::SUCCESS)
}

/// Measures everything, tells what was found, and only then fails if PyTorch's side did.
pub(super) fn measure(
    args: &args::GpuMeasure,
    tell: impl FnOnce(&GpuRecord) -> Result<()>,
) -> Result<()> {
    let started = Instant::now();
    let device = CudaDevice::open(args.on.gpu)?;
    let mut recorder = open(&device, &args.on)?;
    tracing::info!("{}", device_words(&recorder));
    let sizes = if args.quick {
        Sizes::quick()
    } else {
        Sizes::full()
    };
    let record = &mut recorder.record;
    record.quick = args.quick;
    (record.width, record.batch_size) = (sizes.width, sizes.batch_size);
    // Whatever another measurement left is gone, so that nothing old stands beside something new.
    record.rates.clear();
    record.layers.clear();
    record.steps.clear();
    record.comparisons.clear();
    record.peer = None;
    let inputs = sizes.evaluation_batch.max(4 * sizes.batch_size);
    let mut timer = Timer::new(&device, sizes)?;
    recorder.record.rates = part("rates", &mut recorder, || layers::rates(&mut timer))?;
    recorder.save()?;
    let inputs = Inputs::new(&device, timer.sizes().width, inputs)?;
    recorder.record.steps = part("steps", &mut recorder, || steps::steps(&mut timer, &inputs))?;
    recorder.save()?;
    recorder.record.layers = part("layers", &mut recorder, || layers::convolutions(&mut timer))?;
    recorder.save()?;
    let found = part("batch norm", &mut recorder, || norms::norms(&mut timer))?;
    recorder.record.layers.extend(found);
    recorder.save()?;
    let compared = compare::compare(args, &timer, &inputs, &mut recorder);
    recorder.save()?;
    tracing::info!(
        "{:.0} s; written to {}",
        started.elapsed().as_secs_f64(),
        recorder.path().display()
    );
    tell(&recorder.record)?;
    compared
}

/// Whether a record holds everything that would be measured, in these sizes; with PyTorch, if there
/// is one now.
pub(super) fn is_measured(record: &GpuRecord, quick: bool) -> bool {
    let parts = [&record.rates, &record.steps, &record.layers];
    record.quick == quick
        && parts.iter().all(|rows| !rows.is_empty())
        && !parts.into_iter().flatten().any(compare::ours_failed)
        && compare::is_compared(record)
}

/// Measures a part. One that fails is told of, and the others go on; not after Ctrl-C.
fn part(
    name: &str,
    recorder: &mut Recorder,
    measure: impl FnOnce() -> Result<Vec<GpuRow>>,
) -> Result<Vec<GpuRow>> {
    let started = Instant::now();
    match measure() {
        Ok(rows) => {
            let seconds = started.elapsed().as_secs_f64();
            tracing::info!("{name}: {} rows in {seconds:.1} s", rows.len());
            Ok(rows)
        }
        Err(error) if error.is::<crate::interrupt::Interrupted>() => {
            recorder.save()?;
            Err(error)
        }
        Err(error) => {
            tracing::warn!("{name}: {error:#}");
            Ok(vec![GpuRow {
                work: name.to_owned(),
                failed: Some(format!("{error:#}")),
                ..GpuRow::default()
            }])
        }
    }
}
