//! Ctrl-C and SIGTERM where a command measures: an end between two batches, with 130.
#![cfg(unix)]

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

use crate::program::{Said, in_temporary, mesa, say, tiny, wait_until};

/// Sends a signal to a command once `is_time`; what it said, and how it ended.
fn signaled(arguments: &[&str], signal: &str, is_time: &dyn Fn(&str) -> bool) -> Said {
    let mut command = mesa(arguments);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    // Should this test fail, the command ends with it.
    command.env("MESA_PARENT_PID", std::process::id().to_string());
    let mut child = command.spawn().unwrap();
    let said = Arc::new(Mutex::new(String::new()));
    let lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let heard = Arc::clone(&said);
    let listener = std::thread::spawn(move || {
        for line in lines {
            *heard.lock().unwrap() += &(line.unwrap() + "\n");
        }
    });
    wait_until(|| {
        let so_far = said.lock().unwrap().clone();
        let ended = child.try_wait().unwrap().is_some();
        assert!(is_time(&so_far) || !ended, "it ended: {so_far}");
        is_time(&so_far)
    });
    // `timeout` sends one to a process and one to its group; both are one request.
    let id = child.id();
    let twice = format!("kill -{signal} {id}; sleep 0.05; kill -{signal} {id}");
    Command::new("sh").args(["-c", &twice]).output().unwrap();
    wait_until(|| child.try_wait().unwrap().is_some());
    let output = child.wait_with_output().unwrap();
    listener.join().unwrap();
    let stderr = said.lock().unwrap().clone();
    Said {
        stderr,
        ..Said::from(output)
    }
}

/// A network of which commands say, before they draw images, what they assume.
const NETWORK: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../../tests/golden/checkpoints/bare.pth"
);

fn is_read(said: &str) -> bool {
    said.contains("--normalize says otherwise")
}

#[test]
fn an_evaluation_ends_between_batches_when_it_is_asked_to() {
    let evaluate = ["evaluate", NETWORK, "--data", "synthetic", "--json"];
    for signal in ["INT", "TERM"] {
        let said = signaled(&evaluate, signal, &is_read);
        assert_eq!(said.code, Some(130), "{signal}: {}", said.stderr);
        assert!(said.stdout.is_empty(), "{}", said.stdout);
        assert!(
            said.stderr.contains("stopped; nothing was measured"),
            "{}",
            said.stderr
        );
    }
}

#[test]
fn the_search_of_the_baseline_ends_between_batches_when_it_is_asked_to() {
    let folder = tempfile::tempdir().unwrap();
    let settings = in_temporary(&folder, "long.toml");
    let text = fs_err::read_to_string(tiny()).unwrap();
    let long = text.replace(
        "[point.search]\npasses = 2",
        "[point.search]\npasses = 1000000",
    );
    assert_ne!(long, text);
    fs_err::write(&settings, long).unwrap();
    let good = in_temporary(&folder, "good.safetensors");
    let defend = ["defend", NETWORK, "--control", "point", "--target", "0"];
    let data = ["--config", &settings, "--data", "synthetic", "-o", &good];
    let said = signaled(&[defend, data].concat(), "INT", &is_read);
    assert_eq!(said.code, Some(130), "{}", said.stderr);
    let words = "stopped; this part starts anew: go on with the same command";
    assert!(said.stderr.contains(words), "{}", said.stderr);
    assert!(!std::path::Path::new(&good).exists());
}

#[test]
fn a_training_that_is_stopped_in_its_last_evaluation_keeps_its_work() {
    let folder = tempfile::tempdir().unwrap();
    let settings = in_temporary(&folder, "many.toml");
    let text = fs_err::read_to_string(tiny()).unwrap();
    let many = text.replace("synthetic_test = 400", "synthetic_test = 2000");
    assert_ne!(many, text);
    fs_err::write(&settings, many).unwrap();
    let clean = in_temporary(&folder, "clean.safetensors");
    let state = folder.path().join("clean.safetensors.state");
    // On one thread the evaluation is no matter of a moment, however many processors there are.
    let size = ["--width", "16", "--epochs", "1", "--threads", "1"];
    // Saved but once, when the training is over.
    let data = ["--data", "synthetic", "--save-every", "100000"];
    let pretrain = ["pretrain", "-o", &clean, "--config", &settings];
    let arguments = [&pretrain[..], &size, &data].concat();
    let said = signaled(&arguments, "INT", &|_| state.exists());
    assert_eq!(said.code, Some(130), "{}", said.stderr);
    assert!(
        said.stderr.contains("go on with the same command"),
        "{}",
        said.stderr
    );
    assert!(state.exists() && !std::path::Path::new(&clean).exists());
    // 512 images in batches of 32.
    let said = say(&arguments);
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    let words = "going on after batch 16 of 16";
    assert!(said.stderr.contains(words), "{}", said.stderr);
    assert!(std::path::Path::new(&clean).exists());
    let note = folder.path().join("clean.safetensors.state.json");
    assert!(!state.exists() && !note.exists());
}
