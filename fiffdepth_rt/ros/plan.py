"""What is to be done with a bag, decided before any work: topics, where metres come from, where it goes."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path

from fiffdepth_rt.atomic import NAME_MAX_BYTES
from fiffdepth_rt.errors import BagError, MessageError, OutputError
from fiffdepth_rt.files import refuse_existing
from fiffdepth_rt.geometry.calibration import Calibration
from fiffdepth_rt.ros import frames
from fiffdepth_rt.ros.bags import CAMERA_INFO, CLOUD, IMAGES, Bag, Kind, Topic
from fiffdepth_rt.ros.cameras import is_distorted
from fiffdepth_rt.ros.images import DepthEncoding
from fiffdepth_rt.ros.messages import rosbags_types
from fiffdepth_rt.ros.metric import (
    CalibratedMetres,
    LidarMetres,
    MetresOf,
    Nearest,
    check_transform,
    static_transforms,
)
from fiffdepth_rt.ros.transforms import Transform

IN_FOLDER = {Kind.MCAP: ".mcap", Kind.SQLITE3: ".db3-journal"}
"""The longest ending of a file in a ROS 2 bag's folder, whose name begins with the folder's."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Asked:
    """What a user said of a bag; None where nothing was said.

    image_topic, camera_info_topic, lidar_topic: names. lidar_to_camera: points of the lidar in the camera's
    optical frame. max_lag_s: by how much a cloud and an image may be apart. calibration: a file. prefix: what
    the new topics' names begin with. encoding, point_stride: as in `frames.Publishing`.
    """

    image_topic: str | None = None
    camera_info_topic: str | None = None
    lidar_topic: str | None = None
    lidar_to_camera: Transform | None = None
    max_lag_s: float = 0.1
    calibration: Path | None = None
    prefix: str | None = None
    encoding: DepthEncoding = "32FC1"
    point_stride: int = 4


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Plan:
    """image: whose depth is computed. names: of the new topics, by the names in `frames.TYPES`.
    camera_infos: None where there is none. metres: None for relative depth alone. notes: what a user should
    know, a sentence each."""

    image: Topic
    names: Mapping[str, str]
    camera_infos: Nearest | None
    metres: MetresOf | None
    publishing: frames.Publishing
    notes: tuple[str, ...]


def plan_of(bag: Bag, asked: Asked, *, seen: Callable[[], object] = lambda: None) -> Plan:
    """What is asked of a bag -> what is to be done. seen: called for each message that is read for it.

    Raises BagError, CalibrationError or MessageError: what was asked for is not there, or does not fit.
    """
    image = bag.choose(asked.image_topic, IMAGES, option="--image-topic", what="images")
    infos = _camera_infos(bag, asked, image, seen)
    return Plan(
        image=image,
        names=_names(bag, asked, image),
        camera_infos=infos,
        metres=_metres(bag, asked, image, infos, seen),
        publishing=frames.Publishing(
            types=rosbags_types(bag.typestore), encoding=asked.encoding, point_stride=asked.point_stride
        ),
        notes=_notes(asked, image, infos),
    )


def check_result(out: Path, bag: Bag, *, overwrite: bool) -> None:
    """Raises OutputError: a name that is no bag of this kind, or too long; the bag itself, or a folder around
    or in it; something that is there already (unless it is a bag, and overwrite)."""
    if bag.kind is Kind.ROS1 and out.suffix != ".bag":
        raise OutputError(
            f"{bag.path} is a bag of ROS 1, and so is the result: name a file that ends in .bag."
        )
    endings = {".bag", ".db3", ".mcap"} - ({".mcap"} if bag.kind is Kind.MCAP else set())
    if bag.kind is not Kind.ROS1 and out.suffix in endings:
        raise OutputError(f"{bag.path} is a {bag.kind.called}, and so is the result: name a folder.")
    source, place = Path(os.path.realpath(bag.path)), Path(os.path.realpath(out))
    if place == source or place in source.parents or source in place.parents:
        raise OutputError(f"{out} is the bag {bag.path} itself, or around or in it: name another place.")
    if bag.kind is Kind.SQLITE3 and (odd := sorted({*"?#%"} & {*str(place)})):
        raise OutputError(f"{out} would be misread by SQLite, for its {odd[0]}: choose a name without it.")
    most = NAME_MAX_BYTES - len(IN_FOLDER.get(bag.kind, ""))
    if out.suffix not in endings | {".mcap"} and len(os.fsencode(out.name)) > most:
        raise OutputError(
            f"{out.name} is too long: the file in a bag's folder has the folder's name and an ending. "
            f"Choose a name of at most {most} bytes."
        )
    if not overwrite:
        refuse_existing(out)
    if out.is_dir() and not ((out / "metadata.yaml").is_file() and out.suffix != ".mcap"):
        raise OutputError(
            f"{out} is a folder, and not one of a bag, so it is not replaced: name another place."
        )
    if not out.parent.is_dir():
        raise OutputError(f"There is no folder {out.parent} for the result: make it first.")


def _names(bag: Bag, asked: Asked, image: Topic) -> Mapping[str, str]:
    prefix = asked.prefix or f"{_namespace(image)}/fiffdepth"
    if re.fullmatch(r"/?([A-Za-z]\w*/)*[A-Za-z]\w*/?", prefix, re.ASCII) is None:
        raise BagError(
            f"--prefix {prefix!r} is no namespace of ROS: say words of letters, digits and _, joined by /."
        )
    names = {name: f"/{prefix.strip('/')}/{name}" for name in frames.TYPES}
    if there := [name for name in names.values() if name in bag.topics]:
        raise BagError(
            f"{bag.path} has a topic {there[0]} already, of an earlier run perhaps: name another namespace "
            "for the new ones, by --prefix."
        )
    return names


def _namespace(image: Topic) -> str:
    """/camera/image_raw/compressed -> /camera"""
    return image.name.removesuffix("/compressed").rpartition("/")[0]


def _camera_infos(bag: Bag, asked: Asked, image: Topic, seen: Callable[[], object]) -> Nearest | None:
    """By its name, or the one beside the image, as ROS has them."""
    beside = bag.topics.get(f"{_namespace(image)}/camera_info")
    name = asked.camera_info_topic
    if name is None and beside is not None and beside.type == CAMERA_INFO and beside.count:
        name = beside.name
    if name is None:
        return None
    topic = bag.choose(name, (CAMERA_INFO,), option="--camera-info-topic", what="camera_info")
    return Nearest(bag, topic, seen=seen)


def _metres(
    bag: Bag, asked: Asked, image: Topic, infos: Nearest | None, seen: Callable[[], object]
) -> MetresOf | None:
    if asked.lidar_topic is not None and asked.calibration is not None:
        raise BagError("Metres come from --lidar-topic or from --calibration: name one of the two.")
    if asked.calibration is not None:
        return CalibratedMetres(calibration=Calibration.read(asked.calibration))
    if asked.lidar_topic is None:
        return None
    if not asked.max_lag_s >= 0:  # NaN is not
        raise BagError(f"--max-lag {asked.max_lag_s:g} is not possible: say seconds, 0 or more.")
    lidar = bag.choose(asked.lidar_topic, (CLOUD,), option="--lidar-topic", what="points")
    if infos is None:
        bag.choose(None, (CAMERA_INFO,), option="--camera-info-topic", what="camera_info")
        raise BagError(
            f"There is no camera_info beside {image.name}, and without it nobody knows which pixel sees a "
            f"point of {lidar.name}: name one with --camera-info-topic."
        )
    metres = LidarMetres(
        clouds=Nearest(bag, lidar, seen=seen),
        tree=static_transforms(bag),
        to_camera=asked.lidar_to_camera,
        max_lag_s=asked.max_lag_s,
    )
    for record in bag.messages(image.name):
        try:
            first = bag.decode(record)
        except MessageError:
            continue
        check_transform(metres, first, image.name)
        break
    return metres


def _notes(asked: Asked, image: Topic, infos: Nearest | None) -> tuple[str, ...]:
    if asked.lidar_topic is None and asked.calibration is None:
        return ()
    if infos is None:
        return (
            f"There is no camera_info beside {image.name}, so there will be no points: name one with "
            "--camera-info-topic.",
        )
    if is_distorted(infos.at(0)[0]) and "rect" not in image.name:
        return (
            f"The camera of {image.name} bends straight lines (its camera_info has distortion), and points "
            "are computed as of a pinhole: they are right for the topic of rectified images, as image_proc "
            "makes it.",
        )
    return ()
