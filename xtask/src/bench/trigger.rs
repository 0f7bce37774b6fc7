//! What is done for one trigger of preset `cpu`, counted.
//!
//! Each stage is done so many times and takes so many units each time, of which a part is run:
//! about 20 batches. The time of a trigger is the sum of `times · size / part` times each part's.
//! The clean network is not counted: it is trained once, for all triggers.

/// One stage.
struct Stage {
    name: &'static str,
    times: usize,
    size: usize,
    part: usize,
}

const fn stage(name: &'static str, times: usize, size: usize, part: usize) -> Stage {
    Stage {
        name,
        times,
        size,
        part,
    }
}

/// Names as the players know them.
const STAGES: [Stage; 6] = [
    // Training steps on poisoned batches of 128: 10 epochs of 390.
    stage("attack", 1, 10 * 390, 20),
    // Iterations of MESA for each of three β: 10 epochs of 62 batches of 128.
    stage("fit", 3, 10 * 62, 20),
    // Training steps for each of eight methods, stamped with samples: 10 epochs of 62.
    stage("retrain", 8, 10 * 62, 20),
    // Images evaluated as they are and, but for the target class, stamped: of the clean, the
    // backdoored and eight repaired networks. A part of 1,280 is 10 batches, twice.
    stage("evaluate", 10, 2_000, 1_280),
    // Samples of each sub-model, on 64 images each: two samples are a batch.
    stage("samples", 3, 512, 40),
    // Steps of the statistics network that measures each sub-model's entropy, on batches of 256,
    // each with its share of 16,384 held-out pairs.
    stage("entropy", 3, 1_000, 20),
];

/// The stages as the players take them.
pub(crate) fn stages() -> String {
    let each = STAGES.iter().map(|stage| {
        let Stage {
            name,
            times,
            size,
            part,
        } = stage;
        format!("{name}:{times}:{size}:{part}")
    });
    each.collect::<Vec<_>>().join(",")
}
