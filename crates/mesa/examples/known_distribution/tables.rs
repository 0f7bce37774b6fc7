//! The measurements as Markdown.

use std::fmt::Write as _;
use std::time::Duration;

use crate::compare::uniform_coverage;
use crate::fits::{BETAS, ENTROPY_SAMPLES, Measured, SAMPLES, Staircase};
use crate::known::Shape;

/// What the run ran on.
pub(crate) struct Machine {
    processor: String,
    took_s: f64,
    processor_s: f64,
    seed: u64,
}

impl Machine {
    pub(crate) fn here(took: Duration, seed: u64) -> Self {
        let information = fs_err::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let name = information.lines().find_map(|line| {
            let name = line.strip_prefix("model name")?.split_once(": ")?.1;
            Some(name.trim().to_owned())
        });
        Self {
            processor: name.unwrap_or("unnamed processor".to_owned()),
            took_s: took.as_secs_f64(),
            processor_s: processor_time_s().unwrap_or(f64::NAN),
            seed,
        }
    }
}

/// What this process has used so far, where the system says so in hundredths of a second.
fn processor_time_s() -> Option<f64> {
    let line = fs_err::read_to_string("/proc/self/stat").ok()?;
    // The name, in parentheses, may hold spaces; user and system time are the 12th and 13th after it.
    let mut fields = line.rsplit_once(')')?.1.split_whitespace().skip(11);
    let mut ticks = || fields.next()?.parse::<f64>().ok();
    Some((ticks()? + ticks()?) / 100.0)
}

/// One function at the highest β, each seed: as above, with one step of `T`, with a narrow noise.
pub(crate) struct Ablation<'a> {
    name: String,
    as_above: Vec<&'a Measured>,
    one_step: Vec<&'a Measured>,
    narrow_noise: Vec<&'a Measured>,
}

/// Of each run the staircases, and, function by function, what was measured with one step and with a
/// narrow noise.
pub(crate) fn ablations<'a>(
    runs: &[&'a [Staircase]],
    ablated: &'a [[Measured; 2]],
) -> Vec<Ablation<'a>> {
    let functions = runs.first().map_or(&[][..], |first| first);
    let of_function = |index: usize, staircase: &Staircase| {
        let ablated = || ablated.iter().skip(index).step_by(functions.len());
        Ablation {
            name: staircase.known.name(),
            as_above: runs
                .iter()
                .map(|run| &run[index].measured[BETAS.len() - 1])
                .collect(),
            one_step: ablated().map(|[one_step, _]| one_step).collect(),
            narrow_noise: ablated().map(|[_, narrow_noise]| narrow_noise).collect(),
        }
    };
    let functions = functions.iter().enumerate();
    functions
        .map(|(index, staircase)| of_function(index, staircase))
        .collect()
}

pub(crate) fn markdown(
    staircases: &[Staircase],
    held_out: &[Vec<Staircase>],
    ablations: &[Ablation<'_>],
    machine: &Machine,
) -> String {
    let mut page = intro(machine);
    let all: Vec<&Staircase> = staircases.iter().chain(held_out.iter().flatten()).collect();
    summary(&mut page, &all);
    sub_models(&mut page, staircases);
    weights(&mut page, staircases);
    bounds(&mut page, staircases);
    if !held_out.is_empty() {
        other_seeds(&mut page, held_out);
    }
    collapses(&mut page, ablations);
    page
}

fn intro(machine: &Machine) -> String {
    let Machine {
        processor,
        took_s,
        processor_s,
        seed,
    } = machine;
    format!(
        "# A known answer\n\n\
         Written by `cargo run --release -p mesa --example known_distribution -- --docs` (seed \
         {seed}, {took_s:.0} s beside other work and {processor_s:.0} s of processor time; two fits at once; \
         {processor}). Not edited by hand.\n\n\
         MESA models the level sets `{{F ≥ β}}` of functions for which they are known: \
         `F(x) = 1 / (1 + (ρ(x) / s)⁸)` on the unit square or cube, with `ρ` the distance to a \
         circle or sphere, to the nearer of two points, or the largest scaled distance along an \
         axis. Settings are for two and three dimensions, not the paper's: α 0.1, networks of \
         width 64, noise of eight times the dimension, Adam 1e-3, 1,500 iterations in the plane \
         and 2,000 in space, ten steps of the statistics network in each. Settings were tuned with this seed in view.\n\n\
         ![Uniform points of the level sets beside the samples of their sub-models](../assets/figures/known-answer.svg)\n\n"
    )
}

fn summary(page: &mut String, staircases: &[&Staircase]) {
    let in_dim = |dim: usize| {
        let those = staircases.iter().copied();
        those.filter(move |staircase| staircase.known.dim == dim)
    };
    let largest = |dim: usize, of: &dyn Fn(&Staircase) -> f64| {
        in_dim(dim).map(of).fold(f64::NEG_INFINITY, f64::max)
    };
    let least = |dim: usize, of: &dyn Fn(&Measured) -> f64| {
        let measured = in_dim(dim).flat_map(|staircase| &staircase.measured);
        measured.map(of).fold(f64::INFINITY, f64::min)
    };
    let short = |staircase: &Staircase| {
        let shortfalls = staircase.measured.iter().map(Measured::shortfall);
        shortfalls.fold(f64::NEG_INFINITY, f64::max)
    };
    let off =
        |gamma: &[f64], staircase: &Staircase| largest_difference(&staircase.gamma_true, gamma);
    let blobs = staircases
        .iter()
        .filter(|staircase| staircase.known.shape == Shape::Blobs);
    let rarer_blob = blobs.flat_map(|staircase| &staircase.measured);
    let rarer_blob = rarer_blob
        .map(|measured| measured.rarer_half)
        .fold(1.0, f64::min);
    let _ = writeln!(
        page,
        "## In short\n\nThe worst of all tables but the last, all seeds:\n\n\
         - The rarer of two blobs gets {} % of the samples or more.\n\
         - At least {} % of the samples reach β in the plane, {} % in space.\n\
         - They reach {} % of the cells or more in the plane, {} % in space; uniform points reach \
         98 %.\n\
         - They are up to {:.2} nats less spread than uniform points in the plane, {:.2} in space: \
         there they lie on curves and sheets, or in one part of the level set.\n\
         - γ by nearest neighbors is off by up to {:.3} in the plane, {:.3} in space; γ by the \
         mutual-information bound by up to {:.3} and {:.3}; γ without any measurement, as if all entropies were \
         equal, by up to {:.3} and {:.3}. The bound's is nearer than that in {} of {} cases.\n",
        percent(rarer_blob),
        percent(least(2, &|measured| measured.reached)),
        percent(least(3, &|measured| measured.reached)),
        percent(least(2, &|measured| measured.coverage)),
        percent(least(3, &|measured| measured.coverage)),
        largest(2, &short),
        largest(3, &short),
        largest(2, &|staircase| off(&staircase.gamma_neighbors, staircase)),
        largest(3, &|staircase| off(&staircase.gamma_neighbors, staircase)),
        largest(2, &|staircase| off(&staircase.gamma_bound, staircase)),
        largest(3, &|staircase| off(&staircase.gamma_bound, staircase)),
        largest(2, &|staircase| off(
            &staircase.gamma_at_equal_entropy,
            staircase
        )),
        largest(3, &|staircase| off(
            &staircase.gamma_at_equal_entropy,
            staircase
        )),
        staircases
            .iter()
            .filter(|staircase| bound_is_nearer(staircase))
            .count(),
        staircases.len(),
    );
}

/// Whether γ by the bound is nearer to the closed form than γ of no measurement at all.
fn bound_is_nearer(staircase: &Staircase) -> bool {
    let off = |gamma: &[f64]| largest_difference(&staircase.gamma_true, gamma);
    off(&staircase.gamma_bound) < off(&staircase.gamma_at_equal_entropy)
}

fn sub_models(page: &mut String, staircases: &[Staircase]) {
    let expected = percent(uniform_coverage(SAMPLES));
    let _ = writeln!(
        page,
        "## Sub-models\n\n\
         *Cells*: of 256 cells of equal volume, the share that holds one of {SAMPLES} samples \
         (uniform points: {expected} %). *Rarer half*: of the samples, on the side of the plane \
         through the middle that has fewer (50 is even; 0 would be a missed blob). *Energy*: \
         energy distance from uniform points, as a share of the largest possible, × 1,000, beside the largest of eight between two \
         sets of uniform points. *h*: entropy in nats by nearest neighbors \
         (`mesa::nearest_neighbor_entropy`, {ENTROPY_SAMPLES} samples), beside that of uniform \
         points by the same estimator, and the log volume. *Short*: how much less spread than \
         uniform, in nats.\n\n\
         | level set | β | F ≥ β, % | cells, % | rarer half, % | energy (null) | h | h of uniform | ln volume | short |\n\
         |---|---:|---:|---:|---:|---:|---:|---:|---:|---:|"
    );
    for staircase in staircases {
        for measured in &staircase.measured {
            let _ = writeln!(
                page,
                "| {} | {} | {} | {} | {} | {:.1} ({:.1}) | {:.2} ± {:.2} | {:.2} | {:.2} | {:.2} |",
                staircase.known.name(),
                measured.beta,
                percent(measured.reached),
                percent(measured.coverage),
                percent(measured.rarer_half),
                1e3 * measured.energy,
                1e3 * measured.energy_null,
                measured.entropy.0,
                measured.entropy.1,
                measured.entropy_of_uniform,
                measured.log_volume,
                measured.shortfall(),
            );
        }
    }
}

fn weights(page: &mut String, staircases: &[Staircase]) {
    let _ = writeln!(
        page,
        "\n## Weights\n\n\
         γ of Algorithm 1 for β = 0.5, 0.8, 0.9: from the volumes, from the entropies by nearest \
         neighbors, and from the mutual-information bound of `mesa::entropy_of`. *Off* is the \
         largest difference from the first; *at equal h* that of γ as if all entropies were equal, which needs \
         no measurement.\n\n\
         | level set | γ, closed form | γ, nearest neighbors | off | γ, bound | off | off at equal h |\n\
         |---|---|---|---:|---|---:|---:|"
    );
    for staircase in staircases {
        let gamma = |gamma: &[f64]| {
            let shown: Vec<String> = gamma.iter().map(|gamma| format!("{gamma:.3}")).collect();
            shown.join(", ")
        };
        let Staircase {
            gamma_true,
            gamma_neighbors,
            gamma_bound,
            gamma_at_equal_entropy,
            ..
        } = staircase;
        let _ = writeln!(
            page,
            "| {} | {} | {} | {:.3} | {} | {:.3} | {:.3} |",
            staircase.known.name(),
            gamma(gamma_true),
            gamma(gamma_neighbors),
            largest_difference(gamma_true, gamma_neighbors),
            gamma(gamma_bound),
            largest_difference(gamma_true, gamma_bound),
            largest_difference(gamma_true, gamma_at_equal_entropy),
        );
    }
}

/// The largest difference between two lists of weights.
pub(crate) fn largest_difference(a: &[f64], b: &[f64]) -> f64 {
    let differences = a.iter().zip(b).map(|(a, b)| (a - b).abs());
    differences.fold(0.0, f64::max)
}

fn bounds(page: &mut String, staircases: &[Staircase]) {
    let _ = writeln!(
        page,
        "\n## The bound, where it is finite\n\n\
         h of the noisy samples `G(z) + 0.02 ε`, in nats: by nearest neighbors, and by the \
         mutual-information bound, which is what the experiments in 27 dimensions have. The last \
         column is that of a statistics network whose 1000 steps stay as long as they are, instead \
         of going down to zero from twice that.\n\n\
         | level set | β | nearest neighbors | bound | bound is short by | with steps of one length by |\n\
         |---|---:|---:|---:|---:|---:|"
    );
    for staircase in staircases {
        let bounds = staircase.bounds.iter().zip(&staircase.steady_bounds);
        for (measured, (bound, steady)) in staircase.measured.iter().zip(bounds) {
            let _ = writeln!(
                page,
                "| {} | {} | {:.2} | {:.2} ± {:.2} | {:.2} | {:.2} |",
                staircase.known.name(),
                measured.beta,
                measured.noisy_entropy,
                bound.0,
                bound.1,
                measured.noisy_entropy - bound.0,
                measured.noisy_entropy - steady,
            );
        }
    }
}

fn other_seeds(page: &mut String, held_out: &[Vec<Staircase>]) {
    let _ = writeln!(
        page,
        "\n## Seeds that no setting was tuned on\n\n\
         Two more runs; for β = 0.5, 0.8, 0.9.\n\n\
         | level set | F ≥ β, % | cells, % | rarer half, % | short | γ off, nearest neighbors | γ off, bound |\n\
         |---|---|---|---|---|---:|---:|"
    );
    for staircase in held_out.iter().flatten() {
        let each = |of: &dyn Fn(&Measured) -> String| {
            let shown: Vec<String> = staircase.measured.iter().map(of).collect();
            shown.join(", ")
        };
        let _ = writeln!(
            page,
            "| {} | {} | {} | {} | {} | {:.3} | {:.3} |",
            staircase.known.name(),
            each(&|measured| percent(measured.reached)),
            each(&|measured| percent(measured.coverage)),
            each(&|measured| percent(measured.rarer_half)),
            each(&|measured| format!("{:.2}", measured.shortfall())),
            largest_difference(&staircase.gamma_true, &staircase.gamma_neighbors),
            largest_difference(&staircase.gamma_true, &staircase.gamma_bound),
        );
    }
}

fn collapses(page: &mut String, ablations: &[Ablation<'_>]) {
    let _ = writeln!(
        page,
        "\n## What makes it collapse\n\n\
         The smallest level set, β = 0.9, of each function, with one thing changed, for each seed. *One step*: the \
         statistics network takes one step for each of the generator, as in the authors' code. \
         *Narrow noise*: four times one less than the dimension; a quarter of the noise enters the \
         generator's last, linear layer, which then cannot move samples in every direction. \
         Columns as above.\n\n\
         | level set | settings | F ≥ β, % | cells, % | rarer half, % | short |\n\
         |---|---|---|---|---|---|"
    );
    for Ablation {
        name,
        as_above,
        one_step,
        narrow_noise,
    } in ablations
    {
        let rows = [
            ("as above", as_above),
            ("one step", one_step),
            ("narrow noise", narrow_noise),
        ];
        for (settings, measured) in rows {
            let each = |of: &dyn Fn(&Measured) -> String| {
                let shown: Vec<String> = measured.iter().map(|measured| of(measured)).collect();
                shown.join(", ")
            };
            let _ = writeln!(
                page,
                "| {name} | {settings} | {} | {} | {} | {} |",
                each(&|measured| percent(measured.reached)),
                each(&|measured| percent(measured.coverage)),
                each(&|measured| percent(measured.rarer_half)),
                each(&|measured| format!("{:.2}", measured.shortfall())),
            );
        }
    }
}

fn percent(share: f64) -> String {
    format!("{:.1}", 100.0 * share)
}
