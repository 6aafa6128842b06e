"""Fixtures of the TensorRT tests: an engine directory with plans, and a stand-in for CUDA and TensorRT."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from fiffdepth_rt.backends.tensorrt import log as trt_log
from fiffdepth_rt.backends.tensorrt.build import build_plans
from fiffdepth_rt.backends.tensorrt.jobs import Request
from tests.support.gpu_stand_in import Cuda, install
from tests.support.plans import GRIDS, L4, LIKE_L4, StandInBuilder
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
