"""Promises about photo files and result files."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import cv2
import hypothesis
import numpy as np
import PIL
import pytest
from hypothesis import strategies as st
from PIL import Image, ImageOps

from fiffdepth_rt.errors import ImageError, OutputError
from fiffdepth_rt.files import read_photo, write_color_png, write_npy

ORIENTATION = 0x0112


@pytest.fixture
def scene() -> np.ndarray:
    """A 24×40 picture without any symmetry."""
    return np.random.default_rng(1).integers(0, 256, (24, 40, 3), dtype=np.uint8)


# --- photo file -> pixels ---


@pytest.mark.parametrize("suffix", ["png", "tiff", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photo_comes_up_as_a_viewer_shows_it(
    tmp_path: Path, scene: np.ndarray, orientation: int, suffix: str
) -> None:
    path = tmp_path / f"photo.{suffix}"
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    Image.fromarray(scene).save(path, exif=exif, **({"lossless": True} if suffix == "webp" else {}))
    with Image.open(path) as picture:
        shown = np.asarray(ImageOps.exif_transpose(picture))
    assert shown.shape == ((24, 40, 3) if orientation < 5 else (40, 24, 3))
    np.testing.assert_array_equal(read_photo(path), shown)


def test_a_phone_portrait_jpeg_is_portrait(tmp_path: Path, scene: np.ndarray) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    Image.fromarray(scene).save(tmp_path / "phone.jpg", exif=exif, quality=95)
    assert read_photo(tmp_path / "phone.jpg").shape == (40, 24, 3)


def test_sixteen_bits_are_turned_upright_too(tmp_path: Path) -> None:
    levels = np.arange(20 * 30, dtype=np.uint16).reshape(20, 30)
    exif = Image.Exif()
    exif[ORIENTATION] = 8
    Image.fromarray(levels * 100).save(tmp_path / "deep.png", exif=exif)
    expected = ((np.rot90(levels).astype(np.uint32) * 100 + 128) // 257).astype(np.uint8)
    np.testing.assert_array_equal(read_photo(tmp_path / "deep.png"), np.stack([expected] * 3, axis=-1))


def test_a_photo_is_upright_though_the_rest_of_its_exif_is_damaged(tmp_path: Path, scene: np.ndarray) -> None:
    """The orientation can be read, and an entry behind it points beyond the end."""
    entries = struct.pack(">HHIHH", ORIENTATION, 3, 1, 6, 0) + struct.pack(">HHII", 0x8769, 4, 1, 0x7FFFFFFF)
    exif = b"Exif\x00\x00MM\x00\x2a" + struct.pack(">IH", 8, 2) + entries + b"\x00" * 4
    Image.fromarray(scene).save(tmp_path / "photo.png", exif=exif)
    np.testing.assert_array_equal(read_photo(tmp_path / "photo.png"), np.rot90(scene, -1))


def test_damaged_exif_does_not_stop_a_sound_photo(tmp_path: Path, scene: np.ndarray) -> None:
    Image.fromarray(scene).save(
        tmp_path / "photo.png", exif=b"Exif\x00\x00MM\x00\x2a\xff\xff\xff\xff garbage"
    )
    np.testing.assert_array_equal(read_photo(tmp_path / "photo.png"), scene)


@pytest.mark.parametrize("name", ["grey.png", "grey.tif", "grey.pgm"])
def test_sixteen_bit_grey_keeps_its_brightness(tmp_path: Path, name: str) -> None:
    levels = np.arange(256, dtype=np.uint16).reshape(16, 16)
    cv2.imwrite(str(tmp_path / name), levels * 257)
    np.testing.assert_array_equal(read_photo(tmp_path / name), np.stack([levels] * 3, axis=-1))


def test_sixteen_bit_color_keeps_its_colors(tmp_path: Path, scene: np.ndarray) -> None:
    cv2.imwrite(str(tmp_path / "deep.png"), scene[:, :, ::-1].astype(np.uint16) * 257)
    np.testing.assert_array_equal(read_photo(tmp_path / "deep.png"), scene)


def test_a_float_tiff_in_zero_to_one_keeps_its_brightness_and_another_is_stretched(tmp_path: Path) -> None:
    ramp = np.linspace(0, 1, 400, dtype=np.float32).reshape(20, 20)
    expected = np.rint(ramp * 255)
    for values in (ramp, ramp * 900 - 40):  # degrees
        Image.fromarray(values).save(tmp_path / "float.tif")
        difference = np.abs(read_photo(tmp_path / "float.tif")[:, :, 1] - expected)
        assert difference.max() <= 1 and (difference == 0).mean() > 0.99


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGBA", "CMYK"])
def test_every_kind_of_pixel_becomes_rgb(tmp_path: Path, scene: np.ndarray, mode: str) -> None:
    picture = Image.fromarray(scene).convert("P" if mode == "PA" else mode)
    expected = np.asarray(picture.convert("RGB"))
    if mode == "PA":
        picture.info["transparency"] = bytes(range(256))
    path = tmp_path / ("photo.tif" if mode == "CMYK" else "photo.png")
    picture.save(path)
    np.testing.assert_array_equal(read_photo(path), expected)


def test_a_tiff_in_ycbcr_is_read_right_or_refused(tmp_path: Path, scene: np.ndarray) -> None:
    picture = Image.fromarray(scene).convert("YCbCr")
    path = tmp_path / "photo.tif"
    picture.save(path)
    if int(PIL.__version__.partition(".")[0]) < 13:  # takes them for cut off when they are not compressed
        with pytest.raises(ImageError, match="whose colours are YCbCr"):
            read_photo(path)
    else:
        np.testing.assert_array_equal(read_photo(path), np.asarray(picture.convert("RGB")))


def test_pixels_under_a_transparent_alpha_are_kept(tmp_path: Path, scene: np.ndarray) -> None:
    cut_out = np.dstack([scene, np.zeros(scene.shape[:2], np.uint8)])
    Image.fromarray(cut_out).save(tmp_path / "cut_out.png")
    np.testing.assert_array_equal(read_photo(tmp_path / "cut_out.png"), scene)


def test_of_several_pages_the_first_is_taken(tmp_path: Path, scene: np.ndarray) -> None:
    pages = [Image.fromarray(scene), Image.fromarray(255 - scene)]
    pages[0].save(tmp_path / "pages.tif", save_all=True, append_images=pages[1:])
    np.testing.assert_array_equal(read_photo(tmp_path / "pages.tif"), scene)


# --- what cannot be used ---


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and has no pixels."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = b"IDAT" + zlib.compress(b"")
    chunks = b"".join(
        struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
        for chunk in (header, data)
    )
    return b"\x89PNG\r\n\x1a\n" + chunks


@pytest.mark.parametrize("side", [10_001, 13_000, 50_000, 2**31 - 1])
def test_an_image_bomb_is_refused_from_its_header(tmp_path: Path, side: int) -> None:
    (tmp_path / "bomb.png").write_bytes(png_header(side, side))
    with pytest.raises(ImageError, match=r"bomb\.png.*100 million"):
        read_photo(tmp_path / "bomb.png")


def test_the_same_header_below_the_limit_fails_for_its_pixels_instead(tmp_path: Path) -> None:
    (tmp_path / "hollow.png").write_bytes(png_header(500, 500))
    with pytest.raises(ImageError, match=r"hollow\.png.*Save it again|hollow\.png.*damaged"):
        read_photo(tmp_path / "hollow.png")


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp", "bmp"])
def test_a_photo_that_is_cut_off_is_refused(tmp_path: Path, scene: np.ndarray, suffix: str) -> None:
    path = tmp_path / f"photo.{suffix}"
    Image.fromarray(scene.repeat(8, axis=0).repeat(8, axis=1)).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ImageError, match=f"photo.{suffix}"):
        read_photo(path)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"hello, I am a text\n" * 99,
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 99 99\n",
        b"<svg></svg>",
    ],
    ids=["empty", "text", "postscript", "svg"],
)
def test_a_file_that_is_no_photo_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "kitchen.jpg").write_bytes(content)
    with pytest.raises(ImageError, match=r"kitchen\.jpg is not a photo .*: convert it first\."):
        read_photo(tmp_path / "kitchen.jpg")


def test_a_photo_of_fifteen_pixels_is_refused_by_name(tmp_path: Path, scene: np.ndarray) -> None:
    Image.fromarray(scene[:15]).save(tmp_path / "tiny.png")
    with pytest.raises(ImageError, match=r"tiny\.png: .*16 px"):
        read_photo(tmp_path / "tiny.png")


def test_what_is_not_a_file_is_refused_without_being_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")  # opening it would wait for a writer for ever
    for name in ("pipe.jpg", "."):
        with pytest.raises(ImageError, match="not a regular file"):
            read_photo(tmp_path / name)
    for name in ("nowhere.jpg", "x" * 300 + ".jpg"):
        with pytest.raises(ImageError, match="does not exist"):
            read_photo(tmp_path / name)


def test_a_photo_without_read_permission_is_refused(tmp_path: Path, scene: np.ndarray) -> None:
    path = tmp_path / "private.png"
    Image.fromarray(scene).save(path)
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("this user (root) may read every file")
    with pytest.raises(ImageError, match="no permission"):
        read_photo(path)


def damaged_files() -> st.SearchStrategy[bytes]:
    """Sound small photos in several formats with bytes replaced and their end cut off."""
    scene = np.random.default_rng(2).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    sound = []
    for suffix in (".png", ".jpg", ".tif", ".webp", ".bmp", ".ppm", ".jp2"):
        done, encoded = cv2.imencode(suffix, scene)
        assert done
        sound.append(encoded.tobytes())

    @st.composite
    def damage(draw: st.DrawFn) -> bytes:
        content = bytearray(draw(st.sampled_from(sound)))
        for _ in range(draw(st.integers(1, 6))):
            # Headers are short and at the start, so half of the damage goes there.
            last = len(content) - 1
            content[draw(st.integers(0, min(64, last)) | st.integers(0, last))] = draw(st.integers(0, 255))
        return bytes(content[: draw(st.integers(len(content) // 2, len(content)))])

    return st.binary(max_size=200) | damage()


def read_or_refuse(folder: Path, content: bytes) -> None:
    path = folder / "photo"
    path.write_bytes(content)
    try:
        pixels = read_photo(path)
    except ImageError as error:
        assert str(path) in str(error)
    else:
        assert pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3


@hypothesis.given(content=damaged_files())
@hypothesis.settings(max_examples=150)
def test_every_damaged_file_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    read_or_refuse(tmp_path_factory.getbasetemp(), content)


@pytest.mark.soak
@hypothesis.given(content=damaged_files())
@hypothesis.settings(max_examples=20_000)
def test_every_damaged_file_is_read_or_refused_in_the_long_run(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    read_or_refuse(tmp_path_factory.getbasetemp(), content)


# --- pictures -> files ---


def test_a_color_picture_holds_the_very_pixels(tmp_path: Path, scene: np.ndarray) -> None:
    write_color_png(tmp_path / "c.png", scene)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "c.png")), scene)


def test_what_lies_there_is_replaced_only_on_request(tmp_path: Path, scene: np.ndarray) -> None:
    path = tmp_path / "c.png"
    path.write_bytes(b"precious")
    with pytest.raises(OutputError, match=r"c\.png exists already: pass --overwrite"):
        write_color_png(path, scene)
    assert path.read_bytes() == b"precious"
    write_color_png(path, scene, overwrite=True)
    np.testing.assert_array_equal(np.asarray(Image.open(path)), scene)


def test_a_broken_link_counts_as_something_that_lies_there(tmp_path: Path, scene: np.ndarray) -> None:
    (tmp_path / "c.png").symlink_to(tmp_path / "nowhere.png")
    with pytest.raises(OutputError, match="exists already"):
        write_color_png(tmp_path / "c.png", scene)
    assert not (tmp_path / "nowhere.png").exists()


FULL_DISK = """
import resource, sys
from pathlib import Path
import numpy as np
from fiffdepth_rt import DepthMap, files
from fiffdepth_rt.errors import OutputError
resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))  # Python ignores SIGXFSZ, so the write itself fails
folder = Path(sys.argv[1])
noise = np.random.default_rng(0).random((200, 200), dtype=np.float32)
depth_map = DepthMap(values=noise, space="depth")
colors = np.random.default_rng(0).integers(0, 256, (200, 200, 3), dtype=np.uint8)
for write in (
    lambda: depth_map.save(folder / "a.png", overwrite=True),
    lambda: depth_map.save(folder / "b.npy", overwrite=True),
    lambda: files.write_color_png(folder / "c.png", colors, overwrite=True),
):
    try:
        write()
    except OutputError as error:
        print(error)
"""


def test_a_write_that_fails_midway_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"old")
    answer = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert answer.stderr == ""
    assert [line.count("File too large") for line in answer.stdout.splitlines()] == [1, 1, 1]
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
    assert (tmp_path / "a.png").read_bytes() == b"old"


def test_values_with_the_longest_name_have_their_words_beside_them(tmp_path: Path) -> None:
    path = tmp_path / ("n" * 251 + ".npy")
    write_npy(path, np.zeros((2, 2), np.float32), text={"space": "depth"})
    (words,) = [other for other in tmp_path.iterdir() if other != path]
    assert path.is_file() and words.suffix == ".json"
    assert "depth" in words.read_text()
