"""The three stages as torch modules, ready to be traced: image -> latent -> depth latent -> depth map.

Shape suffixes: B batch, C the latent's channels, h and w the grid in pixels, numbers are sizes; a latent is
h/8 × w/8.
At every stage's door numbers are uint8 (image) or float32 (all others), whatever the precision inside.
The plain forms are built here; `folding` rewrites them into cheaper ones that compute the same.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from diffusers import AutoencoderTiny
from torch import nn
from torch.nn import functional as nnf

from export.errors import UnsupportedModelError
from training.weights.prior import DepthPrior, PriorAutoencoderTiny

STAGES = ("encoder", "unet", "decoder")
VAE_FACTOR = 8


class Upsample(nn.Module):  # type: ignore[misc]
    """x -> x twice as large (or of the size given), nearest neighbour, then a convolution.

    Takes the place of diffusers' Upsample2D, whose checks on batch and element counts would become guards in
    the traced graph.
    """

    def __init__(self, conv: nn.Module) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, x: torch.Tensor, output_size: tuple[int, int] | None = None) -> torch.Tensor:
        if output_size is None:
            x = nnf.interpolate(x, scale_factor=2.0, mode="nearest")
        else:
            x = nnf.interpolate(x, size=output_size, mode="nearest")
        return self.conv(x)


class Stage(nn.Module):  # type: ignore[misc]
    """What the three have in common: the precision they compute in between their doors, and the latent."""

    dtype: torch.dtype = torch.float32
    latent_channels: int

    def fix_size(self, grid_hw: tuple[int, int]) -> None:
        """Make the sizes inside constants, for grids whose sides are no multiples of 64."""


class EncoderStage(Stage):
    """image -> latent: uint8 [B, h, w, 3] RGB -> float32 [B, C, h/8, w/8]: posterior mean, scaled.

    vae: AutoencoderKL, or AutoencoderTiny, whose encoder takes pixels in [0, 1] and gives the latent itself;
    one with a prior (training/weights/prior.py) gives some of the channels by that.
    """

    def __init__(self, vae: Any) -> None:
        super().__init__()
        check_vae(vae, "encoder")
        light = isinstance(vae, AutoencoderTiny)
        self.latent_channels = vae.config.latent_channels
        self.prior: DepthPrior | None = None
        if isinstance(vae, PriorAutoencoderTiny):
            self.prior = copy.deepcopy(vae.encoder.prior)
            self.prior.network.decoder.any_size = False
        self.encoder = copy.deepcopy(vae.encoder.layers if light else vae.encoder)
        self.quant_conv: nn.Module | None = None if light else copy.deepcopy(vae.quant_conv)
        self.scaling_factor = float(vae.config.scaling_factor)
        self.pixel_scale, self.pixel_shift = (1.0 / 255.0, 0.0) if light else (2.0 / 255.0, -1.0)

    def fix_size(self, grid_hw: tuple[int, int]) -> None:
        if self.prior is not None:
            self.prior.network.decoder.any_size = True

    def forward(self, image_Bhw3: torch.Tensor) -> torch.Tensor:
        return self.from_pixels(image_Bhw3.to(torch.float32).permute(0, 3, 1, 2))

    def from_pixels(self, pixels_B3hw: torch.Tensor) -> torch.Tensor:
        """Pixels of 0 ... 255 in fp32 -> latent in fp32."""
        # in fp32 also in the half precisions: 255 levels are rounded once, at the end
        x = pixels_B3hw
        if (self.pixel_scale, self.pixel_shift) != (1.0, 0.0):
            x = x * self.pixel_scale + self.pixel_shift
        return self.body(x.to(self.dtype)).to(torch.float32)

    def body(self, x_B3hw: torch.Tensor) -> torch.Tensor:
        """Pixels in the encoder's own range -> latent, both in the stage's own precision."""
        x = self.encoder(x_B3hw)
        if self.quant_conv is not None:
            x = self.quant_conv(x)
        if self.prior is not None:
            levels = x_B3hw if self.pixel_scale == 1.0 else x_B3hw * 255.0
            x = torch.cat([x, self.prior(levels)], dim=1)
        mean = x[:, : self.latent_channels] if x.shape[1] != self.latent_channels else x
        return mean if self.scaling_factor == 1.0 else mean * self.scaling_factor


class UnetStage(Stage):
    """latent -> depth latent: float32 [B, C, h/8, w/8] both ways, one step at a constant time and prompt.

    timestep: what the network is told (0 for FiffDepth). class_labels: [1, k], for a class embedding.
    prompt: [1, tokens, C]. zero_channels: so many zero channels follow the latent at the input.
    output_scale: depth latent = output_scale × raw output.
    """

    def __init__(
        self,
        unet: Any,
        *,
        timestep: float,
        prompt: torch.Tensor,
        class_labels: torch.Tensor | None = None,
        zero_channels: int = 0,
        output_scale: float = 1.0,
    ) -> None:
        super().__init__()
        _check_unet(unet, zero_channels, has_class=class_labels is not None)
        self.latent_channels = unet.config.out_channels
        dtype = unet.conv_in.weight.dtype
        with torch.no_grad():
            device = unet.conv_in.weight.device  # "meta" where only shapes are asked for
            time = unet.time_embedding(unet.time_proj(torch.tensor([timestep], device=device)).to(dtype))
            if class_labels is not None:
                time = time + unet.class_embedding(class_labels.to(device, dtype))
        self.time: torch.Tensor | None
        self.prompt: torch.Tensor | None
        self.register_buffer("time", time)
        self.register_buffer("prompt", prompt.to(device, dtype))
        parts = ("conv_in", "down_blocks", "mid_block", "up_blocks", "conv_norm_out", "conv_act", "conv_out")
        for name in parts:
            setattr(self, name, copy.deepcopy(getattr(unet, name)))
        for block in self.up_blocks:
            for i, upsampler in enumerate(block.upsamplers or ()):
                block.upsamplers[i] = Upsample(upsampler.conv)
        self.zero_channels = zero_channels
        self.output_scale = output_scale
        self.upsample_sizes: tuple[tuple[int, int] | None, ...] = (None,) * len(self.up_blocks)

    def fix_size(self, grid_hw: tuple[int, int]) -> None:
        sizes = [(grid_hw[0] // VAE_FACTOR, grid_hw[1] // VAE_FACTOR)]
        for _ in range(len(self.up_blocks) - 1):
            h, w = sizes[-1]
            sizes.append(((h + 1) // 2, (w + 1) // 2))
        self.upsample_sizes = (*reversed(sizes[:-1]), None)

    def forward(self, latent_BChw: torch.Tensor) -> torch.Tensor:
        return self.body(latent_BChw.to(self.dtype)).to(torch.float32)

    def body(self, x: torch.Tensor) -> torch.Tensor:
        """latent -> depth latent, both in the stage's own precision."""
        if self.zero_channels:
            x = nnf.pad(x, (0, 0, 0, 0, 0, self.zero_channels))
        prompt = None if self.prompt is None else self.prompt.expand(x.shape[0], -1, -1)
        x = self.conv_in(x)
        skips = [x]
        for block in self.down_blocks:
            x, added = self._block(block, prompt, hidden_states=x)
            skips.extend(added)
        x = self._block(self.mid_block, prompt, hidden_states=x)
        for block, size in zip(self.up_blocks, self.upsample_sizes, strict=True):
            mine = tuple(skips[-len(block.resnets) :])
            del skips[-len(block.resnets) :]
            x = self._block(block, prompt, hidden_states=x, res_hidden_states_tuple=mine, upsample_size=size)
        x = self.conv_out(self.conv_act(self.conv_norm_out(x)))
        return x if self.output_scale == 1.0 else x * self.output_scale

    def _block(self, block: Any, prompt: torch.Tensor | None, **inputs: Any) -> Any:
        if getattr(block, "has_cross_attention", False):
            inputs["encoder_hidden_states"] = prompt
        return block(temb=self.time, **inputs)


class LightDecoder(nn.Module):  # type: ignore[misc]
    """diffusers' DecoderTiny: latent, squashed to ±3 -> [0, 1] -> pixels in [-1, 1].

    unit_range: the layers give [0, 1]; False once their last convolution gives [-1, 1] itself.
    """

    def __init__(self, decoder: Any) -> None:
        super().__init__()
        self.layers = copy.deepcopy(decoder.layers)
        self.unit_range = True

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.layers(torch.tanh(x / 3) * 3)
        return x * 2 - 1 if self.unit_range else x


class DecoderStage(Stage):
    """depth latent -> depth map: float32 [B, C, h/8, w/8] -> depth and depth_unclipped, float32 [B, h, w].

    vae: AutoencoderKL, or AutoencoderTiny, of 3 output channels or 1.

    Convention: depth in [0, 1], in the model's space (fiffdepth_rt/space.py); depth_unclipped is the same
    value before the clip, where [-1, 1] is the range kept.
    """

    def __init__(self, vae: Any) -> None:
        super().__init__()
        check_vae(vae, "decoder")
        self.latent_channels = vae.config.latent_channels
        self.scaling_factor = float(vae.config.scaling_factor)
        self.post_quant_conv: nn.Module | None = None
        if isinstance(vae, AutoencoderTiny):
            self.decoder = LightDecoder(vae.decoder)
            return
        self.post_quant_conv = copy.deepcopy(vae.post_quant_conv)
        self.decoder = copy.deepcopy(vae.decoder)
        for block in self.decoder.up_blocks:
            for i, upsampler in enumerate(block.upsamplers or ()):
                block.upsamplers[i] = Upsample(upsampler.conv)

    def forward(self, depth_latent_BChw: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        unclipped = self.body(depth_latent_BChw.to(self.dtype)).to(torch.float32)
        depth = unclipped.clamp(-1.0, 1.0) * 0.5 + 0.5
        return depth, unclipped

    def body(self, x: torch.Tensor) -> torch.Tensor:
        """depth latent -> depth before the clip [B, h, w], both in the stage's own precision."""
        if self.scaling_factor != 1.0:
            x = x / self.scaling_factor
        if self.post_quant_conv is not None:
            x = self.post_quant_conv(x)
        x = self.decoder(x)
        return x[:, 0] if x.shape[1] == 1 else x.mean(dim=1)


def check_vae(vae: Any, half: str) -> None:
    """Raises UnsupportedModelError where this half has other doors than the journey's."""
    config, light = vae.config, isinstance(vae, AutoencoderTiny)
    known: dict[str, tuple[Any, ...]] = {
        "shift_factor": (None, 0.0),
        **({"in_channels": (3,)} if half == "encoder" else {"out_channels": (1, 3)}),
    }
    for key, accepted in known.items():
        if config.get(key) not in accepted:
            raise UnsupportedModelError(
                f"VAE with {key}={config.get(key)}: this export knows {accepted} only."
            )
    if light and len(channels := set(config[f"{half}_block_out_channels"])) != 1:
        raise UnsupportedModelError(
            f"AutoencoderTiny with {sorted(channels)} channels in its {half}: no layer of it changes their "
            "number, so every level has to have the same."
        )
    if light:
        step = 2 if half == "encoder" else config["upsampling_scaling_factor"]
        factor = step ** (len(config[f"num_{half}_blocks"]) - 1)
    else:
        factor = 2 ** (len(config["block_out_channels"]) - 1)
    if factor != VAE_FACTOR:
        raise UnsupportedModelError(
            f"VAE whose {half} has the factor {factor}: the runtime knows latents of 1/{VAE_FACTOR} of the "
            "image (KL-f8)."
        )


def _check_unet(unet: Any, zero_channels: int, *, has_class: bool) -> None:
    plain: dict[str, tuple[Any, ...]] = {
        "in_channels": (unet.config.out_channels + zero_channels,),
        "center_input_sample": (False, None),
        "addition_embed_type": (None,),
        "encoder_hid_dim_type": (None,),
        "class_embed_type": ("projection",) if has_class else (None,),
        "class_embeddings_concat": (False, None),
        "time_embedding_act_fn": (None,),
        "time_cond_proj_dim": (None,),
        "resnet_time_scale_shift": ("default",),
        "attention_type": ("default",),
    }
    for key, accepted in plain.items():
        if unet.config.get(key) not in accepted:
            raise UnsupportedModelError(
                f"UNet with {key}={unet.config.get(key)!r}, out_channels={unet.config.out_channels}: the "
                f"export, with this recipe, knows {key} in {accepted}."
            )
