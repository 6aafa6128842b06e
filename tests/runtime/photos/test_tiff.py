"""Promises about TIFFs: every layout of numbers is read right, and what their numbers became is said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import PIL
import pytest

from fiffdepth_rt.errors import ImageError
from fiffdepth_rt.photos.loading import load_photo

tifffile = pytest.importorskip("tifffile")


def written(path: Path, values: np.ndarray, **options: Any) -> Path:
    """H×W or H×W×bands -> file."""
    rgb = values.ndim == 3 and values.shape[2] >= 3
    options = {"photometric": "rgb" if rgb else "minisblack"} | options
    if options.get("planarconfig") == "separate":
        values = np.moveaxis(values, 2, 0)
    tifffile.imwrite(path, values, **options)
    return path


RANGES = {"u1": (0, 255), "u2": (0, 65535), "u4": (0, 2**32 - 1), "i1": (-128, 127), "i2": (-900, 7000),
          "i4": (-(2**31), 2**31 - 1), "f2": (-3, 812), "f4": (73, 186), "f8": (-1e300, 1e300)}  # fmt: skip


@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("bands", [0, 3, 4])
@pytest.mark.parametrize("dtype", list(RANGES))
def test_every_type_and_layout_becomes_the_same_photo(
    tmp_path: Path, dtype: str, bands: int, planar: str
) -> None:
    """One photo in numbers of every type, over a range that suits the type: the same 8 bits come back."""
    if bands == 0 and planar == "separate":
        pytest.skip("one band has no planes")
    lowest, highest = RANGES[dtype]
    eighths = np.random.default_rng(3).integers(0, 9, (20, 24, *([3] if bands else []))) / 8
    eighths.flat[:2] = 0, 1
    values = lowest + eighths * (float(highest) - lowest) if dtype != "f8" else (eighths * 2 - 1) * 1e300
    if bands == 4:
        values = np.dstack([values, np.full(values.shape[:2], highest, float)])
    kept = values.astype(np.float64).clip(lowest, highest)
    path = written(
        tmp_path / "a.tif",
        (np.rint(kept) if dtype[0] != "f" else kept).astype(dtype),
        **({"planarconfig": planar} if bands else {}),
        **({"extrasamples": ["unassalpha"]} if bands == 4 else {}),
    )
    loaded = load_photo(path)
    expected = np.dstack([eighths] * 3) if not bands else eighths
    assert np.abs(loaded.pixels - expected * 255).max() <= 1
    known = dtype in ("u1", "u2")
    assert len(loaded.notes) == (0 if known else 1)
    if not known:
        assert f"from {np.dtype(dtype).type(lowest):g} to" in loaded.notes[0].text


def test_floats_in_zero_to_one_stay_as_they_are(tmp_path: Path) -> None:
    ramp = np.linspace(0.25, 0.5, 400, dtype=np.float32).reshape(20, 20)
    for values in (ramp, np.dstack([ramp] * 3), ramp.astype(np.float16)):
        loaded = load_photo(written(tmp_path / "a.tif", values))
        assert loaded.notes == ()
        assert np.abs(loaded.pixels[:, :, 1] - ramp * 255).max() <= 0.6


def test_floats_beyond_one_are_stretched_and_that_is_said(tmp_path: Path) -> None:
    loaded = load_photo(written(tmp_path / "a.tif", np.tile(np.float32([0, 0.625, 1.25]), (20, 8))))
    assert loaded.pixels[0, :3, 0].tolist() == [0, 128, 255]
    assert loaded.notes[0].text == "Its values go from 0 to 1.25, which became black and white."


def test_what_is_not_finite_becomes_black_and_is_said(tmp_path: Path) -> None:
    values = np.linspace(10, 20, 400, dtype=np.float32).reshape(20, 20)
    values[0, :2] = np.nan, np.inf
    loaded = load_photo(written(tmp_path / "a.tif", values))
    assert loaded.pixels[0, :4, 0].tolist() == [0, 0, 0, 1] and loaded.pixels[-1, -1, 0] == 255
    assert "not a finite number became black" in loaded.notes[0].text
    with pytest.raises(ImageError, match="None of its values is finite"):
        load_photo(written(tmp_path / "b.tif", values * np.float32(np.nan)))


def test_of_five_bands_the_first_three_are_taken_and_that_is_said(tmp_path: Path) -> None:
    values = np.random.default_rng(1).integers(0, 2**16, (20, 24, 5), np.uint16)
    path = written(tmp_path / "a.tif", values, extrasamples=["unspecified"] * 2)
    loaded = load_photo(path)
    np.testing.assert_array_equal(loaded.pixels, np.rint(values[:, :, :3] / 257))
    assert tuple(map(str, loaded.notes)) == (
        "The first three of its 5 bands were taken for red, green and blue.",
    )


@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("bands", [2, 3, 4, 5])
def test_grey_with_more_bands_is_read_whatever_pillow_knows(tmp_path: Path, bands: int, planar: str) -> None:
    """Of two bands the second is left out; more are taken for red, green and blue."""
    values = np.random.default_rng(1).integers(0, 256, (20, 24, bands), np.uint8)
    path = written(tmp_path / "a.tif", values, photometric="minisblack", planarconfig=planar)
    expected = values[:, :, [0, 0, 0] if bands == 2 else slice(3)]
    np.testing.assert_array_equal(load_photo(path).pixels, expected)


@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("dtype", ["u1", "u2", "f4"])
@pytest.mark.parametrize("colours", ["separated", "ycbcr", "cielab"])
def test_other_colours_become_rgb_or_are_refused_by_their_name(
    tmp_path: Path, colours: str, dtype: str, planar: str
) -> None:
    """Never are they taken for red, green and blue as they are."""
    bands = 4 if colours == "separated" else 3
    values = np.random.default_rng(1).integers(0, 256, (20, 24, bands))
    scale = {"u1": 1, "u2": 257, "f4": 1 / 255}[dtype]
    path = written(
        tmp_path / "a.tif", (values * scale).astype(dtype), photometric=colours, planarconfig=planar
    )
    read = {("separated", "u1"), ("separated", "u2"), ("cielab", "u1")}
    if int(PIL.__version__.partition(".")[0]) >= 13:
        read.add(("ycbcr", "u1"))
    if planar == "contig" and (colours, dtype) in read:
        pixels = load_photo(path).pixels
        if colours == "separated":
            expected = (255 - values[:, :, :3]) * (255 - values[:, :, 3:]) / 255
            assert np.abs(pixels - expected).max() <= 1
        else:
            assert np.abs(pixels.astype(float) - values).mean() > 20
        return
    name = {"separated": "CMYK", "ycbcr": "YCbCr", "cielab": "CIELAB"}[colours]
    with pytest.raises(ImageError, match=rf"a\.tif: A TIFF whose colours are {name}, .* save it as RGB"):
        load_photo(path)


def test_where_white_is_zero_deep_values_are_turned_round(tmp_path: Path) -> None:
    values = np.random.default_rng(1).integers(0, 2**16, (20, 24), np.uint16)
    loaded = load_photo(written(tmp_path / "a.tif", values, photometric="miniswhite"))
    np.testing.assert_array_equal(loaded.pixels[:, :, 0], np.rint((65535 - values.astype(int)) / 257))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32", "float64"])
def test_every_reader_turns_a_photo_upright(tmp_path: Path, dtype: str, orientation: int) -> None:
    stored = np.zeros((20, 24, 3))
    stored[:8, :6] = 1  # up on the left as stored; where it is shown, EXIF says
    scale = {"uint8": 255, "uint16": 65535}.get(dtype, 1)
    path = written(
        tmp_path / "a.tif", (stored * scale).astype(dtype), extratags=[(274, 3, 1, orientation, True)]
    )
    shown = load_photo(path).pixels[:, :, 0] > 127
    assert shown.shape == ((24, 20) if orientation >= 5 else (20, 24))
    top, left = shown[: shown.shape[0] // 2].any(), shown[:, : shown.shape[1] // 2].any()
    # EXIF 2.3, 4.6.4: where row 0 and column 0 are.
    where = [(1, 1), (1, 0), (0, 0), (0, 1), (1, 1), (1, 0), (0, 0), (0, 1)][orientation - 1]
    assert (top, left) == tuple(map(bool, where))


def test_without_tifffile_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path / "a.tif", np.zeros((20, 24, 3), np.float32))
    monkeypatch.setitem(__import__("sys").modules, "tifffile", None)
    with pytest.raises(ImageError, match=r"a\.tif: .*tifffile.*: pip install 'fiffdepth-rt\[photos\]'"):
        load_photo(path)
