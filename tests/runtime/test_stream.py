"""Promises of the stream: every frame once, in order, overlapped, with little memory, and no thread left."""

from __future__ import annotations

import dataclasses
import gc
import itertools
import logging
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import fiffdepth_rt
from fiffdepth_rt import smoothing
from fiffdepth_rt import stream as stream_module
from fiffdepth_rt.errors import (
    CorruptFrameError,
    FrameSizeError,
    ImageError,
    InferenceError,
    SizeError,
    SourceLostError,
    StreamError,
)

WAIT_S = 10  # for what happens at once; only a failing test waits that long


def numbered(index: int, height: int = 48, width: int = 64) -> np.ndarray:
    """A frame whose grey says its number, and whose noise no other frame has."""
    noise = np.random.default_rng(index).integers(0, 40, (height, width, 3), dtype=np.uint8)
    return noise + np.uint8(index % 200)


def frames(count: int) -> Iterator[np.ndarray]:
    return (numbered(index) for index in range(count))


def stream_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("fiffdepth-")]


def until(condition: Callable[[], bool]) -> bool:
    end = time.monotonic() + WAIT_S
    while not condition() and time.monotonic() < end:
        time.sleep(0.002)
    return condition()


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    yield
    gc.collect()
    assert until(lambda: not stream_threads()), stream_threads()


# --- what comes out ---


@pytest.mark.parametrize("inflight", [1, 2, 7])
def test_a_stream_gives_the_same_bits_as_infer_in_order(depth: fiffdepth_rt.Depth, inflight: int) -> None:
    streamed = [
        item.depth_map.values.tobytes() for item in depth.stream(frames(20), size=64, inflight=inflight)
    ]
    assert streamed == [depth.infer(frame, size=64).values.tobytes() for frame in frames(20)]


def test_bgr_frames_are_taken_as_infer_takes_them(depth: fiffdepth_rt.Depth) -> None:
    (item,) = depth.stream([numbered(3)], color="bgr", size=64)
    np.testing.assert_array_equal(item.depth_map, depth.infer(numbered(3), color="bgr", size=64))


def test_the_depth_maps_have_the_frames_size(depth: fiffdepth_rt.Depth, photo: np.ndarray) -> None:
    assert [item.depth_map.photo_hw for item in depth.stream([photo] * 3)] == [(320, 200)] * 3


def test_no_frames_give_no_depth_maps(depth: fiffdepth_rt.Depth) -> None:
    assert list(depth.stream([])) == []


def test_an_exhausted_stream_stays_exhausted(depth: fiffdepth_rt.Depth) -> None:
    stream = depth.stream(frames(1), size=64)
    assert len(list(stream)) == 1
    assert list(stream) == []


def test_an_item_holds_its_frames_number_and_photo_with_the_depth_map(depth: fiffdepth_rt.Depth) -> None:
    items = list(depth.stream((numbered(index)[..., ::-1] for index in range(5)), color="bgr", size=64))
    assert [item.index for item in items] == [0, 1, 2, 3, 4]
    for item in items:
        np.testing.assert_array_equal(item.photo, numbered(item.index))
        assert item.tag is None
        with pytest.raises(dataclasses.FrozenInstanceError):
            item.index = 7  # type: ignore[misc]


def test_a_tag_rides_along_with_its_frame(depth: fiffdepth_rt.Depth) -> None:
    stamps = [{"seconds": 10 + index} for index in range(4)]
    source = [fiffdepth_rt.Frame(photo=numbered(i), tag=stamp) for i, stamp in enumerate(stamps)]
    items = list(depth.stream([*source, numbered(4)], size=64))
    assert all(item.tag is stamp for item, stamp in zip(items, stamps, strict=False))
    assert items[4].tag is None  # a photo alone among them
    for item in items:
        np.testing.assert_array_equal(item.photo, numbered(item.index))


def test_photos_by_their_paths_are_frames_too(depth: fiffdepth_rt.Depth, tmp_path: Path) -> None:
    for index in range(3):
        Image.fromarray(numbered(index)).save(tmp_path / f"{index}.png")
    items = list(depth.stream(sorted(tmp_path.iterdir()), color="bgr", size=64))
    for item in items:
        np.testing.assert_array_equal(item.photo, numbered(item.index))
    assert len(items) == 3


def test_a_source_may_use_the_same_memory_for_every_frame(depth: fiffdepth_rt.Depth) -> None:
    def reusing() -> Iterator[np.ndarray]:
        buffer = np.empty((48, 64, 3), dtype=np.uint8)
        for index in range(30):
            buffer[:] = numbered(index)
            yield buffer
            buffer[:] = 0

    streamed = [item.depth_map.values.tobytes() for item in depth.stream(reusing(), size=64, inflight=4)]
    assert streamed == [depth.infer(frame, size=64).values.tobytes() for frame in frames(30)]


def test_a_smoothed_stream_is_the_smoother_applied_frame_by_frame(depth: fiffdepth_rt.Depth) -> None:
    def soft(count: int) -> Iterator[np.ndarray]:
        ramp = np.broadcast_to(np.linspace(60, 180, 64)[:, None, None], (64, 64, 3))
        return ((ramp + 9 * (index % 2)).astype(np.uint8) for index in range(count))

    smoother = smoothing.Smoother(5)
    expected = [smoother(depth.infer(frame, size=64).values) for frame in soft(12)]
    streamed = [item.depth_map.values for item in depth.stream(soft(12), size=64, smooth=5)]
    np.testing.assert_array_equal(streamed, expected)
    assert any(
        not np.array_equal(s, depth.infer(f, size=64)) for s, f in zip(streamed, soft(12), strict=True)
    )


# --- how it runs ---


def test_nothing_is_read_before_the_first_depth_map_is_asked_for(depth: fiffdepth_rt.Depth) -> None:
    asked = []
    stream = depth.stream((asked.append(i) or numbered(i) for i in range(3)), size=64)
    assert not stream_threads() and asked == []
    next(stream)
    assert asked
    stream.close()


@pytest.mark.parametrize("inflight", [1, 2, 5])
def test_the_source_is_at_most_inflight_frames_ahead(depth: fiffdepth_rt.Depth, inflight: int) -> None:
    asked = []

    def source() -> Iterator[np.ndarray]:
        for index in range(20):
            asked.append(index)
            yield numbered(index)

    for given, _ in enumerate(depth.stream(source(), size=64, inflight=inflight), start=1):
        assert until(lambda given=given: len(asked) >= min(20, given + inflight))  # it does read ahead
        assert len(asked) <= given + inflight


def test_neighbouring_frames_overlap(toy_dir: Path) -> None:
    """The source gives frame 1 only once frame 0 is being computed, and frame 0 ends only after that."""
    computing, next_frame = threading.Event(), threading.Event()
    with fiffdepth_rt.Depth(toy_dir, threads=1, size=64) as opened:
        run = opened.backend.run

        def slow_run(image: np.ndarray) -> np.ndarray:
            computing.set()
            assert next_frame.wait(WAIT_S)
            return run(image)

        opened.backend.run = slow_run  # type: ignore[method-assign]

        def source() -> Iterator[np.ndarray]:
            yield numbered(0)
            assert computing.wait(WAIT_S)
            next_frame.set()
            yield numbered(1)

        assert len(list(opened.stream(source()))) == 2


def test_a_live_source_never_waits_and_the_latest_frame_wins(depth: fiffdepth_rt.Depth) -> None:
    go_on = threading.Event()
    given = []

    def camera() -> Iterator[fiffdepth_rt.Frame]:
        for index in range(100):
            given.append(index)
            yield fiffdepth_rt.Frame(photo=numbered(index), tag=f"{index} s")
        go_on.set()

    stream = depth.stream(camera(), size=64, drop="oldest", inflight=1)
    items = [next(stream)]
    assert go_on.wait(WAIT_S)  # the camera ran to its end though nobody took a second depth map
    items += stream
    for item in items:
        assert item.tag == f"{item.index} s"
        np.testing.assert_array_equal(item.photo, numbered(item.index))
        np.testing.assert_array_equal(item.depth_map, depth.infer(numbered(item.index), size=64))
    indices = [item.index for item in items]
    assert given == list(range(100))
    assert indices == sorted(set(indices))
    assert indices[-1] == 99  # the last frame waited; the ones before it were replaced
    assert len(indices) <= 3


# --- how it ends ---


def boom(after: int) -> Iterator[np.ndarray]:
    yield from frames(after)
    raise OSError("the cable is out")


def test_an_error_of_the_source_comes_behind_the_frames_before_it(depth: fiffdepth_rt.Depth) -> None:
    stream, seen = depth.stream(boom(5), size=64), []
    with pytest.raises(OSError, match="the cable is out"):
        for item in stream:
            seen.append(item.index)
    assert seen == [0, 1, 2, 3, 4]
    assert not stream_threads()
    assert list(stream) == []


def test_an_error_of_the_engine_comes_out_of_the_loop(toy_dir: Path) -> None:
    opened = fiffdepth_rt.Depth(toy_dir, threads=1)
    with opened, pytest.raises(InferenceError, match="closed"):
        for _ in opened.stream(itertools.cycle([numbered(0)]), size=64):
            opened.close()
    assert not stream_threads()


def test_leaving_the_loop_early_ends_all_threads(depth: fiffdepth_rt.Depth) -> None:
    for _ in depth.stream(itertools.cycle([numbered(0)]), size=64, inflight=3):
        assert len(stream_threads()) == 4
        break
    assert not stream_threads()


def test_an_exception_in_the_loop_ends_all_threads(depth: fiffdepth_rt.Depth) -> None:
    with pytest.raises(ZeroDivisionError):
        for _ in depth.stream(itertools.cycle([numbered(0)]), size=64):
            raise ZeroDivisionError
    assert not stream_threads()


def test_a_stream_that_a_name_holds_ends_with_its_block(depth: fiffdepth_rt.Depth) -> None:
    with depth.stream(itertools.cycle([numbered(0)]), size=64) as stream:
        next(stream)
    assert not stream_threads()
    assert list(stream) == []
    stream.close()


def test_a_source_that_blocks_does_not_keep_the_stream_from_closing(
    depth: fiffdepth_rt.Depth, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream_module, "PATIENCE_S", 0.05)
    unplugged = threading.Event()

    def camera() -> Iterator[np.ndarray]:
        yield numbered(0)
        unplugged.wait(WAIT_S)
        yield numbered(1)

    stream = depth.stream(camera(), size=64)
    next(stream)
    with caplog.at_level(logging.WARNING, logger="fiffdepth_rt"):
        stream.close()
    assert [thread.name for thread in stream_threads()] == ["fiffdepth-read"]
    assert "ends with its next frame" in caplog.text
    unplugged.set()  # and the fixture sees the thread go


def test_closing_from_another_thread_ends_a_loop_that_waits(depth: fiffdepth_rt.Depth) -> None:
    release = threading.Event()

    def camera() -> Iterator[np.ndarray]:
        yield numbered(0)
        release.wait(WAIT_S)

    stream = depth.stream(camera(), size=64)
    next(stream)
    closer = threading.Timer(0.05, lambda: (release.set(), stream.close()))
    closer.start()
    assert list(stream) == []
    closer.join()


# --- what is refused ---


def test_a_frame_of_another_size_is_an_error_of_its_own(depth: fiffdepth_rt.Depth) -> None:
    stream, seen = depth.stream([numbered(0), numbered(1), numbered(2, 64, 48)], size=64), []
    with pytest.raises(FrameSizeError, match=r"Frame 2 has 64×48 px.*began with 48×64.*new stream"):
        for item in stream:
            seen.append(item.index)
    assert seen == [0, 1]


@pytest.mark.parametrize(
    "damaged", ["frame.png", np.full((48, 64, 3), np.nan), np.zeros((48, 64, 2), np.uint8)], ids=repr
)
def test_a_corrupt_frame_is_named_by_its_number(depth: fiffdepth_rt.Depth, damaged: object) -> None:
    stream, seen = depth.stream([numbered(0), numbered(1), damaged, numbered(3)], size=64), []
    with pytest.raises(CorruptFrameError, match=r"Frame 2 of the stream cannot be used.*leave them out") as e:
        for item in stream:
            seen.append(item.index)
    assert isinstance(e.value, ImageError)  # whoever catches bad photos catches bad frames
    assert seen == [0, 1]
    assert not stream_threads()


def test_a_camera_that_disappears_is_not_taken_for_a_corrupt_frame(depth: fiffdepth_rt.Depth) -> None:
    """`while True: yield capture.read()[1]` gives None once the camera is unplugged."""
    stream, seen = depth.stream(itertools.chain(frames(3), itertools.repeat(None)), size=64), []
    with pytest.raises(SourceLostError, match=r"None for frame 3.*plug it in again"):
        for item in stream:
            seen.append(item.index)
    assert seen == [0, 1, 2]
    assert not stream_threads()


def test_after_any_bad_frame_the_depth_is_still_usable(depth: fiffdepth_rt.Depth) -> None:
    for bad in (None, np.zeros((48, 64, 2), np.uint8), numbered(2, 64, 48)):
        with pytest.raises(StreamError):
            list(depth.stream([numbered(0), bad], size=64))
        (item,) = depth.stream([numbered(5)], size=64)
        np.testing.assert_array_equal(item.depth_map, depth.infer(numbered(5), size=64))


def test_one_path_is_not_taken_for_a_stream_of_letters(depth: fiffdepth_rt.Depth) -> None:
    with pytest.raises(StreamError, match=r"'walk\.mp4' is one path.*open_source"):
        depth.stream("walk.mp4")


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"inflight": 0}, StreamError),
        ({"inflight": 1.5}, StreamError),
        ({"inflight": True}, StreamError),
        ({"drop": "newest"}, StreamError),
        ({"color": "hsv"}, ImageError),
        ({"size": 5000}, SizeError),
        ({"smooth": 0}, StreamError),
        ({"smooth": "30"}, StreamError),
        ({"smooth": -3.0}, StreamError),
    ],
)
def test_arguments_are_checked_before_anything_starts(
    depth: fiffdepth_rt.Depth, arguments: dict[str, object], error: type[Exception]
) -> None:
    with pytest.raises(error):
        depth.stream(frames(1), **arguments)  # type: ignore[arg-type]
    assert not stream_threads()


# --- for long ---


@pytest.mark.soak
def test_a_hundred_streams_left_at_any_point_leave_no_thread(depth: fiffdepth_rt.Depth) -> None:
    for count in range(100):
        for _ in itertools.islice(depth.stream(frames(60), size=64, inflight=1 + count % 4), count % 50 + 1):
            pass
        assert until(lambda: not stream_threads())
