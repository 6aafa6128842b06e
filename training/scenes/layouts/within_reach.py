"""Rooms seen over something within reach: a desk, a table, a kitchen, a living room, a doorway; a tabletop.

Each room is as in room.py: x in ±w/2, y from the wall behind the eye at 0 to the wall ahead at d.
"""

from __future__ import annotations

import numpy as np

from training.scenes import near_objects as near
from training.scenes.layouts.hand_held import (
    MAX_ROLL,
    Standpoint,
    cut_by_the_frame,
    held,
    lit,
    phone_lens,
    roll,
    standpoint,
)
from training.scenes.layouts.room import furnish, shell
from training.scenes.meshes import compose, frame
from training.scenes.objects import Maker
from training.scenes.scene import Camera, Scene, finished

BACK_M = 0.4
"""The eye is this far from the wall behind it."""
TABLE_M = (0.7, 0.78)
"""Heights of desks and dining tables."""


def desk(m: Maker) -> Scene:
    """Over a desk with screens: at home, or among other desks."""
    rng = m.rng
    surface = float(rng.uniform(*TABLE_M))
    stand = standpoint(rng, surface=surface, seated=0.6)
    w, d, h = _around(m, stand)
    deep, wide = rng.uniform(0.6, 0.9), rng.uniform(1.2, 2.2)
    x = rng.normal(0, 0.25)
    far_edge = BACK_M + stand.ahead + (0 if rng.random() < 0.6 else deep)
    place = frame(at=(x, far_edge - deep / 2, 0))
    _top(m, place, wide, deep, surface)
    on_top = compose(place, frame(at=(0, 0, surface)))
    for _ in range(rng.integers(0, 4)):
        at = frame(
            at=(rng.uniform(-0.45, 0.45) * wide, deep * rng.uniform(0.0, 0.4), 0), yaw=rng.normal(0, 0.4)
        )
        (near.monitor if rng.random() < 0.6 else near.laptop)(m, compose(on_top, at))
    if rng.random() < 0.6:
        near.keyboard(
            m, compose(on_top, frame(at=(rng.normal(0, 0.15), -deep * 0.2, 0), yaw=rng.normal(0, 0.2)))
        )
    near.clutter(m, on_top, wide, deep, 8)
    if rng.random() < 0.5:  # an office: more desks, each with its screen and its chair
        for _ in range(rng.integers(1, 4)):
            there = frame(
                at=(rng.uniform(-0.45, 0.45) * w, far_edge + rng.uniform(0.8, 1.0) * stand.behind * 0.7, 0),
                yaw=rng.choice([0.0, np.pi, np.pi / 2]) + rng.normal(0, 0.05),
            )
            _top(m, there, rng.uniform(1.2, 1.8), 0.75, surface)
            near.monitor(m, compose(there, frame(at=(rng.normal(0, 0.2), 0.15, surface))))
            m.chair(compose(there, frame(at=(rng.normal(0, 0.2), -0.6, 0), yaw=np.pi + rng.normal(0, 0.6))))
    if rng.random() < 0.5:
        cut_by_the_frame(m, (0, BACK_M))
    return _seen(m, "desk", stand, surface, w, d, h)


def dining(m: Maker) -> Scene:
    """At a table with chairs around it, some of them between the eye and the table."""
    rng = m.rng
    surface = float(rng.uniform(*TABLE_M))
    stand = standpoint(rng, surface=surface, seated=0.5)
    w, d, h = _around(m, stand)
    deep, wide = rng.uniform(0.8, 1.6), rng.uniform(1.0, 2.0)
    edge = BACK_M + stand.ahead
    middle = edge + deep / 2 if rng.random() < 0.5 else edge - deep / 2
    place = frame(at=(rng.normal(0, 0.25), middle, 0), yaw=rng.normal(0, 0.15))
    if rng.random() < 0.25:
        m.part("cylinder", place, (0, 0, surface - 0.02), (wide, deep, 0.04), m.material(plain=0.2))
        m.part("cylinder", place, (0, 0, surface / 2), (0.12, 0.12, surface), m.material())
    else:
        _top(m, place, wide, deep, surface)
    on_top = compose(place, frame(at=(0, 0, surface)))
    for i in range(int(rng.integers(2, 7))):
        s = -1 if i % 2 else 1
        at = ((i // 2 - 0.75) * wide / 2.5, s * (deep / 2 + rng.uniform(0.0, 0.35)), 0)
        m.chair(compose(place, frame(at=at, yaw=np.pi * (s < 0) + rng.normal(0, 0.3))))
        if rng.random() < 0.4:
            setting = frame(at=(at[0], s * deep * 0.32, 0), yaw=np.pi * (s > 0))
            near.crockery(m, compose(on_top, setting))
    near.clutter(m, on_top, wide, deep, 6)
    if rng.random() < 0.4:
        near.pendant(m, compose(on_top, frame(at=(0, 0, rng.uniform(0.5, 0.9)))), h - surface - 0.7)
    if rng.random() < 0.4:
        cut_by_the_frame(m, (0, BACK_M))
    return _seen(m, "dining", stand, surface, w, d, h)


def kitchen(m: Maker) -> Scene:
    """A run of units ahead, perhaps one to a side, a fridge; perhaps an island or a table within reach."""
    rng = m.rng
    surface = float(rng.uniform(0.86, 0.95))
    stand = standpoint(rng, surface=surface, seated=0.1)
    w, d, h = _around(m, stand, widest=5.0, furnished=0.2)
    near.units(m, frame(at=(0, d - 0.32, 0)), w * rng.uniform(0.5, 0.98), above=rng.random() < 0.7)
    for side in (-1, 1):
        if rng.random() < 0.55:
            length = d * rng.uniform(0.4, 0.95)
            at = frame(at=(side * (w / 2 - 0.32), d - length / 2, 0), yaw=-side * np.pi / 2)
            near.units(m, at, length, above=rng.random() < 0.6)
    if rng.random() < 0.7:
        near.fridge(m, frame(at=(rng.choice([-1, 1]) * (w / 2 - 0.45), d - rng.uniform(0.4, 1.5), 0)))
    if rng.random() < 0.6:  # an island
        at = frame(at=(rng.normal(0, 0.4), BACK_M + stand.ahead + 0.3, 0))
        near.units(m, at, rng.uniform(1.0, 2.2), above=False)
    else:
        m.table(frame(at=(rng.normal(0, 0.5), BACK_M + stand.ahead + 0.5, 0), yaw=rng.normal(0, 0.3)))
        for _ in range(rng.integers(0, 4)):
            by = (rng.normal(0, 0.8), BACK_M + stand.ahead + rng.uniform(0.2, 1.5), 0)
            m.chair(frame(at=by, yaw=rng.uniform(0, 6.3)))
    return _seen(m, "kitchen", stand, surface, w, d, h)


def living(m: Maker) -> Scene:
    """Over a low table, the back of a sofa or an armchair, with a television or shelves ahead."""
    rng = m.rng
    surface = float(rng.uniform(0.4, 0.85))
    stand = standpoint(rng, surface=max(surface, 0.75), seated=0.5)
    w, d, h = _around(m, stand)
    edge = BACK_M + stand.ahead
    within = frame(at=(rng.normal(0, 0.5), edge + rng.uniform(0.3, 0.5), 0))
    kind = rng.integers(4)
    if kind == 0:
        m.table(within, rng.uniform(0.8, 1.4), rng.uniform(0.5, 0.9), surface)
    elif kind == 1:
        m.sofa(compose(within, frame(yaw=rng.choice([0.0, np.pi, np.pi / 2]) + rng.normal(0, 0.2))))
    elif kind == 2:
        m.armchair(compose(within, frame(yaw=rng.uniform(0, 6.3))))
    else:
        m.cabinet(compose(within, frame(yaw=np.pi + rng.normal(0, 0.3))))
    if rng.random() < 0.6:
        ahead = frame(at=(rng.uniform(-0.3, 0.3) * w, d - 0.3, 0))
        m.part("box", ahead, (0, 0, 0.25), (rng.uniform(1.2, 2.2), 0.4, 0.5), m.material(plain=0.5))
        near.monitor(m, compose(ahead, frame(at=(0, 0, 0.5), scale=rng.uniform(1.2, 2.0))))
    if rng.random() < 0.5:
        near.shelf(m, frame(at=(rng.uniform(-0.45, 0.45) * w, d - 0.25, 0)), rng.uniform(0.6, 1.8), 2.0)
    if rng.random() < 0.6:
        cut_by_the_frame(m, (0, BACK_M))
    return _seen(m, "living", stand, max(surface, 0.75), w, d, h)


def doorway(m: Maker) -> Scene:
    """Through a doorway or past a corner at 0.6 … 1.2 m into the room behind."""
    rng = m.rng
    stand = standpoint(rng, surface=0.95, seated=0.1)
    w, d, h = _around(m, stand)
    y, wall = BACK_M + stand.edge, m.material(value=(0.1, 0.95), plain=0.5)
    gap, x = rng.uniform(0.7, 1.4), rng.normal(0, 0.3)
    for side in (-1, 1):
        if side == 1 and rng.random() < 0.4:
            continue  # past a corner
        length = w
        m.part("box", frame(), (x + side * (gap + length) / 2, y, h / 2), (length, 0.12, h), wall)
        m.part("box", frame(), (x + side * gap / 2, y, 1.05), (0.06, 0.2, 2.1), m.material(plain=0.9))
    if rng.random() < 0.7:
        m.part("box", frame(), (x, y, (h + 2.05) / 2), (gap, 0.12, h - 2.05), wall)
    if rng.random() < 0.3:  # the door, half open
        leaf = frame(at=(x - gap / 2, y, 0), yaw=rng.uniform(0.6, 1.8))
        m.part("box", leaf, (gap / 2, 0, 1.02), (gap, 0.04, 2.04), m.material(plain=0.6))
    return _seen(m, "doorway", stand, 0.95, w, d, h)


def tabletop(m: Maker) -> Scene:
    """Straight down, or nearly, on a table or on the floor."""
    rng = m.rng
    surface = 0.0 if rng.random() < 0.2 else float(rng.uniform(*TABLE_M))
    above = rng.uniform(0.8, 1.6) if surface == 0 else rng.uniform(0.35, 1.0)
    w, d, h = rng.uniform(2.5, 5), rng.uniform(2.5, 5), rng.uniform(2.3, 3)
    shell(m, w, d, h)
    wide, deep = rng.uniform(0.5, 2.0), rng.uniform(0.4, 1.1)
    place = frame(at=(0, d / 2, 0), yaw=rng.uniform(0, 6.3))
    if surface:
        _top(m, place, wide, deep, surface)
        for _ in range(rng.integers(0, 3)):
            at = frame(at=(rng.uniform(-0.4, 0.4) * wide, (deep / 2 + 0.1) * rng.choice([-1, 1]), 0))
            m.chair(compose(place, compose(at, frame(yaw=rng.uniform(0, 6.3)))))
    on_top = compose(place, frame(at=(0, 0, surface)))
    near.clutter(m, on_top, wide, deep, 16, least=4)
    if rng.random() < 0.4:
        near.keyboard(m, compose(on_top, frame(at=(rng.normal(0, 0.1), 0, 0))))
    if rng.random() < 0.4:
        near.laptop(m, compose(on_top, frame(at=(rng.normal(0, 0.2), 0.1, 0), yaw=rng.uniform(0, 6.3))))
    pitch = -np.pi / 2 + abs(rng.normal(0, 0.3))
    back = above * np.tan(min(np.pi / 2 + pitch, 1.0))
    camera = Camera(
        eye=(rng.normal(0, 0.15), d / 2 - back + rng.normal(0, 0.1), surface + above),
        yaw=float(rng.uniform(0, 2 * np.pi)) if pitch < -1.45 else 0.0,
        pitch=float(pitch),
        roll=roll(rng) if pitch < -1.45 else float(rng.uniform(-MAX_ROLL, MAX_ROLL)),
        focal=phone_lens(rng),
    )
    lights, ambient = lit(m, w, d, h, near_y=d / 2 + 0.5)
    return finished("tabletop", m, camera, lights, ambient)


def _around(
    m: Maker, stand: Standpoint, *, widest: float = 7.0, furnished: float = 1.0
) -> tuple[float, float, float]:
    """A room that goes on as far behind the edge as the standpoint says -> its width, depth and height."""
    rng = m.rng
    w, d, h = rng.uniform(2.6, widest), BACK_M + stand.ahead + stand.behind, rng.uniform(2.3, 3.0)
    sides = shell(m, w, d, h)
    if rng.random() < furnished:
        furnish(m, w, d, h, [side for side in sides if side[0][1] > 0])
    return w, d, h


def _top(m: Maker, place: np.ndarray, wide: float, deep: float, surface: float) -> None:
    thick, wood = m.rng.uniform(0.02, 0.05), m.material(plain=0.3, metres=(0.2, 2))
    m.part("box", place, (0, 0, surface - thick / 2), (wide, deep, thick), wood)
    m.legs(place, wide * 0.95, deep * 0.95, surface - thick, wood)


def _seen(m: Maker, kind: str, stand: Standpoint, surface: float, w: float, d: float, h: float) -> Scene:
    camera = held(m.rng, (float(m.rng.normal(0, 0.1)), BACK_M), stand, surface=surface)
    lights, ambient = lit(m, w, d, h, near_y=BACK_M + stand.ahead + 0.5)
    return finished(kind, m, camera, lights, ambient)
