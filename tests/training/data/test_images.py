"""Promises of the real photos: any folder, any local shard, in a fixed order, and never a command."""

from __future__ import annotations

import gzip
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.support.raw_data import encoded, write_tar
from training.data.images import Labelled, PhotoFolder, PhotoShards, open_photos
from training.data.samples import DataError, SampleError

SQUARE = np.full((160, 160, 3), (200, 30, 60), np.uint8)
WIDE = np.random.default_rng(0).integers(0, 256, (140, 200, 3), dtype=np.uint8)


def put(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def names_of(dataset: PhotoFolder | PhotoShards | Labelled) -> list[str]:
    return [dataset[index].name for index in range(len(dataset))]


# ---- folders ----


def test_a_folder_is_searched_to_its_bottom_in_the_order_of_paths(tmp_path: Path) -> None:
    for name in ("b/z.png", "b/a/y.PNG", "a.png", "é ü.png", "b.png"):
        put(tmp_path / name, encoded(SQUARE))
    put(tmp_path / "notes.txt", b"no photo")
    put(tmp_path / ".hidden.png", encoded(SQUARE))
    put(tmp_path / ".trash/x.png", encoded(SQUARE))
    (tmp_path / "loop").symlink_to(tmp_path)
    assert names_of(PhotoFolder(tmp_path)) == ["a.png", "b.png", "b/a/y.PNG", "b/z.png", "é ü.png"]


def test_pixels_come_as_a_viewer_shows_them(tmp_path: Path) -> None:
    turned = Image.Exif()
    turned[0x0112] = 6  # a quarter turn clockwise
    Image.fromarray(WIDE).save(tmp_path / "a-exif.png", exif=turned)
    Image.fromarray(np.dstack([WIDE, np.full(WIDE.shape[:2], 9, np.uint8)])).save(tmp_path / "b-alpha.png")
    Image.fromarray(WIDE[..., 0]).save(tmp_path / "c-grey.png")
    photos = PhotoFolder(tmp_path)
    np.testing.assert_array_equal(photos[0].photo, np.rot90(WIDE, -1))
    np.testing.assert_array_equal(photos[1].photo, WIDE)
    np.testing.assert_array_equal(photos[2].photo, WIDE[..., :1].repeat(3, axis=2))


def test_damaged_photos_and_thumbnails_are_sample_errors_that_name_them(tmp_path: Path) -> None:
    put(tmp_path / "a.png", encoded(WIDE)[:1000])
    put(tmp_path / "b.jpg", b"<html>404</html>")
    put(tmp_path / "c.png", encoded(WIDE[:100]))
    photos = PhotoFolder(tmp_path)
    for index, reason in enumerate(
        [r"a\.png: it is damaged or cut off", r"b\.jpg: it is not a photo", "c.png: 100×200"]
    ):
        with pytest.raises(SampleError, match=reason):
            photos[index]
    assert PhotoFolder(tmp_path, min_side=64)[2].photo.shape == (100, 200, 3)


def test_results_that_infer_wrote_beside_photos_are_no_photos(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("a.png", "a_depth.png", "a_color.png", "trip/b_depth_mm.png"):
        put(tmp_path / name, encoded(SQUARE))
    assert names_of(PhotoFolder(tmp_path)) == ["a.png"]
    assert "3 results of an earlier run (such as *_depth.png) are no photos" in caplog.text


def test_a_folder_without_photos_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no photos"):
        PhotoFolder(tmp_path)
    with pytest.raises(DataError, match="is not a folder"):
        PhotoFolder(tmp_path / "gone")


def test_names_that_are_no_text_are_read_too(tmp_path: Path) -> None:
    put(tmp_path / os.fsdecode(b"\xff\xfe.png"), encoded(SQUARE))
    assert PhotoFolder(tmp_path)[0].photo.shape == SQUARE.shape


def test_a_million_names_take_little_more_than_their_letters(tmp_path: Path) -> None:
    put(tmp_path / "a.png", encoded(SQUARE))
    photos = PhotoFolder(tmp_path)
    photos._paths = type(photos._paths)([f"{i:07d}.jpg" for i in range(100_000)])
    assert len(pickle.dumps(photos)) < 100_000 * (11 + 8) + 2000
    assert photos._paths[99_999] == "0099999.jpg"


# ---- shards ----


def laion(path: Path, keys: range) -> None:
    """A shard as img2dataset writes it: .jpg, .json and .txt per key."""
    members = {}
    for key in keys:
        photo = np.full((130, 150, 3), key % 256, np.uint8)
        members |= {
            f"{key:09d}.jpg": encoded(photo, "jpg"),
            f"{key:09d}.json": b"{}",
            f"{key:09d}.txt": b"art",
        }
    write_tar(path, members)


def test_shards_give_their_photos_in_the_order_written(tmp_path: Path) -> None:
    laion(tmp_path / "00000.tar", range(3))
    laion(tmp_path / "00001.tar", range(10, 12))
    expected = [f"00000.tar/{i:09d}" for i in range(3)] + [f"00001.tar/{i:09d}" for i in (10, 11)]
    for pattern in ("{00000..00001}.tar", "*.tar", "0000?.tar"):
        assert names_of(PhotoShards(f"{tmp_path}/{pattern}")) == expected
    photos = PhotoShards([tmp_path / "00001.tar", tmp_path / "00000.tar"])
    assert photos[0].name == "00001.tar/000000010"
    assert abs(int(photos[0].photo[0, 0, 0]) - 10) <= 1
    assert abs(int(photos[4].photo[0, 0, 0]) - 2) <= 1


def test_the_picture_of_a_sample_is_its_first_and_masks_are_none(tmp_path: Path) -> None:
    write_tar(
        tmp_path / "s.tar",
        {
            "x/a.seg.png": encoded(WIDE),
            "x/a.JPG": encoded(SQUARE),
            "x/a.webp": encoded(WIDE),
            "x/b.json": b"{}",
            "._c.jpg": b"resource fork",
        },
    )
    photos = PhotoShards(tmp_path / "s.tar")
    assert names_of(photos) == ["s.tar/x/a"]
    np.testing.assert_array_equal(photos[0].photo, SQUARE)


def test_shards_of_one_name_in_two_folders_stay_apart(tmp_path: Path) -> None:
    laion(tmp_path / "p1/0.tar", range(1))
    laion(tmp_path / "p2/0.tar", range(1))
    assert names_of(PhotoShards(f"{tmp_path}/*/0.tar")) == ["p1/0.tar/000000000", "p2/0.tar/000000000"]


def test_names_are_known_before_a_photo_is_read(tmp_path: Path) -> None:
    laion(tmp_path / "p1/0.tar", range(2))
    laion(tmp_path / "p2/0.tar", range(3))
    put(tmp_path / "photos/a/b.png", encoded(SQUARE))
    for photos in (PhotoShards(f"{tmp_path}/p*/0.tar"), PhotoFolder(tmp_path / "photos")):
        assert list(photos.names) == names_of(photos)


def test_a_place_is_opened_as_what_lies_there(tmp_path: Path) -> None:
    put(tmp_path / "photos/a.png", encoded(SQUARE))
    laion(tmp_path / "laion/0.tar", range(2))
    assert names_of(open_photos(tmp_path / "photos")) == ["a.png"]
    expected = ["0.tar/000000000", "0.tar/000000001"]
    for place in ("laion", "laion/0.tar", "laion/*.tar", "laion/{0..0}.tar"):
        assert names_of(open_photos(f"{tmp_path}/{place}", index=tmp_path / "index")) == expected


def test_only_labelled_photos_are_left_where_labelling_is_unfinished(tmp_path: Path) -> None:
    for name in "abcd":
        put(tmp_path / f"{name}.png", encoded(SQUARE))
    labelled = Labelled(PhotoFolder(tmp_path), ["d.png", "b.png", "gone.png"])
    assert names_of(labelled) == ["b.png", "d.png"]
    with pytest.raises(DataError, match=r"None of the 4 photos.*'a\.png'"):
        Labelled(PhotoFolder(tmp_path), ["0.tar/a"])


@pytest.mark.parametrize(
    "shards", ["pipe:touch owned", "https://x.org/{0..9}.tar", "s3://bucket/a.tar", "a.tar::pipe:touch owned"]
)
def test_commands_and_addresses_are_refused_and_never_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shards: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="only local files"):
        PhotoShards(shards)
    assert list(tmp_path.iterdir()) == []


def test_a_kept_index_is_used_until_its_shard_changes(tmp_path: Path) -> None:
    shard, index = tmp_path / "0.tar", tmp_path / "index"
    laion(shard, range(3))
    assert names_of(PhotoShards(shard, index=index)) == names_of(PhotoShards(shard))
    kept = index / "0.tar.npz"
    made_ns = kept.stat().st_mtime_ns
    assert names_of(PhotoShards(shard, index=index)) == names_of(PhotoShards(shard))
    assert kept.stat().st_mtime_ns == made_ns
    laion(shard, range(5))
    assert len(PhotoShards(shard, index=index)) == 5
    kept.write_bytes(b"damaged")
    assert len(PhotoShards(shard, index=index)) == 5


def test_a_shard_that_is_cut_off_gives_what_is_whole(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shard = tmp_path / "0.tar"
    laion(shard, range(4))
    shard.write_bytes(shard.read_bytes()[:6000])
    photos = PhotoShards(shard)
    assert 1 <= len(photos) < 4
    assert photos[0].photo.shape == (130, 150, 3)
    assert "is cut off after" in caplog.text


def test_compressed_empty_and_missing_shards_say_what_to_do(tmp_path: Path) -> None:
    laion(tmp_path / "0.tar", range(2))
    put(tmp_path / "0.tar.gz", gzip.compress((tmp_path / "0.tar").read_bytes()))
    write_tar(tmp_path / "none.tar", {"a.txt": b"no photo"})
    with pytest.raises(DataError, match="decompress"):
        PhotoShards(tmp_path / "0.tar.gz")
    with pytest.raises(DataError, match="hold no photos"):
        PhotoShards(tmp_path / "none.tar")
    with pytest.raises(DataError, match="No shard matches"):
        PhotoShards(f"{tmp_path}/9*.tar")


def test_a_damaged_photo_in_a_shard_is_a_sample_error_with_its_key(tmp_path: Path) -> None:
    write_tar(tmp_path / "0.tar", {"a.png": encoded(WIDE)[:2000], "b.png": encoded(WIDE)})
    photos = PhotoShards(tmp_path / "0.tar")
    with pytest.raises(SampleError, match=r"0\.tar/a: it is damaged or cut off"):
        photos[0]
    np.testing.assert_array_equal(photos[1].photo, WIDE)
