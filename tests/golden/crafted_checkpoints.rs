//! Networks in files that PyTorch never writes: pickles and archives made by hand, which claim too much, say a
//! thing twice, or would be another network to another program.

use std::io::{Cursor, Write};

use mesa_models::{Error, LayoutError, PytorchError, load_network_with};
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipArchive, ZipWriter};

use super::checkpoints::{file, read, refusal, rewritten, with_pickle};

/// A file of 80 kB whose tensors claim to be those of a network of width 1024: 2.8 billion bytes.
#[test]
fn shapes_that_the_file_does_not_warrant_are_refused() {
    let wide = with_pickle(&wide_pickle());
    assert!(wide.len() < 100_000);
    let refused = read(&wide);
    assert!(
        matches!(
            &refused,
            Err(Error::Layout {
                source: LayoutError::TooLarge { .. },
                ..
            })
        ),
        "{:?}",
        refused.map(|loaded| loaded.info)
    );
}

/// What `BackdoorBench` says of each of CIFAR-10's images stands before a network, as it says it.
#[test]
fn a_network_beside_words_on_sixty_thousand_images_is_read() {
    let whole = fs_err::read(file("attack_result")).unwrap();
    let changed = rewritten(&whole, CompressionMethod::Stored, |name, content| {
        if !name.ends_with("data.pkl") {
            return Some(content);
        }
        let start = b"\x80\x02}q\x00(";
        assert!(content.starts_with(start));
        let mut out = start.to_vec();
        // What later words refer to.
        for (name, object) in [
            ("scalar", &b"cnumpy._core.multiarray\nscalar\nq\xc0"[..]),
            ("dtype", b"cnumpy\ndtype\nX\x02\0\0\0i8K\x00K\x01\x87Rq\xc1"),
            ("encode", b"c_codecs\nencode\nq\xc2"),
            ("latin1", b"X\x06\0\0\0latin1q\xc3"),
            ("path", b"X\x04\0\0\0pathq\xc4"),
            ("other_info", b"X\x0a\0\0\0other_infoq\xc5"),
        ] {
            text(&mut out, name);
            out.extend(object);
        }
        text(&mut out, "images");
        out.extend(b"}(");
        let mut kept = 1000_u32;
        let mut keep = |out: &mut Vec<u8>, bytes: &[u8]| {
            out.extend(bytes);
            out.push(b'r');
            out.extend(kept.to_le_bytes());
            kept += 1;
        };
        for number in 0..60_000 {
            // Its number, one of NumPy: a type, and its bytes as a text.
            out.extend(b"h\xc0h\xc1h\xc2");
            keep(&mut out, b"X\x08\0\0\0\0\0\0\0\0\0\0\0");
            out.extend(b"h\xc3");
            for bytes in [&b"\x86"[..], b"R", b"\x86", b"R", b"}"] {
                keep(&mut out, bytes);
            }
            out.extend(b"(h\xc4");
            text(
                &mut out,
                &format!("../record/badnet_0_1/bd_train_dataset/3/{number}.png"),
            );
            keep(&mut out, b"");
            out.extend(b"h\xc5");
            keep(&mut out, b"]");
            out.extend(b"(K\x00K\x03eu");
        }
        out.push(b'u');
        out.extend(&content[start.len()..]);
        Some(out)
    });
    let loaded = read(&changed).unwrap();
    assert_eq!(loaded.info.architecture, "preactresnet18");
}

/// One tuple of 400,000 sizes that half a million entries share would be copied for each.
#[test]
fn a_shape_of_many_dimensions_is_refused() {
    let mut out = b"\x80\x02}(".to_vec();
    text(&mut out, "conv1.weight");
    out.extend(b"ctorch._utils\n_rebuild_tensor_v2\n((");
    text(&mut out, "storage");
    out.extend(b"ctorch\nFloatStorage\n");
    text(&mut out, "0");
    out.extend(b"NK\x01tQK\x00");
    sizes(&mut out, &vec![1; 400_000]);
    out.extend(b"q\x01h\x01\x89NtRq\x02");
    for number in 0..500_000 {
        text(&mut out, &number.to_string());
        out.extend(b"h\x02");
    }
    out.extend(b"u.");
    let refused = refusal(&with_pickle(&out));
    assert!(matches!(&refused, PytorchError::Tensor { .. }), "{refused}");
}

/// Looking through all of them would take a hundred billion steps, and which of them counts would be for
/// Python to say.
#[test]
fn equal_keys_are_refused() {
    let mut inner = b"\x80\x02}(".to_vec();
    text(&mut inner, "model");
    inner.extend(b"}(");
    for _ in 0..300_000 {
        text(&mut inner, "a");
        inner.push(b'N');
    }
    inner.extend(b"uu.");
    let mut outer = b"\x80\x02}(".to_vec();
    for _ in 0..300_000 {
        text(&mut outer, "model");
        outer.push(b'N');
    }
    outer.extend(b"u.");
    // A text of Python 2 is the same key.
    let old = b"\x80\x02}(U\x05modelNX\x05\0\0\0modelNu.".to_vec();
    for (pickle, repeated) in [(inner, "a"), (outer, "model"), (old, "model")] {
        let refused = refusal(&with_pickle(&pickle));
        let is_it = matches!(&refused, PytorchError::Repeated { name } if name == repeated);
        assert!(is_it, "{refused}");
    }
    let mut long = b"\x80\x02}(".to_vec();
    text(&mut long, &"a".repeat(2000));
    long.extend(b"Nu.");
    let refused = refusal(&with_pickle(&long));
    assert!(
        matches!(refused, PytorchError::LongName { .. }),
        "{refused}"
    );
}

/// `PyTorch` looks beside the first record; another pickle elsewhere would be another network.
#[test]
fn the_first_records_folder_counts() {
    let whole = fs_err::read(file("bare")).unwrap();
    let mut old = ZipArchive::new(Cursor::new(&whole)).unwrap();
    let mut new = ZipWriter::new(Cursor::new(Vec::new()));
    let options = SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
    new.start_file("first/version", options).unwrap();
    for index in 0..old.len() {
        let entry = old.by_index_raw(index).unwrap();
        new.raw_copy_file(entry).unwrap();
    }
    let refused = refusal(&new.finish().unwrap().into_inner());
    let holds = |holds: &str| holds.starts_with("first/version, archive/data.pkl");
    assert!(
        matches!(&refused, PytorchError::OtherArchive { holds: found } if holds(found)),
        "{refused}"
    );
}

/// What another program, PyTorch among them, would find to be another archive.
#[test]
fn archives_that_may_be_read_in_two_ways_are_refused() {
    let whole = fs_err::read(file("bare")).unwrap();
    let ambiguous = |bytes: &[u8], what: &str| {
        let refused = refusal(bytes);
        let is_it =
            matches!(&refused, PytorchError::Ambiguous { what: found } if found.contains(what));
        assert!(is_it, "{refused}, not {what}");
    };
    // A comment that is longer than what is left, and one that is there.
    let mut longer = whole.clone();
    let last = longer.len() - 1;
    longer[last] = 0xff;
    assert!(read(&longer).is_err());
    let mut comment = whole.clone();
    comment[last - 1] = 1;
    comment.push(b'!');
    ambiguous(&comment, "a comment");
    // The longer form of the end, which PyTorch writes before the end, says another place.
    let at = whole.windows(4).rposition(|part| part == b"PK\x06\x06");
    let at = at.expect("PyTorch writes it");
    let mut moved = whole.clone();
    moved[at + 48] ^= 1;
    ambiguous(&moved, "several ends");
    // Names that differ in case alone; PyTorch finds whichever comes first.
    let with = |name: &str, change: &dyn Fn(&mut Vec<u8>)| {
        let mut archive = ZipWriter::new(Cursor::new(Vec::new()));
        let options = SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
        for name in ["archive/data.pkl", name] {
            archive.start_file(name, options).unwrap();
            archive.write_all(b"\x80\x02N.").unwrap();
        }
        let mut bytes = archive.finish().unwrap().into_inner();
        change(&mut bytes);
        refusal(&bytes)
    };
    let same = |_: &mut Vec<u8>| {};
    for (name, is_refused) in [("archive/DATA.pkl", true), ("archive/data/0", false)] {
        let is_it = matches!(with(name, &same), PytorchError::Ambiguous { .. });
        assert_eq!(is_it, is_refused, "{name}");
    }
    // A name in the directory that is none of Unicode.
    let refused = with("archive/data/0", &|bytes| {
        let name = b"archive/data/0";
        let at = bytes
            .windows(name.len())
            .rposition(|part| part == name)
            .unwrap();
        bytes[at + 8] = 0xff;
    });
    assert!(
        matches!(&refused, PytorchError::Ambiguous { what } if what.contains("two names")),
        "{refused}"
    );
}

/// Numbers that `PyTorch` would change, a text that it would make, and a storage of two types.
#[test]
fn what_pytorch_would_read_otherwise_is_refused() {
    let tensor = |out: &mut Vec<u8>, storage: &[u8], after: &[u8]| {
        text(out, "conv1.weight");
        out.extend(b"ctorch._utils\n_rebuild_tensor_v2\n((");
        text(out, "storage");
        out.extend(storage);
        text(out, "0");
        out.extend(b"NK\x01tQK\x00K\x01\x85K\x01\x85\x89N");
        out.extend(after);
        out.extend(b"tR");
    };
    let start = b"\x80\x02}(";
    let float = b"ctorch\nFloatStorage\n";
    let mut negative = start.to_vec();
    tensor(&mut negative, float, b"}X\x03\0\0\0neg\x88s");
    negative.extend(b"u.");
    let refused = refusal(&with_pickle(&negative));
    assert!(matches!(refused, PytorchError::Tensor { .. }), "{refused}");
    let mut made = start.to_vec();
    tensor(&mut made, float, b"");
    made.extend(b"c_codecs\nencode\n");
    text(&mut made, "pbai1.jrvtug");
    text(&mut made, "rot13");
    made.extend(b"\x86RNu.");
    let refused = refusal(&with_pickle(&made));
    assert!(matches!(refused, PytorchError::Key), "{refused}");
    // The second stands in a dictionary of its own.
    let mut two = start.to_vec();
    tensor(&mut two, float, b"");
    text(&mut two, "other");
    two.extend(b"}(");
    tensor(&mut two, b"ctorch\nIntStorage\n", b"");
    two.extend(b"uu.");
    let refused = refusal(&with_pickle(&two));
    assert!(matches!(refused, PytorchError::Storage { .. }), "{refused}");
}

/// Which of two networks a program loads is for it to say: a clean one may stand before the attacked one.
#[test]
fn a_second_network_is_refused_or_named() {
    const TENSOR: &[u8] = b"ctorch._utils\n_rebuild_tensor_v2\n)R";
    let beside = |key: &str, is_module: bool| {
        let whole = fs_err::read(file("net")).unwrap();
        rewritten(&whole, CompressionMethod::Stored, |name, mut content| {
            if name.ends_with("data.pkl") {
                assert_eq!(content.pop(), Some(b'.'));
                text(&mut content, key);
                if is_module {
                    content.extend(b"cmy\nNet\n)\x81}");
                    text(&mut content, "_parameters");
                }
                content.extend(b"}");
                text(
                    &mut content,
                    if is_module { "weight" } else { "conv1.weight" },
                );
                content.extend([TENSOR, b"s"].concat());
                content.extend(if is_module { &b"sbs."[..] } else { b"s." });
            }
            Some(content)
        })
    };
    for key in ["netC", "state_dict", "model", "model_state_dict"] {
        let refused = refusal(&beside(key, false)).to_string();
        let words = format!("it holds networks under `net`, `{key}`");
        assert!(refused.starts_with(&words), "{refused}");
    }
    for is_module in [false, true] {
        let found = read(&beside("ema", is_module)).unwrap().beside;
        assert_eq!(found, ["ema"], "module: {is_module}");
    }
    let alone = fs_err::read(file("net")).unwrap();
    assert!(read(&alone).unwrap().beside.is_empty());
}

/// The file `name` with some bytes of its pickle replaced wherever they stand.
fn replaced(name: &str, from: &[u8], to: &[u8]) -> Vec<u8> {
    let whole = fs_err::read(file(name)).unwrap();
    rewritten(&whole, CompressionMethod::Stored, |name, content| {
        if !name.ends_with("data.pkl") {
            return Some(content);
        }
        let (mut out, mut rest) = (Vec::new(), &content[..]);
        while let Some(at) = rest.windows(from.len()).position(|bytes| bytes == from) {
            out.extend([&rest[..at], to].concat());
            rest = &rest[at + from.len()..];
        }
        assert!(!out.is_empty(), "it is there");
        Some([out, rest.to_vec()].concat())
    })
}

#[test]
fn a_network_under_an_unusual_key_is_read_if_no_other_is_there() {
    let renamed = replaced("net", b"X\x03\0\0\0net", b"X\x03\0\0\0abc");
    let loaded = read(&renamed).unwrap();
    assert_eq!(
        (loaded.key.as_deref(), loaded.beside.len()),
        (Some("abc"), 0)
    );
    let usual = load_network_with(&file("net"), None).unwrap();
    assert_eq!(usual.key, None);
    let bits = |network: &mesa_models::Network| format!("{:?}", network.state().unwrap());
    assert_eq!(bits(&loaded.network), bits(&usual.network));
    // A bare tensor beside it is no network.
    let start = b"ctorch._utils\n_rebuild_tensor_v2\n((";
    let under = |key: &dyn Fn(&mut Vec<u8>), more: &dyn Fn(&mut Vec<u8>)| {
        rewritten(&renamed, CompressionMethod::Stored, |name, mut content| {
            if name.ends_with("data.pkl") {
                assert_eq!(content.pop(), Some(b'.'));
                key(&mut content);
                more(&mut content);
                content.extend(b"s.");
            }
            Some(content)
        })
    };
    let beside = |more: &dyn Fn(&mut Vec<u8>)| under(&|out| text(out, "other"), more);
    let tensor = |out: &mut Vec<u8>| {
        out.extend(start);
        text(out, "storage");
        out.extend(b"ctorch\nFloatStorage\n");
        text(out, "unused");
        out.extend(b"NK\x01tQK\x00))\x89NtR");
    };
    assert_eq!(read(&beside(&tensor)).unwrap().key.as_deref(), Some("abc"));
    // Any other that has tensors below it may be the one that is meant: by name, deeper down, in a list, behind many.
    let named = |out: &mut Vec<u8>| {
        out.push(b'}');
        text(out, "conv1.weight");
        tensor(out);
        out.push(b's');
    };
    let deeper = |out: &mut Vec<u8>| {
        out.push(b'}');
        text(out, "model");
        named(out);
        out.push(b's');
    };
    let listed = |out: &mut Vec<u8>| {
        out.push(b']');
        named(out);
        out.push(b'a');
    };
    let behind = |out: &mut Vec<u8>| {
        out.extend(b"}(");
        for number in 0..2000 {
            text(out, &number.to_string());
            out.push(b'N');
        }
        text(out, "conv1.weight");
        tensor(out);
        out.push(b'u');
    };
    for more in [&named as &dyn Fn(&mut Vec<u8>), &deeper, &listed, &behind] {
        let refused = refusal(&beside(more)).to_string();
        let words = "the keys [abc, acc, epoch, other]; save the one that is meant alone";
        assert!(refused.contains(words), "{refused}");
    }
    let numbered = under(&|out| out.extend(b"K\x05"), &named);
    assert!(matches!(
        refusal(&numbered),
        PytorchError::NoStateDict { .. }
    ));
}

/// By its layers' names it would pass for a network without them.
#[test]
fn a_module_that_pools_is_refused_by_its_layer() {
    let pooling = replaced(
        "module",
        b"ctorch.nn.modules.batchnorm\nBatchNorm2d\n",
        b"ctorch.nn.modules.pooling\nMaxPool2d\n",
    );
    let refused = refusal(&pooling);
    let PytorchError::Pooling { name } = &refused else {
        panic!("{refused}")
    };
    assert!(name.contains("bn1"), "{name}");
    // TorchScript numbers what comes more than once.
    let refused = refusal(&replaced(
        "traced",
        b"batchnorm.___torch_mangle_20\nBatchNorm2d\n",
        b"pooling.___torch_mangle_20\nMaxPool2d\n",
    ));
    assert!(matches!(refused, PytorchError::Pooling { .. }), "{refused}");
    let average = replaced(
        "module",
        b"ctorch.nn.modules.batchnorm\nBatchNorm2d\n",
        b"ctorch.nn.modules.pooling\nAvgPool2d\n",
    );
    assert!(read(&average).is_ok());
}

/// `torch.load` runs the first pickle of a file before it finds out that it wrote none of it.
#[test]
fn bare_pickles_that_run_code_are_called_so() {
    let later = b"\x80\x02cposix\nsystem\nX\x04\0\0\0true\x85R.";
    let first = b"cposix\nsystem\n(S'true'\ntR.";
    let whole = fs_err::read(file("bare")).unwrap();
    let in_one = b"(X\x04\0\0\0trueiposix\nsystem\n.";
    for bytes in [&later[..], first, in_one, &[&later[..], &whole].concat()] {
        let refused = refusal(bytes);
        assert!(
            matches!(&refused, PytorchError::RunsCode { name } if name == "posix.system"),
            "{refused}"
        );
    }
}

#[test]
fn an_archive_of_other_things_is_called_so() {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    for name in ["model/resnet18.pth", "model/a.txt", "b", "c"] {
        zip.start_file(name, SimpleFileOptions::default()).unwrap();
    }
    let refused = refusal(&zip.finish().unwrap().into_inner()).to_string();
    let words =
        "it holds [model/resnet18.pth, model/a.txt, b, and 1 more]: if a checkpoint is among them";
    assert!(refused.contains(words), "{refused}");
}

fn text(out: &mut Vec<u8>, text: &str) {
    out.push(b'X');
    out.extend((text.len() as u32).to_le_bytes());
    out.extend(text.as_bytes());
}

fn sizes(out: &mut Vec<u8>, sizes: &[usize]) {
    out.push(b'(');
    for size in sizes {
        out.push(b'J');
        out.extend((*size as u32).to_le_bytes());
    }
    out.push(b't');
}

/// Every tensor of a network of width 1024 as one element, repeated by strides of zero.
fn wide_pickle() -> Vec<u8> {
    let mut out = b"\x80\x02}(".to_vec();
    for (name, shape) in wide_layout() {
        text(&mut out, &name);
        out.extend(b"ctorch._utils\n_rebuild_tensor_v2\n((");
        text(&mut out, "storage");
        out.extend(b"ctorch\nFloatStorage\n");
        text(&mut out, "0");
        out.extend(b"NK\x01tQK\x00");
        sizes(&mut out, &shape);
        sizes(&mut out, &vec![0; shape.len()]);
        out.extend(b"\x89NtR");
    }
    out.extend(b"u.");
    out
}

/// Names and shapes, scaled up from those of width 2.
fn wide_layout() -> Vec<(String, Vec<usize>)> {
    let narrow = load_network_with(&file("bare"), None).unwrap().network;
    let scaled = |(name, tensor): (String, candle::Tensor)| {
        let mut shape = tensor.dims().to_vec();
        if !name.starts_with("linear") {
            shape[0] *= 512;
        }
        if shape.len() > 1 && name != "conv1.weight" {
            shape[1] *= 512;
        }
        (name, shape)
    };
    narrow.state().unwrap().into_iter().map(scaled).collect()
}
