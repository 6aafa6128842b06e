"""What OpenVINO compiled, kept for the next time: a folder per graph file, and a seal of what lies in it.

    <cache>/openvino/<key>/<copy>/*.blob      OpenVINO's own, by its CACHE_DIR
    <cache>/openvino/<key>/<copy>/seal.json   their SHA-256, written last
    <cache>/openvino/<key>/<copy>.lock        held by the process that fills the folder

The key is of the graph's SHA-256, OpenVINO's version and the options, so another export of the same name is
another folder. OpenVINO names a blob by the graph's path and time, too, and takes no other: so each copy of a
directory has a folder of its own, of which the latest are kept. OpenVINO loads a blob in which bits have
flipped, and computes with them; so a folder that its seal does not vouch for is filled again.

Several processes may open a directory at once: a folder is filled by the one that holds its lock, and read
once it is sealed; who comes in between compiles without a cache. Nothing ever goes into the engine directory.

cache_folder.py says where. A folder that cannot be written, or has less room than a few times the weights,
means no cache and no error; so does whatever else goes wrong with it.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import filelock

from fiffdepth_rt.atomic import replacing
from fiffdepth_rt.engine_dir.known_hashes import hash_file
from fiffdepth_rt.engine_dir.manifest import FileRecord
from fiffdepth_rt.errors import OutputError

SEAL = "seal.json"
ROOM = 3  # times the size of the graph that has to be free, for its blob and for others

COPIES = 4  # of one graph, in different places, whose blobs are kept

_log = logging.getLogger(__name__)


class Cache:
    """Compiled models in `folder`, of one version of OpenVINO."""

    def __init__(self, folder: Path, *, version: str) -> None:
        self.folder = folder / "openvino"
        self._version = version

    def compile(self, core: Any, graph: Path, config: Mapping[str, Any], files: Sequence[FileRecord]) -> Any:
        """graph file -> compiled model, from the cache where its seal holds. Raises what OpenVINO raises.

        files: what the graph and its weights must be, so that they need not be read for it.
        """
        place = self.folder / self.key(config, [file.sha256 for file in files]) / _copy(graph)
        cached = {**config, "CACHE_DIR": str(place)}
        try:
            if _is_whole(place):
                return core.compile_model(str(graph), "CPU", cached)
            if _has_room(place.parent, ROOM * sum(file.bytes for file in files)):
                with filelock.FileLock(f"{place}.lock", blocking=False):
                    shutil.rmtree(place, ignore_errors=True)
                    place.mkdir()
                    model = core.compile_model(str(graph), "CPU", cached)
                    _seal(place)
                return model
        except Exception as error:  # OpenVINO raises RuntimeError for everything, its cache's troubles too
            _log.info("No cache in %s: %s", place, error)
        return core.compile_model(str(graph), "CPU", dict(config))

    def key(self, config: Mapping[str, Any], sha256: Sequence[str]) -> str:
        """The name of a graph's folder."""
        depends = [self._version, sorted((name, str(value)) for name, value in config.items()), list(sha256)]
        return hashlib.sha256(json.dumps(depends).encode()).hexdigest()[:32]


def _copy(graph: Path) -> str:
    """The name of the folder of one graph file: what OpenVINO names its blob by."""
    status = graph.stat()
    depends = [str(graph.absolute()), status.st_mtime_ns, status.st_size]
    return hashlib.sha256(json.dumps(depends).encode()).hexdigest()[:16]


def _is_whole(place: Path) -> bool:
    return place.is_dir() and _sealed(place) == _found(place)


def _has_room(parent: Path, room: int) -> bool:
    """Whether folders can be made in `parent`, and as many bytes are free."""
    try:
        parent.mkdir(parents=True, exist_ok=True)
        return os.access(parent, os.W_OK) and shutil.disk_usage(parent).free > room
    except OSError as error:
        _log.info("No cache in %s: %s", parent, error)
        return False


def _seal(place: Path) -> None:
    try:
        found = json.dumps(_found(place), sort_keys=True)
        with replacing(place / SEAL) as file:
            file.write(found.encode())
        copies = [(path.stat().st_mtime_ns, path) for path in place.parent.iterdir() if path.is_dir()]
        for _, oldest in sorted(copies)[:-COPIES]:
            shutil.rmtree(oldest)
    except (OSError, OutputError) as error:
        _log.info("The cache in %s stays without a seal: %s", place, error)


def _found(place: Path) -> dict[str, str]:
    """The blobs that lie there -> their SHA-256."""
    return {path.name: hash_file(path).sha256 for path in sorted(place.iterdir()) if path.name != SEAL}


def _sealed(place: Path) -> Any:
    """What the seal says; None where it cannot be read."""
    try:
        return json.loads((place / SEAL).read_bytes())
    except (OSError, ValueError):
        return None
