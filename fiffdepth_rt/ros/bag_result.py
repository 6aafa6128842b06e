"""Depth maps that are kept, and a bag -> the bag with depth, in one pass."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Generator
from typing import Any

from fiffdepth_rt.depth_map import DepthMap, Values
from fiffdepth_rt.errors import AlignmentError, MessageError
from fiffdepth_rt.ros.bag_writing import BagWriter
from fiffdepth_rt.ros.bags import Bag, Record
from fiffdepth_rt.ros.frames import TYPES
from fiffdepth_rt.ros.images import to_photo
from fiffdepth_rt.ros.metric import measured_ns
from fiffdepth_rt.ros.partial import PartialFolder
from fiffdepth_rt.ros.plan import Plan


@dataclasses.dataclass(kw_only=True)
class Written:
    """counts: messages of each new topic. without_metres: images with relative depth alone; why: the first
    reason."""

    counts: dict[str, int] = dataclasses.field(default_factory=dict)
    without_metres: int = 0
    why: str | None = None


def write_result(
    bag: Bag,
    plan: Plan,
    partial: PartialFolder,
    as_depth_map: Callable[[Values], DepthMap],
    written: Written,
) -> Generator[None, None, None]:
    """Every message of `bag`, and depth behind each image that has any -> `partial.bag`, whole.

    Yields after each message of the bag, and counts in `written`. Holds one message and its depth at a time.
    Raises BagError, OutputError.
    """
    notes: dict[str, str] = {}
    with BagWriter(partial.bag, source=bag, like=plan.image.name) as writer:
        for record in bag.messages():
            writer.copy(record)
            if record.topic == plan.image.name and partial.has(record):
                depth_map = as_depth_map(partial.kept(record))
                notes = notes or depth_map.labels(highest="1")
                for name, message in _messages(bag, plan, record, depth_map, written).items():
                    topic = plan.names[name]
                    writer.add(topic, TYPES[name], message, recorded_ns=record.recorded_ns)
                    written.counts[topic] = written.counts.get(topic, 0) + 1
            yield
        writer.note("fiffdepth", json.dumps({plan.names["relative_depth"]: notes}))


def _messages(bag: Bag, plan: Plan, record: Record, depth_map: DepthMap, written: Written) -> dict[str, Any]:
    image = bag.decode(record)
    messages = plan.publishing.relative(depth_map, header=image.header)
    if plan.metres is None:
        return messages
    time_ns = measured_ns(image, record)
    try:
        camera_info = None if plan.camera_infos is None else plan.camera_infos.at(time_ns)[0]
        depth_m = plan.metres(depth_map, image=image, time_ns=time_ns, camera_info=camera_info)
        photo = to_photo(image)
        messages |= plan.publishing.metric(depth_m, photo, header=image.header, camera_info=camera_info)
    except (AlignmentError, MessageError) as error:
        written.without_metres += 1
        written.why = written.why or str(error)
    return messages
