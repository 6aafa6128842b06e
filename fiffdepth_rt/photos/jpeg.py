"""JPEG: how much work a file may ask for, and files without their end."""

from __future__ import annotations

import io
import re

import numpy as np

from fiffdepth_rt.errors import ImageError
from fiffdepth_rt.image import Pixels, as_rgb
from fiffdepth_rt.photos.notes import Note

MAX_SCANS = 100
"""Cameras and programs write 1 to about 20. Each costs the decoder a pass over the whole picture, and a file
of a few kilobytes can ask for thousands."""

MAX_LOST = 0.1
"""Of a photo's rows. One that lacks more is refused: its lower part would be grey, and its depth wrong."""

NO_END = "It lacks its end marker, so it was cut off"

_MARKER = re.compile(rb"\xff+([\x01-\xcf\xd8-\xfe])")  # not a stuffed FF, nor a restart
_SOI, _EOI, _SOS, _DRI = 0xD8, 0xD9, 0xDA, 0xDD


def check_scans(data: bytes, *, pictures: int | None = None) -> None:
    """Raises ImageError for more than MAX_SCANS passes over the picture; nothing is decoded.

    pictures: None for a JPEG; of a TIFF whose strips or tiles are JPEGs, how many there are of them.
    """
    scans = _markers(data).count(_SOS) if pictures is None else data.count(bytes([0xFF, _SOS]))
    most = MAX_SCANS * (pictures or 1)
    if scans > most:
        raise ImageError(
            f"It asks for {scans} passes over the picture, and at most {most} are done: save it again."
        )


def _markers(data: bytes) -> list[int]:
    """The markers of a file's first picture, in order, without its thumbnails and what lies behind it."""
    found: list[int] = []
    position = 0
    while (match := _MARKER.search(data, position)) and (not found or found[-1] != _EOI):
        marker, position = match[1][0], match.end()
        found.append(marker)
        if marker not in (_SOI, _EOI, 0x01):
            position += int.from_bytes(data[position : position + 2], "big")  # over the segment
    return found


def mended(data: bytes) -> tuple[Pixels, Note]:
    """File without its end -> pixels as far as they go (the rest is grey), not yet upright; and what to say.

    How far that is: the file is decoded twice, once with an end behind it and once with noise before the end.
    Where the two pictures differ visibly, the file does not say what is there. Raises ImageError where that
    are more than MAX_LOST of the rows, and what Pillow raises.
    """
    end = bytes([0xFF, _EOI])
    noise = np.random.default_rng(0).integers(0, 255, (4096, 64), np.uint8)  # never FF
    # Where the file has restart markers, a decoder skips what comes without them.
    restarts = [bytes([0xFF, 0xD0 + n % 8]) if _DRI in _markers(data) else b"" for n in range(len(noise))]
    other_end = b"".join(restart + row.tobytes() for restart, row in zip(restarts, noise, strict=True)) + end
    pixels = _decoded(data + end)
    difference = np.abs(pixels.astype(np.int16) - _decoded(data + other_end))
    lost = float((difference.mean(axis=(1, 2)) > 4).mean())
    if lost > MAX_LOST:
        raise ImageError(f"{NO_END}, and {lost:.0%} of its rows are missing: save or download it again.")
    how_much = f"up to {lost:.1%} of its rows are grey" if lost else "no row is missing"
    return pixels, Note(kind="end", text=f"{NO_END}; {how_much}.")


def _decoded(data: bytes) -> Pixels:
    from PIL import Image

    with Image.open(io.BytesIO(data), formats=("JPEG",)) as picture:
        return as_rgb(picture)
