"""What a killed run leaves: depth maps that were computed, so that the same command goes on.

A bag cannot be appended to once its writer is gone, and its messages have to be written in their order. So
the depth maps, which take the time, are kept one by one in a hidden folder beside the result; the bag is
written from them in one go at the end, and takes its name when it is whole.

    .walk_depth.partial/
      made_of.json          model, precision and size: what the values depend on
      frames/9f86….npy      the values, float32 H×W; named by the hash of the image's message
      bag/walk_depth        the bag that is being written
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import filelock
import numpy as np

from fiffdepth_rt.atomic import beside, exchange, remove_leftovers, replacing
from fiffdepth_rt.depth_map import Values
from fiffdepth_rt.errors import OutputError
from fiffdepth_rt.ros.bags import Record

_REPLACED = ".replaced"  # beside the bag that is written: the one whose place it takes


class PartialFolder:
    """The hidden folder of a result; a context that holds it against a second process.

    made_of: what the values depend on besides the images, as JSON holds it. overwrite: throw away frames
    that were made of something else.

    Raises OutputError: such frames are there (unless overwrite), another process works on the result, no
    permission.
    """

    def __init__(self, result: Path, made_of: Mapping[str, Any], *, overwrite: bool) -> None:
        self.path = beside(result, "partial", hidden=True)
        self._one_mcap = result.suffix == ".mcap"  # the file in the folder is then called as the result
        self.bag = self.path / "bag" / (result.stem if self._one_mcap else result.name)
        self._frames = self.path / "frames"
        try:
            self._frames.mkdir(parents=True, exist_ok=True)
            self._lock = filelock.FileLock(self.path / "lock", timeout=0)
            self._lock.acquire()
        except filelock.Timeout as error:
            raise OutputError(
                f"Another process is making {result}: wait until it has ended, or name another result."
            ) from error
        except OSError as error:
            raise OutputError(
                f"Cannot write beside {result} ({error.strerror}): choose a folder that you may write to."
            ) from error
        try:
            self._begin(result, made_of, overwrite=overwrite)
        except BaseException:
            self._lock.release()
            raise

    def _begin(self, result: Path, made_of: Mapping[str, Any], *, overwrite: bool) -> None:
        note = self.path / "made_of.json"
        replaced = self.bag.with_name(_REPLACED)
        if replaced.exists() and not result.exists():
            replaced.replace(result)
        shutil.rmtree(self.bag.parent, ignore_errors=True)  # a bag that was not finished
        remove_leftovers(self._frames)
        if note.exists() and _read(note) != made_of:
            if not overwrite:
                raise OutputError(
                    f"{self.path} holds frames of {result} that were made by another model, precision or "
                    "size: pass --overwrite to throw them away, or name another result."
                )
            shutil.rmtree(self._frames)
            self._frames.mkdir()
        with replacing(note) as file:
            file.write(json.dumps(made_of, indent=1).encode() + b"\n")
        self.bag.parent.mkdir()

    def has(self, record: Record) -> bool:
        return self._place(record).exists()

    def keep(self, record: Record, values: Values) -> None:
        """float32 H×W, whole on the disk when this returns. Raises OutputError."""
        with replacing(self._place(record)) as file:
            np.save(file, values, allow_pickle=False)

    def kept(self, record: Record) -> Values:
        """float32 H×W"""
        return np.asarray(np.load(self._place(record), allow_pickle=False), np.float32)

    def count(self) -> int:
        """How many depth maps are there."""
        return sum(path.suffix == ".npy" for path in self._frames.iterdir())

    def whole(self) -> Path:
        """What was written, and takes the result's name: a folder, or a file of ROS 1; the file in the folder
        where the result is to be one .mcap."""
        if self._one_mcap and self.bag.is_dir():
            return next(self.bag.glob("*.mcap"))
        return self.bag

    def remove(self) -> None:
        """The folder with all that is in it: the result is there."""
        self._lock.release()
        shutil.rmtree(self.path, ignore_errors=True)

    def _place(self, record: Record) -> Path:
        return self._frames / f"{hashlib.blake2b(record.data, digest_size=16).hexdigest()}.npy"

    def __enter__(self) -> PartialFolder:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._lock.release()


def put_in_place(made: Path, result: Path) -> None:
    """Rename what is whole; what was there (a bag, and --overwrite) goes with the hidden folder.

    At every moment the old bag or the new one is there under its name. Where the system cannot exchange two
    folders there is a moment without either; after a kill in it, the next run puts the old one back.
    Raises OutputError: the old one is still there.
    """
    try:
        if result.is_dir() and exchange(made, result):
            return
        old = made.with_name(_REPLACED)
        if result.is_dir():
            result.replace(old)
        try:
            made.replace(result)
        except OSError:
            if old.exists():
                old.replace(result)
            raise
    except OSError as error:
        raise OutputError(
            f"The bag is whole, at {made}, but cannot become {result} ({error.strerror})."
        ) from error


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
