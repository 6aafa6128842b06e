"""Directory -> EngineDir: are its files those of the manifest, and do its graphs fit together?

Nothing of a directory reaches an engine before it was checked here: the manifest, where files may lie, their
sizes and hashes, what graphs compute with, the files that they name for their weights, and the tensors
between the stages.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from fiffdepth_rt.engine_dir.known_hashes import KnownHashes
from fiffdepth_rt.engine_dir.manifest import (
    COPY_AGAIN,
    GRAPHS,
    MANIFEST_NAME,
    STAGE_TENSORS,
    FileRecord,
    GraphSet,
    Manifest,
    Stage,
    TensorSpec,
    read_manifest,
)
from fiffdepth_rt.engine_dir.onnx_graph import GraphContents, read_graph
from fiffdepth_rt.engine_dir.operators import check_operators
from fiffdepth_rt.errors import (
    HashMismatchError,
    ManifestError,
    MissingFileError,
    StageMismatchError,
    UnsafePathError,
    shortened,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CheckedGraph:
    """A graph whose bytes, and those of its weights, are the ones that the manifest lists.

    name: for errors, such as "fp32/unet". precision: what the graph computes in. stage: its tensors.
    files: what the graph and its weights are. cure: what helps where an engine cannot read them.
    """

    name: str
    path: Path
    precision: str
    stage: Stage
    files: tuple[FileRecord, ...]
    cure: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class EngineDir:
    """An engine directory that was checked, but for hashes: a file is hashed before it is given out."""

    path: Path
    manifest: Manifest
    _hashes: KnownHashes = dataclasses.field(repr=False, compare=False)

    def file(self, name: str) -> Path:
        """A listed file, by its name in the manifest -> its path, after its SHA-256 was checked.

        What is remembered of a file that has not changed since is believed (known_hashes.py).
        Raises HashMismatchError, MissingFileError, UnsafePathError.
        """
        return self._checked(name, again=False)

    def graph(self, graph_set: str, stage: str) -> CheckedGraph:
        """One stage of a graph set -> its graph, after the SHA-256 of it and of its weights were checked.

        Raises as `file`, GraphError, and KeyError if the manifest has no such graph set or stage.
        """
        listed = self.manifest.graph_sets[graph_set].stages[stage]
        names = (listed.file, *listed.external_data)
        path, *weights = [self.file(name) for name in names]
        _check_graph(self.path, self.manifest, listed)  # of the bytes that were hashed just now
        return CheckedGraph(
            name=f"{graph_set}/{stage}",
            path=path,
            precision=self.manifest.graph_sets[graph_set].precision,
            stage=listed,
            files=tuple(self.manifest.files[name] for name in names),
            cure=_PLAIN_COPY if any(file.is_symlink() for file in weights) else COPY_AGAIN,
        )

    def verify(self) -> None:
        """Hashes every listed file, whatever is remembered. Raises as `file`."""
        for name in self.manifest.files:
            self._checked(name, again=True)

    def _checked(self, name: str, *, again: bool) -> Path:
        listed = self.manifest.files[name]
        path = _check_file(self.path, name, listed)
        with _readable(path):
            found = self._hashes.of(name, path, again=again)
        if found != listed:
            raise HashMismatchError(
                f"{path} is not the file that was exported: its SHA-256 is {found.sha256[:12]}… where "
                f"{MANIFEST_NAME} lists {listed.sha256[:12]}…. {COPY_AGAIN}"
            )
        return path


def open_engine_dir(path: str | os.PathLike[str], *, verify: bool = True) -> EngineDir:
    """directory -> EngineDir, or the error that says what is wrong with it.

    Checks the manifest, that each stage's tensors fit the next stage, and of every listed file that it lies
    in the directory, not behind a link to a folder, is there, and has the listed size. Beside the graphs no
    other file may lie, and a graph may take its weights only from files beside it that its stage lists.

    verify: hash every file now, and refuse graphs that hold what no export writes. False: each file is hashed
    when it is first used, by `EngineDir.file` and `EngineDir.graph`, unless its hash is remembered and it has
    not changed since; a graph's operators are looked at then.

    Raises ManifestError, StageMismatchError, UnsafePathError, MissingFileError, HashMismatchError; GraphError
    for a graph that is damaged, or holds what no export writes.
    """
    root = Path(path)
    manifest = read_manifest(root)
    for precision, graph_set in manifest.graph_sets.items():
        _check_chain(precision, graph_set)
    for name, record in manifest.files.items():
        _check_file(root, name, record)
    _check_nothing_unlisted(root / GRAPHS, manifest)
    # Absolute: graphs are opened later too, when the program may stand in another folder.
    engine_dir = EngineDir(path=root.absolute(), manifest=manifest, _hashes=KnownHashes(root))
    if verify:
        engine_dir.verify()
    for graph_set in manifest.graph_sets.values():
        for stage in graph_set.stages.values():
            if verify:
                _check_graph(root, manifest, stage)
            else:  # what a graph computes with is looked at when its bytes were hashed
                _check_weights_of(root, stage)
    return engine_dir


_PLAIN_COPY = "Its weights are links, which not every engine follows: copy the directory with cp -rL."
_OF_FILE_MANAGERS = {"Thumbs.db", "ehthumbs.db", "desktop.ini"}  # Windows leaves them; no graph can name them


def _check_nothing_unlisted(graphs: Path, manifest: Manifest) -> None:
    for file in graphs.rglob("*"):
        name = file.relative_to(graphs.parent).as_posix()
        known = name in manifest.files or file.name.startswith(".") or file.name in _OF_FILE_MANAGERS
        if not known and not file.is_dir():
            raise ManifestError(
                f"{file} is not listed in {MANIFEST_NAME}: nothing vouches for it, and a graph might load "
                "it as weights. Remove it, or export the directory again."
            )


def _check_graph(root: Path, manifest: Manifest, stage: Stage) -> None:
    """Raises unless a graph holds what exports write, and takes its weights from listed files beside it."""
    contents = _check_weights_of(root, stage)
    listed_bytes = sum(manifest.files[name].bytes for name in (stage.file, *stage.external_data))
    check_operators(root / stage.file, contents, listed_bytes=listed_bytes)


def _check_weights_of(root: Path, stage: Stage) -> GraphContents:
    """Raises unless a graph takes its weights from listed files beside it. The result: what the graph holds.

    Checked here, since an engine may follow a location out of the directory: ONNX Runtime before 1.24 does.
    """
    graph = root / stage.file
    if graph.suffix != ".onnx":  # an engine would read another format, whose weights are not looked for here
        raise ManifestError(
            f"{MANIFEST_NAME} lists {shortened(repr(stage.file))} as a graph, and graphs are .onnx files. "
            "Export the directory again."
        )
    contents = read_graph(graph)
    for location in contents.locations:
        named = f"{graph} takes weights from {shortened(repr(location))}"
        if not _is_plain(location):
            raise UnsafePathError(
                f"{named}, which is not the plain name of a file beside it. "
                "Do not use this directory unless you know who made it; export it again."
            )
        name = str(PurePosixPath(stage.file).with_name(location))
        if name not in stage.external_data:
            raise ManifestError(
                f"{named}, which {MANIFEST_NAME} does not list as its "
                "external data: nothing vouches for it. Export the directory again."
            )
    return contents


# --- files: where they may lie, and what they must be ---


def _check_file(root: Path, name: str, listed: FileRecord) -> Path:
    """A listed name -> its path, if a file of the listed size lies there."""
    path = _inside(root, name)
    with _readable(path):
        status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise MissingFileError(f"{path} is listed in {MANIFEST_NAME} but is not a file. {COPY_AGAIN}")
    if status.st_size != listed.bytes:
        raise HashMismatchError(
            f"{path} has {status.st_size} bytes where {MANIFEST_NAME} lists {listed.bytes}. {COPY_AGAIN}"
        )
    return path


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise MissingFileError(
            f"{path} is listed in {MANIFEST_NAME} but cannot be read: {error.strerror}. {COPY_AGAIN}"
        ) from error


def _inside(root: Path, name: str) -> Path:
    """A listed name -> its path, which has no "..", drive or link to a folder. Raises UnsafePathError.

    A file may be a link, as in the cache of a model hub: its hash vouches for its bytes wherever they lie. A
    folder may not: an engine that follows it would find files there that nothing vouches for.
    """
    parts = name.split("/")
    if not all(map(_is_plain, parts)):
        raise UnsafePathError(
            f"{MANIFEST_NAME} lists {shortened(repr(name))}, which is not a plain path inside the directory. "
            "Do not use this directory unless you know who made it; export it again."
        )
    path = root
    for part in parts:
        path = path / part
        if path.is_symlink() and not path.is_file():
            raise UnsafePathError(
                f"{path} is a link to no file: copy the directory from where the link leads, with cp -rL."
            )
    return path


def _is_plain(name: str) -> bool:
    """Whether this is the name of a file and no path: without "/", "..", drive or end of text."""
    return name not in ("", ".", "..") and not re.search(r"[/\\:\0]", name)


# --- stages: what one gives is what the next one takes ---


def _check_chain(precision: str, graph_set: GraphSet) -> None:
    """Every stage has the tensors of STAGE_TENSORS, and takes what the one before it gives."""
    given: dict[str, TensorSpec] = {}
    for name, (inputs, outputs) in STAGE_TENSORS.items():
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
