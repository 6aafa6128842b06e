"""Gates: a constant of the precision, or a multiple of torch's own rounding in fp32 where that is more."""

from __future__ import annotations

import contextlib
import dataclasses

import numpy as np
import pytest

from fiffdepth_rt.engine_dir.golden import (
    CHAIN,
    Where,
    check_reference,
    compare_stage,
    judge,
)
from fiffdepth_rt.engine_dir.golden_file import read_golden
from fiffdepth_rt.errors import ParityError
from tests.support.toy import toy_golden

NOTHING = contextlib.nullcontext()
ROUNDING = np.array([1e-3, 4e-4, 1e-4])  # max_abs, p999, mean_abs


def golden_with(tmp_path, rounding, key="decoder"):
    np.savez(tmp_path / "golden.npz", **toy_golden(), **{f"photo0/{key}/rounding": rounding})
    return read_golden(tmp_path / "golden.npz")


def rows_off_by(golden, error, graph_set="fp32"):
    """One worst pixel in 100 of the decoder is off by `error`."""
    values = {"photo0": golden["photo0"]}
    output = golden["photo0"]["decoder"].output.copy()
    output.flat[::100] += error
    where = Where(graph_set=graph_set, backend="toy", device="cpu")
    return compare_stage(values, "decoder", lambda _: output, where)


@pytest.mark.parametrize(("error", "passes"), [(8 * 3.9e-4, True), (8 * 4.1e-4, False)])
def test_eight_times_torchs_own_rounding_is_allowed(tmp_path, error, passes):
    (row,) = rows_off_by(golden_with(tmp_path, ROUNDING), error)
    assert row.passed is passes
    assert (row.rounding_max_abs, row.rounding_p999, row.rounding_mean_abs) == (1e-3, 4e-4, 1e-4)


@pytest.mark.parametrize("rounding", [None, ROUNDING * 1e-3])
@pytest.mark.parametrize(("error", "passes"), [(0.5e-4, True), (1.1e-4, False)])
def test_the_constants_are_the_floor_and_all_there_is_without_rounding(tmp_path, rounding, error, passes):
    golden = golden_with(tmp_path, rounding) if rounding is not None else None
    if golden is None:
        np.savez(tmp_path / "golden.npz", **toy_golden())
        golden = read_golden(tmp_path / "golden.npz")
    (row,) = rows_off_by(golden, error)
    assert row.passed is passes


def test_an_error_says_the_limit_that_holds(tmp_path):
    golden = golden_with(tmp_path, ROUNDING)
    with pytest.raises(ParityError, match=r"beyond max_abs 0\.008, p999 0\."):
        judge(rows_off_by(golden, 0.1), advice="")


@pytest.mark.parametrize("broken", [[1.0, 2.0], [np.nan] * 3, [1.0, np.inf, 0.1], [1.0, 0.5, -1.0]])
def test_rounding_that_is_no_errors_is_refused(tmp_path, broken):
    with pytest.raises(ParityError, match="cannot be read"):
        golden_with(tmp_path, np.array(broken))


def test_a_model_that_is_mostly_rounding_is_refused(tmp_path):
    std = toy_golden()["photo0/decoder/output"].std()
    check_reference(golden_with(tmp_path, np.full(3, 0.019 * std), CHAIN))
    with pytest.raises(ParityError, match="Rounding alone moves the checkpoint's depth of photo0"):
        check_reference(golden_with(tmp_path, np.full(3, 0.021 * std), CHAIN))


def test_a_model_of_which_more_than_a_hundredth_is_clipped_is_refused(tmp_path):
    np.savez(tmp_path / "golden.npz", **toy_golden())
    golden = read_golden(tmp_path / "golden.npz")
    whole = golden["photo0"][CHAIN].output
    for share, refused in ((0.008, False), (0.012, True)):
        output = whole.copy()
        output.flat[: round(share * output.size)] = 1.6
        golden["photo0"][CHAIN] = dataclasses.replace(golden["photo0"][CHAIN], output=output)
        with pytest.raises(ParityError, match=r"1\.\d% of .* photo0 lie far outside") if refused else NOTHING:
            check_reference(golden)


@pytest.mark.parametrize(("graph_set", "passes"), [("fp32", False), ("fp16", True), ("bf16", True)])
def test_noise_is_a_gate_of_fp32_alone(tmp_path, graph_set, passes):
    """Half precision may round what no camera sees as it does; fp32 computes noise like any image."""
    np.savez(tmp_path / "golden.npz", **toy_golden())
    values = read_golden(tmp_path / "golden.npz")["noise"]
    where = Where(graph_set=graph_set, backend="toy", device="cpu")
    (row,) = compare_stage({"noise": values}, "decoder", lambda _: values["decoder"].output + 0.5, where)
    assert (row.gated, row.passed) == (not passes, passes)
