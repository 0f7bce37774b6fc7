//! The screen of a run on a terminal: where it stands, and the table as it fills. The bar of the
//! step at work is below it.

use indicatif::ProgressBar;
use mesa_record::{Plan, Summary};
use mesa_report::live_text;

use crate::method::Method;
use crate::pipeline::{Chain, Open, Session};
use crate::progress::{self, duration};

/// What a run shows of itself.
pub(crate) struct Live<'a> {
    screen: Option<ProgressBar>,
    session: &'a Session,
    chains: &'a [Open],
    methods: &'a [Method],
    /// What was to do when the run started, with the speed of this machine.
    measured: Plan,
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
        }
    }

    /// Shows what is known after a row of the network `number`, counted from 1.
    pub(crate) fn show(&self, number: usize, chain: Chain, summary: &Summary) {
        let Some(screen) = &self.screen else { return };
        let left = self.session.plan(self.chains, self.methods, summary);
        let rows = left.chains.iter().map(|chain| chain.done.len());
        let time = seconds_left(&self.measured, &left)
            .map_or_else(String::new, |left| format!(" · {} left", duration(left)));
        let head = format!(
            "{} · {} · {} thread(s) · network {number} of {}: trigger {}, seed {} · {} of {} \
             methods done{time}",
            left.preset,
            left.data,
            self.session.ledger.threads,
            self.chains.len(),
            chain.trigger,
            chain.seed,
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
