"""START HERE for a light VAE. A checkpoint, photos and depth maps -> a tiny encoder and a tiny decoder.

    python -m training.distill_vae CKPT --photos DIR --depth DIR --run runs/light

CKPT is whatever training starts from (training/weights/reading.py). A folder of photos is any folder of
pictures, shards (*.tar) or rendered scenes; one of depth maps has 16-bit PNGs, .npy, or rendered scenes.
Either may be named several times; without photos there is no encoder, without depth maps no decoder.

    encoder    photo -> latent            matches the teacher's scaled posterior mean: eq. 5 and 6
    decoder    depth latent -> picture    one channel; L1, gradients at 4 scales, and an edge term. Half of
                                          the latents are depth maps as the teacher encodes them, with the
                                          map as target; half are the model's own for the photos, with what
                                          the full decoder makes of them as target
    light.safetensors                     for `python -m export.build_engines --encoder …`

A killed run goes on with the same command. What it costs in accuracy: `python -m benchmarks.light_vae`.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

import cv2
import numpy as np
import torch
from diffusers import AutoencoderTiny
from numpy.typing import NDArray

from fiffdepth_rt.atomic import replacing
from fiffdepth_rt.errors import FiffDepthError
from fiffdepth_rt.program.options import named_path, path_or_name
from fiffdepth_rt.program.terminal import printable, stderr_handler
from fiffdepth_rt.space import Space
from training import loop, objective
from training.config import Base
from training.data.depth_maps import DepthPictures, depth_pictures, has_scenes
from training.data.samples import DataError, SampleError
from training.data.sets import open_set
from training.errors import TrainingError
from training.weights.light import LightInfo, new_light_vae, save_light_vae
from training.weights.reading import Weights, read_base
from training.weights.tensors import read_tensors

RESULT = "light.safetensors"
SETTINGS_FILE = "settings.json"
HELD_OUT_EVERY = 50
"""Every 50th sample of a dataset is never trained on; the validation figures come from those."""
HELD_OUT_VIEWS = 16
GRID = 64
EDGE_STEP = 0.1
"""A step between neighbours that counts as an edge: 5 % of a picture's range of 2."""
ATTEMPTS = 20

log = logging.getLogger("training")
Pixels = NDArray[Any]
T = TypeVar("T")


@dataclasses.dataclass(frozen=True, kw_only=True)
class DistillationSettings:
    """How a light VAE is distilled.

    width: its channels, 64 for TAESD's. crop: side of the square views in px, a multiple of 64. own_share:
    the share of the decoder's batch that is the model's own depth latents.
    """

    width: int = 64
    encoder_blocks: tuple[int, ...] = (1, 3, 3, 3)
    decoder_blocks: tuple[int, ...] = (3, 3, 3, 1)
    crop: int = 256
    batch: int = 8
    own_share: float = 0.5
    gradient_weight: float = 0.5
    gradient_scales: int = 4
    edge_weight: float = 0.5
    seed: int = 0
    encoder: loop.Schedule = loop.Schedule(steps=20_000, lr=5e-4)
    decoder: loop.Schedule = loop.Schedule(steps=20_000, lr=5e-4)


def edge_error(
    target: torch.Tensor, predicted: torch.Tensor, valid: torch.Tensor, *, step: float = EDGE_STEP
) -> torch.Tensor:
    """Mean |d − d*| over the pixels on either side of an edge of the target; 0 where it has none.

    An edge lies between two valid neighbours that differ by more than `step`. N×1×H×W each, valid bool.
    """
    edge = torch.zeros_like(valid)
    for axis in (2, 3):
        n = target.shape[axis] - 1
        a, b = target.narrow(axis, 0, n), target.narrow(axis, 1, n)
        jump = (a - b).abs() > step
        jump &= valid.narrow(axis, 0, n) & valid.narrow(axis, 1, n)
        edge.narrow(axis, 0, n).logical_or_(jump)
        edge.narrow(axis, 1, n).logical_or_(jump)
    return objective.mae(target, predicted, edge)


def decoder_loss(
    target: torch.Tensor, predicted: torch.Tensor, valid: torch.Tensor, settings: DistillationSettings
) -> torch.Tensor:
    """L_MAE + λ_GM L_GM (several scales) + λ_edge L_edge, over valid pixels. N×1×H×W."""
    return (
        objective.mae(target, predicted, valid)
        + settings.gradient_weight
        * objective.gradient_matching(target, predicted, valid, scales=settings.gradient_scales)
        + settings.edge_weight * edge_error(target, predicted, valid)
    )


class Teacher:
    """The full model, frozen, in fp32: pixels are N×3×H×W in [-1, 1], latents scaled."""

    def __init__(self, base: Weights, device: torch.device) -> None:
        assert base.vae is not None  # read_base refuses a checkpoint without one
        self.vae = base.vae.eval().requires_grad_(False).to(device)
        self.unet = base.unet.eval().requires_grad_(False).to(device)
        self.prompt = base.prompt_embedding.to(device)
        self.scale = float(base.vae.config.scaling_factor)

    @torch.no_grad()
    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.vae.encode(pixels).latent_dist.mode() * self.scale

    @torch.no_grad()
    def depth_latent(self, latent: torch.Tensor) -> torch.Tensor:
        return objective.feed_forward(self.unet, latent, self.prompt)

    @torch.no_grad()
    def picture(self, depth_latent: torch.Tensor) -> torch.Tensor:
        """N×1×H×W, clipped to [-1, 1]."""
        return self.vae.decode(depth_latent / self.scale).sample.mean(1, keepdim=True).clamp(-1, 1)


# ---- views of the data ----


class Views(Generic[T]):
    """Samples of several datasets -> square views, all sides `crop`; a step's views depend on it alone.

    cut: (sample, rng) -> arrays of one view. A sample that cannot be used is logged, and another is taken.
    """

    def __init__(
        self, datasets: Sequence[Any], cut: Callable[[Any, np.random.Generator], T], seed: int
    ) -> None:
        self._datasets, self._cut, self._seed = datasets, cut, seed
        sizes = np.array([len(d) for d in datasets])
        self._ends = np.cumsum(sizes)

    def batch(self, step: int, count: int) -> list[T]:
        """Views to train on."""
        rng = np.random.default_rng([self._seed, step])
        return [self._one(rng, held_out=False) for _ in range(count)]

    def held_out(self) -> list[T]:
        """Views that training never sees, always the same."""
        rng = np.random.default_rng([self._seed, 1 << 40])
        return [self._one(rng, held_out=True) for _ in range(HELD_OUT_VIEWS)]

    def _one(self, rng: np.random.Generator, *, held_out: bool) -> T:
        total = int(self._ends[-1])
        for _ in range(ATTEMPTS):
            index = int(rng.integers(total))
            if held_out:
                index -= index % HELD_OUT_EVERY
            elif index % HELD_OUT_EVERY == 0 and total > 1:
                index += 1 if index + 1 < total else -1
            at = int(np.searchsorted(self._ends, index, side="right"))
            try:
                sample = self._datasets[at][index - (int(self._ends[at - 1]) if at else 0)]
                return self._cut(sample, rng)
            except SampleError as error:
                log.warning("left out: %s", error)
        raise DataError(f"{ATTEMPTS} samples in a row cannot be used; the log names them. Check the data.")


def cut_photo(photo: NDArray[np.uint8], crop: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """uint8 H×W×3 -> crop×crop×3: shrunk to 1 … 2 crops on the shorter side, cut out, perhaps mirrored."""
    photo = _at_least(photo, crop, cv2.INTER_LINEAR)
    short = min(photo.shape[:2])
    side = rng.uniform(crop, max(crop, min(2 * crop, short)))
    if side < short:
        h, w = (max(crop, round(x * side / short)) for x in photo.shape[:2])
        photo = cv2.resize(photo, (w, h), interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)
    return _cut_out([photo], crop, rng)[0]


def cut_depth(
    picture: NDArray[np.float32], valid: NDArray[np.bool_], crop: int, rng: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """H×W -> crop×crop at the map's own resolution (nearest pixels where it is smaller), perhaps mirrored."""
    whole = [_at_least(a, crop, cv2.INTER_NEAREST) for a in (picture, valid.view(np.uint8))]
    cut = _cut_out(whole, crop, rng)
    return cut[0], cut[1].astype(bool)


def _at_least(pixels: Pixels, crop: int, how: int) -> Pixels:
    h, w = pixels.shape[:2]
    grow = crop / min(h, w)
    if grow <= 1:
        return pixels
    size = (max(crop, round(w * grow)), max(crop, round(h * grow)))
    return cv2.resize(pixels, size, interpolation=how)


def _cut_out(arrays: list[Pixels], crop: int, rng: np.random.Generator) -> list[Pixels]:
    h, w = arrays[0].shape[:2]
    y, x = rng.integers(h - crop + 1), rng.integers(w - crop + 1)
    mirrored = rng.random() < 0.5
    cut = [a[y : y + crop, x : x + crop] for a in arrays]
    return [np.ascontiguousarray(a[:, ::-1] if mirrored else a) for a in cut]


def photo_datasets(paths: Sequence[str]) -> list[Any]:
    """Folders of pictures, shards or rendered scenes -> datasets whose samples have a `photo`."""
    found: list[Any] = []
    for path in paths:
        found += open_set("procedural" if has_scenes(path) else "images", path, space=Space.DEPTH)
    return found


# ---- the two halves ----


def train_encoder(
    vae: AutoencoderTiny,
    teacher: Teacher,
    photos: Views,
    settings: DistillationSettings,
    run: Path,
    device: torch.device,
) -> None:
    """photo -> latent: the teacher's scaled posterior mean."""
    held_out = _photo_batch(photos.held_out(), device)
    wanted = teacher.encode(held_out)

    def loss_at(step: int) -> torch.Tensor:
        pixels = _photo_batch(photos.batch(step, settings.batch), device)
        with _autocast(device):
            latent = vae.encoder(pixels)
        return objective.depth_loss(teacher.encode(pixels), latent.float())

    def validate(module: torch.nn.Module) -> dict[str, float]:
        with torch.no_grad():
            error = objective.mae(wanted, module(held_out)).item()
        return {"held_out_mae": error, "of_std": error / wanted.std().item()}

    loop.fit(vae.encoder, loss_at, settings.encoder, run / "encoder", validate=validate)


def train_decoder(
    vae: AutoencoderTiny,
    teacher: Teacher,
    depths: Views,
    photos: Views | None,
    settings: DistillationSettings,
    run: Path,
    device: torch.device,
) -> None:
    """depth latent -> depth picture."""
    own = 0 if photos is None else round(settings.batch * settings.own_share)

    def batch(step: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Latents N×4×h×w, target pictures N×1×H×W, valid."""
        parts = []
        if own < settings.batch:
            parts.append(_of_maps(teacher, depths.batch(step, settings.batch - own), device))
        if own:
            assert photos is not None
            pixels = _photo_batch(photos.batch(step, own), device)
            latent = teacher.depth_latent(teacher.encode(pixels))
            target = teacher.picture(latent)
            parts.append((latent, target, torch.ones_like(target, dtype=torch.bool)))
        latents, targets, valid = (torch.cat(p) for p in zip(*parts, strict=True))
        return latents, targets, valid

    held_out = _of_maps(teacher, depths.held_out(), device)
    full_error = objective.mae(held_out[1], teacher.picture(held_out[0]), held_out[2]).item()

    def loss_at(step: int) -> torch.Tensor:
        latents, targets, valid = batch(step)
        with _autocast(device):
            predicted = vae.decoder(latents)
        return decoder_loss(targets, predicted.float(), valid, settings)

    def validate(module: torch.nn.Module) -> dict[str, float]:
        latents, targets, valid = held_out
        with torch.no_grad():
            error = objective.mae(targets, module(latents).clamp(-1, 1), valid).item()
        return {"held_out_mae": error, "full_decoder_mae": full_error}

    loop.fit(vae.decoder, loss_at, settings.decoder, run / "decoder", validate=validate)


def _of_maps(
    teacher: Teacher, views: list[tuple[NDArray[np.float32], NDArray[np.bool_]]], device: torch.device
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    pictures = torch.from_numpy(np.stack([picture for picture, _ in views]))[:, None].to(device)
    valid = torch.from_numpy(np.stack([v for _, v in views]))[:, None].to(device)
    return teacher.encode(pictures.expand(-1, 3, -1, -1)), pictures, valid


def _photo_batch(views: list[NDArray[np.uint8]], device: torch.device) -> torch.Tensor:
    return torch.from_numpy(np.stack(views)).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1


def _autocast(device: torch.device) -> torch.autocast:
    """bfloat16 for the student, where the device multiplies it fast. The teacher stays in fp32."""
    fast = device.type != "cpu" or torch.cpu._is_amx_tile_supported()
    return torch.autocast(device.type, torch.bfloat16, enabled=fast)


# ---- the run ----


def distil(
    base: Base,
    *,
    photos: Sequence[str],
    depth: Sequence[str],
    run: Path,
    settings: DistillationSettings,
    device: str = "cpu",
    licence: str | None = None,
) -> Path:
    """-> run/light.safetensors. Goes on with what an earlier call with the same arguments left.

    licence: of the result; None: the teacher's.
    Raises CheckpointError, DataError, TrainingError, OutputError.
    """
    if settings.crop % GRID or settings.crop <= 0:
        raise DataError(f"A crop of {settings.crop} px: it has to be a multiple of {GRID}.")
    if not photos and not depth:
        raise DataError("Nothing to learn from: --photos for an encoder, --depth for a decoder, or both.")
    weights = read_base(base)
    info = weights.info
    space = Space(info.output_space) if info else Space.DEPTH
    photo_sets = photo_datasets(photos)
    depth_sets: list[DepthPictures] = [d for path in depth for d in depth_pictures(path, space=space)]
    _remember(
        run, {"teacher": Path(base.model).name, "settings": dataclasses.asdict(settings), "space": space}
    )
    where = torch.device(device)
    teacher = Teacher(weights, where)
    torch.manual_seed(settings.seed)
    vae = new_light_vae(
        width=settings.width, encoder_blocks=settings.encoder_blocks, decoder_blocks=settings.decoder_blocks
    ).to(where)

    def cut(sample: Any, rng: np.random.Generator) -> NDArray[np.uint8]:
        return cut_photo(sample.photo, settings.crop, rng)

    def cut_map(sample: Any, rng: np.random.Generator) -> tuple[Pixels, Pixels]:
        return cut_depth(sample.picture, sample.valid, settings.crop, rng)

    halves: list[str] = []
    photo_views = Views(photo_sets, cut, settings.seed + 1) if photo_sets else None
    if photo_views is not None:
        train_encoder(vae, teacher, photo_views, settings, run, where)
        vae.encoder.load_state_dict(_weights(run / "encoder"))
        halves.append("encoder")
    if depth_sets:
        views = Views(depth_sets, cut_map, settings.seed + 2)
        train_decoder(vae, teacher, views, photo_views, settings, run, where)
        vae.decoder.load_state_dict(_weights(run / "decoder"))
        halves.append("decoder")
    sources = [f"{d.name} ({d.licence})" for d in (*photo_sets, *depth_sets)]
    light = LightInfo(
        name=f"light-{info.name if info else Path(base.model).stem}",
        teacher=info.name if info else Path(base.model).name,
        licence=licence or (info.licence if info else base.licence),
        data_sources=tuple(dict.fromkeys([*(info.data_sources if info else ()), *sources])),
        training=dataclasses.asdict(settings),
    )
    save_light_vae(run / RESULT, vae, tuple(halves), light)
    return run / RESULT


def _weights(place: Path) -> dict[str, torch.Tensor]:
    return read_tensors(place / loop.WEIGHTS)[0]


def _remember(run: Path, said: dict[str, Any]) -> None:
    """Raises TrainingError where the run was begun with other settings."""
    text = json.dumps(said, indent=1, sort_keys=True)
    kept = run / SETTINGS_FILE
    if kept.exists() and kept.read_text() != text:
        raise TrainingError(
            f"{run} was begun with other settings: repeat the command with the settings in {kept}, or take "
            "another --run."
        )
    run.mkdir(parents=True, exist_ok=True)
    with replacing(kept) as file:
        file.write(text.encode())


def _blocks(text: str) -> tuple[int, ...]:
    blocks = tuple(int(n) for n in text.split(","))
    if len(blocks) != 4 or min(blocks) < 0:
        raise ValueError
    return blocks


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    say, default = parser.add_argument, DistillationSettings()
    which = "the teacher: a diffusers folder, a single .safetensors, or a Hub id"
    say("checkpoint", type=path_or_name, help=which)
    repeated = functools.partial(say, type=path_or_name, action="append", default=[])
    repeated("--photos", help="photos for the encoder; may be repeated")
    repeated("--depth", help="depth maps for the decoder; may be repeated")
    say("--run", type=named_path, required=True, help="folder of this run; an interrupted one goes on")
    say(
        "--width",
        type=int,
        default=default.width,
        help="channels of the light VAE (default: %(default)s, TAESD's)",
    )
    say(
        "--encoder-blocks",
        type=_blocks,
        default=default.encoder_blocks,
        help="per level, picture first: 1,3,3,3",
    )
    say(
        "--decoder-blocks",
        type=_blocks,
        default=default.decoder_blocks,
        help="per level, latent first: 3,3,3,1",
    )
    say("--steps", type=int, default=default.encoder.steps, help="of each half (default: %(default)s)")
    say("--lr", type=float, default=default.encoder.lr, help="highest learning rate (default: %(default)s)")
    say("--batch", type=int, default=default.batch, help="views per step (default: %(default)s)")
    say(
        "--crop",
        type=int,
        default=default.crop,
        help="side of a view in px, a multiple of 64 (default: %(default)s)",
    )
    say("--own-share", type=float, default=default.own_share,
        help="share of the model's own latents in the decoder's batch (default: %(default)s)")  # fmt: skip
    say(
        "--prompt-embedding",
        type=path_or_name,
        default="",
        help="for a teacher without text encoder: .safetensors [1, tokens, C]",
    )
    say("--licence", help="of the result (default: the teacher's)")
    say("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="default: %(default)s")
    args = parser.parse_args()
    logging.basicConfig(handlers=[stderr_handler("%(message)s")])
    cv2.setNumThreads(1)
    schedule = loop.Schedule(steps=args.steps, lr=args.lr)
    settings = DistillationSettings(
        width=args.width, encoder_blocks=args.encoder_blocks, decoder_blocks=args.decoder_blocks,
        crop=args.crop, batch=args.batch, own_share=args.own_share, encoder=schedule, decoder=schedule,
    )  # fmt: skip
    base = Base(model=args.checkpoint, prompt_embedding=args.prompt_embedding)
    try:
        path = distil(
            base, photos=args.photos, depth=args.depth, run=args.run, settings=settings, device=args.device,
            licence=args.licence,
        )  # fmt: skip
    except (DataError, TrainingError, FiffDepthError) as error:
        sys.exit(printable(f"Error: {error}"))
    print(path)


if __name__ == "__main__":
    main()
