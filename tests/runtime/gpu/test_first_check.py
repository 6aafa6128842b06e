"""Promises of plans that were built without a GPU: a GPU's first opening checks them. On the stand-in."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner

import fiffdepth_rt
from fiffdepth_rt.backends.tensorrt import first_check
from fiffdepth_rt.backends.tensorrt.build import build_plans
from fiffdepth_rt.backends.tensorrt.parity import ParityCheck
from fiffdepth_rt.cache_folder import cache_folder
from fiffdepth_rt.engine_dir.manifest import PlanMemory, read_manifest
from fiffdepth_rt.errors import DeviceMemoryError, ParityError, PlanGpuError, PlanVersionError
from fiffdepth_rt.program import program
from tests.support.cuda_stand_in import Cuda
from tests.support.gpu_stand_in import install
from tests.support.plans import RTX, RTX_AT_GOLDEN, StandInBuilder, as_plan, edit, image
from tests.support.toy import toy_depth, write_toy_engine_dir


@pytest.fixture
def checks(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The stages whose golden values are run, as they are run."""
    run, rows = list[str](), ParityCheck.rows

    def watched(self: ParityCheck, plan: Path, job: object, listed: object) -> object:
        run.append(job.record.stage)  # type: ignore[attr-defined]
        return rows(self, plan, job, listed)  # type: ignore[arg-type]

    monkeypatch.setattr(ParityCheck, "rows", watched)
    return run


def test_a_build_without_a_gpu_is_listed_as_not_yet_run_and_info_says_so(portable: Path) -> None:
    manifest = read_manifest(portable)
    assert [plan.checked for plan in manifest.plans] == [False] * 3
    assert {plan.memory for plan in manifest.plans} == {
        PlanMemory(weight_bytes=1000, activation_bytes=(2000,))
    }
    assert not [row for row in manifest.parity if row["backend"] == "tensorrt-rtx"]
    text = CliRunner().invoke(program, ["info", str(portable)]).stdout
    assert (
        "fp32 unet: 0.0 MB, for any GPU of compute capability 8.0 or newer and TensorRT for RTX 1.7.1.116; "
        "128x192 batch 1; built, not yet run on a GPU"
    ) in text


def test_auto_takes_portable_plans_and_the_first_opening_checks_them_once(
    portable: Path, card: Cuda, checks: list[str]
) -> None:
    for _ in range(2):
        with fiffdepth_rt.Depth(portable) as depth:
            assert depth.describe()["backend"] == "tensorrt-rtx"
            assert depth.describe()["engine"]["tensorrt-rtx"] == "1.7.1.116"
            np.testing.assert_allclose(depth.infer(image(1)), toy_depth(image(1)[None])[0], atol=1e-6)
    assert checks == ["encoder", "unet", "decoder"]
    assert card.left_over() == (0, 0, 0, 0)
    card.gpus = (("NVIDIA GeForce RTX 5090", 12, 0),)  # another card judges for itself
    with fiffdepth_rt.Depth(portable):
        pass
    assert checks == ["encoder", "unet", "decoder"] * 2


def test_plans_that_disagree_are_refused_now_and_later(
    toy_dir: Path, card: Cuda, checks: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Wrong(StandInBuilder):
        """Its decoder's plan is the decoder of another graph set: whole, and wrong."""

        def build(self, job, into, **how):  # type: ignore[no-untyped-def]
            memory = super().build(job, into, **how)
            if job.record.stage == "unet":
                into.write_bytes(as_plan(other.read_bytes(), RTX))
            return memory

    other = write_toy_engine_dir(toy_dir.parent / "other", shift=0.4) / "graphs" / "fp32" / "unet.onnx"
    build_plans(toy_dir, RTX_AT_GOLDEN, builder=Wrong(RTX).without_gpu())
    said = []
    for _ in range(2):
        with pytest.raises(ParityError, match=r"fp32/unet on photo0 \(128x192, tensorrt-rtx\)") as error:
            fiffdepth_rt.Depth(toy_dir, backend="tensorrt-rtx")
        said.append(str(error.value))
    assert said[0] == said[1] and checks == ["encoder", "unet"]
    assert card.left_over() == (0, 0, 0, 0)


def test_without_a_cache_folder_plans_are_checked_at_every_opening(
    portable: Path, card: Cuda, checks: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FIFFDEPTH_CACHE", "off")
    for _ in range(2):
        with fiffdepth_rt.Depth(portable, backend="tensorrt-rtx"):
            pass
    assert len(checks) == 6


def test_a_damaged_verdict_is_none(tmp_path: Path) -> None:
    for content in (b"", b"{}", b"not JSON", b'{"agreed": 1, "why": ""}'):
        (tmp_path / "verdict.json").write_bytes(content)
        assert first_check._read(tmp_path / "verdict.json") is None


def test_a_build_where_the_gpu_is_checks_what_was_built_elsewhere(portable: Path) -> None:
    with_gpu = StandInBuilder(RTX)
    with_gpu.device = "NVIDIA GeForce RTX 4090"
    build_plans(portable, RTX_AT_GOLDEN, builder=with_gpu)
    manifest = read_manifest(portable)
    assert with_gpu.built == []  # the plans that were there
    assert [plan.checked for plan in manifest.plans] == [True] * 3
    rows = [row for row in manifest.parity if row["backend"] == "tensorrt-rtx"]
    assert {row["device"] for row in rows} == {"NVIDIA GeForce RTX 4090"} and len(rows) == 12


# --- on demand ---


def said(*words: object, status: int = 0) -> str:
    result = CliRunner().invoke(program, [str(word) for word in words])
    assert result.exit_code == status, result.output
    return result.output


def doctor(directory: Path) -> dict[str, str | None]:
    """What the doctor says of the plans of TensorRT for RTX."""
    result = CliRunner().invoke(program, ["doctor", "--json", "--engine", str(directory)])
    (found,) = (
        one for one in json.loads(result.stdout)["findings"] if one["subject"] == "plans of tensorrt-rtx"
    )
    return found


def test_plans_that_one_card_has_checked_are_checked_on_another(
    portable: Path, card: Cuda, checks: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    plans = read_manifest(portable).plans
    edit(portable, plans=tuple(msgspec.structs.replace(plan, checked=True) for plan in plans))
    with fiffdepth_rt.Depth(portable, backend="tensorrt-rtx"):
        pass
    assert checks == ["encoder", "unet", "decoder"]
    monkeypatch.setenv("FIFFDEPTH_CACHE", "off")  # where nothing is remembered, the manifest's word counts
    with fiffdepth_rt.Depth(portable, backend="tensorrt-rtx"):
        pass
    assert checks == ["encoder", "unet", "decoder"]


def test_verify_runs_plans_that_were_only_built_and_records_it(portable: Path, card: Cuda) -> None:
    assert "built, not yet run on a GPU" in said("info", portable)
    assert f"Recorded in {portable}" in said("verify", portable, "--backend", "tensorrt-rtx")
    manifest = read_manifest(portable)
    assert [plan.checked for plan in manifest.plans] == [True] * 3
    rows = [row for row in manifest.parity if row["backend"] == "tensorrt-rtx"]
    assert {row["engine"]["gpu"] for row in rows} == {"NVIDIA GeForce RTX 4090"} and len(rows) == 12
    assert "not yet run on a GPU" not in said("info", portable)


def test_verify_asks_again_what_was_found_before(portable: Path, card: Cuda, checks: list[str]) -> None:
    with fiffdepth_rt.Depth(portable, backend="tensorrt-rtx"):
        pass
    folder = cache_folder()
    assert folder is not None
    (file,) = (folder / "verdicts").iterdir()
    file.write_text('{"agreed": false, "why": "of an old driver"}')
    with pytest.raises(ParityError, match="of an old driver"):
        fiffdepth_rt.Depth(portable, backend="tensorrt-rtx")
    said("verify", portable, "--backend", "tensorrt-rtx")
    assert checks == ["encoder", "unet", "decoder"] * 2
    with fiffdepth_rt.Depth(portable, backend="tensorrt-rtx"):
        pass


def test_the_doctor_says_which_plans_were_not_checked_on_this_card(portable: Path, card: Cuda) -> None:
    found = doctor(portable)
    assert found["found"] == "fp32: not checked on NVIDIA GeForce RTX 4090 yet; the first opening does it"
    assert found["fix"] == f"fiffdepth verify {portable} --backend tensorrt-rtx --precision fp32"
    said(*str(found["fix"]).split()[1:])
    found = doctor(portable)
    assert (found["verdict"], found["found"]) == ("ok", "fp32: checked on NVIDIA GeForce RTX 4090")
    folder = cache_folder()
    assert folder is not None
    (file,) = (folder / "verdicts").iterdir()
    file.write_text('{"agreed": false, "why": "fp32/unet is beyond its gate"}')
    found = doctor(portable)
    assert (found["verdict"], found["found"]) == ("problem", "fp32/unet is beyond its gate")
    said("doctor", "--engine", portable, status=1)
    card.gpus = (("NVIDIA TITAN RTX", 7, 5),)
    assert "no journey of which is for NVIDIA TITAN RTX and TensorRT for RTX 1.7" in str(
        doctor(portable)["found"]
    )
    card.driver = 0
    assert (
        "3 here, which cannot be checked: TensorRT for RTX 1.7.1.116 is here, but CUDA finds no driver"
        in str(doctor(portable)["found"])
    )


def test_memory_that_the_builder_predicted_is_asked_for_before_anything_is_opened(
    portable: Path, card: Cuda
) -> None:
    huge = PlanMemory(weight_bytes=2**40, activation_bytes=(0,))
    plans = tuple(msgspec.structs.replace(plan, memory=huge) for plan in read_manifest(portable).plans)
    edit(portable, plans=plans)
    with pytest.raises(DeviceMemoryError, match="no room for the plans: it needs 3145728 MiB") as error:
        fiffdepth_rt.Depth(portable, backend="tensorrt-rtx")
    assert error.value.needed_bytes == 3 * 2**40 and card.left_over() == (0, 0, 0, 0)


def test_each_flavour_opens_its_own_plans_only(
    portable: Path, card: Cuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(fiffdepth_rt.errors.BackendUnavailableError, match="holds no TensorRT plans"):
        fiffdepth_rt.Depth(portable, backend="tensorrt")
    card.gpus = (("NVIDIA TITAN RTX", 7, 5),)
    with pytest.raises(PlanGpuError, match=r"--flavour rtx .*--compute-capability 7\.5"):
        fiffdepth_rt.Depth(portable, backend="tensorrt-rtx")
    card.gpus = (("NVIDIA GeForce RTX 4090", 8, 9),)
    install(monkeypatch, card, rtx="1.8.0.1")
    with pytest.raises(PlanVersionError, match=r"by TensorRT for RTX 1\.7\.1\.116; this machine has 1\.8"):
        fiffdepth_rt.Depth(portable, backend="tensorrt-rtx")
