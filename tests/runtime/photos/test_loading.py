"""Promises about which photo files are read, and what their pixels are."""

from __future__ import annotations

import struct
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from fiffdepth_rt.errors import ImageError
from fiffdepth_rt.files import read_photo
from fiffdepth_rt.photos import formats
from fiffdepth_rt.photos.formats import FORMATS, PHOTO_ENDINGS, Format
from fiffdepth_rt.photos.loading import load_photo


@pytest.fixture
def scene() -> np.ndarray:
    """A 48×40 picture of four flat quarters, so that codecs with losses keep their middles."""
    pixels = np.empty((48, 40, 3), np.uint8)
    pixels[:24, :20], pixels[:24, 20:] = (200, 40, 40), (40, 180, 60)
    pixels[24:, :20], pixels[24:, 20:] = (50, 60, 200), (220, 220, 90)
    return pixels


def middles(pixels: np.ndarray) -> np.ndarray:
    height, width = pixels.shape[:2]
    return np.array([[pixels[y * height // 4, x * width // 4] for x in (1, 3)] for y in (1, 3)], int)


@pytest.mark.parametrize(
    "name", ["a.gif", "a.tga", "a.ico", "a.jfif", "a.jpe", "a.j2k", "a.pnm", "A.PNG", "a.avif"]
)
def test_every_ending_that_pillow_can_write_is_read(tmp_path: Path, scene: np.ndarray, name: str) -> None:
    Image.init()
    if name.endswith("avif") and "AVIF" not in Image.SAVE:
        pytest.skip("Pillow before 11.3")
    kind = {"jfif": "JPEG", "jpe": "JPEG", "j2k": "JPEG2000", "pnm": "PPM"}.get(name.split(".")[1])
    options = {"sizes": [(40, 48)]} if name == "a.ico" else {}
    Image.fromarray(scene).save(tmp_path / name, kind, **options)
    assert Path(name).suffix.lower() in PHOTO_ENDINGS
    pixels = read_photo(tmp_path / name)
    assert pixels.shape == scene.shape
    assert np.abs(middles(pixels) - middles(scene)).max() <= 6


def test_a_phones_heic_is_read_and_upright() -> None:
    """Stored lying, 32×48, with the turn in the container (irot) and 6 in its EXIF: turned once."""
    pytest.importorskip("pi_heif")
    pixels = read_photo(Path(__file__).with_name("phone.heic"))
    assert pixels.shape == (48, 32, 3)
    expected = [[(200, 40, 40), (40, 180, 60)], [(50, 60, 200), (220, 220, 90)]]
    assert np.abs(middles(pixels) - np.array(expected)).max() <= 6


def test_of_a_moving_gif_the_first_frame_is_taken(tmp_path: Path, scene: np.ndarray) -> None:
    frames = [Image.fromarray(scene), Image.fromarray(255 - scene)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    np.testing.assert_array_equal(middles(read_photo(tmp_path / "a.gif")), middles(scene))


def test_the_first_bytes_say_what_a_file_is_and_not_its_name(tmp_path: Path, scene: np.ndarray) -> None:
    Image.fromarray(scene).save(tmp_path / "a", "PNG")
    (tmp_path / "a").rename(tmp_path / "a.jpg")
    np.testing.assert_array_equal(read_photo(tmp_path / "a.jpg"), scene)


@pytest.mark.parametrize("channels", [3, 4])
def test_sixteen_bit_colors_are_rounded_and_not_cut_off(tmp_path: Path, channels: int) -> None:
    values = np.random.default_rng(1).integers(0, 2**16, (20, 24, channels), np.uint16)
    values[..., 3:] = 65535
    cv2.imwrite(str(tmp_path / "deep.png"), values)
    expected = np.rint(values[:, :, 2::-1] / 257).astype(np.uint8)
    np.testing.assert_array_equal(read_photo(tmp_path / "deep.png"), expected)


def test_a_hole_in_a_cut_out_takes_the_colour_of_what_is_next_to_it(tmp_path: Path) -> None:
    cut_out = np.zeros((20, 30, 4), np.uint8)
    cut_out[:, 10:15] = (200, 100, 50, 255)
    cut_out[:, 15:20] = (10, 20, 250, 128)
    Image.fromarray(cut_out).save(tmp_path / "cut_out.png")
    pixels = read_photo(tmp_path / "cut_out.png")
    assert (pixels[:, :15] == (200, 100, 50)).all()
    assert (pixels[:, 15:] == (10, 20, 250)).all()


def test_colours_below_a_transparent_alpha_are_kept(tmp_path: Path, scene: np.ndarray) -> None:
    alpha = np.full(scene.shape[:2], 255, np.uint8)
    alpha[:, 10:30] = 0
    Image.fromarray(np.dstack([scene, alpha])).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_photo(tmp_path / "a.png"), scene)


def test_what_a_missing_library_would_read_is_said_with_what_installs_it(
    tmp_path: Path, scene: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = tuple(
        Format(name=one.name, endings=one.endings, module=one.module and "no_such_module", cure=one.cure)
        for one in FORMATS
    )
    monkeypatch.setattr(formats, "FORMATS", missing)
    with pytest.raises(ImageError, match=r"HEIF .* not installed: pip install 'fiffdepth-rt\[photos\]'"):
        read_photo(Path(__file__).with_name("phone.heic"))
    (tmp_path / "a.exr").write_bytes(b"\x76\x2f\x31\x01" + bytes(60))
    with pytest.raises(ImageError, match=r"EXR .* not installed: pip install 'fiffdepth-rt\[photos\]'"):
        read_photo(tmp_path / "a.exr")


def test_notes_are_logged_for_those_who_read_by_path(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    Image.fromarray(np.linspace(0, 300, 400, dtype=np.float32).reshape(20, 20)).save(tmp_path / "a.tif")
    read_photo(tmp_path / "a.tif")
    assert "a.tif: Its values go from 0 to 300, which became black and white." in caplog.text


# --- light ---


def test_light_becomes_a_photo_whatever_its_unit(tmp_path: Path) -> None:
    """Reinhard's operator does not see the unit, keeps the order, and makes the brightest white."""
    light = np.repeat(np.geomspace(0.01, 100, 40, dtype=np.float32)[np.newaxis], 20, axis=0)
    expected = None
    for unit in (1, 1000):
        cv2.imwrite(str(tmp_path / "a.pfm"), np.dstack([light * unit] * 3))
        pixels = load_photo(tmp_path / "a.pfm").pixels
        row = pixels[0, :, 1].astype(int)
        assert (np.diff(row) > 0).all() and row[-1] == 255
        expected = pixels if expected is None else expected
        assert np.abs(pixels.astype(int) - expected).max() <= 1
    # L = 1 is the geometric mean: 0.18 × (1 + 0.18 / 18²) / 1.18 = 0.1526 -> sRGB 0.428 × 255 = 109
    middle = np.abs(np.log(light[0])).argmin()
    assert abs(int(expected[0, middle, 1]) - 109) <= 6


@pytest.mark.parametrize("name", ["a.hdr", "a.pfm", "a.exr"])
def test_hdr_pfm_and_exr_hold_the_same_light(tmp_path: Path, scene: np.ndarray, name: str) -> None:
    light = (scene / np.float32(50)).astype(np.float32)
    if name == "a.exr":
        OpenEXR = pytest.importorskip("OpenEXR")
        header = {"compression": OpenEXR.ZIP_COMPRESSION, "type": OpenEXR.scanlineimage}
        with OpenEXR.File(header, {"RGB": light}) as file:
            file.write(str(tmp_path / name))
    else:
        cv2.imwrite(str(tmp_path / name), light[:, :, ::-1])
    cv2.imwrite(str(tmp_path / "same.pfm"), light[:, :, ::-1])
    loaded = load_photo(tmp_path / name)
    assert tuple(map(str, loaded.notes)) == (
        "It holds light, which was made a photo by Reinhard's operator.",
    )
    same = load_photo(tmp_path / "same.pfm").pixels.astype(int)
    assert np.abs(loaded.pixels - same).max() <= 3  # Radiance has 8 bits for each channel
    assert (np.argmax(middles(loaded.pixels), axis=2) == np.argmax(middles(scene), axis=2)).all()


def test_light_that_is_not_finite_is_no_light_or_the_brightest(tmp_path: Path) -> None:
    light = np.ones((20, 20), np.float32)
    light[0, :3] = np.nan, np.inf, -5
    cv2.imwrite(str(tmp_path / "a.pfm"), light)
    pixels = read_photo(tmp_path / "a.pfm")
    assert pixels[0, :4, 0].tolist() == [0, 255, 0, 255]


def test_a_picture_without_light_is_black(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.pfm"), np.zeros((20, 20, 3), np.float32))
    assert not read_photo(tmp_path / "a.pfm").any()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.pfm", b"PF\n99999 99999\n-1\n"),
        ("a.hdr", b"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n-Y 99999 +X 99999\n"),
        ("a.tif", b"II*\0" + struct.pack("<IHHHIIHHIII", 8, 2, 256, 4, 1, 99999, 257, 4, 1, 99999, 0)),
    ],
)
def test_a_bomb_is_refused_from_its_header(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ImageError, match="at most 100 million pixels"):
        read_photo(tmp_path / name)


@pytest.mark.parametrize("content", [b"PF\n20 x\n", b"#?RADIANCE\nno size\n", b"PF\n20 20\n-1\nshort"])
def test_damaged_light_is_refused_and_opencv_is_silent(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], content: bytes
) -> None:
    (tmp_path / "a.hdr").write_bytes(content)
    with pytest.raises(ImageError, match=r"a\.hdr.*save or download it again"):
        read_photo(tmp_path / "a.hdr")
    assert capfd.readouterr().err == ""


def test_a_damaged_exr_is_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    OpenEXR = pytest.importorskip("OpenEXR")
    light = np.random.default_rng(1).random((48, 40, 3), np.float32)
    header = {"compression": OpenEXR.ZIP_COMPRESSION, "type": OpenEXR.scanlineimage}
    with OpenEXR.File(dict(header), {"RGB": light}) as file:
        file.write(str(tmp_path / "a.exr"))
    (tmp_path / "cut.exr").write_bytes((tmp_path / "a.exr").read_bytes()[:-3000])
    with pytest.raises(ImageError, match=r"cut\.exr is damaged .*OpenEXR cannot decode its pixels"):
        read_photo(tmp_path / "cut.exr")
    with OpenEXR.File(dict(header), {"Z": light[:, :, 0].copy()}) as file:
        file.write(str(tmp_path / "z.exr"))
    with pytest.raises(ImageError, match=r"z\.exr: It holds the channels Z, and neither RGB nor Y"):
        read_photo(tmp_path / "z.exr")
    assert capfd.readouterr().out == ""  # where results are
