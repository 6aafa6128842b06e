"""The bundled engine directory -> its networks in torch, to go on from: the export's folds undone.

The graphs of fiffdepth_rt/nano hold every weight, but folded (export/folding.py). In a graph, convolutions
and biases keep their names; weights of linear layers and group norms have lost theirs and are found by order.
What was folded comes back as weights that compute the same:

    1/255 in the light encoder's first convolution     × 255
    [0, 1] -> [-1, 1] in the light decoder's last one  weight / 2, (bias + 1) / 2
    the embedding of t = 0 in a block's first bias     stays there; the projection of t starts at zero
    attention to two constant tokens: gate and out     one dimension of each head, keys and values of token 0
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import Attention
from safetensors.torch import save as serialize

from fiffdepth_rt.atomic import replacing
from fiffdepth_rt.engine_dir.checking import open_engine_dir
from training import distill_vae, loop
from training.distill_vae import DistillationSettings
from training.errors import TrainingError
from training.nano.joint import DepthModel
from training.nano.networks import nano_prompt, nano_unet
from training.weights.light import HALVES, LightInfo, new_light_vae, save_light_vae

GRAPHS = Path("graphs") / "fp32"
DEAD = 0.02
"""Deviation of weights that the folds had made idle: not zero, so that they can learn again."""

Arrays = dict[str, torch.Tensor]


def start_from(engine: Path, run: Path, light: DistillationSettings) -> None:
    """Engine directory of a nano -> run/light, and run/start with all its weights."""
    if (run / "start" / loop.WEIGHTS).exists():
        return
    manifest = open_engine_dir(engine).manifest
    vae = new_light_vae(
        width=light.width,
        encoder_blocks=light.encoder_blocks,
        decoder_blocks=light.decoder_blocks,
    )
    model = DepthModel(vae, nano_unet())
    fill_from_engine(model, engine)
    info = LightInfo(
        name="nano's light VAE",
        teacher=manifest.name,
        licence=manifest.licence.model,
        data_sources=tuple(manifest.licence.data_sources),
        training={"start": manifest.provenance.get("checkpoint_sha256", "")},
    )
    for folder in ("light", "start"):
        (run / folder).mkdir(parents=True, exist_ok=True)
    save_light_vae(run / "light" / distill_vae.RESULT, vae, HALVES, info)
    with replacing(run / "start" / loop.WEIGHTS) as file:
        file.write(serialize({name: value.contiguous() for name, value in model.state_dict().items()}))


def fill_from_engine(model: DepthModel, engine: Path) -> None:
    """Give a model of nano's architecture the weights of an engine directory: its results are the graphs'.

    Raises TrainingError where the graphs are not those of this architecture, or the package onnx is missing.
    """
    try:
        _fill_vae(model.vae, engine)
        _fill_unet(model.unet, engine)
    except TrainingError:  # onnx is missing
        raise
    except (OSError, KeyError, ValueError, RuntimeError) as error:
        raise TrainingError(f"{engine} holds no nano of this version ({error}): start without it.") from error


def _fill_vae(vae: torch.nn.Module, engine: Path) -> None:
    graph = _Graph(engine / GRAPHS / "encoder.onnx")
    encoder = {name.replace("encoder.", "encoder.layers.", 1): x for name, x in graph.named("encoder.")}
    encoder["encoder.layers.0.weight"] = encoder["encoder.layers.0.weight"] * 255
    decoder = dict(_Graph(engine / GRAPHS / "decoder.onnx").named("decoder."))
    last = max(int(name.split(".")[2]) for name in decoder)
    weight, bias = f"decoder.layers.{last}.weight", f"decoder.layers.{last}.bias"
    decoder[weight], decoder[bias] = decoder[weight] / 2, (decoder[bias] + 1) / 2
    vae.load_state_dict(encoder | decoder)


def _fill_unet(unet: UNet2DConditionModel, engine: Path) -> None:
    graph = _Graph(engine / GRAPHS / "unet.onnx")
    norms, linears = _called(unet)
    weights = unet.state_dict()
    torch.manual_seed(0)
    for name in weights:
        if "time_emb_proj" in name:
            weights[name] = torch.zeros_like(weights[name])
        elif ".attn2.to_" in name:
            weights[name] = torch.randn_like(weights[name]) * DEAD
    found = dict(graph.named(""))
    for name, (weight, bias) in zip(norms, graph.group_norms(), strict=True):
        found[f"{name}.weight"], found[f"{name}.bias"] = weight, bias
    for name, weight in zip(linears, graph.linears(), strict=True):
        found[f"{name}.weight"] = weight
    for name, value in found.items():
        if name in weights:
            weights[name] = value
        elif ".attn2." not in name:
            raise ValueError(f"the graph has {name}, the network has not")
    modules = dict(unet.named_modules())
    for gate in [name for name in found if name.endswith(".attn2.gate.weight")]:
        place = gate.removesuffix(".gate.weight")
        if f"{place}.gate.bias" in found and found[f"{place}.gate.bias"].abs().max() > 1e-6:
            raise ValueError("a gate with a bias is no attention of this network")
        own = _attention(modules[place], *(found[f"{place}.{part}"] for part in _ATTENTION))
        weights |= {f"{place}.{name}": value for name, value in own.items()}
    unet.load_state_dict(weights)


_ATTENTION = ("gate.weight", "out.weight", "out.bias")


def _attention(attention: Attention, gate: torch.Tensor, out: torch.Tensor, out_bias: torch.Tensor) -> Arrays:
    """out(sigmoid(gate(x))) -> an attention to nano's prompt that computes the same.

    Token 0 has in each head the key and the value (1, 0, 0, …), token 1 has zeros.
    """
    heads, width = gate.shape
    size = width // heads
    first = torch.arange(heads) * size
    pick = torch.zeros(width)
    pick[first] = 1
    # One row of the pseudo-inverse is 1 for token 0 and 0 for token 1.
    reads = torch.linalg.pinv(nano_prompt()[0].T.double())[0].float()  # tokens×channels: row of token 0
    query = torch.randn(width, width) * DEAD
    query[first] = gate / attention.scale
    back = torch.randn(width, width) * DEAD
    back[:, first] = out
    return {
        "to_q.weight": query,
        "to_k.weight": pick[:, None] * reads[None],
        "to_v.weight": pick[:, None] * reads[None],
        "to_out.0.weight": back,
        "to_out.0.bias": out_bias,
    }


def _called(unet: UNet2DConditionModel) -> tuple[list[str], list[str]]:
    """Names of the group norms and of the linear layers as a folded graph has them, in the order of calls."""
    norms: list[str] = []
    linears: list[str] = []
    hooks = []
    for name, module in unet.named_modules():
        if isinstance(module, torch.nn.GroupNorm):
            hooks.append(module.register_forward_hook(lambda *_, name=name: norms.append(name)))
        elif isinstance(module, torch.nn.Linear) and "time_emb" not in name:
            hooks.append(module.register_forward_hook(lambda *_, name=name: linears.append(name)))
    with torch.no_grad():
        unet(torch.zeros(1, 4, 8, 8), 0, nano_prompt())
    for hook in hooks:
        hook.remove()
    folded = []
    for name in linears:
        if not name.endswith((".attn2.to_k", ".attn2.to_v")):
            folded.append(name.replace(".attn2.to_q", ".attn2.gate").replace(".attn2.to_out.0", ".attn2.out"))
    return norms, folded


class _Graph:
    """A graph's weights, by name where they have one and in the order of their use."""

    def __init__(self, path: Path) -> None:
        try:
            import onnx
        except ImportError as error:
            raise TrainingError(
                f"Reading graphs needs onnx ({error}): pip install 'fiffdepth-rt[export]'."
            ) from error
        model = onnx.load(str(path))
        self._nodes = list(model.graph.node)
        self._arrays = {
            one.name: torch.from_numpy(np.array(onnx.numpy_helper.to_array(one), np.float32))
            for one in model.graph.initializer
            if one.data_type in (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16)
        }
        for node in self._nodes:
            if node.op_type == "Cast" and node.input[0] in self._arrays:
                self._arrays[node.output[0]] = self._arrays[node.input[0]]

    def named(self, beginning: str) -> Iterator[tuple[str, torch.Tensor]]:
        for name, value in self._arrays.items():
            if name.startswith(beginning) and name.endswith((".weight", ".bias")):
                yield name, value

    def linears(self) -> Iterator[torch.Tensor]:
        """out×in, in the order of use."""
        for node in self._nodes:
            if node.op_type == "MatMul" and node.input[1] in self._arrays:
                yield self._arrays[node.input[1]].T.contiguous()

    def group_norms(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Scale and shift: an instance norm by groups, reshaped, times a constant, plus a constant."""
        for index, node in enumerate(self._nodes):
            if node.op_type == "InstanceNormalization":
                product = next(n for n in self._nodes[index:] if n.op_type == "Mul")
                total = next(n for n in self._nodes[index:] if n.op_type == "Add")
                yield self._arrays[product.input[1]].flatten(), self._arrays[total.input[1]].flatten()
