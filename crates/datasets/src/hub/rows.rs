//! Rows of the Hub's Parquet files as records of the official binary files.

use std::io::Cursor;
use std::ops::ControlFlow;
use std::path::Path;

use image::codecs::png::PngDecoder;
use image::{ColorType, ImageDecoder, Limits};
use parquet::basic::Type;
use parquet::column::reader::{ColumnReader, ColumnReaderImpl};
use parquet::data_type::{ByteArray, ByteArrayType, DataType, Int64Type};
use parquet::errors::ParquetError;
use parquet::file::reader::{FileReader, RowGroupReader, SerializedFileReader};
use rayon::prelude::*;

use super::{FetchProgress, HubError, OnFetchProgress};
use crate::cifar::{IMAGE_LEN, SIDE};
use crate::images::CHANNELS;
use crate::official::Layout;

const IMAGE: &str = "img.bytes";

/// Rows that are decoded at a time: their PNGs and pixels take a few megabytes.
const ROWS: usize = 1000;

/// Most rows of a file: CIFAR's training images are half as many. A compressed file may claim any
/// number.
const MOST_ROWS: u64 = 100_000;

/// What a PNG may have allocated: it may claim any size, and 3,072 bytes are all that is wanted.
const MOST_BYTES: u64 = 1 << 20;

/// The rows of a file, in their order: label bytes, then pixels, channel first.
///
/// `labels` are the columns of the label bytes, in the order in which a record has them.
pub(super) fn records(
    path: &Path,
    layout: &Layout,
    labels: &[&'static str],
    on_progress: OnFetchProgress,
) -> Result<Vec<u8>, HubError> {
    let file = Table {
        path,
        layout,
        labels,
    };
    let open = fs_err::File::open(path).map_err(|error| file.broken(error.into()))?;
    let (open, _) = open.into_parts();
    let reader = SerializedFileReader::new(open).map_err(|error| file.broken(error))?;
    let total = reader.metadata().file_metadata().num_rows();
    let total = u64::try_from(total).unwrap_or_default();
    file.check_rows(total)?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let mut records = Vec::new();
    for group in 0..reader.num_row_groups() {
        let group = reader
            .get_row_group(group)
            .map_err(|error| file.broken(error))?;
        let mut rows = file.columns(group.as_ref())?;
        loop {
            let done = (records.len() / layout.record_len()) as u64;
            let progress = FetchProgress::Decoding {
                file: &name,
                done,
                total,
            };
            if on_progress(progress) == ControlFlow::Break(()) {
                return Err(HubError::Stopped);
            }
            if !file.append(&mut rows, &mut records)? {
                break;
            }
        }
    }
    if records.is_empty() {
        return Err(HubError::Empty {
            path: path.to_owned(),
        });
    }
    Ok(records)
}

/// A file and what its rows become.
struct Table<'a> {
    path: &'a Path,
    layout: &'a Layout,
    labels: &'a [&'static str],
}

/// The columns of a row group, read in step.
struct Columns {
    images: ColumnReaderImpl<ByteArrayType>,
    labels: Vec<ColumnReaderImpl<Int64Type>>,
}

impl Table<'_> {
    fn columns(&self, group: &dyn RowGroupReader) -> Result<Columns, HubError> {
        let images = self.column(group, IMAGE, Type::BYTE_ARRAY)?;
        let ColumnReader::ByteArrayColumnReader(images) = images else {
            return Err(self.no_column(IMAGE, Type::BYTE_ARRAY));
        };
        let labels =
            self.labels
                .iter()
                .map(|name| match self.column(group, name, Type::INT64)? {
                    ColumnReader::Int64ColumnReader(reader) => Ok(reader),
                    _ => Err(self.no_column(name, Type::INT64)),
                });
        Ok(Columns {
            images,
            labels: labels.collect::<Result<_, _>>()?,
        })
    }

    fn column(
        &self,
        group: &dyn RowGroupReader,
        name: &'static str,
        expected: Type,
    ) -> Result<ColumnReader, HubError> {
        let columns = group.metadata().columns();
        let place = columns.iter().position(|column| {
            // A list of values is no value: levels of repetition are not looked at.
            column.column_path().string() == name && column.column_descr().max_rep_level() == 0
        });
        let place = place.ok_or_else(|| self.no_column(name, expected))?;
        group
            .get_column_reader(place)
            .map_err(|error| self.broken(error))
    }

    /// Decodes the next rows; none where the group ends.
    fn append(&self, columns: &mut Columns, records: &mut Vec<u8>) -> Result<bool, HubError> {
        let first = records.len() / self.layout.record_len();
        let images = self.values(&mut columns.images, IMAGE, first)?;
        let labels = self
            .labels
            .iter()
            .zip(&mut columns.labels)
            .map(|(name, reader)| self.values(reader, name, first))
            .collect::<Result<Vec<_>, _>>()?;
        if labels.iter().any(|values| values.len() != images.len()) {
            let reason = "columns of different lengths".to_owned();
            return Err(self.broken(ParquetError::General(reason)));
        }
        // The number at the file's end is only a claim.
        self.check_rows((first + images.len()) as u64)?;
        let start = records.len();
        records.resize(start + images.len() * self.layout.record_len(), 0);
        records[start..]
            .par_chunks_exact_mut(self.layout.record_len())
            .zip(images.par_iter().enumerate())
            .try_for_each(|(record, (index, png))| {
                let row = first + index;
                let (label_bytes, pixels) = record.split_at_mut(self.labels.len());
                for (place, byte) in label_bytes.iter_mut().enumerate() {
                    *byte = self.label(place, labels[place][index], row)?;
                }
                self.decode(png, row, pixels)
            })?;
        Ok(!images.is_empty())
    }

    fn check_rows(&self, rows: u64) -> Result<(), HubError> {
        if rows > MOST_ROWS {
            return Err(HubError::TooManyRows {
                path: self.path.to_owned(),
                rows,
                most: MOST_ROWS,
            });
        }
        Ok(())
    }

    /// The next values of a column, each of which has to be there.
    fn values<T: DataType>(
        &self,
        reader: &mut ColumnReaderImpl<T>,
        column: &'static str,
        first: usize,
    ) -> Result<Vec<T::T>, HubError> {
        let mut values = Vec::with_capacity(ROWS);
        let mut levels = Vec::with_capacity(ROWS);
        let (rows, present, _) = reader
            .read_records(ROWS, Some(&mut levels), None, &mut values)
            .map_err(|error| self.broken(error))?;
        if present != rows {
            let full = levels.iter().copied().max().unwrap_or_default();
            let null = levels.iter().position(|level| *level < full);
            return Err(HubError::Null {
                path: self.path.to_owned(),
                row: first + null.unwrap_or_default(),
                column,
            });
        }
        Ok(values)
    }

    fn label(&self, place: usize, label: i64, row: usize) -> Result<u8, HubError> {
        let last = self.layout.labels[place] - 1;
        match u8::try_from(label) {
            Ok(byte) if byte <= last => Ok(byte),
            _ => Err(HubError::Label {
                path: self.path.to_owned(),
                row,
                column: self.labels[place],
                label,
                last,
            }),
        }
    }

    /// Decodes a PNG of 32×32 pixels, whose channels are interleaved, into one channel after the other.
    fn decode(&self, png: &ByteArray, row: usize, pixels: &mut [u8]) -> Result<(), HubError> {
        let broken = |source| HubError::Image {
            path: self.path.to_owned(),
            row,
            source,
        };
        let mut limits = Limits::no_limits();
        limits.max_alloc = Some(MOST_BYTES);
        let png = Cursor::new(png.data());
        let decoder = PngDecoder::with_limits(png, limits).map_err(broken)?;
        let ((width, height), color) = (decoder.dimensions(), decoder.color_type());
        if (width as usize, height as usize, color) != (SIDE, SIDE, ColorType::Rgb8) {
            return Err(HubError::ImageShape {
                path: self.path.to_owned(),
                row,
                found: format!("{width} × {height} of {color:?}"),
            });
        }
        let mut interleaved = [0; IMAGE_LEN];
        decoder.read_image(&mut interleaved).map_err(broken)?;
        for (channel, plane) in pixels.chunks_exact_mut(SIDE * SIDE).enumerate() {
            for (pixel, values) in plane.iter_mut().zip(interleaved.chunks_exact(CHANNELS)) {
                *pixel = values[channel];
            }
        }
        Ok(())
    }

    fn no_column(&self, column: &'static str, expected: Type) -> HubError {
        HubError::Column {
            path: self.path.to_owned(),
            column,
            expected: match expected {
                Type::INT64 => "INT64",
                _ => "BYTE_ARRAY",
            },
        }
    }

    fn broken(&self, source: ParquetError) -> HubError {
        HubError::Parquet {
            path: self.path.to_owned(),
            source,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::sync::Arc;

    use image::{ExtendedColorType, ImageEncoder, codecs::png::PngEncoder};
    use parquet::file::properties::WriterProperties;
    use parquet::file::writer::SerializedFileWriter;
    use parquet::schema::parser::parse_message_type;

    use super::*;
    use crate::official::{CIFAR10, CIFAR100};

    /// A file that pyarrow and Pillow wrote: tests/golden/hub.py.
    fn golden(file: &str) -> PathBuf {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/hub");
        root.join(file)
    }

    fn read(path: &Path) -> Result<Vec<u8>, HubError> {
        records(path, &CIFAR10, &["label"], &mut |_| {
            ControlFlow::Continue(())
        })
    }

    /// The formula of tests/golden/hub.py.
    fn pixels(row: usize, first: usize) -> Vec<u8> {
        let value = |place: usize| {
            let (c, y, x) = (place / 1024, place / 32 % 32, place % 32);
            (first + 11 * row + 64 * c + 5 * y + 3 * x) as u8
        };
        (0..IMAGE_LEN).map(value).collect()
    }

    #[test]
    fn rows_of_the_hub_become_records_in_their_order() {
        for (part, rows, first) in [("train", 25, 0), ("test", 6, 100)] {
            let path = golden(&format!("plain_text/{part}-00000-of-00001.parquet"));
            let records = read(&path).unwrap();
            assert_eq!(records.len(), rows * 3073);
            for (row, record) in records.chunks_exact(3073).enumerate() {
                assert_eq!(
                    usize::from(record[0]),
                    (first + 7 * row) % 10,
                    "{part} {row}"
                );
                assert!(record[1..] == pixels(row, first), "{part} {row}");
            }
        }
    }

    #[test]
    fn a_record_of_cifar_100_has_the_coarse_label_first() {
        let path = golden("cifar100/train-00000-of-00001.parquet");
        let labels = ["coarse_label", "fine_label"];
        let go_on = &mut |_: FetchProgress<'_>| ControlFlow::Continue(());
        let records = records(&path, &CIFAR100, &labels, go_on).unwrap();
        assert_eq!(records.len(), 12 * 3074);
        for (row, record) in records.chunks_exact(3074).enumerate() {
            let label = 3 + 7 * row;
            assert_eq!(record[..2], [(label % 20) as u8, (label % 100) as u8]);
            assert!(record[2..] == pixels(row, 3), "{row}");
        }
    }

    #[test]
    fn progress_counts_images_and_may_stop() {
        let path = golden("plain_text/train-00000-of-00001.parquet");
        let mut seen = Vec::new();
        let stopped = records(&path, &CIFAR10, &["label"], &mut |progress| {
            if let FetchProgress::Decoding { done, total, .. } = progress {
                seen.push((done, total));
            }
            if seen.len() == 3 {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        });
        assert!(matches!(stopped, Err(HubError::Stopped)));
        // Each row group is asked for twice: the second time it has nothing more.
        assert_eq!(seen, [(0, 25), (10, 25), (10, 25)]);
    }

    fn png(width: u32, color: ExtendedColorType) -> Vec<u8> {
        let channels = u32::from(color.channel_count());
        let pixels = vec![7; (width * 32 * channels) as usize];
        let mut png = Vec::new();
        PngEncoder::new(&mut png)
            .write_image(&pixels, width, 32, color)
            .unwrap();
        png
    }

    /// A Parquet file of rows with an image, if any, and a label.
    fn table(rows: &[(Option<Vec<u8>>, i64)]) -> tempfile::NamedTempFile {
        let schema = "message rows {
            OPTIONAL group img { OPTIONAL BYTE_ARRAY bytes; }
            OPTIONAL INT64 label;
        }";
        let schema = Arc::new(parse_message_type(schema).unwrap());
        let file = tempfile::NamedTempFile::new().unwrap();
        let properties = Arc::new(WriterProperties::builder().build());
        let output = file.reopen().unwrap();
        let mut writer = SerializedFileWriter::new(output, schema, properties).unwrap();
        let mut group = writer.next_row_group().unwrap();
        let images: Vec<ByteArray> = rows
            .iter()
            .filter_map(|(png, _)| png.clone().map(ByteArray::from))
            .collect();
        let present: Vec<i16> = rows
            .iter()
            .map(|(png, _)| if png.is_some() { 2 } else { 0 })
            .collect();
        let mut column = group.next_column().unwrap().unwrap();
        let typed = column.typed::<ByteArrayType>();
        typed.write_batch(&images, Some(&present), None).unwrap();
        column.close().unwrap();
        let labels: Vec<i64> = rows.iter().map(|(_, label)| *label).collect();
        let mut column = group.next_column().unwrap().unwrap();
        let typed = column.typed::<Int64Type>();
        typed
            .write_batch(&labels, Some(&vec![1; labels.len()]), None)
            .unwrap();
        column.close().unwrap();
        group.close().unwrap();
        writer.close().unwrap();
        file
    }

    #[test]
    fn what_is_no_image_of_the_data_set_is_refused_with_its_row() {
        let good = || Some(png(32, ExtendedColorType::Rgb8));
        assert_eq!(read(table(&[(good(), 9)]).path()).unwrap()[..2], [9, 7]);
        let mut cut = png(32, ExtendedColorType::Rgb8);
        cut.truncate(60);
        for (second, expected) in [
            (
                (Some(b"no image".to_vec()), 0),
                "cannot decode the image of row 1",
            ),
            ((Some(cut), 0), "cannot decode the image of row 1"),
            (
                (Some(png(31, ExtendedColorType::Rgb8)), 0),
                "in row 1, found 31 × 32 of Rgb8",
            ),
            (
                (Some(png(32, ExtendedColorType::L8)), 0),
                "in row 1, found 32 × 32 of L8",
            ),
            ((None, 0), "row 1 has no \"img.bytes\""),
            (
                (good(), 10),
                "expected \"label\" from 0 to 9 in row 1, found 10",
            ),
            ((good(), -1), "in row 1, found -1"),
            ((good(), 256), "in row 1, found 256"),
        ] {
            let file = table(&[(good(), 0), second]);
            let message = read(file.path()).unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
            let name = file.path().display().to_string();
            assert!(message.contains(&name), "{message}");
        }
    }

    #[test]
    fn more_rows_than_any_of_the_data_sets_has_are_refused_unread() {
        let file = table(&vec![(Some(b"no image".to_vec()), 0); 100_001]);
        let message = read(file.path()).unwrap_err().to_string();
        assert!(
            message.contains("expected at most 100000 rows, found 100001"),
            "{message}"
        );
    }

    #[test]
    fn what_is_no_table_of_the_data_set_is_refused() {
        let path = golden("cifar100/test-00000-of-00001.parquet");
        let refused = read(&path).unwrap_err();
        assert!(matches!(
            refused,
            HubError::Column {
                column: "label",
                ..
            }
        ));
        let wrong_type = records(&path, &CIFAR10, &["img.bytes"], &mut |_| {
            ControlFlow::Continue(())
        });
        let wrong_type = wrong_type.unwrap_err().to_string();
        assert!(wrong_type.contains("of type INT64"), "{wrong_type}");
        assert!(matches!(
            read(table(&[]).path()),
            Err(HubError::Empty { .. })
        ));
        let whole = fs_err::read(golden("plain_text/test-00000-of-00001.parquet")).unwrap();
        let file = tempfile::NamedTempFile::new().unwrap();
        for len in [0, 3, 1000, whole.len() - 1] {
            fs_err::write(file.path(), &whole[..len]).unwrap();
            let refused = read(file.path());
            assert!(matches!(refused, Err(HubError::Parquet { .. })), "{len}");
        }
    }
}
