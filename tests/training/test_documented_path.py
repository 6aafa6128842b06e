"""From published files to a depth map, by the documents' own commands and the shipped configuration."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fiffdepth_rt import Depth
from tests.support.paths import ROOT
from tests.support.small_run import write_base, write_photos, write_raw_hypersim, write_toml, write_vkitti
from tests.support.tiny_teachers import save_depth_anything
from training import config

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

TEACHER = "depth-anything/Depth-Anything-V2-Small-hf"
SHIPPED = "training/configs/fiffdepth.toml"
STEPS = 4


def commands(document: str) -> list[str]:
    """What a guide tells to type, line by line, without comments."""
    found = re.findall(r"^\$ (.+)$", (ROOT / "docs" / document).read_text(), re.MULTILINE)
    return [line.split("  #")[0].strip() for line in found]


def write_small_configuration(path: Path) -> None:
    """The shipped configuration with its own folders, and small numbers."""
    table = tomllib.loads((ROOT / SHIPPED).read_text())
    table["run"] |= {"steps": STEPS, "state_every": 2, "checkpoint_every": STEPS, "size": 128}
    table["base"]["prompt_embedding"] = f"{table['base']['model']}/prompt.safetensors"
    table["data"] |= {"batch": 4, "per_device": 2, "workers": 0}
    hypersim, vkitti = table["data"]["synthetic"]
    hypersim["sizes"], vkitti["sizes"], table["data"]["real"][0]["sizes"] = (
        [[64, 96]],
        [[64, 128]],
        [[64, 64]],
    )
    table["optimizer"] |= {"warmup": 1, "decay_steps": 10}
    table["compute"] |= {"precision": "no", "gradient_checkpointing": False}
    table["validation"] |= {"every": STEPS, "images": 1, "pictures_every": 0}
    table["validation"]["set"]["sizes"] = []
    path.parent.mkdir(parents=True)
    write_toml(path, table)
    config.load(path)


@pytest.mark.soak
def test_the_documents_commands_lead_from_raw_files_to_a_depth_map(tmp_path: Path) -> None:
    write_raw_hypersim(tmp_path / "raw/hypersim")
    write_vkitti(tmp_path / "data/vkitti2")
    write_photos(tmp_path / "data/laion-art", None)
    write_base(tmp_path / "models/stable-diffusion-2-1")
    save_depth_anything(tmp_path / "teacher")
    write_small_configuration(tmp_path / SHIPPED)

    guide = commands("train.md")
    assert [words.split()[-1] for words in guide[-1:]] == ["engines/fiffdepth"]
    checks = [line for line in commands("data.md") if re.search(r" check (hypersim|vkitti) ", line)]
    assert len(checks) == 2
    python, launch = sys.executable, [sys.executable, "-m", "accelerate.commands.launch"]
    environment = {
        **os.environ,
        **{
            "PYTHONPATH": str(ROOT),
            "HF_HUB_OFFLINE": "1",
            "ACCELERATE_USE_CPU": "true",
            "OMP_NUM_THREADS": "1",
        },
    }
    for line in (guide[0], *checks, *guide[1:]):
        words = shlex.split(line.replace(TEACHER, "teacher").replace("-030000", f"-{STEPS:06}"))
        begin = [python] if words[0] == "python" else [*launch, "--cpu"]
        if "export.build_engines" in words:
            words += ["--precision", "fp32", "--no-plans", "--no-memory"]
        done = subprocess.run(
            [*begin, *words[1 if words[0] == "python" else 2 :]],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, (line, done.stdout[-2000:], done.stderr[-4000:])

    photo = np.random.default_rng(0).integers(0, 256, (96, 128, 3), dtype=np.uint8)
    with Depth(tmp_path / "engines/fiffdepth", threads=1) as depth:
        found = depth.infer(photo)
    assert found.photo_hw == (96, 128) and found.space == "depth" and np.isfinite(found.values).all()
    assert (
        depth.manifest.name == "fiffdepth"
        and "hypersim" in " ".join(depth.manifest.licence.data_sources).lower()
    )
