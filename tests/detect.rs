//! `mesa detect`: what it writes, how it ends, that it goes on where it was.

use std::sync::OnceLock;

use serde_json::Value;

use crate::program::{Kept, Said, json, mesa, say, tiny};

/// Nothing reaches every image and nothing stands out that far: no class is modeled in a place of its own.
const STRICT: [&str; 4] = ["--min-asr", "1", "--min-index", "1000"];

/// A tiny network and a folder in which it was examined.
struct Suspect {
    folder: tempfile::TempDir,
}

impl Suspect {
    /// A copy of one that was searched anywhere, and what the search said: it is made but once.
    fn searched() -> (Self, Said) {
        static SEARCHED: OnceLock<(Kept, Said)> = OnceLock::new();
        let (kept, said) = SEARCHED.get_or_init(|| {
            let suspect = Self::trained();
            let said = suspect.detect(&[&STRICT[..], &["--json"]].concat());
            (Kept::of(suspect.folder.path()), said)
        });
        let suspect = Self {
            folder: tempfile::tempdir().unwrap(),
        };
        kept.copy_to(suspect.folder.path());
        (suspect, said.clone())
    }

    fn trained() -> Self {
        let suspect = Self {
            folder: tempfile::tempdir().unwrap(),
        };
        let (settings, model) = (
            tiny().display().to_string(),
            suspect.path("net.safetensors"),
        );
        let data = ["--config", &settings, "--data", "synthetic", "--json"];
        // Near chance nothing would be told of it.
        json(&[&["pretrain", "-o", &model, "--epochs", "12"], &data[..]].concat());
        suspect
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    fn detect(&self, more: &[&str]) -> Said {
        let (settings, out) = (tiny().display().to_string(), self.path("run"));
        let model = self.path("net.safetensors");
        let arguments = ["detect", &model, "--config", &settings, "--out", &out];
        say(&[&arguments[..], &["--data", "synthetic"], more].concat())
    }

    fn written(&self) -> Value {
        let text = fs_err::read_to_string(self.path("run/detection.json")).unwrap();
        serde_json::from_str(&text).unwrap()
    }

    /// When the sub-model of a class was written.
    fn fitted(&self, class: u32) -> std::time::SystemTime {
        let file = format!("run/checkpoints/class-{class}/fit-0.9.safetensors");
        fs_err::metadata(self.path(&file))
            .unwrap()
            .modified()
            .unwrap()
    }

    /// How many classes were modeled once more in their best place, by what an earlier search found of them.
    fn placed(&self, found: &Value, before: &[Value]) -> usize {
        let mut placed = 0;
        for (class, before) in found["classes"].as_array().unwrap().iter().zip(before) {
            let best = &before["best_place"];
            if best.is_null() {
                continue;
            }
            placed += 1;
            let [row, column] = ["row", "column"].map(|axis| &best[axis]);
            let fitted = format!(
                "run/checkpoints/class-{}/at-{row}-{column}/fit-0.9.safetensors",
                class["class"]
            );
            let text = fs_err::read(self.path(&fitted)).unwrap();
            let placement = format!("\"placement\":\"fixed:{row},{column}\"");
            assert!(
                String::from_utf8_lossy(&text).contains(&placement),
                "{fitted}"
            );
            match class.get("sample_asr_anywhere") {
                Some(anywhere) => assert_eq!(*anywhere, before["sample_asr"]),
                None => assert_eq!(class["sample_asr"], before["sample_asr"]),
            }
        }
        placed
    }
}

#[test]
fn every_class_is_examined_and_the_verdict_follows_the_rule() {
    let (suspect, said) = Suspect::searched();
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    let mut found: Value = serde_json::from_str(&said.stdout).unwrap();
    let more = found.as_object_mut().unwrap();
    assert!(
        more.remove("folder")
            .is_some_and(|folder| folder.is_string())
    );
    assert_eq!(more.remove("repair").unwrap(), Value::Null);
    assert_eq!(found, suspect.written());
    assert_eq!(found["verdict"], "nothing found");
    assert_eq!(found["attacked_classes"], serde_json::json!([]));
    let classes = found["classes"].as_array().unwrap();
    assert_eq!(classes.len(), 10);
    for (number, class) in classes.iter().enumerate() {
        assert_eq!(class["class"], number);
        assert!(class["name"].is_string() && class["entropy_nats"].is_number());
        // Where nothing works there is no best place.
        let works = class["sample_asr"].as_f64() > Some(0.0);
        let place = |axis: &str| class["best_place"][axis].as_u64();
        let inside = |axis: &str| place(axis).is_some_and(|place| place < 30);
        assert_eq!(inside("row") && inside("column"), works, "{class}");
        // Half of what the rule asks for is met in no place.
        assert!(class.get("sample_asr_anywhere").is_none(), "{class}");
    }
    for file in [
        "detection.svg",
        "samples.svg",
        "places.svg",
        "places.csv",
        "run.log",
    ] {
        assert!(fs_err::metadata(suspect.path("run").as_str().to_owned() + "/" + file).is_ok());
    }

    // Several that are reached, none of which stands out: no verdict is left.
    let alike = ["--min-asr", "0.000001", "--min-index", "1000"];
    let said = suspect.detect(&alike);
    assert_eq!(said.code, Some(11), "{}", said.stderr);
    assert!(
        said.stdout.starts_with("UNDECIDED of net.safetensors"),
        "{}",
        said.stdout
    );
    assert_eq!(suspect.written()["verdict"], "undecided");

    // The highest of ten classes is above their median.
    let before = suspect.fitted(3);
    let lax = ["--min-asr", "0.000001", "--min-index", "0.000001"];
    let said = suspect.detect(&lax);
    assert_eq!(said.code, Some(10), "{}", said.stderr);
    assert!(said.stdout.starts_with("BACKDOOR FOUND in net.safetensors"));
    assert_eq!(
        suspect.fitted(3),
        before,
        "what is modeled anywhere is not modeled anew"
    );
    let found = suspect.written();
    let asr = |class: &Value| class["sample_asr"].as_f64().unwrap();
    let placed = suspect.placed(&found, classes);
    assert!(placed > 0, "{found}");
    let highest = classes
        .iter()
        .max_by(|a, b| asr(a).total_cmp(&asr(b)))
        .unwrap();
    let attacked = found["attacked_classes"].as_array().unwrap();
    assert!(attacked.contains(&highest["class"]), "{found}");

    // The command that it gives works as it stands.
    let how = said
        .stdout
        .lines()
        .find(|line| line.contains("mesa defend"))
        .unwrap();
    let words: Vec<&str> = how.split_whitespace().skip(1).collect();
    let mut command = mesa(&words);
    command.current_dir(suspect.folder.path());
    let defended = Said::from(command.output().unwrap());
    assert_eq!(defended.code, Some(0), "{}", defended.stderr);
    let several = "stamping where the triggers were modeled: ";
    assert_eq!(
        defended.stderr.contains(several),
        how.contains("/at-"),
        "{how}: {}",
        defended.stderr
    );
    assert!(fs_err::metadata(suspect.path("net-repaired.safetensors")).is_ok());

    // The sub-models say which images they saw.
    let text = fs_err::read_to_string(tiny()).unwrap();
    let other = suspect.path("other.toml");
    fs_err::write(&other, text.replace("split_seed = 0", "split_seed = 1")).unwrap();
    let place = words.iter().position(|word| *word == "--config").unwrap();
    let mut with_other = words.clone();
    with_other[place + 1] = &other;
    let mut command = mesa(&with_other);
    command.current_dir(suspect.folder.path());
    let refused = Said::from(command.output().unwrap());
    assert_eq!(refused.code, Some(1));
    assert!(
        refused.stderr.contains("name the same settings"),
        "{}",
        refused.stderr
    );
}

/// It would take what is found away, if the first has a verdict or was stopped before.
#[test]
fn another_search_is_refused_from_the_first_class_on() {
    let (suspect, _) = Suspect::searched();
    let before = suspect.fitted(3);
    let is_refused = || {
        let other = suspect.detect(&["--seed", "1"]);
        assert_eq!(other.code, Some(1), "{}", other.stdout);
        for words in [
            "holds a search of net.safetensors",
            "--seed 0",
            "name another --out",
        ] {
            assert!(other.stderr.contains(words), "{}", other.stderr);
        }
        assert_eq!(suspect.fitted(3), before, "what was found stays");
    };
    is_refused();
    let (verdict, words) = (
        suspect.path("run/detection.json"),
        suspect.path("run/search.txt"),
    );
    let text = fs_err::read_to_string(&words).unwrap();
    fs_err::remove_file(&words).unwrap();
    // As earlier versions left it.
    is_refused();
    fs_err::write(&words, text).unwrap();
    fs_err::remove_file(verdict).unwrap();
    is_refused();
    let same = suspect.detect(&STRICT);
    assert_eq!(same.code, Some(0), "{}", same.stderr);
    assert_eq!(
        suspect.fitted(3),
        before,
        "and is what the same search goes on from"
    );
}

/// Whether there is a backdoor is not asked of a tiny network: any class may pass a rule as lax.
#[test]
fn a_place_that_is_named_is_searched_recorded_and_handed_on() {
    let (suspect, _) = Suspect::searched();
    let refused = suspect.detect(&["--placement", "fixed:30,29"]);
    assert_eq!(refused.code, Some(2));
    assert!(refused.stderr.contains("the last place is row 29"));

    let lax = ["--min-asr", "0.000001", "--min-index", "0.000001"];
    suspect.detect(&lax);
    let anywhere = suspect.written();
    assert!(anywhere.get("placement").is_none(), "{anywhere}");
    let place = ["--placement", "fixed:29,29"];
    let before = suspect.fitted(3);
    let refused = suspect.detect(&[&lax[..], &place].concat());
    assert_eq!(refused.code, Some(1));
    assert!(
        refused.stderr.contains("name another --out"),
        "{}",
        refused.stderr
    );
    assert_eq!(suspect.fitted(3), before, "what was found stays");
    fs_err::rename(suspect.path("run"), suspect.path("anywhere")).unwrap();
    let said = suspect.detect(&[&lax[..], &place].concat());
    assert_eq!(said.code, Some(10), "{}", said.stderr);
    assert!(
        said.stdout.contains("at row 29, column 29 only"),
        "{}",
        said.stdout
    );
    let found = suspect.written();
    assert_eq!(found["placement"], "fixed:29,29");
    assert_ne!(found["classes"], anywhere["classes"]);
    let how = said
        .stdout
        .lines()
        .find(|line| line.contains("mesa defend"));
    assert!(how.unwrap().contains(&place.join(" ")), "{how:?}");

    // The sub-models say where they were fitted: that is where their triggers are stamped.
    let (settings, model) = (
        tiny().display().to_string(),
        suspect.path("net.safetensors"),
    );
    let fitted =
        |run: &str| suspect.path(&format!("{run}/checkpoints/class-0/fit-0.9.safetensors"));
    let (there, elsewhere) = (fitted("run"), fitted("anywhere"));
    let output = suspect.path("repaired.safetensors");
    let data = ["--config", &settings, "--data", "synthetic", "-o", &output];
    let said = say(&[&["defend", &model, "--with", &there], &data[..]].concat());
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    assert!(
        said.stderr.contains("modeled: fixed:29,29"),
        "{}",
        said.stderr
    );
    let both = ["defend", &model, "--with", &there, &elsewhere];
    let all = ["--poison-rate", "1", "--epochs", "2"];
    let by_turns = say(&[&both[..], &data, &all].concat());
    assert_eq!(by_turns.code, Some(0), "{}", by_turns.stderr);
    let said = &by_turns.stderr;
    assert!(
        said.contains("modeled: fixed:29,29, per-image by turns"),
        "{said}"
    );
    let in_turns = weights(&output);
    for all_there in ["fixed:29,29", "per-image"] {
        let said = say(&[&both[..], &data, &all, &["--placement", all_there]].concat());
        assert_eq!(said.code, Some(0), "{}", said.stderr);
        assert_ne!(weights(&output), in_turns, "all stamped {all_there}");
    }
    let said = say(&[&both[..], &data, &["--weighted"]].concat());
    assert_eq!(said.code, Some(2));
    assert!(said.stderr.contains("several places"), "{}", said.stderr);
    let control = ["defend", &model, "--control", "no-trigger"];
    let said = say(&[&control[..], &data, &place].concat());
    assert_eq!(said.code, Some(2), "{}", said.stderr);

    // A trigger is stamped there, or not at all.
    let evaluate = [
        "evaluate",
        &model,
        "--config",
        &settings,
        "--data",
        "synthetic",
    ];
    let trigger = ["--trigger", "170", "--target", "0", "--json"];
    let corner: Value = json(&[&evaluate[..], &trigger, &place].concat());
    assert_eq!(corner["placement"], "fixed:29,29");
    let anywhere: Value = json(&[&evaluate[..], &trigger].concat());
    assert!(anywhere.get("placement").is_none());
    let outside = ["--placement", "fixed:31,0"];
    let said = say(&[&evaluate[..], &trigger, &outside].concat());
    assert_eq!(said.code, Some(2), "{}", said.stderr);
}

/// The numbers of a file of tensors, without what it says of them.
fn weights(path: &str) -> Vec<u8> {
    let bytes = fs_err::read(path).unwrap();
    let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    bytes[8 + header..].to_vec()
}

#[test]
fn a_classs_figures_are_those_of_a_fit_against_it() {
    let (suspect, said) = Suspect::searched();
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    let found = suspect.written();
    let (settings, model) = (
        tiny().display().to_string(),
        suspect.path("net.safetensors"),
    );
    for class in ["2", "7"] {
        let output = suspect.path("fitted.safetensors");
        let arguments = [
            "fit", &model, "--target", class, "--beta", "0.9", "-o", &output,
        ];
        let data = ["--config", &settings, "--data", "synthetic", "--json"];
        let fitted = json(&[&arguments[..], &data].concat());
        let of_class = &found["classes"][class.parse::<usize>().unwrap()];
        for figure in ["sample_asr", "in_level_set", "sample_std"] {
            assert_eq!(
                of_class[figure], fitted[figure],
                "{figure} of class {class}"
            );
        }
        assert!(
            fitted["sample_asr"].as_f64().unwrap() > 0.0,
            "class {class}"
        );
    }
}

#[test]
fn nothing_is_told_of_a_network_near_chance() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("net.safetensors").display().to_string();
    let settings = tiny().display().to_string();
    let data = ["--config", &settings, "--data", "synthetic"];
    json(
        &[
            &[
                "pretrain",
                "-o",
                &model,
                "--epochs",
                "1",
                "--learning-rate",
                "1e-9",
                "--json",
            ],
            &data[..],
        ]
        .concat(),
    );
    let mut command = mesa(&[&["detect", &model], &data[..]].concat());
    command.current_dir(folder.path());
    let said = Said::from(command.output().unwrap());
    assert_eq!(said.code, Some(1), "{}", said.stdout);
    assert!(said.stderr.contains("near chance"), "{}", said.stderr);
    // The file says its normalization itself, and no other would be taken.
    let cause = "it was trained on other data, or hardly trained";
    assert!(
        said.stderr.contains(cause) && !said.stderr.contains("--normalize"),
        "{}",
        said.stderr
    );
    // The folder that was to hold the result is called after the file, its contents and the settings.
    let name = fs_err::read_dir(folder.path().join("runs"))
        .unwrap()
        .next()
        .unwrap()
        .unwrap();
    let name = name.file_name().into_string().unwrap();
    assert!(
        name.starts_with("detect-net-")
            && name.ends_with("-tiny")
            && name.len() == "detect-net--tiny".len() + 8,
        "{name}"
    );
}

#[test]
fn a_rule_that_cannot_be_is_wrong_usage() {
    for (option, value, expected) in [
        ("--min-asr", "0", "sample_asr"),
        ("--min-asr", "1.5", "sample_asr"),
        ("--min-index", "0", "anomaly_index"),
        ("--beta", "1", "between 0 and 1"),
    ] {
        let said = say(&["detect", "missing.safetensors", option, value]);
        assert_eq!(said.code, Some(2), "{}", said.stderr);
        assert!(said.stderr.contains(expected), "{}", said.stderr);
    }
}

#[test]
fn a_file_that_is_not_there_leaves_no_folder() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run").display().to_string();
    let said = say(&["detect", "missing.safetensors", "--out", &out]);
    assert_eq!(said.code, Some(1), "{}", said.stderr);
    assert!(
        said.stderr.contains("missing.safetensors"),
        "{}",
        said.stderr
    );
    assert!(!folder.path().join("run").exists());
}
