"""A room with furniture, seen from within."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from training.scenes.meshes import Frame, compose, frame
from training.scenes.objects import Maker
from training.scenes.scene import Camera, Light, Scene, finished, lens, white

Side = tuple[tuple[float, float], float, float]
Piece = Callable[[Frame], object]
"""A wall: (x, y) of the middle of its foot, its yaw, its length."""


def room(m: Maker) -> Scene:
    """Anywhere in a furnished room, as one looks about."""
    rng = m.rng
    w, d, h = rng.uniform(2.6, 8), rng.uniform(3, 9), rng.uniform(2.3, 3.2)
    furnish(m, w, d, h, shell(m, w, d, h))
    eye = (
        rng.uniform(-0.35, 0.35) * w,
        rng.uniform(0.05, 0.35) * d,
        float(np.clip(rng.normal(1.35, 0.25), 0.5, 2.0)),
    )
    camera = Camera(
        eye=eye,
        yaw=rng.normal(0, 0.45),
        pitch=rng.normal(-0.12, 0.17),
        roll=rng.normal(0, 0.04),
        focal=lens(rng),
    )
    lights = [
        Light(
            position=(rng.uniform(-0.4, 0.4) * w, rng.uniform(0.1, 0.9) * d, rng.uniform(0.6, 0.97) * h),
            colour=white(rng, rng.uniform(0.6, 2.5)),
            sun=False,
        )
        for _ in range(rng.integers(1, 4))
    ]
    return finished("room", m, camera, lights, white(rng, rng.uniform(0.15, 0.7)))


def shell(m: Maker, w: float, d: float, h: float) -> list[Side]:
    """Floor, ceiling and four walls with doorways, windows, curtains, pictures. x in ±w/2, y in 0 … d."""
    rng = m.rng
    half = 0.1
    wall = m.material(value=(0.2, 0.95), plain=0.5, metres=(0.3, 3))
    walls = [wall if rng.random() < 0.7 else m.material(value=(0.1, 0.95), plain=0.3) for _ in range(4)]
    floor = m.material(value=(0.03, 0.7), plain=0.15, metres=(0.3, 3))
    m.part("box", frame(), (0, d / 2, -half), (w + 1, d + 1, 2 * half), floor)
    m.part(
        "box",
        frame(),
        (0, d / 2, h + half),
        (w + 1, d + 1, 2 * half),
        m.material(value=(0.5, 1.0), plain=0.7),
    )
    sides = [
        ((0, d), 0.0, w),
        ((-w / 2, d / 2), np.pi / 2, d),
        ((w / 2, d / 2), -np.pi / 2, d),
        ((0, 0), np.pi, w),
    ]
    for (x, y), yaw, length in sides:
        place = frame(at=(x, y, 0), yaw=yaw)
        material = walls[0] if yaw == 0 else walls[1 if yaw > 0 else 2]
        if rng.random() < 0.3 and yaw != np.pi:  # a doorway to the next room
            a = rng.uniform(-0.35, 0.35) * length
            gap = rng.uniform(0.8, min(2.5, length * 0.4))
            left, right = a - gap / 2 + length / 2, length / 2 - a - gap / 2
            m.part("box", place, (-length / 2 + left / 2, half, h / 2), (left, 2 * half, h), material)
            m.part("box", place, (length / 2 - right / 2, half, h / 2), (right, 2 * half, h), material)
            m.part(
                "box",
                place,
                (a, half, h - 0.15),
                (gap, 2 * half, h - 2.4 if h > 2.5 else 0.3),
                material,
            )
            beyond = rng.uniform(1, 4)
            m.part("box", place, (a, beyond, h / 2), (length, 0.1, h), m.material(value=(0.1, 0.9)))
            m.part("box", place, (a, beyond / 2, -half), (length, beyond, 2 * half), floor)
            m.part("box", place, (a, beyond / 2, h + half), (length, beyond, 2 * half), wall)
            trim = m.material(plain=0.9)
            for s in (-1, 1):
                m.part("box", place, (a + s * gap / 2, 0, 1.0), (0.1, 0.25, 2.1), trim)
        else:
            m.part("box", place, (0, half, h / 2), (length + 0.4, 2 * half, h), material)
            m.part(
                "box", place, (0, -0.01, 0.05), (length, 0.03, rng.uniform(0.05, 0.15)), m.material(plain=0.9)
            )
            if rng.random() < 0.5:  # window
                a, ww, wh = rng.uniform(-0.3, 0.3) * length, rng.uniform(0.6, 2.0), rng.uniform(0.7, 1.4)
                pane = m.material(value=(0.6, 1.0), glow=rng.choice([0.0, rng.uniform(0.3, 2.0)]))
                m.part("box", place, (a, -0.01, 1.5), (ww, 0.03, wh), pane)
                bar = m.material(plain=0.9)
                for i in range(int(rng.integers(2, 4))):
                    m.part("box", place, (a + (i / 2 - 0.5) * ww, -0.04, 1.5), (0.06, 0.05, wh), bar)
                m.part("box", place, (a, -0.04, 1.5 + wh / 2), (ww + 0.1, 0.06, 0.07), bar)
                m.part("box", place, (a, -0.06, 1.5 - wh / 2), (ww + 0.2, 0.15, 0.05), bar)
                if rng.random() < 0.5:
                    for s in (-1, 1):
                        m.curtain(compose(place, frame(at=(a + s * ww * 0.55, 0, 0.1))), ww * 0.4, h - 0.2)
            for _ in range(rng.integers(0, 4)):
                m.picture(
                    compose(place, frame(at=(rng.uniform(-0.45, 0.45) * length, 0, rng.uniform(1.2, 2.0))))
                )
            if rng.random() < 0.3:
                m.part(
                    "box",
                    place,
                    (rng.uniform(-0.4, 0.4) * length, -0.02, 1.02),
                    (0.9, 0.06, 2.05),
                    m.material(),
                )
    return sides


def furnish(m: Maker, w: float, d: float, h: float, sides: list[Side]) -> None:
    """Furniture along the walls and in the middle, perhaps a set table, a lamp, a rug."""
    rng = m.rng
    against: list[Piece] = [m.cabinet, m.cabinet, m.sofa, m.bed, m.table, m.lamp, m.plant, m.armchair]
    middle: list[Piece] = [
        m.table,
        m.chair,
        m.chair,
        m.armchair,
        m.sofa,
        m.plant,
        m.lamp,
        m.person,
        m.cabinet,
    ]
    for (x, y), yaw, length in sides:
        for _ in range(rng.integers(0, 4)):
            a = rng.uniform(-0.42, 0.42) * length
            place = compose(frame(at=(x, y, 0), yaw=yaw), frame(at=(a, -rng.uniform(0.25, 0.6), 0)))
            against[rng.integers(len(against))](place)
    for _ in range(rng.integers(1, 8)):
        at = (rng.uniform(-0.4, 0.4) * w, rng.uniform(0.2, 0.9) * d, 0.0)
        middle[rng.integers(len(middle))](frame(at=at, yaw=rng.uniform(0, 6.3)))
    if rng.random() < 0.35:  # a set table with chairs around it
        stood = frame(at=(rng.uniform(-0.3, 0.3) * w, rng.uniform(0.3, 0.7) * d, 0), yaw=rng.uniform(0, 6.3))
        tw, td = rng.uniform(1.2, 2.2), rng.uniform(0.8, 1.1)
        m.table(stood, tw, td, rng.uniform(0.7, 0.78))
        for i in range(int(rng.integers(2, 7))):
            s = 1 if i % 2 else -1
            place = frame(
                at=((i // 2 - 1) * tw / 3, s * (td / 2 + 0.15), 0), yaw=np.pi * (s < 0) + rng.normal(0, 0.2)
            )
            m.chair(compose(stood, place))
    if rng.random() < 0.3:
        m.part(
            "cylinder",
            frame(),
            (rng.uniform(-0.3, 0.3) * w, rng.uniform(0.4, 0.8) * d, h - 0.3),
            (0.5, 0.5, 0.2),
            m.material(glow=1.0),
        )
    if rng.random() < 0.5:
        rug = m.material(plain=0.1, metres=(0.5, 2))
        m.part(
            "box",
            frame(),
            (rng.uniform(-0.2, 0.2) * w, rng.uniform(0.3, 0.7) * d, 0.005),
            (w * 0.5, d * 0.4, 0.012),
            rug,
            yaw=rng.normal(0, 0.1),
        )
