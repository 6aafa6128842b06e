"""`fiffdepth video`: a video or a camera -> depth, as a video or pictures."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fiffdepth_rt.errors import FiffDepthError
from fiffdepth_rt.program import options
from fiffdepth_rt.program.terminal import moving_line, say, wants_details

if TYPE_CHECKING:
    from fiffdepth_rt.backends.grids import Size
    from fiffdepth_rt.program.options import EngineChoice


@click.command("video")
@click.argument("source", metavar="IN -o OUT")
@click.option(
    "-o",
    "--out",
    metavar="OUT",
    type=click.Path(path_type=Path),
    required=True,
    help="A video that ends in .mp4 or .mkv, or a folder.",
)
@options.engine
@options.engine_choice
@options.size
@click.option(
    "--smooth",
    metavar="N",
    type=click.FloatRange(min=0, min_open=True),
    help="Take flicker away. N is how many frames a correction lasts, such as 30. By default off.",
)
@click.option("--side-by-side", is_flag=True, help="The video itself on the left. For .mp4.")
@options.overwrite
@options.verbose
@click.pass_context
def command(
    ctx: click.Context,
    source: str,
    out: Path,
    engine: Path | None,
    choice: EngineChoice,
    size: Size,
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
      fiffdepth video walk.mp4 -o walk_color.mp4
      fiffdepth video walk.mp4 -o walk_both.mp4 --side-by-side --smooth 30
      fiffdepth video walk.mp4 -o walk_depth.mkv
      fiffdepth video walk.mp4 -o walk_depth --size 512 --overwrite

    A camera is not made to wait: of the frames that come while one is computed, the latest is taken. Ctrl-C
    ends a recording; the file plays up to there. So it does when a camera disappears, or a video turns out to
    be damaged; that is reported, and the exit status is 1.
    """
    from fiffdepth_rt.video import convert, open_result, open_source

    if not wants_details(ctx):
        _silence_video_library()
    with open_source(source) as opened, choice.open(engine, size=size) as depth:
        result = open_result(out, fps=opened.fps, side_by_side=side_by_side, overwrite=overwrite)
        start = time.perf_counter()
        try:
            with _on_ctrl_c(opened.stop), closing(convert(depth, opened, result, smooth=smooth)) as steps:
                for _ in _shown(steps, opened.frames):
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
        if out.suffix.lower() != ".mp4":
            click.echo(depth.output_space.sentence)


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


def _shown(steps: Iterable[int], total: int | None) -> Iterator[int]:
    """`steps`; where stderr is a terminal, with a line that moves."""
    with moving_line("Frames", unit=" frames", total=total) as line:
        for done in steps:
            line.update()
            yield done


def _say_kept(frames: int, out: Path) -> None:
    kept = f"{click.format_filename(out)} holds the {frames} frames so far."
    say(kept if frames else "No frame was written.")


def _silence_video_library() -> None:
    """OpenCV and FFmpeg write to stderr what our errors say in their place. For the whole process."""
    import cv2

    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # AV_LOG_QUIET; read when FFmpeg is first used
    if hasattr(cv2, "setLogLevel"):  # OpenCV 4.10 to 4.12
        cv2.setLogLevel(0)  # silent
    else:  # 4.13 and on
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
