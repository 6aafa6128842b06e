"""Promises about `fiffdepth batch` in one process, on the toy engine."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from fiffdepth_rt.batch import output as batch_output
from fiffdepth_rt.batch.places import LocalFolder, no_name
from fiffdepth_rt.errors import OutputError
from fiffdepth_rt.photos import results as infer_formats
from fiffdepth_rt.program import program

needs_fsspec = pytest.mark.skipif(
    not __import__("importlib.util").util.find_spec("fsspec"), reason="fsspec is not installed: [cluster]"
)
needs_braces = pytest.mark.skipif(
    not __import__("importlib.util").util.find_spec("braceexpand"),
    reason="braceexpand is not installed: [cluster]",
)


def picture(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (40, 30 + seed, 3), dtype=np.uint8))


def data_of(seed: int) -> bytes:
    buffer = io.BytesIO()
    picture(seed).save(buffer, format="PNG")
    return buffer.getvalue()


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, toy_dir: Path) -> Path:
    """The current folder: the engine directory toy, and photos: a.png, trip/b.jpg, trip/deep/c.png."""
    (tmp_path / "photos" / "trip" / "deep").mkdir(parents=True)
    for seed, name in enumerate(("a.png", "trip/b.jpg", "trip/deep/c.png")):
        picture(seed).save(tmp_path / "photos" / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def batch(*words: str) -> Result:
    return CliRunner().invoke(program, ["batch", "--engine", "toy", "--size", "64", *words])


def files_in(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


def skips(folder: Path) -> dict[str, str]:
    return {one["name"]: one["reason"] for one in json.loads((folder / "skipped.json").read_bytes())}


def members(tar: Path) -> dict[str, bytes]:
    with tarfile.open(tar) as opened:
        return {one.name: opened.extractfile(one).read() for one in opened}


def write_tar(path: Path, files: dict[str, bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))


def test_a_folder_is_mirrored_with_the_files_that_infer_writes(work: Path) -> None:
    result = batch("photos", "depth", "--format", "png16,npy,color")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.startswith("photos -> depth: 3 photos, ")
    found = files_in(work / "depth")
    header = json.loads(found.pop("fiffdepth.json"))
    assert header["results"]["made_of"]["model"] == "toy" and header["results"]["made_of"]["size"] == 64
    assert header["results"]["layout"] == "files"
    assert header["results"]["formats"] == ["color", "npy", "png16"]
    for place in ("", "trip/", "trip/deep/"):
        words = ["infer", f"photos/{place}", "-o", f"alone/{place}", "--engine", "toy", "--size", "64"]
        assert CliRunner().invoke(program, [*words, "--format", "png16,npy,color"]).exit_code == 0
    assert found == files_in(work / "alone") and len(found) == 12


def test_photos_that_differ_in_their_ending_alone_are_called_as_infer_calls_them(work: Path) -> None:
    for name in ("x.png", "x.jpg", "x_png.jpg"):
        picture(3).save(work / "photos" / name)
    result = batch("photos", "depth")
    assert result.exit_code == 1
    assert {"x_depth.png", "x_png_depth.png"} <= set(files_in(work / "depth"))
    assert skips(work / "depth") == {"x_png.jpg": "its results would be those of x.png: rename one of them"}


def test_a_photo_that_comes_later_takes_no_result_of_another_one_for_its_own(work: Path) -> None:
    picture(5).save(work / "photos" / "x.png")
    assert batch("photos", "depth").exit_code == 0
    picture(6).save(work / "photos" / "x.jpg")  # before x.png in the alphabet
    result = batch("photos", "depth")
    assert result.exit_code == 0 and "2 photos" in result.stdout
    after = files_in(work / "depth")
    assert batch("photos", "anew").exit_code == 0 and files_in(work / "anew") == after
    (work / "photos" / "x.jpg").unlink()  # x.png is still called by its whole name
    assert "0 photos" in batch("photos", "depth").stdout and files_in(work / "depth") == after


def test_what_is_there_is_not_made_again_and_what_is_missing_is(work: Path) -> None:
    batch("photos", "depth", "--format", "npy,color")
    before = files_in(work / "depth")
    times = {path: path.stat().st_mtime_ns for path in (work / "depth").rglob("*_*")}
    gone = [work / "depth" / "a_depth.npy", work / "depth" / "trip" / "b_color.png"]
    for path in gone:
        path.unlink()
    result = batch("photos", "depth", "--format", "npy,color")
    assert (
        result.exit_code == 0
        and "2 photos" in result.stdout
        and "; 1 photos were there already" in result.stdout
    )
    assert files_in(work / "depth") == before
    for path, time_ns in times.items():
        kept = path not in gone and path.name != "a_depth.npy.json"  # which is written before a_depth.npy
        assert (path.stat().st_mtime_ns == time_ns) == kept


def test_a_killed_run_goes_on_and_nothing_is_lost_doubled_or_half_written(work: Path) -> None:
    many = work / "many"
    many.mkdir()
    for seed in range(60):
        picture(seed).save(many / f"{seed:02d}.png")
    assert batch("many", "whole").exit_code == 0
    words = [
        sys.executable,
        "-m",
        "fiffdepth_rt",
        "batch",
        "--engine",
        "toy",
        "--size",
        "64",
        "many",
        "depth",
    ]
    child = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    out = work / "depth"
    while child.poll() is None and len(list(out.glob("*_depth.png"))) < 5:
        time.sleep(0.005)
    child.send_signal(signal.SIGKILL)
    child.wait()
    (out / ".0123abcd.tmp").write_bytes(b"half")  # what a kill leaves in the middle of a file
    done = len(list(out.glob("*_depth.png")))
    assert 5 <= done < 60
    result = batch("many", "depth")
    assert result.exit_code == 0 and f"{60 - done} photos" in result.stdout
    assert files_in(out) == files_in(work / "whole")


def test_bad_files_are_skipped_listed_and_tried_again(work: Path) -> None:
    (work / "photos" / "junk.jpg").write_bytes(b"junk")
    (work / "photos" / "cut.png").write_bytes(data_of(1)[:200])
    (work / "photos" / "notes.txt").write_text("no photo")
    (work / "photos" / ".hidden.png").write_bytes(b"")
    result = batch("photos", "depth")
    assert result.exit_code == 1 and "Left aside in photos: 1 *.txt." in result.stderr
    assert "2 skipped: depth/skipped.json says which, and why." in result.stderr
    reasons = skips(work / "depth")
    assert set(reasons) == {"junk.jpg", "cut.png"} and str(work) not in str(reasons)
    assert reasons["junk.jpg"].startswith("is not a photo in a format that is read here")
    (work / "photos" / "junk.jpg").write_bytes(data_of(4))
    (work / "photos" / "cut.png").unlink()
    assert batch("photos", "depth").exit_code == 0
    assert "junk_depth.png" in files_in(work / "depth") and not (work / "depth" / "skipped.json").exists()


def test_results_that_infer_wrote_beside_photos_are_no_photos(work: Path) -> None:
    for name in ("a_depth.png", "a_depth_mm.png", "a_depth_tum.png", "a_depth_kitti.png", "a_depth.pfm"):
        picture(1).save(work / "photos" / name, format="PNG")
    result = batch("photos", "depth")
    assert result.exit_code == 0 and "Left aside in photos: 5 results of an earlier run." in result.stderr
    assert sorted(files_in(work / "depth")) == sorted(
        ["fiffdepth.json", "a_depth.png", "trip/b_depth.png", "trip/deep/c_depth.png"]
    )


@pytest.mark.skipif(os.geteuid() == 0, reason="this user (root) may read every folder")
def test_a_folder_that_cannot_be_read_is_in_the_report(work: Path) -> None:
    (work / "photos" / "trip").chmod(0)
    result = batch("photos", "depth")
    (work / "photos" / "trip").chmod(0o755)
    assert result.exit_code == 1 and "1 photos" in result.stdout
    assert skips(work / "depth") == {"trip/": "cannot be read (Permission denied)"}


def test_only_bad_files_end_with_a_report_too(work: Path) -> None:
    (work / "bad").mkdir()
    (work / "bad" / "junk.jpg").write_bytes(b"junk")
    assert batch("bad", "depth").exit_code == 1
    assert set(skips(work / "depth")) == {"junk.jpg"}


def test_a_disk_that_refuses_ends_the_run_and_what_is_finished_is_kept(work: Path) -> None:
    (work / "depth").mkdir()
    (work / "depth" / "trip").write_text("a file where a folder has to be")
    result = batch("photos", "depth")
    assert result.exit_code == 1 and "cannot be made" in result.stderr
    assert "The same command goes on from there." in result.stderr
    assert "a_depth.png" in files_in(work / "depth")


@pytest.mark.parametrize(
    ("words", "differing"),
    [
        (("--size", "128"), "size: 128, not 64"),
        (("--format", "npy"), "formats: npy, not png16"),
        (("--precision", "bf16", "--backend", "openvino"), "precision: bf16, not fp32"),
        (("--strict",), "strict: True, not False"),
    ],
)
def test_a_run_in_another_setting_is_refused(work: Path, words: tuple[str, ...], differing: str) -> None:
    if "openvino" in words:
        pytest.importorskip("openvino")
    assert batch("photos", "depth").exit_code == 0
    before = files_in(work / "depth")
    result = batch("photos", "depth", *words)
    assert result.exit_code == 1 and differing in result.stderr and files_in(work / "depth") == before


def test_results_of_which_nothing_says_what_made_them_are_not_taken_for_ones_own(work: Path) -> None:
    (work / "depth").mkdir()
    (work / "depth" / "a_depth.png").write_bytes(b"whose?")
    result = batch("photos", "depth")
    assert result.exit_code == 1 and "a_depth.png, and no fiffdepth.json" in result.stderr
    (work / "depth" / "fiffdepth.json").write_text('{"of": "another program"}')
    assert "is none of this version's" in batch("photos", "depth").stderr


@pytest.mark.parametrize(
    ("input_", "output", "why"),
    [
        ("photos", "photos/depth", "lies in photos: results would be taken for photos"),
        ("photos", "photos", "lies in photos"),
        ("photos", "link/x", "lies in photos"),
        ("nothing", "depth", "nothing does not exist"),
        ("toy/graphs", "depth", "holds no photos"),
        ("photos/a.png", "depth", "is one photo: `fiffdepth infer` is for that"),
        ("", "depth", "'' is no INPUT"),
        ("empty.txt", "depth", "names no photos"),
        ("toy/golden.npz", "depth", "is no list"),
        ("nothing/*.tar", "depth", "No shard in nothing matches *.tar"),
        ("mixed", "depth", "holds shards (0.tar) and photos (a.png)"),
        ("mixed/*.tar", "mixed", "holds the shards, and results have their names"),
    ],
)
def test_what_cannot_be_is_refused_before_an_engine_is_opened(
    work: Path, input_: str, output: str, why: str
) -> None:
    (work / "link").symlink_to("photos")
    (work / "empty.txt").write_text("\n# nothing\n")
    (work / "mixed").mkdir()
    (work / "mixed" / "a.png").write_bytes(data_of(0))
    write_tar(work / "mixed" / "0.tar", {"a.png": data_of(0)})
    result = CliRunner().invoke(program, ["batch", "--engine", "no engine", input_, output])
    assert result.exit_code == 1 and why in result.stderr and not (work / "depth").exists()


def test_actors_are_of_a_cluster(work: Path) -> None:
    result = batch("photos", "depth", "--actors", "2")
    assert result.exit_code == 2 and "say --ray local" in result.stderr


def test_a_list_names_photos_anywhere_and_each_keeps_its_own_path(work: Path) -> None:
    (work / "elsewhere").mkdir()
    picture(7).save(work / "elsewhere" / "far.png")
    far = f"{work}/elsewhere/far.png"
    lines = [
        "photos/a.png",
        "",
        "# a remark",
        far,
        f"{work}/photos/../elsewhere/far.png",
        "photos/no.png",
        "  ",
    ]
    (work / "list.txt").write_text("\n".join(lines))
    result = batch("list.txt", "depth")
    assert result.exit_code == 1
    results = {name for name in files_in(work / "depth") if name.endswith("_depth.png")}
    assert results == {"photos/a_depth.png", f"{far.removesuffix('.png')[1:]}_depth.png"}
    assert skips(work / "depth") == {"photos/no.png": "does not exist: name a photo file."}


@needs_fsspec
def test_photos_and_results_may_lie_behind_an_address(work: Path) -> None:
    import fsspec

    memory = fsspec.filesystem("memory")
    memory.store.clear()
    for name in ("a.png", "trip/b.png"):
        memory.pipe_file(f"/bucket/photos/{name}", data_of(5))
    assert batch("memory://bucket/photos", "memory://bucket/depth").exit_code == 0
    found = {name for name in memory.find("/bucket/depth")}
    assert found == {
        f"/bucket/depth/{name}" for name in ("a_depth.png", "trip/b_depth.png", "fiffdepth.json")
    }
    (work / "same").mkdir()
    (work / "same" / "a.png").write_bytes(data_of(5))
    batch("same", "here")
    assert memory.cat_file("/bucket/depth/a_depth.png") == (work / "here" / "a_depth.png").read_bytes()
    memory.rm_file("/bucket/depth/a_depth.png")
    again = batch("memory://bucket/photos", "memory://bucket/depth")
    assert "1 photos, " in again.stdout and "; 1 photos were there already" in again.stdout
    memory.pipe_file("/bucket/list.txt", b"memory://bucket/photos/a.png\r\nmemory://bucket/no.png\r\n")
    assert batch("memory://bucket/list.txt", "listed").exit_code == 1
    assert "bucket/photos/a_depth.png" in files_in(work / "listed")
    assert "does not exist" in skips(work / "listed")["bucket/no.png"]


@needs_fsspec
@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("s3://bucket/photos", "s3:// wants a driver that is not installed: pip install s3fs"),
        ("gs://bucket/photos", "gs:// wants a driver that is not installed: pip install gcsfs"),
        ("nowhere://bucket/photos", "Protocol not known: nowhere"),
        ("simplecache::s3://bucket/photos", "neither commands nor chained addresses"),
        ("pipe://cat", "neither commands nor chained addresses"),
        ("memory://nothing", "memory://nothing is empty, or not there"),
    ],
)
def test_an_address_that_cannot_be_opened_says_why(work: Path, address: str, why: str) -> None:
    drivers = {"s3": "s3fs", "gs": "gcsfs"}
    if __import__("importlib.util").util.find_spec(drivers.get(address.partition(":")[0], "no driver")):
        pytest.skip("the driver is installed")
    result = batch(address, "depth")
    assert result.exit_code == 1 and why in result.stderr


@needs_fsspec
def test_a_name_that_leaves_the_folder_is_refused_by_its_own_sentence(tmp_path: Path) -> None:
    """It was said as what writing or removing had failed by: "cannot be removed (None)"."""
    from fiffdepth_rt.batch.places import RemoteFolder

    for folder in (LocalFolder(tmp_path), RemoteFolder("memory://bucket")):
        with pytest.raises(OutputError, match=r"^'../a\.png' cannot name a result"):
            folder.remove("../a.png")
        with (
            pytest.raises(OutputError, match=r"^'../a\.png' cannot name a result"),
            folder.writing("../a.png"),
        ):
            pass


@needs_fsspec
def test_an_upload_that_breaks_off_leaves_nothing_under_the_name_of_the_result(tmp_path: Path) -> None:
    """On a file system that is no object store: the name is given when the content is there."""
    import fsspec
    from fsspec.implementations.local import LocalFileSystem

    from fiffdepth_rt.batch.places import RemoteFolder

    class Breaking(LocalFileSystem):
        protocol = "breaking"
        broken = False

        def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **_: object) -> None:
            Path(path).write_bytes(value[: len(value) // 2] if self.broken else value)
            if self.broken:
                raise OSError("the network went away")

        @classmethod
        def _strip_protocol(cls, path: str) -> str:
            return LocalFileSystem._strip_protocol(path.removeprefix("breaking://"))

    fsspec.register_implementation("breaking", Breaking, clobber=True)
    folder = RemoteFolder(f"breaking://{tmp_path}/out")
    fs = fsspec.filesystem("breaking")
    with folder.writing("trip/a.png") as file:
        file.write(b"first")
    fs.broken = True
    with pytest.raises(OutputError, match="the network went away"), folder.writing("trip/a.png") as file:
        file.write(b"second")
    with pytest.raises(ZeroDivisionError), folder.writing("trip/b.png") as file:
        raise ZeroDivisionError
    assert files_in(tmp_path / "out") == {"trip/a.png": b"first"}
    assert list(folder.files()) == ["trip/a.png"] and folder.read("trip/a.png") == b"first"


# ---- shards ----


@needs_braces
def test_shards_become_shards_of_the_same_names_and_keys(work: Path) -> None:
    write_tar(
        work / "shards" / "part1" / "0.tar",
        {
            "k1.png": data_of(1),
            "k1.txt": b"words",
            "k1.jpg": b"second photo of k1",
            "x.y/k2.png": data_of(2),
            "k5.seg.png": b"k5 has no photo: this is its seg.png",
            "._k1.png": b"of macOS",
        },
    )
    write_tar(work / "shards" / "part2" / "1.tar", {"./k3.png": data_of(3), "k4.txt": b"no photo"})
    result = batch("shards", "depth", "--format", "npy,png16")
    assert (result.exit_code, result.stderr) == (0, "")
    first, second = members(work / "depth" / "part1" / "0.tar"), members(work / "depth" / "part2" / "1.tar")
    assert list(first) == [
        f"{key}.depth.{ending}" for key in ("k1", "x.y/k2") for ending in ("npy.json", "npy", "png")
    ]
    assert list(second) == [f"k3.depth.{ending}" for ending in ("npy.json", "npy", "png")]
    (work / "one").mkdir()
    (work / "one" / "k1.png").write_bytes(data_of(1))
    batch("one", "alone", "--format", "npy,png16")
    assert first["k1.depth.png"] == (work / "alone" / "k1_depth.png").read_bytes()
    assert first["k1.depth.npy"] == (work / "alone" / "k1_depth.npy").read_bytes()
    before = files_in(work / "depth")
    (work / "depth" / "part2" / "1.tar").unlink()
    again = batch("shards/part{1..2}/*.tar", "depth", "--format", "npy,png16")
    assert again.exit_code == 0 and "; 1 shards were there already" in again.stdout
    assert files_in(work / "depth") == before


def test_keys_that_lead_out_of_a_folder_are_refused_and_nothing_lands_outside(work: Path) -> None:
    bad = ["../k", "x/../../k", f"{work}/absolute", "x//k", "/k"]
    write_tar(work / "in" / "0.tar", {**{f"{key}.png": data_of(1) for key in bad}, "good.png": data_of(2)})
    outside = set(work.iterdir())
    result = batch("in", "out")
    assert result.exit_code == 1
    assert list(members(work / "out" / "0.tar")) == ["good.depth.png"]
    assert set(skips(work / "out")) == {f"0.tar/{key}" for key in bad}
    assert set(work.iterdir()) - outside == {work / "out"}
    assert skips(work / "out") == {
        one["name"]: one["reason"] for one in json.loads((work / "out" / "0.skipped.json").read_bytes())
    }
    again = batch("in", "out")  # the report outlives a run that finds everything done
    assert again.exit_code == 1 and len(skips(work / "out")) == len(bad)


@pytest.mark.parametrize("damage", ["cut in a photo", "cut in a header", "noise in a header"])
def test_of_a_damaged_shard_the_sound_part_is_done_and_the_damage_is_told(work: Path, damage: str) -> None:
    path = work / "in" / "0.tar"
    write_tar(path, {f"k{i}.png": data_of(i) for i in range(3)})
    with tarfile.open(path) as tar:
        last = tar.getmembers()[2]
    data = path.read_bytes()
    if damage == "cut in a photo":
        path.write_bytes(data[: last.offset_data + 100])
    elif damage == "cut in a header":
        path.write_bytes(data[: last.offset + 100])
    else:
        path.write_bytes(data[: last.offset] + b"\xff" * 512 + data[last.offset_data :])
    assert batch("in", "out").exit_code == 1
    done = members(work / "out" / "0.tar")
    assert {"k0.depth.png", "k1.depth.png"} <= set(done)
    assert "is damaged after" in skips(work / "out")["0.tar"]


def test_what_is_no_tar_has_no_result_and_the_other_shards_are_done(work: Path) -> None:
    write_tar(work / "in" / "1.tar", {"k.png": data_of(1), "junk.jpg": b"junk"})
    (work / "in" / "0.tar").write_bytes(b"<html>not found</html>" * 100)
    result = batch("in", "out")
    assert result.exit_code == 1 and "1 photos" in result.stdout
    assert set(files_in(work / "out")) == {"1.tar", "1.skipped.json", "fiffdepth.json", "skipped.json"}
    assert set(skips(work / "out")) == {"0.tar", "1.tar/junk"}
    assert "shards are plain tar files" in skips(work / "out")["0.tar"]


def test_a_shard_with_the_longest_name_has_its_result_and_its_report(work: Path) -> None:
    name = "n" * 251 + ".tar"
    write_tar(work / "in" / name, {"k.png": data_of(1), "junk.jpg": b"junk"})
    assert batch("in", "out").exit_code == 1
    assert list(members(work / "out" / name)) == ["k.depth.png"]
    assert set(skips(work / "out")) == {f"{name}/junk"}
    again = batch("in", "out")
    assert "1 shards were there already" in again.stdout
    assert set(skips(work / "out")) == {f"{name}/junk"}


@needs_fsspec
def test_shards_may_lie_behind_an_address(work: Path) -> None:
    import fsspec

    write_tar(work / "in" / "0.tar", {"k1.png": data_of(1), "k2.png": data_of(2)})
    memory = fsspec.filesystem("memory")
    memory.store.clear()
    memory.pipe_file("/bucket/in/0.tar", (work / "in" / "0.tar").read_bytes())
    assert batch("memory://bucket/in/*.tar", "memory://bucket/out").exit_code == 0
    batch("in", "out")
    assert memory.cat_file("/bucket/out/0.tar") == (work / "out" / "0.tar").read_bytes()


# ---- names ----


@given(
    st.one_of(
        st.text(max_size=9),
        st.lists(st.sampled_from(["..", ".", "", "a", "/", "b"]), max_size=5).map("/".join),
    )
)
def test_for_every_name_that_is_taken_the_result_lies_in_the_folder(name: str) -> None:
    folder = Path("/folder/of/results")
    if no_name(name) is None:
        place = Path(os.path.normpath(folder / name))
        assert place.is_relative_to(folder) and place != folder
    else:
        with pytest.raises(OutputError, match="cannot name a result"), LocalFolder(folder).writing(name):
            pass


@pytest.mark.parametrize("name", ["../x", "a/../../x", "/x", "a//x", "a/./x", "", "a\0b", "x" * 256])
def test_these_names_are_refused(name: str) -> None:
    assert no_name(name) is not None


def test_results_are_called_as_those_of_infer() -> None:
    for name, endings in batch_output.FORMATS.items():
        written = infer_formats.FORMATS[name]
        assert endings == tuple(filter(None, (written.ending, written.beside)))
