//! The command line: help, exit codes, error texts, and the steps by hand.

use std::path::Path;

use crate::program::{Said, in_temporary, json, mesa, say, tiny};

#[test]
fn help_says_what_each_command_is_for() {
    for command in [
        "data",
        "detect",
        "pretrain",
        "attack",
        "fit",
        "sample",
        "defend",
        "evaluate",
        "export",
        "run",
        "plan",
        "distributions",
        "report",
        "gpu",
        "completions",
        "man",
    ] {
        let said = say(&[command, "--help"]);
        assert_eq!(said.code, Some(0));
        assert!(said.stdout.contains("Examples:"), "{command}");
        insta::assert_snapshot!(format!("help_{command}"), said.stdout);
    }
    insta::assert_snapshot!("help", say(&["--help"]).stdout);
    let fetch = say(&["data", "fetch", "--help"]);
    insta::assert_snapshot!("help_data_fetch", fetch.stdout);
    for action in ["all", "check", "measure", "pack", "unpack"] {
        let said = say(&["gpu", action, "--help"]);
        insta::assert_snapshot!(format!("help_gpu_{action}"), said.stdout);
    }
}

#[test]
fn wrong_usage_ends_with_2_and_says_what_is_right() {
    for (arguments, expected) in [
        (&["attack"][..], "required arguments"),
        (
            &["run", "--seeds", "3..3"],
            "write 0..3 for the seeds 0, 1 and 2",
        ),
        (
            &["data", "fetch", "mnist"],
            "possible values: cifar10, cifar100",
        ),
        (&["data", "--data", "x", "fetch", "cifar10"], "'--data"),
        (&["run", "--triggers", "512"], "512"),
        (&["run", "--methods", "best"], "there are mesa:β"),
        (
            &["run", "--methods", "mesa:0.7"],
            "the settings have the β [0.9, 0.8, 0.5]",
        ),
        (
            &["run", "--preset", "cpu", "--config", "x.toml"],
            "cannot be used with",
        ),
        (
            &["run", "--save-every", "often"],
            "neither `epoch` nor a number of seconds",
        ),
        (&["run", "--shard", "5/4"], "write 1/4 … 4/4"),
        (&["run", "--threads", "0"], "0 is not in 1.."),
        (
            &["fit", "m", "--target", "0", "--beta", "1.5", "-o", "g"],
            "between 0 and 1",
        ),
        (&["fit", "m", "--beta", "0.9", "-o", "g"], "--target"),
        (&["evaluate", "m", "--trigger", "170"], "--target"),
        (&["evaluate", "m", "--target", "1"], "--trigger"),
        (
            &["evaluate", "m", "--placement", "per-batch"],
            "--placement: nothing is stamped",
        ),
        (
            &["evaluate", "m", "--with", "g", "--split", "test"],
            "--split test takes; leave out one",
        ),
        (
            &["sample", "g", "-o", "x.png"],
            ".svg (a picture) or .safetensors",
        ),
        (
            &["sample", "g", "-o", "-", "--json"],
            "both take standard output",
        ),
        (&["run", "--normalize", "none"], "--clean"),
        (
            &["distributions", "--alphas", "0,much"],
            "0 or more, not `much`",
        ),
        (&["distributions", "--alphas=-1"], "0 or more, not `-1`"),
        (
            &["distributions", "--alpha-beta", "1"],
            "between 0 and 1, not `1`",
        ),
        (&["distributions", "-n", "1"], "1 is not in 2..=512"),
        (&["distributions", "--triggers", "512"], "512"),
        (
            &[
                "attack",
                "m",
                "--trigger",
                "170",
                "--target",
                "airplane",
                "-o",
                "x",
            ],
            "`airplane` is no class number; write 0 for the first class",
        ),
        (&["completions", "tcsh"], "possible values: bash"),
        (&["defend", "m", "-o", "x"], "--with"),
        (
            &["defend", "m", "-o", "x", "--control", "ideal"],
            "--trigger",
        ),
    ] {
        let said = say(arguments);
        assert_eq!(said.code, Some(2), "{arguments:?}: {}", said.stderr);
        assert!(
            said.stderr.contains(expected),
            "{arguments:?}: {}",
            said.stderr
        );
        assert!(said.stdout.is_empty(), "{arguments:?}");
    }
}

#[test]
fn failures_end_with_1_and_name_file_and_field() {
    let folder = tempfile::tempdir().unwrap();
    let broken = in_temporary(&folder, "broken.toml");
    let text = fs_err::read_to_string(tiny()).unwrap();
    fs_err::write(&broken, text.replace("stamp_rate", "stamp_rat")).unwrap();
    let network = in_temporary(&folder, "network.safetensors");
    fs_err::write(&network, "not a network").unwrap();
    let nowhere = in_temporary(&folder, "no/such/folder/f");
    let empty = in_temporary(&folder, "empty");
    fs_err::create_dir(&empty).unwrap();
    let missing = in_temporary(&folder, "missing");
    let below = format!("{network}/a/b.safetensors");
    let is_a_file = format!("{network} is a file, not a folder");
    for (arguments, expected) in [
        (
            &["run", "--config", &broken][..],
            &["broken.toml", "retrain", "stamp_rat"][..],
        ),
        (&["run", "--config", "missing.toml"], &["missing.toml"]),
        (
            &["run", "--preset", "huge"],
            &["`huge`", "quick, cpu, paper"],
        ),
        (
            &["evaluate", &network],
            &["network.safetensors is text", "`not a network`"],
        ),
        (
            &["data", "--data", &missing],
            &["there is no folder or archive", "missing (named by --data)"],
        ),
        (
            &["pretrain", "-o", &nowhere],
            &["does not exist; create it"],
        ),
        (&["pretrain", "-o", &empty], &["is a folder; name a file"]),
        (&["export", "m", "-o", &below], &[&below, &is_a_file]),
        #[cfg(target_os = "linux")]
        (
            &["pretrain", "-o", "/proc/net.safetensors"],
            &["-o /proc/net.safetensors: the folder /proc takes no file"],
        ),
        (&["data", "--data", &empty], &["empty", "data_batch_1.bin"]),
        (&["data"], &["no data found", "--data synthetic"]),
        (
            &["plan", "--device", "cuda", "--data", "synthetic"],
            &["--features cuda", "--device cpu"],
        ),
    ] {
        let Said {
            code,
            stdout,
            stderr,
        } = say(arguments);
        assert_eq!(code, Some(1), "{arguments:?}: {stderr}");
        assert!(stdout.is_empty(), "{arguments:?}");
        for part in expected {
            assert!(stderr.contains(part), "{arguments:?}: {stderr}");
        }
    }
}

#[test]
fn no_output_takes_the_place_of_an_input() {
    let folder = tempfile::tempdir().unwrap();
    let (evidence, other) = (
        in_temporary(&folder, "a.safetensors"),
        in_temporary(&folder, "b.safetensors"),
    );
    fs_err::create_dir(folder.path().join("sub")).unwrap();
    fs_err::write(&evidence, "evidence").unwrap();
    let roundabout = in_temporary(&folder, "sub/../a.safetensors");
    let mut names = vec![evidence.clone(), roundabout];
    #[cfg(unix)]
    {
        let link = in_temporary(&folder, "link.safetensors");
        std::os::unix::fs::symlink(&evidence, &link).unwrap();
        names.push(link);
    }
    let e = evidence.as_str();
    for output in &names {
        for arguments in [
            &["export", e][..],
            &["attack", e, "--trigger", "170"],
            &["attack", &other, "--trigger", e],
            &["fit", e, "--target", "0", "--beta", "0.9"],
            &["sample", e],
            &["defend", e, "--control", "no-trigger"],
            &["defend", &other, "--with", &other, e],
            &["defend", &other, "--control", "ideal", "--trigger", e],
            &["pretrain", "--config", e],
            &["fit", &other, "--target", "0", "--beta", "0.9", "--data", e],
            &["plan", "--measure", "--clean", e],
        ] {
            let said = say(&[arguments, &["-o", output]].concat());
            assert_eq!(said.code, Some(2), "{arguments:?}: {}", said.stderr);
            let expected = format!("{output}: that is the input {e}, which would be lost");
            assert!(said.stderr.contains(&expected), "{}", said.stderr);
        }
    }
    assert_eq!(fs_err::read_to_string(e).unwrap(), "evidence");
    let run = in_temporary(&folder, "run");
    fs_err::create_dir(&run).unwrap();
    let record = in_temporary(&folder, "run/summary.json");
    fs_err::write(&record, "{}").unwrap();
    for arguments in [
        ["report", &run, "-o", &record],
        ["gpu", "pack", &run, "--to"],
    ] {
        let mut arguments = arguments.to_vec();
        if arguments[0] == "gpu" {
            arguments.push(&record);
        }
        let said = say(&arguments);
        assert_eq!(said.code, Some(2), "{arguments:?}: {}", said.stderr);
    }
    assert_eq!(fs_err::read_to_string(&record).unwrap(), "{}");
}

/// Runs and records are named by their settings' file.
#[test]
fn a_file_of_other_settings_than_the_preset_it_is_named_like_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let named = |text: &str| {
        let file = in_temporary(&folder, "quick.toml");
        fs_err::write(&file, text).unwrap();
        say(&["run", "--dry-run", "--data", "synthetic", "--config", &file])
    };
    assert_eq!(named("base = \"quick\"").code, Some(0));
    let refused = named("base = \"quick\"\n[mesa]\nepochs = 1");
    assert_eq!(refused.code, Some(2), "{}", refused.stderr);
    assert!(
        refused.stderr.contains("rename the file"),
        "{}",
        refused.stderr
    );
}

/// A place outside of the image is told of before anything is trained, and by the setting that says it.
#[test]
fn a_place_of_the_settings_that_no_patch_fits_in_is_refused_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let text = fs_err::read_to_string(tiny()).unwrap();
    for (section, expected) in [
        ("retrain", "`retrain.placement`"),
        ("backdoor", "trigger 170 and `placement` of the backdoor"),
    ] {
        let at = text.find(&format!("[{section}]\n")).unwrap();
        let (before, after) = text.split_at(at);
        let (start, line) = after.split_once("placement = ").unwrap();
        let rest = line.split_once('\n').unwrap().1;
        let place = "{ fixed = { row = 31, column = 31 } }";
        let wrong = format!("{start}placement = {place}\n{rest}");
        let file = in_temporary(&folder, "mine.toml");
        fs_err::write(&file, format!("{before}{wrong}")).unwrap();
        let said = say(&["run", "--data", "synthetic", "--dry-run", "--config", &file]);
        assert!(said.stderr.contains(expected), "{}", said.stderr);
        assert_ne!(said.code, Some(0));
    }
}

#[test]
#[cfg(not(feature = "cuda"))]
fn a_build_without_gpu_says_how_to_make_one_with() {
    for action in ["check", "measure", "all"] {
        let said = say(&["gpu", action]);
        assert_eq!(said.code, Some(1), "{}", said.stderr);
        assert!(
            said.stderr
                .contains("cargo build --release --features cuda"),
            "{}",
            said.stderr
        );
    }
}

#[test]
fn records_travel_in_an_archive() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("slice-1");
    fs_err::create_dir(&run).unwrap();
    fs_err::write(run.join("summary.json"), "{}").unwrap();
    let (archive, records) = (
        in_temporary(&folder, "slice.tar.gz"),
        in_temporary(&folder, "records"),
    );
    let run = run.display().to_string();
    assert_eq!(say(&["gpu", "pack", &run, "--to", &archive]).code, Some(0));
    let unpacked = json(&["gpu", "unpack", &archive, "--into", &records, "--json"]);
    assert_eq!(unpacked["unpacked"][0], "slice-1/summary.json");
    let text = fs_err::read_to_string(folder.path().join("records/slice-1/summary.json"));
    assert_eq!(text.unwrap(), "{}");
    let said = say(&[
        "gpu",
        "unpack",
        &tiny().display().to_string(),
        "--into",
        &records,
    ]);
    assert_eq!(said.code, Some(1));
    assert!(said.stderr.contains("reading"), "{}", said.stderr);
}

#[test]
fn shells_and_man_learn_every_command() {
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let said = say(&["completions", shell]);
        assert_eq!(said.code, Some(0));
        assert!(said.stdout.contains("evaluate"), "{shell}");
    }
    // Presets by their names, where a shell completes values.
    for (shell, expected) in [
        ("bash", "compgen -W \"quick cpu paper paper-color"),
        ("fish", "-l preset"),
        ("zsh", ":NAME:(quick cpu paper paper-color"),
    ] {
        let script = say(&["completions", shell]).stdout;
        let at = script.find(expected).unwrap_or_else(|| panic!("{shell}"));
        assert!(script[at..].contains("cpu-target-5"), "{shell}");
    }
    let refused = say(&["completions", "bash", "--json"]);
    assert_eq!(refused.code, Some(2));
    assert!(refused.stderr.contains("--json"), "{}", refused.stderr);
    let folder = tempfile::tempdir().unwrap();
    let pages = folder.path().join("man1");
    let written = json(&["man", &pages.display().to_string(), "--json"]);
    let written = written["written"].as_array().unwrap();
    assert_eq!(written.len(), fs_err::read_dir(&pages).unwrap().count());
    let first = std::path::Path::new(written[0].as_str().unwrap());
    assert!(first.is_absolute() && first.exists(), "{first:?}");
    let page = fs_err::read_to_string(pages.join("mesa-evaluate.1")).unwrap();
    assert!(
        page.starts_with(".ie") && page.contains("resnet18.pth"),
        "{page}"
    );
    assert!(pages.join("mesa.1").exists());
}

#[test]
fn the_version_names_commit_and_features() {
    let short = say(&["-V"]).stdout;
    assert_eq!(short, concat!("mesa ", env!("CARGO_PKG_VERSION"), "\n"));
    let long = say(&["--version"]).stdout;
    assert!(long.starts_with(short.trim_end()), "{long}");
    assert!(long.contains("features"), "{long}");
    let mut git = std::process::Command::new("git");
    git.args(["rev-parse", "--show-toplevel"]);
    // No checkout without git, and none where this lies unpacked in another one.
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let top = git.output().map(|output| output.stdout).unwrap_or_default();
    let top = String::from_utf8(top).unwrap();
    let is_checkout = Path::new(top.trim()).canonicalize().ok() == root.canonicalize().ok();
    assert_eq!(long.contains("(commit "), is_checkout, "{long}");
}

#[test]
fn nothing_is_colored_or_drawn_where_nobody_looks() {
    let folder = tempfile::tempdir().unwrap();
    let clean = in_temporary(&folder, "clean.safetensors");
    let settings = tiny().display().to_string();
    for color in [None, Some("1")] {
        let mut command = crate::program::mesa(&[
            "pretrain",
            "-o",
            &clean,
            "--config",
            &settings,
            "--data",
            "synthetic",
        ]);
        command.env_remove("NO_COLOR");
        if let Some(value) = color {
            command.env("NO_COLOR", value);
        }
        let said = Said::from(command.output().unwrap());
        assert_eq!(said.code, Some(0), "{}", said.stderr);
        let all = said.stdout + &said.stderr;
        assert!(!all.contains(['\x1b', '\r']), "{all:?}");
    }
}

/// What is no sub-model, and what is no network, is called what it is.
fn are_told_apart(bad: &str, g9: &str, folder: &tempfile::TempDir) {
    let (no_model, out) = (
        in_temporary(folder, "no.svg"),
        in_temporary(folder, "no.safetensors"),
    );
    for arguments in [
        &["sample", bad, "-o", &no_model][..],
        &[
            "defend",
            bad,
            "--with",
            bad,
            "-o",
            &out,
            "--data",
            "synthetic",
        ],
    ] {
        let said = say(arguments);
        assert_eq!(said.code, Some(1), "{arguments:?}");
        let expected = "bad.safetensors is a network; name a sub-model";
        assert!(said.stderr.contains(expected), "{}", said.stderr);
    }
    let said = say(&["evaluate", g9]);
    assert_eq!(said.code, Some(1));
    assert!(
        said.stderr
            .contains("g9.safetensors is a sub-model of triggers"),
        "{}",
        said.stderr
    );
}

/// Whether what a repair says of samples before and after is what `mesa evaluate` measures.
fn is_what_anyone_measures(
    step: &dyn Fn(&[&str]) -> serde_json::Value,
    said: &serde_json::Value,
    [bad, good, sub_model]: [&str; 3],
) {
    for (network, asr) in [(bad, "asr_before"), (good, "asr")] {
        let measured = step(&["evaluate", network, "--with", sub_model]);
        let found = &measured["samples"][0];
        assert_eq!(found["asr"], said[asr], "{measured}");
        assert_eq!(
            (&found["sub_model"], &found["target"]),
            (&sub_model.into(), &0.into())
        );
    }
}

/// It would be left out silently.
fn a_turn_that_would_never_come_is_refused([bad, good, first, second]: [&str; 4]) {
    let settings = tiny().display().to_string();
    let repair = ["defend", bad, "-o", good, "--with", first, second];
    let few = [
        "--epochs",
        "1",
        "--config",
        &settings,
        "--data",
        "synthetic",
    ];
    let said = say(&[&repair[..], &few].concat());
    assert_eq!(said.code, Some(2), "{}", said.stderr);
    assert!(said.stderr.contains("--epochs 2"), "{}", said.stderr);
}

#[test]
fn the_steps_by_hand_lead_from_nothing_to_a_repaired_network() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| in_temporary(&folder, name);
    let (clean, bad, good) = (
        file("clean.safetensors"),
        file("bad.safetensors"),
        file("good.safetensors"),
    );
    let (g9, g5) = (file("g9.safetensors"), file("g5.safetensors"));
    let settings = tiny().display().to_string();
    let step = |arguments: &[&str]| {
        json(
            &[
                arguments,
                &["--config", &settings, "--data", "synthetic", "--json"],
            ]
            .concat(),
        )
    };
    let trained = step(&["pretrain", "-o", &clean]);
    assert_eq!(
        (&trained["data"], &trained["width"]),
        (&"synthetic".into(), &4.into())
    );
    let target = ["--target", "0", "-o", &bad];
    let attacked = step(&[&["attack", &clean, "--trigger", "170"], &target[..]].concat());
    assert!(attacked["asr"].is_number());
    let fitted = step(&["fit", &bad, "--target", "0", "--beta", "0.9", "-o", &g9]);
    assert_eq!(fitted["beta"], 0.9);
    step(&["fit", &bad, "--target", "0", "--beta", "0.5", "-o", &g5]);
    let (one, both) = (vec!["--with", &g9], vec!["--with", &g9, &g5]);
    let ways: [(&str, Vec<&str>); 6] = [
        ("mesa:0.9", one),
        ("ensemble:turns", both.clone()),
        ("ensemble:weighted", [both, vec!["--weighted"]].concat()),
        ("ideal", vec!["--control", "ideal", "--trigger", "170"]),
        ("fine-tune", vec!["--control", "fine-tune"]),
        ("point", vec!["--control", "point", "--target", "0"]),
    ];
    for (method, how) in ways {
        let models = how
            .iter()
            .filter(|word| word.ends_with(".safetensors"))
            .count();
        let arguments = [vec!["defend", &bad, "-o", &good], how].concat();
        let repaired = step(&arguments);
        assert_eq!(repaired["method"], method);
        let samples = repaired["samples"].as_array();
        assert_eq!(samples.map_or(0, Vec::len), models, "{method}: {repaired}");
        if method == "mesa:0.9" {
            is_what_anyone_measures(&step, &repaired["samples"][0], [&bad, &good, &g9]);
        }
    }
    assert!(!folder.path().join("good.safetensors.state").exists());
    a_turn_that_would_never_come_is_refused([&bad, &good, &g9, &g5]);

    for (name, count) in [("t.svg", "3"), ("t.safetensors", "5")] {
        let path = file(name);
        let sampled = json(&["sample", &g9, "-n", count, "-o", &path, "--json"]);
        assert_eq!(
            sampled["shape"],
            serde_json::json!([count.parse::<usize>().unwrap(), 3, 3, 3])
        );
        assert!(fs_err::metadata(&path).unwrap().len() > 0);
    }
    are_told_apart(&bad, &g9, &folder);

    let drawn = say(&["sample", &g9, "-n", "3", "-o", "-"]);
    assert_eq!(drawn.stdout, fs_err::read_to_string(file("t.svg")).unwrap());
    let data = ["--config", &settings, "--data", "synthetic", "--json"];
    let with = ["evaluate", &good, "--trigger", "170", "--target", "0"];
    let measured = step(&with);
    assert_eq!(
        (&measured["split"], &measured["images"]),
        (&"evaluation".into(), &144.into())
    );
    let quick = ["--preset", "quick", "--data", "synthetic"];
    let refused = say(&[&with[..], &quick].concat());
    assert_eq!(refused.code, Some(1));
    assert!(
        refused
            .stderr
            .contains("the first 256 of 400 test images of synthetic")
            && refused.stderr.contains("name the same settings"),
        "the split of another preset shares images with what the defense saw: {}",
        refused.stderr
    );
    assert!(measured["asr"].is_number() && measured["regained_accuracy"].is_number());
    let exported = file("good.pth");
    json(&["export", &good, "-o", &exported, "--json"]);
    // Attacking it again takes nothing back.
    let again = file("again.safetensors");
    let attack = ["--trigger", "16", "--target", "1", "-o", &again];
    step(&[&["attack", &good], &attack[..]].concat());
    let on_all = |model: &str| say(&[&["evaluate", model, "--split", "test"], &data[..]].concat());
    for repaired in [&good, &exported, &again] {
        let refused = on_all(repaired);
        assert_eq!(refused.code, Some(1), "{}", refused.stdout);
        for part in ["was repaired with the first 256", "leave out --split"] {
            assert!(refused.stderr.contains(part), "{}", refused.stderr);
        }
    }
    // The attacked network saw no test image.
    let measured: serde_json::Value = serde_json::from_str(&on_all(&bad).stdout).unwrap();
    assert!(measured["clean_accuracy"].is_number() && measured["asr"].is_null());
}

/// What figures depend on can be said, and what nobody has is refused by name.
#[test]
fn the_instructions_can_be_named() {
    let model = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../tests/golden/checkpoints/net.pth"
    );
    let settings = tiny().display().to_string();
    let data = ["--config", &settings, "--data", "synthetic"];
    // Of 400 images, so that more than one may be taken otherwise.
    let network = ["evaluate", model, "--normalize", "cifar10", "--json"];
    let evaluate = [&network[..], &data, &["--split", "test"]].concat();
    let with = |path: &str| -> Said {
        mesa(&evaluate)
            .env("MESA_CPU", path)
            .output()
            .unwrap()
            .into()
    };
    let accuracy = |said: &Said| {
        let found: serde_json::Value = serde_json::from_str(&said.stdout).unwrap();
        found["clean_accuracy"].as_f64().unwrap()
    };
    let (usual, portable) = (say(&evaluate), with("portable"));
    assert_eq!(portable.code, Some(0), "{}", portable.stderr);
    assert!((accuracy(&usual) - accuracy(&portable)).abs() < 0.005);
    let refused = with("fast");
    assert_eq!(refused.code, Some(1));
    let words = "MESA_CPU is `fast`, which is none of portable, avx2, avx512";
    assert!(refused.stderr.contains(words), "{}", refused.stderr);
}
