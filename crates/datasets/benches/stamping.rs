//! Stamping a batch of 128 images: with one trigger on the share that an attack poisons, and with
//! a trigger of its own on every image.
#![allow(
    missing_docs,
    reason = "criterion's macros make undocumented functions"
)]

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use mesa_datasets::{Patches, Placement, Stamps, Trigger, hits, poison, synthetic};
use rand::Rng;
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};

const BATCH_SIZE: usize = 128;
const SIZE: (usize, usize) = (3, 3);

fn stamping(criterion: &mut Criterion) {
    let images = synthetic(0, BATCH_SIZE, 1).train;
    let mut batch = images.batch(&(0..BATCH_SIZE).collect::<Vec<_>>());
    let mut rng = ChaCha8Rng::seed_from_u64(0);
    let trigger = Trigger::pattern(170).expect("there are 512 patterns");
    criterion.bench_function("poison 1 % of a batch of 128", |bencher| {
        bencher.iter(|| {
            let images = hits(&mut rng, BATCH_SIZE, 0.01).expect("a fraction");
            let places = Placement::PerImage
                .places(&mut rng, images.len(), batch.size(), SIZE)
                .expect("the trigger fits");
            let stamps = Stamps { images, places };
            poison(&mut batch, &stamps, trigger.patches(), Some(0)).expect("all places are inside");
            black_box(&mut batch);
        });
    });
    let pixels: Vec<f32> = (0..BATCH_SIZE * 3 * SIZE.0 * SIZE.1)
        .map(|_| rng.random())
        .collect();
    criterion.bench_function("stamp each image of a batch of 128", |bencher| {
        bencher.iter(|| {
            let places = Placement::PerImage
                .places(&mut rng, BATCH_SIZE, batch.size(), SIZE)
                .expect("the trigger fits");
            let patches = Patches::new(&pixels, SIZE).expect("whole patches");
            poison(&mut batch, &Stamps::all(places), patches, None).expect("one patch for each");
            black_box(&mut batch);
        });
    });
}

criterion_group!(benches, stamping);
criterion_main!(benches);
