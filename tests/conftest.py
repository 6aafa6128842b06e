"""Fixtures that several test files share: toy engine directories, and one opened Depth."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import numpy as np
import pytest

import fiffdepth_rt
from fiffdepth_rt import telemetry
from tests.support.toy import write_toy_engine_dir

telemetry.switch_off()  # what tests import reports nothing

# No deadline: a busy machine is not a broken promise. The same examples every time: neither is luck.
hypothesis.settings.register_profile("promises", deadline=None, derandomize=True, database=None)
hypothesis.settings.load_profile("promises")


@pytest.fixture(scope="session", autouse=True)
def _cache_of_their_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What OpenVINO compiles in tests is not left in the user's folder for caches."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FIFFDEPTH_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def _toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_toy_engine_dir(tmp_path_factory.mktemp("engines") / "toy", precisions=("fp32", "bf16"))


@pytest.fixture
def toy_dir(_toy: Path, tmp_path: Path) -> Path:
    """A toy engine directory of this test's own, to use or to damage. Holds fp32 and bf16."""
    return Path(shutil.copytree(_toy, tmp_path / "toy"))


@pytest.fixture(scope="session")
def depth(_toy: Path) -> Iterator[fiffdepth_rt.Depth]:
    """The toy engine, opened on one thread."""
    with fiffdepth_rt.Depth(_toy, threads=1) as opened:
        yield opened


@pytest.fixture(scope="session")
def photo() -> np.ndarray:
    """A portrait picture, 320×200: a dark room with a bright square up on the left and a grey one below."""
    pixels = np.full((320, 200, 3), 20, dtype=np.uint8)
    pixels[40:120, 20:90] = 230
    pixels[200:280, 120:180] = 120
    return pixels
