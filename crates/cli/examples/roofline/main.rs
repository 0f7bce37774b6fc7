//! How near the kernels come to what this processor can do.
//!
//! Measures the rate of f32 multiply-adds and of memory first. A layer's limit is the larger of
//! its operations over the one and the bytes it has to move over the other; its share is that
//! limit over the time it took. Operations are counted twice: those of the plain sum, and those
//! that Winograd's transform leaves, on which the limit is based (its transforms count as time, not
//! as operations). The totals hold a whole training step, and inference, against the limits of
//! their convolutions: batch norm, sums and updates are what is missing there.
//!
//! ```text
//! cargo run --release -p mesa-cli --example roofline -- --json target/bench/roofline.json
//! ```

#[path = "../../benches/layers/mod.rs"]
mod layers;
mod limits;
#[path = "../bench_player/works.rs"]
#[allow(dead_code, reason = "the player uses more of it")]
mod works;

use std::{io::Write as _, path::PathBuf, time::Instant};

use anyhow::Result;
use clap::Parser;
use mesa_kernels::Path;
use mesa_record::{RooflineRecord, RooflineRow, processor, write_json};

use crate::layers::{DIRECTIONS, Direction, Layer, LayerShape, resnet18};
use crate::limits::Limits;

#[derive(Parser)]
#[command(about = "How near the kernels come to what this processor can do")]
struct Args {
    /// Widths of the ResNet-18
    #[arg(long, value_delimiter = ',', default_value = "64,16")]
    widths: Vec<usize>,
    /// Images in a batch
    #[arg(long, default_value_t = 128)]
    batch_size: usize,
    /// Threads; every processor where it is 0
    #[arg(long, default_value_t = 0)]
    threads: usize,
    /// Runs of each layer, of which the fastest counts
    #[arg(long, default_value_t = 5)]
    runs: usize,
    /// A file for the figures
    #[arg(long)]
    json: Option<PathBuf>,
}

fn main() -> Result<()> {
    let args = Args::parse();
    rayon::ThreadPoolBuilder::new()
        .num_threads(args.threads)
        .build_global()?;
    let path = Path::current()?;
    let limits = Limits::measure(path);
    let mut record = RooflineRecord {
        machine: format!("{}, {} kernels", processor(), path.name()),
        threads: rayon::current_num_threads(),
        batch_size: args.batch_size,
        peak_gflops: limits.operations_per_s / 1e9,
        bandwidth_gbs: limits.bytes_per_s / 1e9,
        rows: Vec::new(),
    };
    for &width in &args.widths {
        let mut rows = Vec::new();
        for shape in resnet18(width) {
            rows.extend(layer_rows(shape, width, &args, path, &limits)?);
        }
        let totals = totals(&rows, width, &args)?;
        record.rows.extend(rows.into_iter().chain(totals));
    }
    std::io::stdout().write_all(
        mesa_report::roofline_table(&record)
            .to_terminal()
            .as_bytes(),
    )?;
    if let Some(path) = &args.json {
        write_json(path, &record)?;
    }
    Ok(())
}

/// One row for each direction; nobody asks for the gradient of the images.
fn layer_rows(
    shape: LayerShape,
    width: usize,
    args: &Args,
    path: Path,
    limits: &Limits,
) -> Result<Vec<RooflineRow>> {
    let mut layer = Layer::new(shape, args.batch_size, true)?;
    let first = shape.conv.in_channels == 3;
    let asked =
        |(direction, _): &&(Direction, &str)| !first || *direction != Direction::InputGradient;
    let mut rows = Vec::new();
    for (direction, name) in DIRECTIONS.iter().filter(asked) {
        layer.run(path, *direction);
        let measured_s = fastest(args.runs, || {
            layer.run(path, *direction);
            Ok(())
        })?;
        let (plain, left) = layer.operations();
        rows.push(RooflineRow {
            width,
            layer: layer.shape.to_string(),
            count: shape.count,
            direction: (*name).to_owned(),
            plain_gflop: plain / 1e9,
            gflop: left / 1e9,
            megabytes: layer.bytes() / 1e6,
            limit_ms: 1e3 * limits.seconds(left, layer.bytes()),
            measured_ms: 1e3 * measured_s,
        });
    }
    Ok(rows)
}

/// The convolutions alone, and whole steps against their convolutions.
fn totals(rows: &[RooflineRow], width: usize, args: &Args) -> Result<Vec<RooflineRow>> {
    let sum = |layer: &str, with: &dyn Fn(&RooflineRow) -> bool| {
        let mut total = RooflineRow {
            width,
            layer: layer.to_owned(),
            ..RooflineRow::default()
        };
        for row in rows.iter().filter(|row| with(row)) {
            let count = row.count as f64;
            total.count += row.count;
            total.plain_gflop += count * row.plain_gflop;
            total.gflop += count * row.gflop;
            total.megabytes += count * row.megabytes;
            total.limit_ms += count * row.limit_ms;
            total.measured_ms += count * row.measured_ms;
        }
        total
    };
    let convolutions = sum("all convolutions", &|_| true);
    let mut step = sum("training step", &|_| true);
    let mut inference = sum("inference", &|row| row.direction == "forward");
    for (total, mut advance) in [
        (&mut step, works::train(width, args.batch_size)?),
        (&mut inference, works::evaluate(width, args.batch_size)?),
    ] {
        advance(1)?;
        total.measured_ms = 1e3 * fastest(args.runs, || advance(1))?;
    }
    Ok(vec![convolutions, step, inference])
}

fn fastest(runs: usize, mut work: impl FnMut() -> Result<()>) -> Result<f64> {
    let mut seconds = f64::INFINITY;
    for _ in 0..runs {
        let started = Instant::now();
        work()?;
        seconds = seconds.min(started.elapsed().as_secs_f64());
    }
    Ok(seconds)
}
