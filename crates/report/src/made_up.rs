//! Made-up figures for tests: nobody measured them.

use mesa_record::{
    ClassDetection, Detection, Difference, Distribution, DistributionPanel, GpuRecord, Mixture,
    MixtureWeight, NetworkRecord, Patch, PlacedPatch, Plan, PlannedChain, PlannedStage, Row,
    Summary, Verdict,
};

fn summary(rows: Vec<Row>) -> Summary {
    Summary {
        preset: "made-up".into(),
        data: "cifar10".into(),
        device: "cpu".into(),
        wall_s: 200.0,
        at_once: None,
        peak_rss_mb: Some(512.4),
        rows,
        version: "0.0.0".into(),
        engine_version: 1,
        kernel_path: "portable".into(),
        threads: 2,
        processor: "a processor".into(),
        data_digest: String::new(),
        other_clean_networks: Vec::new(),
        clean_network: Some(NetworkRecord {
            source: "made-up.safetensors".into(),
            sha256: String::new(),
            test_accuracy: 0.915,
        }),
        differences: vec![Difference {
            name: "backdoor.training.epochs".into(),
            paper: "10".into(),
            here: "2".into(),
        }],
    }
}

fn network(trigger: &str, seed: u64, before: f64, after: f64) -> Vec<Row> {
    let row = |method: &str, asr: f64| {
        let mut row = Row::new(trigger.into(), seed, method, [asr, 0.91, 0.9 * (1.0 - asr)]);
        row.wall_s = 12.0;
        row
    };
    let mut mesa = row("mesa:0.9", after);
    mesa.sample_asr = Some(0.931);
    mesa.in_level_set = Some(0.875);
    mesa.information_nats = Some(3.456);
    mesa.information_se = Some(0.021);
    mesa.entropy_upper_bound = Some(-18.25);
    mesa.sample_std = Some(0.21);
    vec![
        row("ideal", 0.021),
        mesa,
        row("backdoored", before),
        row("clean", 0.009),
    ]
}

/// One network, one row of which was taken over.
pub(crate) fn single() -> Summary {
    let mut rows = network("170", 0, 0.963, 0.034);
    rows[0].committed = true;
    let mut weighted = Row::new("170".into(), 0, "ensemble:weighted", [0.03, 0.91, 0.87]);
    let weight = |beta, gamma, gamma_equal_entropy| MixtureWeight {
        beta,
        gamma,
        gamma_se: 0.01,
        gamma_equal_entropy,
        information_nats: Some(3.456),
        information_se: Some(0.021),
        entropy_upper_bound: Some(-18.25),
        in_level_set: Some(0.875),
    };
    weighted.mixture = Some(Mixture {
        weights: vec![weight(0.9, 0.05, 0.111), weight(0.5, 0.95, 0.889)],
    });
    rows.push(weighted);
    summary(rows)
}

/// Three networks, of which one was not taken, and one with a color trigger.
pub(crate) fn sweep() -> Summary {
    let networks = [
        network("170", 0, 0.96, 0.03),
        network("170", 1, 0.94, 0.05),
        network("0", 0, 0.20, 0.08),
        network("color:3", 0, 0.99, 0.02),
    ];
    summary(networks.concat())
}

/// Two networks with repeats of `point`: three on trigger 170, two on 16.
pub(crate) fn repeated() -> Summary {
    let mut rows = [network("170", 0, 0.96, 0.03), network("16", 0, 0.98, 0.02)].concat();
    let repeats = [("170", &[0.1, 0.2, 0.3][..]), ("16", &[0.4, 0.6][..])];
    for (trigger, asrs) in repeats {
        rows.extend(point(trigger, asrs));
    }
    summary(rows)
}

/// As many triggers as asked for, with every method.
pub(crate) fn many(count: u16) -> Summary {
    let rows = (0..count).flat_map(|number| {
        let trigger = (number * 9).to_string();
        let wave = f64::from(number % 7) / 7.0;
        let row = |method: &str, asr: f64| {
            Row::new(
                trigger.as_str().into(),
                0,
                method,
                [asr, 0.9, 0.9 * (1.0 - asr)],
            )
        };
        let mut rows = vec![
            row("clean", 0.028 + 0.004 * wave),
            row("backdoored", 0.97 + 0.03 * wave),
            row("no-trigger", 0.7 + 0.25 * wave),
            row("random", 0.05 + 0.3 * wave),
            row("fine-tune", 0.2 + 0.3 * wave),
            row("mesa:0.9", 0.018 + 0.01 * wave),
            row("mesa:0.8", 0.02 + 0.012 * wave),
            row("mesa:0.5", 0.022 + 0.015 * wave),
            row("ensemble:turns", 0.019 + 0.011 * wave),
            row("ensemble:weighted", 0.023 + 0.01 * wave),
            row("ideal", 0.02 + 0.004 * wave),
        ];
        let high = 0.05 + 0.4 * wave;
        rows.extend(point(&trigger, &[0.02, 0.5 * high, high]));
        rows
    });
    summary(rows.collect())
}

fn point(trigger: &str, asrs: &[f64]) -> Vec<Row> {
    let repeats = asrs.iter().enumerate().map(|(repeat, asr)| {
        let mut row = Row::new(trigger.into(), 0, "point", [*asr, 0.9, 0.9 * (1.0 - asr)]);
        row.repeat = Some(repeat as u64);
        row.sample_asr = Some(0.97);
        row
    });
    repeats.collect()
}

/// What two networks would need.
pub(crate) fn plan() -> Plan {
    let stage = |kind: &str, steps, images, images_per_s: Option<f64>, estimated_s| PlannedStage {
        kind: kind.into(),
        steps,
        images,
        estimated_s: Some(estimated_s),
        images_per_s,
    };
    let chain = |trigger: &str| PlannedChain {
        trigger: trigger.into(),
        seed: 0,
        methods: vec!["ideal".into()],
        done: Vec::new(),
    };
    Plan {
        preset: "paper".into(),
        data: "cifar10".into(),
        out: "runs/paper".into(),
        clean_network: "trained once, in this run".into(),
        chains: vec![chain("170"), chain("16")],
        stages: vec![
            stage("pretrain", 1, 3_000_000, Some(100.0), 30_000.0),
            stage("attack", 2, 1_000_000, Some(125.0), 8_000.0),
            stage("entropy", 2, 0, None, 50.0),
        ],
        estimated_s: Some(400_000.0),
        estimated_bytes: 2.5e9,
        threads: 2,
        kernel_path: "portable".into(),
        processor: "a processor".into(),
        device: "cpu".into(),
        engine_version: 1,
        measured_batches: Some(20),
        peak_rss_mb: Some(2345.6),
    }
}

/// A network of two classes, the second of which scores high and may count as attacked.
pub(crate) fn detection(attacked: bool) -> Detection {
    let class = |class: u32, name: &str, sample_asr, index, attacked| ClassDetection {
        class,
        name: name.to_owned(),
        best_place: None,
        sample_asr_anywhere: None,
        sample_asr,
        in_level_set: sample_asr,
        entropy_nats: -14.25,
        entropy_se: 0.125,
        sample_std: 0.4,
        anomaly_index: Some(index),
        attacked,
    };
    Detection {
        model: "made-up.safetensors".into(),
        model_sha256: "0".repeat(64),
        data_sha256: None,
        data: "synthetic".into(),
        preset: "quick".into(),
        beta: 0.9,
        seed: 0,
        placement: None,
        clean_accuracy: Some(0.9),
        backdoored: None,
        verdict: if attacked {
            Verdict::Backdoor
        } else {
            Verdict::NothingFound
        },
        attacked_classes: if attacked { vec![1] } else { vec![] },
        rule_sample_asr: 0.5,
        rule_anomaly_index: 3.5,
        rule_in_level_set: Some(0.5),
        stamped_images: 32_768,
        classes: vec![
            class(0, "rings & dots", 0.021, -0.4, false),
            class(1, "stripes", 0.943, 6.25, attacked),
        ],
        wall_s: 100.0,
        device: "cpu".into(),
        processor: "made-up".into(),
        threads: 2,
        version: "0.1.0".into(),
        engine_version: 2,
    }
}

/// Four sub-models with three samples each, which are somewhere on both planes.
pub(crate) fn distribution() -> Distribution {
    let placed = |number: u16| {
        let value = |k: u16| f32::from((37 * number + 11 * k * k) % 256) / 255.0;
        let pixels: Vec<f32> = (0..27).map(value).collect();
        let at = f64::from(number);
        PlacedPatch {
            patch: Patch::from_channels(&pixels),
            pca: [at.sin(), at.cos()],
            tsne: [3.0 * at.sin(), 0.5 * at],
        }
    };
    let panel = |(index, (beta, alpha)): (u16, (f64, f64))| DistributionPanel {
        beta,
        alpha,
        sample_asr: 0.931,
        in_level_set: 0.875,
        information_nats: 3.456,
        information_se: 0.021,
        entropy_upper_bound: -18.25,
        sample_std: 0.21,
        samples: (3 * index..3 * index + 3).map(placed).collect(),
    };
    let pairs = [(0.9, 0.1), (0.5, 0.1), (0.9, 10.0), (0.9, 0.0)];
    Distribution {
        preset: "made-up".into(),
        data: "cifar10".into(),
        trigger: "170".into(),
        seed: 0,
        target_class: 0,
        patch_shape: [3, 3],
        true_trigger: Some(placed(12)),
        true_trigger_asr: 0.963,
        panels: (0..).zip(pairs).map(panel).collect(),
        pca_explained: [0.5, 0.25],
        tsne_perplexity: 4.3333,
        wall_s: 200.0,
        device: "cpu".into(),
        kernel_path: "portable".into(),
        threads: 2,
        processor: "a processor".into(),
        version: "0.0.0".into(),
        engine_version: 1,
    }
}

/// What a GPU was found to do.
pub(crate) fn gpu() -> GpuRecord {
    let time = |wall: f64| {
        format!(
            r#"{{"wall_s": {wall}, "lowest_s": {wall}, "highest_s": {wall}, "host_s": 0.0001,
            "device_s": {wall}, "rounds": 5}}"#
        )
    };
    let text = format!(
        r#"{{
        "made": "2026-01-31T12:00:00Z", "program": "mesa 0 (made up)",
        "machine": {{"device": "G", "memory_mb": 81920, "driver": "580.1", "cuda": "13.0",
            "cudnn": "9.19.0", "processor": "P"}},
        "width": 64, "batch_size": 128,
        "check": {{"comparisons": 147, "failed": [], "closest": []}},
        "rates": [
            {{"work": "copy on the device", "precision": "", "deterministic": true,
                "megabytes": 2000, "time": {copy}}},
            {{"work": "4096 to 4096, 1x1, stride 1, 8x8", "part": "forward",
                "precision": "bf16", "deterministic": true, "images": 128, "gflop": 500,
                "time": {matrix}}},
            {{"work": "4096 to 4096, 1x1, stride 1, 8x8", "precision": "f32",
                "deterministic": true, "images": 128, "gflop": 500, "time": null,
                "failed": "no algorithm"}}
        ],
        "layers": [
            {{"work": "64 to 64, 3x3, stride 1, 32x32", "part": "forward",
                "precision": "bf16", "deterministic": true, "count": 4, "images": 128,
                "gflop": 9.66, "megabytes": 33.6, "time": {layer}}},
            {{"work": "batch norm, 64 channels, 32x32", "part": "statistics",
                "precision": "bf16", "deterministic": true, "count": 5, "images": 128,
                "megabytes": 16.8, "time": {layer}}}
        ],
        "steps": [
            {{"work": "training step", "precision": "bf16", "deterministic": true,
                "images": 128, "gflop": 426.1, "time": {step}}},
            {{"work": "training step", "precision": "bf16", "deterministic": false,
                "images": 128, "gflop": 426.1, "time": {free}}},
            {{"work": "training step", "precision": "f32", "deterministic": true,
                "images": 128, "gflop": 426.1, "time": null, "failed": "out of GPU memory"}}
        ],
        "peer": "PyTorch 2",
        "comparisons": [
            {{"work": "train", "variant": "eager", "ours_s": 0.002, "peer_s": 0.005,
                "ratio": 2.5, "pairs": [2.4, 2.5, 2.6], "ready_s": 9.0}},
            {{"work": "train", "variant": "compile", "failed": "not ready after 35 s"}},
            {{"work": "train", "variant": "reduce-overhead", "ours_s": 0.002,
                "peer_s": 0.003, "ratio": 1.5, "pairs": [1.5], "ready_s": 20.0}},
            {{"work": "mesa", "variant": "eager", "ours_s": 0.001, "peer_s": 0.004,
                "ratio": 4.0, "pairs": [4.0], "ready_s": 9.0}}
        ]}}"#,
        copy = time(1e-3),
        matrix = time(1e-3),
        layer = time(5e-5),
        step = time(2e-3),
        free = time(1.6e-3),
    );
    serde_json::from_str(&text).unwrap()
}
