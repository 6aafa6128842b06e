"""Promises of results: playable files with the right values, times, sound and tags."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

import fiffdepth_rt
from fiffdepth_rt.errors import DamagedVideoError, FrameSizeError, OutputError
from fiffdepth_rt.image import Pixels
from fiffdepth_rt.stream import Frame
from fiffdepth_rt.video import Moment, Result, Source, convert, open_result, open_source
from tests.runtime.video.clips import Clip, lossless, picture, read, walk, write_clip


class Shown(Source):
    """Frames that a test says, at their times."""

    def __init__(self, pictures: list[np.ndarray], times_s: list[Fraction] | None = None) -> None:
        super().__init__()
        self.name = "shown"
        self.rate = Fraction(25)
        self._pictures = pictures
        self._times_s = times_s or [Fraction(n, 25) for n in range(len(pictures))]

    def _frames(self) -> Iterator[tuple[Fraction, Pixels]]:
        yield from zip(self._times_s, self._pictures, strict=True)

    def _judge_end(self, given: int) -> None:
        pass

    def _release(self) -> None:
        pass


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return lossless(tmp_path_factory.mktemp("clips") / "walk.mkv", walk(20))


def run(depth: fiffdepth_rt.Depth, clip: Path, out: Path, **options: object) -> Result:
    smooth = options.pop("smooth", None)
    with open_source(str(clip)) as source:
        result = open_result(out, source=source, **options)  # type: ignore[arg-type]
        assert list(convert(depth, source, result, smooth=smooth))[-1:] == [result.frames + result.already]  # type: ignore[arg-type]
    return result


def item(number: int, values: np.ndarray, time_s: Fraction) -> fiffdepth_rt.StreamItem:
    depth_map = fiffdepth_rt.DepthMap(values=values, space=fiffdepth_rt.Space.DEPTH)
    return fiffdepth_rt.StreamItem(
        index=number,
        photo=np.zeros((*values.shape, 3), np.uint8),
        depth_map=depth_map,
        tag=Moment(number=number, time_s=time_s),
    )


def expected(depth: fiffdepth_rt.Depth, count: int = 20) -> list[fiffdepth_rt.DepthMap]:
    return [depth.infer(frame) for frame in walk(count)]


def test_a_16_bit_video_holds_exactly_the_depth_maps(
    depth: fiffdepth_rt.Depth, clip: Path, tmp_path: Path
) -> None:
    run(depth, clip, tmp_path / "d.mkv")
    made = read(tmp_path / "d.mkv", format="gray16le")
    assert made.codec == "ffv1"
    np.testing.assert_array_equal(made.pictures, [np.rint(d.values * 65535) for d in expected(depth)])


def test_a_16_bit_video_says_what_its_values_mean(
    depth: fiffdepth_rt.Depth, clip: Path, tmp_path: Path
) -> None:
    run(depth, clip, tmp_path / "d.mkv")
    tags = read(tmp_path / "d.mkv").tags
    assert (tags["SPACE"], tags["MODEL"]) == ("depth", "toy")
    assert tags["CONVENTION"] == "affine-invariant depth: 0 = nearest, 65535 = farthest; not metres"


@pytest.mark.parametrize(("name", "codec"), [("c.mp4", "h264"), ("c.mov", "h264"), ("c.webm", "vp9")])
def test_a_colour_video_shows_the_depth_maps(
    depth: fiffdepth_rt.Depth, clip: Path, tmp_path: Path, name: str, codec: str
) -> None:
    run(depth, clip, tmp_path / name)
    made = read(tmp_path / name)
    assert (made.codec, len(made.pictures)) == (codec, 20)
    colors = [d.colors() for d in expected(depth)]
    off = np.subtract(made.pictures, colors, dtype=np.float32)
    assert np.abs(off).mean() < 8  # what the codec costs
    assert np.abs(off.mean(axis=(0, 1, 2))).max() < 2.5  # and no shift of a colour


def test_side_by_side_the_video_is_on_the_left(depth: fiffdepth_rt.Depth, clip: Path, tmp_path: Path) -> None:
    run(depth, clip, tmp_path / "c.mp4", side_by_side=True)
    shown = read(tmp_path / "c.mp4").pictures
    assert shown[0].shape == (48, 128, 3)
    assert np.abs(np.subtract([s[:, :64] for s in shown], walk(20), dtype=np.float32)).mean() < 6


@pytest.mark.parametrize(
    "times_s",
    [
        [Fraction(n * 1001, 30_000) for n in range(4)],
        [Fraction(n, 1000) for n in range(4)],
        [Fraction(0), Fraction(20), Fraction(40)],
        [Fraction(0), Fraction(83, 1000), Fraction(166, 1000), Fraction(2), Fraction(3)],
    ],
    ids=["ntsc", "high-speed", "slow", "pause"],
)
@pytest.mark.parametrize("name", ["c.mp4", "c.mov", "c.webm", "d.mkv"])
def test_frames_keep_their_times(
    depth: fiffdepth_rt.Depth, times_s: list[Fraction], name: str, tmp_path: Path
) -> None:
    source = Shown(walk(len(times_s)), times_s)
    for _ in convert(depth, source, open_result(tmp_path / name, source=source)):
        pass
    made = read(tmp_path / name)
    tick_s = 0.001 if name in ("c.webm", "d.mkv") else 1e-4  # Matroska counts milliseconds
    assert made.times == pytest.approx([float(t) for t in times_s], abs=tick_s)
    assert made.end_s == pytest.approx(float(times_s[-1] + times_s[-1] - times_s[-2]), abs=2 * tick_s)


def test_frames_that_come_at_one_moment_follow_one_another(tmp_path: Path) -> None:
    source = Shown([])
    result = open_result(tmp_path / "c.mp4", source=source)
    for n in range(3):
        result.write(item(n, np.full((32, 32), 0.5, np.float32), Fraction(1)))
    result.close(whole=True)
    first, second, third = read(tmp_path / "c.mp4").times
    assert 1 <= first < second < third < 1.001


def test_of_an_odd_size_nothing_is_cut_off(tmp_path: Path) -> None:
    d = np.random.default_rng(0).random((33, 47), dtype=np.float32)
    for name in ("d.mkv", "c.mp4"):
        result = open_result(tmp_path / name, source=Shown([]))
        result.write(item(0, d, Fraction(0)))
        result.close(whole=True)
    (values,) = read(tmp_path / "d.mkv", format="gray16le").pictures
    np.testing.assert_array_equal(values, np.rint(d * 65535))
    assert read(tmp_path / "c.mp4").pictures[0].shape == (34, 48, 3)  # H.264 halves the colours' resolution


def test_smoothing_is_passed_on(depth: fiffdepth_rt.Depth, clip: Path, tmp_path: Path) -> None:
    run(depth, clip, tmp_path / "d.mkv", smooth=5)
    values = read(tmp_path / "d.mkv", format="gray16le").pictures
    streamed = [item.depth_map.values for item in depth.stream(walk(20), smooth=5)]
    np.testing.assert_array_equal(values, [np.rint(d * 65535) for d in streamed])
    assert not np.array_equal(streamed, [d.values for d in expected(depth)])


def test_a_live_source_is_taken_latest_frame_first(depth: fiffdepth_rt.Depth, tmp_path: Path) -> None:
    """It never waits; each picture is that of its number."""
    camera = Shown(walk(20))
    camera.live = True
    result = open_result(tmp_path / "pictures", source=camera)
    list(convert(depth, camera, result))
    kept = {int(path.name[:6]): path for path in (tmp_path / "pictures").glob("*.png")}
    assert 19 in kept  # the latest
    assert len(kept) == result.frames
    for number, path in kept.items():
        with Image.open(path) as stored:
            d = depth.infer(picture(number))
            np.testing.assert_array_equal(np.asarray(stored), np.rint(d.values * 65535))


# --- sound ---


@pytest.mark.parametrize("name", ["c.mp4", "c.mov"])
def test_the_sound_is_kept_as_it_is_and_in_step(depth: fiffdepth_rt.Depth, tmp_path: Path, name: str) -> None:
    clip = write_clip(tmp_path / "talk.mp4", walk(10), tone_hz=440, sound_s=1)
    run(depth, clip, tmp_path / name)
    made, source = read(tmp_path / name), read(clip)
    assert made.sound_codec == "aac"
    assert [data for _, data in made.sound] == [data for _, data in source.sound]
    offsets = [made_s - source_s for (made_s, _), (source_s, _) in zip(made.sound, source.sound, strict=True)]
    assert offsets == pytest.approx([0] * len(offsets), abs=1e-4)


def _remuxed(clip: Path, to: Path, *, later_s: int = 0, twice: int = -1) -> Path:
    """The packets of a clip, later; that of sound with the number `twice` comes twice, as at a joint."""
    with av.open(str(clip)) as source, av.open(str(to), "w") as output:
        tracks = {stream.index: output.add_stream_from_template(stream) for stream in source.streams}
        number = 0
        for packet in source.demux():
            if packet.dts is None:
                continue
            moved = round(later_s / packet.time_base)
            packet.pts, packet.dts = packet.pts + moved, packet.dts + moved
            sound, kept = packet.stream.type == "audio", (packet.pts, packet.dts, bytes(packet))
            packet.stream = tracks[packet.stream.index]
            base, track = packet.time_base, packet.stream
            output.mux(packet)
            if sound and number == twice:
                again = av.Packet(kept[2])
                again.pts, again.dts, again.time_base, again.stream = kept[0], kept[1], base, track
                output.mux(again)
            number += sound
    return to


def _in_step(made: Clip, source: Clip) -> bool:
    """Whether each packet of sound comes as long after the first picture as it did."""
    was = {data: time_s - source.times[0] for time_s, data in source.sound}
    now = [(was[data], time_s - made.times[0]) for time_s, data in made.sound]
    return len(now) > 10 and all(abs(one - other) < 2e-3 for one, other in now)


@pytest.mark.parametrize("name", ["late.mkv", "late.nut"])
def test_the_sound_of_a_recording_that_does_not_begin_at_zero_stays_in_step(
    depth: fiffdepth_rt.Depth, tmp_path: Path, name: str
) -> None:
    talk = write_clip(tmp_path / "talk.mp4", walk(10), tone_hz=440, sound_s=1)
    late = _remuxed(talk, tmp_path / name, later_s=20)
    assert read(late).times[0] == 20
    run(depth, late, tmp_path / "copied.mp4")
    made = read(tmp_path / "copied.mp4")
    assert len(made.pictures) == 10 and 0 <= made.times[0] < 0.05 and _in_step(made, read(late))
    run(depth, late, tmp_path / "encoded.webm")
    assert read(tmp_path / "encoded.webm").sound[-1][0] == pytest.approx(1, abs=0.05)


def test_a_packet_of_sound_that_comes_twice_is_taken_once(depth: fiffdepth_rt.Depth, tmp_path: Path) -> None:
    talk = write_clip(tmp_path / "talk.mp4", walk(10), tone_hz=440, sound_s=1)
    joined = _remuxed(talk, tmp_path / "joined.mkv", twice=20)
    assert len(read(joined).sound) == len(read(talk).sound) + 1
    with open_source(str(joined)) as source:
        for _ in convert(depth, source, open_result(tmp_path / "c.mp4", source=source)):
            pass
        assert source.notes == []
    assert len(read(tmp_path / "c.mp4").sound) == len(read(talk).sound)


def test_sound_that_a_container_does_not_take_is_encoded_anew(
    depth: fiffdepth_rt.Depth, tmp_path: Path
) -> None:
    clip = write_clip(tmp_path / "talk.mp4", walk(10), tone_hz=440, sound_s=1)
    run(depth, clip, tmp_path / "c.webm")
    made = read(tmp_path / "c.webm")
    assert made.sound_codec == "opus"
    assert made.sound[-1][0] == pytest.approx(1, abs=0.05)
    assert made.loudest_hz(tmp_path / "c.webm") == pytest.approx(440, abs=2)


def test_sound_goes_on_to_its_end_and_no_further_than_an_interrupted_picture(
    depth: fiffdepth_rt.Depth, tmp_path: Path
) -> None:
    clip = write_clip(tmp_path / "song.mp4", walk(10), tone_hz=440, sound_s=3)
    run(depth, clip, tmp_path / "whole.mp4")
    assert read(tmp_path / "whole.mp4").sound[-1][0] == pytest.approx(3, abs=0.05)
    with open_source(str(clip)) as source:
        result = open_result(tmp_path / "part.mp4", source=source)
        for done in convert(depth, source, result):
            if done == 5:
                source.stop()
    part = read(tmp_path / "part.mp4")
    assert part.sound[-1][0] == pytest.approx(part.times[-1], abs=0.05)


def test_broken_sound_does_not_end_the_picture(depth: fiffdepth_rt.Depth, tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "talk.mp4", walk(10), tone_hz=440, sound_s=1)
    data = bytearray(clip.read_bytes())
    with av.open(str(clip)) as container:
        places = [(packet.pos, packet.size) for packet in container.demux(audio=0) if packet.size]
    for pos, size in places[10:30]:
        data[pos : pos + size] = b"\xff" * size
    clip.write_bytes(data)
    with open_source(str(clip)) as source:
        for _ in convert(depth, source, open_result(tmp_path / "c.webm", source=source)):
            pass
        assert source.notes == ["The sound is damaged: pieces of it were left out."]
    made = read(tmp_path / "c.webm")
    assert len(made.pictures) == 10
    assert made.sound[-1][0] == pytest.approx(1, abs=0.05)


def test_without_sound_if_asked_for_and_in_values(depth: fiffdepth_rt.Depth, tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "talk.mp4", walk(10), tone_hz=440, sound_s=1)
    run(depth, clip, tmp_path / "c.mp4", sound=False)
    run(depth, clip, tmp_path / "d.mkv")
    assert not read(tmp_path / "c.mp4").sound and not read(tmp_path / "d.mkv").sound


# --- a folder of pictures ---


def test_a_folder_gets_a_16_bit_picture_for_each_frame(
    depth: fiffdepth_rt.Depth, clip: Path, tmp_path: Path
) -> None:
    run(depth, clip, tmp_path / "new" / "folder")
    pictures = sorted((tmp_path / "new" / "folder").glob("*.png"))
    assert [p.name for p in pictures] == [f"{index:06d}_depth.png" for index in range(20)]
    for path, d in zip(pictures, expected(depth), strict=True):
        with Image.open(path) as stored:
            np.testing.assert_array_equal(np.asarray(stored), np.rint(d.values * 65535))
            assert (stored.text["Space"], stored.text["Model"]) == ("depth", "toy")  # type: ignore[attr-defined]


@pytest.mark.parametrize("smooth", [None, 5])
def test_a_folder_goes_on_where_it_was_interrupted(
    depth: fiffdepth_rt.Depth, clip: Path, tmp_path: Path, smooth: float | None
) -> None:
    run(depth, clip, tmp_path / "whole", smooth=smooth)
    run(depth, clip, tmp_path / "out", smooth=smooth)
    whole = {path.name: path.read_bytes() for path in (tmp_path / "whole").iterdir()}
    for number in (3, *range(8, 20)):
        (tmp_path / "out" / f"{number:06d}_depth.png").unlink()
    kept = (tmp_path / "out" / "000002_depth.png").stat().st_mtime_ns
    result = run(depth, clip, tmp_path / "out", smooth=smooth)
    assert (result.frames, result.already) == (13, 7)
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == whole
    assert (tmp_path / "out" / "000002_depth.png").stat().st_mtime_ns == kept


def test_a_folder_of_another_video_or_other_options_is_refused(
    depth: fiffdepth_rt.Depth, clip: Path, tmp_path: Path
) -> None:
    run(depth, clip, tmp_path / "out")
    other = lossless(tmp_path / "other.mkv", walk(3))
    for source, options in ((other, {}), (clip, {"smooth": 5})):
        with pytest.raises(OutputError, match=r"holds pictures already, of another video, .* --overwrite"):
            run(depth, source, tmp_path / "out", **options)
    assert len(list((tmp_path / "out").glob("*.png"))) == 20
    run(depth, other, tmp_path / "out", overwrite=True)
    assert len(list((tmp_path / "out").glob("*.png"))) == 3
    assert json.loads((tmp_path / "out" / "made_of.json").read_text())["source"] == str(other)


def test_a_picture_that_cannot_be_replaced_is_said(
    depth: fiffdepth_rt.Depth, clip: Path, tmp_path: Path
) -> None:
    (tmp_path / "000003_depth.png").mkdir()
    with pytest.raises(OutputError, match=r"000003_depth\.png cannot be replaced .*: remove it yourself"):
        run(depth, clip, tmp_path, overwrite=True)


def test_pictures_of_unknown_origin_are_not_taken_for_ours(
    depth: fiffdepth_rt.Depth, clip: Path, tmp_path: Path
) -> None:
    (tmp_path / "000003_depth.png").write_text("precious")
    with pytest.raises(OutputError, match="holds pictures already"):
        run(depth, clip, tmp_path)
    assert (tmp_path / "000003_depth.png").read_text() == "precious"


# --- bad weather ---


def test_what_can_be_read_of_a_damaged_video_is_done(depth: fiffdepth_rt.Depth, tmp_path: Path) -> None:
    whole = lossless(tmp_path / "whole.mkv", walk(60)).read_bytes()
    (tmp_path / "cut.mkv").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DamagedVideoError, match=r"cut.mkv breaks off at \d\.\d+ of 6\.00 s"):
        run(depth, tmp_path / "cut.mkv", tmp_path / "d.mkv")
    made = read(tmp_path / "d.mkv", format="gray16le").pictures
    assert 10 < len(made) < 50
    np.testing.assert_array_equal(made, [np.rint(d.values * 65535) for d in expected(depth, len(made))])


def test_a_frame_of_another_size_leaves_a_playable_file(depth: fiffdepth_rt.Depth, tmp_path: Path) -> None:
    source = Shown([picture(0), picture(1), picture(2, 64, 48)])
    with pytest.raises(FrameSizeError, match="Frame 2 has 64×48 px"):
        list(convert(depth, source, open_result(tmp_path / "c.mp4", source=source)))
    assert len(read(tmp_path / "c.mp4").pictures) == 2


def test_an_error_in_the_caller_s_loop_leaves_a_playable_file(
    depth: fiffdepth_rt.Depth, clip: Path, tmp_path: Path
) -> None:
    with open_source(str(clip)) as source:
        steps = convert(depth, source, open_result(tmp_path / "c.mp4", source=source))
        for _, done in zip(range(4), steps, strict=False):
            assert done
        steps.close()
    assert len(read(tmp_path / "c.mp4").pictures) == 4
    assert [path.name for path in tmp_path.iterdir()] == ["c.mp4"]


@pytest.mark.parametrize("name", ["d.mkv", "c.mp4"])
def test_a_result_that_is_there_is_not_replaced(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("precious")
    with pytest.raises(OutputError, match="exists already"):
        open_result(tmp_path / name, source=Shown([]))
    assert (tmp_path / name).read_text() == "precious"


@pytest.mark.parametrize("name", ["walk.mkv", "link.mkv", "hard.mkv", "folder/../walk.mkv"])
def test_a_result_never_replaces_its_source(name: str, clip: Path, tmp_path: Path) -> None:
    (tmp_path / "walk.mkv").write_bytes(clip.read_bytes())
    (tmp_path / "link.mkv").symlink_to("walk.mkv")
    os.link(tmp_path / "walk.mkv", tmp_path / "hard.mkv")
    (tmp_path / "folder").mkdir()
    for source_name in ("walk.mkv", "link.mkv"):
        with (
            open_source(str(tmp_path / source_name)) as source,
            pytest.raises(OutputError, match=r"is the source .* itself"),
        ):
            open_result(tmp_path / name, source=source, overwrite=True)
    assert (tmp_path / "walk.mkv").read_bytes() == clip.read_bytes()


def test_a_folder_of_pictures_is_not_the_place_for_its_own_result(tmp_path: Path) -> None:
    Image.fromarray(picture(0)).save(tmp_path / "000000.png")
    with open_source(str(tmp_path)) as source, pytest.raises(OutputError, match="is the source"):
        open_result(tmp_path / "." / "", source=source, overwrite=True)


def test_an_unknown_ending_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"\.mp4, \.mov or \.webm \(colours\) or \.mkv .*folder"):
        open_result(tmp_path / "out.avi", source=Shown([]))


def test_side_by_side_is_for_colours(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"ends in \.mp4, \.mov or \.webm"):
        open_result(tmp_path / "d.mkv", source=Shown([]), side_by_side=True)


def test_a_picture_too_wide_for_h264_is_refused_and_fits_into_webm(tmp_path: Path) -> None:
    wide = item(0, np.full((16, 16_400), 0.5, np.float32), Fraction(0))
    with pytest.raises(OutputError, match=r"16×16400 px has a side longer than the 16384 px .* \.webm"):
        open_result(tmp_path / "c.mp4", source=Shown([])).write(wide)
    result = open_result(tmp_path / "c.webm", source=Shown([]))
    result.write(wide)
    result.close(whole=True)
    assert read(tmp_path / "c.webm").pictures[0].shape == (16, 16_400, 3)


def test_a_folder_that_is_not_there_is_refused(depth: fiffdepth_rt.Depth, clip: Path, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"No such file.*choose a folder"):
        run(depth, clip, tmp_path / "nowhere" / "c.mp4")


def test_a_source_s_frames_go_into_any_stream(depth: fiffdepth_rt.Depth, clip: Path) -> None:
    with open_source(str(clip)) as source:
        items = list(depth.stream(source))
    assert [i.tag for i in items] == [Moment(number=n, time_s=Fraction(n, 10)) for n in range(20)]
    assert isinstance(next(iter(Shown(walk(1)))), Frame)
