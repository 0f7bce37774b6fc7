//! Writes state dicts as `torch.save` does, for `torch.load` to read.

use std::io::{Cursor, Write};

use candle::Tensor;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, DateTime, ZipWriter};

use super::INFO_RECORD;
use crate::NamedTensors;
use crate::state_dict::contiguous;

/// The folder of all records.
const FOLDER: &str = "archive";

/// Bytes to which records are aligned, as PyTorch does it.
const ALIGNMENT: u16 = 64;

/// The bytes of a file that holds `tensors` (f32) as an ordered dictionary, and `info` in a record
/// that PyTorch passes over. The same content gives the same bytes.
pub(crate) fn to_bytes(tensors: &NamedTensors, info: &str) -> std::io::Result<Vec<u8>> {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    let options = SimpleFileOptions::default()
        .compression_method(CompressionMethod::Stored)
        .last_modified_time(DateTime::default())
        .with_alignment(ALIGNMENT);
    let mut record = |name: &str, bytes: &[u8]| {
        zip.start_file(format!("{FOLDER}/{name}"), options)?;
        zip.write_all(bytes)
    };
    record("data.pkl", &pickle(tensors))?;
    record("byteorder", b"little")?;
    for (index, tensor) in tensors.values().enumerate() {
        record(&format!("data/{index}"), &numbers(tensor)?)?;
    }
    record("version", b"3\n")?;
    record(INFO_RECORD, info.as_bytes())?;
    Ok(zip.finish()?.into_inner())
}

fn numbers(tensor: &Tensor) -> std::io::Result<Vec<u8>> {
    let values = tensor.flatten_all().and_then(|flat| flat.to_vec1::<f32>());
    let values = values.map_err(std::io::Error::other)?;
    Ok(values.into_iter().flat_map(f32::to_le_bytes).collect())
}

/// The program that rebuilds the dictionary from the records.
fn pickle(tensors: &NamedTensors) -> Vec<u8> {
    let mut out = b"\x80\x02".to_vec();
    ordered_dict(&mut out);
    out.push(b'(');
    for (index, (name, tensor)) in tensors.iter().enumerate() {
        text(&mut out, name);
        out.extend(b"ctorch._utils\n_rebuild_tensor_v2\n((");
        text(&mut out, "storage");
        out.extend(b"ctorch\nFloatStorage\n");
        text(&mut out, &index.to_string());
        text(&mut out, "cpu");
        integer(&mut out, tensor.elem_count());
        out.extend(b"tQ");
        integer(&mut out, 0);
        sizes(&mut out, tensor.dims());
        sizes(&mut out, &contiguous(tensor.dims()));
        // No gradient, no hooks.
        out.push(0x89);
        ordered_dict(&mut out);
        out.extend(b"tR");
    }
    out.extend(b"u.");
    out
}

fn ordered_dict(out: &mut Vec<u8>) {
    out.extend(b"ccollections\nOrderedDict\n)R");
}

fn text(out: &mut Vec<u8>, text: &str) {
    out.push(b'X');
    out.extend((text.len() as u32).to_le_bytes());
    out.extend(text.as_bytes());
}

fn integer(out: &mut Vec<u8>, value: usize) {
    // Eight bytes, signed.
    out.extend([0x8a, 8]);
    out.extend((value as u64).to_le_bytes());
}

fn sizes(out: &mut Vec<u8>, sizes: &[usize]) {
    out.push(b'(');
    for size in sizes {
        integer(out, *size);
    }
    out.push(b't');
}

#[cfg(test)]
mod tests {
    use candle::Device;

    use super::*;
    use crate::fnv1a;

    /// PyTorch 2.15 has read these bytes (`torch.load(FILE, weights_only=True)`): whoever changes them has it read
    /// the new ones, since tests have no PyTorch.
    #[test]
    fn the_bytes_are_those_that_pytorch_has_read() {
        let tensor = |values: &[f32]| Tensor::new(values, &Device::Cpu).unwrap();
        let matrix = tensor(&[3.0, -4.5, 0.0, 1e-3, 2.0, 7.0])
            .reshape((2, 3))
            .unwrap();
        let tensors = NamedTensors::from([
            ("bias".to_owned(), tensor(&[1.0, 2.0])),
            ("layer.weight".to_owned(), matrix),
        ]);
        let bytes = to_bytes(&tensors, "{\"a\": 1}").unwrap();
        assert_eq!(
            (bytes.len(), fnv1a(&bytes)),
            (1231, 17_754_164_200_148_504_680)
        );
    }
}
