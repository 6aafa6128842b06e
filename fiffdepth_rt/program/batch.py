"""`fiffdepth batch`: many photos -> depth maps, on this machine or a cluster."""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fiffdepth_rt.cluster.tally import Skipped
from fiffdepth_rt.errors import BatchError, FiffDepthError, ImageError
from fiffdepth_rt.program import options
from fiffdepth_rt.program.terminal import one_line, say, tell

if TYPE_CHECKING:
    from fiffdepth_rt.backends.grids import Size
    from fiffdepth_rt.batch.header import Kind
    from fiffdepth_rt.batch.output import Format
    from fiffdepth_rt.batch.photos import Photos
    from fiffdepth_rt.batch.shards import Shards
    from fiffdepth_rt.batch.work import Target
    from fiffdepth_rt.cluster.sharing import Share
    from fiffdepth_rt.depth import Depth
    from fiffdepth_rt.program.options import EngineChoice

_NAMED = 20  # skipped photos that are told one by one


@click.command("batch")
@click.argument("source", metavar="INPUT")
@click.argument("target", metavar="OUTPUT")
@options.engine
@options.engine_choice
@options.size
@options.formats(
    ("png16", "npy", "color"),
    default="png16",
    help="png16: 16-bit grey picture. npy: float32 array in [0, 1]. color: picture for eyes only.",
)
@click.option(
    "--ray",
    "address",
    metavar="ADDRESS",
    type=options.WORD,
    help="Work on a Ray cluster: auto, HOST:6379, ray://HOST:10001, or local for one on this machine. By "
    "default this process works alone.",
)
@click.option(
    "--actors",
    metavar="N",
    type=click.IntRange(min=1),
    help="With --ray: so many models open at once. By default one per GPU, or per two cores.",
)
@options.strict
@options.verbose
@click.pass_context
def command(
    ctx: click.Context,
    source: str,
    target: str,
    engine: Path | None,
    choice: EngineChoice,
    size: Size,
    formats: tuple[Format, ...],
    address: str | None,
    actors: int | None,
    strict: bool,
) -> None:
    """Turn an archive of photos into depth maps.

    INPUT is a folder (with its folders, which OUTPUT mirrors), a list (a path or an address in each line),
    WebDataset shards (a folder of .tar, or a pattern in quotes), or an address such as s3://bucket/photos.
    OUTPUT is a folder or an address. Addresses, shards and --ray need pip install 'fiffdepth-rt[cluster]'.

    \b
    Examples:
      fiffdepth batch photos depth
      fiffdepth batch photos.txt depth --format png16,npy
      fiffdepth batch 'shards/{00000..00799}.tar' depth-shards --ray local
      fiffdepth batch s3://bucket/photos s3://bucket/depth --ray auto --engine /models/fiffdepth

    photos/trip/sea.jpg becomes depth/trip/sea_depth.png. Shards become shards of the same names and keys.

    What is in OUTPUT is not made again: a run that was interrupted or killed goes on with the same command.
    fiffdepth.json says what made the results; another model, size or format is refused. Photos that cannot
    be used are skipped, skipped.json lists them, and the exit status is 1.
    """
    from fiffdepth_rt.batch.header import claim, kind_of
    from fiffdepth_rt.batch.inputs import open_input
    from fiffdepth_rt.batch.output import write_report
    from fiffdepth_rt.batch.places import folder_at
    from fiffdepth_rt.batch.shards import Shards
    from fiffdepth_rt.batch.work import Target

    if actors is not None and address is None:
        raise click.UsageError("--actors is of a cluster: say --ray local, or another --ray.", ctx)
    if not target:
        raise click.UsageError("'' is no OUTPUT: name a folder or an address.", ctx)
    output = folder_at(target)
    found = open_input(source, output)
    shared = found.folder.shared if isinstance(found, Shards) else found.shared
    if address is not None and not (shared and output.shared):
        raise BatchError("memory:// is the memory of one process: a cluster's workers would not see it.")
    describe = functools.partial(
        kind_of, layout="shards" if isinstance(found, Shards) else "files", formats=formats, strict=strict
    )
    done = _Done()
    with contextlib.ExitStack() as stack:
        workers: _Here | _Cluster
        if address is None:
            depth = stack.enter_context(choice.open(engine, size=size))
            workers = _Here(depth=depth, kind=describe(depth))
        else:
            workers = stack.enter_context(_on_cluster(address, actors, choice, engine, size, describe))
        there = set(output.files())
        naming = claim(output, workers.kind, () if isinstance(found, Shards) else found.names, there)
        where = Target(folder=output, formats=formats, naming=naming, strict=strict)
        output.sweep()
        start = time.perf_counter()
        for folder in found.unreadable:
            done.add(folder)
        try:
            if isinstance(found, Shards):
                _convert_shards(found, where, there, workers, done)
            else:
                if found.left_aside:
                    say(f"Left aside in {source}: {found.left_aside}.")
                _convert_photos(found, where, there, workers, done)
        except (KeyboardInterrupt, FiffDepthError):
            say(f"{done.made} photos were made. The same command goes on from there.")
            raise
        write_report(output, done.skipped)
        per_s = done.made / (time.perf_counter() - start)
    rate = f", {per_s:.2f} per second" if done.made else ""
    unit = "shards" if isinstance(found, Shards) else "photos"
    already = f"; {done.there} {unit} were there already" if done.there else ""
    tell(f"{source} -> {target}: {done.made} photos{rate}{already}")
    tell(workers.kind.meaning)
    if done.skipped:
        say(f"{len(done.skipped)} skipped: {target.rstrip('/')}/skipped.json says which, and why.")
        ctx.exit(1)


@dataclass(kw_only=True)
class _Done:
    """made: photos that this run has results of; there: photos, or shards, of an earlier one."""

    made: int = 0
    there: int = 0
    skipped: list[Skipped] = field(default_factory=list)
    said: int = 0

    def add(self, one: Skipped | None) -> None:
        if one is None:
            self.made += 1
            return
        self.skipped.append(one)
        self.said += 1
        if self.said <= _NAMED:
            say(one_line(f"Skipped {one.name}: {one.reason}"))
        if self.said == _NAMED:
            say("Those that are skipped from here on are in the report alone.")


@dataclass(frozen=True, kw_only=True)
class _Here:
    depth: Depth
    kind: Kind


@dataclass(frozen=True, kw_only=True)
class _Cluster:
    open_depth: Callable[[], Depth]
    kind: Kind
    share: Share


@contextlib.contextmanager
def _on_cluster(
    address: str,
    actors: int | None,
    choice: EngineChoice,
    engine: Path | None,
    size: Size,
    describe: Callable[[Depth], Kind],
) -> Iterator[_Cluster]:
    import fiffdepth_rt
    from fiffdepth_rt.cluster.connecting import connected

    with connected(address, packages=(fiffdepth_rt,), bundled=engine is None):
        from fiffdepth_rt.batch.on_ray import kind_on_cluster
        from fiffdepth_rt.cluster.actors import share as share_of_each

        share = share_of_each(actors)
        opened = choice if choice.threads is not None else choice.with_threads(share.threads)
        # Absolute: the workers stand elsewhere.
        open_depth = functools.partial(opened.open, None if engine is None else engine.absolute(), size=size)
        yield _Cluster(open_depth=open_depth, kind=kind_on_cluster(open_depth, describe, share), share=share)


def _convert_photos(
    photos: Photos, target: Target, there: set[str], workers: _Here | _Cluster, done: _Done
) -> None:
    from fiffdepth_rt.batch.work import convert_photos, plan
    from fiffdepth_rt.cluster.progress import Progress

    planned = plan(photos.names, target, there)
    done.there = planned.there
    for refused in planned.refused:
        done.add(refused)
    with contextlib.ExitStack() as stack:
        if isinstance(workers, _Here):
            outcomes = convert_photos(photos, planned.todo, workers.depth, target)
        else:
            from fiffdepth_rt.batch.on_ray import photos_on_cluster

            outcomes = photos_on_cluster(
                photos, planned.todo, workers.open_depth, target, workers.kind, workers.share
            )
        stack.enter_context(contextlib.closing(outcomes))
        progress = stack.enter_context(Progress("Photos", unit="photo", total=len(planned.todo), line=say))
        for one in outcomes:
            done.add(one)
            progress.update()


def _convert_shards(
    shards: Shards, target: Target, there: set[str], workers: _Here | _Cluster, done: _Done
) -> None:
    from fiffdepth_rt.batch.shards import convert_shard, reported
    from fiffdepth_rt.cluster.progress import Progress

    todo = [index for index, name in enumerate(shards.names) if name not in there]
    done.there = len(shards.names) - len(todo)
    for name in set(shards.names) - {shards.names[index] for index in todo}:
        done.skipped += reported(target.folder, name)
    with Progress("Shards", unit="shard", total=len(todo), each="photo", line=say) as progress:
        if isinstance(workers, _Cluster):
            from fiffdepth_rt.batch.on_ray import shards_on_cluster

            for made, skipped in shards_on_cluster(
                shards, todo, workers.open_depth, target, workers.kind, workers.share
            ):
                done.made += made
                for one in skipped:
                    done.add(one)
                progress.update(counted=made)
            return
        for index in todo:
            name = shards.names[index]
            try:
                with contextlib.closing(convert_shard(shards, name, workers.depth, target)) as outcomes:
                    for outcome in outcomes:
                        done.add(outcome)
                        progress.update(0, counted=outcome is None)
            except ImageError as error:
                done.add(Skipped(name=name, reason=str(error)))
            progress.update()
