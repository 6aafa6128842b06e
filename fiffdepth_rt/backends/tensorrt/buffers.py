"""Where a frame's tensors lie in one block of GPU memory, and which copies it makes. Only values: no GPU.

A journey has five steps; a tensor needs its place from the step that writes it to the last that reads it:

    step          0 up    1 encoder    2 unet    3 decoder    4 down
    image         ├─────────────┤
    latent                ├─────────────────┤
    depth latent                       ├──────────────┤
    depth                                         ├──────────────┤
    activations           ├─────┤      ├────┤     ├───┤             of each stage, by far the largest

Stages run one after another, so their activations share one place.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Mapping
from typing import Literal

from fiffdepth_rt.backends.grids import tensor_shape
from fiffdepth_rt.engine_dir.manifest import STAGES, PlanProfile, Stage
from fiffdepth_rt.gpu.cuda import Copy

ALIGNMENT = 512  # bytes; TensorRT wants 256, textures 512
ITEMSIZE = {"uint8": 1, "float16": 2, "bfloat16": 2, "float32": 4}

UP, DOWN = 0, len(STAGES) + 1  # steps; stage i runs in step i + 1

Place = Literal["host", "gpu"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Buffer:
    """Memory that is needed from step `first` to step `last`, both included."""

    name: str
    nbytes: int
    first: int
    last: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Placement:
    """Where buffers lie in one block: offsets by name, and the size of the block, in bytes."""

    offsets: Mapping[str, int]
    nbytes: int


def activations_of(stage: str) -> str:
    """The name of the buffer that a stage computes in."""
    return f"{stage} activations"


def tensor_nbytes(stages: Mapping[str, Stage], profile: PlanProfile) -> dict[str, int]:
    """Bytes of every tensor of a journey under a profile, by name."""
    specs = [spec for stage in stages.values() for spec in (*stage.inputs, *stage.outputs)]
    return {
        spec.name: math.prod(tensor_shape(spec, profile.grid, profile.batch)) * ITEMSIZE[spec.dtype]
        for spec in specs
    }


def journey_buffers(
    stages: Mapping[str, Stage], profile: PlanProfile, activation_nbytes: Mapping[str, int]
) -> tuple[Buffer, ...]:
    """Everything that one frame (or batch) needs on the GPU. activation_nbytes: by stage."""
    nbytes = tensor_nbytes(stages, profile)
    steps: dict[str, list[int]] = {name: [] for name in nbytes}
    for step, name in enumerate(STAGES, 1):
        for spec in (*stages[name].inputs, *stages[name].outputs):
            steps[spec.name].append(step)
    steps["image"].append(UP)
    steps["depth"].append(DOWN)
    tensors = (
        Buffer(name=name, nbytes=nbytes[name], first=min(used), last=max(used))
        for name, used in steps.items()
    )
    activations = (
        Buffer(name=activations_of(stage), nbytes=activation_nbytes[stage], first=step, last=step)
        for step, stage in enumerate(STAGES, 1)
    )
    return (*tensors, *activations)


def place(buffers: Collection[Buffer]) -> Placement:
    """Buffers -> offsets: two that are needed at the same step never overlap; others may. Largest first."""
    placed: list[tuple[int, Buffer]] = []
    for buffer in sorted(buffers, key=lambda one: (-one.nbytes, one.name)):
        offset = 0
        for other_offset, other in sorted(placed, key=lambda one: one[0]):
            apart = other.last < buffer.first or buffer.last < other.first
            if not apart and offset < _end(other_offset, other) and other_offset < offset + buffer.nbytes:
                offset = _end(other_offset, other)
        placed.append((offset, buffer))
    return Placement(
        offsets={buffer.name: offset for offset, buffer in placed},
        nbytes=max((_end(offset, buffer) for offset, buffer in placed), default=0),
    )


def _end(offset: int, buffer: Buffer) -> int:
    """The first aligned byte behind a buffer."""
    return offset + -(-buffer.nbytes // ALIGNMENT) * ALIGNMENT


def copies(source: Place, result: Place) -> tuple[Copy, ...]:
    """The copies that a frame makes, in order. From the GPU to the GPU none of them touches the host."""
    return (
        *((Copy.FILL, Copy.UP) if source == "host" else (Copy.ACROSS,)),
        *((Copy.DOWN, Copy.DRAIN) if result == "host" else (Copy.ACROSS,)),
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class GraphKey:
    """What tells one CUDA graph from another: addresses are fixed in a graph, and so is what it copies.

    slot: which of the pinned buffers it copies from and to; None where it touches none.
    """

    profile: PlanProfile
    up: bool
    down: bool
    slot: int | None


def graph_key(profile: PlanProfile, made: Collection[Copy], slot: int | None) -> GraphKey:
    """The key of the graph for a frame that makes these copies."""
    up, down = Copy.UP in made, Copy.DOWN in made
    return GraphKey(profile=profile, up=up, down=down, slot=slot if up or down else None)


def batch_parts(images: int, batches: Collection[int]) -> tuple[tuple[int, int], ...]:
    """How a number of images goes through plans of these batches: (images, batch of the plan) of each run.

    The largest batches that are full come first; the rest goes through the smallest that holds it, the places
    that are left over being computed for nothing.
    """
    parts, left = [], images
    while left:
        full = [batch for batch in batches if batch <= left]
        batch = max(full) if full else min(batches)
        parts.append((min(left, batch), batch))
        left -= parts[-1][0]
    return tuple(parts)
