"""The same results on many machines: photos are read by tasks on any core, actors hold one Depth each.

    photos    indices ──► read (tasks, any core) ──► PhotoActor ──► results
    shards    indices ──► ShardActor, which reads its shard itself ──► results

How work runs on a cluster is in fiffdepth_rt/cluster/. What the machines must see under the same paths:
INPUT, OUTPUT, and the engine directory, unless it is the bundled one. This package is shipped to them.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import ray

from fiffdepth_rt.batch import shards as shards_
from fiffdepth_rt.batch.header import Kind
from fiffdepth_rt.batch.output import Format
from fiffdepth_rt.batch.photos import Photos
from fiffdepth_rt.batch.shards import Shards, convert_shard
from fiffdepth_rt.batch.work import Target, converted, load
from fiffdepth_rt.cluster.actors import root_cause, through_actors
from fiffdepth_rt.cluster.photo_rows import Read, Row, Rows, from_rows, outcome, outcomes, to_row
from fiffdepth_rt.cluster.sharing import READING_CPUS, Share
from fiffdepth_rt.cluster.tally import Skipped
from fiffdepth_rt.depth import Depth
from fiffdepth_rt.errors import ClusterError, ImageError, OutputError

PHOTOS_AT_ONCE = 4
"""That an actor gets in one go: few, since photos are large, and what a dead one had is done again."""

OpenDepth = Callable[[], Depth]


def kind_on_cluster(open_depth: OpenDepth, kind: Callable[[Depth], Kind], share: Share) -> Kind:
    """What results of this cluster are: `kind` of a Depth on one of its workers. Raises ClusterError."""

    @ray.remote(num_gpus=share.gpus, num_cpus=READING_CPUS)  # type: ignore[untyped-decorator]
    def ask() -> Kind:
        with open_depth() as depth:
            return kind(depth)

    try:
        answer: Kind = ray.get(ask.remote())
    except ray.exceptions.RayError as error:
        raise ClusterError(f"No worker can open the engine: {root_cause(error)}") from error
    return answer


def photos_on_cluster(
    photos: Photos, todo: Sequence[int], open_depth: OpenDepth, target: Target, kind: Kind, share: Share
) -> Generator[Skipped | None, None, None]:
    """As work.convert_photos, in any order. Raises ClusterError where a worker fails for another reason than
    its death."""
    reading = functools.partial(_row_of, photos, target.strict)
    arguments = (open_depth, target, kind.made_of)
    for row in through_actors(todo, PhotoActor, arguments, at_once=PHOTOS_AT_ONCE, share=share, read=reading):
        yield outcome(row)


def shards_on_cluster(
    shards: Shards, todo: Sequence[int], open_depth: OpenDepth, target: Target, kind: Kind, share: Share
) -> Iterator[tuple[int, list[Skipped]]]:
    """Each shard -> how many of its photos have results, and those that have none. Raises ClusterError."""
    arguments = (shards, open_depth, target, kind.made_of)
    for row in through_actors(todo, ShardActor, arguments, at_once=1, share=share):
        yield int(row["made"]), [Skipped(**one) for one in json.loads(row["skipped"])]


def _row_of(photos: Photos, strict: bool, index: int) -> Row:
    name = photos.names[index]
    try:
        return to_row(Read(name=name, pixels=load(photos, index, strict=strict)))
    except ImageError as error:
        return to_row(Skipped(name=name, reason=str(error)))


def _open(open_depth: OpenDepth, made_of: Mapping[str, Any]) -> Depth:
    depth = open_depth()
    if depth.made_of() != made_of:
        raise OutputError(
            f"Machines of this cluster would compute differently ({depth.made_of()}, not {dict(made_of)}): "
            "say --precision, and --backend where they have several."
        )
    return depth


class PhotoActor:
    """Rows of photos -> results; rows of name and reason (empty where there are results now)."""

    def __init__(self, open_depth: OpenDepth, target: Target, made_of: Mapping[str, Any]) -> None:
        self._depth = _open(open_depth, made_of)
        self._target = target

    def __call__(self, rows: Rows) -> Rows:
        skipped: list[Skipped] = []
        todo: list[tuple[Read, list[Format]]] = []
        for one in from_rows(rows):
            if isinstance(one, Skipped):
                skipped.append(one)
            elif missing := self._target.missing(one.name):
                todo.append((one, missing))
            # else another worker wrote it, and died before it could tell
        for _, reason in converted(
            todo,
            name=lambda item: item[0].name,
            read=lambda item: item[0].pixels,
            depth=self._depth,
            write=lambda item, depth_map: self._target.write(item[0].name, depth_map, item[1]),
        ):
            if reason is not None:
                skipped.append(reason)
        return outcomes(rows, skipped)


def _as_json(skipped: Sequence[Skipped]) -> str:
    return json.dumps([dataclasses.asdict(one) for one in skipped])


class ShardActor:
    """Rows of indices of shards -> their results; rows of how many, and what was skipped."""

    def __init__(
        self, shards: Shards, open_depth: OpenDepth, target: Target, made_of: Mapping[str, Any]
    ) -> None:
        self._shards = shards
        self._depth = _open(open_depth, made_of)
        self._target = target

    def __call__(self, rows: Rows) -> Rows:
        done = [self._convert(self._shards.names[int(index)]) for index in rows["item"]]
        return {
            "made": np.array([made for made, _ in done]),
            "skipped": np.array([_as_json(skipped) for _, skipped in done], object),
        }

    def _convert(self, name: str) -> tuple[int, list[Skipped]]:
        if self._target.folder.has(name):  # by another worker, which died before it could tell
            return shards_.count(self._target.folder, name), shards_.reported(self._target.folder, name)
        made, skipped = 0, []
        try:
            for one in convert_shard(self._shards, name, self._depth, self._target):
                if one is None:
                    made += 1
                else:
                    skipped.append(one)
        except ImageError as error:
            skipped.append(Skipped(name=name, reason=str(error)))
        return made, skipped
