"""What hides in a picture."""

import struct
import zlib

from PIL import Image


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def before_end(kind, data):
    def plant(path):
        content = path.read_bytes()
        end = content.index(b"IEND") - 4
        path.write_bytes(content[:end] + chunk(kind, data) + content[end:])

    return plant


def with_exif(path):
    with Image.open(path) as image:
        image.load()
        exif = image.getexif()
        exif[0x9C9C] = "/home/ann/run".encode("utf-16le")
        image.save(path, exif=exif)


def two_frames(path):
    with Image.open(path) as image:
        first = image.convert("RGB")
    first.save(path, save_all=True, append_images=[Image.new("RGB", first.size, "red")])


PICTURES = {
    "bytes behind its end": lambda path: path.write_bytes(path.read_bytes() + b"PK" * 50),
    "a private chunk": before_end(b"prVt", b"/home/ann"),
    "a text": before_end(b"tEXt", b"Comment\0/home/ann"),
    "EXIF": with_exif,
    "a second frame": two_frames,
    "another format": lambda path: Image.new("RGB", (9, 9)).save(path, "JPEG"),
    "no picture": lambda path: path.write_bytes(b"x"),
    "half of it": lambda path: path.write_bytes(path.read_bytes()[:900]),
}
"""What hides in a PNG; publishing draws it anew, and verifying refuses it."""
