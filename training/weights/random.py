"""Checkpoints and light VAEs with random weights, in any layout, at any width: to try exports and speed on.

    python -m training.weights.random random.safetensors --layout ldm --width 0.25
    python -m training.weights.random sd21-random --layout folder --dtype fp16      # SD 2.1's full size
    python -m training.weights.random taesd-random --layout light                   # TAESD's architecture
    python -m export.build_engines sd21-random --recipe fiffdepth --decoder taesd-random

Width 1 is SD 2.1 (866 M parameters in the UNet, 84 M in the VAE) and TAESD (2.4 M). The depth of
such a model means nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import torch
from diffusers import AutoencoderKL, AutoencoderTiny, UNet2DConditionModel
from safetensors.torch import save_file

from fiffdepth_rt.program.options import NamedPath
from training.weights.light import new_light_vae
from training.weights.ours import Checkpoint, CheckpointInfo, save_checkpoint
from training.weights.prompt import PROMPT_BESIDE
from training.weights.tensors import Tensors

LAYOUTS = ("own", "folder", "sharded", "unet", "ldm", "prefixed")
LIGHT = "light"
DTYPES = {"fp32": torch.float32, "fp16": torch.float16}
STEM = "diffusion_pytorch_model"


def random_unet(width: float = 1.0, *, class_labels: int = 0, **config: Any) -> UNet2DConditionModel:
    """SD 2.1's UNet at a width. Channels are multiples of 64, so that heads keep 64 of them.

    class_labels: numbers that a class embedding takes; 0: there is none. config: what else differs.
    """
    if class_labels:
        config["class_embed_type"] = "projection"
        config["projection_class_embeddings_input_dim"] = class_labels
    channels = [max(64, round(c * width / 64) * 64) for c in (320, 640, 1280, 1280)]
    return UNet2DConditionModel(
        **{
            "sample_size": 64,
            "in_channels": 4,
            "block_out_channels": channels,
            "attention_head_dim": [c // 64 for c in channels],
            "cross_attention_dim": 1024,
            "use_linear_projection": True,
            **config,
        }
    ).eval()


def random_vae(width: float = 1.0, **config: Any) -> AutoencoderKL:
    """SD's VAE at a width; channels are multiples of 32, the number of groups."""
    return AutoencoderKL(
        **{
            "block_out_channels": [max(32, round(c * width / 32) * 32) for c in (128, 256, 512, 512)],
            "down_block_types": ["DownEncoderBlock2D"] * 4,
            "up_block_types": ["UpDecoderBlock2D"] * 4,
            "layers_per_block": 2,
            "latent_channels": 4,
            **config,
        }
    ).eval()


def centre_depth(vae: AutoencoderTiny) -> AutoencoderTiny:
    """Change a light VAE's last layer: depth of random latents gets the mean 0, and varies within [-1, 1]."""
    last = vae.decoder.layers[-1]
    with torch.no_grad():
        last.bias.fill_(0.5)  # mid-grey, as DecoderTiny maps [0, 1] to [-1, 1]
        pictures = vae.decoder(torch.randn(1, 4, 32, 32))
        factor = 0.15 / pictures.mean(1).std()
        last.weight.mul_(factor)
        last.bias.sub_(pictures.mean((0, 2, 3)) * factor / 2)
    return vae


def weaken_branches(*modules: torch.nn.Module) -> None:
    """Change residual branches to a tenth of their strength, so that they do not amplify rounding.

    Random weights amplify half precision's rounding beyond the gates, which are for trained ones.
    """
    with torch.no_grad():
        for module in modules:
            for name, weights in module.named_parameters():
                if re.search(r"conv2|to_out|proj_out", name):
                    weights.mul_(0.1)


def write_layout(
    path: Path,
    layout: str,
    made: Checkpoint,
    *,
    scheduler: Mapping[str, Any] | None = None,
    dtype: torch.dtype = torch.float32,
) -> None:
    """A model -> files in one of LAYOUTS.

    "unet" writes path/ (the UNet's folder) and path-vae/. All but "own" have no place for the prompt
    embedding: it is written beside them, under the name at which reading finds it. scheduler: the
    configuration of a DDIMScheduler, for the layouts that have a place for it.
    """
    unet, vae = _cast(made.unet.state_dict(), dtype), _cast(made.vae.state_dict(), dtype)
    if layout == "own":
        save_checkpoint(path, made)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({"prompt_embedding": made.prompt_embedding}, path.with_name(path.name + PROMPT_BESIDE))
    if layout in ("folder", "sharded"):
        _write_part(path / "unet", made.unet, unet, dtype, shards=3 if layout == "sharded" else 1)
        _write_part(path / "vae", made.vae, vae, dtype, shards=1)
        (path / "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusionPipeline"}))
        if scheduler is not None:
            (path / "scheduler").mkdir(exist_ok=True)
            config = {"_class_name": "DDIMScheduler", **scheduler}
            (path / "scheduler" / "scheduler_config.json").write_text(json.dumps(config))
    elif layout == "unet":
        _write_part(path, made.unet, unet, dtype, shards=1)
        _write_part(path.with_name(path.name + "-vae"), made.vae, vae, dtype, shards=1)
    elif layout == "ldm":
        names = {f"model.diffusion_model.{unet_key_in_ldm(k, made.unet)}": v for k, v in unet.items()}
        names |= {
            f"first_stage_model.{vae_key_in_ldm(k, made.vae)}": v for k, v in _conv_attention(vae).items()
        }
        save_file(names, path)
    else:
        names = {f"module.unet.{k}": v for k, v in unet.items()}
        save_file(names | {f"module.vae.{k}": v for k, v in vae.items()}, path)


def unet_key_in_ldm(key: str, unet: Any) -> str:
    """A diffusers UNet key -> the key that LDM gives the same tensor."""
    ends = {
        "time_embedding.linear_1": "time_embed.0",
        "time_embedding.linear_2": "time_embed.2",
        "class_embedding.linear_1": "label_emb.0.0",
        "class_embedding.linear_2": "label_emb.0.2",
        "conv_in": "input_blocks.0.0",
        "conv_norm_out": "out.0",
        "conv_out": "out.2",
    }
    stem, _, kind = key.rpartition(".")
    if stem in ends:
        return f"{ends[stem]}.{kind}"
    inner = {
        "norm1": "in_layers.0",
        "conv1": "in_layers.2",
        "time_emb_proj": "emb_layers.1",
        "norm2": "out_layers.0",
        "conv2": "out_layers.3",
        "conv_shortcut": "skip_connection",
    }
    per_block = unet.config.layers_per_block + 1
    match = re.match(
        r"(down|up|mid)_blocks?\.(?:(\d+)\.)?(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.*)", key
    )
    if match is None:
        raise ValueError(f"{key} has no LDM name")
    side, block, part, index, rest = match[1], int(match[2] or 0), match[3], int(match[4]), match[5]
    if part == "resnets":
        name, _, kind = rest.partition(".")
        rest = f"{inner[name]}.{kind}"
    if side == "mid":
        return f"middle_block.{2 * index if part == 'resnets' else 1}.{rest}"
    if side == "down":
        if part == "downsamplers":
            return f"input_blocks.{(block + 1) * per_block}.0.op.{rest.removeprefix('conv.')}"
        return f"input_blocks.{block * per_block + index + 1}.{0 if part == 'resnets' else 1}.{rest}"
    if part == "upsamplers":
        attended = "CrossAttn" in unet.config.up_block_types[block]
        return f"output_blocks.{block * per_block + per_block - 1}.{2 if attended else 1}.{rest}"
    return f"output_blocks.{block * per_block + index}.{0 if part == 'resnets' else 1}.{rest}"


def vae_key_in_ldm(key: str, vae: Any) -> str:
    """A diffusers VAE key -> the key that LDM gives the same tensor."""
    last = len(vae.config.block_out_channels) - 1
    key = key.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
    key = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", key)
    names = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
    key = re.sub(
        r"mid_block\.attentions\.0\.(group_norm|to_q|to_k|to_v|to_out\.0)",
        lambda m: f"mid.attn_1.{names[m[1]]}",
        key,
    )
    key = re.sub(r"down_blocks\.(\d)\.resnets\.", r"down.\1.block.", key)
    key = re.sub(r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample", key)
    key = re.sub(r"up_blocks\.(\d)\.resnets\.", lambda m: f"up.{last - int(m[1])}.block.", key)
    return re.sub(r"up_blocks\.(\d)\.upsamplers\.0", lambda m: f"up.{last - int(m[1])}.upsample", key)


def _conv_attention(vae: Tensors) -> Tensors:
    """LDM's VAE attention consists of 1×1 convolutions where diffusers has linear layers."""
    linear = re.compile(r"\.attentions\.0\.to_(q|k|v|out\.0)\.weight$")
    return {k: v[:, :, None, None] if linear.search(k) else v for k, v in vae.items()}


def _write_part(folder: Path, module: Any, tensors: Tensors, dtype: torch.dtype, *, shards: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    module.save_config(folder)
    variant = ".fp16" if dtype == torch.float16 else ""
    if shards == 1:
        save_file(tensors, folder / f"{STEM}{variant}.safetensors")
        return
    keys = sorted(tensors)
    weight_map: dict[str, str] = {}
    for i in range(shards):
        file = f"{STEM}{variant}-{i + 1:05}-of-{shards:05}.safetensors"
        mine = keys[i::shards]
        save_file({k: tensors[k] for k in mine}, folder / file)
        weight_map |= dict.fromkeys(mine, file)
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / f"{STEM}.safetensors.index{variant}.json").write_text(json.dumps(index))


def _cast(tensors: Mapping[str, torch.Tensor], dtype: torch.dtype) -> Tensors:
    return {k: v.to(dtype).contiguous() for k, v in tensors.items()}


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("path", type=NamedPath())
@click.option("--layout", type=click.Choice([*LAYOUTS, LIGHT]), default="own", show_default=True)
@click.option(
    "--width", type=click.FloatRange(0.01, 4), default=1.0, show_default=True, help="1: SD 2.1, TAESD."
)
@click.option("--in-channels", default=4, show_default=True, help="Of the UNet; 8 for Marigold's kind.")
@click.option("--class-labels", default=0, show_default=True, help="Of the UNet; 4 for Lotus-D's kind.")
@click.option("--recipe", default="fiffdepth", show_default=True, help="What the layout own says of itself.")
@click.option("--dtype", type=click.Choice(list(DTYPES)), default="fp32", show_default=True)
@click.option(
    "--weak-branches", is_flag=True, help="Weak residual branches: half precision is within its gates."
)
@click.option("--seed", default=0, show_default=True)
def main(
    path: Path,
    layout: str,
    width: float,
    in_channels: int,
    class_labels: int,
    recipe: str,
    dtype: str,
    weak_branches: bool,
    seed: int,
) -> None:
    """Write a checkpoint with random weights to PATH, and its prompt embedding beside it.

    With the layout "light" it is a light VAE, a folder as TAESD is published.
    """
    torch.manual_seed(seed)
    if layout == LIGHT:
        light = centre_depth(new_light_vae(width=max(1, round(64 * width)), out_channels=3).eval())
        light.to(DTYPES[dtype]).save_pretrained(path)
        click.echo(f"{path}: {_count(light)} M random parameters, a light VAE")
        return
    info = CheckpointInfo(
        name="random",
        recipe=recipe,
        output_space="depth",
        size_default=512,
        size_max=1024,
        licence="CC0-1.0",
        data_sources=("random numbers",),
        training={},
    )
    vae = random_vae(width)
    vae.decoder.conv_out.weight.data.mul_(0.5)  # depth within [-1, 1], where a comparison says something
    unet = random_unet(width, class_labels=class_labels, in_channels=in_channels)
    if weak_branches:
        weaken_branches(unet, vae)
    made = Checkpoint(unet=unet, vae=vae, prompt_embedding=torch.randn(1, 2, 1024), info=info)
    write_layout(path, layout, made, dtype=DTYPES[dtype])
    click.echo(f"{path}: {_count(unet, vae)} M random parameters, {layout} layout")


def _count(*modules: torch.nn.Module) -> str:
    return f"{sum(p.numel() for module in modules for p in module.parameters()) / 1e6:.1f}"


if __name__ == "__main__":
    main()
