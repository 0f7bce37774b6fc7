//! Samples of several sub-models of one network: as a table, and as a section of
//! `docs/results.md` with pictures.

use std::fmt::Write as _;
use std::path::Path;

use mesa_record::{Distribution, DistributionPanel};

use crate::commands::settings_options;
use crate::distribution_picture::{Axis, Plane, distribution_picture};
use crate::format::{data_words, hardware_words, percent, seconds};
use crate::svg::Figure;
use crate::{GeneratedFile, Table};

/// The four pictures of a distribution: what they are called, and what they show.
const PICTURES: [(&str, Plane, Axis); 4] = [
    ("pca-beta", Plane::Pca, Axis::Beta),
    ("tsne-beta", Plane::Tsne, Axis::Beta),
    ("pca-alpha", Plane::Pca, Axis::Alpha),
    ("tsne-alpha", Plane::Tsne, Axis::Alpha),
];

/// How the names of their files in `assets/figures` start.
pub(crate) const PICTURE: &str = "distributions-";

/// What stands above all of them.
pub(crate) const INTRODUCTION: &str = "\
    Samples of several sub-models of one attacked network, as patches on planes that all of them \
    share: the first two principal components of the samples, and t-SNE. The ring is the attacker's \
    trigger, which no sub-model has seen. Entropy is a lower bound on information: where the network \
    that measures it cannot read a generator's noise off its samples it stays low, however widely \
    they spread; h ≤ and pixel std then say more.";

/// A line for each sub-model, for a terminal.
///
/// # Examples
///
/// ```
/// # fn main() -> Result<(), serde_json::Error> {
/// let distribution: mesa_record::Distribution = serde_json::from_str(
///     r#"{"preset": "cpu", "data": "cifar10", "trigger": 170, "seed": 0, "target_class": 0,
///         "patch_shape": [3, 3], "true_trigger_asr": 0.987, "panels": [],
///         "pca_explained": [0.5, 0.2], "tsne_perplexity": 30, "wall_s": 1, "device": "cpu",
///         "kernel_path": "avx2", "threads": 1, "processor": "", "version": "0.1.0",
///         "engine_version": 2}"#,
/// )?;
/// let text = mesa_report::distribution_text(&distribution);
/// assert!(text.contains("ASR of the true trigger 98.7 %"));
/// # Ok(())
/// # }
/// ```
pub fn distribution_text(distribution: &Distribution) -> String {
    table(distribution).to_terminal()
}

/// The pictures of a distribution by the names of their files, without `.svg`.
pub fn distribution_pictures(distribution: &Distribution) -> Vec<(&'static str, String)> {
    PICTURES
        .map(|(name, plane, axis)| (name, distribution_picture(distribution, plane, axis)))
        .into()
}

/// The same for a page, with captions; `name` tells networks apart.
pub(crate) fn page_figures(name: &str, distribution: &Distribution) -> Vec<Figure> {
    let name = format!("{name}, preset {}", distribution.preset);
    let figure = |(_, plane, axis): (&str, Plane, Axis)| {
        let figure = Figure {
            svg: distribution_picture(distribution, plane, axis),
            caption: format!("{}: {}.", axis.words(plane), plane.words(distribution)),
        };
        figure.of(&name)
    };
    PICTURES.map(figure).into()
}

/// The same as files in `assets/figures` for a committed record; `name` is that of its folder.
pub(crate) fn figures(root: &Path, name: &str, distribution: &Distribution) -> Vec<GeneratedFile> {
    let file =
        |(picture, text)| GeneratedFile::holding(root.join(figure_path(name, picture)), text);
    let pictures = distribution_pictures(distribution);
    pictures.into_iter().map(file).collect()
}

fn figure_path(name: &str, picture: &str) -> String {
    format!("assets/figures/{PICTURE}{name}-{picture}.svg")
}

/// The network and the ASR of its trigger.
pub(crate) fn network_words(distribution: &Distribution) -> String {
    format!(
        "{} on {}: trigger {}, seed {}; ASR of the true trigger {} %",
        distribution.preset,
        data_words(&distribution.data),
        distribution.trigger,
        distribution.seed,
        percent(distribution.true_trigger_asr),
    )
}

pub(crate) fn table(distribution: &Distribution) -> Table {
    let columns = [
        "β",
        "α\nper nat",
        "ASR of samples\n%",
        "in level set\n%",
        "entropy\nnats",
        "h ≤\nnats",
        "pixel std",
    ];
    let mut table = Table::new(network_words(distribution), &columns);
    let row = |panel: &DistributionPanel| {
        vec![
            panel.beta.to_string(),
            panel.alpha.to_string(),
            percent(panel.sample_asr),
            percent(panel.in_level_set),
            format!(
                "{:.2} ± {:.2}",
                panel.information_nats, panel.information_se
            ),
            format!("{:.1}", panel.entropy_upper_bound),
            format!("{:.3}", panel.sample_std),
        ]
    };
    table.rows = distribution.panels.iter().map(row).collect();
    table
}

/// The command that makes a record again, every choice spelled out.
pub(crate) fn command(distribution: &Distribution) -> String {
    let options = settings_options(
        &distribution.preset,
        &distribution.device,
        &distribution.data,
    );
    let mut command = format!("mesa distributions{options}");
    let compared = Axis::Alpha.panels(distribution);
    let alphas: Vec<String> = compared
        .iter()
        .map(|panel| panel.alpha.to_string())
        .collect();
    let (beta, samples) = compared
        .first()
        .map_or((0.0, 0), |panel| (panel.beta, panel.samples.len()));
    let (trigger, seed) = (&distribution.trigger, distribution.seed);
    let _ = write!(
        command,
        " --triggers {trigger} --seeds {seed}..{} --alphas {} --alpha-beta {beta} -n {samples}",
        seed + 1,
        alphas.join(",")
    );
    command
}

/// The section of all committed distributions in `docs/results.md`, nothing where there are none.
pub(crate) fn section(distributions: &[(&str, &Distribution)]) -> String {
    if distributions.is_empty() {
        return String::new();
    }
    let mut text = format!("\n## Trigger distributions\n\n{INTRODUCTION}\n");
    for (name, distribution) in distributions {
        let _ = write!(
            text,
            "\n### {name}\n\n```text\n{}\n```\n\n**{}**\n\n{}\n",
            command(distribution),
            network_words(distribution),
            table(distribution).to_markdown()
        );
        for (picture, plane, axis) in PICTURES {
            let (alt, path) = (axis.words(plane), figure_path(name, picture));
            let _ = writeln!(text, "![{name}: {alt}](../{path})\n");
        }
        let _ = writeln!(
            text,
            "- {}; {}; {}",
            Plane::Pca.words(distribution),
            Plane::Tsne.words(distribution),
            hardware_and_time(distribution)
        );
    }
    text
}

fn hardware_and_time(distribution: &Distribution) -> String {
    let on = hardware_words(
        &distribution.device,
        &distribution.kernel_path,
        distribution.threads,
        &distribution.processor,
    );
    format!("{} with the attack, {on}", seconds(distribution.wall_s))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::made_up;

    #[test]
    fn the_table_has_a_line_for_each_sub_model() {
        insta::assert_snapshot!(distribution_text(&made_up::distribution()));
    }

    #[test]
    fn the_section_shows_table_command_and_pictures() {
        insta::assert_snapshot!(section(&[("made-up", &made_up::distribution())]));
        assert_eq!(section(&[]), "");
    }

    #[test]
    fn every_picture_that_is_shown_is_written() {
        let distribution = made_up::distribution();
        let files = figures(Path::new("/root"), "made-up", &distribution);
        let shown = section(&[("made-up", &distribution)]);
        assert_eq!((files.len(), shown.matches("![").count()), (4, 4));
        for file in files {
            let path = file.path.strip_prefix("/root").unwrap().display();
            assert!(shown.contains(&format!("](../{path})")), "{path}");
            assert!(file.text().starts_with("<svg"));
        }
    }
}
