"""The public models' repositories as they are laid out, at a small width: files, folders, keys and values.

What a value is taken from stands beside it (`source`), as the page or the file that was read: a stored copy
of the hub's file list or file at the commit named, or a file of the authors' own repository. Where no copy
was found, the value is diffusers' default for Stable Diffusion 2, and `source` says "not seen". Only widths,
the number of layers and the vocabulary are ours.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Mapping
from typing import Any

import torch
from safetensors.torch import save
from transformers import CLIPTextConfig, CLIPTextModel

from tests.support.public_models.loopback_hub import HostedRepository
from tests.support.tiny_models import exact_in_half, sized_like_sd2, tiny_checkpoint
from training.weights.ours import Checkpoint

STEM = "diffusion_pytorch_model"
LOTUS_LABELS = {"class_embed_type": "projection", "projection_class_embeddings_input_dim": 4}
# Scheduler of Lotus: huggingface.co/jingheya/lotus-depth-g-v1-0 at dec5590, scheduler/scheduler_config.json.
LOTUS_SCHEDULER: Mapping[str, Any] = {
    "_class_name": "DDIMScheduler",
    "_diffusers_version": "0.28.0.dev0",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "clip_sample": False,
    "clip_sample_range": 1.0,
    "dynamic_thresholding_ratio": 0.995,
    "num_train_timesteps": 1000,
    "prediction_type": "sample",
    "rescale_betas_zero_snr": False,
    "sample_max_value": 1.0,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "thresholding": False,
    "timestep_spacing": "leading",
    "trained_betas": None,
}
# Scheduler of e2e-ft: the keys' order and the last five at commit 30e96fe of marigold-e2e-ft-depth; the
# v-prediction is Stable Diffusion 2's.
E2E_SCHEDULER: Mapping[str, Any] = {
    **LOTUS_SCHEDULER,
    "prediction_type": "v_prediction",
    "timestep_spacing": "trailing",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Published:
    """One repository. unet: what its configuration has besides Stable Diffusion 2's.

    pipeline: `_class_name` of model_index.json; None: there is no such file. stored: the dtype of the weights
    (none of these repositories has a variant, only files whose content is in half precision). other_files:
    small ones that no export needs. single_file: a UNet alone, named so.
    """

    pipeline: str | None
    unet_folder: str = "unet"
    unet: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    stored: torch.dtype = torch.float32
    scheduler: Mapping[str, Any] | None = None
    text_encoder: bool = True
    card: str | None = None
    other_files: tuple[str, ...] = (".gitattributes",)
    single_file: str | None = None
    source: tuple[str, ...]


_E2E_CARD = (
    "---\nlicense: apache-2.0\ntags:\n- depth\n- monocular depth estimation\n- in-the-wild\n- zero-shot\n"
)
_E2E_CARD += "- single-step\npipeline_tag: depth-estimation\n---\n"
_LOTUS_CARD = (
    "---\nlicense: apache-2.0\npipeline_tag: depth-estimation\nlibrary_name: diffusers\n---\n# Lotus\n"
)
_EXTRACTOR = "feature_extractor/preprocessor_config.json"

PUBLISHED: Mapping[str, Published] = {
    "jingheya/lotus-depth-d-v1-0": Published(
        pipeline="LotusDPipeline",
        unet=LOTUS_LABELS,
        scheduler=LOTUS_SCHEDULER,
        card=_LOTUS_CARD,
        other_files=(".gitattributes", _EXTRACTOR, "assets/badges/teaser_2.jpg"),
        source=(
            "folders, LotusDPipeline, licence: file list at 9b858ff; unet 3.47 GB and vae 335 MB",
            "class label of four numbers: EnVision-Research/Lotus, infer.py; its configuration: not seen",
        ),
    ),
    "jingheya/lotus-depth-d-v1-1": Published(
        pipeline="LotusDPipeline",
        unet=LOTUS_LABELS,
        stored=torch.float16,
        scheduler=LOTUS_SCHEDULER,
        card=_LOTUS_CARD,
        other_files=(".gitattributes", _EXTRACTOR),
        source=(
            "model_index.json at 45d1bb0, licence and folders at 18f3f52; unet 1.74 GB, vae 167 MB: half "
            "precision under the plain name",
            "scheduler: as v1-0's, not seen",
        ),
    ),
    "jingheya/lotus-depth-d-v2-0-disparity": Published(
        pipeline="DirectRegressionPipeline",
        unet=LOTUS_LABELS,
        stored=torch.float16,
        scheduler={k: v for k, v in LOTUS_SCHEDULER.items() if k not in ("skip_prk_steps", "trained_betas")},
        card=_LOTUS_CARD,
        other_files=(".gitattributes", _EXTRACTOR, "assets/badges/teaser_1.jpg"),
        source=(
            "DirectRegressionPipeline, licence and folders at ddc9f4a; vae 167 MB, text encoder 681 MB",
            "scheduler_config.json has 379 bytes; its keys: not seen",
        ),
    ),
    "GonzaloMartinGarcia/marigold-e2e-ft-depth": Published(
        pipeline="StableDiffusionPipeline",
        unet={"in_channels": 8},
        scheduler=E2E_SCHEDULER,
        card=_E2E_CARD,
        other_files=(".gitattributes", "vae/.DS_Store"),
        source=(
            "StableDiffusionPipeline, tags, licence, no feature_extractor at 9b32bb5; unet 3.46 GB, "
            "vae 335 MB and a .DS_Store in it; trailing spacing at 30e96fe",
            "8 channels: VisualComputingInstitute/diffusion-e2e-ft, Marigold/marigold/marigold_pipeline.py",
        ),
    ),
    "GonzaloMartinGarcia/stable-diffusion-e2e-ft-depth": Published(
        pipeline="StableDiffusionPipeline",
        unet={"in_channels": 8},
        scheduler=E2E_SCHEDULER,
        card=_E2E_CARD,
        other_files=(".gitattributes", _EXTRACTOR, "pipeline.py"),
        source=("folders, pipeline.py, tags, licence at ca34774; text encoder 1.36 GB at 63f09df",),
    ),
    "guangkaixu/genpercept-depth": Published(
        pipeline="GenPerceptPipeline",
        unet_folder="unet_depth_v2",
        text_encoder=False,
        other_files=(".gitattributes", ".DS_Store"),
        source=(
            "unet_depth_v2/ and vae/, LICENSE.txt, model_index.json of 190 bytes, no card, no scheduler, "
            "no text encoder at 4348353; unet 3.46 GB, vae 167 MB",
        ),
    ),
    "guangkaixu/genpercept-disparity": Published(
        pipeline=None,
        unet_folder="unet_disparity_v2",
        text_encoder=False,
        source=("unet_disparity_v2/ and vae/ alone at bea73bc: no card, no licence, no model_index.json",),
    ),
    "Comfy-Org/lotus": Published(
        pipeline=None,
        unet=LOTUS_LABELS,
        stored=torch.float16,
        text_encoder=False,
        card="---\ntags:\n- diffusion-single-file\n- comfyui\n---\n",
        single_file="lotus-depth-d-v1-1.safetensors",
        source=(
            "one file of 1.74 GB and a card of 47 bytes with these tags, without a licence, at 603b2fd",
            "the names of its tensors: not seen; diffusers' here, LDM's in tests/export/test_checkpoint.py",
        ),
    ),
}


@functools.cache
def made_for(repository: str) -> Checkpoint:
    """The small model behind a repository, with weights that its files hold exactly."""
    layout = PUBLISHED[repository]
    seed = 1 + list(PUBLISHED).index(repository)
    if repository in ("Comfy-Org/lotus", "jingheya/lotus-depth-d-v1-1"):
        # The same UNet in two layouts; the file's shapes have to tell its configuration.
        made = sized_like_sd2(20, **LOTUS_LABELS)
    else:
        made = tiny_checkpoint(seed, **layout.unet)
    made = exact_in_half(made)
    tokens = torch.tensor([[0, 1]])
    with torch.no_grad():
        prompt = text_encoder(made.unet.config["cross_attention_dim"])(tokens)[0]
    return dataclasses.replace(made, prompt_embedding=prompt)


@functools.cache
def text_encoder(width: int) -> CLIPTextModel:
    """The text encoder that all relatives share; weights exact in half precision."""
    torch.manual_seed(0)
    config = CLIPTextConfig(
        vocab_size=3, hidden_size=width, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        bos_token_id=0, eos_token_id=1, pad_token_id=2, max_position_embeddings=4,
    )  # fmt: skip
    return CLIPTextModel(config).half().float().eval()


@functools.cache
def hosted(repository: str) -> HostedRepository:
    """A repository as a hub holds it."""
    layout, made = PUBLISHED[repository], made_for(repository)
    files = {name: f"{name} of {repository}".encode() for name in layout.other_files}
    if layout.card is not None:
        files["README.md"] = layout.card.encode()
    if repository == "guangkaixu/genpercept-depth":
        files["LICENSE.txt"] = b"For non-commercial use.\n"
    if layout.single_file is not None:
        files[layout.single_file] = _weights(made.unet, layout.stored)
        return _hosted(repository, files)
    files |= _part(layout.unet_folder, made.unet, layout.stored) | _part("vae", made.vae, layout.stored)
    parts = {"unet": ["diffusers", "UNet2DConditionModel"], "vae": ["diffusers", "AutoencoderKL"]}
    if layout.scheduler is not None:
        files["scheduler/scheduler_config.json"] = _json(layout.scheduler)
        parts["scheduler"] = ["diffusers", str(layout.scheduler["_class_name"])]
    if layout.text_encoder:
        files |= text_encoder_files(made.unet.config["cross_attention_dim"], layout.stored)
        parts |= {
            "text_encoder": ["transformers", "CLIPTextModel"],
            "tokenizer": ["transformers", "CLIPTokenizer"],
        }
    if layout.pipeline is not None:
        index = {"_class_name": layout.pipeline, "_diffusers_version": "0.28.0.dev0", **parts}
        files["model_index.json"] = _json(index)
    return _hosted(repository, files)


def text_encoder_files(width: int, dtype: torch.dtype) -> dict[str, bytes]:
    """text_encoder/ and tokenizer/ with the files that the published ones have."""
    encoder = text_encoder(width)
    return {
        "text_encoder/config.json": encoder.config.to_json_string().encode(),
        "text_encoder/model.safetensors": _weights(encoder, dtype),
        "tokenizer/vocab.json": _json({"<|startoftext|>": 0, "<|endoftext|>": 1, "!": 2}),
        "tokenizer/merges.txt": b"#version: 0.2\n",
        "tokenizer/tokenizer_config.json": _json(
            {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77}
        ),
        "tokenizer/special_tokens_map.json": _json(
            {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>"}
        ),
    }


def _hosted(repository: str, files: dict[str, bytes]) -> HostedRepository:
    return HostedRepository(files=files, commit=hashlib.sha1(repository.encode()).hexdigest())


def _part(folder: str, module: Any, dtype: torch.dtype) -> dict[str, bytes]:
    config = {"_class_name": type(module).__name__, "_diffusers_version": "0.28.0.dev0"}
    config |= {k: v for k, v in module.config.items() if not k.startswith("_")}
    return {
        f"{folder}/config.json": _json(config),
        f"{folder}/{STEM}.safetensors": _weights(module, dtype),
    }


def _weights(module: Any, dtype: torch.dtype) -> bytes:
    # transformers reads no file without this word
    return save({k: v.to(dtype).contiguous() for k, v in module.state_dict().items()}, {"format": "pt"})


def _json(value: Any) -> bytes:
    return json.dumps(value, indent=2).encode()
