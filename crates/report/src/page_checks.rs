//! What every page has to be, for tests: whole, self-contained, and readable without eyes.

/// Elements of HTML that have no end.
const VOID: [&str; 2] = ["meta", "br"];

/// Fails unless every element is closed in its order, nothing is loaded or run, every picture has a
/// title, and no two pictures or the boxes that they scroll in are called the same.
pub(crate) fn check_page(page: &str) {
    assert!(page.len() < 5_000_000, "{} bytes", page.len());
    let body = page.strip_prefix("<!DOCTYPE html>").unwrap();
    let mut open: Vec<&str> = Vec::new();
    let mut names: Vec<&str> = Vec::new();
    let mut rest = body;
    while let Some(start) = rest.find('<') {
        let (tag, after) = rest[start + 1..].split_once('>').unwrap();
        rest = after;
        if let Some(name) = tag.strip_prefix('/') {
            assert_eq!(open.pop(), Some(name), "before {after:.80}");
            continue;
        }
        let name = tag.split([' ', '/']).next().unwrap();
        check_tag(name, tag);
        if name == "svg" {
            let title = after.trim_start().strip_prefix("<title>");
            let title = title.unwrap_or_else(|| panic!("{tag} has no title"));
            names.push(title.split_once('<').unwrap().0);
        }
        if let Some((_, label)) = tag.split_once("aria-label=\"figure") {
            names.push(label.split_once('"').unwrap().0);
        }
        if !tag.ends_with('/') && !VOID.contains(&name) {
            open.push(name);
        }
    }
    assert!(open.is_empty(), "{open:?}");
    names.sort_unstable();
    let twins = names.windows(2).find(|pair| pair[0] == pair[1]);
    assert_eq!(twins, None, "figures called the same");
}

fn check_tag(name: &str, tag: &str) {
    for forbidden in ["script", "link", "img", "iframe", "object", "image", "use"] {
        assert_ne!(name, forbidden, "{tag}");
    }
    for forbidden in [
        " src=",
        " onload=",
        " id=\"\"",
        "url(",
        "href=\"http",
        "href=\"//",
    ] {
        assert!(!tag.contains(forbidden), "{tag}");
    }
}
