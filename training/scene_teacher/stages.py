"""The stages of the teacher's training, each of which goes on where it was stopped."""

from __future__ import annotations

import copy
import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from training import loop, metrics, parallel
from training.data import procedural
from training.data.images import PhotoFolder
from training.log_depth.backbone import Backbone
from training.log_depth.network import WIDTHS, LogDepthNetwork, log_depth_loss
from training.loop import autocast
from training.scene_teacher import checkpoint
from training.scene_teacher.features import Cached, as_tensor, cache, scene, seen_otherwise
from training.scenes.layouts import HAND_HELD
from training.scenes.scene import FAR_M

SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
"""How far from the frozen stage's weights to the fine stage's: the best on held-out scenes is kept."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """How much of everything. processes: that train together in the fine stage, of one thread each.

    validation: held-out scenes scored after each save, from the beginning of each shard; selection: those by
    which the share is chosen, from the end.
    """

    scenes: int = 12_000
    held_out: int = 600
    per_shard: int = 200
    processes: int = 2
    validation: int = 80
    selection: int = 200
    strength: float = 0.5
    widths: tuple[int, ...] = WIDTHS
    frozen_batch: int = 8
    frozen: loop.Schedule = loop.Schedule(steps=4_800, lr=1e-3, save_every=250, average=0.995)
    fine_batch: int = 8
    fine: loop.Schedule = loop.Schedule(steps=1_500, lr=2e-4, save_every=100, average=0.995)
    scratch: loop.Schedule = loop.Schedule(steps=600, lr=1e-3, save_every=100, average=0.995)


TINY = Settings(
    scenes=2,
    held_out=2,
    per_shard=2,
    processes=1,
    validation=2,
    selection=2,
    widths=(8, 8, 8, 8, 8),
    frozen_batch=1,
    frozen=loop.Schedule(steps=2, lr=1e-3, save_every=1),
    fine_batch=1,
    fine=loop.Schedule(steps=2, lr=1e-4, save_every=1),
    scratch=loop.Schedule(steps=2, lr=1e-3, save_every=1),
)

MakeBackbone = Callable[[], Backbone]
"""Backbone.pretrained; tests start at random."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Score:
    """Means over scenes after a least-squares fit of scale and shift, 0 … 1."""

    abs_rel: float
    delta1: float


def train(
    run: Path,
    settings: Settings,
    *,
    photos: PhotoFolder | None = None,
    until: str = "all",
    make_backbone: MakeBackbone = Backbone.pretrained,
) -> Path | None:
    """Go on with the run up to the stage `until`; "all" -> the checkpoint. photos: what surfaces show."""
    render = functools.partial(
        procedural.render_all,
        workers=settings.processes,
        per_shard=settings.per_shard,
        mix=HAND_HELD,
        photos=photos,
    )
    render(run / "held_out", count=settings.held_out, seed_base=procedural.HELD_OUT_SEED)
    render(run / "scenes", count=settings.scenes)
    if until == "scenes":
        return None
    if until == "scratch":
        parallel.run(settings.processes, train_from_scratch, run, settings)
        return None
    cache_features(run, settings, make_backbone)
    parallel.run(settings.processes, train_frozen, run, settings, make_backbone)
    if until == "frozen":
        return None
    parallel.run(settings.processes, train_fine, run, settings, make_backbone)
    return choose(run, settings, make_backbone)


def cache_features(
    run: Path, settings: Settings, make_backbone: MakeBackbone
) -> tuple[list[Cached], list[Cached]]:
    """-> of the scenes to learn from, augmented, and of those held out, as rendered."""
    backbone = make_backbone()
    return (
        cache(run / "scenes", run / "features", backbone, strength=settings.strength),
        cache(run / "held_out", run / "features_held_out", backbone, strength=0),
    )


def train_frozen(run: Path, settings: Settings, make_backbone: MakeBackbone) -> None:
    """The decoder alone, on cached features."""
    torch.manual_seed(1)
    network = LogDepthNetwork(make_backbone(), widths=settings.widths)
    network.freeze(up_to=None)
    cached, unseen = cache_features(run, settings, make_backbone)
    held_out = _first(unseen, settings)
    sample = [torch.from_numpy(np.array(cached[0].features[i][:64])) for i in range(len(settings.widths))]
    network.decoder.standardise_by(sample)

    def loss_at(step: int) -> torch.Tensor:
        rng = np.random.default_rng([73, parallel.draw(step)])
        shard = cached[np.random.default_rng([89, step]).integers(len(cached))]
        picks = np.sort(rng.integers(0, len(shard.log_depth), settings.frozen_batch))
        with autocast():
            predicted = network.decoder([torch.from_numpy(f[picks]).float() for f in shard.features])
        return log_depth_loss(predicted, torch.from_numpy(shard.log_depth[picks]).float()[:, None])

    def validate(module: torch.nn.Module) -> dict[str, float]:
        assert isinstance(module, LogDepthNetwork)
        scores = []
        for shard, count in held_out:
            with torch.no_grad(), autocast():
                predicted = module.decoder(
                    [torch.from_numpy(np.array(f[:count])).float() for f in shard.features]
                )
            scores += _scores(predicted, np.exp(shard.log_depth[:count].astype(np.float32)))
        return dataclasses.asdict(_mean(scores))

    loop.fit(network, loss_at, settings.frozen, run / "frozen", validate=validate)


def train_fine(run: Path, settings: Settings, make_backbone: MakeBackbone) -> None:
    """Decoder and all blocks after stride 4, from photos augmented anew each time."""
    network = after(run, "frozen", settings, make_backbone)
    network.learn_after_stride_4()
    _train_on_photos(network, run, settings, settings.fine, run / "fine")


def train_from_scratch(run: Path, settings: Settings) -> None:
    """The same network from random weights, on the same scenes: what is the backbone worth?"""
    torch.manual_seed(2)
    network = LogDepthNetwork(Backbone(folded=False), widths=settings.widths)
    _train_on_photos(network, run, settings, settings.scratch, run / "scratch")


def _train_on_photos(
    network: LogDepthNetwork, run: Path, settings: Settings, schedule: loop.Schedule, place: Path
) -> None:
    shards = [procedural.open_shard(path) for path in procedural.shard_paths(run / "scenes")]

    def loss_at(step: int) -> torch.Tensor:
        rng = np.random.default_rng([79, parallel.draw(step)])
        shard = shards[np.random.default_rng([83, step]).integers(len(shards))]  # one shape in all processes
        photos, depths = [], []
        for index in np.sort(rng.integers(0, len(shard.photos), settings.fine_batch)):
            photo, log_depth = seen_otherwise(*scene(shard, index), rng, strength=settings.strength)
            photos.append(photo)
            depths.append(log_depth)
        with autocast():
            predicted = network(as_tensor(photos))
        return log_depth_loss(predicted, torch.from_numpy(np.stack(depths))[:, None])

    def validate(module: torch.nn.Module) -> dict[str, float]:
        assert isinstance(module, LogDepthNetwork)
        return dataclasses.asdict(held_out_score(module, run, settings.validation))

    loop.fit(network, loss_at, schedule, place, validate=validate)


def after(run: Path, stage: str, settings: Settings, make_backbone: MakeBackbone) -> LogDepthNetwork:
    """The network as "frozen" or "fine" left it."""
    network = LogDepthNetwork(make_backbone(), widths=settings.widths)
    loop.load_stage(network, run / stage)
    return network


def choose(run: Path, settings: Settings, make_backbone: MakeBackbone) -> Path:
    """Weights between frozen and fine, the share by held-out scenes alone -> the teacher's checkpoint."""
    result = run / "teacher.safetensors"
    if result.exists():
        return result
    before, moved = (after(run, stage, settings, make_backbone) for stage in ("frozen", "fine"))
    best: tuple[float, float, LogDepthNetwork] = (math.inf, 0.0, before)
    tried = {}
    for share in SHARES:
        network = copy.deepcopy(before)
        with torch.no_grad():
            for weight, target in zip(network.parameters(), moved.parameters(), strict=True):
                weight.lerp_(target, share)
        found = held_out_score(network, run, settings.selection, from_the_end=True)
        tried[share] = dataclasses.asdict(found)
        if found.abs_rel < best[0]:
            best = (found.abs_rel, share, network)
    source = procedural.source_of(run / "scenes")
    info = checkpoint.Info(widths=settings.widths, share=best[1], held_out=tried, scenes=source)
    return checkpoint.save(result, best[2], info)


def held_out_score(network: LogDepthNetwork, run: Path, count: int, *, from_the_end: bool = False) -> Score:
    """On at least `count` held-out scenes, as many of each shard."""
    network.eval()
    paths = procedural.shard_paths(run / "held_out")
    each = -(-count // len(paths))
    scores: list[metrics.Errors] = []
    for path in paths:
        shard = procedural.open_shard(path)
        total = len(shard.photos)
        picked = range(max(0, total - each), total) if from_the_end else range(min(each, total))
        pairs = [scene(shard, index) for index in picked]
        for first in range(0, len(pairs), 16):
            part = pairs[first : first + 16]
            with torch.no_grad(), autocast():
                predicted = network(as_tensor([photo for photo, _ in part]))
            scores += _scores(predicted, np.exp(np.stack([log_depth for _, log_depth in part])))
    return _mean(scores)


def _first(shards: Sequence[Cached], settings: Settings) -> list[tuple[Cached, int]]:
    each = -(-settings.validation // len(shards))
    return [(shard, min(each, len(shard.log_depth))) for shard in shards]


def _scores(predicted: torch.Tensor, truth_m: np.ndarray) -> list[metrics.Errors]:
    depth = predicted[:, 0].float().clamp(-10, 10).exp().numpy()
    return [
        metrics.score(d, t.astype(np.float32), space="depth", max_m=FAR_M)
        for d, t in zip(depth, truth_m, strict=True)
    ]


def _mean(scores: Sequence[metrics.Errors]) -> Score:
    mean = metrics.mean_image(scores)
    return Score(abs_rel=mean.abs_rel, delta1=mean.delta1)
