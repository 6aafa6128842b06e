"""Calibration: the scale and shift with which a camera's depth maps become metres, kept in a file.

    {"schema": 1, "space": "disparity", "scale": 0.41, "shift": 0.02, "assumption": "fitted",
     "model": "nano", "model_sha256": "ab12…", "photo_hw": [480, 640]}

The file lies with the user's data and not in the engine directory, whose files are hashed and belong to no
camera.
"""

from __future__ import annotations

import enum
import json
import os
from pathlib import Path
from typing import Annotated, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from fiffdepth_rt.atomic import replacing
from fiffdepth_rt.errors import CalibrationError, shortened
from fiffdepth_rt.files import refuse_existing
from fiffdepth_rt.space import Space
from fiffdepth_rt.structs import InvalidError, convert

SCHEMA = 1
MAX_BYTES = 2**16
ASPECT_TOLERANCE = 0.01
"""Relative difference of height / width from which a photo is not of the calibrated camera as it was."""


class Relative(Protocol):
    """What is aligned: a DepthMap."""

    @property
    def values(self) -> NDArray[np.float32]: ...
    @property
    def space(self) -> Space: ...
    @property
    def photo_hw(self) -> tuple[int, int]: ...
    @property
    def model(self) -> str | None: ...
    @property
    def model_sha256(self) -> str | None: ...


class Assumption(str, enum.Enum):
    """What was taken for true besides the distances.

    FITTED              nothing: scale and shift both follow from the distances
    ZERO_SHIFT          the shift is 0: value 0 is at the camera (depth), or infinitely far away (disparity)
    GROUND              the photo's lower part shows flat ground, at a known height below the camera
    GROUND_ZERO_SHIFT   both
    """

    FITTED = "fitted"
    ZERO_SHIFT = "zero shift"
    GROUND = "ground"
    GROUND_ZERO_SHIFT = "ground, zero shift"

    __str__ = str.__str__
    __format__ = str.__format__  # type: ignore[assignment]

    def sentence(self, space: Space) -> str:
        """The assumption, for people."""
        zero = "at the camera" if space is Space.DEPTH else "infinitely far away"
        shift = f"that the value 0 is {zero} (shift 0)"
        ground = "that the photo's lower part shows flat ground"
        return {
            Assumption.FITTED: "Scale and shift both follow from the distances.",
            Assumption.ZERO_SHIFT: f"It was assumed {shift}.",
            Assumption.GROUND: f"It was assumed {ground}.",
            Assumption.GROUND_ZERO_SHIFT: f"It was assumed {ground}, and {shift}.",
        }[self]


class Calibration(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """T(z) = scale · value + shift, for one camera and one model; T(z) is z ("depth") or 1/z ("disparity").

    space, model, model_sha256: of the depth map that it was made with; the last two None where not known.
    scale: positive, metres or inverse metres for each unit of a value. shift: the same, of the value 0.
    photo_hw: that photo's (height, width).
    assumption: what was taken for true besides the distances.
    """

    schema: int = SCHEMA
    space: Space
    scale: Annotated[float, msgspec.Meta(gt=0)]
    shift: float
    assumption: Assumption
    photo_hw: tuple[Annotated[int, msgspec.Meta(ge=1)], Annotated[int, msgspec.Meta(ge=1)]]
    model: str | None = None
    model_sha256: str | None = None

    @classmethod
    def of(cls, depth_map: Relative, *, scale: float, shift: float, assumption: Assumption) -> Calibration:
        """The calibration that a depth map gave."""
        return cls(
            space=depth_map.space,
            scale=scale,
            shift=shift,
            assumption=assumption,
            photo_hw=depth_map.photo_hw,
            model=depth_map.model,
            model_sha256=depth_map.model_sha256,
        )

    def apply(self, depth_map: Relative) -> NDArray[np.float32]:
        """depth map of the same camera -> float32 H×W metres along the optical axis; NaN where T(z) <= 0.

        What is assumed: that the model gives every photo of this camera the same scale and shift. A model
        whose output is relative promises nothing of the kind; it holds best while camera and scene stay
        alike, and new distances in the new photo (`DepthMap.align`) are better.

        Raises CalibrationError: a depth map of another space or model, or a photo of another aspect.
        """
        self.check_model(space=depth_map.space, model=depth_map.model, model_sha256=depth_map.model_sha256)
        self._check_aspect(depth_map.photo_hw)
        t = np.multiply(depth_map.values, self.scale, dtype=np.float64)
        t += self.shift
        t[~(t > 0)] = np.nan
        if self.space is Space.DISPARITY:
            np.reciprocal(t, out=t)
        with np.errstate(over="ignore"):
            metres = t.astype(np.float32)
        metres[~((metres > 0) & (metres < np.inf))] = np.nan
        return metres

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """-> JSON file, whole or not there. Raises OutputError: exists already (unless overwrite), no
        permission, disk full."""
        file = Path(path)
        if not overwrite:
            refuse_existing(file)
        with replacing(file) as out:
            out.write(json.dumps(msgspec.to_builtins(self), indent=1).encode() + b"\n")

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Calibration:
        """JSON file -> Calibration. Raises CalibrationError: not there, not JSON, of another schema, …"""
        file = Path(path)
        try:
            with file.open("rb") as opened:
                text = opened.read(MAX_BYTES + 1)
        except OSError as error:
            raise CalibrationError(
                f"The calibration {file} cannot be read ({error.strerror}): name a file that was "
                f"written by `{CALIBRATE}`."
            ) from error
        try:
            content = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise _not_ours(file, "is no JSON of at most 64 KiB") from error
        schema = content.get("schema") if isinstance(content, dict) else None
        if schema != SCHEMA:
            raise _not_ours(file, f"is of schema {shortened(schema, 40)}, and this program reads {SCHEMA}")
        try:
            found = convert(content, cls)
        except InvalidError as error:
            raise _not_ours(file, f"is damaged: {error}") from error
        if not np.isfinite([found.scale, found.shift]).all():
            raise _not_ours(file, "holds a scale or shift that is not finite")
        return found

    def check_model(self, *, space: Space, model: str | None, model_sha256: str | None) -> None:
        """Raises CalibrationError where depth maps of this model are others than those it was made with."""
        if space != self.space:
            raise CalibrationError(
                f"The calibration is of a model that speaks {self.space}, and this one speaks {space}: its "
                f"numbers mean nothing here. {_AGAIN}"
            )
        if None not in (self.model_sha256, model_sha256) and model_sha256 != self.model_sha256:
            raise CalibrationError(
                f"The calibration is of {_named(self.model, self.model_sha256)}, and this is "
                f"{_named(model, model_sha256)}: another model, or another precision of it, has another "
                f"scale and shift. Use the engine and the --precision that it was made with. Or: {_AGAIN}"
            )

    def _check_aspect(self, photo_hw: tuple[int, int]) -> None:
        ours, theirs = (hw[0] / hw[1] for hw in (self.photo_hw, photo_hw))
        if abs(theirs / ours - 1) > ASPECT_TOLERANCE:
            raise CalibrationError(
                f"The calibration is of {self.photo_hw[0]}x{self.photo_hw[1]} px (height x width), and this "
                f"photo has {photo_hw[0]}x{photo_hw[1]}: another camera, or it was cropped or turned, and "
                f"the model sees it otherwise. {_AGAIN}"
            )


CALIBRATE = "fiffdepth calibrate kitchen.jpg --at 320,240 --metres 2.0"
"""As people may copy it."""
_AGAIN = f"Calibrate again with a photo of this camera, such as by `{CALIBRATE}`."


def _named(model: str | None, model_sha256: str | None) -> str:
    return f"{shortened(model, 80)} ({(model_sha256 or '')[:8]})"


def _not_ours(file: Path, why: str) -> CalibrationError:
    return CalibrationError(f"The calibration {file} {why}: make it again, such as by `{CALIBRATE}`.")
