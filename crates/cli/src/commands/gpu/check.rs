//! `mesa gpu check`: kernels and steps against the processor's.

use std::process::ExitCode;

use anyhow::{Context, Result};
use mesa_kernels::cuda::{Comparison, CudaDevice, check_kernels};
use mesa_models::cuda::check_steps;
use mesa_record::{GpuCheck, GpuChecked, processor};

use super::record::{Recorder, cuda_words, dnn_words, driver_version};
use super::timer::precision_name;
use crate::{args, output};

pub(super) fn run(args: &args::GpuCheck, json: bool) -> Result<ExitCode> {
    let mut checked = Vec::new();
    let check = check(&args.on, args.quick, &mut |said| {
        if !json {
            match &said {
                Said::Device(words) => output::text(words)?,
                Said::Compared(one) => output::text(&line(one))?,
            }
        }
        if let Said::Compared(one) = said {
            checked.push(one);
        }
        Ok(())
    })?;
    output::result(json, &checked, &words(&check))?;
    Ok(if check.failed.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// What a check says while it goes on.
pub(super) enum Said {
    /// What it runs on.
    Device(String),
    /// One comparison is made.
    Compared(GpuChecked),
}

/// Makes every comparison, or with `quick` those that do not take long on any device, and writes the
/// record.
pub(super) fn check(
    on: &args::OnGpu,
    quick: bool,
    tell: &mut dyn FnMut(Said) -> Result<()>,
) -> Result<GpuCheck> {
    let device = CudaDevice::open(on.gpu)?;
    let mut recorder = open(&device, on)?;
    tell(Said::Device(device_words(&recorder)))?;
    let mut checked = Vec::new();
    let mut told = |found: Vec<Comparison>| -> Result<()> {
        for one in found {
            let one = checked_of(one);
            checked.push(one.clone());
            tell(Said::Compared(one))?;
        }
        Ok(())
    };
    told(check_kernels(&device))?;
    crate::interrupt::check()?;
    let steps = check_steps(&device, quick);
    if let Ok(steps) = &steps {
        told(steps.clone())?;
    }
    let mut check = summary(&checked, quick);
    if let Err(error) = &steps {
        check.failed.push(GpuChecked {
            name: format!("whole steps: {error}"),
            ..GpuChecked::default()
        });
    }
    recorder.record.check = Some(check.clone());
    recorder.save()?;
    steps.context("making the inputs of whole steps")?;
    Ok(check)
}

/// What a check came to.
pub(super) fn words(check: &GpuCheck) -> String {
    let count = check.comparisons;
    match check.failed.len() {
        0 => format!("{count} comparisons, all within their tolerance"),
        1 => format!("1 of {count} comparisons misses its tolerance"),
        failed => format!("{failed} of {count} comparisons miss their tolerance"),
    }
}

/// The record of this device in the folder that was named.
pub(super) fn open(device: &CudaDevice, on: &args::OnGpu) -> Result<Recorder> {
    let versions = device.versions()?;
    let machine = mesa_record::GpuMachine {
        device: device.name().to_owned(),
        memory_mb: device.memory()?.total >> 20,
        driver: driver_version(),
        cuda: cuda_words(versions.driver),
        cudnn: dnn_words(versions.dnn),
        processor: processor(),
    };
    Ok(Recorder::open(&on.out, machine))
}

/// The device in a line.
pub(super) fn device_words(recorder: &Recorder) -> String {
    mesa_report::gpu_words(&recorder.record)
}

fn checked_of(one: Comparison) -> GpuChecked {
    GpuChecked {
        passed: one.passed(),
        precision: precision_name(one.precision).to_owned(),
        error: one.error.is_finite().then_some(one.error),
        tolerance: one.tolerance,
        name: one.name,
    }
}

/// A comparison in a line.
pub(super) fn line(one: &GpuChecked) -> String {
    let verdict = if one.passed { "ok" } else { "WRONG" };
    let error = one
        .error
        .map_or_else(|| "-".to_owned(), |error| format!("{error:.1e}"));
    format!(
        "{verdict:5} {:4} {error:>7} of {:.0e}  {}",
        one.precision, one.tolerance, one.name
    )
}

fn summary(checked: &[GpuChecked], quick: bool) -> GpuCheck {
    let used = |one: &GpuChecked| match one.error {
        // Where nothing may differ, what passed came as close as it may.
        Some(0.0) => 0.0,
        Some(error) => error / one.tolerance,
        None => f64::INFINITY,
    };
    let closest = ["f32", "tf32", "bf16"].into_iter().filter_map(|precision| {
        let of_it = checked.iter().filter(|one| one.precision == precision);
        of_it.max_by(|a, b| used(a).total_cmp(&used(b))).cloned()
    });
    GpuCheck {
        comparisons: checked.len(),
        failed: checked.iter().filter(|one| !one.passed).cloned().collect(),
        closest: closest.collect(),
        quick,
    }
}
