"""seed, look -> a 32×32 picture of a room with things in it, and its exact depth.

The geometry is 2.5-D and the same in every world: a floor, a wall behind it, cards of several outlines that
stand on the floor, and thin poles and bars. The `Look` alone differs: textures, palette, light, camera.
"""

from __future__ import annotations

import dataclasses
import functools

import cv2
import numpy as np
from numpy.typing import NDArray

SIZE = 32
"""Pixels of a side. Photos are drawn at twice that and averaged; depth is every second drawn pixel's."""
DRAWN = 2 * SIZE

Array = NDArray[np.float32]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Look:
    """What a picture looks like; each share is the probability that a picture has the trait.

    textured: surfaces carry fractal noise and stripes instead of plain colours.
    posters: flat pictures on the back wall, which are not things before it.
    headlight: light falls off with distance from the camera; otherwise lamps shine from random places.
    saturation: (low, high) of the palette.  camera: blur, noise, vignette, white balance and gamma.
    """

    textured: float
    posters: float
    headlight: float
    saturation: tuple[float, float]
    camera: float


RENDERED = Look(textured=0.0, posters=0.0, headlight=0.5, saturation=(0.2, 1.0), camera=0.0)
"""The synthetic world: plain colours, often one light at the camera, a perfect lens."""
PHOTOGRAPHED = Look(textured=1.0, posters=0.7, headlight=0.0, saturation=(0.0, 0.45), camera=1.0)
"""The "real" world."""
ANYTHING = Look(textured=0.6, posters=0.4, headlight=0.3, saturation=(0.0, 1.0), camera=0.6)
"""What the prior is trained on, as SD is on photos and drawings alike: both worlds, and between."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Picture:
    """photo uint8 32×32×3 RGB; depth_m float32 32×32, metres along the optical axis."""

    photo: NDArray[np.uint8]
    depth_m: Array


@dataclasses.dataclass
class _Room:
    """Geometry being drawn, at DRAWN pixels: inverse depth in 1/m, and whose surface each pixel is."""

    inverse: Array
    surface: NDArray[np.int32]
    horizon: float
    camera_m: float
    wall_m: float


def draw(seed: int, look: Look) -> Picture:
    """The same seed has the same geometry under every look."""
    geometry, style = np.random.default_rng((seed, 0)), np.random.default_rng((seed, 1))
    room = _empty_room(geometry)
    things = int(geometry.integers(2, 6))
    for depth_m in np.sort(geometry.uniform(1.6, 0.85 * room.wall_m, things))[::-1]:
        _stand(room, geometry, float(depth_m), identity=int(room.surface.max()) + 1)
    photo = _paint(room, style, look)
    depth_m = 1 / room.inverse[::2, ::2]
    return Picture(photo=photo, depth_m=np.ascontiguousarray(depth_m, np.float32))


# ---- geometry ----


def _empty_room(rng: np.random.Generator) -> _Room:
    """Floor (surface 0) and wall (1): of two planes, the larger inverse depth is seen; it is affine."""
    y, x = np.mgrid[0:DRAWN, 0:DRAWN].astype(np.float32) / DRAWN
    horizon, camera_m, wall_m = rng.uniform(0.2, 0.45), rng.uniform(1.1, 1.7), rng.uniform(4, 8)
    floor, wall = (y - horizon) / camera_m, 1 / wall_m + (x - 0.5) * rng.uniform(-0.12, 0.12)
    return _Room(np.maximum(floor, wall), (wall > floor).astype(np.int32), horizon, camera_m, wall_m)


def _stand(room: _Room, rng: np.random.Generator, depth_m: float, *, identity: int) -> None:
    """Put one thing on the floor at depth_m; what is nearer covers it later."""
    metre = DRAWN / depth_m
    foot = room.horizon * DRAWN + room.camera_m * metre
    centre = rng.uniform(0, DRAWN)
    wide, high = rng.uniform(0.4, 1.3) * metre, rng.uniform(0.5, 1.7) * metre
    thin = max(2, round(rng.uniform(0.03, 0.09) * metre))
    mask = np.zeros((DRAWN, DRAWN), np.uint8)
    kind = rng.choice(["box", "disc", "pole", "rack", "table"])
    left, right = centre - wide / 2, centre + wide / 2
    if kind == "box":
        _polygon(mask, [(left, foot), (right, foot), (right, foot - high), (left, foot - high)])
    elif kind == "disc":
        middle = (round(centre), round(foot - high))
        cv2.ellipse(mask, middle, (max(1, round(wide / 2)), max(1, round(wide / 2))), 0, 0, 360, 1, -1)
        _bar(mask, (centre, foot), middle, thin)
    elif kind == "pole":
        lean = rng.uniform(-0.3, 0.3) * metre
        _bar(mask, (centre, foot), (centre + lean, foot - 1.3 * high), thin)
    elif kind == "rack":
        for share in np.linspace(0, 1, int(rng.integers(3, 5))):
            x = left + share * wide
            _bar(mask, (x, foot), (x, foot - high), thin)
        _bar(mask, (left, foot - high), (right, foot - high), thin)
    else:
        desk = foot - 0.5 * high
        for x in (left, right):
            _bar(mask, (x, foot), (x, desk), thin)
        _polygon(mask, [(left, desk), (right, desk), (right, desk - 2 * thin), (left, desk - 2 * thin)])
    x = np.arange(DRAWN, dtype=np.float32)[None, :] - centre
    inverse = np.broadcast_to(1 / depth_m * (1 + rng.uniform(-0.2, 0.2) * x / DRAWN), mask.shape)
    seen = (mask > 0) & (inverse > room.inverse)
    room.inverse[seen] = inverse[seen]
    room.surface[seen] = identity


def _polygon(mask: NDArray[np.uint8], points: list[tuple[float, float]]) -> None:
    cv2.fillPoly(mask, [np.round(np.array(points)).astype(np.int32)], 1)


def _bar(mask: NDArray[np.uint8], a: tuple[float, float], b: tuple[float, float], thickness: int) -> None:
    cv2.line(mask, (round(a[0]), round(a[1])), (round(b[0]), round(b[1])), 1, thickness)


# ---- appearance ----


@functools.cache
def _textures() -> Array:
    """48 fractal noise pictures, DRAWN×DRAWN, mean 0, deviation 1."""
    rng = np.random.default_rng(0)
    frequency = np.hypot(np.fft.fftfreq(DRAWN)[:, None], np.fft.rfftfreq(DRAWN)[None, :])
    frequency[0, 0] = np.inf
    noise = np.fft.rfft2(rng.standard_normal((48, DRAWN, DRAWN)))
    slopes = rng.uniform(0.6, 1.6, (48, 1, 1))
    pictures = np.fft.irfft2(noise / frequency**slopes, s=(DRAWN, DRAWN))
    return (pictures / pictures.std(axis=(1, 2), keepdims=True)).astype(np.float32)


def _paint(room: _Room, rng: np.random.Generator, look: Look) -> NDArray[np.uint8]:
    surface = room.surface
    if rng.random() < look.posters:
        surface = _with_posters(room, rng)
    colours = _palette(rng, int(surface.max()) + 1, look.saturation)
    photo = colours[surface]
    if rng.random() < look.textured:
        photo = photo * _texture(rng, surface)[..., None]
    photo = photo * _light(room, rng, headlight=rng.random() < look.headlight)[..., None]
    photo = _camera(photo, rng) if rng.random() < look.camera else _to_size(photo)
    return np.clip(photo * 255, 0, 255).astype(np.uint8)


def _with_posters(room: _Room, rng: np.random.Generator) -> NDArray[np.int32]:
    """Rectangles on the wall: surfaces of their own colour and of its depth."""
    surface = room.surface.copy()
    for _ in range(int(rng.integers(1, 4))):
        x, y = rng.integers(0, DRAWN, 2)
        w, h = rng.integers(DRAWN // 10, DRAWN // 3, 2)
        window = surface[y : y + h, x : x + w]
        window[window == 1] = surface.max() + 1
    return surface


def _palette(rng: np.random.Generator, count: int, saturation: tuple[float, float]) -> Array:
    hsv = np.stack(
        [rng.uniform(0, 360, count), rng.uniform(*saturation, count), rng.uniform(0.45, 1, count)], -1
    )
    return cv2.cvtColor(hsv[None].astype(np.float32), cv2.COLOR_HSV2RGB)[0]


def _texture(rng: np.random.Generator, surface: NDArray[np.int32]) -> Array:
    """Per surface its own piece of noise, on some with stripes: a factor around 1."""
    bank = _textures()
    y, x = np.mgrid[0:DRAWN, 0:DRAWN].astype(np.float32)
    factor = np.ones(surface.shape, np.float32)
    for identity in np.unique(surface):
        here = surface == identity
        noise = bank[rng.integers(len(bank))][here]
        pattern = 0.13 * noise * rng.uniform(0.3, 1)
        if rng.random() < 0.25:
            angle, period = rng.uniform(0, np.pi), rng.uniform(4, 15)
            wave = np.sin((np.cos(angle) * x[here] + np.sin(angle) * y[here]) * (2 * np.pi / period))
            pattern += rng.uniform(0.06, 0.2) * np.sign(wave)
        factor[here] += pattern
    return np.clip(factor, 0.15, 1.9)


def _light(room: _Room, rng: np.random.Generator, *, headlight: bool) -> Array:
    if headlight:
        return np.clip(0.6 + 0.8 * room.inverse, 0, 1.1)
    y, x = np.mgrid[0:DRAWN, 0:DRAWN].astype(np.float32) / DRAWN - 0.5
    angle = rng.uniform(0, 2 * np.pi)
    light = 0.8 + rng.uniform(0, 0.8) * (np.cos(angle) * x + np.sin(angle) * y)
    for _ in range(int(rng.integers(0, 3))):
        cx, cy, reach = rng.uniform(-0.5, 0.5), rng.uniform(-0.5, 0.5), rng.uniform(0.08, 0.3)
        light = light + rng.uniform(-0.4, 0.7) * np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / (2 * reach**2))
    return np.clip(light, 0.3, 1.5)


def _to_size(photo: Array) -> Array:
    """DRAWN -> SIZE."""
    return np.asarray(cv2.resize(photo, (SIZE, SIZE), interpolation=cv2.INTER_AREA), np.float32)


def _camera(photo: Array, rng: np.random.Generator) -> Array:
    """Lens blur, vignette, white balance, gamma and noise; DRAWN -> SIZE."""
    blurred = cv2.GaussianBlur(photo, (0, 0), rng.uniform(0.3, 0.8))
    photo = _to_size(np.asarray(blurred, np.float32))
    y, x = np.mgrid[0:SIZE, 0:SIZE].astype(np.float32) / SIZE - 0.5
    photo = photo * (1 - rng.uniform(0, 0.9) * (x**2 + y**2))[..., None]
    photo = np.clip(photo * rng.uniform(0.8, 1.2, 3).astype(np.float32), 0, 1) ** rng.uniform(0.6, 1.5)
    return photo + rng.normal(0, rng.uniform(0.005, 0.03), photo.shape).astype(np.float32)
