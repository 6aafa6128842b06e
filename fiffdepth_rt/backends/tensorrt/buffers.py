"""Where a frame's tensors lie in one block of GPU memory, and how images become batches. Only values: no GPU.

A journey has five steps. A tensor needs its place from the step that writes it to the last that reads it:

    step          0 H2D   1 encoder    2 unet    3 decoder    4 D2H
    image         ├─────────────┤
    latent                ├─────────────────┤
    depth latent                       ├──────────────┤
    depth                                         ├──────────────┤
    activations           ├─────┤      ├────┤     ├───┤             of each stage, by far the largest

H2D is the copy from the host to the GPU, D2H the copy back. Stages run one after another, so the memory that
they compute in (their activations) is one and the same place.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Mapping

from fiffdepth_rt.backends.grids import tensor_shape
from fiffdepth_rt.engine_dir.manifest import STAGES, PlanProfile, Stage

ALIGNMENT = 512  # bytes; TensorRT wants 256, textures 512
ITEMSIZE = {"uint8": 1, "float16": 2, "bfloat16": 2, "float32": 4}

H2D, D2H = 0, len(STAGES) + 1  # steps; stage i runs in step i + 1


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
    steps["image"].append(H2D)
    steps["depth"].append(D2H)
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
    """Buffers -> offsets. Two buffers that are needed at the same step never overlap; others may.

    The largest buffers are placed first.
    """
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


def batch_parts(images: int, batches: Collection[int]) -> tuple[tuple[int, int], ...]:
    """So many images -> the runs that take them: (images in the run, batch of the plan that it uses).

    batches: those that plans were built for. The largest batches that can be filled come first. What is left
    goes through the smallest batch, whose empty places are computed for nothing.
    """
    parts, left = [], images
    while left:
        full = [batch for batch in batches if batch <= left]
        batch = max(full) if full else min(batches)
        parts.append((min(left, batch), batch))
        left -= parts[-1][0]
    return tuple(parts)
