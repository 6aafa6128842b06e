"""Promises about `fiffdepth info`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from fiffdepth_rt.engine_dir import manifest as engine_dir
from fiffdepth_rt.program import program

TOY = """\
Model       toy (recipe fiffdepth)
Output      depth: 0 = nearest, 1 = farthest; relative, not metres
Size        256 px by default, 1024 at most, in multiples of 64
Graphs      bf16: opset 18, for openvino, tensorrt, tensorrt-rtx
              encoder     0.0 MB  uint8 image -> float32 latent
              unet        0.0 MB  float32 latent -> float32 depth_latent
              decoder     0.0 MB  float32 depth_latent -> float32 depth, float32 depth_unclipped
Graphs      fp32: opset 18, for onnxruntime, openvino, tensorrt, tensorrt-rtx
              encoder     0.0 MB  uint8 image -> float32 latent
              unet        0.0 MB  float32 latent -> float32 depth_latent
              decoder     0.0 MB  float32 depth_latent -> float32 depth, float32 depth_unclipped
Parity      fp32 on onnxruntime (cpu): 1 of 1 checks passed, worst difference 1.0e-06
Licence     CC0-1.0
Data        none: written by hand
Provenance  command: tests/support/toy.py
"""


def info(*arguments: str) -> Result:
    return CliRunner().invoke(program, ["info", *arguments])


def test_it_shows_all_that_an_engine_directory_holds(toy_dir: Path) -> None:
    result = info(str(toy_dir))
    assert (result.exit_code, result.stderr) == (0, "")
    listing, files, rest = result.stdout.rpartition("Files       7 files, ")
    assert listing == TOY
    assert files and rest.endswith(" MB, each as it was exported (SHA-256)\n")


def test_without_a_directory_it_shows_the_bundled_model(
    toy_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_dir, "BUNDLED", toy_dir)
    assert info().stdout.startswith("Model       toy ")


def test_a_directory_that_cannot_be_trusted_is_not_shown(toy_dir: Path) -> None:
    (toy_dir / "golden.npz").unlink()
    result = info(str(toy_dir))
    assert (result.exit_code, result.stdout) == (1, "")
    assert len(result.stderr.splitlines()) == 1
    assert result.stderr.startswith("Error: ") and "golden.npz" in result.stderr


def test_a_folder_that_is_no_engine_directory_is_named(tmp_path: Path) -> None:
    result = info(str(tmp_path))
    assert result.exit_code == 1 and f"{tmp_path} is not an engine directory" in result.stderr


def test_a_terminal_obeys_no_manifest(toy_dir: Path) -> None:
    """ESC ] 52 writes the clipboard; a line feed would pretend another fact."""
    path = toy_dir / engine_dir.MANIFEST_NAME
    content = json.loads(path.read_text())
    content["provenance"]["command"] = "\x1b]52;c;aGk=\x07\nLicence     MIT"
    content["licence"]["data_sources"] = ["\x9b2J\u202e"]
    path.write_text(json.dumps(content))
    text = info(str(toy_dir)).stdout
    assert r"Provenance  command: \x1b]52;c;aGk=\x07\nLicence     MIT" in text
    assert r"Data        \x9b2J\u202e" in text
    assert not set(text) & set("\x1b\x07\x9b\u202e")
