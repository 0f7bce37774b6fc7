//! MESA on functions whose level sets are known: a ring, two blobs and a box, in the plane and in
//! space.
//!
//! Of each sub-model's samples: the share that clears β, the share of the level set's cells that
//! they reach, their energy distance from uniform points, and their entropy beside the log volume;
//! then the weights γ of the staircase beside those of the closed form. A minute or so on two
//! cores:
//!
//! ```text
//! cargo run --release -p mesa --example known_distribution
//! ```
//!
//! It prints the tables and draws target and samples side by side in `known-answer.svg`, in the
//! folder it is started in; `-- --seed 1` shows another seed. With `-- --docs` it writes the committed copies,
//! `docs/known-answer.md` and `assets/figures/known-answer.svg`.
#![allow(clippy::print_stdout, reason = "an example shows its results")]

mod compare;
mod figure;
mod fits;
mod known;
mod tables;

use std::path::Path;
use std::process::Command;
use std::sync::Mutex;
use std::time::Instant;

use fits::{BETAS, STATISTICS_STEPS, Staircase, bound, config, fit, measure, staircase};
use known::{Known, Shape};
use mesa::Schedule;
use tables::{Ablation, Machine};

/// Further seeds, for the committed tables.
const HELD_OUT_SEEDS: [u64; 2] = [2, 3];
/// Fits at once. Their networks are too small to share one among cores.
const WORKERS: usize = 2;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // Matrices this small are multiplied faster by one thread than by several that wait for each
    // other; how many it takes is read from the environment.
    if std::env::var_os("RAYON_NUM_THREADS").is_none() {
        let mut alone = Command::new(std::env::current_exe()?);
        alone.args(std::env::args_os().skip(1));
        let status = alone.env("RAYON_NUM_THREADS", "1").status()?;
        return if status.success() {
            Ok(())
        } else {
            Err("the run failed".into())
        };
    }
    let docs = std::env::args().any(|argument| argument == "--docs");
    let seed = std::env::args()
        .skip_while(|argument| argument != "--seed")
        .nth(1);
    let seed: u64 = seed.map_or(Ok(0), |seed| seed.parse())?;
    let began = Instant::now();
    let known = [2, 3].into_iter().flat_map(|dim| {
        let steps = if dim == 2 { 1500 } else { 2000 };
        [Shape::Ring, Shape::Blobs, Shape::Box].map(|shape| Known { shape, dim, steps })
    });
    let known: Vec<Known> = known.collect();

    let staircases = fit_all(&known, seed)?;
    // Settings were tuned with seed 0 in view: these were not looked at.
    let held_out: Vec<Vec<Staircase>> = HELD_OUT_SEEDS
        [..if docs { HELD_OUT_SEEDS.len() } else { 0 }]
        .iter()
        .map(|seed| fit_all(&known, *seed))
        .collect::<mesa::Result<_>>()?;

    // What becomes of the smallest level set where one thing is left as the authors have it.
    let narrow = |known: &Known| mesa::MesaConfig {
        noise_dim: 4 * (known.dim - 1),
        ..config(known, STATISTICS_STEPS)
    };
    let runs: Vec<&[Staircase]> = std::iter::once(&staircases)
        .chain(&held_out)
        .map(Vec::as_slice)
        .collect();
    let seeds = std::iter::once(seed).chain(HELD_OUT_SEEDS).take(runs.len());
    let jobs = seeds.flat_map(|seed| known.iter().map(move |known| (seed, *known)));
    let ablated = in_parallel(jobs.collect(), |(seed, known)| {
        let of = |config| measure(&known, &fit(known, BETAS[2], config, seed)?, seed);
        Ok([of(config(&known, 1))?, of(narrow(&known))?])
    })?;
    let ablations: Vec<Ablation> = tables::ablations(&runs, &ablated);

    let machine = Machine::here(began.elapsed(), seed);
    let tables = tables::markdown(&staircases, &held_out, &ablations, &machine);
    let picture = figure::svg(&staircases);
    println!("{tables}");
    if docs {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        fs_err::write(root.join("docs/known-answer.md"), tables)?;
        fs_err::write(root.join("assets/figures/known-answer.svg"), picture)?;
    } else {
        fs_err::write("known-answer.svg", picture)?;
        println!("drawn in known-answer.svg");
    }
    Ok(())
}

/// A sub-model for each function and threshold, and the staircase of each function.
fn fit_all(known: &[Known], seed: u64) -> mesa::Result<Vec<Staircase>> {
    let jobs = known
        .iter()
        .flat_map(|known| BETAS.map(|beta| (*known, beta)));
    let measured = in_parallel(jobs.collect(), |(known, beta)| {
        let sub_model = fit(known, beta, config(&known, STATISTICS_STEPS), seed)?;
        let bounds = [
            bound(&sub_model, seed, Schedule::Cosine)?,
            bound(&sub_model, seed, Schedule::Constant)?,
        ];
        Ok((measure(&known, &sub_model, seed)?, bounds))
    })?;
    let mut measured = measured.into_iter();
    known
        .iter()
        .map(|known| staircase(*known, measured.by_ref().take(BETAS.len()).collect()))
        .collect()
}

/// Runs a few jobs at a time; results keep the jobs' order.
fn in_parallel<J: Send, R: Send>(
    jobs: Vec<J>,
    work: impl Fn(J) -> mesa::Result<R> + Sync,
) -> mesa::Result<Vec<R>> {
    let mut results: Vec<Option<mesa::Result<R>>> = jobs.iter().map(|_| None).collect();
    let queue = Mutex::new(jobs.into_iter().zip(&mut results));
    std::thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(|| {
                loop {
                    let next = queue.lock().expect("no worker panics with the lock").next();
                    let Some((job, slot)) = next else { break };
                    *slot = Some(work(job));
                }
            });
        }
    });
    results.into_iter().flatten().collect()
}
