"""START HERE. What a visitor sees, and what each click calls. All of Gradio is here and in server.py."""

from __future__ import annotations

import functools
import html
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import gradio as gr

from fiffdepth_rt.demo.engines import Engines
from fiffdepth_rt.demo.limits import KEPT_S
from fiffdepth_rt.demo.work import FIELD_OF_VIEW_DEG, Work, photo_to_work, save_files, save_scene
from fiffdepth_rt.errors import DamagedVideoError, FiffDepthError, ImageError, SourceError
from fiffdepth_rt.geometry.tape_measure import Distance
from fiffdepth_rt.video import convert, open_result, open_source

P = ParamSpec("P")
R = TypeVar("R")

TITLE = "FiffDepth RT"
ABOUT = (
    "# How far away is it?\n"
    "Give a photo, and see how near each pixel is. It is computed on the machine that runs this page, and "
    f"nothing is sent elsewhere. What you give is deleted within {KEPT_S // 60} minutes, and when the "
    "program ends."
)
CSS = ".gradio-container { max-width: 1200px !important; margin: 0 auto !important; }"
READ, FIRST, SECOND = "says its value", "is the first known distance", "is the second known distance"


def make_page(engines: Engines, folder: Callable[[], Path]) -> gr.Blocks:
    """The page, not yet served.

    folder: makes a new, empty folder for results, which the server cleans up.
    """
    with gr.Blocks(title=TITLE, analytics_enabled=False) as page:
        gr.Markdown(ABOUT)
        with gr.Row():
            model = gr.Dropdown(list(engines.names), value=engines.names[0], label="Model")
            size = gr.Dropdown(**_sizes(engines, engines.names[0]), label="Longer side the model sees")
        with gr.Tab("Photo"):
            _photo_tab(engines, folder, model, size)
        with gr.Tab("Video"):
            _video_tab(engines, folder, model, size)
        model.change(
            lambda name: gr.Dropdown(**_sizes(engines, name)),
            model,
            size,
            queue=False,
            api_visibility="private",
        )
    return page


def _sizes(engines: Engines, name: str) -> dict[str, Any]:
    sizes = engines.sizes(name)
    return {"choices": [(f"{size} px", size) for size in sizes], "value": sizes[0]}


def _photo_tab(engines: Engines, folder: Callable[[], Path], model: gr.Dropdown, size: gr.Dropdown) -> None:
    work: gr.State = gr.State(None, time_to_live=KEPT_S)
    points: gr.State = gr.State({}, time_to_live=KEPT_S)
    with gr.Row():
        with gr.Column():
            given = gr.Image(
                label="Photo",
                sources=["upload", "webcam", "clipboard"],
                type="filepath",
                height=360,
                elem_id="given",
            )
            again = gr.Button("Compute again")
        slider = gr.ImageSlider(
            label="Photo | depth: warm is near",
            format="png",
            max_height=420,
            elem_id="slider",
            buttons=["fullscreen"],
        )
    notes = gr.Markdown(elem_id="notes")
    with gr.Row():
        with gr.Column():
            depth = gr.Image(
                label="Depth: click into it",
                interactive=False,
                format="png",
                elem_id="depth",
                buttons=["fullscreen"],
            )
        with gr.Column():
            clicks = gr.Radio([READ, FIRST, SECOND], value=READ, label="A click", elem_id="clicks")
            said = gr.Markdown("Click into the depth map.", elem_id="said")
            with gr.Row():
                metres = [
                    gr.Number(
                        None,
                        label=f"{which} known distance, m",
                        placeholder="tape measure",
                        elem_id=f"metres{i}",
                    )
                    for i, which in enumerate(("First", "Second"))
                ]
            measure = gr.Button("To metres")
    with gr.Row():
        with gr.Column():
            angle = gr.Slider(
                20, 120, FIELD_OF_VIEW_DEG, step=1, label="Degrees that the lens sees from left to right"
            )
            turn = gr.Button("Show in 3D")
            gr.Markdown("Wants metres: one or two known distances. The files get a surface and points then.")
        surface = gr.Model3D(
            label="Turn it with the mouse",
            height=360,
            clear_color=(0.16, 0.17, 0.2, 1.0),
            camera_position=(90, 90, None),  # as the photo was taken
            elem_id="surface",
        )
    made = gr.File(label="Files", file_count="multiple", interactive=False, elem_id="made")

    @_explained
    def look(file: object, name: object, longer: object) -> tuple[Any, ...]:
        if file is None:
            return None, {}, None, None, "", "", None, None
        path, known = Path(_path_of(file)), _known_name(engines, name)
        with engines.use(known) as opened:
            found = photo_to_work(path, opened, size=_known_size(engines, known, longer))
        colors = found.depth_map.colors()
        return (
            found,
            {},
            (found.photo, colors),
            colors,
            _as_text(found.sentence),
            "Click into the depth map.",
            None,
            save_files(found, folder()),
        )

    @_explained
    def click(
        found: Work | None, told: dict[str, Any], what: object, event: gr.SelectData
    ) -> tuple[Any, ...]:
        work_ = _needed(found)
        x, y = work_.nearest_pixel(*_place_of(event.index))
        told = {**told, what: (x, y)} if what in (FIRST, SECOND) else told
        marks = tuple(told[which] for which in (FIRST, SECOND) if which in told)
        return told, work_.value_at(x, y), work_.marked(marks)

    @_explained
    def to_metres(found: Work | None, told: dict[str, Any], *distances: object) -> tuple[Any, ...]:
        work_ = _needed(found)
        known = tuple(
            Distance(x=told[which][0], y=told[which][1], metres=metres)
            for which, metres in zip((FIRST, SECOND), map(_number, distances), strict=True)
            if which in told and metres
        )
        measured = work_.measured(known)
        return (
            measured,
            _as_text(measured.sentence),
            "Click into the depth map.",
            save_files(measured, folder()),
        )

    @_explained
    def in_3d(found: Work | None, degrees: object) -> tuple[Any, ...]:
        work_, made_in = _needed(found), folder()
        scene = save_scene(work_, min(max(_number(degrees) or FIELD_OF_VIEW_DEG, 20), 120), made_in)
        return scene[0], [*save_files(work_, made_in), *scene]

    engine: dict[str, Any] = {
        "concurrency_id": "engine",
        "concurrency_limit": 1,
        "api_visibility": "private",
        "trigger_mode": "always_last",  # a photo that is given while another one is computed comes next
    }
    results = [work, points, slider, depth, notes, said, surface, made]
    given.input(look, [given, model, size], results, preprocess=False, **engine)
    again.click(look, [given, model, size], results, preprocess=False, **engine)
    depth.select(click, [work, points, clicks], [points, said, depth], show_progress="hidden", **engine)
    measure.click(to_metres, [work, points, *metres], [work, notes, said, made], **engine)
    turn.click(in_3d, [work, angle], [surface, made], **engine)


def _video_tab(engines: Engines, folder: Callable[[], Path], model: gr.Dropdown, size: gr.Dropdown) -> None:
    with gr.Row():
        given = gr.Video(label="Video", sources=["upload"], height=320, elem_id="given_video")
        shown = gr.Video(label="Depth: warm is near", interactive=False, height=320, elem_id="shown_video")
    kind = gr.Radio(
        [("colours, to look at (.mp4)", ".mp4"), ("16-bit values, without loss (.mkv)", ".mkv")],
        value=".mp4",
        label="Result",
    )
    with gr.Row():
        start = gr.Button("Compute")
        stop = gr.Button("Stop")
    made = gr.File(label="File", interactive=False, elem_id="made_video")

    @_explained_each
    def run(
        file: object,
        name: object,
        longer: object,
        ending: object,
        progress: gr.Progress = gr.Progress(),  # noqa: B008 - how Gradio asks for it
    ) -> Iterator[tuple[Any, Any]]:
        if file is None:
            raise SourceError("There is no video yet: give one first.")
        out = folder() / f"depth{'.mkv' if ending == '.mkv' else '.mp4'}"
        path = _path_of(file.get("video", file) if isinstance(file, dict) else file)
        with (
            _called_the_file(path),
            engines.use(_known_name(engines, name)) as opened,
            open_source(path) as source,
        ):
            result = open_result(out, source=source, side_by_side=False, sound=True, overwrite=False)
            try:
                with closing(convert(opened, source, result)) as steps:
                    for done in steps:
                        progress((done, source.frames) if source.frames else None, unit="frames")
                        yield gr.skip(), gr.skip()
            except DamagedVideoError as error:  # raised behind the last frame: the rest is done
                if not result.frames:
                    raise
                source.notes.append(str(error))
            for note in source.notes:
                gr.Warning(_as_text(note.replace(path, "The file")), title="About the video")
        yield (str(out) if ending == ".mp4" else None), str(out)

    running = start.click(
        run,
        [given, model, size, kind],
        [shown, made],
        preprocess=False,
        concurrency_id="engine",
        api_visibility="private",
    )
    stop.click(None, cancels=[running], api_visibility="private")


def _explained(event: Callable[P, R]) -> Callable[P, R]:
    """What goes wrong on purpose is shown to the visitor as its sentence."""

    @functools.wraps(event)
    def answering(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return event(*args, **kwargs)
        except FiffDepthError as error:
            raise _shown(error) from error

    return answering


def _explained_each(event: Callable[P, Iterator[R]]) -> Callable[P, Iterator[R]]:
    """The same for an event in steps."""

    @functools.wraps(event)
    def answering(*args: P.args, **kwargs: P.kwargs) -> Iterator[R]:
        try:
            yield from event(*args, **kwargs)
        except FiffDepthError as error:
            raise _shown(error) from error

    return answering


@contextmanager
def _called_the_file(path: str) -> Iterator[None]:
    """A visitor's file has a name of this machine's, which is nothing to the visitor."""
    try:
        yield
    except FiffDepthError as error:
        raise SourceError(str(error).replace(path, "The file")) from error


def _shown(error: FiffDepthError) -> gr.Error:
    return gr.Error(_as_text(str(error)), title="That did not work", print_exception=False)


def _as_text(sentence: str) -> str:
    """A sentence may repeat what a file says, and a browser would obey it."""
    return html.escape(sentence, quote=False)


def _needed(found: Work | None) -> Work:
    if found is None:
        raise ImageError("There is no depth map yet: give a photo first.")
    return found


def _path_of(file: object) -> str:
    """What the browser says of a file that it has sent -> where it lies. Raises ImageError."""
    path = file.get("path") if isinstance(file, dict) else None
    if not isinstance(path, str):
        raise ImageError("That is no file: give one anew.")
    return path


def _number(said: object) -> float | None:
    """A browser says 2 or 2.5; None for whatever else it says."""
    known = isinstance(said, int | float) and not isinstance(said, bool) and abs(said) < 1e9  # NaN is not
    return float(said) if known else None  # type: ignore[arg-type]


def _place_of(index: object) -> tuple[float, float]:
    """Where a click was, in px. Raises ImageError."""
    if isinstance(index, list | tuple) and len(index) == 2:
        x, y = map(_number, index)
        if x is not None and y is not None:
            return x, y
    raise ImageError("That click was nowhere: click into the depth map.")


def _known_name(engines: Engines, name: object) -> str:
    if not isinstance(name, str) or name not in engines.names:
        raise ImageError("This page does not have that model: choose one of its list.")
    return name


def _known_size(engines: Engines, name: str, size: object) -> int:
    """Another model's size may still stand there while its own is on its way."""
    sizes = engines.sizes(name)
    return size if isinstance(size, int) and size in sizes else sizes[0]
