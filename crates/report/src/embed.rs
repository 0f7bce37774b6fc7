//! Which pictures a page may hold: those that this crate draws, told by what they are made of.

/// Elements that this crate draws with.
const ELEMENTS: [&str; 8] = [
    "svg", "title", "desc", "rect", "text", "g", "path", "circle",
];

/// Attributes that it gives them: no links, no scripts, no styles, no names that could clash.
const ATTRIBUTES: [&str; 26] = [
    "xmlns",
    "width",
    "height",
    "viewBox",
    "role",
    "font-family",
    "font-size",
    "rx",
    "x",
    "y",
    "cx",
    "cy",
    "r",
    "d",
    "fill",
    "fill-opacity",
    "stroke",
    "stroke-width",
    "stroke-opacity",
    "stroke-dasharray",
    "transform",
    "text-anchor",
    "shape-rendering",
    "dominant-baseline",
    "stroke-linejoin",
    "stroke-linecap",
];

/// The picture, if it holds nothing but what this crate draws with and is whole: then a page may
/// hold it as it is.
pub(crate) fn own_svg(text: &str) -> Option<&str> {
    let text = text.trim();
    let mut open: Vec<&str> = Vec::new();
    let mut rest = text;
    if !rest.starts_with("<svg ") {
        return None;
    }
    while let Some(start) = rest.find('<') {
        // What stands between elements was escaped when it was drawn.
        let (tag, after) = rest[start + 1..].split_once('>')?;
        rest = after;
        if let Some(name) = tag.strip_prefix('/') {
            if open.pop() != Some(name) {
                return None;
            }
            if open.is_empty() && !rest.is_empty() {
                return None;
            }
            continue;
        }
        let (tag, is_empty) = match tag.strip_suffix('/') {
            Some(tag) => (tag, true),
            None => (tag, false),
        };
        let (name, attributes) = tag.split_once(' ').unwrap_or((tag, ""));
        if !ELEMENTS.contains(&name) || !are_known(attributes) {
            return None;
        }
        if !is_empty {
            open.push(name);
        }
    }
    open.is_empty().then_some(text)
}

fn are_known(attributes: &str) -> bool {
    let mut rest = attributes.trim();
    while !rest.is_empty() {
        let Some((name, after)) = rest.split_once("=\"") else {
            return false;
        };
        let Some((value, after)) = after.split_once('"') else {
            return false;
        };
        let names_a_place = value.contains("url(") || value.contains(':') && name != "xmlns";
        if !ATTRIBUTES.contains(&name) || names_a_place {
            return false;
        }
        rest = after.trim_start();
    }
    true
}

/// The width that a picture says it has.
pub(crate) fn width(svg: &str) -> Option<usize> {
    let (_, after) = svg.split_once(" width=\"")?;
    after.split_once('"')?.0.parse().ok()
}

/// The title of a picture, escaped as it stands there.
pub(crate) fn title(svg: &str) -> Option<&str> {
    let (_, after) = svg.split_once("<title>")?;
    Some(after.split_once("</title>")?.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{PatchOf, detection_chart, made_up};

    #[test]
    fn pictures_of_this_crate_are_its_own() {
        let none: PatchOf = |_| None;
        let (summary, detection) = (made_up::repeated(), made_up::detection(true));
        let figure = crate::defense_figure::defense_figure(&summary, none).unwrap();
        let samples = crate::SamplesPicture {
            title: "a < b".into(),
            patch_shape: (3, 3),
            true_trigger: Some(vec![0.5; 27]),
            groups: vec![crate::SampleGroup::of_beta(0.9, Some(0.5), vec![0.0; 54])],
        };
        for svg in [
            figure.svg,
            detection_chart(&detection),
            samples.to_svg().unwrap(),
        ] {
            assert!(own_svg(&svg).is_some(), "{svg}");
        }
        assert_eq!(
            width("<svg xmlns=\"x\" width=\"120\" height=\"3\">"),
            Some(120)
        );
    }

    #[test]
    fn others_are_not() {
        for svg in [
            "<svg ><script>alert(1)</script></svg>",
            "<svg onload=\"alert(1)\"></svg>",
            "<svg ><rect fill=\"url(http://example.org)\"/></svg>",
            "<svg ><rect id=\"a\"/></svg>",
            "<svg ><rect style=\"fill:red\"/></svg>",
            "<svg ><a href=\"x\"></a></svg>",
            "<svg ><rect></svg>",
            "<svg ></svg><p>",
            "<svg ><rect",
            "<svg ><rect x='1'/></svg>",
            "no picture",
        ] {
            assert_eq!(own_svg(svg), None, "{svg}");
        }
    }
}
