"""A table, a portrait, a heap."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from training.scenes.layouts.outdoors import ground, sun
from training.scenes.meshes import frame
from training.scenes.objects import Maker
from training.scenes.scene import Camera, Light, Scene, finished, lens, white
from training.scenes.textures import COLLAGES


def table(m: Maker) -> Scene:
    """Objects seen from close by, on a table or a floor, with a wall or a room behind."""
    rng = m.rng
    m.part(
        "box",
        frame(),
        (0, 0.5, -0.05),
        (rng.uniform(0.8, 6), rng.uniform(1.2, 4), 0.1),
        m.material(plain=0.3, metres=(0.1, 1.5)),
    )
    wall_y = rng.uniform(0.6, 4)
    m.part("box", frame(), (0, wall_y + 0.1, 0), (20, 0.2, 8), m.material(plain=0.5))
    m.part("box", frame(), (0, 0, -0.85), (20, 20, 0.1), m.material(plain=0.2))
    for side in (-1, 1):
        if rng.random() < 0.5:
            m.part("box", frame(), (side * rng.uniform(1, 4), 0, 0), (0.2, 20, 8), m.material(plain=0.5))
    for _ in range(rng.integers(0, 3)):
        m.picture(frame(at=(rng.uniform(-1, 1), wall_y, rng.uniform(0.3, 1.0))))
    for _ in range(rng.integers(2, 14)):
        s = float(np.exp(rng.uniform(np.log(0.05), np.log(0.4))))
        m.thing(frame(at=(rng.normal(0, 0.4), rng.uniform(0.0, min(1.4, wall_y)), 0)), s)
    if rng.random() < 0.3:
        m.plant(frame(at=(rng.uniform(-0.6, 0.6), rng.uniform(0.3, wall_y), 0)))
    distance, pitch = rng.uniform(0.35, 1.6), -abs(rng.normal(0.35, 0.25))
    eye = (rng.normal(0, 0.2), 0.4 - distance * np.cos(pitch), 0.08 - distance * np.sin(pitch))
    camera = Camera(
        eye=eye, yaw=rng.normal(0, 0.2), pitch=pitch, roll=rng.normal(0, 0.06), focal=lens(rng) * 1.15
    )
    lights = [
        Light(
            position=(rng.uniform(-2, 2), rng.uniform(-1.5, 1), rng.uniform(0.6, 2.5)),
            colour=white(rng, rng.uniform(0.6, 3)),
            sun=False,
        )
        for _ in range(rng.integers(1, 4))
    ]
    return finished("table", m, camera, lights, white(rng, rng.uniform(0.2, 0.7)))


def portrait(m: Maker) -> Scene:
    """One large thing in front of a background: how people, animals and objects are photographed."""
    rng = m.rng
    outside = rng.random() < 0.5
    height: Callable[[float, float], float] = lambda x, y: 0.0  # noqa: E731
    if outside:
        height = ground(m, rng.uniform(30, 80), rng.uniform(0.2, 3))
        for _ in range(rng.integers(1, 14)):
            y = rng.uniform(5, 40)
            x = rng.uniform(-0.8, 0.8) * y
            m.tree(frame(at=(x, y, height(x, y))))
    else:
        m.part("box", frame(), (0, 0, -0.1), (30, 30, 0.2), m.material(plain=0.2))
        m.part("box", frame(), (0, rng.uniform(2.5, 9), 2), (30, 0.2, 8), m.material(plain=0.4))
    y = rng.uniform(1.2, 4)
    place = frame(at=(rng.normal(0, 0.25), y, 0), yaw=rng.uniform(0, 6.3))
    subject = rng.random()
    if subject < 0.35:
        m.person(place)
    elif subject < 0.7:  # a body of blobs on legs
        fur, n, s = m.material(plain=0.1, metres=(0.1, 1)), int(rng.integers(2, 7)), rng.uniform(0.4, 1.1)
        for i in range(n):
            at = (rng.normal(0, 0.1) * s, (i / n - 0.5) * s, s * rng.uniform(0.55, 0.8))
            m.part("sphere", place, at, (s * 0.4, s * 0.6, s * 0.45), fur, pitch=rng.normal(0, 0.3))
        m.part("sphere", place, (0, -0.6 * s, s), (s * 0.3, s * 0.35, s * 0.3), fur)
        for sx in (-0.12, 0.12):
            for sy in (-0.35, 0.3):
                m.part("cylinder", place, (sx * s, sy * s, 0.28 * s), (0.09 * s, 0.09 * s, 0.56 * s), fur)
    else:
        for _ in range(rng.integers(1, 6)):
            shape = ("box", "cylinder", "sphere", "cone", "vase")[rng.integers(5)]
            a, b, c = (float(v) for v in rng.uniform(0.2, 0.9, 3))
            m.part(
                shape,
                place,
                (rng.normal(0, 0.25), rng.normal(0, 0.25), c / 2 + rng.uniform(0, 0.6)),
                (a, b, c),
                m.material(),
                yaw=rng.uniform(0, 3),
            )
    if rng.random() < 0.5:
        m.fence(frame(at=(0, y + rng.uniform(0.5, 3), 0), yaw=rng.normal(0, 0.2)), 14)
    eye_z = rng.uniform(0.4, 1.7)
    camera = Camera(
        eye=(0.0, 0.0, eye_z),
        yaw=rng.normal(0, 0.1),
        pitch=float(np.arctan2(rng.uniform(0.4, 1.2) - eye_z, y)) + rng.normal(0, 0.05),
        roll=rng.normal(0, 0.05),
        focal=lens(rng) * 1.3,
    )
    lights = (
        sun(rng)
        if outside
        else [
            Light(
                position=(rng.uniform(-2, 2), rng.uniform(-1, 3), 2.5),
                colour=white(rng, rng.uniform(1.5, 5)),
                sun=False,
            )
        ]
    )
    return finished("portrait", m, camera, lights, white(rng, rng.uniform(0.25, 0.7)))


def heap(m: Maker) -> Scene:
    """Primitives anywhere: no habit of the world helps here but occlusion, shading and perspective."""
    rng = m.rng
    far = rng.uniform(4, 12)
    m.part(
        "box",
        frame(),
        (0, far, 0),
        (40, 0.2, 40),
        m.material(pictures=COLLAGES if rng.random() < 0.5 else None),
        pitch=rng.normal(0, 0.3),
        yaw=rng.normal(0, 0.3),
    )
    for _ in range(rng.integers(5, 40)):
        y = rng.uniform(1, far)
        at = (rng.uniform(-0.6, 0.6) * y, y, rng.uniform(-0.5, 0.5) * y)
        shape = ("box", "cylinder", "sphere", "cone", "vase")[rng.integers(5)]
        a, b, c = (float(v) for v in np.exp(rng.uniform(np.log(0.08), np.log(1.5), 3)))
        m.part(
            shape,
            frame(),
            at,
            (a, b, c),
            m.material(),
            yaw=rng.uniform(0, 6.3),
            pitch=rng.uniform(0, 6.3),
            roll=rng.uniform(0, 6.3),
        )
    camera = Camera(eye=(0.0, 0.0, 0.0), yaw=0.0, pitch=0.0, roll=rng.normal(0, 0.3), focal=lens(rng))
    lights = [
        Light(
            position=(rng.uniform(-4, 4), rng.uniform(-2, 2), rng.uniform(0, 4)),
            colour=white(rng, rng.uniform(3, 9)),
            sun=False,
        )
    ]
    return finished("heap", m, camera, lights, white(rng, rng.uniform(0.3, 0.7)))
