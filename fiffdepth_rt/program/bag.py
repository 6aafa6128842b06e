"""`fiffdepth bag`: a ROS bag -> the same bag with depth."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fiffdepth_rt.errors import BagError, FiffDepthError, MessageError
from fiffdepth_rt.program import metres, options
from fiffdepth_rt.program.terminal import moving_line, say, shown, tell

if TYPE_CHECKING:
    from fiffdepth_rt.backends.grids import Size
    from fiffdepth_rt.depth import Depth
    from fiffdepth_rt.depth_map import DepthMap, Values
    from fiffdepth_rt.image import Pixels
    from fiffdepth_rt.program.options import EngineChoice
    from fiffdepth_rt.ros.bag_result import Written
    from fiffdepth_rt.ros.bags import Bag, Record
    from fiffdepth_rt.ros.images import DepthEncoding
    from fiffdepth_rt.ros.partial import PartialFolder
    from fiffdepth_rt.ros.plan import Plan
    from fiffdepth_rt.ros.transforms import Transform

_NAMED = 5  # bad frames that are told one by one


def _parse_pose(ctx: click.Context, option: click.Parameter, value: str | None) -> Transform | None:
    """ "0,0,0.1,0,0,0,1" -> Transform"""
    if value is None:
        return None
    from fiffdepth_rt.ros.transforms import from_pose

    try:
        x, y, z, qx, qy, qz, qw = (float(number) for number in value.split(","))
        return from_pose(x, y, z, qx, qy, qz, qw)
    except ValueError as error:
        reason = str(error) if isinstance(error, MessageError) else f"{value!r} is not seven numbers."
        raise click.BadParameter(f"{reason} Say X,Y,Z,QX,QY,QZ,QW.", ctx, option) from error


@click.command("bag")
@click.argument("source", metavar="IN", type=options.NamedPath())
@click.argument("out", metavar="OUT", type=options.NamedPath())
@click.option("--image-topic", metavar="T", help="Whose depth is wanted. Needed where IN has several.")
@click.option(
    "--camera-info-topic", metavar="T", help="The camera's matrix. By default camera_info beside the image."
)
@click.option("--lidar-topic", metavar="T", help="Metres by these points, frame by frame.")
@click.option(
    "--lidar-to-camera",
    metavar="POSE",
    callback=_parse_pose,
    help="Pose of the lidar in the camera's optical frame: X,Y,Z,QX,QY,QZ,QW, in metres and as a quaternion. "
    "By default what tf_static says.",
)
@click.option(
    "--max-lag",
    "max_lag_s",
    metavar="S",
    type=click.FloatRange(min=0),
    default=0.1,
    show_default=True,
    help="By how many seconds an image and its points may be apart.",
)
@metres.calibration
@click.option(
    "--depth-encoding",
    "encoding",
    type=click.Choice(["32FC1", "16UC1"]),
    default="32FC1",
    show_default=True,
    help="Of depth_image: metres, or whole millimetres.",
)
@click.option(
    "--point-stride",
    metavar="N",
    type=click.IntRange(min=1),
    default=4,
    show_default=True,
    help="A point for every Nth pixel, across and down.",
)
@click.option(
    "--prefix",
    metavar="NS",
    type=options.WORD,
    help="Namespace of the new topics. By default fiffdepth beside the image.",
)
@options.engine
@options.engine_choice
@options.size
@options.overwrite
@options.verbose
@click.pass_context
def command(
    ctx: click.Context,
    source: Path,
    out: Path,
    image_topic: str | None,
    camera_info_topic: str | None,
    lidar_topic: str | None,
    lidar_to_camera: Transform | None,
    max_lag_s: float,
    calibration: Path | None,
    encoding: DepthEncoding,
    point_stride: int,
    prefix: str | None,
    engine: Path | None,
    choice: EngineChoice,
    size: Size,
    overwrite: bool,
) -> None:
    """Add depth to a ROS bag.

    IN is a bag of ROS 2 (a folder, an .mcap or a .db3) or of ROS 1 (a .bag); OUT becomes one of the same
    kind: all that IN holds, and new topics. No ROS is needed: pip install 'fiffdepth-rt[robotics]'.

    \b
    /camera/fiffdepth/relative_depth  values in [0, 1], not metres
    with --lidar-topic or --calibration:
    /camera/fiffdepth/depth_image     metres along the optical axis, NaN where unknown
    /camera/fiffdepth/camera_info     of depth_image
    /camera/fiffdepth/points          metres, in the camera's optical frame, in colour

    \b
    Examples:
      fiffdepth bag walk.mcap walk_depth --image-topic /camera/image_rect
      fiffdepth bag walk walk_depth --image-topic /camera/image_rect --lidar-topic /lidar/points
      fiffdepth bag walk.bag walk_depth.bag --calibration camera.json

    An image that cannot be used is counted and left out, and the exit status is 1. Interrupted or killed, the
    same command goes on: depth that is computed is kept in a hidden folder beside OUT, .OUT.partial, until
    OUT is whole.
    """
    from fiffdepth_rt.ros.bags import Bag
    from fiffdepth_rt.ros.partial import PartialFolder, put_in_place
    from fiffdepth_rt.ros.plan import Asked, check_result, plan_of

    asked = Asked(
        image_topic=image_topic,
        camera_info_topic=camera_info_topic,
        lidar_topic=lidar_topic,
        lidar_to_camera=lidar_to_camera,
        max_lag_s=max_lag_s,
        calibration=calibration,
        prefix=prefix,
        encoding=encoding,
        point_stride=point_stride,
    )
    with Bag(source) as bag:
        check_result(out, bag, overwrite=overwrite)
        with moving_line("Looking through", unit=" messages", total=None) as line:
            plan = plan_of(bag, asked, seen=line.update)
        for note in plan.notes:
            say(note)
        with choice.open(engine, size=size) as depth:
            with PartialFolder(out, depth.made_of(), overwrite=overwrite) as partial:
                try:
                    done = _compute(bag, plan, depth, partial)
                    written = _write(bag, plan, depth, partial)
                    put_in_place(partial.whole(), out)
                except (KeyboardInterrupt, FiffDepthError):
                    if kept := partial.count():
                        say(f"{kept} depth maps are kept: the same command goes on from there.")
                    raise
                partial.remove()
            _summarize(source, out, plan, done, written, depth)
    if done.bad:
        ctx.exit(1)


@dataclass(kw_only=True)
class _Done:
    """computed: in this run, in `seconds`; already: in an earlier one. bad: images that cannot be used."""

    computed: int = 0
    already: int = 0
    bad: int = 0
    seconds: float = 0.0


def _compute(bag: Bag, plan: Plan, depth: Depth, partial: PartialFolder) -> _Done:
    """Every image of the bag -> its depth map, kept in `partial`. Raises BagError: no image can be used."""
    from fiffdepth_rt.batch.overlap import overlapped
    from fiffdepth_rt.ros.images import to_photo

    done = _Done()
    checked = plan.metres is None

    def read(record: Record) -> Pixels:
        return to_photo(bag.decode(record))

    def compute(photo: Pixels) -> DepthMap:
        return depth.infer(photo)

    def keep(record: Record, depth_map: DepthMap) -> DepthMap:
        partial.keep(record, depth_map.values)
        return depth_map

    start = time.perf_counter()
    with moving_line("Frames", unit=" frames", total=plan.image.count) as line:

        def missing() -> Iterator[Record]:
            for record in bag.messages(plan.image.name):
                if partial.has(record):
                    done.already += 1
                    line.update()
                else:
                    yield record

        with closing(overlapped(missing(), read=read, compute=compute, write=keep)) as outcomes:
            for record, outcome in outcomes:
                try:
                    depth_map = outcome.result()
                except MessageError as error:
                    done.bad += 1
                    if done.bad <= _NAMED:
                        say(f"Left out: the image recorded at {record.recorded_ns / 1e9:.3f} s. {error}")
                else:
                    done.computed += 1
                    if not checked and plan.metres is not None:
                        plan.metres.check(depth_map)
                        checked = True
                line.update()
    done.seconds = time.perf_counter() - start
    if not done.computed and not done.already:
        raise BagError(
            f"None of the {done.bad} images of {plan.image.name} can be used, for the reasons above: name "
            "another topic with --image-topic."
        )
    return done


def _write(bag: Bag, plan: Plan, depth: Depth, partial: PartialFolder) -> Written:
    """The bag with depth, whole, in `partial`. Raises BagError: metres are asked for, no frame has any."""
    from fiffdepth_rt.depth_map import DepthMap
    from fiffdepth_rt.ros.bag_result import Written, write_result

    model_sha256 = depth.describe()["model_sha256"]

    def as_depth_map(values: Values) -> DepthMap:
        return DepthMap(
            values=values, space=depth.output_space, model=depth.manifest.name, model_sha256=model_sha256
        )

    written = Written()
    total = sum(topic.count for topic in bag.topics.values())
    with moving_line("Writing", unit=" messages", total=total) as line:
        for _ in write_result(bag, plan, partial, as_depth_map, written):
            line.update()
    if plan.metres is not None and written.without_metres == written.counts[plan.names["relative_depth"]]:
        raise BagError(f"No frame has metres, so nothing was written. The first one: {written.why}")
    return written


def _summarize(source: Path, out: Path, plan: Plan, done: _Done, written: Written, depth: Depth) -> None:
    per_s = done.computed / done.seconds if done.seconds else 0.0
    already = f", and {done.already} were there already" if done.already else ""
    tell(f"{shown(source)} -> {shown(out)}: {done.computed} frames, {per_s:.1f} per second{already}")
    for topic, count in written.counts.items():
        tell(f"  {topic} ({count})")
    if plan.metres is not None:
        tell(f"Metres {plan.metres.summary()}.")
    if written.without_metres:
        say(f"{written.without_metres} frames have relative depth alone. The first one: {written.why}")
    if done.bad:
        say(f"{done.bad} images were left out, for the reasons above.")
    tell(f"{plan.names['relative_depth']}: {depth.output_space.sentence}")
