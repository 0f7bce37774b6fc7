//! How near the kernels come to what a processor can do, as a table.

use mesa_record::{RooflineRecord, RooflineRow};

use crate::Table;

/// Each layer, and totals, against what the processor can do.
pub fn roofline_table(record: &RooflineRecord) -> Table {
    let columns = [
        "layer",
        "width",
        "count",
        "direction",
        "GFLOP",
        "with Winograd",
        "MB",
        "limit, ms",
        "measured, ms",
        "share",
    ];
    let mut table = Table::new(roofline_words(record), &columns);
    table.rows = record.rows.iter().map(roofline_cells).collect();
    table
}

/// What the processor and its memory can do.
pub(crate) fn roofline_words(record: &RooflineRecord) -> String {
    format!(
        "{}, {} threads, batch {}: {:.0} GFLOP/s, {:.1} GB/s.\n",
        record.machine, record.threads, record.batch_size, record.peak_gflops, record.bandwidth_gbs,
    )
}

fn roofline_cells(row: &RooflineRow) -> Vec<String> {
    vec![
        row.layer.clone(),
        row.width.to_string(),
        row.count.to_string(),
        row.direction.clone(),
        format!("{:.2}", row.plain_gflop),
        format!("{:.2}", row.gflop),
        format!("{:.1}", row.megabytes),
        format!("{:.2}", row.limit_ms),
        format!("{:.2}", row.measured_ms),
        format!("{:.0} %", 100.0 * row.share()),
    ]
}
