"""A visitor's photo, its depth map, its metres: what the page shows, without a page."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import cv2
import numpy as np

from fiffdepth_rt.depth import Depth
from fiffdepth_rt.depth_map import DepthMap
from fiffdepth_rt.errors import AlignmentError
from fiffdepth_rt.geometry.calibration import Calibration
from fiffdepth_rt.geometry.camera import Intrinsics, Metres, to_points
from fiffdepth_rt.geometry.depth_files import write_metres_npy
from fiffdepth_rt.geometry.mesh import to_mesh
from fiffdepth_rt.geometry.scene_files import write_mesh, write_points
from fiffdepth_rt.geometry.tape_measure import Distance, measure
from fiffdepth_rt.image import Pixels
from fiffdepth_rt.photos.loading import load_photo

FIELD_OF_VIEW_DEG = 60
"""Of many cameras of phones, from left to right, held so that the longer side lies."""

LONGEST = 1600
"""px: larger photos are made smaller, so that a page and a browser can hold them."""

LONGEST_SURFACE = 640
"""px of the surface that the browser turns."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Work:
    """photo: uint8 H×W×3 RGB, at most LONGEST px along a side. notes: what was done to it, for people.

    known: pixels whose distance was told. calibration: what they tell; None until they do. metres: by it,
        float32 H×W, NaN where none.
    """

    photo: Pixels
    depth_map: DepthMap
    notes: tuple[str, ...] = ()
    known: tuple[Distance, ...] = ()
    calibration: Calibration | None = None
    metres: Metres | None = None

    def value_at(self, x: int, y: int) -> str:
        """The pixel in column x and row y -> what is known of it, for people."""
        value = float(self.depth_map.values[y, x])
        said = f"At x {x}, y {y}: **{value:.3f}** ({self.depth_map.space.ends()})"
        if self.metres is None:
            return f"{said}. Relative, not metres."
        metres = float(self.metres[y, x])
        return f"{said}, **{metres:.2f} m**." if math.isfinite(metres) else f"{said}, no distance."

    @property
    def sentence(self) -> str:
        """What the depth map is, and what was done for it."""
        said = [self.depth_map.space.sentence]
        if self.metres is not None and self.calibration is not None:
            there = self.metres[np.isfinite(self.metres)]
            said = (
                [f"From {there.min():.2f} to {there.max():.2f} m."]
                if there.size
                else ["No pixel has metres."]
            )
            said.append(self.calibration.assumption.sentence(self.depth_map.space))
            if len(self.known) == 1:
                said.append(
                    "Tell a second distance, of something much nearer or farther, to do without that."
                )
            said.append("The model's own errors stay.")
        return " ".join([*said, *(f"The photo was {note}." for note in self.notes)])

    def marked(self, pixels: tuple[tuple[int, int], ...]) -> Pixels:
        """The depth map for eyes, uint8 H×W×3 RGB, with a cross at each of these (x, y)."""
        colors = self.depth_map.colors()
        side = max(12, max(self.depth_map.photo_hw) // 40)
        for pixel in pixels:
            for color, width in (((0, 0, 0), 5), ((255, 255, 255), 2)):
                cv2.drawMarker(colors, pixel, color, cv2.MARKER_CROSS, side, width)
        return colors

    def nearest_pixel(self, x: float, y: float) -> tuple[int, int]:
        """Any (x, y) -> the pixel of the photo that it lies in, or at the border of which."""
        height, width = self.depth_map.photo_hw
        return min(max(int(x), 0), width - 1), min(max(int(y), 0), height - 1)

    def measured(self, known: tuple[Distance, ...]) -> Work:
        """With the scale and shift that one or two known distances tell; `tape_measure.measure` says how.

        Raises AlignmentError: none, two of the same value, or not positive.
        """
        if not known:
            raise AlignmentError(
                "Metres want a known distance, better two: choose what a click is, click into the depth map, "
                "and say how many metres it is there."
            )
        calibration = measure(self.depth_map, known).calibration
        metres = calibration.apply(self.depth_map)
        return dataclasses.replace(self, known=known, calibration=calibration, metres=metres)


def photo_to_work(path: Path, depth: Depth, *, size: int | None = None) -> Work:
    """Photo file -> its depth map by `depth`, whatever the file is called. Raises ImageError, SizeError, …"""
    loaded = load_photo(path, name="The file")
    photo, notes = loaded.pixels, tuple(map(str, loaded.notes))
    height, width = photo.shape[:2]
    if max(height, width) > LONGEST:
        factor = LONGEST / max(height, width)
        smaller = max(1, round(width * factor)), max(1, round(height * factor))
        photo = np.ascontiguousarray(cv2.resize(photo, smaller, interpolation=cv2.INTER_AREA))
        notes = (*notes, f"made smaller, from {width}x{height} to {smaller[0]}x{smaller[1]} px")
    return Work(photo=photo, depth_map=depth.infer(photo, size=size), notes=notes)


def lens(photo_hw: tuple[int, int], field_of_view_deg: float) -> Intrinsics:
    """The intrinsics of a lens that sees so many degrees from left to right, its axis through the middle."""
    height, width = photo_hw
    focal = width / 2 / math.tan(math.radians(field_of_view_deg) / 2)
    return Intrinsics(fx=focal, fy=focal, cx=(width - 1) / 2, cy=(height - 1) / 2, photo_hw=photo_hw)


def save_files(work: Work, folder: Path) -> list[str]:
    """-> depth.png (16 bits), depth.npy, and metres.npy (float32, NaN where none) where they are known."""
    work.depth_map.save(folder / "depth.png")
    work.depth_map.save(folder / "depth.npy")
    made = ["depth.png", "depth.npy"]
    if work.metres is not None:
        write_metres_npy(folder / "metres.npy", work.metres, model=work.depth_map.model)
        made.append("metres.npy")
    return [str(folder / name) for name in made]


def save_scene(work: Work, field_of_view_deg: float, folder: Path) -> list[str]:
    """-> surface.glb, of every other or third pixel where the photo is large, and points.ply, of all.

    Raises AlignmentError where metres are not known, OutputError where no pixel has any.
    """
    if work.metres is None:
        raise AlignmentError(
            "A scene in 3D wants metres: without scale and shift a wall becomes a bent surface. Tell two "
            "distances first."
        )
    intrinsics = lens(work.depth_map.photo_hw, field_of_view_deg)
    write_points(folder / "points.ply", to_points(work.metres, intrinsics), photo=work.photo)
    step = math.ceil(max(work.depth_map.photo_hw) / LONGEST_SURFACE)
    fewer, photo = np.ascontiguousarray(work.metres[::step, ::step]), work.photo[::step, ::step]
    focal, cx, cy = intrinsics.fx / step, intrinsics.cx / step, intrinsics.cy / step
    height, width = fewer.shape
    thinned = Intrinsics(fx=focal, fy=focal, cx=cx, cy=cy, photo_hw=(height, width))
    surface = to_mesh(fewer, thinned)
    write_mesh(folder / "surface.glb", surface, photo=np.ascontiguousarray(photo))
    return [str(folder / name) for name in ("surface.glb", "points.ply")]
