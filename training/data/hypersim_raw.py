"""Hypersim as published (HDF5) -> what hypersim.py reads: RGB and plane depth as PNG, lists of frames.

    RAW/
      metadata_images_split_scene_v1.csv                        which frames, in which split
      ai_001_001/images/
        scene_cam_00_final_hdf5/frame.0000.color.hdf5           H×W×3, linear light
        scene_cam_00_geometry_hdf5/frame.0000.depth_meters.hdf5      H×W, distance to the camera's centre
        scene_cam_00_geometry_hdf5/frame.0000.render_entity_id.hdf5  H×W, -1 = nothing was hit

The numbers are those of Marigold's preprocessing, with one difference: depth beyond 65.535 m, which 16 bits
of millimetres cannot hold, is clipped to 65535 instead of wrapping around to a small depth. Clipped rather
than zeroed, so that such a pixel stays far where it is seen at all; training takes neither, both are outside
of the valid range.

One unit of work is a camera of a scene: its PNG files, then its table `frames_cam_00.csv`, each whole or not
there. A run that was stopped goes on after the last whole table.
"""

from __future__ import annotations

import collections
import concurrent.futures
import contextlib
import csv
import dataclasses
import functools
import io
import itertools
import json
import logging
import multiprocessing
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import cv2
import h5py
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from fiffdepth_rt.atomic import replacing
from training.data import hypersim
from training.data.samples import DataError, SampleError

log = logging.getLogger("training")

FOCAL_PX = 886.81
"""Of all scenes alike, at 1024×768 (the fov is 60°), unless camera parameters are given."""
BRIGHTNESS, PERCENTILE, GAMMA = 0.8, 90, 1 / 2.2
"""The 90th percentile of a frame's brightness becomes 0.8 of white."""
TOO_DARK = 1e-4
MAX_INVALID_RATIO, MIN_RGB_RANGE, MIN_DEPTH_RANGE_M = 0.03, 10, 0.5
"""What makes Marigold's list of 53,885 frames, as its authors say (prs-eth/Marigold#158)."""
SPLIT_CSV = "metadata_images_split_scene_v1.csv"
MISSING, DAMAGED = "missing", "damaged"
"""Reasons that a later run may find gone."""


# ---- one frame: pure functions ----


def tone_map(color: NDArray, entity: NDArray) -> NDArray[np.uint8]:
    """Linear light H×W×3, entity ids H×W -> 8-bit RGB, truncated.

    rgb = clip((s c)^(1/2.2), 0, 1) with s = 0.8^2.2 / p90, p90 over the brightness .3R + .59G + .11B of the
    pixels that show something; s = 1 where none does, 0 (black) where p90 < 1e-4.
    """
    shows = entity != -1
    scale = 1.0
    if shows.any():
        brightness = color[shows].astype(np.float64) @ [0.3, 0.59, 0.11]
        current = np.percentile(brightness, PERCENTILE)
        scale = 0.0 if current < TOO_DARK else BRIGHTNESS ** (1 / GAMMA) / current
    mapped = np.maximum(scale * color.astype(np.float64), 0) ** GAMMA
    return (np.clip(mapped, 0, 1) * 255).astype(np.uint8)


def pinhole(height: int, width: int, *, focal_px: float = FOCAL_PX) -> NDArray[np.float64]:
    """H×W: cosine between each pixel's ray and the optical axis; plane depth = distance × cosine."""
    x = np.linspace(-width / 2 + 0.5, width / 2 - 0.5, width)
    y = np.linspace(-height / 2 + 0.5, height / 2 - 0.5, height)[:, None]
    return focal_px / np.sqrt(x**2 + y**2 + focal_px**2)


def scene_camera(height: int, width: int, cam_from_uv: NDArray[np.float64]) -> NDArray[np.float64]:
    """As `pinhole`, of a scene's own camera: ray = cam_from_uv (u, v, 1); u right, v up, both in (-1, 1).

    cam_from_uv: 3×3, the columns M_cam_from_uv_* of Hypersim's metadata_camera_parameters.csv.
    """
    u, v = np.meshgrid(np.linspace(-1 + 1 / width, 1 - 1 / width, width),
                       np.linspace(1 - 1 / height, -1 + 1 / height, height))  # fmt: skip
    rays = np.stack([u, v, np.ones_like(u)], axis=-1) @ cam_from_uv.T
    return -rays[..., 2] / np.linalg.norm(rays, axis=-1)


def to_millimetres(distance_m: NDArray, entity: NDArray, cosine: NDArray[np.float64]) -> NDArray[np.uint16]:
    """Distance, entity ids, cosines, H×W each -> plane depth in whole millimetres (truncated).

    0 where nothing was hit or the distance is not a finite one above 0; clipped at 65535.
    """
    distance_m = distance_m.astype(np.float64)
    valid = (entity != -1) & np.isfinite(distance_m) & (distance_m > 0)
    millimetres = np.where(valid, distance_m, 0) * cosine * 1000
    return np.minimum(millimetres, 65535).astype(np.uint16)


# ---- all frames ----


@dataclasses.dataclass(frozen=True, kw_only=True)
class Frame:
    """A row of filename_meta_*.csv. excluded: "" = in the list of frames; else why not."""

    scene_name: str
    camera_name: str
    frame_id: int
    split_partition_name: str
    rgb_path: str = ""
    depth_path: str = ""
    invalid_ratio: float = 1.0
    rgb_min: int = 0
    rgb_max: int = 0
    rgb_mean: float = 0.0
    depth_min_m: float = 0.0
    depth_max_m: float = 0.0
    excluded: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prepared:
    """What came of it, in all. excluded: frames by reason. damaged: raw files that cannot be read."""

    used: int
    excluded: dict[str, int]
    damaged: tuple[str, ...]


def prepare(
    raw: Path,
    out: Path,
    *,
    split_csv: Path | None = None,
    camera_parameters: Path | None = None,
    splits: Iterable[str] = ("train", "val", "test"),
    workers: int = 1,
) -> Prepared:
    """Raw Hypersim -> prepared Hypersim. Goes on after a stop, and after more was downloaded.

    split_csv: None = the one in `raw`. camera_parameters: metadata_camera_parameters.csv, for each scene's
    own camera; None = FOCAL_PX for all, as Marigold does.
    Raises DataError (no such table, another kind of folder in `out`), OutputError (disk full).
    """
    frames = read_split(split_csv or raw / SPLIT_CSV, splits=tuple(splits))
    cameras = read_cameras(camera_parameters) if camera_parameters else {}
    out.mkdir(parents=True, exist_ok=True)
    _describe(out, own_cameras=bool(cameras))
    by_camera = collections.defaultdict(list)
    for frame in frames:
        by_camera[frame.split_partition_name, frame.scene_name, frame.camera_name].append(frame)
    job = functools.partial(_prepare_camera, raw, out, cameras=cameras if camera_parameters else None)
    done: list[Frame] = []
    with contextlib.ExitStack() as stack:
        progress = stack.enter_context(tqdm(total=len(frames), desc="hypersim", unit="frame"))
        finished: Iterable[list[Frame]] = map(job, by_camera.values())
        if workers > 1:
            spawn = multiprocessing.get_context("spawn")
            pool = concurrent.futures.ProcessPoolExecutor(workers, mp_context=spawn)
            stack.callback(pool.shutdown, cancel_futures=True)
            jobs = [pool.submit(job, camera) for camera in by_camera.values()]
            finished = (future.result() for future in concurrent.futures.as_completed(jobs))
        for rows in finished:
            done += rows
            progress.update(len(rows))
    done.sort(key=lambda row: (row.scene_name, row.camera_name, row.frame_id))
    for split in sorted({row.split_partition_name for row in done}):
        _write_lists(out / split, split, [row for row in done if row.split_partition_name == split])
    reasons = collections.Counter(_reason(row.excluded) for row in done if row.excluded)
    damaged = tuple(row.excluded for row in done if _reason(row.excluded) == DAMAGED)
    return Prepared(used=sum(not row.excluded for row in done), excluded=dict(reasons), damaged=damaged)


def read_split(path: Path, *, splits: tuple[str, ...]) -> list[Frame]:
    """metadata_images_split_scene_v1.csv -> the published frames of these splits. Raises DataError."""
    names = ("scene_name", "camera_name", "split_partition_name")
    frames = []
    for row in _rows(path, (*names, "frame_id", "included_in_public_release")):
        if row["included_in_public_release"] == "True" and row["split_partition_name"] in splits:
            scene, camera, partition = (row[name] for name in names)
            if any(not name.replace("_", "").isalnum() for name in (scene, camera, partition)):
                named = f"{scene}, {camera}, {partition}"
                raise DataError(f"{path} names {named}: not names of Hypersim's scenes and cameras.")
            frames.append(
                Frame(
                    scene_name=scene,
                    camera_name=camera,
                    frame_id=int(row["frame_id"]),
                    split_partition_name=partition,
                )
            )
    if not frames:
        raise DataError(f"{path} holds no published frame of {', '.join(splits)}.")
    return frames


def read_cameras(path: Path) -> dict[str, list[list[float]]]:
    """metadata_camera_parameters.csv -> 3×3 matrix by scene. Raises DataError."""
    columns = [[f"M_cam_from_uv_{i}{j}" for j in range(3)] for i in range(3)]
    rows = _rows(path, ("scene_name", *itertools.chain(*columns)))
    return {row["scene_name"]: [[float(row[name]) for name in line] for line in columns] for row in rows}


def _rows(path: Path, needed: tuple[str, ...]) -> list[dict[str, str]]:
    try:
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} cannot be read ({error}): it comes with apple/ml-hypersim.") from error
    if not rows or any(name not in rows[0] for name in needed):
        raise DataError(f"{path} is not that table: its columns must have {', '.join(needed)}.")
    return rows


def _describe(out: Path, *, own_cameras: bool) -> None:
    """Write dataset.json, or see that it says the same as now."""
    description = {
        "dataset": "hypersim",
        "source": hypersim.SOURCE,
        "licence": hypersim.LICENCE,
        "rgb": f"p{PERCENTILE} of the brightness to {BRIGHTNESS}, gamma {GAMMA:.4f}, 8 bit, truncated",
        "depth": "16 bit, millimetres along the optical axis, truncated; 0 = invalid, 65535 = all beyond",
        "camera": "each scene's M_cam_from_uv" if own_cameras else f"focal length {FOCAL_PX} px",
        "list": f"invalid ratio <= {MAX_INVALID_RATIO}, RGB range >= {MIN_RGB_RANGE}, "
        f"depth range >= {MIN_DEPTH_RANGE_M} m",
    }
    path = out / "dataset.json"
    if path.exists():
        try:
            there = json.loads(path.read_bytes())
        except ValueError as error:
            raise DataError(f"{path} cannot be read ({error}): name an empty folder.") from error
        if there != description:
            raise DataError(f"{out} was prepared in another way ({path}): name another folder.")
        return
    with replacing(path) as file:
        file.write(json.dumps(description, indent=2).encode())


def _prepare_camera(
    raw: Path, out: Path, frames: list[Frame], *, cameras: dict[str, list[list[float]]] | None
) -> list[Frame]:
    """Frames of one camera -> the same with what came of them; their PNG files and table are on disk then."""
    first = frames[0]
    folder = out / first.split_partition_name / first.scene_name
    table = folder / f"frames_{first.camera_name}.csv"
    done = {
        row.frame_id: row for row in _read_table(table) if _reason(row.excluded) not in (MISSING, DAMAGED)
    }
    if all(frame.frame_id in done for frame in frames):
        return [done[frame.frame_id] for frame in frames]
    images = raw / first.scene_name / "images"
    if not (images / f"scene_{first.camera_name}_final_hdf5").is_dir():
        return [dataclasses.replace(frame, excluded=MISSING) for frame in frames]
    folder.mkdir(parents=True, exist_ok=True)
    matrix = None
    if cameras is not None:
        if first.scene_name not in cameras:
            raise DataError(
                f"The camera parameters lack scene {first.scene_name}: leave them out, or name all."
            )
        matrix = np.array(cameras[first.scene_name])
    rows = [done.get(frame.frame_id) or _prepare_frame(images, folder, frame, matrix) for frame in frames]
    _write_table(table, rows)
    return rows


def _prepare_frame(images: Path, folder: Path, frame: Frame, matrix: NDArray[np.float64] | None) -> Frame:
    stem = f"{frame.camera_name}_final_hdf5/frame.{frame.frame_id:04d}"
    geometry = f"{frame.camera_name}_geometry_hdf5/frame.{frame.frame_id:04d}"
    paths = [
        images / f"scene_{stem}.color.hdf5",
        images / f"scene_{geometry}.depth_meters.hdf5",
        images / f"scene_{geometry}.render_entity_id.hdf5",
    ]
    if not all(path.exists() for path in paths):
        return dataclasses.replace(frame, excluded=MISSING)
    try:
        color, distance_m, entity = (_hdf5(path) for path in paths)
        hw = entity.shape
        if len(hw) != 2 or distance_m.shape != hw or color.shape != (*hw, 3):
            raise SampleError(
                str(paths[0]), f"{color.shape}, {distance_m.shape} and {hw} are not of one frame"
            )
        if not np.isfinite(color).all():
            raise SampleError(str(paths[0]), f"{(~np.isfinite(color)).sum()} values are not finite")
        if (entity == 0).any():
            raise SampleError(str(paths[2]), "has entity 0, which a finished frame does not")
    except SampleError as error:
        log.warning("Excluded %s", error)
        return dataclasses.replace(frame, excluded=f"{DAMAGED}: {error}")
    rgb = tone_map(color, entity)
    cosine = pinhole(*hw) if matrix is None else scene_camera(*hw, matrix)
    depth_mm = to_millimetres(distance_m, entity, cosine)
    seen_mm = depth_mm[depth_mm > 0]
    frame = dataclasses.replace(
        frame,
        rgb_path=f"{frame.scene_name}/rgb_{frame.camera_name}_fr{frame.frame_id:04d}.png",
        depth_path=f"{frame.scene_name}/depth_plane_{frame.camera_name}_fr{frame.frame_id:04d}.png",
        invalid_ratio=float((depth_mm == 0).mean()),
        rgb_min=int(rgb.min()),
        rgb_max=int(rgb.max()),
        rgb_mean=float(rgb.mean()),
        depth_min_m=float(seen_mm.min() / 1000) if seen_mm.size else 0.0,
        depth_max_m=float(seen_mm.max() / 1000) if seen_mm.size else 0.0,
    )
    _write_png(folder.parent / frame.rgb_path, cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))
    _write_png(folder.parent / frame.depth_path, depth_mm)
    return dataclasses.replace(frame, excluded=verdict(frame))


def verdict(frame: Frame) -> str:
    """Why this frame should not be trained on; "" if it should."""
    if frame.invalid_ratio > MAX_INVALID_RATIO:
        return f"invalid: {frame.invalid_ratio:.1%} of the pixels"
    if frame.rgb_max - frame.rgb_min < MIN_RGB_RANGE:
        return f"blank: RGB from {frame.rgb_min} to {frame.rgb_max}"
    if frame.depth_max_m - frame.depth_min_m < MIN_DEPTH_RANGE_M:
        return f"flat: depth from {frame.depth_min_m:.2f} to {frame.depth_max_m:.2f} m"
    return ""


def _reason(excluded: str) -> str:
    return excluded.partition(":")[0]


def _hdf5(path: Path) -> NDArray:
    try:
        with h5py.File(path, "r") as file:
            return np.asarray(file["dataset"])
    except Exception as error:  # h5py raises OSError, KeyError, RuntimeError, ... on damaged files
        raise SampleError(str(path), f"damaged or cut off ({error})") from error


def _write_png(path: Path, pixels: NDArray) -> None:
    done, data = cv2.imencode(".png", pixels)
    assert done
    with replacing(path) as file:
        file.write(data.tobytes())


def _write_lists(folder: Path, split: str, rows: list[Frame]) -> None:
    folder.mkdir(exist_ok=True)
    _write_table(folder / f"filename_meta_{split}.csv", rows)
    with replacing(folder / f"filename_list_{split}.txt") as file:
        lines = (f"{row.rgb_path} {row.depth_path}\n" for row in rows if not row.excluded)
        file.write("".join(lines).encode())


def _write_table(path: Path, rows: list[Frame]) -> None:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, [field.name for field in dataclasses.fields(Frame)])
    writer.writeheader()
    writer.writerows(dataclasses.asdict(row) for row in rows)
    with replacing(path) as file:
        file.write(text.getvalue().encode())


def _read_table(path: Path) -> list[Frame]:
    if not path.exists():
        return []
    kinds: dict[str, Any] = {field.name: type(field.default) for field in dataclasses.fields(Frame)}
    kinds |= {"scene_name": str, "camera_name": str, "frame_id": int, "split_partition_name": str}
    with path.open(newline="") as file:
        return [
            Frame(**{name: kinds[name](text) for name, text in row.items()}) for row in csv.DictReader(file)
        ]
