//! How the engine scales, as tables.

use std::fmt::Write as _;

use mesa_record::{ScalingRecord, ScalingRow};

use crate::{
    Table,
    speed::{machine_words, work_words},
};

/// Speed and memory over batch sizes, then over widths.
pub(crate) fn scaling(record: &ScalingRecord) -> String {
    let mut text = String::new();
    for (name, by_batch) in [("batch", true), ("width", false)] {
        let of = |row: &&ScalingRow| {
            if by_batch {
                row.width == 16
            } else {
                row.batch_size == 128
            }
        };
        text.push_str(&scaling_table(record, name, &of).to_markdown());
        text.push('\n');
    }
    let _ = writeln!(text, "{}", machine_words(&record.machine));
    text
}

/// A row for each batch size (or width), columns for each kind of work and number of threads.
fn scaling_table(record: &ScalingRecord, name: &str, of: &dyn Fn(&&ScalingRow) -> bool) -> Table {
    let rows: Vec<&ScalingRow> = record.rows.iter().filter(of).collect();
    let at = |row: &ScalingRow| {
        if name == "batch" {
            row.batch_size
        } else {
            row.width
        }
    };
    let distinct = |mut values: Vec<usize>| {
        values.sort_unstable();
        values.dedup();
        values
    };
    let places = distinct(rows.iter().map(|row| at(row)).collect());
    let threads = distinct(rows.iter().map(|row| row.threads).collect());
    let mut columns = vec![name.to_owned()];
    let mut cells: Vec<Vec<String>> = places.iter().map(|place| vec![place.to_string()]).collect();
    for work in ["train", "evaluate"] {
        for threads in &threads {
            columns.push(format!("{}, threads: {threads}", work_words(work)));
            for (place, cells) in places.iter().zip(&mut cells) {
                let found = rows.iter().find(|row| {
                    (row.work.as_str(), row.threads, at(row)) == (work, *threads, *place)
                });
                cells.push(found.map_or_else(String::new, |row| {
                    format!("{:.0}/s, {:.0} MiB", row.images_per_s, row.peak_mb)
                }));
            }
        }
    }
    Table {
        title: String::new(),
        columns,
        rows: cells,
    }
}
