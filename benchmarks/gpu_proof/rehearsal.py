"""What a rehearsal has in place of a GPU and of a large model: a stand-in and a small model of the tests.

The stand-in is CUDA's runtime in host memory, with ONNX Runtime in the place of the library that runs plans.
Both lie in tests/support, and this file is their only user outside the tests.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fiffdepth_rt.backends.tensorrt.build import Builder
from fiffdepth_rt.backends.tensorrt.flavour import Flavour

GPU_NAME = "REHEARSAL, no GPU"
COMPUTE_CAPABILITY = (8, 9)
MEMORY_BYTES = 2**31
VERSIONS = {"tensorrt": "10.16.1.11", "tensorrt-rtx": "1.7.1.116"}


def write_checkpoint(path: Path) -> None:
    """A checkpoint with few layers, of the shapes of Stable Diffusion 2's, with random weights."""
    from tests.support.tiny_models import exact_in_half, sized_like_sd2
    from training.weights.ours import save_checkpoint

    save_checkpoint(path, exact_in_half(sized_like_sd2()))


@contextlib.contextmanager
def gpu_of(*, rehearse: bool, flavour: Flavour) -> Iterator[Builder | None]:
    """The builder to give to `build_plans` until the block ends; None for this machine's own.

    rehearse: the block runs on the stand-in, whose plans are copies of the graphs.
    Raises ModuleNotFoundError where a rehearsal lacks pytest.
    """
    if not rehearse:
        yield None
        return
    import pytest

    from fiffdepth_rt.backends.tensorrt.here import Target
    from tests.support import cuda_stand_in, gpu_stand_in
    from tests.support.plans import StandInBuilder

    cuda = cuda_stand_in.Cuda((GPU_NAME, *COMPUTE_CAPABILITY))
    cuda.total = MEMORY_BYTES
    target = Target(
        flavour=flavour,
        gpu_name=None if flavour.portable else GPU_NAME,
        compute_capability="8.0" if flavour.portable else "{}.{}".format(*COMPUTE_CAPABILITY),
        tensorrt_version=VERSIONS[flavour.name],
    )
    with pytest.MonkeyPatch.context() as patch:
        gpu_stand_in.install(patch, cuda, tensorrt=VERSIONS["tensorrt"], rtx=VERSIONS["tensorrt-rtx"])
        builder: Any = StandInBuilder(target)
        yield builder
