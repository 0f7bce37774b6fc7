//! How a step's key decides whether its result is used again:
//! `cargo run -p mesa-record --example reuse_a_step`
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use mesa_record::{Lock, RunDir, Step, write_json};
use serde_json::json;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = tempfile::tempdir()?;
    let run = RunDir::new(folder.path().join("run"));
    // Only one process at a time works in a run folder.
    let lock = Lock::acquire(run.root())?;
    if let Err(refused) = Lock::acquire(run.root()) {
        println!("a second start: {refused}");
    }

    let attack = Step::new("attack", 1, "digest of the data");
    let slow = attack.clone().with_config(json!({"learning_rate": 0.001}));
    let fast = attack.with_config(json!({"learning_rate": 0.01}));
    let files = run.step("170/seed-0/attack", &slow.key());
    write_json(&files.record, &json!({"key": slow.key(), "asr": 0.97}))?;

    for (name, step) in [
        ("the same settings", &slow),
        ("another learning rate", &fast),
    ] {
        let found: serde_json::Value = mesa_record::read_json(&files.record)?;
        let reused = found["key"] == json!(step.key());
        println!("{name}: key {}, reused: {reused}", step.key().short());
    }
    let moved = run.move_aside(&[&files.record, &files.checkpoint])?;
    println!(
        "moved aside, never overwritten: {}",
        moved.strip_prefix(run.root())?.display()
    );
    drop(lock);
    Ok(())
}
