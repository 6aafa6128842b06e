"""`fiffdepth video`: a video or a camera -> depth, as a video or pictures."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fiffdepth_rt.errors import FiffDepthError
from fiffdepth_rt.program import options
from fiffdepth_rt.program.terminal import moving_line, on_signals, say, shown, tell, wants_details

if TYPE_CHECKING:
    from fiffdepth_rt.backends.grids import Size
    from fiffdepth_rt.program.options import EngineChoice
    from fiffdepth_rt.video import Result, Source


@click.command("video")
@click.argument("source", metavar="IN -o OUT")
@click.option(
    "-o",
    "--out",
    metavar="OUT",
    type=options.NamedPath(),
    required=True,
    help="A video that ends in .mp4, .mov, .webm or .mkv, or a folder.",
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
@click.option("--side-by-side", is_flag=True, help="The video itself on the left. For colours.")
@click.option("--no-sound", is_flag=True, help="Leave the sound out. By default a colour video keeps it.")
@click.option(
    "--fps",
    metavar="N",
    type=click.FloatRange(min=0, min_open=True),
    help="Pictures per second, where IN is a folder or a pattern of them. By default 30.",
)
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
    no_sound: bool,
    fps: float | None,
    overwrite: bool,
) -> None:
    """Turn a video or a camera into depth.

    IN is a video file; a folder or a pattern of pictures; the number of a camera (0 is the first); or an
    address such as rtsp://10.0.0.7/live. Files need PyAV: pip install 'fiffdepth-rt[video]'.

    OUT ends in .mp4, .mov or .webm for colours (warm is near), or in .mkv for 16-bit values without loss
    (FFV1). Without an ending it is a folder, which gets a 16-bit PNG for each frame, and goes on where it was
    interrupted. Frames keep their times, so pauses and variable rates stay.

    \b
    Examples:
      fiffdepth video walk.mp4 -o walk_color.mp4
      fiffdepth video walk.mp4 -o walk_both.mp4 --side-by-side --smooth 30
      fiffdepth video walk.mp4 -o walk_depth.mkv
      fiffdepth video walk.mp4 -o walk_depth --size 512 --overwrite
      fiffdepth video 'photos/*.jpg' -o photos.webm --fps 10

    Frames that cannot be decoded are left out and counted; the others are done, and the exit status is 1. A
    camera is not made to wait: of the frames that come while one is computed, the latest is taken. Ctrl-C,
    SIGTERM and SIGHUP end the work; the file plays up to there. So it does when a camera disappears.
    """
    from fiffdepth_rt.video import convert, open_result, open_source

    _set_log_levels(verbose=wants_details(ctx))
    with open_source(source, fps=fps) as opened, choice.open(engine, size=size) as depth:
        result = open_result(
            out, source=opened, side_by_side=side_by_side, sound=not no_sound, overwrite=overwrite
        )
        start = time.perf_counter()
        try:
            with on_signals(opened.stop), closing(convert(depth, opened, result, smooth=smooth)) as steps:
                for _ in _shown(steps, opened):
                    if opened.stopped:
                        break
        except FiffDepthError:
            _say_kept(result, out)
            raise
        if opened.stopped and not (opened.live and result.frames):
            _say_kept(result, out)
            raise click.Abort
        per_s = result.frames / (time.perf_counter() - start)
        what = shown(Path(opened.name)), shown(out)
        already = f", and {result.already} were there already" if result.already else ""
        tell(f"{what[0]} -> {what[1]}: {result.frames} frames, {per_s:.1f} per second{already}")
        if out.suffix.lower() not in (".mp4", ".mov", ".webm"):
            tell(depth.output_space.sentence)


def _shown(steps: Iterable[int], source: Source) -> Iterator[int]:
    """`steps`; where stderr is a terminal, with a line that moves. The source's notes as they come."""
    said = 0
    with moving_line("Frames", unit=" frames", total=source.frames) as line:
        for done in steps:
            for note in source.notes[said:]:
                say(note)
            said = len(source.notes)
            line.update()
            yield done
    for note in source.notes[said:]:  # on what came to light at the end
        say(note)


def _say_kept(result: Result, out: Path) -> None:
    frames = result.frames + result.already
    kept = f"{shown(out)} holds {frames} frames."
    say(kept if frames else "No frame was written.")


def _set_log_levels(*, verbose: bool) -> None:
    """OpenCV and FFmpeg write to stderr what our errors say in their place. For the whole process."""
    import cv2

    if verbose:
        with contextlib.suppress(ImportError):  # a camera needs no PyAV
            import av.logging

            av.logging.restore_default_callback()
        return
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # AV_LOG_QUIET; read when FFmpeg is first used
    if hasattr(cv2, "setLogLevel"):  # OpenCV 4.10 to 4.12
        cv2.setLogLevel(0)  # silent
    else:  # 4.13 and on
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
