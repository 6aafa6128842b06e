"""The engine directory: a manifest and the files it vouches for. manifest -> checked EngineDir

    manifest.json                 schema, output space, graph sets, tensor specs, licence, files by SHA-256
    graphs/<set>/encoder.onnx ... one set of three graphs per exported precision
    golden.npz                    inputs and reference outputs of every stage, to check engines with numpy
    plans/*.plan                  TensorRT plans, each for one GPU and one TensorRT version
    timing.cache                  TensorRT's notebook for the next build; not listed, no engine reads it

`open_engine_dir` checks schema, stages, paths, sizes and hashes before an engine sees a byte.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from fiffdepth_rt.atomic import replacing
from fiffdepth_rt.engine_dir.onnx_locations import external_locations
from fiffdepth_rt.errors import (
    HashMismatchError,
    ManifestError,
    MissingFileError,
    StageMismatchError,
    UnsafePathError,
)
from fiffdepth_rt.space import Space

SCHEMA = 1
MANIFEST_NAME = "manifest.json"
GRAPHS = "graphs"
MANIFEST_MAX_BYTES = 4 * 2**20
BUNDLED = Path(__file__).parents[1] / "nano"

DTYPES = ("uint8", "float16", "bfloat16", "float32")
SYMBOLS = ("batch", "height", "width", "height/8", "width/8")

# The journey, stage by stage: what each one takes and gives, by tensor name.
JOURNEY: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "encoder": (("image",), ("latent",)),
    "unet": (("latent",), ("depth_latent",)),
    "decoder": (("depth_latent",), ("depth", "depth_unclipped")),
}
STAGES = tuple(JOURNEY)
HARDWARE_COMPATIBILITIES = ("none", "same_compute_capability")

Dim = int | str
T = TypeVar("T")

COPY_AGAIN = "Copy the directory again, or export it again."


@dataclasses.dataclass(frozen=True, kw_only=True)
class TensorSpec:
    """One input or output of a graph. A dim is a size, or one of SYMBOLS where it is free."""

    name: str
    dtype: str
    shape: tuple[Dim, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stage:
    """One graph: its file, the files its weights lie in if not in the graph, and its tensors."""

    file: str
    external_data: tuple[str, ...] = ()
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class GraphSet:
    """The three graphs of one precision, and the backends that take them."""

    opset: int
    backends: tuple[str, ...]
    stages: Mapping[str, Stage]


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlanProfile:
    """One fixed shape that a plan runs at: grid as (height, width) in px, and batch."""

    grid: tuple[int, int]
    batch: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlanRecord:
    """One TensorRT plan: a stage of a graph set, built for one GPU and one TensorRT version.

    compute_capability: of the GPU, such as "8.9". profiles: in the order of the plan's own.
    hardware_compatibility: "none" (this GPU model only) or "same_compute_capability".
    stripped: without weights; whoever opens it refits it from the graph.
    opt_level, workspace_mib: the builder's options; None for TensorRT's own choice.
    graph_sha256: of what it was built from (`graph_digest`, backends/tensorrt/jobs.py).
    built: JSON about the build (date, driver, seconds); reported, and nothing reads it.
    """

    stage: str
    precision: str
    file: str
    gpu_name: str
    compute_capability: str
    tensorrt_version: str
    profiles: tuple[PlanProfile, ...]
    hardware_compatibility: str
    stripped: bool
    opt_level: int | None
    workspace_mib: int | None
    graph_sha256: str
    built: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SizeLimits:
    """Processing size in px, along the longer side; both sides of a grid are multiples of `multiple`."""

    default: int
    max: int
    multiple: int = 64


@dataclasses.dataclass(frozen=True, kw_only=True)
class FileRecord:
    """What a file must be: lower-case hexadecimal SHA-256, and size in bytes."""

    sha256: str
    bytes: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Licence:
    """The licence of the weights, and the data they were trained on."""

    model: str
    data_sources: tuple[str, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Manifest:
    """What an engine directory holds.

    output_space: what the values of its depth maps mean.
    files: every file of the directory but the manifest and timing.cache, by its path relative to it
        (with "/").
    provenance, parity: JSON as it was written; the runtime reports it and reads nothing in it.
    """

    name: str
    recipe: str
    output_space: Space
    size: SizeLimits
    graph_sets: Mapping[str, GraphSet]
    files: Mapping[str, FileRecord]
    licence: Licence
    golden: str | None = None
    plans: tuple[PlanRecord, ...] = ()
    provenance: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    parity: tuple[Mapping[str, Any], ...] = ()

    def to_json(self) -> str:
        """manifest -> text: sorted keys, so that equal manifests are equal bytes."""
        content = {"schema": SCHEMA, **dataclasses.asdict(self)}
        return json.dumps(content, sort_keys=True, indent=1, allow_nan=False) + "\n"

    @staticmethod
    def from_json(text: str | bytes) -> Manifest:
        """text -> manifest.

        Raises ManifestError: not JSON, another schema, or a key that is missing, unknown or of a wrong kind.
        """
        try:
            content = json.loads(text, parse_constant=_refuse_constant)
        except (ValueError, RecursionError) as error:
            raise ManifestError(f"{MANIFEST_NAME} is not JSON ({error}). {COPY_AGAIN}") from error
        _check_schema(content)
        return _manifest(content)


@dataclasses.dataclass(frozen=True, kw_only=True)
class EngineDir:
    """An engine directory that was checked."""

    path: Path
    manifest: Manifest

    def stage_path(self, precision: str, stage: str) -> Path:
        """The graph file of one stage. KeyError if the manifest has no such graph set or stage."""
        return self.path / self.manifest.graph_sets[precision].stages[stage].file


def open_engine_dir(path: str | os.PathLike[str], *, verify: bool = True) -> EngineDir:
    """directory -> EngineDir, or the error that says what is wrong with it.

    Checks the manifest, that each stage's tensors fit the next stage, and of every listed file that it lies
    in the directory, is no link, is there, and has the listed size and SHA-256. `verify=False` leaves out
    only the SHA-256. Beside the graphs no other file may lie, and a graph may take its weights only from
    files beside it that its stage lists.

    Raises ManifestError, StageMismatchError, UnsafePathError, MissingFileError, HashMismatchError; GraphError
    for a graph that is damaged although its hash is right.
    """
    root = Path(path)
    manifest = read_manifest(root)
    for precision, graph_set in manifest.graph_sets.items():
        _check_chain(precision, graph_set)
    for name, record in manifest.files.items():
        _check_file(root, name, record, verify=verify)
    _check_nothing_unlisted(root / GRAPHS, manifest)
    for graph_set in manifest.graph_sets.values():
        for stage in graph_set.stages.values():
            _check_external_data(root, stage)
    return EngineDir(path=root, manifest=manifest)


def _check_nothing_unlisted(graphs: Path, manifest: Manifest) -> None:
    for file in graphs.rglob("*"):
        name = file.relative_to(graphs.parent).as_posix()
        known = name in manifest.files or file.name.startswith(".")  # .DS_Store and its like
        if not known and not file.is_dir():
            raise ManifestError(
                f"{file} is not listed in {MANIFEST_NAME}: nothing vouches for it, and a graph might load "
                "it as weights. Remove it, or export the directory again."
            )


def _check_external_data(root: Path, stage: Stage) -> None:
    """Raises unless the graph takes its weights from files beside it alone, which its stage lists.

    Checked here, since an engine may follow a location out of the directory: ONNX Runtime before 1.24 does.
    """
    graph = root / stage.file
    if graph.suffix != ".onnx":  # an engine would read another format, whose weights are not looked for here
        raise ManifestError(
            f"{MANIFEST_NAME} lists {stage.file!r} as a graph, and graphs are .onnx files. "
            "Export the directory again."
        )
    for location in external_locations(graph):
        if not _is_plain(location):
            raise UnsafePathError(
                f"{graph} takes weights from {location!r}, which is not the plain name of a file beside it. "
                "Do not use this directory unless you know who made it; export it again."
            )
        name = str(PurePosixPath(stage.file).with_name(location))
        if name not in stage.external_data:
            raise ManifestError(
                f"{graph} takes weights from {location!r}, which {MANIFEST_NAME} does not list as its "
                "external data: nothing vouches for it. Export the directory again."
            )


def read_manifest(path: str | os.PathLike[str]) -> Manifest:
    """directory -> its manifest; the other files are not looked at. Raises ManifestError, UnsafePathError."""
    file = Path(path) / MANIFEST_NAME
    try:
        status = file.lstat()
        if stat.S_ISLNK(status.st_mode):
            raise UnsafePathError(f"{file} is a link. Replace it by the file itself.")
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
    return Manifest.from_json(text)


def write_manifest(path: str | os.PathLike[str], manifest: Manifest) -> None:
    """manifest -> directory/manifest.json, atomically.

    Raises OutputError, or ManifestError where the manifest could not be read back.
    """
    text = manifest.to_json()
    Manifest.from_json(text)
    with replacing(Path(path) / MANIFEST_NAME) as file:
        file.write(text.encode())


def hash_file(path: Path) -> FileRecord:
    """file -> its size and SHA-256."""
    digest, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        while chunk := file.read(2**20):
            digest.update(chunk)
            size += len(chunk)
    return FileRecord(sha256=digest.hexdigest(), bytes=size)


# --- files: where they may lie, and what they must be ---


def _check_file(root: Path, name: str, listed: FileRecord, *, verify: bool) -> None:
    path = _inside(root, name)
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise MissingFileError(f"{path} is listed in {MANIFEST_NAME} but is not a file. {COPY_AGAIN}")
        if status.st_size != listed.bytes:
            raise HashMismatchError(
                f"{path} has {status.st_size} bytes where {MANIFEST_NAME} lists {listed.bytes}. {COPY_AGAIN}"
            )
        if verify and (found := hash_file(path)) != listed:
            raise HashMismatchError(
                f"{path} is not the file that was exported: its SHA-256 is {found.sha256[:12]}… where "
                f"{MANIFEST_NAME} lists {listed.sha256[:12]}…. {COPY_AGAIN}"
            )
    except OSError as error:
        raise MissingFileError(
            f"{path} is listed in {MANIFEST_NAME} but cannot be read: {error.strerror}. {COPY_AGAIN}"
        ) from error


def _inside(root: Path, name: str) -> Path:
    """A listed name -> its path, which has no "..", drive or link on the way. Raises UnsafePathError."""
    parts = name.split("/")
    if not all(map(_is_plain, parts)):
        raise UnsafePathError(
            f"{MANIFEST_NAME} lists {name!r}, which is not a plain path inside the directory. "
            "Do not use this directory unless you know who made it; export it again."
        )
    path = root
    for part in parts:
        path = path / part
        if path.is_symlink():
            raise UnsafePathError(f"{path} is a link. Replace it by what it points to (cp -rL does).")
    return path


def _is_plain(name: str) -> bool:
    """Whether this is the name of a file and no path: without "/", "..", drive or end of text."""
    return name not in ("", ".", "..") and not re.search(r"[/\\:\0]", name)


# --- stages: what one gives is what the next one takes ---


def _check_chain(precision: str, graph_set: GraphSet) -> None:
    """Every stage has the tensors of JOURNEY, and takes what the one before it gives."""
    given: dict[str, TensorSpec] = {}
    for name, (inputs, outputs) in JOURNEY.items():
        stage, where = graph_set.stages[name], f"{precision}/{name}"
        for verb, specs, expected in (("takes", stage.inputs, inputs), ("gives", stage.outputs, outputs)):
            if sorted(spec.name for spec in specs) != sorted(expected):
                names = ", ".join(spec.name for spec in specs) or "nothing"
                raise _mismatch(f"{where} {verb} {names} where it should be {', '.join(expected)}")
        for spec in stage.inputs:
            if spec != given.get(spec.name, spec):
                raise _mismatch(f"{where} takes {_show(spec)}, but is given {_show(given[spec.name])}")
        given |= {spec.name: spec for spec in (*stage.inputs, *stage.outputs)}

    image = given["image"]
    if image.dtype != "uint8" or len(image.shape) != 4 or image.shape[-1] != 3:
        raise _mismatch(f"{precision}/encoder takes {_show(image)}, not uint8 batch×height×width×3")
    for spec in (given["depth"], given["depth_unclipped"]):
        if (spec.dtype, spec.shape) != ("float32", image.shape[:3]):
            raise _mismatch(f"{precision}/decoder gives {_show(spec)} for {_show(image)}")


def _mismatch(what: str) -> StageMismatchError:
    return StageMismatchError(f"The graphs do not fit together: {what}. Export the directory again.")


def _show(spec: TensorSpec) -> str:
    return f"{spec.name} {spec.dtype} {'×'.join(map(str, spec.shape))}"


# --- reading: each kind of thing, with its place in the manifest for the error ---


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not a JSON number")


def _check_schema(content: object) -> None:
    schema = _fields(content, "the top level").get("schema")
    if type(schema) is not int:
        raise ManifestError(f"{MANIFEST_NAME} has no schema number. Give the folder that the export wrote.")
    if schema != SCHEMA:
        raise ManifestError(
            f"{MANIFEST_NAME} is of schema {schema}; this runtime reads schema {SCHEMA}. "
            f"{'Update fiffdepth-rt' if schema > SCHEMA else 'Export the directory again'}."
        )


def _manifest(content: object) -> Manifest:
    where = "the top level"
    fields = _record(content, where, ("schema", *_field_names(Manifest)))
    manifest = Manifest(
        name=_as(fields["name"], str, "name"),
        recipe=_as(fields["recipe"], str, "recipe"),
        output_space=Space(_one_of(fields["output_space"], tuple(Space), "output_space")),
        size=_size(fields["size"], "size"),
        graph_sets={
            key: _graph_set(value, f"graph_sets.{key}")
            for key, value in _fields(fields["graph_sets"], "graph_sets").items()
        },
        files={key: _file(value, f"files.{key}") for key, value in _fields(fields["files"], "files").items()},
        licence=_licence(fields["licence"], "licence"),
        golden=None if fields["golden"] is None else _as(fields["golden"], str, "golden"),
        plans=tuple(_plan(plan, "plans") for plan in _as(fields["plans"], list, "plans")),
        provenance=_fields(fields["provenance"], "provenance"),
        parity=tuple(_fields(row, "parity") for row in _as(fields["parity"], list, "parity")),
    )
    if not manifest.graph_sets:
        raise _broken("graph_sets", "is empty")
    used = {manifest.golden} if manifest.golden is not None else set()
    for graph_set in manifest.graph_sets.values():
        for stage in graph_set.stages.values():
            used |= {stage.file, *stage.external_data}
    for plan in manifest.plans:
        used |= {plan.file}
        if plan.precision not in manifest.graph_sets:
            raise _broken("plans", f"has a plan of {plan.precision!r}, which is no graph set")
    if unlisted := sorted(used - manifest.files.keys()):
        raise _broken("files", f"does not list {unlisted[0]!r}, which is used")
    return manifest


def _graph_set(value: object, where: str) -> GraphSet:
    fields = _record(value, where, _field_names(GraphSet))
    stages = _record(fields["stages"], f"{where}.stages", STAGES)
    return GraphSet(
        opset=_whole(fields["opset"], f"{where}.opset", at_least=1),
        backends=_texts(fields["backends"], f"{where}.backends"),
        stages={name: _stage(stage, f"{where}.stages.{name}") for name, stage in stages.items()},
    )


def _stage(value: object, where: str) -> Stage:
    fields = _record(value, where, _field_names(Stage))
    return Stage(
        file=_as(fields["file"], str, f"{where}.file"),
        external_data=_texts(fields["external_data"], f"{where}.external_data"),
        inputs=tuple(_tensor(t, f"{where}.inputs") for t in _as(fields["inputs"], list, f"{where}.inputs")),
        outputs=tuple(
            _tensor(t, f"{where}.outputs") for t in _as(fields["outputs"], list, f"{where}.outputs")
        ),
    )


def _tensor(value: object, where: str) -> TensorSpec:
    fields = _record(value, where, _field_names(TensorSpec))
    return TensorSpec(
        name=_as(fields["name"], str, f"{where}.name"),
        dtype=_one_of(fields["dtype"], DTYPES, f"{where}.dtype"),
        shape=tuple(_dim(dim, f"{where}.shape") for dim in _as(fields["shape"], list, f"{where}.shape")),
    )


def _dim(value: object, where: str) -> Dim:
    return _one_of(value, SYMBOLS, where) if isinstance(value, str) else _whole(value, where, at_least=1)


def _size(value: object, where: str) -> SizeLimits:
    fields = _record(value, where, _field_names(SizeLimits))
    size = SizeLimits(**{key: _whole(number, f"{where}.{key}", at_least=1) for key, number in fields.items()})
    if size.multiple % 8 or size.max % size.multiple or size.default > size.max:
        raise _broken(
            where, "does not hold: multiple in steps of 8, max a multiple of it, default within max"
        )
    return size


def _plan(value: object, where: str) -> PlanRecord:
    fields = _record(value, where, _field_names(PlanRecord))
    profiles = _as(fields["profiles"], list, f"{where}.profiles")
    if not profiles:
        raise _broken(f"{where}.profiles", "is empty")
    return PlanRecord(
        stage=_one_of(fields["stage"], STAGES, f"{where}.stage"),
        precision=_as(fields["precision"], str, f"{where}.precision"),
        file=_as(fields["file"], str, f"{where}.file"),
        gpu_name=_as(fields["gpu_name"], str, f"{where}.gpu_name"),
        compute_capability=_version(fields["compute_capability"], f"{where}.compute_capability"),
        tensorrt_version=_version(fields["tensorrt_version"], f"{where}.tensorrt_version"),
        profiles=tuple(_profile(profile, f"{where}.profiles") for profile in profiles),
        hardware_compatibility=_one_of(
            fields["hardware_compatibility"], HARDWARE_COMPATIBILITIES, f"{where}.hardware_compatibility"
        ),
        stripped=_as(fields["stripped"], bool, f"{where}.stripped"),
        opt_level=_whole_or_none(fields["opt_level"], f"{where}.opt_level", at_least=0),
        workspace_mib=_whole_or_none(fields["workspace_mib"], f"{where}.workspace_mib", at_least=1),
        graph_sha256=_sha256(fields["graph_sha256"], f"{where}.graph_sha256"),
        built=_fields(fields["built"], f"{where}.built"),
    )


def _profile(value: object, where: str) -> PlanProfile:
    fields = _record(value, where, _field_names(PlanProfile))
    sides = [_whole(side, f"{where}.grid", at_least=1) for side in _as(fields["grid"], list, f"{where}.grid")]
    if len(sides) != 2:
        raise _broken(f"{where}.grid", "is not a height and a width")
    return PlanProfile(grid=(sides[0], sides[1]), batch=_whole(fields["batch"], f"{where}.batch", at_least=1))


def _version(value: object, where: str) -> str:
    text = _as(value, str, where)
    if not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})+", text):
        raise _broken(where, "is not numbers with dots between them")
    return text


def _file(value: object, where: str) -> FileRecord:
    fields = _record(value, where, _field_names(FileRecord))
    return FileRecord(
        sha256=_sha256(fields["sha256"], f"{where}.sha256"),
        bytes=_whole(fields["bytes"], f"{where}.bytes", at_least=0),
    )


def _sha256(value: object, where: str) -> str:
    digits = _as(value, str, where)
    if not re.fullmatch("[0-9a-f]{64}", digits):
        raise _broken(where, "is not 64 lower-case hexadecimal digits")
    return digits


def _licence(value: object, where: str) -> Licence:
    fields = _record(value, where, _field_names(Licence))
    return Licence(
        model=_as(fields["model"], str, f"{where}.model"),
        data_sources=_texts(fields["data_sources"], f"{where}.data_sources"),
    )


def _broken(where: str, what: str) -> ManifestError:
    return ManifestError(f"{MANIFEST_NAME}: {where} {what}. {COPY_AGAIN}")


def _as(value: object, kind: type[T], where: str) -> T:
    if type(value) is not kind:  # not isinstance: true is not the number 1
        raise _broken(where, f"should be {_KINDS[kind]}, but is {json.dumps(value)[:40]}")
    return value


_KINDS: Mapping[type, str] = {
    str: "a text",
    int: "a whole number",
    bool: "true or false",
    list: "a list",
    dict: "an object",
}


def _fields(value: object, where: str) -> dict[str, Any]:
    return _as(value, dict, where)


def _record(value: object, where: str, keys: tuple[str, ...]) -> dict[str, Any]:
    fields = _fields(value, where)
    if missing := sorted(set(keys) - fields.keys()):
        raise _broken(where, f"lacks {', '.join(missing)}")
    if unknown := sorted(fields.keys() - set(keys)):
        # Not ignored: a key that this version drops would be lost when it writes the manifest back.
        raise _broken(where, f"has unknown {', '.join(unknown)}")
    return fields


def _field_names(cls: type) -> tuple[str, ...]:
    return tuple(field.name for field in dataclasses.fields(cls))


def _texts(value: object, where: str) -> tuple[str, ...]:
    return tuple(_as(text, str, where) for text in _as(value, list, where))


def _one_of(value: object, choices: tuple[str, ...], where: str) -> str:
    text = _as(value, str, where)
    if text not in choices:
        raise _broken(where, f"should be one of {', '.join(choices)}, but is {text!r}")
    return text


def _whole(value: object, where: str, *, at_least: int) -> int:
    number = _as(value, int, where)
    if number < at_least:
        raise _broken(where, f"should be at least {at_least}, but is {number}")
    return number


def _whole_or_none(value: object, where: str, *, at_least: int) -> int | None:
    return None if value is None else _whole(value, where, at_least=at_least)
