//! `cargo xtask ci cuda`: compiles and lints the feature `cuda`, tests what needs no GPU, and runs
//! the GPU's check on an emulated one (`crates/kernels/emulator`): the kernels compiled for the host,
//! convolutions as plain sums. That tests what is computed, every argument and every plan; it says
//! nothing of the driver, of cuDNN, of rounding on a card, or of speed.

use std::{
    env,
    ffi::OsString,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use xshell::{Shell, cmd};

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
const LIBRARIES: [(&str, &str, &[&str]); 4] = [
    ("libcuda.so.1", "driver.cpp", &["-ldl"]),
    ("libcudnn.so.9", "dnn.cpp", &["-ldl"]),
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
    let out = emulator.join("gpu");
    let gpu = |command: &str| {
        let features = ["--features", "mesa-cli/cuda"];
        cmd!(
            shell,
            "{cargo} run --quiet --package mesa-cli {features...} -- gpu {command} --out {out}"
        )
        .env("PATH", path)
        .env("LD_LIBRARY_PATH", &emulator)
    };
    let check = || gpu("check");
    check().run()?;
    // Its times say nothing; that it comes to its end, something.
    gpu("measure").arg("--quick").run()?;
    // A driver that is too old, and a card without memory, are errors that say so.
    for (variable, value, words) in [
        ("EMULATED_DRIVER", "11040", "driver is too old"),
        ("EMULATED_MEMORY", "1000", "out of GPU memory"),
    ] {
        let output = check().env(variable, value).ignore_status().output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(
            output.status.code() == Some(1) && said.contains(words),
            "with {variable}={value} the check ends with {} and says `{said}`, not `{words}`",
            output.status
        );
    }
    Ok(())
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
