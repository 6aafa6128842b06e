"""frames and depth maps -> Rerun's viewer, live, or a recording (.rrd) that it opens.

What is shown, each at its time in the source (timelines `time` and `frame`):

    /camera/photo     the frame, as JPEG
    /camera/depth     with metres: float32 metres, `meter` = 1, NaN where there are none
    /camera/relative  without: the depth map's values, float32 in [0, 1]; `meter` is not said
    /camera           with metres and intrinsics: the pinhole camera
    /points           then too: points in metres, in the photo's colours

A viewer makes points of every depth image under a pinhole, so a depth map that has no metres never stands
under one: it would be a bent scene (`geometry/camera.py`).

Rerun (the extra [view]) is not imported before it is used.
"""

from __future__ import annotations

import contextlib
import math
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fiffdepth_rt.atomic import remove_leftovers, replacing
from fiffdepth_rt.depth_map import DepthMap
from fiffdepth_rt.errors import OutputError, shortened
from fiffdepth_rt.files import refuse_existing
from fiffdepth_rt.geometry.camera import Intrinsics, Metres, to_points
from fiffdepth_rt.image import Pixels
from fiffdepth_rt.stream import StreamItem
from fiffdepth_rt.telemetry import import_rerun
from fiffdepth_rt.video.source import Source
from fiffdepth_rt.video.viewer import PORT, Viewer, listens, start_viewer

WINDOW = "rerun"
"""What --view is given for a window."""
ENDING = ".rrd"
MOST_POINTS = 40_000
"""Of one frame; of a larger one every second pixel across and down, every third, …"""

JPEG_QUALITY = 90
_CHECK_EVERY = 50  # frames; whether what was given to Rerun's threads was written


class View:
    """A Result that shows every frame: `video/result.py` says what its methods are."""

    already = 0

    def __init__(
        self,
        path: Path | None,
        *,
        source: Source,
        in_metres: Callable[[DepthMap], Metres] | None,
        intrinsics: tuple[float, float, float, float] | None,
        overwrite: bool,
    ) -> None:
        if path is not None and not overwrite:
            refuse_existing(path)
        self.frames = 0
        self._rerun = _rerun()
        self._path = path
        self._endless = source.live
        self._in_metres = in_metres
        self._intrinsics = intrinsics
        self._camera: Intrinsics | None = None
        self._closing = contextlib.ExitStack()
        self._recording: Any = None
        self._viewer: Viewer | None = None

    def begin(self, made_of: Mapping[str, Any]) -> None:
        """Nothing is opened before the first frame."""

    def has(self, number: int) -> bool:
        return False

    def skip(self) -> None:
        """No frame is passed by."""

    def write(self, item: StreamItem) -> None:
        """Raises OutputError; with metres, what they raise."""
        depth_m = None if self._in_metres is None else self._in_metres(item.depth_map)
        if self._recording is None:
            self._recording = self._open(item.depth_map.photo_hw, metric=depth_m is not None)
        rr, log = self._rerun, self._recording.log
        self._recording.set_time("frame", sequence=item.tag.number)
        nanoseconds = round(item.tag.time_s * 10**9)
        self._recording.set_time("time", duration=np.timedelta64(nanoseconds, "ns"))
        log("camera/photo", rr.Image(item.photo).compress(jpeg_quality=JPEG_QUALITY))
        if depth_m is None:
            log("camera/relative", rr.DepthImage(item.depth_map.values, depth_range=(0, 1)))
        else:
            log("camera/depth", rr.DepthImage(depth_m, meter=1.0))
        if depth_m is not None and self._camera is not None:
            points, colors = _thinned(to_points(depth_m, self._camera), item.photo)
            log("points", rr.Points3D(points, colors=colors))
        self.frames += 1
        if not self.frames % _CHECK_EVERY:
            self._check()

    def close(self, *, whole: bool) -> None:
        if self._recording is None:
            return
        recording, self._recording = self._recording, None
        try:
            with self._closing:
                recording.flush()
                recording.disconnect()
                if self._viewer is not None:
                    self._viewer.close()
        except OutputError:
            raise
        except Exception as error:  # RuntimeError, or a class of Rerun's own
            raise self._stopped(error) from error

    def _open(self, photo_hw: tuple[int, int], *, metric: bool) -> Any:
        rr = self._rerun
        recording = rr.RecordingStream("fiffdepth", send_properties=False)
        recording.set_log_time_enabled(False)  # a frame's time is the source's, and that of no clock
        recording.set_log_tick_enabled(False)
        if self._path is None:
            self._viewer = start_viewer(port=PORT)
            recording.connect_grpc(f"rerun+http://127.0.0.1:{PORT}/proxy")
        else:
            remove_leftovers(self._path.parent)
            file = self._closing.enter_context(replacing(self._path))
            # A footer lists every piece of the file, in memory until the end: not where there is no end.
            recording.save(file.name, write_footer=not self._endless)
        if metric and self._intrinsics is not None:
            fx, fy, cx, cy = self._intrinsics
            self._camera = Intrinsics(fx=fx, fy=fy, cx=cx, cy=cy, photo_hw=photo_hw)
            recording.log("/", rr.ViewCoordinates.RDF, static=True)
            recording.log(
                "camera",
                rr.Pinhole(
                    focal_length=(fx, fy),
                    principal_point=(cx + 0.5, cy + 0.5),  # Rerun counts from the corner of a pixel
                    height=photo_hw[0],
                    width=photo_hw[1],
                    camera_xyz=rr.ViewCoordinates.RDF,
                ),
                static=True,
            )
        recording.send_blueprint(_layout(metric=metric, points=self._camera is not None))
        return recording

    def _check(self) -> None:
        """Raises OutputError where what was given so far cannot be written, or shown."""
        try:
            self._recording.flush()
        except Exception as error:  # RuntimeError, or a class of Rerun's own
            raise self._stopped(error) from error
        if self._path is None and not listens(PORT):  # what is sent to nobody is no error to Rerun
            raise self._stopped("nobody listens")

    def _stopped(self, error: object) -> OutputError:
        if self._path is None:
            said = shortened(error, 200) if self._viewer is None else self._viewer.last_words()
            return OutputError(
                f"The viewer takes no more frames ({said}): its window was closed, or it ended. Start again, "
                "or record what you want to see, such as by --view walk.rrd."
            )
        return OutputError(
            f"Cannot write {self._path}: Rerun's writer has stopped ({shortened(error, 200)}), as on a full "
            "disk. Nothing was changed; choose a folder that you may write to, with room on its disk."
        )


def open_view(
    where: str | Path,
    *,
    source: Source,
    in_metres: Callable[[DepthMap], Metres] | None = None,
    intrinsics: tuple[float, float, float, float] | None = None,
    overwrite: bool = False,
) -> View:
    """-> a Result that shows the frames of `source`.

    where: "rerun", a window, which a running viewer shows if there is one; or a file that ends in .rrd, for
        later: `rerun walk.rrd`.
    in_metres: depth map -> float32 H×W metres, such as `Calibration.apply`; None: the depth maps as they are.
    intrinsics: (fx, fy, cx, cy) in px of a frame; with metres, there are points too.

    Raises OutputError: exists already (unless overwrite), another ending, Rerun is missing, no display.
    """
    if str(where) == WINDOW:
        if not _has_display():
            raise OutputError(
                "There is no display to open a window on: record instead, such as by --view walk.rrd, and "
                "open the recording where there is one: rerun walk.rrd"
            )
        path = None
    else:
        path = Path(where)
        if path.suffix.lower() != ENDING:
            raise OutputError(
                f"{path} is no view: say {WINDOW} for a window, or a file that ends in {ENDING} for a "
                "recording."
            )
    return View(path, source=source, in_metres=in_metres, intrinsics=intrinsics, overwrite=overwrite)


def _thinned(points: Metres, photo: Pixels) -> tuple[Metres, Pixels]:
    """H×W×3 points, their photo -> N×3 points where there is depth, N×3 colours; N <= MOST_POINTS."""
    step = max(1, math.ceil(math.sqrt(points.shape[0] * points.shape[1] / MOST_POINTS)))
    points, photo = points[::step, ::step], photo[::step, ::step]
    known = np.isfinite(points[..., 2])
    return points[known], photo[known]


def _layout(*, metric: bool, points: bool) -> Any:
    """Photo and depth beside each other, and under them what is in space. The depth image makes points of its
    own, which would lie in ours."""
    import rerun.blueprint as rrb

    depth = "camera/depth" if metric else "camera/relative"
    flat = [
        rrb.Spatial2DView(origin="camera/photo", name="photo"),
        rrb.Spatial2DView(origin=depth, name="depth in metres" if metric else "relative depth"),
    ]
    if not points:
        return rrb.Blueprint(rrb.Horizontal(*flat), collapse_panels=True)
    space = rrb.Spatial3DView(origin="/", contents=["+ /**", "- /camera/depth"], name="points in metres")
    return rrb.Blueprint(rrb.Horizontal(rrb.Vertical(*flat), space), collapse_panels=True)


def _has_display() -> bool:
    return not sys.platform.startswith("linux") or any(map(os.environ.get, ("DISPLAY", "WAYLAND_DISPLAY")))


def _rerun() -> Any:
    try:
        return import_rerun()
    except ImportError as error:
        why = "which is not installed" if error.name == "rerun" else f"which cannot be imported ({error})"
        raise OutputError(f"Views are Rerun's, {why}: pip install 'fiffdepth-rt[view]'") from error
