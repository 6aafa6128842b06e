"""Photo files that lie: bytes flipped, sizes and lengths rewritten, parts moved. Read, or refused."""

from __future__ import annotations

import io
import random
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from fiffdepth_rt.files import read_photo
from tests.fuzz.mutations import mutated_bytes
from tests.fuzz.trial import Kind

SIZES = (0, 1, 2, 255, 65_535, 65_536, 2**31 - 1, 2**31, 2**32 - 1)
MARKERS = b"\xc0\xc1\xc2\xc3\xc4\xcc\xd8\xd9\xda\xdb\xdd\xe0\xe1\xe2\xee\xfe"


class Fuzzed(Kind):
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._whole = _photos()

    def attempt(self, chance: random.Random) -> None:
        name, content = self.mutated(chance)
        file = self._folder / name
        file.write_bytes(content)
        try:
            pixels = read_photo(file)
        finally:
            file.unlink()
        assert pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3

    def mutated(self, chance: random.Random) -> tuple[str, bytes]:
        """A name and a content, at least one of which may be wrong."""
        name = chance.choice(sorted(self._whole))
        content = self._whole[name]
        rewrite = {"png": _png, "jpg": _jpeg, "tif": _tiff}.get(name.rpartition(".")[2])
        if rewrite is not None and chance.random() < 0.5:
            content = rewrite(content, chance)
        if chance.random() < 0.6:
            content = mutated_bytes(content, chance)
        if chance.random() < 0.1:  # under another's name
            name = chance.choice(sorted(self._whole))
        return name, content


def _photos() -> dict[str, bytes]:
    """Small photos of every kind that Pillow writes, by name."""
    rows, columns = np.mgrid[0:48, 0:64]
    pixels = np.stack([rows * 5, columns * 3, rows + columns], axis=-1).astype(np.uint8)
    colour, wide = Image.fromarray(pixels), Image.fromarray((rows * 1000).astype(np.uint16))
    made = {
        "a.jpg": (colour, {"quality": 80}),
        "progressive.jpg": (colour, {"progressive": True}),
        "rotated.jpg": (colour, {"exif": _exif()}),
        "cmyk.jpg": (colour.convert("CMYK"), {}),
        "a.png": (colour, {}),
        "palette.png": (colour.quantize(16), {}),
        "alpha.png": (colour.convert("RGBA"), {}),
        "wide.png": (wide, {}),
        "a.tif": (colour, {}),
        "wide.tif": (wide, {"compression": "tiff_lzw"}),
        "float.tif": (Image.fromarray(rows.astype(np.float32)), {}),
        "a.bmp": (colour, {}),
        "a.gif": (colour.quantize(32), {}),
        "a.webp": (colour, {}),
        "a.ppm": (colour, {}),
        "a.tga": (colour, {"compression": "tga_rle"}),
    }
    found = {}
    for name, (image, options) in made.items():
        file = io.BytesIO()
        image.save(file, Image.registered_extensions()["." + name.rpartition(".")[2]], **options)
        found[name] = file.getvalue()
    return found


def _exif() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


def _png(content: bytes, chance: random.Random) -> bytes:
    """A chunk rewritten, its checksum right."""
    chunks, at = [], 8
    while at + 12 <= len(content):
        (length,) = struct.unpack(">I", content[at : at + 4])
        chunks.append((content[at + 4 : at + 8], content[at + 8 : at + 8 + length]))
        at += 12 + length
    i = chance.randrange(len(chunks))
    kind, data = chunks[i]
    how = chance.randrange(5)
    if how == 0 and kind == b"IHDR":
        size = struct.pack(">II", chance.choice(SIZES), chance.choice(SIZES))
        data = size + (mutated_bytes(data[8:], chance) if chance.random() < 0.5 else data[8:])
    elif how == 1:
        kind = chance.choice((b"IDAT", b"PLTE", b"tRNS", b"eXIf", b"iCCP", b"zTXt", b"acTL", b"fcTL"))
    elif how == 2:
        data = zlib.compress(bytes(chance.choice((0, 10, 10**6))))
    elif how == 3:
        chunks.insert(chance.randrange(len(chunks)), (kind, data))
    else:
        data = mutated_bytes(data, chance)
    chunks[i] = (kind, data)
    whole = b"".join(
        struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks
    )
    return content[:8] + whole


def _jpeg(content: bytes, chance: random.Random) -> bytes:
    """A segment's size, marker or place."""
    data = bytearray(content)
    marks = [i for i in range(len(data) - 9) if data[i] == 0xFF and data[i + 1] in MARKERS]
    at, how = chance.choice(marks), chance.randrange(4)
    if how == 0:
        data[at + 2 : at + 4] = struct.pack(">H", chance.choice((0, 1, 2, 3, 255, 65_535)))
    elif how == 1:
        data[at + 1] = chance.choice(MARKERS)
    elif how == 2 and data[at + 1] in b"\xc0\xc1\xc2":
        data[at + 5 : at + 9] = struct.pack(">HH", *(chance.choice((0, 1, 9, 65_500, 65_535)) for _ in "hw"))
    else:
        (length,) = struct.unpack(">H", data[at + 2 : at + 4])
        data[at:at] = data[at : at + 2 + length] * chance.choice((1, 3, 200))
    return bytes(data)


def _tiff(content: bytes, chance: random.Random) -> bytes:
    """A tag's number, type, count or value."""
    data = bytearray(content)
    (first,) = struct.unpack("<I", data[4:8])
    (count,) = struct.unpack("<H", data[first : first + 2])
    at = first + 2 + 12 * chance.randrange(count)
    how = chance.randrange(4)
    if how == 0:
        data[at : at + 2] = struct.pack(
            "<H", chance.choice((256, 257, 258, 259, 262, 273, 277, 278, 279, 317, 339))
        )
    elif how == 1:
        data[at + 2 : at + 4] = struct.pack("<H", chance.choice((0, 1, 2, 3, 4, 5, 11, 12, 16, 99)))
    elif how == 2:
        data[at + 4 : at + 8] = struct.pack("<I", chance.choice(SIZES))
    else:
        data[at + 8 : at + 12] = struct.pack("<I", chance.choice((*SIZES, first, 8)))
    return bytes(data)
