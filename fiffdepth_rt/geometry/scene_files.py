"""Points and surfaces in metres -> PLY and GLB, by trimesh (extra [geometry]).

.ply    the camera's optical frame as it is: x right, y down, z forward (camera.py)
.glb    glTF's frame: x right, y up, the camera looks along −z; that is a half turn about x
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fiffdepth_rt import files
from fiffdepth_rt.errors import OutputError
from fiffdepth_rt.geometry.depth_files import GEOMETRY_EXTRA
from fiffdepth_rt.geometry.mesh import Mesh
from fiffdepth_rt.image import Pixels

ENDINGS = (".ply", ".glb")
_TO_GLTF = np.array([1, -1, -1], np.float32)


def check_trimesh() -> None:
    """Raises OutputError where trimesh cannot be imported: what to install."""
    try:
        import trimesh  # noqa: F401
    except ImportError as error:
        raise OutputError(
            f"PLY and GLB files are written by trimesh, which cannot be imported ({error}): {GEOMETRY_EXTRA}"
        ) from error


def write_points(
    path: Path, points_m: NDArray[np.float32], *, photo: Pixels | None = None, overwrite: bool = False
) -> None:
    """float32 H×W×3 of `to_points` -> the points that are not NaN, as .ply or .glb.

    photo: uint8 H×W×3 RGB, their colours. Raises OutputError: another ending, no trimesh, no point at all;
    like files.write_png16.
    """
    _check(path)
    import trimesh

    there = np.isfinite(points_m[..., 2])
    colors = None if photo is None else photo[there]
    cloud = trimesh.PointCloud(_in_frame_of(path, points_m[there]), colors=colors)
    _write(path, cloud, overwrite=overwrite)


def write_mesh(path: Path, mesh: Mesh, *, photo: Pixels | None = None, overwrite: bool = False) -> None:
    """Mesh of `to_mesh` -> .ply or .glb, with colours at its vertices where there is a photo. Raises as
    `write_points`."""
    _check(path)
    import trimesh

    surface = trimesh.Trimesh(
        _in_frame_of(path, mesh.vertices),
        mesh.faces,
        vertex_colors=None if photo is None else photo.reshape(-1, 3)[mesh.pixels],
        process=False,  # vertices stay as they are
    )
    _write(path, surface, overwrite=overwrite)


def _check(path: Path) -> None:
    if path.suffix.lower() not in ENDINGS:
        raise OutputError(f"{path} cannot hold points: name a file that ends in {' or '.join(ENDINGS)}.")
    check_trimesh()


def _in_frame_of(path: Path, points_m: NDArray[np.float32]) -> NDArray[np.float32]:
    if not len(points_m):
        raise OutputError(f"{path} would be empty: no pixel has a depth in metres. Look at the calibration.")
    return points_m * _TO_GLTF if path.suffix.lower() == ".glb" else points_m


def _write(path: Path, scene: Any, *, overwrite: bool) -> None:
    files.write_bytes(path, scene.export(file_type=path.suffix.lower()[1:]), overwrite=overwrite)
