//! `mesa gpu all`: check, measurement, the paper's main result, archive.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::Result;
use mesa_kernels::cuda::CudaDevice;
use mesa_record::{GpuCheck, GpuRecord, RunDir, StepRecord, Summary, read_json};
use mesa_report::{GpuAllParts, gpu_all_table};
use serde_json::json;

use super::check::{self, Said};
use super::measure::{self, is_measured};
use super::{pack, record};
use crate::args::{
    COMPILE_S, DeviceArgs, DeviceName, GpuAll, GpuMeasure, OnGpu, Pace, PrecisionName, Running,
    SaveEvery, Selection, Sources,
};
use crate::commands::run::{Chosen, Ready};
use crate::interrupt::{self, Interrupted};
use crate::pipeline::Chain;
use crate::progress::duration;
use crate::{inputs, output};

/// The methods of the paper's main result; `mesa` is every β of the settings.
const METHODS: &str = "no-trigger,mesa,ensemble:turns,ensemble:weighted,ideal";

/// How often unfinished work is saved, in seconds.
const SAVE_EVERY: f64 = 15.0;

/// What the time of a part says that was not done again.
const THERE: &str = "there already";

pub(super) fn run(args: &GpuAll, json: bool, threads: usize) -> Result<ExitCode> {
    let deadline = interrupt::deadline_after(args.minutes);
    // What is missing is found out now, not after the measurement.
    let (name, _) = inputs::settings(&args.preset, "paper")?;
    let folder = args.out.join(match name.as_str() {
        "paper" => "paper-w64",
        other => other,
    });
    let selection = selection(args, &folder);
    let chosen = Chosen::new(&selection, "paper")?;
    let (chains, methods) = (chosen.chains.clone(), chosen.methods.clone());
    let ready = Ready::new(chosen, &selection, &running(), threads)?;

    let mut all = All {
        args,
        json,
        on: OnGpu {
            gpu: 0,
            out: args.out.join("gpu"),
        },
        check_time: String::new(),
        measure_time: String::new(),
    };
    let ended = all.go(ready, deadline);
    let methods: Vec<String> = methods.iter().map(ToString::to_string).collect();
    let packed = all.end(&RunDir::new(&folder), &chains, &methods);
    match ended {
        Ok(code) => packed.map(|()| code),
        Err(error) => {
            if let Err(also) = packed {
                tracing::error!("{also:#}");
            }
            Err(error)
        }
    }
}

/// The command under way.
struct All<'a> {
    args: &'a GpuAll,
    json: bool,
    on: OnGpu,
    check_time: String,
    measure_time: String,
}

impl All<'_> {
    /// All parts but the last, the archive.
    fn go(&mut self, ready: Ready, deadline: Option<Instant>) -> Result<ExitCode> {
        let check = self.check()?;
        for one in &check.failed {
            tracing::error!("{}", check::line(one));
        }
        if !check.failed.is_empty() && !self.args.even_if_wrong {
            tracing::error!("{}; --even-if-wrong goes on", check::words(&check));
            return Ok(ExitCode::FAILURE);
        }
        let measured = self.measure();
        if let Err(error) = &measured {
            if error.is::<Interrupted>() {
                return measured.map(|()| ExitCode::FAILURE);
            }
            // The GPU is hard to come by: the rest may still be done.
            tracing::error!("{error:#}");
        }
        let pace = Pace {
            workers: self.args.workers,
            time_limit: None,
        };
        let done = ready.finish(&pace, deadline)?;
        self.print(&done.tables())?;
        done.succeed()?;
        Ok(if measured.is_ok() {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        })
    }

    fn check(&mut self) -> Result<GpuCheck> {
        if let Some(check) = self
            .earlier()?
            .check
            .filter(|check| check.failed.is_empty() && (self.args.quick || !check.quick))
        {
            tracing::info!("the check of this machine with this program is there");
            THERE.clone_into(&mut self.check_time);
            return Ok(check);
        }
        let started = Instant::now();
        let check = check::check(&self.on, self.args.quick, &mut |said| {
            if let Said::Device(words) = said {
                tracing::info!("{words}");
            }
            Ok(())
        })?;
        self.check_time = duration(started.elapsed().as_secs_f64());
        tracing::info!("{}", check::words(&check));
        Ok(check)
    }

    fn measure(&mut self) -> Result<()> {
        interrupt::check()?;
        if is_measured(&self.earlier()?, self.args.quick) {
            tracing::info!("the measurement of this machine by this program is there");
            THERE.clone_into(&mut self.measure_time);
            return Ok(());
        }
        let started = Instant::now();
        let measure = GpuMeasure {
            on: self.on.clone(),
            compile_s: COMPILE_S,
            no_peer: false,
            quick: self.args.quick,
        };
        let measured = measure::measure(&measure, |record| {
            self.print(&mesa_report::gpu_tables(record))
        });
        self.measure_time = duration(started.elapsed().as_secs_f64());
        measured
    }

    /// What is recorded of this machine by this program.
    fn earlier(&self) -> Result<GpuRecord> {
        let device = CudaDevice::open(self.on.gpu)?;
        Ok(check::open(&device, &self.on)?.record)
    }

    fn print(&self, text: &str) -> Result<()> {
        if self.json {
            return Ok(());
        }
        output::text(text)
    }

    /// Writes the archive and tells what all of it came to, from what is recorded by now.
    fn end(&self, run: &RunDir, chains: &[Chain], methods: &[String]) -> Result<()> {
        let to = self.args.pack.clone();
        let to = to.unwrap_or_else(|| self.args.out.join("records.tar.gz"));
        let folders: Vec<PathBuf> = [self.on.out.as_path(), run.root()]
            .into_iter()
            .filter(|folder| pack::has_record(folder))
            .map(Path::to_path_buf)
            .collect();
        let packed = if folders.is_empty() {
            tracing::warn!("there is nothing to pack yet");
            Vec::new()
        } else {
            pack::write(&folders, &to)?
        };
        let record = read_json::<GpuRecord>(&self.on.out.join(record::FILE)).ok();
        let summary = run.read_summary()?;
        let clean: Option<StepRecord> = read_json(&run.root().join("records/clean.json")).ok();
        let seconds = |time: Option<f64>| time.map_or_else(String::new, duration);
        let at_once = summary.as_ref().and_then(|summary| summary.at_once);
        let table = gpu_all_table(&GpuAllParts {
            record: record.as_ref(),
            run: summary.as_ref(),
            networks_done: summary
                .as_ref()
                .map_or(0, |summary| networks_done(summary, chains, methods)),
            networks: chains.len(),
            times: [
                self.check_time.clone(),
                self.measure_time.clone(),
                seconds(clean.map(|clean| clean.wall_s)),
                seconds(at_once.map(|at_once| at_once.elapsed_s)),
            ],
        });
        let parts: Vec<_> = table
            .rows
            .iter()
            .map(|row| json!({ "part": row[0], "reached": row[1], "time": row[2] }))
            .collect();
        let value = json!({ "parts": parts, "archive": to, "packed": packed });
        let plain = format!("{}{} holds the records", table.to_terminal(), to.display());
        output::result(self.json, &value, &plain)
    }
}

/// What `mesa run` is asked for.
fn selection(args: &GpuAll, folder: &Path) -> Selection {
    Selection {
        preset: args.preset.clone(),
        triggers: args.triggers.clone(),
        seeds: None,
        methods: Some(METHODS.to_owned()),
        sources: Sources {
            data: args.data.clone(),
            clean: None,
            normalize: None,
            out: Some(folder.to_path_buf()),
        },
        shard: None,
        go_on: args.go_on,
    }
}

fn running() -> Running {
    Running {
        device: DeviceArgs {
            device: DeviceName::Cuda,
            precision: PrecisionName::Bf16,
            nondeterministic: false,
        },
        save_every: SaveEvery::Seconds(SAVE_EVERY),
    }
}

/// The networks of which every method has its row.
fn networks_done(summary: &Summary, chains: &[Chain], methods: &[String]) -> usize {
    let is_done = |chain: &&Chain| {
        let trigger = chain.trigger_name();
        let has_row = |method: &String| summary.row(&trigger, chain.seed, method).is_some();
        methods.iter().all(has_row)
    };
    chains.iter().filter(is_done).count()
}
