"""seeds -> shards of photos and depth pictures on disk, rendered by training.scenes, resumable.

    python -m training.data.procedural runs/nano/scenes --count 24000 --workers 2
    python -m training.data.procedural rooms --count 12000 --mix hand-held --photos DIR --photos-licence TEXT

A shard is a folder of one shape with `photos.npy` (uint8 N×H×W×3, RGB), `depth.npy` (uint16 N×H×W, the
normalised depth picture: 0 = near = -1, 65535 = far = +1) and `range_m.npy` (float32 N×2, metres of -1 and
+1). It is written beside its place and renamed when whole, so a killed run leaves nothing that looks
finished and the same command goes on. `source.json` in the folder says which layouts the scenes are of, and
from whose photos their textures are.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import hashlib
import multiprocessing
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from fiffdepth_rt.atomic import replacing
from fiffdepth_rt.program.options import named_path
from fiffdepth_rt.space import Space
from training.data.images import LICENCE, PhotoFolder
from training.data.normalise import near_and_far
from training.data.normalise import normalise as normalise_depth
from training.data.samples import DataError, Pair, SampleError
from training.scenes.layouts import MIXES, WORLD, Mix
from training.scenes.render import render_scene
from training.scenes.scene import FAR_M

SHAPES = ((192, 256), (192, 256), (192, 256), (256, 192), (256, 256))
"""Shard i has shape SHAPES[i % 5], times the scale that is asked for: three of five are 4:3 landscape."""
HELD_OUT_SEED = 1 << 40
"""Seeds from here on are never trained on."""


def normalise(depth_m: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rendered depth in metres -> depth picture in [-1, 1], near = -1.

    The sky takes no part in the quantiles and ends up at +1.
    Raises SampleError when there is no surface or it is flat: such a picture teaches nothing.
    """
    return normalise_depth(depth_m, depth_m < FAR_M, space=Space.DEPTH)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shard:
    """photos uint8 N×H×W×3 and depth uint16 N×H×W, both memory-mapped; range_m as in `to_metres`.

    range_m: None in shards that were rendered before it was kept.
    """

    photos: NDArray[np.uint8]
    depth: NDArray[np.uint16]
    range_m: NDArray[np.float32] | None


class Source(msgspec.Struct, frozen=True, kw_only=True):
    """What a folder of shards is made of. photos: how many there were; photos_sha256: of their names."""

    mix: str
    photos: int = 0
    photos_sha256: str = ""
    photos_licence: str = ""

    @classmethod
    def of(cls, mix: Mix, photos: PhotoFolder | None) -> Source:
        if photos is None:
            return cls(mix=mix.name)
        names = "\n".join(photos.names).encode()
        return cls(
            mix=mix.name,
            photos=len(photos),
            photos_sha256=hashlib.sha256(names).hexdigest(),
            photos_licence=photos.licence,
        )

    @property
    def licence(self) -> str:
        return f"Apache-2.0; textures from photos: {self.photos_licence}" if self.photos else "Apache-2.0"


SOURCE = "source.json"


def source_of(folder: str | Path) -> Source:
    """Without source.json: WORLD without photos, as before there was another. Raises DataError."""
    try:
        return msgspec.json.decode((Path(folder) / SOURCE).read_bytes(), type=Source)
    except FileNotFoundError:
        return Source(mix=WORLD.name)
    except (OSError, msgspec.DecodeError) as error:
        raise DataError(f"{folder}/{SOURCE} is damaged ({error}): render the scenes anew.") from error


def to_picture(depth: NDArray[np.uint16]) -> NDArray[np.float32]:
    """Stored uint16 -> depth picture in [-1, 1]."""
    return depth.astype(np.float32) * (2 / 65535) - 1


def to_metres(depth: NDArray[np.uint16], range_m: NDArray[np.float32]) -> NDArray[np.float32]:
    """Stored uint16 H×W, the metres of its ends -> metres. What was clipped stays so; the sky is last."""
    near, far = range_m
    return near + depth.astype(np.float32) * ((far - near) / 65535)


def render_shard(
    folder: Path,
    index: int,
    *,
    per_shard: int,
    seed_base: int,
    scale: int = 1,
    mix: Mix = WORLD,
    photos: Sequence[Path] = (),
) -> None:
    """Render the scenes of shard `index`, unless it is there. mix, photos: as in `render_scene`."""
    place = folder / f"{index:05d}"
    if place.exists():
        return
    h, w = SHAPES[index % len(SHAPES)]
    shape = (scale * h, scale * w)
    pixels = np.empty((per_shard, *shape, 3), np.uint8)
    depth = np.empty((per_shard, *shape), np.uint16)
    range_m = np.empty((per_shard, 2), np.float32)
    for i in range(per_shard):
        sample = render_scene(seed_base + index * per_shard + i, shape, mix=mix, photos=photos)
        pixels[i] = sample.photo
        range_m[i] = near_and_far(sample.depth_m, sample.depth_m < FAR_M, "scene")
        depth[i] = np.round((normalise(sample.depth_m) + 1) * (65535 / 2))
    partial = folder / f"{index:05d}.partial-{os.getpid()}"
    partial.mkdir()
    np.save(partial / "photos.npy", pixels)
    np.save(partial / "depth.npy", depth)
    np.save(partial / "range_m.npy", range_m)
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
        photos=np.load(path / "photos.npy", mmap_mode="r"),
        depth=np.load(path / "depth.npy", mmap_mode="r"),
        range_m=np.load(path / "range_m.npy") if (path / "range_m.npy").exists() else None,
    )


class ProceduralScenes:
    """Rendered scenes of one shape -> Pair. Every pixel is valid: the sky is far, and that is to be learnt.

    Raises DataError: no shard of this shape; a space other than "depth", as metres are not kept.
    """

    def __init__(self, folder: str | Path, *, space: Space, shape_hw: tuple[int, int]) -> None:
        if space != "depth":
            raise DataError(
                f'Procedural shards hold depth pictures, not metres, so the space "{space}" is out of reach: '
                'train in the space "depth", or leave them out.'
            )
        self.space = space
        self.licence = source_of(folder).licence
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
    folder: Path,
    *,
    count: int,
    workers: int,
    per_shard: int = 200,
    seed_base: int = 0,
    scale: int = 1,
    mix: Mix = WORLD,
    photos: PhotoFolder | None = None,
) -> None:
    """Render at least `count` scenes into `folder`, in whole shards; those already there are kept.

    scale: times SHAPES. The same seed is the same scene at any scale. photos: parts of which surfaces show.
    Raises DataError where the folder holds scenes of another mix, or with other photos.
    """
    folder.mkdir(parents=True, exist_ok=True)
    source = Source.of(mix, photos)
    if (folder / SOURCE).exists() or shard_paths(folder):
        if (there := source_of(folder)) != source:
            raise DataError(
                f"{folder} holds scenes of another source: name another folder, or delete it. "
                f"There: {there}. Asked for: {source}."
            )
    else:
        with replacing(folder / SOURCE) as file:
            file.write(msgspec.json.format(msgspec.json.encode(source)))
    for leftover in folder.glob("*.partial-*"):
        shutil.rmtree(leftover)
    todo = [i for i in range(-(-count // per_shard)) if not (folder / f"{i:05d}").exists()]
    job = functools.partial(
        render_shard,
        folder,
        per_shard=per_shard,
        seed_base=seed_base,
        scale=scale,
        mix=mix,
        photos=() if photos is None else [photos.root / name for name in photos.names],
    )
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
    parser.add_argument(
        "--mix",
        choices=[mix.name for mix in MIXES],
        default=WORLD.name,
        help="everything, or what people point a phone at (default: %(default)s)",
    )
    parser.add_argument("--photos", type=named_path, help="folder of photos whose parts surfaces show")
    parser.add_argument("--photos-licence", default=LICENCE, help="where they come from, for checkpoints")
    args = parser.parse_args()
    photos = None if args.photos is None else PhotoFolder(args.photos, licence=args.photos_licence)
    render_all(
        args.folder,
        count=args.count,
        workers=args.workers,
        seed_base=HELD_OUT_SEED if args.held_out else 0,
        scale=args.scale,
        mix=next(mix for mix in MIXES if mix.name == args.mix),
        photos=photos,
    )


if __name__ == "__main__":
    main()
