"""The program `fiffdepth`: infer, video, info, build, doctor, bench.

What a command needs is imported inside it: `fiffdepth doctor` has to run where NumPy or
OpenCV cannot be imported.
"""

from __future__ import annotations

import io
import json
import logging
import os
import re
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from fiffdepth_rt import __version__
from fiffdepth_rt.errors import FiffDepthError, OutputError

if TYPE_CHECKING:
    from fiffdepth_rt.backends.tensorrt.build import Finished
    from fiffdepth_rt.backends.tensorrt.progress import BuildProgress, OnProgress
    from fiffdepth_rt.depth import Depth
    from fiffdepth_rt.program.inputs import Job

_VERBOSITY = (
    "fiffdepth_rt.verbosity"  # a key of click's ctx.meta; from 2 on, errors come with their traceback
)


Command = TypeVar("Command", bound=Callable[..., Any])


class _Program(click.Group):
    """Turns what goes wrong into one sentence and exit status 1."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.Abort, click.exceptions.Exit, BrokenPipeError):
            raise
        except FiffDepthError as error:
            _show_traceback(ctx, error)
            raise click.ClickException(str(error)) from error
        except Exception as error:
            _show_traceback(ctx, error)
            raise click.ClickException(
                f"This is a bug of fiffdepth ({type(error).__name__}: {error}): "
                "run the command again with -v -v, and report what it prints."
            ) from error


def _show_traceback(ctx: click.Context, error: BaseException) -> None:
    if ctx.meta.get(_VERBOSITY, 0) >= 2:
        click.echo("".join(traceback.format_exception(error)), err=True, nl=False)


def _log_to_stderr(ctx: click.Context, _option: click.Parameter, verbosity: int) -> None:
    ctx.meta[_VERBOSITY] = verbosity
    if not verbosity:
        return
    logger = logging.getLogger("fiffdepth_rt")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(name)s: %(message)s"))
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG if verbosity >= 2 else logging.INFO)
    ctx.call_on_close(lambda: logger.removeHandler(handler))


def _parse_formats(ctx: click.Context, option: click.Parameter, value: str) -> tuple[str, ...]:
    """What stands behind --format -> formats, each once."""
    from fiffdepth_rt.program.inputs import ENDINGS

    formats = tuple(dict.fromkeys(value.split(",")))
    for name in formats:
        if name not in ENDINGS:
            reason = f"{name!r} is no format: say one or more of {','.join(ENDINGS)}."
            raise click.BadParameter(reason, ctx, option)
    return formats


def _parse_hw(ctx: click.Context, option: click.Parameter, value: str | None) -> tuple[int, int] | None:
    """ "192x256" -> (192, 256)"""
    if value is None:
        return None
    match = re.fullmatch(r"(\d{1,6})x(\d{1,6})", value)
    if match is None:
        reason = f"{value!r} is no size: say height x width in px, such as 192x256."
        raise click.BadParameter(reason, ctx, option)
    return int(match[1]), int(match[2])


def _parse_grids(
    ctx: click.Context, option: click.Parameter, values: tuple[str, ...]
) -> tuple[tuple[int, int], ...]:
    """("512x512", "384x640") -> ((512, 512), (384, 640))"""
    return tuple(hw for value in values if (hw := _parse_hw(ctx, option, value)) is not None)


_verbose = click.option(
    "-v",
    "--verbose",
    count=True,
    is_eager=True,
    expose_value=False,
    callback=_log_to_stderr,
    help="Say what is being done. Twice, -v -v: in detail, and errors with their traceback.",
)
_engine = click.option(
    "--engine",
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Engine directory. By default the bundled model, nano.",
)
_backend = click.option(
    "--backend",
    metavar="NAME",
    default="auto",
    show_default=True,
    help="Inference engine, such as onnxruntime; auto takes the best one that works here.",
)
_device = click.option(
    "--device", metavar="D", help="cpu, cuda or cuda:1. By default what the engine prefers."
)
_directory = click.argument(
    "directory", metavar="[DIR]", required=False, type=click.Path(path_type=Path), default=None
)


@click.group(cls=_Program, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="fiffdepth")
def program() -> None:
    """Turn photos into depth maps.

    A depth map says how near each pixel is compared with the others; it is not in metres.

    \b
    Start here:
      fiffdepth infer kitchen.jpg
      fiffdepth doctor

    The first writes kitchen_depth.png and kitchen_color.png beside the photo; the second says what works on
    this machine, and what mends the rest.
    """


@program.command()
@click.argument("images", metavar="IMAGE...", nargs=-1, required=True)
@click.option(
    "-o",
    "--out",
    metavar="OUT",
    type=click.Path(path_type=Path),
    help="Folder for the results; made if it is not there. By default beside each photo.",
)
@_engine
@_backend
@_device
@click.option(
    "--size",
    metavar="N",
    type=click.IntRange(min=1),
    help="Longer side, in px, at which the model sees the photo. By default what the model was made for.",
)
@click.option(
    "--format",
    "formats",
    metavar="F,F",
    callback=_parse_formats,
    default="png16,color",
    show_default=True,
    help="png16: 16-bit grey picture. color: picture for eyes only. npy: float32 array in [0, 1].",
)
@click.option("--overwrite", is_flag=True, help="Replace results that are there already.")
@_verbose
@click.pass_context
def infer(
    ctx: click.Context,
    images: tuple[str, ...],
    out: Path | None,
    engine: Path | None,
    backend: str,
    device: str | None,
    size: int | None,
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
      fiffdepth infer kitchen.jpg --engine engines/fiffdepth --device cpu

    kitchen.jpg becomes kitchen_depth.png (16-bit grey; its PNG text says whether black is near or far) and
    kitchen_color.png (warm is near). Folders and patterns leave out such results of an earlier run.

    A photo that cannot be used, or whose results are there already, is reported and skipped; the others are
    done, and the exit status is 1.
    """
    from fiffdepth_rt.depth import Depth
    from fiffdepth_rt.program.inputs import find_photos, plan

    found = find_photos(images)
    jobs = plan(found.photos, formats, out)
    for error in found.errors:
        _report(ctx, error)
    skipped = len(found.errors)
    done: list[Job] = []
    seconds = 0.0
    if jobs:
        with Depth(engine, backend=backend, device=device, size=size) as depth:
            if out is not None:
                _make_folder(out)
            with _progress(jobs) as remaining:
                for job in remaining:
                    try:
                        seconds += _run(job, depth, overwrite=overwrite)
                        done.append(job)
                    except FiffDepthError as photo_error:
                        _report(ctx, photo_error)
                        skipped += 1
            if done:
                _summarize(done, seconds, depth)
    if skipped:
        click.echo(f"{skipped} of {skipped + len(done)} skipped, for the reasons above.", err=True)
        ctx.exit(1)


def _run(job: Job, depth: Depth, *, overwrite: bool) -> float:
    """One photo -> its files. Returns the seconds that inference took, without reading and writing files."""
    from fiffdepth_rt import colorize, files

    if not overwrite:
        for path in job.results.values():
            files.refuse_existing(path)
    photo = files.read_photo(job.photo)
    start = time.perf_counter()
    depth_map = depth.infer(photo)
    seconds = time.perf_counter() - start
    space = depth.output_space
    for name, path in job.results.items():
        if name == "png16":
            model = depth.manifest.name
            files.write_depth_png16(path, depth_map, space=space, model=model, overwrite=overwrite)
        elif name == "npy":
            files.write_depth_npy(path, depth_map, overwrite=overwrite)
        else:
            files.write_color_png(path, colorize(depth_map, space=space), overwrite=overwrite)
    return seconds


def _make_folder(out: Path) -> None:
    from fiffdepth_rt.files import PHOTO_SUFFIXES

    if out.suffix.lower() in PHOTO_SUFFIXES and not out.is_dir():
        raise OutputError(f"-o names a folder, and {out} sounds like a picture: name a folder.")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"The folder {out} cannot be made ({error.strerror}): name another one after -o."
        ) from error


@contextmanager
def _progress(jobs: Sequence[Job]) -> Iterator[Iterable[Job]]:
    """The jobs; behind a progress bar on stderr if there are several and stderr is a terminal."""
    if len(jobs) < 2 or not sys.stderr.isatty():
        yield jobs
        return
    with click.progressbar(jobs, label="Photos", show_pos=True, file=sys.stderr) as bar:
        yield bar


def _report(ctx: click.Context, error: FiffDepthError) -> None:
    clear_bar = "\r\033[K" if sys.stderr.isatty() else ""
    click.echo(f"{clear_bar}Skipped: {error}", err=True)
    _show_traceback(ctx, error)


def _summarize(done: Sequence[Job], seconds: float, depth: Depth) -> None:
    """Where the pictures are, what they mean, how long inference took."""
    folders = {path.parent for job in done for path in job.results.values()}
    where = f"in {click.format_filename(folders.pop())}" if len(folders) == 1 else "beside the photos"
    if len(done) == 1:
        names = ", ".join(click.format_filename(path.name) for path in done[0].results.values())
        click.echo(f"{click.format_filename(done[0].photo.name)} -> {names} {where}")
    else:
        click.echo(f"{len(done)} photos -> {sum(len(job.results) for job in done)} files {where}")
    black = {"depth": "nearest", "disparity": "farthest"}[depth.output_space]
    click.echo(f"Values are {depth.output_space}: 0 is the {black}; relative, not metres.")
    engine = f"{depth.manifest.name}, {depth.backend.name} on {depth.backend.device}, {depth.size} px"
    click.echo(f"Inference took {seconds / len(done):.2f} s per photo ({engine}).")


@program.command()
@click.argument("source", metavar="IN")
@click.argument("out", metavar="OUT", type=click.Path(path_type=Path))
@_engine
@_backend
@_device
@click.option(
    "--size",
    metavar="N",
    type=click.IntRange(min=1),
    help="Longer side, in px, at which the model sees a frame. By default what the model was made for.",
)
@click.option(
    "--smooth",
    metavar="N",
    type=click.FloatRange(min=0, min_open=True),
    help="Take flicker away. N is how many frames a correction lasts, such as 30. By default off.",
)
@click.option("--side-by-side", is_flag=True, help="The video itself on the left. For .mp4.")
@click.option("--overwrite", is_flag=True, help="Replace results that are there already.")
@_verbose
@click.pass_context
def video(
    ctx: click.Context,
    source: str,
    out: Path,
    engine: Path | None,
    backend: str,
    device: str | None,
    size: int | None,
    smooth: float | None,
    side_by_side: bool,
    overwrite: bool,
) -> None:
    """Turn a video or a camera into depth.

    IN is a video file, the number of a camera (0 is the first), or an address such as rtsp://10.0.0.7/live.

    OUT ends in .mp4 for colours (warm is near), or in .mkv for 16-bit values without loss (FFV1). Without an
    ending it is a folder, which gets a 16-bit PNG for each frame.

    \b
    Examples:
      fiffdepth video walk.mp4 walk_color.mp4
      fiffdepth video walk.mp4 walk_both.mp4 --side-by-side --smooth 30
      fiffdepth video walk.mp4 walk_depth.mkv
      fiffdepth video walk.mp4 walk_depth --size 512 --overwrite

    A camera is not made to wait: of the frames that come while one is computed, the latest is taken. Ctrl-C
    ends a recording; the file plays up to there. So it does when a camera disappears, or a video turns out to
    be damaged; that is reported, and the exit status is 1.
    """
    from fiffdepth_rt.depth import Depth
    from fiffdepth_rt.video import convert, open_result, open_source

    if ctx.meta.get(_VERBOSITY, 0) < 2:
        _silence_video_library()
    with (
        open_source(source) as opened,
        Depth(engine, backend=backend, device=device, size=size) as depth,
    ):
        space = depth.output_space
        result = open_result(
            out,
            fps=opened.fps,
            space=space,
            model=depth.manifest.name,
            side_by_side=side_by_side,
            overwrite=overwrite,
        )
        start = time.perf_counter()
        try:
            with _on_ctrl_c(opened.stop), closing(convert(depth, opened, result, smooth=smooth)) as steps:
                for _ in _shown(steps, opened.frames, start):
                    if opened.stopped:
                        break
        except FiffDepthError:
            _say_kept(result.frames, out)
            raise
        if opened.stopped and not (opened.live and result.frames):
            _say_kept(result.frames, out)
            raise click.Abort
        per_s = result.frames / (time.perf_counter() - start)
        what = click.format_filename(opened.name), click.format_filename(out)
        click.echo(f"{what[0]} -> {what[1]}: {result.frames} frames, {per_s:.1f} per second")
        black = {"depth": "nearest", "disparity": "farthest"}[space]
        if out.suffix.lower() != ".mp4":
            click.echo(f"Values are {space}: 0 is the {black}; relative, not metres.")


@contextmanager
def _on_ctrl_c(stop: Callable[[], None]) -> Iterator[None]:
    """The first Ctrl-C calls `stop`, and so ends the work between two frames; a second one interrupts it."""

    def first(*_: Any) -> None:
        signal.signal(signal.SIGINT, before)
        stop()

    before = signal.signal(signal.SIGINT, first)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _shown(steps: Iterable[int], total: int | None, start: float) -> Iterator[int]:
    """`steps`; where stderr is a terminal, with a line that moves."""
    terminal = sys.stderr.isatty()
    shown = 0.0
    for done in steps:
        now = time.perf_counter()
        if terminal and now - shown > 0.2:
            shown = now
            of = f" of {total}" if total else ""
            line = f"frame {done}{of}, {done / (now - start):.1f} per second"
            click.echo(f"\r\033[K{line}", err=True, nl=False)
        yield done
    if terminal:
        click.echo("\r\033[K", err=True, nl=False)


def _say_kept(frames: int, out: Path) -> None:
    clear = "\r\033[K" if sys.stderr.isatty() else ""
    kept = f"{click.format_filename(out)} holds the {frames} frames so far."
    click.echo(clear + (kept if frames else "No frame was written."), err=True)


def _silence_video_library() -> None:
    """OpenCV and FFmpeg write to stderr what our errors say in their place. For the whole process."""
    import cv2

    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # AV_LOG_QUIET; read when FFmpeg is first used
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


@program.command()
@_directory
@_verbose
def info(directory: Path | None) -> None:
    """Show what an engine directory holds.

    DIR is an engine directory; by default the bundled model. Every file is checked against its SHA-256 first.

    \b
    Examples:
      fiffdepth info
      fiffdepth info engines/fiffdepth
    """
    from fiffdepth_rt.engine_dir.manifest import BUNDLED, open_engine_dir
    from fiffdepth_rt.program.info import to_text

    click.echo(to_text(open_engine_dir(directory or BUNDLED).manifest))


@program.command()
@click.argument("directory", metavar="ENGINE_DIR", type=click.Path(path_type=Path))
@click.option(
    "--grid",
    "grids",
    metavar="HxW",
    multiple=True,
    callback=_parse_grids,
    help="Grid to build for, height x width in px; may be given again. By default a square of the size that "
    "the model was made for.",
)
@click.option(
    "--batch",
    "batches",
    metavar="N",
    multiple=True,
    default=(1,),
    type=click.IntRange(min=1),
    help="Photos that run at once; may be given again. By default 1.",
)
@click.option("--precision", metavar="P", help="Graph set. By default fp16, else bf16, else fp32.")
@click.option("--static", is_flag=True, help="A plan for each grid and batch, instead of one for all.")
@click.option(
    "--opt-level",
    metavar="0-5",
    type=click.IntRange(0, 5),
    help="How hard TensorRT looks for fast kernels. By default its own choice, 3.",
)
@click.option(
    "--workspace",
    "workspace_mib",
    metavar="MIB",
    type=click.IntRange(min=1),
    help="Scratch memory that kernels may use, in MiB. By default all of the GPU's.",
)
@click.option(
    "--strip-plan", is_flag=True, help="Plans without weights; they are read from the graphs when opened."
)
@click.option(
    "--hardware-compatible",
    is_flag=True,
    help="Plans for every GPU of this compute capability, perhaps slower. TensorRT 10.12 or newer.",
)
@_verbose
def build(directory: Path, **options: Any) -> None:
    """Build TensorRT plans for this machine, and check them.

    ENGINE_DIR is an engine directory; the plans are added to it. They run on this GPU model and this TensorRT
    version only, so build on the machine that will run them. Each plan is held against the golden values of
    the export before it is listed. A build that was stopped goes on where it was.

    If no golden photo lies on one of the grids, that of the first is built as well, since only there a plan
    can be checked.

    \b
    Examples:
      fiffdepth build engines/fiffdepth
      fiffdepth build engines/fiffdepth --grid 512x512 --grid 384x640
      fiffdepth build engines/fiffdepth --precision fp32 --batch 1 --batch 4
    """
    from fiffdepth_rt.backends.tensorrt.build import build_plans
    from fiffdepth_rt.backends.tensorrt.versions import Request

    request = Request(**options, command=_command_line())
    with _build_progress() as (on_progress, on_finished):
        build_plans(directory, request, on_progress=on_progress, on_finished=on_finished)


def _command_line() -> str:
    """The command as it was typed, without the folders of this machine."""
    words = [Path(word).name if "/" in word or "\\" in word else word for word in sys.argv[1:]]
    return " ".join(("fiffdepth", *words))


@contextmanager
def _build_progress() -> Iterator[tuple[OnProgress | None, Callable[[Finished], None]]]:
    """What `build_plans` calls: a line on stderr that moves, if it is a terminal; a line for each plan."""
    terminal = sys.stderr.isatty()

    def show(progress: BuildProgress) -> None:
        phase = progress.phase[:60]
        click.echo(f"\r\033[K{progress.stage} {progress.fraction:4.0%}  {phase}", err=True, nl=False)

    def finish(finished: Finished) -> None:
        if terminal:
            click.echo("\r\033[K", err=True, nl=False)
        how = "is here already" if finished.kept else f"built and checked in {finished.seconds:.0f} s"
        click.echo(f"{finished.record.file}: {how}")

    try:
        yield (show if terminal else None), finish
    finally:
        if terminal:
            click.echo("\r\033[K", err=True, nl=False)


@program.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of text.")
@_verbose
@click.pass_context
def doctor(ctx: click.Context, as_json: bool) -> None:
    """Say what works on this machine, what does not, and what mends it.

    Each backend with the reason why it is not usable, TensorRT, library versions, the GPU, wheels that
    overwrite each other, and whether the bundled model is intact. The exit status is 1 if there is a problem.
    A note is no problem: something more could be installed.

    \b
    Examples:
      fiffdepth doctor
      fiffdepth doctor --json
    """
    from fiffdepth_rt.program.doctor import examine

    diagnosis = examine()
    if as_json:
        click.echo(json.dumps(diagnosis.as_json(), indent=1))
    else:
        for finding in diagnosis.findings:
            click.echo(f"{finding.verdict:9}{finding.subject}: {finding.found}")
            if finding.mend:
                click.echo(f"{'':9}-> {finding.mend}")
        click.echo("No problems." if diagnosis.healthy else "Problems: run what stands behind their arrows.")
    ctx.exit(0 if diagnosis.healthy else 1)


def bench_options(command: Command) -> Command:
    """DIR and the options of a latency measurement, for `fiffdepth bench` and benchmarks/latency.py."""
    count = click.IntRange(min=1)
    options = (
        _directory,
        _backend,
        _device,
        click.option(
            "--size",
            metavar="HxW",
            callback=_parse_hw,
            help="Photo, height x width in px. By default a square of the size that the model was made for.",
        ),
        click.option("--runs", metavar="N", type=count, default=20, show_default=True, help="Timed runs."),
        click.option(
            "--warm-up", metavar="N", type=count, default=3, show_default=True, help="Runs before those."
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


@program.command()
@bench_options
@_verbose
def bench(
    directory: Path | None,
    backend: str,
    device: str | None,
    size: tuple[int, int] | None,
    runs: int,
    warm_up: int,
) -> None:
    """Measure how long a depth map takes here.

    DIR is an engine directory; by default the bundled model. Times go from a uint8 photo in memory to a
    float32 depth map in memory, and stage by stage. The last line is JSON.

    \b
    Examples:
      fiffdepth bench
      fiffdepth bench --size 192x256 --runs 50
      fiffdepth bench engines/fiffdepth --backend onnxruntime --device cpu
    """
    from fiffdepth_rt.program.bench import measure

    report = measure(directory, backend=backend, device=device, photo_hw=size, runs=runs, warm_up=warm_up)
    click.echo(report.to_markdown())
    click.echo(report.to_json())


def main() -> None:
    """Entry point of the program `fiffdepth`."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # file names may hold what the terminal's encoding does not
        sys.stdout.reconfigure(errors="backslashreplace")
    program(prog_name="fiffdepth")
