"""seed -> Scene: where the solids, the lights and the camera are.

    room.py          a furnished room, seen from anywhere in it
    outdoors.py      streets, hills
    still_life.py    a table with things on it, a portrait, a heap
    within_reach.py  rooms over something near: desk, dining, kitchen, living, doorway, tabletop
    hand_held.py     where people stand, how they hold a camera, under which light

A mix says how often each comes: WORLD is of everything, HAND_HELD of what people point a phone at.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from training.scenes.layouts import outdoors, still_life, within_reach
from training.scenes.layouts.room import room
from training.scenes.objects import Maker
from training.scenes.scene import Scene

Layout = Callable[[Maker], Scene]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mix:
    """layouts: each with its share of all scenes; the shares add up to 1."""

    name: str
    layouts: tuple[tuple[float, Layout], ...]


WORLD = Mix(
    name="world",
    layouts=(
        (0.46, room),
        (0.14, outdoors.street),
        (0.16, still_life.table),
        (0.06, outdoors.hills),
        (0.12, still_life.portrait),
        (0.06, still_life.heap),
    ),
)
"""Indoors weighs most. The benchmarks' scenes are of this mix."""

HAND_HELD = Mix(
    name="hand-held",
    layouts=(
        (0.15, within_reach.desk),
        (0.15, within_reach.dining),
        (0.14, within_reach.kitchen),
        (0.15, within_reach.living),
        (0.06, within_reach.doorway),
        (0.09, within_reach.tabletop),
        (0.10, room),
        (0.05, outdoors.street),
        (0.03, still_life.table),
        (0.02, outdoors.hills),
        (0.04, still_life.portrait),
        (0.02, still_life.heap),
    ),
)
"""Kitchens, desks and living rooms from where people sit and stand; a quarter of everything else."""
MIXES = (WORLD, HAND_HELD)


def make_scene(rng: np.random.Generator, *, mix: Mix = WORLD, photos: Sequence[Path] = ()) -> Scene:
    """A scene of the mix. photos: whose parts some surfaces show."""
    index = rng.choice(len(mix.layouts), p=[share for share, _ in mix.layouts])
    return mix.layouts[index][1](Maker(rng, photos))
