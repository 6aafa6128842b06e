"""seeds -> shards of photos and depth pictures on disk, rendered by training.scenes, resumable.

    python -m training.data.procedural runs/nano/scenes --count 24000 --workers 2

A shard is a folder of one shape with `photos.npy` (uint8 N×H×W×3, RGB) and `depth.npy` (uint16 N×H×W, the
normalised depth picture: 0 = near = -1, 65535 = far = +1). It is written beside its place and renamed when
whole, so a killed run leaves nothing that looks finished and the same command goes on.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import multiprocessing
import os
import shutil
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from training.scenes.layouts import FAR_M
from training.scenes.render import render_scene

SHAPES = ((192, 256), (192, 256), (192, 256), (256, 192), (256, 256))
"""Shard i has shape SHAPES[i % 5]: three of five are 4:3 landscape."""
HELD_OUT_SEED = 1 << 40
"""Seeds from here on are never trained on."""


def normalise(depth_m: NDArray[np.float32]) -> NDArray[np.float32]:
    """Depth in metres -> depth picture in [-1, 1], near = -1 (Marigold: 2 % and 98 % quantiles, clipped).

    The sky takes no part in the quantiles and ends up at +1.
    Raises ValueError when there is no surface or it is flat: such a picture teaches nothing.
    """
    surface = depth_m[depth_m < FAR_M]
    if surface.size == 0:
        raise ValueError("No surface in the picture: nothing to normalise by.")
    near, far = np.quantile(surface, [0.02, 0.98])
    if not far > near:
        raise ValueError(f"The picture is flat: 2 % and 98 % quantiles are both {near} m.")
    return np.clip((depth_m - near) / (far - near) * 2 - 1, -1, 1).astype(np.float32)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shard:
    """photos uint8 N×H×W×3 and depth uint16 N×H×W, both memory-mapped."""

    photos: NDArray[np.uint8]
    depth: NDArray[np.uint16]


def to_picture(depth: NDArray[np.uint16]) -> NDArray[np.float32]:
    """Stored uint16 -> depth picture in [-1, 1]."""
    return depth.astype(np.float32) * (2 / 65535) - 1


def render_shard(folder: Path, index: int, *, per_shard: int, seed_base: int) -> None:
    """Render the scenes of shard `index`, unless it is there."""
    place = folder / f"{index:05d}"
    if place.exists():
        return
    shape = SHAPES[index % len(SHAPES)]
    photos = np.empty((per_shard, *shape, 3), np.uint8)
    depth = np.empty((per_shard, *shape), np.uint16)
    for i in range(per_shard):
        sample = render_scene(seed_base + index * per_shard + i, shape)
        photos[i] = sample.photo
        depth[i] = np.round((normalise(sample.depth_m) + 1) * (65535 / 2))
    partial = folder / f"{index:05d}.partial-{os.getpid()}"
    partial.mkdir()
    np.save(partial / "photos.npy", photos)
    np.save(partial / "depth.npy", depth)
    try:
        partial.rename(place)
    except OSError:  # a worker of a killed run was still at it, and finished first: the same pixels
        if not place.exists():
            raise
        shutil.rmtree(partial)


def shard_paths(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.is_dir() and p.suffix == "")


def open_shard(path: Path) -> Shard:
    return Shard(
        photos=np.load(path / "photos.npy", mmap_mode="r"), depth=np.load(path / "depth.npy", mmap_mode="r")
    )


def render_all(folder: Path, *, count: int, workers: int, per_shard: int = 200, seed_base: int = 0) -> None:
    """Render at least `count` scenes into `folder`, in whole shards; those already there are kept."""
    folder.mkdir(parents=True, exist_ok=True)
    for leftover in folder.glob("*.partial-*"):
        shutil.rmtree(leftover)
    todo = [i for i in range(-(-count // per_shard)) if not (folder / f"{i:05d}").exists()]
    job = functools.partial(render_shard, folder, per_shard=per_shard, seed_base=seed_base)
    if not todo:
        return
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        done = pool.imap_unordered(job, todo)
        for _ in tqdm(done, total=len(todo), desc=f"render {folder.name}", unit="shard"):
            pass


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument(
        "--count", type=int, required=True, help="scenes to render, rounded up to whole shards"
    )
    parser.add_argument(
        "--workers", type=int, default=os.cpu_count() or 1, help="processes (default: all cores)"
    )
    parser.add_argument(
        "--held-out", action="store_true", help="render from the seeds that training never sees"
    )
    args = parser.parse_args()
    render_all(
        args.folder, count=args.count, workers=args.workers, seed_base=HELD_OUT_SEED if args.held_out else 0
    )


if __name__ == "__main__":
    main()
