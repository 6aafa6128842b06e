"""Fixtures of the TensorRT tests: an engine directory with plans, and a stand-in for CUDA and TensorRT."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from fiffdepth_rt.backends.tensorrt import log as trt_log
from fiffdepth_rt.backends.tensorrt.build import build_plans
from fiffdepth_rt.backends.tensorrt.jobs import Request
from tests.support.cuda_stand_in import Cuda
from tests.support.gpu_stand_in import install
from tests.support.plans import GRIDS, L4, LIKE_L4, RTX, RTX_AT_GOLDEN, StandInBuilder
from tests.support.toy import write_toy_engine_dir


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A toy engine directory with plans for an L4: two grids, each with batch 1 and 3."""
    directory = write_toy_engine_dir(tmp_path_factory.mktemp("engines") / "toy")
    build_plans(directory, Request(grids=GRIDS, batches=(1, 3), precision="fp32"), builder=StandInBuilder(L4))
    return directory


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cuda]:
    """Two L4, with the TensorRT of the plans."""
    stand_in = Cuda(LIKE_L4, LIKE_L4)
    install(monkeypatch, stand_in, tensorrt=L4.tensorrt_version)
    yield stand_in
    trt_log.logger.cache_clear()


@pytest.fixture
def portable(toy_dir: Path) -> Path:
    """A toy engine directory with plans of TensorRT for RTX that no GPU has run."""
    build_plans(toy_dir, RTX_AT_GOLDEN, builder=StandInBuilder(RTX).without_gpu())
    return toy_dir


@pytest.fixture
def card(cuda: Cuda, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Cuda:
    """An RTX card with TensorRT for RTX, and an empty cache folder."""
    monkeypatch.setenv("FIFFDEPTH_CACHE", str(tmp_path_factory.mktemp("cache")))
    cuda.gpus = (("NVIDIA GeForce RTX 4090", 8, 9),)
    install(monkeypatch, cuda, rtx=RTX.tensorrt_version)
    return cuda
