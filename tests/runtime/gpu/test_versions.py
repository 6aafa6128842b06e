"""Promises of what each TensorRT can do, by its version number. All by value."""

from __future__ import annotations

import pytest

from fiffdepth_rt.backends.tensorrt.flavour import TENSORRT, TENSORRT_RTX
from fiffdepth_rt.backends.tensorrt.versions import (
    Release,
    builder_flags,
    check_driver,
    check_supported,
    max_opset,
    network_flags,
    parse_version,
    parser_flags,
    show_version,
    tactic_sources,
)
from fiffdepth_rt.errors import BackendUnavailableError, BuildError, DriverError


def trt(version: str) -> Release:
    return Release(flavour=TENSORRT, version=parse_version(version))


RTX = Release(flavour=TENSORRT_RTX, version=parse_version("1.7.1.116"))


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("8.5.3.1", (8, 5, 3, 1)),
        ("8.6.1.post1", (8, 6, 1)),
        ("10.3.0", (10, 3, 0)),
        ("10.16.1.11", (10, 16, 1, 11)),
        ("11.4.0.106", (11, 4, 0, 106)),
    ],
)
def test_a_version_is_its_numbers(text: str, version: tuple[int, ...]) -> None:
    assert parse_version(text) == version
    assert parse_version(show_version(version)) == version


def test_versions_are_ordered_by_number_not_by_letter() -> None:
    assert parse_version("10.3.0") < parse_version("10.12.0") < parse_version("11.4.0.106")
    assert parse_version("8.5.3.1") < parse_version("10.3.0")


@pytest.mark.parametrize("text", ["", "ten", "v10.3"])
def test_what_is_no_version_is_said_to_be_none(text: str) -> None:
    with pytest.raises(BackendUnavailableError, match="is not understood"):
        parse_version(text)


@pytest.mark.parametrize("text", ["8.4.3", "12.0.0", "7.1"])
def test_an_unknown_tensorrt_is_refused_with_a_command(text: str) -> None:
    with pytest.raises(
        BackendUnavailableError, match=r"8\.5 to 11 are\. Run: pip install 'fiffdepth-rt\[tens"
    ):
        check_supported(text)


@pytest.mark.parametrize("text", ["8.5.3.1", "8.6.1", "10.3.0", "10.16.1.11", "11.4.0.106"])
def test_the_versions_on_robots_are_supported(text: str) -> None:
    check_supported(text)


@pytest.mark.parametrize(
    ("version", "network", "parser", "tactics", "opset"),
    [
        ("8.5.3.1", ("EXPLICIT_BATCH",), (), ("EDGE_MASK_CONVOLUTIONS", "JIT_CONVOLUTIONS"), 17),
        (
            "8.6.1",
            ("EXPLICIT_BATCH",),
            ("NATIVE_INSTANCENORM",),
            ("EDGE_MASK_CONVOLUTIONS", "JIT_CONVOLUTIONS"),
            17,
        ),
        (
            "9.3.0",
            ("EXPLICIT_BATCH", "STRONGLY_TYPED"),
            ("NATIVE_INSTANCENORM",),
            ("EDGE_MASK_CONVOLUTIONS", "JIT_CONVOLUTIONS"),
            19,
        ),
        ("10.3.0", ("STRONGLY_TYPED",), (), None, 20),
        ("10.9.0", ("STRONGLY_TYPED",), (), None, 22),
        ("10.16.1.11", ("STRONGLY_TYPED",), (), None, 24),
        ("11.4.0.106", ("STRONGLY_TYPED",), (), None, 25),
    ],
)
def test_each_version_is_driven_by_its_own_flags(
    version: str,
    network: tuple[str, ...],
    parser: tuple[str, ...],
    tactics: tuple[str, ...] | None,
    opset: int,
) -> None:
    number = trt(version)
    assert network_flags(number) == network
    assert parser_flags(number) == parser
    assert tactic_sources(number) == tactics
    assert max_opset(number) == opset


def test_precision_is_a_flag_only_where_types_are_weak() -> None:
    old, new = trt("8.5.3.1"), trt("11.4.0.106")
    assert builder_flags(old, "fp16", stripped=False) == ("FP16",)
    assert builder_flags(old, "fp32", stripped=False) == ()
    for number_format in ("fp32", "fp16", "bf16"):
        assert builder_flags(new, number_format, stripped=False) == ("DISABLE_COMPILATION_CACHE",)


def test_bf16_before_tensorrt_9_is_refused() -> None:
    with pytest.raises(BuildError, match=r"8\.5\.3\.1 computes no bf16.*Build --precision fp16 or fp32"):
        builder_flags(trt("8.5.3.1"), "bf16", stripped=False)


def test_a_stripped_plan_can_be_refitted_with_the_same_weights() -> None:
    flags = builder_flags(trt("10.3.0"), "fp16", stripped=True)
    assert flags[-2:] == ("STRIP_PLAN", "REFIT_IDENTICAL")


def test_tensorrt_11_wants_a_driver_for_cuda_13() -> None:
    check_driver(trt("11.4.0.106"), "13.0")
    check_driver(trt("10.16.1.11"), "12.2")
    with pytest.raises(
        DriverError, match=r"up to 12\.8, and TensorRT 11\.4\.0\.106 is for CUDA 13.*'tensorrt<11'"
    ):
        check_driver(trt("11.4.0.106"), "12.8")


def test_tensorrt_for_rtx_has_the_rules_of_tensorrt_11_and_memory_that_we_give() -> None:
    eleven = trt("11.4.0.106")
    assert network_flags(RTX) == network_flags(eleven) and parser_flags(RTX) == parser_flags(eleven)
    assert tactic_sources(RTX) is None and max_opset(RTX) == 28
    for number_format in ("fp32", "fp16", "bf16"):
        assert builder_flags(RTX, number_format, stripped=False) == ("REQUIRE_USER_ALLOCATION",)
    assert eleven.has_timing_cache and not RTX.has_timing_cache
    assert (str(RTX), str(eleven)) == ("TensorRT for RTX 1.7.1.116", "TensorRT 11.4.0.106")


def test_a_version_counts_within_its_own_flavour_only() -> None:
    check_supported("1.7.1.116", TENSORRT_RTX)
    with pytest.raises(BackendUnavailableError, match=r"TensorRT 1\.7\.1\.116 is not supported"):
        check_supported("1.7.1.116")
    with pytest.raises(BackendUnavailableError, match=r"TensorRT for RTX 10\.3\.0 .*\[tensorrt-rtx\]"):
        check_supported("10.3.0", TENSORRT_RTX)
