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

/// Methods of preset `cpu`, each of which retrains a network.
pub(super) const REPAIRS: usize = 9;

/// Names as the players know them.
const STAGES: [Stage; 6] = [
    // Training steps on poisoned batches of 128: 10 epochs of 390.
    stage("attack", 1, 10 * 390, 20),
    // Iterations of MESA for each of three β: 10 epochs of 62 batches of 128.
    stage("fit", 3, 10 * 62, 20),
    // Training steps for each method, stamped with samples: 10 epochs of 62. `no-trigger` and
    // `fine-tune`, which stamp nothing, are counted as if they did.
    stage("retrain", REPAIRS, 10 * 62, 20),
    // Images evaluated as they are and, but for the target class, stamped: of the clean, the
    // backdoored and all repaired networks. A part of 1,280 is 10 batches, twice.
    stage("evaluate", 2 + REPAIRS, 2_000, 1_280),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_method_of_the_preset_is_counted() {
        let preset = include_str!("../../../assets/presets/cpu.toml");
        let (_, methods) = preset.split_once("methods = [").unwrap();
        let (methods, _) = methods.split_once(']').unwrap();
        let methods: Vec<&str> = methods.split('"').skip(1).step_by(2).collect();
        assert_eq!(methods.len(), REPAIRS, "{methods:?}");
        assert!(methods.contains(&"fine-tune"), "{methods:?}");
        let stages = stages();
        assert!(stages.contains("retrain:9:620:20"), "{stages}");
        assert!(stages.contains("evaluate:11:2000:1280"), "{stages}");
    }
}
