"""A photo's bytes -> reply: what a replica does, with or without Ray."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from fiffdepth_rt.depth import Depth
from fiffdepth_rt.depth_map import DepthMap
from fiffdepth_rt.image import Pixels
from fiffdepth_rt.photos.loading import LoadedPhoto, load_photo_bytes
from fiffdepth_rt.serving.forms import Form, make_reply
from fiffdepth_rt.serving.limits import Limits
from fiffdepth_rt.serving.replies import BROKEN, Refusal, Reply, refusal_of

_log = logging.getLogger(__name__)


class Work:
    """Decoding, computing and encoding, each in a thread; photos overlap.

    depth: closed by whoever opened it. infer: photo -> depth map; by default `depth.infer` in a thread, one
    photo at a time.
    """

    def __init__(
        self, depth: Depth, limits: Limits, *, infer: Callable[[Pixels], Awaitable[DepthMap]] | None = None
    ) -> None:
        self._depth = depth
        self._limits = limits
        self._infer = infer or self._one_at_a_time
        self._turn = asyncio.Lock()

    async def answer(self, photo: bytes, form: Form) -> Reply:
        """Photo file -> its depth map, or why there is none. Never raises."""
        try:
            loaded = await asyncio.to_thread(self._decoded, photo, form)
            depth_map = await self._infer(loaded.pixels)
            notes = [str(note) for note in loaded.notes]
            return await asyncio.to_thread(make_reply, depth_map, form, notes=notes)
        except Refusal as refusal:
            return refusal.reply
        except Exception as error:
            told = refusal_of(error)
            if told is None:
                _log.exception("A photo of %d bytes failed.", len(photo))
            return (told or BROKEN).reply

    def _decoded(self, photo: bytes, form: Form) -> LoadedPhoto:
        """Raises Refusal, ImageError, SizeError."""
        limits = self._limits
        most = min(limits.pixels, limits.json_pixels) if form is Form.JSON else limits.pixels
        loaded = load_photo_bytes(photo, name="The photo", max_pixels=most)
        self._depth.grid_for((loaded.pixels.shape[0], loaded.pixels.shape[1]))  # before it joins a batch
        return loaded

    async def _one_at_a_time(self, pixels: Pixels) -> DepthMap:
        async with self._turn:
            return await asyncio.to_thread(self._depth.infer, pixels)
