//! `summary.json` and the samples picture of a run.

use anyhow::Result;
use mesa_record::{
    NetworkRecord, Row, RunDir, Summary, TriggerName, peak_rss_mb, processor, write_text,
};
use mesa_report::{SampleGroup, SamplesPicture};

use super::keys::Chain;
use super::session::{CleanResults, Session};
use crate::ledger::Finished;
use crate::method::Method;
use crate::modeling::Modeled;
use crate::resume::highest;

/// The devices of rows that were computed by one, and by another that rounds as it does.
fn both(earlier: &str, now: &str) -> String {
    if earlier.split(" and ").any(|device| device == now) {
        return earlier.to_owned();
    }
    format!("{earlier} and {now}")
}

/// Moves a summary that cannot be read to where damaged records go, before another takes its place.
pub(crate) fn set_damaged_summary_aside(run: &RunDir) -> Result<()> {
    let Err(error) = run.read_summary() else {
        return Ok(());
    };
    let moved = run.move_aside(&[&run.summary()])?;
    tracing::warn!(
        "{error}; it is now {}. Its steps are still done: name all its networks and methods for all its rows",
        moved.display()
    );
    Ok(())
}

impl Session {
    /// A summary of nothing yet, or of what an earlier start left that still holds.
    pub(crate) fn summary(&self) -> Summary {
        let earlier = self.ledger.run.read_summary().unwrap_or_else(|error| {
            tracing::warn!("{error}; its rows do not count");
            None
        });
        let mut summary = Summary {
            preset: self.name.clone(),
            data: self.data.name.to_string(),
            device: self.ledger.device.clone(),
            wall_s: 0.0,
            peak_rss_mb: None,
            at_once: None,
            rows: Vec::new(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            engine_version: mesa_models::ENGINE_VERSION,
            kernel_path: self.ledger.kernel_path.to_owned(),
            threads: self.ledger.threads,
            processor: processor(),
            data_digest: self.data.digest.clone(),
            clean_network: None,
            other_clean_networks: Vec::new(),
            differences: self.config.differences(),
        };
        if let Some(earlier) = earlier {
            summary.rows = earlier.rows;
            // Committed rows count only where this start asks for them.
            summary.rows.retain(|row| !row.committed && self.holds(row));
            if !summary.rows.is_empty() {
                summary.device = both(&earlier.device, &summary.device);
                summary.peak_rss_mb = earlier.peak_rss_mb;
                summary.at_once = earlier.at_once;
            }
            self.remember(&summary.rows);
        }
        summary
    }

    /// Whether all rows of a method are there, each as `fits` asks.
    pub(crate) fn has_rows(
        &self,
        summary: &Summary,
        chain: Chain,
        method: Method,
        fits: impl Fn(&Row) -> bool,
    ) -> bool {
        let (trigger, name) = (chain.trigger_name(), method.to_string());
        self.config.defenses(method).iter().all(|defense| {
            summary.rows.iter().any(|row| {
                (&row.trigger, row.seed, &row.method) == (&trigger, chain.seed, &name)
                    && row.repeat == defense.repeat
                    && fits(row)
            })
        })
    }

    /// Whether this run, if asked, would compute just this row.
    pub(crate) fn holds(&self, row: &mesa_record::Row) -> bool {
        self.steps.made(row)
    }

    /// Whether a committed row is one that this run would compute, perhaps with other kernels.
    pub(crate) fn holds_committed(&self, row: &mesa_record::Row) -> bool {
        let mut earlier = self.earlier_steps.iter();
        self.holds(row) || earlier.any(|steps| steps.made(row))
    }

    /// Replaces `summary.json`.
    pub(crate) fn save_summary(
        &self,
        summary: &mut Summary,
        clean: &Finished<CleanResults>,
    ) -> Result<()> {
        let CleanResults {
            source,
            sha256,
            test_accuracy,
        } = clean.results.clone();
        summary.clean_network = Some(NetworkRecord {
            source,
            sha256,
            test_accuracy,
        });
        let own = &clean.results.sha256;
        let others = &mut summary.other_clean_networks;
        others.retain(|network| network.sha256 != *own);
        let seen = self.ledger.seen();
        if let Some(clock) = &self.clock {
            summary.at_once = Some(clock.read());
        }
        summary.wall_s = seen.values().map(|cost| cost.wall_s).sum();
        summary.peak_rss_mb = seen
            .values()
            .map(|cost| cost.peak_rss_mb)
            .fold(highest(summary.peak_rss_mb, peak_rss_mb()), highest);
        drop(seen);
        self.ledger.write_curves()?;
        Ok(self.ledger.run.write_summary(summary)?)
    }

    /// Notes what the steps behind rows of an earlier start have cost: this one may not come to
    /// them.
    fn remember(&self, rows: &[Row]) {
        for row in rows {
            let Some(chain) = Chain::of(row) else {
                continue;
            };
            for (name, step) in self.steps.of_row(chain, &row.method, row.repeat) {
                self.ledger.remember(&name, &step);
            }
        }
    }

    /// Draws the samples of each β beside the true trigger.
    pub(crate) fn draw_samples(&self, chain: Chain, modeled: &[Modeled]) -> Result<()> {
        if modeled.is_empty() {
            return Ok(());
        }
        let [_, height, width] = self.config.mesa.trigger_shape;
        let groups = modeled
            .iter()
            .map(|known| {
                let pixels = known.pictured(chain.seed)?;
                Ok(SampleGroup::of_beta(
                    known.beta,
                    Some(known.sample_asr()),
                    pixels,
                ))
            })
            .collect::<Result<Vec<_>>>()?;
        let truth = chain.trigger.trigger()?;
        let picture = SamplesPicture {
            title: format!(
                "{}, {}: trigger {}, seed {}",
                self.name, self.data.name, chain.trigger, chain.seed
            ),
            patch_shape: (height, width),
            // A picture has one size of patch; a trigger of another is left out.
            true_trigger: (truth.size() == (height, width)).then(|| truth.pixels().to_vec()),
            groups,
        };
        let svg = picture.to_svg()?;
        let own = self
            .ledger
            .run
            .root()
            .join("samples")
            .join(format!("{}.svg", chain.folder().replace('/', "-")));
        write_text(&own, &svg)?;
        Ok(write_text(&self.ledger.run.samples(), &svg)?)
    }
}

/// Where a row stands: rows of one place are the same one.
pub(super) fn place(row: &Row) -> (TriggerName, u64, (u8, String), Option<u64>) {
    (row.trigger.clone(), row.seed, rank(&row.method), row.repeat)
}

/// Puts a row in its place.
pub(super) fn put_row(summary: &mut Summary, row: Row) {
    summary.rows.retain(|old| place(old) != place(&row));
    summary.rows.push(row);
    summary.rows.sort_by_key(place);
}

/// Where a row stands among those of its network.
fn rank(method: &str) -> (u8, String) {
    let order = [
        "clean",
        "backdoored",
        "no-trigger",
        "random",
        "fine-tune",
        "point",
        "mesa:",
        "ensemble:",
        "ideal",
    ];
    let place = order
        .iter()
        .position(|start| method.starts_with(start))
        .unwrap_or(order.len());
    (place as u8, method.to_owned())
}
