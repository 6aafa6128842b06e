"""Promises about `fiffdepth verify`. What it compares is promised in test_openvino.py."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from fiffdepth_rt.engine_dir import manifest as engine_dir
from fiffdepth_rt.engine_dir.checking import open_engine_dir
from fiffdepth_rt.engine_dir.manifest import MANIFEST_NAME
from fiffdepth_rt.program import program
from tests.support.toy import write_toy_engine_dir

ROWS = 12  # three stages and the chain, for each of the toy's three pictures


def verify(*arguments: str) -> Result:
    return CliRunner().invoke(program, ["verify", *arguments])


def test_it_says_how_far_each_stage_is_and_records_it(toy_dir: Path) -> None:
    result = verify(str(toy_dir), "--backend", "onnxruntime", "--precision", "fp32", "--threads", "1")
    assert (result.exit_code, result.stderr) == (0, "")
    *rows, last = result.stdout.splitlines()
    assert len(rows) == ROWS
    assert rows[0].startswith("fp32 onnxruntime encoder photo0 ") and rows[0].endswith(" ok")
    assert last == f"Recorded in {toy_dir / MANIFEST_NAME}."
    recorded = [row for row in open_engine_dir(toy_dir).manifest.parity if "date" in row]
    assert len(recorded) == ROWS
    assert {(row["graph_set"], row["backend"], row["device"]) for row in recorded} == {
        ("fp32", "onnxruntime", "cpu")
    }


def test_the_bundled_model_is_compared_and_its_manifest_stays_as_it_is(
    toy_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_dir, "BUNDLED", toy_dir)
    before = (toy_dir / MANIFEST_NAME).read_bytes()
    result = verify()
    assert result.exit_code == 0 and len(result.stdout.splitlines()) == ROWS
    assert (toy_dir / MANIFEST_NAME).read_bytes() == before


def test_an_engine_beyond_the_limits_is_named_and_not_recorded(tmp_path: Path) -> None:
    directory = write_toy_engine_dir(tmp_path / "off", shift=0.3)
    before = (directory / MANIFEST_NAME).read_bytes()
    result = verify(str(directory))
    assert (result.exit_code, result.stdout) == (1, "")
    assert "fp32/unet on photo0" in result.stderr and "differs from the checkpoint" in result.stderr
    assert (directory / MANIFEST_NAME).read_bytes() == before


def test_the_precision_that_is_asked_for_must_be_there(toy_dir: Path) -> None:
    result = verify(str(toy_dir), "--precision", "fp64")
    assert result.exit_code == 1 and "precision='fp64' is not here" in result.stderr
