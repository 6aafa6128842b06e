"""scenes -> the backbone's features on disk: while the backbone is frozen, each photo goes through it once.

A cache is a folder per shard: `features_0.npy` … `features_4.npy` (float16 N×C×h×w, strides 2 to 32) and
`log_depth.npy` (float16 N×H×W, ln of metres), of photos augmented once each, half of them mirrored. It is
written beside its place and renamed when whole.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from training import augment
from training.data import procedural
from training.errors import TrainingError
from training.log_depth.backbone import STRIDES, Backbone
from training.loop import autocast

BATCH = 20


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cached:
    """features[i]: N×C×h×w float16, memory-mapped; log_depth: N×H×W float16."""

    features: list[NDArray[np.float16]]
    log_depth: NDArray[np.float16]


def scene(shard: procedural.Shard, index: int) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """-> photo H×W×3 and ln of its metres H×W. Raises TrainingError for shards that keep no metres."""
    if shard.range_m is None:
        raise TrainingError("These scenes were rendered without their metres: render them anew.")
    return shard.photos[index], np.log(procedural.to_metres(shard.depth[index], shard.range_m[index]))


def seen_otherwise(
    photo: NDArray[np.uint8], log_depth: NDArray[np.float32], rng: np.random.Generator, *, strength: float
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """The tones, blur, noise and JPEG of a camera, half of the time mirrored."""
    if rng.random() < 0.5:
        photo, log_depth = photo[:, ::-1], log_depth[:, ::-1]
    photo = np.ascontiguousarray(photo)
    return augment.expose(augment.develop(photo, rng), rng, strength=strength), log_depth


def as_tensor(photos: list[NDArray[np.uint8]]) -> torch.Tensor:
    """uint8 H×W×3 each -> float N×3×H×W in 0 … 255."""
    return torch.from_numpy(np.stack(photos)).permute(0, 3, 1, 2).float()


def cache(scenes: Path, folder: Path, backbone: Backbone, *, strength: float) -> list[Cached]:
    """Every shard of `scenes` through the backbone; what `folder` has is kept. strength 0: as rendered."""
    backbone.eval()
    folder.mkdir(parents=True, exist_ok=True)
    for leftover in folder.glob("*.partial-*"):
        shutil.rmtree(leftover)
    out = []
    for path in tqdm(procedural.shard_paths(scenes), desc=f"features {scenes.name}", unit="shard"):
        place = folder / path.name
        if not place.exists():
            _cache_shard(procedural.open_shard(path), place, backbone, seed=int(path.name), strength=strength)
        features = [np.load(place / f"features_{i}.npy", mmap_mode="r") for i in range(len(STRIDES))]
        out.append(Cached(features=features, log_depth=np.load(place / "log_depth.npy", mmap_mode="r")))
    return out


def _cache_shard(
    shard: procedural.Shard, place: Path, backbone: Backbone, *, seed: int, strength: float
) -> None:
    rng = np.random.default_rng([71, seed])
    features: list[list[NDArray[np.float16]]] = [[] for _ in STRIDES]
    depths = []
    for first in range(0, len(shard.photos), BATCH):
        photos = []
        for index in range(first, min(first + BATCH, len(shard.photos))):
            photo, log_depth = scene(shard, index)
            if strength:
                photo, log_depth = seen_otherwise(photo, log_depth, rng, strength=strength)
            photos.append(photo)
            depths.append(log_depth.astype(np.float16))
        with torch.no_grad(), autocast():
            for level, feature in enumerate(backbone(as_tensor(photos))):
                features[level].append(feature.half().numpy())
    partial = place.with_name(f"{place.name}.partial-{os.getpid()}")
    partial.mkdir()
    for level, parts in enumerate(features):
        np.save(partial / f"features_{level}.npy", np.concatenate(parts))
    np.save(partial / "log_depth.npy", np.stack(depths))
    partial.rename(place)
