"""A model in a program of asyncio: python with_asyncio.py *.jpg

`infer` computes in a thread, so the loop stays free. Two photos at once, whatever comes: each needs memory of
its own, and more at once are no faster on a CPU.
"""

import asyncio
import sys

import numpy as np

import fiffdepth_rt


async def main(photos: list[str]) -> None:
    at_once = asyncio.Semaphore(2)
    with fiffdepth_rt.Depth() as depth:

        async def infer(photo: str) -> fiffdepth_rt.DepthMap:
            async with at_once:
                return await asyncio.to_thread(depth.infer, photo)

        for photo, d in zip(photos, await asyncio.gather(*map(infer, photos)), strict=True):
            height, width = d.photo_hw
            print(f"{photo}: {width}x{height} px, median {np.median(d.values):.3f}")


asyncio.run(main(sys.argv[1:]))
