"""The stages of the bundled model's training, each of which goes on where it was stopped.

A stage is a folder of the run, finished when its result is there; training/nano/__main__.py lists them.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from pathlib import Path

import msgspec
import numpy as np
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from numpy.typing import NDArray
from tqdm import tqdm

from fiffdepth_rt.atomic import replacing
from training import augment, distill_vae, loop, objective, parallel
from training.config import Base
from training.data import procedural
from training.data.images import PhotoFolder
from training.data.labels import LabelStore
from training.errors import TrainingError
from training.latents import photo_tensor
from training.loop import autocast
from training.nano.joint import (
    LARGE,
    DepthModel,
    between,
    labelled,
    train_fine,
    train_joint,
    train_method,
)
from training.nano.networks import depth_tensor, nano_prompt, nano_unet, nano_vae
from training.nano.start import LIGHT, begin_with_prior, check_prior, start_from
from training.scene_teacher.checkpoint import is_one as is_scene_teacher
from training.scenes.layouts import HAND_HELD, WORLD
from training.weights.light import load_light_vae
from training.weights.ours import Checkpoint, CheckpointInfo, save_checkpoint

KL_WEIGHT = 1e-6
SOURCES = "sources.json"
"""Beside the method's weights: the photos and labels that they learn from, for the model's card."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """How much of everything.

    processes: that train together, each with a network of its own (training.parallel); batches, and
    halves, are what one of them takes. vae_shards, unet_shards: the first ones; later stages use all.
    """

    scenes: int = 12_000
    held_out: int = 600
    per_shard: int = 200
    processes: int = 2
    vae_shards: int = 40
    vae_crop: int = 128
    vae_batch: int = 8
    vae: loop.Schedule = loop.Schedule(steps=1_200, lr=1.5e-3, save_every=100, average=0.99)
    unet_shards: int = 30
    unet_batch: int = 24
    unet: loop.Schedule = loop.Schedule(steps=1_500, lr=1.2e-3, save_every=100)
    joint_batch: int = 4
    joint: loop.Schedule = loop.Schedule(steps=3_900, lr=6e-4, warmup=50, save_every=100)
    light: distill_vae.DistillationSettings = distill_vae.DistillationSettings(
        width=16,
        encoder_blocks=(0, 1, 2, 2),
        decoder_blocks=(2, 2, 1, 1),
        crop=192,
        batch=6,
        encoder=loop.Schedule(steps=1_000, lr=1e-3),
        decoder=loop.Schedule(steps=1_000, lr=1e-3),
    )
    world_scenes: int = 4_000
    large_scenes: int = 1_200
    large_world_scenes: int = 400
    large_held_out: int = 200
    fine_batch: int = 8
    fine_large_batch: int = 2
    fine: loop.Schedule = loop.Schedule(steps=2_000, lr=6e-4, save_every=100, average=0.995)
    method_half: int = 6
    method_large_half: int = 2
    method: loop.Schedule = loop.Schedule(steps=1_000, lr=2e-4, warmup=50, save_every=100, average=0.995)
    # Between fine's weights (0) and the method's (1): it hardly matters how far (docs/nano.md).
    method_share: float = 0.5
    # The teacher's labels are soft. Where they weighed as much as the scenes d0 looked softer (docs/nano.md).
    real_weight: float = 0.25
    # A picture's edges are one pixel wide: λ_GM is twice the paper's. No prior is to be kept: λ_k is small.
    objective: objective.Method = objective.Method(lambda_gm=1.0, lambda_k=0.02)


TINY = Settings(
    scenes=16,
    held_out=8,
    per_shard=8,
    processes=1,
    vae_shards=1,
    unet_shards=1,
    vae=loop.Schedule(steps=4, lr=1e-3, save_every=2),
    vae_batch=2,
    vae_crop=64,
    unet=loop.Schedule(steps=4, lr=1e-3, save_every=2),
    unet_batch=2,
    joint=loop.Schedule(steps=2, lr=1e-4, save_every=1),
    joint_batch=1,
    light=dataclasses.replace(
        Settings.light,
        crop=64,
        batch=2,
        encoder=loop.Schedule(steps=2, lr=1e-3),
        decoder=loop.Schedule(steps=2, lr=1e-3),
    ),
    world_scenes=8,
    large_scenes=2,
    large_world_scenes=2,
    large_held_out=2,
    fine=loop.Schedule(steps=2, lr=1e-4, save_every=1),
    fine_batch=1,
    fine_large_batch=1,
    method=loop.Schedule(steps=2, lr=1e-4, save_every=1),
    method_half=1,
    method_large_half=1,
)


def render_large(run: Path, settings: Settings, photos: PhotoFolder | None) -> None:
    """seeds of the first scenes -> the same at twice the size, in folders of the run that end in _large."""
    render = functools.partial(procedural.render_all, workers=settings.processes, scale=LARGE, photos=photos)
    per_shard = settings.per_shard
    render(run / "scenes_large", count=settings.large_scenes, per_shard=per_shard, mix=HAND_HELD)
    render(run / "world_large", count=settings.large_world_scenes, per_shard=per_shard, mix=WORLD)
    render(
        run / "held_out_large",
        mix=HAND_HELD,
        count=settings.large_held_out,
        per_shard=max(1, settings.large_held_out // len(procedural.SHAPES)),
        seed_base=procedural.HELD_OUT_SEED,
    )


def train_vae(run: Path, settings: Settings) -> None:
    torch.manual_seed(1)
    vae = nano_vae()
    shards = [procedural.open_shard(p) for p in procedural.shard_paths(run / "scenes")[: settings.vae_shards]]
    held_out = procedural.open_shard(procedural.shard_paths(run / "held_out")[0])
    views = [photo_tensor(held_out.photos[:16]), depth_tensor(held_out.depth[:16])]

    def batch(part: int) -> torch.Tensor:
        """Half photos, half depth pictures, random crops."""
        rng = np.random.default_rng([11, part])
        shard, half, crop = shards[rng.integers(len(shards))], settings.vae_batch // 2, settings.vae_crop
        h, w = shard.photos.shape[1:3]
        y, x = rng.integers(0, h - crop + 1), rng.integers(0, w - crop + 1)
        rows, columns = np.s_[y : y + crop], np.s_[x : x + crop]
        a, b = (np.sort(rng.integers(0, len(shard.photos), half)) for _ in range(2))
        photos = augment.jitter(photo_tensor(shard.photos[a, rows, columns]), rng)
        return torch.cat([photos, depth_tensor(shard.depth[b, rows, columns])])

    def loss_at(step: int) -> torch.Tensor:
        part = parallel.draw(step)
        pictures = batch(part)
        torch.manual_seed(part)
        with autocast():
            posterior = vae.encode(pictures).latent_dist
            again = vae.decode(posterior.sample()).sample
        loss = objective.depth_loss(pictures, again.float(), gradient_weight=1.0)
        return loss + KL_WEIGHT * posterior.kl().mean()

    def validate(module: torch.nn.Module) -> dict[str, float]:
        assert isinstance(module, AutoencoderKL)
        with torch.no_grad(), autocast():
            again = [module.decode(module.encode(v).latent_dist.mode()).sample.float() for v in views]
        return {
            "photo_mae": objective.mae(views[0], again[0]).item(),
            "depth_mae": objective.mae(views[1], again[1]).item(),
        }

    loop.fit(vae, loss_at, settings.vae, run / "vae", validate=validate)


def load_vae(run: Path) -> AutoencoderKL:
    """The trained VAE; its scaling factor gives latents of held-out photos unit variance."""
    vae = nano_vae()
    loop.load_stage(vae, run / "vae")
    held_out = procedural.open_shard(procedural.shard_paths(run / "held_out")[0])
    with torch.no_grad():
        latents = vae.encode(photo_tensor(held_out.photos[:64])).latent_dist.mode()
    vae.register_to_config(scaling_factor=round(1 / latents.std().item(), 5))
    return vae


@dataclasses.dataclass(frozen=True, kw_only=True)
class Latents:
    """photo and depth: N×4×h×w float16, scaled; the second half of N is the first half mirrored."""

    photo: NDArray[np.float16]
    depth: NDArray[np.float16]


def cache_latents(run: Path, which: str, vae: AutoencoderKL, *, shards: int | None = None) -> list[Latents]:
    """run/scenes -> run/latents_scenes: one pair of arrays per shard; the first `shards` (None: all)."""
    folder = run / f"latents_{which}"
    folder.mkdir(exist_ok=True)
    out = []
    for path in tqdm(procedural.shard_paths(run / which)[:shards], desc=f"latents {which}", unit="shard"):
        place = folder / f"{path.name}.npy"
        if not place.exists():
            pair = _encode_shard(procedural.open_shard(path), vae, seed=int(path.name))
            with replacing(place) as file:
                np.save(file, pair)
        photo, depth = np.load(place)
        out.append(Latents(photo=photo, depth=depth))
    return out


def _encode_shard(shard: procedural.Shard, vae: AutoencoderKL, *, seed: int) -> NDArray[np.float16]:
    rng = np.random.default_rng([13, seed])
    photo, depth = [], []
    with torch.no_grad(), autocast():
        for mirrored in (False, True):
            for i in range(0, len(shard.photos), 40):
                p, d = photo_tensor(shard.photos[i : i + 40]), depth_tensor(shard.depth[i : i + 40])
                if mirrored:
                    p, d = augment.jitter(p.flip(-1), rng), d.flip(-1)
                photo.append(vae.encode(p).latent_dist.mode())
                depth.append(vae.encode(d).latent_dist.mode())
    both = torch.stack([torch.cat(photo), torch.cat(depth)]) * vae.config.scaling_factor
    return both.half().numpy()


def train_unet(run: Path, settings: Settings) -> None:
    """latent -> depth latent: d0 = ε(x0, t = 0)  (eq. 1), supervised by eq. 5 and 6."""
    torch.manual_seed(2)
    unet, prompt, vae = nano_unet(), nano_prompt(), load_vae(run)
    shards = cache_latents(run, "scenes", vae, shards=settings.unet_shards)
    held_out = cache_latents(run, "held_out", vae)

    def predict(module: UNet2DConditionModel, latent: torch.Tensor) -> torch.Tensor:
        with autocast():
            return module(latent, 0, prompt.expand(len(latent), -1, -1)).sample.float()

    def loss_at(step: int) -> torch.Tensor:
        rng = np.random.default_rng([17, parallel.draw(step)])
        like = shards[np.random.default_rng([29, step]).integers(len(shards))]  # one shape per batch
        same = [s for s in shards if s.photo.shape == like.photo.shape]
        picks = []
        for _ in range(settings.unet_batch):
            shard = same[rng.integers(len(same))]
            picks.append((shard, rng.integers(len(shard.photo))))
        photo = torch.from_numpy(np.stack([s.photo[i] for s, i in picks])).float()
        depth = torch.from_numpy(np.stack([s.depth[i] for s, i in picks])).float()
        return objective.depth_loss(depth, predict(unet, photo))

    def validate(module: torch.nn.Module) -> dict[str, float]:
        assert isinstance(module, UNet2DConditionModel)
        losses = []
        with torch.no_grad():
            for s in held_out:
                photo, depth = (torch.from_numpy(a[:64]).float() for a in (s.photo, s.depth))
                losses.append(objective.depth_loss(depth, predict(module, photo)).item())
        return {"held_out": float(np.mean(losses))}

    loop.fit(unet, loss_at, settings.unet, run / "unet", validate=validate)


Real = tuple[PhotoFolder, LabelStore]


def joint_stage(run: Path, settings: Settings) -> None:
    unet = nano_unet()
    loop.load_stage(unet, run / "unet")
    train_joint(run, DepthModel(load_vae(run), unet), settings.joint, batch=settings.joint_batch)


def distil_light_vae(run: Path, settings: Settings, photos: PhotoFolder | None) -> None:
    """joint's VAE -> run/light/light.safetensors: both halves, distilled on the run's scenes and photos."""
    if (run / "light" / distill_vae.RESULT).exists():
        return
    full = write_checkpoint(run / "full.safetensors", settings, model_after(run, "joint"), size=256)
    scenes = str(run / "scenes")
    distill_vae.distil(
        Base(model=str(full)),
        photos=[scenes] if photos is None else [scenes, str(photos.root)],
        depth=[scenes],
        run=run / "light",
        settings=settings.light,
    )


def fine_stage(run: Path, settings: Settings) -> None:
    model = model_after(run, "start").train()
    train_fine(run, model, settings.fine, batch=settings.fine_batch, large_batch=settings.fine_large_batch)


def method_stage(run: Path, settings: Settings, real: Real | None) -> None:
    train_method(
        run,
        model_after(run, "fine"),
        settings.method,
        half=settings.method_half,
        large_half=settings.method_large_half,
        real=real,
        real_weight=settings.real_weight,
        method=settings.objective,
    )


def model_after(run: Path, stage: str) -> DepthModel:
    """All three networks as "joint", "start", "fine" or "method" left them; after joint with a light VAE."""
    vae = load_vae(run) if stage == "joint" else load_light_vae(run / "start" / LIGHT)[0]
    model = DepthModel(vae, nano_unet(vae.config.latent_channels))
    loop.load_stage(model, run / stage)
    return model


def write_checkpoint(path: Path, settings: Settings, model: DepthModel, *, size: int) -> Path:
    """The model -> path. size: its default, the longer side in px.

    Weights are rounded to fp16, so that the export can store them in half the bytes without changing a value.
    """
    model.half().float()
    scenes = procedural.source_of(path.parent / "scenes")
    sources = [f"procedural scenes rendered by training/scenes of this repository: {scenes.licence}"]
    if (light := path.parent / "start" / LIGHT).exists():
        sources += load_light_vae(light)[2].data_sources
    if (recorded := path.parent / "method" / SOURCES).exists():
        sources += json.loads(recorded.read_bytes())
    save_checkpoint(
        path,
        Checkpoint(
            unet=model.unet,
            vae=model.vae,
            prompt_embedding=nano_prompt().half().float(),
            info=CheckpointInfo(
                name="nano",
                recipe="fiffdepth",
                output_space="depth",
                size_default=size,
                size_max=1024,
                licence="Apache-2.0",
                data_sources=tuple(dict.fromkeys(sources)),
                training=msgspec.to_builtins(settings),
            ),
        ),
    )
    return path


BEFORE_LIGHT = ("vae", "unet", "joint")
STAGES = ("scenes", *BEFORE_LIGHT, "fine", "all")


def train(
    run: Path,
    settings: Settings,
    *,
    photos: PhotoFolder | None = None,
    labels: LabelStore | None = None,
    prior: Path | None = None,
    start: Path | None = None,
    until: str = "all",
) -> Path | None:
    """Go on with the run up to the stage `until` and what that needs; "all" -> the checkpoint.

    photos: what surfaces of the scenes show, and with labels the method's real half. prior: a scene teacher's
    checkpoint, for the light encoder. start: an engine directory whose weights the fine stage begins with,
    prior included, in place of the stages before it.

    Raises TrainingError where these do not fit each other, or what the run has done.
    """
    real = (photos, labels) if photos is not None and labels is not None else None
    _check(run, real, prior, start, until)
    workers, per_shard = settings.processes, settings.per_shard
    render = functools.partial(procedural.render_all, workers=workers, per_shard=per_shard, photos=photos)
    render(run / "held_out", count=settings.held_out, seed_base=procedural.HELD_OUT_SEED, mix=HAND_HELD)
    render(run / "scenes", count=settings.scenes, mix=HAND_HELD)
    render(run / "world", count=settings.world_scenes, mix=WORLD)
    if until == "scenes":
        return None
    if until in BEFORE_LIGHT:
        _up_to_joint(run, settings, until)
        return None
    if start is not None:
        start_from(start, run, settings.light)
    begun = (run / "start" / loop.WEIGHTS).exists()
    if not begun:
        _up_to_joint(run, settings, "joint")
        distil_light_vae(run, settings, photos)
    render_large(run, settings, photos)
    if not begun:
        assert prior is not None  # _check has seen to it
        begin_with_prior(run, model_after(run, "joint").unet, prior)
    parallel.run(settings.processes, fine_stage, run, settings)
    if until == "fine":
        return None
    if not all((run / "method" / name).exists() for name in (loop.WEIGHTS, SOURCES)):
        _record(run / "method", [] if real is None else _real_sources(real))
        parallel.run(settings.processes, method_stage, run, settings, real)
    fine, method = model_after(run, "fine"), model_after(run, "method")
    model = between(fine, method, settings.method_share)
    return write_checkpoint(run / "nano.safetensors", settings, model, size=512)


def _check(run: Path, real: Real | None, prior: Path | None, start: Path | None, until: str) -> None:
    """What would come out hours later comes first."""
    if real is not None:
        photos, labels = real
        if labels.header.space != "depth":
            raise TrainingError(
                f"The labels in {labels.folder} are in {labels.header.space}, the scenes' pictures in depth: "
                "make labels with --space depth."
            )
        if not labelled(photos, labels):
            raise TrainingError(
                f"{labels.folder} holds no label of any photo in {photos.root}: name the folder that was "
                "labelled."
            )
    begun = (run / "start" / loop.WEIGHTS).exists()
    light = (run / "light" / distill_vae.RESULT).exists()
    if prior is not None and start is not None:
        raise TrainingError(f"The weights of {start} hold a prior of their own: give --start or --prior.")
    if start is not None and light:
        raise TrainingError(f"{run} has a light VAE of its own: start in another run.")
    if prior is None and start is None and not begun and until not in ("scenes", *BEFORE_LIGHT):
        raise TrainingError(
            f"{until} needs a prior for the light encoder: --prior with the checkpoint that python -m "
            "training.scene_teacher has made, or --start with an engine directory that holds one."
        )
    if prior is not None:
        if not is_scene_teacher(prior):
            raise TrainingError(f"{prior} is no checkpoint of training.scene_teacher: name that for --prior.")
        check_prior(run, prior)
    if until in BEFORE_LIGHT and (start is not None or (begun and not light)):
        raise TrainingError(
            f"{until} is one of the stages that --start takes the place of: name a later one."
        )


def _real_sources(real: Real) -> list[str]:
    photos, labels = real
    return [
        f"{len(photos)} photos without depth: {photos.licence}",
        f"their labels by {labels.header.teacher}: {labels.header.licence}",
    ]


def _record(stage: Path, sources: list[str]) -> None:
    """What a stage learns from, beside its weights, for the model's card.

    Raises TrainingError where it was begun with something else.
    """
    place = stage / SOURCES
    if place.exists():
        if (there := json.loads(place.read_bytes())) != sources:
            raise TrainingError(f"{stage} was begun with {there}, not with {sources}: name another run.")
        return
    stage.mkdir(parents=True, exist_ok=True)
    with replacing(place) as file:
        file.write(json.dumps(sources, indent=1).encode())


def _up_to_joint(run: Path, settings: Settings, until: str) -> None:
    """The stages with the full VAE, as far as `until`."""
    parallel.run(settings.processes, train_vae, run, settings)
    if until == "vae":
        return
    vae = load_vae(run)
    cache_latents(run, "scenes", vae, shards=settings.unet_shards)
    cache_latents(run, "held_out", vae)
    parallel.run(settings.processes, train_unet, run, settings)
    if until != "unet":
        parallel.run(settings.processes, joint_stage, run, settings)
