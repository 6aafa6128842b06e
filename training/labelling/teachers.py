"""Teachers: networks that say how far things are in any photo. photos -> teacher maps.

A teacher may be

    a hub id or a folder of transformers   Depth Anything V2 of any size, or another depth estimator
    a checkpoint (.safetensors)            one of ours: of training/weights/ours.py or scene_teacher/
    an engine directory                    one of ours, exported

or any object with the few names of training/data/teacher_maps.py's `Teacher`.

Convention: a teacher map is float32 H×W of its photo's size; `Teacher.output` says what its numbers mean, see
training/data/teacher_maps.py.
"""

from __future__ import annotations

import logging
import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
import yaml
from diffusers import AutoencoderKL, AutoencoderTiny, UNet2DConditionModel
from huggingface_hub import ModelCard
from transformers import AutoImageProcessor, AutoModelForDepthEstimation

from fiffdepth_rt.depth import Depth
from fiffdepth_rt.engine_dir.manifest import MANIFEST_NAME
from fiffdepth_rt.image import fit, grid_for, to_grid, to_photo
from training.data.teacher_maps import Output, Pixels, Teacher, TeacherMap
from training.latents import decode, encode, photo_tensor
from training.scene_teacher.checkpoint import is_one as is_scene_teacher
from training.scene_teacher.teacher import SceneTeacher
from training.weights.errors import CheckpointError
from training.weights.ours import load_checkpoint

logger = logging.getLogger("training")

MAX_ASPECT = 6
"""Longest side by shortest. Beyond, a batch would need far more memory than for any photo one meets."""

# Weights whose licence is known where no model card came with them.
_DAV2 = re.compile(r"depth[-_]?anything[-_]?v2.*?(small|base|large|giant|vit[sblg])", re.IGNORECASE)
_DAV2_LICENCES = {"s": "Apache-2.0", "b": "CC-BY-NC-4.0", "l": "CC-BY-NC-4.0", "g": "CC-BY-NC-4.0"}
_NON_COMMERCIAL = re.compile(r"\bnc\b|non-?commercial|research[- ]only", re.IGNORECASE)


class TeacherError(ValueError):
    """A teacher cannot be used: not there, not a depth estimator, or nothing says its licence."""


def open_teacher(which: str, *, device: str = "auto", licence: str | None = None) -> Teacher:
    """Path or hub id -> a teacher on `device` ("auto": a GPU where there is one).

    licence: of the weights; None to ask the engine directory, the checkpoint, the model card or the name.
    Raises TeacherError if there is no such teacher or nothing says its licence, FiffDepthError for an engine
    directory that cannot be used.
    """
    path = Path(which).expanduser()
    if (path / MANIFEST_NAME).is_file():
        return EngineTeacher(path, device=None if device == "auto" else device, licence=licence)
    where = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)
    if path.suffix == ".safetensors":
        if is_scene_teacher(path):
            return SceneTeacher(path, device=where)
        return CheckpointTeacher(path, device=where, licence=licence)
    return TransformersTeacher(which, device=where, licence=licence)


class TransformersTeacher:
    """Depth Anything, or another depth estimator of transformers with the same processor.

    The photo is resized as Depth Anything V2 does it (dpt.py): the shorter side becomes the processor's size
    (518 px), the aspect is kept, both sides are multiples of the patch (14 px); bicubic. transformers' own
    rule scales as little as possible instead, which makes photos below that size smaller than the model's
    authors do. The map goes back to the photo's size bilinearly.
    """

    def __init__(self, which: str, *, device: torch.device, licence: str | None) -> None:
        folder = Path(which).expanduser()
        source = str(folder) if folder.is_dir() else which
        try:
            model, loaded = AutoModelForDepthEstimation.from_pretrained(
                source, output_loading_info=True, use_safetensors=True
            )
            self._processor = AutoImageProcessor.from_pretrained(source)
        except (OSError, ValueError, ImportError) as error:
            raise TeacherError(_unavailable(which, error)) from error
        if loaded["missing_keys"] or loaded["mismatched_keys"]:
            raise TeacherError(
                f"{which} does not hold all weights of {type(model).__name__}: download it again. Missing or "
                f"misshapen: {sorted(map(str, loaded['missing_keys'] | loaded['mismatched_keys']))[0]}, ..."
            )
        self._model = model.eval().requires_grad_(False).to(device)
        self._device = device
        self.name = folder.resolve().name if folder.is_dir() else which
        self.licence = _licence(self.name, licence, _card_licence(source))
        metric = getattr(model.config, "depth_estimation_type", "relative") == "metric"
        self.output: Output = "metres" if metric else "disparity"

    def bucket(self, photo_hw: tuple[int, int]) -> tuple[int, int]:
        return network_hw(
            photo_hw,
            shorter=self._processor.size["height"],
            multiple=getattr(self._processor, "ensure_multiple_of", None) or 1,
        )

    @torch.inference_mode()
    def __call__(self, photos: Sequence[Pixels]) -> list[TeacherMap]:
        maps: dict[int, TeacherMap] = {}
        for (height, width), group in _groups(photos, self.bucket).items():
            pixels = self._processor(
                images=[photos[i] for i in group],
                size={"height": height, "width": width},
                keep_aspect_ratio=False,
                input_data_format="channels_last",
                return_tensors="pt",
            )["pixel_values"]
            # Half precision on GPUs only: CPUs gain nothing from float16.
            with torch.autocast(self._device.type, torch.float16, enabled=self._device.type == "cuda"):
                small = self._model(pixels.to(self._device)).predicted_depth
            for i, one in zip(group, small.float(), strict=True):
                large = torch.nn.functional.interpolate(
                    one[None, None], photos[i].shape[:2], mode="bilinear", align_corners=True
                )
                maps[i] = large[0, 0].cpu().numpy()
        return [maps[i] for i in range(len(photos))]


class CheckpointTeacher:
    """One of our own checkpoints, run in torch: photo -> image -> latent -> depth latent -> depth map."""

    def __init__(self, path: Path, *, device: torch.device, licence: str | None) -> None:
        try:
            loaded = load_checkpoint(path)
        except CheckpointError as error:
            raise TeacherError(f"{path} is no teacher: {error}") from error
        if loaded.info.recipe != "fiffdepth":
            raise TeacherError(
                f"{path} follows the recipe {loaded.info.recipe!r}: export it, and name the engine directory."
            )
        self._unet: UNet2DConditionModel = loaded.unet.requires_grad_(False).to(device)
        self._vae: AutoencoderKL | AutoencoderTiny = loaded.vae.requires_grad_(False).to(device)
        self._prompt = loaded.prompt_embedding.to(device)
        self._device = device
        self._size = loaded.info.size_default
        self.name = loaded.info.name
        self.licence = _licence(self.name, licence, loaded.info.licence)
        self.output: Output = _own_output(loaded.info.output_space)

    def bucket(self, photo_hw: tuple[int, int]) -> tuple[int, int]:
        return grid_for(photo_hw, size=self._size)

    @torch.inference_mode()
    def __call__(self, photos: Sequence[Pixels]) -> list[TeacherMap]:
        maps: dict[int, TeacherMap] = {}
        for grid_hw, group in _groups(photos, self.bucket).items():
            fits = [fit((photos[i].shape[0], photos[i].shape[1]), grid_hw) for i in group]
            images = np.stack([to_grid(photos[i], one) for i, one in zip(group, fits, strict=True)])
            latent = encode(self._vae, photo_tensor(images).to(self._device))
            depth_latent = self._unet(latent, 0, self._prompt.expand(len(group), -1, -1)).sample
            depth = ((decode(self._vae, depth_latent)[:, 0] + 1) / 2).cpu().numpy()
            maps |= {i: to_photo(one, way) for i, one, way in zip(group, depth, fits, strict=True)}
        return [maps[i] for i in range(len(photos))]


class EngineTeacher:
    """An engine directory, run by the runtime."""

    def __init__(self, path: Path, *, device: str | None, licence: str | None) -> None:
        self._depth = Depth(path, device=device)
        manifest = self._depth.manifest
        self.name = manifest.name
        self.licence = _licence(self.name, licence, manifest.licence.model)
        self.output: Output = _own_output(manifest.output_space)

    def bucket(self, photo_hw: tuple[int, int]) -> tuple[int, int]:
        return self._depth.grid_for(photo_hw)

    def __call__(self, photos: Sequence[Pixels]) -> list[TeacherMap]:
        return [depth_map.values for depth_map in self._depth.infer_batch(photos)]


def network_hw(photo_hw: tuple[int, int], *, shorter: int, multiple: int) -> tuple[int, int]:
    """photo's (height, width) -> the network's: the shorter side is `shorter`, both are multiples.

    Depth Anything V2's "lower bound": to the nearest multiple, or up where that would be below `shorter`.
    Raises ValueError beyond MAX_ASPECT.
    """
    if max(photo_hw) > MAX_ASPECT * min(photo_hw):
        raise ValueError(f"{photo_hw[1]}×{photo_hw[0]} px is longer than {MAX_ASPECT} times its shorter side")
    scale = shorter / min(photo_hw)

    def rounded(side: int) -> int:
        nearest = round(side * scale / multiple) * multiple
        return nearest if nearest >= shorter else -(-shorter // multiple) * multiple

    return rounded(photo_hw[0]), rounded(photo_hw[1])


def forbids_commerce(licence: str) -> bool:
    """Whether a licence says so in its name."""
    return _NON_COMMERCIAL.search(licence) is not None


def _groups(
    photos: Sequence[Pixels], bucket: Callable[[tuple[int, int]], tuple[int, int]]
) -> dict[tuple[int, int], list[int]]:
    """photos -> their indices by bucket."""
    groups: dict[tuple[int, int], list[int]] = defaultdict(list)
    for i, photo in enumerate(photos):
        groups[bucket((photo.shape[0], photo.shape[1]))].append(i)
    return groups


def _own_output(output_space: str) -> Output:
    return "disparity" if output_space == "disparity" else "depth"


def _licence(name: str, given: str | None, found: str | None) -> str:
    """What the caller gave, what the weights say of themselves, what is known by name: the first of these."""
    known = _DAV2.search(name)
    found = found or (_DAV2_LICENCES[known[1].lower().removeprefix("vit")[0]] if known else None)
    if given and found and given.casefold() != found.casefold():
        logger.warning(
            "%s is under %s as far as is known; its labels will say %s, as given.", name, found, given
        )
    if not (given or found):
        raise TeacherError(
            f"Nothing says the licence of {name}, which its labels inherit: pass --licence, or put a "
            "README.md with `license:` in its front matter beside the weights."
        )
    return given or found or ""


def _card_licence(source: str) -> str | None:
    """`license` of the model card of a folder or hub id; None without one."""
    card = Path(source) / "README.md"
    try:
        data = ModelCard.load(card if card.is_file() else source).data
    except (OSError, ValueError, yaml.YAMLError):  # no card, no network, not a card
        return None
    licence = data.get("license_name") if data.get("license") == "other" else data.get("license")
    return str(licence) if licence else None


def _unavailable(which: str, error: Exception) -> str:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    if Path(which).expanduser().is_dir():
        return (
            f"{which} is a folder, but no teacher ({reason.rstrip('.')}): it needs manifest.json (an engine "
            "directory), or config.json, preprocessor_config.json and model.safetensors (Depth Anything, of "
            "transformers)."
        )
    return (
        f"The teacher {which} cannot be had ({reason.rstrip('.')}). It is no file or folder here, so it was "
        "looked for on the hub. Without a network, where there is one: `hf download "
        "depth-anything/Depth-Anything-V2-Small-hf --local-dir dav2-small` (Small is Apache-2.0, Base and "
        "Large are CC-BY-NC-4.0); copy the folder, and pass --teacher dav2-small. Behind a mirror: set "
        "HF_ENDPOINT. With a filled cache: set HF_HOME to it."
    )
