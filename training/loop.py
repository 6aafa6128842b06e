"""One resumable training loop: a batch depends on the step alone, so a resumed run sees the same batches."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import torch
from safetensors.torch import load_file
from safetensors.torch import save as serialize
from tqdm import tqdm

from fiffdepth_rt.atomic import replacing
from training import parallel
from training.errors import TrainingError
from training.run_folder import only_run_in

WEIGHTS = "weights.safetensors"
"""The averaged weights of a finished run; it exists only then."""
STATE = "state.pt"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Schedule:
    """steps optimiser steps; lr rises over `warmup` steps, then falls along a cosine to 1 % of `lr`."""

    steps: int
    lr: float
    warmup: int = 100
    save_every: int = 200
    average: float = 0.998
    weight_decay: float = 0.01

    def lr_at(self, step: int) -> float:
        if step < self.warmup:
            return self.lr * (step + 1) / self.warmup
        done = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.lr * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, done))))


def autocast() -> torch.autocast:
    """bfloat16 where the CPU multiplies it fast; fp32 elsewhere (bf16 without hardware is slower)."""
    return torch.autocast("cpu", torch.bfloat16, enabled=torch.cpu._is_amx_tile_supported())


def fit(
    module: torch.nn.Module,
    loss_at: Callable[[int], torch.Tensor],
    schedule: Schedule,
    place: Path,
    *,
    validate: Callable[[torch.nn.Module], dict[str, float]],
) -> None:
    """Train `module` in place until `place/weights.safetensors` exists; goes on from `place/state.pt`.

    loss_at(step) -> scalar loss of that step's batch, or of this process's part of it (training.parallel),
    computed with `module`; every process brings a module of its own, all with the same weights.
    Raises TrainingError on a loss that is not finite (the last good state is kept).
    """
    first_of_all = parallel.rank() == 0
    with only_run_in(place) if first_of_all else nullcontext():
        if (place / WEIGHTS).exists():
            return
        optimizer = torch.optim.AdamW(
            module.parameters(), lr=schedule.lr, weight_decay=schedule.weight_decay, fused=True
        )
        averaged = copy.deepcopy(module).requires_grad_(False)
        first = _resume(place, module, averaged, optimizer)
        progress = tqdm(
            range(first, schedule.steps),
            initial=first,
            total=schedule.steps,
            desc=place.name,
            unit="step",
            disable=not first_of_all,
        )
        running, since = 0.0, time.monotonic()
        for step in progress:
            for group in optimizer.param_groups:
                group["lr"] = schedule.lr_at(step)
            loss = loss_at(step)
            if not torch.isfinite(loss):
                raise TrainingError(
                    f"Loss is {loss.item()} at step {step}; the last good state is {place / STATE}. "
                    "Lower the learning rate, delete nothing, and run the same command."
                )
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            parallel.average_gradients(module)
            torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
            optimizer.step()
            _average(averaged, module, min(schedule.average, (1 + step) / (10 + step)))
            running += loss.item()
            if first_of_all and ((step + 1) % schedule.save_every == 0 or step + 1 == schedule.steps):
                count = (step % schedule.save_every) + 1
                record = {"step": step + 1, "loss": running / count, "seconds": time.monotonic() - since}
                running, since = 0.0, time.monotonic()
                record |= validate(averaged)
                progress.set_postfix(
                    {k: f"{v:.4f}" for k, v in record.items() if k not in ("step", "seconds")}
                )
                with (place / "log.jsonl").open("a") as log:
                    log.write(json.dumps(record) + "\n")
                _save_state(place, step + 1, module, averaged, optimizer)
        module.load_state_dict(averaged.state_dict())
        if first_of_all:
            with replacing(place / WEIGHTS) as file:
                file.write(serialize(_contiguous(averaged)))
            (place / STATE).unlink(missing_ok=True)
        parallel.wait_for_all()


def load_stage(module: torch.nn.Module, place: Path) -> None:
    """Give `module` the weights of a finished stage.

    Raises TrainingError where they are of other networks than this version's.
    """
    _fill(module, load_file(place / WEIGHTS), place)


def _fill(module: torch.nn.Module, weights: dict[str, torch.Tensor], place: Path) -> None:
    try:
        module.load_state_dict(weights)
    except RuntimeError as error:  # names and shapes, a line each
        raise TrainingError(
            f"{place} was trained by another version, whose networks were others: name another run."
        ) from error


def _average(averaged: torch.nn.Module, module: torch.nn.Module, keep: float) -> None:
    with torch.no_grad():
        for slow, fast in zip(averaged.parameters(), module.parameters(), strict=True):
            slow.lerp_(fast, 1 - keep)
        for slow, fast in zip(averaged.buffers(), module.buffers(), strict=True):
            slow.copy_(fast)  # running means of batch norms are averages already


def _contiguous(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {k: v.detach().contiguous() for k, v in module.state_dict().items()}


def _save_state(place: Path, step: int, module: torch.nn.Module, averaged: torch.nn.Module,
                optimizer: torch.optim.Optimizer) -> None:  # fmt: skip
    state = {
        "step": step,
        "module": module.state_dict(),
        "averaged": averaged.state_dict(),
        "optimizer": optimizer.state_dict(),
    }
    with replacing(place / STATE) as file:
        torch.save(state, file)


def _resume(
    place: Path, module: torch.nn.Module, averaged: torch.nn.Module, optimizer: torch.optim.Optimizer
) -> int:
    if not (place / STATE).exists():
        return 0
    state = torch.load(place / STATE, weights_only=True)
    _fill(module, state["module"], place)
    _fill(averaged, state["averaged"], place)
    optimizer.load_state_dict(state["optimizer"])
    return int(state["step"])
