"""What a scene is: solids, lights, a camera; and the helpers that every layout shares."""

from __future__ import annotations

import dataclasses

import numpy as np

from training.scenes.meshes import Triangles
from training.scenes.objects import Maker
from training.scenes.textures import Material

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


def white(rng: np.random.Generator, strength: float) -> tuple[float, float, float]:
    warm = rng.uniform(-0.25, 0.35)
    return (strength * (1 + warm), strength, strength * (1 - warm))


def finished(
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


def lens(rng: np.random.Generator) -> float:
    return float(np.clip(np.exp(rng.normal(np.log(0.9), 0.25)), 0.5, 2.0))
