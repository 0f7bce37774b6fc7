//! `mesa report`: README's and the docs' tables from the committed records.

use std::path::Path;

use anyhow::{Context, Result, bail};
use mesa_report::committed_files;
use serde_json::json;

use crate::args::Report;
use crate::{logging, output};

pub(crate) fn run(args: &Report, json: bool) -> Result<()> {
    logging::start(None)?;
    let files = committed_files(Path::new(".")).context("reading the committed records")?;
    let mut stale = Vec::new();
    for file in files {
        let changed = if args.check {
            !file.is_current()?
        } else {
            file.write()?
        };
        if changed {
            let path = file.path.strip_prefix(".").unwrap_or(&file.path);
            stale.push(path.display().to_string());
        }
    }
    let names = stale.join(" and ");
    if args.check && !stale.is_empty() {
        bail!("not what the committed records say: {names}; run `cargo xtask report`");
    }
    let plain = if stale.is_empty() {
        "everything is current".to_owned()
    } else {
        format!("wrote {names}")
    };
    output::result(json, &json!({ "written": stale }), &plain)
}
