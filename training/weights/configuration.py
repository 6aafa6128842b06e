"""A diffusers configuration -> the network it describes, without weights; what it may ask for is bounded.

A configuration is a stranger's JSON, and a number in it is a number of layers to build. So types and ranges
of the keys that decide sizes are checked before anything is built, and no more blocks are built than the file
has tensors.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import msgspec
import torch

from fiffdepth_rt.errors import shortened
from fiffdepth_rt.structs import InvalidError, convert
from training.errors import TrainingError
from training.weights.errors import CheckpointError

JSON_MAX_BYTES = 16 * 2**20
"""The index of a model of 100,000 tensors has about 10 MiB; a configuration a few kB."""

Config = dict[str, Any]

_Width = Annotated[int, msgspec.Meta(ge=1, le=16_384)]
_Count = Annotated[int, msgspec.Meta(ge=0, le=1024)]
_Widths = Annotated[tuple[_Width, ...], msgspec.Meta(min_length=1, max_length=16)]
_Counts = Annotated[tuple[_Count, ...], msgspec.Meta(min_length=1, max_length=16)]
_Nested = Annotated[tuple[_Count | _Counts, ...], msgspec.Meta(min_length=1, max_length=16)]
_Kinds = Annotated[tuple[str, ...], msgspec.Meta(min_length=1, max_length=16)]
_Factor = Annotated[float, msgspec.Meta(gt=0, le=1e6)]


class _Sizes(msgspec.Struct, kw_only=True):
    """Keys of UNet2DConditionModel and of the autoencoders that say how much there is to build, or
    that the export computes with. Others pass as they are.

    None: not stated, where diffusers has a default.
    """

    sample_size: _Width | _Widths | None = None
    in_channels: _Width | None = None
    out_channels: _Width | None = None
    latent_channels: _Width | None = None
    down_block_types: _Kinds | None = None
    up_block_types: _Kinds | None = None
    block_out_channels: _Widths | None = None
    layers_per_block: _Count | _Counts | None = None
    transformer_layers_per_block: _Count | _Nested | None = None
    reverse_transformer_layers_per_block: _Count | _Nested | None = None
    cross_attention_dim: _Width | None = None
    attention_head_dim: _Width | _Widths | None = None
    num_attention_heads: _Width | _Widths | None = None
    norm_num_groups: _Width | None = None
    time_embedding_dim: _Width | None = None
    time_cond_proj_dim: _Width | None = None
    encoder_hid_dim: _Width | None = None
    addition_time_embed_dim: _Width | None = None
    addition_embed_type_num_heads: _Width | None = None
    projection_class_embeddings_input_dim: _Width | None = None
    num_class_embeds: _Width | None = None
    conv_in_kernel: _Count | None = None
    conv_out_kernel: _Count | None = None
    encoder_block_out_channels: _Widths | None = None
    decoder_block_out_channels: _Widths | None = None
    num_encoder_blocks: _Counts | None = None
    num_decoder_blocks: _Counts | None = None
    upsampling_scaling_factor: _Count | None = None
    prior_channels: _Width | None = None
    prior_widths: _Widths | None = None
    scaling_factor: _Factor | None = None
    shift_factor: Annotated[float, msgspec.Meta(ge=-1e6, le=1e6)] | None = None


def empty_module(cls: Any, config: Mapping[str, Any], tensors: int, where: str) -> Any:
    """A diffusers class and a configuration -> the module on the meta device: shapes, and no memory.

    tensors: how many there are to fill it with. where: the file, for errors.
    Raises CheckpointError naming the key whose value is of a wrong type or out of range, or the error with
    which diffusers refuses the whole.
    """
    sizes = _sizes(config, where)
    if (blocks := _blocks(sizes)) > tensors:
        raise CheckpointError(
            f"{where}: its configuration asks for {blocks} blocks, and there are {tensors} tensors to fill "
            "them. Is it the right configuration, and the whole file?"
        )
    try:
        with torch.device("meta"):
            return cls.from_config(dict(config))
    except TrainingError as e:  # a package is missing
        raise CheckpointError(f"{where}: {e}") from e
    except Exception as e:  # diffusers says in any kind of error that values do not go together
        raise CheckpointError(
            f"{where}: its configuration builds no {cls.__name__} ({type(e).__name__}: {shortened(e)}). "
            "Take the configuration that was published with it."
        ) from e


def channels(config: Mapping[str, Any], where: str) -> tuple[int, int]:
    """Of a UNet's input and of its output, by its configuration; 4 where it does not say.

    where: the file, for errors. Raises CheckpointError as `empty_module`.
    """
    sizes = _sizes(config, where)
    return sizes.in_channels or 4, sizes.out_channels or 4


def _sizes(config: Mapping[str, Any], where: str) -> _Sizes:
    try:
        return convert(dict(config), _Sizes)
    except InvalidError as e:
        raise CheckpointError(
            f"{where}: in its configuration, {shortened(e)}. "
            "Take the configuration that was published with it."
        ) from e


def read_json(path: Path) -> Config:
    """file -> the JSON object in it; a byte order mark before it is no matter.

    Raises CheckpointError for what cannot be read, is too large, or is no object.
    """
    try:
        if (size := path.stat().st_size) > JSON_MAX_BYTES:
            raise CheckpointError(
                f"{path} has {size} bytes, and a configuration has at most {JSON_MAX_BYTES}: it was not read."
            )
        content = json.loads(path.read_bytes(), parse_constant=_no_number)
    except CheckpointError:
        raise
    except (OSError, ValueError, RecursionError) as e:
        raise CheckpointError(f"{shortened(path)} cannot be read as JSON: {shortened(e)}.") from e
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} is no configuration: it holds no JSON object.")
    return content


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is no JSON number")


def _blocks(sizes: _Sizes) -> int:
    """At most as many blocks as the network has; each has more than one tensor."""
    levels = len(sizes.block_out_channels or sizes.down_block_types or ())
    layers = _most(sizes.layers_per_block)
    inside = max(
        _most(sizes.transformer_layers_per_block), _most(sizes.reverse_transformer_layers_per_block), 1
    )
    light = sum(sizes.num_encoder_blocks or ()) + sum(sizes.num_decoder_blocks or ())
    return levels * layers * inside + light


def _most(counts: Any) -> int:
    """The largest of counts, however they are nested."""
    if isinstance(counts, tuple):
        return max(map(_most, counts))
    return int(counts or 0)
