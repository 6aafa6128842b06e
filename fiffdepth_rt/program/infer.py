"""`fiffdepth infer`: photos -> depth maps, as files."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fiffdepth_rt.errors import FiffDepthError, OutputError
from fiffdepth_rt.photos.results import FORMATS, Holds
from fiffdepth_rt.program import metres, options
from fiffdepth_rt.program.terminal import moving_line, one_line, say, show_traceback, shown, tell

if TYPE_CHECKING:
    from fiffdepth_rt.backends.grids import Size
    from fiffdepth_rt.depth import Depth
    from fiffdepth_rt.depth_map import DepthMap
    from fiffdepth_rt.geometry.camera import Metres
    from fiffdepth_rt.photos.loading import LoadedPhoto
    from fiffdepth_rt.photos.notes import Note
    from fiffdepth_rt.program.inputs import Job, Photo
    from fiffdepth_rt.program.metres import MetricChoice
    from fiffdepth_rt.program.options import EngineChoice


@click.command("infer")
@click.argument("images", metavar="IMAGE...", nargs=-1, required=True)
@click.option(
    "-o",
    "--out",
    metavar="OUT",
    type=options.NamedPath(),
    help="Folder for the results; made if it is not there. By default beside each photo.",
)
@options.engine
@options.engine_choice
@options.size
@options.formats(
    tuple(FORMATS),
    default="png16,color",
    help="png16: 16-bit grey picture. color: picture for eyes only. npy: float32 array in [0, 1]. In metres, "
    "with --sparse, --calibration or --camera-height: m (float32 array), mm, tum, kitti (16-bit pictures, "
    "1000, 5000 and 256 levels for each metre), exr, pfm. With --intrinsics too: ply (points), glb "
    "(surface).",
)
@metres.metric_choice
@options.overwrite
@options.strict
@options.verbose
@click.pass_context
def command(
    ctx: click.Context,
    images: tuple[str, ...],
    out: Path | None,
    engine: Path | None,
    choice: EngineChoice,
    size: Size,
    formats: tuple[str, ...],
    metric: MetricChoice,
    overwrite: bool,
    strict: bool,
) -> None:
    """Turn photos into depth maps.

    IMAGE is a photo, a folder (the photos in it, but not in its folders), a quoted pattern, an address
    (https://…), or - for standard input.

    \b
    Examples:
      fiffdepth infer kitchen.jpg
      fiffdepth infer kitchen.jpg hall.png -o depth
      fiffdepth infer photos -o depth --overwrite
      fiffdepth infer 'photos/**/*.jpg' --format png16
      fiffdepth infer kitchen.jpg --size 512 --format npy,color
      fiffdepth infer kitchen.jpg --engine engines/fiffdepth --precision fp32 --threads 2
      fiffdepth infer hall.png --sparse points.npy --format mm,m
      fiffdepth infer hall.png --calibration camera.json --intrinsics 525,525,31.5,23.5 --format ply
      fiffdepth infer ground.png --camera-height 1.2 --intrinsics 525,525,31.5,23.5 --format m

    kitchen.jpg becomes kitchen_depth.png (16-bit grey; its PNG text says whether black is near or far) and
    kitchen_color.png (warm is near). Folders and patterns leave out such results of an earlier run.

    A photo that cannot be used, or whose results are there already, is reported and skipped; the others are
    done, and the exit status is 1. Of a photo with only some of its results, those that are missing are made.
    """
    from fiffdepth_rt.files import refuse_source
    from fiffdepth_rt.program.inputs import find_photos, jobs_for

    found = find_photos(images)
    metric.check(formats, photos=len(found.photos))
    jobs = jobs_for(found.photos, formats, out)
    if metric.sparse is not None:  # of one photo
        for result in (path for job in jobs for path in job.results.values()):
            refuse_source(result, [metric.sparse], name=f"--sparse {metric.sparse}")
    for sentence in found.left_aside:
        say(sentence)
    for error in found.errors:
        _report(ctx, error)
    skipped = len(found.errors)
    done: list[_Done] = []
    said: set[str] = set()
    if jobs:
        with choice.open(engine, size=size) as depth:
            in_metres = metric.open(depth) if any(map(_is_metric, formats)) else None
            _make_ready(jobs, out)
            with (
                moving_line("Photos", unit="photo", total=len(jobs), disable=len(jobs) < 2) as line,
                closing(
                    _convert(jobs, depth, metric, in_metres, overwrite=overwrite, strict=strict)
                ) as outcomes,
            ):
                for _, outcome in outcomes:
                    try:
                        done.append(outcome.result())
                        _say_notes(done[-1], said)
                    except FiffDepthError as photo_error:
                        _report(ctx, photo_error)
                        skipped += 1
                    line.update()
            if done:
                _summarize(done, depth, relative=not all(map(_is_metric, formats)))
    if skipped:
        say(f"{skipped} of {skipped + len(done)} skipped, for the reasons above.")
        ctx.exit(1)


@dataclass(frozen=True, kw_only=True)
class _Done:
    """A photo whose results are written. seconds: inference took. kept: results that were there already.
    metres: how it came to them, or None. said: of its files."""

    photo: Photo
    written: tuple[Path, ...]
    kept: tuple[Path, ...]
    seconds: float
    notes: tuple[Note, ...]
    metres: str | None
    said: tuple[str, ...]


def _is_metric(format_: str) -> bool:
    return FORMATS[format_].holds is not Holds.RELATIVE


def _convert(
    jobs: Sequence[Job],
    depth: Depth,
    metric: MetricChoice,
    in_metres: Callable[[DepthMap], tuple[Metres, str]] | None,
    *,
    overwrite: bool,
    strict: bool,
) -> Generator[tuple[Job, Future[_Done]], None, None]:
    """Photos -> their files: each job, in order, with what was done or what went wrong.

    The next photo is read, and the results before it are written, while one photo is computed.
    """
    from fiffdepth_rt import files
    from fiffdepth_rt.batch.overlap import overlapped
    from fiffdepth_rt.photos.loading import load_photo

    def read(job: Job) -> tuple[LoadedPhoto, dict[str, Path]]:
        missing = {name: path for name, path in job.results.items() if overwrite or not os.path.lexists(path)}
        if not missing:
            files.refuse_existing(next(iter(job.results.values())))
        with job.photo.file() as path:
            return load_photo(path, name=job.photo.name, strict=strict), missing

    def compute(
        read: tuple[LoadedPhoto, dict[str, Path]],
    ) -> tuple[LoadedPhoto, dict[str, Path], DepthMap, float]:
        start = time.perf_counter()
        depth_map = depth.infer(read[0].pixels)
        return *read, depth_map, time.perf_counter() - start

    def write(job: Job, computed: tuple[LoadedPhoto, dict[str, Path], DepthMap, float]) -> _Done:
        loaded, missing, depth_map, seconds = computed
        camera, said = metric.camera(depth_map.photo_hw), []
        depth_m, metres_by = (None, None) if in_metres is None else in_metres(depth_map)
        for name, path in missing.items():
            if depth_m is not None and _is_metric(name):
                said.append(
                    metres.write_metric(
                        name,
                        path,
                        depth_m,
                        photo=loaded.pixels,
                        camera=camera,
                        model=depth_map.model,
                        overwrite=overwrite,
                    )
                )
            elif name == "color":
                files.write_color_png(path, depth_map.colors(), overwrite=overwrite)
            else:
                depth_map.save(path, overwrite=overwrite)
        return _Done(
            photo=job.photo,
            written=tuple(missing.values()),
            kept=tuple(path for name, path in job.results.items() if name not in missing),
            seconds=seconds,
            notes=loaded.notes,
            metres=metres_by,
            said=tuple(sentence for sentence in said if sentence is not None),
        )

    return overlapped(jobs, read=read, compute=compute, write=write)


def _make_ready(jobs: Sequence[Job], out: Path | None) -> None:
    """The folder for results is there, and what a killed run left half-written is gone."""
    from fiffdepth_rt.atomic import remove_leftovers

    if out is not None:
        _make_folder(out)
    for folder in {path.parent for job in jobs for path in job.results.values()}:
        remove_leftovers(folder)


def _make_folder(out: Path) -> None:
    from fiffdepth_rt.photos.formats import PHOTO_ENDINGS

    if out.suffix.lower() in PHOTO_ENDINGS and not out.is_dir():
        raise OutputError(f"-o names a folder, and {out} sounds like a picture: name a folder.")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"The folder {out} cannot be made ({error.strerror}): name another one after -o."
        ) from error


def _report(ctx: click.Context, error: FiffDepthError) -> None:
    say(one_line(f"Skipped: {error}"))
    show_traceback(ctx, error)


def _say_notes(one: _Done, said: set[str]) -> None:
    """What was done to a photo: damage each time, the rest once, since a folder holds many of a kind."""
    for note in one.notes:
        if note.kind == "end" or note.kind not in said:
            say(f"{one.photo.name}: {note}")
        said.add(note.kind)
    for sentence in one.said:
        say(sentence)
    for path in one.kept:
        say(f"{shown(path)} was there already and is kept; --overwrite replaces it.")


def _summarize(done: Sequence[_Done], depth: Depth, *, relative: bool) -> None:
    """Where the files are, what they mean, how long inference took. relative: some hold no metres."""
    folders = {path.parent for one in done for path in one.written}
    where = f"in {shown(folders.pop())}" if len(folders) == 1 else "beside the photos"
    if len(done) == 1:
        names = ", ".join(shown(Path(path.name)) for path in done[0].written)
        tell(f"{_short_name(done[0].photo)} -> {names} {where}")
    else:
        tell(f"{len(done)} photos -> {sum(len(one.written) for one in done)} files {where}")
    for kind, sentence in _COUNTED.items():
        count = sum(any(note.kind == kind for note in one.notes) for one in done)
        if count and (len(done) > 1 or kind == "end"):
            tell(sentence.format(count))
    for sentence in dict.fromkeys(one.metres for one in done if one.metres is not None):
        tell(sentence)
    if relative:
        tell(depth.output_space.sentence)
    engine = f"{depth.manifest.name}, {depth.backend.name} on {depth.backend.device}, {depth.size} px"
    seconds = sum(one.seconds for one in done) / len(done)
    tell(f"Inference took {seconds:.2f} s per photo ({engine}).")


_COUNTED = {
    "end": "Without an end marker, and read as far as they go: {}.",
    "light": "Of light, made a photo by Reinhard's operator: {}.",
    "bands": "Of more than four bands, of which the first three were taken: {}.",
    "range": "Of values without a range of their own, stretched to black and white: {}.",
}


def _short_name(photo: Photo) -> str:
    return shown(Path(photo.path.name)) if photo.address is None else photo.name
