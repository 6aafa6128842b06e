"""Directory -> EngineDir: are its files those of the manifest, and do its graphs fit together?

Nothing of a directory reaches an engine before it was checked here: the manifest, where files may lie, their
sizes and hashes, the files that graphs name for their weights, and the tensors between the stages.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import re
import stat
from pathlib import Path, PurePosixPath

from fiffdepth_rt.engine_dir.manifest import (
    COPY_AGAIN,
    GRAPHS,
    JOURNEY,
    MANIFEST_NAME,
    FileRecord,
    GraphSet,
    Manifest,
    Stage,
    TensorSpec,
    read_manifest,
)
from fiffdepth_rt.engine_dir.onnx_locations import external_locations
from fiffdepth_rt.errors import (
    HashMismatchError,
    ManifestError,
    MissingFileError,
    StageMismatchError,
    UnsafePathError,
)


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
