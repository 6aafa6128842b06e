"""Key names and shapes -> which layout, which configuration. Nothing here looks at a value of a tensor.

A layout is found by the keys that every network of its kind has; configurations that the file does not carry
are read off the shapes. What shapes cannot say (the number of attention heads, of groups) follows Stable
Diffusion where its sizes are recognised, and is asked for otherwise.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from diffusers.loaders import single_file_utils

from fiffdepth_rt.errors import shortened
from training.weights.configuration import Config
from training.weights.errors import CheckpointError
from training.weights.tensors import Tensors, listed, without_prefix

LDM_UNET = "model.diffusion_model."
LDM_VAE = "first_stage_model."
# What a Stable Diffusion checkpoint holds that depth does not need: in words, and by key.
_NEEDLESS: Mapping[str, re.Pattern[str]] = {
    "a text encoder": re.compile(r"(\w+\.)?(cond_stage_model|conditioner|text_encoder(_\d)?|text_model)\."),
    "a depth estimator, of depth-to-image": re.compile(r"depth_model\."),
    "the training's loss": re.compile(r"loss\."),
    "the noise schedule": re.compile(
        r"\w*(betas|alphas|posterior|logvar|lvlb|scale_factor)\w*$|denoiser\.\w+$|sigmas$|ztsnr$|v_pred$|edm_\w+\.\w+$"
    ),
    "the training's counters": re.compile(r"(global_step|epoch|iteration|step)$"),
}
_AVERAGE = re.compile(r"(\w+\.)?(model_ema|unet_ema|ema_unet|ema_model|ema)\.")
# What changes the networks that lie beside it: without it, they compute something else.
_CHANGES: Mapping[str, re.Pattern[str]] = {
    "a ControlNet, which steers the UNet: give the UNet and the VAE as separate files": re.compile(
        r"control_model\.|controlnet\."
    ),
    "LoRA weights, which are added to a model's own: merge them first": re.compile(
        r".*(lora_up|lora_down|lora_A|lora_B|lora_unet)[._]"
    ),
    "weights in scaled fp8 or another quantisation: take the checkpoint before quantisation": re.compile(
        r"scaled_fp8$|.*(scale_weight|scale_input|weight_scale|comfy_quant|SCB|absmax|quant_map)$|.*quant_state"
    ),
}
PROMPT_KEYS = ("prompt_embedding", "empty_text_embed")
SD_NORM_GROUPS = 32


def without_needless(tensors: Tensors, where: str) -> tuple[Tensors, tuple[str, ...]]:
    """A file's tensors -> those of networks, and a note on each kind that is left out.

    A moving average (EMA) of the UNet is left out where the plain weights lie beside it, as diffusers does.
    Raises CheckpointError for tensors that change what the networks beside them compute.
    """
    for words, pattern in _CHANGES.items():
        if found := [k for k in tensors if pattern.match(k)]:
            raise CheckpointError(
                f"{where} holds {words} ({len(found)} tensors, such as {listed(found[:1])})."
            )
    kinds = dict(_NEEDLESS)
    plain = {k for k in tensors if not _AVERAGE.match(k)}
    if unet_prefix(plain) is not None or ldm_prefixes(plain)[0] is not None:
        kinds["a moving average (EMA) of the weights, beside the plain ones, which are taken"] = _AVERAGE
    left, notes = dict(tensors), []
    for words, pattern in kinds.items():
        if needless := [k for k in left if pattern.match(k)]:
            notes.append(f"left out: {words} ({len(needless)} tensors, such as {listed(needless[:1])})")
            left = {k: v for k, v in left.items() if not pattern.match(k)}
    if any(map(_AVERAGE.match, left)):
        notes.append("the moving average (EMA) of the weights is taken: there are no plain ones")
    return left, tuple(notes)


def unet_prefix(keys: Iterable[str]) -> str | None:
    """The prefix under which a diffusers UNet lies ("" for none), or None if there is no such network."""
    return _prefix(keys, "conv_in.weight", "time_embedding.linear_1.weight")


def vae_prefix(keys: Iterable[str]) -> str | None:
    """The prefix under which a diffusers VAE lies, or None if there is no such network."""
    return _prefix(keys, "encoder.conv_in.weight", "decoder.conv_out.weight", "encoder.conv_norm_out.weight")


def ldm_prefixes(keys: Iterable[str]) -> tuple[str | None, str | None]:
    """The prefixes of an LDM UNet and of an LDM VAE; None for what is not there."""
    names = set(keys)
    return (
        _prefix(names, "input_blocks.0.0.weight", "time_embed.0.weight"),
        _prefix(names, "encoder.conv_in.weight", "encoder.norm_out.weight", "decoder.norm_out.weight"),
    )


def unet_from_ldm(tensors: Tensors, where: str) -> Tensors:
    """LDM names, without prefix -> diffusers names, by diffusers' own converter.

    Raises CheckpointError listing the tensors that the converter has no place for.
    """
    downsamplers = [
        int(m[1]) for k in tensors if (m := re.match(r"input_blocks\.(\d{1,3})\.0\.op\.weight", k))
    ]
    if not downsamplers:
        raise CheckpointError(f"{where}: this LDM UNet has a single level; that is no depth model we know.")
    config: Config = {"layers_per_block": max(1, min(downsamplers) - 1)}
    if "label_emb.0.0.weight" in tensors:
        config["class_embed_type"] = "projection"
    return _converted(single_file_utils.convert_ldm_unet_checkpoint, config, LDM_UNET, tensors, where)


def vae_from_ldm(tensors: Tensors, where: str) -> Tensors:
    """LDM names, without prefix -> diffusers names, by diffusers' converter. Raises as `unet_from_ldm`."""
    levels = _count(tensors, r"encoder\.down\.(\d{1,2})\.")
    config = {"down_block_types": [""] * levels, "up_block_types": [""] * levels}
    return _converted(single_file_utils.convert_ldm_vae_checkpoint, config, LDM_VAE, tensors, where)


def modern_vae(tensors: Tensors) -> Tensors:
    """Attention keys of older diffusers, query, key, value, proj_attn -> to_q, to_k, to_v, to_out.0."""
    new = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
    pattern = re.compile(r"(mid_block\.attentions\.\d+\.)(query|key|value|proj_attn)(\.(?:weight|bias))$")
    return {pattern.sub(lambda m: m[1] + new[m[2]] + m[3], k): v for k, v in tensors.items()}


def unet_config(tensors: Mapping[str, torch.Tensor], where: str, *, way: str) -> Config:
    """Shapes of a diffusers UNet -> its configuration.

    way: how the user can give the configuration, for the message.
    Raises CheckpointError where heads or groups are not Stable Diffusion's, or a tensor is missing or has too
    few dimensions.
    """
    shape = _Shapes(tensors, where)
    levels = _count(tensors, r"down_blocks\.(\d{1,2})\.")
    channels = [shape.side(f"down_blocks.{i}.resnets.0.conv1.weight", 0) for i in range(levels)]
    attended = {
        side: [any(k.startswith(f"{side}_blocks.{i}.attentions.") for k in tensors) for i in range(levels)]
        for side in ("down", "up")
    }
    keys = next((k for k in tensors if k.endswith("attn2.to_k.weight")), None)
    projection = next((k for k in tensors if k.endswith("proj_in.weight")), None)
    if keys is None or projection is None:
        raise CheckpointError(f"{where}: this UNet has no cross-attention; that is no depth model we know.")
    context = shape.side(keys, 1)
    config: Config = {
        "in_channels": shape.side("conv_in.weight", 1),
        "out_channels": shape.side("conv_out.weight", 0),
        "block_out_channels": channels,
        "layers_per_block": _count(tensors, r"down_blocks\.0\.resnets\.(\d{1,2})\."),
        "down_block_types": [f"{'CrossAttn' * a}DownBlock2D" for a in attended["down"]],
        "up_block_types": [f"{'CrossAttn' * a}UpBlock2D" for a in attended["up"]],
        "cross_attention_dim": context,
        "attention_head_dim": _heads(channels, context, where, way),
        "use_linear_projection": tensors[projection].ndim == 2,
        "norm_num_groups": _groups(channels, where, way),
    }
    if not any(k.startswith("mid_block.attentions.") for k in tensors):
        config["mid_block_type"] = "UNetMidBlock2D"
    if "class_embedding.linear_1.weight" in tensors:
        config["class_embed_type"] = "projection"
        config["projection_class_embeddings_input_dim"] = shape.side("class_embedding.linear_1.weight", 1)
    return config


def vae_config(tensors: Mapping[str, torch.Tensor], where: str, *, way: str) -> Config:
    """Shapes of a diffusers VAE -> its configuration, with Stable Diffusion's scaling factor.

    way: how the user can give the configuration, for the message.
    Raises CheckpointError where the groups are not those of Stable Diffusion, or as `unet_config`.
    """
    shape = _Shapes(tensors, where)
    levels = _count(tensors, r"encoder\.down_blocks\.(\d{1,2})\.")
    channels = [shape.side(f"encoder.down_blocks.{i}.resnets.0.conv1.weight", 0) for i in range(levels)]
    return {
        "block_out_channels": channels,
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "layers_per_block": _count(tensors, r"encoder\.down_blocks\.0\.resnets\.(\d{1,2})\."),
        "latent_channels": shape.side("decoder.conv_in.weight", 1),
        "norm_num_groups": _groups(channels, where, way),
        "mid_block_add_attention": any(k.startswith("encoder.mid_block.attentions.") for k in tensors),
        "use_quant_conv": "quant_conv.weight" in tensors,
        "use_post_quant_conv": "post_quant_conv.weight" in tensors,
        "scaling_factor": 0.18215,
    }


def split_ldm(tensors: Tensors, where: str) -> tuple[Tensors, Tensors | None, Tensors]:
    """An LDM checkpoint -> UNet and VAE under diffusers' names (None: no VAE), and tensors of no part."""
    prefix, vae = ldm_prefixes(tensors)
    if prefix is None:
        raise CheckpointError(f"{where} holds no UNet.")
    ours = tuple(p for p in (prefix, vae) if p)
    rest = {} if not prefix else {k: v for k, v in tensors.items() if not k.startswith(ours)}
    unet = unet_from_ldm(without_prefix(tensors, prefix), where)
    return unet, None if vae is None else vae_from_ldm(without_prefix(tensors, vae), where), rest


def split_diffusers(tensors: Tensors, where: str) -> tuple[Tensors, Tensors | None, Tensors]:
    """diffusers' names under prefixes -> UNet, VAE (None: there is none), and tensors of no known part."""
    prefix, vae_below = unet_prefix(tensors), vae_prefix(tensors)
    if prefix is None:
        what = "a VAE and no UNet" if vae_below is not None else "no network that is known"
        raise CheckpointError(
            f"{where} holds {what}: neither diffusers' names (conv_in.weight, time_embedding.linear_1.weight)"
            f" nor LDM's. Its first tensors: {listed(sorted(tensors)[:5])}."
        )
    ours = tuple(p for p in (prefix, vae_below) if p)
    rest = {k: v for k, v in tensors.items() if ours and not k.startswith(ours)}
    vae = None if vae_below is None else modern_vae(without_prefix(tensors, vae_below))
    return without_prefix(tensors, prefix), vae, rest


def vae_of(tensors: Tensors, where: str) -> Tensors:
    """A file's tensors, in diffusers' or LDM's names -> its VAE, in diffusers'. Raises CheckpointError."""
    if (prefix := vae_prefix(tensors)) is not None:
        return modern_vae(without_prefix(tensors, prefix))
    if (prefix := ldm_prefixes(tensors)[1]) is not None:
        return vae_from_ldm(without_prefix(tensors, prefix), where)
    raise CheckpointError(f"{where} holds no VAE, neither with diffusers' names nor with LDM's.")


def _prefix(keys: Iterable[str], first: str, *others: str) -> str | None:
    names = set(keys)
    candidates = sorted((k[: -len(first)] for k in names if k.endswith(first)), key=len)
    return next((p for p in candidates if all(p + other in names for other in others)), None)


def _count(names: Iterable[str], pattern: str) -> int:
    return 1 + max((int(m[1]) for k in names if (m := re.match(pattern, k))), default=-1)


def _heads(channels: list[int], context: int, where: str, way: str) -> int | list[int]:
    """diffusers' `attention_head_dim`, which for these networks is the number of heads."""
    if context == 1024 and not any(c % 64 for c in channels):
        return [c // 64 for c in channels]  # SD 2: heads of 64 channels
    if context == 768:
        return 8  # SD 1: eight heads
    raise CheckpointError(
        f"{where}: shapes do not say how many attention heads a UNet of {channels} channels has. "
        f"Give its config.json: {way}."
    )


def _groups(channels: list[int], where: str, way: str) -> int:
    if any(c % SD_NORM_GROUPS for c in channels):
        raise CheckpointError(
            f"{where}: {channels} channels are not in groups of {SD_NORM_GROUPS} as Stable Diffusion's are. "
            f"Give its config.json: {way}."
        )
    return SD_NORM_GROUPS


class _Shapes:
    """Shapes of tensors, by name."""

    def __init__(self, tensors: Mapping[str, torch.Tensor], where: str) -> None:
        self._tensors, self._where = tensors, where

    def side(self, name: str, axis: int) -> int:
        """Raises CheckpointError where the tensor is missing, or has too few dimensions."""
        tensor = self._tensors.get(name)
        if tensor is None:
            raise CheckpointError(f"{self._where} lacks {name}. Is it the whole file?")
        if tensor.ndim <= axis:
            raise CheckpointError(
                f"{self._where}: {name} has the shape {tuple(tensor.shape)}, which is no layer's. "
                "Copy or download the file again."
            )
        return int(tensor.shape[axis])


def _converted(
    convert: Callable[..., Any], config: Config, prefix: str, tensors: Tensors, where: str
) -> Tensors:
    """A converter of diffusers, run on tensors without their prefix.

    Raises CheckpointError where it fails, or leaves a tensor behind; it says nothing of that itself.
    """
    old = {prefix + k: v for k, v in tensors.items()}
    try:
        new: Tensors = convert(old, config)
    except Exception as e:  # a tensor that the converter expects and does not find, in any kind of error
        raise CheckpointError(
            f"{where}: diffusers does not read these LDM names ({type(e).__name__}: {shortened(e)}). "
            "Is it the whole file, and a depth model of the Stable Diffusion family?"
        ) from e
    if wanting := sorted(k for k, tensor in new.items() if tensor is None):
        raise CheckpointError(f"{where} lacks what becomes {listed(wanting)}. Is it the whole file?")
    kept = {tensor.data_ptr() for tensor in new.values()}
    if lost := sorted(k for k, tensor in old.items() if tensor.data_ptr() not in kept):
        raise CheckpointError(
            f"{where}: {len(lost)} tensors have no place in the network: {listed(lost)}. Is it the whole "
            "file, and a depth model of the Stable Diffusion family?"
        )
    return {k: v.contiguous() for k, v in new.items()}
