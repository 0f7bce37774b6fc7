//! Made-up figures for tests: nobody measured them.

use mesa_record::{
    Difference, Distribution, DistributionPanel, Mixture, MixtureWeight, NetworkRecord, Patch,
    PlacedPatch, Plan, PlannedChain, PlannedStage, Row, Summary,
};

fn summary(rows: Vec<Row>) -> Summary {
    Summary {
        preset: "made-up".into(),
        data: "cifar10".into(),
        device: "cpu".into(),
        wall_s: 200.0,
        peak_rss_mb: Some(512.4),
        rows,
        version: "0.0.0".into(),
        engine_version: 1,
        kernel_path: "portable".into(),
        threads: 2,
        processor: "a processor".into(),
        data_digest: String::new(),
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
    mesa.entropy_nats = Some(3.456);
    mesa.entropy_se = Some(0.021);
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
        entropy_nats: Some(3.456),
        entropy_se: Some(0.021),
        entropy_upper_bound: Some(-18.25),
        in_level_set: Some(0.875),
    };
    weighted.mixture = Some(Mixture {
        weights: vec![weight(0.9, 0.05, 0.111), weight(0.5, 0.95, 0.889)],
        readable: false,
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
        entropy_nats: 3.456,
        entropy_se: 0.021,
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
