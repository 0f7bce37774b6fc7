//! The presets as the program tells them.

use crate::program::{json, say};

fn plan(preset: &str, more: &[&str]) -> serde_json::Value {
    let arguments = ["plan", "--preset", preset, "--data", "synthetic", "--json"];
    json(&[&arguments[..], more].concat())
}

#[test]
fn the_paper_preset_has_all_51_triggers_and_all_methods() {
    let plan = plan("paper", &[]);
    let chains = plan["chains"].as_array().unwrap();
    assert_eq!(chains.len(), 51);
    let expected = [
        "no-trigger",
        "random",
        "fine-tune",
        "point",
        "mesa:0.9",
        "mesa:0.8",
        "mesa:0.5",
        "ensemble:turns",
        "ensemble:weighted",
        "ideal",
    ];
    assert_eq!(chains[0]["methods"], serde_json::json!(expected));
}

#[test]
fn triggers_seeds_methods_and_shards_choose_among_the_chains() {
    let plan_of = |more: &[&str]| plan("quick", more)["chains"].as_array().unwrap().clone();
    assert_eq!(
        plan_of(&["--triggers", "170,16,color:3", "--seeds", "1..3"]).len(),
        6
    );
    let shards: usize = ["1/4", "2/4", "3/4", "4/4"]
        .iter()
        .map(|shard| plan_of(&["--triggers", "all", "--shard", shard]).len())
        .sum();
    assert_eq!(shards, 51);
    let chain = &plan_of(&["--methods", "ideal,mesa"])[0];
    let expected = ["ideal", "mesa:0.9", "mesa:0.8", "mesa:0.5"];
    assert_eq!(chain["methods"], serde_json::json!(expected));
}

#[test]
fn quick_leaves_out_the_weighted_ensemble_and_the_baseline() {
    let plan = plan("quick", &[]);
    let expected = [
        "no-trigger",
        "random",
        "fine-tune",
        "mesa:0.9",
        "mesa:0.8",
        "mesa:0.5",
        "ensemble:turns",
        "ideal",
    ];
    let chain = &plan["chains"][0];
    assert_eq!(chain["methods"], serde_json::json!(expected));
    assert_eq!(chain["trigger"], 170);
}

#[test]
fn only_quick_uses_the_built_in_data_unasked() {
    let quick = say(&["plan"]);
    assert_eq!(quick.code, Some(0), "{}", quick.stderr);
    assert!(quick.stderr.contains("BUILT-IN"), "{}", quick.stderr);
    let cpu = say(&["plan", "--preset", "cpu"]);
    assert_eq!(cpu.code, Some(1));
    assert!(
        cpu.stderr.contains("--data DIR or MESA_DATA"),
        "{}",
        cpu.stderr
    );
}
