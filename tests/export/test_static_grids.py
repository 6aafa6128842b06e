"""Promise of graphs with fixed grids: one export holds several, and each photo finds its own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import fiffdepth_rt
from export.build_engines import main
from fiffdepth_rt.backends.grids import families
from fiffdepth_rt.engine_dir.manifest import read_manifest
from tests.support.tiny_models import tiny_checkpoint
from training.weights.ours import save_checkpoint


@pytest.mark.soak
def test_an_export_for_several_grids_is_one_directory_in_which_photos_find_theirs(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "tiny.safetensors", tiny_checkpoint())
    words = [str(tmp_path / "tiny.safetensors"), "-o", str(tmp_path / "tiny"), "--precision", "fp32"]
    run = CliRunner().invoke(
        main, [*words, "--no-plans", "--no-memory", "--static", "64x128", "--static", "128x64"]
    )
    assert run.exit_code == 0, run.output
    manifest = read_manifest(tmp_path / "tiny")
    assert set(families(manifest)["fp32"]) == {(64, 128), (128, 64)}
    for backend in ("onnxruntime", "openvino"):
        with fiffdepth_rt.Depth(tmp_path / "tiny", backend=backend) as depth:
            for photo_hw, grid in (((90, 160), (64, 128)), ((160, 90), (128, 64))):
                photo = np.random.default_rng(0).integers(0, 256, (*photo_hw, 3), dtype=np.uint8)
                assert depth.grid_for(photo_hw) == grid
                assert depth.infer(photo).photo_hw == photo_hw
