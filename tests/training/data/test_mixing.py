"""Promises of the loader: what a batch holds, and that it follows from seed and step alone."""

from __future__ import annotations

import collections
import dataclasses
import itertools
import logging
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from tests.support.raw_data import encoded, write_vkitti_frame
from training.data import mixing
from training.data.images import PhotoFolder
from training.data.labels import Header, LabelStore
from training.data.mixing import Mixture, RealSource, SyntheticSource, loader
from training.data.samples import DataError, Pair, Photo, SampleError
from training.data.vkitti import SIZE_HW, VirtualKitti


@dataclasses.dataclass(frozen=True)
class Ramps:
    """A synthetic dataset: sample i has grey level i everywhere, depth grows from left to right, one hole."""

    name: str
    count: int
    hw: tuple[int, int] = (48, 64)
    broken: frozenset[int] = frozenset()
    space: str = "depth"
    licence: str = "none"

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Pair:
        if index in self.broken:
            raise SampleError(str(index), "cut off")
        picture = np.linspace(-1, 1, self.hw[1], dtype=np.float32)[None].repeat(self.hw[0], 0)
        valid = np.ones(self.hw, np.bool_)
        valid[0, 0] = False
        photo = np.full((*self.hw, 3), index, np.uint8)
        return Pair(photo=photo, picture=picture, valid=valid, name=str(index))


@dataclasses.dataclass(frozen=True)
class Scenery(Ramps):
    """A real dataset: as Ramps, without depth."""

    def __getitem__(self, index: int) -> Photo:
        pair = Ramps.__getitem__(self, index)
        return Photo(photo=pair.photo, name=pair.name)


@dataclasses.dataclass(frozen=True)
class Teacher:
    """Labels of another size than the photos, valid but for the last column; darker is farther."""

    hw: tuple[int, int] = (24, 32)
    header: Header = Header(space="depth", dtype="uint16", teacher="ramps", licence="none")

    def picture(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        picture = np.linspace(1, -1, self.hw[1], dtype=np.float32)[None].repeat(self.hw[0], 0)
        valid = np.ones(self.hw, np.bool_)
        valid[:, -1] = False
        return picture, valid


TWO = (
    SyntheticSource(dataset=Ramps("rooms", 40), weight=0.9),
    SyntheticSource(dataset=Ramps("streets", 7, (32, 96)), weight=0.1),
)
PHOTOS = (RealSource(dataset=Scenery("photos", 23), labels=Teacher(), sizes_hw=((32, 32), (32, 64))),)
MIXTURE = Mixture(seed=5, half_batch=4, synthetic=TWO, real=PHOTOS, stop=8)


def batches(mixture: Mixture, **ranks: int) -> list[tuple]:
    return list(loader(mixture, **ranks))


def assert_same(a: list[tuple], b: list[tuple]) -> None:
    assert len(a) == len(b) > 0
    for one, other in zip(itertools.chain(*a), itertools.chain(*b), strict=True):
        if one is None:
            assert other is None
            continue
        assert (one.names, one.keys) == (other.names, other.keys)
        for field in ("photos", "pictures", "valid"):
            assert torch.equal(getattr(one, field), getattr(other, field)), field


# ---- what a batch holds ----


def test_a_batch_is_photos_and_pictures_in_minus_one_to_one_with_their_valid_pixels() -> None:
    for synthetic, real in batches(MIXTURE):
        for batch in (synthetic, real):
            count, _, height, width = batch.photos.shape
            assert count == 4 == len(batch.names) == len(batch.keys)
            assert batch.pictures.shape == batch.valid.shape == (4, 1, height, width)
            assert (batch.photos.dtype, batch.pictures.dtype) == (torch.float32, torch.float32)
            assert batch.valid.dtype == torch.bool
            assert batch.photos.abs().max() <= 1 and batch.pictures.abs().max() <= 1
        grey = [int(name.split("/")[1]) for name in synthetic.names]
        expected = torch.tensor(grey)[:, None, None, None] / 127.5 - 1
        assert torch.allclose(synthetic.photos, expected.expand_as(synthetic.photos), atol=1e-6)


def test_every_batch_is_of_one_dataset_and_nine_of_ten_are_of_the_first() -> None:
    mixture = dataclasses.replace(MIXTURE, half_batch=2, stop=400, real=())
    chosen = collections.Counter()
    for synthetic, real in loader(mixture):
        (name,) = {name.split("/")[0] for name in synthetic.names}
        chosen[name] += 1
        assert real is None
        assert synthetic.photos.shape[2:] == ((48, 64) if name == "rooms" else (32, 96))
    assert chosen["rooms"] / 400 == pytest.approx(0.9, abs=0.04)


def test_an_epoch_shows_every_sample_once_and_the_next_in_another_order() -> None:
    mixture = dataclasses.replace(MIXTURE, synthetic=TWO[:1], real=(), stop=20)
    shown = [name for synthetic, _ in loader(mixture) for name in synthetic.names]
    first, second = shown[:40], shown[40:]
    assert sorted(first) == sorted(second) == sorted(f"rooms/{i}" for i in range(40))
    assert first != second


def test_half_of_the_pictures_are_mirrored_in_all_three_rasters_together() -> None:
    mixture = dataclasses.replace(MIXTURE, synthetic=TWO[:1], stop=100)
    mirrored = []
    for synthetic, real in loader(mixture):
        for batch, rises in ((synthetic, True), (real, False)):
            for row, key in enumerate(batch.keys):
                left, right = batch.pictures[row, 0, 5, [2, -3]]
                mirrored.append(key.endswith("~"))
                assert ((left < right) == rises) != key.endswith("~")
        for row, key in enumerate(synthetic.keys):
            hole = (~synthetic.valid[row, 0]).nonzero().tolist()
            assert hole == [[0, 63 if key.endswith("~") else 0]]
    assert np.mean(mirrored) == pytest.approx(0.5, abs=0.06)


def test_keys_tell_apart_what_looks_different_and_equal_keys_are_equal_pixels() -> None:
    sources = tuple(dataclasses.replace(source, views=3) for source in PHOTOS)
    synthetic = (dataclasses.replace(TWO[0], views=2),)
    mixture = dataclasses.replace(MIXTURE, synthetic=synthetic, real=sources, stop=60)
    seen: dict[str, torch.Tensor] = {}
    met_again = 0
    for halves in loader(mixture):
        for batch in halves:
            for key, picture in zip(batch.keys, batch.pictures, strict=True):
                met_again += key in seen
                assert torch.equal(seen.setdefault(key, picture), picture)
    per_photo = collections.Counter(key.split("@")[0] for key in seen)
    assert max(n for name, n in per_photo.items() if name.startswith("photos")) <= 3 * 2  # views × sizes
    assert all(n <= 2 for name, n in per_photo.items() if name.startswith("rooms"))
    assert met_again > 200


def test_real_photos_are_cut_out_within_the_photo_and_labelled_for_what_is_left() -> None:
    for _, real in loader(dataclasses.replace(MIXTURE, stop=30)):
        assert real.pictures.shape[2:] in {(32, 32), (32, 64)}
        for row in range(4):
            seen = real.pictures[row][real.valid[row]]
            assert seen.max() - seen.min() > 1.85  # normalised anew: the whole label's range is wider
            assert real.valid[row].float().mean() > 0.9


def test_a_label_is_invalid_where_any_of_what_it_is_made_of_is() -> None:
    picture, valid = Teacher().picture("x")
    larger, certain = mixing._smoothly(picture, valid, (48, 64))
    assert larger.shape == certain.shape == (48, 64)
    assert not certain[:, -3:].any() and certain[:, :-4].all()


def test_depth_shrinks_to_values_that_it_had_and_photos_by_their_source() -> None:
    steps = np.repeat(np.array([[-1.0, 1.0]], np.float32), 30, axis=0).repeat(45, axis=1)
    pair = Pair(
        photo=((steps + 1) * 127.5).astype(np.uint8)[..., None].repeat(3, 2),
        picture=steps,
        valid=np.ones(steps.shape, np.bool_),
        name="edge",
    )
    source = SyntheticSource(dataset=Ramps("x", 1))
    seen = {}
    for photo_filter in ("nearest", "area"):
        shown = mixing._show(
            pair,
            (8, 25),
            dataclasses.replace(source, photo_filter=photo_filter),
            np.random.default_rng(0),
            False,
        ).pair
        assert set(np.unique(shown.picture)) <= {-1.0, 1.0}
        seen[photo_filter] = len(np.unique(shown.photo))
    assert seen["nearest"] == 2 < seen["area"]


@pytest.mark.parametrize(
    ("photo_hw", "size_hw", "zoom", "expected"),
    [
        ((768, 1024), (480, 640), 1.0, (768, 1024)),  # Hypersim: all of it
        ((352, 1216), (352, 1216), 1.0, (352, 1216)),
        ((1000, 1000), (512, 640), 1.0, (800, 1000)),  # the largest of that shape
        ((2000, 2000), (512, 512), 1.5, (1333, 1333)),  # zoomed
        ((600, 600), (512, 512), 1.5, (512, 512)),  # but never below what is asked for
        ((300, 400), (512, 512), 1.5, (300, 300)),  # small photos are enlarged, not zoomed
    ],
)
def test_cut_outs_have_the_shape_of_the_batch(
    photo_hw: tuple[int, int], size_hw: tuple[int, int], zoom: float, expected: tuple[int, int]
) -> None:
    assert mixing._cut_out_hw(photo_hw, size_hw, max_zoom=zoom, chance=1.0) == expected


def test_real_sizes_are_multiples_of_64_from_512_to_640() -> None:
    assert set(itertools.chain(*mixing.REAL_SIZES_HW)) == {512, 576, 640}
    assert len(set(mixing.REAL_SIZES_HW)) == 9


# ---- the same batches, whoever makes them ----


def test_two_workers_give_the_batches_of_none() -> None:
    assert_same(batches(MIXTURE), batches(dataclasses.replace(MIXTURE, workers=2)))


def test_a_resumed_run_sees_the_batches_that_it_would_have_seen() -> None:
    whole = batches(MIXTURE)
    for start in (1, 5):
        assert_same(whole[start:], batches(dataclasses.replace(MIXTURE, start=start, workers=start % 2)))


@pytest.mark.parametrize("world", [2, 4])
def test_the_ranks_hold_consecutive_slices_of_the_batch_of_one_process(world: int) -> None:
    whole = batches(MIXTURE)
    shares = [batches(MIXTURE, rank=rank, world=world) for rank in range(world)]
    for step, halves in enumerate(whole):
        for half, batch in enumerate(halves):
            parts = [share[step][half] for share in shares]
            assert batch.keys == sum((part.keys for part in parts), ())
            assert torch.equal(batch.photos, torch.cat([part.photos for part in parts]))
            assert torch.equal(batch.valid, torch.cat([part.valid for part in parts]))


def test_another_seed_gives_other_batches() -> None:
    keys = {seed: [s.keys for s, _ in loader(dataclasses.replace(MIXTURE, seed=seed))] for seed in (1, 2)}
    assert keys[1] != keys[2]


def test_the_runs_own_random_numbers_are_left_alone() -> None:
    torch.manual_seed(3)
    np.random.seed(3)
    expected = torch.rand(1), np.random.rand()
    torch.manual_seed(3)
    np.random.seed(3)
    batches(dataclasses.replace(MIXTURE, workers=1, stop=2))
    assert (torch.rand(1), np.random.rand()) == expected


def test_workers_read_no_further_ahead_than_they_were_told(monkeypatch: pytest.MonkeyPatch) -> None:
    asked_for = []
    plain = mixing._steps

    def counted(*arguments: object, **ranks: int) -> object:
        for step in plain(*arguments, **ranks):
            asked_for.append(step.step)
            yield step

    monkeypatch.setattr(mixing, "_steps", counted)
    taken = iter(loader(dataclasses.replace(MIXTURE, stop=None, workers=2, prefetch=3)))
    for _ in range(4):
        next(taken)
    taken.close()
    assert len(asked_for) <= 4 + 2 * 3


# ---- what cannot be used ----


def test_a_damaged_sample_is_logged_once_counted_and_always_replaced_by_the_same(
    caplog: pytest.LogCaptureFixture,
) -> None:
    broken = dataclasses.replace(TWO[0], dataset=Ramps("rooms", 40, broken=frozenset({3, 17})))
    mixture = dataclasses.replace(MIXTURE, synthetic=(broken,), stop=20)
    with caplog.at_level(logging.WARNING, "training"):
        alone = loader(mixture)
        whole = list(alone)
    assert alone.skipped == {"rooms/3": 2, "rooms/17": 2}
    assert sorted(record.message for record in caplog.records) == [
        "Skipped rooms/17: cut off",
        "Skipped rooms/3: cut off",
    ]
    shown = [name for synthetic, _ in whole for name in synthetic.names]
    assert len(shown) == 80 and not {"rooms/3", "rooms/17"} & set(shown)
    many = loader(dataclasses.replace(mixture, workers=2))
    assert_same(whole, list(many))
    assert many.skipped == alone.skipped


def test_one_good_sample_among_damaged_ones_is_found() -> None:
    broken = Ramps("rooms", 30, broken=frozenset(range(30)) - {11})
    mixture = dataclasses.replace(MIXTURE, synthetic=(SyntheticSource(dataset=broken),), real=(), stop=1)
    ((synthetic, _),) = batches(mixture)
    assert set(synthetic.names) == {"rooms/11"}


@pytest.mark.parametrize("workers", [0, 1])
def test_a_dataset_with_nothing_usable_ends_the_run(workers: int) -> None:
    broken = Ramps("rooms", 500, broken=frozenset(range(500)))
    mixture = dataclasses.replace(MIXTURE, synthetic=(SyntheticSource(dataset=broken),), workers=workers)
    run = loader(mixture)
    with pytest.raises(DataError, match=r"rooms gives nothing usable: 64 of its 500 .*cut off"):
        list(run)
    assert run.skipped.total() == 64


def test_a_photo_without_its_label_is_skipped_and_named(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    (tmp_path / "photos").mkdir()
    for name in ("a", "b", "c"):
        (tmp_path / f"photos/{name}.png").write_bytes(
            encoded(rng.integers(0, 256, (140, 150, 3), dtype=np.uint8))
        )
    header = Header(space="depth", dtype="uint16", teacher="t", licence="none")
    labels = LabelStore.create(tmp_path / "labels", header)
    picture = np.linspace(-1, 1, 140 * 150, dtype=np.float32).reshape(140, 150)
    for name in ("a.png", "c.png"):
        labels.write(name, picture, np.ones(picture.shape, np.bool_))
    (tmp_path / "labels/c.png.png").write_bytes(b"damaged")
    source = RealSource(dataset=PhotoFolder(tmp_path / "photos"), labels=labels, sizes_hw=((64, 128),))
    run = loader(dataclasses.replace(MIXTURE, real=(source,), stop=3))
    assert {name for _, real in run for name in real.names} == {"photos/a.png"}
    assert set(run.skipped) >= {"photos/b.png", "photos/c.png"}


def test_a_label_of_another_photo_is_noticed_by_its_shape() -> None:
    source = dataclasses.replace(PHOTOS[0], labels=Teacher((32, 24)))
    with pytest.raises(DataError, match=r"label of 32×24, photo of 48×64"):
        batches(dataclasses.replace(MIXTURE, real=(source,)))


def test_pictures_of_different_sizes_need_a_size() -> None:
    @dataclasses.dataclass(frozen=True)
    class Mixed(Ramps):
        def __getitem__(self, index: int) -> Pair:
            return Ramps("x", 9, (32, 32 + 16 * (index % 2)))[index]

    mixture = dataclasses.replace(MIXTURE, synthetic=(SyntheticSource(dataset=Mixed("mixed", 9)),), real=())
    with pytest.raises(DataError, match=r"different sizes \(32×32, 32×48\).*set sizes_hw"):
        batches(mixture)
    sized = SyntheticSource(dataset=Mixed("mixed", 9), sizes_hw=((32, 32),))
    assert len(batches(dataclasses.replace(mixture, synthetic=(sized,)))) == 8


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"half_batch": 3}, "cannot be shared"),
        ({"synthetic": ()}, "no synthetic dataset"),
        ({"synthetic": (TWO[0], TWO[0])}, "Two datasets are called rooms"),
        ({"synthetic": (dataclasses.replace(TWO[0], weight=0),)}, "weight 0"),
        ({"synthetic": (dataclasses.replace(TWO[0], sizes_hw=()),)}, "sizes"),
        ({"synthetic": (dataclasses.replace(TWO[0], views=0),)}, "views 0"),
        ({"synthetic": (SyntheticSource(dataset=Ramps("none", 0)),)}, "none is empty"),
        ({"synthetic": (SyntheticSource(dataset=Ramps("z", 9, space="disparity")),)}, "one space"),
        ({"flip": 1.5}, "probability"),
        ({"start": 9}, "start=9"),
        ({"workers": -1}, "workers=-1"),
    ],
)
def test_a_plan_that_cannot_be_followed_is_refused_before_anything_is_read(change: dict, reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        loader(dataclasses.replace(MIXTURE, **change), world=2)


def test_real_files_go_all_the_way_into_a_batch(tmp_path: Path) -> None:
    write_vkitti_frame(tmp_path, 0)
    write_vkitti_frame(tmp_path, 1)
    streets = VirtualKitti(tmp_path, space="disparity", scenes=["Scene02"], variations=["clone"], cameras=[0])
    mixture = Mixture(seed=1, half_batch=2, synthetic=(SyntheticSource(dataset=streets),), stop=1)
    ((synthetic, _),) = batches(mixture)
    assert synthetic.photos.shape == (2, 3, *SIZE_HW)
    assert sorted(synthetic.names) == [f"vkitti/Scene02/clone/Camera_0/0000{i}" for i in range(2)]
    assert (synthetic.pictures[:, 0, -1] == 1).all()  # disparity: the street before the car is near


@pytest.mark.soak
def test_memory_stays_where_it_was_over_thousands_of_steps() -> None:
    mixture = dataclasses.replace(MIXTURE, workers=2, stop=4000)
    me = psutil.Process()
    used = []
    for step, _ in enumerate(loader(mixture)):
        if step % 500 == 499:
            used.append(sum(process.memory_full_info().uss for process in (me, *me.children(True))))
    assert max(used[1:]) - used[1] < 20e6
