"""`fiffdepth calibrate`: a photo, and how far things in it are -> a calibration for photos of that camera."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fiffdepth_rt.program import metres, options
from fiffdepth_rt.program.terminal import say, shown, tell

if TYPE_CHECKING:
    from fiffdepth_rt.backends.grids import Size
    from fiffdepth_rt.geometry.alignment import Alignment
    from fiffdepth_rt.geometry.calibration import Calibration
    from fiffdepth_rt.geometry.tape_measure import Measured, Range
    from fiffdepth_rt.program.metres import Four
    from fiffdepth_rt.program.options import EngineChoice


def _parse_places(
    ctx: click.Context, option: click.Parameter, values: tuple[str, ...]
) -> tuple[tuple[int, int], ...]:
    """("320,240",) -> ((320, 240),)"""
    places = []
    for value in values:
        match = re.fullmatch(r"(\d{1,6}),(\d{1,6})", value)
        if match is None:
            reason = f"{value!r} is no place: say column,row in px from the upper left, such as 320,240."
            raise click.BadParameter(reason, ctx, option)
        places.append((int(match[1]), int(match[2])))
    return tuple(places)


@click.command("calibrate")
@click.argument("names", metavar="[DIR] PHOTO", nargs=-1, required=True)
@click.option(
    "--at",
    "places",
    metavar="X,Y",
    multiple=True,
    callback=_parse_places,
    help="A place in the photo: column and row, in px from the upper left. Once for each distance.",
)
@click.option(
    "--metres",
    "distances",
    metavar="M",
    type=click.FloatRange(min=0, min_open=True),
    multiple=True,
    help="How far away it is there, along the direction that the camera looks in; with --intrinsics, from "
    "the lens, as a tape measures it.",
)
@metres.camera_height
@metres.pitch
@metres.intrinsics
@click.option(
    "-o",
    "--out",
    metavar="FILE",
    type=options.NamedPath(dir_okay=False),
    help="The calibration. By default PHOTO's name and _calibration.json, beside the photo.",
)
@options.engine_choice
@options.size
@options.overwrite
@options.verbose
def command(
    names: tuple[str, ...],
    places: tuple[tuple[int, int], ...],
    distances: tuple[float, ...],
    height_m: float | None,
    pitch_deg: float | None,
    intrinsics: Four | None,
    out: Path | None,
    choice: EngineChoice,
    size: Size,
    overwrite: bool,
) -> None:
    """Measure distances with a tape, or the camera's height above the ground, and have depth in metres.

    DIR is an engine directory, by default the bundled model's. PHOTO is a photo of your camera. Two distances
    at least, one near and one far, tell scale and shift; one alone tells the scale if the shift is taken for
    0. Over flat ground, the height of the lens does without distances. What was assumed, and how far the
    answer can be trusted, is said.

    \b
    Examples:
      fiffdepth calibrate kitchen.jpg --at 20,30 --metres 2.0 --at 50,10 --metres 5.0
      fiffdepth calibrate engines/fiffdepth hall.png --at 20,30 --metres 2.0 -o hall.json
      fiffdepth calibrate ground.png --camera-height 1.2 --intrinsics 525,525,31.5,23.5

    The calibration is for photos of this camera, this model and this --size: `fiffdepth infer` takes it with
    --calibration. A model promises no scale, and gives other scenes another one; measure again where the
    scene is another.
    """
    from fiffdepth_rt.files import local_path, read_photo, refuse_existing, refuse_source
    from fiffdepth_rt.geometry.camera import Intrinsics
    from fiffdepth_rt.geometry.tape_measure import Distance, measure

    if len(names) > 2:
        raise click.UsageError(f"{len(names)} names were given: name an engine directory and one photo.")
    if "" in names:
        raise click.UsageError("'' is no name (an unset variable of the shell?): name a photo.")
    if bool(places or distances) == (height_m is not None):
        raise click.UsageError(
            "Either distances or the ground: say --at X,Y and --metres M, once for each distance, or "
            "--camera-height M."
        )
    metres.check_ground(height_m, pitch_deg, intrinsics)
    if len(places) != len(distances):
        raise click.UsageError(
            f"--at was said {len(places)} times, and --metres {len(distances)} times: say one for the other."
        )
    directory = Path(names[0]) if len(names) == 2 else None
    photo = local_path(names[-1])
    pixels = read_photo(photo)
    target = photo.with_name(f"{photo.stem}_calibration.json") if out is None else out
    if long := options.too_long(target):
        raise click.UsageError(f"{long}: name the calibration with -o.")
    refuse_source(target, [photo], name=f"the photo {photo}")
    if not overwrite:
        refuse_existing(target)
    height, width = pixels.shape[:2]
    camera = None
    if intrinsics is not None:
        fx, fy, cx, cy = intrinsics
        camera = Intrinsics(fx=fx, fy=fy, cx=cx, cy=cy, photo_hw=(height, width))
    with choice.open(directory, size=size) as depth:
        depth_map = depth.infer(pixels)
    if height_m is not None:
        assert camera is not None  # metres.check_ground
        alignment = depth_map.align_ground(camera, height_m, pitch_deg=pitch_deg)
        alignment.calibration.save(target, overwrite=overwrite)
        for sentence in _trust_in_ground(alignment, height_m):
            tell(sentence)
        _tell_where(alignment.calibration, target)
        return
    known = [Distance(x=x, y=y, metres=m) for (x, y), m in zip(places, distances, strict=True)]
    found = measure(depth_map, known, intrinsics=camera)
    found.calibration.save(target, overwrite=overwrite)
    for distance, value, edge in zip(known, found.values, found.on_an_edge, strict=True):
        tell(f"{distance.x},{distance.y}: {distance.metres:g} m, value {value:.3f}")
        if edge:
            say(
                f"{distance.x},{distance.y} lies where depth jumps: a few pixels aside the value is another. "
                "Choose the middle of something."
            )
    for sentence in _trust(found):
        tell(sentence)
    _tell_where(found.calibration, target)


def _tell_where(calibration: Calibration, target: Path) -> None:
    space = calibration.space
    tell(
        f"{space} in {space.unit} = {calibration.scale:.4g} · value + {calibration.shift:.4g}, in "
        f"{shown(target)}."
    )


def _trust_in_ground(alignment: Alignment, height_m: float) -> list[str]:
    share = alignment.inliers.sum() / alignment.points
    return [
        f"In metres by the ground, {height_m:g} m below the camera: {share:.0%} of the photo's lower part "
        f"lies on it, to {alignment.rms_m:.2g} m (root mean square).",
        alignment.calibration.assumption.sentence(alignment.space),
        "An error of 1 % in the height is one of 1 % in every distance. A calibration by two distances, or "
        "this one held against one of them, would show how far the depth map is right.",
    ]


def _trust(found: Measured) -> list[str]:
    calibration = found.calibration
    nearest, farthest = _between(found.nearest_m), _between(found.farthest_m)
    said = [calibration.assumption.sentence(calibration.space)]
    if found.nearest_m[1] <= 0:
        said.append(
            "By these distances the nearest pixels of this photo would be behind the camera, so distances "
            "and depth map do not agree: check places and distances, and measure something near."
        )
    if len(found.values) == 1:
        return [
            *said,
            "One distance cannot tell the shift. What is as far as it is right; whatever the shift is, the "
            f"nearest pixel of this photo is {nearest} away, and the farthest {farthest}. Measure a second "
            "thing, much nearer or farther, and add its --at and --metres.",
        ]
    said.append(
        f"If each distance is right to 1 %, the nearest pixel of this photo is {nearest} away, and the "
        f"farthest {farthest}: as far as the depth map itself is right."
    )
    if found.left_out:
        worst, mean = max(found.left_out), sum(found.left_out) / len(found.left_out)
        said.append(
            f"Each distance told from the others alone is off by {mean:.0%} on average, and by {worst:.0%} "
            "at most: expect errors of that size."
        )
    else:
        said.append("A third distance would show how far the depth map is right: add --at and --metres.")
    return said


def _between(metres: Range) -> str:
    low, high = metres
    return f"{low:.2f} m or more" if math.isinf(high) else f"{low:.2f} to {high:.2f} m"
