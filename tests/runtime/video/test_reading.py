"""Promises of reading: every frame of a source, at its time, as a person sees it."""

from __future__ import annotations

import functools
import http.server
import os
import random
import struct
import threading
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from PIL import Image

from fiffdepth_rt.errors import DamagedVideoError, FiffDepthError, SourceError, SourceLostError
from fiffdepth_rt.stream import Frame
from fiffdepth_rt.video import Moment, open_source
from fiffdepth_rt.video.camera import Camera
from tests.runtime.video.clips import lossless, picture, walk, write_clip


def frames_of(path: Path | str, **options: float) -> list[Frame]:
    with open_source(str(path), **options) as source:
        return list(source)


def times_of(path: Path | str) -> list[Fraction]:
    return [frame.tag.time_s for frame in frames_of(path)]


# --- times ---


def test_frames_come_as_rgb_with_their_numbers_and_times(tmp_path: Path) -> None:
    frames = frames_of(lossless(tmp_path / "walk.mkv", walk(5)))
    np.testing.assert_array_equal([frame.photo for frame in frames], walk(5))
    assert [f.tag for f in frames] == [Moment(number=n, time_s=Fraction(n, 10)) for n in range(5)]


@pytest.mark.parametrize(
    ("ending", "time_base", "ticks"),
    [
        (".mp4", Fraction(1, 30_000), [0, 1001, 2002, 3003]),  # 29.97 a second
        (".mp4", Fraction(1, 1000), [0, 1, 2, 3]),  # a high-speed camera
        (".mp4", Fraction(1, 10), [0, 200, 400]),  # one in 20 s
        (".mp4", Fraction(1, 600), [0, 24, 48, 1800, 1830]),  # with a pause
        (".mkv", Fraction(1, 1000), [0, 83, 170, 265, 333]),  # a browser's recording
        (".ts", Fraction(1, 90_000), [0, 3600, 7200, 90_000]),
    ],
)
def test_frames_keep_their_times(ending: str, time_base: Fraction, ticks: list[int], tmp_path: Path) -> None:
    clip = write_clip(tmp_path / f"clip{ending}", walk(len(ticks)), ticks=ticks, time_base=time_base)
    assert times_of(clip) == [tick * time_base for tick in ticks]


def test_the_empty_chunks_of_a_capture_program_are_a_pause(tmp_path: Path) -> None:
    clip = write_clip(
        tmp_path / "gap.avi", walk(5), codec="mjpeg", pixels="yuvj420p", ticks=[0, 1, 2, 10, 11]
    )
    with av.open(str(clip)) as container:
        assert container.streams.video[0].frames == 12
    assert times_of(clip) == [Fraction(n, 10) for n in (0, 1, 2, 10, 11)]


def test_a_stream_without_a_container_has_its_rate(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "raw.h264", walk(6), time_base=Fraction(1, 25))
    assert times_of(clip) == pytest.approx([n / 25 for n in range(6)])


def test_what_an_edit_list_leaves_out_is_not_missing(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "cut.mp4", walk(30), ticks=range(-13, 17))  # 13 frames before time 0
    with av.open(str(clip)) as container:
        assert container.streams.video[0].frames == 30
    assert times_of(clip) == [Fraction(n, 10) for n in range(17)]


def test_sound_that_goes_on_after_the_picture_is_not_damage(tmp_path: Path) -> None:
    clip = lossless(tmp_path / "song.mkv", walk(10), sound_codec="pcm_s16le", sound_s=9)
    assert times_of(clip) == [Fraction(n, 10) for n in range(10)]


# --- as a person sees it ---


def quarters(*levels: int, height: int = 48, width: int = 64) -> np.ndarray:
    """Four grey quarters: top left, top right, bottom left, bottom right."""
    cells = np.array(levels, np.uint8).reshape(2, 2).repeat(height // 2, 0).repeat(width // 2, 1)
    return np.repeat(cells[..., None], 3, axis=2)


def levels_of(photo: np.ndarray) -> list[float]:
    """The grey in the middle of each quarter."""
    height, width = photo.shape[:2]
    return [
        float(
            photo[int(y * height) - 4 : int(y * height) + 4, int(x * width) - 4 : int(x * width) + 4].mean()
        )
        for y in (0.25, 0.75)
        for x in (0.25, 0.75)
    ]


@pytest.mark.parametrize(
    ("matrix", "seen"),
    [
        ((1, 0, 0, 1), [20, 80, 140, 200]),
        ((0, 1, -1, 0), [140, 20, 200, 80]),  # 90° clockwise: a phone held upright
        ((-1, 0, 0, -1), [200, 140, 80, 20]),
        ((0, -1, 1, 0), [80, 200, 20, 140]),
        ((-1, 0, 0, 1), [80, 20, 200, 140]),  # a front camera's mirror
        ((1, 0, 0, -1), [140, 200, 20, 80]),
        ((0, 1, 1, 0), [20, 140, 80, 200]),
        ((0, -1, -1, 0), [200, 80, 140, 20]),
    ],
)
def test_rotations_and_mirrors_are_followed(matrix: tuple[int, ...], seen: list[int], tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "turned.mp4", [quarters(20, 80, 140, 200)] * 2)
    data = bytearray(clip.read_bytes())
    a, b, c, d = (value * 2**16 for value in matrix)
    start = data.index(b"tkhd") + 44  # the matrix of the track's header
    data[start : start + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 2**30)
    clip.write_bytes(data)
    photo = frames_of(clip)[1].photo
    assert photo.shape == ((64, 48, 3) if b else (48, 64, 3))
    assert levels_of(photo) == pytest.approx(seen, abs=3)


@pytest.mark.parametrize(
    ("orientation", "seen"),
    [
        (1, [20, 80, 140, 200]),
        (3, [200, 140, 80, 20]),
        (6, [140, 20, 200, 80]),
        (8, [80, 200, 20, 140]),
    ],
)
def test_a_photo_with_exif_among_videos_is_read_and_turned(
    orientation: int, seen: list[int], tmp_path: Path
) -> None:
    """FFmpeg tells of EXIF in a way that PyAV 18 has no name for."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(quarters(20, 80, 140, 200)).save(tmp_path / "given.jpg", exif=exif, quality=95)
    (tmp_path / "given.jpg").rename(tmp_path / "given.mp4")
    (frame,) = frames_of(tmp_path / "given.mp4")
    assert levels_of(frame.photo) == pytest.approx(seen, abs=3)


@pytest.mark.parametrize(("aspect", "hw"), [(2, (48, 128)), (Fraction(8, 9), (54, 64))])
def test_pixels_become_square(aspect: Fraction, hw: tuple[int, int], tmp_path: Path) -> None:
    clip = write_clip(
        tmp_path / "wide.mp4", [quarters(20, 80, 140, 200)] * 2, sample_aspect_ratio=Fraction(aspect)
    )
    photo = frames_of(clip)[0].photo
    assert photo.shape[:2] == hw
    assert levels_of(photo) == pytest.approx([20, 80, 140, 200], abs=3)


def test_interlaced_frames_are_made_whole_and_that_is_said_once(tmp_path: Path) -> None:
    """A bright square that jumps between the two fields: as it is, a comb; made whole, each line like the
    next."""
    frames = []
    for n in range(6):
        lines = np.full((64, 64, 3), 60, np.uint8)
        lines[0::2, 8 * n : 8 * n + 16] = 220
        lines[1::2, 8 * n + 4 : 8 * n + 20] = 220
        frames.append(lines)
    interlaced = {"preset": "ultrafast", "crf": "5", "x264-params": "tff=1"}
    clip = write_clip(tmp_path / "camcorder.mp4", frames, options=interlaced)
    with av.open(str(clip)) as container:
        assert next(container.decode(video=0)).interlaced_frame
    with open_source(str(clip)) as source:
        photos = [frame.photo for frame in source]
        assert source.notes == ["The video is interlaced: whole frames are made of it (FFmpeg's bwdif)."]
    assert [frame.tag.time_s for frame in frames_of(clip)] == [Fraction(n, 10) for n in range(6)]
    assert [float(photo.mean()) for photo in photos] == pytest.approx([100] * 6, abs=6)

    def comb(photo: np.ndarray) -> float:
        return float(np.abs(np.diff(photo[:, :, 0].astype(float), axis=0)).mean())

    assert comb(frames[3]) > 15
    assert comb(photos[3]) < 5


@pytest.mark.parametrize(
    ("name", "codec", "pixels", "options"),
    [
        ("phone.mp4", "libx265", "yuv420p10le", {"x265-params": "log-level=0:crf=8"}),
        ("download.mp4", "libsvtav1", "yuv420p", {"crf": "5", "preset": "12", "svtav1-params": "lp=1"}),
        ("edit.mov", "prores_ks", "yuv422p10le", {}),
        ("disc.mpg", "mpeg2video", "yuv420p", {"qscale": "1"}),
        ("web.webm", "libvpx-vp9", "yuv420p", {"crf": "4", "b": "0"}),
    ],
)
def test_what_phones_browsers_and_studios_write_is_read(
    name: str, codec: str, pixels: str, options: dict[str, str], tmp_path: Path
) -> None:
    shown = [quarters(20, 80, 140, 200, height=128, width=128)] * 3
    clip = write_clip(
        tmp_path / name, shown, codec=codec, pixels=pixels, options=options, time_base=Fraction(1, 25)
    )
    frames = frames_of(clip)
    assert [levels_of(frame.photo) for frame in frames] == [pytest.approx([20, 80, 140, 200], abs=4)] * 3


@pytest.mark.parametrize(("matrix", "yuv"), [(1, (63, 102, 240)), (5, (81, 90, 240))])
def test_the_matrix_of_the_colours_is_the_file_s_own(
    matrix: int, yuv: tuple[int, ...], tmp_path: Path
) -> None:
    """Red as BT.709 codes it, and as BT.601 does."""
    red = filled("yuv420p", yuv, np.uint8)
    clip = write_clip(
        tmp_path / "red.mkv", [red], codec="ffv1", colorspace=matrix, color_range=1, color_primaries=matrix
    )
    (frame,) = frames_of(clip)
    assert tuple(frame.photo.mean(axis=(0, 1))) == pytest.approx((255, 0, 0), abs=2)


def filled(pixels: str, levels: tuple[int, ...], dtype: type) -> av.VideoFrame:
    """64×48 px of one colour."""
    frame = av.VideoFrame(64, 48, pixels)
    for plane, level in zip(frame.planes, levels, strict=True):
        count = plane.buffer_size // np.dtype(dtype).itemsize
        plane.update(np.full(count, level, dtype).tobytes())
    return frame


@functools.cache
def hdr_level(transfer: int, coded: float) -> tuple[float, ...]:
    """The RGB that a grey of `coded`, 10 bits, becomes."""
    import tempfile

    grey = filled("yuv420p10le", (64 + round(876 * coded), 512, 512), np.uint16)
    with tempfile.TemporaryDirectory() as folder:
        clip = write_clip(
            Path(folder) / "hdr.mkv",
            [grey],
            codec="ffv1",
            pixels="yuv420p10le",
            color_trc=transfer,
            color_primaries=9,
            colorspace=9,
            color_range=1,
        )
        with open_source(str(clip)) as source:
            (frame,) = source
            (note,) = source.notes
    assert note == f"The video is HDR ({'PQ' if transfer == 16 else 'HLG'}): its colours become sRGB."
    return tuple(frame.photo.mean(axis=(0, 1)))


def test_hdr_becomes_what_a_photo_would_show() -> None:
    pq, hlg = 16, 18
    assert hdr_level(pq, 0.0) == pytest.approx((0, 0, 0), abs=1)
    # 50 cd/m² is 0.4400 in PQ (ST 2084); a quarter of white, 50 / 203, is 0.533 in sRGB.
    assert hdr_level(pq, 0.4400) == pytest.approx((136, 136, 136), abs=2)
    # White, 203 cd/m², is 58 % in PQ and 75 % in HLG (BT.2408); the roll-off: 0.679 of it, 0.843 in sRGB.
    assert hdr_level(pq, 0.5807) == pytest.approx((215, 215, 215), abs=2)
    assert hdr_level(hlg, 0.75) == pytest.approx(hdr_level(pq, 0.5807), abs=3)
    assert hdr_level(pq, 0.7518) == pytest.approx((255, 255, 255), abs=1)  # 1000 cd/m²
    assert hdr_level(pq, 1.0) == pytest.approx((255, 255, 255), abs=1)


def test_a_video_that_changes_its_size_keeps_the_first_one(tmp_path: Path) -> None:
    """As a browser does when the connection gets worse."""
    large = write_clip(tmp_path / "large.h264", [quarters(20, 80, 140, 200)] * 3)
    small = write_clip(tmp_path / "small.h264", [quarters(200, 140, 80, 20, height=32, width=48)] * 3)
    both = tmp_path / "both.h264"
    both.write_bytes(large.read_bytes() + small.read_bytes())
    photos = [frame.photo for frame in frames_of(both)]
    assert [photo.shape for photo in photos] == [(48, 64, 3)] * 6
    assert levels_of(photos[5]) == pytest.approx([200, 140, 80, 20], abs=4)


# --- pictures as a video ---


@pytest.mark.parametrize("name", ["", "shot_*.png", "shot_%d.png"])
def test_a_folder_or_a_pattern_of_pictures_is_a_video(name: str, tmp_path: Path) -> None:
    for n in (1, 2, 10):
        Image.fromarray(picture(n)).save(tmp_path / f"shot_{n}.png")
    (tmp_path / "notes.txt").write_text("not a picture")
    frames = frames_of(tmp_path / name, fps=4)
    np.testing.assert_array_equal([frame.photo for frame in frames], [picture(n) for n in (1, 2, 10)])
    assert [frame.tag.time_s for frame in frames] == [0, Fraction(1, 4), Fraction(1, 2)]


def test_a_picture_that_cannot_be_read_is_left_out_and_told(tmp_path: Path) -> None:
    for n in range(3):
        Image.fromarray(picture(n)).save(tmp_path / f"{n}.png")
    (tmp_path / "1.png").write_bytes(b"not a picture")
    with open_source(str(tmp_path), fps=10) as source:
        frames = iter(source)
        assert [next(frames).tag.time_s, next(frames).tag.time_s] == [0, Fraction(1, 5)]
        with pytest.raises(DamagedVideoError, match=r"1 of 3 pictures of .* were left out.*1\.png"):
            next(frames)


def test_what_is_no_picture_of_a_folder_is_left_aside_and_named(tmp_path: Path) -> None:
    for n in range(3):
        Image.fromarray(picture(n)).save(tmp_path / f"{n}.png")
    for name in ("1_depth.png", "1_color.png", "2_depth_mm.png", "2_depth.npy.json", "times.txt"):
        Image.fromarray(picture(9)).save(tmp_path / name, format="PNG")
    with open_source(str(tmp_path)) as source:
        np.testing.assert_array_equal([frame.photo for frame in source], [picture(n) for n in range(3)])
        assert source.notes == [
            f"{tmp_path} holds more than pictures. Left aside: 4 results of an earlier run, 1 *.txt."
        ]


@pytest.mark.parametrize("name", ["*_color.png", "%d_color.png"])
def test_a_pattern_may_name_what_is_called_as_results_are(name: str, tmp_path: Path) -> None:
    """As cameras for colour and depth write it."""
    for n in range(2):
        Image.fromarray(picture(n)).save(tmp_path / f"{n}_color.png")
    frames = frames_of(tmp_path / name)
    np.testing.assert_array_equal([frame.photo for frame in frames], [picture(n) for n in range(2)])
    with pytest.raises(SourceError, match=r"holds no pictures .*left aside: 2 results of an earlier run"):
        open_source(str(tmp_path))


def test_a_picture_of_another_size_is_left_out_and_told(tmp_path: Path) -> None:
    for n in range(3):
        Image.fromarray(picture(n)).save(tmp_path / f"{n}.png")
    Image.fromarray(np.rot90(picture(1))).save(tmp_path / "1.png")
    height, width = picture(0).shape[:2]
    with open_source(str(tmp_path), fps=10) as source:
        frames = iter(source)
        assert [next(frames).tag.time_s, next(frames).tag.time_s] == [0, Fraction(1, 5)]
        with pytest.raises(
            DamagedVideoError, match=rf"1 of 3 .*1\.png has {width}×{height} px, and the first"
        ):
            next(frames)


@pytest.mark.skipif(os.geteuid() == 0, reason="this user (root) may read every folder")
def test_a_folder_that_may_not_be_read_is_said(tmp_path: Path) -> None:
    tmp_path.chmod(0)
    with pytest.raises(SourceError, match=r"cannot be read .Permission denied"):
        open_source(str(tmp_path))
    tmp_path.chmod(0o700)


@pytest.mark.parametrize("name", ["", "*.png", "f%03d.png"])
def test_a_place_without_pictures_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="holds no pictures"):
        open_source(str(tmp_path / name))


@pytest.mark.parametrize("fps", [0, -1, float("nan"), float("inf"), 1e-9])
def test_an_impossible_rate_is_refused(fps: float, tmp_path: Path) -> None:
    Image.fromarray(picture(0)).save(tmp_path / "0.png")
    with pytest.raises(SourceError, match=r"pictures per second are not possible"):
        open_source(str(tmp_path), fps=fps)


def test_a_pattern_of_videos_is_no_pattern_of_pictures(tmp_path: Path) -> None:
    write_clip(tmp_path / "walk.mp4", walk(2))
    with pytest.raises(SourceError, match="holds no pictures"):
        open_source(str(tmp_path / "*.mp4"))


def test_fps_is_for_pictures(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "walk.mp4", walk(2))
    with pytest.raises(SourceError, match="has times of its own"):
        open_source(str(clip), fps=25)


# --- bad weather ---


def good_frames_and_error(path: Path) -> tuple[list[Fraction], str]:
    times = []
    with open_source(str(path)) as source, pytest.raises(DamagedVideoError) as caught:
        for frame in source:
            times.append(frame.tag.time_s)
    return times, str(caught.value)


@pytest.mark.parametrize("broken", [(12, 13), (28,), (29,)])
def test_a_broken_stretch_is_left_out_and_counted(broken: tuple[int, ...], tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "broken.mp4", walk(30), options={"preset": "ultrafast", "g": "1"})
    with av.open(str(clip)) as container:
        places = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    data = bytearray(clip.read_bytes())
    for n in broken:
        pos, size = places[n]
        data[pos : pos + size] = b"\xff" * size
    clip.write_bytes(data)
    times, error = good_frames_and_error(clip)
    missing = [n for n in range(30) if Fraction(n, 10) not in times]
    assert (
        set(broken) <= set(missing) <= {*broken, 28, 29}
    )  # at the end, what PyAV's decoder holds back goes too
    frames = "1 frame" if len(missing) == 1 else "2 frames"
    assert f"{frames} of {clip} could not be decoded and " in error
    assert f" left out, the first behind {(missing[0] - 1) / 10:.2f} s" in error


@pytest.mark.parametrize(("name", "codec"), [("cut.avi", "mjpeg"), ("cut.mkv", "ffv1"), ("cut.mp4", "mpeg4")])
def test_a_file_that_breaks_off_is_told(name: str, codec: str, tmp_path: Path) -> None:
    pixels = {"mjpeg": "yuvj420p"}.get(codec, "yuv420p")
    whole = write_clip(tmp_path / f"whole{name[3:]}", walk(60), codec=codec, pixels=pixels)
    data = whole.read_bytes()
    if (
        name == "cut.mp4"
    ):  # its header last: moved to the front, as `faststart` does, or it could not be opened
        start = data.index(b"moov") - 4
        data = _moov_first(data, start)
    (tmp_path / name).write_bytes(data[: len(data) // 2])
    times, error = good_frames_and_error(tmp_path / name)
    assert 10 < len(times) < 50
    assert times == [Fraction(n, 10) for n in range(len(times))]
    assert "cut" in error and ("breaks off at" in error or "could not be decoded" in error)


def _moov_first(data: bytes, start: int) -> bytes:
    """MP4 of one track with its header at the end -> the same with the header before the frames."""
    mdat, moov = data.index(b"mdat") - 4, bytearray(data[start:])
    table = moov.index(b"stco")
    (count,) = struct.unpack_from(">I", moov, table + 8)
    for n in range(count):
        (offset,) = struct.unpack_from(">I", moov, table + 12 + 4 * n)
        struct.pack_into(">I", moov, table + 12 + 4 * n, offset + len(moov))
    return data[:mdat] + bytes(moov) + data[mdat:start]


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("99", "Camera 99 cannot be opened: plug it in"),
        ("nowhere.mp4", "does not exist: name a video file"),
        ("", "'' does not exist"),
        ("rtsp://someone:secret@127.0.0.1:9/live", r"rtsp://127\.0\.0\.1:9/live gives no video \(Connection"),
    ],
)
def test_a_source_that_cannot_be_opened_says_what_to_do(name: str, advice: str) -> None:
    with pytest.raises(SourceError, match=advice) as caught:
        open_source(name)
    assert "secret" not in str(caught.value)


def test_a_file_that_is_no_video_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.mp4").write_text("not a video")
    with pytest.raises(SourceError, match="cannot be read as a video"):
        open_source(str(tmp_path / "notes.mp4"))


@pytest.mark.parametrize(
    ("name", "listing"),
    [
        ("list.mp4", "ffconcat version 1.0\nfile other.mp4\n"),
        ("list.mp4", "#EXTM3U\n#EXTINF:10,\nother.mp4\n#EXT-X-ENDLIST\n"),
        ("list.m3u8", "#EXTM3U\n#EXTINF:10,\nother.mp4\n#EXT-X-ENDLIST\n"),
        ("list.sdp", "v=0\nm=video 5004 RTP/AVP 96\na=rtpmap:96 H264/90000\n"),
    ],
)
def test_a_list_of_other_files_opens_none_of_them(tmp_path: Path, name: str, listing: str) -> None:
    write_clip(tmp_path / "other.mp4", walk(3))
    (tmp_path / name).write_text(listing)
    with pytest.raises(SourceError, match="is a list of other files"):
        open_source(str(tmp_path / name))


def test_a_song_is_no_video(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "song.m4a"), "w", format="mp4") as output:
        track = output.add_stream("aac", rate=48_000, layout="mono")
        samples = av.AudioFrame.from_ndarray(np.zeros((1, 4800), np.float32), format="fltp", layout="mono")
        samples.sample_rate, samples.pts = 48_000, 0
        output.mux(track.encode(samples))
        output.mux(track.encode(None))
    with pytest.raises(SourceError, match="holds no video"):
        open_source(str(tmp_path / "song.m4a"))


def test_a_name_with_a_colon_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_clip(tmp_path / "clip.mp4", walk(4)).rename("at 12:30.mp4")
    assert len(frames_of("at 12:30.mp4")) == 4


@pytest.mark.parametrize("count", [100, pytest.param(5000, marks=pytest.mark.soak)])
def test_a_mutated_file_is_read_or_ends_in_a_typed_error(count: int, tmp_path: Path) -> None:
    whole = {
        "a.mp4": write_clip(tmp_path / "a.mp4", walk(8), tone_hz=440, sound_s=1),
        "a.mkv": lossless(tmp_path / "a.mkv", walk(8)),
        "a.avi": write_clip(tmp_path / "a.avi", walk(8), codec="mjpeg", pixels="yuvj420p"),
        "a.webm": write_clip(
            tmp_path / "a.webm", walk(8), codec="libvpx-vp9", options={"deadline": "realtime"}
        ),
    }
    seeds = {name: path.read_bytes() for name, path in whole.items()}
    chance = random.Random(0)
    outcomes = set()
    for _ in range(count):
        name = chance.choice(sorted(seeds))
        data = bytearray(seeds[name])
        for _ in range(chance.choice((1, 3, 10, 50))):
            place = chance.randrange(chance.choice((len(data), min(len(data), 1500))))
            if chance.random() < 0.8:
                data[place] = chance.randrange(256)
            else:
                del data[place : place + chance.randrange(64)]
        (tmp_path / name).write_bytes(data)
        try:
            with open_source(str(tmp_path / name)) as source:
                for frame, _ in zip(source, range(100), strict=False):
                    assert frame.photo.dtype == np.uint8
            outcomes.add("read")
        except FiffDepthError as error:
            outcomes.add(type(error).__name__)
    assert {"read", "SourceError", "DamagedVideoError"} <= outcomes


# --- cameras and addresses ---


@pytest.fixture
def network_camera() -> Iterator[str]:
    """An address that sends JPEGs as small cameras do, 20 of them, and knows no other page."""

    class Camera(http.server.BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            if self.path != "/live":
                self.send_error(404)
                return
            self.send_response(200)
            self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
            self.end_headers()
            for n in range(20):
                jpeg = cv2.imencode(".jpg", picture(n))[1].tobytes()
                head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
                self.wfile.write(head.encode() + jpeg + b"\r\n")

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Camera) as server:
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        serving.join()


def test_a_network_camera_is_live_and_its_end_is_told(network_camera: str) -> None:
    with open_source(f"{network_camera}/live") as source:
        assert source.live and source.frames is None
        frames = []
        with pytest.raises(SourceLostError, match=r"/live gives no more frames after \d+"):
            for frame in source:
                frames.append(frame)
    assert len(frames) >= 19
    assert np.abs(frames[3].photo.astype(int) - picture(3)).mean() < 4
    times = [frame.tag.time_s for frame in frames]
    assert times == sorted(times)


def test_an_address_that_is_not_there_says_so_at_once(network_camera: str) -> None:
    with pytest.raises(SourceError, match=r"/nothing gives no video \(.*404.*\): check the address"):
        open_source(f"{network_camera}/nothing")


def test_closing_a_source_waits_for_the_frame_being_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Releasing OpenCV's capture while it reads would crash the process."""
    reading, finish, released = threading.Event(), threading.Event(), []

    class SlowCamera:
        def __init__(self, _: int) -> None:
            pass

        def isOpened(self) -> bool:  # noqa: N802 - OpenCV's name
            return not released

        def read(self) -> tuple[bool, np.ndarray]:
            reading.set()
            finish.wait(10)
            assert not released
            return True, picture(0)[:, :, ::-1]

        def release(self) -> None:
            released.append(True)

    monkeypatch.setattr(cv2, "VideoCapture", SlowCamera)
    source = Camera(0)
    got: list[Frame] = []
    reader = threading.Thread(target=lambda: got.append(next(iter(source))))
    reader.start()
    assert reading.wait(10)
    closer = threading.Thread(target=source.close)
    closer.start()
    time.sleep(0.02)
    assert not released
    finish.set()
    reader.join(10)
    closer.join(10)
    assert released
    np.testing.assert_array_equal(got[0].photo, picture(0))  # RGB
