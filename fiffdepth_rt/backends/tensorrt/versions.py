"""What a library can do, by its flavour and version number alone. Only values: no library, GPU or disk."""

from __future__ import annotations

import dataclasses
import re

from fiffdepth_rt.backends.tensorrt.flavour import TENSORRT, Flavour, Version, flavour_named
from fiffdepth_rt.engine_dir.manifest import GraphSet, PlanRecord
from fiffdepth_rt.errors import BackendUnavailableError, BuildError, DriverError

OPT_LEVEL_SINCE: Version = (8, 6)
STRIP_PLAN_SINCE: Version = (10, 0)
SAME_CAPABILITY_SINCE: Version = (10, 12)

# The highest ONNX opset that a TensorRT reads, by the first version that does. 10.9 and 10.13: by hearsay.
_MAX_OPSET = (((8, 5), 17), ((9,), 19), ((10,), 20), ((10, 9), 22), ((10, 13), 24), ((11,), 25))
_MAX_OPSET_RTX = 28  # tried, 13 to 28, with 1.7.1

# The CUDA that the wheels of a TensorRT need, by its major version. Jetsons have none but JetPack's.
_CUDA_OF_WHEELS = {11: 13}

# What TensorRT for RTX builds for, by `--compute-capability`.
RTX_CAPABILITIES = ("7.5", "8.0", "8.6", "8.9", "12.0", "12.1")
TURING = "7.5"
AMPERE = "8.0"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Release:
    """A flavour in one version."""

    flavour: Flavour
    version: Version

    def __str__(self) -> str:
        """ "TensorRT 10.16.1.11"."""
        return f"{self.flavour.title} {show_version(self.version)}"

    @property
    def rules(self) -> Version:
        """The version of TensorRT whose rules this release follows: TensorRT for RTX 1.x those of 11."""
        return (11,) if self.flavour.portable else self.version

    @property
    def has_timing_cache(self) -> bool:
        """Whether timings are kept for the next build. TensorRT for RTX times nothing where it builds."""
        return not self.flavour.portable


def release_of(plan: PlanRecord) -> Release:
    """The release that built a plan."""
    return Release(flavour=flavour_named(plan.flavour), version=parse_version(plan.tensorrt_version))


def parse_version(text: str) -> Version:
    """ "10.16.1.11" -> (10, 16, 1, 11); what follows the numbers (".post1") is left out.

    Raises BackendUnavailableError.
    """
    match = re.match(r"\d+(\.\d+)+", text)
    if match is None:
        raise BackendUnavailableError(
            f"TensorRT says that its version is {text!r}, which is not understood. Install TensorRT again."
        )
    return tuple(int(number) for number in match[0].split("."))


def show_version(version: Version) -> str:
    """(10, 16, 1, 11) -> "10.16.1.11"."""
    return ".".join(map(str, version))


def check_supported(text: str, flavour: Flavour = TENSORRT) -> None:
    """Raises BackendUnavailableError for a release that this package was not written for."""
    if not flavour.oldest <= parse_version(text) < flavour.newest:
        raise BackendUnavailableError(
            f"{flavour.title} {text} is not supported; {flavour.known}. "
            f"Run: pip install 'fiffdepth-rt[{flavour.name}]'"
        )


def check_driver(release: Release, driver_cuda: str) -> None:
    """Raises DriverError unless the driver is new enough for this release.

    driver_cuda: the highest CUDA that the driver serves, such as "12.4". TensorRT for RTX comes for CUDA 12
    and 13; cuda-python, which is of the same CUDA, is what tells (`cuda.check_driver`).
    """
    major = release.version[0]
    needed = None if release.flavour.portable else _CUDA_OF_WHEELS.get(major)
    if needed is not None and int(driver_cuda.partition(".")[0]) < needed:
        raise DriverError(
            f"The NVIDIA driver is too old: it serves CUDA up to {driver_cuda}, and {release} is for "
            f"CUDA {needed}. Update the driver, or run: pip install 'tensorrt<{major}'"
        )


def max_opset(release: Release) -> int:
    """The highest ONNX opset that this release reads."""
    if release.flavour.portable:
        return _MAX_OPSET_RTX
    return next(opset for since, opset in reversed(_MAX_OPSET) if release.version >= since)


def takes(graph_set: GraphSet, flavour: Flavour = TENSORRT) -> bool:
    """Whether some release of the flavour can build plans from such graphs; which one, `max_opset` says."""
    return graph_set.opset <= (_MAX_OPSET_RTX if flavour.portable else _MAX_OPSET[-1][1])


def is_strongly_typed(release: Release) -> bool:
    """Whether types are the graph's own; before, the builder chooses within what its flags allow."""
    return release.rules >= (9,)


def network_flags(release: Release) -> tuple[str, ...]:
    """Names of NetworkDefinitionCreationFlag. EXPLICIT_BATCH is gone in 11 and idle in 10."""
    flags = []
    if release.rules < (10,):
        flags.append("EXPLICIT_BATCH")
    if is_strongly_typed(release):
        flags.append("STRONGLY_TYPED")
    return tuple(flags)


def parser_flags(release: Release) -> tuple[str, ...]:
    """Names of OnnxParserFlag. Without this flag, 8.6 and 9 normalise by a plugin that sums in fp16."""
    return ("NATIVE_INSTANCENORM",) if (8, 6) <= release.rules < (10,) else ()


def builder_flags(release: Release, number_format: str, *, stripped: bool) -> tuple[str, ...]:
    """Names of BuilderFlag to set, for graphs that compute in "fp32", "fp16" or "bf16".

    stripped: the plan leaves the weights out. Raises BuildError where a weakly typed TensorRT has no flag for
    the number format.
    """
    if release.flavour.portable:
        # Contexts compute in memory that we give, and a graph that no CUDA graph can hold fails to build.
        return ("REQUIRE_USER_ALLOCATION",)
    flags = []
    if not is_strongly_typed(release):
        if number_format == "bf16":
            raise BuildError(f"{release} computes no bf16; it came with 9. Build --precision fp16 or fp32.")
        if number_format == "fp16":
            flags.append("FP16")
    else:
        # Else compiled kernels lie in timing.cache too, which is read without a hash.
        flags.append("DISABLE_COMPILATION_CACHE")
    if stripped:
        flags += ["STRIP_PLAN", "REFIT_IDENTICAL"]
    return tuple(flags)


def tactic_sources(release: Release) -> tuple[str, ...] | None:
    """Names of TacticSource to choose from; None for the default.

    Up to 9 the default includes cuDNN and cuBLAS, which a machine with TensorRT need not have.
    """
    return ("EDGE_MASK_CONVOLUTIONS", "JIT_CONVOLUTIONS") if release.rules < (10,) else None
