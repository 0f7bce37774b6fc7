//! `mesa distributions`: what it writes, what it reuses of a run, that it starts from where it was.

use std::sync::OnceLock;

use serde_json::Value;

use crate::program::{Kept, Said, TinyRun, contents, mesa, tiny};

/// β = 0.9 and 0.5 at the settings' α = 0.1, and α = 0 at β = 0.9.
const SMALL: [&str; 4] = ["--alphas", "0,0.1", "-n", "8"];

fn distributions(run: &TinyRun, more: &[&str]) -> Said {
    let mut command = mesa(&["distributions", "--data", "synthetic"]);
    command.arg("--config").arg(tiny());
    command.arg("--out").arg(&run.folder).args(more);
    let said: Said = command.output().unwrap().into();
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    said
}

/// A copy of a run folder in which there was nothing before [`SMALL`]: they are made but once.
fn small() -> TinyRun {
    static SMALL_RUN: OnceLock<Kept> = OnceLock::new();
    let kept = SMALL_RUN.get_or_init(|| {
        let run = TinyRun::new();
        distributions(&run, &SMALL);
        Kept::of(&run.folder)
    });
    let run = TinyRun::new();
    kept.copy_to(&run.folder);
    run
}

fn written(run: &TinyRun) -> Value {
    let path = run
        .folder
        .join("distributions/170-seed-0/distribution.json");
    serde_json::from_str(&fs_err::read_to_string(path).unwrap()).unwrap()
}

#[test]
fn what_a_run_has_modeled_is_reused_and_the_rest_is_added() {
    let (run, _) = TinyRun::finished();
    let records = run.folder.join("records");
    let before = contents(&records);

    let said = distributions(&run, &SMALL);
    for expected in ["SYNTHETIC", "trigger 170, seed 0", "α", "in level set"] {
        assert!(said.stdout.contains(expected), "{}", said.stdout);
    }
    let after = contents(&records);
    for (path, bytes) in &before {
        assert_eq!(after.get(path), Some(bytes), "{}", path.display());
    }
    assert!(
        !run.folder.join("stale").exists(),
        "nothing was moved aside"
    );

    // A fit at another α is a step of its own, with that α and nothing else changed.
    let (usual, other) = (
        run.record("170/seed-0/fit-0.9"),
        run.record("170/seed-0/fit-0.9-alpha-0"),
    );
    assert_eq!(other["config"]["mesa"]["alpha"], 0.0);
    let mut config = other["config"].clone();
    config["mesa"]["alpha"] = usual["config"]["mesa"]["alpha"].clone();
    assert_eq!(config, usual["config"]);
    assert_ne!(other["checkpoint_sha256"], usual["checkpoint_sha256"]);
    assert_eq!(other["after"], usual["after"]);

    // And the run goes on as if nothing had been.
    let figures = run.figures();
    run.finish(&["--methods", "mesa:0.9"]);
    assert_eq!(run.figures(), figures);
    assert_eq!(contents(&records), after);
}

#[test]
fn every_sub_model_has_a_panel_with_the_figures_of_its_steps() {
    let run = small();
    let found = written(&run);
    assert_eq!(
        (&found["data"], &found["trigger"], &found["patch_shape"]),
        (&"synthetic".into(), &170.into(), &serde_json::json!([3, 3]))
    );
    let attack = run.record("170/seed-0/attack");
    assert_eq!(
        found["true_trigger_asr"],
        attack["results"]["stamped"]["asr"]
    );
    let panels = found["panels"].as_array().unwrap();
    let steps = [
        (0.9, 0.1, "0.9"),
        (0.5, 0.1, "0.5"),
        (0.9, 0.0, "0.9-alpha-0"),
    ];
    assert_eq!(panels.len(), steps.len());
    for (panel, (beta, alpha, step)) in panels.iter().zip(steps) {
        assert_eq!(
            (&panel["beta"], &panel["alpha"]),
            (&beta.into(), &alpha.into())
        );
        let results =
            |kind: &str| run.record(&format!("170/seed-0/{kind}-{step}"))["results"].clone();
        let (samples, entropy) = (results("samples"), results("entropy"));
        for figure in ["sample_asr", "in_level_set", "sample_std"] {
            assert_eq!(panel[figure], samples[figure], "{figure} of {step}");
        }
        for (figure, name) in [
            ("information_nats", "information_nats"),
            ("information_se", "information_se"),
            ("entropy_upper_bound", "gaussian_bound_nats"),
        ] {
            assert_eq!(panel[figure], entropy[name], "{figure} of {step}");
        }
        let patches = panel["samples"].as_array().unwrap();
        assert_eq!(patches.len(), 8);
        assert!(
            patches
                .iter()
                .any(|patch| patch["pca"] != patches[0]["pca"])
        );
        assert!(
            patches
                .iter()
                .any(|patch| patch["tsne"] != patches[0]["tsne"])
        );
    }
    // 170 is 010101010 in bits: white in the middle of each side.
    let truth = "000000 ffffff 000000 ffffff 000000 ffffff 000000 ffffff 000000";
    assert_eq!(found["true_trigger"]["patch"], truth);
    // 24 samples and the true trigger.
    assert_eq!(found["tsne_perplexity"], 8.3333);
    for picture in ["pca-beta", "tsne-beta", "pca-alpha", "tsne-alpha"] {
        let path = format!("distributions/170-seed-0/{picture}.svg");
        let svg = fs_err::read_to_string(run.folder.join(path)).unwrap();
        // Two panels each: β = 0.9 and 0.5, α = 0 and 0.1.
        assert_eq!(svg.matches(">true trigger<").count(), 2, "{picture}");
    }
}

#[test]
fn a_second_start_computes_nothing_and_says_the_same() {
    let run = small();
    let folders = ["records", "checkpoints", "distributions"];
    let before = folders.map(|folder| contents(&run.folder.join(folder)));
    let said = distributions(&run, &[&SMALL[..], &["--json"]].concat());
    assert_eq!(
        folders.map(|folder| contents(&run.folder.join(folder))),
        before
    );
    let printed: Value = serde_json::from_str(&said.stdout).unwrap();
    assert_eq!(printed, serde_json::json!([written(&run)]));
    assert_eq!(written(&run)["panels"].as_array().unwrap().len(), 3);
}
