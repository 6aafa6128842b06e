"""Key names and shapes -> which layout, which configuration. Nothing here looks at a value of a tensor.

A layout is found by the keys that every network of its kind has; configurations that the file does not carry
are read off the shapes. What shapes cannot say (the number of attention heads, of groups) follows Stable
Diffusion where its sizes are recognised, and is asked for otherwise.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from diffusers.loaders import single_file_utils

from training.weights.errors import CheckpointError
from training.weights.tensors import Config, Tensors, listed, without_prefix

LDM_UNET = "model.diffusion_model."
LDM_VAE = "first_stage_model."
# Parts of a Stable Diffusion checkpoint that depth does not need: text encoder, EMA copy, noise schedule.
LDM_UNUSED = re.compile(
    r"cond_stage_model\.|conditioner\.|model_ema\.|\w*(betas|alphas|posterior|logvar|lvlb|scale_factor)\w*$"
)
PROMPT_KEYS = ("prompt_embedding", "empty_text_embed")
SD_NORM_GROUPS = 32


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
    downsamplers = [int(m[1]) for k in tensors if (m := re.match(r"input_blocks\.(\d+)\.0\.op\.weight", k))]
    if not downsamplers:
        raise CheckpointError(f"{where}: this LDM UNet has a single level; that is no depth model we know.")
    config = {"layers_per_block": min(downsamplers) - 1}
    if "label_emb.0.0.weight" in tensors:
        config["class_embed_type"] = "projection"  # type: ignore[assignment]
    named = {LDM_UNET + k: v for k, v in tensors.items()}
    return _converted(single_file_utils.convert_ldm_unet_checkpoint(named, config), named, where)


def vae_from_ldm(tensors: Tensors, where: str) -> Tensors:
    """LDM names, without prefix -> diffusers names, by diffusers' converter. Raises as `unet_from_ldm`."""
    levels = 1 + max(int(m[1]) for k in tensors if (m := re.match(r"encoder\.down\.(\d+)\.", k)))
    config = {"down_block_types": [""] * levels, "up_block_types": [""] * levels}
    named = {LDM_VAE + k: v for k, v in tensors.items()}
    return _converted(single_file_utils.convert_ldm_vae_checkpoint(named, config), named, where)


def modern_vae(tensors: Tensors) -> Tensors:
    """Attention keys of older diffusers, query, key, value, proj_attn -> to_q, to_k, to_v, to_out.0."""
    new = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
    pattern = re.compile(r"(mid_block\.attentions\.\d+\.)(query|key|value|proj_attn)(\.(?:weight|bias))$")
    return {pattern.sub(lambda m: m[1] + new[m[2]] + m[3], k): v for k, v in tensors.items()}


def unet_config(tensors: Mapping[str, torch.Tensor], where: str, *, way: str) -> Config:
    """Shapes of a diffusers UNet -> its configuration.

    way: how the user can give the configuration, for the message.
    Raises CheckpointError where heads or groups are not Stable Diffusion's.
    """
    shape = {k: tuple(v.shape) for k, v in tensors.items()}
    levels = _count(shape, r"down_blocks\.(\d+)\.")
    channels = [shape[f"down_blocks.{i}.resnets.0.conv1.weight"][0] for i in range(levels)]
    attended = {
        side: [any(k.startswith(f"{side}_blocks.{i}.attentions.") for k in shape) for i in range(levels)]
        for side in ("down", "up")
    }
    context = next((s[1] for k, s in shape.items() if k.endswith("attn2.to_k.weight")), None)
    if context is None:
        raise CheckpointError(f"{where}: this UNet has no cross-attention; that is no depth model we know.")
    config: Config = {
        "in_channels": shape["conv_in.weight"][1],
        "out_channels": shape["conv_out.weight"][0],
        "block_out_channels": channels,
        "layers_per_block": _count(shape, r"down_blocks\.0\.resnets\.(\d+)\."),
        "down_block_types": [f"{'CrossAttn' * a}DownBlock2D" for a in attended["down"]],
        "up_block_types": [f"{'CrossAttn' * a}UpBlock2D" for a in attended["up"]],
        "cross_attention_dim": context,
        "attention_head_dim": _heads(channels, context, where, way),
        "use_linear_projection": next(len(s) for k, s in shape.items() if k.endswith("proj_in.weight")) == 2,
        "norm_num_groups": _groups(channels, where, way),
    }
    if not any(k.startswith("mid_block.attentions.") for k in shape):
        config["mid_block_type"] = "UNetMidBlock2D"
    if "class_embedding.linear_1.weight" in shape:
        config["class_embed_type"] = "projection"
        config["projection_class_embeddings_input_dim"] = shape["class_embedding.linear_1.weight"][1]
    return config


def vae_config(tensors: Mapping[str, torch.Tensor], where: str, *, way: str) -> Config:
    """Shapes of a diffusers VAE -> its configuration, with Stable Diffusion's scaling factor.

    way: how the user can give the configuration, for the message.
    Raises CheckpointError where the groups are not those of Stable Diffusion.
    """
    shape = {k: tuple(v.shape) for k, v in tensors.items()}
    levels = _count(shape, r"encoder\.down_blocks\.(\d+)\.")
    channels = [shape[f"encoder.down_blocks.{i}.resnets.0.conv1.weight"][0] for i in range(levels)]
    return {
        "block_out_channels": channels,
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "layers_per_block": _count(shape, r"encoder\.down_blocks\.0\.resnets\.(\d+)\."),
        "latent_channels": shape["decoder.conv_in.weight"][1],
        "norm_num_groups": _groups(channels, where, way),
        "mid_block_add_attention": any(k.startswith("encoder.mid_block.attentions.") for k in shape),
        "use_quant_conv": "quant_conv.weight" in shape,
        "use_post_quant_conv": "post_quant_conv.weight" in shape,
        "scaling_factor": 0.18215,
    }


def split_ldm(tensors: Tensors, where: str) -> tuple[Tensors, Tensors | None, Tensors]:
    """An LDM checkpoint -> UNet and VAE under diffusers' names (None: no VAE), and tensors of no part."""
    prefix, vae = ldm_prefixes(tensors)
    if prefix is None:
        raise CheckpointError(f"{where} holds no UNet.")
    ours = tuple(p for p in (prefix, vae) if p)
    others = {} if not prefix else {k: v for k, v in tensors.items() if not k.startswith(ours)}
    rest = {k: v for k, v in others.items() if not LDM_UNUSED.match(k)}
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
    rest = {k: v for k, v in tensors.items() if ours and not k.startswith((*ours, "text_encoder."))}
    vae = None if vae_below is None else modern_vae(without_prefix(tensors, vae_below))
    return without_prefix(tensors, prefix), vae, rest


def _prefix(keys: Iterable[str], first: str, *others: str) -> str | None:
    names = set(keys)
    candidates = sorted((k[: -len(first)] for k in names if k.endswith(first)), key=len)
    return next((p for p in candidates if all(p + other in names for other in others)), None)


def _count(shape: Mapping[str, Any], pattern: str) -> int:
    return 1 + max((int(m[1]) for k in shape if (m := re.match(pattern, k))), default=-1)


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


def _converted(new: Mapping[str, torch.Tensor], old: Tensors, where: str) -> Tensors:
    """Raises CheckpointError if the converter left a tensor behind; it says nothing of that itself."""
    kept = {tensor.data_ptr() for tensor in new.values()}
    if lost := sorted(k for k, tensor in old.items() if tensor.data_ptr() not in kept):
        raise CheckpointError(
            f"{where}: {len(lost)} tensors have no place in the network: {listed(lost)}. Is it the whole "
            "file, and a depth model of the Stable Diffusion family?"
        )
    return {k: v.contiguous() for k, v in new.items()}
