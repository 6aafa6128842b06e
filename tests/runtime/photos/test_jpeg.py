"""Promises about JPEGs without their end, and about those that ask for too much work."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fiffdepth_rt.errors import ImageError
from fiffdepth_rt.photos import jpeg
from fiffdepth_rt.photos.loading import load_photo


@pytest.fixture(params=["baseline", "restarts", "progressive"])
def data(request: pytest.FixtureRequest) -> bytes:
    """A 240×160 photo with texture everywhere, as a JPEG."""
    rng = np.random.default_rng(5)
    pixels = rng.integers(0, 256, (30, 20, 3), np.uint8).repeat(8, axis=0).repeat(8, axis=1)
    options = {"restarts": {"restart_marker_rows": 1}, "progressive": {"progressive": True}}
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=90, **options.get(request.param, {}))
    return buffer.getvalue()


def load(tmp_path: Path, data: bytes, *, strict: bool = False):  # type: ignore[no-untyped-def]
    (tmp_path / "a.jpg").write_bytes(data)
    return load_photo(tmp_path / "a.jpg", strict=strict)


def test_a_whole_photo_has_no_notes(tmp_path: Path, data: bytes) -> None:
    loaded = load(tmp_path, data, strict=True)
    assert loaded.notes == () and not loaded.mended


def test_without_its_end_marker_a_photo_is_the_same_and_that_is_said(tmp_path: Path, data: bytes) -> None:
    whole = load(tmp_path, data).pixels
    loaded = load(tmp_path, data[:-2])
    np.testing.assert_array_equal(loaded.pixels, whole)
    assert loaded.mended
    assert tuple(map(str, loaded.notes)) == (
        "It lacks its end marker, so it was cut off; no row is missing.",
    )
    with pytest.raises(ImageError, match=r"a\.jpg: .*end marker.* --strict"):
        load(tmp_path, data[:-2], strict=True)


def test_a_photo_short_of_a_little_is_read_as_far_as_it_goes(tmp_path: Path, data: bytes) -> None:
    whole = load(tmp_path, data).pixels.astype(int)
    loaded = load(tmp_path, data[: int(len(data) * 0.96)])
    assert loaded.mended and loaded.pixels.shape == whole.shape
    same = np.abs(loaded.pixels - whole).mean(axis=(1, 2)) < 4
    assert same.mean() > 0.85
    assert "of its rows are grey" in loaded.notes[0].text or "no row is missing" in loaded.notes[0].text


def test_half_a_photo_is_refused(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(ImageError, match=r"a\.jpg: .*end marker.*rows are missing: save or download"):
        load(tmp_path, data[: len(data) // 2])


def test_how_much_is_missing_is_measured(tmp_path: Path) -> None:
    """Of a baseline JPEG, rows of blocks are either there or not: 2 of 30 are a fifteenth."""
    rng = np.random.default_rng(5)
    pixels = rng.integers(0, 256, (30, 20, 3), np.uint8).repeat(8, axis=0).repeat(8, axis=1)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=90, subsampling=0)
    data = buffer.getvalue()
    note = load(tmp_path, data[: int(len(data) * 28.2 / 30)]).notes[0].text
    percent = float(note.split("up to ")[1].split("%")[0])
    assert 100 / 30 < percent <= 100 * 3 / 30
    with pytest.raises(ImageError, match=r"and (1[3-9]|20)% of its rows are missing"):  # 5 of 30
        load(tmp_path, data[: int(len(data) * 25.2 / 30)])


def test_a_stream_of_scans_is_refused_before_anything_is_decoded(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((4096, 4096), np.uint8)).save(buffer, "JPEG", progressive=True)
    data = buffer.getvalue()
    # The last scan, again and again: a refinement of what is refined, as libjpeg lets it be.
    last = data[data.rindex(b"\xff\xda") : -2]
    with pytest.raises(ImageError, match=r"a\.jpg: .*asks for 3\d\d passes .*at most 100"):
        load(tmp_path, data[:-2] + last * 300 + data[-2:])


def test_a_hundred_passes_are_still_read(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.fromarray(np.full((64, 64), 90, np.uint8)).save(buffer, "JPEG", progressive=True)
    data = buffer.getvalue()
    last, more = data[data.rindex(b"\xff\xda") : -2], jpeg.MAX_SCANS - data.count(b"\xff\xda")
    assert abs(int(load(tmp_path, data[:-2] + last * more + data[-2:]).pixels[9, 9, 0]) - 90) <= 1
    with pytest.raises(ImageError, match=r"asks for 101 passes .*at most 100"):
        load(tmp_path, data[:-2] + last * (more + 1) + data[-2:])


def test_a_tiff_of_jpegs_is_bounded_too(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.fromarray(np.full((64, 64), 90, np.uint8)).save(buffer, "JPEG", progressive=True)
    data = buffer.getvalue()
    last = data[data.rindex(b"\xff\xda") : -2]
    for scans, refused in ((0, False), (300, True)):
        strip = data[:-2] + last * scans + data[-2:]
        values = {256: 64, 257: 64, 258: 8, 259: 7, 262: 1, 273: 0, 277: 1, 278: 64, 279: len(strip)}
        values[273] = 8 + 2 + 12 * len(values) + 4
        tags = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in values.items())
        head = b"II*\0" + struct.pack("<IH", 8, len(values))
        (tmp_path / "a.tif").write_bytes(head + tags + bytes(4) + strip)
        if refused:
            with pytest.raises(ImageError, match=r"a\.tif: .*passes .*at most 100"):
                load_photo(tmp_path / "a.tif")
        else:
            assert abs(int(load_photo(tmp_path / "a.tif").pixels[9, 9, 0]) - 90) <= 1


def test_what_lies_in_segments_or_behind_the_end_is_no_scan(tmp_path: Path, data: bytes) -> None:
    """A thumbnail in the EXIF, a second picture or a video behind the first: phones do both."""
    scans = b"\xff\xda\x00\x08" * 500
    segment = b"\xff\xe1" + (len(scans) + 2).to_bytes(2, "big") + scans
    with_both = data[:2] + segment + data[2:] + scans
    np.testing.assert_array_equal(load(tmp_path, with_both).pixels, load(tmp_path, data).pixels)
    assert jpeg.MAX_SCANS < 500
