"""`fiffdepth infer`: photos -> depth maps, as files."""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from concurrent.futures import Future
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fiffdepth_rt.errors import FiffDepthError, OutputError
from fiffdepth_rt.program import options
from fiffdepth_rt.program.terminal import moving_line, say, show_traceback

if TYPE_CHECKING:
    from fiffdepth_rt.backends.grids import Size
    from fiffdepth_rt.depth import Depth
    from fiffdepth_rt.depth_map import DepthMap
    from fiffdepth_rt.image import Pixels
    from fiffdepth_rt.program.inputs import Job
    from fiffdepth_rt.program.options import EngineChoice


def _parse_formats(ctx: click.Context, option: click.Parameter, value: str) -> tuple[str, ...]:
    """What stands behind --format -> formats, each once."""
    from fiffdepth_rt.program.inputs import ENDINGS

    formats = tuple(dict.fromkeys(value.split(",")))
    for name in formats:
        if name not in ENDINGS:
            reason = f"{name!r} is no format: say one or more of {','.join(ENDINGS)}."
            raise click.BadParameter(reason, ctx, option)
    return formats


@click.command("infer")
@click.argument("images", metavar="IMAGE...", nargs=-1, required=True)
@click.option(
    "-o",
    "--out",
    metavar="OUT",
    type=click.Path(path_type=Path),
    help="Folder for the results; made if it is not there. By default beside each photo.",
)
@options.engine
@options.engine_choice
@options.size
@click.option(
    "--format",
    "formats",
    metavar="F,F",
    callback=_parse_formats,
    default="png16,color",
    show_default=True,
    help="png16: 16-bit grey picture. color: picture for eyes only. npy: float32 array in [0, 1].",
)
@options.overwrite
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
    overwrite: bool,
) -> None:
    """Turn photos into depth maps.

    IMAGE is a photo, a folder (the photos in it, but not in its folders) or a quoted pattern.

    \b
    Examples:
      fiffdepth infer kitchen.jpg
      fiffdepth infer kitchen.jpg hall.png -o depth
      fiffdepth infer photos -o depth --overwrite
      fiffdepth infer 'photos/**/*.jpg' --format png16
      fiffdepth infer kitchen.jpg --size 512 --format npy,color
      fiffdepth infer kitchen.jpg --engine engines/fiffdepth --precision fp32 --threads 2

    kitchen.jpg becomes kitchen_depth.png (16-bit grey; its PNG text says whether black is near or far) and
    kitchen_color.png (warm is near). Folders and patterns leave out such results of an earlier run.

    A photo that cannot be used, or whose results are there already, is reported and skipped; the others are
    done, and the exit status is 1.
    """
    from fiffdepth_rt.program.inputs import find_photos, jobs_for

    found = find_photos(images)
    jobs = jobs_for(found.photos, formats, out)
    for error in found.errors:
        _report(ctx, error)
    skipped = len(found.errors)
    done: list[Job] = []
    seconds = 0.0
    if jobs:
        with choice.open(engine, size=size) as depth:
            if out is not None:
                _make_folder(out)
            with (
                moving_line("Photos", unit="photo", total=len(jobs), disable=len(jobs) < 2) as line,
                closing(_convert(jobs, depth, overwrite=overwrite)) as outcomes,
            ):
                for job, outcome in outcomes:
                    try:
                        seconds += outcome.result()
                        done.append(job)
                    except FiffDepthError as photo_error:
                        _report(ctx, photo_error)
                        skipped += 1
                    line.update()
            if done:
                _summarize(done, seconds, depth)
    if skipped:
        click.echo(f"{skipped} of {skipped + len(done)} skipped, for the reasons above.", err=True)
        ctx.exit(1)


def _convert(
    jobs: Sequence[Job], depth: Depth, *, overwrite: bool
) -> Generator[tuple[Job, Future[float]], None, None]:
    """Photos -> their files: each job, in order, with the seconds that inference took or what went wrong.

    The next photo is read, and the results before it are written, while one photo is computed.
    """
    from fiffdepth_rt import files
    from fiffdepth_rt.program.overlap import overlapped

    def read(job: Job) -> Pixels:
        if not overwrite:
            for path in job.results.values():
                files.refuse_existing(path)
        return files.read_photo(job.photo)

    def compute(photo: Pixels) -> tuple[DepthMap, float]:
        start = time.perf_counter()
        depth_map = depth.infer(photo)
        return depth_map, time.perf_counter() - start

    def write(job: Job, computed: tuple[DepthMap, float]) -> float:
        depth_map, seconds = computed
        for name, path in job.results.items():
            if name == "color":
                files.write_color_png(path, depth_map.colors(), overwrite=overwrite)
            else:
                depth_map.save(path, overwrite=overwrite)
        return seconds

    return overlapped(jobs, read=read, compute=compute, write=write)


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
    say(f"Skipped: {error}")
    show_traceback(ctx, error)


def _summarize(done: Sequence[Job], seconds: float, depth: Depth) -> None:
    """Where the pictures are, what they mean, how long inference took."""
    folders = {path.parent for job in done for path in job.results.values()}
    where = f"in {click.format_filename(folders.pop())}" if len(folders) == 1 else "beside the photos"
    if len(done) == 1:
        names = ", ".join(click.format_filename(path.name) for path in done[0].results.values())
        click.echo(f"{click.format_filename(done[0].photo.name)} -> {names} {where}")
    else:
        click.echo(f"{len(done)} photos -> {sum(len(job.results) for job in done)} files {where}")
    click.echo(depth.output_space.sentence)
    engine = f"{depth.manifest.name}, {depth.backend.name} on {depth.backend.device}, {depth.size} px"
    click.echo(f"Inference took {seconds / len(done):.2f} s per photo ({engine}).")
