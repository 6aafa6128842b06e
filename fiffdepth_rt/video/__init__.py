"""video or camera -> video or pictures. START HERE: convert.py, the whole journey in a few lines.

    opening.py    a name -> Source: a file or an address (reading.py), a camera, pictures
    upright.py    a decoded frame -> RGB as a person sees it
    result.py     depth maps -> a colour video, a 16-bit video (encoding.py), or pictures (folder.py)
    view.py       frames and depth maps -> Rerun's viewer (viewer.py), or a recording for it

FFmpeg's libraries read and write, through PyAV (the extra [video]). What reads or writes a video file imports
it, not this package.

Convention: a frame's time is exact, a Fraction of seconds since the source's start, and goes with the frame
to the result: variable rates and pauses stay. A 16-bit video holds round(65535 × depth map), like a 16-bit
picture (`DepthMap.save`).
"""

from fiffdepth_rt.video.convert import convert
from fiffdepth_rt.video.opening import open_source
from fiffdepth_rt.video.result import Both, Result, open_result
from fiffdepth_rt.video.source import Moment, Source
from fiffdepth_rt.video.view import open_view

__all__ = ["Both", "Moment", "Result", "Source", "convert", "open_result", "open_source", "open_view"]
