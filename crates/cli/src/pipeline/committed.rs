//! Rows of committed records, which `--continue` takes as done.

use std::path::Path;

use anyhow::Result;
use mesa_record::{Row, Summary};
use mesa_report::read_committed;

use super::keys::Chain;
use super::session::Session;
use super::summary::put_row;
use crate::method::Method;

impl Session {
    /// Adds the rows of committed records that this run would compute just so, or that a GPU of its kind
    /// did with earlier kernels, whose rounding is all that differs. They are marked; a row that the run has itself stays.
    pub(crate) fn take_committed(
        &self,
        root: &Path,
        (chains, methods): (&[Chain], &[Method]),
        summary: &mut Summary,
    ) -> Result<usize> {
        let mut taken = 0;
        for (path, committed) in read_committed(root)? {
            let (mut others, before) = (0, taken);
            let networks = Summary {
                rows: Vec::new(),
                ..committed.clone()
            };
            for mut row in committed.rows {
                let same =
                    |known: &Row| super::summary::place(known) == super::summary::place(&row);
                if summary.rows.iter().any(same) {
                    continue;
                }
                if committed.data != summary.data || !self.holds_committed(&row) {
                    others += 1;
                    continue;
                }
                row.committed = true;
                put_row(summary, row);
                taken += 1;
            }
            if taken > before {
                summary.note_clean_networks(&networks);
            }
            if others > 0 && committed.preset == summary.preset {
                tracing::info!(
                    "{}: {others} rows have other settings, data or engine and are not taken",
                    path.display()
                );
            }
        }
        for chain in chains {
            let left = self.not_committed(summary, *chain, methods);
            if !is_all_committed(*chain, &left, summary) {
                // It will be attacked here: what other kernels repaired was another network.
                let before = summary.rows.len();
                let foreign = |row: &Row| Chain::of(row) == Some(*chain) && !self.holds(row);
                summary.rows.retain(|row| !foreign(row));
                taken -= before - summary.rows.len();
            }
        }
        Ok(taken)
    }

    /// The methods of a chain that committed rows do not have.
    pub(crate) fn not_committed(
        &self,
        summary: &Summary,
        chain: Chain,
        methods: &[Method],
    ) -> Vec<Method> {
        let committed = |method| self.has_rows(summary, chain, method, |row| row.committed);
        let methods = methods.iter().copied();
        methods.filter(|method| !committed(*method)).collect()
    }
}

/// Whether nothing of a chain is left to do because committed rows have it all.
pub(crate) fn is_all_committed(chain: Chain, left: &[Method], summary: &Summary) -> bool {
    let trigger = chain.trigger_name();
    let committed = |method: &str| {
        summary
            .row(&trigger, chain.seed, method)
            .is_some_and(|row| row.committed)
    };
    left.is_empty() && committed("clean") && committed("backdoored")
}
