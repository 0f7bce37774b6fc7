//! Our steps beside PyTorch's, in turns.

use std::ffi::OsString;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use mesa_kernels::cuda::Precision;
use mesa_models::cuda::CudaSettings;
use mesa_record::{GpuComparison, GpuRecord, GpuRow};

use super::peer::{Peer, PeerSizes, Way, has_torch, python, write_scripts};
use super::record::Recorder;
use super::rounds::{Sample, median, repetitions, rounded, time};
use super::shapes::Sizes;
use super::steps::{FIT, Inputs, TRAINING, TRIGGERS};
use super::timer::Timer;
use crate::args::GpuMeasure;

/// How PyTorch computes a step: the peer's name of it, ours, its variant, and whether it compiles.
const WAYS: [(&str, &str, &str, bool); 8] = [
    ("train", TRAINING, "eager", false),
    ("train", TRAINING, "compile", true),
    ("train", TRAINING, "reduce-overhead", true),
    ("mesa", TRIGGERS, "eager", false),
    ("mesa", TRIGGERS, "compile", true),
    ("mesa", TRIGGERS, "reduce-overhead", true),
    ("mesa-frozen", TRIGGERS, "eager", false),
    ("fit", FIT, "eager", false),
];

/// What PyTorch reaches of the device's rates, and what one of it is.
const RATES: [&str; 2] = ["matrices", "copy"];

/// What the names of their rows end with.
const OF_PYTORCH: &str = ", PyTorch";

/// Why there may be nothing of PyTorch's.
const NOT_ASKED_FOR: &str = "not asked for";
const NO_TORCH: &str = "no torch";

/// Turns of each pair.
const ROUNDS: usize = 7;
/// How long a turn lasts, about.
const TURN_S: f64 = 0.08;
/// How long PyTorch may take that compiles nothing: importing it, choosing algorithms.
const EAGER: Duration = Duration::from_secs(45);

/// Compares, as far as there is something to compare with, and writes the record after each step.
pub(super) fn compare(
    args: &GpuMeasure,
    timer: &Timer,
    inputs: &Inputs,
    recorder: &mut Recorder,
) -> Result<()> {
    let python = python();
    let reason = if args.no_peer {
        Some(NOT_ASKED_FOR)
    } else if has_torch(&python) {
        None
    } else {
        Some(NO_TORCH)
    };
    if let Some(reason) = reason {
        tracing::info!("PyTorch: not measured: {reason}");
        recorder.record.comparisons = WAYS
            .iter()
            .map(|(work, _, variant, _)| not_measured(work, variant, reason))
            .collect();
        recorder.record.peer = Some(format!("not measured: {reason}"));
        return recorder.save();
    }
    let folder = args.on.out.join("peer");
    let mut peers = start(args, &python, &folder, timer.sizes(), recorder)?;
    recorder.save()?;
    rates(&mut peers, timer.sizes(), recorder)?;
    for (ours, works) in [
        (TRAINING, &["train"][..]),
        (TRIGGERS, &["mesa", "mesa-frozen"]),
        (FIT, &["fit"]),
    ] {
        let (its, others) = peers
            .into_iter()
            .partition(|peer| works.contains(&peer.way.work));
        peers = others;
        let found = turns(ours, its, timer, inputs)?;
        recorder.record.comparisons.extend(found);
        recorder.record.comparisons.sort_by_key(place);
        recorder.save()?;
    }
    Ok(())
}

/// Whether one of our own rates could not be measured. A peer that failed would fail again.
pub(super) fn ours_failed(row: &GpuRow) -> bool {
    row.failed.is_some() && !row.work.ends_with(OF_PYTORCH)
}

/// Whether a record holds every way, or the reason that there is none still holds.
pub(super) fn is_compared(record: &GpuRecord) -> bool {
    let has_row = |(work, _, variant, _): &(&str, &str, &str, bool)| {
        let mut rows = record.comparisons.iter();
        rows.any(|row| row.work == *work && row.variant == *variant)
    };
    let left_out = |reason| {
        let rows = &record.comparisons;
        rows.iter().all(|row| row.failed.as_deref() == Some(reason))
    };
    WAYS.iter().all(has_row)
        && !left_out(NOT_ASKED_FOR)
        && !(left_out(NO_TORCH) && has_torch(&python()))
}

/// Starts every way at once and waits for all of them; those that do not make it are in the record
/// with the reason.
fn start(
    args: &GpuMeasure,
    python: &OsString,
    folder: &Path,
    sizes: &Sizes,
    recorder: &mut Recorder,
) -> Result<Vec<Peer>> {
    let script = write_scripts(folder).context("writing PyTorch's side")?;
    let compile = Duration::from_secs(args.compile_s.into());
    let peer_sizes = PeerSizes {
        width: sizes.width,
        batch_size: sizes.batch_size,
        quick: args.quick,
    };
    let rates = RATES.map(|work| (work, "", "eager", false));
    let mut started = Vec::new();
    for (work, _, variant, compiles) in rates.into_iter().chain(WAYS) {
        if compiles && compile.is_zero() {
            let reason = "compiling was not asked for";
            recorder
                .record
                .comparisons
                .push(not_measured(work, variant, reason));
            continue;
        }
        let way = Way { work, variant };
        let limit = if compiles { compile } else { EAGER };
        started.push((
            Peer::start(python, &script, way, peer_sizes, args.on.gpu)?,
            limit,
        ));
    }
    tracing::info!("PyTorch: {} processes start and compile", started.len());
    let began = Instant::now();
    let mut ready = Vec::new();
    for (mut peer, limit) in started {
        crate::interrupt::check()?;
        let Way { work, variant } = peer.way;
        match peer.wait(limit) {
            Ok(()) => {
                recorder.record.peer = Some(peer.name.clone());
                ready.push(peer);
            }
            Err(error) => {
                tracing::warn!("PyTorch, {work}, {variant}: {error:#}");
                if !RATES.contains(&work) {
                    let failed = not_measured(work, variant, &format!("{error:#}"));
                    recorder.record.comparisons.push(failed);
                }
                let peer = || format!("not measured: {error:#}");
                recorder.record.peer.get_or_insert_with(peer);
            }
        }
    }
    tracing::info!(
        "PyTorch: {} ready after {:.0} s",
        ready.len(),
        began.elapsed().as_secs_f64()
    );
    Ok(ready)
}

/// PyTorch's product of matrices and copy, among the device's rates.
fn rates(peers: &mut [Peer], sizes: &Sizes, recorder: &mut Recorder) -> Result<()> {
    for peer in peers
        .iter_mut()
        .filter(|peer| RATES.contains(&peer.way.work))
    {
        let side = if recorder.record.quick { 64 } else { 8192_u32 };
        let (work, precision, gflop, megabytes) = if peer.way.work == "copy" {
            (
                format!("copy{OF_PYTORCH}"),
                "",
                0.0,
                8e-6 * sizes.copied as f64,
            )
        } else {
            let gflop = 2e-9 * f64::from(side).powi(3);
            (
                format!("product of {side}x{side} matrices{OF_PYTORCH}"),
                "bf16",
                gflop,
                0.0,
            )
        };
        let mut row = GpuRow {
            work,
            precision: precision.to_owned(),
            gflop,
            megabytes,
            ..GpuRow::default()
        };
        let mut samples = Vec::new();
        for _ in 0..ROUNDS {
            match peer.go(sizes.most.min(20)) {
                Ok(seconds) => samples.push(Sample {
                    wall: seconds,
                    ..Sample::default()
                }),
                Err(error) => {
                    row.failed = Some(format!("{error:#}"));
                    break;
                }
            }
        }
        row.time = (!samples.is_empty()).then(|| time(&samples));
        recorder.record.rates.push(row);
    }
    recorder.save()
}

/// One side of the turns: what takes so many steps and says the seconds of one.
struct Side<'a> {
    go: Box<dyn FnMut(usize) -> Result<f64> + 'a>,
    each: usize,
    taken: Vec<f64>,
    failed: Option<String>,
}

impl<'a> Side<'a> {
    fn new(go: impl FnMut(usize) -> Result<f64> + 'a) -> Self {
        Self {
            go: Box::new(go),
            each: 0,
            taken: Vec::new(),
            failed: None,
        }
    }

    fn turn(&mut self, turn_s: f64, most: usize) {
        if self.failed.is_some() {
            return;
        }
        let mut go = || {
            if self.each == 0 {
                let seconds = (self.go)(2.min(most))?;
                self.each = repetitions(seconds, turn_s, most);
            }
            (self.go)(self.each)
        };
        match go() {
            Ok(seconds) => self.taken.push(seconds),
            Err(error) => self.failed = Some(format!("{error:#}")),
        }
    }
}

/// Ours in bf16, deterministic, and every way of PyTorch's.
fn turns(
    work: &str,
    mut peers: Vec<Peer>,
    timer: &Timer,
    inputs: &Inputs,
) -> Result<Vec<GpuComparison>> {
    let (device, sizes) = (timer.device(), timer.sizes());
    let settings = CudaSettings {
        precision: Precision::Bf16,
        deterministic: true,
    };
    let mut once = match work {
        TRAINING => inputs.training(device, settings, sizes.batch_size),
        TRIGGERS => inputs.gradient(device, settings, sizes.batch_size),
        FIT => inputs.fit(device, settings, (sizes.perceptrons, sizes.batch_size)),
        other => bail!("`{other}` is not compared"),
    }?;
    let ways: Vec<_> = peers.iter().map(|peer| (peer.way, peer.ready_s)).collect();
    let mut sides = vec![Side::new(|steps| {
        // As PyTorch's side: one that does not count, and then all of them waited for.
        once()?;
        device.synchronize()?;
        let started = Instant::now();
        for _ in 0..steps {
            once()?;
        }
        device.synchronize()?;
        Ok(started.elapsed().as_secs_f64() / steps as f64)
    })];
    sides.extend(
        peers
            .iter_mut()
            .map(|peer| Side::new(|steps| peer.go(steps))),
    );
    let (turn_s, most) = if sizes.most == 1 {
        (0.0, 1)
    } else {
        (TURN_S, 1000)
    };
    for _ in 0..ROUNDS {
        for side in &mut sides {
            crate::interrupt::check()?;
            side.turn(turn_s, most);
        }
    }
    let (ours, others) = sides.split_at(1);
    Ok(ways
        .into_iter()
        .zip(others)
        .map(|((way, ready_s), side)| pair(way, ready_s, &ours[0], side))
        .collect())
}

fn pair(way: Way, ready_s: f64, ours: &Side<'_>, peer: &Side<'_>) -> GpuComparison {
    let failed = ours.failed.clone().or_else(|| peer.failed.clone());
    let pairs = ours.taken.iter().zip(&peer.taken);
    let (ours_s, peer_s) = (median(&ours.taken), median(&peer.taken));
    GpuComparison {
        work: way.work.to_owned(),
        variant: way.variant.to_owned(),
        ours_s: rounded(ours_s),
        peer_s: rounded(peer_s),
        ratio: if failed.is_none() {
            rounded(peer_s / ours_s)
        } else {
            0.0
        },
        pairs: pairs.map(|(ours, peer)| rounded(peer / ours)).collect(),
        ready_s,
        failed,
    }
}

/// In which order ways are shown.
fn place(row: &GpuComparison) -> Option<usize> {
    WAYS.iter()
        .position(|(work, _, variant, _)| row.work == *work && row.variant == *variant)
}

fn not_measured(work: &str, variant: &str, reason: &str) -> GpuComparison {
    GpuComparison {
        work: work.to_owned(),
        variant: variant.to_owned(),
        failed: Some(reason.to_owned()),
        ..GpuComparison::default()
    }
}
