"""DepthMap: the values of a depth map, with what they mean and what computed them."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from fiffdepth_rt import files
from fiffdepth_rt.errors import ImageError, OutputError
from fiffdepth_rt.geometry.alignment import Alignment, Method, align
from fiffdepth_rt.geometry.camera import Intrinsics
from fiffdepth_rt.geometry.ground import align_ground
from fiffdepth_rt.space import Space

Values = npt.NDArray[np.float32]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class DepthMap:
    """How near each pixel of a photo is, compared with the others; not how many metres.

    values: float32 H×W in [0, 1], one for each pixel of the photo.
    space: what 0 and 1 mean (`Space`); its name, such as "depth", is taken too.
    model: the name of the model, and model_sha256 which graphs of it ran (`Depth.describe` says how it is
        computed). Both None where the values come from elsewhere.

    numpy takes a DepthMap for an array: `np.asarray(d)`, `np.quantile(d, 0.5)`; OpenCV wants `d.values`.
    What numpy computes of it is a plain array, because a sum or a ratio is in no space any more.

    Frozen, values included: they are read-only, since one DepthMap may be with several readers and threads.
    `np.array(d)` is a copy to write into. Two DepthMaps are equal if they are the same object; compare values
    with `np.array_equal(d, e)`.

    Raises ImageError: not a float array of two dimensions, values that are not in [0, 1], an unknown space.
    """

    values: Values
    space: Space
    model: str | None = None
    model_sha256: str | None = None

    def __post_init__(self) -> None:
        values = self.values
        if (
            not isinstance(values, np.ndarray)
            or values.ndim != 2
            or values.dtype.kind != "f"
            or not values.size
        ):
            raise ImageError("The values of a depth map are a float array of height×width, in [0, 1].")
        if not (values.min() >= 0 and values.max() <= 1):  # NaN fails both
            raise ImageError(
                f"The values of a depth map lie in [0, 1], and these go from {values.min():g} to "
                f"{values.max():g}: scale them first."
            )
        frozen = values.astype(np.float32, copy=False).view()  # a view: the caller's array stays writable
        frozen.flags.writeable = False
        object.__setattr__(self, "values", frozen)
        object.__setattr__(self, "space", Space(self.space))

    @property
    def photo_hw(self) -> tuple[int, int]:
        """The photo's (height, width), in px; that of `values` too."""
        return self.values.shape[0], self.values.shape[1]

    def nearness(self) -> Values:
        """depth map -> float32 H×W, 0 = farthest, 1 = nearest, whatever the space. The caller's own array."""
        near = self.space.nearness(self.values)
        return near.copy() if near is self.values else near

    def colors(self) -> npt.NDArray[np.uint8]:
        """depth map -> picture for eyes: uint8 H×W×3 RGB; near is bright and warm, far is dark.

        The colours are inferno's: equal steps of depth look equally large, also without colour vision.
        """
        levels = self.space.nearness(self.values) * 255
        np.rint(levels, out=levels)  # in place: fresh memory costs more than the arithmetic
        return np.asarray(cv2.applyColorMap(levels.astype(np.uint8), _inferno()), dtype=np.uint8)

    def save(self, path: str | Path, *, overwrite: bool = False) -> None:
        """depth map -> file, by its ending. The file is whole or not there.

            .png    16-bit grey, round(65535 × values). Its text chunks say `Space`, `Convention` (what 0 and
                    65535 mean), and `Model` where it is known
            .npy    the values as they are, for `np.load`. The same text lies beside it, in NAME.npy.json

        A picture in colour is for eyes and not a depth map: write `colors()` with a library for pictures.
        Raises OutputError: exists already (unless overwrite), another ending, no permission, disk full.
        """
        path = Path(path)
        ending = path.suffix.lower()
        if ending == ".png":
            files.write_png16(path, self.values, text=self.labels(), overwrite=overwrite)
        elif ending == ".npy":
            files.write_npy(path, self.values, text=self.labels(highest="1"), overwrite=overwrite)
        else:
            raise OutputError(
                f"{path} cannot hold a depth map: name a file that ends in .png (16 bits) or .npy (float32). "
                "For a picture in colour write colors(), such as with PIL.Image.fromarray(d.colors()).save."
            )

    def align(
        self,
        sparse_m: npt.NDArray[Any],
        *,
        mask: npt.NDArray[np.bool_] | None = None,
        method: Method = "ransac",
    ) -> Alignment:
        """depth map, a few known distances -> depth in metres.

        sparse_m: float H×W of the photo's size, metres along the optical axis; NaN, 0 or infinity where none
            is known. At least two, at different distances. Points of a lidar, and rows of (x, y, metres),
            become such an array by `sparse_from_points` and `sparse_from_pixels`. A dense one is taken too.
        mask: bool H×W, True where distances may be used; None for everywhere.
        method: "ransac" leaves out distances that most of the others disagree with
            (`geometry.fitting.robust_fit`; the same input always gives the same result). "lstsq" is least
            squares over all of them.

        The fit is of the space that the model speaks: of depth, or of disparity, which is then inverted.
        Raises AlignmentError: another size or dtype, negative distances, too few, no spread, or a scale that
        is not positive.
        """
        return align(self, sparse_m, mask=mask, method=method)

    def align_ground(
        self, intrinsics: Intrinsics, camera_height_m: float, *, pitch_deg: float | None = None
    ) -> Alignment:
        """depth map, the camera's height above flat ground -> depth in metres; `geometry.ground` says how.

        intrinsics: of a photo of this size. camera_height_m: from the ground to the lens.
        pitch_deg: by how much the camera looks down, 0 = level; it does not roll. None where it is not known:
            the plane's direction is then found in the photo, and for a model that speaks disparity the shift
            is taken for 0, which the ground alone cannot tell.

        Raises AlignmentError: a height that is not positive, another size, no ground in the lower part.
        """
        return align_ground(self, intrinsics, camera_height_m, pitch_deg=pitch_deg)

    def labels(self, *, highest: str = "65535") -> dict[str, str]:
        """What the values mean, as text chunks or tags: Space, Convention, and Model where it is known.

        highest: how the file writes 1.
        """
        space = self.space
        convention = f"affine-invariant {space}: {space.ends('0', highest)}; not {space.unit}"
        model = {} if self.model is None else {"Model": self.model}
        return {"Space": str(space), "Convention": convention, **model}

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> npt.NDArray[Any]:
        """What numpy calls. copy, from numpy 2 only: always, never, or (None) where dtype needs it."""
        if copy is False and dtype is not None and np.dtype(dtype) != self.values.dtype:
            raise ValueError(f"The values are float32: as {np.dtype(dtype)} they have to be copied.")
        return np.array(self.values, dtype) if copy else np.asarray(self.values, dtype)

    def __reduce__(self) -> tuple[Any, ...]:
        # Through the constructor: an unpickled array would be writable.
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return functools.partial(DepthMap, **fields), ()

    def __repr__(self) -> str:
        height, width = self.photo_hw
        model = "" if self.model is None else f", {self.model}"
        return f"<DepthMap {height}×{width} px, {self.space} ({self.space.ends()}){model}>"


@functools.cache
def _inferno() -> npt.NDArray[np.uint8]:
    """uint8 256×1×3 RGB: the colour of each level."""
    levels = np.arange(256, dtype=np.uint8)[:, None]
    return np.ascontiguousarray(cv2.applyColorMap(levels, cv2.COLORMAP_INFERNO)[:, :, ::-1], dtype=np.uint8)
