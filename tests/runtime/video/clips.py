"""Small videos, made with PyAV in a few lines; and what is in a video, read back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

RATE = 10


def picture(index: int, height: int = 48, width: int = 64) -> np.ndarray:
    """A grey bar that walks over a ramp, RGB; what a lossy codec leaves of it still tells its number."""
    pixels = np.repeat(np.linspace(40, 120, width)[None, :, None], height, axis=0).repeat(3, axis=2)
    pixels[:, (index * 3) % (width - 8) : (index * 3) % (width - 8) + 8] = 230
    return pixels.astype(np.uint8)


def walk(count: int, height: int = 48, width: int = 64) -> list[np.ndarray]:
    return [picture(index, height, width) for index in range(count)]


def write_clip(
    path: Path,
    pictures: Iterable[np.ndarray | av.VideoFrame],
    *,
    ticks: Sequence[int] | None = None,
    time_base: Fraction = Fraction(1, RATE),
    codec: str = "libx264",
    pixels: str = "yuv420p",
    options: Mapping[str, str] | None = None,
    tone_hz: float = 0,
    sound_s: float = 0,
    sound_codec: str = "aac",
    **context: Any,
) -> Path:
    """Pictures (RGB, or PyAV's frames) at `ticks` × `time_base`, 0, 1, 2, … by default.

    context: attributes of the encoder.
    """
    if options is None:
        options = {"preset": "ultrafast", "crf": "10"} if codec == "libx264" else {}
    with av.open(str(path), "w") as output:
        stream = output.add_stream(codec, rate=round(1 / time_base), options=dict(options))
        stream.pix_fmt = pixels
        sound = output.add_stream(sound_codec, rate=48_000, layout="mono") if sound_s else None
        for index, pixels_or_frame in enumerate(pictures):
            frame = pixels_or_frame
            if isinstance(frame, np.ndarray):
                frame = av.VideoFrame.from_ndarray(frame, format="rgb24")
            if not index:
                stream.width, stream.height = frame.width, frame.height
                for name, value in {"time_base": time_base, **context}.items():
                    setattr(stream.codec_context, name, value)
            frame.pts, frame.time_base = ticks[index] if ticks else index, time_base
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
        if sound is not None:
            wave = 0.5 * np.sin(2 * np.pi * tone_hz * np.arange(round(sound_s * 48_000)) / 48_000)
            samples = av.AudioFrame.from_ndarray(wave[None].astype(np.float32), format="fltp", layout="mono")
            samples.sample_rate, samples.pts, samples.time_base = 48_000, 0, Fraction(1, 48_000)
            output.mux(sound.encode(samples))
            output.mux(sound.encode(None))
    return path


def lossless(path: Path, pictures: Iterable[np.ndarray], **options: Any) -> Path:
    """FFV1 in RGB: what is read is what was written."""
    return write_clip(path, pictures, codec="ffv1", pixels="bgr0", **options)


@dataclass(frozen=True, kw_only=True)
class Clip:
    """What is in a video: its pictures and their times in s, its sound's packets as (pts in s, bytes)."""

    pictures: list[np.ndarray]
    times: list[float]
    end_s: float
    tags: dict[str, str]
    codec: str
    sound_codec: str | None
    sound: list[tuple[float, bytes]]

    def loudest_hz(self, path: Path) -> float:
        with av.open(str(path)) as container:
            frames = [frame.to_ndarray()[0] for frame in container.decode(audio=0)]
            rate = container.streams.audio[0].rate
        wave = np.concatenate(frames)
        return float(np.abs(np.fft.rfft(wave))[1:].argmax() + 1) * rate / len(wave)


def _rgb(frame: av.VideoFrame) -> np.ndarray:
    """By the matrix that the frame itself names (older PyAVs do not), limited range."""
    if not frame.format.name.startswith("yuv"):
        return frame.to_ndarray(format="rgb24")
    red, blue = (0.2126, 0.0722) if frame.colorspace == 1 else (0.299, 0.114)  # BT.709, else BT.601
    y, u, v = frame.to_ndarray(format="yuv444p").astype(np.float32)
    y, u, v = (y - 16) / 219, (u - 128) / 224, (v - 128) / 224
    r, b = y + 2 * (1 - red) * v, y + 2 * (1 - blue) * u
    g = (y - red * r - blue * b) / (1 - red - blue)
    return np.rint(np.clip(np.stack([r, g, b], axis=-1), 0, 1) * 255).astype(np.uint8)


def read(path: Path, *, format: str = "rgb24") -> Clip:
    with av.open(str(path)) as container:
        video = container.streams.video[0]
        pictures, times, sound, end_s = [], [], [], 0.0
        for packet in container.demux():
            if packet.stream.type == "audio" and packet.size:
                sound.append((float(packet.pts * packet.time_base), bytes(packet)))
            if packet.stream is video:
                if packet.size:
                    end_s = max(end_s, float((packet.pts + (packet.duration or 0)) * packet.time_base))
                for frame in packet.decode():
                    pictures.append(_rgb(frame) if format == "rgb24" else frame.to_ndarray(format=format))
                    times.append(frame.time)
        sounds = container.streams.audio
        return Clip(
            pictures=pictures,
            times=times,
            end_s=end_s,
            tags={key.upper(): value for key, value in container.metadata.items()},
            codec=video.codec_context.codec.canonical_name,
            sound_codec=sounds[0].codec_context.codec.canonical_name if sounds else None,
            sound=sound,
        )
