"""What `transformers.pipeline("depth-estimation")` gives, so that tools which are written for it take ours.

    from fiffdepth_rt.compat import pipeline    # in place of: from transformers import pipeline

    estimate = pipeline("depth-estimation", model="engines/fiffdepth")
    estimate("photo.jpg")["depth"].save("depth.png")

As in transformers 5.24 (pipelines/depth_estimation.py), with these differences: a model is an engine
directory; arrays of uint8 are photos too; addresses are not, since this package fetches nothing; and
`predicted_depth` lies in [0, 1].
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from itertools import islice
from types import TracebackType
from typing import Any, Literal, TypedDict, overload

import numpy as np

from fiffdepth_rt.depth import Depth
from fiffdepth_rt.depth_map import DepthMap
from fiffdepth_rt.errors import ImageError

TASK: Literal["depth-estimation"] = "depth-estimation"


class DepthEstimation(TypedDict):
    """What is known of one photo.

    predicted_depth: float32 H×W of the photo's size; larger is nearer, as with transformers' relative models
        (DPT, Depth Anything): the values of a disparity model, or 1 − those of a depth model. A torch.Tensor
        on the CPU where the program has imported torch, else a numpy array.
    depth: PIL image of mode "L", predicted_depth from its least (0) to its greatest (255).
    """

    predicted_depth: Any
    depth: Any


class DepthEstimationPipeline:
    """Photos -> DepthEstimation. Made by `pipeline`; `close`, or a `with` block, frees the engine."""

    task = TASK

    def __init__(self, depth: Depth) -> None:
        self.model = depth

    @overload
    def __call__(
        self, inputs: list[Any] | tuple[Any, ...], *, batch_size: int = 1
    ) -> list[DepthEstimation]: ...

    @overload
    def __call__(self, inputs: Iterator[Any], *, batch_size: int = 1) -> Iterator[DepthEstimation]: ...

    @overload
    def __call__(self, inputs: Any, *, batch_size: int = 1) -> DepthEstimation: ...

    def __call__(self, inputs: Any, *, batch_size: int = 1) -> Any:
        """inputs -> DepthEstimation.

        inputs: a PIL image, a path, or a uint8 array H×W×3 RGB; a list of them, which gives a list; or an
            iterator, which gives one that computes when it is asked.

        batch_size: how many photos are computed at once, where there are several of one size.

        Raises what `Depth.infer` raises; ImageError for an address.
        """
        if isinstance(inputs, (list, tuple)):
            return list(self._each(inputs, batch_size))
        if isinstance(inputs, Iterator):
            return self._each(inputs, batch_size)
        return self._estimation(self.model.infer(_local(inputs)))

    def _each(self, photos: Iterable[Any], batch_size: int) -> Iterator[DepthEstimation]:
        remaining = iter(photos)
        while batch := [_local(photo) for photo in islice(remaining, max(1, batch_size))]:
            yield from map(self._estimation, self.model.infer_batch(batch))

    def _estimation(self, depth_map: DepthMap) -> DepthEstimation:
        from PIL import Image

        near = depth_map.nearness()
        low, high = float(near.min()), float(near.max())
        levels = (near - low) / (high - low or 1) * 255
        torch = sys.modules.get("torch")  # never imported here: who handles tensors has done it
        return {
            "predicted_depth": near if torch is None else torch.from_numpy(near),
            "depth": Image.fromarray(levels.astype(np.uint8)),
        }

    def close(self) -> None:
        """Free the engine; calling afterwards raises InferenceError."""
        self.model.close()

    def __enter__(self) -> DepthEstimationPipeline:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def pipeline(
    task: Literal["depth-estimation"] = TASK,
    model: str | os.PathLike[str] | None = None,
    *,
    device: str | int | None = None,
) -> DepthEstimationPipeline:
    """Engine directory -> what turns photos into DepthEstimations.

    task: "depth-estimation". model: an engine directory; None for the bundled one.
    device: "cpu", "cuda", "cuda:1", or a number as in transformers: -1 is the CPU, 1 is cuda:1. None for the
        best that is usable here.

    Raises ValueError for another task, and what `Depth` raises.
    """
    if task != TASK:
        raise ValueError(f"task={task!r} is not possible: this pipeline does {TASK!r} alone.")
    if isinstance(device, int):
        device = "cpu" if device < 0 else f"cuda:{device}"
    return DepthEstimationPipeline(Depth(model, device=device))


def _local(photo: Any) -> Any:
    if (
        isinstance(photo, str)
        and photo.lower().startswith(("http://", "https://"))
        and not os.path.lexists(photo)
    ):
        raise ImageError(
            f"{photo} is an address, and nothing is fetched here: download it, and pass the file's path; or "
            "`fiffdepth infer` takes addresses."
        )
    return photo
