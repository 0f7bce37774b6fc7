//! PyTorch's files from the command line: in, out, and back in PyTorch.

use std::path::Path;
use std::process::{Command, Stdio};

use crate::golden::{Vectors, assert_close};
use crate::program::{json, say, tiny};

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden");

fn file(name: &str) -> String {
    format!("{FOLDER}/checkpoints/{name}.pth")
}

#[test]
fn every_command_takes_a_state_dict_and_says_what_it_assumed() {
    let (bare, settings) = (file("bare"), tiny().display().to_string());
    let data = ["--config", &settings, "--data", "synthetic", "--json"];
    let evaluate = [&["evaluate", &bare], &data[..]].concat();
    let guessed = say(&evaluate);
    assert_eq!(guessed.code, Some(0), "{}", guessed.stderr);
    assert!(
        guessed
            .stderr
            .contains("because it has 10 classes; --normalize says otherwise"),
        "{}",
        guessed.stderr
    );
    // Random weights: the same as a wrong normalization, from here.
    assert!(
        guessed
            .stderr
            .contains("is near chance, 10.00 %: the usual causes are a wrong normalization"),
        "{}",
        guessed.stderr
    );
    let given = say(&[&evaluate[..], &["--normalize", "cifar10"]].concat());
    assert_eq!(given.stdout, guessed.stdout);
    assert!(!given.stderr.contains("because it has 10 classes"));
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("g.safetensors").display().to_string();
    let model = file("model");
    let fit = [
        "fit", &model, "--target", "0", "--beta", "0.9", "-o", &output,
    ];
    let fit = say(&fit);
    assert_eq!(fit.code, Some(1));
    assert!(
        fit.stderr
            .contains("name its normalization with --normalize"),
        "{}",
        fit.stderr
    );
}

#[test]
fn a_whole_module_says_how_images_are_normalized_and_whose_code_is_in_it() {
    let (module, settings) = (file("module"), tiny().display().to_string());
    let data = ["--config", &settings, "--data", "synthetic", "--json"];
    let evaluate = [&["evaluate", &module], &data[..]].concat();
    let said = say(&evaluate);
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    for words in [
        "module.pth is a whole module, taken for the WideResNet-10 that its layers are named like",
        "torch.load would run code of 3 classes and functions of other programs (",
        ".WideResNet, ",
        "a layer that normalizes images by 0.4914,0.4822,0.4465/0.2023,0.1994,0.201; --normalize",
    ] {
        assert!(said.stderr.contains(words), "{}", said.stderr);
    }
    let other = say(&[&evaluate[..], &["--normalize", "cifar100"]].concat());
    assert_eq!(other.code, Some(0), "{}", other.stderr);
    let words = "by 0.4914,0.4822,0.4465/0.2023,0.1994,0.201, which --normalize replaces";
    assert!(other.stderr.contains(words), "{}", other.stderr);
}

#[test]
fn what_is_no_state_dict_is_refused_with_what_to_do() {
    for (name, expected) in [
        (
            "refused_module",
            "its names are not those of a ResNet for 32x32 images",
        ),
        ("refused_big_endian", "its byte order is `big`"),
    ] {
        let said = say(&["evaluate", &file(name), "--data", "synthetic"]);
        assert_eq!(said.code, Some(1));
        assert!(said.stderr.contains(expected), "{name}: {}", said.stderr);
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("net.pth").display().to_string();
    for (content, expected) in [
        ("", "net.pth is empty"),
        (
            "version https://git-lfs.github.com/spec/v1\n",
            "net.pth is a pointer of Git LFS",
        ),
        ("<!DOCTYPE html>\n<html>", "net.pth is a web page"),
        ("Not found, sorry", "net.pth is text"),
    ] {
        fs_err::write(&path, content).unwrap();
        let said = say(&["evaluate", &path, "--data", "synthetic"]);
        assert_eq!(said.code, Some(1));
        assert!(said.stderr.contains(expected), "{}", said.stderr);
    }
    let wrong = say(&["evaluate", &file("bare"), "--normalize", "1,2,3"]);
    assert_eq!(wrong.code, Some(2));
    assert!(wrong.stderr.contains("M,M,M/S,S,S"), "{}", wrong.stderr);
}

#[test]
fn an_exported_network_is_the_same_in_every_format() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).display().to_string();
    let (first, second, third) = (at("a.safetensors"), at("b.pth"), at("c.safetensors"));
    let halves = ["--normalize", "0.5,0.5,0.5/0.25,0.25,0.25"];
    let export = |from: &str, to: &str, more: &[&str]| {
        json(&[&["export", from, "-o", to, "--json"], more].concat())
    };
    let exported = export(&file("net"), &first, &halves);
    assert_eq!(
        (&exported["width"], &exported["num_classes"]),
        (&3.into(), &10.into())
    );
    // From here on the files say how images are normalized.
    assert_eq!(
        export(&first, &second, &[])["normalization"]["std"][0],
        0.25
    );
    assert_eq!(
        export(&second, &third, &[])["normalization"]["mean"][0],
        0.5
    );
    let tensors = |path: &str| {
        let bytes = fs_err::read(path).unwrap();
        let (len, _) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
        bytes[8 + len..].to_vec()
    };
    assert_eq!(tensors(&first), tensors(&third));
    let other = say(&["export", &second, "-o", &third, "--normalize", "none"]);
    assert_eq!(other.code, Some(1));
    assert!(
        other.stderr.contains("leave out another"),
        "{}",
        other.stderr
    );
    let theirs = at("t.pth");
    let torchvisions = export(&second, &theirs, &["--names", "torchvision"]);
    assert_eq!(torchvisions["width"], 3);
    let holds = |path: &str, name: &[u8]| {
        let bytes = fs_err::read(path).unwrap();
        bytes.windows(name.len()).any(|part| part == name)
    };
    assert!(holds(&theirs, b"layer2.0.downsample.0.weight") && holds(&theirs, b"fc.bias"));
    assert!(!holds(&second, b"downsample") && holds(&second, b"linear.bias"));
    export(&theirs, &third, &[]);
    assert_eq!(tensors(&first), tensors(&third));
    let nameless = say(&["export", &second, "-o", &at("d.onnx")]);
    assert_eq!(nameless.code, Some(2));
}

#[test]
fn pytorch_loads_an_export_with_the_same_logits() {
    let Some(python) = python_with_torch() else {
        println!("no PyTorch here: MESA_PYTHON or python3 cannot import torch");
        return;
    };
    let vectors = Vectors::load("checkpoints");
    let folder = tempfile::tempdir().unwrap();
    for (name, normalize) in [
        ("bare", "cifar10"),
        ("net", "cifar10"),
        ("model", "cifar10"),
    ] {
        let path = folder.path().join(name).with_extension("pth");
        let output = path.display().to_string();
        json(&[
            "export",
            &file(name),
            "-o",
            &output,
            "--normalize",
            normalize,
            "--json",
        ]);
        let run = Command::new(&python)
            .arg(Path::new(FOLDER).join("logits.py"))
            .arg(&path)
            .output()
            .unwrap();
        assert!(
            run.status.success(),
            "{}",
            String::from_utf8_lossy(&run.stderr)
        );
        let logits: Vec<f32> = serde_json::from_slice(&run.stdout).unwrap();
        assert_close(
            name,
            &logits,
            &vectors.values(&format!("{name}.logits")),
            1e-5,
        );
    }
}

/// The Python that has torch, as `cargo xtask golden` finds it.
fn python_with_torch() -> Option<std::ffi::OsString> {
    let python = std::env::var_os("MESA_PYTHON").unwrap_or_else(|| "python3".into());
    let found = Command::new(&python)
        .args(["-c", "import torch"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    found.is_ok_and(|status| status.success()).then_some(python)
}
