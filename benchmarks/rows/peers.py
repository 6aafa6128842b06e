"""Peers as their libraries ship them, with random weights of the true architecture: speed needs no others.

    Depth Anything V2-L      transformers, DINOv2-L at 518 px and its DPT head, 335.3 M parameters
    Depth Pro                transformers, three DINOv2-L and their decoder, at 1536², 952.0 M parameters
    Marigold, Marigold-LCM   diffusers' MarigoldDepthPipeline; 50 steps × ensemble 10, and 4 × 5
    GeoWizard                its published shape on diffusers' modules: depth and normals in one batch of 2,
                             10 steps × ensemble 10, one encoding and two decodings each
    DepthFM                  its published shape: 2 flow steps, ensemble 4, an encoding and a decoding each

Steps and ensembles are the defaults of the methods' own code at the time of the paper, whose Table 3 ("using
their default settings", 512×512, Titan RTX) this repeats. The photo is processed at its own size, except by
Depth Anything (at least 518 px, multiples of 14) and Depth Pro. The alignment that puts an ensemble together
(by scipy, on the host) is counted where diffusers' pipeline runs as a whole, not where a time is modelled.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch.nn import functional as nnf

from benchmarks.rows.in_torch import (
    DTYPES,
    Part,
    Pipeline,
    compiled_parts,
    fresh_compilations,
    measure_pipeline,
)
from benchmarks.rows.row import Row, Spec, answer
from export.recipe import RECIPES
from training.weights.random import random_unet, random_vae

PROMPT_WIDTH = 1024


@dataclasses.dataclass(frozen=True, kw_only=True)
class Peer:
    """One method. seconds_titan_rtx: the paper's Table 3. build: (width, dtype, device) -> its pipeline.

    width: 1 for the true architecture; smaller tries the machinery.
    """

    name: str
    seconds_titan_rtx: float
    build: Callable[[float, torch.dtype, str], Pipeline]
    note: tuple[str, ...] = ()


def measure(spec: Spec) -> Row:
    """options: peer (a name of PEERS), dtype, width; compiled, if given and true: its networks are."""
    options = spec.options
    peer = PEERS[options["peer"]]
    opening = time.perf_counter()
    torch.set_num_threads(spec.threads)
    torch.manual_seed(0)
    with fresh_compilations(), torch.inference_mode():
        pipeline = peer.build(options["width"], DTYPES[options["dtype"]], spec.device)
        if options.get("compiled", False):
            pipeline = Pipeline(parts=compiled_parts(pipeline.parts))
        return measure_pipeline(
            spec,
            pipeline,
            computes_in=options["dtype"],
            load_s=time.perf_counter() - opening,
            modelled_beyond_s=spec.budget_s,
            note="; ".join([*peer.note, f"the paper: {peer.seconds_titan_rtx:g} s on a Titan RTX"]),
        )


def depth_anything(width: float) -> Any:
    """Depth Anything V2-Large: the network of transformers. 335.3 M parameters at width 1."""
    from transformers import DepthAnythingConfig, DepthAnythingForDepthEstimation

    layers = max(4, round(24 * width))
    backbone = _dinov2(width, image_size=518, patch_size=14)
    taps = [5, 12, 18, 24] if layers == 24 else [layers - 3, layers - 2, layers - 1, layers]
    backbone |= {"out_indices": taps, "apply_layernorm": True, "reshape_hidden_states": False}
    channels = [_by(16, c * width) for c in (256, 512, 1024, 1024)]
    config = DepthAnythingConfig(
        backbone_config=backbone,
        reassemble_hidden_size=backbone["hidden_size"],
        neck_hidden_sizes=channels,
        fusion_hidden_size=channels[0],
        head_hidden_size=32,
    )
    return DepthAnythingForDepthEstimation(config).eval()


def depth_pro(width: float) -> Any:
    """Depth Pro with its field-of-view network: transformers. 952.0 M parameters at width 1."""
    from transformers import DepthProConfig, DepthProForDepthEstimation

    # A narrow one gets smaller patches too: 35 of them cover the pyramid whatever their size.
    vit = _dinov2(width, image_size=384 if width == 1 else 64, patch_size=16)
    vit |= {"reshape_hidden_states": True}
    layers = vit["num_hidden_layers"]
    narrow = {name: _by(16, c * width) for name, c in (("wide", 1024), ("half", 512), ("quarter", 256))}
    config = DepthProConfig(
        image_model_config=vit,
        patch_model_config=vit,
        fov_model_config=vit,
        patch_size=vit["image_size"],
        intermediate_hook_ids=[11, 5] if layers == 24 else [1, 0],
        intermediate_feature_dims=[narrow["quarter"]] * 2,
        scaled_images_feature_dims=[narrow["wide"], narrow["wide"], narrow["half"]],
        fusion_hidden_size=narrow["quarter"],
        use_fov_model=True,
    )
    return DepthProForDepthEstimation(config).eval()


def _dinov2(width: float, **config: Any) -> dict[str, Any]:
    """DINOv2-L at a width: heads keep 64 channels."""
    hidden = _by(64, 1024 * width)
    return {
        "model_type": "dinov2",
        "hidden_size": hidden,
        "num_hidden_layers": max(4, round(24 * width)),
        "num_attention_heads": hidden // 64,
        **config,
    }


def _by(multiple: int, value: float) -> int:
    return max(multiple, round(value / multiple) * multiple)


def _depth_anything_pipeline(width: float, dtype: torch.dtype, device: str) -> Pipeline:
    network = depth_anything(width).to(device=device, dtype=dtype)
    return depth_anything_around(network, dtype, device)


def depth_anything_around(
    network: Callable[[torch.Tensor], Any], dtype: torch.dtype, device: str
) -> Pipeline:
    """Depth Anything with whatever runs its network: pixels [1, 3, h, w] -> .predicted_depth [1, h, w]."""
    from transformers.models.dpt.image_processing_pil_dpt import DPTImageProcessorPil

    processor = DPTImageProcessorPil(  # what the checkpoint's preprocessor_config.json says
        size={"height": 518, "width": 518},
        keep_aspect_ratio=True,
        ensure_multiple_of=14,
        image_mean=[0.485, 0.456, 0.406],
        image_std=[0.229, 0.224, 0.225],
    )
    size_hw: list[tuple[int, int]] = []

    def prepare(photo: Any) -> Any:
        size_hw[:] = [photo.shape[:2]]
        return processor(images=photo, return_tensors="pt")["pixel_values"].to(device=device, dtype=dtype)

    def finish(outputs: Any) -> Any:
        found = processor.post_process_depth_estimation(outputs, target_sizes=size_hw)
        return found[0]["predicted_depth"].float().cpu().numpy()

    return _single(prepare, lambda pixels: network(pixels), finish)


def _depth_pro_pipeline(width: float, dtype: torch.dtype, device: str) -> Pipeline:
    network = depth_pro(width).to(device=device, dtype=dtype)
    side = 4 * network.config.patch_size
    size_hw: list[tuple[int, int]] = []

    def prepare(photo: Any) -> Any:
        # What its processor does; the processor itself wants torchvision.
        size_hw[:] = [photo.shape[:2]]
        pixels = torch.from_numpy(photo).to(device).permute(2, 0, 1)[None].float() / 255 * 2 - 1
        return nnf.interpolate(pixels, size=(side, side), mode="bilinear").to(dtype)

    def finish(outputs: Any) -> Any:
        depth = outputs.predicted_depth.float()[None]
        return nnf.interpolate(depth, size=size_hw[0], mode="bilinear")[0, 0].cpu().numpy()

    return _single(prepare, lambda pixels: network(pixels), finish)


def _single(prepare: Any, network: Any, finish: Any) -> Pipeline:
    return Pipeline(
        parts=[
            Part(name="prepare", run=prepare, engine=False),
            Part(name="network", run=network),
            Part(name="finish", run=finish, engine=False),
        ]
    )


def marigold(width: float, *, steps: int, lcm: bool) -> Any:
    """diffusers' pipeline for depth at `steps` steps, its prompt embedding (2 tokens) already computed."""
    from diffusers import DDIMScheduler, LCMScheduler, MarigoldDepthPipeline

    schedule = dict(RECIPES["marigold-e2e"].scheduler or {}) | {"timestep_spacing": "leading"}
    pipeline = MarigoldDepthPipeline(
        unet=random_unet(width, in_channels=8),
        vae=random_vae(width),
        scheduler=(LCMScheduler if lcm else DDIMScheduler).from_config(schedule),
        text_encoder=None,
        tokenizer=None,
        prediction_type="depth",
        default_denoising_steps=steps,
        default_processing_resolution=0,  # the photo's own
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _marigold_pipeline(
    width: float, dtype: torch.dtype, device: str, *, steps: int, ensemble: int, lcm: bool
) -> Pipeline:
    pipeline = marigold(width, steps=steps, lcm=lcm)
    unet, vae = (network.to(device=device, dtype=dtype) for network in (pipeline.unet, pipeline.vae))
    pipeline.empty_text_embedding = prompt = torch.randn(1, 2, PROMPT_WIDTH, device=device).to(dtype)

    def step(latent: Any) -> Any:
        at = torch.tensor(1, device=device)
        return unet(torch.cat([latent, latent], dim=1), at, encoder_hidden_states=prompt).sample

    def whole(photo: Any) -> Any:
        return pipeline(photo.astype(np.float32) / 255, ensemble_size=ensemble).prediction[0, :, :, 0]

    parts = _diffusion_parts(
        vae,
        step,
        dtype=dtype,
        device=device,
        encodings=1,  # the pipeline encodes a photo once, whatever the ensemble
        steps=steps * ensemble,
        decodings=ensemble,
    )
    can_align = ensemble == 1 or importlib.util.find_spec("scipy") is not None
    return Pipeline(parts=parts, whole=whole if can_align else None)


def _geowizard_pipeline(width: float, dtype: torch.dtype, device: str) -> Pipeline:
    """Its UNet: 8 channels in, a class embedding of 10 numbers, one CLIP image token of 768 as the prompt."""
    unet = random_unet(width, class_labels=10, in_channels=8, cross_attention_dim=768).to(
        device=device, dtype=dtype
    )
    token = torch.randn(2, 1, 768, device=device).to(dtype)
    classes = torch.randn(2, 10, device=device).to(dtype)

    def step(latent: Any) -> Any:
        both = torch.cat([latent, latent], dim=1).repeat(2, 1, 1, 1)
        at = torch.tensor([1, 1], device=device)
        return unet(both, at, encoder_hidden_states=token, class_labels=classes).sample[:1]

    vae = random_vae(width).to(device=device, dtype=dtype)
    parts = _diffusion_parts(
        vae, step, dtype=dtype, device=device, encodings=10, steps=10 * 10, decodings=2 * 10
    )
    return Pipeline(parts=parts)


def _depthfm_pipeline(width: float, dtype: torch.dtype, device: str) -> Pipeline:
    """Its UNet is SD 2.1's in LDM's code with 8 channels in; diffusers' modules stand for that."""
    unet = random_unet(width, in_channels=8).to(device=device, dtype=dtype)
    prompt = torch.randn(1, 77, PROMPT_WIDTH, device=device).to(dtype)

    def step(latent: Any) -> Any:
        at = torch.tensor(1, device=device)
        return unet(torch.cat([latent, latent], dim=1), at, encoder_hidden_states=prompt).sample

    vae = random_vae(width).to(device=device, dtype=dtype)
    parts = _diffusion_parts(vae, step, dtype=dtype, device=device, encodings=4, steps=2 * 4, decodings=4)
    return Pipeline(parts=parts)


def _diffusion_parts(
    vae: Any,
    step: Callable[[Any], Any],
    *,
    dtype: torch.dtype,
    device: str,
    encodings: int,
    steps: int,
    decodings: int,
) -> list[Part]:
    scaling = vae.config.scaling_factor

    def prepare(photo: Any) -> Any:
        return (torch.from_numpy(photo).to(device).permute(2, 0, 1)[None].float() / 255 * 2 - 1).to(dtype)

    def finish(depth: Any) -> Any:
        return ((depth.clip(-1, 1) + 1) / 2)[0].float().cpu().numpy()

    return [
        Part(name="prepare", run=prepare, engine=False),
        Part(name="VAE encoding", run=lambda x: vae.encode(x).latent_dist.mean * scaling, times=encodings),
        Part(name="UNet step", run=step, times=steps),
        Part(name="VAE decoding", run=lambda z: vae.decode(z / scaling).sample.mean(dim=1), times=decodings),
        Part(name="finish", run=finish, engine=False),
    ]


PEERS: Mapping[str, Peer] = {
    peer.name: peer
    for peer in (
        Peer(name="Depth Anything V2-L", seconds_titan_rtx=0.026, build=_depth_anything_pipeline),
        Peer(name="Depth Pro", seconds_titan_rtx=0.23, build=_depth_pro_pipeline),
        Peer(
            name="Marigold-LCM",
            seconds_titan_rtx=1.7,
            build=lambda w, t, d: _marigold_pipeline(w, t, d, steps=4, ensemble=5, lcm=True),
            note=("4 steps, ensemble 5",),
        ),
        Peer(
            name="Marigold",
            seconds_titan_rtx=103,
            build=lambda w, t, d: _marigold_pipeline(w, t, d, steps=50, ensemble=10, lcm=False),
            note=("50 steps, ensemble 10",),
        ),
        Peer(
            name="GeoWizard", seconds_titan_rtx=19, build=_geowizard_pipeline, note=("10 steps, ensemble 10",)
        ),
        Peer(name="DepthFM", seconds_titan_rtx=0.39, build=_depthfm_pipeline, note=("2 steps, ensemble 4",)),
    )
}


if __name__ == "__main__":
    answer(measure)
