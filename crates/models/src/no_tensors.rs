//! What a file is that cannot hold tensors: empty, a pointer of Git LFS, a web page, other text.

use mesa_pickle::shown;

/// How the pointers begin that Git LFS leaves where it has not fetched the file itself.
const LFS_POINTER: &[u8] = b"version https://git-lfs";

/// Fewest and most bytes that are looked at to call a file text.
const FEWEST: usize = 8;
const MOST: usize = 1024;

/// What a file is that holds no tensors, and what to do about it; `None` for any that may.
pub(crate) fn no_tensors(bytes: &[u8]) -> Option<String> {
    if bytes.is_empty() {
        return Some("empty: it has 0 bytes".to_owned());
    }
    if bytes.starts_with(LFS_POINTER) {
        let found = "a pointer of Git LFS, not the file that it stands for; fetch that with \
            `git lfs pull`";
        return Some(found.to_owned());
    }
    let line = text(bytes)?.trim_start().lines().next()?;
    Some(if line.starts_with('<') {
        format!(
            "a web page or the like, perhaps of a download that failed: it begins with `{}`",
            shown(line)
        )
    } else {
        format!(
            "text, which holds no tensors: it begins with `{}`",
            shown(line)
        )
    })
}

/// The beginning of a file, if it is text. Either format of tensors has a zero among its first bytes.
fn text(bytes: &[u8]) -> Option<&str> {
    let start = &bytes[..bytes.len().min(MOST)];
    let text = match std::str::from_utf8(start) {
        Ok(text) => text,
        // A character may be cut off at the end.
        Err(error) if start.len() - error.valid_up_to() < 4 => {
            std::str::from_utf8(&start[..error.valid_up_to()]).ok()?
        }
        Err(_) => return None,
    };
    let is_odd = |c: char| c.is_control() && !c.is_whitespace();
    (text.len() >= FEWEST && !text.contains(is_odd)).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_other_kinds_are_called_what_they_are() {
        for (bytes, expected) in [
            (&b""[..], "empty"),
            (
                b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
                "`git lfs pull`",
            ),
            (
                b"\n<!DOCTYPE html>\n<html>",
                "web page or the like, perhaps of a download that failed: it begins with \
                 `<!DOCTYPE html>`",
            ),
            (b"{\"weights\": 1}", "text, which holds no tensors"),
        ] {
            let found = no_tensors(bytes).unwrap();
            assert!(found.contains(expected), "{found}");
        }
        let long = "ä".repeat(2 * MOST);
        assert!(no_tensors(format!("x{long}").as_bytes()).is_some());
    }

    #[test]
    fn files_that_may_hold_tensors_are_left_to_their_readers() {
        for bytes in [
            &b"PK\x03\x04\x00\x00\x08\x08"[..],
            b"\x10\x00\x00\x00\x00\x00\x00\x00{\"a\": 1}",
            b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46",
            b"short",
        ] {
            assert_eq!(no_tensors(bytes), None);
        }
    }
}
