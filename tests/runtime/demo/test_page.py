"""The page, served for real and visited by HTTP."""

from __future__ import annotations

import importlib.util
import io
import json
import os
import random
import stat
import struct
import zlib
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

import fiffdepth_rt
from fiffdepth_rt.demo import limits, server
from fiffdepth_rt.program import program
from fiffdepth_rt.video import open_source
from tests.fuzz.images import Fuzzed
from tests.fuzz.mutations import TEXTS, mutated_json
from tests.runtime.demo.running import Running, run_demo
from tests.runtime.demo.visitor import JSON, Visitor, file_at
from tests.runtime.video.clips import walk, write_clip

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("gradio") is None, reason="wants Gradio: pip install 'fiffdepth-rt[demo]'"
)


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def running(_toy: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """`fiffdepth demo`, with a toy engine directory and a folder for temporary files of its own."""
    with run_demo(_toy, tmp_path_factory.mktemp("tmp")) as found:
        yield found


@pytest.fixture
def visitor(running: Running) -> Visitor:
    return Visitor(running.address)


CHOICES = ("is the first known distance", "is the second known distance")


def median_around(values: np.ndarray, at: tuple[int, int]) -> float:
    x, y = at
    return float(np.median(values[y - 2 : y + 3, x - 2 : x + 3]))


def fetched(visitor: Visitor, file: dict[str, str]) -> bytes:
    return visitor.get(f"{visitor.prefix}/file={file['path']}").body


def test_a_photo_becomes_a_depth_map_and_its_files(
    visitor: Visitor, photo: np.ndarray, depth: fiffdepth_rt.Depth
) -> None:
    outcome = visitor.give("room.png", png(photo))
    assert outcome.success, outcome
    slider, colors, notes, said, surface, files = outcome.data[2:]
    d = depth.infer(photo)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(fetched(visitor, colors)))), d.colors())
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(fetched(visitor, slider[0])))), photo)
    assert [Path(file["path"]).name for file in files] == ["depth.png", "depth.npy"]
    assert np.array_equal(np.load(io.BytesIO(fetched(visitor, files[1]))), d.values)
    grey = np.asarray(Image.open(io.BytesIO(fetched(visitor, files[0]))))
    assert np.array_equal(grey, np.rint(d.values * np.float32(65535)).astype(np.uint16))
    assert notes == "Values are depth: 0 is the nearest; relative, not metres."
    assert surface is None and said == "Click into the depth map."


def test_two_distances_make_metres(visitor: Visitor, photo: np.ndarray, depth: fiffdepth_rt.Depth) -> None:
    visitor.give("room.png", png(photo))
    d = depth.infer(photo)
    places = sorted([(55, 80), (150, 240)], key=lambda at: median_around(d.values, at))
    for which, (x, y) in zip(CHOICES, places, strict=True):
        there = {"index": [x, y], "value": None}
        clicked = visitor.click("depth", "select", {"clicks": which}, event_data=there)
        assert clicked.success, clicked
    told = visitor.click("To metres", "click", {"metres0": 1.5, "metres1": 4.0})
    assert told.success, told
    assert "Scale and shift both follow from the distances." in told.data[1]
    assert [Path(file["path"]).name for file in told.data[3]] == ["depth.png", "depth.npy", "metres.npy"]
    metres = np.load(io.BytesIO(fetched(visitor, told.data[3][2])))
    first, second = (median_around(d.values, at) for at in places)
    scale = (4.0 - 1.5) / (second - first)
    expected = 1.5 + scale * (d.values - first)
    assert np.allclose(metres, np.where(expected > 0, expected, np.nan), rtol=1e-4, equal_nan=True)
    x, y = places[1]
    there = {"index": [x, y], "value": None}
    said = visitor.click("depth", "select", {"clicks": "says its value"}, event_data=there)
    assert f"**{metres[y, x]:.2f} m**" in said.data[1]


def test_one_distance_says_what_it_assumes_and_the_scene_is_in_metres(
    visitor: Visitor, photo: np.ndarray
) -> None:
    visitor.give("room.png", png(photo))
    refused = visitor.click("Show in 3D", "click", {})
    assert not refused.success and refused.error.startswith("A scene in 3D wants metres")
    there = {"index": [150, 240], "value": None}
    visitor.click("depth", "select", {"clicks": CHOICES[0]}, event_data=there)
    told = visitor.click("To metres", "click", {"metres0": 2.0})
    assert told.success, told
    assert "It was assumed that the value 0 is at the camera (shift 0)." in told.data[1]
    shown = visitor.click("Show in 3D", "click", {})
    assert shown.success, shown
    names = [Path(file["path"]).name for file in shown.data[1]]
    assert names == ["depth.png", "depth.npy", "metres.npy", "surface.glb", "points.ply"]
    trimesh = pytest.importorskip("trimesh")
    metres = np.load(io.BytesIO(fetched(visitor, shown.data[1][2])))
    cloud = trimesh.load(io.BytesIO(fetched(visitor, shown.data[1][4])), file_type="ply")
    assert len(cloud.vertices) == np.isfinite(metres).sum()
    assert cloud.vertices[:, 2].max() == pytest.approx(np.nanmax(metres), rel=1e-6)
    assert fetched(visitor, shown.data[0])[:4] == b"glTF"


def test_no_distance_is_answered_by_a_sentence(visitor: Visitor, photo: np.ndarray) -> None:
    visitor.give("room.png", png(photo))
    refused = visitor.click("To metres", "click", {"metres0": 1.5})
    assert not refused.success and refused.error.startswith("Metres want a known distance, better two")


def test_what_needs_a_photo_says_so(visitor: Visitor) -> None:
    refused = visitor.click("To metres", "click", {})
    assert not refused.success and refused.error == "There is no depth map yet: give a photo first."


def test_a_text_is_refused_by_a_sentence_that_a_browser_only_shows(visitor: Visitor) -> None:
    refused = visitor.give("<img src=x onerror=alert(1)>.png", b"not a photo")
    assert not refused.success
    assert refused.error.startswith("The file is not a photo in a format that is read here")
    assert "<" not in refused.error


def test_an_image_bomb_is_refused_by_its_header(visitor: Visitor) -> None:
    header = b"\x00\x00\xff\xff\x00\x00\xff\xff\x08\x02\x00\x00\x00"
    chunks = [b"IHDR" + header, b"IDAT" + zlib.compress(bytes(1000)), b"IEND"]
    bomb = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) for chunk in chunks
    )
    refused = visitor.give("bomb.png", bomb)
    assert not refused.success and "pixels" in refused.error


def test_two_visitors_at_once_get_their_own(
    running: Running, photo: np.ndarray, depth: fiffdepth_rt.Depth
) -> None:
    photos = [photo, photo[::-1], photo[:, ::-1], 255 - photo]

    def visit(one: np.ndarray) -> bool:
        visitor, right = Visitor(running.address), True
        for _ in range(3):
            outcome = visitor.give("same name.png", png(one))
            shown = np.asarray(Image.open(io.BytesIO(fetched(visitor, outcome.data[3]))))
            right &= np.array_equal(shown, depth.infer(one).colors())
        return right

    with ThreadPoolExecutor(len(photos)) as pool:
        assert all(pool.map(visit, photos))


def test_a_large_photo_is_made_smaller_and_that_is_said(visitor: Visitor) -> None:
    outcome = visitor.give("wide.png", png(np.zeros((40, 3200, 3), np.uint8)))
    assert outcome.success
    assert "made smaller, from 3200x40 to 1600x20 px" in outcome.data[4]


@pytest.mark.parametrize("ending", [".mp4", ".mkv"])
def test_a_video_becomes_a_video(visitor: Visitor, tmp_path: Path, ending: str) -> None:
    clip = write_clip(tmp_path / "walk.mp4", walk(5))
    sent = json.loads(visitor.upload("walk.mp4", clip.read_bytes()).body)[0]
    outcome = visitor.click("Compute", "click", {"given_video": file_at(sent), "Result": ending})
    assert outcome.success, outcome
    shown, made = outcome.data
    assert (shown is not None) == (ending == ".mp4")  # browsers play no FFV1
    assert Path(made["path"]).name == f"depth{ending}"
    (tmp_path / f"made{ending}").write_bytes(fetched(visitor, made))
    with open_source(str(tmp_path / f"made{ending}")) as source:
        assert sum(1 for _ in source) == 5


def test_of_a_broken_video_the_rest_is_done_and_that_is_said(visitor: Visitor, tmp_path: Path) -> None:
    whole = write_clip(tmp_path / "walk.mkv", walk(30), codec="ffv1").read_bytes()
    sent = json.loads(visitor.upload("walk.mkv", whole[: len(whole) // 2]).body)[0]
    outcome = visitor.click("Compute", "click", {"given_video": file_at(sent), "Result": ".mkv"})
    assert outcome.success, outcome
    (tmp_path / "made.mkv").write_bytes(fetched(visitor, outcome.data[1]))
    with open_source(str(tmp_path / "made.mkv")) as source:
        assert 5 < sum(1 for _ in source) < 25
    (said,) = outcome.said
    assert "The file breaks off at " in said and sent not in said


def test_a_list_of_other_videos_is_refused(visitor: Visitor, tmp_path: Path) -> None:
    other = write_clip(tmp_path / "other.mp4", walk(5))
    sent = json.loads(visitor.upload("x.mp4", f"ffconcat version 1.0\nfile {other}\n".encode()).body)[0]
    refused = visitor.click("Compute", "click", {"given_video": file_at(sent)})
    assert not refused.success and refused.error.startswith("The file is a list of other files")


# --- who may send what ---


def test_files_outside_the_folder_are_not_read(visitor: Visitor, tmp_path: Path, photo: np.ndarray) -> None:
    outside = tmp_path / "secret.png"
    outside.write_bytes(png(photo))
    for path in (str(outside), f"/proc/self/cwd/../..{outside}", f"file://{outside}"):
        refused = visitor.click("given", "input", {"given": file_at(path)})
        assert not refused.success and refused.error.startswith("400 A click is JSON, and about files that")
        assert visitor.get(f"{visitor.prefix}/file={path}").status in (403, 404)


@pytest.mark.parametrize("path", ["http://127.0.0.1:9/x.png", "https:\\/\\/example.com\\/x.png"])
def test_an_address_in_place_of_a_file_is_not_fetched(visitor: Visitor, path: str) -> None:
    body = json.dumps({"data": [file_at("PATH")], "fn_index": 1, "session_hash": "x"}).replace("PATH", path)
    answer = visitor.post(f"{visitor.prefix}/queue/join", body.encode(), JSON)
    assert (answer.status, answer.body) == (
        400,
        b"A click is JSON, and about files that were sent: send the file first.\n",
    )


def test_another_site_does_not_reach_the_page_by_its_own_name(visitor: Visitor) -> None:
    assert visitor.get("", {"Host": "evil.example:7860"}).status == 421
    assert visitor.get("", {"Host": "localhost:7860"}).status == 200


def test_a_click_and_a_file_have_a_largest_size(visitor: Visitor) -> None:
    path = f"{visitor.prefix}/queue/join"
    assert visitor.post(path, b"[" + b" " * limits.MAX_JSON_BYTES + b"]", JSON).status == 413
    lying = {"Content-Length": str(limits.MAX_UPLOAD_BYTES + 1)}
    assert visitor.upload("x.png", b"", lying).status == 413


def test_a_browser_is_told_to_ask_nobody_else(visitor: Visitor) -> None:
    policy = visitor.get("").headers["content-security-policy"]
    assert "default-src 'self'" in policy and "http" not in policy


def test_the_folder_is_the_users_alone(running: Running) -> None:
    (folder,) = [path for path in running.temporary.iterdir() if path.is_dir()]
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


@pytest.mark.parametrize("count", [300, pytest.param(10_000, marks=pytest.mark.soak)])
def test_hostile_visitors_get_sentences_and_leave_nothing(
    running: Running, tmp_path: Path, photo: np.ndarray, depth: fiffdepth_rt.Depth, count: int
) -> None:
    """Mutated photos, names that lead elsewhere, mutated clicks."""
    visitor, photos, told = Visitor(running.address), Fuzzed(tmp_path), Counter[str]()
    before = {path.name for path in running.temporary.iterdir()}
    for seed in range(count):
        chance = random.Random(f"visitor {seed}")
        name, content = photos.mutated(chance)
        if chance.random() < 0.2:
            name = chance.choice(TEXTS).encode(errors="replace").decode() + chance.choice(("", ".png"))
        if chance.random() < 0.8:
            outcome = visitor.give(name, content)
            said = "right" if outcome.success else str(outcome.error)
        else:
            click = {"data": [file_at(name), "toy", 64], "fn_index": chance.randrange(9), "session_hash": "x"}
            body = mutated_json(click, chance).encode(errors="surrogatepass")
            answer = visitor.post(f"{visitor.prefix}/queue/join", body, JSON)
            said = answer.body.decode(errors="replace")
            told[f"click {answer.status}"] += 1
        assert "Traceback" not in said and "Error:" not in said and str(running.temporary) not in said, said
        told["right" if said == "right" else "said"] += 1
    assert running.process.poll() is None
    assert told["right"] > count / 10 and told["said"] > count / 10, told
    assert {path.name for path in running.temporary.iterdir()} == before
    last = Visitor(running.address).give("room.png", png(photo))
    shown = np.asarray(Image.open(io.BytesIO(fetched(visitor, last.data[3]))))
    assert np.array_equal(shown, depth.infer(photo).colors())


# --- the parts ---


def test_old_files_go_and_new_ones_stay_and_are_counted() -> None:
    folder = server.Folder()
    try:
        kept, old = folder.new() / "kept.png", folder.new() / "old.png"
        kept.write_bytes(bytes(1000))
        old.write_bytes(bytes(500))
        for path in (old, old.parent):
            os.utime(path, (1, 1))
        folder.sweep()
        assert (kept.exists(), old.exists(), folder.bytes) == (True, False, 1000)
        folder.sweep()
        assert folder.bytes == 1000 and not folder.full
    finally:
        folder.close()
    assert not folder.path.exists()


def test_a_port_that_is_taken_is_said(running: Running, _toy: Path) -> None:
    port = running.address.rstrip("/").rpartition(":")[2]
    result = CliRunner().invoke(program, ["demo", str(_toy), "--port", port, "--no-browser"])
    assert result.exit_code == 1
    assert f"The page cannot be at 127.0.0.1, port {port} (Address already in use)" in result.output


def test_an_engine_that_cannot_be_opened_is_said_before_there_is_a_page(tmp_path: Path) -> None:
    result = CliRunner().invoke(program, ["demo", str(tmp_path / "nowhere"), "--no-browser"])
    assert result.exit_code == 1 and "nowhere" in result.output
