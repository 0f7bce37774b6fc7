//! What a run would need, as measured by `mesa plan --measure`.

use std::fmt::Write as _;

use mesa_record::Plan;

use crate::{
    Table,
    commands::settings_options,
    format::{bytes, data_words, hardware_words, memory, seconds},
};

/// The section of a committed plan in `docs/results.md`.
pub(crate) fn section(plan: &Plan) -> String {
    let mut text = format!(
        "\n## {}\n\n```text\n{}\n```\n\n{}\n\n{}\n",
        heading(plan),
        command(plan),
        introduction(plan),
        stages(plan).to_markdown()
    );
    for note in notes(plan) {
        let _ = writeln!(text, "- {note}");
    }
    text
}

/// Of what this is the plan.
pub(crate) fn heading(plan: &Plan) -> String {
    let place = match plan.device.as_str() {
        "cpu" | "" => "a CPU",
        _ => "a GPU",
    };
    format!("What preset {} needs on {place}", plan.preset)
}

/// The command that makes it again.
pub(crate) fn command(plan: &Plan) -> String {
    let options = settings_options(&plan.preset, &plan.device, &plan.data);
    format!("mesa plan{options} --measure")
}

/// Where its figures come from.
pub(crate) fn introduction(plan: &Plan) -> String {
    format!(
        "An estimate for {} networks on {}: {} of each stage were run on an untrained network, \
         modeling at its slowest, and the rest follows from their speed.",
        plan.chains.len(),
        data_words(&plan.data),
        plan.measured_batches.map_or_else(
            || "some batches".to_owned(),
            |count| format!("{count} batches")
        ),
    )
}

/// What all of it takes, and where that was measured.
pub(crate) fn notes(plan: &Plan) -> Vec<String> {
    vec![
        format!(
            "time {}; peak memory {}; disk {}",
            plan.estimated_s
                .map_or_else(|| "not measured".to_owned(), seconds),
            memory(plan.peak_rss_mb),
            bytes(plan.estimated_bytes)
        ),
        hardware_words(
            &plan.device,
            &plan.kernel_path,
            plan.threads,
            &plan.processor,
        ),
    ]
}

/// A row for each kind of step.
pub(crate) fn stages(plan: &Plan) -> Table {
    let columns = ["stage", "steps", "images", "images/s", "time"];
    let mut table = Table::new(String::new(), &columns);
    table.rows = plan
        .stages
        .iter()
        .map(|stage| {
            let images = if stage.images == 0 {
                String::new()
            } else {
                stage.images.to_string()
            };
            vec![
                stage.kind.clone(),
                stage.steps.to_string(),
                images,
                stage
                    .images_per_s
                    .map(|rate| format!("{rate:.0}"))
                    .unwrap_or_default(),
                stage.estimated_s.map(seconds).unwrap_or_default(),
            ]
        })
        .collect();
    table
}
