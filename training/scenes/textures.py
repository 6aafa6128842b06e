"""surface point -> colour before light.

A bank of small tileable pictures is made once per process from a fixed seed. A material picks a picture, a
scale, two colours and a gloss; the picture only mixes the colours: a handful gives endless surfaces. Where
photos are given, a material may be a part of one instead, in the photo's own colours.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from fiffdepth_rt.errors import ImageError
from fiffdepth_rt.files import read_photo

log = logging.getLogger("training")

SIDE = 256
BANK_SEED = 20241


@dataclasses.dataclass(frozen=True, kw_only=True)
class PhotoCrop:
    """A square part of a photo. side: share of the photo's shorter side; left, top: share of what remains."""

    photo: Path
    left: float
    top: float
    side: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Material:
    """How a solid looks.

    picture: index into the bank; metres: the side of one tile; dark, light: linear RGB the picture mixes;
    gloss: 0 … 1 strength of the highlight; glow: emitted light (lamps, windows), relative to white;
    crop: a part of a photo in the picture's place, in its own colours times `light`; every other tile is
    mirrored, so that tiles meet without a seam.
    """

    picture: int
    metres: float
    dark: tuple[float, float, float]
    light: tuple[float, float, float]
    gloss: float
    glow: float = 0.0
    crop: PhotoCrop | None = None


@functools.cache
def bank() -> NDArray[np.float32]:
    """P×SIDE×SIDE×2 pictures in [0, 1]: [..., 0] sharp, [..., 1] blurred for surfaces far away."""
    rng = np.random.default_rng(BANK_SEED)
    sharp = [np.full((SIDE, SIDE), 0.5)]
    for sigma in (1.0, 2.5, 6.0, 15.0, 35.0):
        sharp += [_noise(rng, sigma), _noise(rng, sigma)]
    for _ in range(6):
        sharp.append(_fractal(rng, rng.uniform(0.7, 1.8)))
    for _ in range(6):
        sharp.append(_wood(rng))
    for _ in range(6):
        sharp.append(_tiles(rng, brick=False))
        sharp.append(_tiles(rng, brick=True))
    for _ in range(5):
        sharp.append(_stripes(rng))
    for _ in range(5):
        sharp.append(_cells(rng))
    for _ in range(4):
        sharp.append(_checks(rng))
    for _ in range(4):
        sharp.append(_windows(rng))
    for _ in range(6):
        sharp.append(_collage(rng))
    out = [np.stack([s, cv2.blur(s, (24, 24), borderType=cv2.BORDER_REFLECT)], -1) for s in sharp]
    return np.stack(out).astype(np.float32)


PLAIN = 0
COUNT = 1 + 10 + 6 + 6 + 12 + 5 + 5 + 4 + 4 + 6
WINDOWS = slice(COUNT - 10, COUNT - 6)
COLLAGES = slice(COUNT - 6, COUNT)


def lookup(
    picture: NDArray[np.int64], uv: NDArray[np.float32], blur: NDArray[np.float32]
) -> NDArray[np.float32]:
    """N picture numbers, N×2 tile coordinates, N blur in [0, 1] -> N mixing values in [0, 1]."""
    ij = np.floor(uv * SIDE).astype(np.int64) % SIDE
    both = bank()[picture, ij[:, 1], ij[:, 0]]
    return both[:, 0] + (both[:, 1] - both[:, 0]) * blur


LINEAR = ((np.arange(256) / 255) ** 2.2).astype(np.float32)
"""Of a photo's 8 bits: light, in [0, 1]."""


@functools.lru_cache(64)
def crop_pixels(crop: PhotoCrop) -> NDArray[np.uint8]:
    """-> SIDE×SIDE×3×2, RGB as in the photo: [..., 0] sharp, [..., 1] blurred for surfaces far away.

    A photo that cannot be read is grey, and the log says so: one bad photo stops no rendering of hours.
    """
    try:
        photo = read_photo(crop.photo)
    except ImageError as error:
        log.warning("A surface stays grey: %s", error)
        photo = np.full((1, 1, 3), 128, np.uint8)
    h, w = photo.shape[:2]
    side = max(1, round(crop.side * min(h, w)))
    top, left = round(crop.top * (h - side)), round(crop.left * (w - side))
    part = photo[top : top + side, left : left + side]
    sharp = cv2.resize(part, (SIDE, SIDE), interpolation=cv2.INTER_LINEAR)
    return np.stack([sharp, cv2.blur(sharp, (24, 24), borderType=cv2.BORDER_REFLECT)], -1)


def look_up_crop(crop: PhotoCrop, uv: NDArray[np.float32], blur: NDArray[np.float32]) -> NDArray[np.float32]:
    """N×2 tile coordinates, N blur in [0, 1] -> N×3 linear RGB."""
    mirrored = np.abs((uv % 2) - 1)
    ij = np.minimum((mirrored * SIDE).astype(np.int64), SIDE - 1)
    both = LINEAR[crop_pixels(crop)[ij[:, 1], ij[:, 0]]]
    return both[..., 0] + (both[..., 1] - both[..., 0]) * blur[:, None]


def _unit(x: NDArray[np.float64]) -> NDArray[np.float64]:
    lo, hi = np.percentile(x, [1, 99])
    return np.clip((x - lo) / (hi - lo + 1e-9), 0, 1)


def _noise(rng: np.random.Generator, sigma: float) -> NDArray[np.float64]:
    f = np.fft.fftfreq(SIDE)
    gain = np.exp(-2 * (np.pi * sigma) ** 2 * (f[:, None] ** 2 + f[None] ** 2))
    return _unit(np.fft.ifft2(np.fft.fft2(rng.normal(size=(SIDE, SIDE))) * gain).real)


def _fractal(rng: np.random.Generator, power: float) -> NDArray[np.float64]:
    f = np.fft.fftfreq(SIDE)
    r = np.sqrt(f[:, None] ** 2 + f[None] ** 2)
    r[0, 0] = np.inf
    return _unit(np.fft.ifft2(np.fft.fft2(rng.normal(size=(SIDE, SIDE))) * r**-power).real)


def _grid() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    y, x = np.mgrid[0:SIDE, 0:SIDE] / SIDE
    return y, x


def _wood(rng: np.random.Generator) -> NDArray[np.float64]:
    y, _ = _grid()
    warp = _fractal(rng, 1.8) * rng.uniform(0.05, 0.3)
    rings = np.sin(2 * np.pi * (rng.integers(4, 16) * y + 6 * warp))
    planks = rng.integers(1, 6)
    tone = rng.uniform(0, 0.7, planks)[(y * planks).astype(int) % planks]
    gap = ((y * planks) % 1 < 0.04) * 0.6
    return np.clip(0.3 + 0.2 * rings + 0.3 * _noise(rng, 1.5) * 0.6 + tone * 0.5 - gap, 0, 1)


def _tiles(rng: np.random.Generator, brick: bool) -> NDArray[np.float64]:
    y, x = _grid()
    rows = int(rng.integers(2, 9))
    cols = max(1, rows // 2) if brick else rows
    shift = 0.5 * (np.floor(y * rows) % 2) if brick else 0.0
    fy, fx = (y * rows) % 1, (x * cols + shift) % 1
    tone = rng.uniform(0, 1, (rows, cols))[
        np.floor(y * rows).astype(int) % rows, np.floor(x * cols + shift).astype(int) % cols
    ]
    groove = (fy < rng.uniform(0.04, 0.1)) | (fx < rng.uniform(0.03, 0.08))
    return np.where(groove, rng.choice([0.0, 1.0]), 0.45 + 0.35 * tone + 0.2 * _noise(rng, 2.0))


def _stripes(rng: np.random.Generator) -> NDArray[np.float64]:
    _, x = _grid()
    n = rng.integers(2, 20)
    s = np.sin(2 * np.pi * n * x)
    return _unit((np.sign(s) if rng.random() < 0.5 else s) + 0.2 * rng.normal(size=(SIDE, SIDE)))


def _cells(rng: np.random.Generator) -> NDArray[np.float64]:
    y, x = _grid()
    p = rng.uniform(size=(rng.integers(12, 60), 2))
    d = np.stack([np.hypot((y - a + 0.5) % 1 - 0.5, (x - b + 0.5) % 1 - 0.5) for a, b in p])
    d.sort(axis=0)
    return _unit(d[1] - d[0] if rng.random() < 0.5 else d[0])


def _checks(rng: np.random.Generator) -> NDArray[np.float64]:
    y, x = _grid()
    n = rng.integers(1, 7) * 2
    return np.clip(((y * n).astype(int) + (x * n).astype(int)) % 2 * 0.8 + 0.2 * _noise(rng, 2.0), 0, 1)


def _windows(rng: np.random.Generator) -> NDArray[np.float64]:
    """A facade: dark panes in a lighter wall."""
    y, x = _grid()
    rows, cols = rng.integers(2, 6, 2)
    fy, fx = (y * rows) % 1, (x * cols) % 1
    pane = (abs(fy - 0.5) < rng.uniform(0.2, 0.4)) & (abs(fx - 0.5) < rng.uniform(0.15, 0.4))
    return np.where(pane, 0.25 * _noise(rng, 6.0), 0.8 + 0.2 * _noise(rng, 1.5))


def _collage(rng: np.random.Generator) -> NDArray[np.float64]:
    """Overlapping shapes: posters, paintings, book covers."""
    out = (_fractal(rng, 1.5) * 255).astype(np.uint8)
    for _ in range(rng.integers(6, 25)):
        at = tuple(int(v) for v in rng.integers(0, SIDE, 2))
        tone = int(rng.integers(0, 256))
        if rng.random() < 0.5:
            cv2.circle(out, at, int(rng.integers(4, 50)), tone, -1)
        else:
            corner = tuple(int(v) for v in np.array(at) + rng.integers(5, 90, 2))
            cv2.rectangle(out, at, corner, tone, -1 if rng.random() < 0.7 else 2)
    return out / 255.0
