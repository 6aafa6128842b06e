"""A hub on the loopback that serves the public models, and a cache that is empty."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.public_models.loopback_hub import LoopbackHub, serving
from tests.support.public_models.published import PUBLISHED, hosted


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LoopbackHub]:
    """Running, with every public model; huggingface_hub's cache and ours are empty folders of this test."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("FIFFDEPTH_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.chdir(tmp_path)
    repositories = {name: copy.deepcopy(hosted(name)) for name in PUBLISHED}
    with serving(LoopbackHub(repositories=repositories)) as running:
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        yield running
