"""Promises of plans of TensorRT for RTX on a card. Everywhere else they skip, with the reason.

Plans are built here as anywhere, without running them; what can be known without a GPU is in
test_rtx_builds.py, and on a stand-in in test_runtime_cache.py and test_first_check.py.
"""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

import fiffdepth_rt
from fiffdepth_rt.backends.tensorrt import here
from fiffdepth_rt.backends.tensorrt.build import build_plans
from fiffdepth_rt.backends.tensorrt.build_process import ProcessBuilder
from fiffdepth_rt.backends.tensorrt.flavour import TENSORRT_RTX
from fiffdepth_rt.backends.tensorrt.jobs import Request
from fiffdepth_rt.backends.tensorrt.runtime_cache import COMPILED, KEPT
from fiffdepth_rt.errors import PlanGpuError
from tests.support.mutated_plans import open_mutated
from tests.support.plans import GRIDS, RTX, image
from tests.support.toy import toy_depth, write_toy_engine_dir

_usable = here.usable(TENSORRT_RTX)

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not _usable.usable, reason=f"TensorRT for RTX cannot be used here: {_usable.why}"),
]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy, with plans of two grids that were never run; skips where the card takes none such."""
    directory = write_toy_engine_dir(tmp_path_factory.mktemp("engines") / "toy")
    request = Request(flavour=TENSORRT_RTX, grids=GRIDS, precision="fp32")
    build_plans(directory, request, builder=ProcessBuilder(RTX, runner=None, versions={}))
    try:
        fiffdepth_rt.Depth(directory, backend="tensorrt-rtx").close()
    except PlanGpuError as error:
        pytest.skip(f"no card for this plan: {error}")
    return directory


@pytest.fixture
def fresh(built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same, with an empty cache folder."""
    monkeypatch.setenv("FIFFDEPTH_CACHE", str(tmp_path / "cache"))
    return built


def test_the_plans_give_the_depth_of_the_plain_twin_with_and_without_cuda_graphs(fresh: Path) -> None:
    found = []
    for cuda_graph in (True, False):
        with fiffdepth_rt.Depth(fresh, backend="tensorrt-rtx", cuda_graph=cuda_graph) as depth:
            found.append([depth.infer(image(seed, GRIDS[seed % 2])).values for seed in range(6)])
            if cuda_graph:
                assert depth.describe()["cuda_graph"].startswith("on: ")
    for seed, (captured, plain) in enumerate(zip(*found, strict=True)):
        np.testing.assert_array_equal(captured, plain)
        np.testing.assert_allclose(captured, toy_depth(image(seed, GRIDS[seed % 2])[None])[0], atol=1e-3)


def test_kernels_are_kept_and_give_the_same_bits(fresh: Path, tmp_path: Path) -> None:
    maps = []
    for origin in (COMPILED, KEPT, KEPT):
        with fiffdepth_rt.Depth(fresh, backend="tensorrt-rtx") as depth:
            maps.append(depth.infer(image(3)).values)
            assert depth.describe()["engine"]["kernels"] == origin
    (file,) = (tmp_path / "cache" / "kernels").glob("*.bin")
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with fiffdepth_rt.Depth(fresh, backend="tensorrt-rtx") as depth:
        maps.append(depth.infer(image(3)).values)
        assert depth.describe()["engine"]["kernels"] == COMPILED
    for other in maps[1:]:
        np.testing.assert_array_equal(other, maps[0])


def test_a_mutated_plan_never_ends_the_process_on_a_card_either(fresh: Path, tmp_path: Path) -> None:
    """What a card makes of a damaged inside whose hash is right has not been seen anywhere yet."""
    directory = Path(shutil.copytree(fresh, tmp_path / "toy"))
    came = Counter(open_mutated(directory, 0, 48).values())
    print(*sorted(came.items()), sep="\n")
    assert came["died"] == 0
