//! Prints the table of a run folder: `print_summary runs/quick/summary.json`.
//! Without an argument, that of a made-up run.

use std::{env, error::Error, path::Path};

use mesa_record::{Row, Summary};
use mesa_report::Report;

#[expect(clippy::print_stdout, reason = "printing is what this example is for")]
fn main() -> Result<(), Box<dyn Error>> {
    let summary = match env::args().nth(1) {
        Some(path) => mesa_record::read_json(Path::new(&path))?,
        None => made_up()?,
    };
    print!("{}", Report::of(&summary).to_terminal());
    Ok(())
}

/// Nobody measured these.
fn made_up() -> Result<Summary, serde_json::Error> {
    let text = r#"{"preset": "made-up", "data": "synthetic", "device": "cpu", "wall_s": 200.0,
        "peak_rss_mb": 500.0, "rows": []}"#;
    let mut summary: Summary = serde_json::from_str(text)?;
    let row = |method, asr| Row::new("170".into(), 0, method, [asr, 0.95, 0.95 * (1.0 - asr)]);
    summary.rows = vec![
        row("backdoored", 0.98),
        row("no-trigger", 0.8),
        row("mesa:0.9", 0.04),
        row("ideal", 0.02),
    ];
    Ok(summary)
}
