"""Depth in metres -> files, as the tools that read them expect it.

    .npy            float32 metres; NaN = none. What it holds stands in NAME.npy.json
    .png            16-bit grey, round(factor · metres), 0 = none (`PngFactor`); the factor stands in its text
    .exr            one float channel Z, metres; NaN = none. OpenEXR, extra [geometry]
    .pfm            float32 metres, the bottom row first, little endian; infinity = none (Middlebury's)

Depth is along the optical axis, not along the ray. Every file is whole or not there (atomic.py).
"""

from __future__ import annotations

import contextlib
import enum
import sys
import tempfile
from pathlib import Path

import cv2
import numpy as np

from fiffdepth_rt import files
from fiffdepth_rt.errors import OutputError
from fiffdepth_rt.geometry.camera import Metres
from fiffdepth_rt.version import __version__

GEOMETRY_EXTRA = "pip install 'fiffdepth-rt[geometry]'"


class PngFactor(int, enum.Enum):
    """Levels of a 16-bit PNG for each metre, by who reads it so.

    MILLIMETRES    1000: ScanNet, NYU, ROS' 16UC1, Open3D's default; up to 65.535 m
    TUM            5000: the TUM RGB-D benchmark; up to 13.107 m
    KITTI          256: KITTI's depth; up to 255.996 m
    """

    MILLIMETRES = 1000
    TUM = 5000
    KITTI = 256

    @property
    def farthest_m(self) -> float:
        """What 65535 says."""
        return 65535 / self


def write_metres_npy(
    path: Path, depth_m: Metres, *, model: str | None = None, overwrite: bool = False
) -> None:
    """float32 H×W metres -> NPY file, and NAME.npy.json beside it. Raises OutputError like `write_npy`."""
    files.write_npy(path, depth_m, text=_text("metres; NaN = none", model), overwrite=overwrite)


def write_metres_png(
    path: Path, depth_m: Metres, factor: PngFactor, *, model: str | None = None, overwrite: bool = False
) -> float:
    """float32 H×W metres -> 16-bit grey PNG. Returns the share of pixels beyond factor.farthest_m, which
    become 0 too: no distance is better than a wrong one. Raises OutputError like files.write_png16."""
    levels = np.rint(np.nan_to_num(depth_m, nan=0.0, posinf=np.inf).astype(np.float64) * factor)
    beyond = levels > 65535
    levels[beyond] = 0
    text = _text(f"metres × {int(factor)}; 0 = none", model) | {"Factor": str(int(factor))}
    files.write_levels(path, levels.astype(np.uint16), text=text, overwrite=overwrite)
    return float(beyond.mean())


def write_metres_pfm(path: Path, depth_m: Metres, *, overwrite: bool = False) -> None:
    """float32 H×W metres -> PFM. Raises OutputError like files.write_png16."""
    done, encoded = cv2.imencode(".pfm", np.where(np.isnan(depth_m), np.float32(np.inf), depth_m))
    assert done
    files.write_bytes(path, encoded.tobytes(), overwrite=overwrite)


def check_openexr() -> None:
    """Raises OutputError where OpenEXR cannot be imported: what to install."""
    try:
        import OpenEXR  # noqa: F401
    except ImportError as error:
        raise OutputError(
            f"EXR files are written by OpenEXR, which cannot be imported ({error}): {GEOMETRY_EXTRA}"
        ) from error


def write_metres_exr(
    path: Path, depth_m: Metres, *, model: str | None = None, overwrite: bool = False
) -> None:
    """float32 H×W metres -> EXR with the channel Z. Raises OutputError: no OpenEXR, as `write_png16`."""
    check_openexr()
    import OpenEXR

    header = {
        "compression": OpenEXR.ZIP_COMPRESSION,
        "type": OpenEXR.scanlineimage,
        "comments": "; ".join(f"{key}: {value}" for key, value in _text("metres; NaN = none", model).items()),
        "software": f"fiffdepth-rt {__version__}",
    }
    # OpenEXR writes to a name alone. It prints what goes wrong to stdout, which is for results.
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(sys.stderr):
        whole = Path(folder) / "depth.exr"
        with OpenEXR.File(header, {"Z": np.ascontiguousarray(depth_m, np.float32)}) as file:
            file.write(str(whole))
        files.write_bytes(path, whole.read_bytes(), overwrite=overwrite)


def _text(values: str, model: str | None) -> dict[str, str]:
    text = {"Convention": f"depth along the optical axis: {values}"}
    return text if model is None else {**text, "Model": model}
