"""Rendered photos and depth pictures -> what a camera might have made of them: other framing, light, sensor.

Rendered light is clean and neutral, photos are not: a network that must read geometry through all of this
cannot lean on what renderers do alike.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from training.data import procedural
from training.data.images import PhotoFolder
from training.data.labels import LabelStore
from training.data.normalise import renormalise
from training.data.samples import SampleError
from training.latents import photo_tensor

SKY = np.float32(1.0)
"""Depth pictures hold the sky at exactly +1; it takes no part in the normalisation."""
MIN_SURFACE = 16
"""Pixels. Of fewer, two quantiles say little."""
MIN_SPAN = 0.05
"""A crop whose depth spans less of the whole picture's range than this is taken as it is: its picture would
be the renderer's rounding, stretched."""
TONE_GAP = 24
"""Levels between two knots of a tone curve, at least: the rounding of a flat photo is not made stripes."""


def frame(
    photo: NDArray[np.uint8],
    picture: NDArray[np.float32],
    shape: tuple[int, int],
    rng: np.random.Generator,
    *,
    smallest: float = 0.6,
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """H×W×3, H×W -> a random crop of both, half of them mirrored, resized to `shape` and normalised anew.

    smallest: the least part of each side that a crop keeps; its aspect is off `shape`'s by up to 1.2.
    Depth is resized to the nearest pixel, so that no edge is softened.
    """
    H, W = picture.shape
    aspect = shape[1] / shape[0] * np.exp(rng.uniform(-0.18, 0.18))
    width = min(W, H * aspect) * rng.uniform(smallest, 1)
    w, h = max(1, round(width)), max(1, min(H, round(width / aspect)))
    y, x = rng.integers(0, H - h + 1), rng.integers(0, W - w + 1)
    photo, picture = photo[y : y + h, x : x + w], picture[y : y + h, x : x + w]
    if rng.random() < 0.5:
        photo, picture = photo[:, ::-1], picture[:, ::-1]
    size = (shape[1], shape[0])
    resized = cv2.resize(np.ascontiguousarray(photo), size, interpolation=cv2.INTER_AREA)
    depth = cv2.resize(np.ascontiguousarray(picture), size, interpolation=cv2.INTER_NEAREST)
    return resized.astype(np.uint8, copy=False), renormalised(depth.astype(np.float32, copy=False))


def renormalised(picture: NDArray[np.float32]) -> NDArray[np.float32]:
    """Part of a depth picture -> its own depth picture; one that is nearly flat is taken as it is."""
    surface = picture < SKY
    if np.count_nonzero(surface) < MIN_SURFACE:
        return picture
    try:
        return renormalise(picture, surface, min_span=MIN_SPAN)
    except SampleError:
        return picture


def develop(photo: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """uint8 H×W×3 as rendered -> the same with the tones of a photo; one in four stays as it is.

    Rendered rooms have light in every corner, photos have black ones: a tone curve takes the 10 %, 50 % and
    90 % quantiles of the brightness to where those of a photo may lie. (Medians over 300 photos: 0.14, 0.41
    and 0.75 of white; over 300 rendered scenes: 0.36, 0.57 and 0.81.)
    """
    if rng.random() < 0.25:
        return photo
    dark, middle, bright = np.quantile(photo[::4, ::4].mean(-1), [0.1, 0.5, 0.9])
    middle = np.clip(middle, 2 * TONE_GAP, 255 - 2 * TONE_GAP)
    dark = np.clip(dark, TONE_GAP, middle - TONE_GAP)
    bright = np.clip(bright, middle + TONE_GAP, 255 - TONE_GAP)
    to_middle = np.clip(rng.normal(0.42, 0.14), 0.08, 0.9)
    to_dark = to_middle * rng.uniform(0, 0.7)
    to_bright = to_middle + (1 - to_middle) * rng.uniform(0.25, 1)
    knots = (0.0, float(dark), float(middle), float(bright), 255.0)
    curve = np.interp(np.arange(256), knots, (0.0, to_dark, to_middle, to_bright, 1.0))
    return cv2.LUT(photo, (curve * 255 + 0.5).astype(np.uint8)).astype(np.uint8, copy=False)


def expose(photo: NDArray[np.uint8], rng: np.random.Generator, *, strength: float = 1.0) -> NDArray[np.uint8]:
    """uint8 H×W×3 -> other light, lens and sensor: gamma, gain, colour matrix, grey, blur, noise, JPEG."""
    x = photo.astype(np.float32) / 255
    x **= np.exp(rng.normal(0, 0.35 * strength))
    mix = np.eye(3) + rng.normal(0, 0.12 * strength, (3, 3))
    x = x @ mix.astype(np.float32).T * np.float32(np.exp(rng.normal(0, 0.2 * strength)))
    x = (x - 0.5) * np.float32(np.exp(rng.normal(0, 0.2 * strength))) + 0.5
    if rng.random() < 0.15 * strength:
        x[:] = x.mean(-1, keepdims=True)
    if rng.random() < 0.3 * strength:
        x = cv2.GaussianBlur(x, (0, 0), rng.uniform(0.4, 1.5))
    if rng.random() < 0.5 * strength:
        x += rng.normal(0, rng.uniform(0.005, 0.06), x.shape).astype(np.float32)
    out = (np.clip(x, 0, 1) * 255 + 0.5).astype(np.uint8)
    if rng.random() < 0.3 * strength:
        _, data = cv2.imencode(".jpg", out, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(25, 90))])
        out = np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8)
    return out


def jitter(photos: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """Per-photo gamma and a colour cast, the mild form of `expose`. N×3×H×W in [-1, 1] -> the same."""
    n = len(photos)
    gamma = torch.from_numpy(np.exp(rng.normal(0, 0.25, (n, 1, 1, 1)))).float()
    gain = torch.from_numpy(np.exp(rng.normal(0, 0.08, (n, 3, 1, 1)))).float()
    return (((photos + 1) / 2).clamp(0, 1) ** gamma * gain).clamp(0, 1) * 2 - 1


def scene_batch(
    shards: Sequence[procedural.Shard],
    step: int,
    count: int,
    shapes: Sequence[tuple[int, int]],
    *,
    seed: int,
    strength: float,
    smallest: float = 0.6,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Batch `step` of a run: photos N×3×h×w and depth pictures N×1×h×w in [-1, 1], all of one of `shapes`."""
    rng = np.random.default_rng([seed, step])
    shape = shapes[int(rng.integers(len(shapes)))]
    photos = np.empty((count, *shape, 3), np.uint8)
    pictures = np.empty((count, 1, *shape), np.float32)
    for i in range(count):
        shard = shards[int(rng.integers(len(shards)))]
        k = rng.integers(len(shard.photos))
        photo, picture = frame(
            shard.photos[k], procedural.to_picture(shard.depth[k]), shape, rng, smallest=smallest
        )
        photos[i], pictures[i, 0] = expose(develop(photo, rng), rng, strength=strength), picture
    return photo_tensor(photos), torch.from_numpy(pictures)


def labelled_batch(
    photos: PhotoFolder,
    labels: LabelStore,
    usable: Sequence[int],
    step: int,
    count: int,
    shapes: Sequence[tuple[int, int]],
    *,
    seed: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """As `scene_batch`, of photos and their teacher's labels. usable: indices of photos with a label."""
    rng = np.random.default_rng([seed, step])
    shape = shapes[int(rng.integers(len(shapes)))]
    pixels = np.empty((count, *shape, 3), np.uint8)
    pictures = np.empty((count, 1, *shape), np.float32)
    for i in range(count):
        sample = photos[usable[int(rng.integers(len(usable)))]]
        picture, _ = labels.picture(sample.name)
        photo, pictures[i, 0] = frame(sample.photo, picture, shape, rng)
        pixels[i] = expose(photo, rng, strength=0.3)
    return photo_tensor(pixels), torch.from_numpy(pictures)
