"""How people hold a camera indoors: where the eye is, how far the nearest edge, which way, under which light.

standpoint   seated or standing behind an edge at 0.6 … 1.2 m, the room going on 2 … 5 m behind the edge
held         a camera of a phone there: 57 … 70° across the long side, rolled by up to 15°
lit          several lamps, or one lamp in a dark room
"""

from __future__ import annotations

import dataclasses

import numpy as np

from training.scenes.meshes import compose, frame
from training.scenes.near_objects import pendant, shelf
from training.scenes.objects import Maker
from training.scenes.scene import Camera, Light, white

SEATED_M, STANDING_M = (1.1, 1.3), (1.4, 1.7)
"""Heights of the eye above the floor."""
EDGE_M = (0.6, 1.2)
"""From the eye to the nearest point of the edge."""
BEHIND_M = (2.0, 5.0)
"""From the edge to the wall behind it, level."""
LENS_DEG = (57.0, 70.0)
"""Field of view across the picture's long side: phones' main cameras."""
MAX_ROLL = np.radians(15)
DARK_SHARE = 0.25
"""Of the rooms: one lamp."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Standpoint:
    """Metres. eye: its height; edge: its distance; ahead: the same, level; behind: edge to wall, level."""

    eye: float
    edge: float
    ahead: float
    behind: float


def standpoint(rng: np.random.Generator, *, surface: float, seated: float) -> Standpoint:
    """surface: height of the edge, metres, at most 0.95; seated: share of the eyes that are."""
    eye = float(rng.uniform(*(SEATED_M if rng.random() < seated else STANDING_M)))
    above = eye - surface
    edge = float(rng.uniform(max(EDGE_M[0], above + 0.05), EDGE_M[1]))
    return Standpoint(
        eye=eye,
        edge=edge,
        ahead=float(np.sqrt(edge**2 - above**2)),
        behind=float(rng.uniform(*BEHIND_M)),
    )


def roll(rng: np.random.Generator) -> float:
    """Radians: most pictures are nearly level, one in three is not."""
    if rng.random() < 1 / 3:
        return float(rng.uniform(-MAX_ROLL, MAX_ROLL))
    return float(np.clip(rng.normal(0, np.radians(2)), -MAX_ROLL, MAX_ROLL))


def phone_lens(rng: np.random.Generator) -> float:
    """Focal length / long side of the picture."""
    return float(0.5 / np.tan(np.radians(rng.uniform(*LENS_DEG)) / 2))


def held(
    rng: np.random.Generator, at: tuple[float, float], stand: Standpoint, *, surface: float, yaw: float = 0.25
) -> Camera:
    """At (x, y) on the floor, looking between the edge and the horizon. yaw: its deviation, radians."""
    down = np.arctan2(stand.eye - surface, stand.ahead)
    return Camera(
        eye=(at[0], at[1], stand.eye),
        yaw=float(rng.normal(0, yaw)),
        pitch=float(np.clip(-down * rng.uniform(0.0, 0.8), -1.0, 0.05)),
        roll=roll(rng),
        focal=phone_lens(rng),
    )


def lit(
    m: Maker, w: float, d: float, h: float, *, near_y: float
) -> tuple[list[Light], tuple[float, float, float]]:
    """-> lights and the ambient light of a room, x in ±w/2, y in 0 … d, z in 0 … h.

    near_y: where the one lamp of a dark room hangs, if it does not stand elsewhere.
    """
    rng = m.rng
    if rng.random() < DARK_SHARE:
        over = rng.random() < 0.5
        x = rng.uniform(-0.3, 0.3) if over else rng.uniform(-0.4, 0.4) * w
        y, z = (
            (near_y, rng.uniform(1.5, 1.9)) if over else (rng.uniform(0.4, 0.95) * d, rng.uniform(1.3, 1.8))
        )
        pendant(m, frame(at=(x, y, z + 0.05)), h - z)
        lamp = Light(position=(x, y, z), colour=white(rng, rng.uniform(0.8, 3)), sun=False)
        return [lamp], white(rng, float(np.exp(rng.uniform(np.log(0.01), np.log(0.08)))))
    lights = [
        Light(
            position=(rng.uniform(-0.45, 0.45) * w, rng.uniform(0.05, 0.95) * d, rng.uniform(0.6, 0.97) * h),
            colour=white(rng, rng.uniform(0.5, 2.5)),
            sun=False,
        )
        for _ in range(rng.integers(1, 4))
    ]
    return lights, white(rng, rng.uniform(0.1, 0.7))


def cut_by_the_frame(m: Maker, at: tuple[float, float]) -> None:
    """A chair, a shelf, a lamp or a plant so far to the side that the picture holds only part of it."""
    rng = m.rng
    side = rng.choice([-1, 1])
    place = compose(
        frame(at=(at[0] + side * rng.uniform(0.45, 0.85), at[1] + rng.uniform(0.5, 1.2), 0)),
        frame(yaw=rng.uniform(0, 2 * np.pi)),
    )
    kind = rng.integers(5)
    if kind == 0:
        shelf(m, place, rng.uniform(0.5, 1.0), rng.uniform(1.2, 2.1))
    elif kind == 1:
        m.armchair(place)
    elif kind == 2:
        m.plant(place)
    elif kind == 3:
        m.lamp(place)
    else:
        m.chair(place)
