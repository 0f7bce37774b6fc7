"""Writes small Parquet files in the layout of the Hugging Face Hub's CIFAR-10 and CIFAR-100.

    python tests/golden/hub.py

Needs pyarrow and Pillow. The pixels follow a formula that the tests know as well, so that what is
read is compared with something that no Parquet or PNG reader has seen. Rows lie in several row
groups; one PNG is written with filters of its own, as encoders differ in them.
"""

import io
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

HERE = Path(__file__).parent / "hub"
IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def png(row, first):
    image = Image.new("RGB", (32, 32))
    for y in range(32):
        for x in range(32):
            value = [(first + 11 * row + 64 * c + 5 * y + 3 * x) % 256 for c in range(3)]
            image.putpixel((x, y), tuple(value))
    file = io.BytesIO()
    image.save(file, format="PNG", optimize=row % 2 == 0)
    return file.getvalue()


def write(folder, part, rows, first, labels):
    """`labels` is a list of (name, number of classes), as the Hub orders the columns."""
    columns = {
        "img": pa.array([{"bytes": png(row, first), "path": None} for row in range(rows)], IMAGE)
    }
    for name, classes in labels:
        columns[name] = pa.array([(first + 7 * row) % classes for row in range(rows)], pa.int64())
    path = HERE / folder / f"{part}-00000-of-00001.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path, row_group_size=10, compression="snappy")
    print(path, path.stat().st_size)


ten, hundred = [("label", 10)], [("fine_label", 100), ("coarse_label", 20)]
write("plain_text", "train", 25, 0, ten)
write("plain_text", "test", 6, 100, ten)
write("cifar100", "train", 12, 3, hundred)
write("cifar100", "test", 4, 50, hundred)
