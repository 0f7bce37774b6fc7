//! `mesa plan`: what a run would do and take.

use anyhow::Result;
use mesa_record::write_json;

use super::run::{Chosen, plan_text};
use crate::args::Plan;
use crate::inputs::IfMissing;
use crate::{logging, output};

pub(crate) fn run(args: &Plan, json: bool, threads: usize) -> Result<()> {
    logging::start(None)?;
    let chosen = Chosen::new(&args.selection, "quick")?;
    if let Some(path) = &args.output {
        let (preset, sources) = (&args.selection.preset, &args.selection.sources);
        let files = super::shared_inputs(preset, &sources.data).chain(sources.clean.as_deref());
        super::check_not_input(path, files)?;
        super::check_output(path)?;
    }
    let (session, chains, summary) =
        chosen.prepare(&args.selection, &args.running, threads, IfMissing::Leave)?;
    let mut plan = session.plan(&chains, &chosen.methods, &summary);
    if args.measure {
        session.measure(&mut plan, args.batches)?;
    }
    if let Some(path) = &args.output {
        write_json(path, &plan)?;
    }
    output::result(json, &plan, &plan_text(&plan))
}
