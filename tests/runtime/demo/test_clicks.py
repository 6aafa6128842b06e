"""What the page's clicks call, in process: whatever a browser sends becomes a result or a sentence."""

from __future__ import annotations

import contextlib
import gc
import importlib.util
import json
import random
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import fiffdepth_rt
from fiffdepth_rt.demo import server
from fiffdepth_rt.demo.engines import Engines
from tests.fuzz.images import Fuzzed
from tests.fuzz.mutations import hostile
from tests.runtime.demo.visitor import file_at

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("gradio") is None, reason="wants Gradio: pip install 'fiffdepth-rt[demo]'"
)


@contextlib.contextmanager
def gradio_leaves_loops_open() -> Iterator[None]:
    """A page that is made and not served has opened event loops, and closes none: they go here, unheard."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
        gc.collect()


@pytest.fixture(scope="module")
def clicks(_toy: Path) -> Iterator[tuple[dict[str, Callable[..., Any]], Path]]:
    """What clicks call, by its name; and the folder for what visitors give and get."""
    folder = server.Folder()
    engines = Engines([_toy], fiffdepth_rt.Depth)
    called: dict[str, Callable[..., Any]] = {}
    try:
        with gradio_leaves_loops_open():
            from fiffdepth_rt.demo.page import make_page

            page = make_page(engines, folder.new)
            called.update((one.fn.__name__, one.fn) for one in page.fns.values() if one.fn is not None)
            del page
        yield called, folder.path
    finally:
        engines.close()
        folder.close()
        with gradio_leaves_loops_open():
            called.clear()


def sent(value: Any) -> Any:
    """As JSON brings it."""
    return json.loads(json.dumps(value)) if value is not None else None


@pytest.mark.soak
def test_clicks_take_anything(
    clicks: tuple[dict[str, Callable[..., Any]], Path], tmp_path: Path, photo: np.ndarray
) -> None:
    import gradio as gr

    called, folder = clicks
    photos, told = Fuzzed(tmp_path), Counter[str]()
    Image.fromarray(photo[::4, ::4]).save(tmp_path / "room.png")
    work = called["look"](file_at(str(tmp_path / "room.png")), "toy", 64)[0]
    points = {"is the first known distance": (12, 20), "is the second known distance": (37, 60)}
    measured = called["to_metres"](work, points, 5.0, 3.0)[0]
    whole = {path.name for path in tmp_path.iterdir()}

    def anything(chance: random.Random, usual: Any) -> Any:
        return sent(hostile(chance)) if chance.random() < 0.5 else usual

    for seed in range(10_000):
        chance = random.Random(f"click {seed}")
        name = chance.choice(["look", "click", "to_metres", "in_3d", "run"])
        given = chance.choice([work, measured, measured, None])
        if name in ("look", "run"):
            _, content = photos.mutated(chance)
            (tmp_path / "given").write_bytes(content)
            file = anything(chance, file_at(str(tmp_path / "given")))
            last = [anything(chance, ".mkv")] if name == "run" else []
            words = [file, anything(chance, "toy"), anything(chance, 64), *last]
        elif name == "click":
            place = [anything(chance, 3), anything(chance, 4.5)]
            event = gr.SelectData(None, {"index": anything(chance, place), "value": None})
            words = [given, points, anything(chance, "is the first known distance"), event]
        elif name == "to_metres":
            words = [given, points, anything(chance, 5.0), anything(chance, 3.0)]
        else:
            words = [given, anything(chance, 60)]
        try:
            found = called[name](*words)
            if name == "run":
                list(found)
            told[f"{name} done"] += 1
        except gr.Error as error:
            assert str(error.message).strip() and str(folder) not in error.message
            assert "Traceback" not in error.message and not error.print_exception
            told[f"{name} said"] += 1
    assert {path.name for path in tmp_path.iterdir()} - {"given"} == whole
    assert len(told) == 10, told  # each of the five, done and refused
