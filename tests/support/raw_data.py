"""Small files in the layouts of the real datasets, byte by byte what their publishers write."""

from __future__ import annotations

import csv
import io
import tarfile
from pathlib import Path

import h5py
import numpy as np
from PIL import Image

HYPERSIM_HW = (24, 32)


def write_hypersim_frame(
    raw: Path,
    frame_id: int,
    *,
    scene: str = "ai_001_001",
    camera: str = "cam_00",
    color: np.ndarray | None = None,
    distance_m: np.ndarray | None = None,
    entity: np.ndarray | None = None,
) -> None:
    """One frame as ml-hypersim's archives have it: float16 colour and distance, int32 entity ids."""
    rng = np.random.default_rng(frame_id)
    color = rng.gamma(2, 0.3, (*HYPERSIM_HW, 3)) if color is None else color
    if distance_m is None:
        distance_m = np.linspace(1, 6, HYPERSIM_HW[0] * HYPERSIM_HW[1]).reshape(HYPERSIM_HW)
    entity = np.full(HYPERSIM_HW, 7) if entity is None else entity
    images = raw / scene / "images"
    for folder, kind, values in (
        ("final", "color", color.astype(np.float16)),
        ("geometry", "depth_meters", distance_m.astype(np.float16)),
        ("geometry", "render_entity_id", entity.astype(np.int32)),
    ):
        place = images / f"scene_{camera}_{folder}_hdf5"
        place.mkdir(parents=True, exist_ok=True)
        with h5py.File(place / f"frame.{frame_id:04d}.{kind}.hdf5", "w") as file:
            file.create_dataset("dataset", data=values, compression="gzip")


def write_hypersim_split(raw: Path, rows: list[tuple[str, str, int, bool, str]]) -> Path:
    """metadata_images_split_scene_v1.csv of (scene, camera, frame, in the public release, split)."""
    raw.mkdir(parents=True, exist_ok=True)
    path = raw / "metadata_images_split_scene_v1.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(
            ["scene_name", "camera_name", "frame_id", "included_in_public_release", "exclude_reason",
             "split_partition_name"]
        )  # fmt: skip
        for scene, camera, frame_id, public, split in rows:
            writer.writerow([scene, camera, frame_id, public, "" if public else "blank", split])
    return path


def write_vkitti_frame(
    root: Path,
    number: int,
    *,
    scene: str = "Scene02",
    variation: str = "clone",
    camera: int = 0,
    depth_cm: np.ndarray | None = None,
    photo: np.ndarray | None = None,
) -> None:
    """One frame of 375×1242: JPEG, and 16-bit PNG in centimetres."""
    if depth_cm is None:
        depth_cm = np.linspace(65535, 300, 375)[:, None].repeat(1242, 1)
    photo = np.full((375, 1242, 3), 90, np.uint8) if photo is None else photo
    rgb = root / f"vkitti_2.0.3_rgb/{scene}/{variation}/frames/rgb/Camera_{camera}/rgb_{number:05d}.jpg"
    depth = (
        root / f"vkitti_2.0.3_depth/{scene}/{variation}/frames/depth/Camera_{camera}/depth_{number:05d}.png"
    )
    for path in (rgb, depth):
        path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(photo).save(rgb, quality=95)
    Image.fromarray(depth_cm.astype(np.uint16)).save(depth)


def encoded(photo: np.ndarray, ending: str = "png") -> bytes:
    """uint8 H×W×3 (or ×4, or H×W) -> a picture file."""
    buffer = io.BytesIO()
    Image.fromarray(photo).save(buffer, format={"jpg": "JPEG"}.get(ending, ending.upper()))
    return buffer.getvalue()


def write_tar(path: Path, members: dict[str, bytes]) -> None:
    """A shard: members in this order."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
