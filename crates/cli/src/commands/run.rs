//! `mesa run`: a preset's whole chain.

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use mesa_datasets::TriggerId;
use mesa_record::{Lock, Plan, RunDir, Summary, write_text};
use mesa_report::Report;

use crate::args::{Pace, Run, Running, Selection, Sources};
use crate::computer::Computer;
use crate::config::{ExperimentConfig, check_place};
use crate::inputs::IfMissing;
use crate::live::Live;
use crate::method::Method;
use crate::output::Usage;
use crate::pipeline::{
    Chain, Clock, Open, Session, Setup, is_all_committed, repository, run_chain,
    set_damaged_summary_aside,
};
use crate::progress::{bytes, duration};
use crate::queue::{Queue, locked};
use crate::{inputs, interrupt, logging, output};

/// Batches that the estimate before a run is made from.
const ESTIMATED_FROM: usize = 3;

pub(crate) fn run(args: &Run, json: bool, threads: usize) -> Result<()> {
    let started = Instant::now();
    let deadline = interrupt::deadline_after(args.pace.time_limit);
    let chosen = Chosen::new(&args.selection, "quick")?;
    if args.only_plan {
        logging::start(None)?;
        let (session, chains, summary) =
            chosen.prepare(&args.selection, &args.running, threads, IfMissing::Leave)?;
        let plan = session.plan(&chains, &chosen.methods, &summary);
        return output::result(json, &plan, &plan_text(&plan));
    }
    let ready = Ready::new(chosen, &args.selection, &args.running, threads)?;
    let done = ready.finish(&args.pace, deadline)?;
    if done.path.exists() {
        tracing::info!(
            "{} written after {}",
            done.path.display(),
            duration(started.elapsed().as_secs_f64())
        );
    }
    output::result(json, &done.summary, &done.tables())?;
    done.succeed()
}

/// A run that has all that it needs, and the run folder for itself.
pub(super) struct Ready {
    chosen: Chosen,
    session: Session,
    chains: Vec<Open>,
    summary: Summary,
    _lock: Lock,
}

/// A run that went through all of its networks for which there was time.
pub(super) struct Done {
    /// What was measured, and where it is written.
    summary: Summary,
    path: PathBuf,
    failed: usize,
    networks: usize,
    /// Whether the time limit has left something undone.
    out_of_time: bool,
}

impl Ready {
    /// Locks the run folder and loads what the run needs.
    pub(super) fn new(
        chosen: Chosen,
        selection: &Selection,
        running: &Running,
        threads: usize,
    ) -> Result<Self> {
        let run = RunDir::new(&chosen.out);
        let lock = super::claim(&run)?;
        set_damaged_summary_aside(&run)?;
        let (session, chains, summary) =
            chosen.prepare(selection, running, threads, IfMissing::Fetch)?;
        Ok(Self {
            chosen,
            session,
            chains,
            summary,
            _lock: lock,
        })
    }

    /// Does the run; no network is begun that would not be done by the deadline.
    pub(super) fn finish(mut self, pace: &Pace, deadline: Option<Instant>) -> Result<Done> {
        let (session, chains, methods) = (&self.session, &self.chains, &self.chosen.methods);
        let run = RunDir::new(&self.chosen.out);
        write_text(&run.config(), &session.config.to_toml()?)?;
        let plan = announce(session, chains, methods, &self.summary)?;
        let live = Live::new(session, chains, methods, plan);
        let ended = run_chains(session, chains, &mut self.summary, &live, pace, deadline);
        drop(live);
        let Outcome {
            failed,
            mut out_of_time,
            stopped,
        } = ended?;
        if let Some(error) = stopped {
            let is_over = deadline.is_some_and(|deadline| Instant::now() >= deadline);
            if !(is_over && error.is::<interrupt::Interrupted>()) {
                return Err(error);
            }
            out_of_time = true;
        }
        Ok(Done {
            networks: chains.len(),
            summary: self.summary,
            path: run.summary(),
            failed,
            out_of_time,
        })
    }
}

impl Done {
    /// The tables, for a terminal.
    pub(super) fn tables(&self) -> String {
        Report::of(&self.summary).to_terminal()
    }

    /// An error if a network failed, or if there was no time for all of them: that of Ctrl-C.
    pub(super) fn succeed(&self) -> Result<()> {
        ensure!(
            self.failed == 0,
            "{} of {} networks failed, see above",
            self.failed,
            self.networks
        );
        if self.out_of_time {
            let go_on = interrupt::how_to_go_on();
            return Err(interrupt::Interrupted { go_on }.into());
        }
        Ok(())
    }
}

/// Works on all networks, several at once if so many workers are asked for.
fn run_chains(
    session: &Session,
    chains: &[Open],
    summary: &mut Summary,
    live: &Live<'_>,
    pace: &Pace,
    deadline: Option<Instant>,
) -> Result<Outcome> {
    let clean = session.clean()?;
    session.save_summary(summary, &clean)?;
    let left: Vec<(usize, &Open)> = (1..)
        .zip(chains)
        .filter(|(_, (chain, methods))| !is_all_committed(*chain, methods, summary))
        .collect();
    // One keeps the CPU busy. On a GPU one waits for its host now and then, and small kernels leave room:
    // six get more done than four (docs/performance.md).
    let usual = if session.computer.is_gpu() { 6 } else { 1 };
    let workers = pace.workers.map_or(usual, usize::from);
    let workers = workers.min(left.len()).max(1);
    let queue = Queue::new(&left, deadline);
    let clock = Clock::start(workers, summary.at_once);
    let is_clocked = workers > 1 || summary.at_once.is_some();
    let summary = Mutex::new(summary);
    let (failed, stopped) = (AtomicUsize::new(0), Mutex::new(None));
    let work = |session: &Session| {
        // Workers are not alike: on a GPU some come before others (`kernels/src/cuda/priority.rs`).
        let mut longest = Duration::ZERO;
        while let Some((number, (chain, methods))) = queue.next(longest) {
            if chains.len() > 1 {
                tracing::info!(
                    "network {number} of {}: trigger {}, seed {}",
                    chains.len(),
                    chain.trigger,
                    chain.seed
                );
            }
            live.begin(number, *chain);
            let show = |summary: &Summary| live.show(summary);
            show(&locked(&summary));
            let begun = Instant::now();
            let done = run_chain(session, &clean, (*chain, methods), &summary, &show);
            live.end(number);
            match done {
                Ok(()) => longest = longest.max(begun.elapsed()),
                // The others of a sweep may still be done.
                Err(error) if chains.len() > 1 && !error.is::<interrupt::Interrupted>() => {
                    tracing::error!("trigger {}, seed {}: {error:#}", chain.trigger, chain.seed);
                    failed.fetch_add(1, Ordering::Relaxed);
                    if let Err(error) = session.computer.check() {
                        queue.close();
                        let words = format!(
                            "no further network was begun, as this process cannot compute any more; {}",
                            interrupt::how_to_go_on()
                        );
                        locked(&stopped).get_or_insert(error.context(words));
                    }
                }
                Err(error) => {
                    queue.close();
                    locked(&stopped).get_or_insert(error);
                }
            }
        }
    };
    if is_clocked {
        each_on_threads_of_its_own(session, workers, clock, &work)?;
        // The time after the last row, too.
        let mut summary = locked(&summary);
        summary.at_once = Some(clock.read());
        session.save_summary(&mut summary, &clean)?;
    } else {
        work(session);
    }
    Ok(Outcome {
        failed: failed.into_inner(),
        out_of_time: queue.has_run_out_of_time(),
        stopped: stopped.into_inner().unwrap_or_else(PoisonError::into_inner),
    })
}

/// How working on networks ended.
struct Outcome {
    failed: usize,
    /// Whether some were not begun because there was no time for them.
    out_of_time: bool,
    /// Why none was begun after it.
    stopped: Option<anyhow::Error>,
}

/// Runs `work` in so many workers, which share the threads out among themselves.
fn each_on_threads_of_its_own(
    session: &Session,
    workers: usize,
    clock: Clock,
    work: &(dyn Fn(&Session) + Sync),
) -> Result<()> {
    let threads = (session.ledger.threads / workers).max(1);
    let pools = (0..workers)
        .map(|_| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
            Ok((session.for_a_worker(clock, threads)?, pool.build()?))
        })
        .collect::<Result<Vec<_>>>()?;
    std::thread::scope(|scope| {
        for (session, pool) in &pools {
            scope.spawn(|| pool.install(|| work(session)));
        }
    });
    Ok(())
}

/// Tells what will be done and what it will take, and returns it.
fn announce(
    session: &Session,
    chains: &[Open],
    methods: &[Method],
    summary: &Summary,
) -> Result<Plan> {
    let mut plan = session.plan(chains, methods, summary);
    tracing::info!(
        "{} on {}, {} network(s), {}, {} thread(s), {} kernels; clean network: {}",
        plan.preset,
        plan.data,
        plan.chains.len(),
        session.computer.name,
        session.ledger.threads,
        session.ledger.kernel_path,
        plan.clean_network
    );
    if plan.stages.is_empty() {
        tracing::info!("all of it is done already");
        return Ok(plan);
    }
    if session.computer.is_gpu() {
        // What a few batches take says little of a GPU that several networks share.
        return Ok(plan);
    }
    session.measure(&mut plan, ESTIMATED_FROM)?;
    tracing::info!(
        "estimate: {} and {} of disk (the modeling usually takes less)",
        duration(plan.estimated_s.unwrap_or_default()),
        bytes(plan.estimated_bytes)
    );
    Ok(plan)
}

/// What a command line selects.
pub(super) struct Chosen {
    name: String,
    config: ExperimentConfig,
    pub(super) chains: Vec<Chain>,
    pub(super) methods: Vec<Method>,
    pub(super) out: PathBuf,
}

impl Chosen {
    /// Where no settings are named, those of the preset `default` are meant.
    pub(super) fn new(args: &Selection, default: &str) -> Result<Self> {
        let (name, config) = inputs::settings(&args.preset, default)?;
        let text = args.triggers.as_deref().unwrap_or(&config.triggers);
        let triggers = TriggerId::parse_list(text)
            .map_err(|error| Usage(format!("--triggers {text}: {error}")))?;
        let seeds = args.seeds.clone().unwrap_or_else(|| config.seeds());
        let mut chains: Vec<Chain> = Vec::new();
        for trigger in triggers {
            for seed in seeds.clone() {
                let chain = Chain { trigger, seed };
                if !chains.contains(&chain) {
                    chains.push(chain);
                }
            }
        }
        if let Some((part, parts)) = args.shard {
            chains = chains.into_iter().skip(part - 1).step_by(parts).collect();
        }
        let methods = match &args.methods {
            Some(text) => methods(text, &config)?,
            None => config.methods.clone(),
        };
        let out = args
            .sources
            .out
            .clone()
            .unwrap_or_else(|| PathBuf::from("runs").join(&name));
        Ok(Self {
            name,
            config,
            chains,
            methods,
            out,
        })
    }

    /// Loads what all steps share.
    pub(super) fn session(
        &self,
        sources: &Sources,
        running: &Running,
        threads: usize,
        if_missing: IfMissing,
    ) -> Result<Session> {
        let computer = Computer::open(&running.device)?;
        let data = inputs::data(
            &sources.data,
            self.config.data.set,
            &self.config.data,
            if_missing,
        )?;
        let config = self.config.clone().for_data(&data);
        let placement = config.backdoor.placement;
        for Chain { trigger, .. } in &self.chains {
            // Told now, not after the clean network's training.
            check_place(placement, trigger.trigger()?.size())
                .with_context(|| format!("trigger {trigger} and `placement` of the backdoor"))?;
        }
        Session::new(Setup {
            name: self.name.clone(),
            config,
            data,
            run: RunDir::new(&self.out),
            clean: sources.clean.clone(),
            normalize: sources.normalize,
            save_every: running.save_every,
            computer,
            threads,
        })
    }

    /// Loads what the run needs, and tells for each chain which methods are left to do.
    pub(super) fn prepare(
        &self,
        args: &Selection,
        running: &Running,
        threads: usize,
        if_missing: IfMissing,
    ) -> Result<(Session, Vec<Open>, Summary)> {
        let session = self.session(&args.sources, running, threads, if_missing)?;
        let mut summary = session.summary();
        if args.go_on {
            let root =
                repository().context("--continue looks for docs/records, which is not here")?;
            let (chains, methods) = (&self.chains, &self.methods);
            let taken = session.take_committed(&root, (chains, methods), &mut summary)?;
            tracing::info!("{taken} rows taken from committed records");
        }
        let left = |chain| session.not_committed(&summary, chain, &self.methods);
        let chains = self.chains.iter().map(|chain| (*chain, left(*chain)));
        let chains: Vec<_> = chains.collect();
        if chains.is_empty() {
            bail!("nothing to do: the shard holds no network");
        }
        Ok((session, chains, summary))
    }
}

/// Reads a list of methods; `mesa` stands for every β.
fn methods(text: &str, config: &ExperimentConfig) -> Result<Vec<Method>> {
    let mut methods: Vec<Method> = Vec::new();
    for name in text.split(',').map(str::trim) {
        let named: Vec<Method> = if name == "mesa" {
            config
                .mesa
                .betas
                .iter()
                .map(|beta| Method::Mesa(*beta))
                .collect()
        } else {
            vec![
                name.parse()
                    .map_err(|reason| Usage(format!("--methods: {reason}")))?,
            ]
        };
        for method in named {
            if let Method::Mesa(beta) = method
                && !config.mesa.betas.contains(&beta)
            {
                let known = &config.mesa.betas;
                let reason = format!("--methods: {method}: the settings have the β {known:?}");
                return Err(Usage(reason).into());
            }
            if !methods.contains(&method) {
                methods.push(method);
            }
        }
    }
    Ok(methods)
}

/// A plan for people.
pub(super) fn plan_text(plan: &Plan) -> String {
    let mut lines = vec![format!(
        "{} on {} in {}; clean network: {}",
        plan.preset, plan.data, plan.out, plan.clean_network
    )];
    for chain in &plan.chains {
        let list = |methods: &[String]| {
            if methods.is_empty() {
                "nothing".to_owned()
            } else {
                methods.join(", ")
            }
        };
        lines.push(format!(
            "trigger {}, seed {}: to do {}; done {}",
            chain.trigger,
            chain.seed,
            list(&chain.methods),
            list(&chain.done)
        ));
    }
    for stage in &plan.stages {
        let time = stage
            .estimated_s
            .map_or_else(String::new, |s| format!(", {}", duration(s)));
        let rate = stage
            .images_per_s
            .map_or_else(String::new, |r| format!(" at {r:.0} images/s"));
        lines.push(format!(
            "{:<9} {:>4} steps, {:>10} images{rate}{time}",
            stage.kind, stage.steps, stage.images
        ));
    }
    lines.push(format!("disk {}", bytes(plan.estimated_bytes)));
    if let Some(seconds) = plan.estimated_s {
        lines.push(format!("time {}", duration(seconds)));
    }
    if let Some(peak) = plan.peak_rss_mb {
        lines.push(format!("peak memory {peak:.0} MiB"));
    }
    lines.join("\n")
}
