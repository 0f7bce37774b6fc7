//! `cargo xtask ci cuda`: compiles and lints the feature `cuda`, tests what needs no GPU, and runs
//! the GPU's check on an emulated one (`crates/kernels/emulator`): the kernels compiled for the host,
//! convolutions as plain sums; then a whole run of tiny networks, two at a time. That tests what is computed, every argument and every plan; it says
//! nothing of the driver, of cuDNN, of rounding on a card, or of speed.

use std::{
    collections::BTreeMap,
    env,
    ffi::OsString,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use mesa_record::{Row, StepRecord, Summary};
use xshell::{Cmd, Shell, cmd};

use crate::workspace;

pub(crate) fn run(shell: &Shell) -> Result<()> {
    let Some(nvcc) = nvcc(|name| env::var_os(name)) else {
        eprintln!(
            "xtask: skipped, there is no nvcc: set NVCC or CUDA_HOME, or put it on the search path"
        );
        return Ok(());
    };
    let cargo = workspace::cargo();
    // A dependency's build script asks `nvcc` for its version by that name.
    let path = search_path(&nvcc)?;
    let packages = ["--package", "mesa-kernels", "--package", "mesa-models"];
    cmd!(
        shell,
        "{cargo} clippy {packages...} --package mesa-cli --features mesa-cli/cuda --all-targets
         -- -D warnings"
    )
    .env("PATH", &path)
    .run()?;
    cmd!(
        shell,
        "{cargo} test {packages...} --features mesa-models/cuda --lib cuda::"
    )
    .env("PATH", &path)
    .run()?;
    cmd!(
        shell,
        "{cargo} doc {packages...} --features mesa-models/cuda --no-deps"
    )
    .env("PATH", &path)
    .env("RUSTDOCFLAGS", "-D warnings")
    .run()?;
    emulate(shell, &path)
}

/// The emulator's libraries: name, source, and what else the compiler is told.
const LIBRARIES: [(&str, &str, &[&str]); 5] = [
    ("libcuda.so.1", "driver.cpp", &["-ldl"]),
    ("libcudnn.so.9", "dnn.cpp", &["-ldl"]),
    ("hopper.so", "hopper.cpp", &[]),
    ("kernels_f32.so", "kernels.cpp", &["-DMESA_VALUE=float"]),
    (
        "kernels_bf16.so",
        "kernels.cpp",
        &["-DMESA_VALUE=__nv_bfloat16"],
    ),
];

/// Runs the check on an emulated GPU, where there is a C++ compiler for it.
fn emulate(shell: &Shell, path: &OsString) -> Result<()> {
    let compiler = env::var_os("CXX").unwrap_or_else(|| "c++".into());
    if !cfg!(target_os = "linux") || !starts(Path::new(&compiler)) {
        eprintln!("xtask: no emulated GPU: that needs Linux and a C++ compiler (CXX)");
        return Ok(());
    }
    let source = workspace::root()?.join("crates/kernels/emulator");
    let target = env::var_os("CARGO_TARGET_DIR").map_or_else(
        || workspace::root().map(|root| root.join("target")),
        |target| Ok(target.into()),
    )?;
    let emulator = target.join("emulator");
    shell.create_dir(&emulator)?;
    let common = [
        "-std=c++17",
        "-O3",
        "-fPIC",
        "-shared",
        "-Wall",
        "-Wno-unknown-pragmas",
        "-fno-strict-aliasing",
    ];
    for (name, file, more) in LIBRARIES {
        let (library, file) = (emulator.join(name), source.join(file));
        cmd!(
            shell,
            "{compiler} {common...} -Wl,-Bsymbolic -I {source} -o {library} {file} {more...}"
        )
        .run()?;
    }
    // The driver is looked for under this name first. One file, so that it is loaded once.
    let (driver, plain) = (emulator.join("libcuda.so.1"), emulator.join("libcuda.so"));
    shell.remove_path(&plain)?;
    fs_err::hard_link(driver, plain)?;
    let cargo = workspace::cargo();
    let features = ["--features", "mesa-cli/cuda"];
    let mesa = || {
        cmd!(
            shell,
            "{cargo} run --quiet --package mesa-cli {features...} --"
        )
        .env("PATH", path)
        .env("LD_LIBRARY_PATH", &emulator)
    };
    let all = emulator.join("all");
    shell.remove_path(&all)?;
    let out = all.join("gpu");
    let check = || mesa().args(["gpu", "check", "--quick", "--out"]).arg(&out);
    check().run()?;
    // Its times say nothing; that it comes to its end, something.
    mesa()
        .args(["gpu", "measure", "--quick", "--out"])
        .arg(&out)
        .run()?;
    runs(&mesa, &all)?;
    // A driver that is too old, and a card without memory, are errors that say so.
    let small = emulator.join("out-of-memory");
    shell.remove_path(&small)?;
    for (command, variable, value, words) in [
        (check(), "EMULATED_DRIVER", "11040", "driver is too old"),
        (check(), "EMULATED_MEMORY", "1000", "out of GPU memory"),
        (
            tiny_run(&mesa, &small)?,
            "EMULATED_MEMORY",
            "1000000",
            "out of GPU memory",
        ),
    ] {
        let command = command.env(variable, value).ignore_status();
        let output = command.output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(
            output.status.code() == Some(1) && said.contains(words),
            "with {variable}={value} it ends with {} and says `{said}`, not `{words}`",
            output.status
        );
    }
    Ok(())
}

/// The tiny settings and their data.
fn tiny() -> Result<[OsString; 4]> {
    let config = workspace::root()?.join("tests/fixtures/emulated.toml");
    Ok([
        "--config".into(),
        config.into(),
        "--data".into(),
        "synthetic".into(),
    ])
}

/// `mesa run` of the tiny settings, one network after the other.
fn tiny_run<'a>(mesa: &impl Fn() -> Cmd<'a>, out: &Path) -> Result<Cmd<'a>> {
    let workers = ["--device", "cuda", "--workers", "1"];
    Ok(mesa()
        .arg("run")
        .args(tiny()?)
        .args(workers)
        .arg("--out")
        .arg(out))
}

/// Runs `mesa gpu all` with two networks at a time, where a check and a measurement are already; again,
/// which has to compute nothing; and one network at a time, which has to give the same bits.
fn runs<'a>(mesa: &impl Fn() -> Cmd<'a>, all: &Path) -> Result<()> {
    let two = || -> Result<String> {
        let command = mesa()
            .args(["gpu", "all", "--quick", "--workers", "2", "--out"])
            .arg(all)
            .args(tiny()?);
        let output = command.ignore_status().output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        eprint!("{said}");
        ensure!(
            output.status.success(),
            "mesa gpu all ended with {}",
            output.status
        );
        for part in [
            "the check of this machine",
            "the measurement of this machine",
        ] {
            ensure!(said.contains(part), "{part} was made again");
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let both = all.join("emulated");
    let told = two()?;
    ensure!(
        told.contains("2 of 2"),
        "not both networks are done: {told}"
    );
    let archive = all.join("records.tar.gz");
    ensure!(archive.is_file(), "there is no {}", archive.display());
    let (rows, records) = (rows(&both)?, files_below(&both.join("records"))?);
    for trigger in ["170", "16"] {
        let methods: Vec<&str> = rows
            .iter()
            .filter(|row| row.trigger.to_string() == trigger)
            .map(|row| row.method.as_str())
            .collect();
        ensure!(
            methods == METHODS,
            "trigger {trigger} has the rows {methods:?}, not {METHODS:?}"
        );
    }
    // What is computed again writes its record again, with another time.
    two()?;
    ensure!(
        files_below(&both.join("records"))? == records,
        "the second start computed something again"
    );
    let one = all.join("one-at-a-time");
    tiny_run(mesa, &one)?.run()?;
    ensure!(
        self::rows(&one)? == rows,
        "one network at a time gives other figures than two: see {} and {}",
        one.display(),
        both.display()
    );
    let made = digests(&both)?;
    ensure!(
        !made.is_empty() && digests(&one)? == made,
        "one network at a time makes other files than two: see {} and {}",
        one.display(),
        both.display()
    );
    Ok(())
}

/// The digest of the file that each step of a run made.
fn digests(run: &Path) -> Result<BTreeMap<PathBuf, String>> {
    let records = run.join("records");
    let mut digests = BTreeMap::new();
    for path in files_below(&records)?.into_keys() {
        let record: StepRecord = mesa_record::read_json(&path)?;
        if let Some(digest) = record.checkpoint_sha256 {
            digests.insert(path.strip_prefix(&records)?.to_path_buf(), digest);
        }
    }
    Ok(digests)
}

/// The rows of a network in the tiny run.
const METHODS: [&str; 8] = [
    "clean",
    "backdoored",
    "no-trigger",
    "mesa:0.5",
    "mesa:0.9",
    "ensemble:turns",
    "ensemble:weighted",
    "ideal",
];

/// The rows of a run, without what a clock measured.
fn rows(run: &Path) -> Result<Vec<Row>> {
    let summary: Summary = mesa_record::read_json(&run.join("summary.json"))?;
    let mut rows = summary.rows;
    for row in &mut rows {
        row.wall_s = 0.0;
    }
    Ok(rows)
}

/// Every file below a folder, and what is in it.
fn files_below(folder: &Path) -> Result<BTreeMap<PathBuf, Vec<u8>>> {
    let mut files = BTreeMap::new();
    for entry in fs_err::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            files.extend(files_below(&path)?);
        } else {
            files.insert(path.clone(), fs_err::read(&path)?);
        }
    }
    Ok(files)
}

/// The compiler that the build script of mesa-kernels would take, if it can be started.
fn nvcc(variable: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let named = variable("NVCC").map(PathBuf::from);
    let homes = ["CUDA_HOME", "CUDA_PATH"].into_iter().filter_map(variable);
    let in_home = homes.map(|home| Path::new(&home).join("bin/nvcc"));
    named
        .into_iter()
        .chain(in_home)
        .chain([PathBuf::from("nvcc")])
        .find(|nvcc| starts(nvcc))
}

fn starts(program: &Path) -> bool {
    Command::new(program)
        .arg("--version")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// The search path with the compiler's folder first.
fn search_path(nvcc: &Path) -> Result<OsString> {
    let folder = nvcc
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    let old = env::var_os("PATH").unwrap_or_default();
    let folders = folder.map(Path::to_path_buf).into_iter();
    env::join_paths(folders.chain(env::split_paths(&old))).context("extending the search path")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_compiler_that_does_not_start_is_passed_over() {
        let found = nvcc(|name| (name == "NVCC").then(|| "/nowhere/nvcc".into()));
        assert_ne!(found, Some(PathBuf::from("/nowhere/nvcc")));
    }

    #[test]
    fn its_folder_comes_first_on_the_search_path() {
        let path = search_path(Path::new("/toolkit/bin/nvcc")).unwrap();
        let first = env::split_paths(&path).next();
        assert_eq!(first, Some(PathBuf::from("/toolkit/bin")));
        assert_eq!(
            search_path(Path::new("nvcc")).unwrap(),
            env::join_paths(env::split_paths(&env::var_os("PATH").unwrap())).unwrap()
        );
    }
}
