//! Whole steps: training, inference and an iteration of MESA, batch 128, widths 64 and 16.
#![allow(
    missing_docs,
    reason = "criterion's macros make undocumented functions"
)]

#[path = "../examples/bench_player/works.rs"]
#[allow(dead_code, reason = "the player uses more of it")]
mod works;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};

use crate::works::Advance;

const BATCH: usize = 128;

type Make = fn(usize, usize) -> anyhow::Result<Advance>;

fn steps(criterion: &mut Criterion) {
    let works: [(&str, Make); 3] = [
        ("train", works::train),
        ("evaluate", works::evaluate),
        ("mesa", works::mesa),
    ];
    for (name, make) in works {
        let mut group = criterion.benchmark_group(name);
        group
            .sample_size(10)
            .throughput(Throughput::Elements(BATCH as u64));
        for width in [64, 16] {
            let mut advance = make(width, BATCH).expect("the paper's settings are valid");
            group.bench_function(format!("width {width}"), |bencher| {
                bencher.iter(|| advance(1).expect("a step never fails"));
            });
        }
        group.finish();
    }
}

criterion_group!(benches, steps);
criterion_main!(benches);
