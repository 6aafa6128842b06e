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
from fiffdepth_rt.geometry.alignment import Alignment
from fiffdepth_rt.geometry.camera import Intrinsics, sparse_from_pixels
from fiffdepth_rt.image import Pixels
from fiffdepth_rt.photos.loading import load_photo

FIELD_OF_VIEW_DEG = 60
"""Of many cameras of phones, from left to right, held so that the longer side lies."""

LONGEST = 1600
"""px: larger photos are made smaller, so that a page and a browser can hold them."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Work:
    """photo: uint8 H×W×3 RGB, at most LONGEST px along a side. notes: what was done to it, for people.

    known: (x px, y px, metres) of the pixels whose distance was told. alignment: None until it is known.
    """

    photo: Pixels
    depth_map: DepthMap
    notes: tuple[str, ...] = ()
    known: tuple[tuple[int, int, float], ...] = ()
    alignment: Alignment | None = None

    def value_at(self, x: int, y: int) -> str:
        """The pixel in column x and row y -> what is known of it, for people."""
        value = float(self.depth_map.values[y, x])
        said = f"At x {x}, y {y}: **{value:.3f}** ({self.depth_map.space.ends()})"
        if self.alignment is None:
            return f"{said}. Relative, not metres."
        metres = float(self.alignment.depth_m[y, x])
        return f"{said}, **{metres:.2f} m**." if math.isfinite(metres) else f"{said}, no distance."

    @property
    def sentence(self) -> str:
        """What the depth map is, and what was done for it."""
        said = [self.depth_map.space.sentence]
        if self.alignment is not None:
            metres = self.alignment.depth_m[np.isfinite(self.alignment.depth_m)]
            said = [
                f"From {metres.min():.2f} to {metres.max():.2f} m. A model's own errors stay: a distance far "
                "from the known ones, or of another kind of thing, is less sure."
            ]
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
        """Any (x, y) -> the pixel of the photo that is nearest to it."""
        height, width = self.depth_map.photo_hw
        return min(max(int(x), 0), width - 1), min(max(int(y), 0), height - 1)

    def measured(self, known: tuple[tuple[int, int, float], ...]) -> Work:
        """With the scale and shift that the known distances tell.

        Raises AlignmentError: fewer than two, no spread, or not positive.
        """
        if len(known) < 2:
            raise AlignmentError(
                "Metres want two known distances, of a near thing and a far one: choose what a click is, "
                "click into the depth map, and give the distance; then the same for the second."
            )
        sparse_m = sparse_from_pixels(np.array(known), self.depth_map.photo_hw)
        alignment = self.depth_map.align(sparse_m, method="lstsq")
        return dataclasses.replace(self, known=known, alignment=alignment)


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
    if work.alignment is not None:
        np.save(folder / "metres.npy", work.alignment.depth_m, allow_pickle=False)
        made.append("metres.npy")
    return [str(folder / name) for name in made]
