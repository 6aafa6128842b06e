"""Promises about labels: what a teacher's map becomes, and how it lies on disk."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from safetensors import safe_open

from training.data.labels import Header, LabelError, LabelStore
from training.data.samples import DataError, SampleError
from training.data.teacher_maps import check_conversion, reciprocal, to_picture

DTYPES = ("uint16", "float16")


def header(dtype: str = "uint16", **changes: object) -> Header:
    fields = {"space": "depth", "dtype": dtype, "teacher": "Tëst", "licence": "CC0-1.0", "made": {"x": 0.02}}
    return Header(**{**fields, **changes})  # type: ignore[arg-type]


def ramp(height: int = 40, width: int = 60) -> NDArray[np.float32]:
    return np.linspace(-1, 1, height * width, dtype=np.float32).reshape(height, width)


def everywhere(picture: NDArray[np.float32]) -> NDArray[np.bool_]:
    return np.ones(picture.shape, bool)


# ---- the store ----


@pytest.mark.parametrize(("dtype", "error"), [("uint16", 1 / 65534 + 1e-7), ("float16", 2**-12)])
def test_a_label_comes_back_within_half_a_step_of_its_16_bits(
    tmp_path: Path, dtype: str, error: float
) -> None:
    store = LabelStore.create(tmp_path / "labels", header(dtype))
    picture, valid = ramp(), everywhere(ramp())
    valid[3:9, 5:20] = False
    store.write("trip/sea.jpg", picture, valid)
    again, valid_again = LabelStore(tmp_path / "labels").picture("trip/sea.jpg")
    np.testing.assert_array_equal(valid_again, valid)
    np.testing.assert_allclose(again[valid], picture[valid], rtol=0, atol=error)
    assert (again.dtype, again[~valid].max(), again[~valid].min()) == (np.float32, 0, 0)


def test_the_ends_of_the_range_come_back_exactly(tmp_path: Path) -> None:
    for dtype in DTYPES:
        store = LabelStore.create(tmp_path / dtype, header(dtype))
        picture = np.array([[-1, 0, 1]], np.float32)
        store.write("a", picture, everywhere(picture))
        np.testing.assert_array_equal(store.picture("a")[0][0, [0, 2]], [-1, 1])


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_label_says_what_it_is_without_its_store(tmp_path: Path, dtype: str) -> None:
    store = LabelStore.create(tmp_path, header(dtype, space="disparity", licence="CC-BY-NC-4.0"))
    store.write("hall.jpg", ramp(), everywhere(ramp()))
    path = store.path("hall.jpg")
    if dtype == "uint16":
        with Image.open(path) as file:
            said = dict(file.info)
    else:
        with safe_open(path, framework="np") as file:
            said = file.metadata()
    assert (said["name"], said["teacher"], said["space"]) == ("hall.jpg", "Tëst", "disparity")
    assert said["licence"] == "CC-BY-NC-4.0"
    assert said["convention"].endswith("normalised: +1 = nearest, -1 = farthest; not inverse metres")


def test_a_png_label_holds_the_documented_numbers(tmp_path: Path) -> None:
    store = LabelStore.create(tmp_path, header("uint16"))
    picture = np.array([[-1, 0, 1, 0.5]], np.float32)
    store.write("a.jpg", picture, np.array([[True, True, True, False]]))
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "a.jpg.png")), [[1, 32768, 65535, 0]])


def test_photos_that_differ_in_their_suffix_or_folder_have_labels_of_their_own(tmp_path: Path) -> None:
    store = LabelStore.create(tmp_path, header())
    names = ["a.jpg", "a.png", "b/a.jpg", "a"]
    for i, name in enumerate(names):
        picture = np.full((2, 2), i / 4, np.float32)
        store.write(name, picture, everywhere(picture))
    assert list(store) == sorted(names)
    assert [round(float(store.picture(name)[0][0, 0]) * 4) for name in names] == [0, 1, 2, 3]
    assert ("a.jpg" in store, "b/a.png" in store) == (True, False)


def test_a_photo_whose_label_would_have_too_long_a_name_is_told_by_its_name(tmp_path: Path) -> None:
    """The photo's own name is legal. A LabelError is what labelling passes over, and tells."""
    store = LabelStore.create(tmp_path / "labels", header())
    name = "n" * 251 + ".jpg"
    assert name not in store
    with pytest.raises(LabelError, match="longer than 255 bytes"):
        store.write(name, ramp(), everywhere(ramp()))


@pytest.mark.parametrize("name", ["../x", "a/../../x", "/etc/x", "", "a\0b"])
def test_a_name_cannot_leave_the_store(tmp_path: Path, name: str) -> None:
    store = LabelStore.create(tmp_path / "labels", header())
    with pytest.raises(LabelError, match="cannot name a label"):
        store.write(name, ramp(), everywhere(ramp()))
    assert [p.name for p in tmp_path.rglob("*")] == ["labels", "header.json"]


@pytest.mark.parametrize("change", [{"space": "disparity"}, {"teacher": "other"}, {"made": {}}])
def test_labels_of_two_kinds_never_mix(tmp_path: Path, change: dict[str, object]) -> None:
    before = LabelStore.create(tmp_path, header()).header
    with pytest.raises(DataError, match=f"holds labels of another kind.*{next(iter(change))}="):
        LabelStore.create(tmp_path, header(**change))
    assert LabelStore.create(tmp_path, header()).header == before


def test_a_folder_without_a_header_is_no_store(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no label store.*training\.labelling"):
        LabelStore(tmp_path)


@pytest.mark.parametrize("text", ["", "[]", '{"format": "other", "format_version": 1}'])
def test_a_header_of_another_kind_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "header.json").write_text(text)
    with pytest.raises(DataError, match=r"header\.json cannot be used"):
        LabelStore(tmp_path)


def test_a_header_of_an_unknown_space_is_refused(tmp_path: Path) -> None:
    store = LabelStore.create(tmp_path, header())
    text = json.loads((tmp_path / "header.json").read_text()) | {"space": "metres"}
    (tmp_path / "header.json").write_text(json.dumps(text))
    with pytest.raises(DataError, match="say depth or disparity"):
        LabelStore(store.folder)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_damaged_label_names_its_photo(tmp_path: Path, dtype: str) -> None:
    store = LabelStore.create(tmp_path, header(dtype))
    store.write("a.jpg", ramp(), everywhere(ramp()))
    whole = store.path("a.jpg").read_bytes()
    for damaged in (b"", b"junk", whole[: len(whole) // 2]):
        store.path("a.jpg").write_bytes(damaged)
        with pytest.raises(SampleError, match=r"^a\.jpg: its label .* is damaged .*delete it"):
            store.picture("a.jpg")


def test_a_label_that_was_never_made_names_its_photo(tmp_path: Path) -> None:
    store = LabelStore.create(tmp_path, header())
    with pytest.raises(SampleError, match=r"^b\.jpg: has no label"):
        store.picture("b.jpg")


@pytest.mark.parametrize("bad", [1.01, -2.0, np.nan])
def test_values_out_of_range_are_not_written(tmp_path: Path, bad: float) -> None:
    store = LabelStore.create(tmp_path, header())
    picture = ramp()
    picture[7, 7] = bad
    with pytest.raises(LabelError, match=r"outside of \[-1, 1\]"):
        store.write("a", picture, everywhere(picture))
    valid = everywhere(picture)
    valid[7, 7] = False
    store.write("a", picture, valid)
    assert store.picture("a")[0][7, 7] == 0


def write_for_ever(folder: str) -> None:
    store = LabelStore(folder)
    picture = ramp(300, 400)
    while True:
        store.write("a.jpg", picture, everywhere(picture))


def test_a_writer_killed_at_any_moment_leaves_a_whole_label_or_none(tmp_path: Path) -> None:
    store = LabelStore.create(tmp_path, header())
    context = multiprocessing.get_context("fork")
    for _ in range(5):
        writer = context.Process(target=write_for_ever, args=(str(tmp_path),))
        writer.start()
        while "a.jpg" not in store:
            pass
        assert writer.pid is not None
        os.kill(writer.pid, signal.SIGKILL)
        writer.join()
        np.testing.assert_allclose(store.picture("a.jpg")[0], ramp(300, 400), rtol=0, atol=2e-5)
        store.path("a.jpg").unlink()
    store.sweep()
    assert [p.name for p in tmp_path.iterdir()] == ["header.json"]


# ---- teacher map -> depth picture ----


def stretched(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """2 %/98 % normalisation in plain numpy."""
    ordered = np.sort(values.ravel())

    def quantile(share: float) -> float:
        at = share * (len(ordered) - 1)
        low = int(at)
        return float(ordered[low] + (at - low) * (ordered[min(low + 1, len(ordered) - 1)] - ordered[low]))

    lo, hi = quantile(0.02), quantile(0.98)
    return np.clip((values - lo) / (hi - lo) * 2 - 1, -1, 1)


def disparity_map(seed: int = 0, size: int = 5000) -> NDArray[np.float32]:
    return np.random.default_rng(seed).uniform(2, 50, (50, size // 50)).astype(np.float32)


def test_disparity_becomes_the_picture_of_its_reciprocal() -> None:
    disparity = disparity_map()
    floor = np.quantile(disparity, 0.02)
    picture, valid = to_picture(disparity, output="disparity", space="depth", name="x")
    assert valid.all()
    expected = stretched(1 / np.maximum(disparity, floor).astype(np.float64))
    np.testing.assert_allclose(picture, expected, atol=2e-6)
    assert picture[np.unravel_index(disparity.argmax(), disparity.shape)] == -1  # nearest
    assert picture[np.unravel_index(disparity.argmin(), disparity.shape)] == 1  # farthest


def test_the_floor_is_the_2_percent_quantile() -> None:
    disparity = np.linspace(1, 101, 101, dtype=np.float32)[
        None
    ]  # no value is below a hundredth of the largest
    disparity[0, 0] = 1.5
    depth = reciprocal(disparity, np.ones(disparity.shape, bool))
    np.testing.assert_allclose(depth[0, :3], 1 / 3)  # the 2 % quantile of 101 values is the third
    np.testing.assert_allclose(depth[0, 3:], 1 / np.arange(4, 102), rtol=1e-6)


@pytest.mark.parametrize("share", [0.01, 0.3, 0.9])
@pytest.mark.parametrize("sky", [0.0, 0.2])
def test_a_sky_is_as_far_as_the_farthest_of_the_rest(share: float, sky: float) -> None:
    disparity = disparity_map(1)
    rows = np.zeros(disparity.size, bool)
    rows[: round(share * disparity.size)] = True
    is_sky = rows.reshape(disparity.shape)
    disparity[is_sky] = sky  # exactly 0, and below a hundredth of the largest
    rest = disparity[~is_sky].astype(np.float64)
    floor = np.quantile(rest, 0.02)
    picture, valid = to_picture(disparity, output="disparity", space="depth", name="x")
    assert valid.all() and np.isfinite(picture).all()
    expected = stretched(1 / np.where(is_sky, floor, np.maximum(disparity, floor)))
    np.testing.assert_allclose(picture, expected, atol=2e-6)
    assert (picture[is_sky] == 1).all()
    assert np.ptp(picture[~is_sky]) > 1.9  # the rest keeps the range for itself


def test_disparity_as_it_is_has_its_sky_farthest_and_near_up() -> None:
    disparity = disparity_map(2)
    disparity[:15] = 0
    picture, valid = to_picture(disparity, output="disparity", space="disparity", name="x")
    assert valid.all()
    np.testing.assert_allclose(picture, stretched(disparity.astype(np.float64)), atol=2e-6)
    assert (picture[:15] == -1).all()
    assert picture[np.unravel_index(disparity.argmax(), disparity.shape)] == 1


def test_depth_known_up_to_scale_and_shift_needs_no_reciprocal() -> None:
    depth = np.random.default_rng(3).normal(0, 5, (40, 50)).astype(np.float32)  # negative values included
    picture, _ = to_picture(depth, output="depth", space="depth", name="x")
    np.testing.assert_allclose(picture, stretched(depth.astype(np.float64)), atol=2e-6)
    other, _ = to_picture(depth * 7 + 300, output="depth", space="depth", name="x")
    np.testing.assert_allclose(other, picture, atol=1e-4)


def test_metres_become_either_space() -> None:
    metres = np.random.default_rng(4).uniform(0.5, 80, (40, 50)).astype(np.float32)
    depth, _ = to_picture(metres, output="metres", space="depth", name="x")
    disparity, _ = to_picture(metres, output="metres", space="disparity", name="x")
    np.testing.assert_allclose(depth, stretched(metres.astype(np.float64)), atol=2e-6)
    np.testing.assert_allclose(disparity, stretched(1 / metres.astype(np.float64)), atol=2e-6)


def test_a_reciprocal_that_is_not_known_is_refused() -> None:
    with pytest.raises(DataError, match="up to scale and shift"):
        check_conversion("depth", "disparity")


@pytest.mark.parametrize("output", ["disparity", "depth", "metres"])
def test_what_is_not_finite_is_not_valid_and_changes_nothing_else(output: str) -> None:
    values = disparity_map(5)
    values[0] = [np.nan, np.inf, -np.inf, np.nan] * 25
    picture, valid = to_picture(values, output=output, space="depth", name="x")  # type: ignore[arg-type]
    assert (valid[0].any(), valid[1:].all()) == (False, True)
    alone, _ = to_picture(values[1:], output=output, space="depth", name="x")  # type: ignore[arg-type]
    np.testing.assert_array_equal(picture[1:], alone)
    assert (picture[0] == 0).all()


@pytest.mark.parametrize(
    "values",
    [np.zeros((4, 4)), np.full((4, 4), 3.0), np.full((4, 4), np.nan), 1e6 + np.eye(4), -np.ones((4, 4))],
)
@pytest.mark.parametrize("space", ["depth", "disparity"])
def test_a_flat_or_empty_map_is_an_error_that_names_the_photo(
    values: NDArray[np.float64], space: str
) -> None:
    with pytest.raises(SampleError, match=r"^hall\.jpg: "):
        to_picture(values.astype(np.float32), output="disparity", space=space, name="hall.jpg")  # type: ignore[arg-type]
