"""Promises about what the arguments of `fiffdepth infer` stand for, and where results go."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fiffdepth_rt.errors import OutputError
from fiffdepth_rt.program.inputs import find_photos, jobs_for

BOTH = ("png16", "color")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder of the test: photos, results of an earlier run, other things, and a folder in it."""
    for name in (
        "b.jpg",
        "A.JPEG",
        "c d.png",
        "küche.webp",
        "b_depth.png",
        "b_color.png",
        "b_depth.npy",
        ".hidden.jpg",
        "._b.jpg",
        "notes.txt",
        "inner/deep.jpg",
        "inner/deeper/deepest.jpg",
        "inner/deep_depth.png",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "album.jpg").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def names(*arguments: str) -> list[str]:
    found = find_photos(arguments)
    assert found.errors == []
    return [str(path) for path in found.photos]


def test_a_folder_gives_its_photos_and_neither_results_nor_hidden_files(folder: Path) -> None:
    assert names(".") == ["A.JPEG", "b.jpg", "c d.png", "küche.webp"]


def test_a_folder_does_not_give_the_photos_of_its_folders(folder: Path) -> None:
    assert names("inner") == ["inner/deep.jpg"]


def test_two_stars_give_the_photos_at_any_depth(folder: Path) -> None:
    assert names("inner/**/*.jpg") == ["inner/deep.jpg", "inner/deeper/deepest.jpg"]


def test_a_pattern_leaves_out_results_and_folders(folder: Path) -> None:
    assert names("*") == ["A.JPEG", "b.jpg", "c d.png", "küche.webp"]
    assert names("?.jpg") == ["b.jpg"]


def test_a_pattern_may_be_absolute(folder: Path) -> None:
    assert names(str(folder / "b*.jpg")) == [str(folder / "b.jpg")]


def test_a_file_is_taken_whatever_its_name(folder: Path) -> None:
    assert names("b_depth.png", "notes.txt", ".hidden.jpg") == ["b_depth.png", "notes.txt", ".hidden.jpg"]


@pytest.mark.parametrize(
    "name", ["hall [1].jpg", "what?.jpg", "*.jpg", "[!x].jpg", " .jpg", "-x.jpg", "a\nb.jpg"]
)
def test_a_file_whose_name_looks_like_a_pattern_is_that_file(folder: Path, name: str) -> None:
    (folder / name).touch()
    assert names(name) == [name]


def test_a_folder_whose_name_looks_like_a_pattern_is_that_folder(folder: Path) -> None:
    (folder / "trip [2025]").mkdir()
    (folder / "trip [2025]" / "sea.jpg").touch()
    assert names("trip [2025]") == ["trip [2025]/sea.jpg"]


def test_a_name_that_is_no_utf8_is_found(folder: Path) -> None:
    name = os.fsdecode(b"caf\xe9.jpg")
    (folder / name).touch()
    assert names(".", name)[3] == name


def test_a_photo_named_twice_is_taken_once(folder: Path) -> None:
    assert names("b.jpg", "./b.jpg", str(folder / "b.jpg"), "inner/../b.jpg", "b*.jpg") == ["b.jpg"]


@pytest.mark.parametrize(
    ("argument", "complaint"),
    [
        ("nowhere.jpg", r"nowhere\.jpg does not exist"),
        ("x" * 5000, "does not exist"),
        ("*.tif", r"No photo matches \*\.tif"),
        ("album.jpg", r"The folder album\.jpg holds no photos"),
    ],
)
def test_an_argument_without_photos_is_named_and_the_others_count(
    folder: Path, argument: str, complaint: str
) -> None:
    found = find_photos([argument, "b.jpg"])
    assert found.photos == [Path("b.jpg")]
    assert len(found.errors) == 1
    with pytest.raises(type(found.errors[0]), match=complaint):
        raise found.errors[0]


def test_a_folder_that_may_not_be_read_is_named(folder: Path) -> None:
    (folder / "inner").chmod(0)
    try:
        if os.access("inner", os.R_OK):
            pytest.skip("this user (root) may read every folder")
        found = find_photos(["inner"])
    finally:
        (folder / "inner").chmod(0o755)
    assert "check its permissions" in str(found.errors[0])


def test_results_lie_beside_the_photo_or_in_the_folder_for_them() -> None:
    photos = [Path("a/kitchen.v2.jpg")]
    beside, elsewhere = jobs_for(photos, BOTH, None), jobs_for(photos, ("npy",), Path("out"))
    assert beside[0].results == {
        "png16": Path("a/kitchen.v2_depth.png"),
        "color": Path("a/kitchen.v2_color.png"),
    }
    assert elsewhere[0].results == {"npy": Path("out/kitchen.v2_depth.npy")}


@pytest.mark.parametrize(
    ("photos", "out"),
    [(("kitchen.jpg", "kitchen.png"), None), (("a/kitchen.jpg", "b/kitchen.jpg"), "out")],
)
def test_two_photos_never_become_one_file(photos: tuple[str, str], out: str | None) -> None:
    with pytest.raises(OutputError, match="would both become") as caught:
        jobs_for([Path(photo) for photo in photos], BOTH, Path(out) if out else None)
    assert all(photo in str(caught.value) for photo in photos)


def test_photos_of_one_name_in_two_folders_keep_their_results_apart() -> None:
    jobs = jobs_for([Path("a/kitchen.jpg"), Path("b/kitchen.jpg")], BOTH, None)
    assert len({path for job in jobs for path in job.results.values()}) == 4


def test_two_ways_to_one_folder_are_one_folder(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    with pytest.raises(OutputError, match="would both become"):
        jobs_for([tmp_path / "real/kitchen.jpg", tmp_path / "link/kitchen.png"], BOTH, None)


@pytest.mark.parametrize("order", [1, -1])
def test_a_result_never_replaces_one_of_the_photos(order: int) -> None:
    photos = [Path("kitchen.png"), Path("kitchen_depth.png")]
    with pytest.raises(OutputError, match=r"the result of kitchen\.png would replace it: leave it out"):
        jobs_for(photos[::order], BOTH, None)
