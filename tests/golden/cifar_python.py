"""Small files of CIFAR's Python version, for tests/golden/cifar_python.rs to read.

    python3 tests/golden/cifar_python.py      writes tests/golden/cifar (needs NumPy 2)

Each holds two images. Those of Python 2 are put together opcode by opcode as its cPickle wrote the
official files: protocol 2, texts as byte strings, a memo for everything, lists in parts. Those of
Python 3 are what `pickle.dump` makes of them after `pickle.load(…, encoding="bytes")`.
"""

import pathlib
import pickle
import struct

import numpy

FOLDER = pathlib.Path(__file__).parent / "cifar"
IMAGES = 2
PIXELS = numpy.array(
    [[(row * 7 + column) % 251 for column in range(3072)] for row in range(IMAGES)], numpy.uint8
)


class Python2:
    """Writes opcodes as cPickle of Python 2 does in protocol 2."""

    def __init__(self):
        self.out = bytearray(b"\x80\x02")
        self.memo = 0

    def keep(self):
        self.memo += 1
        self.out += b"q" + bytes([self.memo])

    def text(self, value):
        if len(value) < 256:
            self.out += b"U" + bytes([len(value)]) + value
        else:
            self.out += b"T" + struct.pack("<i", len(value)) + value
        self.keep()

    def number(self, value):
        if 0 <= value < 256:
            self.out += b"K" + bytes([value])
        elif 0 <= value < 65536:
            self.out += b"M" + struct.pack("<H", value)
        else:
            self.out += b"J" + struct.pack("<i", value)

    def named(self, module, name):
        self.out += b"c" + module + b"\n" + name + b"\n"
        self.keep()

    def list(self, values, write):
        self.out += b"]"
        self.keep()
        self.out += b"("
        for value in values:
            write(value)
        self.out += b"e"

    def array(self, pixels):
        self.named(b"numpy.core.multiarray", b"_reconstruct")
        self.named(b"numpy", b"ndarray")
        self.number(0)
        self.out += b"\x85"
        self.keep()
        self.text(b"b")
        self.out += b"\x87"
        self.keep()
        self.out += b"R"
        self.keep()
        self.out += b"("
        self.number(1)
        self.number(pixels.shape[0])
        self.number(pixels.shape[1])
        self.out += b"\x86"
        self.keep()
        self.named(b"numpy", b"dtype")
        self.text(b"u1")
        self.number(0)
        self.number(1)
        self.out += b"\x87"
        self.keep()
        self.out += b"R"
        self.keep()
        self.out += b"("
        self.number(3)
        self.text(b"|")
        self.out += b"NNN"
        self.number(-1)
        self.number(-1)
        self.number(0)
        self.out += b"t"
        self.keep()
        self.out += b"b"
        self.out += b"\x89"
        self.text(pixels.tobytes())
        self.out += b"t"
        self.keep()
        self.out += b"b"

    def batch(self, entries):
        self.out += b"}"
        self.keep()
        self.out += b"("
        for key, value in entries.items():
            self.text(key)
            if isinstance(value, bytes):
                self.text(value)
            elif isinstance(value, numpy.ndarray):
                self.array(value)
            elif isinstance(value[0], bytes):
                self.list(value, self.text)
            else:
                self.list(value, self.number)
        self.out += b"u."
        return bytes(self.out)


def main():
    names = [b"camion_s_000148.png", b"leptodactylus_pentadactylus_s_000004.png"]
    ten = {
        b"batch_label": b"training batch 1 of 5",
        b"labels": [6, 9],
        b"data": PIXELS,
        b"filenames": names,
    }
    hundred = {
        b"filenames": names,
        b"batch_label": b"training batch 1 of 1",
        b"fine_labels": [19, 99],
        b"coarse_labels": [11, 15],
        b"data": PIXELS,
    }
    text = {key.decode(): value for key, value in ten.items()}
    text["data"] = numpy.asfortranarray(PIXELS)
    files = {
        "cifar10_python2": Python2().batch(ten),
        "cifar100_python2": Python2().batch(hundred),
        "cifar10_protocol2": pickle.dumps(ten, 2),
        "cifar10_protocol4_fortran": pickle.dumps(text, 4),
    }
    FOLDER.mkdir(exist_ok=True)
    for name, content in files.items():
        (FOLDER / f"{name}.pkl").write_bytes(content)


if __name__ == "__main__":
    main()
