"""All three networks of a small model trained together: photo -> depth picture, with losses on the picture.

A large VAE is frozen and its latents are the targets. A small one loses what the depth map needs, so here the
encoder, the UNet and the decoder learn together:

    joint    whole rendered scenes, at their own size
    fine     goes on from joint with a light VAE in the full one's place, a prior in its encoder: scenes at
             two sizes
    method   goes on from fine: half scenes, half photos with the teacher's labels, at two sizes  (eq. 1 to 7)

nano is half-way between fine and method (`between`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, AutoencoderTiny, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor

from training import augment, loop, objective, parallel
from training.data import procedural
from training.data.images import PhotoFolder
from training.data.labels import LabelStore
from training.latents import photo_tensor
from training.loop import autocast
from training.nano.networks import depth_tensor, nano_prompt
from training.weights.prior import PriorAutoencoderTiny

SHAPES = ((192, 256), (192, 256), (256, 192), (224, 224))
"""Of about the same number of pixels: no process waits for another (training.parallel)."""
LARGE = 2
"""Times the sides of the small scenes, those of the large ones."""
LARGE_SHARE = 1 / 2
"""Of the steps at two sizes, how many are at the larger one."""


class DepthModel(torch.nn.Module):
    """photo in [-1, 1] -> depth picture, as the runtime does: posterior mean, t = 0, mean of the channels.

    vae: full, or light (training/weights/light.py), which has no posterior and one channel.
    """

    def __init__(self, vae: AutoencoderKL | AutoencoderTiny, unet: UNet2DConditionModel) -> None:
        super().__init__()
        self.vae, self.unet = vae, unet
        self.register_buffer("prompt", nano_prompt())
        self.to(memory_format=torch.channels_last)  # as attention leaves pictures: half as fast again
        self.requires_grad_(True)  # what a file is read into comes frozen
        if isinstance(vae, PriorAutoencoderTiny):
            vae.encoder.prior.network.requires_grad_(False)  # it has learnt already, from more than we have
        # The fused kind of attention is slow backwards where there are two tokens, or a few dozen.
        unet.set_attn_processor(AttnProcessor())
        for norm in (module for module in self.modules() if isinstance(module, torch.nn.GroupNorm)):
            norm.register_forward_pre_hook(_as_float32)
            norm.register_forward_hook(_as_autocast_has_it)

    def forward(self, photos: torch.Tensor) -> torch.Tensor:
        """N×3×H×W -> N×1×H×W, not clipped."""
        return self.decode(objective.feed_forward(self.unet, self.encode(photos), self.prompt))

    def encode(self, pictures: torch.Tensor) -> torch.Tensor:
        """N×3×H×W in [-1, 1] -> latents N×C×H/8×W/8."""
        encoded = self.vae.encode(pictures)
        latent = encoded.latents if isinstance(self.vae, AutoencoderTiny) else encoded.latent_dist.mode()
        return latent * self.vae.config.scaling_factor

    def decode(self, depth_latent: torch.Tensor) -> torch.Tensor:
        """N×C×h×w -> N×1×8h×8w, not clipped."""
        pictures = self.vae.decode(depth_latent / self.vae.config.scaling_factor).sample
        return pictures.float().mean(1, keepdim=True)


def _as_float32(_norm: torch.nn.Module, inputs: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
    """In bfloat16 a group norm of channels-last pictures takes up to five times as long on a CPU."""
    return (inputs[0].float(),)


def _as_autocast_has_it(_norm: torch.nn.Module, _inputs: object, normed: torch.Tensor) -> torch.Tensor:
    return normed.to(torch.get_autocast_dtype("cpu")) if torch.is_autocast_enabled("cpu") else normed


Shards = list[procedural.Shard]


def scenes_in(folder: Path) -> Shards:
    return [procedural.open_shard(path) for path in procedural.shard_paths(folder)]


def labelled(photos: PhotoFolder, labels: LabelStore) -> list[int]:
    """Indices of the photos that have a label."""
    return [i for i, name in enumerate(photos.names) if name in labels]


def small_scenes(run: Path) -> Shards:
    """Those of the hand-held mix, and those of everything."""
    return scenes_in(run / "scenes") + scenes_in(run / "world")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TwoSizes:
    """A run's scenes, to train on and held out, at both sizes."""

    small: Shards
    large: Shards
    held_out: Shards
    held_out_large: Shards

    @classmethod
    def of(cls, run: Path) -> TwoSizes:
        return cls(
            small=small_scenes(run),
            large=scenes_in(run / "scenes_large") + scenes_in(run / "world_large"),
            held_out=scenes_in(run / "held_out"),
            held_out_large=scenes_in(run / "held_out_large"),
        )

    def framed(self, step: int) -> tuple[Shards, list[tuple[int, int]]]:
        """Scenes for step `step`, and the shapes that parts of them may take."""
        shards, scale = (self.large, LARGE) if is_large(step) else (self.small, 1)
        return shards, [(scale * h, scale * w) for h, w in SHAPES]

    def errors(self, model: torch.nn.Module) -> dict[str, float]:
        large = held_out_error(model, self.held_out_large, each=8)
        return {**held_out_error(model, self.held_out), "held_out_large_mae": large["held_out_mae"]}


@torch.no_grad()
def between(before: DepthModel, after: DepthModel, share: float) -> DepthModel:
    """`before` with each weight moved by `share` of the way to `after`'s, in place.

    A stage that makes a network robust costs it some of what it knew; on the line between the two much of
    both is kept. Wortsman et al., Robust fine-tuning of zero-shot models (CVPR 2022), section 3.
    """
    for weight, moved in zip(before.parameters(), after.parameters(), strict=True):
        weight.lerp_(moved, share)
    return before


def is_large(step: int) -> bool:
    """Whether step `step` is at the larger size: the same in all processes."""
    return bool(np.random.default_rng([53, step]).random() < LARGE_SHARE)


def whole_scenes(shards: Shards, step: int, count: int, *, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """This process's part of batch `step`: photos N×3×H×W, depth pictures N×1×H×W, not cut, perhaps mirrored.

    All processes take the same shard, and so the same shape: `seed + 4` draws the shard, and `seed` draws the
    scenes of each process and their light.
    """
    rng = np.random.default_rng([seed, parallel.draw(step)])
    shard = shards[np.random.default_rng([seed + 4, step]).integers(len(shards))]
    picks = np.sort(rng.integers(0, len(shard.photos), count))
    developed = np.stack([augment.develop(photo, rng) for photo in shard.photos[picks]])
    photos = augment.jitter(photo_tensor(developed), rng)
    depth = depth_tensor(shard.depth[picks])[:, :1]
    return (photos.flip(-1), depth.flip(-1)) if rng.random() < 0.5 else (photos, depth)


def train_joint(run: Path, model: DepthModel, schedule: loop.Schedule, *, batch: int) -> None:
    """photo -> depth picture through all three networks: none keeps the others' mistakes."""
    shards, held_out = small_scenes(run), scenes_in(run / "held_out")

    def loss_at(step: int) -> torch.Tensor:
        photos, depth = whole_scenes(shards, step, batch, seed=19)
        with autocast():
            predicted = model(photos)
        return decisive_loss(depth, predicted)

    _fit(model, loss_at, schedule, run / "joint", lambda m: held_out_error(m, held_out))


def train_fine(
    run: Path, model: DepthModel, schedule: loop.Schedule, *, batch: int, large_batch: int
) -> None:
    """As `train_joint`, at two sizes: a step has `batch` small scenes or `large_batch` large ones."""
    scenes = TwoSizes.of(run)

    def loss_at(step: int) -> torch.Tensor:
        shards, count = (scenes.large, large_batch) if is_large(step) else (scenes.small, batch)
        photos, depth = whole_scenes(shards, step, count, seed=43)
        with autocast():
            predicted = model(photos)
        return decisive_loss(depth, predicted)

    _fit(model, loss_at, schedule, run / "fine", scenes.errors)


def decisive_loss(target: torch.Tensor, predicted: torch.Tensor) -> torch.Tensor:
    """L_MAE + ½ Σ ρ(R) + ½ Σ ρ(∇R), R = d − d*, ∇ at every and at every 2nd pixel. N×1×H×W -> scalar.

    ρ(x) = √(|x| + s) − √s, a hyper-Laplacian's penalty (Krishnan & Fergus, 2009). Where a network cannot know
    to a pixel where an edge is, L_MAE and L_GM charge a ramp across the doubt little more than a step in it,
    and the edge comes out soft; ρ is concave and charges the ramp more.
    """
    residual = predicted - target
    total = residual.abs().mean() + 0.5 * _concave(residual, 0.02)
    for step in (1, 2):
        r = residual[..., ::step, ::step]
        along_x, along_y = r[..., :, 1:] - r[..., :, :-1], r[..., 1:, :] - r[..., :-1, :]
        total = total + 0.5 * (_concave(along_x, 0.01) + _concave(along_y, 0.01))
    return total


def _concave(x: torch.Tensor, softening: float) -> torch.Tensor:
    return ((x.abs() + softening).sqrt() - softening**0.5).mean()


def train_method(
    run: Path,
    model: DepthModel,
    schedule: loop.Schedule,
    *,
    half: int,
    large_half: int,
    real: tuple[PhotoFolder, LabelStore] | None,
    real_weight: float,
    method: objective.Method,
) -> None:
    """Equations 1 to 7 on decoded pictures, at two sizes: a step has `half` small scenes and as many small
    photos, or `large_half` large ones of each.

    The photos are held to their labels by (5) and (6); the scenes to the truth by `decisive_loss`.

    real: the photos and their teacher's labels; None: the synthetic half alone. real_weight: of the photos'
    losses beside the scenes'. No gradient of L_k reaches the latents that are noised: L_k would make the
    latents easy to predict rather than right.
    """
    both = TwoSizes.of(run)
    diffusion = objective.Diffusion.of()
    usable = [] if real is None else labelled(*real)

    def loss_at(step: int) -> torch.Tensor:
        part, (shards, shapes) = parallel.draw(step), both.framed(step)
        count = large_half if is_large(step) else half
        scenes, truth = augment.scene_batch(shards, part, count, shapes, seed=37, strength=0.5, smallest=0.75)
        random = torch.Generator().manual_seed(part)
        t = diffusion.random_steps(count, random)
        with autocast():
            latent = model.encode(scenes)
            d0 = objective.feed_forward(model.unet, latent, model.prompt)
            predicted = model.decode(d0)
            with torch.no_grad():
                depth_latent = model.encode(truth.expand(-1, 3, -1, -1)).float()
            noise = torch.randn(depth_latent.shape, generator=random)
            b0 = objective.blend(latent.detach().float(), depth_latent, method.gamma)
            prompt = model.prompt.expand(count, -1, -1)
            velocity = model.unet(diffusion.noisy(b0, noise, t), t, prompt).sample
        loss = decisive_loss(truth, predicted)
        target = diffusion.velocity(b0, noise, t)
        loss = loss + method.lambda_k * objective.squared_error(target, velocity.float())
        if real is None:
            return loss
        photos, taught = augment.labelled_batch(*real, usable, part, count, shapes, seed=41)
        with autocast():
            d0 = objective.feed_forward(model.unet, model.encode(photos), model.prompt)
            softened = model.decode(objective.filtered(model.unet, d0, model.prompt))
        taught_loss = objective.depth_loss(taught, softened, gradient_weight=method.lambda_gm)
        return loss + real_weight * taught_loss

    _fit(model, loss_at, schedule, run / "method", both.errors)


def held_out_error(
    model: torch.nn.Module, held_out: Sequence[procedural.Shard], *, each: int = 16
) -> dict[str, float]:
    """Mean absolute error of the depth picture at the scenes' own size, on scenes never trained on.

    each: scenes of each of the first five shards.
    """
    errors = []
    with torch.no_grad(), autocast():
        for s in held_out[:5]:
            photos, depth = photo_tensor(s.photos[:each]), depth_tensor(s.depth[:each])[:, :1]
            errors.append(objective.mae(depth, model(photos).clamp(-1, 1)).item())
    return {"held_out_mae": float(np.mean(errors))}


def _fit(
    model: DepthModel,
    loss_at: Callable[[int], torch.Tensor],
    schedule: loop.Schedule,
    place: Path,
    validate: Callable[[torch.nn.Module], dict[str, float]],
) -> None:
    """Train, and leave `model` with the averaged weights."""
    loop.fit(model, loss_at, schedule, place, validate=validate)
    loop.load_stage(model, place)
