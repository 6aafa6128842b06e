"""Exact folds: what is constant in a stage moves into the weights next to it, and the result stays the same.

Each fold takes a stage (stages.py) and changes it in place. All arithmetic is done in float64 and rounded
once. FOLDS says which there are; tests/export/test_folding.py holds each against its unfolded twin.

    fold         stage     what becomes what
    posterior    encoder   conv_out, quant_conv (mean half) and the scaling factor -> conv_out; of a light one
                           with a prior, the scaling factor -> both ends
    pixels       encoder   a light one's 1/255 -> its first convolution (no shift, so borders stay exact)
    time         unet      time and class embedding, projected per block -> bias of the block's conv1
    prompt       unet      attention to a constant prompt -> one sigmoid layer (2 tokens), or const K, V
    zero-input   unet      zero channels beside the latent -> conv_in without them
    output       unet      the recipe's output scale -> conv_out
    latent       decoder   1 / scaling factor -> post_quant_conv (there must be one)
    range        decoder   a light one's [0, 1] -> [-1, 1] -> its last convolution
    mean         decoder   mean over the output channels -> conv_out with one

Not folded, because it would not be exact at the border where convolutions pad with zeros: the image's
normalisation with its shift into the full encoder's conv_in, and post_quant_conv into decoder.conv_in.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.resnet import ResnetBlock2D
from torch import nn
from torch.nn import functional as nnf

from export.stages import DecoderStage, EncoderStage, LightDecoder, UnetStage


class TwoTokenAttention(nn.Module):  # type: ignore[misc]
    """Cross-attention to two constant tokens: softmax over two keys is a sigmoid of their logits' difference.

    x [B, n, C] -> out(sigmoid(gate(x))) [B, n, C], where gate maps C to one logit per head and out maps the
    heads' weights of token 0 to C, with token 1 in its bias.
    """

    def __init__(self, gate: nn.Linear, out: nn.Linear) -> None:
        super().__init__()
        self.gate = gate
        self.out = out

    def forward(self, hidden_states: torch.Tensor, **_: Any) -> torch.Tensor:
        return self.out(torch.sigmoid(self.gate(hidden_states)))


class ConstantAttention(nn.Module):  # type: ignore[misc]
    """Cross-attention to any number of constant tokens, keys and values computed beforehand.

    Keys are [1, heads, d, tokens] and carry sqrt(scale); the query gets its sqrt(scale) from to_q's weights.
    """

    def __init__(self, to_q: nn.Linear, keys: torch.Tensor, values: torch.Tensor, out: nn.Module) -> None:
        super().__init__()
        self.to_q = to_q
        self.keys: torch.Tensor
        self.values: torch.Tensor
        self.register_buffer("keys", keys)
        self.register_buffer("values", values)
        self.out = out

    def forward(self, hidden_states: torch.Tensor, **_: Any) -> torch.Tensor:
        _, heads, width, _ = self.keys.shape
        # Not unflatten, which becomes a Mod in the form for TensorRT 8.5.
        query = self.to_q(hidden_states).view(hidden_states.shape[0], -1, heads, width).transpose(1, 2)
        weights = torch.softmax(query @ self.keys, dim=-1)
        return self.out((weights @ self.values).transpose(1, 2).flatten(2))


def fold_posterior(stage: EncoderStage) -> None:
    """conv_out, quant_conv (mean half) and the scaling factor -> conv_out, and into a prior's end."""
    holder, last = _last_convolution(stage.encoder)
    conv = holder[last]
    weight, bias = _double(conv)
    weight, bias = weight.flatten(1), bias[:, None]
    if stage.quant_conv is not None:
        quant_weight, quant_bias = _double(stage.quant_conv)
        weight = quant_weight.flatten(1) @ weight
        bias = quant_weight.flatten(1) @ bias + quant_bias[:, None]
    weight = weight[: stage.latent_channels].unflatten(1, conv.weight.shape[1:]) * stage.scaling_factor
    holder[last] = _conv_like(conv, weight, bias[: stage.latent_channels, 0] * stage.scaling_factor)
    if stage.prior is not None:
        weight, bias = _double(stage.prior.mix)
        scaled = _conv_like(stage.prior.mix, weight * stage.scaling_factor, bias * stage.scaling_factor)
        stage.prior.mix = scaled
    stage.quant_conv = None
    stage.scaling_factor = 1.0


def fold_pixels(stage: EncoderStage) -> None:
    """A light encoder's 1/255 -> its first convolution, which then takes pixels of 0 ... 255."""
    if isinstance(stage.encoder, nn.Sequential):
        weight, bias = _double(stage.encoder[0])
        stage.encoder[0] = _conv_like(stage.encoder[0], weight * stage.pixel_scale, bias)
        stage.pixel_scale = 1.0


def fold_time(stage: UnetStage) -> None:
    """Time and class embedding, projected per block -> bias of the block's conv1."""
    if stage.time is None:
        return
    for block in (m for m in stage.modules() if isinstance(m, ResnetBlock2D)):
        weight, bias = _double(block.time_emb_proj)
        time = stage.time.double()[0]
        active = time if block.skip_time_act else block.nonlinearity(time)
        conv_weight, conv_bias = _double(block.conv1)
        block.conv1 = _conv_like(block.conv1, conv_weight, conv_bias + weight @ active + bias)
        block.time_emb_proj = None
    stage.time = None


def fold_prompt(stage: UnetStage) -> None:
    """Cross-attention to a constant prompt -> one sigmoid layer per block (2 tokens), or constant K and V."""
    if stage.prompt is None:
        return
    two = stage.prompt.shape[1] == 2
    for block in (m for m in stage.modules() if isinstance(m, BasicTransformerBlock)):
        if block.attn2 is not None:
            block.attn2 = (_two_tokens if two else _constant_tokens)(block.attn2, stage.prompt[0])
    stage.prompt = None


def fold_zero_input(stage: UnetStage) -> None:
    """Zero channels beside the latent -> conv_in without them."""
    if stage.zero_channels:
        weight, bias = _double(stage.conv_in)
        stage.conv_in = _conv_like(stage.conv_in, weight[:, : stage.latent_channels], bias)
        stage.zero_channels = 0


def fold_output(stage: UnetStage) -> None:
    """The recipe's output scale -> conv_out."""
    weight, bias = _double(stage.conv_out)
    stage.conv_out = _conv_like(stage.conv_out, weight * stage.output_scale, bias * stage.output_scale)
    stage.output_scale = 1.0


def fold_latent(stage: DecoderStage) -> None:
    """1 / scaling factor -> post_quant_conv; a decoder without one keeps its division."""
    if stage.post_quant_conv is not None:
        weight, bias = _double(stage.post_quant_conv)
        stage.post_quant_conv = _conv_like(stage.post_quant_conv, weight / stage.scaling_factor, bias)
        stage.scaling_factor = 1.0


def fold_range(stage: DecoderStage) -> None:
    """A light decoder's [0, 1] -> [-1, 1] -> its last convolution."""
    if isinstance(stage.decoder, LightDecoder):
        conv = stage.decoder.layers[-1]
        weight, bias = _double(conv)
        stage.decoder.layers[-1] = _conv_like(conv, weight * 2, bias * 2 - 1)
        stage.decoder.unit_range = False


def fold_mean(stage: DecoderStage) -> None:
    """Mean over the output channels -> the last convolution with one channel."""
    holder, last = _last_convolution(stage.decoder)
    weight, bias = _double(holder[last])
    holder[last] = _conv_like(holder[last], weight.mean(0, keepdim=True), bias.mean(0, keepdim=True))


FOLDS: dict[str, dict[str, Callable[[Any], None]]] = {
    "encoder": {"posterior": fold_posterior, "pixels": fold_pixels},
    "unet": {"time": fold_time, "prompt": fold_prompt, "zero-input": fold_zero_input, "output": fold_output},
    "decoder": {"latent": fold_latent, "range": fold_range, "mean": fold_mean},
}
FOLD_NAMES = tuple(name for folds in FOLDS.values() for name in folds)


def fold(stage_name: str, stage: nn.Module, *, leave_out: frozenset[str] = frozenset()) -> None:
    """Apply every fold of a stage in place, except those named in `leave_out`."""
    with torch.no_grad():
        for name, change in FOLDS[stage_name].items():
            if name not in leave_out:
                change(stage)


def _two_tokens(attention: Any, prompt_TC: torch.Tensor) -> TwoTokenAttention:
    q_weight, q_bias, keys, values, out_weight, out_bias = _projections(attention, prompt_TC)
    heads = attention.heads
    # logit of token 0 minus logit of token 1, per head: ((k0 - k1) · (Wq x + bq)) × scale
    difference = (keys[0] - keys[1]).unflatten(0, (heads, -1)) * attention.scale
    gate_weight = torch.einsum("hd,hdc->hc", difference, q_weight.unflatten(0, (heads, -1)))
    gate_bias = torch.einsum("hd,hd->h", difference, q_bias.unflatten(0, (heads, -1)))
    # Wo (s v0 + (1 - s) v1) + bo = Wo (v0 - v1) s + (Wo v1 + bo)
    spread = (values[0] - values[1]).unflatten(0, (heads, -1))
    weight = torch.einsum("chd,hd->ch", out_weight.unflatten(1, (heads, -1)), spread)
    dtype = attention.to_q.weight.dtype
    return TwoTokenAttention(
        _linear(gate_weight, gate_bias, dtype), _linear(weight, out_weight @ values[1] + out_bias, dtype)
    )


def _constant_tokens(attention: Any, prompt_TC: torch.Tensor) -> ConstantAttention:
    q_weight, q_bias, keys, values, _, _ = _projections(attention, prompt_TC)
    root = math.sqrt(attention.scale)
    dtype = attention.to_q.weight.dtype

    def per_head(x: torch.Tensor) -> torch.Tensor:
        return x.unflatten(1, (attention.heads, -1)).transpose(0, 1)[None].to(dtype)

    return ConstantAttention(
        _linear(q_weight * root, q_bias * root, dtype),
        per_head(keys * root).transpose(-1, -2).contiguous(),
        per_head(values).contiguous(),
        attention.to_out[0],
    )


def _projections(attention: Any, prompt_TC: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """float64 Wq, bq, K [T, C], V [T, C], Wo, bo of a diffusers Attention on a constant prompt."""
    if attention.norm_cross or attention.norm_q is not None or attention.residual_connection:
        raise NotImplementedError("cross-attention with norms or a residual of its own cannot be folded")
    prompt = prompt_TC.double()
    q_weight, q_bias = _double(attention.to_q)
    k_weight, k_bias = _double(attention.to_k)
    v_weight, v_bias = _double(attention.to_v)
    out_weight, out_bias = _double(attention.to_out[0])
    return (
        q_weight,
        q_bias,
        nnf.linear(prompt, k_weight, k_bias),
        nnf.linear(prompt, v_weight, v_bias),
        out_weight / attention.rescale_output_factor,
        out_bias / attention.rescale_output_factor,
    )


def _last_convolution(network: Any) -> tuple[Any, Any]:
    """Where the last convolution of an encoder or decoder hangs, and under which key: holder[key] is it."""
    if isinstance(network, LightDecoder):
        network = network.layers
    if isinstance(network, nn.Sequential):
        return network, len(network) - 1
    return network._modules, "conv_out"


def _double(layer: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight and bias (zeros where there is none) in float64."""
    weight = layer.weight.detach().double()
    bias = layer.bias.detach().double() if layer.bias is not None else weight.new_zeros(weight.shape[0])
    return weight, bias


def _linear(weight: torch.Tensor, bias: torch.Tensor, dtype: torch.dtype) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], dtype=dtype, device=weight.device)
    layer.weight.data.copy_(weight)
    layer.bias.data.copy_(bias)
    return layer


def _conv_like(conv: Any, weight: torch.Tensor, bias: torch.Tensor) -> nn.Conv2d:
    layer = nn.Conv2d(
        weight.shape[1],
        weight.shape[0],
        conv.kernel_size,
        stride=conv.stride,
        padding=conv.padding,
        dtype=conv.weight.dtype,
        device=conv.weight.device,
    )
    layer.weight.data.copy_(weight)
    layer.bias.data.copy_(bias)
    return layer
