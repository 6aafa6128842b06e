"""Several processes of one thread each that train one small network together, through gloo.

Small convolutions gain little from a second thread: two processes do a quarter more work on two cores. Each
process has the whole network, draws its own part of every batch and shares its gradients; a process alone
needs none of this and nothing is set up. (torch's DistributedDataParallel shares the gradients of one
module's forward; the losses here call encoder, UNet and decoder one by one.)
"""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import ProcessRaisedException, spawn

from fiffdepth_rt.errors import FiffDepthError
from training.data.samples import DataError
from training.errors import TrainingError

SAID = "said_by_"
"""In the folder where the processes meet: the sentence with which one of them stopped."""


class WorkerError(RuntimeError):
    """A process failed in a way that nobody expected; the message holds its traceback."""


def run(processes: int, stage: Callable[..., None], *args: Any) -> None:
    """stage(*args) in `processes` processes; both must be picklable.

    Raises, when all processes have ended, TrainingError where the first that failed gave one sentence for it
    (TrainingError, DataError, FiffDepthError), else WorkerError. processes = 1: here, with all threads; its
    errors are raised as they are.
    """
    if processes == 1:
        stage(*args)
        return
    with tempfile.TemporaryDirectory() as folder:
        try:
            spawn(_worker, (os.getpid(), processes, Path(folder), stage, args), processes)
        except ProcessRaisedException as error:
            said = Path(folder) / f"{SAID}{error.error_index}"
            if said.exists():
                raise TrainingError(said.read_text(errors="surrogateescape")) from None
            raise WorkerError(str(error)) from error


def _worker(
    rank: int, parent: int, processes: int, folder: Path, stage: Callable[..., None], args: Any
) -> None:
    # It is how a worker hears that its parent has gone; a parent in the background of a shell ignores it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if os.getppid() != parent:
        return  # it went before this process could hear
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    rendezvous = f"file://{folder / 'rendezvous'}"
    dist.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=processes)
    try:
        stage(*args)
    except (TrainingError, DataError, FiffDepthError) as error:
        (folder / f"{SAID}{rank}").write_text(str(error), errors="surrogateescape")
        raise
    finally:
        dist.destroy_process_group()


def count() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """0 … count − 1; process 0 validates and writes."""
    return dist.get_rank() if dist.is_initialized() else 0


def draw(step: int) -> int:
    """The number of this process's part of batch `step`: no two parts of a run share one."""
    return step * count() + rank()


def wait_for_all() -> None:
    """Until every process is here: what process 0 wrote before is there for all."""
    if count() > 1:
        dist.barrier()


def average_gradients(module: torch.nn.Module) -> None:
    """Every gradient becomes its mean over the processes, that of the mean loss over the whole batch."""
    if count() == 1:
        return
    grads = [p.grad for p in module.parameters() if p.grad is not None]
    flat = torch.cat([g.flatten() for g in grads])
    dist.all_reduce(flat)
    flat /= count()
    for grad, mean in zip(grads, flat.split([g.numel() for g in grads]), strict=True):
        grad.copy_(mean.view_as(grad))
