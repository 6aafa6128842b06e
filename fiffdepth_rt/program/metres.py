"""Options that give depth in metres, and the files that hold it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fiffdepth_rt.errors import AlignmentError, shortened
from fiffdepth_rt.photos.results import FORMATS, Holds
from fiffdepth_rt.program.options import NamedPath
from fiffdepth_rt.program.terminal import shown

if TYPE_CHECKING:
    from fiffdepth_rt.depth import Depth
    from fiffdepth_rt.depth_map import DepthMap
    from fiffdepth_rt.geometry.calibration import Calibration
    from fiffdepth_rt.geometry.camera import Intrinsics, Metres
    from fiffdepth_rt.image import Pixels

Four = tuple[float, float, float, float]


@dataclass(frozen=True, kw_only=True)
class MetricChoice:
    """How depth maps come to metres: --calibration, --sparse or --camera-height (with --pitch where it is
    known), none or one of them; and --intrinsics."""

    calibration: Path | None
    sparse: Path | None
    height_m: float | None
    pitch_deg: float | None
    intrinsics: Four | None

    def check(self, formats: Sequence[str], *, photos: int) -> None:
        """Raises click.UsageError where the formats want what was not given, or nothing uses what was.

        And OutputError where a library that a format is written with is missing.
        """
        by_need = {holds: [name for name in formats if FORMATS[name].holds is holds] for holds in Holds}
        metric = by_need[Holds.METRES] + by_need[Holds.POINTS]
        given = {
            "--calibration": self.calibration,
            "--sparse": self.sparse,
            "--camera-height": self.height_m,
        }
        sources = [name for name, value in given.items() if value is not None]
        known = bool(sources)
        if len(sources) > 1:
            raise click.UsageError(f"{' and '.join(sources)} both give metres: pass one of them.")
        check_ground(self.height_m, self.pitch_deg, self.intrinsics)
        if metric and not known:
            from fiffdepth_rt.geometry.calibration import CALIBRATE

            raise click.UsageError(
                f"{metric[0]} holds metres, and a depth map is known up to scale and shift: pass --sparse "
                f"FILE with a few known distances, or --calibration FILE, which `{CALIBRATE}` writes; over "
                "flat ground, --camera-height M."
            )
        if by_need[Holds.POINTS] and self.intrinsics is None:
            raise click.UsageError(
                f"{by_need[Holds.POINTS][0]} holds points, and where a pixel looks to, its camera says: pass "
                "--intrinsics fx,fy,cx,cy, in px of the photo."
            )
        if (known or self.intrinsics is not None) and not metric:
            raise click.UsageError(
                "None of the formats holds metres: name one that does, such as --format mm "
                f"({', '.join(name for name, one in FORMATS.items() if one.holds is not Holds.RELATIVE)})."
            )
        if self.sparse is not None and photos > 1:
            raise click.UsageError(
                f"--sparse holds the distances of one photo, and there are {photos}: name one photo, or pass "
                "a --calibration for all photos of a camera."
            )
        _check_libraries(formats)

    def open(self, depth: Depth) -> Callable[[DepthMap], tuple[Metres, str]]:
        """-> depth map -> metres, and a sentence about them. Raises AlignmentError and CalibrationError."""
        if self.calibration is not None:
            return functools.partial(_apply, *open_calibration(self.calibration, depth))
        if self.height_m is not None:
            return functools.partial(_align_ground, self, self.height_m)
        assert self.sparse is not None
        return functools.partial(_align, self.sparse)

    def camera(self, photo_hw: tuple[int, int]) -> Intrinsics | None:
        """--intrinsics as those of a photo. Raises AlignmentError."""
        from fiffdepth_rt.geometry.camera import Intrinsics

        if self.intrinsics is None:
            return None
        fx, fy, cx, cy = self.intrinsics
        return Intrinsics(fx=fx, fy=fy, cx=cx, cy=cy, photo_hw=photo_hw)


def metric_choice(command: Callable[..., None]) -> Callable[..., None]:
    """Adds the options of a MetricChoice to a command, which gets them as one argument, `metric`."""

    @calibration
    @click.option(
        "--sparse",
        metavar="FILE",
        type=NamedPath(),
        help="Metres by distances known in the photo: .npy of rows (x px, y px, metres), or of the photo's "
        "height x width in metres, NaN or 0 where none is known. Some may be wrong.",
    )
    @camera_height
    @pitch
    @intrinsics
    @functools.wraps(command)
    def with_choice(
        *,
        calibration: Path | None,
        sparse: Path | None,
        height_m: float | None,
        pitch_deg: float | None,
        intrinsics: Four | None,
        **others: Any,
    ) -> None:
        metric = MetricChoice(
            calibration=calibration,
            sparse=sparse,
            height_m=height_m,
            pitch_deg=pitch_deg,
            intrinsics=intrinsics,
        )
        command(metric=metric, **others)

    return with_choice


def _parse_intrinsics(ctx: click.Context, option: click.Parameter, value: str | None) -> Four | None:
    """ "525,525,319.5,239.5" -> those four"""
    if value is None:
        return None
    try:
        fx, fy, cx, cy = map(float, value.split(","))
    except ValueError:
        reason = f"{value!r} is not fx,fy,cx,cy: say four numbers in px, such as 525,525,319.5,239.5."
        raise click.BadParameter(reason, ctx, option) from None
    return fx, fy, cx, cy


calibration = click.option(
    "--calibration",
    metavar="FILE",
    type=NamedPath(),
    help="Metres by the file that the command calibrate wrote, for photos of the same camera.",
)
intrinsics = click.option(
    "--intrinsics",
    metavar="FX,FY,CX,CY",
    callback=_parse_intrinsics,
    help="The camera's focal lengths and principal point, in px of the photo as it is shown upright.",
)


camera_height = click.option(
    "--camera-height",
    "height_m",
    metavar="M",
    type=click.FloatRange(min=0, min_open=True),
    help="Metres by the ground: how high the lens is above flat ground, which the lower part of the photo "
    "shows. With --intrinsics.",
)
pitch = click.option(
    "--pitch",
    "pitch_deg",
    metavar="DEG",
    type=click.FloatRange(-90, 90),
    help="With --camera-height: by how many degrees the camera looks down. By default found in the photo.",
)


def check_ground(height_m: float | None, pitch_deg: float | None, intrinsics: Four | None) -> None:
    """Raises click.UsageError where --camera-height lacks the camera, or --pitch its height."""
    if height_m is not None and intrinsics is None:
        raise click.UsageError(
            "--camera-height measures along rays, and where a pixel looks to, its camera says: pass "
            "--intrinsics fx,fy,cx,cy, in px of the photo."
        )
    if pitch_deg is not None and height_m is None:
        raise click.UsageError("--pitch is for metres by the ground: pass --camera-height M too.")


def open_calibration(path: Path, depth: Depth) -> tuple[Calibration, str]:
    """-> the calibration, for depth maps of `depth`, and a sentence about it. Raises CalibrationError."""
    from fiffdepth_rt.geometry.calibration import Calibration

    calibration = Calibration.read(path)
    described = depth.describe()
    calibration.check_model(
        space=depth.output_space, model=described["name"], model_sha256=described["model_sha256"]
    )
    return calibration, f"In metres by {shown(path)}. {calibration.assumption.sentence(calibration.space)}"


def read_sparse(path: Path, photo_hw: tuple[int, int]) -> Metres:
    """NPY file of rows (x px, y px, metres), or of H×W metres -> float H×W metres. Raises AlignmentError."""
    import numpy as np

    from fiffdepth_rt.geometry.camera import sparse_from_pixels

    try:
        # Mapped, so that a header which promises gigabytes takes none.
        found = np.lib.format.open_memmap(path, mode="r")
    except Exception as error:  # numpy's reader of headers raises a dozen kinds on damaged ones
        raise AlignmentError(
            f"{path} cannot be read as an NPY file ({shortened(error, 200)}): write one with numpy.save, "
            "rows of (x px, y px, metres)."
        ) from error
    if found.ndim != 2 or found.dtype.kind not in "fiu":
        raise AlignmentError(
            f"{path} holds no distances: write one array with numpy.save, rows of (x px, y px, metres) or "
            f"float metres of the photo's {photo_hw[0]}x{photo_hw[1]}."
        )
    if found.shape[1] == 3:
        return sparse_from_pixels(found, photo_hw)
    return found  # `align` says what is wrong with its size or kind


def write_metric(
    name: str,
    path: Path,
    depth_m: Metres,
    *,
    photo: Pixels,
    camera: Intrinsics | None,
    model: str | None,
    overwrite: bool,
) -> str | None:
    """Depth in metres -> a file of a metric format. Returns what is to be said of it. Raises OutputError."""
    from fiffdepth_rt.geometry import depth_files, scene_files
    from fiffdepth_rt.geometry.camera import to_points
    from fiffdepth_rt.geometry.mesh import to_mesh

    if name == "m":
        depth_files.write_metres_npy(path, depth_m, model=model, overwrite=overwrite)
    elif name == "exr":
        depth_files.write_metres_exr(path, depth_m, model=model, overwrite=overwrite)
    elif name == "pfm":
        depth_files.write_metres_pfm(path, depth_m, overwrite=overwrite)
    elif name in ("ply", "glb"):
        assert camera is not None  # MetricChoice.check
        if name == "ply":
            scene_files.write_points(path, to_points(depth_m, camera), photo=photo, overwrite=overwrite)
        else:
            scene_files.write_mesh(path, to_mesh(depth_m, camera), photo=photo, overwrite=overwrite)
    else:
        factor = {
            "mm": depth_files.PngFactor.MILLIMETRES,
            "tum": depth_files.PngFactor.TUM,
            "kitti": depth_files.PngFactor.KITTI,
        }[name]
        share = depth_files.write_metres_png(path, depth_m, factor, model=model, overwrite=overwrite)
        if share:
            return (
                f"{share:.1%} of the pixels of {shown(path)} lie beyond {factor.farthest_m:.1f} m, which 16 "
                "bits do not hold: they are 0, as if not known."
            )
    return None


def _apply(calibration: Calibration, said: str, depth_map: DepthMap) -> tuple[Metres, str]:
    return calibration.apply(depth_map), said


def _align(path: Path, depth_map: DepthMap) -> tuple[Metres, str]:
    import numpy as np

    alignment = depth_map.align(read_sparse(path, depth_map.photo_hw))
    return alignment.depth_m, (
        f"In metres by {np.count_nonzero(alignment.inliers)} of the {alignment.points} distances in "
        f"{shown(path)}; they are met to {alignment.rms_m:.2g} m (root mean square)."
    )


def _align_ground(choice: MetricChoice, height_m: float, depth_map: DepthMap) -> tuple[Metres, str]:
    camera = choice.camera(depth_map.photo_hw)
    assert camera is not None  # MetricChoice.check
    alignment = depth_map.align_ground(camera, height_m, pitch_deg=choice.pitch_deg)
    assumed = alignment.calibration.assumption.sentence(alignment.space)
    return alignment.depth_m, f"In metres by the ground, {height_m:g} m below the camera. {assumed}"


def _check_libraries(formats: Sequence[str]) -> None:
    if "exr" in formats:
        from fiffdepth_rt.geometry.depth_files import check_openexr

        check_openexr()
    if {"ply", "glb"} & set(formats):
        from fiffdepth_rt.geometry.scene_files import check_trimesh

        check_trimesh()
