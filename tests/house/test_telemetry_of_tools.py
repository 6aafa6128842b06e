"""Promises about the tools of a clone: what they use reports nothing, and seeks no network by itself."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.support.namespace import REPOSITORY, watch, why_not

TOOLS = ("training", "export", "benchmarks")
NAMES = ("ORT_DISABLE_TELEMETRY", "HF_HUB_DISABLE_TELEMETRY", "RAY_USAGE_STATS_ENABLED")
in_a_namespace = pytest.mark.skipif(bool(why_not()), reason=why_not())


@pytest.mark.parametrize("package", TOOLS)
def test_before_any_library_is_imported_reports_are_off_but_what_the_user_says_stays(package: str) -> None:
    code = (
        f"import os, sys, {package}; print(*map(os.environ.get, {NAMES}), sys.modules['openvino_telemetry'])"
    )
    clean = {"PATH": "/usr/bin:/bin", "HOME": "/nowhere", "PYTHONPATH": str(REPOSITORY)}
    for said, found in (({}, "1 1 0 None"), ({"RAY_USAGE_STATS_ENABLED": "1"}, "1 1 1 None")):
        words = [sys.executable, "-c", code]
        assert subprocess.check_output(words, env={**clean, **said}, text=True) == f"{found}\n"


@in_a_namespace
@pytest.mark.soak
def test_importing_every_tool_seeks_no_network_and_leaves_no_file(tmp_path: Path) -> None:
    modules = [
        ".".join(file.relative_to(REPOSITORY).with_suffix("").parts)
        for package in TOOLS
        for file in sorted((REPOSITORY / package).rglob("*.py"))
        if file.stem not in ("__init__", "__main__")
    ]
    code = "import importlib, sys; [importlib.import_module(name) for name in sys.argv[1:]]"
    seen = watch([sys.executable, "-c", code, *modules], tmp_path / "home")
    left = {name for name in seen.left if "/matplotlib/" not in f"/{name}"}  # its list of fonts
    assert (seen.status, seen.sought, left) == (0, 0, set()), seen.output


@in_a_namespace
@pytest.mark.soak
def test_from_a_checkpoint_to_an_engine_no_tool_seeks_the_network(tmp_path: Path) -> None:
    home = tmp_path / "home"
    (home / "photos").mkdir(parents=True)
    noise = np.random.default_rng(0).integers(0, 256, (192, 256, 3), dtype=np.uint8)
    Image.fromarray(noise).save(home / "photos" / "a.png")
    for words in (
        ["training.weights.random", "c.safetensors", "--width", "0.02"],
        [
            "export.build_engines",
            "c.safetensors",
            "-o",
            "engine",
            "--precision",
            "fp32",
            "--size",
            "128",
            "--no-plans",
            "--no-memory",
        ],
        ["training.labelling", "--images", "photos", "--teacher", "c.safetensors", "--out", "labels"],
        ["benchmarks.latency", "--help"],
    ):
        seen = watch([sys.executable, "-m", *words], home)
        assert (seen.status, seen.sought) == (0, 0), seen.output
        ours = ("c.safetensors", "engine/", "labels/")
        assert {name for name in seen.left if not name.startswith(ours)} == set()
