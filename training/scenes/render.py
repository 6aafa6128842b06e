"""START HERE. Scene -> photo (uint8 H×W×3, RGB) and depth (float32 H×W, metres along the optical axis).

One camera ray per pixel finds the surface; one ray per light finds the shadows; one short ray finds the
corners that light hardly reaches. Then a small camera: vignette, exposure, colour cast, blur, noise, 8-bit
gamma, JPEG. The sky has depth FAR_M.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from embreex.mesh_construction import TriangleMesh
from embreex.rtcore_scene import EmbreeScene
from numpy.typing import NDArray

from training.scenes.layouts import WORLD, Mix, make_scene
from training.scenes.scene import FAR_M, Camera, Light, Scene
from training.scenes.textures import look_up_crop, lookup

Array = NDArray[np.float32]
OFFSET_M = 1e-3
CORNER_M = 0.5
"""How far the corner-darkening ray looks."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Render:
    """One training sample."""

    photo: NDArray[np.uint8]  # H×W×3 RGB
    depth_m: Array  # H×W
    kind: str


MIN_RELIEF = 1.15
"""Far over near depth below which a picture teaches nothing (a wall in front of the lens)."""


def render_scene(
    seed: int, size_hw: tuple[int, int], *, mix: Mix = WORLD, photos: Sequence[Path] = ()
) -> Render:
    """seed -> Render, the same every time. A scene with nothing to see is made anew from the same stream.

    photos: whose parts some of the surfaces show; none: no surface does.
    """
    rng = np.random.default_rng([7, seed])
    while True:
        scene = make_scene(rng, mix=mix, photos=photos)
        depth_m, hits = _trace(scene, size_hw)
        near, middle, far = np.percentile(depth_m, [2, 50, 98])
        if near > 0.15 and far > MIN_RELIEF * near and middle > 0.3:
            return _photograph(scene, depth_m, hits, rng)


def render_view(scene: Scene, size_hw: tuple[int, int], rng: np.random.Generator) -> Render:
    """Scene as its camera sees it -> Render, whatever there is to see. For paths, replace the camera."""
    depth_m, hits = _trace(scene, size_hw)
    return _photograph(scene, depth_m, hits, rng)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Hits:
    tracer: EmbreeScene
    rays: Array  # P×3 unit directions, all pixels
    seen: NDArray[np.bool_]  # P, a surface was hit
    points: Array  # N×3, N = seen.sum()
    normals: Array  # N×3, facing the camera
    triangle: NDArray[np.int32]  # N
    distance: Array  # N


def _rays(camera: Camera, size_hw: tuple[int, int]) -> tuple[Array, Array]:
    """-> P×3 unit directions in the world, and P cosines to the optical axis."""
    h, w = size_hw
    focal_px = camera.focal * max(h, w)
    y, x = np.mgrid[0:h, 0:w].astype(np.float32)
    right, up = (x - (w - 1) / 2) / focal_px, ((h - 1) / 2 - y) / focal_px
    cr, sr = np.cos(camera.roll), np.sin(camera.roll)
    right, up = cr * right - sr * up, sr * right + cr * up
    cp, sp, cy, sy = np.cos(camera.pitch), np.sin(camera.pitch), np.cos(camera.yaw), np.sin(camera.yaw)
    forward, lift = cp - sp * up, sp + cp * up
    direction = np.stack([cy * right - sy * forward, sy * right + cy * forward, lift], -1).reshape(-1, 3)
    length = np.linalg.norm(direction, axis=-1)
    return (direction / length[:, None]).astype(np.float32), (1 / length).astype(np.float32)


def _trace(scene: Scene, size_hw: tuple[int, int]) -> tuple[Array, _Hits]:
    rays, cosine = _rays(scene.camera, size_hw)
    tracer = EmbreeScene()
    TriangleMesh(tracer, scene.triangles.corners)
    eye = np.asarray(scene.camera.eye, np.float32)
    hit = tracer.run(np.broadcast_to(eye, rays.shape).copy(), rays, output=True)
    seen = hit["geomID"] >= 0
    depth = np.where(seen, np.minimum(hit["tfar"] * cosine, FAR_M), FAR_M).astype(np.float32)
    triangle = hit["primID"][seen]
    u, v = hit["u"][seen, None], hit["v"][seen, None]
    corner = scene.triangles.normals[triangle]
    normals = (1 - u - v) * corner[:, 0] + u * corner[:, 1] + v * corner[:, 2]
    normals /= np.linalg.norm(normals, axis=-1, keepdims=True) + 1e-9
    flip = np.sign((normals * rays[seen]).sum(-1, keepdims=True))
    distance = hit["tfar"][seen]
    hits = _Hits(
        tracer=tracer,
        rays=rays,
        seen=seen,
        points=eye + rays[seen] * distance[:, None],
        normals=normals * -np.where(flip == 0, 1, flip),
        triangle=triangle,
        distance=distance,
    )
    return depth.reshape(size_hw), hits


def _photograph(scene: Scene, depth_m: Array, hits: _Hits, rng: np.random.Generator) -> Render:
    linear = _shade(scene, hits, (depth_m.shape[0], depth_m.shape[1]), rng)
    return Render(photo=_develop(linear, rng), depth_m=depth_m, kind=scene.kind)


def _albedo(scene: Scene, hits: _Hits) -> tuple[Array, Array, Array]:
    """-> N×3 surface colour, N gloss, N×3 glow."""
    materials = scene.materials
    number = scene.triangles.material[hits.triangle]
    picture = np.array([m.picture for m in materials])[number]
    metres = np.array([m.metres for m in materials], np.float32)[number]
    dark = np.array([m.dark for m in materials], np.float32)[number]
    light = np.array([m.light for m in materials], np.float32)[number]
    # Project along the axis the surface faces most, shifted per solid so that neighbours differ.
    solid = scene.triangles.solid[hits.triangle].astype(np.float32)
    axis = np.abs(hits.normals).argmax(-1)
    plane = np.array([[1, 2], [0, 2], [0, 1]])[axis]
    uv = np.take_along_axis(hits.points, plane, 1) / metres[:, None] + (solid * 0.37)[:, None] % 1
    footprint = hits.distance / (scene.camera.focal * 256) / metres * 256  # texels per pixel, about
    blur = np.clip((footprint - 2) / 12, 0, 1).astype(np.float32, copy=False)
    colour = dark + (light - dark) * lookup(picture, uv, blur)[:, None]
    for index, material in enumerate(materials):
        if material.crop is not None:
            on_it = number == index
            colour[on_it] = light[on_it] * look_up_crop(material.crop, uv[on_it], blur[on_it])
    gloss = np.array([m.gloss for m in materials], np.float32)[number]
    glow = np.array([m.glow for m in materials], np.float32)[number, None] * colour
    return colour, gloss, glow


def _shade(scene: Scene, hits: _Hits, size_hw: tuple[int, int], rng: np.random.Generator) -> Array:
    """Lambert, a highlight, shadows, darker corners, sky -> linear RGB H×W×3."""
    colour, gloss, glow = _albedo(scene, hits)
    start = hits.points + hits.normals * OFFSET_M
    view = -hits.rays[hits.seen]
    light_sum, shine = np.zeros_like(colour), np.zeros_like(colour)
    for light in scene.lights:
        strength, towards = _arriving(light, hits, start)
        half = towards + view
        half /= np.linalg.norm(half, axis=-1, keepdims=True) + 1e-9
        highlight = np.clip((half * hits.normals).sum(-1), 0, 1) ** 40 * gloss
        light_sum += strength[:, None] * np.asarray(light.colour, np.float32)
        shine += (strength * highlight)[:, None] * np.asarray(light.colour, np.float32)
    open_sky = _openness(hits, start, size_hw, rng)
    facing_up = 0.75 + 0.25 * hits.normals[:, 2:]
    ambient = np.asarray(scene.ambient, np.float32) * facing_up * open_sky[:, None]
    linear = np.empty((len(hits.seen), 3), np.float32)
    linear[hits.seen] = colour * (ambient + light_sum) + shine + glow
    horizon, zenith = (np.asarray(c, np.float32) for c in scene.sky)
    up = np.clip(hits.rays[~hits.seen, 2:] * 2, 0, 1)
    linear[~hits.seen] = horizon + (zenith - horizon) * up
    if scene.kind in ("street", "hills"):  # haze
        t = 1 - np.exp(-hits.distance / rng.uniform(60, 600))
        linear[hits.seen] += (horizon - linear[hits.seen]) * t[:, None]
    return linear.reshape(*size_hw, 3)


def _arriving(light: Light, hits: _Hits, start: Array) -> tuple[Array, Array]:
    """-> N strengths (cosine, falloff, shadow) and N×3 directions towards the light."""
    position = np.asarray(light.position, np.float32)
    if light.sun:
        towards = np.broadcast_to(position, start.shape).astype(np.float32)
        reach = np.full(len(start), 1e3, np.float32)
        falloff: Array | float = 1.0
    else:
        towards = position - start
        reach = np.linalg.norm(towards, axis=-1)
        towards = towards / reach[:, None]
        falloff = 1 / (1 + reach**2 * 0.4)
    cosine = np.clip((towards * hits.normals).sum(-1), 0, 1)
    lit = np.flatnonzero(cosine > 0)
    blocked = (
        hits.tracer.run(start[lit], np.ascontiguousarray(towards[lit]), reach[lit] * 0.98, query="OCCLUDED")
        >= 0
    )
    strength = np.zeros(len(start), np.float32)
    strength[lit] = (cosine * falloff)[lit] * ~blocked
    return strength, towards


def _openness(hits: _Hits, start: Array, size_hw: tuple[int, int], rng: np.random.Generator) -> Array:
    """One random short ray per pixel, averaged over neighbours -> N in [0.25, 1]."""
    around = rng.normal(size=start.shape).astype(np.float32)
    around /= np.linalg.norm(around, axis=-1, keepdims=True) + 1e-9
    direction = np.ascontiguousarray(hits.normals * 1.02 + around)
    direction /= np.linalg.norm(direction, axis=-1, keepdims=True) + 1e-9
    blocked = (
        hits.tracer.run(
            start, direction.astype(np.float32), np.full(len(start), CORNER_M, np.float32), query="OCCLUDED"
        )
        >= 0
    )
    whole = np.ones(len(hits.seen), np.float32)
    whole[hits.seen] = ~blocked
    smooth = cv2.blur(whole.reshape(size_hw), (7, 7)).reshape(-1)
    return 0.25 + 0.75 * smooth[hits.seen]


def _develop(linear: Array, rng: np.random.Generator) -> NDArray[np.uint8]:
    """linear RGB -> the 8-bit picture of an ordinary camera."""
    h, w, _ = linear.shape
    exposure = rng.uniform(0.12, 0.95) / (np.percentile(linear.mean(-1), rng.uniform(60, 95)) + 1e-3)
    image = linear * exposure * rng.uniform(0.85, 1.15, 3).astype(np.float32)
    y, x = np.mgrid[-1 : 1 : h * 1j, -1 : 1 : w * 1j].astype(np.float32)
    image *= 1 - rng.uniform(0, 0.35) * ((x * x + y * y) / 2)[..., None]
    if rng.random() < 0.7:
        image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.3, 0.9))
    image += (
        rng.normal(size=image.shape).astype(np.float32)
        * rng.uniform(0.0, 0.03)
        * np.sqrt(np.clip(image, 0.02, 1))
    )
    image = np.clip(image, 0, 1) ** (1 / rng.uniform(1.8, 2.6))
    out = np.asarray(image * 255 + 0.5, np.uint8)
    if rng.random() < 0.3:
        _, jpeg = cv2.imencode(".jpg", out, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(40, 95))])
        out = np.asarray(cv2.imdecode(jpeg, cv2.IMREAD_COLOR), np.uint8)
    return out
