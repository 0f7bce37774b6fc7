//! `mesa run`: a preset's whole chain.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use mesa_datasets::TriggerId;
use mesa_record::{Lock, Plan, RunDir, Summary, write_text};
use mesa_report::Report;

use crate::args::{Pace, Run, Running, Selection, Sources};
use crate::computer::Computer;
use crate::config::ExperimentConfig;
use crate::inputs::IfMissing;
use crate::live::Live;
use crate::method::Method;
use crate::output::Usage;
use crate::pipeline::{Chain, Open, Session, Setup, is_all_committed, repository, run_chain};
use crate::progress::{bytes, duration};
use crate::{inputs, interrupt, logging, output};

/// Batches that the estimate before a run is made from.
const ESTIMATED_FROM: usize = 3;

pub(crate) fn run(args: &Run, json: bool, threads: usize) -> Result<()> {
    let chosen = Chosen::new(&args.selection, "quick")?;
    if args.only_plan {
        logging::start(None)?;
        let (session, chains, summary) =
            chosen.prepare(&args.selection, &args.running, threads, IfMissing::Leave)?;
        let plan = session.plan(&chains, &chosen.methods, &summary);
        return output::result(json, &plan, &plan_text(&plan));
    }
    let run = RunDir::new(&chosen.out);
    let lock = Lock::acquire(run.root())?;
    logging::start(Some(&run.log()))?;
    if let Some(holder) = lock.left_behind() {
        tracing::info!("taking over from {holder}, which ended without finishing");
    }
    let (session, chains, mut summary) =
        chosen.prepare(&args.selection, &args.running, threads, IfMissing::Fetch)?;
    write_text(&run.config(), &session.config.to_toml()?)?;
    let started = Instant::now();
    let plan = announce(&session, &chains, &chosen.methods, &summary)?;
    let live = Live::new(&session, &chains, &chosen.methods, plan);
    let failed = run_chains(&session, &chains, &mut summary, &live, &args.pace)?;
    drop(live);
    tracing::info!(
        "{} written after {}",
        run.summary().display(),
        duration(started.elapsed().as_secs_f64())
    );
    output::result(json, &summary, &Report::of(&summary).to_terminal())?;
    ensure!(
        failed == 0,
        "{failed} of {} networks failed, see above",
        chains.len()
    );
    Ok(())
}

/// Works on all networks, several at once if so many workers are asked for; returns how many
/// failed.
fn run_chains(
    session: &Session,
    chains: &[Open],
    summary: &mut Summary,
    live: &Live<'_>,
    pace: &Pace,
) -> Result<usize> {
    let clean = session.clean()?;
    session.save_summary(summary, &clean)?;
    let left: Vec<(usize, &Open)> = (1..)
        .zip(chains)
        .filter(|(_, (chain, methods))| !is_all_committed(*chain, methods, summary))
        .collect();
    let usual = if session.computer.is_gpu() { 6 } else { 1 };
    let workers = pace.workers.map_or(usual, usize::from).min(left.len());
    let queue = Queue::new(&left, pace.time_limit);
    let summary = Mutex::new(summary);
    let (failed, stopped) = (AtomicUsize::new(0), Mutex::new(None));
    let work = |session: &Session| {
        while let Some((number, (chain, methods))) = queue.next() {
            if chains.len() > 1 {
                tracing::info!(
                    "network {number} of {}: trigger {}, seed {}",
                    chains.len(),
                    chain.trigger,
                    chain.seed
                );
            }
            let show = |summary: &Summary| live.show(number, *chain, summary);
            show(&locked(&summary));
            let begun = Instant::now();
            match run_chain(session, &clean, (*chain, methods), &summary, &show) {
                Ok(()) => queue.took(begun.elapsed()),
                // The others of a sweep may still be done.
                Err(error) if chains.len() > 1 && !error.is::<interrupt::Interrupted>() => {
                    tracing::error!("trigger {}, seed {}: {error:#}", chain.trigger, chain.seed);
                    failed.fetch_add(1, Ordering::Relaxed);
                }
                Err(error) => {
                    queue.close();
                    locked(&stopped).get_or_insert(error);
                }
            }
        }
    };
    if workers <= 1 {
        work(session);
    } else {
        let others: Vec<Session> = (1..workers)
            .map(|_| session.for_another_thread())
            .collect::<Result<_>>()?;
        std::thread::scope(|scope| {
            for other in &others {
                scope.spawn(|| work(other));
            }
            work(session);
        });
    }
    if queue.has_run_out_of_time() {
        tracing::warn!("the time limit leaves networks undone; the same command goes on with them");
    }
    match stopped.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some(error) => Err(error),
        None => Ok(failed.into_inner()),
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Networks that nobody works on yet.
struct Queue<'a> {
    left: &'a [(usize, &'a Open)],
    next: AtomicUsize,
    /// When to be done, and the longest that a network took so far.
    deadline: Option<(Instant, Mutex<Duration>)>,
    out_of_time: AtomicBool,
}

impl<'a> Queue<'a> {
    fn new(left: &'a [(usize, &'a Open)], time_limit: Option<Duration>) -> Self {
        Self {
            left,
            next: AtomicUsize::new(0),
            deadline: time_limit.map(|limit| (Instant::now() + limit, Mutex::default())),
            out_of_time: AtomicBool::new(false),
        }
    }

    /// The next network, its number first; none if there is none or no time for one.
    fn next(&self) -> Option<(usize, &'a Open)> {
        self.left.get(self.next.load(Ordering::Relaxed))?;
        if let Some((deadline, longest)) = &self.deadline
            && Instant::now() + *locked(longest) > *deadline
        {
            self.out_of_time.store(true, Ordering::Relaxed);
            return None;
        }
        let at = self.next.fetch_add(1, Ordering::Relaxed);
        self.left.get(at).copied()
    }

    /// Notes how long a network took.
    fn took(&self, time: Duration) {
        if let Some((_, longest)) = &self.deadline {
            let mut longest = locked(longest);
            *longest = time.max(*longest);
        }
    }

    /// Gives nothing out any more.
    fn close(&self) {
        self.next.store(self.left.len(), Ordering::Relaxed);
    }

    fn has_run_out_of_time(&self) -> bool {
        self.out_of_time.load(Ordering::Relaxed)
    }
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
        session.computer,
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
            let mut number = 0;
            chains.retain(|_| {
                number += 1;
                (number - 1) % parts == part - 1
            });
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
            Some(self.config.data.set),
            &self.config.data,
            if_missing,
        )?;
        Session::new(Setup {
            name: self.name.clone(),
            config: self.config.clone().for_data(&data),
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
            let taken = session.take_committed(&root, &mut summary)?;
            tracing::info!("{taken} rows taken from committed records");
        }
        let left = |chain: &Chain| {
            let committed =
                |method: &Method| session.has_rows(&summary, *chain, *method, |row| row.committed);
            self.methods
                .iter()
                .copied()
                .filter(|method| !committed(method))
                .collect::<Vec<_>>()
        };
        let chains: Vec<_> = self
            .chains
            .iter()
            .map(|chain| (*chain, left(chain)))
            .collect();
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

#[cfg(test)]
mod tests {
    use mesa_datasets::TriggerId;

    use super::*;

    fn chains(count: u16) -> Vec<Open> {
        let chain = |pattern| Chain {
            trigger: TriggerId::Pattern(pattern),
            seed: 0,
        };
        (0..count)
            .map(|pattern| (chain(pattern), Vec::new()))
            .collect()
    }

    #[test]
    fn every_network_is_given_out_once() {
        let chains = chains(3);
        let left: Vec<(usize, &Open)> = (1..).zip(&chains).collect();
        let queue = Queue::new(&left, None);
        let numbers: Vec<usize> = std::iter::from_fn(|| queue.next())
            .map(|(n, _)| n)
            .collect();
        assert_eq!(numbers, [1, 2, 3]);
        let queue = Queue::new(&left, None);
        assert!(queue.next().is_some());
        queue.close();
        assert!(queue.next().is_none() && !queue.has_run_out_of_time());
    }

    #[test]
    fn nothing_is_begun_that_would_not_be_done_in_time() {
        let chains = chains(3);
        let left: Vec<(usize, &Open)> = (1..).zip(&chains).collect();
        let queue = Queue::new(&left, Some(Duration::from_mins(10)));
        // How long one takes is not known yet.
        assert!(queue.next().is_some());
        queue.took(Duration::from_mins(5));
        queue.took(Duration::from_secs(10));
        assert!(queue.next().is_some());
        queue.took(Duration::from_secs(700));
        assert!(queue.next().is_none() && queue.has_run_out_of_time());
    }
}
