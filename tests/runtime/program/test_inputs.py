"""Promises about what the arguments of `fiffdepth infer` stand for, and where results go."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fiffdepth_rt.errors import OutputError
from fiffdepth_rt.photos import formats
from fiffdepth_rt.photos.formats import Format
from fiffdepth_rt.program.inputs import Photo, find_photos, jobs_for

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
    return [photo.name for photo in found.photos]


def photos(*paths: str | Path) -> list[Photo]:
    return [Photo(name=str(path), path=Path(path)) for path in paths]


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
        ("*.tif", r"\*\.tif matches no photos"),
        ("album.jpg", r"The folder album\.jpg holds no photos"),
    ],
)
def test_an_argument_without_photos_is_named_and_the_others_count(
    folder: Path, argument: str, complaint: str
) -> None:
    found = find_photos([argument, "b.jpg"])
    assert found.photos == photos("b.jpg")
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
    one = photos("a/kitchen.v2.jpg")
    beside, elsewhere = jobs_for(one, BOTH, None), jobs_for(one, ("npy",), Path("out"))
    assert beside[0].results == {
        "png16": Path("a/kitchen.v2_depth.png"),
        "color": Path("a/kitchen.v2_color.png"),
    }
    assert elsewhere[0].results == {"npy": Path("out/kitchen.v2_depth.npy")}


def result_names(*paths: str, out: str | None = None) -> list[str]:
    jobs = jobs_for(photos(*paths), ("png16",), Path(out) if out else None)
    return [str(job.results["png16"]) for job in jobs]


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize("out", [None, "out"])
def test_of_photos_that_differ_in_their_ending_the_first_by_name_goes_without(
    order: int, out: str | None
) -> None:
    names = ["kitchen.jpg", "kitchen.png", "kitchen.tif"][::order]
    results = ["kitchen_depth.png", "kitchen_png_depth.png", "kitchen_tif_depth.png"][::order]
    assert result_names(*names, out=out) == [f"{out}/{name}" if out else name for name in results]


def test_a_photos_results_are_named_alike_alone_and_with_its_folder(folder: Path) -> None:
    """Also in the next run, when some are done."""
    (folder / "b.png").touch()
    assert result_names("b.png") == ["b_png_depth.png"]
    assert result_names(*names("."))[1:3] == ["b_depth.png", "b_png_depth.png"]
    assert result_names(str(folder / "b.png")) == [str(folder / "b_png_depth.png")]


def test_two_photos_never_become_one_file() -> None:
    with pytest.raises(OutputError, match="would both become") as caught:
        jobs_for(photos("a/kitchen.jpg", "b/kitchen.jpg"), BOTH, Path("out"))
    assert "a/kitchen.jpg" in str(caught.value) and "b/kitchen.jpg" in str(caught.value)
    with pytest.raises(OutputError, match="would both become"):
        jobs_for(photos("k.jpg", "k.png", "k_png.jpg"), BOTH, None)


def test_photos_of_one_name_in_two_folders_keep_their_results_apart() -> None:
    jobs = jobs_for(photos("a/kitchen.jpg", "b/kitchen.jpg"), BOTH, None)
    assert len({path for job in jobs for path in job.results.values()}) == 4


def test_two_ways_to_one_folder_are_one_folder(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    one, other = result_names(str(tmp_path / "real/kitchen.jpg"), str(tmp_path / "link/kitchen.png"))
    assert (one, other) == (
        str(tmp_path / "real/kitchen_depth.png"),
        str(tmp_path / "link/kitchen_png_depth.png"),
    )


@pytest.mark.parametrize("order", [1, -1])
def test_a_result_never_replaces_one_of_the_photos(order: int) -> None:
    both = photos("kitchen.png", "kitchen_depth.png")
    with pytest.raises(OutputError, match=r"the result of kitchen\.png would replace it: leave it out"):
        jobs_for(both[::order], BOTH, None)


def test_what_is_left_aside_in_a_folder_is_named_and_why(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("x.HEIC", "y.heic", "brick_color.png", "raw.cr2", "README", "b_depth.npy.json"):
        (folder / name).touch()
    unread = Format(name="HEIF", endings=(".heic",), module="no_such_module", cure="pip install it")
    monkeypatch.setitem(formats.PHOTO_ENDINGS, ".heic", unread)
    found = find_photos(["."])
    assert [photo.name for photo in found.photos] == ["A.JPEG", "b.jpg", "c d.png", "küche.webp"]
    (sentence,) = found.left_aside
    assert sentence == (
        "The folder . holds more than photos. Left aside: 1 without an ending, 1 *_color.png (a result of an "
        "earlier run; name it to have it done), 1 *.txt, 1 *.cr2, 1 *.HEIC (to read it: pip install it), "
        "1 *.heic (to read it: pip install it)."
    )


def test_every_kind_of_photo_that_is_read_here_is_taken_from_a_folder(tmp_path: Path) -> None:
    for ending in formats.PHOTO_ENDINGS:
        (tmp_path / f"photo{ending}").touch()
    found = find_photos([str(tmp_path)])
    readable = {ending for ending, one in formats.PHOTO_ENDINGS.items() if one.readable}
    assert {photo.path.suffix for photo in found.photos} == readable
    assert readable >= {".jpg", ".jfif", ".gif", ".tga", ".ico", ".hdr", ".pfm"}


def test_a_home_folder_and_a_file_address_are_found(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(folder))
    assert names("~/b.jpg") == names((folder / "b.jpg").as_uri()) == [str(folder / "b.jpg")]
    assert names((folder / "c d.png").as_uri()) == [str(folder / "c d.png")]
    assert names("~/*.jpg") == [str(folder / "b.jpg")]
    (folder / "~").mkdir()
    (folder / "~" / "mine.jpg").touch()
    assert names("~/mine.jpg") == ["~/mine.jpg"]  # what exists by its very name is that


@pytest.mark.parametrize(
    ("argument", "result"),
    [
        ("-", "stdin_depth.png"),
        ("/dev/stdin", "stdin_depth.png"),
        ("/dev/fd/63", "fd63_depth.png"),
        ("/proc/self/fd/11", "fd11_depth.png"),
        ("https://example.org/a/k%C3%BCche.jpg?w=100#x", "küche_depth.png"),
        ("HTTP://example.org", "photo_depth.png"),
        ("http://example.org/..%2f..%2fetc", "etc_depth.png"),
    ],
)
def test_results_of_what_is_no_file_go_to_the_current_folder(
    folder: Path, argument: str, result: str
) -> None:
    found = find_photos([argument])
    assert [photo.address for photo in found.photos] == [argument]
    assert str(jobs_for(found.photos, ("png16",), None)[0].results["png16"]) == result


def test_an_unset_variable_is_not_the_current_folder(folder: Path) -> None:
    found = find_photos(["", "b.jpg"])
    assert found.photos == photos("b.jpg")
    assert "'' does not exist (an unset variable of the shell?)" in str(found.errors[0])
