"""What a TensorRT can do, by its version number alone. No TensorRT, no GPU, no disk: only values."""

from __future__ import annotations

import re

from fiffdepth_rt.engine_dir.manifest import GraphSet
from fiffdepth_rt.errors import BackendUnavailableError, BuildError, DriverError

Version = tuple[int, ...]

OLDEST: Version = (8, 5)
NEWEST: Version = (12,)  # the first that is not known
OPT_LEVEL_SINCE: Version = (8, 6)
STRIP_PLAN_SINCE: Version = (10, 0)
SAME_CAPABILITY_SINCE: Version = (10, 12)

# The highest ONNX opset that a TensorRT reads, by the first version that does. 10.9 and 10.13: by hearsay.
_MAX_OPSET = (((8, 5), 17), ((9,), 19), ((10,), 20), ((10, 9), 22), ((10, 13), 24), ((11,), 25))

# The CUDA that the wheels of a TensorRT need, by its major version. Jetsons have none but JetPack's.
_CUDA_OF_WHEELS = {11: 13}


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


def check_supported(text: str) -> None:
    """Raises BackendUnavailableError for a TensorRT that this package was not written for."""
    if not OLDEST <= parse_version(text) < NEWEST:
        raise BackendUnavailableError(
            f"TensorRT {text} is not supported; 8.5 to 11 are. Run: pip install 'fiffdepth-rt[tensorrt]'"
        )


def check_driver(tensorrt_version: str, driver_cuda: str) -> None:
    """Raises DriverError unless the driver is new enough for this TensorRT.

    driver_cuda: the highest CUDA that the driver serves, such as "12.4".
    """
    needed = _CUDA_OF_WHEELS.get(parse_version(tensorrt_version)[0])
    if needed is not None and int(driver_cuda.partition(".")[0]) < needed:
        raise DriverError(
            f"The NVIDIA driver is too old: it serves CUDA up to {driver_cuda}, and TensorRT "
            f"{tensorrt_version} is for CUDA {needed}. Update the driver, or run: "
            f"pip install 'tensorrt<{parse_version(tensorrt_version)[0]}'"
        )


def max_opset(version: Version) -> int:
    """The highest ONNX opset that this TensorRT reads."""
    return next(opset for since, opset in reversed(_MAX_OPSET) if version >= since)


def takes(graph_set: GraphSet) -> bool:
    """Whether some TensorRT from 8.5 to 11 can build plans from such graphs; which one, `max_opset` says."""
    return graph_set.opset <= _MAX_OPSET[-1][1]


def is_strongly_typed(version: Version) -> bool:
    """Whether types are the graph's own; before, the builder chooses within what its flags allow."""
    return version >= (9,)


def network_flags(version: Version) -> tuple[str, ...]:
    """Names of NetworkDefinitionCreationFlag. EXPLICIT_BATCH is gone in 11 and idle in 10."""
    flags = []
    if version < (10,):
        flags.append("EXPLICIT_BATCH")
    if is_strongly_typed(version):
        flags.append("STRONGLY_TYPED")
    return tuple(flags)


def parser_flags(version: Version) -> tuple[str, ...]:
    """Names of OnnxParserFlag. Without this flag, 8.6 and 9 normalise by a plugin that sums in fp16."""
    return ("NATIVE_INSTANCENORM",) if (8, 6) <= version < (10,) else ()


def builder_flags(version: Version, number_format: str, *, stripped: bool) -> tuple[str, ...]:
    """Names of BuilderFlag to set, for graphs that compute in "fp32", "fp16" or "bf16".

    stripped: the plan leaves the weights out. Raises BuildError where a weakly typed TensorRT has no flag for
    the number format.
    """
    flags = []
    if not is_strongly_typed(version):
        if number_format == "bf16":
            raise BuildError(
                f"TensorRT {show_version(version)} computes no bf16; it came with 9. "
                "Build --precision fp16 or fp32."
            )
        if number_format == "fp16":
            flags.append("FP16")
    else:
        # Else compiled kernels lie in timing.cache too, which is read without a hash.
        flags.append("DISABLE_COMPILATION_CACHE")
    if stripped:
        flags += ["STRIP_PLAN", "REFIT_IDENTICAL"]
    return tuple(flags)


def tactic_sources(version: Version) -> tuple[str, ...] | None:
    """Names of TacticSource to choose from; None for the default.

    Up to 9 the default includes cuDNN and cuBLAS, which a machine with TensorRT need not have.
    """
    return ("EDGE_MASK_CONVOLUTIONS", "JIT_CONVOLUTIONS") if version < (10,) else None
