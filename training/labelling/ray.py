"""The same labels on many machines: Ray Data reads photos everywhere, actors hold the teacher.

    indices ──► read (tasks, any CPU) ──► label (one actor per GPU) ──► the store ──► tally

This package is shipped to the workers. What they must have is its dependencies, and the photos, labels and
the teacher (unless it is a hub id) under the same paths, on a file system that all machines share.

A worker may die at any moment: Ray runs its task again elsewhere. A label is written whole or not at all, and
the same photo gives the same label, so nothing is lost or there twice.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import ray
import ray.data
from numpy.typing import NDArray
from tqdm import tqdm

import fiffdepth_rt
import training
from fiffdepth_rt.processes import environment
from training.data.labels import LabelStore
from training.data.samples import Photo, SampleError
from training.data.teacher_maps import Teacher
from training.errors import TrainingError
from training.labelling.steps import (
    PENDING_BATCHES,
    Photos,
    Skipped,
    Tally,
    in_batches,
    label_batch,
    missing,
    write_skipped,
)

logger = logging.getLogger("training")

PACKAGES = (fiffdepth_rt, training)
LOCAL = "local"

Rows = dict[str, NDArray[Any]]


@contextlib.contextmanager
def cluster(
    address: str, *, packages: Sequence[ModuleType] = PACKAGES, bundled: bool = False
) -> Iterator[None]:
    """Connect to a Ray cluster, with `packages` on its workers; disconnect at the end.

    address: "auto" or "host:6379" on one of its machines, "ray://host:10001" from outside, or "local" for one
    that is started here, on all cores, and gone at the end. bundled: whether the bundled model goes along.
    Raises TrainingError where nothing answers.
    """
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if port.isdigit():
        try:  # Ray itself would wait for minutes
            socket.create_connection((host, int(port)), timeout=10).close()
        except OSError as error:
            raise TrainingError(_nothing_at(address, error)) from error
    with contextlib.ExitStack() as undo:
        # A copy as working_dir, not py_modules: those come behind the driver's own folders in sys.path, so
        # that a worker which starts later would import what was edited meanwhile.
        copy = Path(undo.enter_context(tempfile.TemporaryDirectory(prefix="ship-")))
        ignored = shutil.ignore_patterns("__pycache__", *(() if bundled else ("nano",)))
        for package in packages:
            shutil.copytree(package.__path__[0], copy / package.__name__, ignore=ignored)
        # fatal: Ray Data makes Ray say, as an error, that its own actors may fail to restart.
        undo.enter_context(environment(RAY_BACKEND_LOG_LEVEL="fatal"))
        local: dict[str, Any] = {}
        if address == LOCAL:
            # Short, because the sockets in it have names of limited length.
            folder = tempfile.mkdtemp(prefix="ray-")
            undo.callback(shutil.rmtree, folder, ignore_errors=True)
            local = {"include_dashboard": False, "_temp_dir": folder}
        try:
            ray.init(
                address,
                runtime_env={"working_dir": str(copy)},
                log_to_driver=False,
                logging_level=logging.ERROR,
                **local,
            )
        except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
            raise TrainingError(_nothing_at(address, error)) from error
        undo.callback(ray.shutdown)
        yield


def label_on_cluster(
    photos: Photos,
    make_teacher: Callable[[], Teacher],
    store: LabelStore,
    *,
    batch: int = 8,
    actors: int | None = None,
) -> Tally:
    """As training.labelling.steps.label_photos, on the cluster that this process is connected to.

    photos, make_teacher: pickled, and opened where they are needed.
    actors: so many teachers at once; None for one per GPU, or one per two cores where there is no GPU.
    Raises TrainingError if a worker fails for another reason than its death.
    """
    todo = missing(photos, store)
    gpus = int(ray.cluster_resources().get("GPU", 0))
    cores = int(ray.cluster_resources().get("CPU", 1))
    chunk = PENDING_BATCHES * batch
    shared = ray.put(photos)  # held here until the end: a restarted worker asks for it again
    skipped: list[Skipped] = []
    with quiet(), tqdm(total=len(todo), desc="labels", unit="image", smoothing=0.05) as progress:
        rows = (
            ray.data.from_numpy([np.array(todo[i : i + chunk]) for i in range(0, len(todo), chunk)])
            # Another share of a core than the teacher's: else both become one task, and take turns.
            .map(_read, fn_kwargs={"photos": shared}, num_cpus=0.5)
            .map_batches(
                Labeller,
                fn_constructor_args=(make_teacher, str(store.folder), batch),
                batch_size=chunk,
                compute=ray.data.ActorPoolStrategy(min_size=1, max_size=actors or gpus or max(1, cores // 2)),
                num_gpus=1 if gpus else 0,
                num_cpus=0 if gpus else 1,
            )
        )
        try:
            for row in rows.iter_rows() if todo else ():
                if row["reason"]:
                    name, reason = os.fsdecode(row["name"]), os.fsdecode(row["reason"])
                    logger.warning("Skipped %s", SampleError(name, reason))
                    skipped.append(Skipped(name=name, reason=reason))
                progress.update()
        except ray.exceptions.RayError as error:
            raise TrainingError(
                f"Labelling stopped: {root_cause(error)} What is finished is kept: run the same command "
                "again."
            ) from error
    write_skipped(store, skipped)
    return Tally(made=len(todo) - len(skipped), there=len(photos) - len(todo), skipped=skipped)


def _read(row: dict[str, Any], photos: ray.ObjectRef) -> dict[str, Any]:
    return row_of(ray.get(photos), int(row["data"]))


def row_of(photos: Photos, index: int) -> dict[str, Any]:
    """index -> name, pixels, height, width; or a reason why not. Texts as bytes: names may be no text."""
    try:
        one = photos[index]
    except SampleError as error:
        name, pixels, (height, width), reason = error.name, b"", (0, 0), error.reason
    else:
        name, pixels, (height, width), reason = one.name, one.photo.tobytes(), one.photo.shape[:2], ""
    return {
        "name": os.fsencode(name),
        "pixels": pixels,
        "height": height,
        "width": width,
        "reason": os.fsencode(reason),
    }


class Labeller:
    """Rows of photos -> labels in the store; rows of name and reason ("" where there is a label now)."""

    def __init__(self, make_teacher: Callable[[], Teacher], folder: str, batch: int) -> None:
        self._teacher = make_teacher()
        self._store = LabelStore(folder)
        self._batch = batch

    def __call__(self, rows: Rows) -> Rows:
        skipped: list[Skipped] = []
        for group in in_batches(self._photos(rows), self._teacher, self._batch, skipped):
            skipped += label_batch(group, self._teacher, self._store)
        reasons = {os.fsencode(one.name): os.fsencode(one.reason) for one in skipped}
        found = [reasons.get(name, b"") for name in rows["name"]]
        return {"name": rows["name"], "reason": np.array(found, object)}

    def _photos(self, rows: Rows) -> Iterator[Photo | SampleError]:
        columns = (rows[key] for key in ("name", "pixels", "height", "width", "reason"))
        for encoded, pixels, height, width, reason in zip(*columns, strict=True):
            name = os.fsdecode(encoded)
            if reason:
                yield SampleError(name, os.fsdecode(reason))
            elif name not in self._store:  # else another worker labelled it, and died before it could tell
                yield Photo(photo=np.frombuffer(pixels, np.uint8).reshape(height, width, 3), name=name)


def _nothing_at(address: str, error: Exception) -> str:
    return (
        f"No Ray cluster at {address} ({str(error).rstrip('.')}): start one with `ray start --head` and name "
        "its address, or say --ray local."
    )


def root_cause(error: BaseException) -> str:
    """The error that came first, in a sentence; Ray's own hold stack traces of several processes."""
    while (cause := getattr(error, "cause", None) or error.__cause__) is not None and str(cause).strip():
        error = cause
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[-1].rstrip('.')}."


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without Ray Data's own progress and reports."""
    context = ray.data.DataContext.get_current()
    bars, context.enable_progress_bars = context.enable_progress_bars, False
    own = logging.getLogger("ray.data")
    level = own.level
    own.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        own.setLevel(level)
        context.enable_progress_bars = bars
