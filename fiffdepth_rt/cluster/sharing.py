"""A cluster's cores and GPUs -> what each actor gets, and what is left to the tasks that read."""

from __future__ import annotations

import dataclasses

READING_CPUS = 0.2
"""Of a task that reads. Another share than any actor's: else Ray makes both one task, which takes turns."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Share:
    """What each of `actors` asks a cluster for. threads: for an engine in it; None where it has a GPU."""

    actors: int
    cpus: float
    gpus: int
    threads: int | None


def share_of(cpus: float, gpus: int, actors: int | None = None, *, cores_each: int = 2) -> Share:
    """A cluster's cores and GPUs -> what each actor gets.

    actors: so many at once; None for one per GPU, or one per `cores_each` cores where there is no GPU.
    """
    count = actors or gpus or max(1, int(cpus) // cores_each)
    if gpus:
        return Share(actors=min(count, gpus), cpus=0, gpus=1, threads=None)
    # To 1/10000, the smallest part of a core that Ray counts in.
    each = int(min(0.5, (cpus - 2 * READING_CPUS) / count - 1e-4) * 10_000) / 10_000
    return Share(actors=count, cpus=each, gpus=0, threads=max(1, int(cpus) // count))
