"""What OpenVINO compiled, kept for the next time: a folder per graph, and a seal that says what lies in it.

    <cache>/openvino/<key>/*.blob      OpenVINO's own, by its CACHE_DIR
    <cache>/openvino/<key>/seal.json   their SHA-256, written last

The key is of the graph's SHA-256, OpenVINO's version and the options, so another export of the same name is
another folder. OpenVINO loads a blob in which bits have flipped, and computes with them; so a folder that its
seal does not vouch for is emptied and filled again. Nothing ever goes into the engine directory.

cache_folder.py says where. A folder that cannot be written, or has less room than a few times the weights,
means no cache and no error.
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

from fiffdepth_rt.atomic import replacing
from fiffdepth_rt.engine_dir.known_hashes import hash_file
from fiffdepth_rt.engine_dir.manifest import FileRecord
from fiffdepth_rt.errors import OutputError

SEAL = "seal.json"
ROOM = 3  # times the size of the graph that has to be free, for its blob and for others

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
        place = self.folder / self.key(config, [file.sha256 for file in files])
        if not self._ready(place, ROOM * sum(file.bytes for file in files)):
            return core.compile_model(str(graph), "CPU", dict(config))
        model = core.compile_model(str(graph), "CPU", {**config, "CACHE_DIR": str(place)})
        if not (place / SEAL).exists():
            self._seal(place)
        return model

    def key(self, config: Mapping[str, Any], sha256: Sequence[str]) -> str:
        """The name of a graph's folder."""
        depends = [self._version, sorted((name, str(value)) for name, value in config.items()), list(sha256)]
        return hashlib.sha256(json.dumps(depends).encode()).hexdigest()[:32]

    def _ready(self, place: Path, room: int) -> bool:
        """Whether a folder is there that is sealed, or empty, writable and has as many bytes free."""
        try:
            if place.is_dir():
                if _sealed(place) == _found(place):
                    return True
                shutil.rmtree(place)
            place.mkdir(parents=True, exist_ok=True)
            return os.access(place, os.W_OK) and shutil.disk_usage(place).free > room
        except OSError as error:
            _log.info("No cache in %s: %s", place, error)
            return False

    def _seal(self, place: Path) -> None:
        try:
            found = json.dumps(_found(place), sort_keys=True)
            with replacing(place / SEAL) as file:
                file.write(found.encode())
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
