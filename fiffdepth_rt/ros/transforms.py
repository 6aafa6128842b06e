"""Rigid transforms between frames: given as numbers, or looked up in what a robot says once (tf_static)."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from fiffdepth_rt.errors import MessageError, shortened

Numbers = npt.NDArray[np.float64]

_LISTED = 20  # frames in an error


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Transform:
    """p ↦ rotation · p + translation. float64 3×3, orthonormal; float64 3, metres."""

    rotation: Numbers
    translation: Numbers

    def __call__(self, points: npt.NDArray[np.floating[Any]]) -> Numbers:
        """float N×3 -> float64 N×3, metres."""
        return np.asarray(points @ self.rotation.T + self.translation)

    def after(self, first: Transform) -> Transform:
        """This transform of what `first` gives."""
        return Transform(
            rotation=self.rotation @ first.rotation,
            translation=self.rotation @ first.translation + self.translation,
        )

    def inverse(self) -> Transform:
        return Transform(rotation=self.rotation.T, translation=-self.rotation.T @ self.translation)


IDENTITY = Transform(rotation=np.eye(3), translation=np.zeros(3))


def from_pose(x: float, y: float, z: float, qx: float, qy: float, qz: float, qw: float) -> Transform:
    """The pose of a child frame in its parent (metres, unit quaternion) -> points of the child in the parent.

    The order is that of tf2_ros's static_transform_publisher and of `tf2_echo PARENT CHILD`.
    Raises MessageError: numbers that are not finite, a quaternion whose length is not 1.
    """
    translation, q = np.array([x, y, z], np.float64), np.array([qx, qy, qz, qw], np.float64)
    length = float(np.linalg.norm(q))
    if not (np.isfinite(translation).all() and abs(length - 1) < 0.01):  # NaN is not
        raise MessageError(
            f"x, y, z, qx, qy, qz, qw = {x:g}, {y:g}, {z:g}, {qx:g}, {qy:g}, {qz:g}, {qw:g} is no pose: the "
            f"last four are a rotation, and their length is {length:g} instead of 1."
        )
    vector, w = q[:3] / length, q[3] / length
    cross = np.array([[0, -vector[2], vector[1]], [vector[2], 0, -vector[0]], [-vector[1], vector[0], 0]])
    return Transform(rotation=np.eye(3) + 2 * w * cross + 2 * cross @ cross, translation=translation)


class FrameTree:
    """Frames and their parents, as tf2_msgs/TFMessage says on tf_static; the last word of a frame holds."""

    def __init__(self, messages: Iterable[Any] = ()) -> None:
        self._parents: dict[str, tuple[str, Transform]] = {}
        for message in messages:
            for stamped in message.transforms:
                at, turned = stamped.transform.translation, stamped.transform.rotation
                pose = from_pose(at.x, at.y, at.z, turned.x, turned.y, turned.z, turned.w)
                self._parents[_name(stamped.child_frame_id)] = (_name(stamped.header.frame_id), pose)

    def between(self, *, source: str, target: str) -> Transform:
        """Points in the frame `source` -> the same points in the frame `target`.

        Raises MessageError: no chain of static transforms joins the two.
        """
        up, down = self._to_root(_name(source)), self._to_root(_name(target))
        common = next((frame for frame in up if frame in down), None)
        if common is None:
            known = sorted({*self._parents, *(parent for parent, _ in self._parents.values())})
            listed = ", ".join(shortened(frame, 40) for frame in known[:_LISTED])
            raise MessageError(
                f"No static transforms join the frames {shortened(source, 80)!r} and "
                f"{shortened(target, 80)!r} "
                + (f"(frames of tf_static: {listed})." if known else "(there is no tf_static).")
            )
        return down[common].inverse().after(up[common])

    def _to_root(self, frame: str) -> dict[str, Transform]:
        """The frame and all above it -> points of the frame in each."""
        chain = {frame: IDENTITY}
        while frame in self._parents:
            parent, pose = self._parents[frame]
            if parent in chain:
                break  # a ring
            chain[parent] = pose.after(chain[frame])
            frame = parent
        return chain


def _name(frame: str) -> str:
    return frame.lstrip("/")  # tf of ROS 1 wrote /base_link
