"""A toy engine directory: three graphs of a few nodes, and the plain numpy twin of what they compute.

image -> latent: mean of each 8×8 block, mixed to 4 channels. latent -> depth latent: an affine map.
depth latent -> depth: each value repeated over its block. Bright is far; black and white are beyond the clip.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from fiffdepth_rt.depth import Depth
from fiffdepth_rt.engine_dir.known_hashes import hash_file
from fiffdepth_rt.engine_dir.manifest import (
    PRECISIONS,
    GraphSet,
    Licence,
    Manifest,
    SizeLimits,
    Stage,
    TensorSpec,
    read_manifest,
    write_manifest,
)

MIX = np.array(  # 4 latent channels from R, G, B
    [[0.5, 0.3, 0.2], [0.1, 0.8, 0.1], [0.2, 0.2, 0.6], [0.6, 0.3, 0.1]], dtype=np.float32
)
SCALE, SHIFT = np.float32(1.25), np.float32(0.05)

IMAGE = TensorSpec(name="image", dtype="uint8", shape=("batch", "height", "width", 3))
LATENT = TensorSpec(name="latent", dtype="float32", shape=("batch", 4, "height/8", "width/8"))
DEPTH_LATENT = TensorSpec(name="depth_latent", dtype="float32", shape=("batch", 4, "height/8", "width/8"))
DEPTH = TensorSpec(name="depth", dtype="float32", shape=("batch", "height", "width"))
DEPTH_UNCLIPPED = TensorSpec(name="depth_unclipped", dtype="float32", shape=("batch", "height", "width"))


def grids_seen(depth: Depth, call: Callable[[], object]) -> list[tuple[int, ...]]:
    """The grids of the images that the engine computes while `call` runs."""
    run, seen = depth.backend.run, []

    def watched(image: np.ndarray) -> np.ndarray:
        seen.extend([image.shape[1:3]] * len(image))
        return run(image)

    depth.backend.run = watched  # type: ignore[method-assign]
    try:
        call()
    finally:
        depth.backend.run = run  # type: ignore[method-assign]
    return seen


def infer_to(out: str, depth: Depth, photo: Any) -> object:
    """A photo from anywhere -> its depth map on the "host" or on the "device"."""
    if out == "host" and isinstance(photo, np.ndarray):
        return depth.infer(photo)
    return depth.infer_on_gpu(photo, out=out)


def write_toy_engine_dir(
    path: Path,
    *,
    output_space: str = "depth",
    precisions: tuple[str, ...] = ("fp32",),
    shift: float = float(SHIFT),
) -> Path:
    """Make `path` an engine directory: default size 256, maximum 1024. Returns `path`.

    Every precision holds the same fp32 graphs, whatever the manifest says of them. `shift` is the UNet's.
    """
    graphs = {"encoder": _encoder(), "unet": _unet(shift), "decoder": _decoder()}
    tensors = {
        "encoder": ((IMAGE,), (LATENT,)),
        "unet": ((LATENT,), (DEPTH_LATENT,)),
        "decoder": ((DEPTH_LATENT,), (DEPTH, DEPTH_UNCLIPPED)),
    }
    names = ["golden.npz"]
    path.mkdir(parents=True)
    np.savez(path / "golden.npz", **toy_golden())
    graph_sets = {}
    for precision in precisions:
        stages = {}
        for stage, model in graphs.items():
            name = f"graphs/{precision}/{stage}.onnx"
            names.append(name)
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            onnx.save(model, path / name)
            inputs, outputs = tensors[stage]
            stages[stage] = Stage(file=name, external_data=(), inputs=inputs, outputs=outputs)
        computes_in = precision if precision in PRECISIONS else "fp32"
        graph_sets[precision] = GraphSet(precision=computes_in, opset=18, form="grid", stages=stages)
    manifest = Manifest(
        name="toy",
        recipe="fiffdepth",
        output_space=output_space,
        size=SizeLimits(default=256, max=1024, multiple=64),
        graph_sets=graph_sets,
        files={name: hash_file(path / name) for name in names},
        licence=Licence(model="CC0-1.0", data_sources=("none: written by hand",)),
        golden="golden.npz",
        plans=(),
        provenance={"command": "tests/support/toy.py"},
        parity=(
            {
                "graph_set": "fp32",
                "stage": "chain",
                "backend": "onnxruntime",
                "device": "cpu",
                "image": "photo0",
                "max_abs": 1e-6,
                "p999": 1e-6,
                "mean_abs": 1e-7,
                "passed": True,
            },
        ),
    )
    write_manifest(path, manifest)
    return path


def write_static_toy(path: Path, *grids: tuple[int, int]) -> Path:
    """The same with a set of graphs for each (height, width) and none for free grids: fp32-64x128, …"""
    manifest = read_manifest(write_toy_engine_dir(path))
    free = manifest.graph_sets["fp32"]
    graph_sets, files = {}, {"golden.npz": manifest.files["golden.npz"]}
    for height, width in grids:
        sides = {"height": height, "width": width, "height/8": height // 8, "width/8": width // 8}

        def fixed(specs: tuple[TensorSpec, ...], sides: dict[str, int] = sides) -> tuple[TensorSpec, ...]:
            return tuple(
                msgspec.structs.replace(spec, shape=tuple(sides.get(str(dim), dim) for dim in spec.shape))
                for spec in specs
            )

        stages = {}
        for name, stage in free.stages.items():
            model = onnx.load(path / stage.file)
            for value in (*model.graph.input, *model.graph.output):
                for dim in value.type.tensor_type.shape.dim:
                    if dim.dim_param in sides:
                        dim.dim_value = sides[dim.dim_param]
            file = f"graphs/fp32-{height}x{width}/{name}.onnx"
            (path / file).parent.mkdir(exist_ok=True)
            onnx.save(model, path / file)
            files[file] = hash_file(path / file)
            stages[name] = msgspec.structs.replace(
                stage, file=file, inputs=fixed(stage.inputs), outputs=fixed(stage.outputs)
            )
        graph_sets[f"fp32-{height}x{width}"] = msgspec.structs.replace(free, stages=stages)
    shutil.rmtree(path / "graphs/fp32")
    write_manifest(path, msgspec.structs.replace(manifest, graph_sets=graph_sets, files=files))
    return path


def toy_latent(image_BHW3: np.ndarray) -> np.ndarray:
    """image -> latent, the plain twin of the encoder."""
    batch, height, width, _ = image_BHW3.shape
    pixels = image_BHW3.astype(np.float32) / np.float32(127.5) - 1
    blocks = pixels.reshape(batch, height // 8, 8, width // 8, 8, 3).mean(axis=(2, 4))
    return np.einsum("bhwc,lc->blhw", blocks, MIX).astype(np.float32)


def toy_depth_latent(latent: np.ndarray) -> np.ndarray:
    """latent -> depth latent, the plain twin of the UNet."""
    return latent * SCALE + SHIFT


def toy_unclipped(depth_latent: np.ndarray) -> np.ndarray:
    """depth latent -> depth_unclipped, the plain twin of the decoder before its clip."""
    return depth_latent.mean(axis=1).repeat(8, axis=1).repeat(8, axis=2)


def toy_depth(image_BHW3: np.ndarray) -> np.ndarray:
    """image -> depth map in [0, 1]: the whole journey on the grid."""
    unclipped = toy_unclipped(toy_depth_latent(toy_latent(image_BHW3)))
    return np.clip(unclipped, -1, 1) * np.float32(0.5) + np.float32(0.5)


def toy_golden() -> dict[str, np.ndarray]:
    """The content of golden.npz: two soft pictures and a noise image, stage by stage."""
    rows, columns = np.mgrid[0:128, 0:192].astype(np.float32)
    ramp = np.stack([rows * 255 / 127, columns * 255 / 191, (rows + columns) * 255 / 318], axis=-1)
    images = {
        "photo0": ramp.astype(np.uint8),
        "photo1": (ramp[::-1] * 0.8).astype(np.uint8),
        "noise": np.random.default_rng(0).integers(0, 256, ramp.shape, dtype=np.uint8),
    }
    golden = {}
    for name, image in images.items():
        value = image[None]
        for stage, twin in (("encoder", toy_latent), ("unet", toy_depth_latent), ("decoder", toy_unclipped)):
            golden[f"{name}/{stage}/input"] = value
            value = golden[f"{name}/{stage}/output"] = twin(value)
    return golden


def _encoder() -> onnx.ModelProto:
    kernel = np.broadcast_to(MIX[:, :, None, None] / 64, (4, 3, 8, 8))
    nodes = [
        helper.make_node("Cast", ["image"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["pixels"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Div", ["planes", "half_range"], ["positive"]),
        helper.make_node("Sub", ["positive", "one"], ["signed"]),
        helper.make_node("Conv", ["signed", "kernel"], ["latent"], strides=[8, 8]),
    ]
    return _model(nodes, (IMAGE,), (LATENT,), half_range=127.5, one=1.0, kernel=kernel)


def _unet(shift: float) -> onnx.ModelProto:
    nodes = [
        helper.make_node("Mul", ["latent", "scale"], ["scaled"]),
        helper.make_node("Add", ["scaled", "shift"], ["depth_latent"]),
    ]
    return _model(nodes, (LATENT,), (DEPTH_LATENT,), scale=float(SCALE), shift=shift)


def _decoder() -> onnx.ModelProto:
    nodes = [
        helper.make_node("ReduceMean", ["depth_latent", "channel_axis"], ["mean"], keepdims=1),
        helper.make_node(
            "Resize",
            ["mean", "", "scales"],
            ["planes"],
            mode="nearest",
            coordinate_transformation_mode="asymmetric",
            nearest_mode="floor",
        ),
        helper.make_node("Squeeze", ["planes", "channel_axis"], ["depth_unclipped"]),
        helper.make_node("Clip", ["depth_unclipped", "minus_one", "one"], ["clipped"]),
        helper.make_node("Mul", ["clipped", "half"], ["halved"]),
        helper.make_node("Add", ["halved", "half"], ["depth"]),
    ]
    return _model(
        nodes,
        (DEPTH_LATENT,),
        (DEPTH, DEPTH_UNCLIPPED),
        scales=np.array([1.0, 1.0, 8.0, 8.0]),
        minus_one=-1.0,
        one=1.0,
        half=0.5,
        channel_axis=np.array([1], dtype=np.int64),
    )


def _model(
    nodes: list[onnx.NodeProto],
    inputs: tuple[TensorSpec, ...],
    outputs: tuple[TensorSpec, ...],
    **constants: float | np.ndarray,
) -> onnx.ModelProto:
    initializers = [
        numpy_helper.from_array(
            value if isinstance(value, np.ndarray) and value.dtype == np.int64 else np.float32(value), name
        )
        for name, value in constants.items()
    ]
    graph = helper.make_graph(nodes, "toy", _infos(inputs), _infos(outputs), initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    return model


def _infos(specs: tuple[TensorSpec, ...]) -> list[onnx.ValueInfoProto]:
    dtypes = {"uint8": TensorProto.UINT8, "float32": TensorProto.FLOAT}
    return [helper.make_tensor_value_info(spec.name, dtypes[spec.dtype], spec.shape) for spec in specs]
