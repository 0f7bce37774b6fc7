//! Images and triggers of one's own, from the command line.

use std::path::Path;

use crate::program::{json, say, tiny};

fn at(folder: &Path, name: &str) -> String {
    folder.join(name).display().to_string()
}

/// Three classes that differ in their colors, in any size, as PNG and as JPEG files.
fn photos(folder: &Path) {
    for (class, name) in ["ant", "bee", "cat"].iter().enumerate() {
        fs_err::create_dir_all(folder.join(name)).unwrap();
        for number in 0..90_u32 {
            let shade = |x: u32, y: u32| {
                let texture = (x * 7 + y * 13 + number * 29) % 64;
                let mut color = [60 + texture as u8; 3];
                color[class] = 180 + (texture / 2) as u8;
                image::Rgb(color)
            };
            let side = if number % 3 == 0 { 40 } else { 32 };
            let ending = if number % 2 == 0 { "png" } else { "JPG" };
            let path = folder.join(name).join(format!("{number}.{ending}"));
            image::RgbImage::from_fn(side, 32, shade)
                .save(path)
                .unwrap();
        }
    }
}

/// Fifteen by fifteen pixels: a white cross, transparent elsewhere.
fn cross(path: &str) {
    let pixel = |x: u32, y: u32| {
        let belongs = (5..10).contains(&x) || (5..10).contains(&y);
        image::Rgba([255, 255, 255, if belongs { 255 } else { 0 }])
    };
    image::RgbaImage::from_fn(15, 15, pixel).save(path).unwrap();
}

/// Whether `mesa data` shows the photos with their classes, the split and what was resized.
fn are_shown(data: &str) {
    let found = say(&["data", "--data", data]);
    assert!(
        found
            .stdout
            .contains("folder: 225 training and 45 test images of 3 classes")
            && found.stdout.contains("classes 0 ant, 1 bee, 2 cat")
            && found
                .stdout
                .contains("a sixth of each class for testing, drawn by seed 0"),
        "{}",
        found.stdout
    );
    assert!(
        found
            .stderr
            .contains("90 of 270 images were resized to 32×32 (one was 40×32)"),
        "{}",
        found.stderr
    );
}

/// Moves all photos to where they are for testing: a network is then evaluated on all of them, and none
/// is trained with any.
fn tested_only(data: &str, network: &str) {
    let whole = format!("{data}-whole");
    fs_err::create_dir(&whole).unwrap();
    fs_err::rename(data, at(Path::new(&whole), "test")).unwrap();
    let given = ["--data", &whole];
    let evaluate = ["evaluate", network, "--split", "test", "--json"];
    let measured = json(&[&evaluate[..], &given].concat());
    assert_eq!(measured["images"], 270);
    let trained = say(&[
        &["pretrain", "-o", &format!("{whole}.safetensors")],
        &given[..],
    ]
    .concat());
    assert_eq!(trained.code, Some(1));
    let words = "nothing to train with in";
    assert!(trained.stderr.contains(words), "{}", trained.stderr);
}

#[test]
fn a_folder_of_classes_and_a_picture_as_trigger_go_through_the_whole_chain() {
    let folder = tempfile::tempdir().unwrap();
    let (data, sticker) = (at(folder.path(), "photos"), at(folder.path(), "cross.png"));
    photos(Path::new(&data));
    cross(&sticker);
    are_shown(&data);
    let settings = tiny().display().to_string();
    let step = |arguments: &[&str]| {
        json(
            &[
                arguments,
                &["--config", &settings, "--data", &data, "--json"],
            ]
            .concat(),
        )
    };
    let (clean, bad) = (
        at(folder.path(), "clean.safetensors"),
        at(folder.path(), "bad.safetensors"),
    );
    let trained = step(&["pretrain", "-o", &clean, "--epochs", "16"]);
    assert_eq!(trained["data"], "folder");
    assert!(
        trained["test_accuracy"].as_f64().unwrap() > 0.9,
        "{trained}"
    );
    let attack = |trigger: &[&str], output: &str| {
        let more = [
            "--poison-rate",
            "0.3",
            "--epochs",
            "30",
            "--learning-rate",
            "0.03",
        ];
        let ends = ["--target", "1", "-o", output];
        step(&[&["attack", &clean], trigger, &more[..], &ends[..]].concat())
    };
    let evaluate = |network: &str, trigger: &[&str]| {
        let given = ["evaluate", network, "--target", "1", "--split", "test"];
        step(&[&given[..], trigger].concat())
    };
    let asr = |measured: &serde_json::Value| measured["asr"].as_f64().unwrap();
    let stamped = ["--trigger", &sticker];
    attack(&stamped, &bad);
    let (before, after) = (evaluate(&clean, &stamped), evaluate(&bad, &stamped));
    assert!(asr(&before) < 0.2 && asr(&after) > 0.8, "{before} {after}");
    assert_eq!(after["images"], 45);
    assert!(after.get("blend").is_none());
    let name = after["trigger"].as_str().unwrap();
    assert!(
        name.starts_with("cross-") && name.len() == "cross-".len() + 8,
        "{name}"
    );

    // The same file as a pattern over the whole image.
    let mixed = ["--trigger", &sticker, "--blend", "0.4"];
    let blended = at(folder.path(), "blended.safetensors");
    attack(&mixed, &blended);
    let (before, after) = (evaluate(&clean, &mixed), evaluate(&blended, &mixed));
    assert!(asr(&before) < 0.2 && asr(&after) > 0.8, "{before} {after}");
    assert!((after["blend"].as_f64().unwrap() - 0.4).abs() < 1e-6);

    let good = at(folder.path(), "good");
    let repair = ["defend", &bad, "--control", "ideal", "-o", &good];
    let given = ["--config", &settings, "--data", &data, "--json"];
    let said = say(&[&repair[..], &stamped, &given].concat());
    let repaired: serde_json::Value = serde_json::from_str(&said.stdout).unwrap();
    assert_eq!(repaired["method"], "ideal");
    assert!(
        said.stderr.contains("45 of 270 images are used"),
        "{}",
        said.stderr
    );
    tested_only(&data, &bad);
    // The network of three classes finds no other data.
    let other = say(&["evaluate", &bad, "--data", "synthetic"]);
    assert_eq!(other.code, Some(1));
    assert!(
        other
            .stderr
            .contains("data of 3 classes, as many as the network has"),
        "{}",
        other.stderr
    );
}

#[test]
fn files_that_are_no_images_or_triggers_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let (data, broken) = (at(folder.path(), "photos"), at(folder.path(), "broken.png"));
    photos(Path::new(&data));
    fs_err::write(&broken, b"\x89PNG\r\n\x1a\nno picture").unwrap();
    fs_err::copy(&broken, Path::new(&data).join("bee/7.JPG")).unwrap();
    let said = say(&["data", "--data", &data]);
    assert_eq!(said.code, Some(1));
    assert!(
        said.stderr.contains("7.JPG is damaged or no image"),
        "{}",
        said.stderr
    );
    for (trigger, code, expected) in [
        (broken.as_str(), 1, "broken.png is damaged or no image"),
        ("cross.webp", 2, "or a .png, .jpg or .safetensors file"),
        ("nowhere.png", 1, "cannot read nowhere.png"),
    ] {
        let said = say(&["attack", "m", "--trigger", trigger, "-o", "bad.safetensors"]);
        assert_eq!(said.code, Some(code), "{}", said.stderr);
        assert!(said.stderr.contains(expected), "{trigger}: {}", said.stderr);
    }
    for more in [
        &["--control", "random", "--trigger", "170"][..],
        &["--control", "no-trigger", "--poison-rate", "0.5"],
        &["--control", "no-trigger", "--weighted"],
    ] {
        let said = say(&[&["defend", "m", "-o", "good.safetensors"], more].concat());
        assert_eq!(said.code, Some(2), "{more:?} has no use: {}", said.stderr);
    }
    let said = say(&["evaluate", "m", "--blend", "0.2"]);
    assert_eq!(said.code, Some(2), "a share without a pattern");
}
