//! The main figure: the ASR of every trigger before and after, for all methods.

use std::fmt::Write as _;

use mesa_record::Summary;

use crate::PatchOf;
use crate::defense::{BASELINE, Defense};
use crate::defense_drawing::Drawing;
use crate::format::counted;
use crate::report::run_words;
use crate::rows::{count_words, repeat_counts};
use crate::svg::Figure;

/// The main figure of a run; none before there is a backdoored network.
pub(crate) fn defense_figure(summary: &Summary, patch_of: PatchOf) -> Option<Figure> {
    let defense = Defense::of(summary, patch_of)?;
    let title = "ASR of triggers before and after the defense";
    Some(Figure {
        svg: Drawing::new(summary, &defense).drawn(title),
        caption: caption(summary, &defense),
    })
}

fn caption(summary: &Summary, defense: &Defense<'_>) -> String {
    let mut text = format!(
        "Attack success rate of {} on {} ({}), {}. \
         A mark is the mean over seeds, a thin line their range. Above the break: before the \
         defense; below it the axis is one of square roots.",
        counted(defense.columns.len(), "trigger"),
        counted(defense.networks(), "backdoored network"),
        run_words(summary),
        defense.order.words(),
    );
    if let Some(counts) = repeat_counts(summary) {
        let words = count_words(counts);
        let _ = write!(
            text,
            " The band is the mean ± population standard deviation of the baseline {BASELINE} over \
             its runs ({words} on a network)."
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::made_up;

    fn figure(summary: &Summary) -> Figure {
        defense_figure(summary, |_| None).unwrap()
    }

    #[test]
    fn the_figure_looks_as_it_did() {
        insta::assert_snapshot!(figure(&made_up::repeated()).svg);
    }

    #[test]
    fn repeats_and_order_are_said() {
        let Figure { svg, caption } = figure(&made_up::repeated());
        assert!(svg.contains("mean ± standard deviation, 2 to 3 repeats"));
        assert!(caption.contains("2 to 3 repeats on a network"), "{caption}");
        assert!(caption.contains("sorted by the mean ASR of the baseline"));
        let Figure { svg, caption } = figure(&made_up::sweep());
        assert!(!svg.contains("standard deviation") && !caption.contains("band"));
        assert!(caption.contains("sorted by number"), "{caption}");
    }

    #[test]
    fn nothing_stands_outside_however_many_triggers_there_are() {
        for count in [1, 3, 13, 51] {
            let summary = made_up::many(count);
            let svg = figure(&summary).svg;
            let width: f64 = attribute(&svg, " width=\"").parse().unwrap();
            let height: f64 = attribute(&svg, " height=\"").parse().unwrap();
            for (name, most) in [
                (" cx=\"", width),
                (" x=\"", width),
                (" cy=\"", height),
                (" y=\"", height),
            ] {
                for part in svg.split(name).skip(1) {
                    let value: f64 = part.split('"').next().unwrap().parse().unwrap();
                    assert!((0.0..=most).contains(&value), "{count}: {name}{value}");
                }
            }
            assert!(svg.contains("<desc>"), "{count}");
        }
    }

    fn attribute<'a>(svg: &'a str, name: &str) -> &'a str {
        svg.split(name).nth(1).unwrap().split('"').next().unwrap()
    }
}
