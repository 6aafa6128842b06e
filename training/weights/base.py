"""Base weights as people hold them -> the networks that training starts from.

    diffusers folder   unet/, vae/, scheduler/, text_encoder/, tokenizer/ (fp32 or fp16 variant)
    Hub id             the same, downloaded once by huggingface_hub
    LDM file           one .safetensors with `model.diffusion_model.*` and `first_stage_model.*`
    our own            a checkpoint of training/, to go on from

Reading and converting is diffusers' own (`from_pretrained`, `from_single_file`). Pickles are refused.
"""

from __future__ import annotations

import dataclasses
import json
import re
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, AutoencoderTiny, UNet2DConditionModel
from huggingface_hub import snapshot_download
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from training.config import Base
from training.weights import ours as checkpoint

SD2_UNET: Mapping[str, Any] = {
    "_class_name": "UNet2DConditionModel",
    "sample_size": 96,
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": [320, 640, 1280, 1280],
    "layers_per_block": 2,
    "attention_head_dim": [5, 10, 20, 20],
    "cross_attention_dim": 1024,
    "use_linear_projection": True,
}
SD2_VAE: Mapping[str, Any] = {
    "_class_name": "AutoencoderKL",
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "layers_per_block": 2,
    "latent_channels": 4,
    "sample_size": 768,
    "scaling_factor": 0.18215,
}
"""What diffusers' configurations of Stable Diffusion 2.x say beyond the classes' defaults."""

DESCRIPTIONS = ("*/config.json", "*/*.index*.json", "scheduler/*", "tokenizer/*")
WEIGHTS = (
    "unet/diffusion_pytorch_model.safetensors",
    "unet/diffusion_pytorch_model-0*.safetensors",
    "vae/diffusion_pytorch_model.safetensors",
    "text_encoder/model.safetensors",
)
HALF_WEIGHTS = tuple(name.replace(".safetensors", ".fp16.safetensors") for name in WEIGHTS)
"""What is downloaded of a Hub id, of all that repositories hold; the fp16 variant where there is no other."""

WAYS = """Ways to get base weights:
  - where a hub can be reached: hf download OWNER/NAME --local-dir models/NAME; copy the folder here and set
    base.model = "models/NAME" (Stability's own SD 2.x repositories left the Hub; mirrors keep them)
  - another hub: set the environment variable HF_ENDPOINT; a private one also wants HF_TOKEN
  - a single .safetensors of SD 2.1 as people exchange it: base.model = "FILE.safetensors", with base.text or
    base.prompt_embedding
  - from an earlier run of ours: base.model = "runs/OTHER/NAME.safetensors\""""


class BaseError(ValueError):
    """The base weights cannot be had or used; the message says why, and the ways to get them."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class BaseModel:
    """fp32 modules on the CPU. prompt_embedding: [1, tokens, C]; scheduler_config: None if there is none.

    source: what was loaded, in words.
    """

    unet: UNet2DConditionModel
    vae: AutoencoderKL
    prompt_embedding: torch.Tensor
    scheduler_config: Mapping[str, Any] | None
    source: str


def load_base(base: Base) -> BaseModel:
    """Raises BaseError."""
    path = Path(base.model)
    if path.is_dir():
        return _folder(base, base.model, f"diffusers folder {path.name}")
    if path.is_file():
        return _file(base, path)
    if re.fullmatch(r"[\w.-]+/[\w.-]+", base.model) and not path.parent.is_dir():
        return _folder(base, _downloaded(base), f"{base.model}, revision {base.revision or 'main'}")
    raise BaseError(
        f'base.model = "{base.model}" is neither a folder nor a file here, nor a Hub id (OWNER/NAME).\n{WAYS}'
    )


def empty_prompt(source: str) -> torch.Tensor:
    """Folder or Hub id with text_encoder/ and tokenizer/ -> embedding of "" without padding: [1, 2, C].

    Raises BaseError.
    """
    from transformers import CLIPTextModel, CLIPTokenizer  # seconds to import, and needed here alone

    def load() -> torch.Tensor:
        tokenizer = CLIPTokenizer.from_pretrained(source, subfolder="tokenizer")
        encoder: Any = CLIPTextModel.from_pretrained(source, subfolder="text_encoder", use_safetensors=True)
        tokens = tokenizer("", padding="do_not_pad", return_tensors="pt").input_ids
        with torch.no_grad():
            return encoder.float().eval()(tokens)[0]

    return _loaded(load, f"the text encoder of {source}")


def _downloaded(base: Base) -> str:
    """The folder of a Hub id's parts that training needs, downloaded unless they are there."""

    def download(weights: tuple[str, ...]) -> str:
        return snapshot_download(
            base.model, revision=base.revision or None, allow_patterns=[*DESCRIPTIONS, *weights]
        )

    what = f"{base.model} from a hub"
    folder = _loaded(lambda: download(WEIGHTS), what)
    if not any(Path(folder, "unet").glob("*.safetensors")):
        folder = _loaded(lambda: download(HALF_WEIGHTS), what)
    return folder


def _folder(base: Base, source: str, described: str) -> BaseModel:
    def load(cls: Any, part: str) -> Any:
        common = {"subfolder": part, "use_safetensors": True, "local_files_only": True}
        try:
            return cls.from_pretrained(source, **common)
        except OSError:
            return cls.from_pretrained(source, variant="fp16", **common)

    unet, vae = (
        _loaded(lambda cls=cls, part=part: load(cls, part), f"{part} of {source}")
        for cls, part in ((UNet2DConditionModel, "unet"), (AutoencoderKL, "vae"))
    )
    scheduler = Path(source) / "scheduler" / "scheduler_config.json"
    return _checked(
        base,
        BaseModel(
            unet=unet.float(),
            vae=vae.float(),
            prompt_embedding=_prompt(base, default=source),
            scheduler_config=json.loads(scheduler.read_text()) if scheduler.is_file() else None,
            source=described,
        ),
    )


def _file(base: Base, path: Path) -> BaseModel:
    if path.suffix != ".safetensors":
        raise BaseError(
            f"{path} is no .safetensors. A pickle (.ckpt, .bin, .pt) can run code when it is read, so it is "
            "refused: convert it on a machine that trusts it, with safetensors.torch.save_file.\n" + WAYS
        )
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise BaseError(f"{path} cannot be read as safetensors: {error}. Copy it again.") from error
    if metadata.get("format") == checkpoint.FORMAT:
        try:
            own = checkpoint.load(path)
        except checkpoint.CheckpointError as error:
            raise BaseError(str(error)) from error
        if isinstance(own.vae, AutoencoderTiny):
            raise BaseError(
                f"{path.name} carries a light VAE, and training wants a full one: start from the checkpoint "
                "that the light one was distilled from."
            )
        return BaseModel(
            unet=own.unet,
            vae=own.vae,
            prompt_embedding=own.prompt_embedding,
            scheduler_config=None,
            source=f"checkpoint {path.name} of training/",
        )
    with tempfile.TemporaryDirectory() as configs:
        folder = Path(base.config) if base.config else _sd2_configs(Path(configs))
        unet, vae = (
            _loaded(
                lambda cls=cls, part=part: cls.from_single_file(
                    str(path), config=str(folder), subfolder=part, local_files_only=True
                ),
                f"{part} of {path} (as {base.config or 'Stable Diffusion 2.x'}; other sizes: base.config)",
            )
            for cls, part in ((UNet2DConditionModel, "unet"), (AutoencoderKL, "vae"))
        )
    return _checked(
        base,
        BaseModel(
            unet=unet.float(),
            vae=vae.float(),
            prompt_embedding=_prompt(base, default=""),
            scheduler_config=None,
            source=f"LDM file {path.name}",
        ),
    )


def _sd2_configs(folder: Path) -> Path:
    for part, config in (("unet", SD2_UNET), ("vae", SD2_VAE)):
        (folder / part).mkdir()
        (folder / part / "config.json").write_text(json.dumps(dict(config)))
    return folder


def _prompt(base: Base, *, default: str) -> torch.Tensor:
    if base.prompt_embedding:
        try:
            tensors = load_file(base.prompt_embedding)
        except (SafetensorError, OSError) as error:
            raise BaseError(f"base.prompt_embedding = {base.prompt_embedding}: {error}.") from error
        if len(tensors) != 1:
            raise BaseError(f"{base.prompt_embedding} holds {len(tensors)} tensors; it has to be one alone.")
        return next(iter(tensors.values())).float()
    if not (base.text or default):
        raise BaseError(
            "An LDM file brings no text encoder under names that fit: set base.text to a folder or Hub id "
            "with text_encoder/ and tokenizer/ of the same model, or base.prompt_embedding to a .safetensors "
            "with the embedding of the empty prompt, [1, 2, C]."
        )
    return empty_prompt(base.text or default)


def _checked(base: Base, model: BaseModel) -> BaseModel:
    channels, prompt = model.unet.config.cross_attention_dim, model.prompt_embedding
    if prompt.ndim != 3 or prompt.shape[0] != 1 or prompt.shape[2] != channels:
        raise BaseError(
            f"The prompt embedding has shape {list(prompt.shape)}; the UNet of {base.model} wants "
            f"[1, tokens, {channels}]: text encoder and UNet are of two models."
        )
    if model.unet.config.in_channels != model.vae.config.latent_channels:
        raise BaseError(
            f"The UNet of {base.model} takes {model.unet.config.in_channels} channels, its VAE gives "
            f"{model.vae.config.latent_channels}: not a text-to-image model, nor one of ours."
        )
    return model


def _loaded(load: Callable[[], Any], what: str) -> Any:
    try:
        return load()
    except Exception as error:  # diffusers, transformers, huggingface_hub and httpx raise kinds of their own
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise BaseError(f"Cannot load {what}: {first}\n{WAYS}") from error
