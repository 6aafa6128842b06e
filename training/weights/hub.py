"""Hub id -> a folder on this disk, with the files that reading needs and no others."""

from __future__ import annotations

import re
from pathlib import Path

from huggingface_hub import snapshot_download

from training.weights.errors import CheckpointError

DESCRIPTIONS = ("*/config.json", "*/*.index*.json", "scheduler/*", "tokenizer/*", "README.md", "LICEN[SC]E*")
NETWORKS = (
    "unet/diffusion_pytorch_model.safetensors",
    "unet/diffusion_pytorch_model-0*.safetensors",
    "vae/diffusion_pytorch_model.safetensors",
)
TEXT_ENCODER = ("text_encoder/model.safetensors",)

WAYS = """Ways to get base weights:
  - where a hub can be reached: hf download OWNER/NAME --local-dir models/NAME; copy the folder here and set
    base.model = "models/NAME" (Stability's own SD 2.x repositories left the Hub; mirrors keep them)
  - another hub: set the environment variable HF_ENDPOINT; a private one also wants HF_TOKEN
  - a single .safetensors of SD 2.1 as people exchange it: base.model = "FILE.safetensors", with base.text or
    base.prompt_embedding
  - from an earlier run of ours: base.model = "runs/OTHER/NAME.safetensors\""""


def is_hub_id(name: str) -> bool:
    """Whether "OWNER/NAME" can be meant: two words, and no folder OWNER lies here."""
    return re.fullmatch(r"[\w.-]+/[\w.-]+", name) is not None and not Path(name).parent.is_dir()


def download_model(hub_id: str, *, revision: str = "") -> Path:
    """UNet, VAE, scheduler and text encoder, in the fp16 variant where there is no other.

    Downloaded once. revision: "" for the main branch. Raises CheckpointError with WAYS.
    """
    wanted = (*NETWORKS, *TEXT_ENCODER)
    folder = _download(hub_id, revision, wanted)
    if not any((folder / "unet").glob("*.safetensors")):
        folder = _download(hub_id, revision, _halves(wanted))
    return folder


def download_text_encoder(hub_id: str) -> Path:
    """text_encoder/ and tokenizer/ alone. Raises CheckpointError with WAYS."""
    return _download(hub_id, "", TEXT_ENCODER)


def _halves(names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(name.replace(".safetensors", ".fp16.safetensors") for name in names)


def _download(hub_id: str, revision: str, weights: tuple[str, ...]) -> Path:
    try:
        return Path(
            snapshot_download(hub_id, revision=revision or None, allow_patterns=[*DESCRIPTIONS, *weights])
        )
    except Exception as e:  # huggingface_hub and httpx raise kinds of their own, without a common base
        first = (str(e).strip() or type(e).__name__).splitlines()[0]
        raise CheckpointError(f"Cannot load {hub_id} from a hub: {first}\n{WAYS}") from e
