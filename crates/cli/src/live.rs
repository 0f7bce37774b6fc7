//! The screen of a run on a terminal: where it stands, and the table as it fills. Below it is a bar for
//! the step of each worker.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Instant;

use indicatif::ProgressBar;
use mesa_record::{Plan, Summary};
use mesa_report::live_text;

use crate::method::Method;
use crate::pipeline::{Chain, Open, Session};
use crate::progress::{self, duration};
use crate::queue::locked;

/// What a run shows of itself.
pub(crate) struct Live<'a> {
    screen: Option<ProgressBar>,
    session: &'a Session,
    chains: &'a [Open],
    methods: &'a [Method],
    /// What was to do when the run started, with the speed of this machine.
    measured: Plan,
    started: Instant,
    /// The networks that are worked on, by their numbers, counted from 1.
    at_work: Mutex<BTreeMap<usize, Chain>>,
}

impl<'a> Live<'a> {
    /// A screen, where there is a terminal that wants one.
    pub(crate) fn new(
        session: &'a Session,
        chains: &'a [Open],
        methods: &'a [Method],
        measured: Plan,
    ) -> Self {
        Self {
            screen: progress::screen(),
            session,
            chains,
            methods,
            measured,
            started: Instant::now(),
            at_work: Mutex::default(),
        }
    }

    /// Notes that a network is begun.
    pub(crate) fn begin(&self, number: usize, chain: Chain) {
        locked(&self.at_work).insert(number, chain);
    }

    /// Notes that nobody works on a network any more.
    pub(crate) fn end(&self, number: usize) {
        locked(&self.at_work).remove(&number);
    }

    /// Shows what is known.
    pub(crate) fn show(&self, summary: &Summary) {
        let Some(screen) = &self.screen else { return };
        let left = self.session.plan(self.chains, self.methods, summary);
        let rows = left.chains.iter().map(|chain| chain.done.len());
        let elapsed = self.started.elapsed().as_secs_f64();
        let time = seconds_left(&self.measured, &left)
            .map(|left| at_this_pace(left, seconds_left(&self.measured, &self.measured), elapsed))
            .map_or_else(String::new, |left| format!(" · {} left", duration(left)));
        let head = format!(
            "{} · {} · {} thread(s) · {} · {} of {} methods done{time}",
            left.preset,
            left.data,
            self.session.ledger.threads,
            networks(&locked(&self.at_work), self.chains.len()),
            rows.sum::<usize>(),
            self.chains.len() * self.methods.len(),
        );
        screen.set_message(format!("{head}\n{}", live_text(summary)));
        screen.tick();
    }
}

impl Drop for Live<'_> {
    fn drop(&mut self) {
        if let Some(screen) = &self.screen {
            progress::close(screen);
        }
    }
}

/// Which networks are worked on, in words.
fn networks(at_work: &BTreeMap<usize, Chain>, all: usize) -> String {
    let words = at_work.iter().map(|(number, Chain { trigger, seed })| {
        format!("{number} (trigger {trigger}, seed {seed})")
    });
    let words: Vec<String> = words.collect();
    let plural = if words.len() > 1 { "s" } else { "" };
    format!("network{plural} {} of {all}", words.join(", "))
}

/// Seconds left of a run of which `all` were expected: as long as it has hardly begun what is expected,
/// then at the pace that it has shown, of however many workers.
fn at_this_pace(left: f64, all: Option<f64>, elapsed: f64) -> f64 {
    let done = all.unwrap_or(left) - left;
    if done <= 0.0 || done < 0.05 * (left + done) {
        return left;
    }
    left * elapsed / done
}

/// Seconds that a plan takes at the speeds measured for another; `None` if none was measured.
fn seconds_left(measured: &Plan, left: &Plan) -> Option<f64> {
    let seconds = left.stages.iter().map(|stage| {
        let known = measured
            .stages
            .iter()
            .find(|known| known.kind == stage.kind)?;
        let (of, all) = if known.images > 0 {
            (stage.images as f64, known.images as f64)
        } else {
            (stage.steps as f64, known.steps as f64)
        };
        Some(known.estimated_s? * of / all)
    });
    let known: Vec<f64> = seconds.flatten().collect();
    (!known.is_empty() || left.stages.is_empty()).then(|| known.iter().sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(stages: &[(&str, usize, u64, Option<f64>)]) -> Plan {
        let stages: Vec<serde_json::Value> = stages
            .iter()
            .map(|(kind, steps, images, seconds)| {
                serde_json::json!({
                    "kind": kind, "steps": steps, "images": images, "estimated_s": seconds,
                    "images_per_s": null,
                })
            })
            .collect();
        serde_json::from_value(serde_json::json!({
            "preset": "", "data": "", "out": "", "clean_network": "", "chains": [],
            "stages": stages, "estimated_s": null, "estimated_bytes": 0.0, "threads": 1,
            "kernel_path": "", "processor": "", "device": "cpu", "engine_version": 1,
            "measured_batches": null, "peak_rss_mb": null,
        }))
        .unwrap()
    }

    #[test]
    fn the_pace_of_a_run_corrects_what_was_expected() {
        let close = |left: f64, expected: f64| assert!((left - expected).abs() < 1e-9, "{left}");
        close(at_this_pace(100.0, Some(100.0), 3.0), 100.0);
        close(at_this_pace(98.0, Some(100.0), 50.0), 98.0);
        // Half of it took a fourth of what one worker was expected to take.
        close(at_this_pace(50.0, Some(100.0), 25.0), 25.0);
        close(at_this_pace(50.0, None, 25.0), 50.0);
        close(at_this_pace(0.0, Some(100.0), 70.0), 0.0);
        // All was done before.
        close(at_this_pace(0.0, Some(0.0), 3.0), 0.0);
    }

    #[test]
    fn every_network_at_work_is_named() {
        let chain = |trigger| Chain {
            trigger: mesa_datasets::TriggerId::Pattern(trigger),
            seed: 0,
        };
        let mut at_work = BTreeMap::from([(9, chain(170))]);
        assert_eq!(
            networks(&at_work, 51),
            "network 9 (trigger 170, seed 0) of 51"
        );
        at_work.insert(11, chain(16));
        let words = networks(&at_work, 51);
        assert_eq!(
            words,
            "networks 9 (trigger 170, seed 0), 11 (trigger 16, seed 0) of 51"
        );
    }

    #[test]
    fn what_is_left_takes_its_share_of_the_time() {
        let measured = plan(&[
            ("attack", 2, 1000, Some(100.0)),
            ("entropy", 4, 0, Some(8.0)),
            ("defend", 1, 10, None),
        ]);
        let left = plan(&[
            ("attack", 1, 250, None),
            ("entropy", 1, 0, None),
            ("defend", 1, 10, None),
            ("reverse", 1, 10, None),
        ]);
        assert_eq!(seconds_left(&measured, &left), Some(27.0));
        assert_eq!(seconds_left(&measured, &plan(&[])), Some(0.0));
        assert_eq!(seconds_left(&plan(&[]), &left), None);
    }
}
