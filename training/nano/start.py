"""What the fine stage begins with: weights of all three networks, the light encoder with its prior.

    joint's UNet, the light VAE, a scene teacher     `begin_with_prior`
    an engine directory of a nano                    `start_from`: its networks in torch, the folds undone

The graphs of fiffdepth_rt/nano hold every weight, but folded (export/folding.py). In a graph, convolutions
and biases keep their names; weights of linear layers and group norms have lost theirs and are found by order.
What was folded comes back as weights that compute the same:

    1/255 in the light encoder's first convolution     × 255
    [0, 1] -> [-1, 1] in the light decoder's last one  weight / 2, (bias + 1) / 2
    the embedding of t = 0 in a block's first bias     stays there; the projection of t starts at zero
    attention to two constant tokens: gate and out     one dimension of each head, keys and values of token 0
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import Attention
from safetensors.torch import save as serialize

from fiffdepth_rt.atomic import replacing
from fiffdepth_rt.engine_dir.checking import open_engine_dir
from training import distill_vae, loop
from training.data import procedural
from training.distill_vae import DistillationSettings
from training.errors import TrainingError
from training.log_depth.backbone import STRIDES, WEIGHTS_LICENCE, Backbone
from training.log_depth.network import LogDepthNetwork
from training.nano.joint import DepthModel
from training.nano.networks import PRIOR_CHANNELS, nano_prompt, nano_unet, wider_unet
from training.scene_teacher import checkpoint
from training.scene_teacher.features import as_tensor
from training.weights.light import HALVES, LightInfo, load_light_vae, new_light_vae, save_light_vae
from training.weights.prior import with_prior
from training.weights.tensors import hash_files

LIGHT = "light.safetensors"
"""In the folder of the stage: the light VAE with its prior, as the fine stage finds it, and what it is of."""
SPREAD_BY = 16
"""Photos by which the prior's channels get about the size of the light encoder's."""
GRAPHS = Path("graphs") / "fp32"
DEAD = 0.02
"""Deviation of weights that the folds had made idle: not zero, so that they can learn again."""

Arrays = dict[str, torch.Tensor]


def begin_with_prior(run: Path, unet: UNet2DConditionModel, prior: Path) -> None:
    """run/light, joint's UNet and a scene teacher's checkpoint -> run/start.

    It computes what UNet and light VAE did; the channels of the prior are there, and not yet used. The photos
    that set their size are of run/scenes_large. Raises TrainingError as `checkpoint.load`.
    """
    torch.manual_seed(3)  # for the weights that are new, whatever ran in this process before
    network, teacher = checkpoint.load(prior)
    light, _, info = load_light_vae(run / "light" / distill_vae.RESULT)
    vae = with_prior(light, network, PRIOR_CHANNELS)
    scenes = procedural.open_shard(procedural.shard_paths(run / "scenes_large")[0])
    vae.encoder.prior.spread_by(as_tensor(list(scenes.photos[:SPREAD_BY])))
    model = DepthModel(vae, wider_unet(unet, vae.config.latent_channels))
    sources = (
        f"the backbone in its encoder: {WEIGHTS_LICENCE}",
        f"that backbone's decoder, and the fine-tuning of both, by scenes: {teacher.scenes.licence}",
    )
    said = dataclasses.replace(
        info,
        data_sources=(*info.data_sources, *sources),
        training={**info.training, "prior_sha256": hash_files([prior])},
    )
    _save(run, model, said)


def check_prior(run: Path, prior: Path) -> None:
    """Raises TrainingError for a checkpoint that is damaged, or is another than the run began with."""
    checkpoint.load(prior)
    if not (run / "start" / loop.WEIGHTS).exists():
        return
    _, _, info = load_light_vae(run / "start" / LIGHT)
    if info.training.get("prior_sha256") != hash_files([prior]):
        raise TrainingError(f"{run} was begun with another prior than {prior}: name another run.")


def start_from(engine: Path, run: Path, light: DistillationSettings) -> None:
    """Engine directory of a nano -> run/start. Raises TrainingError as `fill_from_engine`."""
    if (run / "start" / loop.WEIGHTS).exists():
        return
    manifest = open_engine_dir(engine).manifest
    model = unfilled(light)
    fill_from_engine(model, engine)
    info = LightInfo(
        name="nano's light VAE",
        teacher=manifest.name,
        licence=manifest.licence.model,
        data_sources=tuple(
            f"the weights it started from ({manifest.name}): {source}"
            for source in manifest.licence.data_sources
        ),
        training={"start": manifest.provenance.get("checkpoint_sha256", "")},
    )
    _save(run, model, info)


def unfilled(light: DistillationSettings) -> DepthModel:
    """nano's three networks, with the prior, and without weights that are worth anything."""
    vae = new_light_vae(
        width=light.width, encoder_blocks=light.encoder_blocks, decoder_blocks=light.decoder_blocks
    )
    wide = with_prior(vae, LogDepthNetwork(Backbone(folded=True)), PRIOR_CHANNELS)
    return DepthModel(wide, nano_unet(wide.config.latent_channels))


def _save(run: Path, model: DepthModel, info: LightInfo) -> None:
    (run / "start").mkdir(parents=True, exist_ok=True)
    save_light_vae(run / "start" / LIGHT, model.vae, HALVES, info)
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
    weights = {name.replace("encoder.", "encoder.layers.", 1): x for name, x in graph.named("encoder.")}
    weights["encoder.layers.0.weight"] = weights["encoder.layers.0.weight"] * 255
    weights |= {f"encoder.{name}": value for name, value in graph.named("prior.")}
    norms = [f"encoder.prior.network.decoder.blocks.{level}.norm" for level in reversed(range(len(STRIDES)))]
    weights |= _by_order(norms, graph.group_norms())
    decoder = dict(_Graph(engine / GRAPHS / "decoder.onnx").named("decoder."))
    last = max(int(name.split(".")[2]) for name in decoder)
    weight, bias = f"decoder.layers.{last}.weight", f"decoder.layers.{last}.bias"
    decoder[weight], decoder[bias] = decoder[weight] / 2, (decoder[bias] + 1) / 2
    vae.load_state_dict(weights | decoder)


def _by_order(names: Sequence[str], norms: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> Arrays:
    """Group norms, in the order of their use -> their weights by name."""
    found: Arrays = {}
    for name, (weight, bias) in zip(names, norms, strict=True):
        found[f"{name}.weight"], found[f"{name}.bias"] = weight, bias
    return found


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
    found |= _by_order(norms, graph.group_norms())
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
        unet(torch.zeros(1, unet.config.in_channels, 8, 8), 0, nano_prompt())
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
            last = name.rpartition(".")[2]
            if name.startswith(beginning) and last.startswith(("weight", "bias", "mean_", "deviation_")):
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
