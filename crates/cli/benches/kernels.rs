//! Each convolution of a ResNet-18 in each direction, by Winograd's transform where it applies and
//! by the plain sum, for widths 64 and 16.
#![allow(
    missing_docs,
    reason = "criterion's macros make undocumented functions"
)]

#[allow(dead_code, reason = "the roofline uses more of it")]
mod layers;

use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use mesa_kernels::Path;

use crate::layers::{DIRECTIONS, Layer, resnet18};

const BATCH: usize = 32;

fn convolutions(criterion: &mut Criterion) {
    let path = Path::current().expect("MESA_CPU names a path of this processor");
    for width in [64, 16] {
        for shape in resnet18(width) {
            let mut group = criterion.benchmark_group(format!("width {width}, {shape}"));
            group
                .sample_size(10)
                .warm_up_time(Duration::from_millis(200))
                .measurement_time(Duration::from_millis(600))
                .throughput(Throughput::Elements(BATCH as u64));
            for winograd in [true, false] {
                let mut layer = Layer::new(shape, BATCH, winograd).expect("a layer of the network");
                if winograd && !layer.is_winograd() {
                    continue;
                }
                let how = if winograd { "winograd" } else { "direct" };
                for (direction, name) in DIRECTIONS {
                    group.bench_function(BenchmarkId::new(name, how), |bencher| {
                        bencher.iter(|| layer.run(path, direction));
                    });
                }
            }
            group.finish();
        }
    }
}

criterion_group!(benches, convolutions);
criterion_main!(benches);
