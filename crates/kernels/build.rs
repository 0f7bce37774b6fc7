//! With the feature `cuda`: compiles `src/cuda/kernels.cu` to PTX, once for each type of values, and
//! `src/cuda/hopper.cu` for the one generation of cards that it is for.
//!
//! nvcc is `NVCC`, else `bin/nvcc` of `CUDA_HOME` or `CUDA_PATH`, else the one on the search path.
//! `CUDA_COMPUTE_CAP` (such as `90`) names the oldest card the kernels have to run on; the driver
//! compiles PTX for whatever newer card it finds.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The kernels' file, which includes the others.
const SOURCE: &str = "src/cuda/kernels.cu";

/// Own convolutions for Hopper cards, in code that runs on these alone.
const HOPPER: &str = "src/cuda/hopper.cu";

/// Compiled for each of these types, to `kernels_NAME.ptx`.
const VALUES: [(&str, &str); 2] = [("f32", "float"), ("bf16", "__nv_bfloat16")];

/// Cards from Ampere on: the first with tensor cores for bf16.
const OLDEST_CARD: &str = "80";

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    if env::var_os("CARGO_FEATURE_CUDA").is_none() {
        return;
    }
    println!("cargo:rerun-if-changed=src/cuda");
    for variable in ["NVCC", "CUDA_HOME", "CUDA_PATH", "CUDA_COMPUTE_CAP"] {
        println!("cargo:rerun-if-env-changed={variable}");
    }
    let nvcc = nvcc();
    println!("cargo:rustc-env=MESA_CUDA_VERSION={}", version(&nvcc));
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    for (name, kind) in VALUES {
        let target = out.join(format!("kernels_{name}.ptx"));
        let kind = format!("-DMESA_VALUE={kind}");
        let arch = format!("-arch=compute_{}", generation());
        compile(&nvcc, SOURCE, &["-ptx", &arch, &kind], &target);
    }
    let target = out.join("hopper.cubin");
    compile(&nvcc, HOPPER, &["-cubin", "-arch=sm_90a"], &target);
}

fn nvcc() -> PathBuf {
    if let Some(nvcc) = env::var_os("NVCC") {
        return nvcc.into();
    }
    let homes = ["CUDA_HOME", "CUDA_PATH"]
        .into_iter()
        .filter_map(env::var_os);
    homes
        .map(|home| Path::new(&home).join("bin/nvcc"))
        .find(|nvcc| nvcc.is_file())
        .unwrap_or_else(|| "nvcc".into())
}

/// The toolkit's version as drivers count it, such as 13000 for 13.0.
fn version(nvcc: &Path) -> u32 {
    let output = Command::new(nvcc).arg("--version").output();
    let output = output.unwrap_or_else(|error| {
        panic!(
            "the feature `cuda` needs NVIDIA's compiler, and {} cannot be started ({error}): install \
             the CUDA toolkit, or set NVCC or CUDA_HOME",
            nvcc.display()
        )
    });
    let text = String::from_utf8_lossy(&output.stdout);
    let numbers = || {
        let after = text.split("release ").nth(1)?;
        let (major, rest) = after.split_once('.')?;
        let minor: String = rest.chars().take_while(char::is_ascii_digit).collect();
        Some((major.parse::<u32>().ok()?, minor.parse::<u32>().ok()?))
    };
    let Some((major, minor)) = numbers() else {
        panic!("{} --version says no release: {text}", nvcc.display());
    };
    assert!(
        major >= 12,
        "{} is of CUDA {major}.{minor}: the feature `cuda` needs 12.0 or later",
        nvcc.display()
    );
    1000 * major + 10 * minor
}

/// The card's generation as nvcc wants it: `90`, `9.0` and `90a` are all 90.
fn generation() -> String {
    let Ok(text) = env::var("CUDA_COMPUTE_CAP") else {
        return OLDEST_CARD.to_owned();
    };
    let digits: String = text.chars().filter(char::is_ascii_digit).collect();
    assert!(
        (2..=3).contains(&digits.len()),
        "CUDA_COMPUTE_CAP is `{text}`, expected a compute capability such as 90"
    );
    digits
}

fn compile(nvcc: &Path, source: &str, options: &[&str], target: &Path) {
    let status = Command::new(nvcc)
        .args(["-std=c++17", "-O3", "-Werror=all-warnings"])
        .args(options)
        .arg("-o")
        .arg(target)
        .arg(source)
        .status();
    match status {
        Ok(status) if status.success() => {}
        Ok(status) => panic!("{} failed on {source}: {status}", nvcc.display()),
        Err(error) => panic!("{} cannot be started: {error}", nvcc.display()),
    }
}
