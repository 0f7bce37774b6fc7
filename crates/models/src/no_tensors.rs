//! What a file is that cannot hold tensors: empty, a pointer of Git LFS, a web page, other text.

use mesa_pickle::shown;

/// How the pointers begin that Git LFS leaves where it has not fetched the file itself.
const LFS_POINTER: &[u8] = b"version https://git-lfs";

/// Fewest and most bytes that are looked at to call a file text.
const FEWEST: usize = 8;
const MOST: usize = 1024;

/// How files of other formats begin, and what they are.
const OTHERS: [(&[u8], &str); 5] = [
    (
        b"\x89HDF\r\n\x1a\n",
        "an HDF5 file, as Keras and MATLAB write",
    ),
    (b"\x93NUMPY", "an array of NumPy"),
    (b"GGUF", "a GGUF file"),
    (b"\x1f\x8b", "compressed with gzip: unpack it first"),
    (b"\xfd7zXZ\0", "compressed with xz: unpack it first"),
];

/// Names of programs that ONNX files begin with, behind their version.
const ONNX: [&[u8]; 4] = [b"pytorch", b"onnx", b"tf2onnx", b"skl2onnx"];

/// What is said of a format that is not read.
const READ: &str = "read are .safetensors files, and .pt and .pth files as torch.save writes them";

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
    if let Some((_, what)) = OTHERS.iter().find(|(start, _)| bytes.starts_with(start)) {
        return Some(format!("{what}; {READ}"));
    }
    // A version, then the program's name with its length.
    if let [8, _, 0x12, len, rest @ ..] = bytes
        && let Some(program) = rest.get(..usize::from(*len))
        && ONNX.iter().any(|known| program.starts_with(known))
    {
        return Some(format!("an ONNX file; {READ}"));
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
            (b"\x89HDF\r\n\x1a\n\0\0\0\0", "an HDF5 file"),
            (b"\x1f\x8b\x08\0\0\0\0\0", "gzip: unpack it first"),
            (
                b"\x08\x08\x12\x07pytorch\x1a\x052.3.1",
                "an ONNX file; read are .safetensors",
            ),
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
            // A header of 1,184,520 bytes.
            b"\x08\x13\x12\x00\x00\x00\x00\x00{\"a\": 1}",
        ] {
            assert_eq!(no_tensors(bytes), None);
        }
    }
}
