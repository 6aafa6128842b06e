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

from fiffdepth_rt.program.options import named_path
from fiffdepth_rt.space import Space
from training.data.normalise import normalise as normalise_depth
from training.data.samples import DataError, Pair, SampleError
from training.scenes.layouts import FAR_M
from training.scenes.render import render_scene

SHAPES = ((192, 256), (192, 256), (192, 256), (256, 192), (256, 256))
"""Shard i has shape SHAPES[i % 5], times the scale that is asked for: three of five are 4:3 landscape."""
HELD_OUT_SEED = 1 << 40
"""Seeds from here on are never trained on."""


def normalise(depth_m: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rendered depth in metres -> depth picture in [-1, 1], near = -1.

    The sky takes no part in the quantiles and ends up at +1.
    Raises SampleError when there is no surface or it is flat: such a picture teaches nothing.
    """
    return normalise_depth(depth_m, depth_m < FAR_M, space="depth")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shard:
    """photos uint8 N×H×W×3 and depth uint16 N×H×W, both memory-mapped."""

    photos: NDArray[np.uint8]
    depth: NDArray[np.uint16]


def to_picture(depth: NDArray[np.uint16]) -> NDArray[np.float32]:
    """Stored uint16 -> depth picture in [-1, 1]."""
    return depth.astype(np.float32) * (2 / 65535) - 1


def render_shard(folder: Path, index: int, *, per_shard: int, seed_base: int, scale: int = 1) -> None:
    """Render the scenes of shard `index`, unless it is there."""
    place = folder / f"{index:05d}"
    if place.exists():
        return
    h, w = SHAPES[index % len(SHAPES)]
    shape = (scale * h, scale * w)
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


class ProceduralScenes:
    """Rendered scenes of one shape -> Pair. Every pixel is valid: the sky is far, and that is to be learnt.

    Raises DataError: no shard of this shape; a space other than "depth", as metres are not kept.
    """

    licence = "Apache-2.0"

    def __init__(self, folder: str | Path, *, space: Space, shape_hw: tuple[int, int]) -> None:
        if space != "depth":
            raise DataError(
                f'Procedural shards hold depth pictures, not metres, so the space "{space}" is out of reach: '
                'train in the space "depth", or leave them out.'
            )
        self.space = space
        self.name = f"procedural-{shape_hw[0]}x{shape_hw[1]}"
        self._shards = [path for path in _shards_in(folder) if _shape_of(path)[1:] == shape_hw]
        if not self._shards:
            raise DataError(f"{folder} holds no shard of {shape_hw[0]}×{shape_hw[1]}: render more scenes.")
        self._ends = np.cumsum([_shape_of(path)[0] for path in self._shards])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, index: int) -> Pair:
        if not 0 <= index < len(self):
            raise IndexError(index)
        at = int(np.searchsorted(self._ends, index, side="right"))
        row = index - (int(self._ends[at - 1]) if at else 0)
        name = f"{self._shards[at].name}/{row:05d}"
        try:
            shard = open_shard(self._shards[at])
            photo, picture = np.array(shard.photos[row]), to_picture(shard.depth[row])
        except (OSError, ValueError, IndexError) as error:
            raise SampleError(name, f"{self._shards[at]} is damaged ({error})") from error
        return Pair(photo=photo, picture=picture, valid=np.ones(picture.shape, np.bool_), name=name)


def by_shape(folder: str | Path, *, space: Space) -> list[ProceduralScenes]:
    """The scenes in a folder, one dataset per shape: a batch is of one. Raises DataError."""
    shapes = sorted({_shape_of(path)[1:] for path in _shards_in(folder)})
    return [ProceduralScenes(folder, space=space, shape_hw=shape) for shape in shapes]


def _shards_in(folder: str | Path) -> list[Path]:
    if not Path(folder).is_dir() or not (paths := shard_paths(Path(folder))):
        raise DataError(
            f"{folder} holds no rendered scenes: `python -m training.data.procedural {folder} --count 24000`."
        )
    return paths


def _shape_of(shard: Path) -> tuple[int, int, int]:
    """(N, H, W), from the header of its depth. Raises DataError."""
    try:
        count, height, width = np.load(shard / "depth.npy", mmap_mode="r").shape
    except (OSError, ValueError) as error:
        raise DataError(f"{shard} is damaged ({error}): delete it, and render it again.") from error
    return count, height, width


def render_all(
    folder: Path, *, count: int, workers: int, per_shard: int = 200, seed_base: int = 0, scale: int = 1
) -> None:
    """Render at least `count` scenes into `folder`, in whole shards; those already there are kept.

    scale: times SHAPES. The same seed is the same scene at any scale.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for leftover in folder.glob("*.partial-*"):
        shutil.rmtree(leftover)
    todo = [i for i in range(-(-count // per_shard)) if not (folder / f"{i:05d}").exists()]
    job = functools.partial(render_shard, folder, per_shard=per_shard, seed_base=seed_base, scale=scale)
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
    parser.add_argument("folder", type=named_path)
    parser.add_argument(
        "--count", type=int, required=True, help="scenes to render, rounded up to whole shards"
    )
    parser.add_argument(
        "--workers", type=int, default=os.cpu_count() or 1, help="processes (default: all cores)"
    )
    parser.add_argument(
        "--held-out", action="store_true", help="render from the seeds that training never sees"
    )
    parser.add_argument(
        "--scale", type=int, default=1, help="sides in multiples of 192 to 256 px (default: %(default)s)"
    )
    args = parser.parse_args()
    render_all(
        args.folder,
        count=args.count,
        workers=args.workers,
        seed_base=HELD_OUT_SEED if args.held_out else 0,
        scale=args.scale,
    )


if __name__ == "__main__":
    main()
