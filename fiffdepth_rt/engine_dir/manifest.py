"""What an engine directory holds, as values: manifest.json -> Manifest, and back.

    manifest.json                 schema, output space, graph sets, tensor specs, licence, files by SHA-256
    graphs/<set>/encoder.onnx ... one set of three graphs per exported precision
    golden.npz                    inputs and reference outputs of every stage, to check engines with numpy
    plans/*.plan                  plans of TensorRT and TensorRT for RTX, each for one version of it
    timing.cache                  TensorRT's notebook for the next build; not listed, no engine reads it

The manifest says what each graph is. Which engine takes it, the engines say (`takes` of each backend), so a
new engine opens directories that are older than itself. Whether the files are those of the manifest:
checking.py.
"""

from __future__ import annotations

import json
import math
import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import msgspec

from fiffdepth_rt.atomic import NAME_MAX_BYTES, replacing
from fiffdepth_rt.errors import ManifestError, shortened
from fiffdepth_rt.space import Space
from fiffdepth_rt.structs import InvalidError, convert, one_of, shown, text_like

SCHEMA = 2
MANIFEST_NAME = "manifest.json"
GRAPHS = "graphs"
MANIFEST_MAX_BYTES = 4 * 2**20
NAME_AT_MOST = 200
"""Characters of a name, of a model or of anything in it."""
SIDE_AT_MOST = 16_384
"""Of a processing size, in px."""
GRAPH_MAX_BYTES = 2**31
"""Protobuf's own limit; larger weights lie beside the graph."""
GOLDEN_MAX_BYTES = 2**32
"""Three images of 4096 px and their latents take a quarter of it."""
FILE_MAX_BYTES = 2**37
"""Of weights beside a graph, and of plans: nobody waits for the hash of more."""
BUNDLED = Path(__file__).parents[1] / "nano"

# Stage by stage, in their order: what each one takes and gives, by tensor name.
STAGE_TENSORS: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "encoder": (("image",), ("latent",)),
    "unet": (("latent",), ("depth_latent",)),
    "decoder": (("depth_latent",), ("depth", "depth_unclipped")),
}
STAGES = tuple(STAGE_TENSORS)

COPY_AGAIN = "Copy the directory again, or export it again."
EXPORT_AGAIN = "python -m export.build_engines CHECKPOINT -o {directory} --overwrite"

DTYPES = ("uint8", "float16", "bfloat16", "float32")
PRECISIONS = ("fp32", "fp16", "bf16")
FORMS = ("grid", "camera")
FLAVOURS = ("tensorrt", "tensorrt-rtx")
HARDWARE_COMPATIBILITIES = ("none", "same_compute_capability", "ampere_plus")

Dtype = Annotated[str, one_of(*DTYPES)]
Precision = Annotated[str, one_of(*PRECISIONS)]
Form = Annotated[str, one_of(*FORMS)]
StageName = Annotated[str, one_of(*STAGES)]
FlavourName = Annotated[str, one_of(*FLAVOURS)]
HardwareCompatibility = Annotated[str, one_of(*HARDWARE_COMPATIBILITIES)]
Count = Annotated[int, msgspec.Meta(ge=1, le=2**31)]
Side = Annotated[int, msgspec.Meta(ge=1, le=SIDE_AT_MOST)]
Name = Annotated[str, msgspec.Meta(max_length=NAME_AT_MOST)]
Sha256 = Annotated[str, text_like("^[0-9a-f]{64}$", "64 lower-case hexadecimal digits")]
VersionText = Annotated[str, text_like("^[0-9]{1,9}([.][0-9]{1,9})+$", "numbers with dots between them")]
Symbol = Annotated[
    str,
    text_like("^(batch|(height|width)(/[1-9][0-9]{0,3})?)$", 'a size, or a symbol such as "height/8"'),
]
Dim = Count | Symbol
"""A size; or a symbol where it is free: "batch", "height", or "height/8" for an eighth of it."""


class TensorSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One input or output of a graph."""

    name: Name
    dtype: Dtype
    shape: Annotated[tuple[Dim, ...], msgspec.Meta(max_length=8)]


class Stage(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One graph: its file, the files its weights lie in if not in the graph, and its tensors."""

    file: str
    external_data: Annotated[tuple[str, ...], msgspec.Meta(max_length=1000)]
    inputs: Annotated[tuple[TensorSpec, ...], msgspec.Meta(max_length=8)]
    outputs: Annotated[tuple[TensorSpec, ...], msgspec.Meta(max_length=8)]


class GraphSet(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The three graphs of one form of the model, and what an engine asks to know whether it takes them.

    precision: what the graphs compute in; at their doors tensors are uint8 and float32 all the same.
    opset: the ONNX operator set they are written in.
    form: "grid", where image and depth map lie on the model's grid; "camera", where they have one camera's
        own size and the graphs resize.
    stages: by name, those of STAGE_TENSORS.
    """

    precision: Precision
    opset: Count
    form: Form
    stages: Mapping[str, Stage]


class PlanProfile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One fixed shape that a plan runs at: grid as (height, width) in px, and batch."""

    grid: tuple[Count, Count]
    batch: Count


class PlanMemory(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The GPU memory that a plan will take, in bytes, as its builder said.

    activation_bytes: what its stage computes in, by profile, in the order of the plan's own. Stages run one
    after another, so they can share that memory.
    """

    weight_bytes: Annotated[int, msgspec.Meta(ge=0)]
    activation_bytes: tuple[Annotated[int, msgspec.Meta(ge=0)], ...]


class MemoryRecord(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The host memory that an engine took for one image on one grid, in bytes of resident memory, measured.

    graph_set: its name. grid: (height, width) in px. backend, device: as `Depth` calls them.
    opening_bytes: the most while it opened. opened_bytes: what stayed, weights above all; those that are
    mapped from their file are counted, although the system can take them back.
    computing_bytes: what was added at the most while it computed.
    gpu_bytes: what the process held on a GPU in the end; None on the CPU, or where the driver does not say.
    measured: JSON about it (version, threads, date); reported, and nothing reads it.
    """

    graph_set: str
    grid: tuple[Count, Count]
    backend: str
    device: str
    opening_bytes: Annotated[int, msgspec.Meta(ge=0)]
    opened_bytes: Annotated[int, msgspec.Meta(ge=0)]
    computing_bytes: Annotated[int, msgspec.Meta(ge=0)]
    gpu_bytes: Annotated[int, msgspec.Meta(ge=0)] | None
    measured: Mapping[str, Any]


class PlanRecord(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One plan: a stage of a graph set, built for one version of TensorRT, or of TensorRT for RTX.

    flavour: "tensorrt" or "tensorrt-rtx". tensorrt_version: the version of this library.
    precision: the graph set's name. profiles: in the order of the plan's own.
    gpu_name: of the GPU that built it; None where none was needed. compute_capability: such as "8.9".
    hardware_compatibility: "none" (this GPU model only), "same_compute_capability", or "ampere_plus" (every
    GPU of this compute capability, which is then 8.0, and newer ones).
    checked: held against the golden values, on a GPU, when it was listed. False: built where no GPU was.
    memory: what its builder predicts; None where the builder does not say.
    stripped: without weights; whoever opens it refits it from the graph.
    opt_level, workspace_mib: the builder's options; None for TensorRT's own choice.
    graph_sha256: of what it was built from (`graph_digest` of TensorRT's jobs.py).
    built: JSON about the build (date, driver, seconds); reported, and nothing reads it.
    """

    stage: StageName
    precision: Name
    file: str
    flavour: FlavourName
    gpu_name: Name | None
    compute_capability: VersionText
    tensorrt_version: VersionText
    profiles: Annotated[tuple[PlanProfile, ...], msgspec.Meta(min_length=1)]
    hardware_compatibility: HardwareCompatibility
    stripped: bool
    opt_level: Annotated[int, msgspec.Meta(ge=0)] | None
    workspace_mib: Count | None
    graph_sha256: Sha256
    checked: bool
    memory: PlanMemory | None
    built: Mapping[str, Any]


class SizeLimits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Processing size in px, along the longer side; both sides of a grid are multiples of `multiple`."""

    default: Side
    max: Side
    multiple: Side


class FileRecord(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a file must be: lower-case hexadecimal SHA-256, and size in bytes."""

    sha256: Sha256
    bytes: Annotated[int, msgspec.Meta(ge=0)]


class Licence(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The licence of the weights, and the data they were trained on."""

    model: str
    data_sources: tuple[str, ...]


class Manifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What an engine directory holds.

    output_space: what the values of its depth maps mean.
    files: every file of the directory but the manifest and timing.cache, by its path relative to it
        (with "/").
    golden: the file of golden values, or None. plans: TensorRT's, if any were built.
    provenance, parity: JSON as it was written; the runtime reports it and reads nothing in it.
    memory: what engines took where it was measured; what does not fit is refused by it.
    """

    name: Name
    recipe: Name
    output_space: Space
    size: SizeLimits
    graph_sets: Annotated[Mapping[str, GraphSet], msgspec.Meta(min_length=1)]
    files: Mapping[str, FileRecord]
    licence: Licence
    golden: str | None
    plans: tuple[PlanRecord, ...]
    provenance: Mapping[str, Any]
    parity: tuple[Mapping[str, Any], ...]
    memory: tuple[MemoryRecord, ...] = ()

    def to_json(self) -> str:
        """manifest -> text: sorted keys, so that equal manifests are equal bytes."""
        content = {"schema": SCHEMA, **msgspec.to_builtins(self)}
        return json.dumps(content, sort_keys=True, indent=1, allow_nan=False) + "\n"

    @staticmethod
    def from_json(text: str | bytes, *, directory: str = "DIR") -> Manifest:
        """text -> manifest. directory: where it lies, for the command in an error.

        Raises ManifestError: not JSON, another schema, or a key that is missing, unknown, there twice or of a
        wrong kind; the error names its place, such as graph_sets.fp32.opset.
        """
        try:
            content = json.loads(
                text,
                parse_constant=_refuse_constant,
                parse_int=_whole,
                parse_float=_finite,
                object_pairs_hook=_object,
            )
            json.dumps(content, ensure_ascii=False).encode()  # a lone surrogate is no text
        except (ValueError, RecursionError) as error:
            raise ManifestError(f"{MANIFEST_NAME} is not JSON ({shortened(error)}). {COPY_AGAIN}") from error
        _check_schema(content, directory)
        del content["schema"]
        try:
            manifest = convert(content, Manifest)
        except InvalidError as error:
            raise _broken(error.where, error.what) from error
        _check_whole(manifest)
        return manifest


def read_manifest(path: str | os.PathLike[str]) -> Manifest:
    """directory -> its manifest; the other files are not looked at. Raises ManifestError, UnsafePathError."""
    file = Path(path) / MANIFEST_NAME
    try:
        status = file.stat()
        if not stat.S_ISREG(status.st_mode):
            raise ManifestError(f"{file} is not a file. {COPY_AGAIN}")
        if status.st_size > MANIFEST_MAX_BYTES:
            raise ManifestError(
                f"{file} has {status.st_size} bytes; a manifest has at most {MANIFEST_MAX_BYTES}. "
                f"It was not read. {COPY_AGAIN}"
            )
        text = file.read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ManifestError(
            f"{Path(path)} is not an engine directory: it has no {MANIFEST_NAME}. "
            "Give the folder that the export wrote."
        ) from error
    except OSError as error:
        raise ManifestError(f"{file} cannot be read: {error.strerror}. Check its permissions.") from error
    return Manifest.from_json(text, directory=str(path))


def write_manifest(path: str | os.PathLike[str], manifest: Manifest) -> None:
    """manifest -> directory/manifest.json, atomically.

    Raises OutputError, or ManifestError where the manifest could not be read back.
    """
    text = manifest.to_json()
    Manifest.from_json(text)
    with replacing(Path(path) / MANIFEST_NAME) as file:
        file.write(text.encode())


def divisor_of(symbol: str) -> tuple[str, int]:
    """A free dim of a shape -> what it is a fraction of, and of which: "height/8" -> ("height", 8)."""
    side, _, divisor = symbol.partition("/")
    return side, int(divisor or 1)


# --- what no type says ---


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not a JSON number")


def _whole(digits: str) -> int:
    if len(digits) > 20 or not -(2**63) <= int(digits) < 2**64:
        raise ValueError(f"the number {digits[:20]}… has more than 64 bits")
    return int(digits)


def _finite(digits: str) -> float:
    if not math.isfinite(number := float(digits)):
        raise ValueError(f"the number {shortened(digits, 40)} is beyond what a float can hold")
    return number


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object, in which no key may come twice: readers differ in which of the two they take."""
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {shortened(repr(twice))} is there twice")
    return found


def _check_schema(content: object, directory: str) -> None:
    if not isinstance(content, dict):
        raise ManifestError(
            f"{MANIFEST_NAME}: the top level should be an object, but is {shown(content)}. {COPY_AGAIN}"
        )
    schema = content.get("schema")
    if type(schema) is not int:
        raise ManifestError(f"{MANIFEST_NAME} has no schema number. Give the folder that the export wrote.")
    if schema > SCHEMA:
        raise ManifestError(
            f"{MANIFEST_NAME} is of schema {schema}; this runtime reads schema {SCHEMA}. Update fiffdepth-rt."
        )
    if schema < SCHEMA:
        raise ManifestError(
            f"{MANIFEST_NAME} is of schema {schema}; this runtime reads schema {SCHEMA}. "
            "Export the directory again. Where its checkpoint is, run: "
            f"{EXPORT_AGAIN.format(directory=directory)}"
        )


def _check_whole(manifest: Manifest) -> None:
    """Raises ManifestError where parts that are each right do not belong together."""
    size = manifest.size
    if size.max % size.multiple or size.default > size.max:
        raise _broken("size", "does not hold: max is a multiple of multiple, and default is within max")
    used = {manifest.golden} if manifest.golden is not None else set()
    _check_names_and_sizes(manifest)
    for key, graph_set in manifest.graph_sets.items():
        if sorted(graph_set.stages) != sorted(STAGES):
            there = ", ".join(sorted(graph_set.stages)) or "none"
            raise _broken(f"graph_sets.{key}.stages", f"should be {', '.join(STAGES)}, but is {there}")
        for name, stage in graph_set.stages.items():
            used |= {stage.file, *stage.external_data}
            for divisor in _divisors(stage):
                if size.multiple % divisor:
                    raise _broken("size", f"does not hold: multiple is none of {divisor}, for {key}/{name}")
    for i, plan in enumerate(manifest.plans):
        used |= {plan.file}
        if plan.precision not in manifest.graph_sets:
            raise _broken(f"plans[{i}]", f"is a plan of {plan.precision!r}, which is no graph set")
        if plan.memory is not None and len(plan.memory.activation_bytes) != len(plan.profiles):
            raise _broken(f"plans[{i}].memory.activation_bytes", "is not one number for each profile")
    for i, record in enumerate(manifest.memory):
        if record.graph_set not in manifest.graph_sets:
            raise _broken(f"memory[{i}]", f"is of {record.graph_set!r}, which is no graph set")
    if unlisted := sorted(used - manifest.files.keys()):
        raise _broken("files", f"does not list {unlisted[0]!r}, which is used")


def _check_names_and_sizes(manifest: Manifest) -> None:
    """Raises ManifestError for names that no file or set can have, and for files that nobody waits for."""
    if long := [key for key in manifest.graph_sets if len(key) > NAME_AT_MOST]:
        raise _broken("graph_sets", f"has a name of {len(long[0])} characters")
    stages = [stage for graphs in manifest.graph_sets.values() for stage in graphs.stages.values()]
    graphs = {stage.file for stage in stages}
    for name, record in manifest.files.items():
        if max(len(part.encode()) for part in name.split("/")) > NAME_MAX_BYTES or len(name) > 1000:
            raise _broken("files", f"lists {shortened(repr(name))}, which is too long for a file's name")
        if name in graphs:
            most, what = GRAPH_MAX_BYTES, "a graph has"
        elif name == manifest.golden:
            most, what = GOLDEN_MAX_BYTES, "golden values have"
        else:
            most, what = FILE_MAX_BYTES, "a file has"
        if record.bytes > most:
            raise _broken(f"files.{name}.bytes", f"is {record.bytes}, and {what} at most {most}")


def _divisors(stage: Stage) -> Iterator[int]:
    for spec in (*stage.inputs, *stage.outputs):
        for dim in spec.shape:
            if isinstance(dim, str):
                yield divisor_of(dim)[1]


def _broken(where: str, what: str) -> ManifestError:
    return ManifestError(f"{MANIFEST_NAME}: {shortened(where)} {shortened(what)}. {COPY_AGAIN}")
