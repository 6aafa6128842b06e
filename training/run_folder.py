"""A run's folder: one run at a time in it, its resume state, its checkpoints for export.

    RUN/
      lock                          locked while a run writes here; a killed run's lock is free again
      state.pt                      weights, averaged weights, optimiser, loss scaling, step, configuration
      NAME-005000.safetensors       checkpoints, all kept
      log.jsonl                     loss terms of every step, figures of every validation
      tensorboard/                  event files; their names hold the host's (TensorBoard's own habit)

No random state is kept: batches, noise and timesteps follow from (seed, step). Every file is whole or not
there, so a kill or a full disk at any moment leaves the last one of each.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from fiffdepth_rt.atomic import replacing
from training.errors import TrainingError

LOCK = "lock"
STATE = "state.pt"
LOG = "log.jsonl"
MAY_CHANGE = (
    "run.folder",
    "run.steps",
    "run.state_every",
    "run.checkpoint_every",
    "data.per_device",
    "data.workers",
    "data.prefetch",
    "compute.gradient_checkpointing",
    "validation",
)
"""What a resumed run may do differently, since no loss depends on it. So may the number of processes."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class State:
    """step: the next one. ema, scaler: None where there is none. config: training.config.plain's."""

    step: int
    unet: dict[str, Any]
    optimizer: dict[str, Any]
    ema: dict[str, Any] | None
    scaler: dict[str, Any] | None
    config: dict[str, Any]


@contextlib.contextmanager
def only_run_in(folder: Path) -> Iterator[None]:
    """Lock the folder for one run, and make it where it is not there.

    The system itself holds the lock, so the lock ends with the process, however the process ends.
    Raises TrainingError where another run, of this process or another, has the folder, or where the disk has
    no locks.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        lock = FileLock(folder / LOCK, blocking=False).acquire()
    except Timeout as error:
        raise TrainingError(
            f"Another run is using {folder}: wait for it, or choose another folder."
        ) from error
    except NotImplementedError as error:
        raise TrainingError(
            f"The disk that {folder} is on has no file locks, so nothing would keep a second run out: "
            "choose a folder on another disk."
        ) from error
    with lock:
        yield


def save_state(folder: Path, state: State) -> None:
    """Raises OutputError; the earlier state is then still there."""
    with replacing(folder / STATE) as file:
        try:
            torch.save({f.name: getattr(state, f.name) for f in dataclasses.fields(state)}, file)
        except RuntimeError as error:  # its zip writer's own complaint, on top of the disk's
            cause = _disk_error(error)
            if cause is None:
                raise
            raise cause from None


def load_state(folder: Path, config: dict[str, Any]) -> State | None:
    """None: nothing to go on from. Raises TrainingError where the run was another one."""
    path = folder / STATE
    if not path.exists():
        return None
    state = State(**torch.load(path, weights_only=True, map_location="cpu"))
    changed = _differences(state.config, config)
    if changed:
        raise TrainingError(
            f"{folder} holds a run of another configuration, at step {state.step}: {'; '.join(changed)}. "
            "Undo the change, or choose another run.folder."
        )
    return state


def cut_log(folder: Path, step: int) -> None:
    """Leave out of the log what comes at `step` or later: it is about to be repeated."""
    path = folder / LOG
    if path.exists():
        lines = [line for line in path.read_text().splitlines() if _step_of(line) < step]
        with replacing(path) as file:
            file.write("".join(line + "\n" for line in lines).encode())


def checkpoint_path(folder: Path, name: str, step: int) -> Path:
    return folder / f"{name}-{step:06d}.safetensors"


def last_checkpoint(folder: Path, name: str) -> str:
    """In words, for messages."""
    found = sorted(folder.glob(f"{name}-??????.safetensors"))
    return str(found[-1]) if found else "none yet"


def sweep(folder: Path) -> None:
    """Remove what killed runs left half-written. Only by the one who holds the lock."""
    for leftover in folder.glob(".*.tmp"):
        leftover.unlink(missing_ok=True)


def _step_of(line: str) -> float:
    """A line that a kill cut off counts as later than all."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")


def _differences(then: dict[str, Any], now: dict[str, Any]) -> list[str]:
    a, b = _flat(json.loads(json.dumps(then))), _flat(json.loads(json.dumps(now)))
    keys = [k for k in {**a, **b} if not any(k == m or k.startswith((f"{m}.", f"{m}[")) for m in MAY_CHANGE)]
    return [f"{k} was {a.get(k)!r} and is {b.get(k)!r}" for k in keys if a.get(k) != b.get(k)]


def _flat(value: Any, where: str = "") -> dict[str, Any]:
    if isinstance(value, dict):
        return {
            k: v for key, x in value.items() for k, v in _flat(x, f"{where}.{key}" if where else key).items()
        }
    if isinstance(value, list) and any(isinstance(x, dict) for x in value):
        return {k: v for i, x in enumerate(value) for k, v in _flat(x, f"{where}[{i}]").items()}
    return {where: value}


def _disk_error(error: BaseException | None) -> OSError | None:
    while error is not None and not isinstance(error, OSError):
        error = error.__context__
    return error
