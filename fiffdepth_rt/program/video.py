"""`fiffdepth video`: a video or a camera -> depth, as a video or pictures."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fiffdepth_rt.errors import FiffDepthError
from fiffdepth_rt.program import metres, options
from fiffdepth_rt.program.terminal import moving_line, on_signals, say, shown, tell, wants_details

if TYPE_CHECKING:
    from fiffdepth_rt.backends.grids import Size
    from fiffdepth_rt.program.metres import Four
    from fiffdepth_rt.program.options import EngineChoice
    from fiffdepth_rt.video import Result, Source


@click.command("video")
@click.argument("source", metavar="IN -o OUT")
@click.option(
    "-o",
    "--out",
    metavar="OUT",
    type=options.NamedPath(),
    help="A video that ends in .mp4, .mov, .webm or .mkv, or a folder. Needed unless there is a --view.",
)
@click.option(
    "--view",
    metavar="VIEW",
    type=options.NamedPath(),
    help="Look at frames and depth: rerun opens Rerun's viewer, FILE.rrd records for it. Wants the extra "
    "[view].",
)
@metres.calibration
@metres.intrinsics
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
    out: Path | None,
    view: Path | None,
    calibration: Path | None,
    intrinsics: Four | None,
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
      fiffdepth video 0 --view rerun
      fiffdepth video walk.mp4 --view walk.rrd --calibration camera.json --intrinsics 525,525,31.5,23.5

    With --calibration, a view shows metres, and with --intrinsics too (in px of a frame) points.

    Frames that cannot be decoded are left out and counted; the others are done, and the exit status is 1. A
    camera is not made to wait: of the frames that come while one is computed, the latest is taken. Ctrl-C,
    SIGTERM and SIGHUP end the work; the file plays up to there. So it does when a camera disappears.
    """
    from fiffdepth_rt.video import Both, convert, open_result, open_source, open_view

    _refuse_unused(out, view, calibration, intrinsics)
    _set_log_levels(verbose=wants_details(ctx))
    with open_source(source, fps=fps) as opened, choice.open(engine, size=size) as depth:
        results: list[Result] = []
        if out is not None:
            sound = not no_sound
            results.append(
                open_result(out, source=opened, side_by_side=side_by_side, sound=sound, overwrite=overwrite)
            )
        by_metres = None if calibration is None else metres.open_calibration(calibration, depth)
        if view is not None:
            in_metres = None if by_metres is None else by_metres[0].apply
            results.append(
                open_view(
                    view, source=opened, in_metres=in_metres, intrinsics=intrinsics, overwrite=overwrite
                )
            )
        result = results[0] if len(results) == 1 else Both(*results)
        places = [place for place in (out, view) if place is not None]
        start = time.perf_counter()
        try:
            with on_signals(opened.stop), closing(convert(depth, opened, result, smooth=smooth)) as steps:
                for _ in _shown(steps, opened):
                    if opened.stopped:
                        break
        except FiffDepthError:
            _say_kept(result, places)
            raise
        if opened.stopped and not (opened.live and result.frames):
            _say_kept(result, places)
            raise click.Abort
        per_s = result.frames / (time.perf_counter() - start)
        already = f", and {result.already} were there already" if result.already else ""
        names = " and ".join(map(_name, places))
        tell(
            f"{shown(Path(opened.name))} -> {names}: {result.frames} frames, {per_s:.1f} per second{already}"
        )
        values = out is not None and out.suffix.lower() not in (".mp4", ".mov", ".webm")
        if values or (view is not None and by_metres is None):
            tell(depth.output_space.sentence)
        if by_metres is not None:
            tell(by_metres[1])


def _name(place: Path) -> str:
    return "Rerun's viewer" if str(place) == "rerun" else shown(place)


def _refuse_unused(
    out: Path | None, view: Path | None, calibration: Path | None, intrinsics: Four | None
) -> None:
    """Raises click.UsageError where nothing is to be made, or something that was given would not be used."""
    if out is None and view is None:
        raise click.UsageError("There is nothing to make: name a result after -o, or pass --view rerun.")
    if view is None and (calibration is not None or intrinsics is not None):
        raise click.UsageError(
            "--calibration and --intrinsics are for a view, and videos hold no metres: add --view."
        )
    if intrinsics is not None and calibration is None:
        from fiffdepth_rt.geometry.calibration import CALIBRATE

        raise click.UsageError(
            "--intrinsics place points, and without metres there are none: pass --calibration FILE, which "
            f"`{CALIBRATE}` writes."
        )


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


def _say_kept(result: Result, places: Sequence[Path]) -> None:
    frames = result.frames + result.already
    if str(places[0]) == "rerun":
        return  # whoever looks at it sees that
    kept = f"{_name(places[0])} holds {'1 frame' if frames == 1 else f'{frames} frames'}."
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
