"""seed -> Scene: where the solids, the lights and the camera are.

Cameras are those people use: at hand or eye height, pitched slightly, rolled a little; wide to long lenses.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import cv2
import numpy as np

from training.scenes.meshes import Triangles, compose, frame
from training.scenes.objects import Maker
from training.scenes.textures import COLLAGES, WINDOWS, Material

FAR_M = 80.0
"""Depth given to the sky, and the farthest depth anything gets."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Light:
    """position in metres (a direction when `sun`), linear RGB; a point light fades as 1/(1+0.4 r²)."""

    position: tuple[float, float, float]
    colour: tuple[float, float, float]
    sun: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class Camera:
    """eye in metres; yaw (0 = +y, positive = left), pitch (positive = up) and roll in radians;
    focal = focal length / long side of the picture."""

    eye: tuple[float, float, float]
    yaw: float
    pitch: float
    roll: float
    focal: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scene:
    kind: str
    triangles: Triangles
    materials: list[Material]
    lights: list[Light]
    ambient: tuple[float, float, float]
    sky: tuple[
        tuple[float, float, float], tuple[float, float, float]
    ]  # linear RGB at the horizon and the zenith
    camera: Camera


def make_scene(rng: np.random.Generator) -> Scene:
    kinds = list(LAYOUTS)
    kind = kinds[rng.choice(len(kinds), p=[weight for weight, _ in LAYOUTS.values()])]
    return LAYOUTS[kind][1](rng)


def _white(rng: np.random.Generator, strength: float) -> tuple[float, float, float]:
    warm = rng.uniform(-0.25, 0.35)
    return (strength * (1 + warm), strength, strength * (1 - warm))


def _scene(
    kind: str, m: Maker, camera: Camera, lights: list[Light], ambient: tuple[float, float, float]
) -> Scene:
    rng = m.rng
    grey = rng.uniform(0.3, 1.0)
    blue = rng.uniform(0.0, 0.6) * grey
    return Scene(
        kind=kind,
        triangles=m.builder.triangles(),
        materials=m.materials,
        lights=lights,
        ambient=ambient,
        sky=((grey, grey, grey), (grey - blue, grey - blue * 0.5, grey)),
        camera=camera,
    )


def _lens(rng: np.random.Generator) -> float:
    return float(np.clip(np.exp(rng.normal(np.log(0.9), 0.25)), 0.5, 2.0))


def _room(rng: np.random.Generator) -> Scene:
    m = Maker(rng)
    w, d, h = rng.uniform(2.6, 8), rng.uniform(3, 9), rng.uniform(2.3, 3.2)
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
    against = [m.cabinet, m.cabinet, m.sofa, m.bed, m.table, m.lamp, m.plant, m.armchair]
    middle = [m.table, m.chair, m.chair, m.armchair, m.sofa, m.plant, m.lamp, m.person, m.cabinet]
    for (x, y), yaw, length in sides:
        for _ in range(rng.integers(0, 4)):
            a = rng.uniform(-0.42, 0.42) * length
            place = compose(frame(at=(x, y, 0), yaw=yaw), frame(at=(a, -rng.uniform(0.25, 0.6), 0)))
            against[rng.integers(len(against))](place)
    for _ in range(rng.integers(1, 8)):
        at = (rng.uniform(-0.4, 0.4) * w, rng.uniform(0.2, 0.9) * d, 0.0)
        middle[rng.integers(len(middle))](frame(at=at, yaw=rng.uniform(0, 6.3)))
    if rng.random() < 0.35:  # a set table with chairs around it
        at = frame(at=(rng.uniform(-0.3, 0.3) * w, rng.uniform(0.3, 0.7) * d, 0), yaw=rng.uniform(0, 6.3))
        tw, td = rng.uniform(1.2, 2.2), rng.uniform(0.8, 1.1)
        m.table(at, tw, td, rng.uniform(0.7, 0.78))
        for i in range(int(rng.integers(2, 7))):
            s = 1 if i % 2 else -1
            place = frame(
                at=((i // 2 - 1) * tw / 3, s * (td / 2 + 0.15), 0), yaw=np.pi * (s < 0) + rng.normal(0, 0.2)
            )
            m.chair(compose(at, place))
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
        focal=_lens(rng),
    )
    lights = [
        Light(
            position=(rng.uniform(-0.4, 0.4) * w, rng.uniform(0.1, 0.9) * d, rng.uniform(0.6, 0.97) * h),
            colour=_white(rng, rng.uniform(0.6, 2.5)),
            sun=False,
        )
        for _ in range(rng.integers(1, 4))
    ]
    return _scene("room", m, camera, lights, _white(rng, rng.uniform(0.15, 0.7)))


def _ground(m: Maker, size: float, bump: float) -> Callable[[float, float], float]:
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


def _sun(rng: np.random.Generator) -> list[Light]:
    az, el = rng.uniform(0, 2 * np.pi), rng.uniform(0.2, 1.4)
    direction = (np.cos(az) * np.cos(el), np.sin(az) * np.cos(el), np.sin(el))
    return [
        Light(
            position=direction,
            colour=_white(rng, rng.choice([0.2, 1.0, 1.8]) * rng.uniform(0.7, 1.2)),
            sun=True,
        )
    ]


def _outdoor_camera(rng: np.random.Generator) -> Camera:
    return Camera(
        eye=(rng.uniform(-2, 2), 0.0, float(np.clip(rng.normal(1.6, 0.3), 0.7, 3.0))),
        yaw=rng.normal(0, 0.3),
        pitch=rng.normal(-0.02, 0.12),
        roll=rng.normal(0, 0.03),
        focal=_lens(rng),
    )


def _street(rng: np.random.Generator) -> Scene:
    m = Maker(rng)
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
    return _scene("street", m, _outdoor_camera(rng), _sun(rng), _white(rng, rng.uniform(0.25, 0.7)))


def _hills(rng: np.random.Generator) -> Scene:
    m = Maker(rng)
    height = _ground(m, rng.uniform(40, 120), rng.uniform(0.3, 5))
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
    return _scene("hills", m, _outdoor_camera(rng), _sun(rng), _white(rng, rng.uniform(0.3, 0.8)))


def _table(rng: np.random.Generator) -> Scene:
    """Objects seen from close by, on a table or a floor, with a wall or a room behind."""
    m = Maker(rng)
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
        eye=eye, yaw=rng.normal(0, 0.2), pitch=pitch, roll=rng.normal(0, 0.06), focal=_lens(rng) * 1.15
    )
    lights = [
        Light(
            position=(rng.uniform(-2, 2), rng.uniform(-1.5, 1), rng.uniform(0.6, 2.5)),
            colour=_white(rng, rng.uniform(0.6, 3)),
            sun=False,
        )
        for _ in range(rng.integers(1, 4))
    ]
    return _scene("table", m, camera, lights, _white(rng, rng.uniform(0.2, 0.7)))


def _portrait(rng: np.random.Generator) -> Scene:
    """One large thing in front of a background: how people, animals and objects are photographed."""
    m = Maker(rng)
    outside = rng.random() < 0.5
    height: Callable[[float, float], float] = lambda x, y: 0.0  # noqa: E731
    if outside:
        height = _ground(m, rng.uniform(30, 80), rng.uniform(0.2, 3))
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
            s = rng.uniform(0.2, 0.9, 3)
            m.part(
                shape,
                place,
                (rng.normal(0, 0.25), rng.normal(0, 0.25), s[2] / 2 + rng.uniform(0, 0.6)),
                tuple(s),
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
        focal=_lens(rng) * 1.3,
    )
    lights = (
        _sun(rng)
        if outside
        else [
            Light(
                position=(rng.uniform(-2, 2), rng.uniform(-1, 3), 2.5),
                colour=_white(rng, rng.uniform(1.5, 5)),
                sun=False,
            )
        ]
    )
    return _scene("portrait", m, camera, lights, _white(rng, rng.uniform(0.25, 0.7)))


def _heap(rng: np.random.Generator) -> Scene:
    """Primitives anywhere: no habit of the world helps here but occlusion, shading and perspective."""
    m = Maker(rng)
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
        size = tuple(float(v) for v in np.exp(rng.uniform(np.log(0.08), np.log(1.5), 3)))
        m.part(
            shape,
            frame(),
            at,
            size,
            m.material(),
            yaw=rng.uniform(0, 6.3),
            pitch=rng.uniform(0, 6.3),
            roll=rng.uniform(0, 6.3),
        )
    camera = Camera(eye=(0.0, 0.0, 0.0), yaw=0.0, pitch=0.0, roll=rng.normal(0, 0.3), focal=_lens(rng))
    lights = [
        Light(
            position=(rng.uniform(-4, 4), rng.uniform(-2, 2), rng.uniform(0, 4)),
            colour=_white(rng, rng.uniform(3, 9)),
            sun=False,
        )
    ]
    return _scene("heap", m, camera, lights, _white(rng, rng.uniform(0.3, 0.7)))


LAYOUTS: dict[str, tuple[float, Callable[[np.random.Generator], Scene]]] = {
    "room": (0.46, _room),
    "street": (0.14, _street),
    "table": (0.16, _table),
    "hills": (0.06, _hills),
    "portrait": (0.12, _portrait),
    "heap": (0.06, _heap),
}
"""kind -> (share of all scenes, how it is made). Indoors weighs most: that is where small models are used."""
