"""The sound of a source's file -> the result's, in step with its frames.

The file is opened a second time, for its sound alone. Packets are copied as they are where the result's
container takes their codec; else the sound is encoded anew (AAC, in .webm Opus).
"""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
from av.audio.stream import AudioStream
from av.container.output import OutputContainer
from av.packet import Packet

_COPIED = {
    "mp4": {"aac", "mp3", "ac3", "eac3", "alac", "flac", "opus"},
    "mov": {"aac", "mp3", "ac3", "eac3", "alac", "pcm_s16le", "pcm_s16be", "pcm_s24le", "pcm_s24be"},
    "webm": {"opus", "vorbis"},
}
"""By container, the codecs that players of such files expect; FFmpeg's own list has more, and some wrong."""

_SAMPLE_RATE = 48_000  # of sound that is encoded anew: Opus knows no other that all sources fit


class Sound:
    """The best sound track of a file. Made by `open_sound`. failed: pieces that were left out."""

    def __init__(self, path: Path, *, start_s: Fraction) -> None:
        # Absolute: "at 12:30.mp4" is no address.
        self._input = av.open(os.path.abspath(path), metadata_errors="replace")  # noqa: PTH100
        best = self._input.streams.best("audio")
        self._stream = best if isinstance(best, AudioStream) else None
        self._start_s = start_s
        self._packets = self._demuxed()
        self._waiting: Packet | None = None
        self._last_dts: int | None = None
        self.failed = 0

    @property
    def there(self) -> bool:
        """Whether the file has sound at all."""
        return self._stream is not None and self._stream.codec_context is not None

    def add_to(self, output: OutputContainer) -> None:
        """Add a track; before the first `write_until`."""
        assert self._stream is not None
        self._output = output
        container = output.format.name
        codec = self._stream.codec_context.codec.canonical_name
        self._copies = codec in _COPIED[container] and _takes(container, self._stream)
        if self._copies:
            self._track = output.add_stream_from_template(self._stream)
        else:
            name = "libopus" if container == "webm" else "aac"
            self._track = output.add_stream(name, rate=_SAMPLE_RATE)
            self._track.layout = "mono" if self._stream.layout.nb_channels == 1 else "stereo"

    def write_until(self, time_s: Fraction | None) -> None:
        """Sound up to `time_s`, or to its end."""
        while True:
            packet, self._waiting = self._waiting or next(self._packets, None), None
            if packet is None:
                return
            ticks = packet.pts if packet.pts is not None else packet.dts
            if ticks is None or packet.time_base is None:
                continue
            if time_s is not None and ticks * packet.time_base - self._start_s > time_s:
                self._waiting = packet
                return
            self._write(packet)

    def finish(self) -> None:
        """What the encoder still holds."""
        if not self._copies:
            with self._or_silence():
                self._output.mux(self._track.encode(None))

    def close(self) -> None:
        self._input.close()

    def _write(self, packet: Packet) -> None:
        if self._copies:
            if packet.dts is None or (self._last_dts is not None and packet.dts <= self._last_dts):
                return  # a joint in a recording; no container takes time that goes back
            self._last_dts = packet.dts
            shift = round(self._start_s / packet.time_base)
            packet.stream = self._track
            packet.pts = None if packet.pts is None else packet.pts - shift
            packet.dts -= shift
            with self._or_silence():
                self._output.mux(packet)
            return
        assert self._stream is not None
        with self._or_silence():
            for frame in self._stream.decode(packet):
                if frame.pts is not None:
                    frame.pts -= round(self._start_s / frame.time_base)
                self._output.mux(self._track.encode(frame))

    @contextlib.contextmanager
    def _or_silence(self) -> Iterator[None]:
        """A broken piece of sound is left out, and does not end the picture."""
        try:
            yield
        except (av.FFmpegError, ValueError):  # ValueError: PyAV's, where channels change in the middle
            self.failed += 1

    def _demuxed(self) -> Iterator[Packet]:
        try:
            for packet in self._input.demux(self._stream):
                if packet.size:
                    yield packet
        except av.FFmpegError:
            return  # the picture's reader tells that the file is damaged


def _takes(container: str, stream: AudioStream) -> bool:
    """Whether a container can begin with this track: tried in memory."""
    try:
        with av.open(io.BytesIO(), "w", format=container) as trial:
            trial.add_stream_from_template(stream)
            trial.start_encoding()
    except (av.FFmpegError, ValueError):
        return False
    return True


def open_sound(path: Path, *, start_s: Fraction) -> Sound | None:
    """File, and where time 0 is in it -> its sound; None where it has none."""
    sound = Sound(path, start_s=start_s)
    if sound.there:
        return sound
    sound.close()
    return None
