//! Tests of small networks, each in a process with one thread for its matrices: several threads
//! wait for each other longer than these products take, by far where the machine is busy.

use std::process::Command;

/// Whether the caller is to do its work: true in a process with one thread. Elsewhere this starts
/// the test of that name in one, and fails if it fails.
pub(crate) fn in_one_thread(test: &str) -> bool {
    const THREADS: &str = "RAYON_NUM_THREADS";
    if std::env::var_os(THREADS).is_some_and(|threads| threads == "1") {
        return true;
    }
    let run = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test])
        .env(THREADS, "1")
        .output()
        .unwrap();
    let output = String::from_utf8_lossy(&run.stdout);
    assert!(run.status.success(), "{output}");
    assert!(output.contains("1 passed"), "{test} did not run: {output}");
    false
}
