"""Pictures of light (EXR, Radiance HDR, PFM): linear, without an upper end -> what a photo of it would be."""

from __future__ import annotations

import contextlib
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fiffdepth_rt.errors import ImageError
from fiffdepth_rt.image import Pixels, check_extent
from fiffdepth_rt.photos.notes import Note

EXR_MAGIC = b"\x76\x2f\x31\x01"
NOTE = Note(kind="light", text="It holds light, which was made a photo by Reinhard's operator.")

_KEY = 0.18
_LUMINANCE = np.array([0.2126, 0.7152, 0.0722])  # BT.709

Array = npt.NDArray[Any]


def tone_mapped(light: Array) -> Pixels:
    """Linear light, float H×W or H×W×3 or H×W×4 RGB in any unit -> uint8 H×W×3, sRGB.

    Reinhard et al., Photographic Tone Reproduction for Digital Images, 2002, eq. 1, 2 and 4: the geometric
    mean of the luminance becomes 0.18, the brightest pixel white. Then the curve of sRGB (IEC 61966-2-1).
    Negative and undefined values count as no light, infinite ones as the brightest; alpha is left out.
    """
    linear = np.nan_to_num(light.astype(np.float64), nan=0, posinf=-1, neginf=0)
    linear[linear == -1] = linear.max()
    linear = np.maximum(linear, 0)
    rgb = np.dstack([linear] * 3) if linear.ndim == 2 else linear[:, :, :3]
    luminance = rgb @ _LUMINANCE
    lit = luminance > 0
    if not lit.any():
        return np.zeros(rgb.shape, np.uint8)
    scaled = luminance * (_KEY / np.exp(np.log(luminance[lit]).mean()))
    displayed = scaled * (1 + scaled / scaled.max() ** 2) / (1 + scaled)
    shown = np.clip(rgb * (displayed / np.where(lit, luminance, 1))[:, :, np.newaxis], 0, 1)
    encoded = np.where(shown <= 0.0031308, shown * 12.92, 1.055 * shown ** (1 / 2.4) - 0.055)
    return np.asarray(np.rint(encoded * 255), dtype=np.uint8)


def extent(data: bytes) -> tuple[int, int]:
    """Header of a Radiance or PFM file -> (height, width). Raises ImageError."""
    if data.startswith(b"P"):
        match = re.match(rb"P[Ff]\s+(\d{1,9})\s+(\d{1,9})\s", data[:64])
        sides = (match[2], match[1]) if match else None
    else:
        match = re.search(rb"\n\n[-+]Y (\d{1,9}) [-+]X (\d{1,9})\n", data[:65536])
        sides = (match[1], match[2]) if match else None
    if sides is None:
        raise ImageError("Its header does not say how large it is: save or download it again.")
    return int(sides[0]), int(sides[1])


def read_exr(path: Path, *, max_pixels: int) -> Array:
    """EXR file -> its light, float H×W×3, H×W×4 or H×W. Raises ImageError, and what OpenEXR raises."""
    import OpenEXR

    with OpenEXR.File(str(path), header_only=True) as opened:
        (left, top), (right, bottom) = opened.header()["dataWindow"]
    check_extent(int(bottom) - int(top) + 1, int(right) - int(left) + 1, max_pixels=max_pixels)
    # OpenEXR prints what is damaged, and gives no parts then. To stderr: stdout is for results.
    with contextlib.redirect_stdout(sys.stderr), OpenEXR.File(str(path)) as opened:
        if not opened.parts:
            raise ValueError("OpenEXR cannot decode its pixels")
        channels = opened.channels()
        for name in ("RGB", "RGBA", "Y"):
            if name in channels:
                return np.array(channels[name].pixels)
        names = ", ".join(channels)  # closing empties it
    raise ImageError(f"It holds the channels {names}, and neither RGB nor Y: save it with these.")
