"""Streets and hills."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

from training.scenes.meshes import frame
from training.scenes.objects import Maker
from training.scenes.scene import Camera, Light, Scene, finished, lens, white
from training.scenes.textures import WINDOWS


def ground(m: Maker, size: float, bump: float) -> Callable[[float, float], float]:
    """A terrain sheet in front of the camera; returns its height function."""
    rng = m.rng
    n = 48
    y, x = np.linspace(-5, size, n), np.linspace(-size * 0.8, size * 0.8, n)
    z = np.zeros((n, n))
    for octave in (4, 8, 16):
        small = rng.normal(size=(octave, octave)).astype(np.float32)
        z += cv2.resize(small, (n, n), interpolation=cv2.INTER_CUBIC) * bump * 4 / octave
    near = np.clip(np.hypot(x[None], y[:, None]) / (size * 0.3), 0, 1)
    z *= near
    m.builder.add_sheet(
        np.stack(np.broadcast_arrays(x[None], y[:, None], z), -1),
        m.material(value=(0.05, 0.6), plain=0.0, metres=(0.6, 6)),
    )

    def height(px: float, py: float) -> float:
        i, j = np.searchsorted(y, py) - 1, np.searchsorted(x, px) - 1
        return float(z[np.clip(i, 0, n - 1), np.clip(j, 0, n - 1)])

    return height


def sun(rng: np.random.Generator) -> list[Light]:
    az, el = rng.uniform(0, 2 * np.pi), rng.uniform(0.2, 1.4)
    direction = (np.cos(az) * np.cos(el), np.sin(az) * np.cos(el), np.sin(el))
    return [
        Light(
            position=direction,
            colour=white(rng, rng.choice([0.2, 1.0, 1.8]) * rng.uniform(0.7, 1.2)),
            sun=True,
        )
    ]


def _camera(rng: np.random.Generator) -> Camera:
    return Camera(
        eye=(rng.uniform(-2, 2), 0.0, float(np.clip(rng.normal(1.6, 0.3), 0.7, 3.0))),
        yaw=rng.normal(0, 0.3),
        pitch=rng.normal(-0.02, 0.12),
        roll=rng.normal(0, 0.03),
        focal=lens(rng),
    )


def street(m: Maker) -> Scene:
    rng = m.rng
    m.part(
        "box", frame(), (0, 60, -0.5), (300, 300, 1), m.material(value=(0.05, 0.4), plain=0.2, metres=(1, 6))
    )
    width = rng.uniform(5, 22)
    kerb = m.material(value=(0.1, 0.6), metres=(0.5, 3))
    for side in (-1, 1):
        m.part("box", frame(), (side * width / 2, 60, 0.06), (rng.uniform(1.5, 4), 300, 0.14), kerb)
        y = rng.uniform(-5, 3)
        facing = side * (width / 2 + rng.uniform(1, 5))
        while y < 75 and rng.random() < 0.97:
            length, depth, h = rng.uniform(4, 18), rng.uniform(5, 14), rng.uniform(3, 22)
            facade = (
                m.material(value=(0.1, 0.9), pictures=WINDOWS, metres=(2.5, 8))
                if rng.random() < 0.7
                else m.material()
            )
            m.part(
                "box", frame(), (facing + side * depth / 2, y + length / 2, h / 2), (depth, length, h), facade
            )
            if rng.random() < 0.4:
                m.part(
                    "box",
                    frame(),
                    (facing - side * 0.3, y + length / 2, 2.7),
                    (1.2, length * 0.5, 0.15),
                    m.material(),
                )
            if rng.random() < 0.4:
                roof = m.material()
                m.part(
                    "box",
                    frame(),
                    (facing + side * depth / 2, y + length / 2, h),
                    (depth * 0.72, length * 1.02, depth * 0.72),
                    roof,
                    roll=np.pi / 4,
                )
            y += length + rng.choice([0.0, rng.uniform(1, 8)])
    for make, most in ((m.car, 7), (m.tree, 6), (m.pole, 7), (m.person, 6)):
        for _ in range(rng.integers(0, most)):
            side, y = rng.choice([-1, 1]), 3 + 45 * rng.random() ** 1.7
            x = (
                side * (width / 2 + rng.uniform(-2.5, 1.5))
                if make != m.person
                else rng.uniform(-0.6, 0.6) * width
            )
            make(
                frame(
                    at=(x, y, 0),
                    yaw=rng.normal(0, 0.15) + np.pi / 2 * rng.integers(0, 4) * (make == m.person),
                )
            )
    for _ in range(rng.integers(0, 3)):
        side = rng.choice([-1, 1])
        m.fence(
            frame(at=(side * (width / 2 - 0.5), rng.uniform(6, 20), 0), yaw=np.pi / 2), rng.uniform(6, 20)
        )
    return finished("street", m, _camera(rng), sun(rng), white(rng, rng.uniform(0.25, 0.7)))


def hills(m: Maker) -> Scene:
    rng = m.rng
    height = ground(m, rng.uniform(40, 120), rng.uniform(0.3, 5))
    for _ in range(rng.integers(2, 30)):
        y = 3 + 50 * rng.random() ** 1.5
        x = rng.uniform(-0.9, 0.9) * (y + 3)
        place = frame(at=(x, y, height(x, y) - 0.1), yaw=rng.uniform(0, 6.3))
        kind = rng.random()
        if kind < 0.55:
            m.tree(place)
        elif kind < 0.8:
            s = rng.uniform(0.3, 2.5)
            rock = m.material(value=(0.1, 0.6), plain=0.0)
            m.part(
                "sphere",
                place,
                (0, 0, s * 0.2),
                (s, s * rng.uniform(0.6, 1.4), s * 0.8),
                rock,
                roll=rng.normal(0, 0.4),
            )
        elif kind < 0.9:
            m.leaves(place, rng.uniform(0.4, 1.5), 14)
        else:
            m.person(place)
    if rng.random() < 0.4:
        y = rng.uniform(5, 20)
        m.fence(frame(at=(0, y, height(0, y)), yaw=rng.normal(0, 0.3)), 30)
    if rng.random() < 0.4:
        y = rng.uniform(12, 40)
        x = rng.uniform(-0.5, 0.5) * y
        house = m.material(value=(0.2, 0.9), pictures=WINDOWS, metres=(3, 7))
        m.part("box", frame(at=(x, y, height(x, y))), (0, 0, 2.5), (9, 7, 6), house, yaw=rng.uniform(0, 3))
    return finished("hills", m, _camera(rng), sun(rng), white(rng, rng.uniform(0.3, 0.8)))
