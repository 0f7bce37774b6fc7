//! Where the workspace is, and how its programs are built.

use std::{
    env,
    ffi::OsString,
    path::{Path, PathBuf},
    process::{Command, ExitCode, ExitStatus, Stdio},
};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;
use xshell::Shell;

/// The folder of the workspace's manifest.
pub(crate) fn root() -> Result<PathBuf> {
    // `cargo run` tells where the manifest of this package is.
    if let Some(manifest) = env::var_os("CARGO_MANIFEST_DIR")
        && let Some(root) = Path::new(&manifest).parent()
    {
        return Ok(root.to_path_buf());
    }
    let here = env::current_dir().context("reading the current folder")?;
    let root = here
        .ancestors()
        .find(|folder| folder.join("xtask/Cargo.toml").is_file());
    Ok(root
        .context("this is not inside the workspace: start it as `cargo xtask`")?
        .to_path_buf())
}

/// A shell in the workspace's root.
pub(crate) fn shell() -> Result<Shell> {
    let shell = Shell::new()?;
    shell.change_dir(root()?);
    Ok(shell)
}

/// The cargo that started this program, so that `cargo +nightly xtask` stays on one toolchain.
pub(crate) fn cargo() -> OsString {
    env::var_os("CARGO").unwrap_or_else(|| "cargo".into())
}

/// The Python that has torch: `MESA_PYTHON`, else `python3`. `None`, with a
/// message on how to get it, where it has none.
pub(crate) fn python_with_torch(purpose: &str) -> Option<OsString> {
    let python = env::var_os("MESA_PYTHON").unwrap_or_else(|| "python3".into());
    let found = Command::new(&python)
        .args(["-c", "import torch"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    if found.is_ok_and(|status| status.success()) {
        return Some(python);
    }
    eprintln!(
        "xtask: {purpose} needs PyTorch, and {} cannot import torch.\n\
         To install it:\n\
         \x20   python3 -m venv target/venv\n\
         \x20   target/venv/bin/pip install torch numpy safetensors \
         --extra-index-url https://download.pytorch.org/whl/cpu\n\
         then start again with MESA_PYTHON=target/venv/bin/python.",
        python.to_string_lossy()
    );
    None
}

/// Builds one program in release mode and says where it lies.
///
/// `target` is `["--bin", "mesa"]` or `["--example", "…"]`. Built from the root
/// without `--package`: features are then those of the whole workspace, and
/// after `cargo build --release --workspace` nothing is compiled again.
pub(crate) fn build(target: [&str; 2]) -> Result<PathBuf> {
    build_with(target, &[])
}

/// The same with further arguments, such as features.
pub(crate) fn build_with(target: [&str; 2], more: &[&str]) -> Result<PathBuf> {
    let output = Command::new(cargo())
        .current_dir(root()?)
        .args(["build", "--release"])
        .args(target)
        .args(more)
        .args(["--message-format", "json-render-diagnostics"])
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .context("starting cargo")?;
    if !output.status.success() {
        bail!("cargo build --release {} {} failed", target[0], target[1]);
    }
    executable(&String::from_utf8_lossy(&output.stdout), target[1])
        .with_context(|| format!("cargo built no program named {}", target[1]))
}

/// The program that cargo's messages, one JSON object a line, report for a target.
fn executable(messages: &str, name: &str) -> Option<PathBuf> {
    messages
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|message| message["target"]["name"] == name)
        .find_map(|message| message["executable"].as_str().map(PathBuf::from))
}

/// The exit code of a program that was started on the user's behalf.
pub(crate) fn exit_code(status: ExitStatus) -> ExitCode {
    // Killed by a signal: there is no code to pass on.
    let code = status
        .code()
        .and_then(|code| u8::try_from(code).ok())
        .unwrap_or(1);
    ExitCode::from(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_program_among_cargos_messages() {
        let messages = concat!(
            r#"{"reason":"compiler-artifact","target":{"name":"mesa"},"executable":null}"#,
            "\n",
            r#"{"reason":"compiler-artifact","target":{"name":"mesa"},"executable":"out/mesa"}"#,
            "\nnot json\n",
            r#"{"reason":"build-finished","success":true}"#,
        );
        assert_eq!(
            executable(messages, "mesa"),
            Some(PathBuf::from("out/mesa"))
        );
        assert_eq!(executable(messages, "xtask"), None);
    }

    #[test]
    fn knows_the_root() {
        assert!(root().unwrap().join("xtask/Cargo.toml").is_file());
    }
}
