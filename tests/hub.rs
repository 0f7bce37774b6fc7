//! Data from the Hugging Face Hub, which here is a server of the test's own.

mod server;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use self::server::{COMMIT, Fault, Server, file, sha256};
use crate::program::{Said, mesa, send, tiny};

const TRAIN: &str = "plain_text/train-00000-of-00001.parquet";
const FETCH: [&str; 3] = ["data", "fetch", "cifar10"];

/// A home of its own, and a Hub.
struct World {
    home: TempDir,
    hub: Server,
}

impl World {
    fn new(fault: Fault) -> Self {
        Self {
            home: tempfile::tempdir().unwrap(),
            hub: Server::start(fault),
        }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = mesa(arguments);
        command
            .env("HOME", self.home.path())
            .env("HF_HOME", self.home.path().join("hf"))
            .env("HF_ENDPOINT", &self.hub.endpoint)
            .env_remove("HF_HUB_OFFLINE");
        command
    }

    fn say(&self, arguments: &[&str]) -> Said {
        self.command(arguments).output().unwrap().into()
    }

    /// The cache of this program.
    fn cache(&self) -> PathBuf {
        self.home.path().join(".cache/mesa")
    }

    /// Where Hugging Face's libraries keep the data set.
    fn repository(&self) -> PathBuf {
        let hub = self.home.path().join("hf/hub");
        hub.join("datasets--uoft-cs--cifar10")
    }

    fn blobs(&self) -> Vec<String> {
        names(&self.repository().join("blobs"))
    }

    /// That neither cache has anything that looks finished.
    fn assert_nothing_finished(&self) {
        assert_eq!(names(&self.cache()), Vec::<String>::new());
        assert_eq!(names(&self.repository().join("snapshots")), [] as [&str; 0]);
        for blob in self.blobs() {
            assert!(blob.ends_with(".incomplete"), "{blob}");
        }
        let said = self.say(&["data"]);
        assert_eq!(said.code, Some(1), "{}", said.stdout);
    }

    /// That a fetch succeeds now, and with the right bytes.
    fn assert_fetches(&self) {
        let said = self.say(&FETCH);
        assert_eq!(said.code, Some(0), "{}", said.stderr);
        assert_eq!(names(&self.cache()), ["cifar-10-hub-order"]);
        let blob = self.repository().join("snapshots").join(COMMIT).join(TRAIN);
        assert!(fs_err::read(blob).unwrap() == file(TRAIN).unwrap());
        let folder = self.cache().join("cifar-10-hub-order");
        let records = fs_err::read(folder.join("cifar10-hub-train.bin")).unwrap();
        assert_eq!(records.len(), 25 * 3073);
        for (row, record) in records.chunks_exact(3073).enumerate() {
            assert_eq!(usize::from(record[0]), 7 * row % 10);
            // The formula of tests/golden/hub.py.
            let pixel = |place: usize| {
                let (c, y, x) = (place / 1024, place / 32 % 32, place % 32);
                (11 * row + 64 * c + 5 * y + 3 * x) as u8
            };
            assert!(record[1..].iter().enumerate().all(|(i, v)| *v == pixel(i)));
        }
    }
}

fn names(folder: &Path) -> Vec<String> {
    let Ok(entries) = fs_err::read_dir(folder) else {
        return Vec::new();
    };
    let mut names: Vec<String> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn assert_fails(said: &Said, parts: &[&str]) {
    assert_eq!(said.code, Some(1), "{}", said.stderr);
    assert!(said.stdout.is_empty(), "{}", said.stdout);
    for part in parts {
        assert!(said.stderr.contains(part), "{part}: {}", said.stderr);
    }
    // A signature in an address is nobody's business.
    assert!(!said.stderr.contains("secret"), "{}", said.stderr);
}

#[test]
fn fetches_verifies_and_labels_what_the_hub_has() {
    let world = World::new(Fault::None);
    let mut command = world.command(&[&FETCH[..], &["--json"]].concat());
    let said = Said::from(command.env("HF_TOKEN", "hf_token").output().unwrap());
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    let told: Value = serde_json::from_str(&said.stdout).unwrap();
    assert_eq!(
        (&told["name"], &told["repo"], &told["commit"]),
        (&"cifar10".into(), &"uoft-cs/cifar10".into(), &COMMIT.into())
    );
    assert_eq!(
        (&told["train_images"], &told["test_images"]),
        (&25.into(), &6.into())
    );
    assert_eq!(told["is_official"], false);
    assert!(!said.stderr.contains("hf_token"), "{}", said.stderr);

    let requests = world.hub.take_requests();
    for request in &requests {
        let token = request.header("Authorization");
        let expected = (!request.by_store).then_some("Bearer hf_token");
        assert_eq!(token, expected, "{request:?}");
    }
    let asked = |method: &str, by_store| {
        let asked = requests.iter().filter(|r| r.by_store == by_store);
        asked.filter(|r| r.method == method).count()
    };
    // Each file is asked about, then got, one from the store and one over a redirect of the Hub's.
    assert_eq!((asked("HEAD", false), asked("GET", false)), (3, 3));
    assert_eq!((asked("HEAD", true), asked("GET", true)), (0, 1));

    world.assert_fetches();
    assert!(world.hub.take_requests().is_empty(), "it was there already");
    let train = sha256(&file(TRAIN).unwrap());
    assert!(world.blobs().contains(&train), "{:?}", world.blobs());
    let said = world.say(&["data"]);
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    assert!(
        said.stdout
            .contains("cifar10: 25 training and 6 test images")
    );
    assert!(
        said.stdout.contains("NOT the official files"),
        "{}",
        said.stdout
    );
}

#[test]
fn cifar_100_has_its_coarse_labels_first() {
    let world = World::new(Fault::None);
    let said = world.say(&["data", "fetch", "cifar100"]);
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    let folder = world.cache().join("cifar-100-hub-order");
    let records = fs_err::read(folder.join("cifar100-hub-train.bin")).unwrap();
    let labels = records
        .chunks_exact(3074)
        .map(|record| [record[0], record[1]]);
    let expected = (0..12).map(|row| 3 + 7 * row);
    assert!(labels.eq(expected.map(|label| [label % 20, label % 100])));
}

#[test]
fn a_refusal_says_what_to_do() {
    for (status, advice) in [
        (401, "a token that it accepts goes into HF_TOKEN"),
        (403, "the token in HF_TOKEN has no access"),
        (404, "there is no such file; check HF_ENDPOINT"),
        (429, "it was asked too often"),
        (500, "try again later"),
    ] {
        let world = World::new(Fault::Status(status));
        let (status, file) = (
            status.to_string(),
            format!("uoft-cs/cifar10/resolve/main/{TRAIN}"),
        );
        assert_fails(&world.say(&FETCH), &[&status, advice, &file]);
        world.assert_nothing_finished();
    }
}

#[test]
fn a_login_page_is_not_the_hub_and_nobody_answers_at_a_closed_port() {
    let world = World::new(Fault::LoginPage);
    assert_fails(
        &world.say(&FETCH),
        &["did not answer as the Hub does", "X-Repo-Commit"],
    );
    world.assert_nothing_finished();
    let closed = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        format!("http://{}", listener.local_addr().unwrap())
    };
    for (endpoint, expected) in [
        (&*closed, "cannot reach"),
        ("hub", "HF_ENDPOINT is \"hub\""),
    ] {
        let mut command = world.command(&FETCH);
        let said = Said::from(command.env("HF_ENDPOINT", endpoint).output().unwrap());
        assert_fails(&said, &[expected, endpoint]);
    }
}

#[test]
fn a_download_that_was_cut_off_is_not_taken_for_finished_and_goes_on() {
    let world = World::new(Fault::CutAfter(3000));
    let total = file(TRAIN).unwrap().len();
    let cut = format!("cut off after 3000 of {total} bytes; run the command again");
    assert_fails(&world.say(&FETCH), &[TRAIN, &cut]);
    world.assert_nothing_finished();
    let incomplete = world.repository().join("blobs").join(&world.blobs()[0]);
    assert_eq!(fs_err::metadata(&incomplete).unwrap().len(), 3000);

    // Once more, from where it was.
    world.hub.set(Fault::CutAfter(500));
    assert_fails(&world.say(&FETCH), &["cut off after 3500 of"]);
    world.assert_nothing_finished();
    world.hub.take_requests();
    world.hub.set(Fault::None);
    world.assert_fetches();
    let requests = world.hub.take_requests();
    let ranges: Vec<_> = requests
        .iter()
        .filter(|request| request.by_store)
        .map(|request| request.header("Range"))
        .collect();
    assert_eq!(ranges, [Some("bytes=3500-")]);
    assert!(
        world
            .blobs()
            .iter()
            .all(|blob| !blob.contains("incomplete"))
    );
}

#[test]
fn a_store_without_ranges_sends_it_all_again() {
    let world = World::new(Fault::CutAfter(3000));
    assert_fails(&world.say(&FETCH), &["cut off after 3000"]);
    world.hub.set(Fault::NoRanges);
    world.assert_fetches();
}

#[test]
fn what_arrives_damaged_is_not_kept() {
    let world = World::new(Fault::Damaged);
    let digest = sha256(&file(TRAIN).unwrap());
    assert_fails(&world.say(&FETCH), &["arrived damaged", &digest]);
    world.assert_nothing_finished();
    world.hub.set(Fault::None);
    world.assert_fetches();
}

#[test]
fn silence_ends_it_after_ten_seconds() {
    for (fault, expected) in [
        (Fault::Silent, "no answer from"),
        (
            Fault::StallAfter(2000),
            "sent nothing for 10 s after 2000 of",
        ),
    ] {
        let world = World::new(fault);
        let started = Instant::now();
        assert_fails(&world.say(&FETCH), &[expected]);
        let took = started.elapsed();
        assert!(took < Duration::from_secs(20), "{fault:?}: {took:?}");
        world.assert_nothing_finished();
    }
}

#[test]
fn offline_means_no_connection() {
    let world = World::new(Fault::None);
    let offline = |arguments: &[&str]| {
        let mut command = world.command(arguments);
        Said::from(command.env("HF_HUB_OFFLINE", "1").output().unwrap())
    };
    assert_fails(
        &offline(&FETCH),
        &["HF_HUB_OFFLINE is set", TRAIN, "unset it"],
    );
    assert!(world.hub.take_requests().is_empty());
    world.assert_fetches();
    // What Hugging Face's cache has is enough.
    fs_err::remove_dir_all(world.cache()).unwrap();
    world.hub.take_requests();
    assert_eq!(offline(&FETCH).code, Some(0));
    assert!(world.hub.take_requests().is_empty());
    assert_eq!(names(&world.cache()), ["cifar-10-hub-order"]);
}

#[test]
fn damage_in_the_cache_is_fetched_anew() {
    let world = World::new(Fault::None);
    world.assert_fetches();
    let path = world
        .cache()
        .join("cifar-10-hub-order/cifar10-hub-train.bin");
    let mut bytes = fs_err::read(&path).unwrap();
    bytes[50] ^= 1;
    fs_err::write(&path, bytes).unwrap();
    assert_fails(
        &world.say(&["data"]),
        &["cifar10-hub-train.bin", "not as it was written"],
    );
    world.assert_fetches();
}

/// The smallest of runs, but on the data that the Hub has, if it has any.
fn run(world: &World, more: &[&str]) -> Said {
    let settings = fs_err::read_to_string(tiny()).unwrap();
    let (without, with) = (
        "synthetic_if_missing = false",
        "synthetic_if_missing = true",
    );
    assert!(settings.contains(without));
    let path = world.home.path().join("settings.toml");
    fs_err::write(&path, settings.replace(without, with)).unwrap();
    let out = world.home.path().join("run").display().to_string();
    let path = path.display().to_string();
    let arguments = ["--config", &path, "--out", &out, "--methods", "ideal"];
    let command = if more.contains(&"plan") {
        "plan"
    } else {
        "run"
    };
    let more: Vec<_> = more
        .iter()
        .copied()
        .filter(|word| *word != "plan")
        .collect();
    world.say(&[&[command], &arguments[..], &more].concat())
}

#[test]
fn a_run_without_data_asks_the_hub_and_else_draws_its_own() {
    let world = World::new(Fault::Status(403));
    let said = run(&world, &[]);
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    let lines = said.stderr.lines();
    let told: Vec<_> = lines.filter(|line| line.contains("BUILT-IN")).collect();
    assert_eq!(told.len(), 1, "{}", said.stderr);
    assert!(
        told[0].contains("none on the Hugging Face Hub (") && told[0].contains("403"),
        "{}",
        told[0]
    );
    let summary = fs_err::read_to_string(world.home.path().join("run/summary.json")).unwrap();
    assert!(summary.contains("\"data\": \"synthetic\""), "{summary}");

    // The few images of the test's Hub are too few for a run, which shows that they were taken.
    world.hub.set(Fault::None);
    let said = run(&world, &[]);
    assert_eq!(said.code, Some(1), "{}", said.stderr);
    assert!(
        said.stderr.contains("256 of 6 test images"),
        "{}",
        said.stderr
    );
    assert_eq!(names(&world.cache()), ["cifar-10-hub-order"]);
}

#[test]
fn the_hub_is_not_asked_where_data_is_named_or_nothing_is_to_be_run() {
    let world = World::new(Fault::None);
    for more in [&["--data", "synthetic"][..], &["plan"], &["--dry-run"]] {
        let said = run(&world, more);
        assert_eq!(said.code, Some(0), "{more:?}: {}", said.stderr);
    }
    let missing = world.home.path().join("missing").display().to_string();
    assert_eq!(run(&world, &["--data", &missing]).code, Some(1));
    assert!(world.hub.take_requests().is_empty());
}

#[cfg(unix)]
#[test]
fn ctrl_c_stops_a_download_which_goes_on_later() {
    let world = World::new(Fault::Slow);
    let mut command = world.command(&FETCH);
    let child = command.stderr(Stdio::piped()).spawn().unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    // It has come as far as the first bytes.
    while !world.hub.take_requests().iter().any(|r| r.by_store) {
        assert!(Instant::now() < deadline);
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_fails(&world.say(&FETCH), &["another process is downloading"]);
    send("INT", &child);
    let said = Said::from(child.wait_with_output().unwrap());
    assert_eq!(said.code, Some(130), "{}", said.stderr);
    assert!(
        said.stderr.contains("go on with the same command"),
        "{}",
        said.stderr
    );
    world.assert_nothing_finished();
    world.hub.set(Fault::None);
    world.assert_fetches();
}
