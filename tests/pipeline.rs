//! The whole chain on tiny drawn data: end to end, killed, resumed, extended.

use std::process::{Child, Stdio};

use mesa_record::Lock;
use serde_json::{Value, json};

use crate::program::{Said, TinyRun, send, wait_until};

#[test]
fn a_run_writes_everything_and_threads_change_no_figure() {
    let (one, said) = TinyRun::finished();
    assert!(said.stdout.contains("backdoored") && said.stdout.contains("SYNTHETIC"));
    for file in ["summary.json", "config.toml", "run.log", "samples.svg"] {
        assert!(one.folder.join(file).is_file(), "{file}");
    }
    for file in [
        "clean.json",
        "170/seed-0/attack.json",
        "170/seed-0/mesa-0.9.json",
    ] {
        assert!(one.folder.join("records").join(file).is_file(), "{file}");
    }
    let state = one.folder.join("state");
    assert!(
        !state.exists() || files_below(&state) == 0,
        "a finished run leaves no state"
    );

    let summary = one.summary();
    assert_eq!(summary["data"], "synthetic");
    assert!(summary["wall_s"].as_f64().unwrap() > 0.0);
    assert!(summary["peak_rss_mb"].as_f64().unwrap() > 1.0);
    let rows = summary["rows"].as_array().unwrap();
    let methods: Vec<&str> = rows
        .iter()
        .map(|row| row["method"].as_str().unwrap())
        .collect();
    let expected = [
        "clean",
        "backdoored",
        "no-trigger",
        "random",
        "fine-tune",
        "point",
        "point",
        "mesa:0.5",
        "mesa:0.9",
        "ensemble:turns",
        "ensemble:weighted",
        "ideal",
    ];
    assert_eq!(methods, expected);
    for row in rows {
        assert_eq!(row["trigger"], 170);
        for figure in ["asr", "clean_accuracy", "regained_accuracy"] {
            assert!(
                (0.0..=1.0).contains(&row[figure].as_f64().unwrap()),
                "{row}"
            );
        }
        if row["method"].as_str().unwrap().starts_with("mesa:") {
            for figure in [
                "sample_asr",
                "in_level_set",
                "information_nats",
                "information_se",
                "sample_std",
            ] {
                assert!(row[figure].is_number(), "{figure} in {row}");
            }
        }
        let pixels = row["reversed_trigger"]
            .as_str()
            .map(|text| text.split(' ').count());
        let is_point = row["method"] == "point";
        assert_eq!(pixels, is_point.then_some(9), "{row}");
        assert_eq!(row["repeat"].is_number(), is_point, "{row}");
    }
    let points: Vec<_> = rows.iter().filter(|row| row["method"] == "point").collect();
    assert_eq!(
        (&points[0]["repeat"], &points[1]["repeat"]),
        (&json!(0), &json!(1))
    );
    assert_ne!(points[0]["reversed_trigger"], points[1]["reversed_trigger"]);

    let two = TinyRun::new();
    two.finish(&["--threads", "2"]);
    assert_eq!(one.figures(), two.figures());
}

#[test]
fn two_workers_get_the_same_figures_as_one() {
    let run = |workers: &str| {
        let run = TinyRun::new();
        let networks = ["--triggers", "170,16"];
        let methods = ["--methods", "no-trigger,mesa:0.9,point,ideal"];
        let said = run.finish(&[&networks[..], &methods, &["--workers", workers]].concat());
        assert!(said.stderr.contains("network 2 of 2"), "{}", said.stderr);
        run
    };
    let (one, two) = (run("1"), run("2"));
    assert_eq!(two.figures(), one.figures());
    assert_eq!(one.summary()["at_once"].as_object(), None);
    assert_eq!(two.summary()["at_once"]["workers"], 2);
    for step in ["170/seed-0/attack", "16/seed-0/mesa-0.9"] {
        let digest = |run: &TinyRun| run.record(step)["checkpoint_sha256"].clone();
        assert!(digest(&one).is_string());
        assert_eq!(digest(&two), digest(&one), "{step}");
    }
}

/// However little time there is: it ends as Ctrl-C ends it, and the same command goes on.
#[test]
fn a_time_limit_ends_a_run_that_goes_on_with_the_same_figures() {
    let (run, whole) = (TinyRun::new(), TinyRun::new());
    let methods = ["--methods", "no-trigger"];
    let said = run.say(&[&methods[..], &["--time-limit", "0.001"]].concat());
    assert_eq!(said.code, Some(130), "{}", said.stderr);
    assert!(said.stderr.contains("time limit"), "{}", said.stderr);
    assert!(said.stderr.contains("stopped"), "{}", said.stderr);
    // No time to begin with.
    run.finish(&methods);
    whole.finish(&[&methods[..], &["--time-limit", "60"]].concat());
    assert_eq!(run.figures(), whole.figures());
    let refused = run.say(&["--time-limit", "0"]);
    assert_eq!(refused.code, Some(2), "{}", refused.stderr);
}

/// In each of the four trainings, once there is something to go on from.
#[test]
fn killed_again_and_again_it_ends_with_the_same_figures() {
    let (whole, _) = TinyRun::finished();
    let methods = ["--methods", "mesa:0.9"];
    let trainings = [
        "clean",
        "170/seed-0/attack",
        "170/seed-0/fit-0.9",
        "170/seed-0/mesa-0.9",
    ];
    let killed = TinyRun::new();
    for step in trainings {
        // On Unix this is kill -9.
        stopped_in(&killed, step, &methods, &|child| child.kill().unwrap());
    }
    let said = killed.finish(&methods);
    assert!(
        said.stderr.contains("taking over from process"),
        "{}",
        said.stderr
    );
    assert_eq!(killed.figures(), whole.figures_with(&["mesa:0.9"]));
    for step in trainings {
        let (record, undisturbed) = (killed.record(step), whole.record(step));
        assert_eq!(undisturbed["resumed"], 0, "{step}");
        assert!(record["resumed"].as_u64().unwrap() >= 1, "{step}: {record}");
        // The networks are the same to the last bit, not only in what they get right.
        let digest = |record: &Value| record["checkpoint_sha256"].clone();
        assert!(digest(&record).is_string());
        assert_eq!(digest(&record), digest(&undisturbed), "{step}");
    }
}

/// Starts a run that saves after every batch, and stops it when a state of `step` is there.
fn stopped_in(run: &TinyRun, step: &str, methods: &[&str], stop: &dyn Fn(&mut Child)) -> Said {
    let saving = [methods, &["--save-every", "0"]].concat();
    let record = run.folder.join("records").join(format!("{step}.json"));
    let state = run.folder.join("state").join(step);
    let of_step = format!("{}.", state.file_name().unwrap().display());
    // A state is there once its name ends as it should: while it is written, it has another.
    let is_saved = || {
        fs_err::read_dir(state.parent().unwrap()).is_ok_and(|mut entries| {
            entries.any(|entry| {
                let name = entry.unwrap().file_name().into_string().unwrap();
                name.starts_with(&of_step) && name.ends_with(".safetensors")
            })
        })
    };
    loop {
        let mut command = run.command(&saving);
        command.stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        wait_until(|| is_saved() || record.exists());
        stop(&mut child);
        let said = Said::from(child.wait_with_output().unwrap());
        if is_saved() && !record.exists() {
            return said;
        }
        // The machine is so busy that the step was done before the stop: once more.
        fs_err::remove_file(&record).unwrap();
    }
}

#[test]
fn adding_a_method_reuses_what_is_there() {
    let run = TinyRun::new();
    run.finish(&["--methods", "no-trigger"]);
    let record = run.folder.join("records/170/seed-0/attack.json");
    let before = fs_err::read_to_string(&record).unwrap();
    let rows = |run: &TinyRun| run.summary()["rows"].as_array().unwrap().len();
    assert_eq!(rows(&run), 3);

    run.finish(&["--methods", "ideal"]);
    assert_eq!(fs_err::read_to_string(&record).unwrap(), before);
    assert_eq!(rows(&run), 4, "the row of the first start stays");
}

#[test]
fn the_wall_time_and_the_curves_are_those_of_all_steps_whichever_start_took_them() {
    let run = TinyRun::new();
    run.finish(&["--methods", "mesa:0.9,no-trigger"]);
    run.finish(&["--methods", "ideal", "--seeds", "0..2"]);
    let steps = |seed: u64, names: &[&str]| -> Vec<String> {
        let name = |name: &&str| format!("170/seed-{seed}/{name}");
        names.iter().map(name).collect()
    };
    let mesa = [
        "fit-0.9",
        "samples-0.9",
        "entropy-0.9",
        "mesa-0.9",
        "no-trigger",
    ];
    let names = [
        vec!["clean".to_owned()],
        steps(0, &["clean", "attack", "ideal"]),
        steps(0, &mesa),
        steps(1, &["clean", "attack", "ideal"]),
    ]
    .concat();
    let spent: f64 = names
        .iter()
        .map(|name| run.record(name)["wall_s"].as_f64().unwrap())
        .sum();
    let told = run.summary()["wall_s"].as_f64().unwrap();
    assert!((told - spent).abs() < 1e-6 * spent, "{told} of {spent} s");

    let curves = mesa_record::read_curves(&run.folder.join("curves.csv")).unwrap();
    let trained: Vec<&str> = curves.iter().map(|curve| curve.step.as_str()).collect();
    let expected = [
        "170/seed-0/attack",
        "170/seed-0/fit-0.9",
        "170/seed-0/ideal",
        "170/seed-0/mesa-0.9",
        "170/seed-0/no-trigger",
        "170/seed-1/attack",
        "170/seed-1/ideal",
        "clean",
    ];
    assert_eq!(trained, expected);
    let fit = &curves[1].points;
    assert_eq!(fit.last().unwrap().epoch, 2, "the settings have two epochs");
    assert_eq!(fit.len(), 2 * 3);
}

#[test]
fn settings_may_say_only_what_they_change_of_a_preset() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mine.toml");
    fs_err::write(&path, "base = \"cpu\"\n[retrain]\nstamp_rate = 2.0\n").unwrap();
    let mut command = crate::program::mesa(&["plan", "--data", "synthetic"]);
    let said: Said = command.arg("--config").arg(&path).output().unwrap().into();
    assert_eq!(said.code, Some(1));
    assert!(
        said.stderr.contains("mine.toml") && said.stderr.contains("`retrain`"),
        "{}",
        said.stderr
    );
    fs_err::write(&path, "base = \"cpu\"\ntriggers = \"16\"\n").unwrap();
    let mut command = crate::program::mesa(&["plan", "--data", "synthetic", "--json"]);
    let said: Said = command.arg("--config").arg(&path).output().unwrap().into();
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    let plan: Value = serde_json::from_str(&said.stdout).unwrap();
    assert_eq!(
        (&plan["preset"], &plan["chains"][0]["trigger"]),
        (&json!("mine"), &json!(16))
    );
}

#[test]
fn results_of_other_settings_are_moved_aside_and_it_says_so() {
    let (run, _) = TinyRun::finished();
    let text = fs_err::read_to_string(crate::program::tiny()).unwrap();
    let other = run.folder.parent().unwrap().join("other.toml");
    fs_err::write(
        &other,
        text.replace("stamp_rate = 0.05", "stamp_rate = 0.1"),
    )
    .unwrap();
    let mut command = crate::program::mesa(&["run", "--data", "synthetic", "--methods", "ideal"]);
    command
        .arg("--config")
        .arg(&other)
        .arg("--out")
        .arg(&run.folder);
    let output = command.output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{stderr}");
    assert!(
        stderr.contains("ideal: not reused, its configuration changed"),
        "{stderr}"
    );
    assert!(!stderr.contains("attack: not reused"), "{stderr}");
    assert!(
        run.folder
            .join("stale/0/records/170/seed-0/ideal.json")
            .is_file()
    );
}

/// A checkpoint with another byte, one that is gone and a record that was cut: each is made anew, as it was.
#[test]
fn damaged_results_are_moved_aside_and_made_anew() {
    let (run, _) = TinyRun::finished();
    let figures = run.figures();
    let digests = || {
        ["clean", "170/seed-0/attack", "170/seed-0/ideal"]
            .map(|step| run.record(step)["checkpoint_sha256"].clone())
    };
    let before = digests();
    let below = |name: &str| run.folder.join(name);
    let attacked = "checkpoints/170/seed-0/attack.safetensors";
    let mut bytes = fs_err::read(below(attacked)).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs_err::write(below(attacked), &bytes).unwrap();
    fs_err::remove_file(below("checkpoints/clean.safetensors")).unwrap();
    let ideal = "records/170/seed-0/ideal.json";
    let text = fs_err::read_to_string(below(ideal)).unwrap();
    let cut = &text[..text.len() / 2];
    fs_err::write(below(ideal), cut).unwrap();

    let said = run.finish(&["--methods", "ideal,mesa:0.9"]);
    for (step, reason) in [
        ("clean", "its file was changed or removed"),
        ("170/seed-0/attack", "its file was changed or removed"),
        ("170/seed-0/ideal", "its record is damaged"),
    ] {
        let aside = format!("stale/0/records/{step}.json");
        let aside = below(&aside).display().to_string();
        let words = format!("{step}: not reused, {reason}; the old result is now {aside}");
        assert!(said.stderr.contains(&words), "{words}: {}", said.stderr);
    }
    assert_eq!(said.stderr.matches("not reused").count(), 3);
    let kept = |name: &str| fs_err::read(below("stale/0").join(name)).unwrap();
    assert_eq!(kept(attacked), bytes);
    assert_eq!(kept(ideal), cut.as_bytes());
    assert!(!kept("checkpoints/170/seed-0/ideal.safetensors").is_empty());
    assert_eq!(run.figures(), figures);
    assert_eq!(digests(), before);
}

#[test]
fn a_damaged_summary_is_kept_and_its_rows_are_there_once_they_are_asked_for() {
    let (run, _) = TinyRun::finished();
    let figures = run.figures();
    let path = run.folder.join("summary.json");
    let text = fs_err::read_to_string(&path).unwrap();
    let cut = &text[..text.len() / 2];
    fs_err::write(&path, cut).unwrap();

    // To look at the plan changes nothing.
    let planned = run.finish(&["--methods", "ideal", "--dry-run"]);
    assert!(
        planned.stderr.contains("summary.json"),
        "{}",
        planned.stderr
    );
    assert_eq!(fs_err::read_to_string(&path).unwrap(), cut);

    let said = run.finish(&["--methods", "ideal"]);
    let aside = run.folder.join("stale/0/summary.json");
    let words = format!("it is now {}", aside.display());
    assert!(said.stderr.contains(&words), "{}", said.stderr);
    assert_eq!(fs_err::read_to_string(&aside).unwrap(), cut);
    assert_eq!(run.summary()["rows"].as_array().unwrap().len(), 3);
    // Records and networks are all there.
    let said = run.finish(&[]);
    assert!(!said.stderr.contains(": done in"), "{}", said.stderr);
    assert_eq!(run.figures(), figures);
}

/// Where the checkpoints of one were to go there is a file.
#[test]
fn a_network_that_fails_ends_a_sweep_with_1_and_takes_no_other_with_it() {
    let run = TinyRun::new();
    let in_the_way = run.folder.join("checkpoints/170");
    fs_err::create_dir_all(in_the_way.parent().unwrap()).unwrap();
    fs_err::write(&in_the_way, "").unwrap();
    let sweep = ["--triggers", "170,16", "--methods", "no-trigger"];
    let said = run.say(&sweep);
    assert_eq!(said.code, Some(1), "{}", said.stderr);
    for words in ["trigger 170, seed 0: ", "1 of 2 networks failed, see above"] {
        assert!(said.stderr.contains(words), "{words}: {}", said.stderr);
    }
    assert!(said.stdout.contains("no-trigger"), "{}", said.stdout);
    let rows = || {
        let rows = run.summary()["rows"].as_array().unwrap().clone();
        let row = |row: &Value| (row["trigger"].clone(), row["method"].clone());
        rows.iter().map(row).collect::<Vec<_>>()
    };
    let of = |trigger: u64| {
        ["clean", "backdoored", "no-trigger"].map(|method| (json!(trigger), json!(method)))
    };
    assert_eq!(rows(), of(16));
    let figures = run.figures();

    fs_err::remove_file(&in_the_way).unwrap();
    run.finish(&sweep);
    assert_eq!(rows(), [of(16), of(170)].concat());
    assert_eq!(run.figures_of(|row| row["trigger"] == 16), figures);
}

#[test]
fn committed_rows_count_as_done_only_with_continue_and_are_marked() {
    let (elsewhere, _) = TinyRun::finished();
    let repository = tempfile::tempdir().unwrap();
    let records = repository.path().join("docs/records/tiny");
    fs_err::create_dir_all(&records).unwrap();
    fs_err::create_dir_all(repository.path().join("assets/weights")).unwrap();
    let mut committed = elsewhere.summary();
    let rows = committed["rows"].as_array_mut().unwrap();
    rows.retain(|row| ["clean", "backdoored", "ideal"].contains(&row["method"].as_str().unwrap()));
    fs_err::write(records.join("summary.json"), committed.to_string()).unwrap();

    // An earlier start of several workers, on another network.
    let run = TinyRun::new();
    run.finish(&["--methods", "no-trigger", "--seeds", "1..2"]);
    let mut summary = run.summary();
    summary["at_once"] = json!({"workers": 2, "elapsed_s": 1.0});
    fs_err::write(run.folder.join("summary.json"), summary.to_string()).unwrap();
    let mut command = run.command(&["--methods", "ideal", "--continue"]);
    let said: Said = command
        .current_dir(repository.path())
        .output()
        .unwrap()
        .into();
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    assert!(
        said.stderr.contains("3 rows taken from committed records"),
        "{}",
        said.stderr
    );
    assert!(said.stdout.contains("committed record"), "{}", said.stdout);
    assert!(
        !run.folder.join("records/170/seed-0").exists(),
        "nothing of the chain was computed"
    );
    let summary = run.summary();
    assert_eq!(summary["at_once"]["workers"], 2);
    let rows = summary["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 6);
    let is_committed = |row: &Value| row["committed"] == true;
    assert!(
        rows.iter()
            .all(|row| is_committed(row) == (row["seed"] == 0))
    );

    let mut command = run.command(&["--methods", "ideal"]);
    let said: Said = command
        .current_dir(repository.path())
        .output()
        .unwrap()
        .into();
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    assert!(
        run.folder.join("records/170/seed-0").exists(),
        "without --continue it computes"
    );
    let of_seed_0 = run.figures_of(|row| row["seed"] == 0);
    assert_eq!(of_seed_0, elsewhere.figures_with(&["ideal"]));
}

#[test]
fn a_second_start_is_told_who_holds_the_folder() {
    let run = TinyRun::new();
    let mut first = run.start(&[]);
    let lock = run.folder.join("lock");
    let held = || fs_err::read_to_string(&lock).is_ok_and(|text| text.contains("pid"));
    wait_until(held);
    let said = run.say(&[]);
    let (pid, ended) = (first.id(), first.try_wait().unwrap().is_some());
    first.kill().unwrap();
    first.wait().unwrap();
    assert!(!ended, "the first start was to be running still");
    assert_eq!(said.code, Some(1));
    assert!(
        said.stderr.contains("is in use by process"),
        "{}",
        said.stderr
    );
    assert!(said.stderr.contains(&pid.to_string()), "{}", said.stderr);
}

#[test]
#[cfg(unix)]
fn ctrl_c_stops_in_order_and_says_how_to_go_on() {
    let run = TinyRun::new();
    let methods = ["--methods", "no-trigger"];
    let said = stopped_in(&run, "clean", &methods, &|child| send("INT", child));
    assert_eq!(said.code, Some(130), "{}", said.stderr);
    let words = "its work is saved: go on with the same command";
    assert!(said.stderr.contains(words), "{}", said.stderr);
    // In order: the next start has nothing to take over.
    let said = run.finish(&methods);
    assert!(!said.stderr.contains("taking over"), "{}", said.stderr);
    assert_eq!(run.record("clean")["resumed"], 1);
}

#[test]
#[cfg(unix)]
fn a_worker_ends_when_its_parent_is_killed() {
    let run = TinyRun::new();
    let mut command = std::process::Command::new("sh");
    let program = env!("CARGO_BIN_EXE_mesa");
    let worker = format!(
        "MESA_PARENT_PID=$$ {program} run --data synthetic --config {} --out {} --seeds 0..50 & wait",
        crate::program::tiny().display(),
        run.folder.display()
    );
    let null = std::process::Stdio::null;
    let mut parent = command
        .args(["-c", &worker])
        .stdout(null())
        .stderr(null())
        .spawn()
        .unwrap();
    let lock = run.folder.join("lock");
    wait_until(|| fs_err::read_to_string(&lock).is_ok_and(|text| text.contains("pid")));
    parent.kill().unwrap();
    parent.wait().unwrap();
    // The lock is free once the worker is gone, long before its fifty networks are done.
    wait_until(|| match Lock::acquire(&run.folder) {
        Ok(_) => true,
        Err(mesa_record::Error::Locked { .. }) => false,
        Err(error) => panic!("{error}"),
    });
}

fn files_below(folder: &std::path::Path) -> usize {
    fs_err::read_dir(folder)
        .unwrap()
        .map(|entry| {
            let path = entry.unwrap().path();
            if path.is_dir() { files_below(&path) } else { 1 }
        })
        .sum()
}
