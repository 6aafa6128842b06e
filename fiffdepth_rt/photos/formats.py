"""Which photo files are read, by which library, and what to install for the others."""

from __future__ import annotations

import dataclasses
import importlib.util

PHOTOS_EXTRA = "pip install 'fiffdepth-rt[photos]'"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Format:
    """One kind of photo file.

    name: Pillow's name of the decoder, or ours where another library reads it. endings: of its files' names.
    module: the library beyond the runtime's own that reads it; None where the runtime's own do. cure: the
        command that installs it.
    """

    name: str
    endings: tuple[str, ...]
    module: str | None = None
    cure: str = ""

    @property
    def readable(self) -> bool:
        """Whether what reads it is installed. Imports nothing but, for AVIF, a part of Pillow."""
        return self.module is None or importlib.util.find_spec(self.module) is not None


FORMATS = (
    Format(name="JPEG", endings=(".jpg", ".jpeg", ".jfif", ".jpe", ".mpo")),
    Format(name="PNG", endings=(".png",)),
    Format(name="TIFF", endings=(".tif", ".tiff")),
    Format(name="WEBP", endings=(".webp",)),
    Format(name="AVIF", endings=(".avif",), module="PIL.AvifImagePlugin", cure="pip install 'pillow>=11.3'"),
    Format(name="HEIF", endings=(".heic", ".heif", ".hif"), module="pi_heif", cure=PHOTOS_EXTRA),
    Format(name="BMP", endings=(".bmp",)),
    Format(name="GIF", endings=(".gif",)),
    Format(name="PPM", endings=(".ppm", ".pgm", ".pbm", ".pnm")),
    Format(name="JPEG2000", endings=(".jp2", ".j2k", ".jpx")),
    Format(name="TGA", endings=(".tga",)),
    Format(name="ICO", endings=(".ico",)),
    Format(name="HDR", endings=(".hdr",)),
    Format(name="PFM", endings=(".pfm",)),
    Format(name="EXR", endings=(".exr",), module="OpenEXR", cure=PHOTOS_EXTRA),
)

PHOTO_ENDINGS = {ending: format_ for format_ in FORMATS for ending in format_.endings}
"""What is looked for in a folder: ending, in lower case -> Format."""


def format_named(name: str) -> Format:
    """Raises StopIteration for a name that is not in FORMATS, which is a mistake of ours."""
    return next(format_ for format_ in FORMATS if format_.name == name)
