//! Generated blocks in files that are otherwise written by hand.

use std::path::Path;

use crate::{Error, Result};

/// The text with everything between `<!-- NAME:begin -->` and `<!-- NAME:end -->` replaced.
pub(crate) fn with_block(path: &Path, text: &str, name: &str, block: &str) -> Result<String> {
    let (begin, end) = (
        format!("<!-- {name}:begin -->"),
        format!("<!-- {name}:end -->"),
    );
    let missing = |marker: &str| Error::MissingMarker {
        path: path.to_owned(),
        marker: marker.to_owned(),
    };
    let (before, rest) = text.split_once(&begin).ok_or_else(|| missing(&begin))?;
    let (_, after) = rest.split_once(&end).ok_or_else(|| missing(&end))?;
    Ok(format!("{before}{begin}\n\n{block}\n{end}{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replaces_one_block_and_leaves_the_others() {
        let text = "a\n<!-- x:begin -->\nold\n<!-- x:end -->\n<!-- y:begin --><!-- y:end -->b";
        let found = with_block(Path::new("f"), text, "x", "new\n").unwrap();
        let expected =
            "a\n<!-- x:begin -->\n\nnew\n\n<!-- x:end -->\n<!-- y:begin --><!-- y:end -->b";
        assert_eq!(found, expected);
    }

    #[test]
    fn a_file_without_marks_is_refused() {
        for text in ["no marks", "<!-- x:begin --> and no end"] {
            let error = with_block(Path::new("f"), text, "x", "").unwrap_err();
            assert!(matches!(error, Error::MissingMarker { .. }), "{error}");
        }
    }
}
