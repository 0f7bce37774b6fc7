//! The report people look at: one self-contained page of a repository's records or of one run.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use maud::{Markup, html};
use mesa_record::{Detection, Distribution, Plan, Summary, Verdict};

use crate::commands::{Program, commands};
use crate::curves::curve_figures;
use crate::defense_figure::defense_figure;
use crate::detection_dots::detection_dots;
use crate::detection_roc::Roc;
use crate::embed::own_svg;
use crate::html::{commands_markup, figure_markup, links_markup, notes_markup, page, table_markup};
use crate::report::{Report, asr_table, network_table, notes, unfinished};
use crate::rows::{MOST_NETWORKS, networks};
use crate::runs::{Run, headings};
use crate::svg::Figure;
use crate::verdict::verdict;
use crate::{
    PatchOf, Table, background, detection, detection_chart, detection_networks, distribution, gpu,
    means, mixture, plan, speed, variations,
};

/// What a page tells of, each with the file it comes from.
#[derive(Default)]
pub(crate) struct Contents {
    pub(crate) title: String,
    /// Whether it tells of a repository's committed records, or of one run's folder.
    pub(crate) of_repository: bool,
    pub(crate) runs: Vec<Run>,
    pub(crate) detections: Vec<Recorded<Detection>>,
    pub(crate) distributions: Vec<Recorded<Distribution>>,
    pub(crate) plans: Vec<Recorded<Plan>>,
    pub(crate) speed: speed::Records,
    /// Pictures of samples, by name; only the crate's own are shown.
    pub(crate) pictures: Vec<(String, String)>,
    /// Steps that have begun and are not done.
    pub(crate) in_progress: Vec<String>,
}

/// A record, what it is called, and where it lies.
#[derive(Clone, Debug)]
pub(crate) struct Recorded<T> {
    pub(crate) name: String,
    pub(crate) link: String,
    pub(crate) record: T,
}

impl Contents {
    fn program(&self) -> Program {
        if self.of_repository {
            Program::Reproduce
        } else {
            Program::Run
        }
    }

    fn detected(&self) -> Vec<(String, &Detection)> {
        self.detections
            .iter()
            .map(|found| (found.name.clone(), &found.record))
            .collect()
    }

    /// The page's first sentence.
    fn verdict(&self) -> String {
        match (self.runs.first(), &self.detections[..]) {
            (Some(run), _) => verdict(&run.summary),
            (None, [found]) => detection::headline(&found.record),
            (None, []) => match &self.distributions[..] {
                [] => "Nothing has been measured yet.".to_owned(),
                [found] => format!("{}.", distribution::network_words(&found.record)),
                all => format!("Samples of the sub-models of {} networks.", all.len()),
            },
            (None, all) => {
                let networks = |verdict: Option<Verdict>| {
                    let found = all.iter().map(|found| &found.record);
                    let found =
                        found.filter(|one| verdict.is_none_or(|wanted| one.verdict == wanted));
                    let digests = found.map(|one| &one.model_sha256);
                    digests.collect::<BTreeSet<_>>().len()
                };
                let undecided = match networks(Some(Verdict::Undecided)) {
                    0 => String::new(),
                    count => format!(", {count} undecided"),
                };
                let (accused, all) = (networks(Some(Verdict::Backdoor)), networks(None));
                format!("Backdoors found in {accused} of {all} networks{undecided}.")
            }
        }
    }

    /// The figure that stands below it.
    fn main_figure(&self, patch_of: PatchOf) -> Option<Figure> {
        match (self.runs.first(), &self.detections[..]) {
            (Some(run), _) => run_figure(run, &headings(&self.runs)[0], patch_of),
            (None, [found]) => Some(chart(&found.record)),
            (None, _) => None,
        }
    }
}

/// The main figure of one of several runs.
fn run_figure(run: &Run, heading: &str, patch_of: PatchOf) -> Option<Figure> {
    Some(defense_figure(&run.summary, patch_of)?.of(heading))
}

fn chart(detection: &Detection) -> Figure {
    Figure {
        svg: detection_chart(detection),
        caption: format!(
            "The ASR of MESA's samples at β = {} on clean images, class by class; {}.",
            detection.beta,
            detection::rule_words(detection)
        ),
    }
}

/// The page.
pub(crate) fn report_page(contents: &Contents, patch_of: PatchOf) -> String {
    let sections = sections(contents, patch_of);
    let body = html! {
        header {
            h1 { (contents.title) }
            p.verdict { (contents.verdict()) }
            @if let Some(figure) = contents.main_figure(patch_of) { (figure_markup(&figure)) }
            nav aria-label="Contents" {
                ul { @for section in &sections { li { a href={ "#" (section.id) } { (section.heading) } } } }
            }
        }
        main {
            @for section in &sections {
                section id=(section.id) { h2 { (section.heading) } (section.body) }
            }
        }
        footer { p.quiet {
            "Written by " code { "mesa report" } " from records alone: the same records give the \
            same page. Fractions are printed as percent."
        } }
    };
    page(&contents.title, &body)
}

struct Section {
    id: String,
    heading: String,
    body: Markup,
}

fn section(id: &str, heading: &str, body: Markup) -> Section {
    Section {
        id: id.to_owned(),
        heading: heading.to_owned(),
        body,
    }
}

fn sections(contents: &Contents, patch_of: PatchOf) -> Vec<Section> {
    let mut sections = Vec::new();
    let headings = headings(&contents.runs);
    for (index, (run, heading)) in contents.runs.iter().zip(&headings).enumerate() {
        // The first run's figure stands at the top of the page.
        let figure = (index > 0)
            .then(|| run_figure(run, heading, patch_of))
            .flatten();
        let curves = curve_figures(&run.curves).into_iter();
        let curves: Vec<Figure> = curves.map(|figure| figure.of(heading)).collect();
        let body = run_body(run, contents, figure.as_ref(), &curves);
        sections.push(section(&format!("run-{}", index + 1), heading, body));
    }
    let summaries: Vec<&Summary> = contents.runs.iter().map(|run| &run.summary).collect();
    if let Some(table) = variations::table(&summaries) {
        let heading = table.title.clone();
        let table = Table {
            title: String::new(),
            ..table
        };
        let body = html! {
            p {
                "One thing changed about the attack or the defense, beside the preset itself; each \
                run has a section of its own above."
            }
            (table_markup(&table, &[]))
        };
        sections.push(section("variations", &heading, body));
    }
    if contents.runs.is_empty() && contents.of_repository {
        let body = html! { p { "No run is committed yet." } };
        sections.push(section("runs", "Runs", body));
    }
    let samples = samples_body(contents).map(|body| section("samples", "Sampled triggers", body));
    // Of a search for backdoors the verdict comes first.
    let (samples, later) = if contents.runs.is_empty() {
        (None, samples)
    } else {
        (samples, None)
    };
    sections.extend(samples);
    if !contents.distributions.is_empty() {
        let body = distributions_body(contents);
        sections.push(section("distributions", "Distributions of triggers", body));
    }
    if !contents.detections.is_empty() {
        let heading = "Detection: MESA against every class";
        sections.push(section("detection", heading, detection_body(contents)));
    }
    sections.extend(later);
    if contents.of_repository {
        sections.push(section("speed", "Speed", speed_body(contents)));
    }
    for (index, recorded) in contents.plans.iter().enumerate() {
        let id = format!("plan-{}", index + 1);
        let heading = plan::heading(&recorded.record);
        sections.push(section(&id, &heading, plan_body(recorded)));
    }
    sections.extend(
        background::sections(contents)
            .into_iter()
            .map(|(id, heading, body)| section(id, heading, body)),
    );
    sections
}

fn run_body(run: &Run, contents: &Contents, figure: Option<&Figure>, curves: &[Figure]) -> Markup {
    let summary = &run.summary;
    let all = networks(summary);
    let links: Vec<Vec<String>> = all.iter().map(|network| run.links_of(*network)).collect();
    let sources: Vec<String> = run
        .sources
        .iter()
        .map(|source| source.link.clone())
        .collect();
    // Differences have a section of their own.
    let said: Vec<String> = notes(summary, run.sessions())
        .into_iter()
        .filter(|note| !note.starts_with("differs from the paper"))
        .collect();
    let missing = if contents.of_repository {
        Vec::new()
    } else {
        unfinished(summary)
    };
    html! {
        (commands_markup(&commands(summary, contents.program())))
        p.quiet { "Records: " (links_markup(&sources)) }
        @if !missing.is_empty() || !contents.in_progress.is_empty() {
            p { strong { "Not finished." } }
            (notes_markup(&missing))
            @if !contents.in_progress.is_empty() {
                p { "In progress: " (contents.in_progress.join(", ")) "." }
            }
        }
        @if let Some(figure) = figure { (figure_markup(figure)) }
        @if let [network] = all[..] {
            (table_markup(&network_table(summary, network), &[]))
            @for table in means::worth_tables(summary) { (table_markup(&table, &[])) }
        } @else {
            @for table in means::tables(summary) { (table_markup(&table, &[])) }
            (table_markup(&asr_table(summary), &links))
        }
        @if let Some(table) = mixture::table(summary) { (table_markup(&table, &[])) }
        (notes_markup(&said))
        @if !summary.differences.is_empty() {
            p.quiet {
                "Values that differ from the paper's: " (summary.differences.len()) ", listed under "
                a href="#deviations" { "Deviations from the paper" } "."
            }
        }
        @for figure in curves { (figure_markup(figure)) }
        @if (2..=MOST_NETWORKS).contains(&all.len()) {
            details {
                summary { "Every network, method by method" }
                @for (network, links) in all.iter().zip(&links) {
                    (table_markup(&network_table(summary, *network), &[]))
                    p.quiet { "Record: " (links_markup(links)) }
                }
            }
        }
    }
}

/// The pictures of samples that are this crate's own; others are named.
fn samples_body(contents: &Contents) -> Option<Markup> {
    let mut left_out: Vec<&str> = Vec::new();
    let mut pictures: Vec<Figure> = Vec::new();
    for (name, svg) in &contents.pictures {
        match own_svg(svg) {
            None => left_out.push(name),
            Some(svg) => pictures.push(Figure {
                svg: svg.to_owned(),
                caption: format!("File: {name}"),
            }),
        }
    }
    (!contents.pictures.is_empty()).then(|| {
        html! {
            p {
                "Samples of each sub-model as little patches; where it is drawn, the attacker's \
                trigger stands at the left, which the defense never sees."
                @if contents.pictures.iter().any(|(name, _)| name.contains("places")) {
                    " Maps show in which places of an image patches work."
                }
            }
            @for figure in &pictures { (figure_markup(figure)) }
            @if !left_out.is_empty() {
                p.quiet { "Left out, as not drawn by this program: " (left_out.join(", ")) "." }
            }
        }
    })
}

fn distributions_body(contents: &Contents) -> Markup {
    html! {
        p { (distribution::INTRODUCTION) }
        @for found in &contents.distributions {
            h3 { (found.name) }
            (commands_markup(&[distribution::command(&found.record)]))
            (table_markup(&distribution::table(&found.record), &[]))
            @for figure in distribution::page_figures(&found.name, &found.record) { (figure_markup(&figure)) }
            p.quiet { "Record: " (links_markup(std::slice::from_ref(&found.link))) }
        }
    }
}

fn detection_body(contents: &Contents) -> Markup {
    let detected = contents.detected();
    let links: Vec<Vec<String>> = contents
        .detections
        .iter()
        .map(|found| vec![found.link.clone()])
        .collect();
    let is_main = contents.runs.is_empty();
    let notes = detection_networks::notes(&detected);
    html! {
        (commands_markup(&detection_networks::commands(&detected)))
        @if let [found] = &contents.detections[..] {
            p { (detection::headline(&found.record)) }
            // The chart of the only network stands at the top of a page that is all about it.
            @if !is_main { (figure_markup(&chart(&found.record))) }
            (table_markup(&detection::table(&found.record), &[]))
            @for words in detection::caveats(&found.record) {
                @if !notes.contains(&words) { p { (words) } }
            }
            p.quiet { "Record: " (links_markup(std::slice::from_ref(&found.link))) }
        } @else {
            @if let Some(figure) = detection_dots(&detected) { (figure_markup(&figure)) }
            (table_markup(&detection_networks::table(&detected), &links))
            @if let Some(roc) = Roc::of(&detected) {
                (figure_markup(&roc.figure()))
                (table_markup(&roc.table(), &[]))
            }
            details {
                summary { "Every class of every network" }
                @for found in &contents.detections {
                    h3 { (found.name) }
                    p { (detection::headline(&found.record)) }
                    (table_markup(&detection::table(&found.record), &[]))
                }
            }
        }
        (notes_markup(&notes))
    }
}

fn speed_body(contents: &Contents) -> Markup {
    let records = &contents.speed;
    let mut links = vec!["records/cpu-speed/peer.json".to_owned()];
    links.extend_from_slice(&records.gpu_links);
    html! {
        @match &records.speed {
            None => { p { "Not measured yet." } }
            Some(record) => {
                (commands_markup(&["cargo xtask bench --peer".to_owned()]))
                p {
                    "The engine beside PyTorch on a CPU at its best: the same machine, batch and \
                    precision; medians of interleaved pairs."
                }
                (table_markup(&speed::comparison(record, true), &[]))
                p.quiet { (speed::machine_words(&record.machine)) }
                @for words in speed::trigger_words(record) { p { (words) } }
                @if let Some(table) = speed::stages_table(record) {
                    h3 { "One trigger of preset cpu, stage by stage" }
                    (table_markup(&table, &[]))
                }
            }
        }
        @if let Some(record) = records.gpu.first() {
            h3 { "On an NVIDIA GPU" }
            (commands_markup(&["mesa gpu check".to_owned(), "mesa gpu measure".to_owned()]))
            @for table in gpu::page_tables(&records.gpu, &contents.runs) {
                (table_markup(&table, &[]))
            }
            p.quiet { (gpu::gpu_words(record)) }
        }
        p.quiet {
            "How it is measured, the roofline of every layer and how it scales: "
            a href="performance.md" { "performance.md" }
            "; records: "
            (links_markup(&links))
        }
    }
}

fn plan_body(recorded: &Recorded<Plan>) -> Markup {
    let record = &recorded.record;
    html! {
        (commands_markup(&[plan::command(record)]))
        p { (plan::introduction(record)) }
        (table_markup(&plan::stages(record), &[]))
        (notes_markup(&plan::notes(record)))
        p.quiet { "Record: " (links_markup(std::slice::from_ref(&recorded.link))) }
    }
}

/// The same tables as a document: what the page of one run says, in Markdown.
pub(crate) fn markdown(contents: &Contents) -> String {
    let mut text = format!("# {}\n\n{}\n", contents.title, contents.verdict());
    for run in &contents.runs {
        let _ = write!(
            text,
            "\n```text\n{}\n```\n\n{}",
            commands(&run.summary, contents.program()).join("\n"),
            Report::for_document(run).to_markdown()
        );
        for line in unfinished(&run.summary) {
            let _ = writeln!(text, "- not finished: {line}");
        }
    }
    for found in &contents.distributions {
        let table = distribution::table(&found.record);
        let _ = write!(text, "\n**{}**\n\n{}", table.title, table.to_markdown());
    }
    for found in &contents.detections {
        let table = detection::table(&found.record);
        let _ = write!(
            text,
            "\n**{}**\n\n{}\n- {}\n",
            table.title,
            table.to_markdown(),
            detection::rule_words(&found.record)
        );
        if let Some(places) = detection::places_words(&found.record) {
            let _ = writeln!(text, "- {places}");
        }
        for words in detection::caveats(&found.record) {
            let _ = writeln!(text, "- {words}");
        }
    }
    text
}
